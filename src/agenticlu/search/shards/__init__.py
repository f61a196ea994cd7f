"""Search on many machines: runs sealed into segments in a shared folder or URL, and merged.

A segment is zstd-compressed JSONL that is written once, under a name made of its own hash. The
manifest beside it is written last and says whose work it is, under which settings, and how far that
work was. Data without a manifest are a write that was cut short: they count as nothing.

A segment holds what was finished: documents, questions, calls, groundings, judgements, and each
tree with its nodes.

```
sealer   a run → segments, again and again while it works
merge    segments and runs → one run
ray      documents as tasks of many workers, sealed by them and merged here
```
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Any

from agenticlu.core.errors import AgenticluError, StoreError, missing_dependency
from agenticlu.core.secrets import public_address, redact_text
from agenticlu.search.store import Store

SEGMENT_FORMAT = "agenticlu-segment"
SEGMENT_VERSION = 3
"""1: without judges in the settings, half groundings left out, no label in most manifests.
2: without calls that have no outcome, and what earlier tries of others may have cost."""
PREFIX = "segment-"
SUFFIX = ".jsonl.zst"
SETTINGS = ("bound", "config", "profile", "judges")
ADAPTED = "adapted"
"""How servers had to be asked otherwise than the settings say; parts may differ in it."""
CARRIED = (*SETTINGS, ADAPTED, "necessity")
"""What parts say beside their rows; also by which measure needed pieces were found."""
_TABLES = ("document", "question", "call", "grounding", "judgement")

Line = dict[str, Any]
"""A line of a segment: settings, or a row and its table."""
IsNew = Callable[[str, tuple[Any, ...]], bool]
"""Whether a row of a table is to be sealed."""


@dataclass(frozen=True)
class Manifest:
    """Description of a segment, written beside it."""

    rows: int
    bytes: int
    sha256: str
    """Of the compressed data."""
    label: str | None = None
    """The part of the work that it holds: a shard 'i/n', or a document's id; None for a run sealed
    by `seal_run` without a label."""
    settings: str | None = None
    """See `sealer.hash_settings`; those of a label's last segment replace those of earlier ones."""
    finished: bool = False
    """Whether all of the label's work was finished."""
    sealed_s: float = 0.0
    """When, in seconds since the epoch."""
    progress: dict[str, Any] = field(default_factory=dict)
    """State of the whole run then; see `sealer.count_progress`."""

    @property
    def name(self) -> str:
        """Name of the segment's data in its folder."""
        return f"{PREFIX}{self.sha256[:24]}{SUFFIX}"


class SharedFolder:
    """A folder, or a URL that fsspec knows, where segments are gathered.

    Args:
        address: Such as /shared/segments or s3://bucket/segments.

    Raises:
        StoreError: fsspec does not know such an address.
    """

    def __init__(self, address: str) -> None:
        self.address = public_address(address.rstrip("/"))
        fsspec = load_package("fsspec")
        with self._reaching("reached"):
            self._system, self._path = fsspec.core.url_to_fs(address.rstrip("/"))

    def check(self) -> None:
        """Proves that the folder can be written, by a file that is removed again.

        Raises:
            StoreError: It cannot be written.
        """
        probe = f"{self._path}/.probe-{uuid.uuid4().hex}"
        with self._reaching("written"):
            self._system.makedirs(self._path, exist_ok=True)
            self._system.pipe_file(probe, b"agenticlu")
            self._system.rm_file(probe)

    def manifests(self, *, may_miss: bool = False) -> list[Manifest]:
        """Returns the manifests of all segments, by name.

        Args:
            may_miss: A folder that does not exist yet has no segments.

        Raises:
            StoreError: The folder cannot be read, or a manifest in it is malformed.
        """
        with self._reaching("read"):
            # fsspec caches listings; other machines write to this folder meanwhile.
            self._system.invalidate_cache()
            try:
                paths = self._system.ls(self._path, detail=False)
            except FileNotFoundError:
                if may_miss:
                    return []
                raise
            names = sorted(p for p in paths if p.endswith(".json") and f"/{PREFIX}" in p)
            found = self._system.cat_ranges(names, None, None, on_error="raise")
        return [_parse_manifest(name, data) for name, data in zip(names, found, strict=True)]

    def write(self, data: IO[bytes], manifest: Manifest) -> str:
        """Writes a segment, its manifest last; returns its address.

        Raises:
            StoreError: The folder cannot be written.
        """
        path = f"{self._path}/{manifest.name}"
        with self._reaching("written"):
            self._system.makedirs(self._path, exist_ok=True)
            # Named by its own hash: if it exists, it is the same segment.
            if not self._system.exists(_manifest_path(path)):
                # The manifest is what makes a segment exist, so it comes last, and by a rename: a
                # reader never meets half of either.
                with self._system.open(path, "wb") as file:
                    shutil.copyfileobj(data, file, 1 << 20)
                written = {"format": SEGMENT_FORMAT, "version": SEGMENT_VERSION, **asdict(manifest)}
                part = f"{_manifest_path(path)}.part"
                self._system.pipe_file(part, json.dumps(written, indent=2).encode())
                self._system.mv(part, _manifest_path(path))
        return f"{self.address}/{manifest.name}"

    def manifest_of(self, name: str) -> Manifest:
        """Returns the manifest of a segment, by the segment's name."""
        path = _manifest_path(f"{self._path}/{name}")
        with self._reaching("read"):
            data = self._system.cat_file(path)
        return _parse_manifest(path, data)

    def lines(self, manifest: Manifest) -> Iterator[Line]:
        """Yields a segment's settings, then its rows.

        The rows are read from a local copy whose checksum was verified, so that nothing of a
        damaged segment reaches a run.

        Raises:
            StoreError: The segment is missing, damaged, or cut off.
        """
        name = f"{self.address}/{manifest.name}"
        with tempfile.TemporaryFile() as copy:
            with (
                self._reaching("read"),
                self._system.open(f"{self._path}/{manifest.name}", "rb") as file,
            ):
                shutil.copyfileobj(file, copy, 1 << 20)
            copy.seek(0)
            found = hashlib.file_digest(copy, "sha256").hexdigest()
            if found != manifest.sha256:
                raise StoreError(
                    f"{name} is damaged: its checksum is {found[:12]}…, its manifest says "
                    f"{manifest.sha256[:12]}….",
                    hint="Copy it again from where it was sealed.",
                )
            copy.seek(0)
            count = 0
            for line in _decompress(copy):
                count += 1
                yield _decode_line(line)
        if count != manifest.rows:
            raise StoreError(f"{name} holds {count} rows; its manifest says {manifest.rows}.")

    @contextlib.contextmanager
    def _reaching(self, done: str) -> Iterator[None]:
        """Reports whatever a file system raises as a StoreError."""
        try:
            yield
        except AgenticluError:
            raise
        # Every file system of fsspec has errors of its own, without a common base.
        except Exception as error:
            cause = (str(error) or type(error).__name__).splitlines()[0]
            raise StoreError(
                f"{self.address} cannot be {done}: {redact_text(cause)}",
                hint="Segments are kept in a folder, or at a URL whose fsspec package is "
                "installed, such as s3fs for s3://bucket/segments.",
            ) from error


