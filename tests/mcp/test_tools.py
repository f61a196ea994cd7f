"""The tools as an assistant uses them: the protocol's own client and a real process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import serving
from made_pdf import PdfPage, make_pdf
from mcp import Client, StdioServerParameters
from mcp_types import ListRootsResult, Root

import agenticlu
from agenticlu.dialogue.answer import Answer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.server import Service

COMMAND = ["-c", "from agenticlu.cli import main; main()", "mcp"]
SOURCE = str(Path(agenticlu.__file__).parent.parent)
TEXT = "Ada Yardley lives in Wexley. Bo Otis keeps a duck."
ROUND = ("Where is Ada?", "<para 0>", "Ada Yardley lives in Wexley.", "Answer: Wexley", "yes")
MODES = ("auto", "legacy")
"""The protocol of today, and the handshake of older clients."""


class Engine(ScriptedEngine):
    """Counts what it is working on."""

    under_way = 0

    async def _begin(self, *arguments: Any, **options: Any) -> Any:
        self.under_way += 1
        try:
            return await super()._begin(*arguments, **options)
        finally:
            self.under_way -= 1


def play(request: ScriptedRequest) -> str:
    return ROUND[request.turn]


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "town.txt").write_text(TEXT)
    return folder


@pytest.fixture
def served() -> Iterator[tuple[Engine, str]]:
    engine = Engine(play)
    with serving(Service(engine, "m")) as url:
        yield engine, url


def parameters(*words: str, cwd: Path | None = None, **environ: str) -> StdioServerParameters:
    kept = {name: os.environ[name] for name in ("PATH", "XDG_CONFIG_HOME") if name in os.environ}
    return StdioServerParameters(
        command=sys.executable,
        args=[*COMMAND, *words],
        env={**kept, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", **environ},
        cwd=cwd,
    )


def use(
    work: Callable[[Client], Awaitable[Any]], server: StdioServerParameters, **options: Any
) -> Any:
    """Runs some work of a client against a process."""

    async def run() -> Any:
        async with Client(server, **options) as client:
            return await work(client)

    return asyncio.run(run())


async def call(client: Client, name: str, **arguments: Any) -> tuple[bool, str, dict[str, Any]]:
    result = await client.call_tool(name, arguments)
    return result.is_error, result.content[0].text, result.structured_content or {}


@pytest.mark.parametrize("mode", MODES)
def test_a_question_is_answered_with_checked_quotes_and_told_step_by_step(
    mode: str, docs: Path, served: Any
) -> None:
    async def work(client: Client) -> Any:
        told: list[tuple[float, str]] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            told.append((progress, message or ""))

        arguments = {"documents": ["town.txt"], "question": "Where does Ada Yardley live?"}
        return await client.call_tool("ask_document", arguments, progress_callback=note), told

    result, told = use(work, parameters(str(docs), "--base-url", served[1]), mode=mode)
    assert not result.is_error
    text = result.content[0].text
    assert text.startswith("Wexley [1]\n\nSources\n[1] paragraph 0, characters 0-50\n")
    assert "“Ada Yardley lives in Wexley.”" in text
    record = result.structured_content
    assert record["status"] == "supported"
    assert record["claims"][0]["citations"] == [0]
    assert record["locations"][0]["type"] == "char_location"
    assert record["locations"][0]["cited_text"] == "Ada Yardley lives in Wexley."
    assert record.keys() - {"locations"} == Answer.model_fields.keys()
    assert [number for number, _ in told] == [1, 2, 3, 4, 5]
    assert told[1][1] == "Round 1 points to: 0"
    assert told[3][1] == "Round 1 answers: Answer: Wexley"


def test_tools_are_few_and_say_what_they_do(docs: Path) -> None:
    async def work(client: Client) -> Any:
        return (await client.list_tools()).tools, client.instructions

    tools, instructions = use(work, parameters(str(docs)))
    assert {tool.name for tool in tools} == {"ask_document", "read_document", "list_documents"}
    for tool in tools:
        assert tool.name in instructions
        assert tool.title
        assert tool.annotations.read_only_hint
        assert not tool.description.startswith(" ")
        assert "\n  " not in tool.description
        for name, argument in tool.input_schema["properties"].items():
            assert argument["description"], (tool.name, name)


def test_what_goes_wrong_is_an_error_in_words(docs: Path, served: Any) -> None:
    engine, url = served
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7 nothing")
    failing = (ROUND[0], "No paragraph helps.", "Nothing.", "Answer: glass", "no")

    async def work(client: Client) -> None:
        for documents, why in (
            ("/etc/passwd", "not in a folder that may be read"),
            ("absent.txt", "does not exist"),
            ("broken.pdf", "broken.pdf"),
            ("https://a.example/", "--allow-urls"),
        ):
            for tool in ("ask_document", "read_document"):
                more = {"question": "Who?"} if tool == "ask_document" else {}
                is_error, text, _ = await call(client, tool, documents=documents, **more)
                assert is_error
                assert why in text
                assert "Traceback" not in text
        is_error, text, _ = await call(client, "ask_document", documents="town.txt", question=" ")
        assert (is_error, "question is empty" in text) == (True, True)
        is_error, text, _ = await call(client, "ask_document", documents="town.txt")
        assert (is_error, "question" in text) == (True, True)
        engine.replies = lambda request: failing[request.turn]
        is_error, text, record = await call(
            client, "ask_document", documents="town.txt", question="What is it made of?"
        )
        assert not is_error, "that it is not there is an answer"
        assert text.startswith("Unsupported")
        assert record["status"] == "unsupported"

    use(work, parameters(str(docs), "--base-url", url))


def test_a_server_that_is_gone_is_told(docs: Path) -> None:
    async def work(client: Client) -> None:
        is_error, text, _ = await call(
            client, "ask_document", documents="town.txt", question="Where?"
        )
        assert is_error
        assert "127.0.0.1:9" in text
        assert not (await call(client, "read_document", documents="town.txt"))[0], "still here"

    use(work, parameters(str(docs), "--base-url", "http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("mode", MODES)
def test_cancelling_stops_the_models_work(mode: str, docs: Path, served: Any) -> None:
    engine, url = served
    engine.latency_s = lambda request: 0.0 if engine_is_quick else 30.0
    engine_is_quick = False

    async def work(client: Client) -> None:
        nonlocal engine_is_quick
        arguments = {"documents": "town.txt", "question": "Where does Ada Yardley live?"}
        asking = asyncio.ensure_future(client.call_tool("ask_document", arguments))
        async with asyncio.timeout(60):
            while not engine.under_way:
                await asyncio.sleep(0.02)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        async with asyncio.timeout(10):
            while engine.under_way:
                await asyncio.sleep(0.02)
        asked = len(engine.requests)
        engine_is_quick = True
        is_error, text, _ = await call(client, "ask_document", **arguments)
        assert not is_error
        assert text.startswith("Wexley")
        assert len(engine.requests) == asked + len(ROUND), "nothing of the first went on"

    began = time.monotonic()
    use(work, parameters(str(docs), "--base-url", url), mode=mode)
    assert time.monotonic() - began < 30


def test_long_documents_come_in_parts_that_lose_nothing(docs: Path) -> None:
    text = "\n\n".join(
        f"Paragraph {n} tells of kite {n}. " + "So it goes. " * 40 for n in range(300)
    )
    (docs / "long.txt").write_text(text)

    async def work(client: Client) -> None:
        at, seen, replies = 0, [], 0
        while at is not None:
            is_error, said, data = await call(
                client, "read_document", documents="long.txt", paragraph=at
            )
            assert not is_error
            assert len(said) < 26_000
            seen += [(piece["start"], piece["end"]) for piece in data["pieces"]]
            at, replies = data["next_paragraph"], replies + 1
            assert at is None or f"paragraph={at}" in said
        assert replies > 2
        assert (seen[0][0], seen[-1][1]) == (0, len(text))
        assert all(one[1] == other[0] for one, other in itertools.pairwise(seen))
        _, said, data = await call(client, "read_document", documents="long.txt", search="kite 137")
        assert "kite 137." in said
        assert len(data["pieces"]) <= 8
        is_error, said, _ = await call(
            client, "read_document", documents="long.txt", search="zeppelin"
        )
        assert (is_error, "zeppelin" in said) == (True, True)

    use(work, parameters(str(docs)))


def test_pages_files_and_changes_are_seen(docs: Path) -> None:
    pages = [PdfPage(f"BT /F1 14 Tf 72 700 Td (Page {n} tells of Wexley.) Tj ET") for n in (1, 2)]
    (docs / "report.pdf").write_bytes(make_pdf(pages))
    (docs / ".hidden.txt").write_text("hidden")

    async def work(client: Client) -> None:
        _, said, data = await call(client, "list_documents")
        assert data["documents"] == ["report.pdf", "town.txt"]
        assert data["passed_over"] == {"hidden file": 1}
        assert "report.pdf" in said
        _, said, data = await call(client, "read_document", documents="report.pdf", page=2)
        assert "# page 1 to page 2" in said
        assert "Page 2 tells of Wexley." in said
        assert data["pieces"][0]["pages"] == [1, 2]
        _, said, data = await call(client, "read_document", documents=["report.pdf", "town.txt"])
        assert [file["name"] for file in data["files"]] == ["report.pdf", "town.txt"]
        _, _, before = await call(client, "read_document", documents="town.txt")
        (docs / "town.txt").write_text("It is all new.")
        _, said, after = await call(client, "read_document", documents="town.txt")
        assert "It is all new." in said
        assert before["document_id"] != after["document_id"]

    use(work, parameters(str(docs), "--piece-tokens", "64"))  # a piece over both pages


def test_text_of_documents_steers_no_terminal(docs: Path) -> None:
    (docs / "evil.txt").write_text("Before \x1b]0;title\x07 after \u202e turned, and some more.")

    async def work(client: Client) -> None:
        _, said, _ = await call(client, "read_document", documents="evil.txt")
        assert "after" in said
        assert not {"\x1b", "\x07", "\u202e"} & set(said)

    use(work, parameters(str(docs)))


def test_an_older_client_names_its_folders(docs: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()

    async def roots(context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri=docs.as_uri())])

    async def work(client: Client) -> Any:
        return await call(client, "list_documents")

    server = parameters(cwd=tmp_path / "else")
    _, _, data = use(work, server, mode="legacy", list_roots_callback=roots)
    assert data["folders"] == [str(docs)]
    # What the user named comes first.
    server = parameters(str(docs.parent / "else"), cwd=tmp_path)
    is_error, text, _ = use(work, server, mode="legacy", list_roots_callback=roots)
    assert (is_error, "nothing to read" in text) == (True, True)


def test_without_folders_it_is_the_working_folder_but_never_all_of_a_disk(docs: Path) -> None:
    async def work(client: Client) -> Any:
        return await call(client, "list_documents")

    assert use(work, parameters(cwd=docs))[2]["folders"] == [str(docs)]
    for everything in ("/", str(docs)):
        server = parameters(cwd=Path(everything), HOME=str(docs))
        is_error, text, _ = use(work, server)
        assert is_error
        assert "agenticlu mcp FOLDER" in text


def test_the_bundled_model_is_never_taken_for_a_real_one(docs: Path) -> None:
    async def work(client: Client) -> Any:
        return await call(
            client, "ask_document", documents="town.txt", question="Where does Ada Yardley live?"
        )

    is_error, text, record = use(work, parameters(str(docs)))
    assert not is_error
    assert text.startswith("No model was named")
    assert record["answer"] == "Wexley"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_whatever_is_under_way(
    number: signal.Signals, docs: Path, served: Any
) -> None:
    engine, url = served
    engine.latency_s = 60.0
    server = parameters(str(docs), "--base-url", url)
    with subprocess.Popen(
        [server.command, *server.args],
        env=server.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        about = {"protocolVersion": "2025-06-18", "capabilities": {}}
        asked = {"documents": "town.txt", "question": "Where does Ada Yardley live?"}
        for message in (
            {"id": 1, "method": "initialize",
             "params": {**about, "clientInfo": {"name": "t", "version": "0"}}},
            {"method": "notifications/initialized"},
            {"id": 2, "method": "tools/call",
             "params": {"name": "ask_document", "arguments": asked}},
        ):  # fmt: skip
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not engine.under_way:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
        assert process.stderr is not None
        assert "agenticlu: stopped." in process.stderr.read()
        while engine.under_way:
            assert time.monotonic() < deadline, "the server must be told"
            time.sleep(0.02)


def test_standard_output_holds_the_protocol_alone(docs: Path) -> None:
    """A client of no library, which also talks nonsense; the process ends with its input."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}}
    sent = [
        {"id": 1, "method": "initialize",
         "params": {**about, "clientInfo": {"name": "t", "version": "0"}}},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {
            "name": "ask_document",
            "arguments": {"documents": "town.txt", "question": "Where does Ada Yardley live?"}}},
        {"id": 3, "method": "tools/call", "params": {"name": "absent", "arguments": {}}},
    ]  # fmt: skip
    lines = [json.dumps({"jsonrpc": "2.0", **one}) for one in sent]
    lines.insert(2, "this is no JSON \x1b[2J")
    server = parameters(str(docs))
    process = subprocess.Popen(
        [server.command, *server.args],
        env=server.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()
    replies: dict[int, Any] = {}
    while not {1, 2, 3} <= replies.keys():
        message = json.loads(process.stdout.readline())
        assert message["jsonrpc"] == "2.0"
        replies[message.get("id")] = message
    assert replies[1]["result"]["protocolVersion"] == "2025-06-18"
    assert "Wexley" in replies[2]["result"]["content"][0]["text"]
    rest, errors = process.communicate(timeout=30)
    assert rest == ""
    assert process.returncode == 0
    assert "\x1b" not in errors
    assert "Traceback" not in errors
