"""Loads a report's data from the folders of the other stages; the only part that reads files.

A generation run is read through the store; an evaluation by its `summary.json` (and, where that is
missing or several folders are compared, its `predictions.jsonl`); a training run by its
`metrics.jsonl`; a data set by the provenance columns of its preference rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from agenticlu.core.errors import UsageError
from agenticlu.core.files import Row, load_json_object, load_rows
from agenticlu.core.progress import read_metrics
from agenticlu.core.records import Pair, Prediction, Tree, Usage
from agenticlu.evaluation.config import CONFIG_NAME
from agenticlu.evaluation.predictions import FILE_NAME, read_predictions
from agenticlu.evaluation.records import SUMMARY_NAME, Cell, Difference, load_summary
from agenticlu.evaluation.summary import summarise
from agenticlu.report import figures
from agenticlu.report.figures import Change, Curve, ReportData, Stage

PHASE_NAMES: dict[str, str] = {
    "ground": "grounding",
    "judge": "judges",
    "closed_book": "answers without the document",
    **{str(kind): name for kind, name in figures.KIND_NAMES.items()},
}
"""Phase in the ledger of calls to the name of the stage."""
MOST_ERRORS = 50
PAIR_COLUMNS = (
    "tree_id", "document_id", "question_id", "chosen_node", "rejected_node", "score_chosen",
    "score_rejected",
)  # fmt: skip
"""Columns that say where a preference row comes from."""


@dataclass(frozen=True)
class Evaluation:
    """The contents of one evaluation folder; engines have the names that the report shows."""

    engines: tuple[str, ...]
    """In order of first appearance; the first is the baseline unless one is called 'base'."""
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    predictions: Mapping[str, Sequence[Prediction]]
    """By engine; empty where the folder has none."""
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
    """Reads the given folders into one report.

    Args:
        run: Folder of a generation run.
        evaluations: Evaluation folders, each `FOLDER` or `LABEL=FOLDER`.
        trainings: Training folders, in the same form; the label defaults to the folder's name.
        datasets: Data set folders; they say which nodes became pairs.
        title: Name of the report.
        created: Date of the report, as shown.

    Raises:
        UsageError: Nothing is given, or a folder is missing or of another kind.
        StoreError: A file is damaged.
    """
    if run is None and not evaluations and not trainings:
        raise UsageError(
            "A report needs at least one of --run, --eval and --train.",
            hint="agenticlu report --run RUN --eval EVAL --train TRAIN --out report.html",
        )
    parts = [] if run is None else [load_generation(run)]
    found = []
    for label, folder in map(_split_label, evaluations):
        one = load_evaluation(label, folder)
        found.append(one)
        config = {f"evaluation ({folder.name})": dict(one.settings)} if one.settings else {}
        parts.append(ReportData(results=one.cells, errors=one.errors, config=config))
    for label, folder in map(_split_label, trainings):
        parts.append(load_training(folder, label or folder.name))
    data = _join(parts)
    gains, changes = _contest(found)
    errors, more = data.errors[:MOST_ERRORS], len(data.errors) - MOST_ERRORS
    return data.model_copy(
        update={
            "title": title or _title(run, evaluations, trainings),
            "created": created,
            "pairs": load_pairs(datasets, data.trees),
            "gains": gains,
            "funnels": load_funnels(datasets),
            "pointing": load_pointing(datasets),
            "changes": changes,
            "stages": (*data.stages, *_evaluation_stages(data.results)),
            "errors": (*errors, f"and {more} more") if more > 0 else errors,
        }
    )


def _join(parts: Iterable[ReportData]) -> ReportData:
    """Returns what several folders hold together."""
    parts = list(parts)
    lists = ("documents", "trees", "results", "stages", "curves", "errors")
    joined: dict[str, Any] = {
        name: tuple(one for part in parts for one in getattr(part, name)) for name in lists
    }
    return ReportData(
        **joined,
        pieces={name: pieces for part in parts for name, pieces in part.pieces.items()},
        config={name: values for part in parts for name, values in part.config.items()},
        stopping=next((part.stopping for part in parts if part.stopping), None),
    )


def load_generation(run: Path) -> ReportData:
    """Reads the trees, documents, pieces and costs of a generation run, live or finished."""
    from agenticlu.search.store import Store

    _require_folder(run, "--run", "a generation run (agenticlu generate)")
    with Store(run, writable=False) as store:
        trees = tuple(store.trees())
        ids = store.document_ids()
        documents = tuple(store.document(i) for i in ids)
        pieces = {i: store.pieces(i) for i in ids}
        spent = store.usage_by_phase()
        settings = store.get("config") or load_json_object(run / CONFIG_NAME) or None
        calls, counts = store.call_counts(), store.tree_counts()
        stopping = store.get("stop_rule")
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
            "agenticlu generate again to continue"
        )
    return ReportData(
        trees=trees,
        documents=documents,
        pieces=pieces,
        stages=tuple(stages),
        config={f"search ({run.name})": settings} if isinstance(settings, dict) else {},
        stopping=stopping if isinstance(stopping, dict) else None,
        errors=tuple(errors),
    )


def load_evaluation(label: str | None, folder: Path) -> Evaluation:
    """Reads an evaluation: its summary where there is one, else its predictions.

    Args:
        label: Name of the engine; the engines of a folder with several keep their own.
        folder: Evaluation folder.
    """
    _require_folder(folder, "--eval", "an evaluation (agenticlu eval)")
    lines, summary_file = folder / FILE_NAME, folder / SUMMARY_NAME
    found = [*read_predictions(lines, warn=False).values()] if lines.is_file() else []
    if not found and not summary_file.is_file():
        raise UsageError(
            f"--eval {str(folder)!r} holds neither {SUMMARY_NAME} nor {FILE_NAME}.",
            hint="Give the folder that `agenticlu eval --out` wrote.",
        )
    summary = load_summary(summary_file) if summary_file.is_file() else summarise(found)
    mentioned = [*(cell.engine for cell in summary.cells), *(p.engine for p in found)]
    names = _name_engines(list(dict.fromkeys(mentioned)), label, folder)
    predictions: dict[str, list[Prediction]] = {}
    for p in found:
        name = names[p.engine]
        predictions.setdefault(name, []).append(p.model_copy(update={"engine": name}))
    return Evaluation(
        engines=tuple(names.values()),
        cells=tuple(c.model_copy(update={"engine": names[c.engine]}) for c in summary.cells),
        differences=tuple(
            d.model_copy(
                update={
                    "engine": names[d.engine],
                    "baseline_engine": names[d.baseline_engine],
                }
            )
            for d in summary.differences
        ),
        predictions=predictions,
        settings=summary.settings or load_json_object(folder / CONFIG_NAME),
        errors=tuple(
            f"{', '.join(dict.fromkeys(names.values()))}: {note}"
            for note in summary.run_notes
            if summary.num_wanted is not None
        )
        + tuple(
            f"{names.get(f.engine, f.engine)}, {f.method}, {f.task} at {f.length:,} tokens, "
            f"question {f.question_id}: {f.error}"
            for f in summary.failures
        ),
    )


def load_training(folder: Path, name: str) -> ReportData:
    """Reads the curves of a training run, its configuration, and its tokens as a stage.

    Tokens that a shared prefix saved from being computed again count as cached.
    """
    _require_folder(folder, "--train", "a training run (agenticlu train)")
    path = folder / "metrics.jsonl"
    if not path.is_file() or (folder / "run.sqlite").exists():  # a search has a metrics.jsonl, too
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
    usage = Usage(
        requests=steps, prompt_tokens=max(traced, stored), cached_tokens=max(0, traced - stored)
    )
    settings = load_json_object(folder / CONFIG_NAME)
    return ReportData(
        curves=tuple(curves),
        stages=(Stage(group="training", name=name, usage=usage),) if stored else (),
        config={f"training ({name})": settings} if settings else {},
    )


def load_pairs(folders: Sequence[Path], trees: Sequence[Tree]) -> tuple[Pair, ...]:
    """Reads which nodes of these trees became chosen and rejected; one entry per pair."""
    known = {node.id for tree in trees for node in tree.nodes}
    pairs: dict[str, Pair] = {}
    for folder in folders:
        _require_folder(folder, "--data", "a data set (agenticlu dataset build)")
        files = sorted((folder / "preference").glob("*.parquet"))
        # A data set without pairs is complete: where no expansion was mixed there are none.
        if not files and not any((folder / "sft").glob("*.parquet")):
            raise UsageError(
                f"--data {str(folder)!r} holds neither preference/ nor sft/*.parquet.",
                hint="Give the folder that `agenticlu dataset build --out` wrote.",
            )
        for row in _read_pairs(files):
            if row.get("pair_kind") == "marks":
                continue  # both of its lists belong to one node
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
        funnel = load_json_object(folder / "summary.json").get("build", {}).get("funnel", {})
        for name, counts in funnel.items():
            if not isinstance(counts, dict):
                continue
            sums = funnels.setdefault(name, {})
            for reason, number in counts.items():
                if reason != "total" and isinstance(number, int):
                    sums[reason] = sums.get(reason, 0) + number
    return funnels


def load_pointing(folders: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Reads how right the pieces are that data sets teach to name; those without gold have none."""
    found: dict[str, dict[str, Any]] = {}
    for folder in folders:
        build = load_json_object(folder / "summary.json").get("build", {})
        pointing = build.get("pointing")
        if isinstance(pointing, dict) and pointing.get("by_depth"):
            found[folder.name] = pointing
    return found


