"""Gradients of a trie beside those of its traces one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from agenticlu.training import attention
from agenticlu.training.losses import sft_edge_weights
from agenticlu.training.model import EdgeModel
from agenticlu.training.separate import use_own_attention
from agenticlu.training.trie import TriePlan


@contextlib.contextmanager
def wide_floats() -> Iterator[None]:
    """transformers computes norms and recurrences in fp32 whatever the model's type: not here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@dataclass
class Sample:
    """Traces and their targets."""

    traces: list[np.ndarray]
    masks: list[np.ndarray]


def gradients(model) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def worst(got, expected) -> float:
    """Largest difference, relative to the largest gradient entry."""
    size = max(float(g.abs().max()) for g in expected.values())
    return max(float((got[n] - expected[n]).abs().max()) for n in expected) / size


def backward_plan(edges: EdgeModel, plan: TriePlan, traces: int) -> float:
    logp = edges.run(plan, "cpu")
    weights = sft_edge_weights(plan, "per-trace", num_traces=traces, num_targets=0)
    loss = -(logp * torch.from_numpy(weights).to(logp)).sum()
    loss.backward()
    return float(loss.detach())


def separate(model, sample) -> float:
    """Mean over traces of the mean loss of a trace, the model's own attention and logits."""
    use_own_attention(model)
    total = 0.0
    for ids, mask in zip(sample.traces, sample.masks, strict=True):
        row = torch.from_numpy(ids)[None]
        logp = model(input_ids=row, use_cache=False).logits[0].log_softmax(-1)
        places = np.flatnonzero(mask)
        loss = -logp[places - 1, row[0, places]].mean() / len(sample.traces)
        loss.backward()
        total += float(loss.detach())
    model.set_attn_implementation(attention.NAME)
    return total
