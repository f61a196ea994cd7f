"""Runs an evaluation: every finished item kept, nothing asked twice, one summary out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenticlu.core.errors import AgenticluError, StoreError, UsageError
from agenticlu.core.folders import check_owner
from agenticlu.core.records import Prediction, content_id
from agenticlu.engines.base import Engine
from agenticlu.engines.breaker import Breaker, be_patient
from agenticlu.evaluation.conditions import (
    Conditions,
    conditions_of,
    current,
    profile_key,
    refuse_mixing,
)
from agenticlu.evaluation.config import (
    CONFIG_NAME,
    EvaluationConfig,
    as_published_config,
    check_config,
    items_of,
)
from agenticlu.evaluation.files import check_files
from agenticlu.evaluation.fingerprint import tokenizer_key
from agenticlu.evaluation.folder import ResultsFolder
from agenticlu.evaluation.helmet.results import result_args, write_result
from agenticlu.evaluation.helmet.sentences import splitter_note
from agenticlu.evaluation.items import DoesNotFitError, Item
from agenticlu.evaluation.judgements import (
    HELMET_FOLDER,
    ID_COLUMN,
    judges_of,
    with_judgements,
)
from agenticlu.evaluation.layouts import Layouts
from agenticlu.evaluation.methods import METHODS, Settings, find_method, wordings_of
from agenticlu.evaluation.predictions import (
    FILE_NAME,
    PredictionWriter,
    read_predictions,
    write_json,
)
from agenticlu.evaluation.runner import (
    Job,
    Output,
    Report,
    Runner,
    is_gold_present,
    met_overlong,
)
from agenticlu.evaluation.summary import SUMMARY_NAME, Summary, save_summary, summarise
from agenticlu.evaluation.tasks import find_task

PATIENCE_S = 300.0
"""Seconds without any answer until a run gives an absent or overloaded server up."""

__all__ = [
    "EvaluationConfig",
    "as_published_config",
    "check_config",
    "is_gold_present",
    "items_of",
    "jobs_of",
    "left_of",
    "run_evaluation",
    "summarise_folder",
]


async def run_evaluation(
    config: EvaluationConfig,
    engine: Engine,
    settings: Settings,
    out: Path,
    *,
    retry_failed: bool = False,
    patience_s: float = PATIENCE_S,
    report: Report = lambda line: None,
) -> Summary:
    """Runs what is missing, writes `predictions.jsonl`, `summary.json` and tables, and returns it.

    Where an error ends the run, what is finished is summarised before it is raised.

    Args:
        config: What to run.
        engine: What answers.
        settings: Profile, tokenizer and window; the rest is taken from `config`.
        out: Folder of the results; a folder of an earlier run is continued.
        retry_failed: Run items again that failed before.
        patience_s: Seconds without any answer until an absent server is given up.
        report: Called with one line for people, now and then.

    Raises:
        AgenticluError: Something that every item would meet; finished items are kept.
    """
    check_config(config)
    check_files(config)
    check_owner(out, "eval")
    if settings.context_tokens is None:
        capabilities = await engine.capabilities()
        settings = replace(settings, context_tokens=capabilities.context_tokens)
    if not config.label:
        config = config.model_copy(update={"label": engine.name})
    settings = config.settings(settings)
    conditions = {
        output.method: conditions_of(config, settings, method, output.rounds)
        for method in config.methods
        for output in _outputs(method, config)
    }
    patient = be_patient(engine, Breaker(patience_s, report))
    with ResultsFolder(out):
        path = out / FILE_NAME
        done = read_predictions(path) if path.is_file() else {}
        refuse_mixing(done.values(), conditions, config.tasks, out)
        _warn_of_other_servers(config, out, report)
        write_json(out / CONFIG_NAME, config.model_dump(mode="json"))
        run = _Run(config, settings, conditions, out, done, report)
        with PredictionWriter(path) as writer:
            try:
                await run.ask(patient, writer, retry_failed)
            except BaseException as error:
                if done:
                    with contextlib.suppress(StoreError):  # the disk may be what ended the run
                        run.summarise(f"The run ended early: {_in_words(error)}")
                raise
        return run.summarise()


class _Run:
    """One pass over tasks and lengths into one folder."""

    def __init__(
        self,
        config: EvaluationConfig,
        settings: Settings,
        conditions: Mapping[str, Conditions],
        out: Path,
        done: dict[str, Prediction],
        report: Report,
    ) -> None:
        self._config = config
        self._settings = settings
        self._conditions = conditions
        self._out = out
        self._done = done
        self._report = report
        self._left_out: list[str] = []
        self._notes: list[str] = []

    async def ask(self, engine: Engine, writer: PredictionWriter, retry_failed: bool) -> None:
        """Asks what is missing, task by task and length by length."""
        config, num_jobs = self._config, 0
        layouts = Layouts(config, engine, self._settings, self._tell)
        for task in config.tasks:
            for length in config.lengths:
                try:
                    items = items_of(config, task, length, self._settings)
                except DoesNotFitError as error:
                    self._report(f"{error.message} Left out.")
                    self._left_out.append(error.message)
                    continue
                items = await layouts.sendable(items)
                jobs = jobs_of(items, config, self._settings)
                if not jobs:
                    self._report(f"{task} has no prompt layout of its own: 'helmet' is left out")
                num_jobs += len(jobs)
                left = left_of(jobs, self._done, self._settings, retry_failed)
                self._report(f"{task} at {length}: {len(left)} of {len(jobs)} items to run")
                runner = Runner(
                    config,
                    engine,
                    await layouts.framed(left),
                    self._conditions,
                    writer,
                    self._done,
                    self._report,
                )
                await runner.run(left)
                if find_task(task) == "helmet":
                    _write_helmet(task, length, jobs, self._done, config, self._out)
                if task == "alce_asqa" and (note := splitter_note()) and note not in self._notes:
                    self._tell(note)
        if not num_jobs:
            raise _nothing_to_ask(config, self._left_out)

    def _tell(self, note: str) -> None:
        """Says what a reader of the figures should know, now and with the results."""
        self._notes.append(note)
        self._report(note)

    def summarise(self, *notes: str) -> Summary:
        """Writes the summary of the folder and returns it."""
        known = {self._config.label: next(iter(self._conditions.values()))}
        return _summarise(
            self._done,
            self._config.model_dump(mode="json"),
            self._out,
            known=known,
            left_out=self._left_out,
            run_notes=(*notes, *self._notes),
        )


def jobs_of(items: Sequence[Item], config: EvaluationConfig, settings: Settings) -> list[Job]:
    """Returns what is asked about items: one job per item and method that can answer it."""
    common = (config.label, config.model_fingerprint, *_common_parts(config, settings))

    def outputs_of(method: str, item: Item) -> tuple[Output, ...]:
        return tuple(
            replace(output, id=_output_id(item, method, output, config, settings, common))
            for output in _outputs(method, config)
        )

    return [
        Job(method, item, outputs_of(method, item))
        for item in items
        for method in config.methods
        if not (find_method(method).layout and item.prompt is None)
    ]


def _common_parts(config: EvaluationConfig, settings: Settings) -> tuple[str, ...]:
    """Returns what all ids of a run depend on."""
    decoding = (config.top_p, config.max_tokens, config.seed, config.as_published)
    view = (config.piece_tokens, tokenizer_key(settings.tokenizer))
    return (settings.profile.label, profile_key(settings), *map(str, (*decoding, *view)))


def _outputs(method: str, config: EvaluationConfig) -> tuple[Output, ...]:
    """Returns the predictions wanted of a method, without ids: one per number of rounds."""
    if not find_method(method).several_rounds:
        return (Output("", method),)
    counts = config.round_counts
    if len(counts) == 1:
        return (Output("", method, counts[0]),)
    return tuple(Output("", f"{method}@{count}", count) for count in counts)


def _output_id(
    item: Item,
    method: str,
    output: Output,
    config: EvaluationConfig,
    settings: Settings,
    common: Sequence[str],
) -> str:
    """Returns the id of an item's prediction: everything that its result depends on.

    How documents longer than the window are met is not in it: it changes nothing for the others.
    """
    found = find_method(method)
    own: tuple[object, ...] = (settings.sampling("answer", item, method).temperature,)
    if output.rounds is not None:
        own = (*own, output.rounds)
    if found.retrieves:
        own = (*own, config.top_k, config.retriever)
    if found.layout and item.prompt is not None:
        cut_end = config.overlong == "cut-end"  # cuts at the nominal length, whatever the window
        own = (*own, item.prompt.text, item.prompt.chat, item.max_tokens, cut_end)
    return content_id(
        *common,
        output.method,
        item.task,
        str(item.length),
        item.document.id,
        item.question.id,
        *wordings_of(found),
        *map(str, own),
    )


def left_of(
    jobs: Sequence[Job],
    done: Mapping[str, Prediction],
    settings: Settings,
    retry_failed: bool = False,
) -> list[Job]:
    """Returns the jobs of which a prediction is missing, the missing ones marked as wanted.

    A prediction of a document longer than the window is missing where such documents are met in
    another way now, or the window is another one.
    """

    def is_left(found: Prediction | None) -> bool:
        if found is None or (retry_failed and found.error is not None):
            return True
        return bool(found.overlong) and found.overlong != met_overlong(settings)

    marked = [
        replace(
            job,
            outputs=tuple(
                replace(output, is_wanted=is_left(done.get(output.id))) for output in job.outputs
            ),
        )
        for job in jobs
    ]
    return [job for job in marked if any(output.is_wanted for output in job.outputs)]


def summarise_folder(out: Path, metric: str | None = None) -> Summary:
    """Writes the summary and the tables of a folder again, and returns the summary.

    Verdicts that came since (`agenticlu eval judge`) are then in them. Nothing is asked.

    Args:
        out: Folder of results.
        metric: Shown first; None takes what the last run took.

    Raises:
        UsageError: The folder holds no results.
        StoreError: A file in it is damaged.
    """
    done = read_predictions(out / FILE_NAME)
    settings = _read_object(out / CONFIG_NAME)
    if metric is not None:
        check_config(EvaluationConfig(metric=metric))
        settings["metric"] = metric
    before = _read_object(out / SUMMARY_NAME)
    label, weights = settings.get("label"), settings.get("model_fingerprint")
    latest = [p for p in done.values() if p.engine == label]
    known = {p.engine: p.conditions for p in latest if p.conditions.get("weights") == weights}
    return _summarise(
        done,
        settings,
        out,
        known=known,
        left_out=before.get("left_out", []),
        run_notes=before.get("run_notes", []),
    )


def _summarise(
    done: Mapping[str, Prediction],
    settings: dict[str, Any],
    out: Path,
    *,
    known: Mapping[str, Conditions],
    left_out: Sequence[str],
    run_notes: Sequence[str],
) -> Summary:
    shown, hidden = current(done, known)
    summary = summarise(
        with_judgements(shown, out),
        settings,
        methods=tuple(METHODS),
        metric=settings.get("metric"),
    )
    others = [
        f"{number} results of other weights or wordings under the label {label!r} are not shown."
        for label, number in hidden.items()
    ]
    summary = summary.model_copy(
        update={
            "left_out": tuple(left_out),
            "run_notes": tuple(run_notes),
            "notes": (*run_notes, *summary.notes, *others, *judges_of(out)),
        }
    )
    save_summary(summary, out)
    return summary


def _nothing_to_ask(config: EvaluationConfig, left_out: Sequence[str]) -> UsageError:
    return UsageError(
        " ".join(left_out)
        or f"None of the tasks {', '.join(config.tasks)} can be answered by the methods "
        f"{', '.join(config.methods)}.",
        hint="Choose longer lengths."
        if left_out
        else "The method 'helmet' needs a task with a prompt layout; try 'direct'.",
    )


def _warn_of_other_servers(config: EvaluationConfig, out: Path, report: Report) -> None:
    """Says so where results go on with servers that do not vouch for being the same model."""
    before = _read_object(out / CONFIG_NAME)
    servers = before.get("servers") or []
    same = before.get("model_fingerprint") == config.model_fingerprint
    if same and not config.weights_known and set(servers) != set(config.servers):
        report(
            f"Warning: these results were begun with {', '.join(servers) or 'another server'}, and "
            f"{', '.join(config.servers)} tells the model's name but not its weights. Finished "
            "items are kept; if the weights are others, use another --out or --label."
        )


def _read_object(path: Path) -> dict[str, Any]:
    """Returns a JSON object from a file; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{path} is not JSON: {error}.", hint="Move it away and run the command again."
        ) from error
    return found if isinstance(found, dict) else {}


