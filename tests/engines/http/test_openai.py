from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agenticlu.core.errors import (
    DocumentTooLongError,
    EngineAuthError,
    EngineBusyError,
    EngineRefusedError,
    EngineReplyError,
    EngineUnreachableError,
    ModelNotFoundError,
)
from agenticlu.core.records import Message
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.http.probe import PROBES, read_served_model
from agenticlu.engines.http.protocol import label_masses
from agenticlu.engines.http.transport import parse_retry_after
from agenticlu.engines.retry import LimitedEngine, Limiter, RetryPolicy

QUICK = RetryPolicy(tries=4, first_pause_s=0.001, longest_pause_s=0.004)
ASKED = (Message(role="user", content="Who built the mill?"),)
Serve = Callable[..., Any]


def engine_at(endpoint: Any, model: str | None = "m", **options: Any) -> OpenAIEngine:
    return OpenAIEngine(endpoint.url, model, **options)


def limited(engine: OpenAIEngine, requests: int = 16, say: Any = None) -> LimitedEngine:
    return LimitedEngine(engine, Limiter(Admission(requests), QUICK, say))


def run(engine: OpenAIEngine | LimitedEngine, work: Callable[[], Any]) -> Any:
    async def closing() -> Any:
        try:
            return await work()
        finally:
            await engine.close()

    return asyncio.run(closing())


def sample(engine: OpenAIEngine, **sampling: Any) -> Any:
    asking = limited(engine)
    return run(engine, lambda: asking.sample(ASKED, Sampling(**sampling), session="doc"))


def logprobs(*pairs: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in pairs]
    return {"content": [{**top[0], "top_logprobs": top}], "refusal": None}


def test_request_carries_the_sampling_and_the_session(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("Ada", "Ada Larkin", prompt=9, cached=4)))
    engine = engine_at(endpoint)
    reply = sample(engine, n=2, temperature=0.7, top_p=0.9, max_tokens=5, stop=("END",), seed=3)
    assert [one.text for one in reply.completions] == ["Ada", "Ada Larkin"]
    assert reply.completions[0].finish_reason == "stop"
    assert reply.usage == engine.usage
    assert (reply.usage.prompt_tokens, reply.usage.cached_tokens) == (9, 4)
    body = endpoint.bodies[0]
    assert {key: body[key] for key in ("model", "n", "temperature", "top_p", "seed", "stop")} == {
        "model": "m",
        "n": 2,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
    }
    assert body["max_tokens"] == 5
    assert endpoint.headers[0]["x-session-id"] == "doc"


def plain_reply(*texts: str) -> dict[str, Any]:
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate(texts)]
    return {"object": "text_completion", "choices": choices, "usage": {"prompt_tokens": 7}}


def test_a_text_is_continued_by_the_route_for_it(serve: Serve, chat_reply: Any) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        return (503, {}) if i == 0 else (200, plain_reply("\n5", " five"))

    endpoint = serve(lambda body, i: (200, chat_reply("no")), plain=answer)
    engine = limited(engine_at(endpoint))
    sampling = Sampling(n=2, temperature=0.5, max_tokens=5, seed=3, stop=("END",))
    reply = run(engine, lambda: engine.complete("label:", sampling, session="doc"))
    assert [one.text for one in reply.completions] == ["\n5", " five"]
    assert (reply.usage.prompt_tokens, engine.usage.prompt_tokens) == (7, 7)
    assert len(endpoint.bodies) == 2, "asked again after the failure"
    assert endpoint.bodies[1] == {
        "model": "m",
        "prompt": "label:",
        "temperature": 0.5,
        "max_tokens": 5,
        "n": 2,
        "seed": 3,
        "stop": ["END"],
    }
    assert endpoint.headers[1]["x-session-id"] == "doc"


def test_half_a_character_is_no_reason_to_fall(serve: Serve, chat_reply: Any) -> None:
    half = "a\ud83d"
    told = [json.dumps(reply) for reply in (chat_reply(half), plain_reply(half))]
    endpoint = serve(lambda body, i: (200, told[0]), plain=lambda body, i: (200, told[1]))
    engine = engine_at(endpoint)

    async def both() -> list[Any]:
        return [await engine.sample(ASKED, Sampling()), await engine.complete("x", Sampling())]

    for reply in run(engine, both):
        assert reply.completions[0].text == "a\ufffd"


