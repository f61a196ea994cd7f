"""Sharding by DeepSpeed: ZeRO stage 2 (gradients, moments, master weights) or 3 (weights as well).

The trie's forward and its custom loss know nothing of it: a step's tries run as micro-steps in
lockstep, each `backward` reduces its gradients into the shards, and `step` clips and updates.
DeepSpeed averages over ranks where the weights of edges already hold the step's denominator, so
losses are multiplied by the number of ranks.

Checkpoints do not use DeepSpeed's format, which is bound to a number of ranks: they hold full
tensors by name, like those of the other engine. Written for DeepSpeed 0.19 (arXiv 1910.02054).
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from agenticlu.core.errors import missing_dependency
from agenticlu.training.attention import TrieMask
from agenticlu.training.config import TrainConfig
from agenticlu.training.losses import build_optimizer
from agenticlu.training.model import EdgeModel, to_tensors
from agenticlu.training.parallel import Ranks, hold_ranks, name_accelerator, shard
from agenticlu.training.trie import dummy_plan
from agenticlu.training.updates import AdamUpdates, State, Updates

MOMENTS = ("exp_avg", "exp_avg_sq")
PERSISTENT_ELEMENTS = 100_000
"""Stage 3 keeps weights of fewer elements whole on every rank: gathering them costs more."""
LOADED_ELEMENTS = 1 << 28
"""Elements of a checkpoint that a rank reads at a time; a whole one may not fit in its memory."""


def load_deepspeed() -> Any:
    """Imports DeepSpeed, which takes seconds.

    Raises:
        MissingDependencyError: It is not installed.
    """
    name_accelerator()
    for name, alone in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "1")):
        os.environ.setdefault(name, alone)  # what a launcher sets; one process needs none
    try:
        import deepspeed
    except ModuleNotFoundError as error:
        raise missing_dependency("deepspeed", "deepspeed") from error
    # On CPUs it would compile collectives of its own at the first start, for minutes.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # It calls collectives by names that torch 2.13 still has, with a warning each time.
    warnings.filterwarnings("ignore", r"`torch.distributed.\w+` is deprecated", FutureWarning)
    return deepspeed


class ZeroUpdates:
    """DeepSpeed's engine around a model."""

    def __init__(
        self, config: TrainConfig, edges: EdgeModel, ranks: Ranks, dtype: torch.dtype, kernel: str
    ) -> None:
        deepspeed = load_deepspeed()
        hold_ranks()
        self.edges = edges
        self.ranks = ranks
        self.kernel = kernel
        self.stage = 3 if config.shard == "zero3" else 2
        settings = build_settings(config, self.stage, dtype, ranks.device)
        for parameter in edges.parameters():  # not buffers: those of rotary embeddings stay wide
            parameter.data = parameter.data.to(dtype)
        if self.stage == 3:  # a weight at a time: the whole model need not fit on one device
            deepspeed.zero.Init(module=edges, config_dict_or_path=settings, dtype=dtype)
            head = edges.causal_lm().get_output_embeddings()
            # Read by the model's own forward, without the head's, which would have gathered them.
            for parameter in head.parameters():
                deepspeed.zero.register_external_parameter(edges, parameter)
        self.optimizer = build_optimizer(config, edges)
        self.engine, *_ = deepspeed.initialize(
            model=edges, optimizer=self.optimizer, config=settings, dist_init_required=False
        )

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Runs the model; in stage 3 each layer's weights are gathered for it."""
        return self.engine(*inputs, **named)

    def backward(self, loss: Tensor) -> None:
        """Adds to the gradients, summed over ranks."""
        self.engine.backward(loss * self.ranks.world)

    def step(self, rate: float) -> float:
        """Clips, updates, and clears the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.edges.named_parameters():
            if parameter.requires_grad:
                yield name, parameter

    def _names(self) -> dict[int, list[str]]:
        """Returns all names of each trained weight: tied ones have several."""
        names: dict[int, list[str]] = {}
        for name, parameter in self.edges.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        return names

    def save_state(self) -> State:
        """Returns full weights and moments in fp32; every rank those of some weights."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        names = self._names()
        weights: dict[str, Tensor] = {}
        moments: dict[str, dict[str, Tensor]] = {}
        # Every shard has taken the same steps.
        steps = next(float(kept["step"]) for kept in self.optimizer.state.values())
        listed = []
        for number, (name, parameter) in enumerate(self._trained()):
            listed.append(name)
            # All ranks take part in gathering; one keeps the result.
            weight = safe_get_full_fp32_param(parameter)
            found = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            if number % self.ranks.world == self.ranks.rank:
                whole = weight.cpu().clone()
                weights |= dict.fromkeys(names[id(parameter)], whole)
                moments[name] = {key: value.cpu().clone() for key, value in found.items()}
                moments[name]["step"] = torch.tensor(steps)
        group = {k: v for k, v in self.optimizer.param_groups[0].items() if k != "params"}
        groups = [{**group, "params": listed}]
        return {"model": weights, "optimizer": {"state": moments, "param_groups": groups}}

    def load_state(self, read: Callable[[State], None]) -> None:
        """Takes full weights and moments, some at a time, and keeps this rank's shards."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self._create_moments()
        for part in self._parts():
            shapes = {name: _shape(parameter) for name, parameter in part.items()}
            moments = {
                name: {key: torch.empty(shape) for key in MOMENTS} | {"step": torch.tensor(0.0)}
                for name, shape in shapes.items()
            }
            weights = {name: torch.empty(shape) for name, shape in shapes.items()}
            read({"model": weights, "optimizer": {"state": moments}})
            for name, parameter in part.items():
                self._set_weight(parameter, weights[name].to(self.ranks.device))
                for key in MOMENTS:
                    value = moments[name][key].to(self.ranks.device)
                    safe_set_full_optimizer_state(parameter, value, key)
            for kept in self.optimizer.state.values():
                kept["step"].fill_(float(moments[name]["step"]))

    @torch.no_grad()
    def _set_weight(self, parameter: nn.Parameter, value: Tensor) -> None:
        import deepspeed
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(parameter, value)
        # That was the master; the weight that the passes read is another tensor.
        gathered = deepspeed.zero.GatheredParameters(
            [parameter], modifier_rank=0, enabled=self.stage == 3
        )
        with gathered:
            if self.stage == 2 or self.ranks.first:
                parameter.data.copy_(value)

    def _create_moments(self) -> None:
        """Runs a step that changes nothing, for moments come to be in the first one."""
        plan = dummy_plan()
        ids, positions, sources, targets = to_tensors(
            self.ranks.device, plan.ids_S, plan.positions_S, plan.sources_E, plan.targets_E
        )
        logp = self.forward(ids, positions, TrieMask.of(plan, self.kernel), sources, targets)
        self.backward(logp.sum())
        self.step(0.0)

    def _parts(self) -> Iterator[dict[str, nn.Parameter]]:
        """Yields the trained weights, as many at a time as a rank may hold whole."""
        part: dict[str, nn.Parameter] = {}
        size = 0
        for name, parameter in self._trained():
            count = _shape(parameter).numel()
            if part and size + count > LOADED_ELEMENTS:
                yield part
                part, size = {}, 0
            part[name] = parameter
            size += count
        yield part

    def gather_weights(self) -> dict[str, Tensor] | None:
        """Returns whole weights, the trained ones in fp32; empty on ranks other than 0."""
        import deepspeed
        from deepspeed.utils import safe_get_full_fp32_param

        names = self._names()
        weights: dict[str, Tensor] = {}
        for parameter in self.edges.parameters():
            if parameter.requires_grad:
                whole = safe_get_full_fp32_param(parameter)
            else:
                with deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
                    whole = parameter.detach().clone()
            if self.ranks.first:
                weights |= dict.fromkeys(names[id(parameter)], whole.cpu())
        return weights


def _shape(parameter: nn.Parameter) -> torch.Size:
    """Returns the shape of a whole weight, of which a rank may hold a shard."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def build_settings(
    config: TrainConfig, stage: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Returns DeepSpeed's configuration of a run."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # A step has as many micro-steps as its tries need, so ours is the boundary.
        "managed_gradient_accumulation": False,
        "gradient_clipping": config.clip,
        "bf16": {"enabled": dtype == torch.bfloat16},
        # Gradients are summed in fp32, over micro-steps and over ranks.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": device.type == "cuda",
            "stage3_param_persistence_threshold": PERSISTENT_ELEMENTS,
        },
        "steps_per_print": None,
    }


def build_updates(
    config: TrainConfig,
    edges: EdgeModel,
    ranks: Ranks,
    *,
    dtype: torch.dtype,
    trained: torch.dtype,
    kernel: str,
) -> Updates:
    """Shards a model, where it is to be, and returns what updates it.

    Args:
        config: Names the engine.
        edges: The model.
        ranks: This process among the others.
        dtype: Of the computation.
        trained: Of the weights that FSDP2 keeps.
        kernel: Attention kernel.
    """
    if config.shard != "fsdp":
        return ZeroUpdates(config, edges, ranks, dtype, kernel)
    sharded = ranks.mesh is not None
    if sharded:
        param_dtype = None if trained == dtype else dtype
        shard(edges, ranks.mesh, master=trained, param_dtype=param_dtype)
    return AdamUpdates(config, edges, sharded=sharded)
