"""The reading order of a PDF page: rows, columns and tables from the places of words.

Runs lie in rows. Where neighbouring rows leave the same gap, a *band* of columns begins. A band is
read column by column if it holds prose, or if the file writes it so; else row by row, as tables
are. The result is taken where it joins more of what belongs together than the file's own order.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from statistics import median

from agenticlu.documents.formats.pdf_columns import (
    Interval,
    are_level,
    continues,
    find_columns,
    find_table,
    group_rows,
    has_rows,
    has_wrapped_cells,
    is_written_by_columns,
    last_beside,
    row_groups,
    split_cells,
    split_columns,
)
from agenticlu.documents.formats.pdf_rules import Rule
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

MOST_DEPTH = 8
"""Columns within columns."""


def order_words(
    words: Sequence[Word],
    values: Sequence[Word] = (),
    blocks: Sequence[Word] = (),
    notes: Sequence[Word] = (),
    rules: Callable[[], Sequence[Rule]] = tuple,
) -> list[Line]:
    """Returns the lines of a page in reading order.

    Args:
        words: In the order of the file.
        values: Further words that have a place but no order: values of form fields.
        blocks: Texts that stand for themselves, with their place.
        notes: Texts for the end of the page.
        rules: Reads the page's horizontal rules; called where there may be a table.
    """
    lines: list[Line] = []
    groups = group_by_frame(words) or {"right": []}
    main, *_ = groups
    for frame, group in groups.items():
        runs = join_runs(group, frame)
        for word in values if frame == main else ():
            insert_run(runs, Run(word, box_in(frame, word.box)))
        lines += _order_runs(runs, rules if frame == "right" else tuple)
        for word in blocks if frame == main else ():
            place_block(lines, Run(word, box_in(frame, word.box)))
    return lines + [Line(([Run(word, box_in(main, word.box))],)) for word in notes]


def _order_runs(runs: list[Run], rules: Callable[[], Sequence[Rule]] = tuple) -> list[Line]:
    for order, run in enumerate(runs):
        run.order = order
    if not runs:
        return []
    rtl = sum(run.rtl for run in runs) * 2 > len(runs)
    height = median(run.height for run in runs)
    if _reads_down(runs):
        return _with_gaps([_line([run], rtl) for run in runs], height)
    lines: list[Line] = []
    stretches = _stretches(list(_Region(height, rtl, rules).order(runs)))
    for number, stretch in enumerate(stretches):
        before = _runs_of(lines[-1:])[-1:]
        after = _runs_of(stretches[number + 1] if number + 1 < len(stretches) else [])[:1]
        lines += _better(stretch, before, after, height, rtl)
    return _with_gaps(lines, height)


def _stretches(lines: Sequence[Line]) -> list[list[Line]]:
    """Splits lines where they and the file have read the same runs."""
    stretches: list[list[Line]] = []
    size, furthest, is_open = 0, -1, False
    for line in lines:
        if not is_open:
            stretches.append([])
        stretches[-1].append(line)
        orders = [run.order for run in _runs_of([line])]
        size += len(orders)
        furthest = max(furthest, *orders)
        is_open = furthest >= size
    return stretches


def _runs_of(lines: Sequence[Line]) -> list[Run]:
    return [run for line in lines for cell in line.cells for run in cell]


def _better(
    stretch: list[Line], before: list[Run], after: list[Run], height: float, rtl: bool
) -> list[Line]:
    """Returns the lines as they are ordered or as the file has them, whichever joins more."""
    ordered = _runs_of(stretch)
    written = sorted(ordered, key=lambda run: run.order)
    if ordered == written:
        return stretch
    num_wrapped = sum(len(cell) > 1 for line in stretch for cell in line.cells)
    score = _score([*before, *ordered, *after], height) + num_wrapped
    kept = _score([*before, *written, *after], height)
    if kept > score or (kept == score and _is_plausible(written, rtl)):
        return [_line(row, rtl) for row in _rows_as_written(written)]
    return stretch


def _reads_down(runs: Sequence[Run]) -> bool:
    """Whether each run stands below the one before: one column, no tables."""
    return all(after.v0 >= before.middle for before, after in pairwise(runs))


def _line(row: Row, rtl: bool) -> Line:
    return Line(tuple([run] for run in row), rtl or any(run.rtl for run in row))


class _Region:
    """What holds for all regions of a page."""

    def __init__(self, height: float, rtl: bool, read_rules: Callable[[], Sequence[Rule]]) -> None:
        self.height, self.rtl = height, rtl
        self._num_tables = 0
        self._read_rules = read_rules

    @cached_property
    def rules(self) -> Sequence[Rule]:
        """The horizontal rules of the page."""
        return self._read_rules()

    def order(self, runs: Sequence[Run], depth: int = 0) -> Iterator[Line]:
        """Yields the lines of a region."""
        rows = group_rows(runs)
        sides = (min(run.u0 for run in runs), max(run.u1 for run in runs))
        beside = last_beside(rows, self.height) if depth < MOST_DEPTH else -1
        start = done = 0
        while start <= beside:
            found = find_columns(rows, start, sides, self.height)
            if found is None or self._are_ruled(rows[found[0] : found[1]], found[2]):
                start += 1
                continue
            first, last, gutters = found
            yield from self._order_tables(rows[done:first])
            runs_within = [run for row in rows[first:last] for run in row]
            columns = [column for column in split_columns(runs_within, gutters) if column]
            for column in reversed(columns) if self.rtl else columns:
                yield from self.order(column, depth + 1)
            start = done = last
        yield from self._order_tables(rows[done:])

    def line(self, row: Row) -> Line:
        """Makes a line of a row."""
        row = self._across(row)
        return Line(tuple([run] for run in row), self.rtl or any(run.rtl for run in row))

    def _across(self, row: Row) -> Row:
        return sorted(row, key=lambda run: -run.u1 if self.rtl else run.u0)

    def _order_tables(self, rows: Sequence[Row]) -> Iterator[Line]:
        """Yields lines of rows; cells of several lines are joined where rows can be told apart."""
        if not rows:
            return
        runs = [run for row in rows for run in row]
        sides = (min(run.u0 for run in runs), max(run.u1 for run in runs))
        beside = last_beside(rows, self.height)
        start = 0
        while start < len(rows):
            end: int = start
            gutters: list[Interval] = []
            if start <= beside:
                end, gutters = find_table(rows, start, sides, self.height)
            if not gutters:
                yield self.line(rows[start])
                start += 1
                continue
            yield from self._order_table(rows[start:end], gutters)
            start = end

    def _order_table(self, rows: Sequence[Row], gutters: Sequence[Interval]) -> Iterator[Line]:
        groups = self._ruled_rows(rows, gutters)
        if not groups:
            if is_written_by_columns(rows, gutters):
                yield from map(self.line, rows)
                return
            groups = row_groups(rows, self.height)
            if not has_wrapped_cells(groups, gutters):
                groups = [[row] for row in rows]
        self._num_tables += 1
        for number, group in enumerate(groups):
            for run in (run for row in group for run in row):
                run.table = (self._num_tables, number)
            if len(group) == 1:
                yield self.line(group[0])
                continue
            cells = split_cells([run for row in group for run in row])
            cells = [[run for row in group_rows(c) for run in self._across(row)] for c in cells]
            yield Line(tuple(reversed(cells) if self.rtl else cells), rtl=self.rtl)

    def _are_ruled(self, rows: Sequence[Row], gutters: Sequence[Interval]) -> bool:
        """Whether rules between the rows cross the gutters: the rows are those of a table."""
        top, bottom = rows[0][0].middle, rows[-1][0].middle
        crossing = sum(
            top < rule.v < bottom and all(rule.u0 <= a and rule.u1 >= b for a, b in gutters)
            for rule in self.rules
        )
        return crossing >= 2

    def _ruled_rows(self, rows: Sequence[Row], gutters: Sequence[Interval]) -> list[list[Row]]:
        """Groups the rows of a table by the rules between them; empty where there are too few."""
        left, right = gutters[0][0], gutters[-1][1]
        middles = [row[0].middle for row in rows]
        rules = [rule.v for rule in self.rules if rule.u0 <= left and rule.u1 >= right]
        cuts = [v for v in rules if middles[0] < v < middles[-1]]
        if len(cuts) < 2:
            return []
        groups: list[list[Row]] = [[] for _ in range(len(cuts) + 1)]
        for row, middle in zip(rows, middles, strict=True):
            groups[bisect(cuts, middle)].append(row)
        parted: list[list[Row]] = []
        for group in groups:
            # Between two rules may stand several rows, each with all its cells or with its number.
            parted += (
                [[row] for row in group] if has_rows(group, gutters) else [group] if group else []
            )
        return parted


def _rows_as_written(runs: Sequence[Run]) -> Iterator[Row]:
    row: Row = []
    for run in runs:
        if row and not (are_level(row[-1], run) and (run.u0 >= row[-1].u1 - 1 or run.rtl)):
            yield row
            row = []
        row.append(run)
    if row:
        yield row


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
        score += continues(a, b)
    return score


def _is_plausible(runs: Sequence[Run], rtl: bool) -> bool:
    """Whether the file's order never goes far up without going on to the next column."""
    for a, b in pairwise(runs):
        is_right, is_left = b.u0 >= a.u1 - 1, b.u1 <= a.u0 + 1
        goes_on, goes_back = (is_left, is_right) if rtl else (is_right, is_left)
        # Signs above a line and parts of formulas are a little higher than what comes before.
        most = (0.9 if goes_back else 2) * max(a.height, b.height)
        if a.middle - b.middle > most and not goes_on:
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
