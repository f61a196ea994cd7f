"""Losses over edges, what a trie adds to a step, and the optimizer's update.

An edge is one supervised prediction of a trie: (source row, target token). Its log-probability is
computed from the hidden state of the source alone, in chunks, so logits of a prompt never exist.
SFT and DPO are both a weighted sum of edge log-probabilities, `-sum(weight_E * logp_E)`; only the
weights differ (TRAINING 2.5).

Legend: S rows, C width, V vocabulary, E edges, P pairs, L traces (leaves).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agenticlu.core.errors import MissingDependencyError, TrainingError
from agenticlu.training.config import TrainConfig
from agenticlu.training.encode import Unit
from agenticlu.training.parallel import Ranks
from agenticlu.training.trie import Pairs, Trie, TriePlan

FloatArray = npt.NDArray[np.float64]
SftLoss = Literal["per-trace", "per-token"]
DpoLoss = Literal["sigmoid", "ipo"]


class _EdgeLogprobs(torch.autograd.Function):
    """Log-probabilities of targets, chunk by chunk; the logits are computed again in backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, sources: Tensor,
        targets: Tensor, chunk: int, logit_scale: float, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(hidden, weight, bias, sources, targets)
        ctx.chunk, ctx.logit_scale, ctx.softcap = chunk, logit_scale, softcap
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp_E = torch.empty(len(sources), dtype=wide, device=hidden.device)
        for start in range(0, len(sources), chunk):
            part = slice(start, start + chunk)
            logits = compute_logits(hidden[sources[part]], weight, bias, logit_scale, softcap, wide)
            chosen = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            logp_E[part] = chosen - logits.logsumexp(1)
        return logp_E

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_E,) = grads
        hidden, weight, bias, sources, targets = ctx.saved_tensors
        wide = grad_E.dtype
        gathered = HeadGradients(ctx, hidden, weight, bias, wide)
        for start in range(0, len(sources), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            h = hidden[sources[part]]
            logits = compute_logits(h, weight, bias, ctx.logit_scale, ctx.softcap, wide)
            dlogits = logits.softmax(1).mul_(-grad_E[part].unsqueeze(1))
            dlogits.scatter_add_(1, targets[part].unsqueeze(1), grad_E[part].unsqueeze(1))
            gathered.add(sources[part], h, logits, dlogits)
        return (*gathered.finish(), None, None, None, None, None)


class HeadGradients:
    """Gradients by hidden states, the head's weight and its bias, gathered chunk by chunk.

    Args:
        ctx: Of a function whose first three inputs these are; has `logit_scale` and `softcap`.
        hidden: Hidden states (S, C).
        weight: The head's weight (V, C).
        bias: The head's bias (V), if it has one.
        wide: Type that sums are kept in.
    """

    def __init__(
        self, ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, wide: torch.dtype
    ) -> None:
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        self._ctx, self._inputs = ctx, (hidden, weight, bias)
        self._hidden = _zeros(hidden.shape, hidden, wide) if need_hidden else None
        self._weight = _zeros(weight.shape, weight, wide) if need_weight else None
        self._bias = _zeros(weight.shape[:1], weight, wide) if need_bias else None

    def add(self, sources: Tensor, h: Tensor, logits: Tensor, dlogits: Tensor) -> None:
        """Adds a chunk; `dlogits`, by the scaled and capped logits, is changed."""
        weight = self._inputs[1]
        if self._ctx.softcap is not None:  # c tanh(x / c) has the slope 1 - (its value / c)^2
            dlogits.mul_(1.0 - (logits / self._ctx.softcap).square_())
        dlogits.mul_(self._ctx.logit_scale)
        # Products in the weights' dtype, as the forward has them; sums over chunks wide.
        narrow = dlogits.to(weight.dtype)
        if self._hidden is not None:
            self._hidden.index_add_(0, sources, (narrow @ weight).to(self._hidden.dtype))
        if self._weight is not None:
            self._weight.add_((narrow.t() @ h).to(self._weight.dtype))
        if self._bias is not None:
            self._bias.add_(dlogits.sum(0))

    def finish(self) -> tuple[Tensor | None, ...]:
        """Returns the three gradients in their inputs' types; None where none is needed."""
        sums = (self._hidden, self._weight, self._bias)
        return tuple(
            None if total is None or given is None else total.to(given.dtype)
            for total, given in zip(sums, self._inputs, strict=True)
        )


def _zeros(shape: torch.Size, like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=like.device)


def compute_logits(
    h: Tensor, weight: Tensor, bias: Tensor | None, logit_scale: float, softcap: float | None,
    wide: torch.dtype,
) -> Tensor:  # fmt: skip
    """Returns a chunk of logits, scaled, then capped."""
    logits = torch.nn.functional.linear(h, weight, bias).to(wide)
    if logit_scale != 1.0:
        logits = logits.mul_(logit_scale)
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def edge_logprobs(
    hidden_SC: Tensor,
    weight_VC: Tensor,
    sources_E: Tensor,
    targets_E: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk: int = 2048,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Returns logp_E in fp32 (fp64 for fp64 inputs); no tensor of more than chunk x V exists.

    Logits are scaled, then capped to softcap * tanh(logit / softcap).
    """
    assert chunk > 0
    result: Tensor = _EdgeLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_SC, weight_VC, bias_V, sources_E, targets_E, chunk, logit_scale, softcap
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
    return plan.edge_weights(_weigh_traces(plan, loss, num_traces, num_targets))


def trace_weights(config: TrainConfig, plan: TriePlan, step_size: tuple[int, int]) -> FloatArray:
    """Returns the weight of a supervised token of each trace: a step's loss is the weighted sum."""
    return _weigh_traces(plan, config.sft_loss, *step_size)


def _weigh_traces(plan: TriePlan, loss: SftLoss, num_traces: int, num_targets: int) -> FloatArray:
    if loss == "per-token":
        return np.full(plan.num_traces, 1.0 / num_targets)
    weights: FloatArray = 1.0 / (num_traces * np.maximum(plan.trace_targets, 1))
    return weights


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


@dataclass
class Totals:
    """Sums over the tries of one step or one evaluation."""

    loss: float = 0.0
    nll: float = 0.0
    """Sum over supervised tokens of -log p (DPO: of the chosen traces)."""
    divergence: float = 0.0
    """Distillation: sum over supervised tokens of the divergence from the teacher."""
    taught: int = 0
    """These tokens."""
    targets: int = 0
    margin: float = 0.0
    ordered: float = 0.0
    """Pairs with a positive margin; ties count half."""
    preferred: float = 0.0
    """Pairs whose chosen trace the policy itself finds more likely."""
    pairs: int = 0
    traces: int = 0
    stored_tokens: int = 0
    trace_tokens: int = 0
    area: int = 0
    edges: int = 0
    largest_log_ratio: float = 0.0

    def add_trie(self, plan: TriePlan) -> None:
        """Adds the sizes of a trie."""
        self.traces += plan.num_traces
        self.stored_tokens += plan.num_rows
        self.trace_tokens += plan.trace_tokens
        self.area += plan.area
        self.edges += len(plan.sources_E)

    def over(self, ranks: Ranks) -> Totals:
        """Returns the sums over all tries of all ranks; ranks that share a trie count once."""
        names = [field.name for field in dataclasses.fields(self)]
        counts = ranks.context_rank == 0
        values = ranks.sum([float(getattr(self, name)) if counts else 0.0 for name in names])
        whole: dict[str, Any] = {
            name: type(getattr(self, name))(value)
            for name, value in zip(names, values, strict=True)
        }
        return Totals(**whole | {"largest_log_ratio": ranks.max(self.largest_log_ratio)})

    def averages(self) -> dict[str, float]:
        """Returns the means that steps and evaluations log."""
        if self.taught:
            return {"divergence_nat": self.divergence / self.taught}
        if not self.pairs:
            return {"nll_nat": self.nll / self.targets}
        return {
            "margin_mean": self.margin / self.pairs,
            "pairs_ordered_share": self.ordered / self.pairs,
            "nll_chosen_nat": self.nll / self.targets,
        }


def count_targets(units: Sequence[Unit]) -> tuple[int, int]:
    """Returns the traces or pairs and the supervised tokens of a step: its denominators."""
    return len(units), sum(trace.num_targets for unit in units for trace in unit.traces)


def check_first_step(config: TrainConfig, totals: Totals, dtype: torch.dtype) -> None:
    """Checks that policy and reference of DPO agree before the first update.

    Raises:
        TrainingError: They do not.
    """
    allowed = {torch.float64: 1e-9, torch.float32: 1e-2}.get(dtype, 2.0)
    beta = config.beta
    expected = math.log(2.0) if config.dpo_loss == "sigmoid" else (0.5 / beta) ** 2
    # With a likelihood term the loss has no known start.
    off = 0.0 if config.nll_weight else abs(totals.loss - expected)
    if totals.largest_log_ratio > allowed or off > allowed * max(beta, 1 / beta):
        raise TrainingError(
            "Before the first step policy and reference differ by "
            f"{totals.largest_log_ratio:.2e} nat on one pair (allowed {allowed:.0e}); the "
            f"loss is {totals.loss:.6f}, not {expected:.6f}.",
            hint=f"Delete {config.out}/cache and start again.",
        )


def weigh_edges(
    config: TrainConfig,
    trie: Trie,
    logp_E: FloatArray,
    reference_L: FloatArray | None,
    step_size: tuple[int, int],
    totals: Totals,
) -> FloatArray:
    """Returns the weight of each edge in the step's loss, and adds the trie to the totals.

    Args:
        config: Decides the loss.
        trie: One trie of the step.
        logp_E: Log-probabilities of its edges.
        reference_L: DPO: the reference's sum over each trace's targets; None means SFT.
        step_size: Traces or pairs, and supervised tokens, of the whole step.
        totals: Changed in place.
    """
    plan = trie.plan
    num_units, num_targets = step_size
    totals.add_trie(plan)
    logp_L = trace_sums(plan, logp_E)
    if reference_L is None:
        weight_E = sft_edge_weights(
            plan, config.sft_loss, num_traces=num_units, num_targets=num_targets
        )
        totals.loss -= float(weight_E @ logp_E)
        totals.nll -= float(logp_L.sum())
        totals.targets += int(plan.trace_targets.sum())
        return weight_E
    weight_E, log_ratio_P, loss_P = dpo_edge_weights(
        plan,
        trie.pairs,
        logp_L,
        reference_L,
        num_pairs=num_units,
        beta=config.beta,
        loss=config.dpo_loss,
        label_smoothing=config.label_smoothing,
        nll_weight=config.nll_weight,
    )
    chosen, rejected = trie.pairs.chosen, trie.pairs.rejected
    totals.loss += float(loss_P.sum()) / num_units
    totals.nll -= float(logp_L[chosen].sum())
    totals.targets += int(plan.trace_targets[chosen].sum())
    totals.margin += config.beta * float(log_ratio_P.sum())
    totals.ordered += float((log_ratio_P > 0).sum() + 0.5 * (log_ratio_P == 0).sum())
    totals.preferred += float((logp_L[chosen] > logp_L[rejected]).sum())
    totals.pairs += len(trie.pairs)
    totals.largest_log_ratio = max(
        totals.largest_log_ratio, float(np.abs(log_ratio_P).max(initial=0.0))
    )
    return weight_E


def build_optimizer(config: TrainConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Builds AdamW over the trainable weights.

    Raises:
        MissingDependencyError: The 8-bit version is asked for and torchao is not installed.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {
        "lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.adam_eps,
        "weight_decay": config.weight_decay,
    }  # fmt: skip
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    try:
        from torchao.optim import AdamW8bit
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "The optimizer adamw8bit needs the package 'torchao', which is not installed.",
            hint="pip install torchao",
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
    return optimizer


def clip_gradients(model: torch.nn.Module, limit: float) -> float:
    """Scales the whole gradient to a norm of at most `limit`; returns its norm over all shards."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if hasattr(norm, "full_tensor"):  # a DTensor: every rank needs the norm over all shards
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)


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
