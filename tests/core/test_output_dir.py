from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from agenticlu.cli import eval as cli_eval
from agenticlu.cli import generate as cli_generate
from agenticlu.cli import train as cli_train
from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.files import OWNER_FILES, DirectoryLock, check_owner, write_atomically
from agenticlu.engines import BUNDLED_MODEL


def test_a_file_replaces_the_old_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomically(path, "old\r\n")
    assert path.read_bytes() == b"old\r\n"
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old\r\n", "who reads the old file reads all of it"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]
    assert path.stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "Disk full"), (errno.EIO, "Cannot write")]
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    path = tmp_path / "config.json"
    write_atomically(path, "old")

    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=words):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot write"):
        write_atomically(tmp_path / "file" / "here", b"")


@pytest.mark.parametrize("command", OWNER_FILES)
def test_a_folder_belongs_to_the_command_that_wrote_it(tmp_path: Path, command: str):
    out = tmp_path / "out"
    check_owner(out, command)
    out.mkdir()
    check_owner(out, command)
    (out / OWNER_FILES[command][0]).touch()
    check_owner(out, command)
    for other in OWNER_FILES.keys() - {command}:
        with pytest.raises(UsageError, match=OWNER_FILES[command][1]):
            check_owner(out, other)


@pytest.mark.parametrize("name", ["eval", "generate", "merge", "train"])
def test_no_command_writes_among_anothers_files(tmp_path: Path, name: str):
    """Each of them writes a `config.json`, which the owner of the folder reads again."""
    out, data = tmp_path / "out", tmp_path / "rows.jsonl"
    out.mkdir()
    (out / OWNER_FILES["dataset"][0]).write_text("{}")
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
    assert {path.name for path in out.iterdir()} == {OWNER_FILES["dataset"][0], "config.json"}
    assert (out / "config.json").read_text() == "theirs"


def test_one_writer_at_a_time(tmp_path: Path):
    path = tmp_path / "run.lock"
    with DirectoryLock(path, busy=StoreError("busy")) as lock:
        with pytest.raises(StoreError, match="busy"):
            DirectoryLock(path, busy=StoreError("busy"))
        lock.close()
        DirectoryLock(path, busy=StoreError("busy")).close()
