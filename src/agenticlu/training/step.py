"""Runs the tries of one optimizer step: dealt to ranks, forward, edge weights, backward.

A trie that does not fit runs as its prefix and then its branches a few at a time (TRAINING 2.7).
The prefix runs forward once and its keys and values are kept. Groups of branches read them as
leaves of their own graphs and add into their gradients; one backward through the prefix follows.
The gradients are those of a single pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agenticlu.core.progress import Progress, format_count
from agenticlu.training.attention import TrieMask, tree_attention
from agenticlu.training.budget import (
    GIB,
    ModelShape,
    compute_idle_share,
    deal_tries,
    peak_flop_per_s,
)
from agenticlu.training.checkpoint import ReferenceStore
from agenticlu.training.config import TrainConfig
from agenticlu.training.context import TrieShare, build_share, collect_edges
from agenticlu.training.distill import TeacherStore, build_lesson, split_by_trace
from agenticlu.training.encode import Unit
from agenticlu.training.losses import (
    FloatArray,
    Totals,
    trace_sums,
    trace_weights,
    weigh_edges,
)
from agenticlu.training.model import EdgeModel, adapter_off, to_tensors
from agenticlu.training.parallel import Ranks
from agenticlu.training.trie import Trie, TriePlan, build_trie, dummy_plan
from agenticlu.training.updates import Updates

EMPTY = np.empty((0, 1), np.int32), np.empty((0, 1), np.float32)
"""What a teacher says of a trie without targets."""


@dataclass(eq=False)
class TrieRunner:
    """Runs tries on this rank, in lockstep with the other ranks."""

    config: TrainConfig
    ranks: Ranks
    """This process among the others."""
    edges: EdgeModel
    """The model."""
    kernel: str
    """Attention kernel."""
    shape: ModelShape
    """Of the model, to predict what a trie costs."""
    min_shared: int
    """See `build_plan`."""
    updates: Updates
    """Runs the passes."""
    reference: ReferenceStore | None = None
    """DPO: log-probabilities under the reference; None otherwise."""
    teacher: TeacherStore | None = None
    """Distillation: what the teacher says; None otherwise."""
    idle_share: float = 0.0
    """Of the latest tries: predicted share of time in which ranks wait for each other."""

    def run(self, tries: Sequence[Trie], step_size: tuple[int, int], *, learn: bool) -> Totals:
        """Runs the tries of a step, with backward passes if `learn` is set.

        Args:
            tries: All tries of the step, on every rank.
            step_size: Traces or pairs, and supervised tokens, of the whole step.
            learn: Adds to the gradients of the model's parameters.

        Returns:
            Sums over all ranks.
        """
        totals = Totals()

        def weigh(trie: Trie, logp_E: FloatArray) -> FloatArray:
            reference_L = None if self.reference is None else self.reference.sums(trie.digests)
            return weigh_edges(self.config, trie, logp_E, reference_L, step_size, totals)

        if self.teacher is not None:
            return self._run_lessons(tries, step_size, learn=learn).over(self.ranks)
        with torch.set_grad_enabled(learn):
            for trie, share in self._micro_steps(tries):
                if learn and trie is not None and self._splits(trie.plan):
                    assert self.config.leaf_groups_tokens is not None
                    run_groups(
                        self.edges, trie.plan, self.kernel, self.config.leaf_groups_tokens,
                        lambda logp_E, trie=trie: weigh(trie, logp_E),  # type: ignore[misc]
                    )  # fmt: skip
                    continue
                logp_e = self._forward(share)
                # The weight of an edge may depend on whole traces, whose edges lie on several
                # ranks.
                weights = torch.zeros_like(logp_e)
                if trie is not None:
                    logp_E = collect_edges(logp_e, share, len(trie.plan.sources_E), self.ranks)
                    weights = torch.from_numpy(weigh(trie, logp_E)[share.own_edges]).to(logp_e)
                if learn:  # dummies, too: sharded layers meet in collectives
                    self.updates.backward(-(logp_e * weights).sum())
        return totals.over(self.ranks)

    def _run_lessons(
        self, tries: Sequence[Trie], step_size: tuple[int, int], *, learn: bool
    ) -> Totals:
        """Runs the tries of a step of distillation."""
        assert self.teacher is not None
        totals = Totals()
        with torch.set_grad_enabled(learn):
            for trie, share in self._micro_steps(tries):
                plan = self._plan_of(trie)
                kept = EMPTY if trie is None else self.teacher.read(trie.digests)
                lesson, own_K = build_lesson(plan, share.own_edges, share.sources_e, kept)
                loss_k = self._forward(share, lesson=lesson)
                weight_K = trace_weights(self.config, plan, step_size)[plan.trace_of_K]
                weights = torch.from_numpy(weight_K[own_K]).to(loss_k)
                loss = (loss_k * weights).sum()
                if learn:  # dummies, too: sharded layers meet in collectives
                    self.updates.backward(loss)
                if trie is not None:
                    totals.add_trie(plan)
                    # Ranks that share a trie hold a part of its tokens each, and count once.
                    sums = (loss.detach(), loss_k.detach().sum())
                    total, divergence = self.ranks.sum_context([float(one) for one in sums])
                    totals.loss += total
                    totals.divergence += divergence
                    totals.taught += int(plan.trace_targets.sum())
        return totals

    def load_teacher(self, store: TeacherStore, steps: Sequence[Sequence[list[Unit]]]) -> None:
        """Takes a teacher store and computes what it lacks.

        Args:
            store: Of this run's teacher.
            steps: Units of each trie of each step.
        """
        self.teacher = store
        self.ranks.barrier()
        known = set(store)
        before = len(known)
        with Progress("teacher steps", len(steps), quiet=not self.ranks.first) as progress:
            for step in steps:
                todo = []
                for units in step:
                    shown = [unit.shown_evidence() for unit in units]
                    digests = tuple(unit.traces[0].digest() for unit in shown)
                    if not known.issuperset(digests):
                        trie = build_trie(shown, min_shared=self.min_shared)
                        todo.append(replace(trie, digests=digests))
                        known.update(digests)
                self._add_taught(store, todo)
                progress.advance(note=f"{len(known) - before} traces computed")
        self.ranks.barrier()
        store.reload()

    @torch.no_grad()
    def _add_taught(self, store: TeacherStore, tries: Sequence[Trie]) -> None:
        for trie, share in self._micro_steps(tries):
            with adapter_off(self.edges):
                found = self._forward(share, most=self.config.teacher_tokens)
            if trie is None:
                continue
            number = len(trie.plan.sources_E)
            ids, logp = (collect_edges(one, share, number, self.ranks) for one in found)
            if self.ranks.context_rank == 0:
                store.add(zip(trie.digests, split_by_trace(trie.plan, ids, logp), strict=True))

    def load_reference(self, store: ReferenceStore, steps: Sequence[Sequence[list[Unit]]]) -> None:
        """Takes a reference store and computes what it lacks.

        Args:
            store: Of this run's reference model.
            steps: Units of each trie of each step.
        """
        self.reference = store
        self.ranks.barrier()  # all ranks must have read the same before any of them writes
        known = set(store)
        before = len(known)
        with Progress("reference steps", len(steps), quiet=not self.ranks.first) as progress:
            for step in steps:
                todo = []
                for units in step:
                    digests = {trace.digest() for unit in units for trace in unit.traces}
                    if not digests <= known:
                        todo.append(build_trie(units, min_shared=self.min_shared))
                        known |= digests
                self._add_reference(store, todo)
                progress.advance(note=f"{len(known) - before} traces computed")
        self.ranks.barrier()
        store.reload()

    @torch.no_grad()
    def _add_reference(self, store: ReferenceStore, tries: Sequence[Trie]) -> None:
        for trie, share in self._micro_steps(tries):
            with adapter_off(self.edges):
                logp_e = self._forward(share)
            if trie is None:
                continue
            logp_E = collect_edges(logp_e, share, len(trie.plan.sources_E), self.ranks)
            if self.ranks.context_rank == 0:
                store.add(zip(trie.digests, trace_sums(trie.plan, logp_E), strict=True))

    def measure_speed(self, totals: Totals, step_s: float) -> dict[str, float]:
        """Returns sizes and speeds of a step for the log; units are in the keys."""
        flop = self.shape.model_flop(totals.stored_tokens, totals.area, totals.edges)
        values: dict[str, float] = {
            "traces": totals.traces,
            "stored_tokens": totals.stored_tokens,
            "trace_tokens": totals.trace_tokens,
            "stored_tokens_per_s": totals.stored_tokens / step_s,
            "effective_tokens_per_s": totals.trace_tokens / step_s,
            "model_tflop_per_s": flop / step_s / 1e12,
            "idle_share": self.idle_share,
        }
        if self.ranks.device.type == "cuda":
            values["peak_device_bytes"] = torch.cuda.max_memory_allocated()
            peak = peak_flop_per_s(torch.cuda.get_device_name())
            if peak is not None:
                values["mfu_causal"] = flop / step_s / (peak * self.ranks.world)
        return values

    def _micro_steps(self, tries: Sequence[Trie]) -> Iterator[tuple[Trie | None, TrieShare]]:
        """Yields what this rank runs, in lockstep with the others; None is a dummy."""
        costs = [float(self.shape.count_trie_flop(trie.plan)) for trie in tries]
        rows = deal_tries(costs, self.ranks.data_ranks)
        self.idle_share = compute_idle_share(costs, rows)
        for row in rows:
            number = row[self.ranks.data_rank]
            trie = None if number is None else tries[number]
            plan = self._plan_of(trie)
            yield trie, build_share(plan, self.ranks, self.config.context_mode, self.kernel)

    def _plan_of(self, trie: Trie | None) -> TriePlan:
        """Returns the plan of a trie, or of a dummy."""
        if trie is not None:
            return trie.plan
        # Ranks run the model equally often, also where each trace is a run of its own.
        apart = self.edges.rows is not None and self.edges.rows.alone
        return dummy_plan(num_traces=2 if apart and self.config.stage == "dpo" else 1)

    def _forward(self, share: TrieShare, **task: Any) -> Any:
        """Returns logp_E of this rank's edges, or what else the model is asked for."""
        return self.updates.forward(
            share.ids_N, share.positions_N, share.mask, share.sources_e, share.targets_e, **task
        )

    def _splits(self, plan: TriePlan) -> bool:
        # Sharded layers meet in collectives, so all ranks must make equally many passes; and there
        # has to be one root, or the branches share no prefix.
        limit = self.config.leaf_groups_tokens
        return (
            limit is not None
            and self.ranks.mesh is None
            and plan.segments[0].last == plan.num_rows
            and plan.num_rows > limit
            and plan.num_traces > 1
        )


