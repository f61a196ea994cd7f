"""How well the pieces that a data set teaches to name are the right ones.

Precision and recall against gold pieces, where a question has them: of the pieces as grounding kept
them, and of what is left of them where needless ones were left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from agenticlu.data.tree_view import TreeView


@dataclass
class Marks:
    """Counts of pieces that rounds of one depth name."""

    named: int = 0
    right: int = 0
    """Of those named: gold."""
    found: int = 0
    """Gold pieces that the round or one before it names."""

    def add(self, named: Collection[int], until: Collection[int], gold: Collection[int]) -> None:
        """Counts a round.

        Args:
            named: What it names.
            until: What it and the rounds before it name.
            gold: What is right.
        """
        self.named += len(named)
        self.right += len(set(named) & set(gold))
        self.found += len(set(until) & set(gold))


@dataclass
class Depth:
    """Counts of the rounds of one depth."""

    rounds: int = 0
    gold: int = 0
    """Gold pieces of their questions."""
    taught: Marks = field(default_factory=Marks)
    kept: Marks = field(default_factory=Marks)
    """Before any was left out."""


@dataclass
class Pointing:
    """Counts by depth; rounds of questions without known gold pieces are not among them."""

    depths: dict[int, Depth] = field(default_factory=dict)
    shortened: int = 0
    """Rounds that name fewer pieces than grounding kept, gold known or not."""
    rounds: int = 0
    """Rounds, gold known or not."""

    def add(self, view: TreeView, node_id: str) -> None:
        """Counts a round."""
        path = view.tree.path(node_id)[1:]
        self.rounds += 1
        self.shortened += node_id in view.read
        gold = view.tree.question.gold_pieces
        if not gold:
            return
        counts = self.depths.setdefault(path[-1].depth, Depth())
        counts.rounds += 1
        counts.gold += len(set(gold))
        taught = [step.kept for step in path]
        kept = [view.read.get(step.id, step.kept) for step in path]
        counts.taught.add(taught[-1], {i for one in taught for i in one}, gold)
        counts.kept.add(kept[-1], {i for one in kept for i in one}, gold)

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON data."""
        return {
            "rounds": self.rounds,
            "shortened": self.shortened,
            "by_depth": {str(depth): asdict(one) for depth, one in sorted(self.depths.items())},
        }


def render_pointing(counts: dict[str, Any]) -> list[tuple[str, ...]]:
    """Returns the rows of a table: depth, rounds, precision and recall as taught and as kept.

    Args:
        counts: What `Pointing.as_dict` returned.
    """

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.1%}" if whole else "–"

    return [
        (
            depth,
            str(one["rounds"]),
            *(
                share(*pair)
                for marks in (one["taught"], one["kept"])
                for pair in ((marks["right"], marks["named"]), (marks["found"], one["gold"]))
            ),
        )
        for depth, one in counts["by_depth"].items()
    ]
