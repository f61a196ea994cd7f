"""Processes of a training run, and activation checkpointing and sharding (FSDP2) of its model."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from agenticlu.core.errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """This process's place among those of the run."""

    rank: int
    world: int
    device: torch.device
    context: int
    """Ranks that share a trie."""
    context_group: Any = None
    """Process group of the ranks that share this rank's trie; None when it is alone."""
    mesh: Any = None
    """All ranks in one row, for sharded state; None when nothing is sharded."""
    checkpoint_group: Any = None

    @property
    def data_ranks(self) -> int:
        """Tries that run at the same time."""
        return self.world // self.context

    @property
    def data_rank(self) -> int:
        """Number of the one that this process runs."""
        return self.rank // self.context

    @property
    def context_rank(self) -> int:
        """This process's place among those that share its trie."""
        return self.rank % self.context

    @property
    def first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Returns the sums over all ranks."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, value: float) -> float:
        """Returns the largest value of any rank."""
        return self._reduce([value], dist.ReduceOp.MAX)[0]

    def sum_context(self, values: Sequence[float]) -> list[float]:
        """Returns the sums over the ranks that share this one's trie."""
        if self.context == 1:
            return list(values)
        return self._reduce(values, dist.ReduceOp.SUM, self.context_group)

    def _reduce(self, values: Sequence[float], operation: Any, group: Any = None) -> list[float]:
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        tensor = tensor.to(self.device if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(tensor, operation, group=group)
        return [float(value) for value in tensor.tolist()]

    def same(self, value: Any) -> Any:
        """Returns rank 0's value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world > 1:
            dist.barrier()


def name_accelerator() -> None:
    """Tells DeepSpeed that there is only a CPU; it finds that out itself, but with a warning.

    accelerate imports it, where it is installed, whenever a model is saved.
    """
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def limit_threads(threads: int) -> None:
    """Computes with at most so many threads, and no more than this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    allowed = min(allowed, int(os.environ.get("OMP_NUM_THREADS", allowed)))
    torch.set_num_threads(max(1, min(threads, allowed)))


def start_ranks(context: int, *, shard_alone: bool = False, timeout_s: float = 600.0) -> Ranks:
    """Joins the process group that torchrun announces; alone without it.

    Args:
        context: Ranks that share a trie.
        shard_alone: Make a group even for one process (mixed precision lives in the sharding).
        timeout_s: A rank that waits longer for another gives up.

    Raises:
        TrainingError: The number of ranks is not a multiple of `context`.
    """
    name_accelerator()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if world % context:
        raise TrainingError(
            f"{world} ranks cannot be divided into groups of --context-parallel {context}.",
            hint=f"Start a multiple of {context} ranks: torchrun --nproc-per-node {context} ...",
        )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world == 1 and not shard_alone:
        return Ranks(rank, world, device, context)
    # Gloo as well, because NCCL moves nothing that lies in host memory.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if not dist.is_initialized():
        alone: dict[str, Any] = {}
        if world == 1:  # no launcher to meet at, and no port to open
            store = dist.HashStore()  # type: ignore[attr-defined]
            alone = {"store": store, "rank": 0, "world_size": 1}
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), **alone)
    from torch.distributed.device_mesh import init_device_mesh

    group = None
    if context > 1:
        group = init_device_mesh(
            device.type, (world // context, context), mesh_dim_names=("data", "context")
        ).get_group("context")
    return Ranks(
        rank, world, device, context, group, init_device_mesh(device.type, (world,)),
        dist.new_group(backend="gloo") if world > 1 else None,
    )  # fmt: skip


def stop_ranks() -> None:
    """Leaves the process group, if there is one that nothing else holds."""
    if dist.is_initialized() and not _held:
        dist.destroy_process_group()


def hold_ranks() -> None:
    """Keeps the process group to the end of the process; DeepSpeed makes use of it only once."""
    if not _held:
        _held.append(True)
        atexit.register(_leave_group)


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


_held: list[bool] = []


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the decoder layers of a transformers model, in order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    # transformers derives the decoder layers of its models from this class.
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def checkpoint_layers(model: nn.Module, mode: str, *, offload: bool) -> None:
    """Switches activation checkpointing of the decoder layers on.

    full: backward recomputes everything of a layer; keep-attention: all but the attention. With
    `offload`, what is kept is kept in host memory.
    """
    if mode == "none":
        return
    if offload and not torch.accelerator.is_available():
        raise TrainingError(
            "Layer inputs are offloaded from an accelerator, and there is none here.",
            hint="Leave offload out, or set it to false.",
        )
    # Only the non-reentrant kind takes a `context_fn`.
    kwargs: dict[str, Any] = {"use_reentrant": False}
    if mode == "keep-attention":
        kwargs["context_fn"] = _keep_attention
    target: Any = model
    target.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, offload=offload)


def _keep_attention() -> Any:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    kept = torch.ops.agenticlu.tree_attention.default

    def policy(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        if operator == kept:
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)  # type: ignore[no-untyped-call]


def shard(
    edges: nn.Module, mesh: Any, *, param_dtype: torch.dtype | None, master: torch.dtype
) -> None:
    """Shards every decoder layer, then the whole; gradients are summed, never averaged.

    Weights are kept in `master`, cast to `param_dtype` for computing, and reduced in `master`.
    Layers are cast and moved one at a time, so a process holds little more than its shards.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=master)
    # Inner layers first: some classes have layers within layers.
    for module in [*reversed(decoder_layers(edges)), edges]:
        module.to(dtype=master)
        fully_shard(module, mesh=mesh, mp_policy=policy)
    for module in edges.modules():
        if isinstance(module, FSDPModule):
            # Weights of edges already hold the step's denominator; FSDP would divide once more.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
