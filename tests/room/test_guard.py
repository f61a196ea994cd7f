"""Who comes into the room: over real connections."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agenticlu.room import guard
from agenticlu.room.guard import RoomGuard
from agenticlu.server import open_listener, run_app
from agenticlu.server.limits import Limits

TOKEN = "right"


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


@contextmanager
def opened() -> Iterator[tuple[RoomGuard, int]]:
    """A guarded room that answers."""
    listener = open_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    room = RoomGuard(app, TOKEN, port, frozenset())
    ready = threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        found.append((asyncio.get_running_loop(), asyncio.current_task()))
        await run_app(room, Limits(), listener, lambda _: ready.set())

    def run() -> None:
        try:
            asyncio.run(serve())
        except asyncio.CancelledError:
            pass
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(60)
    try:
        yield room, port
    finally:
        loop, task = found[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    client = http.client.HTTPConnection("127.0.0.1", port)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    client.request(method, path, None, named)
    reply = client.getresponse()
    found = reply.status, {key.lower(): one for key, one in reply.getheaders()}, reply.read()
    client.close()
    return found


def test_a_browser_is_started_with_a_token_that_lets_in_once() -> None:
    """Others of this machine see how it was started, and come too late."""
    with opened() as (room, port):
        once = room.token_for_once()
        assert once != TOKEN
        status, headers, _ = ask(port, f"/?token={once}")
        assert (status, headers["location"]) == (303, "/")
        cookie = headers["set-cookie"].partition(";")[0]
        assert "HttpOnly" in headers["set-cookie"]
        assert once not in cookie
        assert ask(port, "/", Cookie=cookie)[2] == b"inside"
        assert ask(port, f"/?token={once}")[0] == 401
        assert ask(port, "/api/state", Authorization=f"Bearer {once}")[0] == 401
        assert ask(port, f"/?token={TOKEN}")[0] == 303
        assert ask(port, f"/?token={TOKEN}")[0] == 303, "the printed address stays good"


def test_a_token_for_once_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "ONCE_S", 0.0)
    with opened() as (room, port):
        assert ask(port, f"/?token={room.token_for_once()}")[0] == 401


def test_a_link_in_another_page_leads_in_by_a_page_of_the_rooms_own() -> None:
    """A redirect would count as the other page's, which gets no strict cookie sent."""
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    with opened() as (_, port):
        status, headers, body = ask(port, f"/?token={TOKEN}", **visit)
        assert (status, "location" in headers) == (200, False)
        assert headers["set-cookie"].startswith(f"agenticlu-{port}={TOKEN};")
        assert b'url=/"' in body
        assert TOKEN.encode() not in body


@pytest.mark.parametrize(
    "wrong",
    [
        {"Host": "evil.example"},
        {"Host": "[::1].evil.example"},
        {"Host": "localhost:1@evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
    ],
)
def test_other_pages_are_refused_though_they_had_the_token(wrong: dict[str, str]) -> None:
    with opened() as (_, port):
        key = f"Bearer {TOKEN}"
        assert ask(port, "/api/state", Authorization=key)[0] == 200
        status, headers, _ = ask(port, "/api/state", Authorization=key, **wrong)
        assert status == 403
        assert "default-src 'none'" in headers["content-security-policy"]
        assert not any(name.startswith("access-control") for name in headers)


def test_a_missing_or_wrong_token_is_locked_out() -> None:
    with opened() as (_, port):
        for path in ("/", "/?token=", "/?token=wrong", "/?token=%C3%BC"):
            assert ask(port, path)[0] == 401, path
        for cookie in ("agenticlu=right", f"agenticlu-{port}=wrong", "agenticlu-1=right", "=", ";"):
            assert ask(port, "/api/state", Cookie=cookie)[0] == 401, cookie
        assert ask(port, "/api/state", "POST", Authorization="Basic right")[0] == 401
