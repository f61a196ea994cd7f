"""Where a document's text stands on its pages."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agenticlu.core.records import Document, Record

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_MOST = 65_535


class Rectangle(Record):
    """A rectangle on a page, in points (1/72 inch).

    The origin is the upper left corner of the page as it is shown: cropped and rotated. On a
    picture of the page, multiply by pixels per point.
    """

    page: int
    """Page number in the source, from 1."""
    left: float
    top: float
    right: float
    bottom: float


class Words(NamedTuple):
    """The words of a text in its order, as arrays."""

    starts: Ints
    """First character of each in the text."""
    ends: Ints
    """One past its last character."""
    lines: Ints
    """Number of its line on the page."""
    boxes: Floats
    """Left, top, right, bottom as in `Rectangle` ([words, 4])."""

    @classmethod
    def of(
        cls,
        starts: Sequence[int],
        ends: Sequence[int],
        lines: Sequence[int],
        boxes: Sequence[Sequence[float]],
    ) -> Words:
        """Makes arrays of sequences."""
        return cls(
            np.array(starts, np.int64),
            np.array(ends, np.int64),
            np.array(lines, np.int64),
            np.array(boxes, np.float64).reshape(-1, 4),
        )

    def where(self, among: NDArray[np.bool_]) -> Words:
        """Returns some of the words."""
        starts, ends, lines, boxes = self
        return Words(starts[among], ends[among], lines[among], boxes[among])

    def moved(self, offset: int) -> Words:
        """Returns the words of the text with so many characters before it."""
        return self._replace(starts=self.starts + offset, ends=self.ends + offset)


@dataclass(frozen=True, eq=False)
class Places:
    """The places of a document's words, 16 bytes each, in a form that JSON can say."""

    packed: str = ""
    """Arrays of starts (uint32), lengths, lines and boxes (uint16), one after another; base64."""
    scale: float = 1.0
    """Points of one unit of a box."""

    @classmethod
    def of(cls, words: Words) -> Places:
        """Packs the places of words."""
        boxes = np.asarray(words.boxes, np.float64).reshape(-1, 4).clip(0)
        scale = max(float(boxes.max(initial=0.0)), 1.0) / _MOST
        starts, ends = np.asarray(words.starts, np.int64), np.asarray(words.ends, np.int64)
        arrays = (
            starts.astype("<u4"),
            np.minimum(ends - starts, _MOST).astype("<u2"),
            np.minimum(words.lines, _MOST).astype("<u2"),
            np.rint(boxes / scale).astype("<u2"),
        )
        data = b"".join(array.tobytes() for array in arrays)
        return cls(base64.b64encode(data).decode("ascii"), scale)

    @cached_property
    def words(self) -> Words:
        """The places as arrays."""
        data = base64.b64decode(self.packed)
        num = len(data) // 16
        starts = np.frombuffer(data, "<u4", num).astype(np.int64)
        sizes, lines, boxes = (
            np.frombuffer(data, "<u2", count, offset)
            for count, offset in ((num, 4 * num), (num, 6 * num), (4 * num, 8 * num))
        )
        return Words(
            starts, starts + sizes, lines.astype(np.int64), boxes.reshape(-1, 4) * self.scale
        )

    @classmethod
    def joined(cls, parts: Iterable[tuple[Places, int]]) -> Places:
        """Joins the places of texts, each with its offset in the joined text, ascending."""
        return cls.of(join_words([part.words.moved(offset) for part, offset in parts]))

    def __eq__(self, other: object) -> bool:
        """Places follow from the text's source: they do not tell two documents apart."""
        return other is None or isinstance(other, Places)

    __hash__ = None  # type: ignore[assignment]


def join_words(parts: Sequence[Words]) -> Words:
    """Joins the words of texts that follow each other."""
    if not parts:
        return Words.of((), (), (), ())
    return Words(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def rectangles_of(document: Document, start: int, end: int) -> tuple[Rectangle, ...]:
    """Returns where the characters [start, end) stand: a rectangle for each line of each page.

    Empty where the source has no such places (only PDFs do), and for documents that were read back
    from a file of ours instead of from their source.

    >>> rectangles_of(Document.of("text", "a.txt"), 0, 4)
    ()
    """
    places = document.places
    if not isinstance(places, Places):
        return ()
    words = places.words
    first = int(np.searchsorted(words.ends, start, side="right"))
    last = int(np.searchsorted(words.starts, end, side="left"))
    found: list[Rectangle] = []
    previous = None
    for word in range(first, last):
        page = document.page_of(int(words.starts[word]))
        if page is None:
            continue
        line = (page, int(words.lines[word]))
        left, top, right, bottom = (round(float(side), 2) for side in words.boxes[word])
        if line == previous:
            before = found.pop()
            left, top = min(left, before.left), min(top, before.top)
            right, bottom = max(right, before.right), max(bottom, before.bottom)
        found.append(Rectangle(page=page, left=left, top=top, right=right, bottom=bottom))
        previous = line
    return tuple(found)
