"""Draws tokens from logits: the same for the same numbers, whatever a reply is batched with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from agenticlu.core.records import Usage
from agenticlu.engines.base import ChoiceProbs, TokenLogprob

NUCLEUS_GUESS = 256
"""Tokens that mostly hold the nucleus: to find them is far cheaper than to sort a vocabulary."""


def draw_uniforms(seed: int, count: int) -> list[float]:
    """Returns `count` numbers in [0, 1) that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    numbers: list[float] = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    return numbers


def choose(
    logits_BV: Tensor,
    temperatures: list[float],
    top_ps: list[float],
    uniforms: list[float],
) -> list[int]:
    """Returns one token per row.

    Args:
        logits_BV: Branches by vocabulary.
        temperatures: Per branch; 0 takes the likeliest token.
        top_ps: Per branch; the smallest set of likeliest tokens with this much probability.
        uniforms: Per branch a number in [0, 1) that selects the token (inverse distribution
            function over the vocabulary in its order), so that a branch draws the same token
            whatever it is batched with.
    """
    tokens: list[int] = logits_BV.argmax(dim=-1).tolist()
    rows = [b for b, temperature in enumerate(temperatures) if temperature > 0]
    if not rows:
        return tokens
    picked = logits_BV if len(rows) == len(tokens) else logits_BV[rows]
    # Double precision: the sum over a whole vocabulary must not lose its small terms.
    heat = picked.new_tensor([temperatures[b] for b in rows], dtype=torch.float64)
    probabilities = torch.softmax(picked.double() / heat[:, None], dim=-1)
    top_p = [top_ps[b] for b in rows]
    if min(top_p) < 1.0:
        probabilities = keep_nucleus(probabilities, probabilities.new_tensor(top_p))
    cumulative = probabilities.cumsum(dim=-1)
    # Scaled by the total, because the nucleus is not renormalised.
    target = cumulative.new_tensor([uniforms[b] for b in rows])[:, None] * cumulative[:, -1:]
    # `right` skips tokens of probability 0 even when the number drawn is 0; the clamp catches a
    # target that rounding puts at the total.
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0]
    for b, token in zip(rows, drawn.clamp_(max=cumulative.shape[-1] - 1).tolist(), strict=True):
        tokens[b] = token
    return tokens


def keep_nucleus(probabilities_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Sets to zero all but the likeliest tokens that together reach `top_p`; not renormalised."""
    count = probabilities_BV.shape[-1]
    ordered, order = probabilities_BV.topk(min(NUCLEUS_GUESS, count), dim=-1)
    if bool((ordered.sum(dim=-1) < top_p_B).any()):
        ordered, order = probabilities_BV.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    # A token stays if those likelier than it do not reach top_p yet, and the first always does.
    ordered = ordered.masked_fill((before >= top_p_B[:, None]) & (before > 0), 0.0)
    return torch.zeros_like(probabilities_BV).scatter_(-1, order, ordered)


def describe_draw(
    logits_V: Tensor, token: int, count: int, text_of: Callable[[int], str]
) -> TokenLogprob:
    """Returns the log-probability of a token that was drawn, and of its likeliest rivals.

    Args:
        logits_V: That it was drawn from.
        token: The token.
        count: How many rivals.
        text_of: Returns the text of a token.
    """
    logprobs = torch.log_softmax(logits_V.double(), dim=-1)
    values, ids = logprobs.topk(min(count, len(logprobs)))
    return TokenLogprob(
        token_id=token,
        text=text_of(token),
        logprob=float(logprobs[token]),
        top=tuple(
            (one, text_of(one), value)
            for one, value in zip(ids.tolist(), values.tolist(), strict=True)
        ),
    )


def weigh_choices(
    logits_V: Tensor, tokens: Mapping[str, Sequence[int]], usage: Usage
) -> ChoiceProbs:
    """Returns the probability of each choice.

    Args:
        logits_V: Of the reply's first token.
        tokens: Choice to the tokens that it may start with.
        usage: What asking has cost.
    """
    probabilities = torch.softmax(logits_V.double(), dim=-1)
    mass = {choice: float(probabilities[list(ids)].sum()) for choice, ids in tokens.items()}
    total = sum(mass.values())
    return ChoiceProbs(
        probabilities={choice: one / total for choice, one in mass.items()},
        label_mass=min(1.0, total),
        usage=usage,
    )
