"""What a data set can teach: which stages of training have rows, and what to try where none has.

A search may solve nothing, or answer everything right at once: then there is nothing to learn from,
or nothing to prefer. That is said before a model is trained, with the counts of the questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agenticlu.core.errors import TrainingError
from agenticlu.core.files import load_json_object
from agenticlu.data.dataset import FORMAT, SUMMARY
from agenticlu.training.rows import FOLDERS, Stage, find_rows

OUTCOMES = {
    "solved": "solved",
    "too-easy": "too easy",
    "unsolved": "unsolved",
    "budget": "out of budget",
    "failed": "failed",
    "unfinished": "unfinished",
}
"""Outcome of a tree to what it is called; too easy: the direct answer and every round were right.
The first three are counted where they are 0, too."""
ALWAYS_TOLD = 3
STAGES: tuple[Stage, ...] = ("sft", "dpo")
"""Stages that a data set is built for, whatever its settings."""
LACKS: dict[Stage, str] = {
    "sft": "no conversations to fine-tune on",
    "dpo": "no preference pairs: no question was answered both right and wrong",
    "distill": "no rows with evidence to distil from",
}
ADVICE = {
    "document in evaluation": "Search other documents; --decontaminate-report only counts.",
    "question in evaluation": "Ask other questions; --decontaminate-report only counts.",
    "answerable without document": "Raise --drop-closed-book, or leave it out.",
    "leak": "Look at the trees (agenticlu report), or add --keep-leaks.",
}
"""Reason why trees give no rows to what helps."""
HARDER = (
    "Ask harder questions or about longer documents, or sample more (--branching, "
    "--clarify-temperature)."
)
EASIER = (
    "Guide the replies (agenticlu generate --guide), sample more or deeper (--branching, --depth), "
    "search with another model, or ask easier questions."
)


def render_outcomes(outcomes: Mapping[str, int]) -> str:
    """Returns how the questions of a search ended, as a sentence; empty where nothing is known.

    >>> render_outcomes({"unsolved": 3, "failed": 1})
    '4 questions: 0 solved, 0 too easy, 3 unsolved, 1 failed.'
    """
    if not outcomes:
        return ""
    parts = [
        f"{outcomes.get(name, 0)} {words}"
        for place, (name, words) in enumerate(OUTCOMES.items())
        if outcomes.get(name) or place < ALWAYS_TOLD
    ]
    number = sum(outcomes.values())
    return f"{number} question{'s' if number != 1 else ''}: {', '.join(parts)}."


def advise(outcomes: Mapping[str, int], fates: Mapping[str, int] | None = None) -> str:
    """Returns what to try where a search gave nothing to learn from.

    Args:
        outcomes: How its questions ended, counted.
        fates: Reasons why trees gave no row, counted; the commonest decides where it says more.
    """
    lost = max(fates or {"": 1}, key=lambda name: (fates or {}).get(name, 0))
    if lost in ADVICE:
        return ADVICE[lost]
    if outcomes.get("unfinished", 0) == sum(outcomes.values()):
        return "Let the search finish: run agenticlu generate again as before."
    # Right everywhere, or right somewhere: more samples of harder questions part right from wrong.
    wrong = sum(number for name, number in outcomes.items() if name not in ("solved", "too-easy"))
    return EASIER if 2 * wrong >= sum(outcomes.values()) else HARDER


def require_rows(dataset: str | Path, stage: Stage) -> None:
    """Refuses a data set of ours that has nothing to train a stage on.

    Args:
        dataset: Folder; one that `agenticlu dataset` did not write is not looked at.
        stage: Stage of training.

    Raises:
        TrainingError: Its summary counts no training row of the stage, and none was added.
        StoreError: Its summary cannot be read.
    """
    record = load_json_object(Path(dataset) / SUMMARY)
    if record.get("format") != FORMAT or find_rows(dataset, stage, "train"):
        return
    build = record["build"]
    lack, advice = describe_lack(build["rows"], build.get("outcomes") or {}, stage)
    if stage == "distill" and not (record.get("policy") or {}).get("lessons", 1):
        advice = "Build the data set with --lessons 2."
    raise TrainingError(f"{dataset} has {lack}", hint=advice)


def describe_lack(
    rows: Mapping[str, Mapping[str, int]], outcomes: Mapping[str, int], stage: Stage
) -> tuple[str, str]:
    """Returns what a data set lacks for a stage, after "the data set has", and what to try.

    Args:
        rows: Kind of data to split to the number of rows; no training rows of the stage.
        outcomes: How the questions of its search ended, counted; none where rows were imported.
        stage: Stage of training.
    """
    told = f" {render_outcomes(outcomes)}" if outcomes else ""
    if held_out := rows.get(FOLDERS[stage], {}).get("validation", 0):
        return (
            f"nothing to train {stage} on: all of its {held_out} rows are about documents that are "
            f"held out.{told}",
            "Search more documents, or hold out fewer (agenticlu dataset build --validation).",
        )
    advice = advise(outcomes)
    if stage == "dpo" and rows.get("sft", {}).get("train"):
        advice += " Without pairs, only fine-tune: agenticlu train sft (in a loop, --then none)."
    return f"{LACKS[stage]}.{told}", advice