def render_step(values: dict[str, Any]) -> str:
    """Renders the metrics of a step for the progress bar."""
    parts = [
        f"loss {values['loss']:.4f}",
        f"lr {values['lr']:.1e}",
        f"{format_count(values['stored_tokens_per_s'])} tokens/s",
        f"{format_count(values['effective_tokens_per_s'])} effective",
    ]
    if "pairs_ordered_share" in values:
        parts.insert(1, f"ordered {values['pairs_ordered_share']:.0%}")
    if "mfu_causal" in values:
        parts.append(f"MFU {values['mfu_causal']:.0%}")
    if "peak_device_bytes" in values:
        parts.append(f"{values['peak_device_bytes'] / GIB:.1f} GiB")
    return ", ".join(parts)


@dataclass
class _Prefix:
    """Keys and values of the prefix, layer by layer; also the attention of prefix and groups."""

    plan: TriePlan
    kernel: str
    computed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Of the prefix's own graph."""
    read: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Detached copies that the groups read and add gradients to."""

    def attend_prefix(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None
    ) -> Tensor:
        assert layer is not None
        if layer not in self.computed:  # not again when a checkpointed layer is recomputed
            self.computed[layer] = (k, v)
            k_read, v_read = (
                x.detach().clone().requires_grad_(torch.is_grad_enabled()) for x in (k, v)
            )
            self.read[layer] = (k_read, v_read)
        rows = self.plan.segments[0].end
        out: Tensor = tree_attention(q, k, v, [0, rows, 0, rows, 1], scale, self.kernel)[0]
        return out

    def attend_group(
        self, start: int, end: int
    ) -> Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor]:
        flat = _build_group_mask(self.plan, start, end)

        def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None) -> Tensor:
            assert layer is not None
            k_all, v_all = (
                torch.cat((old, new)) for old, new in zip(self.read[layer], (k, v), strict=True)
            )
            out: Tensor = tree_attention(q, k_all, v_all, flat, scale, self.kernel)[0]
            return out

        return attend

    def backward(self, loss: Tensor) -> None:
        """Runs backward through the prefix, with the gradients that the groups left."""
        roots, grads = [loss], [torch.ones_like(loss)]
        for layer, kept in self.read.items():
            for computed, read in zip(self.computed[layer], kept, strict=True):
                if read.grad is not None:
                    roots.append(computed)
                    grads.append(read.grad)
        torch.autograd.backward(roots, grads)


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


def _build_group_mask(plan: TriePlan, start: int, end: int) -> list[int]:
    """The group's mask: own rows from 0, own keys behind the prefix's."""
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
        The number of groups.
    """
    ranges = group_ranges(plan, limit)
    with torch.no_grad():  # weights depend on all edges, so a pass without graphs comes first
        logp_E = _run_group_pass(edges, plan, kernel, ranges, None)
    _run_group_pass(edges, plan, kernel, ranges, weights_of(logp_E))
    return len(ranges)


