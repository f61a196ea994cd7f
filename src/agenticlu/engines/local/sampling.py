"""Draws tokens from logits: for many branches at once, yet each from its own stream of numbers."""
# ruff: noqa: N803  (shapes live in names: q_HTD)

from __future__ import annotations

import torch
from torch import Tensor


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
    heat = picked.new_tensor([temperatures[b] for b in rows], dtype=torch.float64)
    probabilities = torch.softmax(picked.double() / heat[:, None], dim=-1)
    top_p = [top_ps[b] for b in rows]
    if min(top_p) < 1.0:
        probabilities = keep_nucleus(probabilities, probabilities.new_tensor(top_p))
    cumulative = probabilities.cumsum(dim=-1)
    target = cumulative.new_tensor([uniforms[b] for b in rows])[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True)[:, 0]
    for b, token in zip(rows, drawn.clamp_(max=cumulative.shape[-1] - 1).tolist(), strict=True):
        tokens[b] = token
    return tokens


def keep_nucleus(probabilities_BV: Tensor, top_p_B: Tensor) -> Tensor:
    """Sets to zero all but the likeliest tokens that together reach `top_p`; not renormalised."""
    ordered, order = probabilities_BV.sort(dim=-1, descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    ordered = ordered.masked_fill(before >= top_p_B[:, None], 0.0)
    return torch.zeros_like(probabilities_BV).scatter_(-1, order, ordered)
