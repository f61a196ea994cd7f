"""Servers that refuse a parameter or a role, in their own words, are asked in the way they want."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agenticlu.core.errors import (
    AgenticluError,
    ContentRefusedError,
    DocumentTooLongError,
    EngineRefusedError,
)
from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.adaptation import Dialect, named_fields
from agenticlu.engines.http.endpoint import MOST_ADAPTATIONS
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.http.refusals import Refusal

ASKED = (
    Message(role="system", content="Be brief."),
    Message(role="user", content="Who built the mill?"),
)
FULL = Sampling(temperature=0.7, top_p=0.9, max_tokens=50, n=2, stop=("END",), seed=3)
Serve = Callable[..., Any]


def openai(message: str, param: str | None = None, **more: Any) -> Any:
    return {"error": {"message": message, "param": param, **more}}


def detail(field: str, message: str = "Extra inputs are not permitted") -> Any:
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", field], "msg": message}]}


def ask(engine: OpenAIEngine, sampling: Sampling = FULL, times: int = 1, asked: Any = ASKED) -> Any:
    async def together() -> Any:
        try:
            found = await asyncio.gather(*(engine.sample(asked, sampling) for _ in range(times)))
            return found[0]
        finally:
            await engine.close()

    return asyncio.run(together())


def score(engine: OpenAIEngine) -> Any:
    async def once() -> Any:
        try:
            return await engine.score_choices(ASKED, ("yes", "no"))
        finally:
            await engine.close()

    return asyncio.run(once())


def refusing(field: str, status: int, body: Any, chat_reply: Any, *texts: str) -> Any:
    def answer(asked: dict[str, Any], number: int) -> Any:
        return (status, body) if field in asked else (200, chat_reply(*texts or ("Ada",)))

    return answer


FIELDS = [
    (
        "temperature",
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the"
            " default (1) value is supported.",
            "temperature",
            code="unsupported_value",
        ),
    ),
    ("top_p", 400, openai("Unsupported parameter: 'top_p' is not supported with this model.")),
    ("top_p", 400, openai("`temperature` and `top_p` cannot both be specified for this model.")),
    ("seed", 422, detail("seed")),
    ("seed", 422, {"object": "error", "message": detail("seed"), "type": "invalid_request_error"}),
    ("seed", 400, openai("Unrecognized request argument supplied: seed")),
    (
        "seed",
        400,
        [openai('Invalid JSON payload received. Unknown name "seed": Cannot find field.')],
    ),
    (
        "seed",
        400,
        openai(
            "litellm.UnsupportedParamsError: bedrock does not support parameters: ['seed'], for"
            " model=x. To drop these, set `litellm.drop_params=True`"
        ),
    ),
    ("seed", 500, openai("UnsupportedParamsError: bedrock does not support parameters: ['seed']")),
    ("seed", 400, {"message": "Malformed input request: extraneous key [seed] is not permitted"}),
    ("seed", 422, {"detail": "Unexpected keys in the request: {'seed'}"}),
    (
        "seed",
        500,
        openai(
            "1 validation error:\n  {'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg':"
            " 'Extra inputs are not permitted'}"
        ),
    ),
    ("seed", 400, openai("seed is not supported by our system. Alternatively, leave it out.")),
    ("n", 400, openai("'n' : number must be at most 1", "n")),
    ("n", 400, openai("Only one completion choice is allowed")),
    ("n", 400, [openai("Multiple candidates is not enabled for this model")]),
    ("n", 400, openai("candidateCount must be 1")),
    ("stop", 400, openai("Model m does not support parameter stop.")),
    ("stop", 400, openai("Argument not supported on this model: stop")),
    ("stop", 400, openai("Invalid 'stop': array too long.", "stop", code="array_above_max_length")),
]


@pytest.mark.parametrize(("field", "status", "body"), FIELDS)
def test_a_field_that_is_refused_is_no_longer_sent(
    serve: Serve, chat_reply: Any, field: str, status: int, body: Any
) -> None:
    endpoint = serve(refusing(field, status, body, chat_reply, "Ada END and more"))
    said: list[str] = []
    engine = OpenAIEngine(endpoint.url, "m", on_event=said.append)
    text = ask(engine).completions[0].text
    assert text == ("Ada " if field == "stop" else "Ada END and more")
    first, second = endpoint.bodies
    assert set(first) - set(second) == {field}, "and nothing else"
    ask(engine)
    assert field not in endpoint.bodies[-1]
    assert len(endpoint.bodies) == 3, "remembered"
    assert len(said) == 1
    assert said == engine.findings.notes[:1]


def test_each_request_under_way_is_refused_once_at_most(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(refusing("seed", 422, detail("seed"), chat_reply))
    said: list[str] = []
    ask(OpenAIEngine(endpoint.url, "m", on_event=said.append), times=8)
    assert len(endpoint.bodies) <= 16
    assert sum("seed" in body for body in endpoint.bodies) <= 8
    assert len(said) == 1


def test_a_server_with_many_wishes_is_given_all(serve: Serve, chat_reply: Any) -> None:
    words = {
        "seed": detail("seed"),
        "temperature": openai("Unsupported value: 'temperature'", "temperature"),
        "top_p": openai("Unsupported parameter: 'top_p'", "top_p"),
        "max_tokens": openai("Unsupported parameter: use 'max_completion_tokens'.", "max_tokens"),
        "n": openai("'n' must be 1", "n"),
        "stop": openai("Unknown parameter: 'stop'", "stop"),
    }

    def answer(body: dict[str, Any], number: int) -> Any:
        if body["messages"][0]["role"] == "system":
            return 400, openai("System role not supported")
        refused = next((field for field in words if field in body), None)
        return (400, words[refused]) if refused else (200, chat_reply("Ada"))

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    assert ask(engine).completions[0].text == "Ada"
    assert set(endpoint.bodies[-1]) == {"model", "messages", "max_completion_tokens"}
    assert len(endpoint.bodies) == len(words) + 2
    assert set(engine.dialect.told) == {"system", *words} - {"max_tokens"}


ROLES = [
    (400, openai("System role not supported")),
    (500, openai("Jinja Exception: System role not supported")),
    (400, openai("Only user and assistant roles are supported!")),
    (400, [openai("Developer instruction is not enabled for models/gemma-3-27b-it")]),
    (
        400,
        openai(
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
            "messages[0].role",
        ),
    ),
    (
        422,
        {
            "detail": [
                {
                    "loc": ["body", "messages", 0, "role"],
                    "msg": "Input should be 'user' or 'assistant'",
                }
            ]
        },
    ),
    (400, openai("Conversation roles must alternate user/assistant/user/assistant/...")),
    (400, openai("Unexpected role 'system'. The Messages API accepts a `system` parameter.")),
]


@pytest.mark.parametrize(("status", "body"), ROLES)
def test_a_system_role_that_is_refused_is_folded(
    serve: Serve, chat_reply: Any, status: int, body: Any
) -> None:
    def answer(asked: dict[str, Any], number: int) -> Any:
        if asked["messages"][0]["role"] == "system":
            return status, body
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    for _ in range(2):
        assert ask(engine).completions[0].text == "Ada"
    assert len(endpoint.bodies) == 3
    told = [{"role": "user", "content": "Be brief.\n\nWho built the mill?"}]
    assert endpoint.bodies[-1]["messages"] == told
    assert "system" in engine.dialect.told


def test_neighbours_of_one_role_are_joined_where_a_server_wants_it(
    serve: Serve, chat_reply: Any
) -> None:
    def answer(asked: dict[str, Any], number: int) -> Any:
        roles = [message["role"] for message in asked["messages"]]
        if any(one == next_one for one, next_one in itertools.pairwise(roles)):
            return 400, openai("model does not support successive user or assistant messages")
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    asked = (*ASKED, Message(role="user", content="And when?"))
    ask(OpenAIEngine(endpoint.url, "m"), asked=asked)
    roles = [message["role"] for message in endpoint.bodies[-1]["messages"]]
    assert roles == ["system", "user"], "the system role was not refused"
    assert endpoint.bodies[-1]["messages"][1]["content"] == "Who built the mill?\n\nAnd when?"


def test_a_temperature_of_zero_becomes_the_least_that_is_taken(
    serve: Serve, chat_reply: Any
) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if body["temperature"] == 0:
            return 422, {"error": "Input validation error: `temperature` must be strictly positive"}
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    ask(engine, Sampling(), times=4)
    assert endpoint.bodies[-1]["temperature"] == 0.01
    assert "0.01" in engine.adaptations()[0]
    ask(engine, Sampling(temperature=0.5))
    assert endpoint.bodies[-1]["temperature"] == 0.5


def test_a_temperature_out_of_range_is_the_callers_error(serve: Serve, chat_reply: Any) -> None:
    body = openai("temperature must be between 0 and 1", "temperature")
    endpoint = serve(refusing("temperature", 400, body, chat_reply))
    with pytest.raises(EngineRefusedError, match="between 0 and 1"):
        ask(OpenAIEngine(endpoint.url, "m"), Sampling(temperature=1.5))
    assert len(endpoint.bodies) == 1


def test_fewer_log_probabilities_are_asked_for_where_a_server_says_how_many(
    serve: Serve, chat_reply: Any
) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if body["top_logprobs"] > 5:
            text = "Requested sample logprobs of 20, which is greater than max allowed: 5"
            return 400, openai(text)
        top = [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -3.0}]
        return 200, chat_reply("yes", logprobs={"content": [{**top[0], "top_logprobs": top}]})

    endpoint = serve(answer)
    probs = score(OpenAIEngine(endpoint.url, "m"))
    assert probs.method == "logprobs"
    assert [body["top_logprobs"] for body in endpoint.bodies] == [20, 5]


def test_moderation_does_not_speak_against_log_probabilities(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (400, openai("flagged by moderation", code="content_filter")))
    engine = OpenAIEngine(endpoint.url, "m")
    with pytest.raises(ContentRefusedError):
        score(engine)
    assert engine.findings.logprobs
    assert len(endpoint.bodies) == 1


def test_a_reply_longer_than_the_window_leaves_is_shortened_once(
    serve: Serve, chat_reply: Any
) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if body["max_tokens"] > 700:
            return 400, openai(
                "This model's maximum context length is 4096 tokens. However, you requested"
                f" {3396 + body['max_tokens']} tokens (3396 in the messages, {body['max_tokens']}"
                " in the completion)."
            )
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    ask(engine, Sampling(max_tokens=1000))
    assert [body["max_tokens"] for body in endpoint.bodies] == [1000, 700]
    with pytest.raises(DocumentTooLongError) as caught:
        ask(engine, Sampling(max_tokens=4000))
    assert caught.value.window_tokens == 4096
    ask(engine, Sampling(max_tokens=600))
    assert endpoint.bodies[-1]["max_tokens"] == 600, "it depends on the prompt"
    assert "less room" in engine.adaptations()[0]


def test_the_longest_reply_of_a_model_is_remembered(serve: Serve, chat_reply: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if body["max_tokens"] > 512:
            text = "max_tokens is too large. This model supports at most 512 completion tokens."
            return 400, openai(text)
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    for _ in range(2):
        ask(engine, Sampling(max_tokens=1000))
    assert [body["max_tokens"] for body in endpoint.bodies] == [1000, 512, 512]
    assert "max_tokens" in engine.dialect.told


def test_a_length_below_a_servers_least_is_raised(serve: Serve, chat_reply: Any) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if body["max_tokens"] < 16:
            text = "Invalid 'max_tokens': integer below minimum value. Expected a value >= 16."
            return 400, openai(text, "max_tokens")
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    ask(OpenAIEngine(endpoint.url, "m"), Sampling(max_tokens=1))
    assert [body["max_tokens"] for body in endpoint.bodies] == [1, 16]


def test_a_server_that_only_streams_is_asked_to(serve: Serve) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if not body.get("stream"):
            text = "This model only support stream mode, please enable the stream parameter."
            return 400, openai(text)
        if "stream_options" in body:
            return 400, openai("Unknown parameter: 'stream_options'", "stream_options")
        chunk = '{"choices": [{"delta": {"content": "Ada"}, "finish_reason": "stop"}]}'
        return 200, f"data: {chunk}\n\ndata: [DONE]\n\n"

    endpoint = serve(answer)
    assert ask(OpenAIEngine(endpoint.url, "m")).completions[0].text == "Ada"
    assert len(endpoint.bodies) == 3


STUBBORN = [
    "No.",
    "Unsupported parameter: seed, temperature, top_p, n, stop, max_tokens, system role.",
    "System role not supported; conversation roles must alternate.",
    "max_tokens is too large: this model supports at most {room} completion tokens",
    "maximum context length is 100000 tokens, you requested 1 (99000 in the messages)",
    "temperature must be strictly positive",
    "This model only supports streaming; stream=true",
    "top_logprobs and logprobs: at most 3",
    "max_tokens must be at least 60",
]


@pytest.mark.parametrize("status", [400, 422, 403, 404, 500, 200])
def test_a_server_that_refuses_whatever_it_is_asked_keeps_nobody_busy(
    serve: Serve, status: int
) -> None:
    spoken = [""]

    def answer(body: dict[str, Any], number: int) -> Any:
        text = spoken[0].format(room=4000 - number)
        return status, openai(text, type="invalid_request_error")

    endpoint = serve(answer)

    def count(engine: OpenAIEngine) -> int:
        before = len(endpoint.bodies)
        with pytest.raises(AgenticluError):
            ask(engine, replace(FULL, max_tokens=5000))
        return len(endpoint.bodies) - before

    for spoken[0] in STUBBORN:
        engine = OpenAIEngine(endpoint.url, "m")
        assert count(engine) <= MOST_ADAPTATIONS
        count(engine)
        assert count(engine) <= 2, "by then nothing is left to change"


@pytest.mark.parametrize(
    ("text", "param", "fields"),
    [
        ("Unsupported value", "temperature", ["temperature"]),
        ("Bad request", "messages[0].content", []),
        ("The document mentions a seed and a stop. It is bad.", "", []),
        ("Invalid document. Set temperature as you like.", "", []),
        ("'n' is not supported", "", ["n"]),
        ("No such thing as an n in nature must be sought", "", []),
        ("model is not supported", "", []),
    ],
)
def test_a_refusal_is_not_laid_at_a_field_that_it_does_not_name(
    text: str, param: str, fields: list[str]
) -> None:
    body = {"model": "m", "messages": [], "temperature": 1.0, "seed": 1, "stop": ["x"], "n": 2}
    assert named_fields(Refusal(400, text, param=param), body) == fields


def test_what_was_not_refused_is_sent_as_it_is() -> None:
    body = {"model": "m", "messages": [], "temperature": 0.0, "max_tokens": 5, "top_logprobs": 20}
    assert Dialect().write(body) == body


def test_a_reply_that_moderation_withheld_is_no_empty_reply(serve: Serve, chat_reply: Any) -> None:
    reply = chat_reply("", "", finish_reason="content_filter")
    endpoint = serve(lambda body, i: (200, reply))
    engine = OpenAIEngine(endpoint.url, "m")
    with pytest.raises(ContentRefusedError, match="content_filter"):
        ask(engine)
    assert engine.usage.prompt_tokens > 0, "it was paid for"
    reply["choices"][1]["message"]["content"] = "Ada"
    assert [one.text for one in ask(engine).completions] == ["", "Ada"]
