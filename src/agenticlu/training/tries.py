"""A trie of units, and what one pass over it adds to a step: loss, weights of edges, counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agenticlu.training.config import TrainConfig
from agenticlu.training.encode import Unit
from agenticlu.training.losses import (
    FloatArray,
    Pairs,
    dpo_edge_weights,
    sft_edge_weights,
    trace_sums,
)
from agenticlu.training.parallel import Ranks
from agenticlu.training.trie import TriePlan, build_plan


@dataclass(frozen=True)
class Trie:
    """The units of one document that enter a step together, planned."""

    plan: TriePlan
    pairs: Pairs
    """DPO: numbers of the plan's traces; empty in SFT."""
    digests: tuple[bytes, ...]
    """Hash of each trace; empty in SFT."""


def build_trie(units: Sequence[Unit], *, min_shared: int) -> Trie:
    """Plans some units; the two traces of a pair are always in one trie."""
    traces = [trace for unit in units for trace in unit.traces]
    plan = build_plan(
        [trace.ids for trace in traces],
        [trace.mask for trace in traces],
        min_shared=min_shared,
    )
    if len(traces) == len(units):
        return Trie(plan, Pairs([], []), ())
    pairs = Pairs(list(range(0, len(traces), 2)), list(range(1, len(traces), 2)))
    return Trie(plan, pairs, tuple(trace.digest() for trace in traces))


@dataclass
class Totals:
    """Sums over the tries of one step or one evaluation."""

    loss: float = 0.0
    nll: float = 0.0
    """Sum over supervised tokens of -log p (DPO: of the chosen traces)."""
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

    def over(self, ranks: Ranks) -> Totals:
        """Returns the sums over all tries of all ranks; ranks that share a trie count once."""
        names = [field.name for field in dataclasses.fields(self)]
        counts = ranks.context_rank == 0
        values = ranks.sum([float(getattr(self, name)) if counts else 0.0 for name in names])
        whole = {"loss", "nll", "margin", "ordered", "preferred", "largest_log_ratio"}
        summed: dict[str, Any] = {
            name: value if name in whole else int(value)
            for name, value in zip(names, values, strict=True)
        }
        return Totals(**summed)


def denominators(units: Sequence[Unit]) -> tuple[int, int]:
    """Returns (traces or pairs, supervised tokens) of a step: what its sums are divided by."""
    return len(units), sum(trace.num_targets for unit in units for trace in unit.traces)


def weigh(
    config: TrainConfig,
    trie: Trie,
    logp_E: FloatArray,
    reference_L: FloatArray | None,
    num_units: int,
    num_targets: int,
    totals: Totals,
) -> FloatArray:
    """Returns the weight of each edge and adds the trie to the totals."""
    plan = trie.plan
    totals.traces += plan.num_traces
    totals.stored_tokens += plan.num_rows
    totals.trace_tokens += plan.trace_tokens
    totals.area += plan.area
    totals.edges += len(plan.sources_E)
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
