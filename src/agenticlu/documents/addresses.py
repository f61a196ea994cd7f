"""Fetches documents from http(s) addresses that a user named.

A page may send its reader anywhere, so every hop is checked before it is made: the host is resolved
once, the numbers are judged, and the connection goes to the very number that was judged. A
redirect leads into a network that is not public (this machine, a private or link-local one) only
from there. Bytes, unpacked bytes, redirects and the time of the whole are limited.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import http.client
import ipaddress
import mimetypes
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit, urlunsplit

from agenticlu import __version__
from agenticlu.core.errors import DocumentError

MAX_BYTES = 64 << 20
"""Of one document, unpacked."""
TIMEOUT_S = 60.0
"""Of all hops together."""
CONNECT_TIMEOUT_S = 15.0
MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PARAMETER = re.compile(r"(?:^|(?<=[&;]))([\w.-]++)=[^&;]*+")
_SECRETS = frozenset(
    (
        *("key", "apikey", "token", "secret", "signature", "sig", "password", "passwd", "pwd"),
        *("auth", "credential", "code", "session", "sid", "jwt"),
    )
)
"""Words in the names of parameters that let their holder in."""
_ENDINGS = {
    "application/epub+zip": ".epub",
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/rtf": ".rtf",
    "application/xhtml+xml": ".xhtml",
    "application/vnd.oasis.opendocument.spreadsheet": ".ods",
    "application/vnd.oasis.opendocument.text": ".odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": ".pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "message/rfc822": ".eml",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/rtf": ".rtf",
    "text/tab-separated-values": ".tsv",
}
"""Content types whose format is told by the ending that they stand for."""
_VAGUE_TYPES = frozenset(
    {"", "text/plain", "application/octet-stream", "binary/octet-stream", "application/zip"}
)
"""Content types that say less than an address's own ending."""
Reach = Literal["public", "private", "link-local", "loopback", "reserved"]


@dataclass(frozen=True)
class Fetched:
    """A document that was fetched."""

    data: bytes
    """As sent, unpacked; text in a declared encoding is UTF-8 with a byte order mark."""
    address: str
    """Where it is in the end, without user, password and secrets."""
    file_name: str
    """The address with the ending that the content's type stands for."""


@dataclass(frozen=True)
class _Reply:
    status: int
    reason: str
    headers: Message
    data: bytes


def fetch(
    address: str,
    *,
    allow_private: bool = False,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = TIMEOUT_S,
) -> Fetched:
    """Fetches a document.

    Args:
        address: With http or https.
        allow_private: Whether redirects may lead into any network.
        max_bytes: Most bytes, packed and unpacked.
        timeout_s: Limit of all hops together.

    Raises:
        DocumentError: The address is wrong, leads where it may not, does not answer in time, or
            answers with an error, with too much or with a broken body.
    """
    deadline = time.monotonic() + timeout_s
    parts = _check(address, address)
    given, allowed = parts, None
    for _ in range(MAX_REDIRECTS + 1):
        host = _resolve(parts, address)
        allowed = _require_reach(host, allowed, parts, address, allow_private=allow_private)
        is_first_host = _origin(parts) == _origin(given)
        reply = _get(parts, host, max_bytes, deadline, login=given if is_first_host else None)
        if reply.status not in _REDIRECTS or not (target := reply.headers.get("Location")):
            return _finish(reply, parts)
        target = target.encode("latin-1", "replace").decode("utf-8", "replace").strip()
        parts = _follow(parts, target, address)
    raise DocumentError(
        f"{public_address(address)} redirects more than {MAX_REDIRECTS} times.",
        hint="Give the address where it should end.",
    )


def public_address(address: str) -> str:
    """Returns an address without user, password, fragment and the values of secret parameters.

    >>> public_address("https://ada:pw@example.org/a.pdf?api_key=1&page=2#top")
    'https://example.org/a.pdf?api_key=***&page=2'
    """
    try:
        parts = urlsplit(address)
    except ValueError:
        return re.sub(r"//[^/@]*@", "//", address).partition("?")[0]
    netloc = parts.netloc.rpartition("@")[2]
    query = _PARAMETER.sub(_without_secret, parts.query)
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def _without_secret(parameter: re.Match[str]) -> str:
    words = re.split(r"[_.-]", parameter[1].lower())
    return parameter.group() if _SECRETS.isdisjoint(words) else f"{parameter[1]}=***"


def _check(address: str, given: str) -> SplitResult:
    """Returns the parts of an address.

    Raises:
        DocumentError: It is none, or not one of http(s).
    """
    shown = public_address(given)
    try:
        parts = urlsplit(address.strip())
        port, host = parts.port, parts.hostname
    except ValueError as error:
        raise DocumentError(f"{shown!r} is not an address: {error}.") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise DocumentError(
            f"{shown!r} leads to {parts.scheme}:, which is not fetched.",
            hint="Only http and https addresses are.",
        )
    # As browsers do, blanks in the path are taken: they are quoted when it is sent.
    has_controls = re.search(r"[\x00-\x1f\x7f]", address.strip()) or " " in parts.netloc
    if not host or port == 0 or has_controls:
        raise DocumentError(f"{shown!r} is not an address.", hint="https://HOST/PATH")
    return parts


