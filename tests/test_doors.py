"""Every way in gives the same answer with the same places: real processes, official clients."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import openai
import pytest
from live_server import serving
from made_documents import DOCUMENTS, SAID
from made_harbour import FILLER, reply_from
from made_pdf import by_rows, column, make_pdf
from mcp import Client as McpClient
from mcp import StdioServerParameters

import agenticlu
from agenticlu.dialogue.stopping import StopRule
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.server import Service

MAIN = "from agenticlu.cli import main; main()"
SOURCE = str(Path(agenticlu.__file__).parent.parent)
QUESTION = "Who built the mill?"
BY_PROCESS = ("columns.pdf", "a.xlsx", "several")
"""Readings that are asked where each takes a process of its own, or where two routes share one."""
PRICES = ("--price-in", "2", "--price-out", "6")
OF_THE_RUN = {"seconds", "usage", "setup", "cost", "source", "document_id", "turns"}
"""Fields of an answer that tell of the run and of where a file lay, not of what was found."""
Door = tuple[dict[str, Any], list[str]]
"""Answers by the reading's name; and what is said of a broken PDF and of an empty question."""
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def two_columns() -> bytes:
    """A page of two columns, drawn row by row; the sentence runs over lines of the first."""
    first = [*FILLER[:2], "Ada Larkin built the", "mill in 1802."]
    left = column(50, 700, [line[:34] for line in first])
    right = column(320, 700, [line[:34] for line in FILLER])
    return make_pdf([by_rows(left, right)])


def over_pages() -> bytes:
    """Two pages; the sentence begins on the first and ends on the second."""
    lines = [FILLER[number % 4] for number in range(40)]
    first = [*lines, "and it is known to all clerks of the harbour that Ada Larkin built"]
    second = ["the mill in 1802. " + FILLER[0], *lines]
    return make_pdf(["".join(column(60, 740, one)) for one in (first, second)])


def write_all(folder: Path) -> list[str]:
    """Writes ten readings; returns their names."""
    files = {
        "columns.pdf": two_columns(),
        "pages.pdf": over_pages(),
        **{name: DOCUMENTS[name]() for name in DOCUMENTS if name.endswith(KINDS)},
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7 and nothing more")
    several = folder / "several"
    several.mkdir()
    (several / "empty-of-it.txt").write_text("\n\n".join(FILLER))
    (several / "pages.pdf").write_bytes(over_pages())
    (several / "sheet.xlsx").write_bytes(DOCUMENTS["a.xlsx"]())
    return [*files, "several"]


REFUSED = (("broken.pdf", QUESTION), ("a.md", " "))
KINDS = (".docx", ".xlsx", ".pptx", ".epub", ".html", ".md", ".csv")


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with serving(Service(ScriptedEngine(reply_from), "m")) as url:
        yield url


def found(record: dict[str, Any]) -> dict[str, Any]:
    """What an answer says, where that stands, and what it cost; files by their names alone."""
    kept = {name: value for name, value in record.items() if name not in OF_THE_RUN}
    kept["left_out"] = {Path(name).name: value for name, value in record["left_out"].items()}
    usage, setup = record["usage"], record["setup"]
    kept["asked"] = {name: usage[name] - setup[name] for name in usage if name != "cached_tokens"}
    price = (2 * usage["prompt_tokens"] + 6 * usage["completion_tokens"]) / 1e6
    assert record["cost"] == pytest.approx(price)
    kept["citations"] = [
        one | {"file": one["file"] and one["file"] | {"source": Path(one["file"]["source"]).name}}
        for one in record["citations"]
    ]
    return kept


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1"}


@contextmanager
def process(*words: str) -> Iterator[str]:
    """Runs a command until the block ends; yields the address that it prints."""
    started = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words, *PRICES],
        stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert started.stdout is not None
    try:
        line = started.stdout.readline()
        address = re.search(r"http://\S+", line)
        assert address, f"{line!r}, exit {started.poll()}"
        yield address.group()
    finally:
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == 0
        started.stdout.close()