def test_a_server_without_the_route_for_text_says_so(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("Ada")))
    engine = engine_at(endpoint)
    with pytest.raises(EngineReplyError, match="cannot continue plain text") as caught:
        run(engine, lambda: engine.complete("label:", Sampling()))
    assert "--chat" in (caught.value.hint or "")
    other = engine_at(endpoint, "other")
    other._connected = True  # as if the list had been right before
    with pytest.raises(ModelNotFoundError, match="other"):
        run(other, lambda: other.complete("label:", Sampling()))
    chatty = engine_at(serve(Pretender(chat_reply), plain=lambda body, i: (200, chat_reply("x"))))
    with pytest.raises(EngineReplyError, match="without a text"):
        run(chatty, lambda: chatty.complete("label:", Sampling()))


@pytest.mark.parametrize("completes", [True, False])
def test_the_probe_finds_the_route_for_text(serve: Serve, chat_reply: Any, completes: bool) -> None:
    plain = (lambda body, i: (200, plain_reply(" three"))) if completes else None
    endpoint = serve(Pretender(chat_reply), plain=plain)
    engine = engine_at(endpoint)
    found = run(engine, lambda: engine.capabilities("completes"))
    assert found.completes == completes
    assert found.notes == ()
    assert len(endpoint.bodies) == completes, "one request, and none about anything else"


def test_a_server_that_drops_n_is_asked_for_the_rest_once_each(
    serve: Serve, chat_reply: Any
) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply(f"text {body.get('seed')}")))
    engine = engine_at(endpoint)
    reply = sample(engine, n=4, temperature=1.0, seed=5)
    assert len({one.text for one in reply.completions}) == 4
    assert reply.usage.requests == 4
    assert [body.get("n") for body in endpoint.bodies] == [4, None, None, None]
    assert len({body["seed"] for body in endpoint.bodies}) == 4
    # Remembered: the next request does not ask for n at all.
    assert len(sample(engine, n=2, temperature=1.0, seed=5).completions) == 2
    assert [body.get("n") for body in endpoint.bodies[4:]] == [None, None]
    assert any("1 of 4" in note for note in engine.findings.notes)


def test_long_equal_samples_are_noticed_without_a_probe(serve: Serve, chat_reply: Any) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        text = f"{body.get('seed')} " + "the mill by the river " * 8
        return 200, chat_reply(*[text] * body.get("n", 1))

    endpoint = serve(answer)
    engine = engine_at(endpoint)
    reply = sample(engine, n=3, temperature=1.0, seed=4)
    assert len({one.text for one in reply.completions}) == 3
    assert [body.get("n") for body in endpoint.bodies] == [3, None, None]
    assert any("3 equal samples" in note for note in engine.findings.notes)
    # Greedy samples are meant to be equal.
    greedy = engine_at(endpoint)
    assert len(sample(greedy, n=3, seed=4).completions) == 3
    assert greedy.findings.samples_differ


def test_score_choices_adds_up_the_spellings_of_a_label(serve: Serve, chat_reply: Any) -> None:
    told = logprobs((" Yes", 0.4), ("yes", 0.2), ("no", 0.2), ("not", 0.1))
    endpoint = serve(lambda body, i: (200, chat_reply("Yes", logprobs=told)))
    engine = engine_at(endpoint)
    probs = run(engine, lambda: engine.score_choices(ASKED, ("yes", "maybe", "no")))
    assert probs.label_mass == pytest.approx(0.8)
    assert probs.probabilities == pytest.approx({"yes": 0.75, "maybe": 0.0, "no": 0.25})
    assert endpoint.bodies[0]["top_logprobs"] == 20
    assert endpoint.bodies[0]["max_tokens"] == 1


def test_labels_of_several_tokens_are_known_by_their_first() -> None:
    pairs = [("may", math.log(0.5)), ("y", math.log(0.2)), ("m", math.log(0.1)), ("\n", 0.0)]
    masses = label_masses(pairs, ("yes", "maybe", "meadow"))
    # 'm' begins two labels and so counts for none.
    assert masses == pytest.approx({"yes": 0.2, "maybe": 0.5, "meadow": 0.0})