def _follow(parts: SplitResult, target: str, given: str) -> SplitResult:
    """Returns where a redirect leads."""
    try:
        joined = urljoin(urlunsplit(parts), quote(target, safe="%/:=&?~#+!$,;'@()*[]|"))
    except ValueError as error:
        raise DocumentError(f"{public_address(given)} redirects to no address: {error}.") from error
    found = _check(joined, given)
    if parts.scheme == "https" and found.scheme != "https":
        raise DocumentError(
            f"{public_address(given)} redirects from https to http, where anyone may change it.",
            hint=f"To read it all the same: agenticlu ask {public_address(joined)} QUESTION",
        )
    return found


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port


# --- Where a host is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Host:
    """A host and its numbers."""

    name: str
    port: int
    numbers: tuple[str, ...]
    """Addresses to connect to, in order; the name is not resolved again."""
    reaches: frozenset[Reach]


def _resolve(parts: SplitResult, given: str) -> _Host:
    name = parts.hostname
    assert name is not None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        if not _is_number(name):
            name = name.encode("idna").decode()
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DocumentError(
            f"{public_address(given)}: there is no host {parts.hostname!r} "
            f"({getattr(error, 'strerror', None) or error}).",
            hint="Check the address and the connection.",
        ) from error
    numbers = tuple(dict.fromkeys(str(info[4][0]) for info in found))
    return _Host(name, port, numbers, frozenset(map(reach_of, numbers)))


def _is_number(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def reach_of(number: str) -> Reach:
    """Returns which network an address is in; of an IPv6 one that wraps an IPv4 one, the latter's.

    >>> reach_of("8.8.8.8"), reach_of("::ffff:10.0.0.1"), reach_of("169.254.169.254")
    ('public', 'private', 'link-local')
    """
    found = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo and found.teredo[1])
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return reach_of(str(inner))
    if found.is_loopback or found.is_unspecified:
        return "loopback"
    if found.is_link_local:
        return "link-local"
    if found.is_multicast or found.is_reserved:
        return "reserved"
    return "public" if found.is_global else "private"


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _require_reach(
    host: _Host,
    allowed: frozenset[Reach] | None,
    parts: SplitResult,
    given: str,
    *,
    allow_private: bool,
) -> frozenset[Reach]:
    """Returns the networks that redirects may lead to: the public one, and the first host's.

    Raises:
        DocumentError: This redirect leads elsewhere, by any of the host's numbers.
    """
    if allowed is None:
        return host.reaches | {"public"}
    if not allow_private and (wrong := host.reaches - allowed):
        raise DocumentError(
            f"{public_address(given)} redirects to {parts.hostname}, which is not on the public "
            f"network but {min(wrong)} ({', '.join(host.numbers)}).",
            hint="If it should lead there, name that address itself, or add --allow-private.",
        )
    return allowed


# --- One request ----------------------------------------------------------------------------------


def _get(
    parts: SplitResult, host: _Host, max_bytes: int, deadline: float, login: SplitResult | None
) -> _Reply:
    where = public_address(urlunsplit(parts))
    path = quote(parts.path, safe="%/:=&~+!$,;'@()*") or "/"
    query = quote(parts.query, safe="%/:=&?~+!$,;'@()*[]|")
    connection = http.client.HTTPConnection(host.name, host.port)
    with _explaining(where, deadline):
        connection.sock = _connect(host, deadline)
        try:
            if parts.scheme == "https":
                connection.default_port = 443  # which the Host header leaves out
                connection.sock = ssl.create_default_context().wrap_socket(
                    connection.sock, server_hostname=host.name, do_handshake_on_connect=False
                )
            with _watch(connection.sock, deadline):
                if isinstance(connection.sock, ssl.SSLSocket):
                    connection.sock.do_handshake()
                target = urlunsplit(("", "", path, query, ""))
                connection.request("GET", target, headers=_headers(login))
                response = connection.getresponse()
                has_body = response.status not in _REDIRECTS
                data = _read_body(response, max_bytes, where) if has_body else b""
                return _Reply(response.status, response.reason, response.headers, data)
        finally:
            connection.close()


def _headers(login: SplitResult | None) -> dict[str, str]:
    headers = {
        "User-Agent": f"agenticlu/{__version__}",
        "Accept": "text/html, application/pdf, text/*;q=0.9, */*;q=0.8",
        "Accept-Encoding": "gzip, identity",
        "Connection": "close",
    }
    if login is not None and login.username is not None:
        pair = f"{unquote(login.username)}:{unquote(login.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return headers


def _connect(host: _Host, deadline: float) -> socket.socket:
    """Connects to the first of the judged numbers that answers."""
    for number in host.numbers:
        patience = min(CONNECT_TIMEOUT_S, max(0.01, deadline - time.monotonic()))
        try:
            return socket.create_connection((number, host.port), timeout=patience)
        except OSError:
            if number == host.numbers[-1]:
                raise
    raise AssertionError("a host has a number")


