"""Stands before the routes: refuses requests that no well-meaning client sends."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from agenticlu.server.limits import Access, RequestError
from agenticlu.server.replies import render_error

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Callable[..., Any], Callable[..., Any]], Awaitable[None]]
JSON_TYPE = "application/json"
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]++)\]|([^\[\]:@/\\?#\s]++))(?::\d{0,5})?")
UPLOAD_ROUTE = "/v1/files"
"""Takes a form, as every client sends files."""


class Guard:
    """ASGI middleware that checks host, key and content type, and numbers every reply.

    Args:
        app: Behind it.
        access: Who may ask.
    """

    def __init__(self, app: Asgi, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(
        self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Passes a request on, or answers it with an error."""
        if scope["type"] != "http":
            return
        started = False
        request_id = f"req-{uuid4().hex}".encode()

        async def numbered(message: dict[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id)]
            await send(message)

        try:
            check_access(scope, self._access)
            await self._app(scope, receive, numbered)
        except RequestError as error:
            await send_error(error, numbered)
        except asyncio.CancelledError:
            # The server is stopping, and has waited long enough for this request.
            if not started:
                stopping = RequestError("The server is stopping.", status=503, kind="server_error")
                await send_error(stopping, numbered)


def check_access(scope: Scope, access: Access) -> None:
    """Raises RequestError for a request that is not meant for this server."""
    headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))

    def header(name: bytes) -> str:
        return headers.get(name, b"").decode("latin-1")

    host = header(b"host")
    if access.hosts is not None and not is_expected(host, access.hosts):
        raise RequestError(
            f"This server does not answer to the host {host[:100]!r}: name it with"
            " --allowed-host if it is meant to.",
            status=403,
            code="host_not_allowed",
        )
    if access.key and scope["path"] != "/health":
        scheme, _, key = header(b"authorization").partition(" ")
        given = key.strip().encode("latin-1")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, access.key.encode()):
            raise RequestError(
                "The API key is missing or wrong.",
                status=401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )
    if (scope["method"], scope["path"]) == ("POST", UPLOAD_ROUTE):
        # Any web page may send a form; its browser says which page it is.
        _check_origin(header(b"origin"), host, access)
    elif scope["method"] == "POST":
        _check_type(header(b"content-type"), header(b"content-encoding"))


def is_expected(host: str, allowed: frozenset[str]) -> bool:
    """Whether a Host header holds an address, localhost or an allowed name.

    >>> [is_expected(host, frozenset()) for host in ("127.0.0.1:8000", "[::1]", "evil.example")]
    [True, True, False]
    >>> [is_expected(host, frozenset()) for host in ("[::1].evil.example", "localhost:1@evil")]
    [False, False]
    """
    if not host:
        return True  # HTTP/1.0: no browser sends it
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = (found[1] or found[2]).rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost") or name in allowed:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(origin: str, host: str, access: Access) -> None:
    """Refuses a form that a web page sends which may not read replies."""
    if origin and origin not in access.origins and urlsplit(origin).netloc != host:
        raise RequestError(
            f"Web pages of {origin[:100]!r} may not upload files: name it with --allowed-origin"
            " if they are meant to.",
            status=403,
            code="origin_not_allowed",
        )


def _check_type(content_type: str, encoding: str) -> None:
    """Refuses a body that is not plain JSON.

    Any web page may send a form or a text here; JSON only with this server's consent (CORS).
    """
    kind, _, parameters = content_type.partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON_TYPE or charset not in ("", "utf-8", "utf8"):
        shown = repr(content_type[:100]) if content_type else "missing"
        raise RequestError(
            f"The header Content-Type must be {JSON_TYPE} (in UTF-8); it is {shown}.", status=415
        )
    if encoding.strip().lower() not in ("", "identity"):
        raise RequestError(
            f"The body must not be compressed; its Content-Encoding is {encoding[:100]!r}.",
            status=415,
        )


async def send_error(error: RequestError, send: Callable[..., Any]) -> None:
    """Sends an error as a response."""
    status, further, body = render_error(error)
    content = json.dumps(body).encode()
    headers = {"content-type": JSON_TYPE, "content-length": str(len(content)), **further}
    named = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": named})
    await send({"type": "http.response.body", "body": content})
