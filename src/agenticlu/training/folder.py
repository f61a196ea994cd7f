"""A run's folder: what it holds, whether it is this run, and what the run did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agenticlu.core.errors import TrainingError
from agenticlu.training.config import TrainConfig
from agenticlu.training.encode import Unit

MAY_CHANGE = frozenset({
    "out", "threads", "save_every", "keep_checkpoints", "eval_every", "log_to", "timeout_s",
    "context_parallel", "context_mode", "checkpointing", "offload", "attention_kernel",
    "edge_chunk", "compile", "validation_rows", "leaf_groups_tokens", "lora_merge", "bad_rows",
})  # fmt: skip
"""Settings that do not change what is learnt, so a run may be continued with others."""


def check_same_run(manifest: dict[str, Any], facts: dict[str, Any], out: Path) -> None:
    """Refuses a checkpoint of another run.

    Raises:
        TrainingError: Names the first settings that differ.
    """
    hint = f"Give another --out, or delete {out} to start afresh."
    if manifest["model"] != facts["model"]:
        different = [
            key for key, value in facts["model"].items() if manifest["model"][key] != value
        ]
        raise TrainingError(
            f"The checkpoint in {out} is of another model: {', '.join(different)} differ.",
            hint=hint,
        )
    differing = [
        f"{key} was {manifest['config'].get(key)!r}, now {value!r}"
        for key, value in facts["config"].items()
        if key not in MAY_CHANGE and manifest["config"].get(key) != value
    ]
    if differing:
        raise TrainingError(
            f"The checkpoint in {out} was made with other settings: {'; '.join(differing)}.",
            hint=hint,
        )
    if manifest["data_hash"] != facts["data_hash"]:
        raise TrainingError(
            f"The rows of {facts['config']['dataset']} are not those the checkpoint in {out} was "
            "trained on.",
            hint=hint,
        )


def finished_summary(config: TrainConfig) -> dict[str, Any] | None:
    """Returns the summary of a folder that already holds this run, finished.

    Raises:
        TrainingError: It holds another finished run.
    """
    out = Path(config.out)
    if not (out / "summary.json").is_file() or not (out / "export").is_dir():
        return None
    before = json.loads((out / "config.json").read_text(encoding="utf-8"))
    now = config.model_dump(mode="json")
    differing = [
        f"{key} was {before.get(key)!r}, now {value!r}"
        for key, value in now.items()
        if key not in MAY_CHANGE and before.get(key) != value
    ]
    if differing:
        raise TrainingError(
            f"{out} holds another finished run: {'; '.join(differing)}.",
            hint=f"Give another --out, or delete {out} to start afresh.",
        )
    result: dict[str, Any] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return result


def summarise(metrics: Path) -> dict[str, Any]:
    """Returns what a run did, from its log: also what happened before a resume."""
    lines = metrics.read_text(encoding="utf-8").split("\n")
    events = [json.loads(line) for line in lines if line]
    steps = [event for event in events if event["event"] == "step"]
    stored = sum(event["stored_tokens"] for event in steps)
    traces = sum(event["trace_tokens"] for event in steps)
    summary: dict[str, Any] = {
        "steps": len(steps),
        "trace_tokens": traces,
        "stored_tokens": stored,
        "sharing": traces / max(stored, 1),
        "steps_s": sum(event["step_s"] for event in steps),
    }
    validation = [event for event in events if event["event"] == "validation"]
    if validation:
        summary["validation_before"], summary["validation_after"] = validation[0], validation[-1]
    return summary


def hash_units(units: Sequence[Unit]) -> str:
    """Returns a hash of which rows are trained on, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for unit in units:
        digest.update(f"{unit.id}|{unit.document_id}".encode())
        for trace in unit.traces:
            digest.update(repr(trace.spans).encode())
            digest.update(b"".join(piece[-64:].tobytes() for piece in trace.pieces))
    return digest.hexdigest()
