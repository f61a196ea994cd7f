"""HELMET's table: headline figures of many result files by length and model, and categories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agenticlu.errors import StoreError, UsageError
from agenticlu.evaluation.tables import render_table
from agenticlu.records import Record

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
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            read = _read(path)
            if read is None:
                continue
            name, length, metrics = read
            for metric in HEADLINES[name]:
                if metric not in metrics:
                    continue
                column = f"{name} {metric}"
                place = (length, folder.name, column)
                if place in origins:
                    raise UsageError(
                        f"Two files give {column} at {length} for {folder.name}: "
                        f"{origins[place].name} and {path.name}.",
                        hint="Move one of them away; HELMET would average them in silence.",
                    )
                origins[place] = path
                value = metrics[metric] * SCALES.get(metric, 1.0)
                found.setdefault((length, folder.name), {})[column] = value
    if not found:
        raise UsageError("No HELMET result files were found in the folders given.")
    return [_row(length, model, values) for (length, model), values in sorted(found.items())]


def _row(length: int, model: str, values: dict[str, float]) -> HelmetRow:
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
    )


def _read(path: Path) -> tuple[str, int, Mapping[str, Any]] | None:
    """Returns data set, length and averages of a result file; None for other files."""
    length = re.search(r"_in(\d+)_size", path.name)
    if length is None or path.name.endswith(JUDGED):
        return None
    name = next((name for name in HEADLINES if name in path.name[: length.start()]), None)
    if name is None:
        return None
    judged = path.with_name(path.name.removesuffix(".json") + JUDGED)
    score = path.with_name(path.name + ".score")
    chosen = judged if judged.is_file() else score if score.is_file() else path
    try:
        content = json.loads(chosen.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(
            f"{chosen} is not JSON: {error}.",
            hint="It may have been cut off while it was written; write it again or move it away.",
        ) from error
    averages = content if chosen == score else content.get("averaged_metrics", {})
    return name, int(length[1]), averages


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
