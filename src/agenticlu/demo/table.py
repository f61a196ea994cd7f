"""The demo's table: what direct answers and the dialogue score, before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agenticlu.core.records import Prediction
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.results import Difference, load_summary
from agenticlu.evaluation.summary import compare
from agenticlu.evaluation.tables import percent, points, render_table
from agenticlu.search.run import summarise
from agenticlu.search.store import Store

ARMS = (("base", "direct"), ("base", "clarify"), ("trained", "direct"), ("trained", "clarify"))


def render_results(out: Path, lengths: Sequence[int]) -> str:
    """Returns the table of a finished demo: accuracy with 95% intervals, gain, recall by depth."""
    summaries = {label: load_summary(out / f"eval-{label}") for label in ("base", "trained")}
    rows = []
    for length in lengths:
        cells = [summaries[label].find("world", length, method) for label, method in ARMS]
        gain = main_gain(out, length)
        rows.append(
            [
                str(length),
                *(percent(cell.score if cell else None) for cell in cells),
                points(gain.difference) if gain else "",
                str(cells[-1].num_scored if cells[-1] else 0),
            ]
        )
    header = ["tokens", *(f"{label} {method}" for label, method in ARMS), "gain", "n"]
    with Store(out / "search", writable=False) as store:
        recall = summarise(store).recall_by_depth
    by_depth = ", ".join(f"{depth}: {100 * share:.1f}%" for depth, share in recall.items())
    return (
        "Held-out documents, right answers in % with 95% intervals; the gain is the trained "
        "model's dialogue against\nthe base model's direct answer, paired by question.\n\n"
        f"{render_table(header, rows)}\n\n"
        f"Recall by depth of the search trees (training questions): {by_depth}"
    )


def main_gain(out: Path, length: int) -> Difference | None:
    """Returns the paired gain of the trained dialogue over the base model's direct answer."""

    def arm(label: str, method: str) -> list[Prediction]:
        found = read_predictions(out / f"eval-{label}" / "predictions.jsonl", warn=False)
        return [p for p in found.values() if p.method == method and p.length == length]

    return compare(arm("base", "direct"), arm("trained", "clarify"))
