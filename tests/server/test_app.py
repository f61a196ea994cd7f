"""A real server process on loopback, asked through the real client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from agenticlu.core.errors import DocumentTooLongError, ModelNotFoundError
from agenticlu.core.records import Message
from agenticlu.engines import BUNDLED_MODEL, load_engine
from agenticlu.engines.base import Feature, Sampling
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.local import HFEngine
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.server import Service, build_app
from agenticlu.server.limits import RequestError
from agenticlu.server.requests import parse_request

WINDOW = 1200
DOCUMENT = "The mill at Dunmore was built by Ada Larkin in the spring. " * 12
MAIN = "from agenticlu.cli import main; main()"
CHOICES = ("yes", "maybe", "no")
pytestmark = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)


def ask(text: str, *before: str) -> tuple[Message, ...]:
    turns = [*before, text]
    return (
        Message(role="system", content="Rely only on what the document says."),
        *(
            Message(role="assistant" if i % 2 else "user", content=turn)
            for i, turn in enumerate(turns)
        ),
    )


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Base URL and process of a server over the bundled model."""
    process = start("--port", "0", "--context-tokens", str(WINDOW))
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, f"{line!r}, exit {process.poll()}"
        yield found.group(), process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, "Ctrl-C is how a server is meant to end"


@pytest.fixture(scope="module")
def url(server: tuple[str, subprocess.Popen[str]]) -> str:
    return server[0]


@pytest.fixture(scope="module")
def local() -> Iterator[HFEngine]:
    """The same model in this process."""
    engine = HFEngine(BUNDLED_MODEL)
    yield engine
    asyncio.run(engine.close())


def post(url: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            text = response.read().decode()
            status = response.status
    except urllib.error.HTTPError as error:
        text, status = error.read().decode(), error.code
    return status, json.loads(text) if text.startswith("{") else text


def run(work: Any) -> Any:
    return asyncio.run(work)


def test_replies_and_weights_are_those_of_the_model_in_process(url: str, local: HFEngine) -> None:
    remote = OpenAIEngine(url)
    messages = ask(f"{DOCUMENT}Who built it?")
    greedy = Sampling(max_tokens=20)
    drawn = Sampling(temperature=0.9, top_p=0.9, max_tokens=12, n=3, seed=4)

    async def both(engine: Any) -> list[Any]:
        return [
            await engine.sample(messages, greedy),
            await engine.sample(messages, drawn),
            await engine.score_choices(messages, CHOICES),
        ]

    here, there = run(both(local)), run(both(remote))
    assert there[0].completions[0].text == here[0].completions[0].text != ""
    assert [c.text for c in there[1].completions] == [c.text for c in here[1].completions]
    assert len({c.text for c in there[1].completions}) == 3
    assert there[1].usage == here[1].usage
    assert remote.name == "agenticlu-tiny"
    if there[2].method == "logprobs":
        assert there[2].label_mass <= here[2].label_mass + 1e-6


def test_conversation_is_cached_and_reported(url: str) -> None:
    remote = OpenAIEngine(url)

    async def talk() -> list[Any]:
        first = await remote.sample(ask(f"Talk. {DOCUMENT}Who?"), Sampling(max_tokens=8))
        said = first.completions[0].text
        again = ask("When?", f"Talk. {DOCUMENT}Who?", said)
        return [first.usage, (await remote.sample(again, Sampling(max_tokens=8))).usage]

    first, second = run(talk())
    assert second.cached_tokens >= first.prompt_tokens
    assert second.prompt_tokens > second.cached_tokens


def test_probe_finds_nothing_to_mend(url: str) -> None:
    found = run(OpenAIEngine(url).capabilities(*get_args(Feature)))
    assert found.notes == ()
    assert (found.samples_n, found.logprobs, found.token_ids) == (True, True, True)
    assert found.repeats_seeds
    assert found.completes
    assert found.reports_cached_tokens
    assert found.context_tokens == WINDOW


def test_errors_come_back_as_the_right_kind(url: str) -> None:
    with pytest.raises(DocumentTooLongError, match=str(WINDOW)):
        run(OpenAIEngine(url).sample(ask(DOCUMENT * 20), Sampling()))
    with pytest.raises(ModelNotFoundError, match="agenticlu-tiny"):
        run(OpenAIEngine(url, "other").sample(ask("Who?"), Sampling()))


def test_unsupported_requests_are_refused_in_openais_form(url: str) -> None:
    chat = f"{url}/chat/completions"
    messages = [{"role": "user", "content": "Who?"}]
    status, body = post(chat, {"messages": messages, "tools": [{"type": "function"}]})
    assert status == 400
    assert body["error"]["param"] == "tools"
    assert body["error"]["type"] == "invalid_request_error"
    assert set(body["error"]) == {"message", "type", "param", "code"}
    status, body = post(chat, {"messages": messages, "model": "other"})
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    status, body = post(chat, {"messages": messages, "temprature": 1})
    assert (status, "temperature" in body["error"]["message"]) == (400, True)


SENTENCE = (
    "Question: Where does Mira Dallow live?\n\nAnswer the question. State the fact, then end with "
    "Answer: and the answer alone."
)
"""Without a document the model replies to it with a sentence of its world."""


def test_stream_adds_up_to_the_reply(url: str) -> None:
    chat = f"{url}/chat/completions"
    asked = {
        "messages": [{"role": "user", "content": SENTENCE}],
        "n": 2,
        "seed": 6,
        "max_tokens": 12,
    }
    _, whole = post(chat, asked)
    _, text = post(chat, asked | {"stream": True, "stream_options": {"include_usage": True}})
    events = [line[6:] for line in text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    said, reasons = ["", ""], ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            said[choice["index"]] += choice["delta"].get("content", "")
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    assert said == [choice["message"]["content"] for choice in whole["choices"]]
    assert reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert len(chunks) > 8, "it must come in parts"


def test_a_text_is_continued_as_in_process(url: str, local: HFEngine) -> None:
    remote = OpenAIEngine(url)
    text = f"{DOCUMENT}\nThe mill was built by"
    drawn = Sampling(temperature=0.9, max_tokens=8, n=2, seed=4)

    async def both(engine: Any) -> list[Any]:
        greedy = Sampling(max_tokens=12)
        return [await engine.complete(text, greedy), await engine.complete(text, drawn)]

    here, there = run(both(local)), run(both(remote))
    for one, other in zip(here, there, strict=True):
        assert [c.text for c in one.completions] == [c.text for c in other.completions]
        assert one.usage.prompt_tokens == other.usage.prompt_tokens
    assert here[0].completions[0].text.startswith(" "), "white space must be kept"
    # No chat template: nothing but the text's own tokens.
    assert here[0].usage.prompt_tokens == len(local.chat.encode_text(text))
    status, body = post(f"{url}/completions", {"prompt": text, "max_tokens": 12, "temperature": 0})
    assert (status, body["object"]) == (200, "text_completion")
    assert body["choices"][0]["text"] == here[0].completions[0].text
    asked = {"prompt": [text], "max_tokens": 12, "temperature": 0, "stream": True}
    _, streamed = post(f"{url}/completions", asked)
    events = [line[6:] for line in streamed.split("\n\n") if line.startswith("data: ")]
    parts = [json.loads(event)["choices"][0]["text"] for event in events[:-1]]
    assert "".join(parts) == here[0].completions[0].text
    assert len(parts) > 4, "it must come in parts"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": "a", "echo": True, "logprobs": 3}, "echo"),
        ({"prompt": "a", "max_completion_tokens": 3}, "max_completion_tokens"),
    ],
)
def test_what_a_continuation_cannot_have_is_named(body: dict[str, Any], param: str) -> None:
    assert parse_request({"prompt": "a"}, plain=True).sampling.max_tokens == 16
    with pytest.raises(RequestError) as caught:
        parse_request(body, plain=True)
    assert caught.value.param == param


