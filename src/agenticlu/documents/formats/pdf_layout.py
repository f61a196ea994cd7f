"""The reading order of a PDF page: rows, columns and tables from the places of words.

Runs lie in rows. Where neighbouring rows leave the same gap, a *band* of columns begins. A band is
read column by column if it holds prose, or if the file writes it so; else row by row, as tables
are. The result is taken where it joins more of what belongs together than the file's own order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from agenticlu.documents.formats.pdf_runs import (
    Line,
    Row,
    Run,
    box_in,
    group_by_frame,
    insert_run,
    join_runs,
    place_block,
)
from agenticlu.documents.formats.pdf_words import Word

LEAST_GUTTER = 0.7
"""The narrowest gap between columns, in heights of a line."""
NARROW_GUTTER = 1.2
"""A gutter below this needs `NARROW_LINES` lines on both sides."""
NARROW_LINES = 5
MOST_DEPTH = 8
Interval = tuple[float, float]


def order_words(
    words: Sequence[Word],
    values: Sequence[Word] = (),
    blocks: Sequence[Word] = (),
    notes: Sequence[Word] = (),
) -> list[Line]:
    """Returns the lines of a page in reading order.

    Args:
        words: In the order of the file.
        values: Further words that have a place but no order: values of form fields.
        blocks: Texts that stand for themselves, with their place.
        notes: Texts for the end of the page.
    """
    lines: list[Line] = []
    groups = group_by_frame(words) or {"right": []}
    main, *_ = groups
    for frame, group in groups.items():
        runs = join_runs(group, frame)
        for word in values if frame == main else ():
            insert_run(runs, Run(word, box_in(frame, word.box)))
        lines += _order_runs(runs)
        for word in blocks if frame == main else ():
            place_block(lines, Run(word, box_in(frame, word.box)))
    return lines + [Line(([Run(word, box_in(main, word.box))],)) for word in notes]


def _order_runs(runs: list[Run]) -> list[Line]:
    for order, run in enumerate(runs):
        run.order = order
    if not runs:
        return []
    rtl = sum(run.rtl for run in runs) * 2 > len(runs)
    height = median(run.height for run in runs)
    if _reads_down(runs):
        return _with_gaps([_line([run], rtl) for run in runs], height)
    tables: list[int] = []
    found = list(_order_region(runs, height, rtl, tables, 0))
    ordered = [run for line in found for cell in line.cells for run in cell]
    if ordered != runs:
        score, kept = _score(ordered, height), _score(runs, height)
        if kept > score or (kept == score and _is_plausible(runs, rtl)):
            found = [_line(row, rtl) for row in _rows_as_written(runs)]
    return _with_gaps(found, height)


def _reads_down(runs: Sequence[Run]) -> bool:
    """Whether each run stands below the one before: one column, no tables."""
    return all(after.v0 >= before.middle for before, after in pairwise(runs))


def _line(row: Row, rtl: bool) -> Line:
    return Line(tuple([run] for run in row), rtl or any(run.rtl for run in row))


def _order_region(
    runs: Sequence[Run], height: float, rtl: bool, tables: list[int], depth: int
) -> Iterator[Line]:
    rows = _rows(runs)
    sides = (min(run.u0 for run in runs), max(run.u1 for run in runs))
    beside = _last_beside(rows, LEAST_GUTTER * height) if depth < MOST_DEPTH else -1
    start = 0
    while start < len(rows):
        end, gutters = start, []
        if start <= beside:
            end, gutters = _find_band(rows, start, sides, height)
        if not gutters:
            yield _line(_sorted_row(rows[start], rtl), rtl)
            start += 1
            continue
        first, last = _peel(rows, start, end, height)
        for row in rows[start:first]:
            yield _line(_sorted_row(row, rtl), rtl)
        yield from _order_band(rows[first:last], gutters, height, rtl, tables, depth)
        start = last


def _rows(runs: Sequence[Run]) -> list[Row]:
    """Groups runs whose middles are level."""
    rows: list[Row] = []
    for run in sorted(runs, key=lambda run: (run.middle, run.u0)):
        if rows and run.middle - rows[-1][0].middle < 0.4 * min(run.height, rows[-1][0].height):
            rows[-1].append(run)
        else:
            rows.append([run])
    return rows


def _rows_as_written(runs: Sequence[Run]) -> Iterator[Row]:
    row: Row = []
    for run in runs:
        if row and not (
            abs(run.middle - row[-1].middle) < 0.4 * min(run.height, row[-1].height)
            and (run.u0 >= row[-1].u1 - 1 or run.rtl)
        ):
            yield row
            row = []
        row.append(run)
    if row:
        yield row


def _sorted_row(row: Row, rtl: bool) -> Row:
    return sorted(row, key=lambda run: -run.u1 if rtl else run.u0)


# --- Bands of columns -----------------------------------------------------------------------------


def _last_beside(rows: Sequence[Row], least: float) -> int:
    """Returns the last row that has something beside something else; -1 for one column."""
    for i in range(len(rows) - 1, -1, -1):
        runs = [run for row in rows[i : i + 2] for run in row]
        if max(run.u0 for run in runs) - min(run.u1 for run in runs) >= least:
            return i
    return -1


def _find_band(
    rows: Sequence[Row], start: int, sides: Interval, height: float
) -> tuple[int, list[Interval]]:
    """Returns where the band that begins at a row ends, and its gutters, none if it is no band."""
    free: list[Interval] = [sides]
    end = start
    while end < len(rows):
        rest = _subtract(free, rows[end], LEAST_GUTTER * height)
        if not rest:
            break
        free, end = rest, end + 1
    runs = [run for row in rows[start:end] for run in row]
    if not runs or max(run.u0 for run in runs) - min(run.u1 for run in runs) < LEAST_GUTTER * height:
        return end, []  # nothing stands beside anything
    while free:
        columns = _columns(runs, free)
        thin = [i for i, column in enumerate(columns) if len(column) < 2]
        narrow = [
            i
            for i, (a, b) in enumerate(free)
            if b - a < NARROW_GUTTER * height
            and min(map(len, columns[i : i + 2])) < NARROW_LINES
        ]
        if thin:
            free.pop(min(thin[0], len(free) - 1))
        elif narrow:
            free.pop(narrow[0])
        else:
            break
    return end, free


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


def _columns(runs: Sequence[Run], gutters: Sequence[Interval]) -> list[list[Run]]:
    columns: list[list[Run]] = [[] for _ in range(len(gutters) + 1)]
    for run in runs:
        columns[sum(run.u0 >= b - 0.01 for _, b in gutters)].append(run)
    return columns


def _peel(rows: Sequence[Row], start: int, end: int, height: float) -> tuple[int, int]:
    """Leaves out lone rows above and below a band, such as running heads and page numbers."""
    first, last = start, end
    for _ in range(2):
        if last - first > 3 and _gap(rows[first], rows[first + 1]) > 0.9 * height:
            first += 1
        if last - first > 3 and _gap(rows[last - 2], rows[last - 1]) > 0.9 * height:
            last -= 1
    return first, last


def _gap(above: Row, below: Row) -> float:
    return min(run.v0 for run in below) - max(run.v1 for run in above)


def _order_band(
    rows: Sequence[Row],
    gutters: Sequence[Interval],
    height: float,
    rtl: bool,
    tables: list[int],
    depth: int,
) -> Iterator[Line]:
    runs = [run for row in rows for run in row]
    columns = [column for column in _columns(runs, gutters) if column]
    groups = _row_groups(rows, height)
    if len(columns) > 1 and _are_columns(rows, columns, groups):
        for column in reversed(columns) if rtl else columns:
            yield from _order_region(column, height, rtl, tables, depth + 1)
        return
    tables.append(len(tables))
    number = 0
    for group in groups if _has_wrapped_cells(groups, gutters) else [[row] for row in rows]:
        for row in group:
            for run in row:
                run.table = (tables[-1], number)
            number += 1
        if len(group) == 1:
            yield _line(_sorted_row(group[0], rtl), rtl)
            continue
        cells = [c for c in _columns([run for row in group for run in row], gutters) if c]
        yield Line(tuple(reversed(cells) if rtl else cells), rtl=rtl)


def _row_groups(rows: Sequence[Row], height: float) -> list[list[Row]]:
    """Groups rows between which all columns leave more than the usual space."""
    gaps = [_gap(above, below) for above, below in pairwise(rows)]
    least = min(gaps, default=0.0) + 0.3 * height
    groups = [[rows[0]]]
    for row, gap in zip(rows[1:], gaps, strict=True):
        if gap > least:
            groups.append([])
        groups[-1].append(row)
    return groups


def _has_wrapped_cells(groups: Sequence[Sequence[Row]], gutters: Sequence[Interval]) -> bool:
    """Whether groups of rows are the rows of a table, some cells of which have several lines."""
    wrapped = 0
    for group in groups:
        filled = [sum(bool(column) for column in _columns(row, gutters)) for row in group]
        if len(group) > 1 and filled[0] < 2:
            return False
        wrapped += len(group) > 1
    return len(groups) > 1 and wrapped > 0


# --- Columns or a table ---------------------------------------------------------------------------


def _are_columns(
    rows: Sequence[Row], columns: Sequence[Sequence[Run]], groups: Sequence[Sequence[Row]]
) -> bool:
    """Whether a band is read column by column."""
    where = {id(run): number for number, column in enumerate(columns) for run in column}
    written = sorted((run for column in columns for run in column), key=lambda run: run.order)
    switches = sum(where[id(a)] != where[id(b)] for a, b in pairwise(written))
    if switches <= 2 * (len(columns) - 1):
        return not _looks_like_table(rows, columns)
    prose = [column for column in columns if _is_prose(column)]
    size = [sum(len(run.text) for run in column) for column in columns]
    in_prose = sum(len(run.text) for column in prose for run in column)
    if len(prose) < 2 or in_prose < 0.7 * sum(size):
        return False
    if len(groups) < 3 or max(map(len, groups)) > 12:
        return True
    # Gaps that all columns share are rows of a table; columns of a paper rarely have two in common.
    own_gaps = max(_num_gaps(column) for column in columns)
    return len(groups) - 1 < 0.8 * own_gaps


def _num_gaps(column: Sequence[Run]) -> int:
    gaps = [after.v0 - before.v1 for before, after in pairwise(column)]
    return sum(gap > min(gaps) + 0.3 * column[0].height for gap in gaps)


_OPEN_END = re.compile(r"[^.!?…:;\"”’)\]]$")
_CODE = re.compile(r"[{}\[\]<>=#$\\|_;]")
_NUMERIC = re.compile(r"[-+−]?[$€£]?[\d.,:/%+−-]*\d[\d.,:/%]*\S?$")


def _continues(before: Run, after: Run) -> bool:
    """Whether a sentence goes on from one line to the next."""
    first = after.text.lstrip("(\"'“‘")[:1]
    if before.words[-1].hyphenated or before.text.endswith("-"):
        return first.islower()
    return first.islower() and bool(_OPEN_END.search(before.text))


def _is_prose(column: Sequence[Run]) -> bool:
    lines = [run.text for run in column]
    text = " ".join(lines)
    size = len(text.replace(" ", ""))
    if len(lines) < 2 or len(_CODE.findall(text)) > 0.03 * size:
        return False
    if sum(char.isalpha() for char in text) < 0.75 * size:
        return False
    width = max(run.u1 for run in column) - min(run.u0 for run in column)
    is_full = sum(run.u1 - run.u0 > 0.8 * width for run in column) >= 0.6 * len(column)
    if not re.search(r"[a-z]", text) and not text.upper() != text:
        return size / len(lines) >= 6 and is_full
    if len(text.split()) / len(lines) < 2.5:
        return False
    continued = sum(_continues(a, b) for a, b in pairwise(column))
    return continued >= 0.34 * (len(column) - 1) or (is_full and size / len(lines) >= 20)


def _looks_like_table(rows: Sequence[Row], columns: Sequence[Sequence[Run]]) -> bool:
    """Whether cells written column by column are a table: level, and of different kinds."""
    shared = sum(len(row) > 1 for row in rows)
    if shared < 0.8 * max(map(len, columns)):
        return False
    numeric = [
        sum(bool(_NUMERIC.match(run.text)) for run in column) / len(column)
        for column in columns
    ]
    labels = sum(run.text.endswith(":") for run in columns[0])
    return (max(numeric) >= 0.7 and min(numeric) < 0.5) or labels >= 0.6 * len(columns[0])


# --- Which order is better ------------------------------------------------------------------------


def _score(runs: Sequence[Run], height: float) -> int:
    """Counts neighbours that belong together: lines below each other, sentences, rows of tables."""
    score = 0
    for a, b in pairwise(runs):
        if a.table and b.table and a.table[0] == b.table[0]:
            score += b.table[1] - a.table[1] in (0, 1)
            continue
        overlap = min(a.u1, b.u1) - max(a.u0, b.u0)
        is_below = a.middle < b.v0 + 0.1 * height and b.v0 - a.v1 < height
        score += is_below and overlap > 0.5 * min(a.u1 - a.u0, b.u1 - b.u0)
        score += _continues(a, b)
    return score


def _is_plausible(runs: Sequence[Run], rtl: bool) -> bool:
    """Whether the file's order never goes up without going on to the next column."""
    for a, b in pairwise(runs):
        on = b.u1 <= a.u0 + 1 if rtl else b.u0 >= a.u1 - 1
        if b.middle < a.middle - 0.4 * min(a.height, b.height) and not on:
            return False
    return True


def _with_gaps(lines: Sequence[Line], height: float) -> list[Line]:
    """Marks the lines that a wider space than usual sets apart."""
    spans = [
        (
            min(run.v0 for cell in line.cells for run in cell),
            max(run.v1 for cell in line.cells for run in cell),
        )
        for line in lines
    ]
    gaps = [below[0] - above[1] for above, below in pairwise(spans)]
    usual = median([gap for gap in gaps if -height < gap < 1.5 * height] or [0.0])
    return [
        line._replace(after_gap=i > 0 and gaps[i - 1] > usual + 0.5 * height)
        for i, line in enumerate(lines)
    ]
