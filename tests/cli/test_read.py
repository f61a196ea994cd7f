"""`agenticlu read`: what it says at the start, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

CLI = [sys.executable, "-c", "from agenticlu.cli import main; main()"]
TEXT = "Ada Yardley lives in Wexley, by the river. " * 20


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.txt").write_text(TEXT)
    return tmp_path


@contextlib.contextmanager
def reading(*words: str) -> Iterator[tuple[subprocess.Popen[str], str, dict[str, str]]]:
    """Runs the command; yields the process, host and headers that let in."""
    command = [*CLI, "read", *words, "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("agenticlu: reading at http://127.0.0.1:"), process.stderr.read()
        parts = urlsplit(line.split()[-1])
        token = parse_qs(parts.query)["token"][0]
        yield process, parts.netloc, {"Authorization": f"Bearer {token}"}
    finally:
        process.kill()
        process.communicate()


def get(host: str, path: str, headers: dict[str, str]) -> dict:  # type: ignore[type-arg]
    connection = http.client.HTTPConnection(host, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        assert reply.status == 200
        found: dict = json.loads(reply.read())  # type: ignore[type-arg]
        return found


def test_it_opens_what_is_named_and_keeps_a_history(home: Path) -> None:
    (home / "more").mkdir()
    (home / "more" / "a.md").write_text("# A\n\nOne.")
    with reading("d.txt", "more") as (process, host, headers):
        state = get(host, "/api/state", headers)
        assert [one["name"] for one in state["documents"]] == ["d.txt", "more"]
        assert state["history"] is True
        assert state["model"]["bundled"] is True
        assert state["unopened"] == []
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert (process.returncode, "closed" in told, "Traceback" in told) == (0, True, False)
    file = home / "XDG_DATA_HOME" / "agenticlu" / "history.sqlite"
    assert file.stat().st_mode & 0o077 == 0
    with reading("--no-history") as (_, host, headers):
        assert get(host, "/api/state", headers)["history"] is False


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_a_stream_open(stop: signal.Signals) -> None:
    with reading("d.txt", "--no-history") as (process, host, headers):
        (document,) = get(host, "/api/state", headers)["documents"]
        folders = list(Path(tempfile.gettempdir()).glob(f"agenticlu-room-{process.pid}-*"))
        assert len(folders) == 1
        body = json.dumps({"document": document["id"], "question": "Where?", "rounds": 20})
        open_stream = http.client.HTTPConnection(host, timeout=60)
        open_stream.request(
            "POST", "/api/ask", body, {**headers, "Content-Type": "application/json"}
        )
        reply = open_stream.getresponse()
        assert reply.readline() == b"event: open\n"
        process.send_signal(stop)
        _, told = process.communicate(timeout=120)
        assert "Traceback" not in told, told
        assert process.returncode == 0
        open_stream.close()
        assert not folders[0].exists()


def test_what_is_wrong_is_told_before_anything_is_served(home: Path) -> None:
    def fail(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*CLI, "read", *words, "--no-browser"], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    code, told = fail("d.tx")
    assert (code, "Did you mean" in told) == (4, True)
    code, told = fail("d.txt", "--model", "nowhere")
    assert (code, "not found" in told) == (5, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, told = fail("d.txt", "--port", port)
        assert (code, "Try another --port" in told) == (2, True)
    code, told = fail("d.txt", "--max-upload-mib", "0")
    assert code == 2


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "python_multipart"])
def test_a_missing_package_is_an_install_line(package: str) -> None:
    block = f"import sys; sys.modules[{package!r}] = None; from agenticlu.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", block, "read", "d.txt"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7
    assert "pip install 'agenticlu[read]'" in done.stderr


def test_a_server_needs_no_pytorch() -> None:
    block = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
        "from agenticlu.cli import main; main()"
    )
    command = [sys.executable, "-c", block, "read", "d.txt", "--no-browser", "--no-history"]
    with contextlib.ExitStack() as stack:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(process.communicate)
        stack.callback(process.kill)
        assert process.stdout is not None
        parts = urlsplit(process.stdout.readline().split()[-1])
        headers = {"Authorization": f"Bearer {parse_qs(parts.query)['token'][0]}"}
        state = get(parts.netloc, "/api/state", headers)
        assert state["model"] is None
        assert state["documents"][0]["name"] == "d.txt"


def test_the_browser_is_opened_with_a_key_for_once(home: Path) -> None:
    browser = home / "browser"
    part = home / "part"
    browser.write_text(f'#!/bin/sh\necho "$1" > {part}\nmv {part} {home}/opened\n')
    browser.chmod(0o755)
    process = subprocess.Popen(
        [*CLI, "read", "d.txt", "--no-history"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "BROWSER": str(browser)},
    )
    try:
        assert process.stdout is not None
        printed = urlsplit(process.stdout.readline().split()[-1])
        deadline = time.monotonic() + 60
        while not (home / "opened").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        opened = urlsplit((home / "opened").read_text().strip())
        assert opened.netloc == printed.netloc
        assert opened.query != printed.query

        def visit(query: str) -> int:
            connection = http.client.HTTPConnection(opened.netloc, timeout=60)
            with contextlib.closing(connection):
                connection.request("GET", f"/?{query}")
                return connection.getresponse().status

        assert [visit(opened.query), visit(opened.query)] == [303, 401]
        assert [visit(printed.query), visit(printed.query)] == [303, 303]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("history", [True, False], ids=["history", "no history"])
def test_what_was_read_stays_on_disk_unless_history_is_off(
    history: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "caches"))
    (home / "d.txt").write_text(TEXT * 5)
    kept = home / "caches" / "agenticlu" / "prefixes"
    with reading("d.txt", *([] if history else ["--no-history"])) as (process, host, headers):
        deadline = time.monotonic() + 120
        document = get(host, "/api/state", headers)["documents"][0]
        while document["status"] != "ready" and time.monotonic() < deadline:
            time.sleep(0.1)
            document = get(host, "/api/state", headers)["documents"][0]
        asked = json.dumps({"document": document["id"], "question": "Where?"})
        connection = http.client.HTTPConnection(host, timeout=240)
        with contextlib.closing(connection):
            sent = {**headers, "Content-Type": "application/json", "Origin": f"http://{host}"}
            connection.request("POST", "/api/ask", asked, sent)
            assert "event: answer" in connection.getresponse().read().decode()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    assert len(list(kept.glob("*.safetensors"))) == history
