from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "runs" / "generate_slurm.sh"
FAKES = {
    "curl": "exit 0",
    "vllm": 'trap "exit 0" TERM; while :; do sleep 0.05; done',
    "agenticlu": 'trap "touch $PLACE/sealed; exit 143" TERM; echo "$@" > "$PLACE/asked"; '
    'until test -e "$PLACE/over"; do sleep 0.05; done; exit 9',
}


@pytest.fixture
def task(tmp_path: Path):
    """Starts the script as the array's fourth task, over programs that only note how they ran."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PLACE": str(tmp_path),
        "LOCAL_DISK": str(tmp_path),
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_COUNT": "16",
    }
    command = ["bash", str(SCRIPT), "corpus.jsonl", "/shared/run1", "some/model", "--depth", "2"]
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 30
    while not (tmp_path / "asked").exists() or not (tmp_path / "asked").read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    process.kill()


def test_a_task_searches_its_share_and_ends_as_its_search_does(task, tmp_path: Path):
    asked = (tmp_path / "asked").read_text()
    assert "--shard 3/16 --seal /shared/run1/segments --depth 2" in asked
    (tmp_path / "over").touch()
    assert task.wait(timeout=30) == 9


def test_a_task_that_is_told_to_end_lets_its_search_seal(task, tmp_path: Path):
    task.send_signal(signal.SIGTERM)
    assert task.wait(timeout=30) == 143
    assert (tmp_path / "sealed").exists()
