"""Stands before the room's routes: only the person who started it comes in.

The address holds a token; a cookie holds it from then on, for this port alone. Requests that
another page makes the browser send are refused, by their Host, their Origin, and what the browser
says of where they are from.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from agenticlu.room.refusals import RoomError, tell
from agenticlu.server.guard import Asgi, Scope, is_expected

POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob:"),
        *("connect-src 'self'", "font-src 'self'", "base-uri 'none'", "form-action 'none'"),
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
LOCKED = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>agenticlu</title>
<h1>This reading room is locked</h1>
<p>Open the address that <code>agenticlu read</code> printed in its terminal: it holds the key.</p>
</html>
"""
ENTERED = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url=/">
<title>agenticlu</title>
<p><a href="/">Enter the reading room</a></p>
</html>
"""
ONCE_S = 120.0
"""Seconds that a browser may take to start."""


class RoomGuard:
    """ASGI middleware that checks host, origin and token, and adds headers to every reply.

    Args:
        app: Behind it.
        token: That lets in.
        port: That the room listens at; names the cookie, which other ports would share.
        hosts: Names that the Host header may hold, beside addresses and localhost.
    """

    def __init__(self, app: Asgi, token: str, port: int, hosts: frozenset[str]) -> None:
        self._app, self._token, self._hosts = app, token, hosts
        self._cookie = f"agenticlu-{port}"
        self._once: dict[str, float] = {}
        """Tokens that let in once, and until when."""

    def token_for_once(self) -> str:
        """Makes a token that lets in once, soon.

        A browser is started with its address, and whoever has an account on this machine can read
        with what a program was started.
        """
        token = secrets.token_urlsafe(24)
        self._once[token] = time.monotonic() + ONCE_S
        return token

    async def __call__(
        self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            return

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in message.get("headers", ())}
                own = [one for one in HEADERS if one[0] not in named]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        try:
            headers = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
            self._check_origin(headers)
            is_root = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
            if is_root and (self._is_token(given) or self._once.pop(given, 0) > time.monotonic()):
                await self._let_in(guarded, headers.get(b"sec-fetch-site", "none"))
            elif self._is_known(headers):
                await self._app(scope, receive, guarded)
            elif is_root:
                await _send(guarded, 401, LOCKED.encode(), b"text/html; charset=utf-8")
            else:
                raise RoomError(
                    "The token is missing or wrong.",
                    status=401,
                    hint="Open the address that `agenticlu read` printed; programs send it as "
                    "Authorization: Bearer TOKEN.",
                )
        except asyncio.CancelledError:
            return  # the room closes, and has waited long enough for this request
        except RoomError as error:
            await _send(guarded, error.status, json.dumps({"error": tell(error)}).encode())

    def _check_origin(self, headers: dict[bytes, str]) -> None:
        host = headers.get(b"host", "")
        if not is_expected(host, self._hosts):
            raise RoomError(
                f"This reading room does not answer to the host {host[:100]!r}.",
                status=403,
                hint="Name it with --allowed-host if it is meant to.",
            )
        origin = headers.get(b"origin")
        site = headers.get(b"sec-fetch-site", "none")
        is_visit = headers.get(b"sec-fetch-mode") == "navigate"
        is_foreign = origin is not None and origin.partition("://")[2].lower() != host.lower()
        if is_foreign or (site not in ("same-origin", "none") and not is_visit):
            raise RoomError("Another page may not ask this reading room.", status=403)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())

    def _is_known(self, headers: dict[bytes, str]) -> bool:
        scheme, _, key = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(key.strip()):
            return True
        # Other programs of this machine set cookies for its name, too: of any form.
        cookies = (part.strip().partition("=") for part in headers.get(b"cookie", "").split(";"))
        return any(name == self._cookie and self._is_token(value) for name, _, value in cookies)

    async def _let_in(self, send: Callable[..., Any], site: str) -> None:
        cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
        headers = [(b"set-cookie", cookie.encode()), _NEVER_KEPT]
        if site in ("none", "same-origin"):
            headers.append((b"location", b"/"))
            await send({"type": "http.response.start", "status": 303, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        # From a link in another page a redirect would still count as that page's doing, and the
        # cookie would not be sent.
        headers.append((b"content-type", b"text/html; charset=utf-8"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": ENTERED.encode()})


_NEVER_KEPT = (b"cache-control", b"no-store")


async def _send(
    send: Callable[..., Any], status: int, body: bytes, kind: bytes = b"application/json"
) -> None:
    length = str(len(body)).encode()
    headers = [(b"content-type", kind), (b"content-length", length), _NEVER_KEPT]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
