"""The text of a PDF from the lines of its pages, with the places of the words in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np

from agenticlu.core.records import Page
from agenticlu.documents.formats.pdf_runs import Line, Run
from agenticlu.documents.formats.pdf_words import SMALL, Box, Word
from agenticlu.documents.rectangles import Floats, Ints, Places, Words, join_words

JOINED = "\ufffe"
"""Stands where a word was divided at a line's end, until the whole text is known."""
CELL_GAP = 1.5
"""A wider gap between parts of a line is written as a tab; in heights of a line."""
WRAPPED = " "
"""Between the lines of a wrapped cell."""
_HYPHENS = ("-", "\u00ad", "\u2010")
_LATIN = re.compile(r"[^\W\d_]")
_LONGEST = 40
"""Characters of a word's half that are looked at."""


class TextBuilder:
    """Collects pages."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._pages: list[tuple[int, int]] = []
        self._words: list[Words] = []
        self._length = 0

    def add_page(self, lines: Sequence[Line], box: Sequence[float], rotation: int) -> None:
        """Takes a page.

        Args:
            lines: In reading order.
            box: Left, bottom, right and top of what is shown of the page.
            rotation: By which it is shown clockwise, in degrees.
        """
        page = _PageText()
        for number, line in enumerate(lines):
            page.add(number, line)
        text = f"{''.join(page.parts)}\n\n" if page.parts else ""
        if page.starts:
            words = Words.of(page.starts, page.ends, page.lines, page.boxes)
            boxes = _shown(words.boxes, box, rotation)
            self._words.append(words.moved(self._length)._replace(boxes=boxes))
        self._pages.append((self._length, self._length + len(text)))
        self._parts.append(text)
        self._length += len(text)

    def build(self) -> tuple[str, list[tuple[int, int]], Places]:
        """Returns the text, the spans of its pages and the places of its words."""
        return "".join(self._parts), self._pages, Places.of(join_words(self._words))


def join_pages(
    texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]], places: Sequence[Places]
) -> tuple[str, tuple[Page, ...], Places]:
    """Joins what several builders have made of successive pages, and the words divided in them."""
    offsets = [0, *accumulate(map(len, texts))]
    words = Places.joined(zip(places, offsets, strict=False)).words
    text = "".join(texts)
    pages = np.array([(a + o, b + o) for o, part in zip(offsets, spans, strict=False)
                      for a, b in part], np.int64).reshape(-1, 2)  # fmt: skip
    if JOINED in text:
        text, gone = _join_divided(text)
        words = words._replace(
            starts=words.starts - np.searchsorted(gone, words.starts),
            ends=words.ends - np.searchsorted(gone, words.ends),
        )
        pages = pages - np.searchsorted(gone, pages)
    numbered = enumerate(pages.tolist(), start=1)
    return (
        text,
        tuple(Page(number=i, start=a, end=b) for i, (a, b) in numbered),
        Places.of(words),
    )


def _shown(boxes: Floats, box: Sequence[float], rotation: int) -> Floats:
    """Moves the origin from the page's own to the upper left corner of the page as shown."""
    left, bottom, right, top = boxes.T
    x0, y0, x1, y1 = box
    sides = {
        0: (left - x0, y1 - top, right - x0, y1 - bottom),
        90: (bottom - y0, left - x0, top - y0, right - x0),
        180: (x1 - right, bottom - y0, x1 - left, top - y0),
        270: (y1 - top, x1 - right, y1 - bottom, x1 - left),
    }[rotation]
    return np.stack(sides, axis=1)


def _join_divided(text: str) -> tuple[str, Ints]:
    """Writes divided words: with their hyphen where the document has them so elsewhere.

    Returns the text, and where characters were taken out of the former one, ascending.
    """
    words = set(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)?", text.lower()))
    parts: list[str] = []
    gone: list[int] = []
    end = 0
    at = text.find(JOINED)
    while at >= 0:
        before = re.split(r"[\W_]", text[max(0, at - _LONGEST) : at])[-1].lower()
        after = re.split(r"[\W_]", text[at + 1 : at + 1 + _LONGEST])[0].lower()
        keeps = before + after not in words and f"{before}-{after}" in words
        parts += [text[end:at], "-" if keeps else ""]
        if not keeps:
            gone.append(at)
        end = at + 1
        at = text.find(JOINED, end)
    parts.append(text[end:])
    return "".join(parts), np.asarray(gone, np.int64)


