"""Whatever a server sends becomes a reply or one of our errors, in bounded time and memory."""

from __future__ import annotations

import asyncio
import copy
import gzip
import json
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agenticlu.core.errors import (
    DocumentTooLongError,
    EngineBusyError,
    EngineError,
    EngineReplyError,
)
from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.http.probe import read_served_model
from agenticlu.engines.http.transport import MOST_REPLY_BYTES

ASKED = (Message(role="system", content="Be brief."), Message(role="user", content="Who?"))
LISTED = b'{"data": [{"id": "m"}]}'
FUZZED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


class Server:
    """Answers every request with the same bytes, in the loop of the test."""

    def __init__(self) -> None:
        self.status, self.body, self.listed = 200, b"", LISTED
        self.headers: dict[str, str] = {}
        self.runner = asyncio.Runner()
        self.server = self.runner.run(self._start())
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = next(
                    int(line.split(b":")[1])
                    for line in [*head.lower().split(b"\r\n"), b"content-length: 0"]
                    if line.startswith(b"content-length")
                )
                await reader.readexactly(size)
                await self.answer(head, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        is_list = head.startswith(b"GET /v1/models")
        status, body = (200, self.listed) if is_list else (self.status, self.body)
        headers = {"Content-Length": str(len(body)), **({} if is_list else self.headers)}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    def run(self, ask: Callable[[OpenAIEngine], Any], **options: Any) -> Any:
        async def closing() -> Any:
            engine = OpenAIEngine(self.url, options.pop("model", "m"), **options)
            try:
                return await ask(engine)
            finally:
                await engine.close()

        return self.runner.run(closing())

    def close(self) -> None:
        self.server.close()
        self.runner.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.close()


@pytest.fixture(autouse=True)
def fresh(server: Server) -> None:
    server.status, server.body, server.listed, server.headers = 200, b"", LISTED, {}


NAMES = st.sampled_from(
    [
        *("choices", "message", "content", "text", "type", "thinking", "reasoning", "usage"),
        *("prompt_tokens", "prompt_tokens_details", "cached_tokens", "finish_reason", "index"),
        *("logprobs", "top_logprobs", "tokens", "token_logprobs", "token", "logprob", "token_ids"),
        *("error", "code", "param", "detail", "loc", "msg", "metadata", "raw", "data", "id"),
        *("refusal", "delta", "object", "n_ctx", "retryDelay", "models", "root", "meta"),
    ]
)
WORDS = st.sampled_from(
    [
        *("Ada", "yes", "", "\ud83d", "7" * 5000, "\x1b]0;x\x07", "<think>", "</think>", "{", "[["),
        *("maximum context length is 99999999999999999999 tokens", "max_tokens is too large: 0"),
        *("unsupported parameter: temperature, seed, n", "System role not supported", "error"),
        *("content_filter", "rate_limit", "stop", "length", "temperature", "messages[0].role"),
    ]
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 10**30, -(10**30), 1e308, math.inf, -math.inf, math.nan, 0.5]),
    WORDS,
    st.text(max_size=8),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)
TOP = [{"token": "yes", "logprob": -0.2}, {"token": "no", "logprob": -2.0}]
RIGHT: list[Any] = [
    {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "yes", "reasoning_content": "Hm."},
                "text": "yes",
                "finish_reason": "stop",
                "logprobs": {"content": [{**TOP[0], "top_logprobs": TOP}]},
                "token_ids": [1, 2],
            }
        ],
        "usage": {
            "prompt_tokens": 9,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    },
    {"error": {"message": "seed is not supported", "param": "seed", "code": 400, "type": "x"}},
    {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs", "type": "extra_forbidden"}]},
    [{"error": {"message": "Busy", "status": "UNAVAILABLE", "details": [{"retryDelay": "0s"}]}}],
    {"error": {"message": "x", "metadata": {"raw": '{"error": {"message": "y"}}'}}},
]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as a container and a key."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A right reply with some of its parts taken away or replaced."""
    value = copy.deepcopy(draw(st.sampled_from(RIGHT)))
    for _ in range(draw(st.integers(0, 2))):
        found = list(places(value))
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        if draw(st.booleans()):
            del container[key]
        else:
            container[key] = draw(VALUES)
    return value


BODIES = st.one_of(
    st.builds(lambda value: json.dumps(value).encode(), VALUES | mutated()),
    st.builds(
        lambda values: "".join(f"data: {json.dumps(v)}\n\n" for v in values).encode(),
        st.lists(VALUES | mutated(), max_size=3),
    ),
    st.binary(max_size=40),
)
PAUSES = st.sampled_from(
    ["", "0", "nan", "inf", "-5", "1e400", "x", "Wed, 01 Jan 99999999999 00:00:00 GMT", "9" * 400]
)


@FUZZED
@given(
    body=BODIES,
    status=st.sampled_from([200, 200, 200, 400, 401, 403, 404, 413, 422, 429, 500, 503]),
    pause=PAUSES,
)
def test_nothing_that_a_server_sends_becomes_a_traceback(
    server: Server, body: bytes, status: int, pause: str
) -> None:
    server.status, server.body, server.headers = status, body, {"Retry-After": pause}
    sampling = Sampling(temperature=0.5, n=2, seed=1, stop=("END",), max_tokens=64)
    for ask in (
        lambda engine: engine.sample(ASKED, sampling),
        lambda engine: engine.complete("Who?", Sampling()),
        lambda engine: engine.score_choices(ASKED, ("yes", "no")),
    ):
        try:
            reply = server.run(ask)
        except DocumentTooLongError:
            continue
        except EngineError as error:
            failure = error
        else:
            check(reply)
            continue
        assert failure.message.encode()
        assert failure.retry_after_s is None or failure.retry_after_s >= 0