def by_python(folder: Path, names: list[str], url: str) -> Door:
    """`agenticlu.ask`."""
    prices, answers, refused = agenticlu.Prices(2, 6), {}, []
    for name in names:
        answer = agenticlu.ask(folder / name, QUESTION, base_url=url, prices=prices)
        answers[name] = answer.model_dump(mode="json")
    for name, question in REFUSED:
        with pytest.raises(agenticlu.AgenticluError) as told:
            agenticlu.ask(folder / name, question, base_url=url)
        refused.append(told.value.advice)
    return answers, refused


def by_command(folder: Path, names: list[str], url: str) -> Door:
    """`agenticlu ask`."""

    def ask(name: str, question: str = QUESTION) -> Any:
        words = [str(folder / name), question, "--json", "--quiet", "--base-url", url, *PRICES]
        return subprocess.run(
            [sys.executable, "-c", MAIN, "ask", *words],
            capture_output=True, text=True, timeout=120, env=environment(),
        )  # fmt: skip

    answers = {}
    for name in names:
        done = ask(name)
        assert done.returncode == 0, done.stderr
        answers[name] = json.loads(done.stdout)
    refused = [ask(*one) for one in REFUSED]
    assert [one.returncode for one in refused] == [4, 2]
    return answers, [one.stderr for one in refused]


def by_room(folder: Path, names: list[str], url: str, *more: str) -> Door:
    """The reading room's HTTP API, with the key of its address."""
    paths = [str(folder / name) for name in (*names, "broken.pdf")]
    words = ["read", *paths, "--no-browser", "--no-history", "--base-url", url, *more]
    with process(*words) as address:
        parts = urlsplit(address)
        key = {"Authorization": f"Bearer {parse_qs(parts.query)['token'][0]}"}

        def send(method: str, path: str, body: Any = None) -> str:
            connection = http.client.HTTPConnection(parts.netloc, timeout=60)
            try:
                headers = {**key, "Content-Type": "application/json"}
                connection.request(method, path, json.dumps(body), headers)
                return connection.getresponse().read().decode()
            finally:
                connection.close()

        listed = json.loads(send("GET", "/api/state"))["documents"]
        ids = {document["name"]: document["id"] for document in listed}

        def ask(name: str, question: str = QUESTION) -> dict[str, Any]:
            told = send("POST", "/api/ask", {"document": ids[name], "question": question})
            last: dict[str, Any] = json.loads(told.rpartition("data: ")[2])
            return last

        answers = {name: ask(name)["answer"] for name in names}
        errors = [ask(*one) for one in REFUSED]
        errors = [one.get("error", one) for one in errors]
        return answers, [f"{one['message']} {one['hint']}" for one in errors]


def by_server(folder: Path, names: list[str], url: str) -> tuple[Door, dict[str, Any]]:
    """`agenticlu serve` by OpenAI's client: responses, and by chat the first of the readings."""
    with (
        process("serve", "--upstream", url, "--port", "0") as address,
        openai.OpenAI(base_url=address, api_key="none", max_retries=0) as client,
    ):

        def upload(name: str) -> list[str]:
            path = folder / name
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            return [client.files.create(file=one, purpose="user_data").id for one in files]

        def respond(name: str, question: str = QUESTION) -> Any:
            parts = [{"type": "input_file", "file_id": one} for one in upload(name)]
            content = [*parts, {"type": "input_text", "text": question}]
            return client.responses.create(
                model="agenticlu",
                input=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
            )

        answers = {}
        for name in names:
            response = respond(name)
            answers[name] = response.agenticlu
            assert response.output_text == response.agenticlu["statement"]
            check_places(response.agenticlu, response.output[-1].content[0].annotations)
        chats = {}
        for name in BY_PROCESS:
            parts = [{"type": "file", "file": {"file_id": one}} for one in upload(name)]
            content = [*parts, {"type": "text", "text": QUESTION}]
            chat: Any = client.chat.completions.create(
                model="agenticlu",
                messages=[{"role": "user", "content": content}],  # type: ignore[list-item,misc]
            )
            chats[name] = chat.agenticlu
            check_places(chat.agenticlu, chat.choices[0].message.annotations)
        refused = []
        for one in REFUSED:
            with pytest.raises(openai.BadRequestError) as told:
                respond(*one)
            refused.append(told.value.message)
        return (answers, refused), chats


