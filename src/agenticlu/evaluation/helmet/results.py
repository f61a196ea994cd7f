"""HELMET's result files: written so that its own scripts read them, and read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.records import Prediction, Record
from agenticlu.evaluation.helmet import alce
from agenticlu.evaluation.helmet.sources import read_json
from agenticlu.evaluation.helmet.specs import SPECS, Spec, dataset_name, find_file
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.predictions import write_json
from agenticlu.evaluation.scoring import helmet
from agenticlu.evaluation.scoring.answers import Golds
from agenticlu.evaluation.tables import render_table
from agenticlu.judges.rubric import DETAIL_COLUMN


class ResultArgs(Record):
    """What the name of a result file is made of, and what is stored under `args`."""

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

    def as_args(self) -> dict[str, Any]:
        """Returns the arguments under HELMET's names."""
        return {**self.model_dump(exclude={"dataset"}), "datasets": self.dataset, "no_cuda": True}


def helmet_scores(task: str, item: Item, output: str) -> helmet.Scored:
    """Scores an output as HELMET's own post-processing does, ROUGE and num_preds included."""
    spec = SPECS[task]
    golds: Golds = item.question.answers
    if spec.family == "alce" and item.row is not None:
        golds = item.row["answer"]  # one text, and not the aliases that ALCE's figures look for
    if spec.family == "msmarco":
        return helmet.score_ranking(output, item.reference["labels"], item.reference["cuts"])
    if spec.family == "ruler" and "qa_" not in task:
        return helmet.score_ruler(output, item.question.answers)
    if spec.family == "icl":
        return helmet.score_label(output, item.question.answers[0])
    if item.rule == "choice":
        letter = str(item.reference["letter"])
        return helmet.score_choice(output, letter, item.question.options[ord(letter) - ord("A")])
    prefix = str(item.reference.get("prefix", "Answer:"))
    return helmet.score_default(output, golds, prefix=prefix)


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
        "args": args.as_args(),
        "data": data,
        "metrics": metrics,
        "averaged_metrics": averaged(metrics),
        "throughput": len(data) / seconds if seconds else 0.0,
        "num_failed": len(rows) - len(scored),
        "num_truncated": sum(prediction.truncated for _, prediction in scored),
    }


