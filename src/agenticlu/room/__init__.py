"""The reading room: documents beside the answers about them; history; export."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from agenticlu.room.models import RoomModel
from agenticlu.room.room import Room, RoomSettings
from agenticlu.server import run_app
from agenticlu.server.limits import Limits

SHUTDOWN_S = 1.0
"""Seconds that replies under way are given when the room closes."""


async def open_room(
    settings: RoomSettings,
    named: Sequence[str],
    listener: socket.socket,
    *,
    token: str,
    hosts: Sequence[str] = (),
    on_ready: Callable[[str], None] = print,
    on_open: Callable[[str], None] = lambda address: None,
    say: Callable[[str], None] = lambda text: None,
    model: RoomModel | None = None,
) -> None:
    """Serves a reading room until interrupted.

    Args:
        settings: How it reads and asks.
        named: Documents to open.
        listener: From `agenticlu.server.open_listener`; closed at the end.
        token: That lets in.
        hosts: Names that the Host header may hold, beside addresses and localhost.
        on_ready: Called with the address, which holds the token, once requests are accepted.
        on_open: Called then with an address that lets in once, for a browser to be started with.
        say: Told what people at the terminal should know.
        model: Answers, instead of the settings' choice.

    Raises:
        MissingDependencyError: starlette, uvicorn or python-multipart is not installed.
        StoreError: The history cannot be opened.
    """
    from agenticlu.room.app import build_app
    from agenticlu.room.guard import RoomGuard

    room = Room(settings, say, model)
    try:
        app = build_app(room)
        port = listener.getsockname()[1]
        guarded = RoomGuard(app, token, port, frozenset(host.lower() for host in hosts))
        room.open(named)
        limits = Limits(shutdown_s=SHUTDOWN_S)

        def ready(url: str) -> None:
            on_ready(f"{url}/?token={token}")
            on_open(f"{url}/?token={guarded.token_for_once()}")

        await run_app(guarded, limits, listener, ready, room.asker.close)
    finally:
        await room.close()
