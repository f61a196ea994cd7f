"""Rows of tables: CSV and TSV by the names in their first line, Parquet and Arrow."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import AgenticluError, missing_dependency

Row = dict[str, Any]
BATCH_ROWS = 16
"""Rows decoded at a time; a row may hold a document of megabytes."""
MOST_CELL_CHARACTERS = 1 << 28
DELIMITERS = (",", ";", "\t", "|")
_CSV_HINT = 'A cell with a delimiter, a quote or a line end stands in quotes: "a, ""b""".'


def read_csv(
    lines: Iterable[str], path: Path, error: type[AgenticluError]
) -> Iterator[tuple[int, Row]]:
    """Yields the rows of a table in text, with the line on which each begins, from 1.

    The first line names the columns. It tells the delimiter too: of comma, semicolon, tab and bar
    the one that it has most. Cells are texts; an empty one is an empty text.

    Args:
        lines: With their ends.
        path: For messages.
        error: Class of the errors raised.

    Raises:
        AgenticluError: Of the class `error`: the quotes are wrong, a row has more or fewer cells
            than there are columns, or two columns have one name.
    """
    found = iter(lines)
    skipped, first = next(((n, line) for n, line in enumerate(found) if line.strip()), (0, ""))
    bare = re.sub(r'"[^"]*"', "", first)
    delimiter = max(DELIMITERS, key=bare.count)
    before = csv.field_size_limit(MOST_CELL_CHARACTERS)  # of the process; it is only ever raised
    csv.field_size_limit(max(before, MOST_CELL_CHARACTERS))
    table = csv.reader(_chain(first, found), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    start = 0
    try:
        for cells in table:
            line, start = skipped + start + 1, table.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if names is None:
                names = _name_columns(cells, path, error)
                continue
            if len(cells) != len(names):
                raise error(
                    f"Line {line} of {path} has {len(cells)} cells for {len(names)} columns.",
                    hint=_CSV_HINT,
                )
            yield line, {name: cell for name, cell in zip(names, cells, strict=True) if name}
    except csv.Error as failure:
        raise error(
            f"Line {skipped + max(table.line_num, 1)} of {path} is not CSV ({failure}).",
            hint=_CSV_HINT,
        ) from failure


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _name_columns(cells: Sequence[str], path: Path, error: type[AgenticluError]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise error(
            f"Line 1 of {path} names two columns {twice!r:.60}.",
            hint="The first line must name the columns, each by a name of its own.",
        )
    return names


def read_arrow(
    path: Path, columns: Sequence[str] | None, error: type[AgenticluError], *, is_parquet: bool
) -> Iterator[Row]:
    """Yields the rows of a Parquet file, or of an Arrow (Feather) file or stream.

    Args:
        path: The file.
        columns: Columns to read; None reads all.
        error: Class of the errors raised.
        is_parquet: Whether it is Parquet.

    Raises:
        AgenticluError: Of the class `error`: the file is damaged, or of another kind.
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as failure:
        raise missing_dependency("pyarrow", "data") from failure
    number = 0
    try:
        batches = _read_parquet if is_parquet else _read_ipc
        for batch in batches(path, columns):
            batch.validate(full=True)  # a damaged one would end the process
            if len(set(batch.schema.names)) < len(batch.schema.names):
                raise ValueError("two columns have one name")
            for at in range(batch.num_rows):
                number += 1
                yield {
                    name: column[at].as_py()
                    for name, column in zip(batch.schema.names, batch.columns, strict=True)
                }
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as failure:
        kind = "Parquet" if is_parquet else "Arrow"
        place = f", row {number}" if number else ""
        reason = " ".join(str(failure).split())
        raise error(f"{path} is not a readable {kind} file{place} ({reason}).") from failure


def _read_parquet(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


def _read_ipc(path: Path, columns: Sequence[str] | None) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        try:
            reader = pyarrow.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            file.seek(0)
            batches = pyarrow.ipc.open_stream(file)
        for batch in batches:
            if columns is not None:
                batch = batch.select([name for name in columns if name in batch.schema.names])
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)
