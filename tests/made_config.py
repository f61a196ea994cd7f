"""Builds the settings of a training run from a preset, a file and changes; nothing else is read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenticlu.core.config import resolve
from agenticlu.core.settings import select
from agenticlu.training.config import TrainConfig, TrainRecipe, find_preset


def resolve_config(
    stage: str,
    *,
    preset: str | None = None,
    file: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """Builds the settings: preset, then file, then changes; nothing else is read.

    Raises:
        ConfigError: An unknown preset or key, or a wrong value; names what is allowed.
        UsageError: A wrong value of a change.
    """
    resolved = resolve(
        TrainRecipe,
        section=f"train.{stage}",
        inherits=("train",),
        flags={**(changes or {}), "stage": stage, "preset": preset},
        environ={},
        config_file=file,
        project_file=None,
        find_preset=functools.partial(find_preset, stage=stage),
    )
    return select(resolved.values, TrainConfig)
