# ruff: noqa: N803, N806
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agenticlu.training.losses import (
    dpo_edge_weights,
    edge_logprobs,
    learning_rate,
    preference_terms,
    sft_edge_weights,
    trace_sums,
)
from agenticlu.training.trie import Pairs, build_plan


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operator returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, torch.Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def edge_case():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(90, 8, generator=generator, dtype=torch.float64)
    bias = torch.randn(90, generator=generator, dtype=torch.float64)
    sources = torch.tensor([3, 3, 9, 40, 63, 12, 3, 8, 21])
    targets = torch.tensor([5, 89, 0, 7, 7, 30, 5, 61, 44])
    weights = torch.randn(9, generator=generator, dtype=torch.float64)
    return hidden, weight, bias, sources, targets, weights


@pytest.mark.parametrize("chunk", [1, 7, 9, 100])
@pytest.mark.parametrize("logit_scale", [1.0, 0.25])
def test_edges_equal_full_logits(chunk, logit_scale) -> None:
    hidden, weight, bias, sources, targets, weights = edge_case()
    ours = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    theirs = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    with LargestTensor() as seen:
        logp = edge_logprobs(
            ours[0], ours[1], sources, targets, bias_V=ours[2], chunk=chunk,
            logit_scale=logit_scale,
        )  # fmt: skip
        (logp * weights).sum().backward()
    with LargestTensor() as naive:
        logits = (theirs[0] @ theirs[1].t() + theirs[2]) * logit_scale
        expected = logits.log_softmax(-1)[sources, targets]
        (expected * weights).sum().backward()
    assert float((logp - expected).detach().abs().max()) < 1e-12
    for a, b in zip(ours, theirs, strict=True):
        assert float((a.grad - b.grad).abs().max() / b.grad.abs().max()) < 1e-12
    assert seen.elements < 64 * 90 <= naive.elements


