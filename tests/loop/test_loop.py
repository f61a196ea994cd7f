"""The loop: its stages, what it refuses, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agenticlu.cli import group
from agenticlu.core.errors import ModelNotFoundError, StoreError, TrainingError, UsageError
from agenticlu.demo import MODEL, DemoSizes, write_corpus
from agenticlu.loop import LoopPlan, build_stages
from agenticlu.loop.stages import RECORD_NAME, Stage, run_stages

SMALL = ("--preset", "tiny", "--branching", "2", "--depth", "1", "--items", "4")


def call(*words: object) -> Result:
    return CliRunner().invoke(group, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "world.jsonl"
    write_corpus(path, DemoSizes(num_documents=5, questions_per_document=2, lengths=(256,)))
    return path


def stage(title: str, *words: str) -> Stage:
    return Stage(title, lambda: words, "x")


def say(line: str, **styles: bool) -> None:
    print(line)


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    stages = [stage("one", "a"), stage("two", "b", "c")]
    ran: list[tuple[str, ...]] = []

    def invoke(argv: Sequence[str]) -> None:
        ran.append(tuple(argv))
        if len(ran) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(tmp_path, stages, invoke, say)
    assert set(run_stages(tmp_path, stages, invoke, say)) == {"one", "two"}
    assert ran == [("a",), ("b", "c"), ("b", "c")]
    with pytest.raises(UsageError, match=r"holds the stage 'two' with other settings: c, d\."):
        run_stages(tmp_path, [stages[0], stage("two", "b", "d")], invoke, say)
    (tmp_path / RECORD_NAME).write_text('{"one": 3}')
    with pytest.raises(StoreError, match="is damaged"):
        run_stages(tmp_path, stages, invoke, say)
    assert len(ran) == 3


def test_a_stage_without_work_is_told_and_tried_again(tmp_path: Path) -> None:
    said: list[str] = []
    ran: list[Sequence[str]] = []
    idle = Stage("none", lambda: ("never",), "x", lambda: "there are no pairs")
    run_stages(tmp_path, [idle], ran.append, lambda line, **_: said.append(line))
    assert ran == []
    assert any("skipped: there are no pairs" in line for line in said)


def test_each_round_begins_from_what_the_last_one_taught(tmp_path: Path) -> None:
    plan = LoopPlan("c.jsonl", "base", tmp_path, rounds=2)
    for stage_of in ("sft", "dpo"):
        (tmp_path / "round-1" / stage_of / "export").mkdir(parents=True)
        words = {one.title: one.argv() for one in build_stages(plan)}
        taught = str(tmp_path / "round-1" / stage_of / "export")
        for title in ("Round 2: search", "Round 2: fine-tuning", "Evaluation: round 1"):
            argv = words[title]
            assert argv[argv.index("--model") + 1] == taught
        argv = words["Evaluation: base"]
        assert argv[argv.index("--model") + 1] == "base"
    held_out = {
        argv[argv.index("--corpus") + 1] for title, argv in words.items() if "Evaluation" in title
    }
    assert held_out == {str(tmp_path / "round-1" / "data" / "questions")}, "the same questions"


@pytest.mark.parametrize(
    ("then", "argv"),
    [
        ("dpo", ("train", "dpo", "D/data", "--sft", "D/sft", "--out", "D/dpo")),
        ("distill", ("train", "distill", "D/data", "--model", "D/sft", "--out", "D/distill")),
        ("none", None),
    ],
)
def test_the_stage_after_fine_tuning(
    then: str, argv: tuple[str, ...] | None, tmp_path: Path
) -> None:
    plan = LoopPlan("c.jsonl", "base", tmp_path, then=then)
    stages = build_stages(plan)
    trained = [one for one in stages if one.argv()[0] == "train"]
    assert len(trained) == (1 if argv is None else 2)
    assert all((one.skip() is None) == (one.argv()[1] == "sft") for one in trained)
    if argv is not None:
        folder = str(tmp_path / "round-1")
        assert trained[1].argv() == tuple(word.replace("D/", f"{folder}/") for word in argv)


def test_what_is_missing_is_said(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--model"):
        call("loop", corpus, "--out", tmp_path / "x")
    with pytest.raises(UsageError, match="--out"):
        call("loop", corpus, "--model", MODEL)
    with pytest.raises(ModelNotFoundError):
        call("loop", corpus, "--model", tmp_path / "nix", "--dry-run")
    planned = call("loop", corpus, "--model", MODEL, "--dry-run", "--rounds", "2", *SMALL).stdout
    assert "prefill tokens" in planned
    assert planned.rstrip().endswith("Evaluation: round 2\nReport")


def test_nothing_to_learn_from_is_said_before_training(tmp_path: Path) -> None:
    """Questions that all fail."""
    path = tmp_path / "hopeless.jsonl"
    row = {"context": "Mira lives in Vell. " * 9, "question": "Who?", "answers": ["Qzx"]}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TrainingError, match="1 no right answer"):
        call("loop", path, "--model", MODEL, "--out", tmp_path / "out", *SMALL)
    assert not (tmp_path / "out" / "round-1" / "sft").exists()


def run(corpus: Path, out: Path, *, stop_in: int | None = None, pause: float = 0) -> str | None:
    """Runs the loop in a process; kills it in a stage and returns None, or returns its table."""
    code = "from agenticlu.cli import main; main()"
    words = ("loop", corpus, "--model", MODEL, "--out", out, *SMALL)
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if stop_in is not None and line.startswith(f"[{stop_in}/"):
            process.stdout.readline()  # the command of the stage: it has begun
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
    process.wait()
    if stop_in is not None:
        assert process.returncode == -signal.SIGKILL, "".join(lines)
        return None
    text = "".join(lines)
    assert process.returncode == 0, text
    return text[text.index("Held-out documents, %") : text.index("All stages took")]


def test_a_kill_in_any_stage_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    whole = run(corpus, tmp_path / "whole")
    stages = json.loads((tmp_path / "whole" / RECORD_NAME).read_text())
    total = len(build_stages(LoopPlan("", "", tmp_path)))
    for number in range(1, total + 1, 2):
        run(corpus, tmp_path / "killed", stop_in=number, pause=0.4 * (number < total))
    assert run(corpus, tmp_path / "killed") == whole
    assert stages.keys() == json.loads((tmp_path / "killed" / RECORD_NAME).read_text()).keys()


def test_only_the_first_search_is_guided_and_needed_pieces_are_measured_elsewhere(
    tmp_path: Path,
) -> None:
    plan = LoopPlan("c.jsonl", "base", tmp_path, rounds=2, guide=True)
    words = {one.title: one.argv() for one in build_stages(plan)}
    assert "--guide" in words["Round 1: search"]
    assert "--guide" not in words["Round 2: search"]
    assert "Round 1: needed pieces" not in words, "guided rounds quote what they need"
    assert words["Round 2: needed pieces"][:2] == ("generate", "necessity")
    assert all("--direct" in words[f"Round {number}: data"] for number in (1, 2))
    titles = [one.title for one in build_stages(LoopPlan("c.jsonl", "base", tmp_path))]
    assert titles[1] == "Round 1: needed pieces"
    plain = build_stages(LoopPlan("c.jsonl", "base", tmp_path, necessity=False))
    assert not any("needed" in one.title for one in plain)
