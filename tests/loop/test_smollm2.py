"""runs/smollm2.sh at reduced size, from articles to the table; and once more, when all is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(900)
def test_the_script_runs_through_and_resumes(tmp_path: Path) -> None:
    bin_folder = str(Path(sys.executable).parent)
    env = {
        **os.environ,
        "SIZE": "tiny",
        "OUT": str(tmp_path / "run"),
        "STAGES": "distill",
        "DISTILL_STEPS": "1",
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
    }
    command = ["bash", str(ROOT / "runs" / "smollm2.sh")]
    first = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["evaluation"]) == {"base", "sft", "distill"}
    assert results["data"]["rows"]["direct"]["train"] > 0
    assert results["data"]["rows"]["point"]["train"] > 0
    assert results["training"]["sft"]["steps"] == 2
    assert (tmp_path / "run" / "results.svg").stat().st_size > 1000
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
