"""Serves the tools: over standard input and output, or over HTTP on this machine."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer

from agenticlu.core.errors import DocumentError
from agenticlu.mcp.folders import Folders, default_folder
from agenticlu.mcp.tools import client_roots
from agenticlu.server import run_app
from agenticlu.server.guard import Guard
from agenticlu.server.limits import Access, Limits


class Permission:
    """What may be read: the named folders, else those of the client, else the working folder.

    Args:
        named: Folders that the user named.
        addresses: Whether http(s) addresses may be read.
        ask_client: Whether the client's folders count; only one that started this process may say.

    Raises:
        UsageError: A named folder does not exist.
    """

    def __init__(self, named: Sequence[str], *, addresses: bool, ask_client: bool) -> None:
        self._named = Folders.of(named, addresses=addresses) if named else None
        self._addresses = addresses
        self._ask_client = ask_client

    async def __call__(self, ctx: Context[Any, Any]) -> Folders:
        """Returns what the client of a request may have read.

        Raises:
            DocumentError: Nothing, as long as nobody names a folder.
        """
        if self._named is not None:
            return self._named
        if self._ask_client and (roots := await client_roots(ctx)):
            paths = [path for path in map(_path_of, roots) if path is not None and path.is_dir()]
            if paths:
                return Folders.of(paths, addresses=self._addresses)
        return self.fallback()

    def fallback(self) -> Folders:
        """Returns what may be read where no client says."""
        if self._named is not None:
            return self._named
        here = default_folder()
        if here is None and not self._addresses:
            raise DocumentError(
                f"No folder was named, and the working folder, {str(Path.cwd())!r}, holds"
                " everything.",
                hint="Name the folders that may be read: agenticlu mcp FOLDER...",
            )
        return Folders.of([] if here is None else [here], addresses=self._addresses)


def _path_of(uri: str) -> Path | None:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    parts = urlsplit(uri)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def route_logs(say: Callable[[str], None]) -> None:
    """Has the library's warnings told by `say`, which makes them harmless."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{record.name}: {record.getMessage()}")

    logging.basicConfig(level=logging.WARNING, handlers=[Handler()])


async def serve_stdio(server: MCPServer[Any]) -> bool:
    """Serves one client over standard input and output.

    Returns:
        Whether the client closed them; else a signal (Ctrl-C) ended it.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    work = asyncio.ensure_future(server.run_stdio_async())
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not work.done():
        return False
    await work
    return True


async def serve_http(
    server: MCPServer[Any],
    listener: socket.socket,
    token: str,
    on_ready: Callable[[str], None],
) -> None:
    """Serves over HTTP at `/mcp`, until interrupted.

    Args:
        server: The tools.
        listener: A socket on a loopback address; closed at the end.
        token: That clients must send as a bearer token.
        on_ready: Called with the address once requests are accepted.
    """
    # The library checks Host and Origin of what comes to a loopback address; the guard, too.
    app = server.streamable_http_app(host="127.0.0.1")
    guarded = Guard(app, Access(hosts=frozenset(), key=token))
    async with server.session_manager.run():
        await run_app(guarded, Limits(shutdown_s=2.0), listener, lambda url: on_ready(f"{url}/mcp"))
