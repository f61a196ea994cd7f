"""`ask` twice in two processes, and `cache` about what the first has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CLI = [sys.executable, "-c", "from agenticlu.cli import main; main()"]
SENTENCES = "Ada Yardley lives in Wexley. Bo Otis is the teacher of Cy Moss. "


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "long.txt").write_text(SENTENCES * 64)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "caches" / "agenticlu" / "prefixes"


def run(*words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([*CLI, *words], capture_output=True, text=True)
    assert result.returncode in codes, result.stderr
    return result


def ask(question: str, *words: str) -> dict[str, Any]:
    result = run("ask", "long.txt", question, "--json", *words, codes=(0, 10))
    assert "Traceback" not in result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return {**found, "said": result.stderr}


def computed(answer: dict[str, Any]) -> int:
    usage: dict[str, int] = answer["usage"]
    return usage["prompt_tokens"] - usage["cached_tokens"]


def test_a_second_command_computes_nothing_of_the_document(caches: Path) -> None:
    first = ask("Where does Ada Yardley live?")
    assert "agenticlu cache" in first["said"]
    second = ask("Who is the teacher of Cy Moss?")
    document = json.loads(run("cache", "--json").stdout)["prefixes"][0]["tokens"]
    assert document > 1000
    assert computed(first) > document
    assert computed(second) < document / 2, "the turns' own requests"
    assert "agenticlu cache" not in second["said"], "told once"
    again = ask("Where does Ada Yardley live?")
    assert again["answer"] == first["answer"]
    assert [turn["reply"] for turn in again["turns"]] == [t["reply"] for t in first["turns"]]
    # The list, for people and for programs.
    shown = run("cache").stdout
    assert "agenticlu-tiny  long.txt" in shown
    assert f"{document:,} tokens" in shown
    # Turned off, nothing is taken from it either.
    assert computed(ask("Who?", "--no-prefix-cache")) > document
    # Clearing by age and by model.
    assert " 0 removed" in run("cache", "clear", "--older-than", "1").stdout
    other = run("cache", "clear", "--model", "no/such")
    assert " 0 removed" in other.stdout
    assert "agenticlu-tiny" in other.stderr
    (stored,) = caches.glob("*.safetensors")
    os.utime(stored, (time.time() - 3 * 86_400,) * 2)
    cleared = json.loads(run("cache", "clear", "--older-than", "2", "--json").stdout)
    assert [one["document"] for one in cleared["removed"]] == ["long.txt"]
    assert [path.name for path in caches.iterdir()] == [".lock"]
    assert "nothing" in run("cache").stdout


def test_a_folder_of_ones_own(caches: Path, tmp_path: Path) -> None:
    ask("Who?", "--prefix-cache", str(tmp_path / "mine"))
    assert not caches.exists()
    assert len(list((tmp_path / "mine").glob("*.safetensors"))) == 1
    listed = run("cache", "--prefix-cache", str(tmp_path / "mine"), "--json")
    assert len(json.loads(listed.stdout)["prefixes"]) == 1
    run("cache", "clear", "--prefix-cache", str(tmp_path / "mine"), "--model", "agenticlu-tiny")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [".lock"]


def test_a_table_of_many_documents_keeps_nothing(caches: Path) -> None:
    result = run("ask", "long.txt", "Who?", "--out", "table.csv")
    assert Path("table.csv").exists(), result.stderr
    assert not caches.exists()


def test_documents_names_steer_no_terminal(caches: Path) -> None:
    Path("long.txt").rename("a\x1b[2Jb.txt")
    run("ask", "a\x1b[2Jb.txt", "Who?", "--json", codes=(0, 10))
    assert "\x1b" not in run("cache").stdout


def test_without_a_home_the_folder_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "")
    assert "--prefix-cache FOLDER" in run("cache", codes=(3,)).stderr
