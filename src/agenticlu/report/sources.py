"""Reads the files of the other stages into `ReportData`. The only part of the report that reads.

A generation run is read through the store; an evaluation by its `summary.json` (and, where that is
missing or several folders are compared, its `predictions.jsonl`); a training run by its
`metrics.jsonl`; a data set by the provenance columns of its preference rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import BaseModel, ConfigDict, ValidationError

from agenticlu.core.errors import StoreError, UsageError, missing_dependency
from agenticlu.core.progress import read_metrics
from agenticlu.core.records import Document, Pair, Piece, Prediction, Tree, Usage
from agenticlu.report import figures
from agenticlu.report.data import Curve, Gain, Measure, ReportData, ResultRow, Stage

PHASE_NAMES: dict[str, str] = {
    "ground": "grounding",
    "judge": "judges",
    "closed_book": "answers without the document",
    **{str(kind): name for kind, name in figures.KIND_NAMES.items()},
}
"""Phase in the ledger of calls to the name of the stage."""
MOST_ERRORS = 50


class _Loose(BaseModel):
    """A part of another stage's file; what it does not know it skips."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Estimate(_Loose):
    mean: float
    low: float | None = None
    high: float | None = None
    n: int = 0

    def measure(self) -> Measure:
        return Measure(mean=self.mean, low=self.low, high=self.high, n=self.n)


class _Cell(_Loose):
    engine: str
    method: str
    task: str
    length: int
    headline: str
    metrics: dict[str, _Estimate]
    num_failed: int = 0
    num_truncated: int = 0
    num_cut_off: int = 0
    usage: Usage = Usage()
    seconds: float = 0.0
    point_precision: _Estimate | None = None
    point_recall: _Estimate | None = None
    by_depth: dict[str, _Estimate] = {}


class _Difference(_Loose):
    task: str
    length: int
    metric: str = "correct"
    baseline_engine: str
    baseline_method: str
    engine: str
    method: str
    baseline_mean: float
    mean: float
    difference: _Estimate


class _Failure(_Loose):
    engine: str = ""
    method: str
    task: str
    length: int
    question_id: str
    error: str


