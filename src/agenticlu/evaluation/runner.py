"""Runs jobs concurrently, so that prefixes are shared and a failing item does not stop the rest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agenticlu.core.errors import (
    AgenticluError,
    BudgetExceededError,
    ConfigError,
    ContentRefusedError,
    DocumentError,
    DocumentTooLongError,
    EngineAuthError,
    EngineError,
    MissingDependencyError,
    ModelNotFoundError,
    StoreError,
    UsageError,
)
from agenticlu.core.records import Prediction, Turn, Usage
from agenticlu.core.words import whole_words
from agenticlu.dialogue.thoughts import strip_thinking
from agenticlu.engines.base import Engine, spent_on
from agenticlu.engines.retry import TRANSIENT
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.methods import Outcome, Progress, View, answer, find_method, fit
from agenticlu.evaluation.plan import Job, Output, describe_overlong
from agenticlu.evaluation.predictions import Conditions, PredictionWriter, replace_lone_surrogates
from agenticlu.evaluation.records import Item, gold_pieces, in_form, measure_framing
from agenticlu.evaluation.scoring import rules
from agenticlu.evaluation.scoring.final import parse_final_answer

FATAL = (
    BudgetExceededError,
    ConfigError,
    EngineAuthError,
    MissingDependencyError,
    ModelNotFoundError,
    StoreError,
    UsageError,
    *TRANSIENT,
)
"""Errors that every other item would run into: they end the run instead of failing an item."""
MOST_IN_A_ROW = 10
"""Consecutive failures that end the run; documents longer than the window do not count."""
PLACES_PER_READING = 4
"""One in so many items in flight may read a document that others wait for."""

Report = Callable[[str], None]


@dataclass
class _Session:
    """Jobs that share a prefix, and what has been computed of their documents."""

    rest: list[Job]
    """Jobs that wait until the first one has filled the cache."""
    views: dict[str, View] = field(default_factory=dict)
    unfinished: int = 0


@dataclass(frozen=True)
class _Attempt:
    """A job that is being answered."""

    job: Job
    view: View
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Runner:
    """Runs jobs; items of one session wait for its first one, which fills the cache.

    Further sessions are opened while places are free, but only a few at a time while many jobs
    wait for a first one: documents that are read together evict each other's prefixes.
    """

    settings: RunSettings
    engine: Engine
    """Answers; it waits by itself while a server is unreachable."""
    conditions: Mapping[str, Conditions]
    """Of each method, by its name in the tables."""
    writer: PredictionWriter
    """Takes finished predictions."""
    done: dict[str, Prediction]
    """Predictions by id; finished ones are added."""
    report: Report
    """Called with a line of progress now and then."""
    _num_in_a_row: int = field(default=0, init=False)
    _num_finished: int = field(default=0, init=False)
    _num_failed: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)
    _started: float = field(default_factory=time.monotonic, init=False)

    @property
    def config(self) -> EvaluationConfig:
        """The configuration."""
        return self.settings.config

    async def run(self, jobs: Sequence[Job]) -> None:
        """Runs all jobs; raises the first error that concerns more than one item."""
        self._total = len(jobs)
        sessions: dict[str, list[Job]] = {}
        for job in jobs:
            sessions.setdefault(job.item.session, []).append(job)
        waiting = iter(sessions.values())
        ready: deque[tuple[Job, _Session]] = deque()
        opened: list[_Session] = []
        running: dict[asyncio.Task[None], tuple[Job, _Session]] = {}
        try:
            while True:
                self._open(waiting, ready, opened, self.config.concurrency - len(running))
                while ready and len(running) < self.config.concurrency:
                    job, session = ready.popleft()
                    view = session.views.setdefault(
                        job.item.document.id, View(job.item, self.settings)
                    )
                    task = asyncio.create_task(self._run_one(job, view))
                    running[task] = (job, session)
                if not running:
                    return
                finished, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    _, session = running.pop(task)
                    task.result()  # raises what ends the run
                    session.unfinished -= 1
                    # The first job has filled the cache, or has failed: the others need not wait.
                    ready.extend((job, session) for job in session.rest)
                    session.rest = []
                opened = [session for session in opened if session.unfinished]
        finally:
            # Left running, a job would append to a file that is closed.
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _open(
        self,
        waiting: Iterator[list[Job]],
        ready: deque[tuple[Job, _Session]],
        opened: list[_Session],
        num_free: int,
    ) -> None:
        """Opens sessions while there is a free place without work for it."""
        places = self.config.concurrency
        most_reading = max(1, places // PLACES_PER_READING)
        while len(ready) < num_free:
            num_reading = sum(bool(session.rest) for session in opened)
            num_waiting = sum(len(session.rest) for session in opened)
            # Enough documents are being read, and the jobs that wait for them will fill every
            # place.
            if num_reading >= most_reading and num_waiting >= places:
                return
            jobs = next(waiting, None)
            if jobs is None:
                return
            session = _Session(rest=jobs[1:], unfinished=len(jobs))
            opened.append(session)
            ready.append((jobs[0], session))

    async def _run_one(self, job: Job, view: View) -> None:
        attempt = _Attempt(job, view)
        try:
            outcome = await answer(
                job.method, job.item, view, self.engine, self.settings, attempt.progress
            )
            found = self._build_predictions(attempt, outcome)
            self._num_in_a_row = 0
        except FATAL:
            raise
        except Exception as error:  # of an engine or a rule about this item: the others continue
            attempt.progress.add(spent_on(error))
            found = self._build_predictions(attempt, error)
            self._num_failed += 1
            # At some lengths every document is too long, and moderation may refuse one that many
            # items share: neither says anything about the engine.
            if not isinstance(error, DocumentError | ContentRefusedError):
                self._num_in_a_row += 1
            # The last failure is written like any other before the run ends.
            if self._num_in_a_row >= MOST_IN_A_ROW:
                self._keep(job, found)
                raise EngineError(
                    f"{MOST_IN_A_ROW} items in a row failed; the last one: {_reason(error)}",
                    hint="Finished items are kept. Fix the cause, then run the same command with "
                    "--retry-failed.",
                ) from error
        self._keep(job, found)
        self._num_finished += 1
        self._report_progress()

    def _keep(self, job: Job, found: Sequence[Prediction]) -> None:
        """Writes the predictions of a job that are wanted."""
        new = [
            replace_lone_surrogates(prediction)
            for output, prediction in zip(job.outputs, found, strict=True)
            if output.is_wanted
        ]
        self.writer.append(*new)
        for prediction in new:
            # To the end, as in the file: of one question, the last prediction counts.
            self.done.pop(prediction.id, None)
            self.done[prediction.id] = prediction

    def _build_predictions(
        self, attempt: _Attempt, result: Outcome | Exception
    ) -> list[Prediction]:
        """Returns one prediction per output; rounds that were over before an error are scored."""
        seconds = time.monotonic() - attempt.started
        num_rounds = len(round_ends(attempt.progress.turns))
        found = []
        for output in attempt.job.outputs:
            is_over = isinstance(result, Outcome) or (output.rounds or 1) <= num_rounds
            if output is not attempt.job.whole and is_over:
                found.append(self._score_part(attempt, output))
            elif isinstance(result, Outcome):
                found.append(self._score(attempt, output, result, seconds))
            else:
                too_long = isinstance(result, DocumentTooLongError)
                update = {
                    "error": _reason(result),
                    "overlong": describe_overlong(self.settings) if too_long else "",
                    "turns": tuple(attempt.progress.turns),
                    "usage": attempt.progress.usage,
                    "seconds": round(seconds, 4),
                }
                found.append(self._blank(attempt.job, output).model_copy(update=update))
        return found

    def _score_part(self, attempt: _Attempt, output: Output) -> Prediction:
        """Returns the prediction of the first rounds of a dialogue."""
        turns, view = attempt.progress.turns, attempt.view
        ends = round_ends(turns)
        part = tuple(turns[: ends[min(output.rounds or 1, len(ends)) - 1]])
        pointed = {
            piece
            for turn in part
            if turn.kind == "point"
            for piece in view.shown.named(turn.reply).valid
        }
        fitted = fit(attempt.job.item, view, self.settings)
        outcome = Outcome(
            raw=next(turn.reply for turn in reversed(part) if turn.kind == "answer"),
            turns=part,
            cited=tuple(sorted(pointed)),
            usage=sum((turn.usage for turn in part if turn.usage is not None), Usage()),
            left=None if fitted is None else view.text_of(fitted),
        )
        seconds = attempt.progress.ends[len(part) - 1] - attempt.started
        return self._score(attempt, output, outcome, seconds)

    def _score(
        self, attempt: _Attempt, output: Output, outcome: Outcome, seconds: float
    ) -> Prediction:
        item = attempt.job.item
        scores = rules.score(item, outcome.raw, with_rouge=self.config.with_rouge)
        return self._blank(attempt.job, output).model_copy(
            update={
                "raw": outcome.raw,
                "answer": parse_final_answer(strip_thinking(outcome.raw)),
                "scores": scores,
                "cited": outcome.cited,
                "gold_pieces": gold_pieces(item, attempt.view.pieces),
                "turns": outcome.turns,
                "usage": outcome.usage,
                "seconds": round(seconds, 4),
                "truncated": outcome.truncated,
                "overlong": describe_overlong(self.settings) if outcome.truncated else "",
                "gold_present": is_gold_present(item, outcome.left),
            }
        )

    def _blank(self, job: Job, output: Output) -> Prediction:
        item = job.item
        return Prediction(
            id=output.id,
            task=item.task,
            method=output.method,
            length=item.length,
            document_id=item.document.id,
            question_id=item.question.id,
            question=item.question.text,
            gold=item.question.answers,
            hops=item.question.hops,
            engine=self.config.label,
            conditions=self.conditions[output.method],
            part_of="" if output is job.whole else job.whole.id,
            options=item.question.options,
            unit=item.unit,
            depth=item.depth,
            rule=item.rule,
            reference=rules.stored_reference(item),
        )

    def _report_progress(self) -> None:
        every = max(1, self._total // 10)
        if self._num_finished % every and self._num_finished != self._total:
            return
        seconds = time.monotonic() - self._started
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        self.report(f"  {self._num_finished} of {self._total} items{failed}, {seconds:.0f} s")


def round_ends(turns: Sequence[Turn]) -> list[int]:
    """Returns, for each round with an answer, the number of turns up to its end."""
    answers = [i for i, turn in enumerate(turns) if turn.kind == "answer"]
    checked = [i + 1 < len(turns) and turns[i + 1].kind == "check" for i in answers]
    return [i + 2 if check else i + 1 for i, check in zip(answers, checked, strict=True)]


def is_gold_present(item: Item, left: str | None = None) -> bool | None:
    """Returns whether a gold answer occurs as words in the document, for answers in open text.

    Long documents are cut to the length under test before they are asked about, and again where
    they do not fit; where the answer was cut away, a low score says nothing about the model.

    Args:
        item: Question and document.
        left: What was left of the document; None: all of it.
    """
    if item.rule not in ("open", "long_answer"):
        return None
    golds = sorted({gold.strip() for gold in item.question.answers if gold.strip()}, key=len)
    if not golds:
        return None
    text = item.document.text if left is None else left
    return whole_words(golds).search(text) is not None


def _reason(error: Exception) -> str:
    text = error.message if isinstance(error, AgenticluError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Layouts:
    """Adapts the tasks' prompt layouts to an engine, and measures what its requests add to them.

    Args:
        settings: Of the run.
        engine: What answers.
        report: Called once with what a reader of the figures should know.
    """

    def __init__(self, settings: RunSettings, engine: Engine, report: Report) -> None:
        self._used = any(find_method(method).layout for method in settings.config.methods)
        self._wanted = settings.config.chat
        self._engine = engine
        self._settings = settings
        self._report = report
        self._is_reported = False
        self._framing: dict[bool, int] = {}

    async def adapt(self, items: Sequence[Item]) -> list[Item]:
        """Returns the items, as chat where the engine cannot continue plain text.

        Raises:
            UsageError: It cannot, and the run asks for plain text.
        """
        plain = any(item.prompt is not None and not item.prompt.chat for item in items)
        if not self._used or not plain or await self._completes():
            return list(items)
        limit = f"{self._engine.name} cannot continue plain text"
        if self._wanted is False:
            raise UsageError(f"{limit}, but --no-chat requires it.", hint="Try --chat.")
        if not self._is_reported:
            self._is_reported = True
            self._report(f"{limit}: HELMET's plain-text prompts are sent and scored as chat.")
        return [in_form(item, chat=True) for item in items]

    async def _completes(self) -> bool:
        return (await self._engine.capabilities("completes")).completes

    async def add_framing(self, jobs: Sequence[Job]) -> RunSettings:
        """Returns the settings with the tokens that a request adds to the prompts of these jobs."""
        sent = [job.item.prompt for job in jobs if find_method(job.method).layout]
        # Without a bound nothing is cut to fit, so there is no need for the request that measures.
        bounded = (
            self._settings.config.overlong == "cut-end" or self._settings.context_tokens is not None
        )
        if not sent or sent[0] is None or not bounded:
            return self._settings
        chat = sent[0].chat
        if chat not in self._framing:
            self._framing[chat] = await measure_framing(
                self._engine, self._settings.tokenizer, chat=chat
            )
        return replace(self._settings, framing_tokens=self._framing[chat])
