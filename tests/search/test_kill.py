"""The short form of tests/kill_many.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "kill_many.py"


@pytest.mark.timeout(300)
def test_nothing_finished_is_lost_by_kills_power_failures_and_two_writers() -> None:
    few = ["--kills", "3", "--cuts", "1", "--disks", "0", "--pairs", "1", "--documents", "1"]
    command = [sys.executable, str(SCRIPT), *few, "generate", "eval"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("all equal") == 6, done.stdout