@contextlib.contextmanager
def _watch(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Hangs up at the deadline: a server that drips keeps every single read alive."""
    patience = max(0.01, deadline - time.monotonic())
    sock.settimeout(patience)

    hung_up = threading.Event()

    def hang_up() -> None:
        hung_up.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(patience, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if hung_up.is_set():  # which looks like the end of a body whose length nobody told
        raise TimeoutError


@contextlib.contextmanager
def _explaining(where: str, deadline: float) -> Iterator[None]:
    """Turns the failures of a request into words."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise DocumentError(
            f"{where}: the certificate is not valid: {error.verify_message}.",
            hint="Check the address; a certificate of your own goes into SSL_CERT_FILE.",
        ) from error
    except (OSError, http.client.HTTPException, zlib.error) as error:
        if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
            raise DocumentError(
                f"{where} did not answer in time.", hint="Try again, or fetch it yourself."
            ) from error
        if isinstance(error, http.client.IncompleteRead):
            reason = "the connection broke off in the middle"
        else:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        hint = "Check the address and the connection, or try again later."
        if isinstance(error, ssl.SSLError):
            hint = f"Does it speak http? http{where.removeprefix('https')}"
        raise DocumentError(f"{where} cannot be read: {reason}.", hint=hint) from error


def _read_body(response: http.client.HTTPResponse, max_bytes: int, where: str) -> bytes:
    """Reads and unpacks a body, no further than the limit."""
    packing = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    if packing not in ("identity", "gzip", "x-gzip"):
        raise DocumentError(f"{where} is packed as {packing}, which was not asked for.")
    unpacker = _Unpacker() if packing != "identity" else None
    taken, body = 0, bytearray()
    while chunk := response.read(_CHUNK_BYTES):
        taken += len(chunk)
        for unpacked in [chunk] if unpacker is None else unpacker.feed(chunk):
            body += unpacked
            if max(taken, len(body)) > max_bytes:
                raise DocumentError(
                    f"{where} takes more than {max_bytes >> 20} MiB.",
                    hint="Fetch it yourself, and give a part of it.",
                )
    if unpacker is not None and not unpacker.is_whole:
        raise http.client.IncompleteRead(b"")
    return bytes(body)


class _Unpacker:
    """Unpacks gzip, of one member or several, a bounded piece at a time."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def is_whole(self) -> bool:
        return self._member.eof

    def feed(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self._member.eof:
                self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            yield self._member.decompress(packed, _CHUNK_BYTES)
            member = self._member
            packed = member.unused_data if member.eof else member.unconsumed_tail
        # The limit may have been met with the last byte of input, and some output be left.
        while rest := self._member.decompress(b"", _CHUNK_BYTES):
            yield rest


# --- What it is -----------------------------------------------------------------------------------


def _finish(reply: _Reply, parts: SplitResult) -> Fetched:
    where = public_address(urlunsplit(parts))
    if not 200 <= reply.status < 300:
        hints = {
            401: "It wants a login: https://USER:PASSWORD@HOST/PATH, or fetch it yourself.",
            403: "It refuses; fetch it yourself with a browser, and give the file.",
            404: "Check the address.",
            429: "It wants fewer requests; try again later.",
        }
        raise DocumentError(
            f"{where} replied {reply.status} {reply.reason}".rstrip() + ".",
            hint=hints.get(reply.status, "Open it in a browser to see what is wrong."),
        )
    kind = reply.headers.get_content_type() if reply.headers.get("Content-Type") else ""
    ending = _ending(kind, parts.path)
    plain = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    file_name = plain if plain.lower().endswith(ending) else f"{plain}{ending}"
    charset = reply.headers.get_content_charset()
    data = reply.data
    if charset and kind.startswith(("text/", "application/xhtml")):
        data = _to_utf8(data, charset, where)
    return Fetched(data, where, file_name)


def _ending(kind: str, path: str) -> str:
    own = PurePosixPath(unquote(path)).suffix.lower()
    if kind in _ENDINGS:
        return _ENDINGS[kind]
    if kind in _VAGUE_TYPES or kind.startswith("text/"):
        return own
    return mimetypes.guess_extension(kind) or own


def _to_utf8(data: bytes, charset: str, where: str) -> bytes:
    """Decodes text by the header, which goes before what the text itself declares.

    A byte order mark goes before both, so text that has one stays as it is, and decoded text gets
    one.
    """
    import webencodings

    marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    known = webencodings.lookup(charset)
    if data.startswith(marks) or known is None:
        return data
    try:
        text = known.codec_info.decode(data, "strict")[0]
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"{where} says that it is {charset}, but its byte {error.start} is "
            f"0x{data[error.start]:02x}.",
            hint="Fetch it yourself, and convert it: iconv -f ENCODING -t UTF-8 IN > OUT",
        ) from error
    return codecs.BOM_UTF8 + str(text).encode()
