"""A story of an RTF file, such as its body or a note, as HTML: paragraphs, lists and tables."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from agenticlu.documents.formats.numbering import LABEL

_LONG_REPEAT = 200
"""Characters of HTML. Shorter cells over several rows are repeated in each."""


@dataclass
class _Table:
    """A table on its way: finished rows, the cells of the open row, the blocks of the open cell."""

    rows: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    """The cells of the last row."""


@dataclass
class Paragraph:
    """What control words said about the open paragraph."""

    table_depth: int = 0
    heading: int = 0
    """Level of the heading from 1; 0 for text."""
    label: str | None = None
    """The number or bullet of its list."""
    list_level: int = 0


class Story:
    """Takes text and ends of paragraphs, cells and rows; returns HTML."""

    def __init__(self, kind: str, depth: int = 0) -> None:
        self.kind = kind
        self.depth = depth
        """How many groups were open when it began; it ends when fewer are."""
        self.counts_pages = False
        """Whether the open paragraph holds the number of the page."""
        self._line: list[str] = []
        self._floats: list[str] = []
        self._outer = _Table()
        self._tables: list[_Table] = []
        self._list_depth = 0

    def add(self, text: str, script: str = "", *, is_struck: bool = False) -> None:
        """Adds text; `script` is 'sup', 'sub' or ''."""
        written = html.escape(text)
        for tag in (script, "s" * is_struck) if text.strip() else ():
            written = f"<{tag}>{written}</{tag}>" if tag else written
        if is_struck and written.endswith("</s>") and self.text().endswith("</s>"):
            self._line[-1] = self._line[-1].removesuffix("</s>")  # pieces of one stretch
            written = written.removeprefix("<s>")
        self._line.append(written)

    def add_break(self) -> None:
        """Adds a line break."""
        self._line.append("<br>")

    def add_float(self, blocks: str) -> None:
        """Adds blocks that stand behind the open paragraph, such as a text box."""
        self._floats.append(blocks)

    def text(self) -> str:
        """Returns the HTML of the open paragraph."""
        return "".join(self._line)

    def drop_line(self) -> None:
        """Forgets the text of the open paragraph."""
        self._line = []

    def end_paragraph(self, paragraph: Paragraph) -> None:
        """Ends the open paragraph; an empty one is none."""
        text, self._line = "".join(self._line), []
        floats, self._floats = self._floats, []
        if text.strip():
            blocks = self._at(paragraph.table_depth).blocks
            if paragraph.label is not None and not paragraph.heading:
                self._add_item(blocks, text, paragraph)
            else:
                self._end_list(blocks)
                mark = f"{LABEL}{paragraph.label} " if paragraph.label else ""
                tag = f"h{min(paragraph.heading, 6)}" if paragraph.heading else "p"
                blocks.append(f"<{tag}>{mark}{text}</{tag}>")
        if floats:
            blocks = self._at(paragraph.table_depth).blocks
            self._end_list(blocks)
            blocks += floats
        self.counts_pages = False

    def _add_item(self, blocks: list[str], text: str, paragraph: Paragraph) -> None:
        wanted = min(paragraph.list_level, self._list_depth) + 1
        closed = self._list_depth - wanted
        blocks.append("</li></ul>" * closed + ("</li>" if closed >= 0 else "<ul>"))
        blocks.append(f"<li>{f'{LABEL}{paragraph.label} ' if paragraph.label else ''}{text}")
        self._list_depth = wanted

    def _end_list(self, blocks: list[str]) -> None:
        if self._list_depth:
            blocks.append("</li></ul>" * self._list_depth)
            self._list_depth = 0

    def _at(self, depth: int) -> _Table:
        """Returns the table at a depth (0: none), with deeper ones closed."""
        if len(self._tables) != depth:
            self._end_list(self._tables[-1].blocks if self._tables else self._outer.blocks)
        while len(self._tables) > depth:
            done = self._tables.pop()
            outer = self._tables[-1] if self._tables else self._outer
            if done.blocks or done.cells:
                done.cells.append("".join(done.blocks))
                done.rows.append(_row(done.cells))
            outer.blocks.append(f"<table>{''.join(done.rows)}</table>")
        while len(self._tables) < depth:
            self._tables.append(_Table())
        return self._tables[-1] if self._tables else self._outer

    def end_cell(self, paragraph: Paragraph) -> None:
        """Ends a cell of the table at the paragraph's depth."""
        self.end_paragraph(paragraph)
        table = self._at(max(paragraph.table_depth, 1))
        self._end_list(table.blocks)
        table.cells.append("".join(table.blocks))
        table.blocks = []

    def end_row(self, depth: int, merged: Sequence[bool] = ()) -> None:
        """Ends a row of the table at a depth; of each cell, whether it continues the one above."""
        table = self._at(max(depth, 1))
        for at, above in enumerate(table.above[: len(table.cells)]):
            if at < len(merged) and merged[at]:
                table.cells[at] = table.cells[at] or above
        table.above = [cell if len(cell) <= _LONG_REPEAT else "" for cell in table.cells]
        if table.cells:
            table.rows.append(_row(table.cells))
        table.cells, table.blocks = [], []

    def finish(self) -> str:
        """Returns all of it."""
        self.end_paragraph(Paragraph())
        self._at(0)
        self._end_list(self._outer.blocks)
        return "".join(self._outer.blocks)


def _row(cells: list[str]) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