def _run_group_pass(
    edges: EdgeModel,
    plan: TriePlan,
    kernel: str,
    ranges: Sequence[tuple[int, int]],
    weight_E: FloatArray | None,
) -> FloatArray:
    """Runs prefix and groups once and returns logp_E; with weights, backward as well."""
    logp_E = np.zeros(len(plan.sources_E))
    prefix = _Prefix(plan, kernel)
    depth = int(plan.positions_S.max()) + 1
    device = next(edges.parameters()).device

    def run_rows(start: int, end: int, attend: Callable[..., Tensor]) -> Tensor | None:
        chosen = np.flatnonzero((plan.sources_E >= start) & (plan.sources_E < end))
        ids, positions, sources, targets = to_tensors(
            device, plan.ids_S[start:end], plan.positions_S[start:end],
            plan.sources_E[chosen] - start, plan.targets_E[chosen],
        )  # fmt: skip
        logp = edges(ids, positions, TrieMask([], kernel, depth, attend), sources, targets)
        logp_E[chosen] = logp.detach().double().cpu().numpy()
        if weight_E is None:
            return None
        loss: Tensor = -(logp * torch.from_numpy(weight_E[chosen]).to(logp)).sum()
        return loss

    prefix_loss = run_rows(0, plan.segments[0].end, prefix.attend_prefix)
    for start, end in ranges:
        loss = run_rows(start, end, prefix.attend_group(start, end))
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
    if prefix_loss is not None:
        prefix.backward(prefix_loss)
    return logp_E
