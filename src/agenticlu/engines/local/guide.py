"""Guides replies: after each token only those may follow that lead to one of some given texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from agenticlu.engines.base import Sampling
from agenticlu.engines.local.drawing import choose

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


def choose_next(
    guides: Sequence[Guide | None],
    logits_BV: Tensor,
    end_ids: Collection[int],
    settings: Sequence[Sampling],
    uniforms: Sequence[float],
) -> list[int]:
    """Returns the next token of every branch: of what its guide allows, or of all.

    Args:
        guides: Per branch; None where all is free.
        logits_BV: Branches by vocabulary.
        end_ids: Tokens that end a reply.
        settings: Per branch.
        uniforms: Per branch a number in [0, 1) that selects the token; see `choose`.
    """
    tokens = [0] * len(guides)
    for row, guide in enumerate(guides):
        if guide is not None:
            allowed = guide.allowed(end_ids)
            logits = logits_BV[row, allowed].tolist()
            tokens[row] = draw_among(allowed, logits, settings[row].temperature, uniforms[row])
    if free := [row for row, guide in enumerate(guides) if guide is None]:
        chosen = choose(
            logits_BV if len(free) == len(guides) else logits_BV[free],
            [settings[row].temperature for row in free],
            [settings[row].top_p for row in free],
            [uniforms[row] for row in free],
        )
        for row, token in zip(free, chosen, strict=True):
            tokens[row] = token
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
