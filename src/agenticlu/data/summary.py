"""What a build or an import wrote, in numbers: the first half of `summary.json`."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agenticlu.data.contamination import Contamination
from agenticlu.data.splits import Splits
from agenticlu.data.tree_view import Funnel

PERCENTILES = (5, 25, 50, 75, 95)
_FLAWS = {
    "failed": "a request failed for good",
    "truncated": "a reply was cut off",
    "refused": "a reply declines the task",
    "empty": "a reply is empty",
    "unscored": "no judge gave a verdict that could be read",
    "unsupported": "right, but grounding kept no piece for it",
    "repeats": "right, but a clarification asks again what was asked before",
    "leak": "right, but a clarification holds the answer before anything that was read gave it",
}
_WHOLE_TREES = {
    "unfinished": "the search is not done with its question",
    "answerable without document": "its question was often answered right without the document",
    "document in evaluation": "its document stands in the evaluation, too",
    "question in evaluation": "its question stands in the evaluation, too",
}
MEANINGS: dict[str, dict[str, str]] = {
    "nodes": {
        "total": "rounds that the search grew",
        "chosen": "right, and the better one of a pair",
        "rejected": "wrong, and the worse one of a pair",
        "all right": "right, and none beside it is wrong",
        "all wrong": "wrong, and none beside it can be chosen",
        "enough pairs": "its expansion gave as many pairs as were wanted",
        "no partner": "nothing was left to pair it with",
        "unpaired": "wrong, but too near to the right ones left, or no near miss",
        "not an extreme": "neither the best nor the worst of its tree",
        "tie": "right, but no wrong one has a lower score",
        "below margin": "right, but no wrong one's score is lower by the margin",
        "no near miss": "right, but no wrong one kept the right pieces",
        **_FLAWS,
        **_WHOLE_TREES,
    },
    "rows": {
        "total": "turns of the pairs",
        "written": "preference rows",
        "no such turn": "the rejected one has no such turn",
        "equal": "both said the same",
        "empty": "a reply is empty",
        "length ratio": "one reply is longer than the other by more than was allowed",
        "answers not told apart": "where two paths part: not a right answer against a wrong one",
        "check against the judges": "a self-check contradicts the judges",
    },
    "traces": {
        "total": "questions",
        "written": "conversations of their best right path",
        "no right answer": "no round of their tree is right",
        **_FLAWS,
        **_WHOLE_TREES,
    },
}
"""What the counts of a funnel mean, where a run is built from."""
IMPORT_MEANINGS: dict[str, dict[str, str]] = {
    "rows": {
        "total": "rows that were read",
        "written": "preference rows",
        "not in the published schema": "a column is missing or holds something else",
        "score is no number": "a score is infinite or not a number",
        "prompt does not end in a request": "there is nothing to reply to",
        "not exactly one reply": "chosen or rejected is not one reply",
        "chosen equals rejected": "both say the same",
        "empty reply": "chosen or rejected is empty",
        "no marked document": "the first request holds no paragraph marks",
        "document in evaluation": "its document stands in the evaluation, too",
        "question in evaluation": "its question stands in the evaluation, too",
    },
    "traces": {
        "total": "preference rows that ask for an answer",
        "written": "conversations that end in the chosen answer",
        "chosen not scored above rejected": "the chosen answer may be no better than the other",
    },
}
"""The same where rows are imported."""


class Lengths:
    """Lengths of texts by name, for percentiles; eight bytes each."""

    def __init__(self) -> None:
        self._values: dict[str, array[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Adds one."""
        self._values.setdefault(name, array("d")).append(value)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Adds the characters of a row of either kind, and its log ratio."""
        if "messages" in row:
            self.add("conversation", _characters(row["messages"]))
            return
        for name in ("prompt", "chosen", "rejected"):
            self.add(name, _characters(row[name]))
        self.add("log_length_ratio", row["log_length_ratio"])

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Returns name to number, mean and percentiles."""
        return {name: _described(values) for name, values in self._values.items()}


@dataclass
class DatasetSummary:
    """What was written."""

    splits: Splits
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind of data to split to the number of rows."""
    funnel: Funnel = field(default_factory=Funnel)
    lengths: Lengths = field(default_factory=Lengths)
    turn_kinds: Counter[str] = field(default_factory=Counter)
    """Turn kind to preference rows."""
    num_not_better: int = 0
    """Imported preference rows that score the chosen reply no higher than the rejected one."""
    num_not_asked_blindly: int = 0
    """Questions that were to be dropped if answered without the document, but were not so asked."""
    contamination: Contamination | None = None
    """None when nothing was compared with an evaluation."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON data."""
        return {
            "rows": self.rows,
            "documents": self.splits.as_dict(),
            "funnel": self.funnel.as_dict(),
            "characters": self.lengths.as_dict(),
            "turn_kinds": dict(sorted(self.turn_kinds.items())),
            "contamination": None if self.contamination is None else self.contamination.as_dict(),
        }

    def warnings(self, validation: float) -> list[str]:
        """Returns what a person should know before training on this.

        Args:
            validation: Share of the documents that was to be held out.
        """
        told = []
        for reason, words in (("unfinished", "are not finished"), ("failed", "failed")):
            if number := self.funnel.traces[reason]:
                told.append(
                    f"{number} of {self.funnel.traces.total()} questions {words} and give nothing;"
                    " run the search again to go on with them."
                )
        if number := self.num_not_better:
            told.append(
                f"Rows whose scores do not prefer the chosen reply: {number}. They are kept; their "
                "margin is 0 or below."
            )
        if number := self.num_not_asked_blindly:
            told.append(
                f"{number} of {self.funnel.traces.total()} questions were not asked without their "
                "document, so --drop-closed-book could not judge them; generate --closed-book asks."
            )
        if validation and not self.splits.documents("validation"):
            why = "there is one document" if len(self.splits.of) == 1 else "all belong together"
            told.append(f"No document is held out: {why}.")
        return told


def _characters(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _described(values: array[float]) -> dict[str, float]:
    ordered = sorted(values)
    described = {"n": len(ordered), "mean": math.fsum(ordered) / len(ordered)}
    for percent in PERCENTILES:
        described[f"p{percent}"] = _percentile(ordered, percent)
    return {name: round(value, 2) + 0 for name, value in described.items()}  # + 0: no "-0.0"


def _percentile(ordered: list[float], percent: int) -> float:
    """Returns a percentile, linear between neighbours."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
