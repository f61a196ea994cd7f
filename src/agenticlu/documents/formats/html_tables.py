"""Rows of HTML's tables: a line each, unless a cell holds a page's worth."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from selectolax.lexbor import LexborNode

_LONG_CELL = 2000
"""Characters. Longer cells arrange a page; they are read one after the other."""
_LONG_LINE = 120
"""Characters. The only cell of a row is a line of the table if it is shorter."""
_LONG_ENTRY = 200
"""Characters. A cell with a heading is an entry of a table if it is shorter, else a chapter."""
_LONG_REPEAT = 80
"""Characters. Shorter cells over several rows are repeated in each."""
_MAX_COLUMNS = 1000


class Block(NamedTuple):
    """A paragraph, heading, item or row."""

    gap: int
    """Line ends before it."""
    text: str
    kind: str
    """'heading', 'row' or ''."""


class _Cell(NamedTuple):
    blocks: list[Block]
    columns: int
    rows: int

    @property
    def line(self) -> str:
        texts = (b.text.lstrip("# ") if b.kind == "heading" else b.text for b in self.blocks)
        return " ".join(" ".join(texts).split())

    def is_page(self, is_alone: bool) -> bool:
        """Whether blocks of it would be lost on one line.

        Args:
            is_alone: Whether its row is the table's only one.
        """
        if len(self.blocks) < 2:
            return bool(self.blocks) and len(self.blocks[0].text) > _LONG_CELL
        kinds = [block.kind for block in self.blocks]
        if is_alone and "heading" in kinds:
            return True
        most = _LONG_ENTRY if "heading" in kinds else _LONG_CELL
        return sum(len(block.text) for block in self.blocks) > most or kinds.count("row") > 1


@dataclass(slots=True)
class Table:
    """A table that is being read."""

    cells: list[_Cell] | None = None
    """Of the open row; None between rows."""
    spans: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Column -> further rows that a cell above covers, and its text."""
    group: int = 0
    """Identity of the row's group: cells do not reach out of it."""
    is_alone: bool = False
    """Whether the open row is the only one of its group."""
    had_row: bool = False
    """Whether the last row was written on a line."""

    def begin_row(self, row: LexborNode) -> None:
        """Opens a row."""
        self.cells = []
        group = row.parent.mem_id if row.parent is not None else 0
        if group != self.group:
            self.spans.clear()
        self.group = group
        self.is_alone = not _has_sibling(row)

    def add_cell(self, blocks: list[Block], columns: int, rows: str | None) -> None:
        """Adds a cell to the open row; `rows` as written in the page."""
        count = int(rows) if rows and re.fullmatch(r"\d{1,5}", rows, re.ASCII) else 1
        assert self.cells is not None
        self.cells.append(_Cell(blocks, min(max(columns, 1), _MAX_COLUMNS), count or 65534))

    def end_row(self, spare: int) -> tuple[list[Block], int]:
        """Closes the row.

        Args:
            spare: Characters that cells over several rows or columns may still add.

        Returns:
            Its blocks, and what is left of `spare`.
        """
        cells, self.cells = self.cells or [], None
        filled = [cell for cell in cells if cell.blocks]
        if any(cell.is_page(self.is_alone) for cell in cells) or not self._is_line(cells, filled):
            self.had_row = False
            self._pass_spans(cells)
            return [block for cell in cells for block in cell.blocks], spare
        texts, spare = self._fill(cells, spare)
        text = " | ".join(texts).strip()
        if not text.strip(" |"):
            return [], spare
        gap = 1 if self.had_row else 2
        self.had_row = True
        return [Block(gap, text, "row")], spare

    def _is_line(self, cells: list[_Cell], filled: list[_Cell]) -> bool:
        if len(filled) != 1:
            return bool(filled)
        blocks = filled[0].blocks
        # One long paragraph in a row is a page's layout.
        is_short = len(blocks) == 1 and len(blocks[0].text) <= _LONG_LINE
        return is_short or bool(self.spans) or (len(cells) > 1 and len(blocks) == 1)

    def _fill(self, cells: list[_Cell], spare: int) -> tuple[list[str], int]:
        """Returns the texts of all columns: those of the row, and those that reach into it."""
        texts: list[str] = []
        above, self.spans = self.spans, {}

        def covered() -> None:
            nonlocal spare
            while (span := above.get(len(texts))) is not None:
                rows, text = span
                spare -= len(text) + 3
                if rows > 1 and spare > 0:
                    self.spans[len(texts)] = (rows - 1, text)
                texts.append(text)

        for cell in cells:
            covered()
            line = cell.line
            repeated = line if len(line) <= _LONG_REPEAT else ""
            columns = cell.columns if spare > 0 else 1
            spare -= 3 * (columns - 1)
            for column in range(columns):
                if cell.rows > 1 and spare > 0:
                    self.spans[len(texts)] = (cell.rows - 1, repeated if column == 0 else "")
                texts.append(line if column == 0 else "")
        covered()
        while len(texts) > 1 and not texts[-1] and len(texts) > len(cells):
            texts.pop()
        return texts, spare

    def _pass_spans(self, cells: list[_Cell]) -> None:
        if cells:
            self.spans = {at: (n - 1, text) for at, (n, text) in self.spans.items() if n > 1}


def _has_sibling(row: LexborNode) -> bool:
    """Whether an element stands beside others of its kind."""
    for step in ("prev", "next"):
        at = getattr(row, step)
        while at is not None and at.tag != row.tag:
            at = getattr(at, step)
        if at is not None:
            return True
    return False
