"""Bounds on what clients may ask of a server, and the error that tells them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agenticlu.core.errors import UsageError

DIALOGUE_MODEL = "agenticlu"
"""Name under which the dialogue over the served model is listed."""
MIB = 1 << 20
BODY_BYTES_PER_TOKEN = 32
"""A token of text is four bytes on average; JSON escapes may take six for each character."""
MOST_SAMPLES = 128
"""Choices of one request, as in OpenAI's API."""
MOST_LOGPROBS = 200_000
"""Log-probabilities that one reply may hold: choices x tokens x (1 + rivals)."""


def default_body_bytes(window: int | None) -> int:
    """Returns a limit on a request's body that a prompt filling the window stays within.

    >>> default_body_bytes(32768) // MIB, default_body_bytes(None) // MIB
    (2, 8)
    """
    return 8 * MIB if window is None else MIB + BODY_BYTES_PER_TOKEN * window


@dataclass(frozen=True)
class Limits:
    """What one client, and all together, may take of the server."""

    body_bytes: int = 8 * MIB
    """Of one request's body."""
    inline_bytes: int = 48 * MIB
    """Of one that may hold files, in base64; where documents are read."""
    bodies_bytes: int = 64 * MIB
    """Of all bodies that are being received or read."""
    requests: int = 256
    """Under way at once, those that wait for the model included."""
    connections: int = 512
    """Open at once, those without a request included."""
    client_timeout_s: float = 60.0
    """Seconds in which a client must send its headers, then its body, and take what it is sent."""
    keep_alive_s: float = 30.0
    """Seconds for which a connection without a request stays open."""
    shutdown_s: float = 10.0
    """Seconds that requests under way are given when the server stops."""


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    hosts: frozenset[str] | None = None
    """Names that the Host header may hold, beside addresses and localhost; None allows any. A web
    page that points its own name at this machine (DNS rebinding) sends that name."""
    origins: tuple[str, ...] = ()
    """Web pages that may read replies (CORS)."""
    key: str = field(default="", repr=False)
    """That clients must send as a bearer token; empty asks for none."""


class RequestError(UsageError):
    """A request that is refused; names the field.

    Args:
        message: What is wrong.
        param: Field of the body; None where it is no field's fault.
        status: HTTP status.
        kind: Type of the error in OpenAI's form.
        code: Likewise its code.
        headers: Further headers of the reply.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message if hint is None else f"{message} {hint}")
        self.param = param
        self.status = status
        self.kind = kind
        self.code = code
        self.headers = dict(headers or {})


def overloaded(message: str, retry_after_s: int) -> RequestError:
    """Builds the error for a request for which there is no room now."""
    return RequestError(
        message,
        status=503,
        kind="server_error",
        code="overloaded",
        headers={"Retry-After": str(retry_after_s)},
    )
