"""The short form of tests/kill_many.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "kill_many.py"


def test_kill_9_loses_nothing_but_the_calls_in_flight():
    command = [sys.executable, str(SCRIPT), "--kills", "4", "--documents", "2", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "export equal" in done.stdout
    kills = int(done.stdout.split(" kills")[0])
    assert kills >= 2, "the case must hold kills"
