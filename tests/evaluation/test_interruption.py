"""An evaluation that is stopped summarises what is finished, says how much that is, and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from agenticlu.cli import group
from agenticlu.core.errors import StoreError
from agenticlu.demo import MODEL
from agenticlu.evaluation.records import load_summary

NUM_ITEMS = 120
WORDS = (
    *("eval", "run", "--task", "world", "--methods", "direct", "--lengths", "256,512"),
    *("--limit", str(NUM_ITEMS), "--concurrency", "1", "--model", str(MODEL), "--label", "tiny"),
)


def begin(out: Path, *words: str) -> subprocess.Popen[str]:
    """Starts an evaluation and returns once a few of its items are finished."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from agenticlu.cli import main; main()", *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = out / "predictions.jsonl"
    while process.poll() is None and (not lines.exists() or lines.read_bytes().count(b"\n") < 3):
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_a_summary_of_what_is_finished(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "eval"
    process = begin(out, *WORDS)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    summary = load_summary(out)
    finished = summary.num_items
    assert 3 <= finished < NUM_ITEMS
    assert (summary.num_wanted, summary.not_begun) == (NUM_ITEMS, ("world at 512",))
    told = f"Incomplete: {finished} of {NUM_ITEMS} items are finished; not begun: world at 512."
    assert told in said
    assert "run the same command again to resume" in said
    assert told in (out / "results.md").read_text()

    tabled = CliRunner().invoke(group, ["eval", "table", str(out)])
    assert told in tabled.stdout
    assert load_summary(out) == summary, "the tables written again say the same"
    page = tmp_path / "report.html"
    CliRunner().invoke(group, ["report", "--eval", str(out), "--out", str(page)])
    assert told in page.read_text()

    again = ["256" if word == "256,512" else word for word in WORDS]
    ended = CliRunner().invoke(group, [*again, "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    whole = load_summary(out)
    assert (whole.num_items, whole.num_wanted, whole.not_begun) == (NUM_ITEMS, None, ())
    assert "Incomplete" not in (out / "results.md").read_text()


def test_after_a_kill_the_tables_are_of_what_is_finished_and_say_so(tmp_path: Path) -> None:
    process = begin(tmp_path, *WORDS)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(StoreError) as caught:
        load_summary(tmp_path)
    assert "agenticlu eval table" in (caught.value.hint or "")
    tabled = CliRunner().invoke(group, ["eval", "table", str(tmp_path), "--json"])
    found = json.loads(tabled.stdout)
    assert 3 <= found["num_items"] < NUM_ITEMS
    assert "there may be items that it never came to" in found["notes"][0]