@pytest.mark.parametrize("refuses", [False, True])
def test_score_choices_parses_where_there_are_no_logprobs(
    serve: Serve, chat_reply: Any, refuses: bool
) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        if refuses and body.get("logprobs"):
            return 400, {"error": {"message": "logprobs is not supported"}}
        return 200, chat_reply("**No**, it does not.")

    endpoint = serve(answer)
    engine = engine_at(endpoint)

    async def twice() -> Any:
        first = await engine.score_choices(ASKED, ("yes", "maybe", "no"))
        return first, await engine.score_choices(ASKED, ("yes", "maybe", "no"))

    first, second = run(engine, twice)
    assert first.method == second.method == "parse"
    assert first.probabilities == {"yes": 0.0, "maybe": 0.0, "no": 1.0}
    assert len(endpoint.bodies) == 3, "the second asks once, for it knows"


def test_a_reply_that_names_no_label_has_no_mass(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("The notebook is known.")))
    engine = engine_at(endpoint)
    probs = run(engine, lambda: engine.score_choices(ASKED, ("yes", "no")))
    assert (probs.label_mass, probs.method) == (0.0, "parse")


def test_overload_is_retried_and_then_told(serve: Serve, chat_reply: Any) -> None:
    def busy(body: dict[str, Any], i: int) -> Any:
        if i < 3:
            return 429, {"error": {"message": "slow down"}}, {"retry-after-ms": "1"}
        return 200, chat_reply("Ada")

    endpoint = serve(busy)
    told: list[str] = []
    engine = limited(engine_at(endpoint), say=told.append)
    reply = run(engine, lambda: engine.sample(ASKED, Sampling()))
    assert reply.completions[0].text == "Ada"
    assert [text.split(" for ")[0] for text in told[:3]] == ["paused"] * 3
    assert "answers again" in told[3]
    assert engine.limiter.admission.limit_requests < 16
    assert engine.usage.requests == 1
    always = serve(lambda body, i: (503, {"error": {"message": "overloaded"}}))
    with pytest.raises(EngineBusyError, match=r"503.*overloaded"):
        sample(engine_at(always))
    assert len(always.bodies) == QUICK.tries


def test_too_long_a_pause_is_not_waited_for(serve: Serve) -> None:
    endpoint = serve(lambda body, i: (429, {"error": {"message": "x"}}, {"retry-after": "9000"}))
    with pytest.raises(EngineBusyError) as caught:
        sample(engine_at(endpoint))
    assert "9000 s" in (caught.value.hint or "")
    assert len(endpoint.bodies) == 1


def test_a_date_to_come_back_at_is_read() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    for headers, least, most in (
        ({"retry-after": soon}, 80, 91),
        ({"retry-after": "Fri, 01 Jan 2010 00:00:00 GMT"}, 0, 0),
        ({"retry-after-ms": "1500"}, 1.5, 1.5),
        ({"retry-after": "soon"}, None, None),
    ):
        asked = parse_retry_after(headers)
        assert (asked is None and least is None) or least <= asked <= most


@pytest.mark.parametrize("place", ["reply", "error"])
def test_half_a_character_becomes_a_whole_one(serve: Serve, chat_reply: Any, place: str) -> None:
    text = '"Ada \\ud83d."'
    body = json.dumps(chat_reply("@")).replace('"@"', text)
    if place == "error":
        body = f'{{"error": {{"message": {text}}}}}'
    status = 200 if place == "reply" else 422
    endpoint = serve(lambda _, i: (status, body, {"content-type": "application/json"}))
    if place == "reply":
        assert sample(engine_at(endpoint)).completions[0].text == "Ada \ufffd."
    else:
        with pytest.raises(EngineRefusedError) as caught:
            sample(engine_at(endpoint))
        assert "Ada \ufffd." in caught.value.message


def test_one_unreadable_reply_does_not_end_score_choices(serve: Serve, chat_reply: Any) -> None:
    told = logprobs(("yes", 0.75), ("no", 0.25))
    endpoint = serve(
        lambda _, i: (200, {"choices": "none"} if i < 1 else chat_reply("yes", logprobs=told))
    )
    engine = engine_at(endpoint)
    with pytest.raises(EngineReplyError):
        run(engine, lambda: engine.score_choices(ASKED, ("yes", "no")))
    assert engine.findings.logprobs, "nothing was refused"
    probs = run(engine, lambda: engine.score_choices(ASKED, ("yes", "no")))
    assert probs.method != "parse"