def averaged(metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns HELMET's averages: per cent, but for token lengths.

    num_preds too is multiplied by 100, as HELMET does it.
    """
    import numpy as np

    return {
        name: float(np.mean(values) * (100 if "_len" not in name else 1))
        for name, values in metrics.items()
    }


def build_args(
    task: str,
    length: int,
    *,
    model: str,
    output_dir: str,
    limit: int | None,
    shots: int | None,
    chat: bool,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int | None = None,
) -> ResultArgs:
    """Returns the arguments of a task's result file.

    Args:
        task: One of `SPECS`.
        length: Nominal length.
        model: Shown in the file.
        output_dir: Where the file goes.
        limit: max_test_samples; None takes HELMET's.
        shots: None takes HELMET's.
        chat: Whether the prompt was sent in chat form.
        temperature: 0 is greedy.
        top_p: As sampled.
        max_tokens: None takes HELMET's.
    """
    spec: Spec = SPECS[task]
    return ResultArgs(
        dataset=dataset_name(task, length),
        test_files=find_file(spec, length),
        demo_files=spec.demo_file,
        model_name_or_path=model,
        output_dir=output_dir,
        input_max_length=length,
        max_test_samples=spec.rows if limit is None else limit,
        shots=spec.shots if shots is None else shots,
        do_sample=temperature > 0,
        temperature=temperature,
        top_p=top_p,
        generation_max_length=max_tokens or spec.gen_tokens,
        use_chat_template=chat,
    )


def _holds(path: Path, content: Any) -> bool:
    """Whether a file holds this and nothing else; a damaged one does not."""
    try:
        return bool(read_json(path) == content)
    except (ConfigError, UsageError):
        return False


def write_result(
    folder: Path, task: str, args: ResultArgs, rows: Sequence[tuple[Item, Prediction]]
) -> Path:
    """Writes a result file and its `.score`; for ALCE the score is ALCE's, without citations.

    Files that say the same already are left alone, since a score may have gained citations.
    """
    result = json.loads(json.dumps(build_result(task, args, rows)))
    path = folder / args.file_name
    scored = path.with_name(path.name + ".score")
    if scored.is_file() and _holds(path, result):
        return path
    write_json(path, result)
    score = result["averaged_metrics"]
    if SPECS[task].family == "alce":
        score = alce.score_rows(task, result["data"]) if result["data"] else {}
    write_json(scored, score)
    return path


HEADLINES: dict[str, tuple[str, ...]] = {
    "json_kv": ("substring_exact_match",),
    "ruler_niah_mk_2": ("ruler_recall",),
    "ruler_niah_mk_3": ("ruler_recall",),
    "ruler_niah_mv": ("ruler_recall",),
    "hotpotqa": ("substring_exact_match",),
    "popqa": ("substring_exact_match",),
    "triviaqa": ("substring_exact_match",),
    "narrativeqa": ("gpt-4-score",),
    "nq": ("substring_exact_match",),
    "msmarco_rerank_psg": ("NDCG@10",),
    "alce_asqa_nocite": ("str_em",),
    "alce_qampari_nocite": ("qampari_rec_top5",),
    "alce_asqa": ("str_em", "citation_rec", "citation_prec"),
    "alce_qampari": ("qampari_rec_top5", "citation_rec", "citation_prec"),
    "infbench_qa": ("rougeL_f1",),
    "infbench_choice": ("exact_match",),
    "infbench_sum": ("gpt-4-f1",),
    "multi_lexsum": ("gpt-4-f1",),
    "trec_coarse": ("exact_match",),
    "trec_fine": ("exact_match",),
    "banking77": ("exact_match",),
    "clinic150": ("exact_match",),
    "nlu": ("exact_match",),
    **{
        f"ruler_{name}": ("ruler_recall",)
        for name in ("niah_s_1", "niah_s_2", "niah_s_3", "niah_mk_1", "niah_mq", "fwe", "cwe", "vt")
    },
    "ruler_qa_1": ("substring_exact_match",),
    "ruler_qa_2": ("substring_exact_match",),
}
"""Part of a data set's name to its headline metrics, as HELMET collects them."""
CATEGORIES: dict[str, tuple[str, ...]] = {
    "Recall": ("json_kv", "ruler_niah_mk_2", "ruler_niah_mk_3", "ruler_niah_mv"),
    "RAG": ("nq", "hotpotqa", "popqa", "triviaqa"),
    "ICL": ("trec_coarse", "trec_fine", "banking77", "clinic150", "nlu"),
    "Cite": ("alce_asqa", "alce_qampari"),
    "Re-rank": ("msmarco_rerank_psg",),
    "LongQA": ("narrativeqa", "infbench_qa", "infbench_choice"),
    "Summ": ("infbench_sum", "multi_lexsum"),
}
SCALES = {"gpt-4-f1": 100.0, "gpt-4-score": 100 / 3}
JUDGED_CATEGORIES = frozenset({"LongQA", "Summ", ""})
"""Of tasks with long answers or summaries; QASPER, which is none of HELMET's, has no category."""
JUDGED = "-gpt4eval_o.json"


class HelmetRow(Record):
    """One line of the table."""

    length: int
    model: str
    values: dict[str, float]
    """`{data set} {metric}` to its value; what was not run is absent."""
    categories: dict[str, float | None]
    """Category to its mean; None while one of its columns is missing (HELMET averages the rest
    in silence)."""
    average: float | None
    """Mean of the seven categories ("Ours" in HELMET); None while one is missing."""
    missing: tuple[str, ...]
    """Columns that a category lacks."""
    losses: tuple[str, ...] = ()
    """Rows that failed, were truncated or have no verdict, by data set, in words: HELMET leaves the
    first and the last ones out of its means in silence."""


def category_columns(category: str) -> tuple[str, ...]:
    """Returns the columns that a category is the mean of."""
    return tuple(f"{name} {metric}" for name in CATEGORIES[category] for metric in HEADLINES[name])


def collect(folders: Iterable[Path]) -> list[HelmetRow]:
    """Reads the result files of one folder per model.

    As in HELMET, a judged file goes before a `.score` file, and that before the result itself.

    Raises:
        UsageError: No result file was found, or two files claim one cell.
    """
    found: dict[tuple[int, str], dict[str, float]] = {}
    origins: dict[tuple[int, str, str], Path] = {}
    losses: dict[tuple[int, str], list[str]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            read = _read(path)
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
                    raise _twice(folder, f"{column} at {length}", origins[place], path)
                origins[place] = path
                value = metrics[metric] * SCALES.get(metric, 1.0)
                found.setdefault((length, folder.name), {})[column] = value
    if not found:
        raise UsageError("No HELMET result files were found in the folders given.")
    return [_row(*key, values, losses.get(key, ())) for key, values in sorted(found.items())]


def _twice(folder: Path, what: str, one: Path, other: Path) -> UsageError:
    hint = "Move one of them away; HELMET would average them in silence."
    if one.parent != other.parent:
        hint = f"Give the folder of each model, such as {one.parent} {other.parent}"
    names = f"{str(one.relative_to(folder))!r} and {str(other.relative_to(folder))!r}"
    return UsageError(f"Two files give {what} for {folder.name}: {names}.", hint=hint)


def _row(length: int, model: str, values: dict[str, float], losses: Iterable[str]) -> HelmetRow:
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


def _read(path: Path) -> tuple[str, int, Mapping[str, Any], str] | None:
    """Returns data set, length, averages and losses of a result file; None for other files."""
    length = re.search(r"_in(\d+)_size", path.name)
    if length is None or path.name.endswith(JUDGED):
        return None
    stem = path.name[: length.start()]
    name = next((name for name in HEADLINES if name in stem), None)
    if name is None or "natural_label" in stem or re.search(r"\dshot(?!_balance)", stem):
        return None  # other forms of in-context learning are no part of HELMET's table
    judged = path.with_name(path.name.removesuffix(".json") + JUDGED)
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
            f"{str(chosen)!r} holds no averages: it is no result file of HELMET.",
            hint="Move it out of the folder.",
        )
    return name, int(length[1]), averages, _losses(result, verdicts)


def _losses(result: Any, verdicts: Any) -> str:
    """Returns how many rows of a file stand behind no mean, or were cut, in words; else nothing."""
    if not isinstance(result, dict):
        return ""
    rows = result.get("data") or ()
    failed = result.get("num_failed", 0)
    found = {"failed": failed, "truncated": result.get("num_truncated", 0)}
    if isinstance(verdicts, dict):
        judged = verdicts.get("data") or ()
        named = sum(bool(row.get(DETAIL_COLUMN)) for row in judged if isinstance(row, dict))
        found["without a verdict"] = len(rows) - named
    told = [f"{number} {what}" for what, number in found.items() if number > 0]
    return f"of {len(rows) + failed} rows {', '.join(told)}" if told else ""


def render_collected(rows: Iterable[HelmetRow], *, every: bool = False) -> str:
    """Renders the categories, or every column, as Markdown; what is missing is shown as missing."""
    rows = list(rows)
    columns = list(CATEGORIES)
    if every:
        columns = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = []
    for row in rows:
        values: Mapping[str, float | None] = row.values if every else row.categories
        cells = [_shown(values.get(name)) for name in columns]
        lines.append([str(row.length), row.model, *cells, _shown(row.average)])
    return render_table(["length", "model", *columns, "Ours"], lines)


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:.1f}"
