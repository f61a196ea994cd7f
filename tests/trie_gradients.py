"""Gradients of a trie beside those of its traces one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from agenticlu.training import attention
from agenticlu.training.losses import sft_edge_weights
from agenticlu.training.model import EdgeModel
from agenticlu.training.trie import TriePlan


def set_own_attention(model: Any) -> None:
    """Lets a model compute attention as transformers does where nothing else is asked for."""
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")


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
    set_own_attention(model)
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
