"""`agenticlu ask`: the answer first, then its sources, then what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agenticlu.cli.ask.printing import AnswerJson, AnswerLines, AnswerText, show_estimate
from agenticlu.cli.ask.questions import read_questions
from agenticlu.cli.ask.run import AskRun
from agenticlu.cli.ask.settings import AskSettings
from agenticlu.cli.options import note_bundled, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import UsageError

MAX_CHOICES = 26
"""Choices are lettered."""


@settings_command(AskSettings, "ask")
@operand("file")
@operand("question", required=False)
def command(resolved: Resolved[AskSettings], file: str, question: str | None) -> None:
    """Answer QUESTION over FILE ('-' is standard input) and show the passages behind it.

    FILE is text, Markdown, HTML, PDF, docx or epub. The answer comes first on standard output,
    then its numbered sources, then tokens and time; clarifications appear on standard error.
    Several questions give one JSON object a line. Exit code 10: nothing in the document supports
    an answer.
    """
    settings = resolved.values
    if file == "-" and settings.questions_file == "-":
        raise UsageError("The document and the questions cannot both come from standard input.")
    given = [text for text in (question, *settings.questions) if text is not None]
    rows: list[Mapping[str, Any]] = [{"question": text} for text in given]
    if settings.questions_file is not None:
        rows.extend(read_questions(settings.questions_file))
    if not rows:
        raise UsageError(
            "No question was given.", hint=f'agenticlu ask {file} "Who wrote the letter?"'
        )
    if len(settings.option) == 1:
        raise UsageError(
            "A multiple-choice question needs at least two choices.",
            hint="Repeat --option, or write --option 'A|B|C'.",
        )
    if len(settings.option) > MAX_CHOICES:
        raise UsageError(f"At most {MAX_CHOICES} choices are allowed, not {len(settings.option)}.")
    many = len(rows) > 1 or settings.questions_file is not None
    show = (AnswerLines if many else AnswerJson if settings.as_json else AnswerText)()
    run = AskRun(settings, file, rows, many=many)
    run.prepare()
    note_bundled(settings, quiet=settings.quiet)
    if settings.dry_run:
        for question, cost in run.estimates():
            show_estimate(question, cost, as_json=settings.as_json or many)
    else:
        asyncio.run(run.run(show))
