"""Replies that a server sends as events: what is told of them, and of servers that send none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from streamed_events import Events

from agenticlu.core.errors import EngineError, EngineReplyError, EngineUnreachableError
from agenticlu.core.records import Message
from agenticlu.dialogue.thoughts import SaidText
from agenticlu.engines import retry
from agenticlu.engines.base import Sampled, Sampling, spent_on, stream_of
from agenticlu.engines.http.events import EventText
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.retry import LimitedEngine
from agenticlu.engines.streaming import Telling

ASKED = (Message(role="user", content="Who built the mill?"),)
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
Serve = Callable[..., Any]


def event(**delta: Any) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n"


def ending(usage: Any = USAGE, reason: str = "stop") -> list[str]:
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    last = f"data: {json.dumps({'choices': [choice]})}\n\n"
    counted = f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
    return [last, *([counted] if usage else []), "data: [DONE]\n\n"]


def events(*texts: str, **more: Any) -> Events:
    return Events(
        [event(role="assistant"), *(event(content=one) for one in texts), *ending(**more)]
    )


def tell(
    url: str, *, times: int = 1, limited: bool = False, **sampling: Any
) -> tuple[list[list[str]], list[Sampled], Any]:
    """Streams a number of replies from one engine; what was told of each, and each."""
    engine = OpenAIEngine(url, "m")
    asked = LimitedEngine(engine) if limited else engine

    async def run() -> tuple[list[list[str]], list[Sampled]]:
        told: list[list[str]] = []
        replies = []
        try:
            for _ in range(times):
                told.append([])
                wanted = Sampling(**sampling)
                replies.append(await stream_of(asked)(ASKED, wanted, on_text=told[-1].append))
        finally:
            await engine.close()
        return told, replies

    told, replies = asyncio.run(run())
    return told, replies, engine


def test_text_is_told_as_its_events_arrive(serve: Serve) -> None:
    server = serve(lambda body, number: (200, events("Ada ", "Lar", "kin built", " it.\n")))
    told, replies, engine = tell(server.url, times=2, n=3)
    assert told[1] == ["Ada", " Lar", "kin built", " it."]
    assert "".join(told[0]) == "Ada Larkin built it."
    assert [one.text for one in replies[1].completions] == ["Ada Larkin built it."]
    assert replies[1].usage.prompt_tokens == 10
    assert engine.usage.requests == 2
    assert engine.usage.completion_tokens == 8
    for body in server.bodies:
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
        assert "n" not in body


def test_thoughts_are_not_told(serve: Serve) -> None:
    def answer(body: Any, number: int) -> Any:
        if number == 0:
            thought = [event(reasoning_content=one) for one in ("Who? ", "Ada.")]
            return 200, Events(
                [*thought, event(content="Ada "), event(content="Larkin"), *ending()]
            )
        return 200, events("<thi", "nk>Who? Ada.", "</think>\n\nAda", " Larkin")

    told, replies, _ = tell(serve(answer).url, times=2)
    assert ["".join(one) for one in told] == ["Ada Larkin"] * 2
    assert [one.completions[0].thinking for one in replies] == ["Who? Ada."] * 2
    assert all(one.usage.thinking_tokens for one in replies)


def test_a_thought_that_the_template_opens_is_not_told_either(serve: Serve) -> None:
    words = ("Okay, ", "the user wants ", "a name.", "</think>", "Ada")
    told, replies, _ = tell(serve(lambda body, number: (200, events(*words))).url, times=2)
    assert told == [["Ada"], ["Ada"]]
    assert replies[0].completions[0].thinking == "Okay, the user wants a name."


REFUSALS: list[Any] = [
    (400, {"error": {"message": "Unsupported parameter: 'stream'."}}),
    (
        422,
        {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]},
    ),
    (400, {"error": {"message": "streaming is not available here"}}),
    (501, {"error": {"message": "not implemented"}}),
    (200, "data: what is this\n\n"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_refuses_to_stream_is_asked_for_the_whole(
    serve: Serve, chat_reply: Any, refusal: Any
) -> None:
    def answer(body: Any, number: int) -> Any:
        return refusal if "stream" in body or "stream_options" in body else (200, chat_reply("Ada"))

    server = serve(answer)
    told, replies, engine = tell(server.url, times=4)
    assert told == [["Ada"]] * 4
    assert all(one.usage.prompt_tokens == 10 for one in replies)
    assert "stream" not in server.bodies[-1]
    assert len(server.bodies) <= 4 + 3, "it is not asked for again and again"
    assert any("is shown once it is whole" in note for note in engine.findings.notes)


def test_a_server_that_refuses_everything_says_so(serve: Serve) -> None:
    server = serve(lambda body, number: (400, {"error": {"message": "The model is on strike."}}))
    with pytest.raises(EngineReplyError, match="on strike"):
        tell(server.url)


def test_a_server_that_does_not_heed_it_is_told_as_a_whole(serve: Serve, chat_reply: Any) -> None:
    told, replies, _ = tell(serve(lambda body, number: (200, chat_reply(" Ada Larkin "))).url)
    assert told == [["Ada Larkin"]]
    assert replies[0].usage.prompt_tokens == 10


def test_without_usage_in_streams_replies_come_whole(serve: Serve, chat_reply: Any) -> None:
    def answer(body: Any, number: int) -> Any:
        return 200, events("Ada", usage=None) if "stream" in body else chat_reply("Ada")

    server = serve(answer)
    _, replies, engine = tell(server.url, times=3)
    assert [one.usage.prompt_tokens for one in replies] == [0, 10, 10]
    assert ["stream" in body for body in server.bodies] == [True, False, False]
    assert any("sends no usage" in note for note in engine.findings.notes)


def test_of_a_server_that_never_counts_streams_are_as_good(serve: Serve, chat_reply: Any) -> None:
    def answer(body: Any, number: int) -> Any:
        return 200, events("Ada", usage=None) if "stream" in body else chat_reply("Ada") | {
            "usage": None
        }

    server = serve(answer)
    tell(server.url, times=4)
    assert ["stream" in body for body in server.bodies] == [True, False, True, True]


def test_a_server_that_vanishes_in_the_middle_is_an_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "sleep", lambda seconds: asyncio.sleep(0))
    parts = [event(content="Ada Larkin built the mill, "), event(content="in 18"), None]
    server = serve(lambda body, number: (200, Events(list(parts))))
    for limited in (False, True):
        before = len(server.bodies)
        with pytest.raises(EngineUnreachableError, match="closed the connection mid-reply") as lost:
            tell(server.url, limited=limited)
        assert lost.value.is_midway
        assert len(server.bodies) == before + 1, "a word is not told twice"


def test_before_the_first_word_it_is_asked_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "sleep", lambda seconds: asyncio.sleep(0))

    def answer(body: Any, number: int) -> Any:
        return 200, Events([event(role="assistant"), None]) if number < 2 else events("Ada")

    server = serve(answer)
    told, _, _ = tell(server.url, limited=True)
    assert told == [["Ada"]]
    assert len(server.bodies) == 3


def test_an_error_in_the_middle_is_the_servers(serve: Serve) -> None:
    failed = 'data: {"error": {"message": "the card fell off", "code": 500}}\n\n'
    words = event(content="Ada Larkin built the mill, in the spring")
    server = serve(lambda body, number: (200, Events([words, failed])))
    with pytest.raises(EngineError, match="the card fell off") as lost:
        tell(server.url)
    assert lost.value.is_midway


def test_a_stop_closes_the_connection(serve: Serve) -> None:
    stream = Events([event(content="Ada Larkin built it. "), event(content="And ")], endless=True)
    server = serve(lambda body, number: (200, stream))

    async def stop() -> None:
        engine = OpenAIEngine(server.url, "m")
        told: list[str] = []
        try:
            work = asyncio.ensure_future(
                engine.stream(ASKED, Sampling(), on_text=lambda text: told.append(text))
            )
            while len(told) < 3:
                await asyncio.sleep(0.001)
            work.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await work
            num_told = len(told)
            assert await asyncio.to_thread(stream.ended.wait, 10), "the server goes on writing"
            assert len(told) == num_told
            spent = spent_on(cancelled.value)
            assert (spent.requests, engine.usage) == (1, spent)
            assert num_told <= spent.completion_tokens <= stream.sent
        finally:
            await engine.close()

    asyncio.run(stop())


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_events_are_read_however_they_are_cut(size: int, newline: str) -> None:
    body = (
        ": hello\n\n"
        + event(content="Zoë ")
        + "event: message\n"
        + event(content=[{"type": "text", "text": "🙂"}])
        + "data: {broken\n\n"
        + event(content=7)
        + 'data: {"choices": [{"index": 1, "delta": {"content": "other"}}]}\n\n'
        + 'data: [1]\n\ndata: {"choices": 3}\n\n'
        + event(content=" \ud83d sat")
    )
    content = body.replace("\n", newline).encode()
    told: list[str] = []
    text = EventText(Telling(told.append), SaidText())
    for at in range(0, len(content), size):
        text.feed(content[at : at + size])
    assert "".join(told) == "Zoë 🙂 \ufffd sat"
    text.finish("Zoë 🙂 \ufffd sat.")
    assert told[-1] == "."
