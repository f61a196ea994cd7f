"""The folder of a data set: its Parquet files, and how it appears whole or not at all.

`summary.json` names every file with size and hash. What it does not name belongs to somebody else:
it is never overwritten, removed or uploaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from agenticlu.core.errors import StoreError, UsageError, missing_dependency

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
ColumnType = Literal["text", "texts", "messages", "float", "int", "ints", "bool"]
_CONVERSATION: dict[str, ColumnType] = {
    "messages": "messages",
    "targets": "ints",
    "document_id": "text",
    "question_id": "text",
    "question": "text",
    "answers": "texts",
    "depth": "int",
    "tree_id": "text",
    "node_id": "text",
    "score": "float",
    "has_check": "bool",
    "engine": "text",
    "judge": "text",
    "seed": "int",
    "leak": "bool",
    "closed_book": "float",
}
COLUMNS: dict[str, dict[str, ColumnType]] = {
    "sft": _CONVERSATION,
    "self_check": {name: kind for name, kind in _CONVERSATION.items() if name != "has_check"},
    "preference": {
        "prompt": "messages",
        "chosen": "messages",
        "rejected": "messages",
        "score_chosen": "float",
        "score_rejected": "float",
        "document_id": "text",
        "question_id": "text",
        "question": "text",
        "answers": "texts",
        "depth": "int",
        "turn_kind": "text",
        "tree_id": "text",
        "chosen_node": "text",
        "rejected_node": "text",
        "engine": "text",
        "judge": "text",
        "seed": "int",
        "pair_id": "text",
        "pair_kind": "text",
        "margin": "float",
        "log_length_ratio": "float",
        "leak": "bool",
        "closed_book": "float",
    },
}
"""Kind of data to its columns, in order; the published ones come first."""
ROWS_PER_GROUP = 512
CHARACTERS_PER_GROUP = 64_000_000
PAGE_BYTES = 256 << 20
"""A row group's dictionary keeps each distinct text once, however often a document recurs."""


