"""`agenticlu ask`: the answer first, then its sources, then what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agenticlu.cli.ask.operands import parse_operands
from agenticlu.cli.ask.printing import AnswerJson, AnswerLines, AnswerText, show_estimate
from agenticlu.cli.ask.questions import read_questions
from agenticlu.cli.ask.run import AskRun
from agenticlu.cli.ask.settings import AskSettings
from agenticlu.cli.ask.table_run import TableRun
from agenticlu.cli.options import note_bundled, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import UsageError

MAX_CHOICES = 26
"""Choices are lettered."""


@settings_command(AskSettings, "ask")
@operand("operands", nargs=-1, required=True, metavar="FILE... QUESTION")
def command(resolved: Resolved[AskSettings], operands: tuple[str, ...]) -> None:
    """Answer QUESTION over the documents and show the passages behind it.

    A FILE is a document of any format (text, Markdown, HTML, PDF, docx, epub and more), a folder,
    a pattern such as 'reports/*.pdf', an http(s) address, or '-' for standard input; several are
    read as one. The last operand is the question, unless -q or --questions gives it: then all are
    documents. The answer comes first on standard output, then its numbered sources, then tokens
    and time; clarifications, and what of the documents was left out, appear on standard error.
    Several questions give one JSON object a line; with --out TABLE each is asked of each document
    by itself, and the table has a line a document and a column a question. Exit code 9: some
    failed; 10: nothing in the documents supports an answer.
    """
    settings = resolved.values
    has_questions = bool(settings.questions) or settings.questions_file is not None
    files, question = parse_operands(operands, has_questions=has_questions)
    if "-" in files and settings.questions_file == "-":
        raise UsageError("The document and the questions cannot both come from standard input.")
    given = settings.questions if question is None else (question,)
    rows: list[Mapping[str, Any]] = [{"question": text} for text in given]
    if settings.questions_file is not None:
        rows.extend(read_questions(settings.questions_file))
    if len(settings.option) == 1:
        raise UsageError(
            "A multiple-choice question needs at least two choices.",
            hint="Repeat --option, or write --option 'A|B|C'.",
        )
    if len(settings.option) > MAX_CHOICES:
        raise UsageError(f"At most {MAX_CHOICES} choices are allowed, not {len(settings.option)}.")
    if settings.out is None and resolved.origins["concurrency"] == "flag":
        raise UsageError(
            "--concurrency is for a table, whose documents are asked side by side.",
            hint="Add --out TABLE.csv, or leave --concurrency out.",
        )
    if settings.out is not None:
        _fill_table(settings, files, rows, settings.out)
        return
    many = len(rows) > 1 or settings.questions_file is not None
    show = (AnswerLines if many else AnswerJson if settings.as_json else AnswerText)()
    run = AskRun(settings, files, rows, many=many)
    run.prepare()
    note_bundled(settings)  # a quiet answer about another world would be taken for one
    if settings.dry_run:
        for question, cost in run.estimates():
            show_estimate(question, cost, as_json=settings.as_json or many)
    else:
        asyncio.run(run.run(show))


def _fill_table(
    settings: AskSettings, files: Sequence[str], rows: Sequence[Mapping[str, Any]], out: Path
) -> None:
    table = TableRun(settings, files, rows, out)
    table.prepare()
    note_bundled(settings)  # a quiet answer about another world would be taken for one
    if settings.dry_run:
        table.estimate()
    else:
        asyncio.run(table.run())
