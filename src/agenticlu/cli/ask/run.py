"""One reading with its questions: read first, then asked."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from agenticlu.cli.ask.printing import AnswerText, Steps
from agenticlu.cli.options import model_choice, note_estimate
from agenticlu.core.errors import AgenticluError, IncompleteRunError, NoSupportedAnswerError
from agenticlu.core.printing import echo
from agenticlu.documents.described import describe_reading

if TYPE_CHECKING:
    from agenticlu.cli.ask.settings import AskSettings
    from agenticlu.core.limits import PrefixLimits
    from agenticlu.core.progress import Progress
    from agenticlu.core.records import Document, Piece, Question
    from agenticlu.dialogue.answer import Answer, Event
    from agenticlu.dialogue.estimate import AskEstimate
    from agenticlu.dialogue.run import PieceIndex
    from agenticlu.engines.base import Engine


class AskSetup:
    """What asking needs besides the document: the model by its name, tokenizer, profile.

    Args:
        settings: Of the command.

    Raises:
        ConfigError: The profile or the tokenizer cannot be read.
    """

    def __init__(self, settings: AskSettings) -> None:
        from agenticlu.dialogue.steps import load_profile
        from agenticlu.dialogue.stopping import choose_rule
        from agenticlu.documents import DEFAULT_PIECE_TOKENS

        self.settings = settings
        self.profile = load_profile(settings.profile)
        self.choice = model_choice(
            settings,
            dtype=settings.dtype,
            prefixes=self._prefixes(),
        )
        self.rule = choose_rule(settings.stop_rule, self.choice.folder)
        self.tokenizer = self.choice.tokenizer(settings.tokenizer)
        note_estimate(settings, self.tokenizer, quiet=settings.quiet)
        hint = self.choice.hint("piece_tokens")
        self.piece_tokens = settings.piece_tokens or hint or DEFAULT_PIECE_TOKENS
        self._counted: dict[str, int] = {}
        """Tokens of the document that was last estimated, by its id."""

    def _prefixes(self) -> PrefixLimits:
        """Returns what is kept of documents; a table's many would only push others out."""
        limits = self.settings.prefixes
        return limits if self.settings.out is None else replace(limits, gib=0.0)

    def make_question(self, document: Document, row: Mapping[str, Any]) -> Question:
        """Builds the question of a row about a document."""
        from agenticlu.dialogue.answer import make_question

        options = tuple(row.get("options", ())) or self.settings.option
        return make_question(document, row["question"], options)

    async def ask(
        self,
        document: Document,
        pieces: Sequence[Piece],
        question: Question,
        engine: Engine,
        *,
        index: PieceIndex | None = None,
        stop: Callable[[], bool] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Answer:
        """Asks a question as the settings say."""
        from agenticlu.dialogue.ask import ask

        return await ask(
            document,
            question,
            engine,
            tokenizer=self.tokenizer,
            profile=self.profile,
            rounds=self.settings.rounds,
            spans=self.settings.spans,
            shortlist=self.settings.shortlist,
            temperature=self.settings.temperature,
            pieces=pieces,
            index=index,
            max_total_tokens=self.settings.max_total_tokens,
            stop=stop,
            rule=self.rule,
            prices=self.settings.prices(),
            on_event=on_event,
        )

    def estimate(
        self, document: Document, pieces: Sequence[Piece], question: Question
    ) -> AskEstimate:
        """Counts what a question would cost; contacts no server and loads no model."""
        from agenticlu.dialogue.estimate import estimate
        from agenticlu.engines import read_window

        window = self.settings.window
        if window is None and self.choice.folder is not None:
            window = read_window(self.choice.folder)
        found = estimate(
            document,
            question,
            tokenizer=self.tokenizer,
            profile=self.profile,
            rounds=self.settings.rounds,
            pieces=pieces,
            window=window,
            thinking_tokens=self.settings.most_thinking_tokens,
            view_tokens=self._counted.get(document.id),
        )
        self._counted = {document.id: found.document_tokens}
        return found


@dataclass(eq=False)
class AskRun:
    """One reading with its questions: read first, then asked."""

    settings: AskSettings
    files: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    many: bool
    setup: AskSetup = field(init=False)
    document: Document = field(init=False)
    pieces: Sequence[Piece] = field(init=False)
    index: PieceIndex = field(init=False)
    questions: list[Question | None] = field(init=False)
    interrupt: Interrupt = field(init=False)
    steps: Steps | None = field(default=None, init=False)

    def prepare(self) -> None:
        """Reads document and questions; touches no model."""
        from agenticlu.dialogue.run import PieceIndex, ShownDocument, control_tokens
        from agenticlu.documents import load_document, split

        self.document = load_document(self.files, limits=self.settings.limits)
        for line in describe_reading(self.document):
            self.say(line)
        self.setup = AskSetup(self.settings)
        tokenizer = self.setup.tokenizer
        self.pieces = split(self.document, tokenizer, self.setup.piece_tokens)
        shown = ShownDocument(self.document, tuple(self.pieces), control_tokens(tokenizer))
        self.index = PieceIndex(shown)
        self.questions = [
            None if "error" in row else self.setup.make_question(self.document, row)
            for row in self.rows
        ]

    def estimates(self) -> Iterator[tuple[str, AskEstimate]]:
        """Yields what each question would cost."""
        for question in filter(None, self.questions):
            yield question.text, self.setup.estimate(self.document, self.pieces, question)

    def say(self, text: str) -> None:
        """Tells people, unless they want quiet."""
        if self.steps is not None:
            self.steps.end_line()
        if not self.settings.quiet:
            echo(text, err=True)

    async def run(self, show: AnswerText) -> None:
        """Asks all questions, one after another: they share one reading of the document."""
        from agenticlu.core.progress import Progress

        progress = Progress("questions", len(self.rows), quiet=self.settings.quiet or not self.many)
        # Servers report their pauses ("429, waiting 12 s"); a model in process has none.
        engine = self.setup.choice.load(progress.say if self.many else self.say)
        failed = unsupported = asked = 0
        try:
            with progress, Interrupt(self.say) as self.interrupt:
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
        if asked < len(self.rows) or (self.interrupt.once and not self.many and not answer.answer):
            raise KeyboardInterrupt
        if failed:
            raise IncompleteRunError(
                f"{failed} of {len(self.rows)} questions failed; their rows say why."
            )
        if unsupported == len(self.rows):
            from agenticlu.dialogue.answer import check_supported

            if not self.many:
                check_supported(answer)
            raise NoSupportedAnswerError("The document answers none of the questions.")

    async def _ask(
        self, row: Mapping[str, Any], question: Question | None, engine: Engine, progress: Progress
    ) -> Answer:
        if question is None:
            raise _BadRowError(str(row["error"]))
        steps = self.steps = Steps(progress if self.many else None, quiet=self.settings.quiet)
        if self.many:
            progress.say(f"Question: {question.text}")
        try:
            return await self.setup.ask(
                self.document,
                self.pieces,
                question,
                engine,
                index=self.index,
                stop=lambda: self.interrupt.once,
                on_event=steps,
            )
        finally:
            steps.close()


class Interrupt:
    """Ctrl-C once: begin nothing new. Twice: abort.

    Args:
        say: Tells people.
        doing: What the first one leads to.
    """

    def __init__(
        self, say: Callable[[str], None], doing: str = "answering with what was found so far"
    ) -> None:
        self.once = False
        self._say = say
        self._doing = doing

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
            return
        self.once = True
        self._say(f"Interrupted: {self._doing}. Press Ctrl-C again to abort.")


class _BadRowError(Exception):
    """A row of a questions file without a question."""
