"""A training run as a killed process leaves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def interrupt_after(step: int, finished: Path, out: Path) -> None:
    """Copies a finished run as it stood after a step."""
    shutil.copytree(finished, out)
    shutil.rmtree(out / "export")
    (out / "summary.json").unlink()
    for path in (out / "checkpoints").glob("step-*"):
        if path.name != f"step-{step}":
            shutil.rmtree(path)
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [x for x in lines if json.loads(x).get("step", 0) <= step and '"done"' not in x]
    (out / "metrics.jsonl").write_text("".join(kept))
