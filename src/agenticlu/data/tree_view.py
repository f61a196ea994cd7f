"""A tree with what it takes to make rows of it, and what became of its parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from agenticlu.core.records import Document, Message, Node, Piece, Tree, Turn
from agenticlu.data.leaks import LeakFinder
from agenticlu.dialogue.clarifications import is_near_duplicate
from agenticlu.dialogue.profiles import Profile
from agenticlu.dialogue.refusals import is_refusal
from agenticlu.dialogue.steps import Dialogue, opening_of
from agenticlu.documents import mark
from agenticlu.judges.panel import history_of

Flaw = Literal["failed", "truncated", "refused", "empty"]
"""Why a round is of no use, whatever its score."""
USED = ("chosen", "rejected", "written")
"""Fates of what ends up in a data set; all others are reasons for a loss."""


@dataclass
class Funnel:
    """What became of everything; each counter sums to its total."""

    nodes: Counter[str] = field(default_factory=Counter)
    """Non-root nodes: 'chosen', 'rejected', or a reason."""
    rows: Counter[str] = field(default_factory=Counter)
    """Turns of pairs: 'written', or a reason."""
    traces: Counter[str] = field(default_factory=Counter)
    """Trees: 'written', or a reason."""
    pairs: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts with their totals: what is used first, then losses, largest first."""
        counters = {"nodes": self.nodes, "rows": self.rows, "traces": self.traces}
        return {
            name: {
                "total": counter.total(),
                **dict(sorted(counter.items(), key=lambda one: (one[0] not in USED, -one[1], one))),
            }
            for name, counter in counters.items()
        } | {"pairs": self.pairs}


@dataclass(frozen=True)
class Grove:
    """A tree with what is needed to render it."""

    tree: Tree
    document: Document
    pieces: tuple[Piece, ...]
    profile: Profile
    engine: str
    """Name of the engine that sampled it."""
    seed: int = 0

    @cached_property
    def leaks(self) -> LeakFinder:
        """Tells which clarifications hold the answer before a piece that was kept gave it."""
        spans = {piece.index: (piece.start, piece.end) for piece in self.pieces}
        return LeakFinder(
            self.tree,
            lambda index: self.document.text[slice(*spans[index])],
            opening_of(self.profile),
        )

    def history(self, node: Node) -> tuple[Turn, ...]:
        """Returns the rounds up to and with `node`, as its children saw them."""
        return history_of(self.tree.path(node.id), opening_of(self.profile))

    def before(self, node: Node) -> tuple[Turn, ...]:
        """Returns the rounds before `node`."""
        assert node.parent is not None
        by_id = {other.id: other for other in self.tree.nodes}
        return self.history(by_id[node.parent])

    def repeats(self, node: Node) -> bool:
        """Whether a clarification on the way to `node` was asked before: inference ends there."""
        asked: list[str] = []
        for step in self.tree.path(node.id)[1:]:
            for turn in step.turns:
                if turn.kind != "clarify":
                    continue
                if any(is_near_duplicate(one, turn.reply) for one in asked):
                    return True
                asked.append(turn.reply)
        return False

    def render(self, turns: Sequence[Turn]) -> tuple[Message, ...]:
        """Renders finished turns over the whole marked document."""
        return Dialogue(
            profile=self.profile,
            document_id=self.document.id,
            view=mark(self.document, self.pieces),
            question=self.tree.question,
            max_rounds=len(turns) + 1,
            turns=tuple(turns),
        ).messages()

    def provenance(self, node: Node) -> dict[str, Any]:
        """Returns the columns that say where a row of `node` comes from."""
        tree = self.tree
        return {
            "document_id": self.document.id,
            "question_id": tree.question.id,
            "question": tree.question.text,
            "answers": list(tree.question.answers),
            "tree_id": tree.id,
            "engine": self.engine,
            "judge": ",".join(verdict.judge for verdict in node.verdicts),
            "seed": self.seed,
            "leak": self.leaks.is_tainted(node),
            "closed_book": tree.closed_book,
        }


def path_flaw(tree: Tree, node: Node) -> Flaw | None:
    """Returns the first flaw on the way to a node."""
    return next(filter(None, map(flaw_of, tree.path(node.id)[1:])), None)


def flaw_of(node: Node) -> Flaw | None:
    """Returns why a node is of no use, whatever its score."""
    if node.status == "failed":
        return "failed"
    sampled = [turn for turn in node.turns if turn.kind != "check"]
    if any(turn.finish_reason == "length" for turn in sampled):
        return "truncated"
    if any(turn.finish_reason == "refused" or is_refusal(turn.reply) for turn in sampled):
        return "refused"
    if not node.answer.strip() or any(not turn.reply.strip() for turn in sampled):
        return "empty"
    return None
