"""What a build or an import wrote, in numbers: the first half of `summary.json`."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agenticlu.dataset.contamination import Contamination
from agenticlu.dataset.splits import Splits
from agenticlu.pairs import Funnel

PERCENTILES = (5, 25, 50, 75, 95)


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
        if validation and not self.splits.documents("validation"):
            why = "there is one document" if len(self.splits.of) == 1 else "all belong together"
            told.append(f"No document is held out: {why}.")
        return told


def _characters(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _described(values: array[float]) -> dict[str, float]:
    ordered = sorted(values)
    described = {"n": len(ordered), "mean": round(math.fsum(ordered) / len(ordered), 2)}
    for percent in PERCENTILES:
        described[f"p{percent}"] = round(_percentile(ordered, percent), 2)
    return described


def _percentile(ordered: list[float], percent: int) -> float:
    """Returns a percentile, linear between neighbours."""
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
