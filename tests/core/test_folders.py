from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from agenticlu.cli import eval as cli_eval
from agenticlu.cli import generate as cli_generate
from agenticlu.cli import train as cli_train
from agenticlu.core.errors import UsageError
from agenticlu.core.folders import MARKS, check_owner
from agenticlu.engines import BUNDLED_MODEL


@pytest.mark.parametrize("command", MARKS)
def test_a_folder_belongs_to_the_command_that_wrote_it(tmp_path: Path, command: str):
    out = tmp_path / "out"
    check_owner(out, command)
    out.mkdir()
    check_owner(out, command)
    (out / MARKS[command][0]).touch()
    check_owner(out, command)
    for other in MARKS.keys() - {command}:
        with pytest.raises(UsageError, match=MARKS[command][1]):
            check_owner(out, other)


@pytest.mark.parametrize("name", ["eval", "generate", "merge", "train"])
def test_no_command_writes_among_anothers_files(tmp_path: Path, name: str):
    """Each of them writes a `config.json`, which the owner of the folder reads again."""
    out, data = tmp_path / "out", tmp_path / "rows.jsonl"
    out.mkdir()
    (out / MARKS["dataset"][0]).write_text("{}")
    (out / "config.json").write_text("theirs")
    data.write_text('{"context": "Ada lives here.", "question": "Who?", "answers": ["Ada"]}\n')
    model = ("--model", os.fspath(BUNDLED_MODEL))
    command, words = {
        "eval": (cli_eval.command, ["--limit", "1", "--lengths", "256"]),
        "generate": (cli_generate.command, ["run", str(data)]),
        "merge": (cli_generate.command, ["merge", str(tmp_path)]),
        "train": (cli_train.command, ["sft", str(data), *model]),
    }[name]
    result = CliRunner().invoke(command, [*words, "--out", str(out)])
    assert isinstance(result.exception, UsageError), result.output
    assert "holds a data set" in result.exception.message
    assert {path.name for path in out.iterdir()} == {MARKS["dataset"][0], "config.json"}
    assert (out / "config.json").read_text() == "theirs"
