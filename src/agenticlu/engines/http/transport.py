"""JSON over HTTP to one server: sends each request once, parses replies, raises our errors.

aiohttp, because a call through it takes a quarter of the processor time of the openai SDK's typed
layers, which is most of what a search costs its own process (benchmarks/scheduling.py), and its
import a fifth of the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from agenticlu.core.errors import (
    AgenticluError,
    EngineAuthError,
    EngineBusyError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.core.printing import harmless
from agenticlu.core.secrets import BLANK, keys_in, public_address, public_variable, redact_text
from agenticlu.engines.clock import EndpointClock
from agenticlu.engines.http.protocol import MalformedReplyError, parse_json
from agenticlu.engines.http.quoting import prompts_of
from agenticlu.engines.http.refusals import (
    Refusal,
    explain,
    find_refusal,
    read_refusal,
    speaks_of_key,
)

if TYPE_CHECKING:
    import aiohttp


Hear = Callable[[bytes], None]
"""Takes bytes as they arrive."""
MOST_REPLY_BYTES = 16 << 20
"""Longest body that is read, unpacked. A hundred long samples take a tenth of it."""


class Transport:
    """Sends requests to one server; connects in the event loop that first uses it.

    Args:
        base_url: Address, such as http://127.0.0.1:8000/v1. Parameters in it are sent with every
            request.
        api_key_env: Environment variable with the key. The key itself is never stored or shown.
        timeout_s: Of one request.

    Attributes:
        base_url: The address as it may be shown and stored: without keys.
        address: The address as it was given.
    """

    def __init__(self, base_url: str, api_key_env: str, timeout_s: float) -> None:
        self.base_url = public_address(base_url)
        self.address = base_url
        self.clock = EndpointClock()
        self._api_key_env = api_key_env
        self.timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def request(
        self,
        method: str,
        route: str,
        body: Mapping[str, Any] | None = None,
        *,
        name: str,
        session: str | None = None,
        timeout_s: float | None = None,
        hear: Hear | None = None,
    ) -> Any:
        """Returns the reply's JSON, a stream's chunks put together.

        Args:
            method: GET or POST.
            route: Below the address, with its slash.
            body: JSON object.
            name: Of the model, for messages.
            session: Sent as X-Session-ID, by which routers keep a session on one replica.
            timeout_s: Limit of this request; None takes the usual one.
            hear: Called with the bytes of a reply, errors aside, as they arrive.

        Raises:
            EngineUnreachableError: There is no connection, or it broke off.
            EngineBusyError: No answer in time, overload, or an error inside the server.
            EngineAuthError: The key was refused, or one is needed.
            ContentRefusedError: The server's moderation refused the prompt.
            DocumentTooLongError: The prompt exceeds the model's window.
            StatusError: The server refused the request for another reason.
            EngineReplyError: The reply is no JSON, or too long.
        """
        where = place(name, self.base_url)
        headers = {} if session is None else {"X-Session-ID": session}
        sent = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            sent = json.dumps(body, separators=(",", ":")).encode()
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        response, content = await self._exchange(
            where, method, route, data=sent, headers=headers, limit_s=limit_s, hear=hear
        )
        if response.status >= 400:
            refused = read_refusal(content, response.status, prompts_of(body))
            raise self._explain(where, refused, response.headers)
        try:
            data = parse_json(content)
        except MalformedReplyError as error:
            raise unreadable(where, error) from error
        refusal = find_refusal(data, prompts_of(body))
        if refusal is not None:
            raise self._explain(where, refusal, response.headers)
        return data

    async def _exchange(
        self,
        where: str,
        method: str,
        route: str,
        *,
        limit_s: float,
        hear: Hear | None = None,
        **sent: Any,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Sends a request, and returns the response with its body, whatever its status."""
        import aiohttp

        try:
            with self.clock.request():
                async with self._connect().request(
                    method,
                    join_route(self.address, route),
                    timeout=aiohttp.ClientTimeout(total=limit_s),
                    **sent,
                ) as response:
                    content = await self._read(where, response, hear)
                self.clock.note_answer()
        except TimeoutError as error:
            late = EngineBusyError(
                f"{where} did not answer within {limit_s:g} s.",
                hint="Send fewer requests at once, or raise --timeout.",
            )
            late.timed_out = True
            raise late from error
        except aiohttp.ClientResponseError as error:
            raise EngineReplyError(
                f"{where} sent no HTTP that can be read ({self.scrub(error.message)})."
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(where, error) from error
        return response, content

    async def _read(self, where: str, response: aiohttp.ClientResponse, hear: Hear | None) -> bytes:
        """Returns a reply's body, unpacked step by step so that none can fill the memory."""
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > MOST_REPLY_BYTES:
                response.close()
                raise EngineReplyError(
                    f"{where} sent a reply of more than {MOST_REPLY_BYTES >> 20} MiB."
                )
            parts.append(part)
            if hear is not None and response.status < 400:
                hear(part)
        return b"".join(parts)

    async def close(self) -> None:
        """Closes the connections, if the loop that they belong to still runs."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    def _connect(self) -> aiohttp.ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            address = urlsplit(self.address)
            key = os.environ.get(self._api_key_env)
            # aiohttp refuses a key beside a password in the address; the address then wins.
            headers = {"Authorization": f"Bearer {key}"} if key and not address.username else {}
            self._session = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=0, ssl=_load_authorities(self.base_url)),
                cookie_jar=aiohttp.DummyCookieJar(),
                # No proxy for a server on this machine.
                trust_env=address.hostname not in ("localhost", "127.0.0.1", "::1"),
            )
            self._loop = loop
        return self._session

    def _unreachable(self, where: str, error: Exception) -> EngineUnreachableError:
        import aiohttp

        shown = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        cause = self.scrub(str(shown).strip() or type(error).__name__)
        if isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
            found = EngineUnreachableError(f"{where} closed the connection mid-reply ({cause}).")
        else:
            found = EngineUnreachableError(
                f"No server answers at {self.base_url} ({cause}).",
                hint="Is it running, and is the address right? It often ends in /v1.",
            )
            found.no_connection = isinstance(error, aiohttp.ClientConnectorError)
        found.never_answered = not self.clock.has_answered
        return found

    def _explain(self, where: str, refusal: Refusal, headers: Mapping[str, str]) -> AgenticluError:
        shown = self.scrub(refusal.text)
        if speaks_of_key(refusal):
            return self._refused_key(where, refusal.status, shown)
        return explain(where, refusal, shown, parse_retry_after(headers))

    def _refused_key(self, where: str, status: int, shown: str) -> EngineAuthError:
        name = self._api_key_env
        told = f"(status {status}): {shown}" if shown else f"(status {status})"
        if not name:
            return EngineAuthError(
                f"{where} requires a key, and none is sent: no variable that holds one was named "
                f"{told}",
                hint="Name it with --api-key-env. Where a folder's agenticlu.toml named the server "
                "or the variable: agenticlu trust --keys.",
            )
        if os.environ.get(name):
            return EngineAuthError(
                f"{where} refused the key in {name} {told}", hint=f"Check the value of {name}."
            )
        if keys_in(self.address):
            return EngineAuthError(
                f"{where} refused the key in its address {told}",
                hint="Keys are stored nowhere: a run that is resumed needs its whole address.",
            )
        name = public_variable(name)
        if name == BLANK:
            return EngineAuthError(
                f"{where} requires a key, and what --api-key-env gives is no variable {told}",
                hint="It takes the name of a variable that holds the key, not the key: "
                "export MY_KEY=..., then --api-key-env MY_KEY",
            )
        return EngineAuthError(
            f"{where} requires a key, and {name} is not set {told}", hint=f"export {name}=..."
        )

    def scrub(self, text: str) -> str:
        """Returns a server's words without keys, and without what could steer a terminal."""
        text = harmless(text).replace("\n", " ")
        for key in (os.environ.get(self._api_key_env), *keys_in(self.address)):
            if key:
                text = text.replace(key, "[key]")
        text = re.sub(r"(?i)bearer\s+\S+", "[key]", text)
        # Some servers repeat a key with stars in it.
        text = re.sub(r"\bsk-[\w*-]{8,}", "[key]", text)
        return redact_text(text)[:500]


def join_route(address: str, route: str) -> str:
    """Returns where a route of a server is: below its address, before the address's parameters.

    >>> join_route("http://host/v1?api-version=2", "/models")
    'http://host/v1/models?api-version=2'
    """
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + route))


def place(name: str, base_url: str) -> str:
    """Returns what a server is called in messages; before its model is known, its address."""
    return base_url if name == urlsplit(base_url).netloc else f"{name} at {base_url}"


def unreadable(where: str, error: MalformedReplyError) -> EngineReplyError:
    """Builds the error for a reply that cannot be read."""
    return EngineReplyError(
        f"{where} replied {error}.",
        hint="Is the address that of an OpenAI-compatible API? It often ends in /v1.",
    )


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Returns the pause that a server asks for, in seconds; None if it asks for none.

    >>> parse_retry_after({"retry-after-ms": "1500"})
    1.5
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = headers.get(name, "")
        with contextlib.suppress(ValueError):
            seconds = float(text) / scale
            if math.isfinite(seconds):
                return max(0.0, seconds)
        with contextlib.suppress(ValueError, OverflowError):  # of a year that no calendar has
            date = parsedate_to_datetime(text)
            return max(0.0, (date - datetime.now(date.tzinfo)).total_seconds())
    return None


def _load_authorities(base_url: str) -> ssl.SSLContext | bool:
    """Returns this system's certificate authorities and, where it is installed, certifi's."""
    if not base_url.startswith("https"):
        return True
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
