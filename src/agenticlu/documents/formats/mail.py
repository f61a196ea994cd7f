"""Mail: single messages (.eml), mailboxes (.mbox) and web archives (.mhtml), by the stdlib's email.

A message is its main headers, its text, and its attachments: those in a format that we read, with
their text.
"""

from __future__ import annotations

import email
import email.errors
import email.header
import re
from collections import Counter
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import webencodings

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Page
from agenticlu.documents.formats import Parsed, find, html, parse_as
from agenticlu.documents.formats.encodings import read_text

_HEADERS = ("From", "To", "Cc", "Date", "Subject")
_MBOX_LINE = re.compile(
    rb"^From \S[^\n]{0,200}\b\d{4}\b[^\n]{0,60}\n(?=[A-Za-z][\w-]{0,80}:)", re.MULTILINE
)
"""What parts the messages of a mailbox (RFC 4155)."""
_QUOTED_MBOX_LINE = re.compile(rb"^>(>*From )", re.MULTILINE)
_MAX_DEPTH = 5
"""Messages inside each other."""
_SIGNATURES = (
    "application/pgp-signature",
    "application/pkcs7-signature",
    "application/x-pkcs7-signature",
)
_LEAST_PLAIN = 4
"""A plain text with less than one word for so many of the HTML text only says where to look."""


def parse(data: bytes, source: str) -> Parsed:
    """Reads a message, or all of a mailbox, each as a page.

    Raises:
        DocumentError: It holds no message.
    """
    starts = [found.start() for found in _MBOX_LINE.finditer(data)]
    if not starts or data[: starts[0]].strip():
        is_page = Path(source).suffix.lower() in {".mht", ".mhtml"}
        reader = _Reader(is_page=is_page)
        message = email.message_from_bytes(data.lstrip())
        title = _header(message, "Subject")
        return Parsed(reader.read(message), title or None, left_out=reader.left_out)
    reader, texts, pages, length = _Reader(), [], [], 0
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(data)], strict=True), 1):
        content = data[start:end].partition(b"\n")[2]
        message = email.message_from_bytes(_QUOTED_MBOX_LINE.sub(rb"\1", content))
        text = reader.read(message) + ("\n" if end < len(data) else "")
        name = f"message {number}"
        pages.append(Page(number=number, start=length, end=length + len(text), name=name))
        texts.append(text)
        length += len(text)
    return Parsed("".join(texts), None, tuple(pages), reader.left_out)


