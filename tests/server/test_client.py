"""What OpenAI's reference promises, through its official client, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from live_server import send, serving
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as Chat
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as Plain

from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.local import HFEngine
from agenticlu.server import Service
from agenticlu.server.limits import Access
from agenticlu.server.requests import (
    CHAT_ONLY,
    FIELDS,
    IDLE_FIELDS,
    NEUTRAL_VALUES,
    PLAIN_FIELDS,
    PLAIN_ONLY,
)

MODEL = "mill-8b"
WINDOW = 1200
ASKED = [{"role": "user", "content": "Who built the mill?"}]
UNSURE = [
    {
        "role": "user",
        "content": "Question: Where does Mira Dallow live?\n\nAnswer the question. State the fact, "
        "then end with Answer: and the answer alone.",
    }
]
"""Without a document: the model says a sentence of its world, another one each time."""
pytestmark = [
    pytest.mark.skipif(
        not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = HFEngine(BUNDLED_MODEL, name=MODEL, context_tokens=WINDOW)
    access = Access(hosts=frozenset())
    with serving(Service(engine, MODEL, access=access)) as found:
        yield found


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as found:
        yield found


def chat(client: openai.OpenAI, **asked: Any) -> ChatCompletion:
    asked = {"model": MODEL, "messages": ASKED, "max_tokens": 8, "seed": 1} | asked
    reply = client.chat.completions.create(**{k: v for k, v in asked.items() if v is not ...})
    assert isinstance(reply, ChatCompletion)
    assert reply.choices[0].message.role == "assistant"
    assert reply.model == MODEL
    return reply


def stream(client: openai.OpenAI, **asked: Any) -> list[ChatCompletionChunk]:
    asked = {"model": MODEL, "messages": ASKED, "max_tokens": 8, "seed": 1} | asked
    return list(client.chat.completions.create(**asked, stream=True))


def text_of(reply: ChatCompletion, index: int = 0) -> str:
    return reply.choices[index].message.content or ""


def test_the_model_is_listed_and_found_by_its_name(client: openai.OpenAI) -> None:
    (listed,) = client.models.list().data
    assert (listed.id, listed.object) == (MODEL, "model")
    assert client.models.retrieve(MODEL) == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other/model")
    assert caught.value.code == "model_not_found"
    assert str(BUNDLED_MODEL.parent) not in listed.model_dump_json(), "no path is told"


def test_a_reply_has_all_that_the_reference_lists(client: openai.OpenAI) -> None:
    reply = chat(client)
    assert reply.id.startswith("chatcmpl-")
    assert (reply.object, reply.choices[0].index) == ("chat.completion", 0)
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert reply.choices[0].message.refusal is None
    assert reply.choices[0].logprobs is None
    usage = reply.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens <= 8
    assert reply.id != chat(client).id
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASKED)
    assert raw.headers["x-request-id"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "developer", "content": "Be brief."}, *ASKED],
        [{"role": "system", "content": "Be brief."}, *ASKED],
        [{"role": "user", "name": "Ada", "content": "Who?"}],
        [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "?"}],
            }
        ],
        [*ASKED, {"role": "assistant", "content": "Ada."}],
        [*ASKED, {"role": "assistant", "content": "Ada."}, {"role": "user", "content": "When?"}],
        [*ASKED, {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
        [{"role": "assistant", "content": "Ask."}, *ASKED],
        [*ASKED, {"role": "assistant", "content": "Ada.", "tool_calls": None, "refusal": None}],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": "Grüße, 日本語, 🎉 \u0000 \x1b[31m"}],
    ],
)
def test_conversations_of_every_form_are_answered(client: openai.OpenAI, messages: Any) -> None:
    assert chat(client, messages=messages).usage


def test_a_reply_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    said = chat(client).choices[0].message
    for form in (said, said.model_dump()):
        asked = [*ASKED, form, {"role": "user", "content": "When?"}]
        assert chat(client, messages=asked).usage


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"temperature": 0.7, "top_p": 0.5},
        {"top_p": 0},
        {"top_p": 1.0},
        {"max_tokens": ..., "max_completion_tokens": 3},
        {"max_tokens": ...},
        {"max_tokens": None},
        {"n": 3},
        {"stop": "the"},
        {"stop": ["the", "END", "a", "b"]},
        {"stop": []},
        {"stop": None},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"seed": None},
        {"logprobs": False},
        {"logprobs": True},
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": True, "top_logprobs": 20},
        {"presence_penalty": 0, "frequency_penalty": 0.0},
        {"logit_bias": {}},
        {"response_format": {"type": "text"}},
        {"tools": [], "tool_choice": "none"},
        {"user": "someone", "metadata": {"a": "b"}, "store": False},
        {"service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "y"},
        {"modalities": ["text"], "parallel_tool_calls": True},
        {"reasoning_effort": "none", "verbosity": "medium"},
        {"stream": False},
        {"extra_headers": {"X-Session-ID": "s"}},
        {"model": MODEL},
    ],
)
def test_parameters_are_taken(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    reply = chat(client, **asked)
    assert len(reply.choices) == asked.get("n", 1)


def test_every_field_of_the_reference_is_known_by_name() -> None:
    chat_fields = set(Chat.__annotations__) | {
        key for base in Chat.__orig_bases__ for key in base.__annotations__
    }
    plain_fields = set(Plain.__annotations__) | {
        key for base in Plain.__orig_bases__ for key in base.__annotations__
    }
    assert {"messages", "model", "verbosity"} <= chat_fields, "else nothing was compared"
    assert chat_fields <= FIELDS | set(IDLE_FIELDS) | (set(NEUTRAL_VALUES) - PLAIN_ONLY)
    assert plain_fields <= PLAIN_FIELDS | set(IDLE_FIELDS) | (set(NEUTRAL_VALUES) - CHAT_ONLY)


def test_sampling_follows_its_parameters(client: openai.OpenAI) -> None:
    drawn = {"messages": UNSURE, "temperature": 1.5, "max_tokens": 12, "n": 4}
    first, again, other = (text_of(chat(client, **drawn, seed=seed)) for seed in (7, 7, 8))
    assert first == again != other
    many = chat(client, **drawn, seed=7)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in many.choices}) > 1
    greedy = text_of(chat(client, messages=UNSURE, temperature=0))
    assert text_of(chat(client, messages=UNSURE, temperature=1.5, top_p=0)) == greedy
    short = chat(client, messages=UNSURE, temperature=0, max_tokens=2)
    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 2
    assert greedy.startswith(text_of(short))


def test_a_stop_ends_the_reply_before_it(client: openai.OpenAI) -> None:
    whole = text_of(chat(client, messages=UNSURE, temperature=0, max_tokens=20))
    words = whole.split()
    stops = ["no such text", words[3], words[2]]
    cut = chat(client, messages=UNSURE, temperature=0, max_tokens=20, stop=stops)
    assert text_of(cut) == whole[: min(whole.index(word) for word in words[2:4])]
    assert cut.choices[0].finish_reason == "stop"
    pieces = stream(client, messages=UNSURE, temperature=0, max_tokens=20, stop=stops)
    assert "".join(c.choices[0].delta.content or "" for c in pieces) == text_of(cut)


def test_log_probabilities_tell_the_reply_token_by_token(client: openai.OpenAI) -> None:
    reply = chat(client, logprobs=True, top_logprobs=3, temperature=1.0, max_tokens=12)
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    content = logprobs.content
    assert content
    assert "".join(token.token for token in content) == text_of(reply)
    for token in content:
        assert bytes(token.bytes or ()).decode() == token.token
        assert len(token.top_logprobs) == 3
        values = [one.logprob for one in token.top_logprobs]
        assert values == sorted(values, reverse=True)
        assert token.logprob <= values[0] <= 0
    bare = chat(client, logprobs=True).choices[0].logprobs
    assert bare is not None
    assert all(token.top_logprobs == [] for token in bare.content or ())


@pytest.mark.parametrize("extra", [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 3}])
def test_a_stream_adds_up_to_the_reply_and_comes_in_parts(
    client: openai.OpenAI, extra: dict[str, Any]
) -> None:
    asked = {"temperature": 1.0, "max_tokens": 10, **extra}
    whole = chat(client, **asked)
    chunks = stream(client, **asked, stream_options={"include_usage": True})
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks[:-1] if c.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in mine) == choice.message.content
        assert [one.finish_reason for one in mine if one.finish_reason] == [choice.finish_reason]
        assert mine[-1].finish_reason == choice.finish_reason
        told = [one.logprobs.content or [] for one in mine if one.logprobs]
        if choice.logprobs is None:
            assert told == []
            continue
        assert [token for part in told for token in part] == choice.logprobs.content
        assert sum(map(bool, told)) > 3, "they must come as their tokens do"


def test_no_usage_is_sent_unasked(client: openai.OpenAI) -> None:
    for chunk in stream(client):
        assert "usage" not in chunk.model_fields_set


def test_texts_are_continued(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    single = [client.completions.create(**asked, prompt=text) for text in ("The mill", "Ada")]
    both = client.completions.create(**asked, prompt=["The mill", "Ada"])
    assert [c.text for c in both.choices] == [one.choices[0].text for one in single]
    assert both.usage is not None
    assert both.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in single if one.usage)
    assert (both.object, both.id[:5]) == ("text_completion", "cmpl-")
    twice = client.completions.create(**asked | {"temperature": 1}, prompt=["a", "b"], n=2, seed=3)
    assert [choice.index for choice in twice.choices] == [0, 1, 2, 3]
    echoed = client.completions.create(**asked, prompt="The mill", echo=True)
    assert echoed.choices[0].text == "The mill" + single[0].choices[0].text
    for prompt, echo in ((["The mill", "Ada"], False), ("The mill", True)):
        whole = client.completions.create(**asked, prompt=prompt, echo=echo)
        parts = list(client.completions.create(**asked, prompt=prompt, echo=echo, stream=True))
        for choice in whole.choices:
            mine = [c.choices[0] for c in parts if c.choices[0].index == choice.index]
            assert "".join(one.text for one in mine) == choice.text
            assert mine[-1].finish_reason == choice.finish_reason
    short = client.completions.create(model=MODEL, prompt="The mill", temperature=2.0)
    assert short.usage is not None
    assert short.usage.completion_tokens <= 16


def test_log_probabilities_of_a_continuation(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "The mill", "max_tokens": 6, "temperature": 0}
    reply = client.completions.create(**asked, logprobs=2).choices[0]
    found = reply.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert "".join(found.tokens) == reply.text
    ends = [*found.text_offset[1:], len(reply.text)]
    cut = [reply.text[a:b] for a, b in zip(found.text_offset, ends, strict=True)]
    assert cut == found.tokens
    for token, value, rivals in zip(
        found.tokens, found.token_logprobs or (), found.top_logprobs or (), strict=True
    ):
        assert len(rivals) == 2
        assert rivals[token] == value == max(rivals.values())
    chunks = client.completions.create(**asked, logprobs=2, stream=True)
    told = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [one for part in told for one in part.tokens or ()] == found.tokens
    assert [one for part in told for one in part.text_offset or ()] == found.text_offset


BAD = [
    ({"model": "other"}, 404, "model"),
    ({"model": 5}, 400, "model"),
    ({"messages": "Who?"}, 400, "messages"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [5]}, 400, "messages[0]"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, 400, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "user", "content": []}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {"type": "text"}}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, 400, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        400,
        "messages[0].content[0].type",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        400,
        "messages[0].content[0].text",
    ),
    ({"messages": [{"role": "user", "content": "x", "name": 5}]}, 400, "messages[0].name"),
    ({"messages": [{"role": "user", "content": "x", "color": 5}]}, 400, "messages[0].color"),
    (
        {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "a"}]}]},
        400,
        "messages[0].tool_calls",
    ),
    ({"temperature": 2.1}, 400, "temperature"),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"temperature": True}, 400, "temperature"),
    ({"temperature": [1]}, 400, "temperature"),
    ({"top_p": 1.1}, 400, "top_p"),
    ({"top_p": -1}, 400, "top_p"),
    ({"n": 0}, 400, "n"),
    ({"n": 1.5}, 400, "n"),
    ({"n": 129}, 400, "n"),
    ({"n": "2"}, 400, "n"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"max_tokens": -1}, 400, "max_tokens"),
    ({"max_tokens": 1e3}, 400, "max_tokens"),
    ({"max_tokens": 2000}, 400, "messages"),
    ({"max_tokens": 10**40}, 400, "max_tokens"),
    ({"max_completion_tokens": 3}, 400, "max_tokens"),
    ({"stop": {}}, 400, "stop"),
    ({"stop": 5}, 400, "stop"),
    ({"stop": [5]}, 400, "stop"),
    ({"stop": ""}, 400, "stop"),
    ({"stop": ["a", ""]}, 400, "stop"),
    ({"stop": list("abcde")}, 400, "stop"),
    ({"seed": 10**100}, 400, "seed"),
    ({"seed": 1.5}, 400, "seed"),
    ({"seed": "1"}, 400, "seed"),
    ({"stream": "yes"}, 400, "stream"),
    ({"stream": 1}, 400, "stream"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ({"stream": True, "stream_options": [1]}, 400, "stream_options"),
    ({"stream": True, "stream_options": {"x": 1}}, 400, "stream_options"),
    (
        {"stream": True, "stream_options": {"include_usage": "yes"}},
        400,
        "stream_options.include_usage",
    ),
    ({"stream": True, "max_tokens": 2000}, 400, "messages"),
    ({"logprobs": "yes"}, 400, "logprobs"),
    ({"top_logprobs": 2}, 400, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 20, "n": 128, "max_tokens": 100}, 400, "top_logprobs"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ({"response_format": "text"}, 400, "response_format"),
    ({"logit_bias": {"5": 3}}, 400, "logit_bias"),
    ({"presence_penalty": 1}, 400, "presence_penalty"),
    ({"presence_penalty": False}, 400, "presence_penalty"),
    ({"tools": [{"type": "function"}]}, 400, "tools"),
    ({"user": 5}, 400, "user"),
    ({"metadata": "x"}, 400, "metadata"),
    ({"store": "x"}, 400, "store"),
    ({"prompt": "x"}, 400, "prompt"),
    ({"temprature": 1}, 400, "temprature"),
]


@pytest.mark.parametrize(("change", "status", "param"), BAD)
def test_what_cannot_be_done_is_refused_by_name(
    client: openai.OpenAI, change: dict[str, Any], status: int, param: str
) -> None:
    asked = {"model": MODEL, "messages": ASKED, "max_tokens": 4}
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**asked, extra_body=change)
    error = caught.value
    assert (error.status_code, error.param) == (status, param)
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.type == "invalid_request_error"
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": [[1, 2]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"prompt": "word " * 1500}, "prompt"),
        ({"messages": ASKED}, "messages"),
        ({"echo": "yes"}, "echo"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"max_completion_tokens": 3}, "max_completion_tokens"),
        ({"top_logprobs": 3}, "top_logprobs"),
    ],
)
def test_what_a_continuation_cannot_have_is_refused_by_name(
    client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="The mill", extra_body=change)
    assert caught.value.param == param


def test_a_prompt_beyond_the_window_says_so_with_the_code_that_clients_know(
    client: openai.OpenAI,
) -> None:
    for words in (1200, 100_000):
        asked = [{"role": "user", "content": "word " * words}]
        with pytest.raises(openai.BadRequestError, match=str(WINDOW)) as caught:
            client.chat.completions.create(model=MODEL, messages=asked)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"messages": NaN}',
        b'{"temperature": Infinity}',
        b'{"seed": ' + b"1" * 5000 + b"}",
        b'{"messages": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"temperature": 1e999, "messages": [{"role": "user", "content": "x"}]}',
        b"null",
        b"[]",
        b'"text"',
        "{}".encode("utf-16"),
    ],
)
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_what_is_no_request_is_refused(url: str, route: str, content: bytes) -> None:
    status, _, body = send(url, route, content)
    assert status == 400
    assert set(body["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "route", "headers", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/", {}, 404),
        ("GET", "/v1/models/other", {}, 404),
        ("GET", "/v1/chat/completions", {}, 405),
        ("DELETE", "/v1/models", {}, 405),
        ("POST", "/v1/chat/completions", {}, 415),
        ("POST", "/v1/chat/completions", {"Content-Type": "text/plain"}, 415),
        (
            "POST",
            "/v1/chat/completions",
            {"Content-Type": "application/json; charset=latin-1"},
            415,
        ),
        (
            "POST",
            "/v1/chat/completions",
            {"Content-Type": "application/json", "Content-Encoding": "gzip"},
            415,
        ),
        ("GET", "/v1/models", {"Host": "evil.example"}, 403),
        ("GET", "/health", {"Host": "localhost.evil.example:80"}, 403),
    ],
)
def test_wrong_addresses_and_headers_have_the_apis_error(
    url: str, method: str, route: str, headers: dict[str, str], status: int
) -> None:
    body = b"{}" if method == "POST" else None
    found, sent, error = send(url, route, body, headers, method)
    assert found == status
    assert set(error["error"]) == {"message", "type", "param", "code"}
    assert "access-control-allow-origin" not in sent
    assert ("allow" in sent) == (status == 405)
