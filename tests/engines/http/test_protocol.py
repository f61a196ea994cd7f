"""The typed reader of what servers send: right forms in all their spellings, wrong ones refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from agenticlu.core.records import Usage
from agenticlu.engines.http.listing import parse_model_list, window_of
from agenticlu.engines.http.protocol import (
    MalformedReplyError,
    first_logprobs,
    parse_json,
    read_reply,
)
from agenticlu.engines.http.refusals import find_refusal


def chat(content: Any = "Ada", usage: Any = None, finish: Any = "stop", **message: Any) -> Any:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": usage}


@pytest.mark.parametrize(
    ("reply", "text", "thinking"),
    [
        (chat("Ada"), "Ada", ""),
        (chat(None), "", ""),
        (chat(["A", "da"]), "Ada", ""),
        (chat([{"type": "text", "text": "A"}, {"type": "output_text", "text": "da"}]), "Ada", ""),
        (chat({"type": "text", "text": {"value": "Ada"}}), "Ada", ""),
        (
            chat([{"type": "image_url", "image_url": {}}, {"type": "text", "text": "Ada"}]),
            "Ada",
            "",
        ),
        (
            chat([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, "Ada"]),
            "Ada",
            "Hm",
        ),
        (chat([{"type": "reasoning", "text": "Hm"}, {"type": "text", "text": "Ada"}]), "Ada", "Hm"),
        (chat(reasoning_content="Hm"), "Ada", "Hm"),
        (chat(reasoning="Hm", reasoning_content=None), "Ada", "Hm"),
        (chat(thinking="Hm"), "Ada", "Hm"),
        (
            chat(
                reasoning="Hm", reasoning_details=[{"type": "reasoning.text", "text": "Hm, again"}]
            ),
            "Ada",
            "Hm",
        ),
        (chat(reasoning_details=[{"type": "reasoning.summary", "summary": "Hm"}]), "Ada", "Hm"),
        (chat(reasoning_content=17), "Ada", ""),
        (chat(None, refusal="I will not."), "I will not.", ""),
        (chat([{"type": "refusal", "refusal": "I will not."}]), "I will not.", ""),
    ],
)
def test_contents_and_thoughts(reply: Any, text: str, thinking: str) -> None:
    completion = read_reply(reply).choices[0].as_completion()
    assert (completion.text, completion.thinking) == (text, thinking)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("stop", "stop"),
        ("eos_token", "stop"),
        ("model_length", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "refused"),
        ("SAFETY", "refused"),
        ({"type": "stop"}, "unknown"),
        (None, "unknown"),
    ],
)
def test_reasons_for_the_end(given: Any, wanted: str) -> None:
    assert read_reply(chat(finish=given)).choices[0].as_completion().finish_reason == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, (0, 0, 0)),
        ("many", (0, 0, 0)),
        ([1], (0, 0, 0)),
        ({"prompt_tokens": 10.5, "completion_tokens": "3"}, (11, 0, 3)),
        ({"prompt_tokens": 10**30, "completion_tokens": -1}, (0, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": math.nan}, (0, 0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": [1]}, (5, 0, 0)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, (5, 4, 0)),
        ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 4}, (5, 4, 0)),
        ({"prompt_tokens": 5, "cached_tokens": 9}, (5, 5, 0)),
    ],
)
def test_usage_that_cannot_be_is_not_believed(given: Any, wanted: tuple[int, int, int]) -> None:
    prompt, cached, sampled = wanted
    assert read_reply(chat(usage=given)).usage == Usage(
        requests=1, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=sampled
    )


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (17, "without a message"),
        ({"choices": []}, "without a message"),
        ({"choices": "none"}, "without a message"),
        ({"choices": [{"text": "Ada"}]}, "without a message"),
        ({"choices": [17]}, "wrong choice"),
        ({"choices": [{"message": "Ada"}]}, "wrong message"),
        (chat(17), "a content that is a number"),
        (chat([[[[[["Ada"]]]]]]), "nested too deep"),
    ],
)
def test_what_is_no_reply_is_none(reply: Any, words: str) -> None:
    with pytest.raises(MalformedReplyError, match=words):
        read_reply(reply)


def first(token: Any, logprob: Any, **others: Any) -> Any:
    top = [{"token": name, "logprob": value} for name, value in others.items()]
    content = [{"token": token, "logprob": logprob, "top_logprobs": top}]
    return {"choices": [{"message": {"content": "yes"}, "logprobs": {"content": content}}]}


def older(**given: Any) -> Any:
    return {"choices": [{"message": {"content": "yes"}, "logprobs": given}]}


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (first("yes", -0.5, yes=-0.5, no=-2.0), [("yes", -0.5), ("no", -2.0)]),
        (first("yes", -0.5), [("yes", -0.5)]),
        (first("yes", 0.001, no=-math.inf), [("no", -math.inf), ("yes", 0.0)]),
        (
            older(tokens=["yes"], token_logprobs=[-0.5], top_logprobs=[{"yes": -0.5, "no": -2}]),
            [("yes", -0.5), ("no", -2)],
        ),
        (older(tokens=["yes"], token_logprobs=[-0.5]), [("yes", -0.5)]),
        (older(content=None), None),
        (older(content=[]), None),
        (chat(), None),
    ],
)
def test_log_probabilities(reply: Any, wanted: Any) -> None:
    assert first_logprobs(read_reply(reply).choices[0]) == wanted


@pytest.mark.parametrize(
    "reply",
    [
        first("yes", None),
        first("yes", "x"),
        first("yes", math.nan),
        first("yes", 1e9),
        first("yes", -0.5, no=1e9),
        first(7, -0.5),
        older(content="x"),
        older(content=["x"]),
        older(tokens=["yes"]),
        {"choices": [{"message": {"content": "yes"}, "logprobs": "x"}]},
    ],
)
def test_log_probabilities_that_are_none(reply: Any) -> None:
    with pytest.raises(MalformedReplyError):
        first_logprobs(read_reply(reply).choices[0])


def stream(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return (": comment\n\n" + "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + end).encode()


def delta(finish: Any = None, index: int = 0, **delta: Any) -> Any:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


def test_a_stream_that_nobody_asked_for_is_put_together() -> None:
    chunks = [
        delta(role="assistant", content=""),
        delta(reasoning_content="H"),
        delta(reasoning_content="m", content=None),
        delta(content="A", index=1),
        delta(content="Ad"),
        delta(content=[{"type": "text", "text": "a"}]),
        delta("length", index=1),
        delta("stop"),
        {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
    ]
    reply = read_reply(parse_json(stream(*chunks)))
    one, two = (choice.as_completion() for choice in reply.choices)
    assert (one.text, one.thinking, one.finish_reason) == ("Ada", "Hm", "stop")
    assert (two.text, two.finish_reason) == ("A", "length")
    assert reply.usage.prompt_tokens == 7
    plain = [{"choices": [{"text": text, "finish_reason": None}]} for text in (" A", "da")]
    assert read_reply(parse_json(stream(*plain)), plain=True).choices[0].content == " Ada"


def test_a_stream_that_broke_off_is_no_reply() -> None:
    whole = [delta(content="Ada"), delta("stop")]
    assert read_reply(parse_json(stream(*whole, end=""))).choices[0].content == "Ada"
    for chunks in ([], whole[:1], [*whole, delta(content="B", index=1)]):
        with pytest.raises(MalformedReplyError, match="broke off"):
            parse_json(stream(*chunks, end=""))
    error = {"error": {"message": "overloaded"}}
    assert parse_json(stream(whole[0], error)) == error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "with nothing"),
        (b"<!DOCTYPE html><p>Hello", "with a web page"),
        (b"Hello", "without JSON"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"choices": ' + b"7" * 5000 + b"}", "without JSON"),
        (b"data: {", "without JSON"),
    ],
)
def test_what_is_no_json_is_told(content: bytes, words: str) -> None:
    with pytest.raises(MalformedReplyError, match=words):
        parse_json(content)


def test_a_byte_order_mark_and_a_broken_byte_are_no_reason_to_fall() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\xff"}') == {"a": "\ufffd"}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"data": [{"id": "a"}, {"id": "b"}]}, ["a", "b"]),
        ([{"id": "a"}], ["a"]),
        ({"models": [{"name": "a", "model": "b"}]}, ["a"]),
        ({"object": "list", "data": [], "models": ["a"]}, ["a"]),
        ({"data": ["a", 17, None, {"object": "model"}, {"id": 5}]}, ["a"]),
        ({"data": []}, []),
        ({"error": "none"}, None),
        ("a", None),
        (None, None),
    ],
)
def test_lists_of_models(given: Any, names: Any) -> None:
    found = parse_model_list(given)
    assert (None if found is None else list(found)) == names


def test_windows_of_listed_models() -> None:
    assert window_of({"loaded_context_length": 4096, "max_context_length": 131072}) == 4096
    assert window_of({"meta": {"n_ctx": 512}}) == 512
    assert window_of({"context_length": "8192"}) == 8192
    assert window_of({"context_length": None, "top_provider": {"context_length": 9}}) == 9
    for entry in ({}, {"max_model_len": -1}, {"max_model_len": "long"}, {"meta": [1]}):
        assert window_of(entry) is None


@pytest.mark.parametrize("letter", "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_letters_that_end_lines_elsewhere_do_not_break_a_stream(letter: str, end: str) -> None:
    said = f"Ada{letter}Larkin"
    chunk = {"choices": [{"delta": {"content": said}, "finish_reason": "stop"}]}
    written = json.dumps(chunk, ensure_ascii=False)
    events = f"data: {written}{end}{end}data: [DONE]{end}{end}"
    assert read_reply(parse_json(events.encode())).choices[0].content == said


@pytest.mark.parametrize("reason", [None, "", "budget"])
@pytest.mark.parametrize(
    "message", [{"content": "<think>Hm"}, {"content": None, "reasoning_content": "Hm"}]
)
def test_a_thought_without_a_reply_was_cut_whatever_ended_it(message: Any, reason: Any) -> None:
    data = {"choices": [{"message": message, "finish_reason": reason}]}
    (choice,) = read_reply(data).choices
    found = choice.as_completion()
    assert (found.text, found.finish_reason, found.thinking) == ("", "length", "Hm")
    ended = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert read_reply(ended).choices[0].as_completion().finish_reason == "stop"


@pytest.mark.parametrize(
    "other",
    [{"type": "ping"}, {"choices": None, "usage": {"prompt_tokens": 7}}, {"usage": None}, {}],
)
@pytest.mark.parametrize("at", range(3))
def test_events_without_choices_do_not_end_a_stream(other: Any, at: int) -> None:
    chunks: list[Any] = [
        {"choices": [{"delta": {"content": "Ada "}}]},
        {"choices": [{"delta": {"content": "Larkin"}, "finish_reason": "stop"}]},
    ]
    chunks.insert(at, other)
    events = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"
    found = read_reply(parse_json(events.encode()))
    assert found.choices[0].content == "Ada Larkin"
    assert found.usage.prompt_tokens == ((other.get("usage") or {}).get("prompt_tokens", 0))


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "Overloaded."}},
        {"object": "error", "message": "Overloaded."},
        {"error": {"message": "Overloaded."}, "choices": [{"finish_reason": "error"}]},
    ],
)
def test_an_error_in_a_stream_is_one_whatever_came_before(error: Any) -> None:
    chunks = [{"choices": [{"delta": {"content": "Ada "}}]}, error]
    events = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"
    refusal = find_refusal(parse_json(events.encode()))
    assert refusal is not None
    assert refusal.text == "Overloaded."
