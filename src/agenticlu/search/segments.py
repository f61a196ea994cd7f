"""Sealed parts of runs, and their merge: a union by content keys, whatever the order.

A segment is a zstd-compressed JSONL file that is written once, under a name made of its own hash,
beside a small manifest with its row count. It holds what a worker finished: documents, questions,
calls, groundings, judgements, and each tree with its nodes. Where two sources hold the same key,
the one that got further wins; of two equally far, the one whose bytes sort first. So merging is
independent of the order and of duplicates.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.errors import StoreError, missing_dependency
from agenticlu.store import FILE_NAME, Statement, Store

SEGMENT_FORMAT = "agenticlu-segment"
SEGMENT_VERSION = 1
SUFFIX = ".jsonl.zst"
BATCH_ROWS = 500
_TABLES = ("document", "question", "call", "grounding", "judgement")
_SETTINGS = ("bound", "config", "profile", "judges")


@dataclass(frozen=True)
class MergeSummary:
    """What a merge brought together."""

    sources: int
    questions: int
    trees: int
    rows: int
    """Rows read, duplicates included."""


def seal_run(run: str | Path, target: str, *, label: str | None = None) -> str:
    """Writes what a run finished to a folder or URL as one segment.

    Args:
        run: Folder of the run; may still be running.
        target: Where segments are gathered, such as /shared/segments or s3://bucket/segments.
        label: Written into the manifest; see `sealed_labels`.

    Returns:
        The segment's address.

    Raises:
        StoreError: The target cannot be written.
    """
    fsspec, zstandard = _packages()
    raw = io.BytesIO()
    rows = 0
    with Store(run, writable=False) as store:
        compressor = zstandard.ZstdCompressor(level=6, write_content_size=False)
        with compressor.stream_writer(raw, closefd=False) as stream:
            for line in _lines(store):
                stream.write(line)
                rows += 1
    data = raw.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    name = f"{target.rstrip('/')}/segment-{digest[:24]}"
    manifest: dict[str, Any] = {"format": SEGMENT_FORMAT, "version": SEGMENT_VERSION}
    manifest["rows"] = rows
    manifest |= {"bytes": len(data), "sha256": digest, "label": label}
    try:
        system, path = fsspec.core.url_to_fs(name)
        system.makedirs(system._parent(path), exist_ok=True)
        if not system.exists(path + ".json"):
            system.pipe_file(path + SUFFIX, data)
            system.pipe_file(path + ".json", json.dumps(manifest, indent=2).encode())
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(
            f"The segment cannot be written to {target}: {error}",
            hint=f"The run itself is whole in {run}; seal it again with the same command.",
        ) from error
    return name + SUFFIX


def sealed_labels(target: str) -> set[str]:
    """Returns the labels of the segments in a folder or under a URL; none where there is none."""
    fsspec, _ = _packages()
    try:
        system, path = fsspec.core.url_to_fs(target)
        manifests = [p for p in system.ls(path, detail=False) if p.endswith(".json")]
        return {json.loads(system.cat_file(p)).get("label") or "" for p in manifests} - {""}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"{target} cannot be read: {error}") from error


def merge_runs(out: str | Path, sources: Sequence[str]) -> MergeSummary:
    """Merges runs and segments into one run folder.

    Args:
        out: Folder of the merged run; merging more into it later is fine.
        sources: Run folders, segment files, or folders or URLs of segments.

    Raises:
        StoreError: A source is torn or foreign, or was made under other settings.
    """
    rows = 0
    opened = [one for source in sources for one in _open(source)]
    with Store(out) as store:
        for settings, lines in opened:
            _take_settings(store, settings)
            batch: list[Statement] = []
            for line in lines:
                rows += 1
                batch += _statements(store, line)
                if len(batch) >= BATCH_ROWS or line["t"] == "tree":
                    store.write(batch)
                    batch = []
            store.write(batch)
        counts = store.tree_counts()
    return MergeSummary(len(opened), counts["questions"], counts["done"] + counts["growing"], rows)


# --- Reading --------------------------------------------------------------------------------------


def _lines(store: Store) -> Iterator[bytes]:
    """Yields the lines of a segment: settings, then rows."""
    settings = {name: store.get(name) for name in _SETTINGS}
    head = {"t": SEGMENT_FORMAT, "version": SEGMENT_VERSION, "settings": settings}
    yield _encode(head)
    for line in _rows(store):
        yield _encode(line)


def _rows(store: Store) -> Iterator[dict[str, Any]]:
    for table in _TABLES:
        columns = store.columns(table)
        for row in store.rows(table):
            if table == "call":
                record = dict(zip(columns, row, strict=True))
                # Half a grounding is left behind: its calls are folded once it is whole.
                if record["state"] == "intent" or (
                    record["phase"] == "ground" and record["state"] == "done"
                ):
                    continue
            yield {"t": table, "r": list(row)}
    nodes: dict[str, list[list[Any]]] = {}
    for row in store.rows("node"):
        nodes.setdefault(row[1], []).append(list(row))
    for row in store.rows("tree"):
        yield {"t": "tree", "r": list(row), "nodes": nodes.get(row[0], [])}


def _open(source: str) -> list[tuple[dict[str, Any], Iterator[dict[str, Any]]]]:
    """Opens every run or segment that a source names."""
    if (Path(source) / FILE_NAME).is_file():
        return [_open_run(source)]
    fsspec, _ = _packages()
    try:
        system, path = fsspec.core.url_to_fs(source)
        if not source.endswith(SUFFIX):
            paths = sorted(p for p in system.ls(path, detail=False) if p.endswith(SUFFIX))
        else:
            paths = [path]
        segments = [(p, system.cat_file(p), system.cat_file(_manifest_of(p))) for p in paths]
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(
            f"{source} cannot be read: {error}",
            hint="Give run folders, segment files, or folders of segments.",
        ) from error
    if not segments:
        raise StoreError(f"{source} holds neither a run nor a segment.")
    return [_open_segment(path, data, manifest) for path, data, manifest in segments]


def _manifest_of(path: str) -> str:
    return path[: -len(SUFFIX)] + ".json"


def _open_run(source: str) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    with Store(source, writable=False) as store:
        settings = {name: store.get(name) for name in _SETTINGS}

    def read() -> Iterator[dict[str, Any]]:
        with Store(source, writable=False) as store:
            yield from _rows(store)

    return settings, read()


def _open_segment(
    path: str, data: bytes, manifest_data: bytes
) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    _, zstandard = _packages()
    try:
        manifest = json.loads(manifest_data)
        wanted, version, rows = manifest["sha256"], manifest["version"], manifest["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{_manifest_of(path)} is no segment's manifest.") from error
    if version > SEGMENT_VERSION:
        raise StoreError(
            f"{path} was written by a newer version (format {version}).",
            hint="Update: pip install --upgrade agenticlu",
        )
    found = hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise StoreError(
            f"{path} is damaged: its checksum is {found[:12]}…, its manifest says {wanted[:12]}….",
            hint="Copy it again from where it was sealed.",
        )
    lines = _decompress(zstandard, data)
    head = json.loads(next(lines))

    def read() -> Iterator[dict[str, Any]]:
        count = 1
        for line in lines:
            count += 1
            yield _decode(line)
        if count != rows:
            raise StoreError(f"{path} holds {count} rows; its manifest says {rows}.")

    return head["settings"], read()


def _decompress(zstandard: Any, data: bytes) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as stream:
        yield from io.BufferedReader(stream)


# --- Merging --------------------------------------------------------------------------------------


def _take_settings(store: Store, settings: dict[str, Any]) -> None:
    """Takes over a source's settings; a shard that had nothing to ask lacks some."""
    for name, value in settings.items():
        known = store.get(name)
        if value is None:
            continue
        if isinstance(known, dict) and isinstance(value, dict):
            differing = [n for n in known if n in value and known[n] != value[n]]
            if differing:
                words = ", ".join(f"{n} is {known[n]!r} and {value[n]!r}" for n in differing)
                raise StoreError(
                    f"The runs differ in their {name}: {words[:300]}.",
                    hint="Merge only shards that were made by the same command.",
                )
            value = {**known, **value}
        if known != value:
            store.put(**{name: value})


