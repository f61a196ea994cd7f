"""The history: kept, found in every script, deleted for good, and never lost to a broken file."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from agenticlu.core.errors import StoreError
from agenticlu.room.history import SUMMARY, History, history_path


def entry(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"e{number}",
        "conversation": "c",
        "document": "d",
        "document_name": "report.pdf",
        "asked_at": f"2026-01-01T00:00:{number:02d}Z",
        "question": f"Who signed contract {number}?",
        "answer": {"answer": "Ada", "statement": "Ada Yardley signed.", "status": "supported"},
        "places": [{"page": 3}],
        "trail": [],
        **changes,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "agenticlu" / "history.sqlite"


def ids(history: History, **filters: Any) -> list[str]:
    return [found["id"] for found in history.list(**filters)]


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_entries_are_kept_whole_and_listed_newest_first(where: str, path: Path) -> None:
    with History(path if where == "disk" else None) as history:
        for number in (1, 0, 2):
            history.add(entry(number))
        history.add(entry(3, document="other", conversation="another"))
        assert ids(history) == ["e3", "e2", "e1", "e0"]
        assert ids(history, limit=2) == ["e3", "e2"]
        assert ids(history, document="other") == ["e3"]
        assert [one["id"] for one in history.conversation("c")] == ["e0", "e1", "e2"]
        assert history.get("e1") == entry(1)
        assert history.get("none") is None
        first = history.list()[-1]
        assert first.keys() == set(SUMMARY)
        assert (first["statement"], first["status"]) == ("Ada Yardley signed.", "supported")
        history.add(entry(1, question="Changed?"))
        assert len(ids(history)) == 4
        assert ids(history, q="changed") == ["e1"]


def test_it_outlives_the_process_and_is_the_owners_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.rmdir()
    with History(path) as history:
        history.add(entry())
        history.close()
        assert ids(history) == ["e0"], "a use opens it again"
    with History(path) as history:
        assert ids(history) == ["e0"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("said", "looked_for"),
    [
        ("Die Straße nach Köln", "STRASSE köln"),
        ("Le café", "cafe"),
        ("合同由王小明签署", "小明"),
        ("契約はタワーで", "タワー"),
        ("สัญญาฉบับที่สอง", "ฉบับ"),
        ("अनुबंध पर हस्ताक्षर", "हस्ताक्षर"),
        ("وقّع العقد", "وقع"),
        ("ДОГОВОР подписан", "договор"),
        ("계약서에 서명했다", "계약서"),
        ("100% of a_b", "100% a_b"),
    ],
)
def test_words_of_every_script_are_found(said: str, looked_for: str) -> None:
    with History(None) as history:
        history.add(entry(0))
        history.add(entry(1, question=said))
        history.add(entry(2, answer={"statement": said}))
        history.add(entry(3, document_name=said))
        assert ids(history, q=looked_for) == ["e3", "e2", "e1"]
        assert ids(history, q=f"{looked_for} absent") == []


def test_halves_of_characters_and_zero_bytes_are_kept() -> None:
    with History(None) as history:
        odd = entry(0, question="a\ud83d b\0c", answer={"answer": "\udc00"})
        history.add(odd)
        assert history.get("e0") == odd
        assert ids(history, q="b") == ["e0"]


def test_what_is_deleted_is_gone_from_the_disk(path: Path) -> None:
    secret = "Zanzibar-" + "quokka " * 2000  # long enough for pages of its own
    with History(path) as history:
        history.add(entry(0))
        history.add(entry(1, question=f"Where? {secret}", document="x", answer={"answer": secret}))
        history.add(entry(2, question=f"Where? {secret}"))
        assert b"quokka" in path.read_bytes()
        history.delete("e2")
        history.delete("e2")
        history.delete_document("x")
        assert ids(history) == ["e0"]
        for file in path.parent.iterdir():
            assert b"quokka" not in file.read_bytes(), file
            assert b"Zanzibar" not in file.read_bytes(), file


def test_two_processes_and_many_threads_write_at_once(path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_history import entry; "
        "from agenticlu.room.history import History; history = History(sys.argv[1]); "
        "[history.add(entry(n, id=f'other{n}')) for n in range(40)]"
    )
    words = [sys.executable, "-c", program, str(path), str(Path(__file__).parent)]
    with History(path) as history, subprocess.Popen(words) as other:
        threads = [
            threading.Thread(
                target=lambda t=t: [history.add(entry(n, id=f"{t}.{n}")) for n in range(10)]
            )
            for t in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert other.wait(timeout=60) == 0
        assert len(ids(history)) == 80


def test_a_broken_file_is_set_aside_and_told(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database\n" * 100)
    told: list[str] = []
    with History(path, say=told.append) as history:
        history.add(entry())
        assert ids(history) == ["e0"]
    aside = [file for file in path.parent.iterdir() if ".broken-" in file.name]
    assert [file.read_bytes()[:7] for file in aside] == [b"this is"]
    assert len(told) == 1
    assert aside[0].name in told[0]


def test_a_file_that_breaks_while_in_use_is_set_aside_too(path: Path) -> None:
    told: list[str] = []
    with History(path, say=told.append) as history, History(path, say=told.append) as second:
        for number in range(60):
            history.add(entry(number, question="x" * 5000))
        path.write_bytes(os.urandom(path.stat().st_size))
        history.add(entry(60))
        second.add(entry(61))
        assert set(ids(history)) == {"e60", "e61"} == set(ids(second))
        assert len(told) == 1, "the second finds the new file, and leaves it"


def test_other_databases_are_left_alone(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (a)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program") as it:
        History(path)
    assert "--no-history" in (it.value.hint or "")
    assert path.read_bytes() == before
    path.unlink()
    with History(path):
        pass
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        History(path)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot use the history"):
        History(tmp_path / "file" / "history.sqlite")


def test_the_folder_is_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(history_path({"XDG_DATA_HOME": "/x"})) == "/x/agenticlu/history.sqlite"
    monkeypatch.setattr(sys, "platform", "linux")
    found = history_path({"XDG_DATA_HOME": "relative", "HOME": "/home/a"})
    assert str(found) == "/home/a/.local/share/agenticlu/history.sqlite"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Application Support" in str(history_path({"HOME": "/Users/a"}))
    with pytest.raises(StoreError, match="no home folder"):
        history_path({})
