"""Checkpoints: sharded, atomic, resumable on another number of ranks.

Written by torch.distributed.checkpoint into `step-N.part`, which is renamed to `step-N` after its
manifest is in place, so a folder named `step-N` is whole. A killed or failed write leaves the
previous checkpoint as it was. Nothing outside the run's folder is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint.state_dict_loader as loader
import torch.distributed.checkpoint.state_dict_saver as saver
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from agenticlu.core.errors import TrainingError
from agenticlu.training.parallel import Ranks

VERSION = 1
MANIFEST = "manifest.json"


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, ranks: Ranks, *, keep: int) -> None:
        self.folder = folder
        self.ranks = ranks
        self.keep = keep
        self._pending: tuple[Any, Path, dict[str, Any]] | None = None
        if ranks.first:
            for part in folder.glob("step-*.part"):
                shutil.rmtree(part)

    def steps(self) -> list[int]:
        """Returns the steps of whole checkpoints, ascending."""
        return sorted(
            int(path.parent.name.removeprefix("step-"))
            for path in self.folder.glob(f"step-*/{MANIFEST}")
            if not path.parent.name.endswith(".part")
        )

    def manifest(self, step: int) -> dict[str, Any]:
        """Reads a checkpoint's manifest.

        Raises:
            TrainingError: It is newer than this version.
        """
        path = self.folder / f"step-{step}" / MANIFEST
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["version"] > VERSION:
            raise TrainingError(
                f"{path.parent} was written by a newer agenticlu (format {values['version']}).",
                hint="Update agenticlu, or give another --out.",
            )
        return values

    def save(
        self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer,
        facts: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Starts a checkpoint; on several ranks it is written while training goes on.

        Raises:
            TrainingError: It cannot be written; the last good one stays.
        """
        self.finish()
        part = self.folder / f"step-{step}.part"
        manifest = {"version": VERSION, "step": step, **facts}
        if self.ranks.first:
            shutil.rmtree(part, ignore_errors=True)
            try:
                part.mkdir(parents=True)
            except OSError as error:
                raise self._failed(part, error) from error
        self.ranks.barrier()
        state = _state(model, optimizer)
        if self.ranks.world > 1:
            future = saver.async_save(
                state, checkpoint_id=part, process_group=self.ranks.checkpoint_group
            )
            self._pending = (future, part, manifest)
            return
        try:
            with _quiet():
                saver.save(state, checkpoint_id=part, no_dist=True)
        except (OSError, RuntimeError, CheckpointException) as error:
            raise self._failed(part, error) from error
        self._publish(part, manifest)

    def finish(self) -> None:
        """Waits for a checkpoint that is being written and publishes it."""
        if self._pending is None:
            return
        future, part, manifest = self._pending
        self._pending = None
        try:
            future.result()
        except (OSError, RuntimeError, CheckpointException) as error:
            raise self._failed(part, error) from error
        if self.ranks.first:
            self._publish(part, manifest)
        self.ranks.barrier()

    def _publish(self, part: Path, manifest: dict[str, Any]) -> None:
        try:
            path = part / MANIFEST
            with path.open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(part, error) from error
        whole = part.with_suffix("")
        shutil.rmtree(whole, ignore_errors=True)
        part.rename(whole)
        for step in self.steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{step}")

    def _failed(self, part: Path, error: BaseException) -> TrainingError:
        shutil.rmtree(part, ignore_errors=True)
        good = self.steps()
        kept = f"the checkpoint of step {good[-1]} stays" if good else "there is no earlier one"
        reason = next(
            (line for line in reversed(str(error).strip().splitlines()) if line.strip()),
            type(error).__name__,
        )
        return TrainingError(
            f"The checkpoint {part.with_suffix('')} could not be written ({reason}); {kept}.",
            hint="Free space and run the same command again; it goes on from there.",
        )

    def load(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Loads a checkpoint, whatever number of ranks wrote it."""
        state = _state(model, optimizer)
        try:
            with _quiet():
                loader.load(
                    state, checkpoint_id=self.folder / f"step-{step}", no_dist=self.ranks.world == 1
                )
        except (OSError, RuntimeError, CheckpointException) as error:
            raise TrainingError(
                f"The checkpoint {self.folder / f'step-{step}'} cannot be read: "
                f"{str(error).strip().splitlines()[0]}",
                hint="Delete it to go on from the one before, or from the start.",
            ) from error
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=StateDictOptions(ignore_frozen_params=True),
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the warning that one process is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(
        model, optimizer, options=StateDictOptions(ignore_frozen_params=True)
    )
    return {"model": weights, "optimizer": moments}


def full_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the unsharded weights on the CPU; on ranks other than 0 the result is empty."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: Any = get_model_state_dict(model, options=options)
    return dict(weights)