def _statements(store: Store, line: dict[str, Any]) -> list[Statement]:
    table, row = line["t"], tuple(line["r"])
    marks = ",".join("?" * len(row))
    if table == "tree":
        return _tree_statements(store, row, [tuple(node) for node in line["nodes"]])
    if table == "call":
        columns = store.columns("call")
        sets = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "key")
        # 'done' < 'failed' < 'intent': the order of the words is the order of progress.
        return [
            (
                f"INSERT INTO call VALUES ({marks}) ON CONFLICT (key) DO UPDATE SET {sets} WHERE "
                "excluded.state < call.state OR (excluded.state = call.state AND "
                "COALESCE(excluded.reply, '') < COALESCE(call.reply, ''))",
                row,
            )
        ]
    if table in ("grounding", "judgement"):
        columns = store.columns(table)
        sets = ", ".join(f"{name} = excluded.{name}" for name in columns if name != "key")
        return [
            (
                f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT (key) DO UPDATE SET {sets} "
                f"WHERE excluded.record < {table}.record",
                row,
            )
        ]
    return [(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)]


def _tree_statements(
    store: Store, row: tuple[Any, ...], nodes: Sequence[tuple[Any, ...]]
) -> list[Statement]:
    known = store.tree_rows(row[0])
    if known is not None and _rank(*known) <= _rank(row, nodes):
        return []
    return [
        ("DELETE FROM node WHERE tree_id = ?", (row[0],)),
        ("INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?)", row),
        *(("INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)", node) for node in nodes),
    ]


def _rank(row: tuple[Any, ...], nodes: Iterable[tuple[Any, ...]]) -> tuple[bool, int, str]:
    """Sorts finished trees first, then larger ones, then by content."""
    ordered = sorted(nodes)
    digest = hashlib.sha256(repr((row, ordered)).encode()).hexdigest()
    return (row[2] != "done", -len(ordered), digest)


def _encode(line: dict[str, Any]) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return {"b": base64.b64encode(value).decode()}
        raise TypeError(type(value))

    return json.dumps(line, ensure_ascii=False, default=plain).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any]:
    def whole(value: dict[str, Any]) -> Any:
        return base64.b64decode(value["b"]) if set(value) == {"b"} else value

    decoded: dict[str, Any] = json.loads(line, object_hook=whole)
    return decoded


def _packages() -> tuple[Any, Any]:
    try:
        import fsspec
        import zstandard
    except ImportError as error:
        raise missing_dependency(error.name or "fsspec", "data") from error
    return fsspec, zstandard
