"""Rows in Parquet: their columns, and a writer that keeps memory small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from agenticlu.core.errors import StoreError, missing_dependency

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