def _read_pairs(files: Iterable[Path]) -> Iterator[Row]:
    for file in files:
        for row in load_rows(file, columns=(*PAIR_COLUMNS, "pair_id", "pair_kind")):
            if missing := [name for name in PAIR_COLUMNS if name not in row]:
                raise UsageError(
                    f"{str(file)!r} does not name the nodes of its pairs: the columns "
                    f"{', '.join(missing)} are missing.",
                    hint="Give a data set that `agenticlu dataset build` wrote.",
                )
            yield row


def _contest(
    found: Sequence[Evaluation],
) -> tuple[tuple[Difference, ...], tuple[Change, ...]]:
    """Returns the gains and the questions behind them.

    One folder's own differences are shown as they are; those between several folders are computed
    from their predictions.
    """
    predictions: dict[str, list[Prediction]] = {}
    for evaluation in found:
        for engine, items in evaluation.predictions.items():
            predictions.setdefault(engine, []).extend(items)
    gains, changes = figures.compare_contest(predictions)
    if len(found) == 1:
        own = figures.select_gains(found[0].differences, found[0].engines)
        gains = tuple(own) or gains
    return gains, changes


def _evaluation_stages(cells: Iterable[Cell]) -> list[Stage]:
    spent: dict[str, Usage] = {}
    for cell in cells:
        name = f"{cell.engine}, {cell.method}"
        spent[name] = spent.get(name, Usage()) + cell.usage
    return [
        Stage(group="evaluation", name=name, usage=usage)
        for name, usage in spent.items()
        if usage != Usage()
    ]


def _name_engines(engines: Sequence[str], label: str | None, folder: Path) -> dict[str, str]:
    """Returns the shown name of each engine: the label, else its name without folders."""
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


def _split_label(given: str) -> tuple[str | None, Path]:
    """Splits `LABEL=FOLDER`; a folder that exists under the whole name is taken as it is."""
    label, sign, folder = given.partition("=")
    if not sign or Path(given).is_dir():
        return None, Path(given)
    return label.strip() or None, Path(folder)


def _require_folder(folder: Path, option: str, what: str) -> None:
    if not folder.is_dir():
        raise UsageError(f"{option} {str(folder)!r} is not a folder; give the folder of {what}.")


def _title(run: Path | None, evaluations: Sequence[str], trainings: Sequence[str]) -> str:
    names = [run.resolve().name] if run is not None else []
    names += [_split_label(given)[1].resolve().name for given in (*evaluations, *trainings)]
    return " · ".join(dict.fromkeys(names))


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
