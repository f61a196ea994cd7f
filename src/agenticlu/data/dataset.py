"""Writes the directory of a data set: its Parquet files appear all together or not at all.

`summary.json` names every file with its size and hash. A file that it does not name is not ours:
it is never overwritten, removed or uploaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from agenticlu.core.errors import StoreError, UsageError, missing_dependency

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")
ColumnType = Literal["text", "texts", "messages", "float", "int", "ints", "pairs", "bool"]
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
    "plain": {name: kind for name, kind in _CONVERSATION.items() if name != "targets"}
    | {"cut": "bool"},
    "sft": _CONVERSATION,
    "self_check": {name: kind for name, kind in _CONVERSATION.items() if name != "has_check"},
    "direct": {name: kind for name, kind in _CONVERSATION.items() if name != "has_check"},
    "point": {name: kind for name, kind in _CONVERSATION.items() if name != "has_check"},
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
    "distill": {name: kind for name, kind in _CONVERSATION.items() if name != "has_check"}
    | {"evidence": "text"},
    "questions": {
        "context": "text",
        "question": "text",
        "answers": "texts",
        "options": "texts",
        "gold_spans": "pairs",
        "hops": "int",
        "id": "text",
        "document_id": "text",
    },
}
"""Kind of data to its columns, in order; those of the published schema come first."""
ROWS_PER_GROUP = 512
CHARACTERS_PER_GROUP = 64_000_000
PAGE_BYTES = 256 << 20
"""Size of a column's dictionary: large enough that a row group keeps each document once."""
SUMMARY = "summary.json"
CARD = "README.md"
CROISSANT = "croissant.json"
FORMAT = "agenticlu-dataset"
VERSION = 1
NAMES = frozenset(
    {CARD, CROISSANT, *(f"{kind}/{split}.parquet" for kind in COLUMNS for split in SPLITS)}
)
"""What a summary may name: nothing outside the directory, whoever wrote it."""
PART = ".agenticlu-part"
"""Subdirectory where a data set is written before its files take their places."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns failures to write a file into our error."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"Cannot write {path}: {error}", hint="Free some space, then run the command again."
        ) from error


class RowWriter:
    """Writes rows to a Parquet file in groups, so that memory stays small.

    Args:
        path: The file; created with the first row, so no rows make no file.
        columns: Names and types, in order.
    """

    def __init__(self, path: Path, columns: Mapping[str, ColumnType]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ModuleNotFoundError as error:
            raise missing_dependency("pyarrow", "data") from error
        self._arrow = pyarrow
        self._path = path
        self._schema = _build_schema(pyarrow, columns)
        self._writer: Any = None
        self._waiting: list[Mapping[str, Any]] = []
        self._characters = 0
        self.count = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._waiting.append({name: row[name] for name in self._schema.names})
        self.count += 1
        messages = row.get("prompt") or row.get("messages") or ()
        self._characters += sum(len(message["content"]) for message in messages)
        self._characters += len(row.get("context", ""))
        if len(self._waiting) >= ROWS_PER_GROUP or self._characters >= CHARACTERS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """Writes the remaining rows.

        Raises:
            StoreError: The disk is full or the directory is not writable.
        """
        self._flush()
        if self._writer is not None:
            with writing(self._path):
                self._writer.close()

    def discard(self) -> None:
        """Removes the file."""
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


class RowFiles:
    """The Parquet files of a data set, by kind and split. Use as a context manager.

    Left with an error, it removes what it wrote.

    Args:
        folder: The data set's directory.
    """

    def __init__(self, folder: Path) -> None:
        self._writers = {
            (kind, split): RowWriter(folder / kind / f"{split}.parquet", columns)
            for kind, columns in COLUMNS.items()
            for split in SPLITS
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with contextlib.ExitStack() as on_failure:
            for writer in self._writers.values():
                on_failure.callback(writer.discard)
            if error is None:
                for writer in self._writers.values():
                    writer.close()
                on_failure.pop_all()  # everything is written: nothing to discard

    def write(self, kind: str, split: Split, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._writers[kind, split].write(row)

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns kind to split to the number of rows."""
        return {
            kind: {split: self._writers[kind, split].count for split in SPLITS} for kind in COLUMNS
        }