def _in_words(error: BaseException) -> str:
    if isinstance(error, AgenticluError):
        return error.message
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt)):
        return "it was interrupted."
    return str(error) or type(error).__name__


def _write_helmet(
    task: str,
    length: int,
    jobs: Sequence[Job],
    done: Mapping[str, Prediction],
    config: EvaluationConfig,
    out: Path,
) -> None:
    """Writes HELMET's result file of each method into a folder of its own.

    The file says what was sent: methods other than `helmet` show no demonstrations, and their turns
    are chat. A row says which prediction it is, so that verdicts about it find their way back.
    """
    by_method: dict[str, list[tuple[Item, Prediction]]] = {}
    for job in jobs:
        for output in job.outputs:
            row = {**(job.item.row or {}), ID_COLUMN: output.id}
            pair = (replace(job.item, row=row), done[output.id])
            by_method.setdefault(output.method, []).append(pair)
    for method, rows in by_method.items():
        name = config.label if method == "helmet" else f"{config.label}-{method}"
        folder = out / HELMET_FOLDER / re.sub(r"[^\w.-]+", "-", name)
        args = result_args(
            task,
            length,
            model=config.label,
            output_dir=str(folder),
            limit=config.limit,
            shots=config.options.get("shots") if method == "helmet" else 0,
            chat=method != "helmet" or _is_chat(rows[0][0]),
            temperature=config.temperature,
            top_p=config.top_p,
            max_tokens=None if method == "helmet" else config.max_tokens,
        )
        write_result(folder, task, args, rows)


def _is_chat(item: Item) -> bool:
    return item.prompt is not None and item.prompt.chat
