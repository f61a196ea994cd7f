"""Whatever a parser does to its process, the caller gets a result or an error in words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agenticlu.core.errors import (
    AgenticluError,
    ConfigError,
    DocumentError,
    MissingDependencyError,
    UsageError,
)
from agenticlu.core.limits import VARIABLES, DocumentLimits
from agenticlu.documents import confined, load_document
from agenticlu.documents.confined import Held, call

PARSERS = """
import ctypes, os, resource, signal, socket, sys, time
from collections import Counter
from agenticlu.core.errors import UsageError
from agenticlu.documents.formats import Parsed

def echo(data, *args): return [len(data), *args]
def give(data): return data[::-1]
def pid(data): return os.getpid()
def environment(data): return dict(os.environ)
def chatter(data):
    print("noise"); os.write(1, b"more noise"); sys.stderr.write("and more")
    return len(data)
def spin(data):
    while True: pass
def sleep(data): time.sleep(1000)
def eat(data):
    held = [bytearray(1 << 20) for _ in range(100_000)]
    return len(held)
def eat_much(data, mib): return len(bytearray(mib << 20))
def flood(data): return b"x" * (3 << 20)
def flood_json(data): return "x" * (500 << 20)
def recurse(data): return recurse(data)
def nest(data):
    found = []
    for _ in range(100_000): found = [found]
    return found
def fault(data): ctypes.string_at(0)
def abort(data): os.abort()
def leave(data): os._exit(0)
def say_exit(data): sys.exit(0)
def kill(data): os.kill(os.getpid(), signal.SIGKILL)
def odd(data): raise KeyError("word/document.xml")
def wrong_use(data): raise UsageError("No.", hint="Yes.")
def import_torch_cousin(data): raise ModuleNotFoundError("no", name="pyarrow")
def write(data, path):
    with open(path, "wb") as file: file.write(data)
def connect(data, port): socket.create_connection(("127.0.0.1", port), timeout=2).close()
def surrogate(data): return Parsed("a\\ud800")
def no_document(data): return {"text": 3}
def lie(data):
    os.write(3, b"[" * 100_000)
def lie_in_json(data):
    os.write(3, b'{"kind": "result", "size": 100000}\\n' + b"[" * 100_000)
"""


@pytest.fixture(autouse=True)
def hurts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    confined.end_idle()  # children know the paths that were there when they were started
    (tmp_path / "hurts.py").write_text(PARSERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    confined.end_idle()


def ask(function: str, *args: object, data: bytes = b"abc", into: object = object) -> object:
    found: object = call(f"hurts:{function}", data, *args, name="Document 'x'", into=into)
    return found


def test_results_come_back() -> None:
    assert ask("echo", 1, "ä", None, [2.5]) == [3, 1, "ä", None, [2.5]]
    assert ask("give", into=bytes) == b"cba"
    big = os.urandom(5_000_000)
    assert ask("give", data=big, into=bytes) == big[::-1]
    assert ask("chatter") == 3


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("eat", "more than 900 MiB of memory"),
        ("recurse", "nested too deeply"),
        ("nest", "cannot be read"),
        ("fault", "broke its reader (SIGSEGV)"),
        ("abort", "broke its reader (SIGABRT)"),
        ("kill", "broke its reader (SIGKILL)"),
        ("leave", "broke its reader (exit code 0)"),
        ("say_exit", "broke its reader (exit code 0)"),
        ("odd", "cannot be read (KeyError: 'word/document.xml')"),
        ("lie", "broke its reader"),
        ("lie_in_json", "result is damaged"),
        ("flood_json", "broke its reader"),
    ],
)
def test_each_way_to_fail_is_said(function: str, says: str) -> None:
    with pytest.raises(DocumentError) as caught:
        ask(function)
    assert says in caught.value.message
    assert caught.value.message.startswith("Document 'x'")
    assert caught.value.hint


def test_what_is_no_document_is_said() -> None:
    from agenticlu.documents.formats import Parsed

    with pytest.raises(DocumentError, match="result is damaged"):
        ask("no_document", into=Parsed)
    with pytest.raises(DocumentError, match="cannot be read"):
        ask("surrogate", into=Parsed)


def test_our_errors_stay_what_they_are() -> None:
    with pytest.raises(UsageError, match=r"No\.") as caught:
        ask("wrong_use")
    assert caught.value.hint == "Yes."
    with pytest.raises(MissingDependencyError, match="pyarrow"):
        ask("import_torch_cousin")


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["seconds"], "1")
    with pytest.raises(DocumentError, match="given up after 1 s") as caught:
        ask("spin")
    assert f"export {VARIABLES['seconds']}=" in str(caught.value.hint)
    monkeypatch.setattr(confined, "_WALL_EXTRA_S", -3.0)
    with pytest.raises(DocumentError, match="given up after"):
        ask("sleep")


def test_limits_are_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["memory_mib"], "200")
    with pytest.raises(DocumentError, match="more than 200 MiB of memory"):
        ask("eat_much", 250)
    assert ask("eat_much", 50) == 50 << 20
    monkeypatch.setenv(VARIABLES["memory_mib"], "400")
    assert ask("eat_much", 250) == 250 << 20
    monkeypatch.setenv(VARIABLES["mib"], "1")
    monkeypatch.setenv(VARIABLES["memory_mib"], "0")
    with pytest.raises(DocumentError, match="holds more than 2 MiB"):
        ask("flood")
    for variable in VARIABLES.values():
        monkeypatch.setenv(variable, "much")
        with pytest.raises(ConfigError, match=variable):
            DocumentLimits.read()
        monkeypatch.delenv(variable)
    for wrong in ("-1", "0", "1.5", "9" * 30, "٣"):
        with pytest.raises(ConfigError):
            DocumentLimits.read({VARIABLES["seconds"]: wrong})
    assert DocumentLimits.read({VARIABLES["memory_mib"]: "0"}).memory_bytes(9) is None


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["mib"], "1")
    with pytest.raises(DocumentError, match="larger than 1 MiB") as caught:
        load_document("/dev/zero")
    assert VARIABLES["mib"] in str(caught.value.hint)


def test_one_process_reads_many_documents_until_one_fails() -> None:
    first = ask("pid")
    assert {ask("pid") for _ in range(5)} == {first} != {os.getpid()}
    for harmless in ("odd", "wrong_use"):
        with pytest.raises(AgenticluError):
            ask(harmless)
        assert ask("pid") == first
    with pytest.raises(DocumentError):
        ask("recurse")
    assert ask("pid") != first
    with pytest.raises(ProcessLookupError):
        os.kill(int(str(first)), 0)


def test_a_process_that_died_while_it_waited_is_replaced() -> None:
    first = int(str(ask("pid")))
    os.kill(first, signal.SIGKILL)
    assert ask("pid") != first


def test_a_process_goes_home_when_nothing_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PARSERS + "\nfrom agenticlu.documents import child\nchild.IDLE_S = 0.01\n"
    (tmp_path / "hurts.py").write_text(text)
    first = int(str(ask("pid")))
    deadline = time.monotonic() + 20
    while confined._idle[0].process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert confined._idle[0].process.returncode == 0
    monkeypatch.setattr(confined._idle[0].process, "poll", lambda: None)  # as if only just now
    assert ask("pid") != first


def test_threads_have_a_process_each() -> None:
    with ThreadPoolExecutor(4) as pool:
        gate = threading.Barrier(4)

        def work(number: int) -> object:
            gate.wait()
            return ask("echo", number)

        assert list(pool.map(work, range(4))) == [[3, number] for number in range(4)]
    assert len(confined._idle) <= 2


def test_a_process_gets_no_secret_and_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    seen = ask("environment")
    assert isinstance(seen, dict)
    assert "sk-secret" not in seen.values()
    with pytest.raises(DocumentError, match="File too large"):
        ask("write", str(tmp_path / "left"))


def test_the_working_folder_decides_no_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "cloned"
    here.mkdir()
    for name in ("selectolax", "json", "agenticlu"):
        (here / f"{name}.py").write_text("raise SystemExit('taken over')")
    (here / "a.html").write_text("<html><body><p>Ada built the mill.")
    monkeypatch.chdir(here)
    assert "Ada" in load_document("a.html").text


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_process_reaches_no_network() -> None:
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(DocumentError, match="unreachable"),
    ):
        ask("connect", server.getsockname()[1])


INTERRUPTED = """
import os, sys, threading, time
from agenticlu.documents import confined
def tell():
    while not started: time.sleep(0.01)
    print(started[0], flush=True)
