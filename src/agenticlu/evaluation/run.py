"""Runs an evaluation: many requests in flight, prefixes shared, every finished item kept."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from agenticlu.dialogue import MAX_TOKENS
from agenticlu.engines.base import Engine
from agenticlu.errors import (
    AgenticluError,
    BudgetExceededError,
    ConfigError,
    EngineAuthError,
    EngineUnreachableError,
    MissingDependencyError,
    ModelNotFoundError,
    StoreError,
    UsageError,
)
from agenticlu.evaluation import rules
from agenticlu.evaluation.helmet.results import result_args, write_result
from agenticlu.evaluation.items import Item, gold_pieces
from agenticlu.evaluation.methods import (
    METHODS,
    Settings,
    View,
    answer,
    find_method,
    wordings_of,
)
from agenticlu.evaluation.predictions import (
    FILE_NAME,
    PredictionWriter,
    read_predictions,
    write_json,
)
from agenticlu.evaluation.summary import Summary, save_summary, summarise
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest, find_task, load_items
from agenticlu.records import Prediction, Record, content_id
from agenticlu.scoring import parse_final_answer

CONFIG_NAME = "config.json"
FATAL = (
    BudgetExceededError,
    ConfigError,
    EngineAuthError,
    MissingDependencyError,
    ModelNotFoundError,
    StoreError,
    UsageError,
)
"""Errors that every other item would meet too: they end the run instead of failing an item."""
MOST_UNREACHABLE = 4
"""Items in a row that find no server before the run ends."""

PUBLISHED = {
    "as_published": True,
    "rounds": 1,
    "temperature": 0.6,
    "top_p": 1.0,
    "max_tokens": 1024,
    "metric": "substring_exact_match",
}
"""Settings of the published arms: one round, up to 1024 tokens in every turn, temperature 0.6 but
for the prompting arms, which are greedy, and HELMET's substring match as the score."""
PUBLISHED_GREEDY = frozenset({"step-by-step", "plan-and-solve", "fact-and-reflect"})

Report = Callable[[str], None]


class EvaluationConfig(Record):
    """What an evaluation runs; saved with its results."""

    tasks: tuple[str, ...] = ("world",)
    methods: tuple[str, ...] = ("direct", "clarify")
    lengths: tuple[int, ...] = (256, 512, 1024, 2048)
    label: str = ""
    """Name of the engine in the tables; empty takes the engine's own."""
    model_fingerprint: str = ""
    """Hash of the model's files where it is local, so that other weights are other items."""
    limit: int | None = None
    """Items per task and length at most."""
    questions_per_document: int = 4
    rounds: int = 1
    seed: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    piece_tokens: int = 512
    top_k: int = 4
    retriever: str = "bm25"
    overlong: str = "refuse"
    with_rouge: bool = False
    concurrency: int = 8
    """Items in flight at most."""
    profile: str = "default"
    """Name or path of the prompt profile."""
    tokenizer: str = ""
    """Name of the tokenizer that lengths are counted with."""
    metric: str | None = None
    """Metric shown first where an item has it; None takes each task's own."""
    as_published: bool = False
    """The published arms' decoding: other temperatures for other arms, long turns."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further settings of single tasks."""

    def settings(self, base: Settings) -> Settings:
        """Returns the methods' settings, with profile, tokenizer and window of `base`."""
        return Settings(
            profile=base.profile,
            tokenizer=base.tokenizer,
            context_tokens=base.context_tokens,
            turn_tokens=dict.fromkeys(MAX_TOKENS, self.max_tokens)
            if self.as_published
            else base.turn_tokens,
            greedy_methods=PUBLISHED_GREEDY if self.as_published else frozenset(),
            rounds=self.rounds,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_tokens,
            piece_tokens=self.piece_tokens,
            top_k=self.top_k,
            retriever=self.retriever,
            overlong=self.overlong,
        )


@dataclass(frozen=True)
class Job:
    """One item to be answered by one method."""

    id: str
    method: str
    item: Item


def job_id(item: Item, method: str, config: EvaluationConfig, settings: Settings) -> str:
    """Returns the id of an item's prediction: everything that its result depends on."""
    found = find_method(method)
    decoding = (
        settings.sampling("answer", item, method).temperature,
        config.top_p,
        config.max_tokens,
        config.seed,
        config.as_published,
    )
    view = (config.piece_tokens, config.overlong, settings.tokenizer.name)
    extra: tuple[object, ...] = (config.rounds,) if found.several_rounds else ()
    if found.retrieves:
        extra = (*extra, config.top_k, config.retriever)
    if found.layout and item.prompt is not None:
        extra = (*extra, item.prompt.user, item.prompt.chat, item.max_tokens)
    return content_id(
        config.label,
        config.model_fingerprint,
        method,
        item.task,
        str(item.length),
        item.document.id,
        item.question.id,
        settings.profile.label,
        content_id(settings.profile.model_dump_json(), *wordings_of(found)),
        *map(str, (*decoding, *view, *extra)),
    )


def as_published_config(config: EvaluationConfig) -> EvaluationConfig:
    """Returns the settings of the published arms where they differ from ours."""
    return config.model_copy(update=PUBLISHED)


