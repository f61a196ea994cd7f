"""Reads servers' errors, in all their forms and words, and builds ours from them.

The forms: OpenAI's object, texts and lists in its place, FastAPI's details, errors in errors, JSON
in texts, HTML, plain text; under an error status, or under status 200. What the words mean is
decided in this order: a key, moderation, money, load, length, the request.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.errors import (
    AgenticluError,
    ContentRefusedError,
    DocumentTooLongError,
    EngineBusyError,
    EngineRefusedError,
)
from agenticlu.engines.http.overflow import LengthLimits, is_too_long, parse_limits
from agenticlu.engines.http.quoting import without_quotes

MOST_READ = 4 << 20
"""Bytes of an error's body that are read: some servers send the whole request back in it."""
MOST_PLAIN = 1 << 16
"""The same where it is no JSON."""
MOST_CHARACTERS = 4000
"""Characters of an error's message that are read; people are shown fewer."""
MOST_LEVELS = 6
MOST_PARTS = 8
BUSY_STATUSES = frozenset({408, 409, 425, 429})
NO_ROOM_STATUSES = frozenset({408, 425, 429, 503, 529})
"""Statuses that speak of load; other 5xx may be due to the request."""
WORD_FIELDS = (
    *("message", "Message", "msg", "error_message", "error", "errors", "detail", "title", "reason"),
    *("reasons", "description", "faultstring", "fault", "raw", "metadata", "innererror"),
)
"""Fields in which a server, or one behind it, says what is wrong."""
STATUS_OF_KIND = (
    (re.compile(r"rate_?limit|too_?many|throttl|resource_?exhausted|quota", re.I), 429),
    (re.compile(r"context_length|exceed_context", re.I), 400),
    (re.compile(r"content|moderation|safety|policy", re.I), 403),
    (re.compile(r"overloaded|unavailable|capacity", re.I), 503),
    (re.compile(r"timeout|deadline", re.I), 408),
    (re.compile(r"auth|api_?key", re.I), 401),
    (re.compile(r"invalid|bad_?request|validation|unsupported|unprocess", re.I), 400),
)
"""What a kind of error is under a server that sends it with status 200."""

_KEY = re.compile(
    r"api[ _-]?key|credential|authenticat|unauthori[sz]ed|access token|bearer|invalid token"
    r"|authorization|log ?in\b|sign in",
    re.I,
)
_MODERATED = re.compile(
    r"moderat|content[ _-]?(?:filter|polic|management|safety|violation|blocked)|flagged"
    r"|violat\w{0,5}\b.{0,60}\b(?:polic|guideline|terms)|responsible ?ai|guardrail"
    r"|safety (?:system|filter|setting|polic|reason)|(?:inappropriate|prohibited|sensitive|harmful)"
    r"[ _]content|content exists risk|data[ _]?inspection|敏感|违规",
    re.I,
)
_NO_MONEY = re.compile(
    r"credit balance|insufficient[ _](?:balance|credit|quota|fund)|(?:requires more|out of) credits"
    r"|exceeded your (?:monthly|included) (?:credits|spend)|欠费|余额不足",
    re.I,
)
_RATE = re.compile(
    r"rate[ _-]?limit|tokens? per (?:min|day|sec|hour)|requests? per (?:min|day|sec|hour)"
    r"|\b[TR]P[MD]\b|throttl",
    re.I,
)
_LIMIT_AND_REQUESTED = re.compile(
    r"limit:? ([\d,]+), (?:used:? [\d,]+, )?requested:? ([\d,]+)", re.I
)
ROLES = re.compile(
    r"\bsystem['\"]?(?: role| message| prompt| instruction)?s?\b.{0,15}"
    r"\b(?:not (?:be )?(?:supported|allowed|enabled|accepted)|unsupported)"
    r"|(?:not support|unsupported|unexpected role|invalid value)\W{0,3}(?:the |a )?['\"]?system\b"
    r"|developer instruction is not enabled|only user and assistant roles"
    r"|should be 'user' or 'assistant'|\balternat(?:e|ing)\b"
    r"|(?:successive|consecutive) .{0,30}messages|or more assistant messages",
    re.I,
)
"""Refusals of the roles of a conversation; templates raise some of them, under any status."""
UNSUPPORTED = re.compile(
    r"unsupported ?param|(?:does not|doesn't) support (?:the )?param"
    r"|\d validation errors?\b.{0,120}\bbody\b",
    re.I | re.S,
)
"""The request is at fault, whatever the status."""


