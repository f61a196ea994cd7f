"""Files of questions."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from agenticlu.core.errors import UsageError, did_you_mean

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Endings of tables, and what stands between their columns where the first line has no other."""


def read_questions(path: str) -> list[Mapping[str, Any]]:
    """Reads questions: plain lines, JSON objects, or a table with a column 'question'.

    A broken line becomes a row with an error.

    Raises:
        UsageError: The file cannot be read, or holds no questions.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"Cannot read the questions {path!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path!r} is not UTF-8 text (byte {error.start}).",
            hint="Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT",
        ) from error
    delimiter = DELIMITERS.get(PurePath(path).suffix.lower())
    rows = list(_read_lines(text) if delimiter is None else _read_table(text, delimiter, path))
    if not rows:
        raise UsageError(f"{path!r} contains no questions.")
    return rows


def _read_lines(text: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("{"):
            yield _read_row(line, number)
        elif line.strip():
            yield {"question": line.strip()}


def _read_table(text: str, delimiter: str, path: str) -> Iterator[Mapping[str, Any]]:
    """Reads a table; its other columns are kept with the answers."""
    first = text.partition("\n")[0]
    if delimiter == "," and "," not in first and ";" in first:
        delimiter = ";"  # which spreadsheets write where the comma is in numbers
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        names = [name.strip() for name in next(table, [])]
        columns = [name.lower() for name in names]
        if "question" not in columns:
            raise UsageError(
                f"{path!r} has no column 'question'; its columns: {', '.join(names) or 'none'}.",
                hint=did_you_mean("question", columns)
                or "Name the column in the first line, or give a text file, a question a line.",
            )
        for cells in table:
            if not any(cell.strip() for cell in cells):
                continue
            row: dict[str, Any] = dict(zip(columns, cells, strict=False))
            if choices := str(row.pop("options", "")).strip():
                row["options"] = _read_options(choices)
            yield _check(row, table.line_num)
    except csv.Error as error:
        raise UsageError(
            f"Line {table.line_num} of {path!r} is no line of a table: {error}."
        ) from error


def _read_options(text: str) -> object:
    """Reads the choices in a cell: a JSON list, or words with bars between them."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return [choice.strip() for choice in text.split("|")]


def _read_row(line: str, number: int) -> Mapping[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"question": line.strip(), "error": f"line {number} is not JSON: {error}"}
    return _check(row, number)


def _check(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    asked, options = row.get("question"), row.get("options", [])
    if not isinstance(asked, str) or not asked.strip():
        return {**row, "error": f"line {number} has no 'question'"}
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        return {**row, "error": f"line {number}: 'options' must be a list of strings"}
    if len(options) == 1 or not all(option.strip() for option in options):
        return {**row, "error": f"line {number}: 'options' needs two choices or more, none empty"}
    return {**row, "question": asked.strip()}
