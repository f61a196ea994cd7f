"""Sealed parts of runs: immutable files in a folder or under a URL that many machines share.

A segment is zstd-compressed JSONL that is written once, under a name made of its own hash. The
manifest beside it is written last and says whose work it is, under which settings, and how far that
work was. Data without a manifest are a write that was cut short: they count as nothing.

A segment holds what was finished: documents, questions, calls, groundings, judgements, and each
tree with its nodes. How segments come together again: `agenticlu.search.shards.merge`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import io
import itertools
import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from agenticlu.core.errors import AgenticluError, StoreError, missing_dependency
from agenticlu.core.records import content_id
from agenticlu.search.store import Store

SEGMENT_FORMAT = "agenticlu-segment"
SEGMENT_VERSION = 2
"""1: without judges in the settings, half groundings left out, no label in most manifests."""
PREFIX = "segment-"
SUFFIX = ".jsonl.zst"
SETTINGS = ("bound", "config", "profile", "judges")
_TABLES = ("document", "question", "call", "grounding", "judgement")

Line = dict[str, Any]
"""A line of a segment: settings, or a row and its table."""
IsNew = Callable[[str, tuple[Any, ...]], bool]
"""Whether a row of a table is to be sealed."""


@dataclass(frozen=True)
class Manifest:
    """What stands beside a segment."""

    rows: int
    bytes: int
    sha256: str
    """Of the compressed data."""
    label: str | None = None
    """Whose work it is: a shard 'i/n', or a document's id; None for a run that was sealed by
    hand."""
    settings: str | None = None
    """See `settings_id`; a label's later segments replace the settings of its earlier ones."""
    finished: bool = False
    """Whether all that the label stands for was finished."""
    sealed_s: float = 0.0
    """When, in seconds since the epoch."""
    progress: dict[str, Any] = field(default_factory=dict)
    """State of the whole run then; see `progress_of`."""

    @property
    def name(self) -> str:
        """Name of the segment's data in its folder."""
        return f"{PREFIX}{self.sha256[:24]}{SUFFIX}"


class SharedFolder:
    """A folder, or a URL that fsspec knows, where segments are gathered.

    Args:
        address: Such as /shared/segments or s3://bucket/segments.

    Raises:
        StoreError: Nothing is known of such an address.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        fsspec = _package("fsspec")
        with self._reaching("reached"):
            self._system, self._path = fsspec.core.url_to_fs(self.address)

    def check(self) -> None:
        """Makes the folder, writes a file and removes it.

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
            may_miss: No such folder means no segment yet.

        Raises:
            StoreError: The folder cannot be read, or holds what is no manifest.
        """
        with self._reaching("read"):
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
            if not self._system.exists(_manifest_path(path)):
                with self._system.open(path, "wb") as file:
                    shutil.copyfileobj(data, file, 1 << 20)
                written = {"format": SEGMENT_FORMAT, "version": SEGMENT_VERSION, **asdict(manifest)}
                part = f"{_manifest_path(path)}.part"
                self._system.pipe_file(part, json.dumps(written, indent=2).encode())
                self._system.mv(part, _manifest_path(path))
        return f"{self.address}/{manifest.name}"

    def manifest_of(self, name: str) -> Manifest:
        """Returns the manifest of the segment of a name."""
        path = _manifest_path(f"{self._path}/{name}")
        with self._reaching("read"):
            data = self._system.cat_file(path)
        return _parse_manifest(path, data)

    def lines(self, manifest: Manifest) -> Iterator[Line]:
        """Yields a segment's settings, then its rows; reads a copy whose checksum is right.

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
                yield _decode(line)
        if count != manifest.rows:
            raise StoreError(f"{name} holds {count} rows; its manifest says {manifest.rows}.")

    @contextlib.contextmanager
    def _reaching(self, done: str) -> Iterator[None]:
        """Turns what a file system raises into words."""
        try:
            yield
        except AgenticluError:
            raise
        # Every file system that fsspec knows brings errors of its own, with no base in common.
        except Exception as error:
            cause = (str(error) or type(error).__name__).splitlines()[0]
            raise StoreError(
                f"{self.address} cannot be {done}: {cause}",
                hint="Segments are kept in a folder, or at a URL whose fsspec package is "
                "installed, such as s3fs for s3://bucket/segments.",
            ) from error


def seal_run(
    run: str | Path,
    target: str,
    *,
    label: str | None = None,
    settings: str | None = None,
    finished: bool = False,
) -> str:
    """Writes all that a run finished to a folder or URL as one segment.

    Args:
        run: Folder of the run; may still be running.
        target: Where segments are gathered.
        label: See `Manifest`.
        settings: See `Manifest`; None takes the run's own.
        finished: See `Manifest`.

    Returns:
        The segment's address.

    Raises:
        StoreError: The target cannot be written, or the run is damaged.
    """
    folder = SharedFolder(target)
    with Store(run, writable=False) as store, store.snapshot():
        return write_segment(folder, store, label=label, settings=settings, finished=finished)


