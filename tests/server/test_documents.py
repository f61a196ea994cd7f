"""Documents asked through the official client of a real server process."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from live_server import address, send
from made_pdf import make_pdf

from agenticlu.demo.world import World
from agenticlu.documents.tokens import load_tokenizer, read_model_hint
from agenticlu.engines import BUNDLED_MODEL

MAIN = "from agenticlu.cli import main; main()"
MODEL = "agenticlu"
pytestmark = [
    pytest.mark.skipif(
        not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
    ),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


class Case:
    """A document of the world that the bundled model knows, as a text and as a PDF of two pages."""

    def __init__(self, folder: Path) -> None:
        count = load_tokenizer(str(BUNDLED_MODEL)).count
        made = World(seed=3).document("test", 0, 400, count)
        self.question = made.questions[0].text
        self.other = made.questions[1].text
        self.text = folder / "town.txt"
        self.text.write_text(made.text)
        words, lines = made.text.split(), [""]
        for word in words:
            if len(lines[-1]) > 70:
                lines.append("")
            lines[-1] += f"{word} "
        half = len(lines) // 2
        shown = [
            "BT /F1 10 Tf 14 TL 40 720 Td " + "".join(f"({one}) Tj T* " for one in part) + "ET"
            for part in (lines[:half], lines[half:])
        ]
        self.pdf = folder / "town.pdf"
        self.pdf.write_bytes(make_pdf(shown))

    def asked(self, *files: Path, question: str = "") -> dict[str, Any]:
        """What `agenticlu ask --json` says."""
        command = ["ask", *map(str, files), question or self.question, "--json", "--quiet"]
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *command], capture_output=True, text=True, timeout=120
        )
        assert done.returncode in (0, 10), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server over the bundled model; temporary files lie where a test can look."""
    temporary = tmp_path_factory.mktemp("temporary")
    started = subprocess.Popen(
        [sys.executable, "-c", MAIN, "serve", "--port", "0", "--max-file-mib", "1"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert found, f"{line!r}, exit {started.poll()}"
        (folder,) = temporary.glob("agenticlu-files-*")
        assert folder.stat().st_mode & 0o777 == 0o700
        yield found.group()
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 0
        assert started.stdout is not None
        started.stdout.close()
        assert not list(temporary.glob("agenticlu-files-*")), "uploaded files do not outlive it"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as found:
        yield found


def data_url(path: Path, kind: str = "application/pdf") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def inline(path: Path) -> dict[str, Any]:
    return {"type": "input_file", "filename": path.name, "file_data": data_url(path)}


def text(said: str) -> dict[str, Any]:
    return {"type": "input_text", "text": said}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def chat_file(path: Path) -> dict[str, Any]:
    return {"type": "file", "file": {"filename": path.name, "file_data": data_url(path)}}


def places(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Where an answer's record points."""
    return [
        (one["quote"], one["page"], one["quote_start"], one["verified"], one["rectangles"])
        for one in answer["citations"]
    ]


def told(annotations: Any) -> list[tuple[Any, ...]]:
    """Where annotations point; each citation once, in order."""
    found = {}
    for one in annotations:
        own = one["agenticlu"] if isinstance(one, dict) else one.agenticlu
        found[own["citation"]] = (
            own["quote"],
            own["page"],
            own["start"],
            own["verified"],
            own["rectangles"],
        )
    return [found[index] for index in sorted(found)]


# --- The same answer through every door -----------------------------------------------------------


def test_every_door_gives_the_same_answer_and_places(client: openai.OpenAI, case: Case) -> None:
    expected = case.asked(case.pdf)
    assert expected["citations"], "the case must have places to compare"
    assert any(one["rectangles"] for one in expected["citations"])
    uploaded = client.files.create(file=case.pdf.open("rb"), purpose="user_data")
    asked = user({"type": "input_file", "file_id": uploaded.id}, text(case.question))
    response = client.responses.create(model=MODEL, input=[asked])
    assert response.status == "completed"
    assert response.output_text == expected["statement"] != ""
    thoughts, message = response.output
    assert (thoughts.type, message.type) == ("reasoning", "message")
    assert len(thoughts.summary) == len(expected["turns"])
    assert message.content[0].annotations
    assert {one.file_id for one in message.content[0].annotations} == {uploaded.id}
    assert {one.filename for one in message.content[0].annotations} == {"town.pdf"}
    assert told(message.content[0].annotations) == places(expected)
    assert response.usage is not None
    assert response.usage.output_tokens == expected["usage"]["completion_tokens"]
    record = response.agenticlu  # type: ignore[attr-defined]
    assert record["claims"] == expected["claims"]
    assert record["status"] == expected["status"]

    messages = [user(chat_file(case.pdf), {"type": "text", "text": case.question})]
    completion = client.chat.completions.create(model=MODEL, messages=messages)  # type: ignore[arg-type]
    said = completion.choices[0].message
    assert (completion.model, completion.choices[0].finish_reason) == (MODEL, "stop")
    assert said.content == expected["statement"]
    assert told(said.annotations) == places(expected)

    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=messages,  # type: ignore[arg-type]
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    streamed = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert streamed == expected["statement"]
    last = [one for one in chunks if one.choices][-1].choices[0]
    assert last.finish_reason == "stop"
    assert told(last.delta.annotations) == places(expected)  # type: ignore[attr-defined]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == expected["usage"]["completion_tokens"]
    assert case.question not in streamed


def test_a_stream_has_the_events_in_the_standards_order(client: openai.OpenAI, case: Case) -> None:
    asked = [user(inline(case.pdf), text(case.question))]
    events = list(client.responses.create(model=MODEL, input=asked, stream=True))
    assert [one.sequence_number for one in events] == list(range(len(events)))
    kinds = [one.type.removeprefix("response.") for one in events]
    without_repeats = [kind for i, kind in enumerate(kinds) if i == 0 or kinds[i - 1] != kind]
    part = [
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
    assert without_repeats == [
        *("created", "in_progress", "output_item.added"),
        *(part * 5),
        *("output_item.done", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.annotation.added", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    final = events[-1].response
    assert final.output_text == "".join(
        one.delta for one in events if one.type == "response.output_text.delta"
    )
    annotations = [one.annotation.model_dump() for one in events if "annotation" in one.type]
    found = final.output[1].content[0].annotations
    assert annotations == [one.model_dump() for one in found] != []
    summaries = [one.text for one in events if one.type == "response.reasoning_summary_text.done"]
    assert summaries == [one.text for one in final.output[0].summary]
    deltas = [one.delta for one in events if one.type == "response.reasoning_summary_text.delta"]
    assert "".join(deltas) == "".join(summaries)
    with client.responses.stream(model=MODEL, input=asked) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == final.output_text


def test_several_files_are_one_reading(client: openai.OpenAI, case: Case, tmp_path: Path) -> None:
    rain = tmp_path / "rain.txt"
    rain.write_text("It rained for nine days and nine nights. Then the sun came out.\n")
    response = client.responses.create(
        model=MODEL, input=[user(inline(rain), inline(case.text), text(case.question))]
    )
    record = response.agenticlu  # type: ignore[attr-defined]
    files = {one["file"]["name"] for one in record["citations"]}
    assert files == {"town.txt"}
    found = response.output[1].content[0].annotations
    whole = case.text.read_text()
    for one in found:
        own = one.agenticlu
        assert whole[own["start"] : own["end"]] == own["quote"]


def test_text_before_the_question_is_a_document(client: openai.OpenAI, case: Case) -> None:
    expected = case.asked(case.text)
    whole = case.text.read_text().strip()
    for asked in (
        f"{whole}\n\n{case.question}",
        [{"type": "text", "text": whole}, {"type": "text", "text": case.question}],
    ):
        reply = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": asked}],  # type: ignore[list-item,misc]
        )
        assert reply.choices[0].message.content == expected["statement"]
        assert {one.filename for one in reply.choices[0].message.annotations} == {"message.txt"}  # type: ignore[union-attr]
    with pytest.raises(openai.BadRequestError, match="There is no document to read") as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": case.question}]
        )
    assert caught.value.code == "document_missing"
    assert "bundled" not in str(caught.value)


def test_options_and_rounds_are_ours_to_give(client: openai.OpenAI, case: Case) -> None:
    own = {"options": ["a lamp", "a kite"], "rounds": 2}
    response = client.responses.create(
        model=MODEL,
        input=[user(inline(case.text), text(case.question))],
        extra_body={"agenticlu": own},
    )
    record = response.agenticlu  # type: ignore[attr-defined]
    assert record["options"] == own["options"]
    assert record["answer"] in ("", "A", "B")


# --- Models and files -----------------------------------------------------------------------------


def test_both_models_are_listed_and_the_plain_one_samples_as_ever(
    client: openai.OpenAI, url: str, case: Case
) -> None:
    plain, dialogue = [one.id for one in client.models.list().data]
    assert dialogue == MODEL
    assert client.models.retrieve(MODEL).id == MODEL
    messages: Any = [{"role": "user", "content": "Who?"}]
    assert client.chat.completions.create(model=plain, messages=messages, max_tokens=2).usage
    with pytest.raises(openai.BadRequestError, match="read by the model 'agenticlu'"):
        client.chat.completions.create(
            model=plain,
            messages=[user(chat_file(case.pdf), {"type": "text", "text": "?"})],  # type: ignore[list-item]
        )
    with pytest.raises(openai.BadRequestError, match="asked at /v1/chat/completions"):
        client.responses.create(model=plain, input="Who?")
    with pytest.raises(openai.BadRequestError, match="continues no text"):
        client.completions.create(model=MODEL, prompt="The mill")
    # A command that names no model is not made to choose.
    command = ["ask", str(case.text), case.question, "--json", "--quiet", "--base-url", url]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode in (0, 10), done.stderr


def test_files_are_kept_listed_fetched_and_deleted(client: openai.OpenAI, case: Case) -> None:
    content = case.pdf.read_bytes()
    first = client.files.create(file=("../a b.pdf", content), purpose="assistants")
    second = client.files.create(file=("b.txt", b"The fee was nine crowns."), purpose="user_data")
    assert (first.filename, first.bytes, first.purpose) == ("a b.pdf", len(content), "assistants")
    listed = [one.id for one in client.files.list()]
    assert {first.id, second.id} <= set(listed)
    assert [one.id for one in client.files.list(purpose="assistants")] == [first.id]
    pages = client.files.list(limit=1)
    assert len(pages.data) == 1
    assert [one.id for one in pages] == listed, "page after page"
    assert client.files.retrieve(first.id) == first
    assert client.files.content(first.id).read() == content
    assert client.files.delete(first.id).deleted
    for ask in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(first.id)
        assert caught.value.code == "file_not_found"
    asked = user({"type": "input_file", "file_id": first.id}, text("What was the fee?"))
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model=MODEL, input=[asked])
    assert caught.value.param == "input[0].content[0]"
    client.files.delete(second.id)


def test_uploads_are_bounded(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("big.txt", b"x" * (1 << 21)), purpose="user_data")
    assert (caught.value.status_code, caught.value.code) == (413, "file_too_large")
    with pytest.raises(openai.BadRequestError, match="'purpose' must be one of"):
        client.files.create(file=("a.txt", b"x"), purpose="fun")  # type: ignore[arg-type]
    form = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nhi\r\n'
        b"--x--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert send(url, "/v1/files", form, kind)[0] == 200
    host = "{}:{}".format(*address(url))
    assert send(url, "/v1/files", form, kind | {"Origin": f"http://{host}"})[0] == 200
    for origin in ("https://evil.example", "null"):
        status, _, body = send(url, "/v1/files", form, kind | {"Origin": origin})
        assert (status, body["error"]["code"]) == (403, "origin_not_allowed")
    for wrong in (b"", b"--x", form.replace(b"filename", b"other"), form + form):
        assert send(url, "/v1/files", wrong, kind)[0] in (200, 400)
    assert send(url, "/v1/files", b"{}", {"Content-Type": "application/json"})[0] == 415
    assert send(url, "/v1/files?limit=0")[0] == 400


# --- Conversations --------------------------------------------------------------------------------


def test_responses_can_be_fetched_followed_and_deleted(client: openai.OpenAI, case: Case) -> None:
    first = client.responses.create(
        model=MODEL, input=[user(inline(case.text), text(case.question))]
    )
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(model=MODEL, input=case.other, previous_response_id=first.id)
    assert second.previous_response_id == first.id
    record = second.agenticlu  # type: ignore[attr-defined]
    assert record["question"] == case.other
    assert record["document_id"] == first.agenticlu["document_id"]  # type: ignore[attr-defined]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(first.id)
    assert caught.value.code == "response_not_found"
    unkept = client.responses.create(
        model=MODEL, input=[user(inline(case.text), text(case.question))], store=False
    )
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=MODEL, input="Who?", previous_response_id=unkept.id)


def test_a_reply_can_be_sent_back_as_it_came(client: openai.OpenAI, case: Case) -> None:
    asked = user(inline(case.text), text(case.question))
    first = client.responses.create(model=MODEL, input=[asked])
    second = client.responses.create(
        model=MODEL,
        input=[asked, *[one.model_dump() for one in first.output], user(text(case.other))],
    )
    assert second.agenticlu["question"] == case.other  # type: ignore[attr-defined]
    messages: list[Any] = [user(chat_file(case.text), {"type": "text", "text": case.question})]
    said = client.chat.completions.create(model=MODEL, messages=messages).choices[0].message
    messages += [said.model_dump(), {"role": "user", "content": case.other}]
    third = client.chat.completions.create(model=MODEL, messages=messages)
    assert third.agenticlu["question"] == case.other  # type: ignore[attr-defined]
    assert third.choices[0].message.content == second.output_text


# --- What is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ({"input": 3}, "input", "a string or a list"),
        ({"input": []}, "input", "at least one item"),
        ({"input": "Who?"}, "input", "no document"),
        ({"input": "A.\n\nWho?", "tools": [{"type": "file_search"}]}, "tools", "not support"),
        ({"input": "A.\n\nWho?", "foo": 1}, "foo", "Unknown field"),
        ({"input": "A.\n\nWho?", "max_output_tokens": 3}, "max_output_tokens", "at least that"),
        ({"input": "A.\n\nWho?", "reasoning": {"effort": "odd"}}, "reasoning.effort", "one of"),
        ({"input": "A.\n\nWho?", "agenticlu": {"round": 1}}, "agenticlu.round", "rounds"),
        ({"input": "A.\n\nWho?", "temperature": 3}, "temperature", "from 0 to 2"),
        ({"input": "A.\n\nWho?", "previous_response_id": 1}, "previous_response_id", "a string"),
        ({"input": "A.\n\nWho?", "model": "gpt"}, "model", "does not exist"),
        ({"input": [{"type": "function_call"}]}, "input[0].type", "takes messages"),
        ({"input": [user({"type": "input_image"})]}, "input[0].content[0].type", "input_file"),
        ({"input": [user({"type": "input_file"})]}, "input[0].content[0]", "either 'file_id'"),
        (
            {"input": [user({"type": "input_file", "file_url": "http://a/b"}, text("?"))]},
            "input[0].content[0].file_url",
            "fetches nothing",
        ),
        (
            {"input": [user({"type": "input_file", "file_data": "%%"}, text("?"))]},
            "input[0].content[0].file_data",
            "not base64",
        ),
        (
            {"input": [user({"type": "input_file", "file_data": ""}, text("?"))]},
            None,
            "is empty",
        ),
        (
            {"input": [user({"type": "input_file", "file_data": "AAAA"}), user(text(" "))]},
            "input",
            "question is empty",
        ),
    ],
)
def test_errors_name_what_is_wrong(url: str, body: Any, param: str | None, told: str) -> None:
    status, _, reply = send(url, "/v1/responses", {"model": MODEL} | body)
    assert 400 <= status < 500
    assert told in reply["error"]["message"]
    assert reply["error"]["param"] == param
    assert reply["error"]["type"] == "invalid_request_error"


