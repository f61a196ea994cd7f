"""Columns and tables of a PDF page: which gaps between runs are gutters, and of what.

A gutter is a gap that neighbouring rows share. It parts columns if the file has what stands on each
side of it together, or if both sides hold sentences; else the rows are those of a table.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from agenticlu.documents.formats.pdf_runs import Row, Run

LEAST_GUTTER = 0.7
"""The narrowest gap between columns, in heights of a line."""
NARROW_GUTTER = 1.2
"""A gutter below this needs `NARROW_LINES` lines on both sides."""
NARROW_LINES = 5
Interval = tuple[float, float]


def group_rows(runs: Sequence[Run]) -> list[Row]:
    """Groups runs whose middles are level."""
    rows: list[Row] = []
    for run in sorted(runs, key=lambda run: (run.middle, run.u0)):
        if rows and are_level(rows[-1][0], run):
            rows[-1].append(run)
        else:
            rows.append([run])
    return rows


def are_level(a: Run, b: Run) -> bool:
    """Whether two runs stand on one line; signs such as roots are a little higher than letters."""
    low, high = sorted((a.height, b.height))
    overlap = min(a.v1, b.v1) - max(a.v0, b.v0)
    return abs(a.middle - b.middle) < 0.4 * low or (overlap >= 0.8 * low and high < 1.6 * low)


def gap_between(above: Row, below: Row) -> float:
    """Returns the space between two rows."""
    return min(run.v0 for run in below) - max(run.v1 for run in above)


def last_beside(rows: Sequence[Row], height: float) -> int:
    """Returns the last row that has something beside something else; -1 for one column."""
    for i in range(len(rows) - 1, -1, -1):
        runs = [run for row in rows[i : i + 2] for run in row]
        if max(run.u0 for run in runs) - min(run.u1 for run in runs) >= LEAST_GUTTER * height:
            return i
    return -1


def find_columns(
    rows: Sequence[Row], start: int, sides: Interval, height: float
) -> tuple[int, int, list[Interval]] | None:
    """Returns the first and the end row of the columns of text from a row on, and their gutters.

    Args:
        rows: Of a region.
        start: The first row.
        sides: Of the region.
        height: Of a usual line.
    """
    for end, free in _shared_gaps(rows, start, sides, height):
        if start:  # gaps that go on above were tried there
            free = [gap for gap in free if any(_meets(run, gap) for run in rows[start - 1])]
        if not free:
            continue
        first, last = _peel(rows, start, end, height)
        band = rows[first:last]
        gutters = _gutters(band, free, height)
        written = [gutter for gutter in gutters if _is_written_apart(band, gutter)]
        runs = [run for row in band for run in row]
        if written and not _looks_like_table(band, split_columns(runs, written)):
            return *_without_tables(rows, first, last, written, height), written
        if not gutters or written:
            continue
        if _are_prose(split_columns(runs, gutters), row_groups(band, height)):
            return *_without_tables(rows, first, last, gutters, height), gutters
    return None


def _without_tables(
    rows: Sequence[Row], first: int, last: int, gutters: Sequence[Interval], height: float
) -> tuple[int, int]:
    """Leaves out tables above and below columns whose gutters happen to go on through them."""
    cuts = [i for i in range(first + 1, last) if gap_between(rows[i - 1], rows[i]) > height]
    bounds = [first, *cuts, last]
    while len(bounds) > 2 and _is_tabular(rows[bounds[0] : bounds[1]], gutters):
        bounds.pop(0)
    while len(bounds) > 2 and _is_tabular(rows[bounds[-2] : bounds[-1]], gutters):
        bounds.pop()
    return bounds[0], bounds[-1]


def _is_tabular(rows: Sequence[Row], gutters: Sequence[Interval]) -> bool:
    """Whether rows hold few words in each cell, and cells on both sides of the gutters."""
    runs = [run for row in rows for run in row]
    filled = sum(all(split_columns(row, gutters)) for row in rows)
    num_words = sum(len(run.text.split()) for run in runs)
    return len(rows) > 1 and filled >= 0.8 * len(rows) and num_words <= 2 * len(runs)


def _peel(rows: Sequence[Row], first: int, last: int, height: float) -> tuple[int, int]:
    """Leaves out lone rows above and below columns, such as running heads and page numbers."""
    for _ in range(2):
        if last - first > 3 and gap_between(*rows[first : first + 2]) > 0.9 * height:
            first += 1
        if last - first > 3 and gap_between(*rows[last - 2 : last]) > 0.9 * height:
            last -= 1
    return first, last


def _meets(run: Run, gutter: Interval) -> bool:
    return run.u0 < gutter[1] and run.u1 > gutter[0]


def _shared_gaps(
    rows: Sequence[Row], start: int, sides: Interval, height: float
) -> Iterator[tuple[int, list[Interval]]]:
    """Yields ends of bands from a row on, with the gaps that their rows share; longest first."""
    left, right = sides
    free: list[Interval] = [sides]
    found: list[tuple[int, list[Interval]]] = []
    for end in range(start, len(rows)):
        rest = _subtract(free, rows[end], LEAST_GUTTER * height)
        if len(rest) < len(free) or any(
            not any(a <= c and d <= b for c, d in rest) for a, b in free
        ):
            found.append((end, free))
        free = rest
        if not free:
            break
    else:
        found.append((len(rows), free))
    for end, gaps in reversed(found):
        if inner := [(a, b) for a, b in gaps if a > left and b < right]:
            yield end, inner


def _gutters(rows: Sequence[Row], free: Sequence[Interval], height: float) -> list[Interval]:
    """Returns the gaps that have enough on both sides."""
    runs = [run for row in rows for run in row]
    if max(run.u0 for run in runs) - min(run.u1 for run in runs) < LEAST_GUTTER * height:
        return []  # nothing stands beside anything
    gutters = list(free)
    while (weak := _weakest(gutters, _count_rows(rows, gutters), height)) is not None:
        gutters.pop(weak)
    return gutters


def _count_rows(rows: Sequence[Row], gutters: Sequence[Interval]) -> list[int]:
    """Counts the rows in which each column has something."""
    ends = [end - 0.01 for _, end in gutters]
    counts = [0] * (len(gutters) + 1)
    for row in rows:
        for column in {bisect_right(ends, run.u0) for run in row}:
            counts[column] += 1
    return counts


def find_table(
    rows: Sequence[Row], start: int, sides: Interval, height: float
) -> tuple[int, list[Interval]]:
    """Returns where the table ends that begins at a row, and its gutters, none without a table."""
    ends = list(_shared_gaps(rows, start, sides, height))
    end, free = ends[0] if ends else (start, [])
    return end, _gutters(rows[start:end], free, height) if free else []


def _weakest(gutters: Sequence[Interval], num_rows: Sequence[int], height: float) -> int | None:
    """Returns a gutter with too little beside it for its width, the narrowest first."""
    for i in sorted(range(len(gutters)), key=lambda i: gutters[i][1] - gutters[i][0]):
        is_narrow = gutters[i][1] - gutters[i][0] < NARROW_GUTTER * height
        fewest = min(num_rows[i : i + 2])
        if fewest < (NARROW_LINES if is_narrow else 2):
            return i
        if is_narrow and len(gutters) > 1 and fewest < 0.2 * max(num_rows):
            return i
    return None


def _subtract(free: Sequence[Interval], row: Row, least: float) -> list[Interval]:
    """Returns the parts of the intervals that a row leaves free and that are wide enough."""
    for run in row:
        rest: list[Interval] = []
        u0, u1 = run.u0, run.u1
        for interval in free:
            a, b = interval
            if u1 <= a or u0 >= b:
                rest.append(interval)
                continue
            if u0 - a >= least:
                rest.append((a, u0))
            if b - u1 >= least:
                rest.append((u1, b))
        free = rest
    return list(free)


def split_columns(runs: Sequence[Run], gutters: Sequence[Interval]) -> list[list[Run]]:
    """Splits runs at gutters; a column may be empty."""
    columns: list[list[Run]] = [[] for _ in range(len(gutters) + 1)]
    ends = [end - 0.01 for _, end in gutters]
    for run in runs:
        columns[bisect_right(ends, run.u0)].append(run)
    return columns


def split_cells(runs: Sequence[Run]) -> list[list[Run]]:
    """Splits the runs of a table's row where nothing reaches over, however narrow the gap is."""
    cells: list[list[Run]] = []
    end = float("-inf")
    for run in sorted(runs, key=lambda run: run.u0):
        if run.u0 > end:
            cells.append([])
        cells[-1].append(run)
        end = max(end, run.u1)
    return cells


