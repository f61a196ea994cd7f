"""What a client can do to a server: nothing to others, and to itself within bounds."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest
from live_server import address, send, serving

from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.local import HFEngine
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.server import Service
from agenticlu.server.limits import Access, Limits

CHAT = "/v1/chat/completions"
ASKED = {"messages": [{"role": "user", "content": "Who built the mill?"}], "max_tokens": 4}
RAMBLING = {"messages": [{"role": "user", "content": "Mira Dallow lives in"}], "temperature": 1}
"""What the bundled model goes on about for hundreds of tokens."""
SHORT = Limits(client_timeout_s=0.5, keep_alive_s=0.5, connections=12, requests=4)
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
)
needs_model = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)


@pytest.fixture(scope="module")
def slow() -> Iterator[tuple[str, ScriptedEngine]]:
    """A server with short limits over an engine that takes its time for 'wait'."""
    engine = ScriptedEngine(
        {"": "Ada"}, latency_s=lambda request: 60.0 if "wait" in request.last else 0.0
    )
    with serving(Service(engine, "script", limits=SHORT)) as url:
        yield url, engine


@pytest.fixture(scope="module")
def engine() -> HFEngine:
    return HFEngine(BUNDLED_MODEL, name="tiny")


@pytest.fixture(scope="module")
def url(engine: HFEngine) -> Iterator[str]:
    with serving(Service(engine, "tiny", limits=Limits(body_bytes=64 << 20))) as found:
        yield found


def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for what must come; only a failure takes long."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def opened(url: str, content: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which something was sent."""
    with closing(socket.create_connection(address(url), timeout=60)) as one:
        one.sendall(content)
        yield one


def rest(one: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    try:
        while part := one.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", b" 408 "),
        (b"G", b" 408 "),
        (HEAD, b" 408 "),
        (HEAD + b"Content-Length: 100\r\n\r\n", b" 408 "),
        (HEAD + b"Content-Length: 100\r\n\r\n{", b" 408 "),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", b" 408 "),
        (b"no http at all\r\n\r\n", b" 400 "),
        (b"GET /health HTTP/1.1\r\n\r\n", b" 400 "),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000, b" 400 "),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 200 "),
        # An answer that did not wait for the body: what is left of it is read, but not forever.
        (HEAD.replace(b"chat", b"chap") + b"Content-Length: 100\r\n\r\n{", b" 404 "),
    ],
)
def test_a_client_that_stops_sending_is_dropped(
    slow: tuple[str, ScriptedEngine], content: bytes, status: bytes
) -> None:
    with opened(slow[0], content) as one:
        answer = rest(one)
    line, _, after = answer.partition(b"\r\n")
    assert status in line
    if status != b" 200 ":
        assert b'{"error":' in after.replace(b'{ "', b'{"')


def test_a_client_that_drips_is_dropped(slow: tuple[str, ScriptedEngine]) -> None:
    for content in (HEAD, HEAD + b"Content-Length: 10000\r\n\r\n"):
        with opened(slow[0], content) as one:
            answers: list[bytes] = []
            reader = threading.Thread(target=lambda one=one, to=answers: to.append(rest(one)))
            reader.start()
            sent = _pour(one, [b"a"] * 2000, pause_s=0.02)
            reader.join()
        assert sent < 2000, "it must not go on for as long as the client likes"
        assert b" 408 " in answers[0].partition(b"\r\n")[0] or answers[0] == b""


def test_half_open_connections_make_room(slow: tuple[str, ScriptedEngine]) -> None:
    held = [socket.create_connection(address(slow[0]), timeout=60) for _ in range(60)]
    try:
        for one in held[::2]:
            with suppress(ConnectionError):  # it has made room already
                one.sendall(b"POST /v1/")
        assert send(slow[0], CHAT, ASKED)[0] == 200
    finally:
        for one in held:
            one.close()