@dataclass
class _Reader:
    """Reads messages, and counts what their text does not hold."""

    left_out: Counter[str] = field(default_factory=Counter)
    is_page: bool = False
    """Whether HTML is a whole page, saved by a browser."""
    depth: int = 0

    def read(self, message: Message) -> str:
        """Returns a message as text, ending with a line end."""
        lines = (
            []
            if self.is_page
            else [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
        )
        parts = ["\n".join(lines), *self._parts(message)]
        return "\n\n".join(filter(None, (part.strip("\r\n") for part in parts))) + "\n"

    def _parts(self, part: Message) -> list[str]:
        kind = part.get_content_type()
        content = part.get_payload()
        if isinstance(content, list):
            parts = [one for one in content if isinstance(one, Message)]
            if kind == "message/rfc822":
                return self._message(parts)
            if kind == "multipart/alternative":
                return self._alternative(parts)
            return [text for one in parts for text in self._parts(one)]
        is_attached = part.get_content_disposition() == "attachment"
        name = _file_name(part)
        if part.get_content_maintype() == "multipart":  # whose boundary never comes
            kind = "text/plain"
        if kind in {"text/plain", "text/html"} and not is_attached and not name:
            return [self._text(part, kind)]
        if kind in _SIGNATURES:
            return []
        if kind in {"application/pgp-encrypted", "application/pkcs7-mime"}:
            self.left_out["encrypted part"] += 1
            return []
        if self.is_page:  # styles and images of a saved page
            if kind.startswith("image/"):
                self.left_out["image"] += 1
            return []
        return [self._attachment(part, name)]

    def _message(self, content: list[Message]) -> list[str]:
        if self.depth >= _MAX_DEPTH:
            self.left_out["forwarded message"] += len(content)
            return []
        self.depth += 1
        texts = [f"Forwarded message:\n{self.read(one)}" for one in content]
        self.depth -= 1
        return texts

    def _alternative(self, content: list[Message]) -> list[str]:
        """Returns the plain text, or the HTML where the plain text is missing or a stub."""
        kinds = {one.get_content_type(): one for one in content}
        plain = kinds.get("text/plain")
        rich = kinds.get("text/html") or next(
            (one for kind, one in kinds.items() if kind.startswith("multipart/")), None
        )
        if plain is None and rich is None:
            return [text for one in content for text in self._parts(one)]
        before = self.left_out.copy()
        rich_texts = [] if rich is None else self._parts(rich)
        counted, self.left_out = self.left_out, before
        text = "" if plain is None else self._text(plain, "text/plain")
        num_rich = sum(len(one.split()) for one in rich_texts)
        if plain is not None and len(text.split()) * _LEAST_PLAIN >= num_rich:
            return [text]
        self.left_out = counted
        return rich_texts or [text]

    def _text(self, part: Message, kind: str) -> str:
        data = _payload(part)
        known = webencodings.lookup(_charset(part))
        declared = str(known.codec_info.name) if known else None
        try:
            text, uncertain = read_text(data, "a part", declared)
        except DocumentError:
            self.left_out["unreadable part"] += 1
            return ""
        self.left_out += uncertain
        if kind == "text/html":
            parsed = html.convert(text, is_page=self.is_page)
            self.left_out += parsed.left_out
            return parsed.text
        text = text.replace("\r\n", "\n")
        if str(part.get_param("format", "")).lower() == "flowed":
            return _unflow(text, str(part.get_param("delsp", "")).lower() == "yes")
        return text

    def _attachment(self, part: Message, name: str) -> str:
        data = _payload(part)
        label = f"Attachment: {name or part.get_content_type()}"
        named = name or f"part.{part.get_content_subtype()}"
        if self.depth >= _MAX_DEPTH or part.get_content_maintype() in {"image", "audio", "video"}:
            self.left_out["attachment"] += 1
            return label
        self.depth += 1
        try:
            parsed = parse_as(data, find(data, named).module, named)
        except DocumentError:
            self.left_out["attachment"] += 1
            return label
        finally:
            self.depth -= 1
        self.left_out += parsed.left_out
        return f"{label}\n\n{parsed.text}"


def _payload(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


def _charset(part: Message) -> str:
    try:
        return part.get_content_charset() or "utf-8"
    except (LookupError, UnicodeError, email.errors.MessageError):
        return "utf-8"


def _header(message: Message, name: str) -> str:
    """Returns a header's text, decoded (RFC 2047); '' if there is none."""
    return ", ".join(_decode(str_or_header) for str_or_header in message.get_all(name, []))


def _decode(value: object) -> str:
    raw = str(value)
    if isinstance(value, email.header.Header):  # bytes beyond ASCII, as no standard allows
        raw = b"".join(_bytes(chunk) for chunk, _ in email.header.decode_header(value)).decode(
            "utf-8", "replace"
        )
    try:
        text = str(email.header.make_header(email.header.decode_header(raw)))
    except (LookupError, UnicodeError, ValueError, email.errors.MessageError):
        text = raw
    return " ".join(text.split())


def _bytes(chunk: str | bytes) -> bytes:
    return chunk if isinstance(chunk, bytes) else chunk.encode("utf-8", "surrogateescape")


def _file_name(part: Message) -> str:
    try:
        return _decode(part.get_filename() or "")
    except (LookupError, UnicodeError, ValueError, email.errors.MessageError):
        return "attachment"


def _unflow(text: str, delete_space: bool) -> str:
    """Joins lines that were broken only to be sent (RFC 3676)."""
    lines: list[str] = []
    goes_on, depth_before = False, 0
    for line in text.split("\n"):
        body = line.lstrip(">")
        depth = len(line) - len(body)
        body = body.removeprefix(" ")
        if goes_on and depth == depth_before and body != "-- ":
            lines[-1] += body
        else:
            lines.append((">" * depth + " " if depth else "") + body)
        goes_on = body.endswith(" ") and body != "-- "
        if goes_on and delete_space:
            lines[-1] = lines[-1][:-1]
        depth_before = depth
    return "\n".join(line.rstrip() for line in lines)
