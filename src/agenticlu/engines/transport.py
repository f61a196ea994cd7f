"""The short way to a server: JSON over aiohttp, past the SDK's typed layers.

A call takes a quarter of the processor time that the SDK takes for it, which is most of what a
search costs its own process (benchmarks/scheduling.py). Headers are the SDK's, and so are the
errors, so that nobody else needs to know which way a request went.
"""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Refusal:
    """What the SDK's errors look at of a reply that is none."""

    status_code: int
    headers: Mapping[str, str]
    request: None = None


class Wire:
    """Posts to one server.

    Args:
        client: The SDK's, whose address, key and headers are used.
        timeout_s: Of one request.
        trust_env: Whether the environment's proxies count.

    Raises:
        ImportError: aiohttp is not installed.
    """

    def __init__(self, client: Any, timeout_s: float, *, trust_env: bool) -> None:
        import aiohttp
        import openai

        self._aiohttp: Any = aiohttp
        self._openai: Any = openai
        self._base_url = str(client.base_url).rstrip("/")
        # Values that are no text mark headers to be left out.
        headers = {k: v for k, v in client.default_headers.items() if isinstance(v, str)}
        self._session: Any = aiohttp.ClientSession(
            headers={**headers, "Authorization": f"Bearer {client.api_key}"},
            connector=aiohttp.TCPConnector(limit=0, ssl=_trusted(self._base_url)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            trust_env=trust_env,
        )

    @staticmethod
    def takes(base_url: str) -> bool:
        """Whether an address holds no password, which would be at odds with the key."""
        return urlsplit(base_url).username is None

    async def post(self, route: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
        """Returns the reply's content.

        Raises:
            openai.APIStatusError: The server refused, or failed at it.
            openai.APITimeoutError: It took too long.
            openai.APIConnectionError: There is no connection, or it broke off.
        """
        data = json.dumps(body, separators=(",", ":")).encode()
        try:
            async with self._session.post(
                self._base_url + route, data=data, headers=headers
            ) as response:
                content: bytes = await response.read()
                status: int = response.status
        except TimeoutError as error:
            raise self._openai.APITimeoutError(request=None) from error
        except (self._aiohttp.ClientError, OSError) as error:
            raise self._openai.APIConnectionError(request=None) from error
        if status >= 400:
            raise self._refusal(Refusal(status, response.headers), content)
        return content

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    def _refusal(self, response: Refusal, content: bytes) -> Exception:
        text = content.decode("utf-8", "replace").strip()
        body: Any = text
        with contextlib.suppress(ValueError):
            body = json.loads(text)
        if isinstance(body, dict):
            body = body.get("error", body)
        kind = self._openai.APIStatusError
        if response.status_code == 400:
            kind = self._openai.BadRequestError
        found: Exception = kind(text, response=response, body=body)
        return found


def _trusted(base_url: str) -> ssl.SSLContext | bool:
    """Returns the authorities of this system and, as the SDK, those of certifi."""
    if not base_url.startswith("https"):
        return True
    context = ssl.create_default_context()
    with contextlib.suppress(ImportError):
        import certifi

        context.load_verify_locations(certifi.where())
    return context
