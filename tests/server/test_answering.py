"""What a server over a scripted model does where a client goes, a model fails, a turn is told."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from live_server import JSON, address, send, serving

from agenticlu.core.errors import EngineUnreachableError
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.server import Service, uploads
from agenticlu.server.desk import Desk, Shelf
from agenticlu.server.uploads import FileStore

TOKENIZER = ApproximateTokenizer()
TEXT = "The mill of Vell was built by Mara Otis.\n\nThe fee was nine crowns a sack.\n"
ROUND = [
    "Who built it?",
    "<para 0>",
    "Mara Otis built the mill.",
    "The mill of Vell was built by Mara Otis. Answer: Mara Otis",
    "yes",
]
ASKED = {"model": "agenticlu", "input": f"{TEXT}\nWho built the mill?"}
ROUTE = "/v1/responses"


@contextmanager
def scripted(folder: Path, replies: Any = ROUND, **options: Any) -> Iterator[tuple[str, Any]]:
    engine = ScriptedEngine(replies, tokenizer=TOKENIZER, **options)
    desk = Desk(TOKENIZER, load_profile(), 64, FileStore(folder))
    with serving(Service(engine, "script", desk=desk)) as url:
        yield url, engine


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def by_turn(replies: list[str]) -> Callable[[ScriptedRequest], str]:
    return lambda request: replies[request.turn % len(replies)]


def test_the_trail_grows_word_by_word(tmp_path: Path) -> None:
    messages: Any = [{"role": "user", "content": ASKED["input"]}]
    with (
        scripted(tmp_path, by_turn(ROUND)) as (url, _),
        openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        events = list(client.responses.create(**ASKED, stream=True))
        asked: Any = {"model": "agenticlu", "messages": messages, "stream": True}
        chunks = list(client.chat.completions.create(**asked))
    deltas = [
        one.delta
        for one in events
        if one.type == "response.reasoning_summary_text.delta" and one.summary_index == 2
    ]
    assert "".join(deltas) == "**Finds**\n\nMara Otis built the mill."
    assert len(deltas) > 2
    parts = [one.text for one in events if one.type == "response.reasoning_summary_text.done"]
    assert parts[1] == "**Points to**\n\nparagraph 0"
    assert parts[3].endswith("Answer: Mara Otis")
    final = events[-1].response
    assert final.output_text == "Mara Otis"
    assert final.output[1].content[0].annotations[0].agenticlu["verified"]
    reasoning = [getattr(one.choices[0].delta, "reasoning_content", None) for one in chunks]
    assert "".join(filter(None, reasoning)) == "\n\n".join(parts) + "\n\n"


def test_a_follow_up_knows_what_was_asked(tmp_path: Path) -> None:
    with scripted(tmp_path, by_turn(ROUND)) as (url, engine):
        _, _, first = send(url, ROUTE, ASKED)
        follow = {
            "model": "agenticlu",
            "input": "And the fee?",
            "previous_response_id": first["id"],
        }
        status, _, second = send(url, ROUTE, follow)
        assert status == 200, second
        assert second["agenticlu"]["question"] == "And the fee?"
        shown = engine.requests[-1].messages[1].content
        assert "Who built the mill?" in shown
        assert "Mara Otis" in shown
        conversation = [
            {"role": "user", "content": ASKED["input"]},
            {"role": "assistant", "content": "Mara Otis"},
            {"role": "user", "content": "And the fee?"},
        ]
        body = {"model": "agenticlu", "messages": conversation}
        status, _, third = send(url, "/v1/chat/completions", body)
        assert status == 200, third
        assert engine.requests[-1].messages[1].content == shown
        ruled = {**ASKED, "instructions": "Be brief."}
        assert send(url, ROUTE, ruled)[2]["agenticlu"]["question"].startswith("Be brief.")


def test_a_client_that_goes_away_ends_the_work(tmp_path: Path) -> None:
    with scripted(tmp_path, by_turn(ROUND), latency_s=0.2) as (url, engine):
        for stream in (True, False):
            before = len(engine.requests)
            connection = http.client.HTTPConnection(*address(url))
            connection.request("POST", ROUTE, json.dumps({**ASKED, "stream": stream}), JSON)
            until(lambda: len(engine.requests) > before, "the model is asked")  # noqa: B023
            connection.close()
            time.sleep(0.5)
            asked = len(engine.requests)
            assert asked < before + 5
            time.sleep(0.5)
            assert len(engine.requests) == asked, "nothing is asked for nobody"


def test_a_model_that_fails_is_told_as_it_happens(tmp_path: Path) -> None:
    fault = EngineUnreachableError("No server answers.")
    with scripted(tmp_path, by_turn(ROUND), faults={2: fault, 7: fault}) as (url, _):
        status, _, body = send(url, ROUTE, ASKED)
        assert (status, body["error"]["message"]) == (502, "No server answers.")
        connection = http.client.HTTPConnection(*address(url))
        connection.request("POST", ROUTE, json.dumps({**ASKED, "stream": True}), JSON)
        told = connection.getresponse().read().decode()
        connection.close()
    events = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: {")]
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["message"] == "No server answers."
    assert told.endswith("data: [DONE]\n\n")


def test_a_document_beyond_the_window_is_read_by_spans_or_refused(tmp_path: Path) -> None:
    long = "".join(f"Person{i} lives in Town{i}.\n" for i in range(900))
    asked = {"model": "agenticlu", "input": f"{long}\n\nWhere does Person7 live?"}
    weights = {"Person7 ": "yes", "": "no"}
    with scripted(tmp_path, by_turn(ROUND), context_tokens=3000, weights=weights) as (url, _):
        _, _, body = send(url, ROUTE, asked)
        assert any("Read by spans" in note for note in body["agenticlu"]["notes"])
        status, _, body = send(url, ROUTE, {**asked, "agenticlu": {"spans": False}})
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")


def test_the_same_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agenticlu.server import desk as module

    parsed: list[str] = []
    read = module.read_document

    def counted(data: bytes, name: str) -> Any:
        parsed.append(name)
        time.sleep(0.2)
        return read(data, name)

    monkeypatch.setattr(module, "read_document", counted)
    with scripted(tmp_path, by_turn(ROUND)) as (url, _):
        threads = [threading.Thread(target=send, args=(url, ROUTE, ASKED)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert parsed == ["message.txt"]


def test_files_stay_in_a_folder_that_was_named(tmp_path: Path) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="mill.txt"\r\n\r\n'
        + TEXT.encode()
        + b"\r\n--x--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    folder = tmp_path / "kept"
    with scripted(folder) as (url, _):
        number = send(url, "/v1/files", form, kind)[2]["id"]
    (folder / "file-0.json").write_text("{}")
    with scripted(folder) as (url, _):
        listed = send(url, "/v1/files")[2]["data"]
        assert [one["id"] for one in listed] == [number]
        assert send(url, f"/v1/files/{number}/content")[2] == TEXT.encode()
        for wrong in ("..", "%2e%2e", f"{number}%2f..", "file-0"):
            assert send(url, f"/v1/files/{wrong}")[0] == 404
            assert send(url, f"/v1/files/{wrong}/content")[0] == 404


def test_all_files_together_are_bounded(tmp_path: Path) -> None:
    store = FileStore(tmp_path, file_bytes=100, total_bytes=150)
    kept = store.add(io.BytesIO(b"x" * 100), "a.txt", "user_data")
    with pytest.raises(Exception, match="delete some"):
        store.add(io.BytesIO(b"x" * 60), "b.txt", "user_data")
    assert len(list(tmp_path.iterdir())) == 2, "nothing stays of what was refused"
    store.delete(kept.id)
    assert list(tmp_path.iterdir()) == []
    store.add(io.BytesIO(b"x" * 60), "b.txt", "user_data")


def test_uploads_under_way_take_room_too(tmp_path: Path) -> None:
    """Else many at once would fill the disk, each below the limit of one."""
    store = FileStore(tmp_path, file_bytes=100, total_bytes=150)
    with store.arriving() as first:
        first(90)
        with store.arriving() as second, pytest.raises(Exception, match="delete some"):
            second(70)
        first(50)
    store.add(io.BytesIO(b"x" * 100), "a.txt", "user_data")


def test_files_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    store = FileStore(tmp_path)
    for number in range(2):
        store.add(io.BytesIO(b""), f"{number}.txt", "user_data")
    with pytest.raises(Exception, match="2 files are kept"):
        store.add(io.BytesIO(b""), "more.txt", "user_data")
    kept = list(tmp_path.iterdir())
    assert len(kept) == 4
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}, "for their owner alone"


def test_a_shelf_keeps_the_latest() -> None:
    import asyncio

    made: list[str] = []

    async def use() -> None:
        shelf: Shelf[str] = Shelf(2)

        async def make(key: str) -> str:
            made.append(key)
            return key

        for key in ("a", "b", "a", "c", "a", "b"):
            assert await shelf.get(key, lambda key=key: make(key)) == key  # type: ignore[misc]

    asyncio.run(use())
    assert made == ["a", "b", "c", "b"]


def test_sources_can_stand_in_the_text(tmp_path: Path) -> None:
    said = "The mill of Vell was built by Mara Otis. The king was pleased by this."
    replies = by_turn([*ROUND[:3], said, "yes"])
    body = {"model": "agenticlu", "messages": [{"role": "user", "content": ASKED["input"]}]}
    with scripted(tmp_path, replies) as (url, _):
        plain = send(url, "/v1/chat/completions", body)[2]["choices"][0]["message"]
        body["agenticlu"] = {"sources": True}
        named = send(url, "/v1/chat/completions", body)[2]["choices"][0]["message"]
        response = send(url, ROUTE, {**ASKED, "agenticlu": {"sources": True}})[2]
    assert plain["content"] == said
    assert named["content"] == (
        "The mill of Vell was built by Mara Otis. [1] The king was pleased by this."
        "\n\nSources:\n[1] message.txt: “The mill of Vell was built by Mara Otis.”"
    )
    assert response["output"][1]["content"][0]["text"] == named["content"]
    lost = by_turn([ROUND[0], "none", *ROUND[2:3], said, "no"])
    with scripted(tmp_path, lost) as (url, _):
        noted = send(url, "/v1/chat/completions", body)[2]
    text = noted["choices"][0]["message"]["content"]
    notes = noted["agenticlu"]["notes"]
    assert notes
    assert text.endswith("".join(f"\nNote: {note}" for note in notes))
    for message in (plain, named):
        (found,) = message["annotations"]
        assert message["content"][: found["index"]] == "The mill of Vell was built by Mara Otis."
    desk = Desk(TOKENIZER, load_profile(), 64, FileStore(tmp_path), sources=True)
    with serving(Service(ScriptedEngine(replies), "script", desk=desk)) as url:
        del body["agenticlu"]
        message = send(url, "/v1/chat/completions", body)[2]["choices"][0]["message"]
        assert message["content"] == named["content"]
