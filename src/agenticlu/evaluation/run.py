"""Runs an evaluation: keeps every finished item, asks nothing twice, writes one summary."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agenticlu.core.errors import (
    AgenticluError,
    StoreError,
    UsageError,
    did_you_mean,
    missing_dependency,
)
from agenticlu.core.files import check_owner, load_json_object
from agenticlu.core.records import Prediction
from agenticlu.engines.base import Engine, adaptations_of
from agenticlu.engines.retry import with_patience
from agenticlu.evaluation.config import (
    CONFIG_NAME,
    EvaluationConfig,
    RunSettings,
)
from agenticlu.evaluation.helmet import (
    HUB_SETS,
    ICL_SETS,
    SPECS,
    find_file,
    find_scale,
    load_templates,
)
from agenticlu.evaluation.helmet.alce import describe_splitter
from agenticlu.evaluation.helmet.results import (
    HELMET_FOLDER,
    ID_COLUMN,
    add_judgements,
    build_args,
    describe_judges,
    write_result,
)
from agenticlu.evaluation.helmet.sources import describe_similar_files, load_llama2
from agenticlu.evaluation.methods import find_method
from agenticlu.evaluation.plan import (
    Job,
    build_jobs,
    build_outputs,
    find_missing_jobs,
    load_run_items,
)
from agenticlu.evaluation.predictions import (
    FILE_NAME,
    Conditions,
    PredictionWriter,
    build_conditions,
    lock_results,
    read_predictions,
    refuse_mixing,
    select_current,
    write_json,
)
from agenticlu.evaluation.records import SUMMARY_NAME, DoesNotFitError, Item, Summary
from agenticlu.evaluation.runner import Layouts, Report, Runner
from agenticlu.evaluation.scoring.rules import metric_names
from agenticlu.evaluation.summary import summarise
from agenticlu.evaluation.tables import save_summary
from agenticlu.evaluation.tasks import require_task

PATIENCE_S = 300.0
"""Seconds without any answer after which a run gives up an unreachable or overloaded server."""
KILLED = (
    "No run into this folder has ended by itself: there may be items that it never came to. The "
    "same agenticlu eval command again runs what is missing."
)


async def run_evaluation(
    settings: RunSettings,
    engine: Engine,
    out: Path,
    *,
    retry_failed: bool = False,
    patience_s: float = PATIENCE_S,
    report: Report = lambda line: None,
) -> Summary:
    """Runs what is missing, writes `predictions.jsonl`, `summary.json` and tables, and returns it.

    Where an error ends the run, what is finished is summarised before it is raised.

    Args:
        settings: What to run; a window of None takes the engine's.
        engine: What answers.
        out: Folder of the results; a folder of an earlier run is continued.
        retry_failed: Run items again that failed before.
        patience_s: Seconds without any answer after which an unreachable server is given up.
        report: Called with a line of progress now and then.

    Raises:
        AgenticluError: An error that every item would run into; finished items are kept.
    """
    config = settings.config
    check_config(config)
    check_files(config)
    check_owner(out, "eval")
    engine = with_patience(engine, patience_s, report)
    if settings.context_tokens is None:
        capabilities = await engine.capabilities()
        settings = replace(settings, context_tokens=capabilities.context_tokens)
    if not config.label:
        config = config.model_copy(update={"label": engine.name})
        settings = replace(settings, config=config)
    conditions = {
        output.method: build_conditions(settings, method, output.rounds)
        for method in config.methods
        for output in build_outputs(method, config)
    }
    with lock_results(out):
        path = out / FILE_NAME
        done = read_predictions(path) if path.is_file() else {}
        # Before config.json is replaced: the folder keeps describing the results that it holds.
        refuse_mixing(done.values(), conditions, config.tasks, out)
        _warn_of_other_servers(config, out, report)
        write_json(out / CONFIG_NAME, config.model_dump(mode="json"))
        run = _Run(settings, conditions, out, done, report, engine)
        with PredictionWriter(path) as writer:
            try:
                await run.ask(writer, retry_failed)
            except BaseException as error:
                run.ended_early = True
                if done:
                    with contextlib.suppress(StoreError):  # the disk may be what ended the run
                        run.summarise(f"The run ended early: {_describe(error)} {run.progress}")
                        report(f"{run.progress} Summarised in {out / SUMMARY_NAME}.")
                raise
        return run.summarise()


@dataclass(eq=False)
class _Run:
    """One pass over tasks and lengths into one folder."""

    settings: RunSettings
    conditions: Mapping[str, Conditions]
    out: Path
    done: dict[str, Prediction]
    report: Report
    engine: Engine
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wanted: set[str] = field(default_factory=set)
    """Ids of the predictions wanted of the tasks and lengths begun so far."""
    not_begun: list[str] = field(default_factory=list)
    ended_early: bool = False

    @property
    def progress(self) -> str:
        """What of the run is finished, for people."""
        finished = len(self.wanted & self.done.keys())
        rest = f"; not begun: {', '.join(self.not_begun)}" if self.not_begun else ""
        return f"Incomplete: {finished} of {len(self.wanted)} items are finished{rest}."

    @property
    def config(self) -> EvaluationConfig:
        """The configuration."""
        return self.settings.config

    async def ask(self, writer: PredictionWriter, retry_failed: bool) -> None:
        """Asks what is missing, task by task and length by length."""
        config, engine, num_jobs = self.config, self.engine, 0
        layouts = Layouts(self.settings, engine, self._note)
        self.not_begun = [f"{task} at {n}" for task in config.tasks for n in config.lengths]
        for task in config.tasks:
            for length in config.lengths:
                try:
                    items = load_run_items(self.settings, task, length)
                except DoesNotFitError as error:
                    self.report(f"{error.message} Left out.")
                    self.left_out.append(error.message)
                    self.not_begun.remove(f"{task} at {length}")
                    continue
                items = await layouts.adapt(items)
                jobs = build_jobs(items, self.settings)
                self.not_begun.remove(f"{task} at {length}")
                self.wanted |= {output.id for job in jobs for output in job.outputs}
                if not jobs:
                    self.report(f"{task} has no prompt layout: the method 'helmet' is left out")
                num_jobs += len(jobs)
                left = find_missing_jobs(jobs, self.done, self.settings, retry_failed)
                self.report(f"{task} at {length}: {len(left)} of {len(jobs)} items to run")
                runner = Runner(
                    await layouts.add_framing(left),
                    engine,
                    self.conditions,
                    writer,
                    self.done,
                    self.report,
                )
                await runner.run(left)
                if task in SPECS:
                    _write_helmet(task, length, jobs, self.done, config, self.out)
                if task == "alce_asqa" and (note := describe_splitter()) and note not in self.notes:
                    self._note(note)
        if not num_jobs:
            raise _nothing_to_ask(config, self.left_out)

    def _note(self, note: str) -> None:
        """Reports what a reader of the figures should know, now and with the results."""
        self.notes.append(note)
        self.report(note)

    def summarise(self, *notes: str) -> Summary:
        """Writes the summary of the folder and returns it."""
        known = {self.config.label: next(iter(self.conditions.values()))}
        return _summarise(
            self.done,
            self.config.model_dump(mode="json"),
            self.out,
            known=known,
            left_out=self.left_out,
            run_notes=(*notes, *self.notes),
            adapted=adaptations_of(self.engine),
            num_wanted=len(self.wanted) if self.ended_early else None,
            not_begun=self.not_begun if self.ended_early else (),
        )


def summarise_folder(out: Path, metric: str | None = None, *, save: bool = True) -> Summary:
    """Writes the summary and the tables of a folder again, and returns the summary.

    Verdicts that came since (`agenticlu eval judge`) are then in them. Nothing is asked.

    Args:
        out: Folder of results.
        metric: Shown first; None takes what the last run took.
        save: Write them.

    Raises:
        UsageError: The folder holds no results.
        StoreError: A file in it is damaged.
    """
    done = read_predictions(out / FILE_NAME)
    settings = load_json_object(out / CONFIG_NAME)
    if metric is not None:
        check_config(EvaluationConfig(metric=metric))
        settings["metric"] = metric
    before = load_json_object(out / SUMMARY_NAME)
    if not before:  # the process was killed: nobody knows what was wanted
        before = {"run_notes": [KILLED]}
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
        num_wanted=before.get("num_wanted"),
        not_begun=before.get("not_begun", []),
        save=save,
    )


def _summarise(
    done: Mapping[str, Prediction],
    settings: dict[str, Any],
    out: Path,
    *,
    known: Mapping[str, Conditions],
    left_out: Sequence[str],
    run_notes: Sequence[str],
    num_wanted: int | None,
    not_begun: Sequence[str],
    adapted: Sequence[str] = (),
    save: bool = True,
) -> Summary:
    before = load_json_object(out / SUMMARY_NAME).get("adapted") or ()
    adapted = tuple(dict.fromkeys([*before, *adapted]))
    shown, hidden = select_current(done, known)
    summary = summarise(
        add_judgements(shown, out),
        settings,
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
            "num_wanted": num_wanted,
            "not_begun": tuple(not_begun),
            "adapted": adapted,
            "notes": (*run_notes, *adapted, *summary.notes, *others, *describe_judges(out)),
        }
    )
    if save:
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
    """Warns where results continue with servers that may not serve the same weights."""
    before = load_json_object(out / CONFIG_NAME)
    servers = before.get("servers") or []
    same = before.get("model_fingerprint") == config.model_fingerprint
    if same and not config.weights_known and set(servers) != set(config.servers):
        report(
            f"Warning: these results began with {', '.join(servers) or 'another server'}; "
            f"{', '.join(config.servers)} reports the model's name but not its weights. Finished "
            "items are kept. If the weights differ, use another --out or --label."
        )


def _describe(error: BaseException) -> str:
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
    are chat. Each row names its prediction, so that verdicts about it can be matched to it.
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
        prompt = rows[0][0].prompt
        chat = method != "helmet" or (prompt is not None and prompt.chat)
        args = build_args(task, length, config, method=method, output_dir=str(folder), chat=chat)
        write_result(folder, task, args, rows)


def check_config(config: EvaluationConfig) -> None:
    """Raises UsageError for settings that are unknown or out of range, before any work."""
    for method in config.methods:
        find_method(method)
    for task in config.tasks:
        require_task(task)
    if not (config.tasks and config.methods and config.lengths and config.rounds != ()):
        raise UsageError("An evaluation needs at least one task, one method and one length.")
    if min(config.lengths) < 1 or config.round_counts[0] < 1 or config.max_tokens < 1:
        raise UsageError("Lengths, rounds and token limits must be at least 1.")
    known = metric_names()
    if config.metric is not None and config.metric not in known:
        listed = [name for name in known if "@" not in name or name.endswith("@10")]
        raise UsageError(
            f"Unknown metric {config.metric!r}. Allowed: {', '.join(listed)} (and other cuts).",
            hint=did_you_mean(config.metric, known),
        )


CUT_BY_LLAMA2 = frozenset(HUB_SETS)
"""Families whose documents are counted and cut by HELMET's tokenizer."""
MOST_LISTED = 8