def test_an_unreadable_document_is_the_clients_error(client: openai.OpenAI) -> None:
    broken = {"type": "input_file", "filename": "a.pdf", "file_data": "JVBERi0xLjcKJSVFT0YK"}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(model=MODEL, input=[user(broken, text("Who?"))], stream=stream)
        assert caught.value.code == "unreadable_document"


def test_a_client_that_goes_away_ends_the_work(client: openai.OpenAI, case: Case) -> None:
    asked = [user(inline(case.text), text(case.question))]
    slow = {"agenticlu": {"rounds": 8}}
    with client.responses.create(model=MODEL, input=asked, stream=True, extra_body=slow) as events:
        assert next(iter(events)).type == "response.created"
    began = time.monotonic()
    assert client.models.list().data
    assert time.monotonic() - began < 10


def test_documents_are_asked_over_the_model_of_another_server(
    client: openai.OpenAI, url: str, case: Case
) -> None:
    started = subprocess.Popen(
        [
            *(sys.executable, "-c", MAIN, "serve", "--port", "0", "--upstream", url),
            *("--tokenizer", str(BUNDLED_MODEL), "--name", "over"),
            *("--piece-tokens", str(read_model_hint(BUNDLED_MODEL, "piece_tokens"))),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert started.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/v1", started.stdout.readline())
        assert found
        asked = [user(inline(case.pdf), text(case.question))]
        with openai.OpenAI(base_url=found.group(), api_key="none", max_retries=0) as over:
            assert [one.id for one in over.models.list()] == ["over", MODEL]
            there = over.responses.create(model=MODEL, input=asked)
            plain = over.chat.completions.create(
                model="over", messages=[{"role": "user", "content": "Who?"}], max_tokens=4
            )
        assert plain.usage is not None
        here = client.responses.create(model=MODEL, input=asked)
        assert there.output_text == here.output_text
        assert told(there.output[1].content[0].annotations) == told(
            here.output[1].content[0].annotations
        )
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 0
        assert started.stdout is not None
        started.stdout.close()


def test_settings_of_models_in_process_do_not_go_with_another_server(url: str) -> None:
    command = ["serve", "--upstream", url, "--max-batch", "3", "--port", "0"]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--max-batch is about a model in this process" in done.stderr