def row_groups(rows: Sequence[Row], height: float) -> list[list[Row]]:
    """Groups rows between which all columns leave more than the usual space."""
    gaps = [gap_between(above, below) for above, below in pairwise(rows)]
    least = min(gaps, default=0.0) + 0.3 * height
    groups = [[rows[0]]]
    for row, gap in zip(rows[1:], gaps, strict=True):
        if gap > least:
            groups.append([])
        groups[-1].append(row)
    return groups


def has_wrapped_cells(groups: Sequence[Sequence[Row]], gutters: Sequence[Interval]) -> bool:
    """Whether groups of rows are the rows of a table, some cells of which have several lines.

    Space between rows alone does not tell: cards and menus have it after every few rows. Some cell
    must have more lines than its neighbours, or all cells of a row go on in the next line.
    """
    wrapped = False
    for group in groups:
        lines = [split_columns(row, gutters) for row in group]
        if len(group) > 1 and (sum(map(bool, lines[0])) < 2 or _has_numbers_below(group, gutters)):
            return False
        for above, below in pairwise(lines):
            filled = [(a, b) for a, b in zip(above, below, strict=True) if a and b]
            wrapped |= not all(below) or all(continues(a[-1], b[0]) for a, b in filled)
    return len(groups) > 1 and wrapped


