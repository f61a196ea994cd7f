"""Windows: where servers say them, and servers that cut prompts in silence."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from agenticlu.core.errors import DocumentTooLongError
from agenticlu.core.records import Message, Usage
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.http.window import LEAST_TOKENS, CutWatch

Count = Callable[[str], int]
PROSE = "In the year {i} the heron crossed the river near Torvale, and nobody at the mill saw it."
TABLE = "{i};0x{i:04x};{i}.25;NaN;[{i}, {i}]"
DEVANAGARI = "साल {i} में बगुले ने नदी पार की और किसी ने उसे नहीं देखा।"
CHINESE = "第{i}年，苍鹭飞过托瓦尔附近的河，磨坊里没有人看见它。"


def text(line: str, lines: int) -> str:
    numbers = random.Random(lines)
    return "\n".join(line.format(i=numbers.randrange(1000, 3000)) for _ in range(lines))


def by_words(content: str) -> int:
    return len(re.findall(r"\w+|\S", content)) * 5 // 4


def by_letters(content: str) -> int:
    """Far from any estimate: three tokens for each letter beyond ASCII."""
    return len(content) // 3 + 3 * sum(letter > "\x7f" for letter in content)


class Tokens:
    """Counts prompts as a server does: with a template, and perhaps wrongly."""

    def __init__(
        self,
        reply: Any,
        count: Count = by_words,
        *,
        window: int | None = None,
        template: int = 30,
        caches: bool = False,
    ) -> None:
        self.reply, self.count, self.window = reply, count, window
        self.template, self.caches = template, caches
        self.seen: list[str] = []

    def __call__(self, body: dict[str, Any], i: int) -> Any:
        content = "\n".join(one["content"] for one in body.get("messages", ()))
        tokens = self.count(content or body["prompt"]) + self.template
        if self.window is not None:
            tokens = min(tokens, self.window)
        if self.caches:  # and reports only what it had to compute
            known = any(content[:200] == one[:200] for one in self.seen)
            self.seen.append(content)
            tokens = 40 if known else tokens
        if not body.get("messages"):
            usage = {"prompt_tokens": tokens, "completion_tokens": 1}
            return 200, {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": usage}
        return 200, self.reply("x", prompt=tokens)


def ask(engine: OpenAIEngine, *documents: str, plain: bool = False) -> list[Usage]:
    async def scenario() -> list[Usage]:
        try:
            sampling = Sampling(max_tokens=8)
            if plain:
                return [(await engine.complete(one, sampling)).usage for one in documents]
            asked = [
                (Message(role="user", content=one), Message(role="assistant", content="Yes."))
                for one in documents
            ]
            return [(await engine.sample(one, sampling)).usage for one in asked]
        finally:
            await engine.close()

    return asyncio.run(scenario())


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("line", [PROSE, TABLE, DEVANAGARI, CHINESE])
@pytest.mark.parametrize("count", [by_words, by_letters])
def test_a_prompt_that_was_cut_is_an_error_whatever_the_tokens(
    serve: Any, chat_reply: Any, line: str, count: Count, plain: bool
) -> None:
    document = text(line, 300)
    window = count(document) // 3 + 1
    route = {"plain": Tokens(chat_reply, count, window=window)} if plain else {}
    endpoint = serve(Tokens(chat_reply, count, window=window), **route)
    engine = OpenAIEngine(endpoint.url, "m")
    with pytest.raises(DocumentTooLongError, match="cut the rest") as caught:
        ask(engine, document, plain=plain)
    assert caught.value.window_tokens == window
    assert f"{window:,}" in caught.value.message
    told = re.search(r"of about ([\d,]+)", caught.value.message)
    assert told is not None
    assert int(told[1].replace(",", "")) == pytest.approx(count(document), rel=0.2)
    assert "num_ctx" in (caught.value.hint or "")
    assert engine.findings.context_tokens == window
    # Nobody was given a reply: all of it is setup, and the next reply's cost.
    assert engine.setup == engine.usage
    assert engine.usage.requests > 1


@pytest.mark.parametrize("template", [0, 90])
@pytest.mark.parametrize("count", [by_words, by_letters])
def test_prompts_that_were_read_whole_raise_no_alarm(
    serve: Any, chat_reply: Any, count: Count, template: int
) -> None:
    lines = (PROSE, TABLE, DEVANAGARI, CHINESE)
    documents = [text(line, lines_) for line in lines for lines_ in (100, 300)]
    endpoint = serve(Tokens(chat_reply, count, template=template))
    engine = OpenAIEngine(endpoint.url, "m")
    usages = ask(engine, *documents, *documents)
    sent = sum(count(one) for one in documents) * 2
    assert engine.setup.prompt_tokens < sent / 8
    # Nothing that was sent is left out of what the replies cost.
    assert sum(usages, Usage()) == engine.usage
    assert engine.usage.requests == len(endpoint.bodies)


def test_a_window_that_a_prompt_just_exceeds(serve: Any, chat_reply: Any) -> None:
    document = text(PROSE, 300)
    sent = by_words(document) + 30
    window = sent // 256 * 256
    engine = OpenAIEngine(serve(Tokens(chat_reply, window=window)).url, "m")
    if sent - window > 200:
        with pytest.raises(DocumentTooLongError, match="cut the rest"):
            ask(engine, document)
    # A prompt that happens to have such a length is looked into, and is right.
    whole = OpenAIEngine(serve(Tokens(chat_reply, lambda one: window)).url, "m")
    assert ask(whole, document)


def test_a_server_that_reports_only_what_it_computed(serve: Any, chat_reply: Any) -> None:
    document = text(PROSE, 300)
    engine = OpenAIEngine(serve(Tokens(chat_reply, caches=True)).url, "m")
    assert len(ask(engine, document, f"{document}\nAnd?", f"{document}\nSo?")) == 3
    assert engine.cuts.is_off


@pytest.mark.parametrize("prompt", [0, 10, 50_000])
def test_counts_of_nothing_raise_no_alarm(serve: Any, chat_reply: Any, prompt: int) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("x", prompt=prompt)))
    assert len(ask(OpenAIEngine(endpoint.url, "m"), text(PROSE, 300), text(TABLE, 300))) == 2
    assert len(endpoint.bodies) <= 4


def test_short_prompts_cost_nothing_more(serve: Any, chat_reply: Any) -> None:
    endpoint = serve(Tokens(chat_reply))
    engine = OpenAIEngine(endpoint.url, "m")
    document = text(PROSE, LEAST_TOKENS // 40)
    assert ask(engine, document, document)
    assert len(endpoint.bodies) == 2
    assert engine.setup == Usage()


def test_a_whole_prompt_of_a_round_length_is_no_cut_after_one_was_seen(
    serve: Any, chat_reply: Any
) -> None:
    window, shorter = 4096, 3072
    server = Tokens(chat_reply, len, window=window, template=0)
    engine = OpenAIEngine(serve(server).url, "m")

    def letters(count: int) -> str:  # the other message of `ask`, and the line between, count too
        return text(PROSE, 200)[: count - len("\nYes.")]

    with pytest.raises(DocumentTooLongError):
        ask(engine, letters(3 * window))
    (usage,) = ask(engine, letters(shorter))
    assert usage.prompt_tokens >= shorter
    with pytest.raises(DocumentTooLongError):
        ask(engine, letters(2 * window))


def test_one_cut_is_looked_into_once(serve: Any, chat_reply: Any) -> None:
    endpoint = serve(Tokens(chat_reply, window=1024))
    engine = OpenAIEngine(endpoint.url, "m")

    async def many() -> list[Any]:
        asked = [(Message(role="user", content=text(PROSE, 300 + i)),) for i in range(6)]
        work = (engine.sample(one, Sampling(max_tokens=8)) for one in asked)
        found = await asyncio.gather(*work, return_exceptions=True)
        await engine.close()
        return list(found)

    assert all(isinstance(one, DocumentTooLongError) for one in asyncio.run(many()))
    halves = [body for body in endpoint.bodies if len(str(body)) > 4_000]
    assert len(halves) <= 6 + 3, "six prompts, and one of them again in two halves and whole"


def test_prompts_under_way_together_are_measured_once(serve: Any, chat_reply: Any) -> None:
    endpoint = serve(Tokens(chat_reply))
    engine = OpenAIEngine(endpoint.url, "m")

    async def many() -> None:
        asked = [(Message(role="user", content=text(PROSE, 300 + i)),) for i in range(6)]
        await asyncio.gather(*(engine.sample(one, Sampling(max_tokens=8)) for one in asked))
        await engine.close()

    asyncio.run(many())
    assert len(endpoint.bodies) <= 6 + 2, "a short text and a sample of one of them"


def test_a_server_that_refuses_while_it_is_measured_cuts_nothing(
    serve: Any, chat_reply: Any
) -> None:
    whole: list[str] = []

    def answer(body: dict[str, Any], i: int) -> Any:
        content = body["messages"][0]["content"]
        whole.append(content)
        if len(content) > len(whole[0]):  # the prompt with a few letters in front
            return 400, {"error": {"message": "This model's maximum context length is 9000."}}
        # Of what it knows, it counts only what is new.
        return 200, chat_reply("x", prompt=40 if content == whole[0] else by_words(content))

    engine = OpenAIEngine(serve(answer).url, "m")

    async def once() -> Any:
        try:
            asked = (Message(role="user", content=text(PROSE, 300)),)
            return await engine.sample(asked, Sampling(max_tokens=8))
        finally:
            await engine.close()

    assert asyncio.run(once()).completions[0].text == "x"
    assert engine.cuts.is_off


def test_a_failure_while_measuring_fails_nothing(serve: Any, chat_reply: Any) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        return (500, "no") if body["max_tokens"] == 1 else (200, chat_reply("x", prompt=3))

    engine = OpenAIEngine(serve(answer).url, "m")
    assert ask(engine, text(PROSE, 300))
    assert isinstance(engine.cuts, CutWatch)


@pytest.mark.parametrize(
    ("owner", "pages", "window"),
    [
        ("llamacpp", {"/props": {"default_generation_settings": {"n_ctx": 2048}}}, 2048),
        ("llamacpp", {"/props": {"default_generation_settings": None}}, None),
        ("library", {"/api/ps": {"models": [{"name": "m", "context_length": 4096}]}}, 4096),
        ("library", {"/api/ps": {"models": [{"name": "other", "context_length": 1}]}}, None),
        ("library", {"/api/show": {"parameters": "stop x\nnum_ctx    16384"}}, 16384),
        ("library", {"/api/ps": {"models": "?"}, "/api/show": ["?"]}, None),
        ("organization_owner", {"/api/v0/models/m": {"loaded_context_length": 8192}}, 8192),
        ("me", {"/props": {"default_generation_settings": {"n_ctx": 2048}}}, None),
    ],
)
def test_the_window_is_looked_up_where_the_list_lacks_it(
    owner: str, pages: dict[str, Any], window: int | None
) -> None:
    """A server beside whose protocol there are pages of its own."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listed = {"/v1/models": {"data": [{"id": "m", "owned_by": owner}]}}
            page = (pages | listed).get(self.path)
            self.send_response(404 if page is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(page).encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    Thread(target=server.serve_forever, daemon=True).start()

    async def meet(**options: Any) -> Any:
        engine = OpenAIEngine(f"http://127.0.0.1:{server.server_address[1]}/v1", "m", **options)
        try:
            return (await engine.capabilities()).context_tokens
        finally:
            await engine.close()

    try:
        assert asyncio.run(meet()) == window
        assert asyncio.run(meet(context_tokens=512)) == 512
    finally:
        server.shutdown()
        server.server_close()
