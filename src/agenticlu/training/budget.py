"""Predicts the cost of tries and of a run: tokens, FLOP, memory, time, idle ranks.

FLOP of a trie = r_lin 2 n_lin tokens + r_att a pairs + 6 n_head edges, with n_lin the matmul
weights of the layers, n_head those of the head and a = 4 heads head_dim layers (TRAINING 2.6).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agenticlu.core.errors import TrainingError
from agenticlu.core.progress import format_count
from agenticlu.engines.local.checkpoint import find_auto_class
from agenticlu.training.config import TrainConfig
from agenticlu.training.trie import TriePlan

Checkpointing = Literal["none", "full", "keep-attention"]
Shard = Literal["fsdp", "zero2", "zero3"]
GIB = 2**30
PEAK_FLOP_PER_S = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bf16 peaks by accelerator, from the vendor's data sheets."""
SPEEDS: dict[str, tuple[float, float, float]] = {
    "H200": (790e12, 640e12, 540e12),
    "H100": (740e12, 600e12, 500e12),
    "A100": (250e12, 190e12, 160e12),
}
"""Measured or published FLOP/s by accelerator: matmul, attention forward, attention backward."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of an architecture that decide its cost."""

    layers: int
    hidden: int
    heads: int
    """0 for a model without attention."""
    groups: int
    head_dim: int
    mlp: int
    vocabulary: int
    layer_weights: int
    """Matmul weights of all decoder layers (experts: the active ones)."""
    total_weights: int

    @classmethod
    def from_config(cls, config: Any) -> ModelShape:
        """Reads a transformers configuration; weights are counted on the meta device."""
        import torch
        from torch import nn

        with torch.device("meta"):
            model = find_auto_class(config).from_config(config)
        text = config.get_text_config()
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
        linear = sum(
            module.weight.numel()
            for module in model.modules()
            if module.__class__.__name__ in ("Linear", "Conv1D") and module is not head
        )
        heads = int(getattr(text, "num_attention_heads", None) or 0)
        mlp = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        assert isinstance(table, nn.Embedding)
        return cls(
            layers=int(text.num_hidden_layers),
            hidden=int(text.hidden_size),
            heads=heads,
            groups=int(getattr(text, "num_key_value_heads", None) or heads),
            head_dim=int(getattr(text, "head_dim", None) or text.hidden_size // max(heads, 1)),
            mlp=int(max(mlp) if isinstance(mlp, list) else mlp),
            vocabulary=int(text.vocab_size),
            layer_weights=linear,
            total_weights=sum(parameter.numel() for parameter in model.parameters()),
        )

    @property
    def head_weights(self) -> int:
        """Weights of the vocabulary projection."""
        return self.hidden * self.vocabulary

    @property
    def flop_per_pair(self) -> int:
        """Forward FLOP of one visible (query, key) pair over all layers."""
        return 4 * self.heads * self.head_dim * self.layers

    def model_flop(self, tokens: int, pairs: int, edges: int) -> int:
        """Returns the FLOP that MFU counts: causal, without recomputation."""
        forward = (
            2 * self.layer_weights * tokens
            + self.flop_per_pair * pairs
            + 2 * self.head_weights * edges
        )
        return 3 * forward

    def count_trie_flop(self, plan: TriePlan) -> int:
        """Returns the model FLOP of one trie."""
        return self.model_flop(plan.num_rows, plan.area, len(plan.sources_E))


@dataclass(frozen=True)
class TrieSizes:
    """The numbers of one trie that decide its cost."""

    tokens: int
    pairs: int
    edges: int
    levels: int
    traces: int
    trace_tokens: int
    trace_pairs: int

    @classmethod
    def of(cls, plan: TriePlan) -> TrieSizes:
        """Measures a plan, which is far larger than its sizes."""
        return cls(
            plan.num_rows, plan.area, len(plan.sources_E), plan.depth_levels,
            plan.num_traces, plan.trace_tokens, plan.trace_pairs,
        )  # fmt: skip


@dataclass(frozen=True)
class MemorySettings:
    """The settings that decide how much memory a rank needs."""

    compute_bytes: int
    """Bytes of a value in the computation: 2 for bf16."""
    master_bytes: int
    shards: int
    """Ranks that share weights, gradients and moments."""
    context: int
    checkpointing: Checkpointing = "none"
    offload: bool = False
    lora_rank: int = 0
    moments_bytes: int = 8
    edge_chunk: int = 2048
    shard: Shard = "fsdp"

    @classmethod
    def of_run(
        cls, config: TrainConfig, *, compute_bytes: int, master_bytes: int, shards: int
    ) -> MemorySettings:
        """Takes them from a run's settings; an adapter is always kept in fp32."""
        return cls(
            compute_bytes=compute_bytes,
            master_bytes=4 if config.lora_rank else master_bytes,
            shards=shards,
            context=config.context_parallel,
            checkpointing=config.checkpointing,
            offload=config.offload,
            lora_rank=config.lora_rank,
            moments_bytes=2 if config.optimizer == "adamw8bit" else 2 * master_bytes,
            edge_chunk=config.edge_chunk,
            shard=config.shard,
        )


def count_lora_weights(shape: ModelShape, rank: int) -> int:
    """Returns the number of weights of an adapter on all linear layers."""
    q, kv = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    widths = [
        (shape.hidden, q), (shape.hidden, kv), (shape.hidden, kv), (q, shape.hidden),
        (shape.hidden, shape.mlp), (shape.hidden, shape.mlp), (shape.mlp, shape.hidden),
    ]  # fmt: skip
    return shape.layers * rank * sum(a + b for a, b in widths)


def _count_weight_bytes(settings: MemorySettings, trained: int, frozen: int) -> int:
    """Returns the bytes of the weights that a rank keeps, masters included."""
    value, master, shards = settings.compute_bytes, settings.master_bytes, settings.shards
    if settings.shard == "fsdp":
        return (master * trained + (master if shards > 1 else value) * frozen) // shards
    # DeepSpeed computes with copies of its masters; stage 2 keeps them whole.
    copies = value * (trained + frozen)
    return master * trained // shards + (copies if settings.shard == "zero2" else copies // shards)


def memory_table(
    shape: ModelShape, tokens: int, edges: int, settings: MemorySettings
) -> dict[str, int]:
    """Returns the bytes that one rank needs for a trie of that many stored tokens, by item."""
    value, rows = settings.compute_bytes, -(-tokens // settings.context)
    mixed = settings.master_bytes != value and not settings.lora_rank
    sharded = settings.shard != "zero2" and (settings.shards > 1 or mixed)
    trained = (
        count_lora_weights(shape, settings.lora_rank) if settings.lora_rank else shape.total_weights
    )
    frozen = shape.total_weights if settings.lora_rank else 0
    q, kv = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    layer_input = rows * shape.hidden * value
    attention = rows * (q * value + shape.heads * 4)
    # Norms (one wide copy each), q, k, v before and after rotation, the four MLP products.
    inside = rows * (
        value * (4 * shape.hidden + 3 * q + 4 * kv + 4 * shape.mlp) + 2 * 4 * shape.hidden
    )
    table = {
        "weights": _count_weight_bytes(settings, trained, frozen),
        "gradients": settings.master_bytes * trained // settings.shards,
        "optimizer": settings.moments_bytes * trained // settings.shards,
    }
    if sharded:
        layer = shape.layer_weights // max(shape.layers, 1)
        outside = shape.total_weights - shape.layer_weights
        table["gathered weights"] = value * (2 * layer + outside)
    if settings.checkpointing == "none":
        table["activations"] = shape.layers * (inside + layer_input + attention)
        table["gradients inside one layer"] = inside // 2
    else:
        kept = layer_input + (attention if settings.checkpointing == "keep-attention" else 0)
        table["layer inputs"] = 2 * kept if settings.offload else shape.layers * kept
        table["one layer, twice in backward"] = 2 * (inside + attention)
    table["last hidden state"] = rows * shape.hidden * (2 * value + 4)
    table["logits of one chunk"] = 3 * 4 * min(settings.edge_chunk, edges) * shape.vocabulary
    return table


def _find_savings(settings: MemorySettings) -> list[tuple[str, MemorySettings]]:
    """Returns changes that need less memory, the cheapest first."""
    full = replace(settings, checkpointing="full")
    changes = [("--checkpointing full", full)] if settings.checkpointing != "full" else []
    if settings.shard == "zero2":
        changes.append(("--checkpointing full --shard zero3", replace(full, shard="zero3")))
    if not settings.offload:
        changes.append(("--checkpointing full --set offload=true", replace(full, offload=True)))
    changes += [
        (f"--checkpointing full --context-parallel {context}", replace(full, context=context))
        for context in (2, 4, 8)
        if context > settings.context and settings.shards % context == 0
    ]
    if not settings.lora_rank:
        lora = replace(full, lora_rank=64, master_bytes=4)
        changes += [
            ("--preset lora --checkpointing full", lora),
            ("--preset lora --checkpointing full --set offload=true", replace(lora, offload=True)),
        ]
    return changes


def _suggest_change(
    shape: ModelShape, tokens: int, edges: int, settings: MemorySettings, available: int
) -> str:
    """Returns the first change under which a rank's memory suffices."""
    for name, changed in _find_savings(settings):
        if sum(memory_table(shape, tokens, edges, changed).values()) <= available:
            return name
    return "a smaller --traces-per-trie, or shorter rows (--max-tokens)"


def deal_tries(costs: Sequence[float], ranks: int) -> list[list[int | None]]:
    """Deals tries to ranks for micro-steps in lockstep.

    Sorted by cost and dealt row by row, so that the tries of one micro-step cost about the same;
    the time of a step is the sum over micro-steps of the largest cost.

    Returns:
        For each micro-step the trie of each rank. None is a place for a dummy: every rank must
        run something, or the others would wait for it in a collective.

    >>> deal_tries([1.0, 5.0, 4.0], 2)
    [[1, 2], [0, None]]
    """
    by_cost = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    order: list[int | None] = [*by_cost]
    order += [None] * (-len(order) % ranks)
    return [order[i : i + ranks] for i in range(0, len(order), ranks)]


def compute_idle_share(costs: Sequence[float], rows: Sequence[Sequence[int | None]]) -> float:
    """Returns the predicted share of time that ranks wait for the slowest of their micro-step."""
    total = sum(costs)
    busy = sum(max(costs[i] for i in row if i is not None) * len(row) for row in rows)
    return 1.0 - total / busy if busy else 0.0


def _predict_seconds(
    shape: ModelShape, tries: Sequence[TrieSizes], checkpointing: Checkpointing, device: str
) -> float | None:
    """Returns the time of some tries at an accelerator's top speed; None where unknown."""
    speed = next((value for key, value in SPEEDS.items() if key in device), None)
    if speed is None:
        return None
    matmul, forward, backward = speed
    linear = 6 if checkpointing == "none" else 8
    again = 2 if checkpointing == "full" else 1
    return sum(
        linear * shape.layer_weights * t.tokens / matmul
        + 8 * shape.head_weights * t.edges / matmul
        + shape.flop_per_pair * t.pairs * (again / forward + 2.5 / backward)
        for t in tries
    )


def _find_free_memory() -> int | None:
    """Returns the free main memory in bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def forecast(
    shape: ModelShape,
    sizes: Sequence[TrieSizes],
    *,
    num_tries: int,
    first_step: int,
    settings: MemorySettings,
    memory: int | None,
    device: str,
) -> dict[str, Any]:
    """Predicts tokens, FLOP, memory and time of a run.

    Args:
        shape: The model.
        sizes: The run's tries, or those that it starts with.
        num_tries: Tries of the run.
        first_step: Tries of its first step.
        settings: What decides the memory of a rank.
        memory: Bytes of one rank; None when unknown.
        device: Name of the accelerator.
    """
    largest = max(sizes, key=lambda size: size.tokens)
    table = memory_table(shape, largest.tokens, largest.edges, settings)
    needed = sum(table.values())
    fits = memory is None or needed <= memory
    traces, stored = sum(s.trace_tokens for s in sizes), sum(s.tokens for s in sizes)
    edges = sum(s.edges for s in sizes)
    together = shape.model_flop(stored, sum(s.pairs for s in sizes), edges)
    separate = shape.model_flop(traces, sum(s.trace_pairs for s in sizes), edges)
    seconds = _predict_seconds(shape, sizes, settings.checkpointing, device)
    costs = [float(shape.model_flop(s.tokens, s.pairs, s.edges)) for s in sizes[:first_step]]
    rows = deal_tries(costs, max(settings.shards // settings.context, 1))
    each = num_tries / len(sizes)
    would_fit = None
    if memory is not None and not fits:
        would_fit = _suggest_change(shape, largest.tokens, largest.edges, settings, memory)
    return {
        "world": settings.shards,
        "idle_share": compute_idle_share(costs, rows),
        "tries": num_tries,
        "tokens_in": round(traces * each),
        "tokens_stored": round(stored * each),
        "sharing": traces / stored,
        "flop_ratio": separate / together,
        "model_pflop": together * each / 1e15,
        "largest_trie": asdict(largest),
        "memory_gib": {name: value / GIB for name, value in table.items()},
        "memory_total_gib": needed / GIB,
        "memory_available_gib": None if memory is None else memory / GIB,
        "fits": fits,
        "would_fit": would_fit,
        "hours_at_ceiling": None
        if seconds is None
        else seconds * each / 3600 * settings.context / settings.shards,
    }


def render_forecast(found: Mapping[str, Any]) -> str:
    """Returns tokens, sharing and memory of a `forecast` in a line."""
    return (
        f"{format_count(found['tokens_in'])} tokens in, "
        f"{format_count(found['tokens_stored'])} stored ({found['sharing']:.1f}x), "
        f"{found['flop_ratio']:.1f}x fewer FLOP than separate training, about "
        f"{found['memory_total_gib']:.1f} GiB of memory"
    )


def refuse_too_large(found: Mapping[str, Any]) -> None:
    """Raises TrainingError, which says what would fit, where a run of this `forecast` does not."""
    if found["fits"]:
        return
    raise TrainingError(
        f"The largest trie ({found['largest_trie']['tokens']} stored tokens) needs about "
        f"{found['memory_total_gib']:.1f} GiB of the "
        f"{found['memory_available_gib']:.1f} GiB available to a rank.",
        hint=f"This would fit: {found['would_fit']}.",
    )


def available_memory(device: Any, world: int) -> int | None:
    """Returns the bytes that one rank may use on a torch device; None where unknown."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory * 0.94)
    free = _find_free_memory()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return None if free is None else free // max(local, 1)


def peak_flop_per_s(name: str) -> float | None:
    """Returns the dense bf16 peak of an accelerator; None where unknown."""
    return next((peak for key, peak in PEAK_FLOP_PER_S.items() if key in name), None)