class _PageText:
    """The text of one page while it is written."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.lines: list[int] = []
        self.boxes: list[Box] = []
        self._length = 0
        self._last: Word | None = None

    def add(self, number: int, line: Line) -> None:
        """Writes a line."""
        separator = "\n\n" if line.after_gap else "\n"
        for word, gap in _words(line):
            if gap is None:
                gap = separator
            last = self._last
            if last is not None and gap:
                if last.hyphenated or last.text.endswith(_HYPHENS):
                    gap = self._hyphenate(last, word, gap)
                self.parts.append(gap)
                self._length += len(gap)
            self.parts.append(word.text)
            self.starts.append(self._length)
            self._length += len(word.text)
            self.ends.append(self._length)
            self.lines.append(number)
            self.boxes.append(word.box)
            self._last = word

    def _hyphenate(self, last: Word, word: Word, separator: str) -> str:
        """Ends a line with a hyphen; returns what stands between it and the next word."""
        ends_line = "\n" in separator or separator == WRAPPED
        if last.hyphenated:
            if ends_line and word.text[:1].isalnum():
                return JOINED if word.text[:1].islower() else "-"
            return f"-{separator}"
        if not ends_line:
            return separator
        before, first = last.text[-2:-1], word.text[:1]
        is_soft = last.text.endswith("\u00ad")
        if not _LATIN.match(before) or not (first.islower() or is_soft):
            return separator
        self.parts[-1] = last.text[:-1]
        self._length -= 1
        self.ends[-1] -= 1
        return "" if is_soft else JOINED


def _words(line: Line) -> Iterator[tuple[Word, str | None]]:
    """Yields the words of a line with what stands before each; None before the first."""
    if line.rtl and (reordered := _bidi(line)):
        yield reordered[0], None
        for word in reordered[1:]:
            yield word, " "
        return
    before: Run | None = None
    for number, cell in enumerate(line.cells):
        for place, run in enumerate(cell):
            if place:
                gap: str | None = WRAPPED
            elif number:
                assert before is not None
                distance = max(run.u0 - before.u1, before.u0 - run.u1)
                is_wide = len(cell) > 1 or distance > CELL_GAP * run.height
                gap = "\t" if is_wide else " "
            else:
                gap = None
            yield run.words[0], gap
            for last, word in pairwise(run.words):
                yield word, _between(last, word)
            before = run


def _between(last: Word, word: Word) -> str:
    if not word.spaced:
        return ""
    if word.line == last.line and not word.rtl:
        return " "
    left, bottom, _, top = word.box
    last_left, last_bottom, last_right, last_top = last.box
    height = min(last_top - last_bottom, top - bottom)
    if word.line != last.line and abs(left - last_right) < 0.15 * height:
        # pdfium ends a line where the letters rise or sink.
        if not (last.text[-1].isdigit() and word.text[0].isdigit()):
            return ""
        if last_top - last_bottom < SMALL * (top - bottom):  # back from a power
            return " "
        is_small = top - bottom < SMALL * (last_top - last_bottom)
        is_higher = bottom + top > last_bottom + last_top
        return "^" if is_higher else "_" if is_small else ""
    if word.rtl and abs(last_left - word.box[2]) < 0.1 * height:
        return ""  # marks above and below letters look like gaps to pdfium
    return " "


def _bidi(line: Line) -> list[Word]:
    """Orders a line of both directions: pdfium turns round the words of the other direction.

    Empty where the line has but one direction.
    """
    words = [word for cell in line.cells for run in cell for word in run.words]
    runs = [cell[0] for cell in line.cells]
    if any(max(b.u0 - a.u1, a.u0 - b.u1) > CELL_GAP * a.height for a, b in pairwise(runs)):
        return []
    if any(not word.spaced for word in words[1:]) or any(len(cell) > 1 for cell in line.cells):
        return []
    turns = [word.rtl for word in words]
    latin = [
        not turn and bool(_LATIN.search(word.text)) for word, turn in zip(words, turns, strict=True)
    ]
    if sum(latin) < 2 or not any(turns):
        return []
    rtl = sum(turns) >= sum(latin)
    words.sort(key=lambda word: -word.box[2] if rtl else word.box[0])
    other = [(word.rtl != rtl) and (not rtl or bool(_LATIN.search(word.text))) for word in words]
    ordered: list[Word] = []
    at = 0
    while at < len(words):
        end = at
        while end < len(words) and other[end]:
            end += 1
        if end > at:
            ordered += reversed(words[at:end])
            at = end
        else:
            ordered.append(words[at])
            at += 1
    return ordered