def check(reply: Any) -> None:
    usage = reply.usage
    assert 0 <= usage.cached_tokens <= usage.prompt_tokens < 10**10
    for completion in getattr(reply, "completions", ()):
        assert (completion.text + completion.thinking).encode() is not None
    assert sum(getattr(reply, "probabilities", {"": 1.0}).values()) == pytest.approx(1.0)


WRONG: list[Any] = [
    *(None, True, 0, -1, 10**30, 0.5, math.nan, "", "many", "7" * 5000, "\ud83d"),
    *([], [[]], [None], ["x"], [1e9], {}, {"type": "stop"}, {"": []}, [{"token": "x"}]),
]


@pytest.mark.parametrize("right", RIGHT, ids=range(len(RIGHT)))
def test_each_part_of_a_reply_may_be_wrong_in_each_way(server: Server, right: Any) -> None:
    is_reply = "choices" in right
    server.status = 200 if is_reply else 400
    sampling = Sampling(n=2, temperature=0.5, seed=1)

    async def ask_all(engine: OpenAIEngine) -> int:
        num_read = 0
        for number in range(len(list(places(right)))):
            for wrong in WRONG:
                value = copy.deepcopy(right)
                container, key = list(places(value))[number]
                container[key] = copy.deepcopy(wrong)
                server.body = json.dumps(value).encode()
                try:
                    check(await engine.sample(ASKED, sampling))
                    check(await engine.score_choices(ASKED, ("yes", "no")))
                except (EngineError, DocumentTooLongError):
                    continue
                num_read += 1
        return num_read

    num_read = server.run(ask_all)
    assert bool(num_read) == is_reply, "some parts do no harm"


@FUZZED
@given(
    body=st.one_of(
        st.builds(lambda value: json.dumps(value).encode(), VALUES), st.binary(max_size=40)
    )
)
def test_nothing_that_a_list_of_models_holds_becomes_a_traceback(
    server: Server, body: bytes
) -> None:
    server.listed = body
    server.body = json.dumps(RIGHT[0]).encode()
    for model in ("m", None):
        try:
            reply = server.run(lambda engine: engine.sample(ASKED, Sampling()), model=model)
        except EngineError:
            continue
        assert reply.completions[0].text == "yes"


WINDOWS: list[Any] = [
    {"default_generation_settings": {"n_ctx": 512}},
    {"loaded_context_length": 512},
    {"models": [{"name": "m", "context_length": 512}]},
    {"parameters": "num_ctx 512"},
]


@pytest.mark.parametrize("owner", ["llamacpp", "organization_owner", "library"])
def test_a_window_may_be_told_in_any_wrong_way(server: Server, owner: str) -> None:
    server.listed = json.dumps({"data": [{"id": "m", "owned_by": owner}]}).encode()
    wrong = [*WRONG, f"num_ctx {'7' * 5000}"]
    for right in WINDOWS:
        for number in range(len(list(places(right)))):
            for value in wrong:
                told = copy.deepcopy(right)
                container, key = list(places(told))[number]
                container[key] = value
                server.body = json.dumps(told).encode()
                with pytest.raises(EngineReplyError, match="without a message"):
                    server.run(lambda engine: engine.sample(ASKED, Sampling()))


def test_a_body_without_bound_is_given_up(server: Server) -> None:
    packed = gzip.compress(b'{"choices": [' + b" " * (2 * MOST_REPLY_BYTES))
    server.body, server.headers = packed, {"Content-Encoding": "gzip"}
    for status in (200, 500):
        server.status = status
        with pytest.raises(EngineReplyError, match="more than 16 MiB"):
            server.run(lambda engine: engine.sample(ASKED, Sampling()))
    assert len(packed) < MOST_REPLY_BYTES / 100, "it was a bomb"


class Dripping(Server):
    """Sends a byte now and then, for ever."""

    async def answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1\r\n \r\n")
            await writer.drain()
            await asyncio.sleep(0.01)


def test_a_reply_that_never_ends_is_given_up_in_time() -> None:
    server = Dripping()
    try:
        with pytest.raises(EngineBusyError, match="did not answer within"):
            server.run(lambda engine: engine.sample(ASKED, Sampling()), timeout_s=0.2, model=None)
        with pytest.raises(EngineBusyError, match="did not answer within"):
            server.run(lambda engine: engine.sample(ASKED, Sampling()), timeout_s=0.2)
        loop = threading.Thread(target=server.runner.run, args=(asyncio.sleep(1.0),))
        loop.start()
        assert read_served_model([server.url], timeout_s=0.2) is None
        loop.join()
    finally:
        server.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"HELLO\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 302 Found\r\nLocation: http://[::x/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /v1/chat/completions\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"\x00" * 100,
    ],
)
def test_what_is_no_http_is_one_of_our_errors(sent: bytes) -> None:
    class Odd(Server):
        async def answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(sent)
            await writer.drain()
            writer.close()

    server = Odd()
    try:
        with pytest.raises(EngineError):
            server.run(lambda engine: engine.sample(ASKED, Sampling()), timeout_s=5.0)
    finally:
        server.close()