def check_files(config: EvaluationConfig) -> None:
    """Looks for the files and packages that would otherwise end the run hours later.

    Raises:
        UsageError: A task's file is missing, or HELMET has none for a length.
        ConfigError: A file of wordings cannot be read.
        MissingDependencyError: Scoring or a data set needs a package that is not installed.
    """
    options = config.options
    load_templates(options.get("templates"))
    haystack = options.get("haystack")
    if haystack is not None and not Path(haystack).is_file():
        raise UsageError(
            f"--haystack {haystack!r} does not exist.", hint="Give a text file: --haystack FILE"
        )
    of_helmet = any(task in SPECS for task in config.tasks)
    if (config.with_rouge or of_helmet) and importlib.util.find_spec("rouge_score") is None:
        raise missing_dependency("rouge-score", "evaluate")  # HELMET's result files hold ROUGE
    missing = list(dict.fromkeys(_missing_files(config)))
    if missing:
        listed = ", ".join(repr(str(path)) for path in missing[:MOST_LISTED])
        more = f", and {len(missing) - MOST_LISTED} more" if len(missing) > MOST_LISTED else ""
        others = "".join(dict.fromkeys(map(describe_similar_files, missing[:MOST_LISTED])))
        raise UsageError(
            f"{len(missing)} HELMET files are missing: {listed}{more}.{others}",
            hint="Give the folder that holds HELMET's data/ with --helmet-data FOLDER; "
            "docs/evaluation.md says where to get it.",
        )
    for task in config.tasks:
        if task in SPECS:
            _check_hub_set(task, options)


def _missing_files(config: EvaluationConfig) -> Iterator[Path]:
    options = config.options
    root = Path(options.get("helmet_data") or ".")
    for task in config.tasks:
        if task not in SPECS:
            continue
        spec = SPECS[task]
        shots = options.get("shots")
        wants_demos = bool(spec.shots if shots is None else shots)
        for length in config.lengths:
            if spec.scale:
                find_scale(spec, length)
            names = [find_file(spec, length)]
            if wants_demos and spec.demo_file.startswith("data/"):
                names.append(spec.demo_file)
            yield from (root / name for name in names if name and not (root / name).is_file())


def _check_hub_set(task: str, options: dict[str, Any]) -> None:
    """Looks for a hub data set's folder, or the package that fetches it, and for the tokenizer."""
    root = Path(options.get("helmet_data") or ".")
    family = SPECS[task].family
    name = ICL_SETS[task][0] if task in ICL_SETS else HUB_SETS.get(family)
    if name is None:
        return
    if not (root / name).is_dir() and importlib.util.find_spec("datasets") is None:
        raise missing_dependency("datasets", "hub")
    if family in CUT_BY_LLAMA2:
        load_llama2(root, options.get("helmet_tokenizer"))