def check_config(config: EvaluationConfig) -> None:
    """Raises UsageError for what cannot be, before any work."""
    for method in config.methods:
        find_method(method)
    for task in config.tasks:
        find_task(task)
    if not (config.tasks and config.methods and config.lengths):
        raise UsageError("An evaluation needs at least one task, one method and one length.")
    if min(config.lengths) < 1 or config.rounds < 1 or config.max_tokens < 1:
        raise UsageError("Lengths, rounds and token limits are at least 1.")
    if config.limit is not None and config.limit < 1:
        raise UsageError(f"--limit {config.limit}: at least one item is needed.")


def items_of(config: EvaluationConfig, task: str, length: int, settings: Settings) -> list[Item]:
    """Returns the items of one task at one length."""
    return load_items(
        TaskRequest(
            task=task,
            length=length,
            tokenizer=settings.tokenizer,
            limit=config.limit,
            seed=config.seed,
            questions_per_document=config.questions_per_document,
            options=config.options,
        )
    )


async def run_evaluation(
    config: EvaluationConfig,
    engine: Engine,
    settings: Settings,
    out: Path,
    *,
    retry_failed: bool = False,
    report: Report = lambda line: None,
) -> Summary:
    """Runs what is missing, writes `predictions.jsonl`, `summary.json` and tables, and returns it.

    Args:
        config: What to run.
        engine: What answers.
        settings: Profile, tokenizer and window; the rest is taken from `config`.
        out: Folder of the results; a folder of an earlier run is continued.
        retry_failed: Run items again that failed before.
        report: Called with one line for people, now and then.

    Raises:
        AgenticluError: Something that every item would meet; finished items are kept.
    """
    check_config(config)
    if not config.label:
        config = config.model_copy(update={"label": engine.name})
    if settings.context_tokens is None:
        capabilities = await engine.capabilities()
        settings = Settings(**{**vars(settings), "context_tokens": capabilities.context_tokens})
    settings = config.settings(settings)
    out.mkdir(parents=True, exist_ok=True)
    path = out / FILE_NAME
    done = read_predictions(path) if path.is_file() else {}
    write_json(out / CONFIG_NAME, config.model_dump(mode="json"))
    selected: list[str] = []
    left_out: list[str] = []
    with PredictionWriter(path) as writer:
        for task in config.tasks:
            for length in config.lengths:
                try:
                    items = items_of(config, task, length, settings)
                except DoesNotFitError as error:
                    report(f"{error.message} Left out.")
                    left_out.append(error.message)
                    continue
                jobs = [
                    Job(job_id(item, method, config, settings), method, item)
                    for item in items
                    for method in config.methods
                    if not (find_method(method).layout and item.prompt is None)
                ]
                selected += [job.id for job in jobs]
                if not jobs:
                    report(f"{task} has no prompt layout of its own: 'helmet' is left out")
                left = [job for job in jobs if _is_left(done.get(job.id), retry_failed)]
                report(f"{task} at {length}: {len(left)} of {len(jobs)} items to run")
                if left:
                    runner = _Runner(config, engine, settings, writer, done, report)
                    await runner.run(left)
                if find_task(task) == "helmet":
                    _write_helmet(task, length, jobs, done, config, out)
    if not selected:
        raise UsageError(
            " ".join(left_out)
            or f"None of the tasks {', '.join(config.tasks)} can be answered by the methods "
            f"{', '.join(config.methods)}.",
            hint="Choose longer lengths."
            if left_out
            else "The method 'helmet' needs a task with a prompt layout; try 'direct'.",
        )
    summary = summarise(
        current(done, selected),
        config.model_dump(mode="json"),
        methods=tuple(METHODS),
        metric=config.metric,
    ).model_copy(update={"left_out": tuple(left_out)})
    save_summary(summary, out)
    return summary


def _write_helmet(
    task: str,
    length: int,
    jobs: Sequence[Job],
    done: dict[str, Prediction],
    config: EvaluationConfig,
    out: Path,
) -> None:
    """Writes HELMET's result file of each method into a folder of its own."""
    for method in config.methods:
        rows = [(job.item, done[job.id]) for job in jobs if job.method == method]
        if not rows:
            continue
        name = config.label if method == "helmet" else f"{config.label}-{method}"
        folder = out / "helmet" / re.sub(r"[^\w.-]+", "-", name)
        args = result_args(
            task,
            length,
            model=config.label,
            output_dir=str(folder),
            limit=config.limit,
            shots=config.options.get("shots"),
            chat=method != "helmet" or bool(config.options.get("chat")),
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=None if method == "helmet" else config.max_tokens,
        )
        write_result(folder, task, args, rows)


def current(done: dict[str, Prediction], selected: Sequence[str]) -> list[Prediction]:
    """Returns the run's own predictions, then those of cells that it did not touch.

    Another engine's or method's results in the same folder thus stay in the table, while results
    of the same cell under other settings do not mix with this run's.
    """
    own = [done[name] for name in dict.fromkeys(selected) if name in done]
    touched = {_cell(prediction) for prediction in own}
    ids = set(selected)
    others = [p for p in done.values() if p.id not in ids and _cell(p) not in touched]
    return others + own