class RowSorter:
    """Takes rows in any order and gives them back by document. Use as a context manager.

    Rows wait in a SQLite file, a document's text once, so that memory does not grow with them.

    Args:
        path: The file; removed when the block is left.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Self:
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self._path, isolation_level=None)
            # Neither journal nor sync: the file does not outlive the process.
            self._database.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
                "CREATE TABLE document (id TEXT PRIMARY KEY, text BLOB);"
                "CREATE TABLE row (document_id TEXT, data TEXT);"
                "BEGIN"
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._database.close()
        self._path.unlink()

    def add(self, document_id: str, text: str, row: Any) -> bool:
        """Adds a row; returns whether its document is new.

        Args:
            document_id: Id of the document.
            text: The document's text, which the row need not repeat.
            row: JSON data.
        """
        with writing(self._path):
            # Bytes, since SQLite refuses text with lone surrogates.
            added = self._database.execute(
                "INSERT OR IGNORE INTO document VALUES (?, ?)",
                (document_id, text.encode("utf-8", "surrogatepass")),
            )
            self._database.execute("INSERT INTO row VALUES (?, ?)", (document_id, json.dumps(row)))
        return added.rowcount > 0

    def documents(self) -> Iterator[tuple[str, str, list[Any]]]:
        """Yields id, text and rows of every document, by id; rows in the order they came in."""
        with writing(self._path):
            self._database.execute("CREATE INDEX IF NOT EXISTS of_document ON row (document_id)")
        for document_id, text in self._database.execute(
            "SELECT id, text FROM document ORDER BY id"
        ):
            rows = self._database.execute(
                "SELECT data FROM row WHERE document_id = ? ORDER BY rowid", (document_id,)
            )
            yield (
                document_id,
                text.decode("utf-8", "surrogatepass"),
                [json.loads(row) for (row,) in rows],
            )


def _build_schema(arrow: Any, columns: Mapping[str, ColumnType]) -> Any:
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    types: dict[ColumnType, Any] = {
        "text": arrow.string(),
        "texts": arrow.list_(arrow.string()),
        "messages": arrow.list_(message),
        "float": arrow.float64(),
        "int": arrow.int64(),
        "ints": arrow.list_(arrow.int64()),
        "pairs": arrow.list_(arrow.list_(arrow.int64())),
        "bool": arrow.bool_(),
    }
    return arrow.schema([(name, types[kind]) for name, kind in columns.items()])


def check_out(out: Path, *sources: Path) -> None:
    """Refuses a directory that a data set must not be written into.

    Args:
        out: The output directory.
        sources: What the data set is made from.

    Raises:
        UsageError: It is a file, holds something else or an edited card, or contains a source, or
            lies inside one.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, not a directory.", hint="Give another --out.")
    resolved = out.resolve()
    for source in sources:
        inside = source.resolve()
        if source.exists() and (resolved.is_relative_to(inside) or inside.is_relative_to(resolved)):
            raise UsageError(
                f"--out {out} and {source} must not contain each other.",
                hint=f"Give another --out, for example {inside.parent / 'data'}",
            )
    if not out.exists():
        return
    others = sorted(path.name for path in out.iterdir() if path.name != PART)
    record = _read_record(out)
    if others and record is None:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise UsageError(
            f"--out {out} is neither empty nor a data set of agenticlu; it holds {shown}.",
            hint="Give another --out, or empty the directory.",
        )
    card = out / CARD
    if record and card.is_file() and _is_changed(card, record["files"].get(CARD)):
        raise UsageError(
            f"{card} was edited since it was written; the build would overwrite it.",
            hint="Move it away, or give another --out.",
        )


@contextlib.contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields a directory to write a data set into; its files move to `out` when the block succeeds.

    Args:
        out: The data set's directory; see `check_out`.

    Raises:
        StoreError: It is not writable.
    """
    created = [path for path in (out, *out.parents) if not path.exists()]
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
        for path in created:
            with contextlib.suppress(OSError):  # only directories that stayed empty go
                path.rmdir()


def _publish(part: Path, out: Path) -> None:
    """Moves files into place, the summary last; files of the earlier data set are removed."""
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
    """Returns each file's size and SHA-256 by its name in the directory, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMMARY)
    return {path.relative_to(folder).as_posix(): _describe(path) for path in files}


def load_record(folder: Path) -> dict[str, Any]:
    """Returns the summary of a data set after checking its files.

    The card may have been edited; everything else must be as it was written.

    Raises:
        UsageError: The directory is not a data set of agenticlu.
        StoreError: A file is missing or was changed.
    """
    record = _read_record(folder)
    if record is None:
        raise UsageError(
            f"{folder} is not a data set: it has no {SUMMARY} written by agenticlu.",
            hint="Give the directory that `agenticlu dataset build --out` wrote.",
        )
    for name, known in record["files"].items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{folder} lacks {name}.", hint="Build the data set again.")
        if name != CARD and _is_changed(path, known):
            raise StoreError(
                f"{path} was changed since it was built: its size or hash differs.",
                hint="Build the data set again.",
            )
    return record


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _is_changed(path: Path, known: dict[str, Any] | None) -> bool:
    return known is None or path.stat().st_size != known["bytes"] or _describe(path) != known


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return None
    files = record.get("files")
    return record if isinstance(files, dict) and NAMES.issuperset(files) else None