started = []
start = confined._Child.__init__
def note(self):
    start(self)
    started.append(self.process.pid)
confined._Child.__init__ = note
threading.Thread(target=tell, daemon=True).start()
confined.call("hurts:spin", b"x", name="x")
"""


def test_an_interrupt_leaves_no_process_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "AGENTICLU_DOCUMENT_SECONDS": "1000",  # its own limit must not be what ends it
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        # Python drops an interrupt that falls into a callback of its own: then people press again.
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
    while is_alive(child):  # until the test's time is over
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has collected does not."""
    told = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return told.stdout.strip()[:1] not in ("", "Z")


def test_a_fork_does_not_talk_to_the_parents_process() -> None:
    first = ask("pid")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if confined._idle == [] and ask("pid") != first else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert ask("pid") == first


# --- Bytes that a child keeps ---------------------------------------------------------------------


def test_held_bytes_are_sent_once_and_outlive_a_child() -> None:
    reads: list[int] = []

    def read() -> bytes:
        reads.append(1)
        return b"abc"

    held = Held(read, "The file")
    try:
        first = held.call("hurts:pid", into=int)
        assert held.call("hurts:give", into=bytes) == b"cba"
        assert held.call("hurts:echo", 7) == [3, 7]
        assert held.call("hurts:pid", into=int) == first
        assert len(reads) == 1
        os.kill(first, signal.SIGKILL)
        assert held.call("hurts:give", into=bytes) == b"cba"
        assert held.call("hurts:pid", into=int) != first
        assert len(reads) == 2
        with pytest.raises(DocumentError, match="The file broke its reader"):
            held.call("hurts:abort")
        with pytest.raises(DocumentError, match="cannot be read"):
            held.call("hurts:odd")
        assert held.call("hurts:give", into=bytes) == b"cba"
    finally:
        held.close()
    held.close()


def test_a_child_that_was_prepared_takes_what_becomes_known_later() -> None:
    held = Held()
    held.prepare("hurts")
    try:
        first = held._child
        held.take(lambda: b"abc", "The file")
        assert held.call("hurts:give", into=bytes) == b"cba"
        assert held._child is first
        assert held.call("hurts:echo") == [3]
    finally:
        held.close()
    held = Held()
    held.prepare("hurts")
    try:
        assert held._child is not None
        held._child.process.kill()
        held._child.process.wait()
        held.take(lambda: b"abc", "The file")
        assert held.call("hurts:give", into=bytes) == b"cba"
    finally:
        held.close()


def test_a_program_that_ends_waits_for_no_reader() -> None:
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(ask, "sleep")
        while not confined._busy:
            time.sleep(0.01)
        confined.end_all()
        try:
            with pytest.raises(DocumentError, match="the program ends"):
                reading.result(60)
        finally:
            confined._is_ending.clear()
    assert not confined._busy
