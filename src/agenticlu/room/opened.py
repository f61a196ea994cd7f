"""A document that is open in the room: its files, its text once that is read, places in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agenticlu.core.errors import AgenticluError, DocumentError
from agenticlu.core.limits import DocumentLimits, ReadingLimits
from agenticlu.core.records import Document, Page, Piece
from agenticlu.dialogue.run import PieceIndex, ShownDocument
from agenticlu.documents.described import describe_reading
from agenticlu.documents.formats import find, name_of
from agenticlu.documents.loading import join_documents, read_document
from agenticlu.documents.rectangles import Places, rectangles_of
from agenticlu.documents.sources import Source
from agenticlu.room.refusals import RoomError, tell

HEAD_BYTES = 4096
"""Of a file, by which its format is told."""


@dataclass(frozen=True)
class RoomFile:
    """A file of a document."""

    path: Path
    name: str
    """As people are shown it."""
    source: str
    """Its path or address, as answers name it."""
    is_pdf: bool

    @classmethod
    def of(cls, path: Path, name: str, source: str | None = None) -> RoomFile:
        """Looks at a file's beginning.

        Raises:
            DocumentError: It cannot be read.
        """
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            raise DocumentError(f"Cannot read {name!r}: {error.strerror or error}.") from error
        return cls(path, name, source or name, find(head, name).name == "PDF")


@dataclass(frozen=True, eq=False)
class Counted:
    """A document as one model is shown it."""

    shown: ShownDocument
    index: PieceIndex
    tokens: int
    fits: bool | None
    """Whether the whole of it fits the model's window; None where that is not known."""


@dataclass(frozen=True)
class FileText:
    """Where a file's text stands in the document's."""

    start: int
    end: int
    pages: tuple[Page, ...]


