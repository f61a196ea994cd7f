"""A trie that does not fit: the prefix once, then its branches a few at a time (TRAINING 2.7).

The prefix is run forward once and its keys and values are kept. Groups of branches read them as
leaves of their own graphs and add into their gradients; one backward through the prefix follows.
The gradients are those of one pass.

Legend: R rows of the prefix, n rows of a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from agenticlu.training.attention import TrieMask, tree_attention
from agenticlu.training.losses import FloatArray, edge_logprobs
from agenticlu.training.model import EdgeModel
from agenticlu.training.trie import TriePlan


@dataclass
class _Prefix:
    """Keys and values of the prefix, layer by layer; also the attention of prefix and groups."""

    flat: list[int]
    rows: int
    kernel: str
    computed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of the prefix's own graph."""
    read: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Detached copies that the groups read and add gradients to."""

    def attend_prefix(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None
    ) -> Tensor:
        assert layer is not None
        if layer not in self.computed:  # not again in the recomputation of a checkpoint
            self.computed[layer] = (k, v)
            self.read[layer] = tuple(  # type: ignore[assignment]
                x.detach().clone().requires_grad_(torch.is_grad_enabled()) for x in (k, v)
            )
        out: Tensor = tree_attention(q, k, v, self.flat, scale, self.kernel)[0]
        return out

    def attend_group(
        self, flat: list[int]
    ) -> Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None) -> Tensor:
            assert layer is not None
            k_all, v_all = (
                torch.cat((old, new)) for old, new in zip(self.read[layer], (k, v), strict=True)
            )
            out: Tensor = tree_attention(q, k_all, v_all, flat, scale, self.kernel)[0]
            return out

        return attend


def group_ranges(plan: TriePlan, limit: int) -> list[tuple[int, int]]:
    """Returns row ranges of whole branches below the prefix, each with it within `limit` tokens.

    A branch that is too large by itself gets a group of its own.
    """
    root = plan.segments[0]
    assert root.last == plan.num_rows, "the traces share no prefix"
    ranges: list[tuple[int, int]] = []
    for segment in plan.segments:
        if segment.parent != 0:
            continue
        if ranges and segment.last - ranges[-1][0] + root.end <= limit:
            ranges[-1] = (ranges[-1][0], segment.last)
        else:
            ranges.append((segment.start, segment.last))
    return ranges


def _group_rectangles(plan: TriePlan, start: int, end: int) -> list[int]:
    """The group's mask: own rows from 0, keys behind the prefix's."""
    rows = plan.segments[0].end
    flat: list[int] = []
    for q0, q1, k0, k1, causal in plan.rectangles:
        if k0 >= start and q1 <= end:
            flat += [q0 - start, q1 - start, k0 - start + rows, k1 - start + rows, causal]
    return [*flat, 0, end - start, 0, rows, 0]


def run_groups(
    edges: EdgeModel,
    plan: TriePlan,
    kernel: str,
    limit: int,
    weights_of: Callable[[FloatArray], FloatArray],
) -> int:
    """Runs forward and backward of a trie in groups of branches.

    Args:
        edges: The model; gradients are added to its parameters.
        plan: A trie with one root.
        kernel: Attention kernel.
        limit: Most tokens of a group, the prefix included.
        weights_of: From logp_E to weight_E; called once.

    Returns:
        How many groups there were.
    """
    ranges = group_ranges(plan, limit)
    root = plan.segments[0]
    device = next(edges.parameters()).device

    def tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def logprobs(
        hidden: Tensor, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], first: int
    ) -> Tensor:
        head = edges.causal_lm().get_output_embeddings()
        return edge_logprobs(
            hidden, head.weight, tensor(plan.sources_E[chosen] - first),
            tensor(plan.targets_E[chosen]), bias_V=getattr(head, "bias", None),
            chunk=edges.edge_chunk, logit_scale=edges.logit_scale,
        )  # fmt: skip

    def hidden_of(start: int, end: int, attend: Callable[..., Tensor]) -> Tensor:
        depth = int(plan.positions_S.max()) + 1
        return edges.hidden_states(
            tensor(plan.ids_S[start:end]), tensor(plan.positions_S[start:end]),
            TrieMask([], kernel, depth, attend),
        )  # fmt: skip

    def edges_in(start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        inside = (plan.sources_E >= start) & (plan.sources_E < end)
        return np.flatnonzero(inside)

    def passes(weight_E: FloatArray | None) -> FloatArray:
        """One run over prefix and groups; with weights, also backward."""
        logp_E = np.zeros(len(plan.sources_E))
        prefix = _Prefix([0, root.end, 0, root.end, 1], root.end, kernel)

        def record(
            logp: Tensor, chosen: np.ndarray[tuple[int], np.dtype[np.int64]]
        ) -> Tensor | None:
            logp_E[chosen] = logp.detach().double().cpu().numpy()
            if weight_E is None:
                return None
            return -(logp * torch.from_numpy(weight_E[chosen]).to(logp)).sum()

        chosen = edges_in(0, root.end)
        prefix_loss = record(
            logprobs(hidden_of(0, root.end, prefix.attend_prefix), chosen, 0), chosen
        )
        for start, end in ranges:
            chosen = edges_in(start, end)
            attend = prefix.attend_group(_group_rectangles(plan, start, end))
            loss = record(logprobs(hidden_of(start, end, attend), chosen, start), chosen)
            if loss is not None:
                loss.backward()  # type: ignore[no-untyped-call]
        if prefix_loss is not None:
            roots, grads = [prefix_loss], [torch.ones_like(prefix_loss)]
            for layer, kept in prefix.read.items():
                for computed, read in zip(prefix.computed[layer], kept, strict=True):
                    if read.grad is not None:
                        roots.append(computed)
                        grads.append(read.grad)
            torch.autograd.backward(roots, grads)
        return logp_E

    with torch.no_grad():
        logp_E = passes(None)
    passes(weights_of(logp_E))
    return len(ranges)
