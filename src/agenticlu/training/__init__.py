"""Training on token tries: all traces of a document in one pass over one shared prefix, exactly.

encode (rows to token ids) → trie (ids to layout, mask and edges) → attention (over kernels) →
losses → step → loop. `train` and `plan_run` import PyTorch only when called.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agenticlu.core.errors import raise_missing

if TYPE_CHECKING:
    from agenticlu.training.config import TrainConfig


@contextlib.contextmanager
def _needs_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise_missing(error, "train")


def train(config: TrainConfig) -> dict[str, Any]:
    """Runs SFT or DPO and returns a summary of the run; see `loop.train`.

    Raises:
        MissingDependencyError: PyTorch, or another package of the extra `train`, is not installed.
    """
    with _needs_extra():
        from agenticlu.training import loop

        return loop.train(config)


def plan_run(
    config: TrainConfig,
    *,
    world: int | None = None,
    memory_gib: float | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Predicts what a run will cost, without loading the model's weights; see `loop.Run.plan`.

    Raises:
        MissingDependencyError: PyTorch, or another package of the extra `train`, is not installed.
        TrainingError: The rows cannot be trained on.
        ModelNotFoundError: There is no such model.
    """
    with _needs_extra():
        from agenticlu.training import loop

        run = loop.Run(config)
        run.load_rows()
        return run.plan(world=world, memory_gib=memory_gib, device=device)
