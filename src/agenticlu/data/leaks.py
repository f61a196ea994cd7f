"""Clarifications that hold the answer before anything that was read gave it.

Such a question was asked with the answer in hand: by luck, or because the model knows the document.
Learnt from, it teaches to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from agenticlu.core.records import Node, Tree, TurnKind
from agenticlu.evaluation.scoring.answers import canonical_tokens

_COMMON = frozenset({"yes", "no", "true", "false"})
SMALL_NUMBER = 100
"""Bare numbers below this stand in a question by chance."""


def is_leak(said: str, known: Iterable[str], answers: Sequence[str]) -> bool:
    """Whether a text holds an accepted answer that none of the known texts holds.

    Yes and no, single letters and bare small numbers say nothing: they occur by chance.

    >>> is_leak("Is it Brellin?", ["Which town?"], ["Brellin"])
    True
    >>> is_leak("Is it Brellin?", ["The road to Brellin is long."], ["Brellin"])
    False
    >>> is_leak("Which 2 towns are near?", ["How many?"], ["2"])
    False
    """
    spoken = _padded(said)
    golds = [gold for gold in _telling(answers) if gold in spoken]
    if not golds:
        return False
    texts = [_padded(text) for text in known]
    return any(not any(gold in text for text in texts) for gold in golds)


class LeakFinder:
    """Finds the leaks of one tree; what a node's clarification could know is what was kept before.

    Args:
        tree: The tree.
        piece_text: Index of a piece to its text.
        opening: Kinds of the root's turns that later rounds see.
    """

    def __init__(
        self, tree: Tree, piece_text: Callable[[int], str], opening: Sequence[TurnKind] = ()
    ) -> None:
        self._by_id = {node.id: node for node in tree.nodes}
        self._tree = tree
        self._piece_text = piece_text
        self._opening = opening
        self._own: dict[str, bool] = {}

    def leaks(self, node: Node) -> bool:
        """Whether this node's own clarification leaks."""
        if node.id not in self._own:
            asked = next((turn.reply for turn in node.turns if turn.kind == "clarify"), "")
            answers = self._tree.question.answers
            self._own[node.id] = is_leak(asked, self._known(node), answers)
        return self._own[node.id]

    def is_tainted(self, node: Node) -> bool:
        """Whether a clarification on the way to this node leaks, its own included."""
        step: Node | None = node
        while step is not None:
            if self.leaks(step):
                return True
            step = self._by_id[step.parent] if step.parent else None
        return False

    def _known(self, node: Node) -> Iterable[str]:
        """Yields what was asked, said and read before the node's clarification."""
        yield self._tree.question.text
        yield from self._tree.question.options
        while node.parent is not None:
            node = self._by_id[node.parent]
            yield from map(self._piece_text, node.kept)
            for turn in node.turns:
                if node.parent is not None or turn.kind in self._opening:
                    yield turn.reply


def _telling(answers: Sequence[str]) -> list[str]:
    """Returns the answers whose occurrence is no chance, as padded words."""
    telling = []
    for answer in answers:
        words = canonical_tokens(answer)
        if not words:
            continue
        if len(words) == 1:
            (word,) = words
            number = word.lstrip("-")
            if word in _COMMON or len(word) == 1:
                continue
            if number.replace(".", "", 1).isdigit() and float(number) < SMALL_NUMBER:
                continue
        telling.append(f" {' '.join(words)} ")
    return telling


def _padded(text: str) -> str:
    return f" {' '.join(canonical_tokens(text))} "
