"""Files of rows and results as others wrote them, read strictly.

What is wrong is said, with its place. Lines end at a line feed and nowhere else: U+2028 and its
like are text inside a JSON string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agenticlu.core.errors import ConfigError, UsageError

Row = Mapping[str, Any]
ROW_HINT = 'Each line is an object such as {"prediction": "...", "answers": ["..."]}.'


def read_text(path: Path) -> str:
    """Returns the text of a file.

    Raises:
        UsageError: There is no such file, or nothing in it.
        ConfigError: It cannot be read, or is not UTF-8.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {str(path)!r}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{str(path)!r} is not UTF-8 (byte {error.start}).",
            hint="Save it as UTF-8, for example: iconv -f LATIN1 -t UTF-8 OLD > NEW",
        ) from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise UsageError(f"The file {str(path)!r} is empty.")
    return text


def parse_json_lines(path: Path, text: str) -> list[tuple[int, Row]]:
    """Returns the objects of a JSONL text with their line numbers, from 1.

    Raises:
        ConfigError: A line is no JSON object.
    """
    rows: list[tuple[int, Row]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                f"{path}, line {number}, is not JSON: {error.msg}.", hint=ROW_HINT
            ) from error
        rows.append((number, checked_row(row, f"{path}, line {number},")))
    return rows


def checked_row(row: Any, where: str) -> Row:
    """Returns a row that is a JSON object.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(row, dict):
        kinds = {str: "a text", list: "a list", type(None): "null", bool: "a truth value"}
        kind = kinds.get(type(row), "a number")
        raise ConfigError(f"{where} is {kind}, not a JSON object.", hint=ROW_HINT)
    return row


@dataclass(frozen=True)
class Result:
    """A result file in HELMET's layout."""

    path: Path
    args: Mapping[str, Any]
    rows: Sequence[Row]
    """At least one."""
    whole: Mapping[str, Any]
    """All of it."""

    def value(self, index: int, column: str, kind: type | tuple[type, ...]) -> Any:
        """Returns a column of a row.

        Raises:
            ConfigError: The row lacks it, or it is of another type.
        """
        found = self.rows[index].get(column)
        if not isinstance(found, kind):
            self.refuse(index, column)
        return found

    def refuse(self, index: int, column: str) -> NoReturn:
        """Raises ConfigError for a row whose column is absent, or of no use."""
        absent = self.rows[index].get(column) is None
        state = "lacks" if absent else "has something unusable in"
        raise ConfigError(f"{str(self.path)!r}: row {index + 1} {state} the column {column!r}.")


def parse_result(path: Path, whole: Any) -> Result:
    """Returns the content of a result file.

    Raises:
        ConfigError: It has no rows, or not in HELMET's layout.
    """
    if not isinstance(whole, dict) or not isinstance(whole.get("data"), list):
        raise ConfigError(
            f"{str(path)!r} is no result file of HELMET: it has no list 'data'.",
            hint="agenticlu eval writes such files for HELMET's tasks, below OUT/helmet.",
        )
    if not whole["data"]:
        raise ConfigError(f"{str(path)!r} holds no rows: its 'data' is empty.")
    args = whole.get("args", {})
    if not isinstance(args, dict):
        raise ConfigError(f"{str(path)!r}: 'args' is not a JSON object.")
    rows = [
        checked_row(row, f"{str(path)!r}: row {number}")
        for number, row in enumerate(whole["data"], start=1)
    ]
    return Result(path=path, args=args, rows=rows, whole=whole)


def read_result(path: Path) -> Result:
    """Reads a result file in HELMET's layout.

    Raises:
        UsageError: There is no such file, nothing in it, or lines of rows.
        ConfigError: It is not UTF-8, not JSON, or not in HELMET's layout.
    """
    if path.suffix == ".jsonl" and path.is_file():
        raise UsageError(
            f"{str(path)!r} holds lines of rows; it is no result file of HELMET.",
            hint="agenticlu eval writes such files for HELMET's tasks, below OUT/helmet.",
        )
    return parse_result(path, read_json(path))


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        UsageError: There is no such file, or nothing in it.
        ConfigError: It is not UTF-8, or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{str(path)!r} is not JSON: {error.msg} at line {error.lineno}.",
            hint="It may be cut off: write or copy it again.",
        ) from error
