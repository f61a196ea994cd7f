"""The server as a process: its memory, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live_server import JSON, address, send

from agenticlu.engines import BUNDLED_MODEL
from agenticlu.server import open_listener

CHAT = "/v1/chat/completions"
MIB = 1 << 20
MAIN = "from agenticlu.cli import main; main()"
QUESTION = [{"role": "user", "content": "Who built the mill?"}]
RAMBLING = [{"role": "user", "content": "Mira Dallow lives in"}]
"""What the bundled model goes on about for hundreds of tokens at temperature 1."""
pytestmark = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)


@contextmanager
def process(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Base URL and process of a server."""
    started = subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, f"{line!r}, exit {started.poll()}"
        yield found.group(), started
    finally:
        started.kill()
        started.wait()
        for pipe in (started.stdout, started.stderr):
            assert pipe is not None
            pipe.close()


def memory(pid: int, field: str) -> int:
    """Bytes that a process holds ('VmRSS'), or held at most ('VmHWM')."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_a_large_body_takes_little_memory_and_a_stop_lets_requests_end() -> None:
    with process("--max-body-mib", "40", "--shutdown-timeout", "30") as (url, server):
        assert send(url, CHAT, {"messages": QUESTION, "max_tokens": 2})[0] == 200
        before = memory(server.pid, "VmRSS")
        text = "The mill at Dunmore was built by Ada Larkin. " * 700_000
        status, _, body = send(url, CHAT, {"messages": [{"role": "user", "content": text}]})
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        size = len(text)
        assert size > 25 * MIB
        # Encoded as a whole it would take over a hundred bytes for each of its own.
        assert memory(server.pid, "VmHWM") - before < 6 * size
        many = b'{"messages": [' + b"[]," * 1_000_000 + b"[]]}"
        assert send(url, CHAT, many)[0] == 400
        assert send(url, CHAT, b"x" * 41 * MIB)[0] == 413

        streaming = http.client.HTTPConnection(*address(url), timeout=60)
        asked = {"messages": RAMBLING, "max_tokens": 300, "stream": True, "temperature": 1}
        streaming.request("POST", CHAT, json.dumps(asked), JSON)
        response = streaming.getresponse()
        server.send_signal(signal.SIGINT)
        assert response.read().endswith(b"data: [DONE]\n\n"), "what is under way must end"
        streaming.close()
        _, told = server.communicate(timeout=60)
        assert server.returncode == 0
        assert "Traceback" not in told


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_does_not_wait_forever(stop: signal.Signals) -> None:
    with process("--shutdown-timeout", "1", "--context-tokens", "32000") as (url, server):
        asked = json.dumps({"messages": RAMBLING, "max_tokens": 30_000, "n": 8, "temperature": 1})
        waiting = http.client.HTTPConnection(*address(url), timeout=60)
        waiting.request("POST", CHAT, asked, JSON)
        half = socket.create_connection(address(url), timeout=60)
        half.sendall(b"POST /v1")
        assert send(url, "/health")[0] == 200
        server.send_signal(stop)
        response = waiting.getresponse()
        assert response.status == 503
        assert "stopping" in json.loads(response.read())["error"]["message"]
        for one in (waiting, half):
            one.close()
        _, told = server.communicate(timeout=60)
        assert server.returncode == 0
        assert "stopped" in told
        assert "Traceback" not in told


def test_replies_are_not_held_back_by_the_network() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        # asyncio turns Nagle's algorithm off only where the protocol is named.
        assert listener.proto == socket.IPPROTO_TCP


def test_a_key_that_is_not_set_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "serve", "--api-key-env", "NO_SUCH_KEY"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "NO_SUCH_KEY, which is not set" in done.stderr
