"""The optimizer of a training run, and the bound on its gradients."""

from __future__ import annotations

from typing import Any

import torch

from agenticlu.core.errors import missing_dependency
from agenticlu.training.config import TrainConfig


def make_optimizer(config: TrainConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Returns AdamW over the trainable weights.

    Raises:
        MissingDependencyError: The 8-bit one is asked for and torchao is not installed.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {
        "lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.adam_eps,
        "weight_decay": config.weight_decay,
    }  # fmt: skip
    if config.optimizer == "adamw8bit":
        try:
            from torchao.optim import AdamW8bit
        except ModuleNotFoundError as error:
            raise missing_dependency("torchao", "train") from error
        optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
        return optimizer
    return torch.optim.AdamW(parameters, fused=True, **settings)


def clip_gradients(model: torch.nn.Module, limit: float) -> float:
    """Scales the whole gradient to at most `limit`; returns its norm over all shards."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if hasattr(norm, "full_tensor"):
        norm = norm.full_tensor()
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return float(norm)
