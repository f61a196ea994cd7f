"""`agenticlu ask`: the answer first, then its sources, then what it cost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import click
from pydantic import Field

from agenticlu.cli.options import note_bundled, note_estimate, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import (
    AgenticluError,
    IncompleteRunError,
    NoSupportedAnswerError,
    UsageError,
)
from agenticlu.core.settings import JsonSettings, ModelSettings, Positive, Spelling

if TYPE_CHECKING:
    from agenticlu.core.progress import Progress
    from agenticlu.core.records import Document, Piece, Question, Usage
    from agenticlu.dialogue.ask import Answer, Event
    from agenticlu.dialogue.estimate import AskEstimate
    from agenticlu.dialogue.steps import Profile
    from agenticlu.documents.citations import Citation
    from agenticlu.documents.tokens import Tokenizer
    from agenticlu.engines import ModelChoice
    from agenticlu.engines.base import Engine

MAX_CHOICES = 26
"""Choices are lettered."""


class AskSettings(ModelSettings, JsonSettings):
    """Settings of `agenticlu ask`."""

    questions: Annotated[
        tuple[str, ...], Spelling("question", ("-q", "--question"), separator="")
    ] = ()
    """A question; may be repeated."""
    questions_file: Annotated[str | None, Spelling("questions", metavar="FILE")] = None
    """Questions, one per line, or JSONL with question, options, id; '-' is standard input."""
    option: Annotated[tuple[str, ...], Spelling(separator="|", aliases=("options",))] = ()
    """A choice of a multiple-choice question; repeat it, or write A|B|C."""
    profile: str = "default"
    """Prompt profile: a bundled name or a TOML file."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Maximum rounds of clarification."""
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """Maximum tokens of a paragraph. Default: what suits the model, else 512."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    spans: bool = False
    """Read a document that is too long for the model piece by piece."""
    max_total_tokens: Positive | None = None
    """Maximum prompt and sampled tokens of one question. Default: no limit."""
    dry_run: bool = False
    """Estimate the cost; ask nothing."""
    quiet: bool = False
    """No progress and no inner steps on standard error."""


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
        rows.extend(_read_questions(settings.questions_file))
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
    show = (_Lines if many else _Json if settings.as_json else _Text)()
    run = _AskRun(settings, file, rows, many=many)
    run.prepare()
    note_bundled(settings, quiet=settings.quiet)
    if settings.dry_run:
        _show_estimates(run, as_json=settings.as_json or many)
    else:
        asyncio.run(run.run(show))


def _read_questions(path: str) -> list[Mapping[str, Any]]:
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
    except ValueError as error:
        return {"question": line.strip(), "error": f"line {number} is not JSON: {error}"}
    asked, options = row.get("question"), row.get("options", [])
    if not isinstance(asked, str) or not asked.strip():
        return {**row, "error": f"line {number} has no 'question'"}
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        return {**row, "error": f"line {number}: 'options' must be a list of strings"}
    return row


@dataclass(eq=False)
class _AskRun:
    """One document with its questions: read first, then asked."""

    settings: AskSettings
    file: str
    rows: Sequence[Mapping[str, Any]]
    many: bool
    document: Document = field(init=False)
    pieces: Sequence[Piece] = field(init=False)
    choice: ModelChoice = field(init=False)
    tokenizer: Tokenizer = field(init=False)
    profile: Profile = field(init=False)
    questions: list[Question | None] = field(init=False)
    interrupt: _Interrupt = field(init=False)

    def prepare(self) -> None:
        """Reads document and questions; touches no model."""
        from agenticlu.dialogue.ask import make_question
        from agenticlu.dialogue.steps import load_profile
        from agenticlu.documents import load_document, split
        from agenticlu.engines import ModelChoice
        from agenticlu.engines.thinking import Thinking

        self.profile = load_profile(self.settings.profile)
        self.document = load_document(self.file)
        self.choice = ModelChoice(
            self.settings.model,
            self.settings.base_url,
            self.settings.api_key_env,
            self.settings.timeout,
            self.settings.window,
            thinking=Thinking(self.settings.thinking, self.settings.thinking_tokens),
            trust_remote_code=self.settings.trust_remote_code,
        )
        self.tokenizer = self.choice.tokenizer(self.settings.tokenizer)
        note_estimate(self.settings, self.tokenizer, quiet=self.settings.quiet)
        self.pieces = split(self.document, self.tokenizer, self.piece_tokens())
        self.questions = [
            None
            if "error" in row
            else make_question(
                self.document,
                row["question"],
                tuple(row.get("options", ())) or self.settings.option,
            )
            for row in self.rows
        ]

    def piece_tokens(self) -> int:
        from agenticlu.documents import DEFAULT_PIECE_TOKENS

        hint = self.choice.hint("piece_tokens")
        return self.settings.piece_tokens or hint or DEFAULT_PIECE_TOKENS

    def say(self, text: str) -> None:
        if not self.settings.quiet:
            click.echo(text, err=True)

    async def run(self, show: _Text) -> None:
        """Asks all questions, one after another: they share one reading of the document."""
        from agenticlu.core.progress import Progress

        progress = Progress("questions", len(self.rows), quiet=self.settings.quiet or not self.many)
        # Servers report their pauses ("429, waiting 12 s"); a model in process has none.
        engine = self.choice.load(progress.say if self.many else self.say)
        failed = unsupported = asked = 0
        try:
            with progress, _Interrupt(self.say) as self.interrupt:
                for row, question in zip(self.rows, self.questions, strict=True):
                    if self.interrupt.once:
                        break
                    asked += 1
                    try:
                        answer = await self._ask(row, question, engine, progress)
                    except (AgenticluError, _BadRowError) as error:
                        if not self.many:
                            raise
                        failed += 1
                        show.failure(row, error)
                    else:
                        unsupported += not answer.supported
                        show.answer(row, answer)
                    progress.advance()
        finally:
            await engine.close()
        if asked < len(self.rows):
            raise KeyboardInterrupt
        if failed:
            raise IncompleteRunError(
                f"{failed} of {len(self.rows)} questions failed; their rows say why."
            )
        if unsupported == len(self.rows):
            from agenticlu.dialogue.ask import check_supported

            if not self.many:
                check_supported(answer)
            raise NoSupportedAnswerError("The document answers none of the questions.")

    async def _ask(
        self, row: Mapping[str, Any], question: Question | None, engine: Engine, progress: Progress
    ) -> Answer:
        from agenticlu.dialogue.ask import ask

        if question is None:
            raise _BadRowError(str(row["error"]))
        steps = _Steps(progress if self.many else None, quiet=self.settings.quiet)
        if self.many:
            progress.say(f"Question: {question.text}")
        try:
            return await ask(
                self.document,
                question,
                engine,
                tokenizer=self.tokenizer,
                profile=self.profile,
                rounds=self.settings.rounds,
                spans=self.settings.spans,
                temperature=self.settings.temperature,
                pieces=self.pieces,
                max_total_tokens=self.settings.max_total_tokens,
                stop=lambda: self.interrupt.once,
                on_event=steps,
            )
        finally:
            steps.close()


class _Interrupt:
    """Ctrl-C once: no further rounds, answer with what was found. Twice: abort."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.once = False
        self._say = say

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            self._loop.add_signal_handler(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            self._loop.remove_signal_handler(signal.SIGINT)
        if exc and exc[0] is asyncio.CancelledError and self.once:
            raise KeyboardInterrupt

    def _interrupted(self) -> None:
        if self.once and self._task is not None:
            self._task.cancel()
        self.once = True
        self._say("Interrupted: answering with what was found so far. Press Ctrl-C again to abort.")


class _BadRowError(Exception):
    """A row of a questions file without a question."""


class _Steps:
    """Shows the inner steps on stderr as they happen."""

    def __init__(self, progress: Progress | None, *, quiet: bool) -> None:
        self._progress = progress
        self._quiet = quiet
        self._scan: Progress | None = None
        self._round = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "scan":
            self._show_scan(event)
        elif event.turn is not None and not self._quiet:
            self._show_turn(event)

    def close(self) -> None:
        if self._scan is not None:
            self._scan.__exit__(None, None, None)
            self._scan = None

    def _show_scan(self, event: Event) -> None:
        from agenticlu.core.progress import Progress

        if self._scan is None:
            self._scan = Progress("pieces scored", event.total, quiet=self._quiet)
            self._scan.__enter__()
        self._scan.update(event.done)
        if event.pieces:
            self.close()
            if not self._quiet:
                self._say(f"  kept        {_list_pieces(event.pieces)}")

    def _show_turn(self, event: Event) -> None:
        assert event.turn is not None
        if event.round != self._round:
            self._round = event.round
            self._say(f"Round {event.round}")
        reply = " ".join(event.turn.reply.split())
        pieces = _list_pieces(event.pieces) if event.pieces else reply or "-"
        text = {
            "clarify": f"  asks itself {reply}",
            "point": f"  points to   {pieces}",
            "sub_answer": f"  finds       {reply}",
            "answer": f"  answers     {reply}",
            "check": f"  checks      {reply}",
        }.get(event.turn.kind)
        if text is not None:
            self._say(text)

    def _say(self, text: str) -> None:
        if self._progress is not None:
            self._progress.say(text)
        else:
            click.echo(text, err=True)


def _list_pieces(pieces: Sequence[int]) -> str:
    shown = ", ".join(map(str, pieces[:12])) + (", ..." if len(pieces) > 12 else "")
    return f"paragraph{'s' if len(pieces) > 1 else ''} {shown}"


class _Text:
    """An answer for people."""

    def answer(self, row: Mapping[str, Any], answer: Answer) -> None:
        click.echo(_render_answer(answer))

    def failure(self, row: Mapping[str, Any], error: Exception) -> None:
        raise error


class _Json(_Text):
    """An answer as one JSON object."""

    def answer(self, row: Mapping[str, Any], answer: Answer) -> None:
        click.echo(json.dumps(answer.model_dump(mode="json"), ensure_ascii=False, indent=2))


class _Lines(_Text):
    """Answers as JSON lines; each row keeps its own fields."""

    def answer(self, row: Mapping[str, Any], answer: Answer) -> None:
        self._line({**row, **answer.model_dump(mode="json"), "error": None})

    def failure(self, row: Mapping[str, Any], error: Exception) -> None:
        self._line({**row, "answer": None, "error": getattr(error, "message", str(error))})

    def _line(self, value: Mapping[str, Any]) -> None:
        click.echo(json.dumps(value, ensure_ascii=False))


def _render_answer(answer: Answer) -> str:
    stated = answer.answer or "(no answer)"
    if answer.options and len(answer.answer) == 1:
        stated = f"{answer.answer}. {answer.options[ord(answer.answer) - 65]}"
    lines = [stated, ""]
    if answer.citations:
        lines.append("Sources")
        for number, citation in enumerate(answer.citations, start=1):
            lines += _render_citation(number, citation)
    else:
        lines.append("No sources.")
    if answer.notes:
        lines += ["", *(f"Note: {note}" for note in answer.notes)]
    usage = answer.usage
    about = f"{answer.rounds} round{'s' if answer.rounds != 1 else ''}"
    lines += [
        "",
        f"{about}, {usage.requests} requests{_render_setup(answer.setup)}; tokens: "
        f"{usage.prompt_tokens - usage.cached_tokens:,} computed, {usage.cached_tokens:,} cached, "
        f"{usage.sampled}; {answer.seconds:.1f} s; {answer.engine}",
    ]
    return "\n".join(lines)


def _render_setup(setup: Usage) -> str:
    return f" ({setup.requests} of setup)" if setup.requests else ""


def _render_citation(number: int, citation: Citation) -> list[str]:
    place = f"paragraph {citation.piece}, characters {citation.start}-{citation.end}"
    if citation.page is not None:
        place = f"page {citation.page}, {place}"
    if citation.quote is None:
        return [f"[{number}] {place}"]
    quote = " ".join(citation.quote.split())
    shown = f"“{quote}”" if citation.verified else f"closest sentence (not quoted): {quote}"
    return [f"[{number}] {place}", f"    {shown}"]


def _show_estimates(run: _AskRun, *, as_json: bool) -> None:
    """Prints what asking would cost; contacts no server and loads no model."""
    from agenticlu.dialogue.estimate import estimate
    from agenticlu.engines import read_window

    window = run.settings.window
    if window is None and run.choice.folder is not None:
        window = read_window(run.choice.folder)
    for question in run.questions:
        if question is None:
            continue
        cost = estimate(
            run.document,
            question,
            tokenizer=run.tokenizer,
            profile=run.profile,
            rounds=run.settings.rounds,
            pieces=run.pieces,
            window=window,
            thinking_tokens=run.settings.most_thinking_tokens,
        )
        if as_json:
            click.echo(json.dumps({"question": question.text, **asdict(cost)}, ensure_ascii=False))
        else:
            click.echo(_render_estimate(cost))


def _render_estimate(cost: AskEstimate) -> str:
    about = "about " if cost.approximate else ""
    fits = {
        True: f"fits the window of {cost.window_tokens or 0:,}",
        False: f"does not fit the window of {cost.window_tokens or 0:,}: use --spans",
        None: "the window is not known before a server is asked",
    }[cost.fits]
    return (
        f"document: {about}{cost.document_tokens:,} tokens in {cost.num_pieces} paragraphs; "
        f"needs {about}{cost.needed_tokens:,}, {fits}\n"
        f"at most: {cost.requests} requests; {about}"
        f"{cost.prompt_tokens - cost.cached_tokens:,} prompt tokens computed and "
        f"{cost.cached_tokens:,} cached where the engine keeps a cache "
        f"({cost.prompt_tokens:,} where it does not), {cost.completion_tokens:,} sampled"
        + (f"; {cost.thinking_tokens:,} more if it thinks first" if cost.thinking_tokens else "")
    )
