"""HELMET's result files: written for its own scripts, judged, and collected into its table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, StoreError, UsageError
from agenticlu.core.records import Prediction, Record
from agenticlu.evaluation.config import EvaluationConfig
from agenticlu.evaluation.helmet import SPECS, alce, dataset_name, find_file
from agenticlu.evaluation.helmet.sources import read_json
from agenticlu.evaluation.predictions import FILE_NAME, write_json
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.scoring import helmet
from agenticlu.evaluation.scoring.answers import Golds
from agenticlu.evaluation.scoring.rules import LONG_ANSWER_METRIC, SUMMARY_METRIC
from agenticlu.evaluation.tables import render_table
from agenticlu.judges.rubric import DETAIL_COLUMN, LongAnswerGrade, parse_stored_grade

HELMET_FOLDER = "helmet"
"""Below the folder of results: HELMET's result files, one folder per model and method."""
ID_COLUMN = "prediction_id"
"""Column that says which of our predictions a row is."""
JUDGED_SUFFIX = "-gpt4eval_o.json"
"""Ends the name of a judged file, in place of .json; HELMET's, whoever the judge is."""
CITATION_METRICS = ("citation_rec", "citation_prec")


def _short_name(task: str) -> str:
    if task.startswith("kilt_"):
        return task.removeprefix("kilt_").removesuffix("_3")
    return task.removeprefix("icl_").removesuffix("_eng")


HEADLINES: dict[str, tuple[str, ...]] = {
    _short_name(task): (spec.headline, *(CITATION_METRICS if spec.category == "Cite" else ()))
    for task, spec in sorted(SPECS.items(), key=lambda pair: len(pair[0]), reverse=True)
    if spec.balanced and not spec.natural_labels and task != "qasper"
}
"""Part of a data set's name to its headline metrics, as HELMET collects them; longer names first,
since alce_asqa is part of alce_asqa_nocite."""
CATEGORIES: dict[str, tuple[str, ...]] = {
    "Recall": ("json_kv", "ruler_niah_mk_2", "ruler_niah_mk_3", "ruler_niah_mv"),
    "RAG": ("nq", "hotpotqa", "popqa", "triviaqa"),
    "ICL": ("trec_coarse", "trec_fine", "banking77", "clinic150", "nlu"),
    "Cite": ("alce_asqa", "alce_qampari"),
    "Re-rank": ("msmarco_rerank_psg",),
    "LongQA": ("narrativeqa", "infbench_qa", "infbench_choice"),
    "Summ": ("infbench_sum", "multi_lexsum"),
}
"""In HELMET's order, in which a category's mean is summed."""
SCALES = {SUMMARY_METRIC: 100.0, LONG_ANSWER_METRIC: 100 / 3}


class ResultArgs(Record):
    """The parts of a result file's name, and the values stored under `args`."""

    dataset: str
    """HELMET's name, with the number that depends on the length."""
    tag: str = "v1"
    test_files: str = ""
    demo_files: str = ""
    model_name_or_path: str = ""
    output_dir: str = ""
    input_max_length: int
    max_test_samples: int | None
    shots: int
    do_sample: bool = False
    generation_max_length: int
    generation_min_length: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    use_chat_template: bool = False
    seed: int = 42

    @property
    def file_name(self) -> str:
        """The name of the file.

        >>> args = ResultArgs(dataset="narrativeqa_7892", input_max_length=8192, shots=2,
        ...     max_test_samples=100, generation_max_length=100, use_chat_template=True)
        >>> args.file_name
        'narrativeqa_7892_v1__in8192_size100_shots2_sampFalsemax100min0t0.0p1.0_chatTrue_42.json'
        """
        stem = Path(self.test_files).stem if self.test_files else ""
        return (
            f"{self.dataset}_{self.tag}_{stem}_in{self.input_max_length}"
            f"_size{self.max_test_samples}_shots{self.shots}_samp{self.do_sample}"
            f"max{self.generation_max_length}min{self.generation_min_length}"
            f"t{self.temperature}p{self.top_p}_chat{self.use_chat_template}_{self.seed}.json"
        )


