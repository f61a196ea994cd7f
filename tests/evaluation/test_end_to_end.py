"""Real weights, real processes: kills, exit codes, a server that answers as the process does."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from agenticlu.engines import load_engine
from agenticlu.engines.base import Engine
from agenticlu.evaluation.methods import Settings
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.run import EvaluationConfig, run_evaluation
from agenticlu.evaluation.summary import load_summary
from agenticlu.prompts import load_profile
from agenticlu.tokens import load_tokenizer

AGENTICLU = [sys.executable, "-c", "from agenticlu.cli import main; main()"]
NUM_ITEMS = 50


def arguments(out: Path, *more: str) -> list[str]:
    shape = ["--lengths", "256,320", "--limit", "6", "--max-tokens", "24", "--concurrency", "1"]
    return [*AGENTICLU, "eval", *shape, "--out", str(out), *more]


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_killed_run_goes_on_and_repeats_no_finished_item(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    process = subprocess.Popen(arguments(tmp_path), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while num_lines(path) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = num_lines(path)
    assert 5 <= finished < 24  # the guard: it was killed in the middle
    before = path.read_bytes().splitlines()[:finished]
    result = subprocess.run(arguments(tmp_path), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    after = path.read_bytes().splitlines()
    assert after[:finished] == before
    counts = Counter(json.loads(line)["id"] for line in after)
    assert len(counts) == 24
    assert set(counts.values()) == {1}
    summary = load_summary(tmp_path)
    assert sum(cell.num_scored for cell in summary.cells) == 24
    assert "| world |" in result.stdout


def test_one_failing_item_makes_the_exit_code_nine(tmp_path: Path) -> None:
    """A document longer than the model's window is refused before anything is asked."""
    more = ["--lengths", "256,40000", "--limit", "1", "--methods", "direct", "--json"]
    result = subprocess.run(arguments(tmp_path, *more), capture_output=True, text=True, check=False)
    assert result.returncode == 9, result.stderr
    assert "1 of 2 items failed" in result.stderr
    assert "--retry-failed" in result.stderr
    assert "Traceback" not in result.stderr
    assert json.loads(result.stdout)["num_failed"] == 1


@pytest.mark.parametrize(
    ("task", "method", "length", "limit"),
    [("world", "direct", 256, NUM_ITEMS), ("niah_single_1", "helmet", 640, 3)],
)
def test_served_and_in_process_answers_are_the_same(
    tmp_path: Path,
    tiny_model_path: Path,
    server_url: str,
    task: str,
    method: str,
    length: int,
    limit: int,
) -> None:
    """As chat, and as text that is continued."""
    config = EvaluationConfig(
        tasks=(task,),
        methods=(method,),
        lengths=(length,),
        limit=limit,
        max_tokens=20,
        piece_tokens=64,
    )
    tokenizer = load_tokenizer(str(tiny_model_path))
    settings = Settings(profile=load_profile(), tokenizer=tokenizer)

    def answers(engine: Engine, name: str) -> dict[str, str]:
        async def run() -> None:
            try:
                await run_evaluation(
                    config.model_copy(update={"label": "same"}), engine, settings, tmp_path / name
                )
            finally:
                await engine.close()

        asyncio.run(run())
        found = read_predictions(tmp_path / name / "predictions.jsonl")
        assert not [p for p in found.values() if p.error]
        return {p.id: p.raw for p in found.values()}

    inside = answers(load_engine(str(tiny_model_path)), "inside")
    served = answers(load_engine(None, (server_url,)), "served")
    assert len(inside) == limit
    assert inside == served
    assert len(set(inside.values())) >= min(limit, 6)  # the guard: replies differ from item to item
    if method == "helmet":  # the label, continued
        assert all(" is" in raw and not raw.startswith(" ") for raw in inside.values())
