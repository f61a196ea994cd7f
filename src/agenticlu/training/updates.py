"""What runs a model's passes and updates its weights: AdamW over a plain or FSDP2-sharded model.

`zero.ZeroUpdates` does the same by DeepSpeed. Both save a checkpoint of one layout, full tensors by
name, so that a run may go on under the other and on another number of ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from agenticlu.training.config import TrainConfig
from agenticlu.training.losses import build_optimizer, clip_gradients
from agenticlu.training.model import EdgeModel

State = dict[str, Any]
"""`model`: weights by name; `optimizer`: their moments by name, and the groups' settings."""


class Updates(Protocol):
    """Runs passes of a model and updates its weights."""

    optimizer: torch.optim.Optimizer

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Runs the model, with graphs if gradients are enabled."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Adds a part of the step's loss to the gradients; they are summed over ranks."""
        ...

    def step(self, rate: float) -> float:
        """Updates the weights at a rate; returns the gradient's norm before it was clipped."""
        ...

    def save_state(self) -> State:
        """Returns what a checkpoint stores; all ranks call it, each stores what it is given."""
        ...

    def load_state(self, read: Callable[[State], None]) -> None:
        """Takes a checkpoint; `read` fills the tensors of a state in place."""
        ...

    def gather_weights(self) -> dict[str, Tensor] | None:
        """Returns whole weights on the CPU of rank 0; None where the model has them itself."""
        ...


class AdamUpdates:
    """AdamW over a model that is whole, or sharded by `parallel.shard`."""

    def __init__(self, config: TrainConfig, edges: EdgeModel, *, sharded: bool) -> None:
        self.edges = edges
        self.sharded = sharded
        self.clip = config.clip
        self.optimizer = build_optimizer(config, edges)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Runs the model."""
        return self.edges(*inputs, **named)

    def backward(self, loss: Tensor) -> None:
        """Adds to the gradients; sharded ones are summed over ranks here."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> float:
        """Clips, updates, and clears the gradients."""
        norm = clip_gradients(self.edges, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def save_state(self) -> State:
        """Returns weights and moments; of sharded ones this rank's shards."""
        weights, moments = get_state_dict(
            self.edges, self.optimizer, options=StateDictOptions(ignore_frozen_params=True)
        )
        return {"model": weights, "optimizer": moments}

    def load_state(self, read: Callable[[State], None]) -> None:
        """Takes weights and moments, whatever number of ranks wrote them."""
        state = self.save_state()
        read(state)
        set_state_dict(
            self.edges,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(ignore_frozen_params=True),
        )

    def gather_weights(self) -> dict[str, Tensor] | None:
        """Returns the unsharded weights; empty on ranks other than 0."""
        if not self.sharded:
            return None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: Any = get_model_state_dict(self.edges, options=options)
        return dict(weights)