@dataclass(eq=False)
class OpenDocument:
    """A document that is open."""

    id: str
    """Of its content: the same file has the same id again."""
    name: str
    is_folder: bool
    files: list[RoomFile]
    address: str | None = None
    """Where it is to be fetched from."""
    folder: Path | None = None
    """Of our own, deleted when it is closed; None where it holds the user's files."""
    passed_over: dict[str, int] = field(default_factory=dict)
    status: Literal["reading", "ready", "failed"] = "reading"
    progress: float = 0.0
    error: AgenticluError | None = None
    document: Document | None = None
    texts: dict[int, FileText] = field(default_factory=dict)
    """By the number of the file; files that could not be read have none."""
    counted: Counted | None = None
    """For the model in use; None until it is counted."""
    num_pages: dict[int, int] = field(default_factory=dict)
    """Of files that are PDFs and were looked at."""

    @property
    def kind(self) -> Literal["pdf", "text", "folder"]:
        """What the page shows it as."""
        if self.is_folder:
            return "folder"
        return "pdf" if self.files and self.files[0].is_pdf else "text"

    def info(self) -> dict[str, Any]:
        """Returns what the page is told of it."""
        document, counted = self.document, self.counted
        parts = [self._part_info(number, file) for number, file in enumerate(self.files)]
        return {
            "id": self.id,
            "name": self.name,
            "kind": self.kind,
            "status": self.status,
            "progress": round(self.progress, 3),
            "error": None if self.error is None else tell(self.error),
            "parts": parts,
            "pages": sum(part["pages"] for part in parts),
            "chars": 0 if document is None else len(document.text),
            "tokens": None if counted is None else counted.tokens,
            "pieces": None if counted is None else len(counted.shown.pieces),
            "fits": None if counted is None else counted.fits,
            "notes": [] if document is None else list(describe_reading(document)),
        }

    def _part_info(self, number: int, file: RoomFile) -> dict[str, Any]:
        text = self.texts.get(number)
        num_pages = self.num_pages.get(number, 0 if text is None else len(text.pages))
        return {
            "index": number,
            "name": file.name,
            "kind": "pdf" if file.is_pdf else "text",
            "start": 0 if text is None else text.start,
            "end": 0 if text is None else text.end,
            "pages": num_pages,
        }

    def file(self, number: int) -> RoomFile:
        """Returns a file by its number.

        Raises:
            RoomError: There is no such file.
        """
        if not 0 <= number < len(self.files):
            raise RoomError(f"{self.name!r} has no part {number}.", status=404)
        return self.files[number]

    def require_text(self) -> Document:
        """Returns the document.

        Raises:
            RoomError: It is not read yet.
            AgenticluError: It could not be read.
        """
        if self.error is not None:
            raise self.error
        if self.document is None:
            raise RoomError(
                f"{self.name!r} is still being read.", status=409, hint="Try again in a moment."
            )
        return self.document

    # Reading, in a thread

    def read(self, limits: ReadingLimits, on_progress: Callable[[float], None]) -> Document:
        """Reads the files.

        Raises:
            DocumentError: None of them can be read.
        """
        if not self.is_folder:
            (file,) = self.files
            return _read_file(file, limits, on_progress)
        documents: list[tuple[Source, Document]] = []
        unread: dict[str, str] = {}
        num_characters = 0
        share = 1 / len(self.files)
        for number, file in enumerate(self.files):
            told = functools.partial(_tell_share, on_progress, number * share, share)
            try:
                document = _read_file(file, limits, told)
            except DocumentError as error:
                unread[file.name] = error.advice
                continue
            num_characters += len(document.text)
            limits.check(num_bytes=num_characters)
            documents.append((Source(file.source, file.name), document))
            told(1.0)
        if not documents:
            reasons = "; ".join(list(unread.values())[:3])
            raise DocumentError(f"None of {len(unread)} files can be read. {reasons}")
        return join_documents(documents, self.name, left_out=self.passed_over, unread=unread)

    def took(self, document: Document) -> None:
        """Takes what was read."""
        self.document = document
        if self.is_folder:
            numbers = {file.name: number for number, file in enumerate(self.files)}
            self.texts = {
                numbers[part.name]: FileText(part.start, part.end, part.pages)
                for part in document.parts
            }
        else:
            self.texts = {0: FileText(0, len(document.text), document.pages)}
        self.status, self.progress = "ready", 1.0

    # Places

    def part_at(self, offset: int) -> int:
        """Returns the number of the file whose text holds a character."""
        found = 0
        for number, text in self.texts.items():
            if text.start <= offset:
                found = number
        return found

    def place(self, start: int, end: int, piece: int) -> dict[str, Any]:
        """Returns where a stretch of the text stands."""
        assert self.document is not None
        page = self.document.page_at(start)
        rectangles = rectangles_of(self.document, start, end)
        return {
            "part": self.part_at(start),
            "start": start,
            "end": end,
            "page": None if page is None else page.number,
            "page_name": None if page is None else page.name,
            "rectangles": [one.model_dump() for one in rectangles] or None,
            "piece": piece,
        }

    def places(self, pieces: Sequence[Piece]) -> list[dict[str, Any]]:
        """Returns where pieces stand."""
        return [self.place(piece.start, piece.end, piece.index) for piece in pieces]

    def layout(self, number: int, sizes: Sequence[tuple[float, float]] | None) -> list[Any]:
        """Returns the pages of a file.

        Args:
            number: Of the file.
            sizes: Width and height of each page in points, of a PDF.
        """
        text = self.texts.get(number)
        if sizes is not None:
            read = {} if text is None else {page.number: page for page in text.pages}
            return [
                _page_info(read.get(index + 1), index + 1, size) for index, size in enumerate(sizes)
            ]
        if text is None:
            self.require_text()
            raise RoomError(f"{self.files[number].name!r} could not be read.", status=422)
        if not text.pages:
            whole = Page(number=1, start=text.start, end=text.end)
            return [_page_info(whole, 1, None)]
        return [_page_info(page, page.number, None) for page in text.pages]

    def words(self, number: int, page_number: int) -> dict[str, Any]:
        """Returns a page's words with their boxes in points; none before it is read.

        Raises:
            RoomError: There is no such page.
        """
        text = self.texts.get(number)
        if text is None or self.document is None:
            return {"words": [], "text": "", "start": 0}
        page = next((one for one in text.pages if one.number == page_number), None)
        if page is None:
            raise RoomError(f"{self.files[number].name!r} has no page {page_number}.", status=404)
        shown = self.document.text[page.start : page.end]
        rows: list[list[float]] = []
        if isinstance(self.document.places, Places):
            words = self.document.places.words
            first = int(np.searchsorted(words.starts, page.start, side="left"))
            last = int(np.searchsorted(words.starts, page.end, side="left"))
            boxes = np.round(words.boxes[first:last], 2).tolist()
            spans = zip(
                words.starts[first:last].tolist(), words.ends[first:last].tolist(), strict=True
            )
            rows = [[*span, *box] for span, box in zip(spans, boxes, strict=True)]
        return {"words": rows, "text": shown, "start": page.start}


def _read_file(
    file: RoomFile, limits: ReadingLimits, on_progress: Callable[[float], None]
) -> Document:
    return read_document(
        read_bytes(file), file.name, file.source, ocr=limits.ocr, on_progress=on_progress
    )


def read_bytes(file: RoomFile) -> bytes:
    """Returns a file's content.

    Raises:
        DocumentError: It cannot be read, or is too large.
    """
    try:
        with file.path.open("rb") as opened:
            return DocumentLimits.read().read_all(opened, name_of(file.name))
    except OSError as error:
        raise DocumentError(f"Cannot read {file.name!r}: {error.strerror or error}.") from error


def _tell_share(
    on_progress: Callable[[float], None], before: float, share: float, part: float
) -> None:
    on_progress(before + part * share)


def _page_info(page: Page | None, number: int, size: tuple[float, float] | None) -> dict[str, Any]:
    width, height = (None, None) if size is None else size
    return {
        "number": number,
        "name": None if page is None else page.name,
        "width": width,
        "height": height,
        "start": 0 if page is None else page.start,
        "end": 0 if page is None else page.end,
    }
