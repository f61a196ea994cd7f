"""Connections that are bounded in number and in time; uvicorn waits forever for a slow client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from agenticlu.server.limits import Limits, RequestError
from agenticlu.server.replies import render_error

SPARE_FILES = 128
"""File descriptors kept for everything but connections."""


class ClientConnection(H11Protocol):
    """A connection that knows what it waits for and since when.

    A subclass of `bound_connections` sets `limits`.
    """

    limits = Limits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = self.loop.time()
        """When the wait for a request began."""
        self._resting = False
        """Whether a request was answered and nothing of the next has come."""
        self._stuck: tuple[int, float] = (0, self._since)
        """Bytes waiting to be sent, and since when there have been that many."""

    @property
    def answering(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def rank(self) -> tuple[bool, float] | None:
        """Rank by which connections are closed if there are too many, lowest first; None: stays."""
        if not self.answering:
            return False, self._since
        return (True, self._since) if self.cycle.more_body else None

    def connection_made(self, transport: Any) -> None:
        """Makes room for a connection, or refuses it."""
        super().connection_made(transport)
        if len(self.connections) <= self.limits.connections:
            return
        others = [one for one in self.connections if isinstance(one, ClientConnection)]
        ranked = [(rank, id(one), one) for one in others if (rank := one.rank) is not None]
        victim = min(ranked)[2]
        if victim is self:
            self.refuse(503, "Too many connections are open.")
        else:
            victim.drop()

    def data_received(self, data: bytes) -> None:
        """Takes data; the first byte of a request ends the idle time."""
        if self._resting and not self.answering:
            self._resting = False
            self._since = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Rests until the next request."""
        self._resting = True
        self._since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP."""
        self.refuse(400, msg)

    def refuse(self, status: int, message: str) -> None:
        """Answers with an error without having read a request, and closes."""
        _, _, body = render_error(RequestError(message, status=status))
        content = json.dumps(body).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(content)))]
        headers.append(("connection", "close"))
        # An answer may be under way already: then there is nothing to say.
        with contextlib.suppress(h11.LocalProtocolError):
            response = h11.Response(
                status_code=status, headers=headers, reason=STATUS_PHRASES[status]
            )
            for event in (response, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def shutdown(self) -> None:
        """Begins a graceful end."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:
            self.drop()

    def drop(self) -> None:
        """Closes at once; what was not sent yet is forgotten, by the system too."""
        with contextlib.suppress(OSError):
            peer = self.transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def check(self, now: float) -> None:
        """Closes the connection if its client has kept it waiting for too long."""
        patience_s = self.limits.client_timeout_s
        waiting = self.transport.get_write_buffer_size()
        if waiting != self._stuck[0] or not waiting:
            self._stuck = (waiting, now)
        elif now - self._stuck[1] > patience_s:
            self.drop()
            return
        if self.answering or self.transport.is_closing():
            return
        if now - self._since > (self.limits.keep_alive_s if self._resting else patience_s):
            if self._resting:
                self.transport.close()
            else:
                self.refuse(408, f"The request did not arrive within {patience_s:g} s.")


def bound_connections(limits: Limits) -> type[ClientConnection]:
    """Returns the class of connections with these limits, fewer where files are scarce."""
    most = limits.connections
    with contextlib.suppress(ImportError):  # Windows has no such limit
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files != resource.RLIM_INFINITY:
            most = min(most, max(8, files - SPARE_FILES))

    class BoundConnection(ClientConnection):
        pass

    BoundConnection.limits = replace(limits, connections=most)
    return BoundConnection


async def watch_connections(connections: Collection[Any], limits: Limits) -> None:
    """Checks all connections again and again, until it is cancelled."""
    pause_s = min(1.0, limits.client_timeout_s / 5, limits.keep_alive_s / 5)
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(pause_s)
        for one in list(connections):
            if isinstance(one, ClientConnection):
                one.check(loop.time())
