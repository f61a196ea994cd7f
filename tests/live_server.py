"""A real server on loopback, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from agenticlu.server import Service, open_listener, run_server

JSON = {"Content-Type": "application/json"}


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serves until the block ends; yields the base URL."""
    ready = threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        found.append((asyncio.get_running_loop(), asyncio.current_task()))

        def told(url: str) -> None:
            found.append(url)
            ready.set()

        await run_server(service, open_listener("127.0.0.1", 0), told)

    def run() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60)
        yield found[1]
    finally:
        loop, task = found[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)
        assert not thread.is_alive(), "the server must end when it is told to"


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def send(
    url: str, route: str, body: Any = None, headers: dict[str, str] | None = None, method: str = ""
) -> tuple[int, dict[str, str], Any]:
    """Sends one request; returns status, headers and body, parsed where it is JSON.

    Args:
        url: Address of the server, with or without /v1.
        route: Whole path.
        body: Bytes, or what is sent as JSON.
        headers: Instead of the usual ones.
        method: GET or POST by default.
    """
    connection = http.client.HTTPConnection(*address(url), timeout=60)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    given = (JSON if body is not None else {}) if headers is None else headers
    try:
        connection.request(method or ("GET" if body is None else "POST"), route, content, given)
        response = connection.getresponse()
        text = response.read()
        named = {name.lower(): value for name, value in response.getheaders()}
        kind = named.get("content-type", "")
        return response.status, named, json.loads(text) if "json" in kind and text else text
    finally:
        connection.close()
