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
from agenticlu.search.store import Store

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


def test_a_stage_that_finds_nothing_to_learn_from_reopens_what_it_rests_on(tmp_path: Path) -> None:
    is_useless = True

    def check() -> None:
        if is_useless:
            raise TrainingError("no rows", hint="Ask more.")

    def stages(searched: str) -> list[Stage]:
        data = Stage(
            "data", lambda: ("b",), "x", check, reopens=("search",), advice="Run it again."
        )
        return [stage("before", "0"), stage("search", searched), data, stage("train", "c")]

    ran: list[str] = []
    with pytest.raises(TrainingError, match="no rows") as caught:
        run_stages(tmp_path, stages("a"), lambda argv: ran.append(*argv), say)
    assert caught.value.hint == "Ask more. Run it again."
    assert ran == ["0", "a", "b"], "and nothing was trained"
    is_useless = False
    run_stages(tmp_path, stages("other"), lambda argv: ran.append(*argv), say)
    assert ran[3:] == ["other", "b", "c"]
    with pytest.raises(UsageError, match="other settings"):
        run_stages(tmp_path, stages("a"), lambda argv: ran.append(*argv), say)


def test_each_round_begins_from_what_the_last_one_taught(tmp_path: Path) -> None:
    for then, last in (("none", "sft"), ("distill", "distill"), ("dpo", "dpo")):
        plan = LoopPlan("c.jsonl", "base", tmp_path, rounds=2, then=then)
        words = {one.title: one.argv() for one in build_stages(plan)}
        taught = str(tmp_path / "round-1" / last / "export")
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


def test_a_search_without_a_right_answer_ends_before_training_and_may_go_on(
    corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    path = tmp_path / "hopeless.jsonl"
    row = {"context": "Mira lives in Vell. " * 9, "question": "Who?", "answers": ["Qzx"]}
    path.write_text(json.dumps(row) + "\n")
    words = ("loop", path, "--model", MODEL, "--out", out, *SMALL)
    with pytest.raises(
        TrainingError, match="1 question: 0 solved, 0 too easy, 1 unsolved"
    ) as caught:
        call(*words)
    assert "--guide" in (caught.value.hint or "")
    assert caught.value.exit_code == 8
    assert names_in(out / "round-1") == {"search"}
    calls = count_calls(out)
    with pytest.raises(TrainingError, match="1 unsolved"):
        call(*words, "--branching", "3")
    assert count_calls(out) > calls, "the other settings were searched with"
    path.write_text(corpus.read_text())
    assert call(*words).exit_code == 0, "questions that can be answered"


def test_without_pairs_the_loop_ends_before_fine_tuning_and_may_do_without(
    corpus: Path, tmp_path: Path
) -> None:
    """Questions that the search answers right whatever it asks."""
    call("generate", "run", corpus, "--model", MODEL, *SMALL[2:6], "--out", tmp_path / "all")
    with Store(tmp_path / "all", writable=False) as store:
        easy = {tree.question.id for tree in store.trees() if tree.outcome == "too-easy"}
    lines = corpus.read_text().splitlines(keepends=True)
    path, out = tmp_path / "easy.jsonl", tmp_path / "out"
    path.write_text("".join(line for line in lines if json.loads(line)["id"] in easy))
    assert len(easy) > 1
    words = ("loop", path, "--model", MODEL, "--out", out, *SMALL)
    with pytest.raises(
        TrainingError, match=f"no preference pairs.* {len(easy)} too easy"
    ) as caught:
        call(*words)
    assert "--then none" in (caught.value.hint or "")
    assert names_in(out) == {"round-1", RECORD_NAME}, "neither trained nor evaluated"
    assert names_in(out / "round-1") == {"search", "data"}
    assert call(*words, "--then", "none").exit_code == 0
    assert (out / "round-1" / "sft" / "export").is_dir()


def test_one_document_is_not_held_out_and_that_is_said_before_training(
    corpus: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    first = [row for row in rows if row["document_id"] == rows[0]["document_id"]]
    copies = [
        {**row, "document_id": f"{row['document_id']}-{n}", "id": f"{row['id']}-{n}"}
        | {"context": f"{row['context']} Copy {n}."}
        for n in range(3)
        for row in first
    ]
    path, out = tmp_path / "copies.jsonl", tmp_path / "out"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in copies))
    words = ("loop", path, "--model", MODEL, "--out", out, *SMALL, "--then", "none")
    with pytest.raises(TrainingError, match="near-copies of each other"):
        call(*words)
    assert names_in(out / "round-1") == {"search", "data"}
    with pytest.raises(TrainingError, match="6 document in evaluation"):
        call(*words, "--held-out", corpus)  # which has the document that was copied
    other = tmp_path / "other.jsonl"
    sizes = DemoSizes(num_documents=2, questions_per_document=1, lengths=(256,), seed=7)
    write_corpus(other, sizes)
    assert call(*words, "--held-out", other).exit_code == 0


def test_a_corpus_that_cannot_be_compared_is_evaluated_on_all_the_same(
    corpus: Path, tmp_path: Path
) -> None:
    words = ("loop", corpus, "--model", MODEL, "--out", tmp_path / "x", *SMALL, "--dry-run")
    odd = tmp_path / "odd.csv"
    odd.write_text("a,b\n1,2\n")
    assert "is not compared with --held-out" in call(*words, "--held-out", odd).stderr
    assert "is not compared" not in call(*words, "--held-out", corpus).stderr


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def count_calls(out: Path) -> int:
    with Store(out / "round-1" / "search", writable=False) as store:
        return store.call_counts()["done"]


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
