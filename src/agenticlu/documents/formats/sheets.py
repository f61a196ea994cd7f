"""Rows of spreadsheets as text in which every cell can be pointed at.

A row under a line of headings names the column of each cell, since a long sheet is read in pieces:

    A1: Item | B1: Price
    Row 2: Item: Oats | Price: 1,234.50 €

Where no headings are found, cells have their addresses: 'A7: Oats | C7: 12'.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from agenticlu.core.records import Page
from agenticlu.documents.formats import Parsed

_NUMBER = re.compile(r"[-+(]?[^\w\s]?\s?\d[\d\s.,:/'-]*\s?\W?%?\)?")
_LONGEST_LABEL = 60
"""A heading of more characters is not repeated in every row."""
_MOST_ROWS_BEFORE_HEADINGS = 12


@dataclass
class Sheet:
    """A sheet: its rows from 1, and in each the texts of its cells by column from 1."""

    name: str
    rows: dict[int, dict[int, str]] = field(default_factory=dict)
    merged: Sequence[tuple[int, int, int, int]] = ()
    """Merged cells: first row and column, last row and column."""
    notes: Sequence[str] = ()
    """Texts that stand on the sheet, but in no cell."""


def build(
    sheets: Iterable[tuple[Sheet, bool]], title: str | None, left_out: Counter[str]
) -> Parsed:
    """Builds a document with a page for each sheet.

    Args:
        sheets: The sheets in order, and whether each is hidden; those are counted, not read.
        title: The workbook's title.
        left_out: What the sheets do not hold.
    """
    parts: list[str] = []
    pages: list[Page] = []
    length = 0
    for number, (sheet, is_hidden) in enumerate(sheets, 1):
        lines = [] if is_hidden else [*render(sheet), *sheet.notes]
        left_out["hidden sheet"] += is_hidden
        body = f"## {sheet.name}\n\n" + "\n".join(lines) + "\n\n" if lines else ""
        name = f"sheet {sheet.name}"
        pages.append(Page(number=number, start=length, end=length + len(body), name=name))
        parts.append(body)
        length += len(body)
    return Parsed("".join(parts), title, tuple(pages), +left_out)


def render(sheet: Sheet) -> list[str]:
    """Returns a line for each row that holds something."""
    _fill_down(sheet)
    rows = {row: cells for row in sorted(sheet.rows) if (cells := _written(sheet.rows[row]))}
    heading_row = find_headings(rows)
    labels = {} if heading_row is None else _labels(sheet, rows, heading_row)
    lines = []
    for row, cells in rows.items():
        if labels and heading_row is not None and row > heading_row:
            named = (f"{labels.get(at) or column_name(at)}: {text}" for at, text in cells.items())
            lines.append(f"Row {row}: {' | '.join(named)}")
        else:
            addressed = (f"{column_name(at)}{row}: {text}" for at, text in cells.items())
            lines.append(" | ".join(addressed))
    return lines


def _written(cells: dict[int, str]) -> dict[int, str]:
    texts = ((at, " ".join(text.split())) for at, text in sorted(cells.items()))
    return {at: text for at, text in texts if text}


def _fill_down(sheet: Sheet) -> None:
    """Writes a cell that is merged over several rows into each of them."""
    for first_row, first_column, last_row, _ in sheet.merged:
        text = sheet.rows.get(first_row, {}).get(first_column)
        # Rows without a cell of their own stay empty: a merge may reach to the sheet's end.
        for row in range(first_row + 1, last_row + 1) if text else ():
            if sheet.rows.get(row):
                sheet.rows[row].setdefault(first_column, text or "")


def find_headings(rows: dict[int, dict[int, str]]) -> int | None:
    """Returns the row whose texts name the columns below it, or None where none surely does.

    Rows of two columns may as well be names and values; there the second has to hold nothing but
    numbers below the heading.
    """
    order = list(rows)
    for place, row in enumerate(order[:_MOST_ROWS_BEFORE_HEADINGS]):
        cells = rows[row]
        below = [rows[one] for one in order[place + 1 :]]
        if len(cells) < 2:
            continue  # a line above the table
        columns = set().union(*below) if below else set()
        if len(cells) * 2 < len(columns):
            continue  # wider below: another line above the table
        if wider := _wider_headings(rows, order, place):
            return wider
        texts = list(cells.values())
        if any(map(is_number, _without_years(texts))) or len(set(texts)) < len(texts) or not below:
            return None
        if len(cells) == 2:
            second = max(cells)
            values = [one[second] for one in below if second in one]
            if not values or not all(map(is_number, values)):
                return None
        return row
    return None


def _wider_headings(rows: dict[int, dict[int, str]], order: list[int], place: int) -> int | None:
    """Returns the row of more texts that names columns of numbers; what is above it are notes."""
    for at in range(place + 1, min(len(order) - 1, _MOST_ROWS_BEFORE_HEADINGS)):
        cells = rows[order[at]]
        texts = list(cells.values())
        if any(map(is_number, texts)):
            return None  # the first row of values
        if len(cells) > len(rows[order[place]]) and len(set(texts)) == len(texts):
            below = [rows[one] for one in order[at + 1 :]]
            columns = ([one[column] for one in below if column in one] for column in cells)
            if any(sum(map(is_number, values)) > max(1, len(values) / 2) for values in columns):
                return order[at]
    return None


def _without_years(texts: list[str]) -> list[str]:
    """Drops a series of years, which head columns as words do."""
    years = [text for text in texts if re.fullmatch(r"(?:19|20)\d\d", text, re.ASCII)]
    steps = {int(after) - int(before) for before, after in pairwise(years)}
    return [text for text in texts if text not in years] if steps in ({1}, {-1}) else texts


def _labels(sheet: Sheet, rows: dict[int, dict[int, str]], heading_row: int) -> dict[int, str]:
    """Returns the heading of each column, with those that stand above several columns."""
    above: dict[int, list[str]] = {}
    for first_row, first_column, last_row, last_column in sheet.merged:
        text = rows.get(first_row, {}).get(first_column)
        if (
            text
            and last_row < heading_row
            and 0 < last_column - first_column < len(rows[heading_row])
        ):
            for at in range(first_column, last_column + 1):
                above.setdefault(at, []).append(text)
    found = {}
    for at, text in rows[heading_row].items():
        label = " ".join([*above.get(at, ()), text]).rstrip(":")
        found[at] = label if len(label) <= _LONGEST_LABEL else ""
    return found


def is_number(text: str) -> bool:
    """Whether a text is a number, an amount, a share, a date or a time in digits."""
    return bool(_NUMBER.fullmatch(text))


def column_name(column: int) -> str:
    """Returns the letters of a column.

    >>> [column_name(n) for n in (1, 26, 27, 703)]
    ['A', 'Z', 'AA', 'AAA']
    """
    letters = ""
    while column:
        column, last = divmod(column - 1, 26)
        letters = chr(65 + last) + letters
    return letters
