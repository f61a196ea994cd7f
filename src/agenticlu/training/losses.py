"""Losses over edges; pure functions.

An edge is one supervised prediction of a trie: (source row, target token). Its log-probability is
computed from the hidden state of the source alone, in chunks, so logits of a prompt never exist.
SFT and DPO are both a weighted sum of edge log-probabilities: `-sum(weight_E * logp_E)`; only the
weights differ (TRAINING 2.5).

Legend: S rows, C width, V vocabulary, E edges, P pairs, L traces (leaves).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agenticlu.training.trie import TriePlan

FloatArray = npt.NDArray[np.float64]
SftLoss = Literal["per-trace", "per-token"]
DpoLoss = Literal["sigmoid", "ipo"]


class _EdgeLogprobs(torch.autograd.Function):
    """Log-probabilities of targets, chunk by chunk; the logits are computed again in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, sources: Tensor,
        targets: Tensor, chunk: int, logit_scale: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(hidden, weight, bias, sources, targets)
        ctx.chunk, ctx.logit_scale = chunk, logit_scale
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp_E = torch.empty(len(sources), dtype=wide, device=hidden.device)
        for start in range(0, len(sources), chunk):
            part = slice(start, start + chunk)
            logits = _logits(hidden[sources[part]], weight, bias, logit_scale, wide)
            chosen = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            logp_E[part] = chosen - logits.logsumexp(1)
        return logp_E

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_E,) = grads
        hidden, weight, bias, sources, targets = ctx.saved_tensors
        wide = grad_E.dtype
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        dhidden = torch.zeros(hidden.shape, dtype=wide, device=hidden.device)
        dweight = (
            torch.zeros(weight.shape, dtype=wide, device=weight.device) if need_weight else None
        )
        dbias = torch.zeros(len(weight), dtype=wide, device=weight.device) if need_bias else None
        for start in range(0, len(sources), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            h = hidden[sources[part]]
            logits = _logits(h, weight, bias, ctx.logit_scale, wide)
            dlogits = logits.softmax(1).mul_(-grad_E[part].unsqueeze(1))
            dlogits.scatter_add_(1, targets[part].unsqueeze(1), grad_E[part].unsqueeze(1))
            dlogits.mul_(ctx.logit_scale)
            narrow = dlogits.to(weight.dtype)
            if need_hidden:
                dhidden.index_add_(0, sources[part], (narrow @ weight).to(wide))
            if dweight is not None:
                dweight.add_((narrow.t() @ h).to(wide))
            if dbias is not None:
                dbias.add_(dlogits.sum(0))
        return (
            dhidden.to(hidden.dtype) if need_hidden else None,
            None if dweight is None else dweight.to(weight.dtype),
            None if dbias is None or bias is None else dbias.to(bias.dtype),
            None, None, None, None,
        )  # fmt: skip


def _logits(
    h: Tensor, weight: Tensor, bias: Tensor | None, logit_scale: float, wide: torch.dtype
) -> Tensor:
    logits = torch.nn.functional.linear(h, weight, bias).to(wide)
    return logits.mul_(logit_scale) if logit_scale != 1.0 else logits


def edge_logprobs(
    hidden_SC: Tensor,
    weight_VC: Tensor,
    sources_E: Tensor,
    targets_E: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk: int = 2048,
    logit_scale: float = 1.0,
) -> Tensor:
    """Returns logp_E in fp32 (fp64 for fp64 inputs); no tensor of more than chunk x V exists."""
    assert chunk > 0
    result: Tensor = _EdgeLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_SC, weight_VC, bias_V, sources_E, targets_E, chunk, logit_scale
    )
    return result


def sft_edge_weights(
    plan: TriePlan, loss: SftLoss, *, num_traces: int, num_targets: int
) -> FloatArray:
    """Returns weight_E such that the step's loss is the sum over tries of -weight_E · logp_E.

    Args:
        plan: One trie of the step.
        loss: per-trace: each trace counts the same; per-token: each supervised token does.
        num_traces: Traces of the whole optimizer step, over all tries and ranks.
        num_targets: Supervised tokens of the whole step, counted per trace.
    """
    if loss == "per-token":
        weights = np.full(plan.num_traces, 1.0 / num_targets)
    else:
        weights = 1.0 / (num_traces * np.maximum(plan.trace_targets, 1))
    return plan.edge_weights(weights)


