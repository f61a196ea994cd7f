"""Where a document's text stands on its pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agenticlu.core.records import Document, Record


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


@dataclass(frozen=True, eq=False)
class Places:
    """The places of a document's words, in the order of its text."""

    starts: Any
    """First character of each word in the text (int32)."""
    ends: Any
    """One past its last character (int32)."""
    lines: Any
    """Number of its line on the page (int32)."""
    boxes: Any
    """Left, top, right, bottom as in `Rectangle` (float32, [words, 4])."""

    @classmethod
    def of(
        cls,
        starts: Sequence[int],
        ends: Sequence[int],
        lines: Sequence[int],
        boxes: Sequence[Sequence[float]] | Any,
    ) -> Places:
        """Builds places from sequences."""
        return cls(
            np.asarray(starts, np.int32),
            np.asarray(ends, np.int32),
            np.asarray(lines, np.int32),
            np.asarray(boxes, np.float32).reshape(-1, 4),
        )

    @classmethod
    def joined(cls, parts: Iterable[tuple[Places, int]]) -> Places:
        """Joins the places of texts, each with its offset in the joined text, ascending."""
        parts = list(parts)
        if not parts:
            return cls.of((), (), (), ())
        return cls(
            np.concatenate([part.starts + np.int32(offset) for part, offset in parts]),
            np.concatenate([part.ends + np.int32(offset) for part, offset in parts]),
            np.concatenate([part.lines for part, _ in parts]),
            np.concatenate([part.boxes for part, _ in parts]),
        )

    def __eq__(self, other: object) -> bool:
        """Places follow from the text's source: they do not tell two documents apart."""
        return other is None or isinstance(other, Places)

    __hash__ = None  # type: ignore[assignment]


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
    first = int(np.searchsorted(places.ends, start, side="right"))
    last = int(np.searchsorted(places.starts, end, side="left"))
    found: list[Rectangle] = []
    previous = None
    for word in range(first, last):
        page = document.page_of(int(places.starts[word]))
        if page is None:
            continue
        line = (page, int(places.lines[word]))
        left, top, right, bottom = (round(float(side), 2) for side in places.boxes[word])
        if line == previous:
            before = found.pop()
            left, top = min(left, before.left), min(top, before.top)
            right, bottom = max(right, before.right), max(bottom, before.bottom)
        found.append(Rectangle(page=page, left=left, top=top, right=right, bottom=bottom))
        previous = line
    return tuple(found)
