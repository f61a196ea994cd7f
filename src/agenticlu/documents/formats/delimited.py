"""Comma-, semicolon- and tab-separated values, as rows of a table."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats import Parsed, name_of
from agenticlu.documents.formats.encodings import read_text
from agenticlu.documents.formats.sheets import find_headings

_DELIMITERS = ",;\t|"
_SAMPLE_LINES = 200
_MOST_ROWS_UNNAMED = 30
"""A table of no more rows is read at once: its cells need no headings beside them."""


def parse(data: bytes, source: str) -> Parsed:
    """Reads a table: a line for each row, ' | ' between cells.

    In a long one under a line of headings each cell has its heading before it.

    Raises:
        DocumentError: It is not text in a known encoding, or no table.
    """
    text, left_out = read_text(data, source)
    first = re.match(r"sep=(.)\r?\n", text)  # Excel's note to itself
    text = text[first.end() :] if first else text
    csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    tab = Path(source).suffix.lower() in {".tsv", ".tab"}
    try:
        rows = _read(text, first[1] if first else "\t" if tab else find_delimiter(text))
    except csv.Error as error:
        raise DocumentError(f"{name_of(source)} is not a table of values: {error}.") from error
    cells = {
        number: {at: value for at, value in enumerate(row, 1) if value}
        for number, row in enumerate(rows, 1)
    }
    cells = {number: row for number, row in cells.items() if row}
    headings = find_headings(cells) if len(cells) > _MOST_ROWS_UNNAMED else None
    lines = []
    for number, row in cells.items():
        if headings is None or number <= headings:
            last = max(row)
            lines.append(" | ".join(row.get(at, "") for at in range(1, last + 1)))
        else:
            names = cells[headings]
            named = (f"{names[at]}: {v}" if at in names else v for at, v in row.items())
            lines.append(" | ".join(named))
    return Parsed("\n".join(lines) + "\n" if lines else "", left_out=left_out)


def _read(text: str, delimiter: str) -> list[list[str]]:
    lines = text.splitlines(keepends=True)
    return [
        [" ".join(cell.split()) for cell in row] for row in csv.reader(lines, delimiter=delimiter)
    ]


def find_delimiter(text: str) -> str:
    r"""Returns the delimiter by which most rows have the same number of cells.

    >>> find_delimiter("Item;Price\nOats;1,20\nRye;1,35\n")
    ';'
    """
    lines = text.splitlines(keepends=True)[:_SAMPLE_LINES]
    best, best_score = ",", (0.0, 0)
    for delimiter in _DELIMITERS:
        widths = Counter(len(row) for row in csv.reader(lines, delimiter=delimiter) if row)
        width, number = max(widths.items(), key=lambda one: one[1], default=(0, 0))
        if width > 1 and (score := (number / widths.total(), width)) > best_score:
            best, best_score = delimiter, score
    return best