def trace_sums(plan: TriePlan, value_E: FloatArray) -> FloatArray:
    """Returns the sum of an edge value over the supervised edges of each trace."""
    return np.bincount(
        plan.trace_of_K, weights=value_E[plan.edge_of_K], minlength=plan.num_traces
    ).astype(np.float64)


def preference_terms(
    log_ratio_P: FloatArray, *, loss: DpoLoss, beta: float, label_smoothing: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Returns the loss of each pair and its derivative by the log-ratio.

    The log-ratio of a pair is (pi_chosen - ref_chosen) - (pi_rejected - ref_rejected).

    sigmoid: arXiv 2305.18290 with the smoothing of cDPO; ipo: arXiv 2310.12036, equation 17.

    >>> loss, slope = preference_terms(np.zeros(1), loss="sigmoid", beta=0.1)
    >>> round(float(loss[0]), 6), float(slope[0])
    (0.693147, -0.05)
    """
    if loss == "ipo":
        gap = log_ratio_P - 1.0 / (2.0 * beta)
        return gap**2, 2.0 * gap
    margin = beta * log_ratio_P
    down, up = _sigmoid(-margin), _sigmoid(margin)
    keep = 1.0 - label_smoothing
    value = keep * np.logaddexp(0.0, -margin) + label_smoothing * np.logaddexp(0.0, margin)
    return value, beta * (label_smoothing * up - keep * down)


def _sigmoid(x: FloatArray) -> FloatArray:
    result: FloatArray = np.exp(-np.logaddexp(0.0, -x))
    return result


class Pairs:
    """Pairs of one trie's traces, as two arrays of trace numbers."""

    def __init__(self, chosen: list[int], rejected: list[int]) -> None:
        assert len(chosen) == len(rejected)
        self.chosen = np.asarray(chosen, dtype=np.int64)
        self.rejected = np.asarray(rejected, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.chosen)


def dpo_edge_weights(
    plan: TriePlan,
    pairs: Pairs,
    logp_L: FloatArray,
    reference_L: FloatArray,
    *,
    num_pairs: int,
    beta: float,
    loss: DpoLoss = "sigmoid",
    label_smoothing: float = 0.0,
    nll_weight: float = 0.0,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns (weight_E, log_ratio_P, loss_P) of one trie.

    The gradient of the DPO loss is that of -weight_E · logp_E with these weights held fixed. Any
    graph of pairs over the traces may be given; edges common to both sides cancel by themselves.

    Args:
        plan: The trie.
        pairs: Which traces are compared.
        logp_L: Sum of the policy's log-probabilities over each trace's targets.
        reference_L: The same under the reference.
        num_pairs: Pairs of the whole optimizer step.
        beta: Strength of the pull towards the reference.
        loss: Which function of the log-ratio.
        label_smoothing: Share of pairs assumed to be labelled the wrong way round.
        nll_weight: Weight of the chosen traces' mean negative log-likelihood, added to the loss.
    """
    gain_L = logp_L - reference_L
    log_ratio_P = gain_L[pairs.chosen] - gain_L[pairs.rejected]
    loss_P, slope_P = preference_terms(
        log_ratio_P, loss=loss, beta=beta, label_smoothing=label_smoothing
    )
    weight_L = np.zeros(plan.num_traces)
    np.add.at(weight_L, pairs.chosen, -slope_P / num_pairs)
    np.add.at(weight_L, pairs.rejected, slope_P / num_pairs)
    if nll_weight:
        per_token = nll_weight / (num_pairs * np.maximum(plan.trace_targets, 1))
        np.add.at(weight_L, pairs.chosen, per_token[pairs.chosen])
        targets_L = np.maximum(plan.trace_targets, 1)
        loss_P = loss_P - nll_weight * (logp_L / targets_L)[pairs.chosen]
    return plan.edge_weights(weight_L), log_ratio_P, loss_P


def learning_rate(
    step: int, total_steps: int, *, peak: float, warmup: float = 0.03, floor: float = 0.1
) -> float:
    """Returns the rate of optimizer step `step` (from 0): linear warm-up, cosine to floor x peak.

    The first step already moves: warm-up goes 1/w, 2/w, ... 1; the last step has the floor.

    >>> [round(learning_rate(s, 5, peak=1.0, warmup=0.2, floor=0.1), 3) for s in range(5)]
    [1.0, 1.0, 0.775, 0.325, 0.1]
    """
    warmup_steps = math.ceil(warmup * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    span = max(total_steps - 1 - warmup_steps, 1)
    progress = min((step - warmup_steps) / span, 1.0)
    return peak * (floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress)))