class RowWriter:
    """Writes rows to a Parquet file, a group at a time, so that memory stays small.

    Args:
        path: The file; made with the first rows, so that no rows make no file.
        columns: Names and types, in order.
    """

    def __init__(self, path: Path, columns: Mapping[str, ColumnType]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise missing_dependency("pyarrow", "data") from error
        self._arrow = pyarrow
        self._columns = tuple(columns)
        self._path = path
        self._schema = _schema(pyarrow, columns)
        self._writer: Any = None
        self._waiting: list[Mapping[str, Any]] = []
        self._characters = 0
        self.count = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._waiting.append({name: row[name] for name in self._columns})
        self.count += 1
        messages = row.get("prompt") or row.get("messages") or ()
        self._characters += sum(len(message["content"]) for message in messages)
        if len(self._waiting) >= ROWS_PER_GROUP or self._characters >= CHARACTERS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes what is left.

        Raises:
            StoreError: The disk is full or the folder cannot be written.
        """
        self._flush()
        if self._writer is not None:
            with writing(self._path):
                self._writer.close()

    def discard(self) -> None:
        """Leaves nothing behind."""
        with contextlib.suppress(OSError):
            if self._writer is not None:
                self._writer.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if not self._waiting:
            return
        with writing(self._path):
            if self._writer is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._writer = self._arrow.parquet.ParquetWriter(
                    self._path,
                    self._schema,
                    compression="zstd",
                    compression_level=9,
                    dictionary_pagesize_limit=PAGE_BYTES,
                )
            self._writer.write_table(
                self._arrow.Table.from_pylist(self._waiting, schema=self._schema)
            )
        self._waiting, self._characters = [], 0


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the disk says while a file is written into our error."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error}", hint="Free space, then run the command again."
        ) from error


class RowFiles:
    """The files of a data set folder, by kind and split. Use as a context manager.

    Left with an error, it removes what it wrote.

    Args:
        folder: The data set's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._writers = {
            (kind, split): RowWriter(folder / kind / f"{split}.parquet", columns)
            for kind, columns in COLUMNS.items()
            for split in SPLITS
        }

    def __enter__(self) -> RowFiles:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            try:
                for writer in self._writers.values():
                    writer.close()
            except StoreError:
                self._discard()
                raise
        else:
            self._discard()

    def write(self, kind: str, split: Split, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._writers[kind, split].write(row)

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns kind to split to the number of rows."""
        return {
            kind: {split: self._writers[kind, split].count for split in SPLITS} for kind in COLUMNS
        }

    def _discard(self) -> None:
        for writer in self._writers.values():
            writer.discard()


def _schema(arrow: Any, columns: Mapping[str, ColumnType]) -> Any:
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    types: dict[ColumnType, Any] = {
        "text": arrow.string(),
        "texts": arrow.list_(arrow.string()),
        "messages": arrow.list_(message),
        "float": arrow.float64(),
        "int": arrow.int64(),
        "ints": arrow.list_(arrow.int64()),
        "bool": arrow.bool_(),
    }
    return arrow.schema([(name, types[kind]) for name, kind in columns.items()])


NUM_BUCKETS = 64
"""Each has two files open; a bucket of rows without their documents is held in memory."""


class Spill:
    """Takes rows in any order, gives them back by document. Use as a context manager.

    Args:
        folder: For the buckets; made here, emptied when left.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._texts: dict[str, tuple[int, int]] = {}
        """Document id to offset and length in its bucket's file of texts."""
        self._stack = contextlib.ExitStack()
        self._rows: list[IO[bytes]] = []
        self._documents: list[IO[bytes]] = []

    def __enter__(self) -> Spill:
        with writing(self._folder):
            self._folder.mkdir(parents=True)
            for number in range(NUM_BUCKETS):
                for kind, files in (("rows", self._rows), ("texts", self._documents)):
                    path = self._folder / f"{number:02d}.{kind}"
                    files.append(self._stack.enter_context(path.open("w+b")))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    def holds(self, document_id: str) -> bool:
        """Whether a document was added."""
        return document_id in self._texts

    def add(self, document_id: str, text: str, row: Any) -> None:
        """Adds a row of a document.

        Args:
            document_id: Hexadecimal.
            text: The document's, which the row need not repeat.
            row: JSON data.
        """
        bucket = int(document_id[:2], 16) * NUM_BUCKETS // 256
        with writing(self._folder):
            if document_id not in self._texts:
                data = text.encode("utf-8", "surrogatepass")
                self._texts[document_id] = self._documents[bucket].tell(), len(data)
                self._documents[bucket].write(data)
            self._rows[bucket].write(json.dumps([document_id, row]).encode() + b"\n")

    def documents(self) -> Iterator[tuple[str, str, list[Any]]]:
        """Yields id, text and rows of every document, by id; rows in the order they came in."""
        for bucket in range(NUM_BUCKETS):
            self._rows[bucket].seek(0)
            by_document: dict[str, list[Any]] = {}
            for line in self._rows[bucket]:
                document_id, row = json.loads(line)
                by_document.setdefault(document_id, []).append(row)
            for document_id in sorted(by_document):
                offset, length = self._texts[document_id]
                self._documents[bucket].seek(offset)
                data = self._documents[bucket].read(length)
                yield document_id, data.decode("utf-8", "surrogatepass"), by_document[document_id]


SUMMARY = "summary.json"
CARD = "README.md"
CROISSANT = "croissant.json"
FORMAT = "agenticlu-dataset"
VERSION = 1
NAMES = frozenset(
    {CARD, CROISSANT, *(f"{kind}/{split}.parquet" for kind in COLUMNS for split in SPLITS)}
)
"""What a summary may name: nothing outside the folder, whoever wrote it."""
PART = ".agenticlu-part"
"""Folder inside the data set's where it is written before it takes its place."""


def check_out(out: Path, *sources: Path) -> None:
    """Refuses a folder that a data set must not be written into.

    Args:
        out: The folder wanted.
        sources: What the data set is made from.

    Raises:
        UsageError: It is a file, holds something else or a card that was edited, or is (inside)
            a source.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, not a folder.", hint="Give another --out.")
    resolved = out.resolve()
    for source in sources:
        if not source.exists():
            continue
        inside = source.resolve()
        if inside == resolved or inside in resolved.parents or resolved in inside.parents:
            raise UsageError(
                f"--out {out} and {source} lie in one another; a data set has its own folder.",
                hint=f"For example --out {source.resolve().parent / 'data'}",
            )
    if not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if path.name != PART)
    record = _read_record(out)
    if others and record is None:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(
            f"--out {out} is not empty and no data set of ours: it holds {shown}.",
            hint="Give another --out, or empty the folder.",
        )
    card = out / CARD
    if record and card.is_file() and _is_changed(card, record["files"].get(CARD)):
        raise UsageError(
            f"{card} was edited since it was written; it would be overwritten.",
            hint="Move it away, or give another --out.",
        )


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields a folder to write a data set into; it takes its place when the block ends well.

    Args:
        out: The data set's folder; see `check_out`.

    Raises:
        StoreError: It cannot be written.
    """
    made = [path for path in (out, *out.parents) if not path.exists()]
    part = out / PART
    with writing(out):
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(parents=True)
    try:
        yield part
        with writing(out):
            _publish(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):  # only folders that stayed empty go
                path.rmdir()


def _publish(part: Path, out: Path) -> None:
    """Moves files into place, the summary last; files of the earlier data set go."""
    before = set((_read_record(out) or {"files": {}})["files"])
    names = [path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()]
    names.sort(key=lambda name: (name == SUMMARY, name == CARD, name))
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        (part / name).replace(out / name)
    for name in before - set(names):
        (out / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (out / name).parent.rmdir()


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns each file's size and SHA-256 by its name in the folder, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMMARY)
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in files
    }


def load_record(folder: Path) -> dict[str, Any]:
    """Returns the summary of a data set, after a look at its files.

    The card may have been edited; everything else must be as it was written.

    Raises:
        UsageError: The folder is no data set of ours.
        StoreError: A file is missing or was changed.
    """
    record = _read_record(folder)
    if record is None:
        raise UsageError(
            f"{folder} is no data set: it holds no {SUMMARY} of ours.",
            hint="Give the folder that `agenticlu dataset build --out` wrote.",
        )
    for name, known in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{folder} lacks {name}.", hint="Build the data set again.")
        if name != CARD and _is_changed(path, known):
            raise StoreError(
                f"{path} is not what was built: its size or hash differs.",
                hint="Build the data set again.",
            )
    return record


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file, which need not fit into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_changed(path: Path, known: dict[str, Any] | None) -> bool:
    return known is None or (
        path.stat().st_size != known["bytes"] or file_digest(path) != known["sha256"]
    )


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    files = record.get("files")
    return record if isinstance(files, dict) and NAMES.issuperset(files) else None