def run_lines(
    store: Store,
    documents: Collection[str] | None = None,
    is_new: IsNew = lambda table, row: True,
) -> Iterator[Line]:
    """Yields the lines of a segment: the run's settings, then every finished row.

    Calls without an outcome are among them, for what they may have cost: where another part has
    their outcome, that stays.

    Args:
        store: A run, within `Store.snapshot`.
        documents: Only rows about these; None for all.
        is_new: Which of those rows.
    """
    settings = {name: store.get(name) for name in CARRIED}
    yield {"t": SEGMENT_FORMAT, "version": SEGMENT_VERSION, "settings": settings}
    columns = store.columns("call")
    state, phase, node_id = (columns.index(name) for name in ("state", "phase", "node_id"))
    for table in _TABLES:
        for row in store.rows(table, None if table == "judgement" else documents):
            # In runs of older versions, calls of half a grounding do not name it: merged, they
            # could not be dropped once the whole grounding arrives.
            if (
                table == "call"
                and (row[phase], row[node_id]) == ("ground", None)
                and row[state] != "failed"
            ):
                continue
            if is_new(table, row):
                yield {"t": table, "r": list(row)}
    for row in store.rows("tree", documents):
        yield {"t": "tree", "r": list(row), "nodes": [list(n) for n in store.node_rows(row[0])]}


def _manifest_path(path: str) -> str:
    return path.removesuffix(SUFFIX) + ".json"


def _parse_manifest(path: str, data: bytes) -> Manifest:
    try:
        values = json.loads(data)
        version = values.pop("version")
        if values.pop("format") != SEGMENT_FORMAT:
            raise ValueError(f"its format is not {SEGMENT_FORMAT}")
        if version > SEGMENT_VERSION:
            raise StoreError(
                f"{path} was written by a newer version (format {version}).",
                hint="Update: pip install --upgrade agenticlu",
            )
        return Manifest(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is not a segment's manifest: {error}.") from error


def _decompress(data: IO[bytes]) -> Iterator[bytes]:
    zstandard = load_package("zstandard")
    with zstandard.ZstdDecompressor().stream_reader(data, closefd=False) as stream:
        yield from io.BufferedReader(stream)


def encode_line(line: Line) -> bytes:
    """Returns a line as JSON; bytes are wrapped as {"b": base64}."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"b": base64.b64encode(value).decode()}
        raise TypeError(type(value))

    return json.dumps(line, ensure_ascii=False, default=plain).encode() + b"\n"


def _decode_line(line: bytes) -> Line:
    def whole(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["b"]) if set(value) == {"b"} else value

    decoded: Line = json.loads(line, object_hook=whole)
    return decoded


def load_package(name: str) -> Any:
    """Imports a package of the extra 'data'.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_dependency(error.name or name, "data") from error