def _cell(prediction: Prediction) -> tuple[str, str, str, int]:
    return (prediction.engine, prediction.method, prediction.task, prediction.length)


def _is_left(found: Prediction | None, retry_failed: bool) -> bool:
    return found is None or (retry_failed and found.error is not None)


class _Runner:
    """Runs jobs; items of one session wait for its first one, which fills the cache."""

    def __init__(
        self,
        config: EvaluationConfig,
        engine: Engine,
        settings: Settings,
        writer: PredictionWriter,
        done: dict[str, Prediction],
        report: Report,
    ) -> None:
        self._config = config
        self._engine = engine
        self._settings = settings
        self._writer = writer
        self._done = done
        self._report = report
        self._slots = asyncio.Semaphore(config.concurrency)
        self._num_unreachable = 0
        self._num_finished = 0
        self._num_failed = 0
        self._total = 0
        self._started = time.monotonic()

    async def run(self, jobs: Sequence[Job]) -> None:
        """Runs all jobs; raises the first error that is not one item's own."""
        self._total = len(jobs)
        sessions: dict[str, list[Job]] = {}
        for job in jobs:
            sessions.setdefault(job.item.session, []).append(job)
        waiting = list(sessions.values())
        waiting.reverse()
        num_workers = min(len(waiting), max(1, self._config.concurrency // 4))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(num_workers):
                    group.create_task(self._work(waiting))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None

    async def _work(self, waiting: list[list[Job]]) -> None:
        while waiting:
            jobs = waiting.pop()
            views: dict[str, View] = {}
            for job in jobs:
                views.setdefault(job.item.document.id, View(job.item, self._settings))
            first, *rest = jobs
            await self._run_one(first, views[first.item.document.id])
            async with asyncio.TaskGroup() as group:
                for job in rest:
                    group.create_task(self._run_one(job, views[job.item.document.id]))

    async def _run_one(self, job: Job, view: View) -> None:
        async with self._slots:
            started = time.monotonic()
            try:
                prediction = await self._predict(job, view, started)
                self._num_unreachable = 0
            except FATAL:
                raise
            except AgenticluError as error:
                prediction = self._failed(job, error, time.monotonic() - started)
                unreachable = isinstance(error, EngineUnreachableError)
                self._num_unreachable = self._num_unreachable + 1 if unreachable else 0
                if self._num_unreachable >= MOST_UNREACHABLE:
                    raise
                self._num_failed += 1
        self._writer.append(prediction)
        self._done.pop(prediction.id, None)
        self._done[prediction.id] = prediction
        self._num_finished += 1
        self._tell()

    async def _predict(self, job: Job, view: View, started: float) -> Prediction:
        item = job.item
        outcome = await answer(job.method, item, view, self._engine, self._settings)
        scores = rules.score(item, outcome.raw, with_rouge=self._config.with_rouge)
        return self._blank(job).model_copy(
            update={
                "raw": outcome.raw,
                "answer": parse_final_answer(outcome.raw),
                "scores": scores,
                "cited": outcome.cited,
                "gold_pieces": gold_pieces(item, view.pieces),
                "turns": outcome.turns,
                "usage": outcome.usage,
                "seconds": round(time.monotonic() - started, 4),
                "truncated": outcome.truncated,
                "gold_present": is_gold_present(item),
            }
        )

    def _failed(self, job: Job, error: AgenticluError, seconds: float) -> Prediction:
        reason = f"{type(error).__name__}: {error.message}"
        return self._blank(job).model_copy(update={"error": reason, "seconds": round(seconds, 4)})

    def _blank(self, job: Job) -> Prediction:
        item = job.item
        return Prediction(
            id=job.id,
            task=item.task,
            method=job.method,
            length=item.length,
            document_id=item.document.id,
            question_id=item.question.id,
            question=item.question.text,
            gold=item.question.answers,
            hops=item.question.hops,
            engine=self._config.label,
            options=item.question.options,
            unit=item.unit,
            depth=item.depth,
        )

    def _tell(self) -> None:
        every = max(1, self._total // 10)
        if self._num_finished % every and self._num_finished != self._total:
            return
        seconds = time.monotonic() - self._started
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        self._report(f"  {self._num_finished} of {self._total} items{failed}, {seconds:.0f} s")


def is_gold_present(item: Item) -> bool | None:
    """Returns whether a gold answer stands as words in the document, for answers in open text.

    Long documents are cut to the length under test before they are asked about; where the answer
    was cut away, a low score says nothing about the model.
    """
    if item.rule not in ("open", "long_answer"):
        return None
    golds = sorted({gold.strip() for gold in item.question.answers if gold.strip()}, key=len)
    if not golds:
        return None
    pattern = "|".join(re.escape(gold) for gold in golds)
    found = re.search(rf"(?<!\w)(?:{pattern})(?!\w)", item.document.text, re.IGNORECASE)
    return found is not None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the first error of nested groups that is not a cancellation."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        if not isinstance(error, asyncio.CancelledError):
            return error
    return errors
