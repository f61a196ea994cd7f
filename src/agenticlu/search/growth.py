"""Scheduling of a search: which nodes a tree expands next, and how many questions grow at once.

A `Growth` follows the ask/tell pattern: finished nodes are reported to it, and it is
asked which to expand. Its answers depend only on the set of nodes reported, not on their order of
arrival, so a killed run rebuilds it from the ledger and continues exactly where it stopped.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from agenticlu.core.records import Node
from agenticlu.judges import is_correct
from agenticlu.search import SearchConfig

Outcome = Literal["solved", "unsolved", "too-easy", "failed", "budget"]


@dataclass(frozen=True)
class Grown:
    """A finished node, as far as growth depends on it."""

    id: str
    parent: str | None
    depth: int
    order: tuple[int, ...]
    """Sample ordinals from the root."""
    correct: bool | None
    """None: unscored or failed."""
    score: float | None
    relevance: float = 0.0
    """Mean relevance of its kept pieces."""
    failed: bool = False
    tokens: int = 0
    """Prompt and sampled tokens that the node cost."""


class Growth(ABC):
    """Order in which one tree is expanded."""

    def __init__(self, config: SearchConfig) -> None:
        self._config = config
        self._nodes: dict[str, Grown] = {}
        self._closed: set[str] = set()

    @abstractmethod
    def ask(self) -> tuple[str, ...]:
        """Returns the ids of nodes to expand now; empty when the tree is finished."""

    def tell(self, nodes: Sequence[Grown]) -> None:
        """Takes in finished nodes: the root, or all children of an expansion."""
        self._nodes |= {node.id: node for node in nodes}

    def close(self, node_id: str) -> None:
        """Notes that an expansion brought no child at all: it would otherwise be asked again."""
        self._closed.add(node_id)

    def _rounds(self) -> list[Grown]:
        return [node for node in self._nodes.values() if node.depth > 0]

    def _is_solved(self) -> bool:
        """Whether an expansion held a right answer."""
        return any(node.correct for node in self._rounds())

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
        # Nodes arrive in the order in which their calls end, which differs from run to run.
        return sorted(nodes, key=lambda node: (node.depth, node.order))


class FullGrowth(Growth):
    """Grows the complete tree, level by level, as published."""

    def ask(self) -> tuple[str, ...]:
        """Returns all unexpanded nodes of the highest unfinished level."""
        open_nodes = self._expandable()
        return tuple(node.id for node in open_nodes if node.depth == open_nodes[0].depth)


class UntilSolvedGrowth(Growth):
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
        expanded = self._expanded()
        solved_directly = any(n.correct and n.id in expanded for n in self._nodes.values())
        if self._is_solved() or solved_directly:
            return ()
        for level in range(self._config.depth):
            nodes = [node for node in self._nodes.values() if node.depth == level]
            tried = sum(node.id in expanded for node in nodes)
            limit = len(nodes) if self._config.deepen is None else self._config.deepen
            rest = [node for node in nodes if node.id not in expanded and not node.failed]
            if rest and tried < limit:
                return (min(rest, key=_preference).id,)
        return ()


class BestFirstGrowth(Growth):
    """Expands the most promising node anywhere, until one is solved or the budget is used.

    Promising is what `UntilSolvedGrowth` calls best; of equals, the one that is less deep.
    """

    def ask(self) -> tuple[str, ...]:
        """Returns the most promising unexpanded node."""
        open_nodes = self._expandable()
        if not open_nodes or self._is_solved() or self._is_spent():
            return ()
        return (min(open_nodes, key=_preference).id,)

    @property
    def over_budget(self) -> bool:
        """Whether the budget, not the tree, ended the growth."""
        return self._is_spent() and not self._is_solved() and bool(self._expandable())

    def _is_spent(self) -> bool:
        """Whether the budget holds no further expansion."""
        nodes, tokens = self._config.node_budget, self._config.token_budget
        if nodes is not None and len(self._rounds()) + self._config.branching > nodes:
            return True
        return tokens is not None and sum(node.tokens for node in self._nodes.values()) >= tokens


def _preference(node: Grown) -> tuple[float, float, int, tuple[int, ...]]:
    """Sorts the best nodes first; see `UntilSolvedGrowth`."""
    return (-(node.score or 0.0), -node.relevance, node.depth, node.order)


def build_growth(config: SearchConfig) -> Growth:
    """Returns the growth that the configuration names."""
    kinds: dict[str, type[Growth]] = {
        "full": FullGrowth,
        "until-solved": UntilSolvedGrowth,
        "best-first": BestFirstGrowth,
    }
    return kinds[config.growth](config)


def outcome_of(nodes: Sequence[Node], growth: Growth | None = None) -> Outcome:
    """Returns how a tree ended; see `records.Tree.outcome`."""
    root, rounds = nodes[0], nodes[1:]
    if root.status == "failed" or (rounds and all(node.status == "failed" for node in rounds)):
        return "failed"
    right = [is_correct(node.verdicts) for node in rounds]
    # A node without a verdict (None) keeps its tree from counting as too easy.
    if is_correct(root.verdicts) and right and all(right):
        return "too-easy"
    if any(right) or is_correct(root.verdicts):
        return "solved"
    if isinstance(growth, BestFirstGrowth) and growth.over_budget:
        return "budget"
    return "unsolved"


class Slots:
    """Admits questions while fewer than `limit` of them keep the sampler busy.

    A semaphore would not do: a question gives its slot up while it only waits for judges, and
    takes it back without waiting. Were it held up there, its finished calls would lie idle, so for
    moments more than `limit` may be at work.

    Args:
        limit: Maximum questions at work.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.at_work = 0
        self._is_open = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Waits for a slot; the caller must begin its work before it awaits anything else."""
        while self.at_work >= self.limit and not self._is_open:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def open(self) -> None:
        """Lets in all who wait or will come: no question is left to hold back."""
        self._is_open = True
        while self._wake():
            pass

    def change(self, by: int) -> None:
        """Notes that questions begin or cease to work."""
        self.at_work += by
        if by < 0:
            self._wake()

    def _wake(self) -> bool:
        """Wakes the first who still waits: a cancelled one would let the slot go unused."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False


class Activity:
    """Work of one question that is under way; it holds a slot unless all of it waits for judges.

    Args:
        slots: Of the run; None where nobody counts.
    """

    def __init__(self, slots: Slots | None = None) -> None:
        self._slots = slots
        self._parts = 0
        self._judged = 0
        self._holds = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Counts the question itself: from its first step to its last."""
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)

    def change(self, by: int) -> None:
        """Notes that parts of the question's work begin or end."""
        self._parts += by
        self._update()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Counts the block as a part of the work."""
        self.change(1)
        try:
            yield
        finally:
            self.change(-1)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Marks the part that the block belongs to as waiting for a judge."""
        self._judged += 1
        self._update()
        try:
            yield
        finally:
            self._judged -= 1
            self._update()

    def _update(self) -> None:
        # Between one part and the next there is none, and the slot is kept all the same.
        self._hold(not 0 < self._judged == self._parts)

    def _hold(self, holds: bool) -> None:
        if self._slots is not None and holds != self._holds:
            self._slots.change(1 if holds else -1)
        self._holds = holds
