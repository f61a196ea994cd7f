"""Which nodes to expand next.

A growth is asked for the nodes to expand and told the children that came of it. What it answers
follows from what it was told, in whatever order, so that it is rebuilt from the ledger alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from agenticlu.search.config import SearchConfig


@dataclass(frozen=True)
class Grown:
    """What a growth needs to know of a node."""

    id: str
    parent: str | None
    depth: int
    order: tuple[int, ...]
    """Sample ordinals from the root."""
    correct: bool | None
    """None: unscored or failed."""
    score: float | None
    relevance: float = 0.0
    """How well its kept pieces score."""
    failed: bool = False
    tokens: int = 0
    """Prompt and sampled tokens that the node cost."""


class Growth(Protocol):
    """Ask / tell."""

    def tell(self, nodes: Sequence[Grown]) -> None:
        """Takes in finished nodes: the root, or all children of an expansion."""
        ...

    def close(self, node_id: str) -> None:
        """Notes that an expansion brought no child at all."""
        ...

    def ask(self) -> tuple[str, ...]:
        """Returns nodes to expand now; empty when the tree is finished."""
        ...


class _Base:
    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._nodes: dict[str, Grown] = {}
        self._closed: set[str] = set()

    def tell(self, nodes: Sequence[Grown]) -> None:
        """Takes in finished nodes."""
        for node in nodes:
            self._nodes[node.id] = node

    def close(self, node_id: str) -> None:
        """Notes that an expansion brought no child at all."""
        self._closed.add(node_id)

    def _expanded(self) -> set[str | None]:
        return {node.parent for node in self._nodes.values()} | self._closed

    def _expandable(self) -> list[Grown]:
        """Returns unexpanded nodes above the last level, in tree order."""
        expanded = self._expanded()
        nodes = [
            node
            for node in self._nodes.values()
            if not node.failed and node.depth < self._config.depth and node.id not in expanded
        ]
        return sorted(nodes, key=lambda node: (node.depth, node.order))


class FullGrowth(_Base):
    """The complete tree, level by level, as published."""

    def ask(self) -> tuple[str, ...]:
        """Returns all unexpanded nodes of the highest unfinished level."""
        open_nodes = self._expandable()
        return tuple(node.id for node in open_nodes if node.depth == open_nodes[0].depth)


class UntilSolvedGrowth(_Base):
    """Stops when an expansion held a right answer; spends depth on unsolved questions only.

    The root is always expanded once, because a question that is answered at once may still give
    pairs; no deeper, as it needs no rounds. After an expansion without a right answer, the nodes of
    the level are tried one at a time, best first, at most `deepen` of them on each level.

    Best is what scores highest; of equals, what kept the more relevant pieces on the mean; then
    what was sampled first. With the exact judge alone all wrong nodes score 0, and relevance
    decides. An unscored node counts as 0.
    """

    def ask(self) -> tuple[str, ...]:
        """Returns the next node to deepen."""
        if any(node.correct for node in self._nodes.values() if node.depth > 0):
            return ()
        expanded = self._expanded()
        if any(node.correct and node.id in expanded for node in self._nodes.values()):
            return ()
        for level in range(self._config.depth):
            nodes = [node for node in self._nodes.values() if node.depth == level]
            tried = sum(node.id in expanded for node in nodes)
            limit = len(nodes) if self._config.deepen is None else self._config.deepen
            rest = [node for node in nodes if node.id not in expanded and not node.failed]
            if rest and tried < limit:
                return (min(rest, key=_preference).id,)
        return ()


class BestFirstGrowth(_Base):
    """Expands the most promising node anywhere, until one is solved or the budget is used.

    Promising is what `UntilSolvedGrowth` calls best; of equals, the one that is less deep.
    """

    def ask(self) -> tuple[str, ...]:
        """Returns the most promising unexpanded node."""
        grown = [node for node in self._nodes.values() if node.depth > 0]
        if any(node.correct for node in grown):
            return ()
        nodes, tokens = self._config.node_budget, self._config.token_budget
        if nodes is not None and len(grown) + self._config.branching > nodes:
            return ()
        if tokens is not None and sum(node.tokens for node in self._nodes.values()) >= tokens:
            return ()
        open_nodes = self._expandable()
        return (min(open_nodes, key=_preference).id,) if open_nodes else ()

    @property
    def over_budget(self) -> bool:
        """Whether the budget, not the tree, ended the growth."""
        grown = [node for node in self._nodes.values() if node.depth > 0]
        if any(node.correct for node in grown) or not self._expandable():
            return False
        return not self.ask()


def _preference(node: Grown) -> tuple[float, float, int, tuple[int, ...]]:
    """Sorts the best nodes first; see `UntilSolvedGrowth`."""
    return (-(node.score or 0.0), -node.relevance, node.depth, node.order)


def build_growth(config: SearchConfig) -> Growth:
    """Returns the growth that the configuration names."""
    kinds: dict[str, type[FullGrowth | UntilSolvedGrowth | BestFirstGrowth]] = {
        "full": FullGrowth,
        "until-solved": UntilSolvedGrowth,
        "best-first": BestFirstGrowth,
    }
    return kinds[config.growth](config)
