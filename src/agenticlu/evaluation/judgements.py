"""Brings the verdicts of `agenticlu eval judge` back to the predictions that they are about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agenticlu.errors import StoreError
from agenticlu.evaluation.helmet.collect import JUDGED
from agenticlu.evaluation.judging import LongAnswerVerdict, SummaryVerdict
from agenticlu.evaluation.metrics import LONG_ANSWER_METRIC, SUMMARY_METRIC
from agenticlu.evaluation.predictions import FILE_NAME
from agenticlu.records import Prediction

HELMET_FOLDER = "helmet"
"""Below the folder of results: HELMET's result files, one folder per model and method."""
ID_COLUMN = "prediction_id"
"""Column of our rows in them that says which prediction a row is."""
DETAIL_COLUMN = "gpt-4-scores"


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


def _verdicts(folder: Path) -> Iterator[tuple[tuple[str, str], dict[str, float]]]:
    for path in sorted((folder / HELMET_FOLDER).glob(f"*/*{JUDGED}")):
        try:
            rows: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} is not a judged result file.",
                hint="Judge its result file again: agenticlu eval judge FILE.",
            ) from error
        for row in rows:
            scores = _scores_of(row.get(DETAIL_COLUMN))
            if scores and ID_COLUMN in row:
                yield (str(row[ID_COLUMN]), str(row.get("output"))), scores


def _scores_of(detail: Any) -> dict[str, float]:
    """Returns a verdict as a metric in [0, 1]; empty where there is none."""
    if not isinstance(detail, dict):
        return {}
    known = {name: int(value) if value == int(value) else value for name, value in detail.items()}
    try:
        return {LONG_ANSWER_METRIC: LongAnswerVerdict.model_validate(known).score / 3}
    except ValidationError:
        pass
    try:
        return {SUMMARY_METRIC: SummaryVerdict.model_validate(known).f1}
    except ValidationError:
        return {}
