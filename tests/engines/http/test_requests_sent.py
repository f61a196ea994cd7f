"""How many requests one command sends to a real server that answers none: the documented number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from agenticlu.cli import main
from agenticlu.engines import retry as limits

MODELS = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]}).encode()
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Lists its model, and answers what it is asked with a fixed string of bytes, or drops it."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.url = ""
        self.num_asked = 0
        self.num_short = 0
        """Short questions, of those asked."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            size = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                size = int(value) if name.lower() == b"content-length" else size
            body = await reader.readexactly(size)
            if head.startswith(b"GET"):
                writer.write(OK % (len(MODELS), MODELS))
                continue
            self.num_asked += 1
            self.num_short += b"Say yes." in body and b'"max_tokens":1' in body
            writer.write(self.answer)
            if not self.answer:
                break
        writer.close()


@contextmanager
def running(server: Server) -> Iterator[Server]:
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(asyncio.start_server(server.serve, "127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        listening.close()
        loop.close()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only in pauses, without jitter."""
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(limits, "sleep", sleep)
    monkeypatch.setattr(limits, "monotonic", lambda: now[0])
    monkeypatch.setattr(limits.random, "random", lambda: 0.0)


def arguments(command: str, folder: Path, url: str) -> list[str]:
    document = folder / "document.txt"
    document.write_text("Ada Larkin built the mill at Dunmore in 1911.")
    corpus = folder / "corpus.jsonl"
    row = {"context": document.read_text(), "question": "Who built it?", "answers": ["Ada Larkin"]}
    corpus.write_text(json.dumps(row) + "\n")
    endpoint = ["--base-url", url, "--model", "m"]
    return {
        "ask": ["ask", str(document), "Who built it?", *endpoint],
        "eval": [
            *("eval", "--lengths", "256", "--limit", "1"),
            *("--methods", "direct", "--out", str(folder / "eval"), *endpoint),
        ],
        "generate": ["generate", str(corpus), "--out", str(folder / "run"), *endpoint],
    }[command]


@pytest.mark.parametrize("answer", [BUSY, b""], ids=["always 503", "drops connections"])
@pytest.mark.parametrize(("command", "documented"), [("ask", 5), ("eval", 10), ("generate", 20)])
def test_a_server_that_answers_nothing_is_asked_as_often_as_documented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, documented: int, answer: bytes
) -> None:
    with running(Server(answer)) as server:
        given = arguments(command, tmp_path, server.url)
        monkeypatch.setattr("sys.argv", ["agenticlu", *given])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 5
    assert server.num_asked - server.num_short == documented
    # A closed connection may be the request's own fault; an overload is not.
    has_short = answer == b"" and command != "ask"
    assert server.num_short == (documented - 3 if has_short else 0)