def has_rows(group: Sequence[Row], gutters: Sequence[Interval]) -> bool:
    """Whether what stands between two rules of a table are rows, not lines of the same cells."""
    filled = [sum(map(bool, split_columns(row, gutters))) for row in group]
    if sum(number > len(gutters) for number in filled) > 1:
        return True
    parted = sum(len(split_cells(row)) > 1 for row in group)
    return parted > 1 and _has_numbers_below(group, gutters)


def _has_numbers_below(group: Sequence[Row], gutters: Sequence[Interval]) -> bool:
    """Whether a column has two numbers: they are no lines of one cell, but of as many rows."""
    columns = split_columns([run for row in group for run in row], gutters)
    return any(sum(_is_number(run.text) for run in column) > 1 for column in columns)


def _is_number(text: str) -> bool:
    return len(text) < 20 and sum(char.isdigit() for char in text) >= 0.5 * len(text)


def is_written_by_columns(rows: Sequence[Row], gutters: Sequence[Interval]) -> bool:
    """Whether rows that look like a table's are rather not written row by row."""
    for gutter in gutters:
        changes, both, _ = _count_changes(rows, gutter)
        if both > 1 and changes <= both:
            runs = [run for row in rows for run in row]
            return not _looks_like_table(rows, split_columns(runs, gutters))
    return False


def _is_written_apart(rows: Sequence[Row], gutter: Interval) -> bool:
    """Whether the file has what stands on one side of a gutter in few stretches."""
    changes, both, fewer = _count_changes(rows, gutter)
    return changes < 0.5 * max(both, fewer)


def _count_changes(rows: Sequence[Row], gutter: Interval) -> tuple[int, int, int]:
    """Counts how often the file changes sides, rows with both, and the runs of the lesser side."""
    runs = sorted((run for row in rows for run in row), key=lambda run: run.order)
    sides = [run.u0 >= gutter[1] - 0.01 for run in runs]
    changes = sum(a != b for a, b in pairwise(sides))
    both = sum(len({run.u0 >= gutter[1] - 0.01 for run in row}) > 1 for row in rows)
    return changes, both, min(sum(sides), len(sides) - sum(sides))


