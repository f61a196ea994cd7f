"""Rows put in the order of their documents on disk, so that memory does not grow with them.

The first digits of a document's id choose a bucket; a bucket at a time is read back and sorted. A
document's text is written once, however many rows repeat it, and one text at a time is held.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from agenticlu.data.rows import writing

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
