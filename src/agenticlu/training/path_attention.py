"""Attention along the paths of a trie, for layers with a window, capped scores or sinks.

Rectangles with a merged log-sum-exp (attention.py) know only which keys are visible. Here each
segment's queries meet the keys of their own path, laid side by side in order of depth, so the mask
is the ordinary one of a single row: causal, and at most `window` tokens back. What a path shares
with others is still projected, normalised and rotated once; only keys within reach are copied.

Legend: T query rows, U keys on their path, H heads, G key heads, D head dim.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from agenticlu.training.trie import TrieSegment

BLOCK_ROWS = 512
"""Most query rows that are computed at once."""
MOST_SCORES = 1 << 26
"""Most scores that exist at once where they are written out (256 MiB in fp32)."""


@functools.lru_cache(maxsize=64)
def find_paths(segments: tuple[TrieSegment, ...]) -> tuple[tuple[TrieSegment, ...], ...]:
    """Returns for each segment the segments from the top down to itself."""
    paths: list[tuple[TrieSegment, ...]] = []
    for segment in segments:
        above = () if segment.parent is None else paths[segment.parent]
        paths.append((*above, segment))
    return tuple(paths)


def path_attention(
    q_SHD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    segments: tuple[TrieSegment, ...],
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Returns out_SHD.

    Args:
        q_SHD: Queries of the trie's rows.
        k_SGD: Keys; each serves H / G neighbouring heads.
        v_SGD: Values.
        segments: Of the trie.
        scale: Of the scores.
        window: Tokens that a query sees, itself included; None sees the whole path.
        softcap: Scores become softcap * tanh(score / softcap).
        sinks_H: A score per head that takes part in the softmax and adds nothing.
    """
    outputs = []
    written = softcap is not None or sinks_H is not None
    for path in find_paths(segments):
        own = path[-1]
        depth_end = own.depth + own.end - own.start
        block = BLOCK_ROWS
        if written:
            block = max(1, min(block, MOST_SCORES // (q_SHD.shape[1] * depth_end)))
        for low in range(own.depth, depth_end, block):
            high = min(low + block, depth_end)
            first_key = 0 if window is None else max(0, low - window + 1)
            rows = slice(own.start + low - own.depth, own.start + high - own.depth)
            k_UGD, v_UGD = (_take_path(x, path, first_key, high) for x in (k_SGD, v_SGD))
            mask_TU = _build_mask(high - low, low - first_key, window, q_SHD.device)
            if written:
                arguments = (q_SHD[rows], k_UGD, v_UGD, mask_TU, sinks_H, scale, softcap)
                # Only the inputs are kept: the scores of all blocks would not fit.
                out: Any = checkpoint(
                    _attend_written, *arguments, use_reentrant=False, preserve_rng_state=False
                )
            else:
                out = _attend(q_SHD[rows], k_UGD, v_UGD, mask_TU, scale)
            outputs.append(out)
    return torch.cat(outputs)


def _take_path(x: Tensor, path: Sequence[TrieSegment], low: int, high: int) -> Tensor:
    """Returns the rows of a path between two depths."""
    parts = []
    for segment in path:
        start = max(low, segment.depth)
        end = min(high, segment.depth + segment.end - segment.start)
        if start < end:
            first = segment.start - segment.depth
            parts.append(x[first + start : first + end])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@functools.lru_cache(maxsize=4)  # blocks within a window look alike; others' masks are large
def _build_mask(rows: int, before: int, window: int | None, device: torch.device) -> Tensor:
    """Returns which keys each of some queries sees; `before` keys precede the first query."""
    query = torch.arange(before, before + rows, device=device).unsqueeze(1)
    key = torch.arange(before + rows, device=device)
    visible = key <= query
    return visible if window is None else visible & (key > query - window)


def _attend(q_THD: Tensor, k_UGD: Tensor, v_UGD: Tensor, mask_TU: Tensor, scale: float) -> Tensor:
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q_THD, k_UGD, v_UGD))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask_TU, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out[0].transpose(0, 1)


def _attend_written(
    q_THD: Tensor,
    k_UGD: Tensor,
    v_UGD: Tensor,
    mask_TU: Tensor,
    sinks_H: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    wide = torch.promote_types(q_THD.dtype, torch.float32)
    rows, heads, width = q_THD.shape
    groups = k_UGD.shape[1]
    q_GRTD = q_THD.to(wide).reshape(rows, groups, heads // groups, width).permute(1, 2, 0, 3)
    scores = (q_GRTD * scale) @ k_UGD.to(wide).permute(1, 2, 0).unsqueeze(1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask_TU, float("-inf"))
    if sinks_H is not None:
        sinks = sinks_H.to(wide).reshape(groups, -1, 1, 1).expand(-1, -1, rows, 1)
        scores = torch.cat((scores, sinks), dim=-1)
    weights = scores.softmax(-1)[..., : k_UGD.shape[0]]
    out_GRTD = weights @ v_UGD.to(wide).transpose(0, 1).unsqueeze(1)
    return out_GRTD.permute(2, 0, 1, 3).reshape(rows, heads, -1).to(q_THD.dtype)
