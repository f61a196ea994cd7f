"""HELMET's table: headline figures of many result files by length and model, and categories."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.records import Record
from agenticlu.evaluation.saved import read_json
from agenticlu.evaluation.tables import render_table
from agenticlu.judges.rubric import DETAIL_COLUMN

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


def columns_of(category: str) -> tuple[str, ...]:
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
        columns = columns_of(name)
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
