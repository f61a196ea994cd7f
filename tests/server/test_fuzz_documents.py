"""Whatever is asked about whatever file, the answer is a reply or an error in the API's form."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import address, serving

from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.server import Service
from agenticlu.server.desk import Desk
from agenticlu.server.inquiry import CHAT_FIELDS, RESPONSES_FIELDS
from agenticlu.server.uploads import FileStore

TOKENIZER = ApproximateTokenizer()
ROUND = ("Who?", "<para 0>", "Ada lives there.", "Ada lives in Vell.", "yes")
TEXT = "Ada lives in Vell.\n\nBo keeps a duck."
GOOD = f"{TEXT}\n\nWho?"
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.sampled_from(["", "user", "input_text", "\x00", "<para 0>", "🎉", "low"]),
    st.text(max_size=20),
)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
DATA = st.sampled_from(
    [base64.b64encode(TEXT.encode()).decode(), "data:text/plain;base64,QWRh", "%", "", "QQ="]
)
FILE = st.fixed_dictionaries(
    {}, optional={"file_data": DATA | ANY, "file_id": ANY, "filename": ANY, "file_url": ANY}
)
PART = st.one_of(
    st.builds(lambda text: {"type": "input_text", "text": text}, ANY | st.just("Who?")),
    st.builds(lambda text: {"type": "text", "text": text}, ANY | st.just("Who?")),
    st.builds(lambda file: {"type": "input_file", **file}, FILE),
    st.builds(lambda file: {"type": "file", "file": file}, FILE | ANY),
    ANY,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "user", "assistant", "system", "tool"])},
    optional={
        "content": st.lists(PART, max_size=3) | st.just(GOOD) | ANY,
        "type": st.just("message") | ANY,
        "annotations": ANY,
    },
)
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": GOOD}]})
INPUT = st.lists(MESSAGE, max_size=3) | st.just(GOOD) | ANY
OWN = st.fixed_dictionaries({}, optional={"rounds": ANY, "spans": ANY, "options": ANY}) | ANY
NAMES = sorted({*CHAT_FIELDS, *RESPONSES_FIELDS, "n", "text", "tools"} - {"input", "messages"})
seen: set[tuple[str, int]] = set()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = ScriptedEngine(lambda request: ROUND[request.turn % 5], tokenizer=TOKENIZER)
    files = FileStore(tmp_path_factory.mktemp("files"))
    desk = Desk(TOKENIZER, load_profile(), 64, files)
    with serving(Service(engine, "script", desk=desk)) as found:
        yield found


def check(url: str, route: str, content: bytes, kind: str = "application/json") -> int:
    connection = http.client.HTTPConnection(*address(url), timeout=60)
    try:
        connection.request("POST", route, content, {"Content-Type": kind})
        response = connection.getresponse()
        text = response.read()
    finally:
        connection.close()
    seen.add((route, response.status))
    if response.status == 200:
        assert b"response.failed" not in text
        return response.status
    assert response.status in (400, 404), text
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert 0 < len(error["message"]) < 1500
    return response.status


@settings(max_examples=300, deadline=None)
@given(
    given=st.one_of(
        st.sampled_from([("/v1/responses", {"input": GOOD}), CHAT]),
        st.tuples(st.just("/v1/responses"), st.fixed_dictionaries({"input": INPUT})),
        st.tuples(st.just("/v1/chat/completions"), st.fixed_dictionaries({"messages": INPUT})),
    ),
    more=st.dictionaries(st.sampled_from(NAMES), ANY, max_size=2),
    own=st.none() | OWN,
    stream=st.booleans(),
)
def test_requests_of_any_shape(
    url: str, given: tuple[str, dict[str, Any]], more: dict[str, Any], own: Any, stream: bool
) -> None:
    route, body = given
    body = {"model": "agenticlu", "stream": stream, **body, **more}
    if own is not None:
        body["agenticlu"] = own
    check(url, route, json.dumps(body).encode())


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=200),
    name=st.text(max_size=12),
    field=st.just("purpose") | st.text(max_size=6),
)
def test_forms_of_any_shape(url: str, data: bytes, name: str, field: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    more = f'\r\n--x\r\nContent-Disposition: form-data; name="{field}"\r\n\r\nuser_data'.encode()
    kind = "multipart/form-data; boundary=x"
    check(url, "/v1/files", head + data + more + b"\r\n--x--\r\n", kind)
    check(url, "/v1/files", data, kind)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=120), name=st.sampled_from(["a.pdf", "a.docx", "a.txt", "a.csv"]))
def test_documents_of_any_bytes(url: str, data: bytes, name: str) -> None:
    file = {
        "type": "input_file",
        "filename": name,
        "file_data": base64.b64encode(data).decode(),
    }
    asked = [{"role": "user", "content": [file, {"type": "input_text", "text": "Who?"}]}]
    check(url, "/v1/responses", json.dumps({"model": "agenticlu", "input": asked}).encode())


def test_both_replies_and_errors_were_met() -> None:
    routes = ("/v1/responses", "/v1/chat/completions", "/v1/files")
    every = {(route, status) for route in routes for status in (200, 400)}
    assert every <= seen, "else the bodies were too tame or too wild"