def write_segment(
    folder: SharedFolder,
    store: Store,
    *,
    label: str | None,
    settings: str | None = None,
    finished: bool = False,
    documents: Collection[str] | None = None,
    is_new: IsNew = lambda table, row: True,
) -> str:
    """Writes rows of a store as one segment and returns its address.

    Args:
        folder: Where to.
        store: A run, within `Store.snapshot`.
        label: See `Manifest`.
        settings: See `Manifest`; None takes the run's own.
        finished: See `Manifest`.
        documents: Only what is about these; None for all.
        is_new: Which of those rows.
    """
    zstandard = _package("zstandard")
    rows = 0
    with tempfile.TemporaryFile(dir=store.folder) as data:
        compressor = zstandard.ZstdCompressor(level=6, write_content_size=False)
        with compressor.stream_writer(data, closefd=False) as stream:
            for line in itertools.chain([_head(store)], rows_of(store, documents, is_new)):
                stream.write(_encode(line))
                rows += 1
        size = data.tell()
        data.seek(0)
        manifest = Manifest(
            rows=rows,
            bytes=size,
            sha256=hashlib.file_digest(data, "sha256").hexdigest(),
            label=label,
            settings=settings or settings_id(store),
            finished=finished,
            sealed_s=time.time(),
            progress=progress_of(store),
        )
        data.seek(0)
        return folder.write(data, manifest)


def settings_of(store: Store) -> dict[str, Any]:
    """Returns the settings of a run that go into its segments."""
    return {name: store.get(name) for name in SETTINGS}


def settings_id(store: Store) -> str:
    """Returns a hash of the settings that trees follow from; others bind a run for good."""
    chosen = [store.get(name) for name in SETTINGS if name != "bound"]
    return content_id("settings", json.dumps(chosen, sort_keys=True))


def progress_of(store: Store) -> dict[str, Any]:
    """Returns how far a run is, as JSON data."""
    usage = {phase: one.as_dict() for phase, one in store.usage_by_phase().items()}
    return {
        **store.tree_counts(),
        "outcomes": store.outcomes(),
        "calls": store.call_counts(),
        "usage": usage,
        "failures": store.failures(),
    }


def rows_of(
    store: Store,
    documents: Collection[str] | None = None,
    is_new: IsNew = lambda table, row: True,
) -> Iterator[Line]:
    """Yields what a run finished, row by row; trees with their nodes."""
    columns = store.columns("call")
    state, phase, node_id = (columns.index(name) for name in ("state", "phase", "node_id"))
    for table in _TABLES:
        for row in store.rows(table, None if table == "judgement" else documents):
            if table == "call" and (
                row[state] == "intent"
                # Calls of half a grounding from before they named it: never told apart from it.
                or (row[phase] == "ground" and row[state] == "done" and row[node_id] is None)
            ):
                continue
            if is_new(table, row):
                yield {"t": table, "r": list(row)}
    for row in store.rows("tree", documents):
        yield {"t": "tree", "r": list(row), "nodes": [list(n) for n in store.node_rows(row[0])]}


def _head(store: Store) -> Line:
    return {"t": SEGMENT_FORMAT, "version": SEGMENT_VERSION, "settings": settings_of(store)}


def _manifest_path(path: str) -> str:
    return path.removesuffix(SUFFIX) + ".json"


def _parse_manifest(path: str, data: bytes) -> Manifest:
    try:
        values = json.loads(data)
        version = values.pop("version")
        if values.pop("format") != SEGMENT_FORMAT:
            raise KeyError("format")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is no segment's manifest.") from error
    if version > SEGMENT_VERSION:
        raise StoreError(
            f"{path} was written by a newer version (format {version}).",
            hint="Update: pip install --upgrade agenticlu",
        )
    try:
        return Manifest(**values)
    except TypeError as error:
        raise StoreError(f"{path} is no segment's manifest: {error}.") from error


def _decompress(data: IO[bytes]) -> Iterator[bytes]:
    zstandard = _package("zstandard")
    with zstandard.ZstdDecompressor().stream_reader(data, closefd=False) as stream:
        yield from io.BufferedReader(stream)


def _encode(line: Line) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"b": base64.b64encode(value).decode()}
        raise TypeError(type(value))

    return json.dumps(line, ensure_ascii=False, default=plain).encode() + b"\n"


def _decode(line: bytes) -> Line:
    def whole(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["b"]) if set(value) == {"b"} else value

    decoded: Line = json.loads(line, object_hook=whole)
    return decoded


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_dependency(error.name or name, "data") from error