def test_edges_agree_with_torchs_own_fused_loss() -> None:
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    hidden, weight, _, sources, targets, _ = edge_case()
    logp = edge_logprobs(hidden.float(), weight.float(), sources, targets)
    theirs = torch.nn.functional.linear_cross_entropy(
        hidden.float()[sources], weight.float(), targets, reduction="none"
    )
    assert torch.allclose(-logp, theirs, atol=1e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, _, sources, targets, _ = edge_case()
    hidden.requires_grad_()
    edge_logprobs(hidden, weight, sources, targets).sum().backward()
    assert weight.grad is None
    assert float(hidden.grad.abs().max()) > 0


def numeric_dpo(logp_L, reference_L, chosen, rejected, counts, **settings):
    """DPO written with autograd on the traces' sums: loss and its gradient by each sum."""
    sums = torch.from_numpy(logp_L).requires_grad_()
    gain = sums - torch.from_numpy(reference_L)
    h = gain[chosen] - gain[rejected]
    beta, smooth = settings["beta"], settings.get("label_smoothing", 0.0)
    if settings["loss"] == "ipo":
        losses = (h - 1 / (2 * beta)) ** 2
    else:
        log_sigmoid = torch.nn.functional.logsigmoid
        losses = -(1 - smooth) * log_sigmoid(beta * h) - smooth * log_sigmoid(-beta * h)
    nll = -(sums / torch.from_numpy(counts).double())[chosen]
    loss = (losses + settings.get("nll_weight", 0.0) * nll).mean()
    loss.backward()
    return float(loss.detach()), sums.grad.numpy()


SETTINGS = [
    {"loss": "sigmoid", "beta": 0.1},
    {"loss": "sigmoid", "beta": 0.5, "label_smoothing": 0.2},
    {"loss": "ipo", "beta": 0.3},
    {"loss": "sigmoid", "beta": 0.1, "nll_weight": 0.7},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_dpo_weights_are_the_gradient_of_dpo(tries, settings) -> None:
    generator = np.random.default_rng(4)
    for seed in range(8):
        sample = tries(seed)
        plan = build_plan(sample.traces, sample.masks)
        number = plan.num_traces
        pairs = Pairs(*(generator.integers(0, number, 5).tolist() for _ in range(2)))
        logp_E = generator.normal(-2, 1, len(plan.sources_E))
        logp_L = trace_sums(plan, logp_E)
        reference_L = logp_L + generator.normal(0, 4, number)
        weight_E, ratio, losses = dpo_edge_weights(
            plan, pairs, logp_L, reference_L, num_pairs=len(pairs), **settings
        )
        loss, slope_L = numeric_dpo(
            logp_L, reference_L, pairs.chosen, pairs.rejected, plan.trace_targets, **settings
        )
        assert losses.mean() == pytest.approx(loss, rel=1e-12)
        expected_E = np.zeros(len(plan.sources_E))
        for edge, trace in zip(plan.edge_of_K, plan.trace_of_K, strict=True):
            expected_E[edge] -= slope_L[trace]
        assert np.abs(weight_E - expected_E).max() < 1e-12 * max(1, np.abs(expected_E).max())
        assert np.abs(ratio[pairs.chosen != pairs.rejected]).min() > 0
        swapped = Pairs(pairs.rejected.tolist(), pairs.chosen.tolist())
        _, opposite, _ = dpo_edge_weights(
            plan, swapped, logp_L, reference_L, num_pairs=len(pairs), **settings
        )
        assert np.array_equal(opposite, -ratio)


def test_edges_common_to_both_sides_cancel() -> None:
    shared = np.array([1, 2, 3])
    traces = [np.append(shared, [4, 5]), np.append(shared, [6, 7])]
    mask = np.array([False, True, True, True, True])
    plan = build_plan(traces, [mask, mask])
    weight_E, _, _ = dpo_edge_weights(
        plan, Pairs([0], [1]), np.array([-3.0, -1.0]), np.zeros(2), num_pairs=1, beta=0.2
    )
    by_target = dict(zip(plan.targets_E.tolist(), weight_E.tolist(), strict=True))
    assert by_target[2] == by_target[3] == 0
    assert by_target[4] > 0 > by_target[6]


def test_regrouping_changes_no_weight(tries) -> None:
    sample = tries(6, num_traces=8)
    count, targets = len(sample.traces), sum(int(mask.sum()) for mask in sample.masks)

    def per_token(size: int, loss: str, local: bool) -> dict[tuple[int, ...], float]:
        """Total weight of each prefix, over groups of `size` traces."""
        total: dict[tuple[int, ...], float] = {}
        for start in range(0, count, size):
            traces, masks = sample.traces[start : start + size], sample.masks[start : start + size]
            plan = build_plan(traces, masks)
            weights = sft_edge_weights(
                plan, loss, num_traces=len(traces) if local else count,
                num_targets=sum(int(m.sum()) for m in masks) if local else targets,
            )  # fmt: skip
            if local:  # a mean of means
                weights = weights * size / count
            for number, ids in enumerate(traces):
                own = plan.edge_of_K[plan.trace_of_K == number]
                for edge, place in zip(own, np.flatnonzero(masks[number]), strict=True):
                    uses = int((plan.edge_of_K == edge).sum())
                    key = tuple(ids[: place + 1])
                    total[key] = total.get(key, 0.0) + weights[edge] / uses
        return total

    for loss in ("per-trace", "per-token"):
        reference = per_token(1, loss, local=False)
        for size in (2, 4, 9):
            regrouped = per_token(size, loss, local=False)
            assert max(abs(regrouped[k] - reference[k]) for k in reference) < 1e-12
    wrong, right = per_token(4, "per-token", local=True), per_token(1, "per-token", local=False)
    assert max(abs(wrong[k] - right[k]) / right[k] for k in right) > 1e-2


def test_zero_margin_is_ln_2() -> None:
    loss, slope = preference_terms(np.zeros(3), loss="sigmoid", beta=0.1)
    assert loss == pytest.approx(math.log(2), abs=1e-15)
    assert slope == pytest.approx(-0.05)
    far, flat = preference_terms(np.array([1e4, -1e4]), loss="sigmoid", beta=1.0)
    assert np.isfinite(far).all()
    assert flat.tolist() == [0.0, -1.0]


def test_learning_rate_schedule() -> None:
    rates = [learning_rate(s, 100, peak=2.0, warmup=0.03, floor=0.1) for s in range(100)]
    assert rates[0] == pytest.approx(2 / 3, rel=1e-12)
    assert rates[2] == rates[3] == 2.0
    assert rates[3 + 48] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5), rel=1e-12)
    assert rates[-1] == pytest.approx(0.2, rel=1e-12) == min(rates[3:])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert learning_rate(0, 1, peak=1.0) == 1.0
