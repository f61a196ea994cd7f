"""No key of a sampler or judge is stored or printed, though their servers repeat it."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted_world import corpus, write_corpus

from agenticlu.cli import group
from agenticlu.search.store import Store
from agenticlu.search.store.file import TABLES, unpack

KEYS = {"SAMPLER_KEY": "aq-4f81c2-sampler", "JUDGE_KEY": "aq-90b7d3-judge"}


class Parrot(http.server.BaseHTTPRequestHandler):
    """Refuses some requests, for good or for a while, and repeats the key while at it."""

    protocol_version = "HTTP/1.1"
    numbers = itertools.count()
    heard: set[str]

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "parrot"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["authorization"]
        self.heard.add(key.removeprefix("Bearer "))
        number = next(self.numbers)
        if number > 20 and number % 5 == 0:
            status = (400, 429)[number % 2]
            self._reply(status, {"error": {"message": f"No: {key}, {key.split()[1]}"}})
            return
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": f"Answer: {number}"}
        self._reply(200, {"choices": [choice] * asked.get("n", 1)})

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, status: int, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def address() -> Iterator[str]:
    Parrot.heard = set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Parrot) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def words_of(run: Path) -> str:
    """All that a run's file holds, unpacked."""
    with Store(run, writable=False) as store:
        cells = [cell for table in TABLES for row in store.rows(table) for cell in row]
        cells += [cell for row in store._all("SELECT * FROM run") for cell in row]
    packed = [cell for cell in cells if isinstance(cell, bytes) and cell[:1] in (b"z", b"j")]
    return " ".join([str(cells), *(str(unpack(cell)) for cell in packed)])


def test_no_key_is_stored_or_printed(address: str, tmp_path: Path, monkeypatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    items = write_corpus(corpus(documents=2, questions=1), tmp_path / "corpus.jsonl")
    run, sealed = tmp_path / "run", tmp_path / "sealed"
    options = ["--base-url", address, "--api-key-env", "SAMPLER_KEY", "--model", "parrot"]
    options += ["--judge", "llm", "--judge-model", "parrot", "--judge-base-url", address]
    options += ["--judge-api-key-env", "JUDGE_KEY", "--piece-tokens", "48"]
    options += ["--branching", "2", "--depth", "1"]
    command = ["generate", str(items), "--out", str(run), "--seal", str(sealed), *options]
    done = CliRunner().invoke(group, command)
    said = done.output + str(done.exception)
    for arguments in (["status", str(run)], ["status", str(run), "--json"]):
        said += CliRunner().invoke(group, arguments).output
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    stored = words_of(run)
    assert Parrot.heard == set(KEYS.values()), "both were used"
    assert "[key]" in said + stored, "a server's words about it were met"
    for key in KEYS.values():
        assert key not in said
        assert key not in stored
        assert not any(key.encode() in data for data in files)
