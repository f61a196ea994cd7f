"""`agenticlu dataset` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from made_trees import asked, make_run, node, story, tree

from agenticlu.cli import group
from agenticlu.core.errors import (
    AgenticluError,
    DocumentError,
    StoreError,
    TrainingError,
    UsageError,
)

MIXED = (node("a", 1.0), node("b", 0.0, ordinal=1))


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(
        tmp_path_factory.mktemp("made") / "run",
        [(story(i), tree(*MIXED, question=asked(i), document=story(i))) for i in range(6)],
        unstarted=[(story(9), asked(9))],
    )


@pytest.fixture(scope="module")
def built(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "data"
    done = call("dataset", "build", run, "--out", out, "--license", "mit", "--validation", "0.3")
    assert done.exit_code == 0, done.output
    return out


def names_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        ("build", "--validation", "1"),
        ("build", "--validation", "-1"),
        ("build", "--validation", "nan"),
        ("build", "--margin", "3"),
        ("build", "--margin", "-0.1"),
        ("build", "--margin", "nan"),
        ("build", "--margin", "much"),
        ("build", "--pairs-per-node", "0"),
        ("build", "--pairs-per-node", "1.5"),
        ("build", "--max-log-ratio", "-1"),
        ("build", "--max-log-ratio", "nan"),
        ("build", "--drop-closed-book", "7"),
        ("build", "--drop-closed-book", "nan"),
        ("build", "--pairs", "all"),
        ("import", "--validation", "5"),
        ("import", "--validation", "nan"),
    ],
)
def test_a_value_that_cannot_be_is_an_error_in_words(tmp_path: Path, command, option, value):
    done = call("dataset", command, "source", "--out", tmp_path / "out", option, value)
    assert isinstance(done.exception, UsageError)
    assert option in done.exception.message
    assert not (tmp_path / "out").exists()


def test_a_build_writes_its_files_and_tells_what_is_missing(built: Path, run: Path, tmp_path: Path):
    assert names_in(built) == {
        *("README.md", "croissant.json", "summary.json", "sft/train.parquet"),
        *("plain/train.parquet", "plain/validation.parquet", "questions/validation.parquet"),
        *("distill/train.parquet", "distill/validation.parquet"),
        *("sft/validation.parquet", "preference/train.parquet", "preference/validation.parquet"),
    }
    done = call("dataset", "build", run, "--out", tmp_path / "data", "--json")
    assert "Warning: 1 of 7 questions are not finished" in done.stderr
    summary = json.loads(done.stdout)
    assert summary["funnel"]["traces"]["unfinished"] == 1
    assert {"characters", "documents", "rows", "turn_kinds"} <= set(summary)
    said = call("dataset", "build", run, "--out", tmp_path / "data").stdout
    assert "7 questions: 6 written, 1 unfinished" in said


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", "is a file"),
        ("mine", "is neither empty nor a data set"),
        ("run", "must not contain each other"),
        ("run/data", "must not contain each other"),
    ],
)
def test_a_folder_that_must_not_be_written_is_refused(run: Path, tmp_path: Path, out, words):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    before = names_in(tmp_path)
    done = call("dataset", "build", tmp_path / "run", "--out", tmp_path / out)
    assert isinstance(done.exception, UsageError)
    assert words in done.exception.message
    assert names_in(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("--license", "mitt"), UsageError, "Unknown licence"),
        (("--license", "other"), UsageError, "needs a --license-name"),
        (("--license-name", "mine"), UsageError, "need --license other"),
        (("--decontaminate-report",), UsageError, "nothing to compare with"),
        (("--decontaminate", "none.jsonl"), DocumentError, "does not exist"),
        (("--push-to-hub", "me/a"), UsageError, "needs a licence"),
    ],
)
def test_options_are_checked_before_the_work(run: Path, tmp_path: Path, arguments, error, words):
    done = call("dataset", "build", run, "--out", tmp_path / "out", *arguments)
    assert isinstance(done.exception, error)
    assert words in done.exception.message
    assert done.exception.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("margin", ["0.25", "1"])
def test_a_build_without_rows_leaves_no_folder(tmp_path: Path, margin: str):
    wrong = tree(node("a", 0.0), question=asked(0), document=story(0))
    made = make_run(tmp_path / "run", [(story(0), wrong)])
    done = call("dataset", "build", made, "--out", tmp_path / "a" / "b", "--margin", margin)
    assert isinstance(done.exception, TrainingError)
    assert not (tmp_path / "a").exists()
    done = call("dataset", "build", tmp_path / "none", "--out", tmp_path / "a" / "b")
    assert isinstance(done.exception, StoreError)
    assert not (tmp_path / "a").exists()


def test_decontamination_is_one_option(built: Path, run: Path, tmp_path: Path):
    (tmp_path / "task.jsonl").write_text(json.dumps({"context": story(2).text, "question": "?"}))
    done = call(
        *("dataset", "build", run, "--out", tmp_path / "data"),
        *("--decontaminate", tmp_path / "task.jsonl"),
    )
    assert "shared with evaluation, left out: 1 documents, 0 questions" in done.stdout
    card = (tmp_path / "data" / "README.md").read_text()
    assert "Compared with task.jsonl: 1 documents and 0 questions" in card
    assert "| traces | document in evaluation | 1 |" in card
    (tmp_path / "other.jsonl").write_text(json.dumps({"question": "Quite another one?"}))
    others = ("--decontaminate", tmp_path / "other.jsonl")
    call("dataset", "build", run, "--out", tmp_path / "all", *others)
    assert "Nothing was shared." in (tmp_path / "all" / "README.md").read_text()
    assert "Not compared with any evaluation" in (built / "README.md").read_text()


def test_what_was_built_can_be_imported_with_a_card_of_its_own(built: Path, tmp_path: Path):
    source = built / "preference" / "train.parquet"
    done = call("dataset", "import", source, "--out", tmp_path / "in", "--license", "cc-by-4.0")
    assert done.exit_code == 0, done.output
    number = pyarrow.parquet.read_table(source).num_rows
    files = sorted((tmp_path / "in" / "preference").glob("*.parquet"))
    tables = [pyarrow.parquet.read_table(file) for file in files]
    assert sum(table.num_rows for table in tables) == number
    for row in (row for table in tables for row in table.to_pylist()):
        assert row["leak"] is False, "answers stand in our rows"
        assert row["log_length_ratio"] is not None
    card = (tmp_path / "in" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    assert "- Source: train.parquet" in card
    assert f"- {number} rows were read" in card
    assert str(tmp_path) not in card
    summary = json.loads((tmp_path / "in" / "summary.json").read_text())
    assert summary["licence"]["identifier"] == "cc-by-4.0"
    assert summary["build"]["characters"]["chosen"]["n"] == number
    described = json.loads((tmp_path / "in" / "croissant.json").read_text())
    assert described["license"] == "cc-by-4.0"
    assert set(summary["files"]) >= {file["@id"] for file in described["distribution"]}


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("data/none.json", DocumentError, "There is no file, directory or hub data set"),
        ("BUILT", UsageError, "must not contain each other"),
        ("ints.json", DocumentError, "Entry 1 of .*ints.json is a number"),
    ],
)
def test_a_source_that_cannot_be_imported_is_said(built, tmp_path, source, error, words):
    (tmp_path / "ints.json").write_text("[1, 2]")
    given = {"BUILT": built, "ints.json": tmp_path / "ints.json"}.get(source, source)
    out = built / "in" if source == "BUILT" else tmp_path / "in"
    done = call("dataset", "import", given, "--out", out)
    assert isinstance(done.exception, error)
    with pytest.raises(AgenticluError, match=words):
        raise done.exception
    assert not out.exists()


def test_a_folder_of_ours_is_imported_without_its_conversations(built: Path, tmp_path: Path):
    number = pyarrow.parquet.read_table(built / "preference" / "train.parquet").num_rows
    said = call("dataset", "import", built, "--out", tmp_path / "in").stdout
    assert f"{number} rows that were read: {number} written\n" in said


def test_a_row_that_cannot_be_read_is_not_told_to_be_a_corpus_line(tmp_path: Path):
    (tmp_path / "torn.jsonl").write_text('{"prompt": [')
    for command in ("dataset", "import"), ("prompts", "extract"):
        done = call(*command, tmp_path / "torn.jsonl", "--out", tmp_path / "x.toml")
        assert isinstance(done.exception, DocumentError)
        assert "context" not in str(done.exception.hint)


@pytest.mark.parametrize(("score", "told"), [(0.5, False), (1, True)])
def test_rows_without_conversations_lead_to_dpo(tmp_path: Path, score: float, told: bool):
    row = {
        "prompt": [{"role": "user", "content": "<para 0> Ada. </para 0>\n\nWho?"}],
        "chosen": [{"role": "assistant", "content": "Ada"}],
        "rejected": [{"role": "assistant", "content": "Ben"}],
        "score_chosen": 1,
        "score_rejected": score,
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    done = call("dataset", "import", tmp_path / "rows.jsonl", "--out", tmp_path / "in")
    assert "Next: agenticlu train dpo" in done.stdout
    card = (tmp_path / "in" / "README.md").read_text()
    assert ("(`margin` is 0 or below): 1\n" in card) is told
    assert ("do not prefer the chosen reply: 1." in done.stderr) is told


def test_what_was_not_asked_blindly_is_said_not_to_be_dropped(run: Path, tmp_path: Path):
    done = call("dataset", "build", run, "--out", tmp_path / "in", "--drop-closed-book", "0.5")
    assert "Warning: 6 of 7 questions were not asked without their document" in done.stderr


def test_a_set_that_is_all_in_the_evaluation_is_not_told_to_search_deeper(run, tmp_path):
    texts = [json.dumps({"context": story(i).text, "question": "?"}) for i in range(6)]
    (tmp_path / "task.jsonl").write_text("\n".join(texts))
    arguments = ("--out", tmp_path / "in", "--decontaminate", tmp_path / "task.jsonl")
    done = call("dataset", "build", run, *arguments)
    assert isinstance(done.exception, TrainingError)
    assert "Search other documents" in str(done.exception.hint)


def test_a_push_needs_a_data_set_with_a_licence(run: Path, tmp_path: Path):
    done = call("dataset", "push", tmp_path, "me/traces")
    assert isinstance(done.exception, UsageError)
    assert "is not a data set" in done.exception.message
    call("dataset", "build", run, "--out", tmp_path / "data")
    done = call("dataset", "push", tmp_path / "data", "me/traces")
    assert isinstance(done.exception, UsageError)
    assert "needs a licence" in done.exception.message


def test_help_names_the_three_ways():
    said = call("dataset", "--help").output
    assert all(name in said for name in ("build", "import", "push"))
    assert isinstance(group.get_command(click.Context(group), "dataset"), click.Group)
