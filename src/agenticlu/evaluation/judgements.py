"""Brings the verdicts of `agenticlu eval judge` back to the predictions that they are about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Prediction
from agenticlu.evaluation.helmet.results import JUDGED
from agenticlu.evaluation.predictions import FILE_NAME
from agenticlu.evaluation.scoring.rules import LONG_ANSWER_METRIC, SUMMARY_METRIC
from agenticlu.judges.rubric import DETAIL_COLUMN, LongAnswerVerdict, stored_verdict

HELMET_FOLDER = "helmet"
"""Below the folder of results: HELMET's result files, one folder per model and method."""
ID_COLUMN = "prediction_id"
"""Column of our rows in them that says which prediction a row is."""


def with_judgements(predictions: Sequence[Prediction], folder: Path) -> list[Prediction]:
    """Returns the predictions, the judged ones with a judge's metric among their scores.

    A verdict about another reply than the one that is kept now does not count.
    """
    found = dict(_verdicts(folder))
    return [
        p.model_copy(update={"scores": {**p.scores, **found[(p.id, p.raw)]}})
        if p.error is None and (p.id, p.raw) in found
        else p
        for p in predictions
    ]


def results_of(file: Path) -> Path | None:
    """Returns the folder of results that a HELMET result file belongs to; None if it is alone."""
    folder = file.resolve().parent.parent
    is_ours = folder.name == HELMET_FOLDER and (folder.parent / FILE_NAME).is_file()
    return folder.parent if is_ours else None


def judges_of(folder: Path) -> list[str]:
    """Returns a note, in words, on who judged the replies of a folder of results; else nothing."""
    names = {
        str(content.get("judge") or "unnamed")
        for content in _judged_files(folder)
        if any(row.get(DETAIL_COLUMN) for row in content["data"])
    }
    if not names:
        return []
    metrics, judges = f"{LONG_ANSWER_METRIC} and {SUMMARY_METRIC}", ", ".join(sorted(names))
    return [f"{metrics} are HELMET's names for a judge's scores; the judge here: {judges}."]


def _judged_files(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted((folder / HELMET_FOLDER).glob(f"*/*{JUDGED}")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            content = None
        if not isinstance(content, dict) or not isinstance(content.get("data"), list):
            raise StoreError(
                f"{path} is not a judged result file.",
                hint="Judge its result file again: agenticlu eval judge FILE.",
            )
        yield content


def _verdicts(folder: Path) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    for content in _judged_files(folder):
        for row in content["data"]:
            found = stored_verdict(row.get(DETAIL_COLUMN))
            if found is not None and ID_COLUMN in row:
                long = isinstance(found, LongAnswerVerdict)
                metric = LONG_ANSWER_METRIC if long else SUMMARY_METRIC
                yield (str(row[ID_COLUMN]), str(row.get("output"))), {metric: found.share}
