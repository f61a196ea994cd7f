"""Files of questions."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenticlu.core.errors import UsageError


def read_questions(path: str) -> list[Mapping[str, Any]]:
    """Reads questions: plain lines, or JSON objects. A broken line becomes a row with an error."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"Cannot read the questions {path!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path!r} is not UTF-8 text (byte {error.start}).") from error
    rows: list[Mapping[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.lstrip().startswith("{"):
            rows.append(_read_row(line, number))
        elif line.strip():
            rows.append({"question": line.strip()})
    if not rows:
        raise UsageError(f"{path!r} contains no questions.")
    return rows


def _read_row(line: str, number: int) -> Mapping[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"question": line.strip(), "error": f"line {number} is not JSON: {error}"}
    asked, options = row.get("question"), row.get("options", [])
    if not isinstance(asked, str) or not asked.strip():
        return {**row, "error": f"line {number} has no 'question'"}
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        return {**row, "error": f"line {number}: 'options' must be a list of strings"}
    return row
