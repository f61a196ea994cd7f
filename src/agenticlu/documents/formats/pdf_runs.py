"""Lines of a PDF page: words joined to runs, in the frame of the text.

A run is a part of a line without a wide gap. In the frame, u runs along a line and v from line to
line; both grow in reading order, also where the text is rotated or vertical.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from agenticlu.documents.formats.pdf_words import Box, Frame, Word, frame_of, is_wide

RUN_GAP = 0.65
"""A wider gap ends a run; in heights of a line. Spaces of justified text are narrower."""


class Run:
    """Words of one line without a wide gap between them."""

    __slots__ = ("_text", "order", "rtl", "table", "u0", "u1", "v0", "v1", "words")

    def __init__(self, word: Word, box: Box) -> None:
        self.words = [word]
        self.u0, self.v0, self.u1, self.v1 = box
        self.order = 0
        """Place in the file."""
        self.table: tuple[int, int] | None = None
        """Number of the table that holds it, and of the row."""
        self.rtl = word.rtl
        self._text: str | None = None

    @property
    def height(self) -> float:
        """Height of the line."""
        return self.v1 - self.v0

    @property
    def middle(self) -> float:
        """Middle of the line."""
        return (self.v0 + self.v1) / 2

    @property
    def text(self) -> str:
        """The words, for tests of what they are; asked for when all are there."""
        if self._text is None:
            words = [f" {word.text}" if word.spaced else word.text for word in self.words]
            self._text = "".join(words).strip()
        return self._text


Row = list[Run]


class Line(NamedTuple):
    """A line of the text."""

    cells: tuple[Row, ...]
    """Cells from first to last; a cell is one run, or the lines of a wrapped cell of a table."""
    rtl: bool = False
    after_gap: bool = False
    """Whether more than the usual space stands before it."""


def box_in(frame: Frame, box: Box) -> Box:
    """Returns u0, v0, u1, v1 of a box on the page."""
    left, bottom, right, top = box
    if frame == "right":
        return left, -top, right, -bottom
    if frame == "up":
        return bottom, left, top, right
    if frame == "down":
        return -top, -right, -bottom, -left
    return -right, bottom, -left, top


def group_by_frame(words: Sequence[Word]) -> dict[Frame, list[Word]]:
    """Groups words by where their lines run; the most frequent first."""
    kinds = {word.frame for word in words}
    if kinds == {"right"}:
        return {"right": list(words)}
    lines: dict[int, list[Word]] = {}
    for word in words:
        lines.setdefault(word.line, []).append(word)
    frames = {number: _frame(line) for number, line in lines.items()}
    counts = Counter(frames[word.line] for word in words)
    usual: Frame = next((frame for frame, _ in counts.most_common() if frame), "right")
    groups: dict[Frame, list[Word]] = {usual: []}
    for word in words:
        groups.setdefault(frames[word.line] or usual, []).append(word)
    return groups


def _frame(line: Sequence[Word]) -> Frame | None:
    """Where a line runs; None for a single character."""
    frames = [word.frame for word in line if word.frame]
    if frames:
        return Counter(frames).most_common(1)[0][0]
    if len(line) == 1:
        return None
    (first_left, first_bottom, *_), (left, bottom, *_) = line[0].box, line[-1].box
    return frame_of(left - first_left, bottom - first_bottom, line[0].rtl)


def join_runs(words: Sequence[Word], frame: Frame) -> list[Run]:
    """Joins words that follow each other closely on one line."""
    runs: list[Run] = []
    run = None
    # pdfium gives the words of a line from right to left one after another, whatever their script.
    backward = {word.line for word in words if word.rtl}
    for word in words:
        u0, v0, u1, v1 = box_in(frame, word.box)
        if run is not None and not run.words[-1].hyphenated:
            height, before = v1 - v0, run.v1 - run.v0
            small, size = (height, before) if height < before else (before, height)
            overlap = (v1 if v1 < run.v1 else run.v1) - (v0 if v0 > run.v0 else run.v0)
            if overlap >= 0.5 * small and (
                -0.3 * size <= u0 - run.u1 <= RUN_GAP * size
                or (word.line in backward and -0.3 * size <= run.u0 - u1 <= RUN_GAP * size)
            ):
                if frame == "down" and is_wide(run.words[-1].text[-1:] + word.text[:1]):
                    # pdfium ends a line after each character that is placed by itself.
                    word = word._replace(spaced=False)
                run.words.append(word)
                run.u0, run.v0 = min(u0, run.u0), min(v0, run.v0)
                run.u1, run.v1 = max(u1, run.u1), max(v1, run.v1)
                run.rtl = run.rtl or word.rtl
                continue
        run = Run(word, (u0, v0, u1, v1))
        runs.append(run)
    for run in runs if backward else ():
        if all(word.rtl for word in run.words):  # drawn glyph by glyph, they come from the left
            run.words.sort(key=lambda word: -word.box[2])
    return runs


def insert_run(runs: list[Run], new: Run) -> None:
    """Puts a run behind its nearest neighbour in its row, else behind what stands above it."""
    best: tuple[float, int] | None = None
    above = 0
    for i, run in enumerate(runs):
        if min(new.v1, run.v1) - max(new.v0, run.v0) > 0.5 * min(new.height, run.height):
            gap = max(new.u0 - run.u1, run.u0 - new.u1)
            if best is None or gap < best[0]:
                best = (gap, i + (new.u0 >= run.u0))
        elif run.middle < new.middle:
            above = i + 1
    runs.insert(above if best is None else best[1], new)


def place_block(lines: list[Line], block: Run) -> None:
    """Puts a block behind the lowest line above it, of its own column where there is one."""
    best: tuple[bool, float, int] | None = None
    for i, line in enumerate(lines):
        runs = [run for cell in line.cells for run in cell]
        top = min(run.v0 for run in runs)
        if top <= block.v0 + 0.5 * min(run.height for run in runs):
            beside = any(run.u0 < block.u1 and run.u1 > block.u0 for run in runs)
            best = max(best or (False, top, i), (beside, top, i))
    lines.insert(0 if best is None else best[2] + 1, Line(([block],)))
