"""Partial attention: outputs together with their log-sum-exp, and how parts are merged.

Softmax attention over keys split into disjoint parts is the parts' outputs weighted by their
log-sum-exps: with o_j, l_j of part j and L = logsumexp_j l_j, the whole is sum_j exp(l_j - L) o_j.

Shapes: H heads of queries, K heads of keys (K divides H), T or n tokens, S keys, D head dimension,
B branches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_flash_for_cpu: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_efficient_for_gpu: Any = torch.ops.aten._scaled_dot_product_efficient_attention
PLAIN_DEVICES: set[str] = set()
"""Kinds of device whose kernel failed the trial when a model was loaded."""


def attend(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the attention's output (B, H, T, D) and its log-sum-exp (B, H, T), in fp32.

    Args:
        q_BHTD: Queries.
        k_BKSD: Keys; with fewer heads than queries each serves H / K neighbouring heads.
        v_BKSD: Values.
        scale: Of the scores.
        causal: Only for T = S.
        mask: Added to the scores, broadcast from (B, 1, 1, S); no row may be fully masked.
    """
    kind = q_BHTD.device.type
    if kind == "cpu" and q_BHTD.shape[-1] == v_BKSD.shape[-1]:
        out, lse = _flash_for_cpu(q_BHTD, k_BKSD, v_BKSD, 0.0, causal, attn_mask=mask, scale=scale)
        return out, lse
    if kind == "cuda" and mask is None and kind not in PLAIN_DEVICES:
        return _attend_on_gpu(q_BHTD, k_BKSD, v_BKSD, scale, causal=causal)
    return _attend_plainly(q_BHTD, k_BKSD, v_BKSD, scale, causal=causal, mask=mask)


def _attend_on_gpu(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    scale: float,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Like `attend`, by the kernel that takes every dtype on a GPU and tells the log-sum-exp."""
    num_rows = q_BHTD.shape[2]
    repeats = q_BHTD.shape[1] // k_BKSD.shape[1]
    if repeats > 1:
        k_BKSD = k_BKSD.repeat_interleave(repeats, dim=1)
        v_BKSD = v_BKSD.repeat_interleave(repeats, dim=1)
    out, lse, *_ = _efficient_for_gpu(q_BHTD, k_BKSD, v_BKSD, None, True, 0.0, causal, scale=scale)
    return out, lse[:, :, :num_rows]  # the kernel pads rows to a multiple of 32


def _attend_plainly(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    scale: float,
    *,
    causal: bool,
    mask: Tensor | None,
    block: int = 512,
) -> tuple[Tensor, Tensor]:
    """Like `attend`, by matrix products in blocks of query rows; any device and dtype."""
    repeats = q_BHTD.shape[1] // k_BKSD.shape[1]
    if repeats > 1:
        k_BKSD = k_BKSD.repeat_interleave(repeats, dim=1)
        v_BKSD = v_BKSD.repeat_interleave(repeats, dim=1)
    outs, lses = [], []
    for start in range(0, q_BHTD.shape[2], block):
        rows = q_BHTD[:, :, start : start + block]
        scores = (rows @ k_BKSD.transpose(-1, -2)).float() * scale
        if mask is not None:
            scores = scores + mask
        if causal:
            at = torch.arange(start, start + rows.shape[2], device=rows.device)
            hidden = at[:, None] < torch.arange(k_BKSD.shape[2], device=rows.device)
            scores = scores.masked_fill(hidden, float("-inf"))
        lse = scores.logsumexp(-1)
        outs.append(torch.exp(scores - lse[..., None]).to(v_BKSD.dtype) @ v_BKSD)
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def attend_folded(
    q_HnD: Tensor,
    k_KSD: Tensor,
    v_KSD: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention of n queries, of any branches, to one full rectangle of keys.

    Query heads that share a key head are folded into the query length as well, so each key is read
    once. Returns (H, n, D) and (H, n).
    """
    num_heads, num_rows, dim = q_HnD.shape
    num_key_heads = k_KSD.shape[0]
    folded = q_HnD.reshape(1, num_key_heads, -1, dim)
    out, lse = attend(folded, k_KSD[None], v_KSD[None], scale)
    return (
        out.reshape(num_heads, num_rows, v_KSD.shape[-1]),
        lse.reshape(num_heads, num_rows),
    )


def merge(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merges two partial attentions of the same queries over disjoint keys.

    Args:
        out: (..., D).
        lse: (...), log-sum-exp of the scores behind `out`.
        other_out: Like `out`.
        other_lse: Like `lse`.
    """
    # exp(b - log(exp a + exp b)) is the logistic function of b - a, which cannot overflow.
    weight = torch.sigmoid(other_lse - lse)[..., None]
    if weight.dtype != out.dtype:
        weight = weight.to(out.dtype)
    return torch.lerp(out, other_out, weight), torch.logaddexp(lse, other_lse)


def merge_into(out_THD: Tensor, lse_HT: Tensor, part_THD: Tensor, part_lse_HT: Tensor) -> None:
    """Merges a partial attention into another of the same rows, in place.

    Rows that nothing was merged into yet may have a log-sum-exp of -inf.
    """
    # Not sigmoid and lerp: their last bits depend on how many heads are computed together, and a
    # trie shared by ranks (Ulysses) must equal one rank bit by bit.
    merged_HT = torch.logaddexp(lse_HT, part_lse_HT)
    out_THD.mul_((lse_HT - merged_HT).exp_().transpose(0, 1).unsqueeze(-1))
    out_THD.add_(part_THD * (part_lse_HT - merged_HT).exp_().transpose(0, 1).unsqueeze(-1))
    lse_HT.copy_(merged_HT)
