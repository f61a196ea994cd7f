"""`agenticlu doctor` at servers on loopback: slow, cutting, silent about costs, refusing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli import group
from agenticlu.cli.doctor import STEPS
from agenticlu.engines.http.probe import PROBES


class Played:
    """A server that reads, counts and answers as its fields say."""

    def __init__(self, **has: Any) -> None:
        self.window: int | None = has.pop("window", None)
        self.refuses: int | None = has.pop("refuses", None)
        self.reuses_from: int = has.pop("reuses_from", 16)
        self.counts: bool = has.pop("counts", True)
        self.recalls: bool = has.pop("recalls", True)
        self.delay_s: float = has.pop("delay_s", 0.0)
        self.owner: str = has.pop("owner", "")
        self.busy_at: set[int] = has.pop("busy_at", set())
        self.thinks_for_ever: bool = has.pop("thinks_for_ever", False)
        assert not has
        self.seen: list[list[str]] = []
        self.requests = 0

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.requests += 1
        time.sleep(self.delay_s)
        if self.requests in self.busy_at:
            return 429, {"error": {"message": "Rate limit reached."}}
        if "messages" not in body:
            return 404, {"error": {"message": "no such route"}}
        words = "\n".join(one["content"] for one in body["messages"]).split()
        if self.refuses is not None and len(words) > self.refuses:
            words_ = f"maximum context length is {self.refuses} tokens"
            return 400, {"error": {"message": f"This model's {words_}."}}
        words = words if self.window is None else words[-self.window :]
        cached = max((self._shared(words, one) for one in self.seen), default=0)
        self.seen.append(words)
        found = re.search(r"keeper is (\w+)", " ".join(words)) if self.recalls else None
        text = found[1] if found else f"I say {body.get('seed')}"
        texts = [f"{text} {k}" for k in range(body.get("n", 1))]
        usage = {
            "prompt_tokens": len(words),
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": cached if cached >= self.reuses_from else 0},
        }
        choices = [{"message": {"content": one}, "finish_reason": "stop"} for one in texts]
        if self.thinks_for_ever:
            usage["completion_tokens"] = body["max_tokens"]
            thought = {"content": None, "reasoning_content": "Hm. " * body["max_tokens"]}
            choices = [{"message": thought, "finish_reason": "length"} for _ in texts]
        return 200, {"choices": choices, **({"usage": usage} if self.counts else {})}

    @staticmethod
    def _shared(one: list[str], other: list[str]) -> int:
        return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)

    @contextmanager
    def listening(self) -> Iterator[str]:
        played = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send(200, {"data": [{"id": "m", "owned_by": played.owner}]})

            def do_POST(self) -> None:
                self.send(
                    *played.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                )

            def send(self, status: int, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that left

        server = Quiet(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            server.server_close()


Examine = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture
def examine() -> Examine:
    def run(server: Played, *options: str) -> tuple[dict[str, Any], str]:
        with server.listening() as url:
            result = CliRunner().invoke(group, ["doctor", "--base-url", url, "--json", *options])
        found = json.loads(result.stdout)
        check: dict[str, Any] = found["checks"][-1]
        assert found["exit_code"] == result.exit_code == (5 if check["status"] == "broken" else 0)
        return check, result.stderr

    return run


def line(check: dict[str, Any], start: str) -> str:
    found = [one for one in check["details"] if one.startswith(start)]
    assert len(found) == 1, check["details"]
    return str(found[0])


def test_nothing_that_can_be_asked_is_left_out() -> None:
    assert {PROBES[feature] for feature in STEPS} == set(PROBES.values())


def test_every_step_and_its_cost_are_told(examine: Examine) -> None:
    server = Played()
    check, told = examine(server)
    assert (check["status"], check["found"]) == ("ok", "m answers")
    assert "yes, one of" in line(check, "reads long prompts")
    assert "first word was recalled" in line(check, "reads long prompts")
    assert "from" in line(check, "reuses prefixes")
    assert "seeds" in told
    assert "8,192 tokens" in told
    assert check["usage"]["requests"] == sum(len(one) > 0 for one in server.seen)
    assert f"{check['usage']['requests']} requests" in line(check, "cost")
    assert "HELMET runs as chat" in line(check, "continues plain text")


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("owner", ["library", "unheard of"])
def test_a_server_that_cuts_is_found_out(examine: Examine, counts: bool, owner: str) -> None:
    check, _ = examine(Played(window=512, counts=counts, owner=owner))
    assert check["status"] == "ok"
    told = line(check, "reads long prompts")
    assert "NO" in told
    assert ("512" in told) == ("512" in line(check, "window")) == counts
    assert "OLLAMA_CONTEXT_LENGTH=8192" in told
    assert ("vLLM" in told) == (owner != "library")


def test_a_forgetful_model_is_not_a_cutting_server(examine: Examine) -> None:
    check, _ = examine(Played(recalls=False))
    assert "yes, one of" in line(check, "reads long prompts")
    check, _ = examine(Played(recalls=False, counts=False, window=512))
    assert "cannot be told" in line(check, "reads long prompts")
    assert any("no usage" in one for one in check["details"])


def test_the_window_is_the_refusals_or_the_users(examine: Examine) -> None:
    for reuses_from, told in (
        (16, "refuses those over its window of 1,000"),
        (10**9, "yes, one of"),
    ):
        server = Played(refuses=1000, reuses_from=reuses_from)
        check, _ = examine(server, "--window-check", "4k")
        assert told in line(check, "reads long prompts")
        assert line(check, "window") == "window: 1,000 tokens"
    server = Played(refuses=1000)
    check, _ = examine(server, "--window", "900")
    assert "yes, one of" in line(check, "reads long prompts")
    assert max(map(len, server.seen)) < 900


@pytest.mark.parametrize("reuses_from", [16, 300, 10**9])
def test_reuse_of_prefixes_is_measured(examine: Examine, reuses_from: int) -> None:
    check, _ = examine(Played(reuses_from=reuses_from), "--window", "2k")
    found = line(check, "reuses prefixes")
    if reuses_from < 1000:
        tokens = int(re.sub(r"\D", "", found))
        assert reuses_from <= tokens <= 2 * reuses_from + 100
        assert line(check, "says how much").endswith("yes")
    else:
        assert line(check, "says how much").endswith("no")
        assert any("does not say how many tokens" in one for one in check["details"])
        assert found.endswith("unknown")
        assert any("a repeated prefix of" in one for one in check["details"])


def test_a_slow_server_is_not_broken(examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agenticlu.cli.doctor.SLOW_S", 0.05)
    check, _ = examine(Played(delay_s=0.06), "--window-check", "600", "--window", "1k")
    assert check["status"] == "ok"
    assert "answers slowly: a short question takes 0.1 s" in check["found"]


def test_a_server_that_hangs(examine: Examine) -> None:
    check, _ = examine(Played(delay_s=1.0), "--timeout", "0.1")
    assert check["status"] == "broken"
    assert "did not answer within" in check["found"]
    assert "--timeout" in check["fix"]
    assert "did not answer every time" not in str(check["details"])


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(seconds: float) -> None:
        pass

    monkeypatch.setattr("agenticlu.engines.retry.sleep", sleep)


def test_a_rate_limit_of_a_moment_is_no_fault(examine: Examine, no_pauses: None) -> None:
    server = Played()
    examine(server)
    # Whichever request it meets: the first, those of each probe, the long prompt.
    for busy in ({1}, set(range(4, server.requests, 5)), {server.requests}):
        check, told = examine(Played(busy_at=busy))
        assert check["status"] == "ok", check["found"]
        assert "Rate limit reached" in line(check, "did not answer every time")
        assert "Rate limit reached" in told


def test_a_server_that_is_always_busy_is_broken(examine: Examine, no_pauses: None) -> None:
    server = Played(busy_at=set(range(100)))
    check, _ = examine(server)
    assert check["status"] == "broken"
    assert "Rate limit reached" in check["found"]
    assert server.requests == 4


def test_a_time_out_is_not_waited_for_twice(examine: Examine, no_pauses: None) -> None:
    server = Played(delay_s=0.5)
    examine(server, "--timeout", "0.1")
    assert server.requests == 1


def test_where_nothing_listens_no_advice_points_back_here(no_pauses: None) -> None:
    with Played().listening() as url:
        pass
    result = CliRunner().invoke(group, ["doctor", "--base-url", url])
    assert result.exit_code == 5
    assert "No server answers" in result.stdout
    assert "agenticlu doctor" not in result.stdout


def test_a_thought_without_end_is_told(examine: Examine) -> None:
    check, _ = examine(Played(thinks_for_ever=True))
    assert "2,048 tokens" in line(check, "thinks before it replies")
    assert "--thinking off" in line(check, "m was still thinking after 2,048 tokens")
    check, _ = examine(Played())
    assert "still thinking" not in str(check["details"])
