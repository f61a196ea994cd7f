"""A search tree seen as training data: rendered over the whole document, with flaws and leaks.

A *leak* is a clarification that holds the answer before anything that was read gave it: asked by
luck, or because the model knows the document. Training on it teaches to guess.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from agenticlu.core.records import Document, Message, Node, Piece, Tree, Turn
from agenticlu.core.words import holds
from agenticlu.dialogue.replies import is_refusal
from agenticlu.dialogue.steps import Dialogue, Profile, build_history, find_repeat, opening_kinds
from agenticlu.documents import mark
from agenticlu.evaluation.scoring.canonical import canonical_tokens

Flaw = Literal["failed", "truncated", "refused", "empty"]
"""Why a round is unusable, whatever its score."""
Unfit = Literal["leak", "repeats", "unsupported"]
"""Why a right answer teaches a bad habit."""
USED = ("chosen", "rejected", "written")
"""Fates of what ends up in a data set; all others are reasons for a loss."""
SMALL_NUMBER = 100
"""Bare numbers below this occur in a question by chance."""
_COMMON = frozenset({"yes", "no", "true", "false"})


@dataclass
class Funnel:
    """Counts the fate of everything in a run; each counter sums to its total."""

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
class TreeView:
    """A tree with all that rendering it takes."""

    tree: Tree
    document: Document
    pieces: tuple[Piece, ...]
    profile: Profile
    engine: str
    """Name of the engine that sampled it."""
    seed: int = 0
    controls: tuple[str, ...] = ()
    """Control tokens that were neutralised in its prompts."""
    read: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of nodes whose needless pieces were left out: all pieces that the search showed there."""

    @cached_property
    def _by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.tree.nodes}

    @cached_property
    def _leaks(self) -> dict[str, bool]:
        return {}

    def leaks(self, node: Node) -> bool:
        """Whether this node's own clarification leaks."""
        if node.id not in self._leaks:
            asked = next((turn.reply for turn in node.turns if turn.kind == "clarify"), "")
            found = is_leak(asked, self._known_before(node), self.tree.question.answers)
            self._leaks[node.id] = found
        return self._leaks[node.id]

    def is_tainted(self, node: Node) -> bool:
        """Whether a clarification on the way to this node leaks, its own included."""
        return any(map(self.leaks, self.tree.path(node.id)))

    def _known_before(self, node: Node) -> Iterator[str]:
        """Yields what was asked, said and read before the node's clarification."""
        yield self.tree.question.text
        yield from self.tree.question.options
        opening = opening_kinds(self.profile)
        spans = {piece.index: slice(piece.start, piece.end) for piece in self.pieces}
        for step in self.tree.path(node.id)[:-1]:
            kept = self.read.get(step.id, step.kept)
            yield from (self.document.text[spans[index]] for index in kept)
            for turn in step.turns:
                if step.parent is not None or turn.kind in opening:
                    yield turn.reply

    def history(self, node: Node) -> tuple[Turn, ...]:
        """Returns the rounds up to and with `node`, as its children saw them."""
        return build_history(self.tree.path(node.id), self.profile)

    def before(self, node: Node) -> tuple[Turn, ...]:
        """Returns the rounds before `node`."""
        assert node.parent is not None
        return self.history(self.find(node.parent))

    def find(self, node_id: str) -> Node:
        """Returns the node of an id."""
        return self._by_id[node_id]

    def text(self, index: int) -> str:
        """Returns a piece's text in one line, as findings quote it."""
        piece = self.pieces[index]
        return " ".join(self.document.text[piece.start : piece.end].split())

    def repeats(self, node: Node) -> bool:
        """Whether a clarification on the way to `node` was asked before: inference ends there."""
        turns = [turn for step in self.tree.path(node.id)[1:] for turn in step.turns]
        return find_repeat(turns) is not None

    def find_unfit(self, node: Node, *, drop_leaks: bool) -> Unfit | None:
        """Returns why a right answer is not to be learnt from, though nothing in it is broken."""
        if drop_leaks and self.is_tainted(node):
            return "leak"
        if self.repeats(node):
            return "repeats"
        return None if node.kept else "unsupported"

    def render(
        self, turns: Sequence[Turn], only: Collection[int] | None = None
    ) -> tuple[Message, ...]:
        """Renders finished turns over the marked document, or over `only` some pieces of it."""
        return Dialogue(
            profile=self.profile,
            document_id=self.document.id,
            view=mark(self.document, self.pieces, only, controls=self.controls),
            question=self.tree.question,
            max_rounds=len(turns) + 1,
            turns=tuple(turns),
            controls=self.controls,
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
            "leak": self.is_tainted(node),
            "closed_book": tree.closed_book,
        }


def find_path_flaw(tree: Tree, node: Node) -> Flaw | None:
    """Returns the first flaw on the way to a node."""
    return next(filter(None, map(find_flaw, tree.path(node.id)[1:])), None)


def find_flaw(node: Node) -> Flaw | None:
    """Returns why a node is unusable, whatever its score."""
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


def is_leak(said: str, known: Iterable[str], answers: Sequence[str]) -> bool:
    """Whether a text holds an accepted answer that none of the known texts holds.

    Yes and no, single letters and bare small numbers prove nothing: they occur by chance.

    >>> is_leak("Is it Brellin?", ["Which town?"], ["Brellin"])
    True
    >>> is_leak("Is it Brellin?", ["The road to Brellin is long."], ["Brellin"])
    False
    >>> is_leak("Which 2 towns are near?", ["How many?"], ["2"])
    False
    """
    spoken = canonical_tokens(said)
    golds = [
        gold
        for gold in map(canonical_tokens, answers)
        if holds(spoken, gold) and not _is_common(gold)
    ]
    if not golds:
        return False
    texts = list(map(canonical_tokens, known))
    return any(not any(holds(text, gold) for text in texts) for gold in golds)


def _is_common(words: Sequence[str]) -> bool:
    """Whether an answer may well occur in a question by chance."""
    if len(words) != 1:
        return not words
    (word,) = words
    number = word.lstrip("-")
    is_small = number.replace(".", "", 1).isdigit() and float(number) < SMALL_NUMBER
    return word in _COMMON or len(word) == 1 or is_small
