"""The tools over HTTP: on this machine alone, for those who have the token."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from live_server import send
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

import agenticlu

COMMAND = [sys.executable, "-c", "from agenticlu.cli import main; main()", "mcp", "--http"]
SOURCE = str(Path(agenticlu.__file__).parent.parent)
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {},
               "clientInfo": {"name": "t", "version": "0"}},
}  # fmt: skip
ACCEPT = {
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
}


@contextmanager
def running(*words: str, **environ: str) -> Iterator[tuple[Any, str, str]]:
    """Runs the server; yields the process, its address and the token as it says."""
    env = {**os.environ, "PYTHONPATH": SOURCE, "OMP_NUM_THREADS": "1", **environ}
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *words], env=env, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        said = ""
        while "Bearer" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        url = re.search(r"http://\S+/mcp", said)
        assert url is not None
        yield process, url[0], said.rpartition("Bearer ")[2].strip()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        process.stderr.close()


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "town.txt").write_text("Ada Yardley lives in Wexley. Bo Otis keeps a duck.")
    return folder


@pytest.fixture(scope="module")
def server(docs: Path) -> Iterator[tuple[str, str]]:
    with running(str(docs)) as (_, url, token):
        yield url, token


def test_a_client_with_the_token_asks(server: tuple[str, str]) -> None:
    url, token = server

    async def run() -> None:
        told: list[str] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            told.append(message or "")

        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            arguments = {"documents": "town.txt", "question": "Where does Ada Yardley live?"}
            result = await client.call_tool("ask_document", arguments, progress_callback=note)
            assert not result.is_error
            assert "Wexley [1]" in result.content[0].text
            assert len(told) == 5
            result = await client.call_tool("read_document", {"documents": "/etc/passwd"})
            assert result.is_error

    asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic {token}"}, 401),
        ({"Authorization": "Bearer {token}", "Host": "evil.example"}, 403),
        ({"Authorization": "Bearer {token}", "Origin": "http://evil.example"}, 403),
        ({"Authorization": "Bearer {token}", "Content-Type": "text/plain"}, 415),
        ({"Authorization": "Bearer {token}"}, 200),
    ],
)
def test_others_are_refused(headers: dict[str, str], status: int, server: Any) -> None:
    url, token = server
    given = {name: value.format(token=token) for name, value in headers.items()}
    found, _, body = send(url, "/mcp", INITIALIZE, ACCEPT | given)
    assert found == status, body


def test_it_listens_on_this_machine_alone(server: tuple[str, str]) -> None:
    assert server[0].startswith("http://127.0.0.1:")


def test_a_token_of_the_users_own_is_not_printed(docs: Path) -> None:
    with running(str(docs), "--token-env", "TOOLS", TOOLS="my-token") as (_, url, shown):
        assert shown == "$TOOLS"
        status, _, _ = send(url, "/mcp", INITIALIZE, ACCEPT | {"Authorization": "Bearer my-token"})
        assert status == 200


def test_a_token_that_is_not_set_is_an_error(docs: Path) -> None:
    done = subprocess.run(
        [*COMMAND, str(docs), "--token-env", "ABSENT"],
        env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "export ABSENT=" in done.stderr
