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
from agenticlu.core.errors import AgenticluError
from agenticlu.core.secrets import BLANK
from agenticlu.search.store import Store
from agenticlu.search.store.file import TABLES, unpack

KEYS = {"SAMPLER_KEY": "aq-4f81c2-sampler", "JUDGE_KEY": "aq-90b7d3-judge"}


class Parrot(http.server.BaseHTTPRequestHandler):
    """Refuses some requests, for good or for a while, and repeats the key while at it."""

    protocol_version = "HTTP/1.1"
    numbers = itertools.count()
    heard: set[str]
    paths: set[str]
    queries: set[str]

    def do_GET(self) -> None:
        self._note()
        self._reply(200, {"data": [{"id": "parrot"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        key = self.headers["authorization"] or f"Bearer {self.path.partition('code=')[2]}"
        self.heard.add(key.removeprefix("Bearer "))
        self._note()
        number = next(self.numbers)
        if number > 20 and number % 5 == 0:
            status = (400, 429)[number % 2]
            self._reply(status, {"error": {"message": f"No: {key}, {key.split()[1]}"}})
            return
        choice = {"index": 0, "finish_reason": "stop"}
        choice["message"] = {"role": "assistant", "content": f"Answer: {number}"}
        self._reply(200, {"choices": [choice] * asked.get("n", 1)})

    def _note(self) -> None:
        path, _, query = self.path.partition("?")
        self.paths.add(path)
        self.queries.add(query)

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
    Parrot.heard, Parrot.paths, Parrot.queries = set(), set(), set()
    Parrot.numbers = itertools.count()
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


def test_no_key_of_an_address_is_stored_or_printed(address: str, tmp_path: Path) -> None:
    """It is sent with every request, of a run that is resumed, too, and kept nowhere."""
    secret = "querykey-77b1"
    items = write_corpus(corpus(documents=2, questions=1), tmp_path / "corpus.jsonl")
    run = tmp_path / "run"
    named = ["--base-url", f"{address}?code={secret}&api-version=7", "--model", "parrot"]
    command = ["generate", str(items), "--out", str(run), "--piece-tokens", "48"]
    command += ["--branching", "2", "--depth", "1", "--seal", str(tmp_path / "sealed"), *named]
    command += ["--judge", "llm", "--judge-model", "parrot", "--judge-base-url", named[1]]
    evaluate = ["eval", "--task", "world", "--methods", "direct", "--lengths", "256"]
    evaluate += ["--limit", "1", "--out", str(tmp_path / "eval"), *named]
    report = ["report", "--run", str(run), "--eval", str(tmp_path / "eval")]
    said = ""
    for arguments in (
        [*command, "--max-total-tokens", "200"], command, [*command, "--retry-failed"],
        ["status", str(run)], ["status", str(run), "--json"], [*command, "--show-config"],
        evaluate, [*report, "--out", str(tmp_path / "r.html")], ["doctor", *named],
        ["ask", str(items), "Who?", *named],
    ):  # fmt: skip
        done = CliRunner().invoke(group, arguments)
        assert isinstance(done.exception, (AgenticluError, SystemExit, type(None)))
        said += done.output + str(done.exception)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert {"/v1/models", "/v1/chat/completions"} <= Parrot.paths
    assert all(path.startswith("/v1/") for path in Parrot.paths)
    assert Parrot.queries == {f"code={secret}&api-version=7"}
    assert len(files) > 8
    assert f"code={BLANK}&api-version=7" in said
    assert secret not in said + words_of(run)
    assert not any(secret.encode() in data for data in files)


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