@dataclass(frozen=True)
class Refusal:
    """What a server says is wrong."""

    status: int
    text: str = ""
    """Its words, at most `MOST_CHARACTERS` of them."""
    code: str = ""
    kind: str = ""
    param: str = ""
    """Field of the request that it names."""
    fields: tuple[str, ...] = ()
    """Fields that a validator names, as paths: 'messages.0.role'."""
    retry_after_s: float | None = None
    limits: LengthLimits = field(default_factory=LengthLimits)


class StatusError(EngineRefusedError):
    """The server refused a request for a reason in the request itself."""

    def __init__(
        self, message: str, refusal: Refusal, shown: str, *, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal
        self.shown = shown
        """The server's words as people may see them."""


def read_refusal(content: bytes, status: int, prompts: Sequence[str] = ()) -> Refusal:
    """Reads the body of a reply with an error status.

    Args:
        content: The body.
        status: Of the reply.
        prompts: Texts of the request, which are not taken for the server's words.

    >>> read_refusal(b'{"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}', 422).text
    'seed: not permitted'
    """
    text = content[:MOST_READ].decode("utf-8", "replace").strip()
    data = _load(text)
    if data is None:
        words = without_quotes(_strip_markup(text[:MOST_PLAIN]), prompts)[:MOST_CHARACTERS]
        return Refusal(status, words, limits=parse_limits(words))
    return _build(data, status, prompts)


def find_refusal(data: object, prompts: Sequence[str] = ()) -> Refusal | None:
    """Returns the error that a server sent with status 200, or None if it sent none.

    Args:
        data: What it sent.
        prompts: As for `read_refusal`.
    """
    if not isinstance(data, dict):
        return None
    choices = data.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and isinstance(first.get("error"), dict):
        return _build(first, None, prompts)
    if choices or any(
        data.get(name) and isinstance(data[name], list) for name in ("data", "models")
    ):
        return None  # what was asked for is there
    named = data.get("error") or data.get("errors") or data.get("detail")
    if named or data.get("object") == "error" or data.get("type") == "error":
        return _build(data, None, prompts)
    return None


def _load(text: str) -> Any:
    """Parses JSON; None for anything else."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _strip_markup(text: str) -> str:
    """Returns the title of an HTML page, or its text; other texts as they are."""
    if not text[:200].lower().lstrip().startswith(("<!doctype", "<html", "<head", "<title")):
        return text
    title = re.search(r"<title[^<>]*>([^<]*)", text, re.I)
    shown = title[1] if title else re.sub(r"<[^<>]*>", " ", text)
    return " ".join(shown.split())


def _build(data: Any, status: int | None, prompts: Sequence[str]) -> Refusal:
    layers = list(_layers(data, 0))
    words = list(dict.fromkeys(word.strip() for word in _words(data, 0) if word.strip()))
    words = [word for word in words if not any(word != o and word in o for o in words)]
    words = [without_quotes(word, prompts) for word in words]
    text = "; ".join(words)[:MOST_CHARACTERS] or json.dumps(data)[:MOST_CHARACTERS]

    def first(*names: str) -> str:
        values = (layer.get(name) for layer in layers for name in names)
        return next((str(one) for one in values if isinstance(one, str | int) and one), "")[:200]

    code, kind = first("code", "error_code"), first("type", "status", "error_type")
    if status is None:
        named = first("code", "status", "status_code")
        status = int(named) if re.fullmatch(r"[45]\d\d", named) else None
    if status is None:
        about = f"{code} {kind}"
        default = 400 if _MODERATED.search(text) or is_too_long(code, text, 500) else 500
        status = next((s for pattern, s in STATUS_OF_KIND if pattern.search(about)), default)
    return Refusal(
        status=status,
        text=text,
        code=code,
        kind=kind,
        param=first("param"),
        fields=tuple(_fields(layers)),
        retry_after_s=_retry_delay(layers),
        limits=parse_limits(text, next(filter(None, map(_window_field, layers)), None)),
    )


def _layers(data: Any, level: int) -> Iterable[Mapping[str, Any]]:
    """Yields the objects of an error, the innermost of OpenAI's form first."""
    if level > MOST_LEVELS:
        return
    if isinstance(data, str):
        data = _load(data)
    if isinstance(data, list):
        for one in data[:MOST_PARTS]:
            yield from _layers(one, level + 1)
    elif isinstance(data, dict):
        inner = ("error", "errors", "detail", "details", "message", "metadata", "raw", "innererror")
        for name in inner:
            if isinstance(data.get(name), dict | list | str):
                yield from _layers(data[name], level + 1)
        yield data


def _words(data: Any, level: int) -> Iterable[str]:
    if level > MOST_LEVELS:
        return
    if isinstance(data, str):
        inner = _load(data)
        if inner is None:
            yield _strip_markup(data)
        else:
            yield from _words(inner, level + 1)
    elif isinstance(data, list):
        for one in data[:MOST_PARTS]:
            yield from _words(one, level + 1)
    elif isinstance(data, dict):
        place = _path(data)
        for name in WORD_FIELDS:
            for word in _words(data.get(name), level + 1):
                yield f"{place}: {word}" if place and name == "msg" else word


def _path(data: Mapping[str, Any]) -> str:
    """Returns where a validator found a fault: 'seed' for ["body", "seed"]."""
    loc = data.get("loc")
    parts = loc[:MOST_PARTS] if isinstance(loc, list) else ()
    return ".".join(str(part) for part in parts if part != "body")[:200]


def _fields(layers: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for layer in layers:
        if path := _path(layer):
            yield path


def _window_field(layer: Mapping[str, Any]) -> int | None:
    value = layer.get("n_ctx")  # llama.cpp's
    return value if type(value) is int and value > 0 else None


def _retry_delay(layers: Iterable[Mapping[str, Any]]) -> float | None:
    """Reads Google's pause, such as '43s'."""
    for layer in layers:
        found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", str(layer.get("retryDelay", ""))[:30])
        if found:
            return float(found[1])
    return None


def explain(
    where: str, refusal: Refusal, shown: str, retry_after_s: float | None
) -> AgenticluError:
    """Builds our error for a refusal other than of a key (status 401).

    Args:
        where: Model and address, for the message.
        refusal: What the server says.
        shown: Its words as people may see them.
        retry_after_s: The pause that its headers ask for.
    """
    status, text = refusal.status, refusal.text
    about = f"{refusal.code} {refusal.kind} {text}"
    told = f"(status {status}): {shown}" if shown else f"(status {status})"
    if status == 402 or _NO_MONEY.search(about):
        busy = EngineBusyError(f"{where} is busy or failing {told}")
        busy.retry_after_s = math.inf  # paying helps, waiting does not
        busy.hint = "The account behind the key has no quota left."
        return busy
    if status < 500 and status != 429 and _MODERATED.search(about):
        return ContentRefusedError(f"{where} refused the content {told}")
    if (status == 429 or _RATE.search(about)) and (found := _LIMIT_AND_REQUESTED.search(text)):
        limit, requested = (int(one.replace(",", "") or 0) for one in found.groups())
        if requested > limit:
            hint = "The account's limit per minute is below this one request: send shorter prompts."
            return StatusError(f"{where} refused the request {told}", refusal, shown, hint=hint)
    if status in BUSY_STATUSES or (status < 500 and _RATE.search(about)):
        return _busy(f"{where} is busy or failing {told}", refusal, retry_after_s)
    if refusal.limits.reply_tokens is None and is_too_long(refusal.code, text, status):
        error = DocumentTooLongError(f"{where} refused the prompt as too long {told}")
        error.window_tokens = refusal.limits.window_tokens
        return error
    own = status == 501 or ROLES.search(text) or UNSUPPORTED.search(about)
    if status >= 500 and not own and refusal.limits.reply_tokens is None:
        return _busy(f"{where} is busy or failing {told}", refusal, retry_after_s)
    return StatusError(f"{where} refused the request {told}", refusal, shown)


def speaks_of_key(refusal: Refusal) -> bool:
    """Whether a refusal is about the key: status 401, or a 403 that says so."""
    about = f"{refusal.code} {refusal.kind} {refusal.text}"
    return refusal.status == 401 or (
        refusal.status == 403 and bool(_KEY.search(about)) and not _MODERATED.search(about)
    )


def _busy(message: str, refusal: Refusal, retry_after_s: float | None) -> EngineBusyError:
    busy = EngineBusyError(message)
    busy.is_fault = refusal.status >= 500 and refusal.status not in NO_ROOM_STATUSES
    pauses = [one for one in (retry_after_s, refusal.retry_after_s) if one is not None]
    busy.retry_after_s = max(pauses, default=None)
    if busy.retry_after_s is not None and busy.retry_after_s > 1:
        busy.hint = f"It asks to come back in {busy.retry_after_s:.0f} s."
    return busy
