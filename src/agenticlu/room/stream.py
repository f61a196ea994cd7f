"""Server-sent events; a reader who goes away ends the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from agenticlu.room.asking import Told

ALIVE_S = 10.0
"""Seconds of silence after which a comment shows that the connection stands."""
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """A response of events.

    Args:
        events: Told until they end; closed early if the reader goes away.
    """

    def __init__(self, events: AsyncGenerator[Told, None]) -> None:
        self._events = events

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]
    ) -> None:
        """Sends them."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Callable[[Any], Any]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        async with aclosing(self._events) as events:
            coming = asyncio.ensure_future(anext(events))
            try:
                while True:
                    done, _ = await asyncio.wait({coming}, timeout=ALIVE_S)
                    if not done:
                        await send(_part(b": at work\n\n"))
                        continue
                    try:
                        name, data = coming.result()
                    except StopAsyncIteration:
                        break
                    await send(_part(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()))
                    coming = asyncio.ensure_future(anext(events))
            finally:
                coming.cancel()
                await asyncio.wait({coming})
        await send({"type": "http.response.body", "body": b""})


def _part(body: bytes) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