def _are_prose(columns: Sequence[Sequence[Run]], groups: Sequence[Sequence[Row]]) -> bool:
    """Whether columns that are written row by row hold sentences."""
    prose = [column for column in columns if _is_prose(column)]
    size = [sum(len(run.text) for run in column) for column in columns]
    in_prose = sum(len(run.text) for column in prose for run in column)
    if len(prose) < 2 or in_prose < 0.7 * sum(size):
        return False
    if len(groups) < 3 or max(map(len, groups)) > 12:
        return True
    level = sum(len(row) > 1 for group in groups for row in group)
    if level < 0.6 * min(map(len, columns)):
        return True  # the cells of a row would be level
    # Gaps that all columns share are rows of a table; columns of a paper rarely have two in common.
    own_gaps = max(_num_gaps(column) for column in columns)
    return not 0.8 * own_gaps <= len(groups) - 1 <= own_gaps


def _num_gaps(column: Sequence[Run]) -> int:
    gaps = [gap_between(above, below) for above, below in pairwise(group_rows(column))]
    return sum(gap > min(gaps) + 0.3 * column[0].height for gap in gaps)


_OPEN_END = re.compile(r"[^.!?…:;\"”’)\]]$")
_CODE = re.compile(r"[{}\[\]<>=#$\\|_;]")


def continues(before: Run, after: Run) -> bool:
    """Whether a sentence goes on from one line to the next."""
    first = after.text.lstrip("(\"'“‘")[:1]
    if before.words[-1].hyphenated or before.text.endswith("-"):
        return first.islower()
    return first.islower() and bool(_OPEN_END.search(before.text))


_JOINING = frozenset(
    re.findall(
        r"\w+",
        """
        a an and are as at by for from in is of on or that the to was were which who with
        am das dem den der des die ein eine im ist mit oder und von vom zu zum zur
        au aux ce de des du en est et la le les ou par pour que qui sur un une
        al con del e el gli i il in las lo los no o os para per por se sua su una y
        """,
    )
)
"""Words after which a phrase goes on: a line may end with one, a cell of a table hardly."""


def _is_prose(column: Sequence[Run]) -> bool:
    """Whether the lines of a column are parts of sentences."""
    rows = [sorted(row, key=lambda run: run.u0) for row in group_rows(column)]
    lines = [" ".join(run.text for run in row) for row in rows]
    text = " ".join(lines)
    size = len(text.replace(" ", ""))
    if len(lines) < 2 or len(_CODE.findall(text)) > 0.03 * size:
        return False
    if sum(char.isalpha() for char in text) < 0.6 * size:
        return False
    width = max(run.u1 for run in column) - min(run.u0 for run in column)
    num_full = sum(row[-1].u1 - row[0].u0 > 0.8 * width for row in rows)
    is_full = num_full >= 0.6 * len(rows)
    if text.upper() == text.lower():  # a script without capitals
        return size / len(lines) >= 6 and is_full
    if len(text.split()) / len(lines) < (3 if len(lines) > 2 else 4):
        return False
    first_words = Counter(line.split(maxsplit=1)[0] for line in lines if line[0].isalpha())
    if max(first_words.values(), default=0) > 0.5 * len(lines):
        return False  # cells begin alike
    continued = sum(
        continues(a[-1], b[0]) or line.split()[-1].lower() in _JOINING
        for line, (a, b) in zip(lines, pairwise(rows), strict=False)
    )
    return continued >= 0.3 * (len(lines) - 1) or (is_full and size / len(lines) >= 20)


def _looks_like_table(rows: Sequence[Row], columns: Sequence[Sequence[Run]]) -> bool:
    """Whether cells written column by column are a table: level, and of different kinds."""
    shared = sum(len(row) > 1 for row in rows)
    if shared < 0.8 * max(map(len, columns)):
        return False
    numeric = [
        sum(_is_number(run.text) for run in column) / len(column) for column in columns if column
    ]
    labels = sum(run.text.endswith(":") for run in columns[0])
    return (max(numeric) >= 0.7 and min(numeric) < 0.5) or labels >= 0.6 * len(columns[0])