def test_no_server(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    engine = OpenAIEngine(f"http://127.0.0.1:{port}/v1", "m")
    with pytest.raises(EngineUnreachableError, match=str(port)):
        sample(engine)


def test_the_key_comes_from_its_variable_and_is_never_shown(
    serve: Serve, chat_reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-very-secret-0123456789"

    def answer(body: dict[str, Any], i: int) -> Any:
        return 401, {"error": {"message": f"Incorrect API key provided: {secret}"}}

    monkeypatch.setenv("MILL_KEY", secret)
    endpoint = serve(answer)
    engine = engine_at(endpoint, api_key_env="MILL_KEY")
    with pytest.raises(EngineAuthError, match="MILL_KEY") as caught:
        sample(engine)
    assert endpoint.headers[0]["authorization"] == f"Bearer {secret}"
    assert secret not in f"{caught.value} {caught.value.hint} {vars(engine)}"
    assert len(endpoint.bodies) == 1, "a refused key is not tried again"
    assert secret not in engine.transport.scrub(f"error with {secret} and Bearer {secret}")
    monkeypatch.delenv("MILL_KEY")
    with pytest.raises(EngineAuthError, match="not set"):
        sample(engine_at(endpoint, api_key_env="MILL_KEY"))


@contextlib.contextmanager
def breaking_off_lists(answer: dict[str, Any]) -> Iterator[str]:
    """A server that hangs up on whoever asks for its models, and answers conversations."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.close_connection = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            data = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_model_is_found_or_its_absence_explained(serve: Serve, chat_reply: Any) -> None:
    one = serve(
        lambda body, i: (200, chat_reply("Ada")),
        models=[{"id": "mill-8b", "object": "model", "max_model_len": 4096}],
    )
    engine = engine_at(one, None)
    sample(engine)
    assert (engine.name, one.bodies[0]["model"]) == ("mill-8b", "mill-8b")
    assert engine.findings.context_tokens == 4096
    with pytest.raises(ModelNotFoundError, match="It serves: mill-8b") as caught:
        sample(engine_at(one, "mil-8b"))
    assert caught.value.hint == "Did you mean mill-8b?"
    two = serve(lambda body, i: (200, chat_reply("")), models=[{"id": "a"}, {"id": "b"}])
    with pytest.raises(ModelNotFoundError, match="serves 2 models: a, b"):
        sample(engine_at(two, None))
    none = serve(lambda body, i: (200, chat_reply("Ada")), models=[])
    assert sample(engine_at(none, "m")).completions[0].text == "Ada"


def test_a_list_of_models_that_breaks_off_stops_nobody_who_names_one(chat_reply: Any) -> None:
    with breaking_off_lists(chat_reply("Ada")) as url:
        assert sample(OpenAIEngine(url, "m")).completions[0].text == "Ada"
        assert read_served_model([url], "m") is None
        with pytest.raises(EngineUnreachableError, match="closed the connection") as caught:
            sample(OpenAIEngine(url))
        assert "--model NAME" in (caught.value.hint or "")
        assert caught.value.message.count(url.removesuffix("/v1").partition("//")[2]) == 1
    with pytest.raises(EngineUnreachableError, match="No server answers"):
        sample(OpenAIEngine(url, "m"))
    with pytest.raises(EngineUnreachableError, match="No server answers"):
        read_served_model([url], "m")


def test_refusals_for_length_are_document_errors(serve: Serve) -> None:
    text = "This model's maximum context length is 4096 tokens. You requested 5000."
    endpoint = serve(lambda body, i: (400, {"error": {"message": text}}))
    with pytest.raises(DocumentTooLongError, match="4096"):
        sample(engine_at(endpoint))


def test_other_refusals_carry_the_servers_words(serve: Serve) -> None:
    endpoint = serve(lambda body, i: (422, {"detail": "x"} | {"error": {"message": "bad stop"}}))
    with pytest.raises(EngineReplyError, match="bad stop"):
        sample(engine_at(endpoint))
    assert len(endpoint.bodies) == 1


SCHEMA = '{"type": "object"}'


def test_a_schema_is_sent_where_the_server_takes_one(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("{}")))
    engine = engine_at(endpoint)
    sample(engine, schema=SCHEMA)
    sample(engine)
    form = endpoint.bodies[0]["response_format"]
    assert (form["type"], form["json_schema"]["schema"]) == ("json_schema", {"type": "object"})
    assert "response_format" not in endpoint.bodies[1]


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_a_schema_is_asked_without(
    serve: Serve, chat_reply: Any, status: int
) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if "response_format" in body:
            return status, {"error": {"message": "extra field"}}
        return 200, chat_reply("plain")

    endpoint, said = serve(answer), list[str]()
    engine = engine_at(endpoint, on_event=said.append)
    for _ in range(2):
        assert sample(engine, schema=SCHEMA).completions[0].text == "plain"
    assert ["response_format" in body for body in endpoint.bodies] == [True, False, False]
    assert said == list(engine.findings.notes) == [said[0]]
    assert "does not support reply schemas" in said[0]


def test_another_refusal_does_not_speak_against_schemas(serve: Serve) -> None:
    engine = engine_at(serve(lambda body, i: (400, {"error": {"message": "bad stop"}})))
    with pytest.raises(EngineReplyError, match="bad stop"):
        sample(engine, schema=SCHEMA)
    assert engine.findings.takes_schema


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"


@pytest.mark.parametrize("sent", [b"", HEAD], ids=["nothing", "half a reply"])
def test_a_lost_connection_is_no_timeout(sent: bytes) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
            writer.write(sent)
        writer.close()

    async def ask() -> None:
        async with await asyncio.start_server(drop, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            engine = OpenAIEngine(f"http://127.0.0.1:{port}/v1", "m")
            engine._connected = True
            with pytest.raises(EngineUnreachableError, match="closed the connection mid-reply"):
                await engine.sample(ASKED, Sampling())
            await engine.close()

    asyncio.run(ask())


def test_a_password_in_the_address_takes_the_place_of_the_key(
    serve: Serve, chat_reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("Ada")))
    monkeypatch.setenv("MILL_KEY", "word")
    for address in (endpoint.url, endpoint.url.replace("//", "//user:word@")):
        assert sample(OpenAIEngine(address, "m", api_key_env="MILL_KEY")).completions
    sent = [headers["authorization"].split()[0] for headers in endpoint.headers]
    assert sent == ["Bearer", "Basic"]


def test_a_server_that_hangs_is_busy(serve: Serve) -> None:
    def hang(body: dict[str, Any], i: int) -> Any:
        time.sleep(0.5)
        return 200, {}

    with pytest.raises(EngineBusyError, match="did not answer within"):
        sample(engine_at(serve(hang), timeout_s=0.1))


@pytest.mark.parametrize(
    "body", [{"choices": []}, "<html>hello</html>", {"object": "x"}, '{"choices": [{"mess', "[]"]
)
def test_a_reply_of_another_form_is_told(serve: Serve, body: Any) -> None:
    endpoint = serve(lambda _, i: (200, body))
    with pytest.raises(EngineReplyError):
        sample(engine_at(endpoint))
    labelled = serve(lambda _, i: (200, str(body), {"content-type": "application/json"}))
    with pytest.raises(EngineReplyError):
        sample(engine_at(labelled))


def test_the_length_field_follows_the_servers_wish(serve: Serve, chat_reply: Any) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        if "max_tokens" in body:
            return 400, {
                "error": {
                    "message": "Unsupported parameter: use 'max_completion_tokens' instead.",
                    "param": "max_tokens",
                }
            }
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    assert sample(engine_at(endpoint), max_tokens=7).completions[0].text == "Ada"
    assert endpoint.bodies[-1]["max_completion_tokens"] == 7


def test_requests_in_flight_are_limited(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("Ada")))
    engine = limited(engine_at(endpoint), requests=3)

    async def burst() -> None:
        await asyncio.gather(*(engine.sample(ASKED, Sampling()) for _ in range(12)))

    run(engine, burst)
    assert 1 < endpoint.most_running <= 3


def test_thinking_is_stripped(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("<think>Hm.</think>\nAda", token_ids=[1, 2])))
    completion = sample(engine_at(endpoint)).completions[0]
    assert completion.text == "Ada"
    assert completion.token_ids is None, "ids of the whole are not the ids of the rest"


def test_a_proxy_is_not_asked_for_a_local_server(
    serve: Serve, chat_reply: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    endpoint = serve(lambda body, i: (200, chat_reply("Ada")))
    assert sample(engine_at(endpoint)).completions[0].text == "Ada"


def test_one_event_loop_after_another(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("Ada")))
    engine = engine_at(endpoint)
    for _ in range(2):
        assert asyncio.run(engine.sample(ASKED, Sampling())).completions[0].text == "Ada"


class Pretender:
    """Answers like a server with the given defects."""

    def __init__(self, chat_reply: Any, **has: bool) -> None:
        self.reply = chat_reply
        self.has = dict.fromkeys(("n", "differ", "logprobs", "seed", "cache", "ids"), True) | has
        self.seen: set[str] = set()
        self.count = 0

    def __call__(self, body: dict[str, Any], i: int) -> Any:
        self.count += 1
        n = body.get("n", 1) if self.has["n"] else 1
        salt = body.get("seed") if self.has["seed"] else self.count
        texts = [f"t{salt}-{k if self.has['differ'] else 0}" for k in range(n)]
        prefix = body["messages"][0]["content"][:80]
        hit = prefix in self.seen and self.has["cache"]
        self.seen.add(prefix)
        more: dict[str, Any] = {}
        if body.get("logprobs") and self.has["logprobs"]:
            more["logprobs"] = logprobs(
                ("yes", 0.5), ("no", 0.2), ("a", 0.1), ("b", 0.1), ("c", 0.1)
            )
        if body.get("return_token_ids") and self.has["ids"]:
            more["token_ids"] = [1, 2]
        return 200, self.reply(*texts, prompt=500, cached=400 if hit else 0, **more)


def test_probe_of_a_server_that_does_everything(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(
        Pretender(chat_reply), models=[{"id": "m", "object": "model", "max_model_len": 8192}]
    )
    engine = engine_at(endpoint)

    async def twice() -> Any:
        met = await engine.capabilities()
        assert not endpoint.bodies, "meeting a server samples nothing"
        assert met.context_tokens == 8192
        first = await engine.capabilities(*PROBES)
        asked = len(endpoint.bodies)
        return first, await engine.capabilities(*PROBES), asked

    first, second, asked = run(engine, twice)
    assert first.notes == ()
    assert (first.samples_n, first.logprobs, first.token_ids) == (True, True, True)
    assert (first.reports_cached_tokens, first.prefix_reuse_from_tokens) == (True, 400)
    assert first.context_tokens == 8192
    assert first == second
    assert len(endpoint.bodies) == asked, "asked once"
    assert engine.setup == engine.usage
    assert engine.setup.requests == asked


@pytest.mark.parametrize(
    ("defect", "note"),
    [
        ("n", "ignores n"),
        ("differ", "equal samples"),
        ("logprobs", "no log-probabilities"),
        ("seed", "does not repeat"),
        ("cache", "found cached"),
    ],
)
def test_probe_finds_each_defect(serve: Serve, chat_reply: Any, defect: str, note: str) -> None:
    engine = engine_at(serve(Pretender(chat_reply, **{defect: False})))
    found = run(engine, lambda: engine.capabilities(*PROBES))
    # How fast a server on loopback repeats a prefix is a matter of luck.
    notes = [one for one in found.notes if "prefix of" not in one]
    assert [one for one in notes if note in one], found.notes
    assert len(notes) == 1
    assert found.samples_n == (defect not in ("n", "differ"))
    assert found.logprobs == (defect != "logprobs")
    assert found.reports_cached_tokens == (defect != "cache")


def test_equal_samples_are_asked_for_with_different_seeds(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(Pretender(chat_reply, differ=False))
    engine = engine_at(endpoint)

    async def probed() -> Any:
        await engine.capabilities("samples_n")
        return await limited(engine).sample(ASKED, Sampling(n=3, temperature=1.0))

    reply = run(engine, probed)
    assert len({one.text for one in reply.completions}) == 3


def test_a_servers_words_cannot_steer_a_terminal(serve: Serve) -> None:
    words = "bad\x1b]0;title\x07\x9b2J\u202e\nstop"
    endpoint = serve(lambda body, i: (400, {"error": {"message": words}}))
    with pytest.raises(EngineRefusedError) as caught:
        sample(engine_at(endpoint))
    shown = caught.value.message
    assert shown.isprintable()
    assert "bad␛]0;title␇" in shown
    assert shown.endswith("stop")