class _Summary(_Loose):
    settings: dict[str, Any] = {}
    cells: tuple[_Cell, ...]
    differences: tuple[_Difference, ...] = ()
    failures: tuple[_Failure, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation folder gives."""

    systems: tuple[str, ...]
    """In order of first appearance; the first is the baseline unless one is called 'base'."""
    rows: tuple[ResultRow, ...]
    gains: tuple[Gain, ...]
    predictions: Mapping[str, Sequence[Prediction]]
    """By system; empty when there is no such file."""
    settings: Mapping[str, Any]
    errors: tuple[str, ...]


@dataclass(frozen=True)
class Generation:
    """What one generation run gives."""

    trees: tuple[Tree, ...]
    documents: tuple[Document, ...]
    pieces: Mapping[str, tuple[Piece, ...]]
    stages: tuple[Stage, ...]
    settings: Mapping[str, Any]
    errors: tuple[str, ...]


def load_report(
    run: Path | None = None,
    evaluations: Sequence[str] = (),
    trainings: Sequence[str] = (),
    datasets: Sequence[Path] = (),
    *,
    title: str | None = None,
    created: str | None = None,
) -> ReportData:
    """Reads whatever is given.

    Args:
        run: Folder of a generation run.
        evaluations: Evaluation folders, each `FOLDER` or `LABEL=FOLDER`.
        trainings: Training folders, in the same form; the label defaults to the folder's name.
        datasets: Data set folders; they say which nodes became pairs.
        title: Name of the report.
        created: When it is written, in words.

    Raises:
        UsageError: Nothing is given, or a folder is missing or not what it should be.
        StoreError: A file is damaged.
    """
    if run is None and not evaluations and not trainings:
        raise UsageError(
            "A report needs something to show.",
            hint="agenticlu report --run RUN --eval EVAL --train TRAIN --out report.html",
        )
    generation = load_generation(run) if run is not None else None
    found = [load_evaluation(*_labelled(given)) for given in evaluations]
    rows = tuple(row for evaluation in found for row in evaluation.rows)
    config: dict[str, dict[str, Any]] = {}
    if run is not None and generation is not None and generation.settings:
        config[f"search ({run.name})"] = dict(generation.settings)
    errors = list(generation.errors if generation is not None else ())
    for given, evaluation in zip(evaluations, found, strict=True):
        if evaluation.settings:
            config[f"evaluation ({_labelled(given)[1].name})"] = dict(evaluation.settings)
        errors += evaluation.errors
    curves: list[Curve] = []
    stages = list(generation.stages if generation is not None else ())
    for given in trainings:
        label, folder = _labelled(given)
        name = label or folder.name
        lines, stage = load_training(folder, name)
        curves += lines
        stages += stage
        settings = _load_config(folder)
        if settings:
            config[f"training ({name})"] = settings
    stages += _evaluation_stages(rows)
    trees = generation.trees if generation is not None else ()
    return ReportData(
        title=title or _title(run, evaluations, trainings),
        created=created,
        documents=generation.documents if generation is not None else (),
        pieces=dict(generation.pieces) if generation is not None else {},
        trees=trees,
        pairs=load_pairs(datasets, trees),
        results=rows,
        gains=_gains(found),
        funnels=load_funnels(datasets),
        changes=figures.main_changes(_merged(found)),
        stages=tuple(stages),
        curves=tuple(curves),
        config=config,
        errors=tuple(errors[:MOST_ERRORS])
        + ((f"and {len(errors) - MOST_ERRORS} more",) if len(errors) > MOST_ERRORS else ()),
    )


def load_generation(run: Path) -> Generation:
    """Reads trees, documents, pieces and the ledger's costs of a generation run, live or over."""
    from agenticlu.search.store import Store

    _require_folder(run, "--run", "a generation run (agenticlu generate)")
    with Store(run, writable=False) as store:
        trees = tuple(store.trees())
        ids = store.document_ids()
        documents = tuple(store.document(i) for i in ids)
        pieces = {i: store.pieces(i) for i in ids}
        spent = store.usage_by_phase()
        settings = store.get("config") or _load_config(run)
        calls, counts = store.call_counts(), store.tree_counts()
    order = ("direct", "closed_book", "clarify", "ground", "point", "sub_answer", "answer", "check")
    stages = [
        Stage(group="search", name=PHASE_NAMES.get(phase, phase), usage=spent[phase])
        for phase in sorted(spent, key=lambda p: order.index(p) if p in order else len(order))
        if phase != "judge" and spent[phase] != Usage()
    ]
    if spent.get("judge", Usage()) != Usage():
        stages.append(Stage(group="judges", name="judges", usage=spent["judge"]))
    errors = []
    if calls["failed"]:
        errors.append(f"search: {calls['failed']:,} calls failed for good")
    left = counts["questions"] - counts["done"]
    if left:
        errors.append(
            f"search: {left:,} of {counts['questions']:,} questions are not finished; run the same "
            "agenticlu generate again to go on"
        )
    return Generation(
        trees=trees,
        documents=documents,
        pieces=pieces,
        stages=tuple(stages),
        settings=settings if isinstance(settings, dict) else {},
        errors=tuple(errors),
    )


def load_evaluation(label: str | None, folder: Path) -> Evaluation:
    """Reads an evaluation: its summary where there is one, else its predictions.

    Args:
        label: What to call the system; engines of the folder keep their names when there are
            several, or no label.
        folder: Evaluation folder.
    """
    _require_folder(folder, "--eval", "an evaluation (agenticlu eval)")
    lines = folder / "predictions.jsonl"
    by_engine: dict[str, list[Prediction]] = {}
    for prediction in _read_predictions(lines) if lines.is_file() else ():
        by_engine.setdefault(prediction.engine, []).append(prediction)
    summary_file = folder / "summary.json"
    summary = _read_summary(summary_file) if summary_file.is_file() else None
    if summary is None and not by_engine:
        raise UsageError(
            f"--eval {str(folder)!r} holds neither summary.json nor predictions.jsonl.",
            hint="Give the folder that `agenticlu eval --out` wrote.",
        )
    mentioned = [cell.engine for cell in summary.cells] if summary is not None else []
    engines = list(dict.fromkeys([*mentioned, *by_engine]))
    names = _system_names(engines, label, folder)
    predictions = {names[engine]: items for engine, items in by_engine.items()}
    systems = tuple(names[engine] for engine in engines)
    if summary is None:
        return Evaluation(
            systems=systems,
            rows=tuple(
                row for s, items in predictions.items() for row in figures.result_rows(items, s)
            ),
            gains=figures.main_gains(predictions),
            predictions=predictions,
            settings=_load_config(folder),
            errors=tuple(
                _failed(s, p.method, p.task, p.length, p.question_id, p.error)
                for s, items in predictions.items()
                for p in items
                if p.error is not None
            ),
        )
    return Evaluation(
        systems=systems,
        rows=tuple(_row(cell, names[cell.engine], by_engine) for cell in summary.cells),
        gains=_summary_gains(summary, names),
        predictions=predictions,
        settings=summary.settings or _load_config(folder),
        errors=tuple(
            _failed(
                names.get(f.engine, f.engine), f.method, f.task, f.length, f.question_id, f.error
            )
            for f in summary.failures
        ),
    )


def load_training(folder: Path, name: str) -> tuple[list[Curve], list[Stage]]:
    """Reads the curves of a training run, and its tokens as a stage.

    Tokens that a shared prefix saved from being computed again count as cached.
    """
    _require_folder(folder, "--train", "a training run (agenticlu train)")
    path = folder / "metrics.jsonl"
    if not path.is_file() or (folder / "run.sqlite").exists():  # a search keeps such a file, too
        raise UsageError(
            f"--train {str(folder)!r} holds no metrics.jsonl of a training run.",
            hint="Give the folder that `agenticlu train --out` wrote.",
        )
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    traced = stored = steps = 0
    for line in read_metrics(path):
        step = line.get("step")
        event = line.get("event", "step")
        if step is None or not _is_number(step) or event not in ("step", "validation"):
            continue
        split = "validation" if event == "validation" else "training"
        for key, value in line.items():
            if key != "step" and _is_number(value):
                points.setdefault((split, key), []).append((float(step), float(value)))
        if event == "step":
            steps += 1
            traced += int(line.get("trace_tokens") or 0)
            stored += int(line.get("stored_tokens") or 0)
    curves = [
        Curve(run=name, quantity=key, split=split, points=tuple(sorted(dict(values).items())))
        for (split, key), values in points.items()
    ]
    if not stored:
        return curves, []
    usage = Usage(
        requests=steps, prompt_tokens=max(traced, stored), cached_tokens=max(0, traced - stored)
    )
    return curves, [Stage(group="training", name=name, usage=usage)]


def load_pairs(folders: Sequence[Path], trees: Sequence[Tree]) -> tuple[Pair, ...]:
    """Reads which nodes of these trees became chosen and rejected; one entry per pair."""
    known = {node.id for tree in trees for node in tree.nodes}
    pairs: dict[str, Pair] = {}
    for folder in folders:
        _require_folder(folder, "--data", "a data set (agenticlu dataset build)")
        files = sorted((folder / "preference").glob("*.parquet"))
        if not files and not any((folder / "sft").glob("*.parquet")):  # no pairs is no fault
            raise UsageError(
                f"--data {str(folder)!r} holds neither preference/ nor sft/*.parquet.",
                hint="Give the folder that `agenticlu dataset build --out` wrote.",
            )
        for row in _read_rows(files):
            if row["chosen_node"] not in known or row["rejected_node"] not in known:
                continue
            key = f"{row['chosen_node']}-{row['rejected_node']}"
            pairs.setdefault(
                key,
                Pair(
                    id=str(row.get("pair_id") or key),
                    tree_id=row["tree_id"],
                    document_id=row["document_id"],
                    question_id=row["question_id"],
                    kind="path" if row.get("pair_kind") == "path" else "step",
                    chosen=row["chosen_node"],
                    rejected=row["rejected_node"],
                    score_chosen=row["score_chosen"],
                    score_rejected=row["score_rejected"],
                ),
            )
    return tuple(pairs.values())


def load_funnels(folders: Iterable[Path]) -> dict[str, dict[str, int]]:
    """Reads what became of nodes, turns and trees on the way into the data sets, summed up."""
    funnels: dict[str, dict[str, int]] = {}
    for folder in folders:
        funnel = _load_json(folder / "summary.json").get("build", {}).get("funnel", {})
        for name, counts in funnel.items():
            if not isinstance(counts, dict):
                continue
            sums = funnels.setdefault(name, {})
            for reason, number in counts.items():
                if reason != "total" and isinstance(number, int):
                    sums[reason] = sums.get(reason, 0) + number
    return funnels


def _read_rows(files: Iterable[Path]) -> Iterable[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing_dependency("pyarrow", "data") from error
    wanted = (
        "tree_id", "document_id", "question_id", "chosen_node", "rejected_node", "score_chosen",
        "score_rejected", "pair_id", "pair_kind",
    )  # fmt: skip
    for file in files:
        names = pyarrow.parquet.read_schema(file).names
        missing = [name for name in wanted[:7] if name not in names]
        if missing:
            raise UsageError(
                f"{str(file)!r} does not say which nodes its pairs come from: it lacks the "
                f"columns {', '.join(missing)}.",
                hint="Give a data set that `agenticlu dataset build` wrote.",
            )
        columns = [name for name in wanted if name in names]
        yield from pyarrow.parquet.read_table(file, columns=columns).to_pylist()


def _read_predictions(path: Path) -> list[Prediction]:
    """Reads a file of predictions; of lines with one id the last counts, a torn end is skipped."""
    found: dict[str, Prediction] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            prediction = Prediction.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                continue
            raise StoreError(
                f"{path}, line {number}, is not a prediction: {error.errors()[0]['msg']}."
            ) from error
        found[prediction.id] = prediction
    return list(found.values())


def _read_summary(path: Path) -> _Summary:
    try:
        return _Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top"
        raise StoreError(
            f"{path} is not the summary of an evaluation: {first['msg']} at {where}.",
            hint="Run the same `agenticlu eval` again; it writes the summary from what it kept.",
        ) from error


def _row(cell: _Cell, system: str, predictions: Mapping[str, Sequence[Prediction]]) -> ResultRow:
    score = cell.metrics.get(cell.headline)
    return ResultRow(
        system=system,
        method=cell.method,
        task=cell.task,
        length=cell.length,
        metric=cell.headline,
        score=score.measure() if score is not None else Measure(mean=0.0, n=0),
        num_failed=cell.num_failed,
        num_truncated=cell.num_truncated,
        num_cut_off=cell.num_cut_off,
        usage=cell.usage,
        lone_tokens_per_item=_lone_tokens_per_item(cell, predictions.get(cell.engine, ())),
        seconds=cell.seconds,
        point_precision=cell.point_precision.measure() if cell.point_precision else None,
        point_recall=cell.point_recall.measure() if cell.point_recall else None,
        by_depth={fifth: found.measure() for fifth, found in cell.by_depth.items()},
    )


def _lone_tokens_per_item(cell: _Cell, predictions: Sequence[Prediction]) -> float | None:
    """Returns the mean cost of an item asked alone, from the predictions behind a cell.

    A folder may hold predictions of the same cell under other settings: then nobody knows.
    """
    place = (cell.method, cell.task, cell.length)
    scored = [p for p in predictions if (p.method, p.task, p.length) == place and p.error is None]
    if sum((p.usage for p in scored), Usage()) == cell.usage:
        return figures.lone_tokens_per_item(scored)
    return None


def _summary_gains(summary: _Summary, names: Mapping[str, str]) -> tuple[Gain, ...]:
    """Returns the summary's own differences for the cells that a report compares."""
    systems = list(dict.fromkeys(names[cell.engine] for cell in summary.cells))
    if not systems:
        return ()
    wanted = figures.contest(systems)
    gains = [
        Gain(
            task=d.task,
            length=d.length,
            baseline=figures.in_words(names[d.baseline_engine], d.baseline_method),
            contender=figures.in_words(names[d.engine], d.method),
            metric=d.metric,
            baseline_mean=d.baseline_mean,
            contender_mean=d.mean,
            difference=d.difference.measure(),
        )
        for d in summary.differences
        if (names.get(d.baseline_engine), names.get(d.engine)) == wanted
        and (d.baseline_method, d.method) == ("direct", "clarify")
    ]
    return tuple(sorted(gains, key=lambda gain: (-gain.length, gain.task)))


def _gains(found: Sequence[Evaluation]) -> tuple[Gain, ...]:
    """Returns one folder's own gains; of several folders, those between their predictions."""
    if len(found) == 1:
        return found[0].gains
    return figures.main_gains(_merged(found))


def _merged(found: Iterable[Evaluation]) -> dict[str, list[Prediction]]:
    """Returns the predictions of all folders by system."""
    merged: dict[str, list[Prediction]] = {}
    for evaluation in found:
        for system, items in evaluation.predictions.items():
            merged.setdefault(system, []).extend(items)
    return merged


def _evaluation_stages(rows: Iterable[ResultRow]) -> list[Stage]:
    spent: dict[str, Usage] = {}
    for row in rows:
        name = f"{row.system}, {row.method}"
        spent[name] = spent.get(name, Usage()) + row.usage
    return [
        Stage(group="evaluation", name=name, usage=usage)
        for name, usage in spent.items()
        if usage != Usage()
    ]


def _system_names(engines: Sequence[str], label: str | None, folder: Path) -> dict[str, str]:
    """Returns what to call each engine: the label, else its name without folders."""
    if len(engines) == 1:
        return {engines[0]: label or _short_name(engines[0]) or folder.name}
    short = [_short_name(engine) or folder.name for engine in engines]
    if len(set(short)) < len(short):
        short = [engine or folder.name for engine in engines]
    return dict(zip(engines, short, strict=True))


def _short_name(engine: str) -> str:
    parts = [part for part in engine.replace("\\", "/").split("/") if part]
    if len(parts) > 1 and parts[-1] == "export":
        parts.pop()
    return parts[-1] if parts else ""


def _failed(
    system: str, method: str, task: str, length: int, question: str, error: str | None
) -> str:
    return f"{system}, {method}, {task} at {length:,} tokens, question {question}: {error}"


def _labelled(given: str) -> tuple[str | None, Path]:
    """Splits `LABEL=FOLDER`; a folder that exists under the whole name is taken as it is."""
    label, sign, folder = given.partition("=")
    if not sign or Path(given).is_dir():
        return None, Path(given)
    return label.strip() or None, Path(folder)


def _require_folder(folder: Path, option: str, what: str) -> None:
    if not folder.is_dir():
        raise UsageError(f"{option} {str(folder)!r} is no folder; it should be that of {what}.")


def _load_config(folder: Path) -> dict[str, Any]:
    return _load_json(folder / "config.json")


def _load_json(path: Path) -> dict[str, Any]:
    """Returns the object in a file; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path} is no JSON: {error}.") from error
    return values if isinstance(values, dict) else {}


def _title(run: Path | None, evaluations: Sequence[str], trainings: Sequence[str]) -> str:
    names = [run.resolve().name] if run is not None else []
    names += [_labelled(given)[1].resolve().name for given in (*evaluations, *trainings)]
    return " · ".join(dict.fromkeys(names))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
