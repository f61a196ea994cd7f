"""The operands of `agenticlu ask`: documents, then the question."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from agenticlu.core.errors import UsageError

EXAMPLE = "Who wrote the letter?"


def parse_operands(
    operands: Sequence[str], *, has_questions: bool
) -> tuple[tuple[str, ...], str | None]:
    """Returns the documents and the question.

    The last operand is the question, unless an option gives the questions: then all are documents.

    Args:
        operands: In their order.
        has_questions: Whether an option gives questions.

    Raises:
        UsageError: There is no question, or no document.
    """
    last = operands[-1]
    is_source = last == "-" or last.lower().startswith(("http://", "https://")) or _exists(last)
    if has_questions:
        if not is_source and _looks_like_question(last):
            raise UsageError(
                f"{last!r} is no document: where options give the questions, all operands are "
                "documents.",
                hint=f"Write it as an option, too: -q {shlex.quote(last)}",
            )
        return tuple(operands), None
    if len(operands) == 1 and not is_source and _looks_like_question(last):
        raise UsageError("No document was given.", hint=f"agenticlu ask FILE {shlex.quote(last)}")
    if is_source and not _exists(operands[0]) and _looks_like_question(operands[0]):
        files = " ".join(map(shlex.quote, operands[1:]))
        raise UsageError(
            "The question comes after the documents.",
            hint=f"agenticlu ask {files} {shlex.quote(operands[0])}",
        )
    if len(operands) == 1 or is_source:
        files = " ".join(map(shlex.quote, operands))
        what = "" if len(operands) == 1 else f" The last operand, {last!r}, is a document."
        raise UsageError(f"No question was given.{what}", hint=f'agenticlu ask {files} "{EXAMPLE}"')
    return tuple(operands[:-1]), last


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def _looks_like_question(text: str) -> bool:
    return text.rstrip().endswith(("?", "？", "؟", "।")) or len(text.split()) > 2
