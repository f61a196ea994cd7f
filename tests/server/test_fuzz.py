"""Whatever is sent, the answer is a reply or an error in the API's form."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import JSON, address, serving

from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.local import HFEngine
from agenticlu.server import Service
from agenticlu.server.requests import FIELDS, IDLE_FIELDS, NEUTRAL_VALUES, PLAIN_FIELDS

pytestmark = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)
ROUTES = ("/v1/chat/completions", "/v1/completions", "/tokenize")
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "stop", "text", "user", "yes", "\x00", "<|end|>", "🎉", "1e5"]),
    st.text(max_size=20),
)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
CONTENT = ANY | st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "refusal", "image_url"]), "text": ANY}),
    max_size=3,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool"])},
        optional={"content": CONTENT, "name": ANY, "tool_calls": ANY, "refusal": ANY},
    )
    | ANY,
    max_size=4,
)
NAMES = sorted({*FIELDS, *PLAIN_FIELDS, *IDLE_FIELDS, *NEUTRAL_VALUES} - {"messages", "prompt"})
GOOD = st.sampled_from(
    [{"messages": [{"role": "user", "content": "Who?"}]}, {"prompt": "The mill"}]
)
BODIES = st.one_of(
    st.builds(
        lambda good, more: good | more,
        GOOD,
        st.dictionaries(st.sampled_from(NAMES), ANY, max_size=3),
    ),
    st.fixed_dictionaries({"messages": MESSAGES}, optional={"stream": st.booleans()}),
    st.fixed_dictionaries({"prompt": ANY}, optional={"n": st.integers(1, 3)}),
    ANY,
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    # A narrow window: whatever is accepted is soon answered.
    engine = HFEngine(BUNDLED_MODEL, name="tiny", context_tokens=64)
    with serving(Service(engine, "tiny")) as found:
        yield found


def check(url: str, route: str, content: bytes) -> int:
    connection = http.client.HTTPConnection(*address(url), timeout=60)
    try:
        connection.request("POST", route, content, JSON)
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    if response.status == 200:
        assert b'"error"' not in text
        if "json" in response.headers["content-type"]:
            assert isinstance(json.loads(text), dict)
        else:
            assert text.endswith(b"data: [DONE]\n\n")
        return response.status
    assert response.status in (400, 404), text
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["message"], str)
    assert 0 < len(error["message"]) < 1000
    assert isinstance(error["param"], str | None)
    return response.status


seen: set[int] = set()


@settings(max_examples=200)
@given(route=st.sampled_from(ROUTES), body=BODIES)
def test_json_of_any_shape(url: str, route: str, body: Any) -> None:
    seen.add(check(url, route, json.dumps(body).encode()))


@settings(max_examples=40)
@given(route=st.sampled_from(ROUTES), body=BODIES, data=st.data())
def test_bytes_of_any_kind(url: str, route: str, body: Any, data: st.DataObject) -> None:
    content = bytearray(json.dumps(body).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check(url, route, bytes(content))


def test_both_replies_and_errors_were_met(url: str) -> None:
    assert {200, 400} <= seen, "else the bodies were too tame or too wild"