def test_tokenize_and_health(url: str, local: HFEngine) -> None:
    root = url.removesuffix("/v1")
    status, body = post(f"{root}/tokenize", {"prompt": "Ada Larkin"})
    assert (status, body["tokens"]) == (200, local.chat.encode_text("Ada Larkin"))
    assert body["max_model_len"] == WINDOW
    with urllib.request.urlopen(f"{root}/health", timeout=10) as response:
        assert json.loads(response.read()) == {"status": "ok"}


def test_a_taken_port_is_told(url: str, server: tuple[str, subprocess.Popen[str]]) -> None:
    port = url.split(":")[2].split("/")[0]
    other = start("--port", port)
    _, told = other.communicate(timeout=120)
    assert other.returncode == 2
    assert f"127.0.0.1:{port}" in told
    assert "--port 0" in told
    assert "Traceback" not in told


def test_a_scripted_engine_is_served_without_what_it_lacks() -> None:
    from starlette.testclient import TestClient

    client = TestClient(build_app(Service(ScriptedEngine({"": "Ada"}), "script")))
    messages = [{"role": "user", "content": "Who?"}]
    body = client.post("/v1/chat/completions", json={"messages": messages, "n": 2}).json()
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Ada", "Ada"]
    refused = client.post("/v1/chat/completions", json={"messages": messages, "logprobs": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")
    streamed = client.post("/v1/chat/completions", json={"messages": messages, "stream": True})
    assert '"content": "Ada"' in streamed.text


def test_the_words_of_an_engine_without_tokens_go_out_as_they_come() -> None:
    from starlette.testclient import TestClient

    body = {"messages": [{"role": "user", "content": "?"}], "stream": True}

    def deltas(engine: Any, **more: Any) -> list[str]:
        client = TestClient(build_app(Service(engine, "m")), base_url="http://127.0.0.1")
        text = client.post("/v1/chat/completions", json=body | more).text
        events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        found = [one["choices"][0]["delta"].get("content") for one in events]
        return [one for one in found if one]

    engine = ScriptedEngine(lambda request: "<think>Hm.</think>Ada Larkin built it.")
    assert deltas(engine) == ["Ada ", "Larkin ", "built ", "it."]
    assert deltas(engine, n=2) == ["Ada Larkin built it."] * 2

    class Musing(ScriptedEngine):
        async def stream(self, *given: Any, on_text: Any, **named: Any) -> Any:
            on_text("So it is Ada.")
            return await self.sample(*given, **named)

    assert "".join(deltas(Musing(lambda request: "Ada"))) == "So it is Ada.\n\nAda"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [1]}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
    ],
)
def test_malformed_fields_are_named(change: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": "Who?"}]}
    parse_request(body)
    with pytest.raises(RequestError) as caught:
        parse_request(body | change)
    assert caught.value.param == param


def test_neutral_values_and_parts_are_taken() -> None:
    asked = parse_request(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
            ],
            "presence_penalty": 0,
            "response_format": {"type": "text"},
            "user": "someone",
            "max_completion_tokens": 9,
            "stop": "END",
        }
    )
    assert asked.asked == (
        (
            Message(role="system", content="Be brief."),
            Message(role="user", content="Who?"),
        ),
    )
    assert asked.sampling == Sampling(temperature=1.0, max_tokens=9, stop=("END",))


def test_bundled_model_is_the_default_engine() -> None:
    engine = load_engine()
    assert isinstance(engine, HFEngine)
    assert engine.name == "agenticlu-tiny"
