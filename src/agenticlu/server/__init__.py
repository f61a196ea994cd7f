"""OpenAI-compatible HTTP server over any engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agenticlu.core.errors import UsageError, missing_dependency
from agenticlu.engines.base import Engine
from agenticlu.server.limits import Access, Limits

if TYPE_CHECKING:
    from agenticlu.server.desk import Desk


@dataclass(frozen=True)
class Service:
    """What is served, to whom, and how much of it."""

    engine: Engine
    """Answers."""
    model: str
    """Name under which it is listed."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of its entry in the list."""
    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    hidden: tuple[str, ...] = ()
    """Texts, such as the model's folder, for which errors say the model's name."""
    desk: Desk | None = None
    """Where documents are read, which lists the model `agenticlu`; None where they are not."""


def build_app(service: Service) -> Any:
    """Builds the ASGI application.

    Raises:
        MissingDependencyError: starlette is not installed.
    """
    try:
        from starlette.middleware.cors import CORSMiddleware
    except ImportError as error:
        raise missing_dependency("starlette", "serve") from error
    from agenticlu.server.app import ChatServer
    from agenticlu.server.guard import Guard

    server = ChatServer(
        service.engine,
        service.model,
        service.details,
        service.limits,
        service.hidden,
        service.desk,
    )
    app: Any = Guard(server.app(), service.access)
    if service.access.origins:
        app = CORSMiddleware(
            app,
            allow_origins=service.access.origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
        )
    return app


def open_listener(host: str, port: int) -> socket.socket:
    """Binds the address to serve at, before the model is loaded.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.

    Raises:
        UsageError: The address is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, or asyncio leaves Nagle's algorithm on: 40 ms for each reply.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Only listening shows that another server has the port; it starts over with its backlog.
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            hint="Try another --port, or --port 0 for a free one.",
        ) from error
    return listener


async def run_server(
    service: Service, listener: socket.socket, on_ready: Callable[[str], None] = print
) -> None:
    """Serves until interrupted.

    Args:
        service: What is served; its engine is closed at the end.
        listener: From `open_listener`; closed at the end.
        on_ready: Called with the base URL once requests are accepted.

    Raises:
        MissingDependencyError: starlette or uvicorn is not installed.
    """
    try:
        await run_app(
            build_app(service), service.limits, listener, lambda url: on_ready(f"{url}/v1")
        )
    finally:
        if service.desk is not None:
            service.desk.close()
        await service.engine.close()


async def run_app(
    app: Any,
    limits: Limits,
    listener: socket.socket,
    on_ready: Callable[[str], None],
    on_stop: Callable[[], None] = lambda: None,
) -> None:
    """Serves an ASGI application until interrupted.

    Args:
        app: The application.
        limits: Of its connections.
        listener: From `open_listener`; closed at the end.
        on_ready: Called with the address once requests are accepted.
        on_stop: Called when it begins to stop, while replies are still under way.

    Raises:
        MissingDependencyError: uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_dependency("uvicorn", "serve") from error
    from agenticlu.server.connections import bound_connections, watch_connections

    config = uvicorn.Config(
        app,
        http=bound_connections(limits),
        ws="none",
        lifespan="off",
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=round(limits.keep_alive_s) or 1,
        timeout_graceful_shutdown=round(limits.shutdown_s),
    )
    server = uvicorn.Server(config)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    work = asyncio.ensure_future(server.serve(sockets=[listener]))
    watching = (
        asyncio.ensure_future(watch_connections(server.server_state.connections, limits)),
        asyncio.ensure_future(_tell_stop(server, on_stop)),
    )
    try:
        while not server.started and not work.done():
            await asyncio.sleep(0.01)
        if server.started:
            on_ready(f"http://{shown}:{port}")
        await work
    finally:
        for watch in watching:
            watch.cancel()
        listener.close()


async def _tell_stop(server: Any, on_stop: Callable[[], None]) -> None:
    while not server.should_exit:
        await asyncio.sleep(0.05)
    on_stop()