def test_a_client_that_does_not_read_is_dropped() -> None:
    engine = ScriptedEngine({"": "a" * 30_000_000})  # more than the kernel's buffers hold
    with serving(Service(engine, "script", limits=SHORT)) as url:
        body = json.dumps(ASKED).encode()
        content = HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        with opened(url, content) as one:
            until(lambda: _is_reset(one), "the connection must be dropped")
        assert send(url, "/health")[0] == 200


def _is_reset(one: socket.socket) -> bool:
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_more_requests_than_allowed_are_told_when_to_come_back(
    slow: tuple[str, ScriptedEngine],
) -> None:
    url, engine = slow
    before = len(engine.requests)
    wait = json.dumps({"messages": [{"role": "user", "content": "wait"}]}).encode()
    content = HEAD + f"Content-Length: {len(wait)}\r\n\r\n".encode() + wait
    held = []
    try:
        for _ in range(SHORT.requests):
            one = socket.create_connection(address(url), timeout=60)
            held.append(one)
            one.sendall(content)
        until(lambda: len(engine.requests) == before + SHORT.requests, "all must be under way")
        status, headers, body = send(url, CHAT, ASKED)
        assert (status, body["error"]["code"]) == (503, "overloaded")
        assert 1 <= int(headers["retry-after"]) <= 60
        assert send(url, "/health")[0] == 200
    finally:
        for one in held:
            one.close()
    # Those who waited are gone, and with them their places.
    until(lambda: send(url, CHAT, ASKED)[0] == 200, "the places must be free again")
    assert engine._running == 0


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_limit_is_refused_unread(
    slow: tuple[str, ScriptedEngine], declared: bool
) -> None:
    content = b"x" * (SHORT.body_bytes + 1)
    headers = {"Content-Type": "application/json"}
    url = slow[0]
    if declared:
        status, _, body = send(url, CHAT, content, headers)
    else:
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with opened(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 9) as one:
            head, _, text = rest(one).partition(b"\r\n\r\n")
        status, body = int(head.split()[1]), json.loads(text)
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert "8 MiB" in body["error"]["message"]


def test_bodies_that_together_exceed_their_room_are_told_when_to_come_back() -> None:
    limits = Limits(body_bytes=100_000, bodies_bytes=150_000)
    head = HEAD + b"Content-Length: 100000\r\n\r\n"
    with serving(Service(ScriptedEngine({"": "Ada"}), "script", limits=limits)) as url:
        with opened(url, head + b" " * 99_000), opened(url, head + b" " * 99_000) as one:
            answer = one.recv(65536)
        assert b" 503 " in answer.partition(b"\r\n")[0]
        assert b"retry-after: 1" in answer
        until(lambda: send(url, CHAT, ASKED)[0] == 200, "their room must be free again")


def _pour(one: socket.socket, parts: list[bytes], pause_s: float) -> int:
    """Sends what it can; returns how many parts those were."""
    for i, part in enumerate(parts):
        try:
            one.sendall(part)
        except OSError:
            return i
        time.sleep(pause_s)
    return len(parts)


@needs_model
@pytest.mark.parametrize("stream", [True, False])
def test_an_abandoned_request_stops_decoding(url: str, engine: HFEngine, stream: bool) -> None:
    branches = engine._worker.decoder.branches
    body = json.dumps(RAMBLING | {"max_tokens": 30_000, "n": 4, "stream": stream})
    content = HEAD + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    with opened(url, content) as one:
        until(lambda: len(branches) > 0, "it must begin to decode")
        if stream:
            assert one.recv(100)
    until(lambda: not branches, "it must stop")
    assert engine.usage.completion_tokens < 30_000


