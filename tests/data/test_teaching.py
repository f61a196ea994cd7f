"""What is said where a data set has nothing to teach, and that nothing is written by then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_trees import asked, make_run, node, story, tree

from agenticlu.cli import group
from agenticlu.core.errors import TrainingError
from agenticlu.core.records import Tree
from agenticlu.data.teaching import EASIER, HARDER, advise, render_outcomes, require_rows
from agenticlu.demo import MODEL


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


def make(folder: Path, outcome: str, *scores: float, count: int = 4) -> Path:
    """Writes a run of questions with one round for each score, all of one outcome."""
    trees = []
    for i in range(count):
        rounds = [node(f"n{j}", score, ordinal=j) for j, score in enumerate(scores)]
        made: Tree = tree(*rounds, question=asked(i), document=story(i))
        trees.append((story(i), made.model_copy(update={"outcome": outcome})))
    return make_run(folder, trees)


def test_questions_without_a_right_answer_give_no_data_set(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "unsolved", 0.0, 0.0)
    done = call("dataset", "build", run, "--out", tmp_path / "data")
    assert isinstance(done.exception, TrainingError)
    assert "4 questions: 0 solved, 0 too easy, 4 unsolved." in done.exception.message
    assert "4 no right answer" in done.exception.message
    assert EASIER in (done.exception.hint or "")
    assert not (tmp_path / "data").exists()


def test_questions_that_were_too_easy_give_conversations_and_a_warning(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = call(
        "dataset", "build", make(tmp_path / "run", "too-easy", 1.0), "--out", data, "--lessons", "0"
    )
    assert done.exit_code == 0
    assert "no preference pairs" in done.stderr
    assert HARDER in done.stderr
    assert json.loads((data / "summary.json").read_text())["build"]["outcomes"] == {"too-easy": 4}
    require_rows(data, "sft")
    model = ("--model", MODEL, "--out", tmp_path / "out")
    for stage, words in (("dpo", ("--from", *model[1:])), ("distill", model)):
        done = call("train", stage, data, *words)
        assert isinstance(done.exception, TrainingError), stage
        assert "0 solved, 4 too easy, 0 unsolved" in done.exception.message
        assert not (tmp_path / "out").exists()
    assert "--lessons 2" in (done.exception.hint or "")


def test_right_and_wrong_answers_side_by_side_lack_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = call("dataset", "build", make(tmp_path / "run", "solved", 1.0, 0.0), "--out", data)
    assert "Warning" not in done.stderr
    for stage in ("sft", "dpo", "distill"):
        require_rows(data, stage)


def test_rows_of_held_out_documents_alone_train_nothing(tmp_path: Path) -> None:
    entries = []
    for i in range(4):
        made = tree(node("a", 0.0), question=asked(i), document=story(i))
        entries.append((story(i), made))
    held_out = call(
        *("dataset", "build", make(tmp_path / "all", "solved", 1.0, 0.0)),
        *("--out", tmp_path / "x", "--json"),
    )
    assert json.loads(held_out.stdout)["documents"]["validation"] == 1
    rows = (tmp_path / "x" / "questions" / "validation.parquet").read_bytes()
    (number,) = [i for i in range(4) if story(i).id.encode() in rows]
    right = tree(node("a", 1.0), node("b", 0.0, ordinal=1), question=asked(number))
    entries[number] = (story(number), right.model_copy(update={"document_id": story(number).id}))
    done = call("dataset", "build", make_run(tmp_path / "run", entries), "--out", tmp_path / "data")
    assert "all of its 1 rows are about documents that are held out" in done.stderr
    with pytest.raises(TrainingError, match="held out") as caught:
        require_rows(tmp_path / "data", "sft")
    assert "--validation" in (caught.value.hint or "")


def test_rows_that_were_added_and_folders_of_others_are_not_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    call("dataset", "build", make(tmp_path / "run", "too-easy", 1.0), "--out", data)
    with pytest.raises(TrainingError):
        require_rows(data, "dpo")
    (data / "preference").mkdir()
    (data / "preference" / "train.jsonl").write_text("{}")
    require_rows(data, "dpo")
    require_rows(tmp_path / "nowhere", "dpo")


def test_what_to_try_follows_from_what_became_of_the_questions() -> None:
    assert advise({"unsolved": 3, "solved": 1}) == EASIER
    assert advise({"unsolved": 1, "solved": 3}) == HARDER
    assert "--keep-leaks" in advise({"solved": 2}, {"leak": 2, "unsupported": 1})
    assert "finish" in advise({"unfinished": 2})
    assert render_outcomes({}) == ""
    assert render_outcomes({"failed": 1}) == (
        "1 question: 0 solved, 0 too easy, 0 unsolved, 1 failed."
    )