def helmet_scores(task: str, item: Item, output: str) -> helmet.Scored:
    """Scores an output as HELMET's own post-processing does, ROUGE and num_preds included."""
    spec = SPECS[task]
    golds: Golds = item.question.answers
    if spec.rule == "ranking":
        return helmet.score_ranking(output, item.reference["labels"], item.reference["cuts"])
    if spec.rule == "all_of":
        return helmet.score_ruler(output, item.question.answers)
    if spec.rule == "label":
        return helmet.score_label(output, item.question.answers[0])
    if spec.rule == "choice":
        letter = str(item.reference["letter"])
        return helmet.score_choice(output, letter, item.question.options[ord(letter) - ord("A")])
    if spec.family == "alce" and item.row is not None:
        golds = item.row["answer"]  # one text, not the aliases that ALCE's figures look for
    return helmet.score_default(output, golds, prefix=spec.label)


def build_result(
    task: str, args: ResultArgs, rows: Sequence[tuple[Item, Prediction]]
) -> dict[str, Any]:
    """Returns the content of a result file.

    Failed items, which HELMET leaves out of the rows, are counted beside them, and so are items
    whose context was cut.
    """
    data: list[dict[str, Any]] = []
    metrics: dict[str, list[float]] = {}
    scored = [(item, p) for item, p in rows if p.error is None]
    for item, prediction in sorted(scored, key=lambda pair: int((pair[0].row or {})["index"])):
        found, parsed = helmet_scores(task, item, prediction.raw)
        lengths = {
            "input_len": prediction.usage.prompt_tokens,
            "output_len": prediction.usage.completion_tokens,
        }
        for name, value in {**found, **lengths}.items():
            metrics.setdefault(name, []).append(value)
        kept = {
            key: value
            for key, value in (item.row or {}).items()
            if not key.startswith("demo") or key == "demos"
        }
        if SPECS[task].family == "alce":
            kept["docs"] = item.reference["passages"]
        data.append(
            {
                **kept,
                "output": prediction.raw,
                **lengths,
                "input_text": "",
                "document_id": prediction.document_id,
                "parsed_output": parsed,
                **found,
            }
        )
    seconds = sum(p.seconds for _, p in scored)
    return {
        "args": {**args.model_dump(exclude={"dataset"}), "datasets": args.dataset, "no_cuda": True},
        "data": data,
        "metrics": metrics,
        "averaged_metrics": average_metrics(metrics),
        "throughput": len(data) / seconds if seconds else 0.0,
        "num_failed": len(rows) - len(scored),
        "num_truncated": sum(prediction.truncated for _, prediction in scored),
    }