def check_places(record: dict[str, Any], annotations: list[Any]) -> None:
    """Annotations say of each claim's citations what the record says."""
    told = [index for claim in record["claims"] for index in claim["citations"]]
    assert len(annotations) == len(told) > 0
    for index, annotation in zip(told, annotations, strict=True):
        own = annotation["agenticlu"] if isinstance(annotation, dict) else annotation.agenticlu
        citation = record["citations"][index]
        for name in ("quote", "page", "verified"):
            assert own[name] == citation[name]


def by_tool(folder: Path, names: list[str], url: str, *more: str, rounds: int = 1) -> Door:
    """`agenticlu mcp` by the protocol's own client, over standard input and output."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-c", MAIN, "mcp", str(folder), "--base-url", url, *more, *PRICES],
        env=environment(),
    )

    async def ask() -> Door:
        answers, refused = {}, []
        async with McpClient(server) as client:
            for name in names:
                arguments = {"documents": [name], "question": QUESTION, "rounds": rounds}
                result: Any = await client.call_tool("ask_document", arguments)
                assert not result.is_error, result.content[0].text
                answers[name] = result.structured_content
                assert answers[name].pop("locations")
                left_out = answers[name]["left_out"]
                assert ("hidden sheet" in result.content[0].text) == bool(left_out)
            for name, question in REFUSED:
                arguments = {"documents": [name], "question": question}
                result = await client.call_tool("ask_document", arguments)
                assert result.is_error
                refused.append(result.content[0].text)
        return answers, refused

    return asyncio.run(ask())


def test_every_door_gives_the_same_answer_with_the_same_places(
    tmp_path: Path, upstream: str
) -> None:
    names = write_all(tmp_path)
    answers, refused = by_python(tmp_path, names, upstream)
    expected = {name: found(one) for name, one in answers.items()}
    for name, record in expected.items():
        first = record["citations"][0]
        assert record["statement"] == SAID.rstrip("."), name
        assert record["claims"][0]["verified"], name
        assert first["verified"], name
        assert first["quote"].split() == SAID.split(), name
    served, chats = by_server(tmp_path, names, upstream)
    doors = {
        "command": by_command(tmp_path, list(BY_PROCESS), upstream),
        "room": by_room(tmp_path, names, upstream),
        "responses": served,
        "chat": (chats, refused),
        "tool": by_tool(tmp_path, names, upstream),
    }
    for door, (records, told) in doors.items():
        assert set(records) == set(BY_PROCESS if door in ("command", "chat") else names)
        for name, answer in records.items():
            assert found(answer) == expected[name], (door, name)
        for known, said in zip(refused, told, strict=True):
            plain = known.replace(f"{tmp_path}/", "")
            assert plain in " ".join(said.replace(f"{tmp_path}/", "").split()), door


def test_a_stop_rule_decides_over_rounds_behind_every_door(tmp_path: Path, upstream: str) -> None:
    names = write_all(tmp_path)[:1]
    rule = tmp_path / "never.json"
    rule.write_text(StopRule(weights={}, bias=-9.0, threshold=0.5).model_dump_json())
    further = ("--stop-rule", str(rule))
    room, _ = by_room(tmp_path, [*names, "a.md"], upstream, "--rounds", "2", *further)
    tool, _ = by_tool(tmp_path, names, upstream, *further, rounds=2)
    for answers in (room, tool):
        assert answers[names[0]]["checked"], "the self-check alone would end it"
        assert answers[names[0]]["rounds"] == 2