@needs_model
def test_small_requests_do_not_wait_for_a_huge_one(
    url: str, engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reached = threading.Event(), threading.Event()
    encode = engine.chat.encode_text

    def encode_slowly(text: str) -> list[int]:
        if text.startswith("Huge. "):
            reached.set()
            assert gate.wait(60)
        return encode(text)

    monkeypatch.setattr(engine.chat, "encode_text", encode_slowly)
    text = "Huge. " * 4_000_000
    refused: list[Any] = []

    def ask_much() -> None:
        refused.append(send(url, CHAT, {"messages": [{"role": "user", "content": text}]}))

    thread = threading.Thread(target=ask_much)
    thread.start()
    try:
        assert reached.wait(60)
        for _ in range(3):
            assert send(url, CHAT, ASKED)[0] == 200
        assert not refused, "else it was not held"
    finally:
        gate.set()
        thread.join()
    status, _, body = refused[0]
    assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


@needs_model
def test_encoding_stops_once_nobody_waits(
    url: str, engine: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reached = threading.Event(), threading.Event()
    slices: list[str] = []

    def encode_slowly(text: str) -> list[int]:
        slices.append(text[:1])
        reached.set()
        assert gate.wait(60)
        return [0]

    monkeypatch.setattr(engine.chat, "encode_text", encode_slowly)
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 2_000_000}]}).encode()
    with opened(url, HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body):
        assert reached.wait(60)
    time.sleep(0.2)  # the server notices that the connection is closed
    gate.set()
    monkeypatch.undo()
    # Large requests are read one after another: this one is read once the first was left.
    large = {"messages": [{"role": "user", "content": " " * 200_000}], "max_tokens": 1}
    assert send(url, CHAT, large)[0] in (200, 400)
    assert slices == ["x"], "no slice after the first may be encoded"


@needs_model
def test_a_failure_in_the_middle_of_a_stream_is_told_in_it(engine: HFEngine) -> None:
    import openai

    class Failing:
        context_tokens = engine.context_tokens
        chat = engine.chat
        name = "failing"

        async def generate(self, *args: Any, on_token: Any = None, **rest: Any) -> Any:
            from agenticlu.core.errors import EngineError

            for token in self.chat.encode_text("The mill"):
                on_token(0, token, None)
            raise EngineError("The card fell off.")

        async def capabilities(self) -> Any:
            raise AssertionError

        async def close(self) -> None:
            pass

    said = []

    def listen(client: openai.OpenAI) -> None:
        asked: Any = ASKED["messages"]
        for chunk in client.chat.completions.create(model="failing", messages=asked, stream=True):
            said.append(chunk.choices[0].delta.content or "")

    service = Service(Failing(), "failing")  # type: ignore[arg-type]
    with (
        serving(service) as url,
        openai.OpenAI(base_url=url, api_key="none") as client,
        pytest.raises(openai.APIError, match="The card fell off"),
    ):
        listen(client)
    assert "".join(said) == "The mill"


def test_only_those_with_the_key_and_known_pages_are_let_in() -> None:
    access = Access(frozenset({"mill.example"}), ("https://chat.example",), "secret")
    with serving(Service(ScriptedEngine({"": "Ada"}), "script", access=access)) as url:
        with_key = {"Authorization": "Bearer secret"}
        assert send(url, "/v1/models")[0] == 401
        assert send(url, "/v1/models", headers={"Authorization": "Bearer secre"})[0] == 401
        assert send(url, "/v1/models", headers={"Authorization": "Basic secret"})[0] == 401
        assert send(url, "/v1/models", headers=with_key)[0] == 200
        assert send(url, "/health")[0] == 200
        for host, status in (
            ("mill.example", 200),
            ("MILL.example.:8000", 200),
            ("[::1]:8000", 200),
            ("10.0.0.7", 200),
            ("api.localhost", 200),
            ("mill.example.evil", 403),
            ("evil-127.0.0.1", 403),
            ("", 200),
        ):
            assert send(url, "/v1/models", headers=with_key | {"Host": host})[0] == status, host
        for origin in ("https://chat.example", "https://evil.example"):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            _, sent, _ = send(url, CHAT, headers=asked, method="OPTIONS")
            assert (sent.get("access-control-allow-origin") == origin) == ("chat" in origin)