def average_metrics(metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns HELMET's averages: per cent, but for token lengths.

    num_preds is multiplied by 100 as well, as in HELMET.
    """
    import numpy as np

    return {
        name: float(np.mean(values) * (100 if "_len" not in name else 1))
        for name, values in metrics.items()
    }


def build_args(
    task: str,
    length: int,
    config: EvaluationConfig,
    *,
    method: str = "helmet",
    output_dir: str = "",
    chat: bool,
) -> ResultArgs:
    """Returns the arguments of a task's result file.

    Args:
        task: One of `SPECS`.
        length: Nominal length.
        config: Of the run; what it leaves open is HELMET's.
        method: `helmet` shows demonstrations and has HELMET's limits; the others have their own.
        output_dir: Where the file goes.
        chat: Whether the prompt was sent in chat form.
    """
    spec, own = SPECS[task], method == "helmet"
    shots = config.options.get("shots") if own else 0
    return ResultArgs(
        dataset=dataset_name(task, length),
        test_files=find_file(spec, length),
        demo_files=spec.demo_file,
        model_name_or_path=config.label,
        output_dir=output_dir,
        input_max_length=length,
        max_test_samples=spec.rows if config.limit is None else config.limit,
        shots=spec.shots if shots is None else shots,
        do_sample=config.temperature > 0,
        temperature=config.temperature,
        top_p=config.top_p,
        generation_max_length=spec.gen_tokens if own else config.max_tokens,
        use_chat_template=chat,
    )


def _has_content(path: Path, content: Any) -> bool:
    """Whether a file holds exactly this; a damaged one does not."""
    try:
        return bool(read_json(path) == content)
    except (ConfigError, UsageError):
        return False


def write_result(
    folder: Path, task: str, args: ResultArgs, rows: Sequence[tuple[Item, Prediction]]
) -> Path:
    """Writes a result file and its `.score`; for ALCE the score is ALCE's, without citations.

    Files with the same content are left alone, since a score may have gained citations.
    """
    result = json.loads(json.dumps(build_result(task, args, rows)))
    path = folder / args.file_name
    scored = path.with_name(path.name + ".score")
    if scored.is_file() and _has_content(path, result):
        return path
    write_json(path, result)
    score = result["averaged_metrics"]
    if SPECS[task].family == "alce":
        score = alce.score_rows(task, result["data"]) if result["data"] else {}
    write_json(scored, score)
    return path


def find_judged_path(path: Path) -> Path:
    """Returns the path of a result file's judged file."""
    return path.with_name(path.name.removesuffix(".json") + JUDGED_SUFFIX)


def find_results_folder(file: Path) -> Path | None:
    """Returns the folder of results that a HELMET result file belongs to; None if it is alone."""
    folder = file.resolve().parent.parent
    is_ours = folder.name == HELMET_FOLDER and (folder.parent / FILE_NAME).is_file()
    return folder.parent if is_ours else None


def add_judgements(predictions: Sequence[Prediction], folder: Path) -> list[Prediction]:
    """Returns the predictions of a folder of results, a judge's metric among the scores.

    A verdict about another reply than the one that is kept now does not count.

    Raises:
        StoreError: A judged file is damaged.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    for content in _load_judged_files(folder):
        for row in content["data"]:
            grade = parse_stored_grade(row.get(DETAIL_COLUMN))
            if grade is not None and ID_COLUMN in row:
                is_long = isinstance(grade, LongAnswerGrade)
                metric = LONG_ANSWER_METRIC if is_long else SUMMARY_METRIC
                found[str(row[ID_COLUMN]), str(row.get("output"))] = {metric: grade.share}
    return [
        p.model_copy(update={"scores": {**p.scores, **found[p.id, p.raw]}})
        if p.error is None and (p.id, p.raw) in found
        else p
        for p in predictions
    ]


def describe_judges(folder: Path) -> list[str]:
    """Returns a note that names the judges of a folder of results; an empty list without any."""
    names = {
        str(content.get("judge") or "unnamed")
        for content in _load_judged_files(folder)
        if any(row.get(DETAIL_COLUMN) for row in content["data"])
    }
    if not names:
        return []
    metrics, judges = f"{LONG_ANSWER_METRIC} and {SUMMARY_METRIC}", ", ".join(sorted(names))
    return [f"{metrics} are HELMET's names for a judge's scores; the judge here: {judges}."]


def _load_judged_files(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted((folder / HELMET_FOLDER).glob(f"*/*{JUDGED_SUFFIX}")):
        try:
            content = read_json(path)
        except (ConfigError, UsageError):
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("data"), list):
            raise StoreError(
                f"{path} is not a judged result file.",
                hint="Judge its result file again: agenticlu eval judge FILE.",
            )
        yield content


class HelmetRow(Record):
    """One line of the table."""

    length: int
    model: str
    values: dict[str, float]
    """`{data set} {metric}` to its value; what was not run is absent."""
    categories: dict[str, float | None]
    """Category to its mean; None while one of its columns is missing (HELMET silently averages the
    others)."""
    average: float | None
    """Mean of the seven categories ("Ours" in HELMET); None while one is missing."""
    missing: tuple[str, ...]
    """Columns that a category lacks."""
    losses: tuple[str, ...] = ()
    """For each data set with some, how many rows failed, were truncated or have no verdict; HELMET
    silently leaves the first and the last out of its means."""


def category_columns(category: str) -> tuple[str, ...]:
    """Returns the columns that a category is the mean of."""
    return tuple(f"{name} {metric}" for name in CATEGORIES[category] for metric in HEADLINES[name])


def collect(folders: Iterable[Path]) -> list[HelmetRow]:
    """Reads the result files of one folder per model.

    As in HELMET, a judged file takes precedence over a `.score` file, and that over the result.

    Raises:
        UsageError: No result file was found, or two files claim one cell.
    """
    found: dict[tuple[int, str], dict[str, float]] = {}
    origins: dict[tuple[int, str, str], Path] = {}
    losses: dict[tuple[int, str], list[str]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            read = _read_averages(path)
            if read is None:
                continue
            name, length, metrics, lost = read
            if lost:
                losses.setdefault((length, folder.name), []).append(f"{name}: {lost}")
            for metric in HEADLINES[name]:
                if not isinstance(metrics.get(metric), (int, float)):
                    continue
                column = f"{name} {metric}"
                place = (length, folder.name, column)
                if place in origins:
                    raise _duplicate_error(folder, f"{column} at {length}", origins[place], path)
                origins[place] = path
                value = metrics[metric] * SCALES.get(metric, 1.0)
                found.setdefault((length, folder.name), {})[column] = value
    if not found:
        raise UsageError("No HELMET result files in the given folders.")
    return [_build_row(*key, values, losses.get(key, ())) for key, values in sorted(found.items())]


def _duplicate_error(folder: Path, what: str, one: Path, other: Path) -> UsageError:
    hint = "Move one of them away; HELMET would silently average them."
    if one.parent != other.parent:
        hint = f"Give the folder of each model, such as {one.parent} {other.parent}"
    names = f"{str(one.relative_to(folder))!r} and {str(other.relative_to(folder))!r}"
    return UsageError(f"Two files give {what} for {folder.name}: {names}.", hint=hint)


def _build_row(
    length: int, model: str, values: dict[str, float], losses: Iterable[str]
) -> HelmetRow:
    categories: dict[str, float | None] = {}
    missing: list[str] = []
    for name in CATEGORIES:
        columns = category_columns(name)
        absent = [column for column in columns if column not in values]
        missing += absent
        categories[name] = (
            None if absent else sum(values[column] for column in columns) / len(columns)
        )
    known = [value for value in categories.values() if value is not None]
    average = sum(known) / len(known) if len(known) == len(CATEGORIES) else None
    return HelmetRow(
        length=length,
        model=model,
        values=values,
        categories=categories,
        average=average,
        missing=tuple(missing),
        losses=tuple(losses),
    )


def _read_averages(path: Path) -> tuple[str, int, Mapping[str, Any], str] | None:
    """Returns data set, length, averages and losses of a result file; None for other files."""
    length = re.search(r"_in(\d+)_size", path.name)
    if length is None or path.name.endswith(JUDGED_SUFFIX):
        return None
    stem = path.name[: length.start()]
    name = next((name for name in HEADLINES if name in stem), None)
    if name is None or "natural_label" in stem or re.search(r"\dshot(?!_balance)", stem):
        return None  # other forms of in-context learning are not in HELMET's table
    judged = find_judged_path(path)
    score = path.with_name(path.name + ".score")
    result = read_json(path)
    verdicts = read_json(judged) if judged.is_file() else None
    chosen = judged if verdicts is not None else score if score.is_file() else path
    if chosen == score:
        averages = read_json(score)
    else:
        content = result if verdicts is None else verdicts
        averages = content.get("averaged_metrics") if isinstance(content, dict) else None
    if not isinstance(averages, dict):
        raise ConfigError(
            f"{chosen} has no averages: it is not a result file of HELMET.",
            hint="Move it out of the folder.",
        )
    return name, int(length[1]), averages, _describe_losses(result, verdicts)


def _describe_losses(result: Any, verdicts: Any) -> str:
    """Returns how many rows of a file are behind no mean, or were cut; an empty string for none."""
    if not isinstance(result, dict):
        return ""
    rows = result.get("data") or ()
    failed = result.get("num_failed", 0)
    found = {"failed": failed, "truncated": result.get("num_truncated", 0)}
    if isinstance(verdicts, dict):
        judged = verdicts.get("data") or ()
        named = sum(bool(row.get(DETAIL_COLUMN)) for row in judged if isinstance(row, dict))
        found["without a verdict"] = len(rows) - named
    counts = [f"{number} {what}" for what, number in found.items() if number > 0]
    return f"of {len(rows) + failed} rows {', '.join(counts)}" if counts else ""


def render_collected(rows: Iterable[HelmetRow], *, every: bool = False) -> str:
    """Renders the categories, or every column, as a Markdown table."""
    rows = list(rows)
    columns = list(CATEGORIES)
    if every:
        columns = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = []
    for row in rows:
        values: Mapping[str, float | None] = row.values if every else row.categories
        cells = [_render_value(values.get(name)) for name in columns]
        lines.append([str(row.length), row.model, *cells, _render_value(row.average)])
    return render_table(["length", "model", *columns, "Ours"], lines)


def _render_value(value: float | None) -> str:
    return "missing" if value is None else f"{value:.1f}"
