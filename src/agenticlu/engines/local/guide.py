"""Guides replies: after each token only those may follow that lead to one of some given texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.engines.base import Sampling

END = -1
"""Key of a trie's node at which a text ends."""
Trie = dict[int, Any]
"""Token to what follows it."""


@dataclass(frozen=True)
class Guide:
    """A place in the trie of the texts."""

    trie: Trie
    whole: bool
    """Whether a reply is one of the texts; else it begins with one and goes on freely."""

    def allowed(self, end_ids: Collection[int]) -> list[int]:
        """Returns the tokens that may follow here, end tokens among them where a text ends."""
        tokens = [token for token in self.trie if token != END]
        return [*tokens, *end_ids] if END in self.trie else tokens

    def follow(self, token: int) -> tuple[Guide | None, list[int] | None]:
        """Returns the place after a token, None where all is free; and how the reply ends.

        It ends where a single text is left: with the tokens that this has left. Else None.
        """
        here: Trie = self.trie[token]
        if END in here and not self.whole:
            return None, None
        rest: list[int] = []
        at = here
        while self.whole and len(at) == 1:
            (following,) = at
            if following == END:
                return Guide(here, self.whole), rest
            rest.append(following)
            at = at[following]
        return Guide(here, self.whole), None


def choose_guided(
    guides: Sequence[Guide | None],
    logits_BV: Any,
    end_ids: Collection[int],
    temperatures: Sequence[float],
    uniforms: Sequence[float],
) -> list[int]:
    """Returns the next token of every guided branch, 0 for the others; see `draw_among`."""
    tokens = [0] * len(guides)
    for row, guide in enumerate(guides):
        if guide is not None:
            allowed = guide.allowed(end_ids)
            logits = logits_BV[row, allowed].tolist()
            tokens[row] = draw_among(allowed, logits, temperatures[row], uniforms[row])
    return tokens


def draw_among(
    tokens: Sequence[int], logits: Sequence[float], temperature: float, uniform: float
) -> int:
    """Returns the token that a number in [0, 1) selects, at temperature 0 the likeliest."""
    best = max(range(len(tokens)), key=logits.__getitem__)
    if not temperature:
        return tokens[best]
    weights = [math.exp((one - logits[best]) / temperature) for one in logits]
    left = uniform * math.fsum(weights)
    for token, weight in zip(tokens, weights, strict=True):
        left -= weight
        if left < 0:
            return token
    return tokens[best]


def build_guide(sampling: Sampling, encode: Callable[[str], Sequence[int]]) -> Guide | None:
    """Returns the guide that a request wants, if any.

    >>> guide = build_guide(Sampling(among=("ab", "ac")), lambda text: [ord(one) for one in text])
    >>> guide.allowed([0])
    [97]
    >>> guide.follow(97)[0].allowed([0])
    [98, 99]
    >>> guide.follow(97)[0].follow(98)[1]
    []
    """
    texts = sampling.among or sampling.begins
    if not texts:
        return None
    trie: Trie = {}
    for text in texts:
        here = trie
        for token in encode(text):
            here = here.setdefault(token, {})
        here[END] = {}
    return Guide(trie, whole=bool(sampling.among))
