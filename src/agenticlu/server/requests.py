"""Reads the requests of an OpenAI-compatible client and renders the parts of a reply.

What the server does not support is refused by name; nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.errors import (
    AgenticluError,
    DocumentError,
    EngineBusyError,
    ModelNotFoundError,
    UsageError,
    did_you_mean,
)
from agenticlu.core.records import Message, Role, Usage
from agenticlu.engines.base import Sampling

DEFAULT_MAX_TOKENS = 1024
"""Of a reply whose request names no limit, if the window has as much left."""
DEFAULT_PLAIN_TOKENS = 16
"""Of a continued text whose request names no limit, as in OpenAI's API."""
MOST_SAMPLES = 256
"""Of one request."""
SHARED_FIELDS = frozenset(
    [
        "model",
        "n",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "return_token_ids",
    ]
)
FIELDS = SHARED_FIELDS | {"messages", "max_completion_tokens", "logprobs", "top_logprobs"}
"""Fields with an effect."""
PLAIN_FIELDS = SHARED_FIELDS | {"prompt"}
"""Likewise where a text is continued."""
IDLE_FIELDS = frozenset({"user", "metadata", "store", "safety_identifier", "service_tier"})
"""Fields that by their meaning change no reply."""
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "repetition_penalty": (1, None),
    "top_k": (0, -1, None),
    "min_p": (0, None),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "modalities": (None, ["text"]),
}
"""Fields that are taken only with a value that asks for nothing."""
NEUTRAL_PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    **NEUTRAL_VALUES,
    "logprobs": (None,),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
}
"""Likewise where a text is continued."""
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "developer": "system",
}
FINISH = {"stop": "stop", "length": "length", "refused": "content_filter", "unknown": "stop"}


@dataclass(frozen=True)
class CompletionRequest:
    """A request that was understood."""

    asked: tuple[Message, ...] | str
    """A conversation, or a text to continue."""
    sampling: Sampling
    max_tokens_given: bool
    top_logprobs: int | None
    stream: bool
    include_usage: bool
    token_ids: bool


class RequestError(UsageError):
    """An invalid or unsupported request; names the field."""

    def __init__(self, message: str, param: str | None, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message} {hint}")
        self.param = param


def parse_request(body: Any, *, plain: bool = False) -> CompletionRequest:
    """Reads a request for a chat completion, or for the continuation of a text.

    Args:
        body: From the client.
        plain: Whether a text is to be continued.

    Raises:
        RequestError: It is malformed, or asks for what the server does not do.
    """
    if not isinstance(body, dict):
        raise RequestError("The body must be a JSON object.", None)
    _refuse_unsupported(body, plain)
    max_tokens = _number(body, "max_tokens", int, 1, None)
    if not plain:
        max_tokens = _number(body, "max_completion_tokens", int, 1, None) or max_tokens
    stop = body.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(one, str) and one for one in stop):
        raise RequestError("'stop' must be a string or a list of strings, none empty.", "stop")
    top_logprobs = None if plain else _number(body, "top_logprobs", int, 0, 20)
    if top_logprobs and not body.get("logprobs"):
        raise RequestError("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
    temperature = _number(body, "temperature", float, 0.0, 10.0)
    top_p = _number(body, "top_p", float, 0.0, 1.0)
    if top_p == 0.0:
        raise RequestError("'top_p' must be above 0.", "top_p")
    return CompletionRequest(
        asked=_parse_prompt(body.get("prompt")) if plain else parse_messages(body.get("messages")),
        sampling=Sampling(
            temperature=1.0 if temperature is None else temperature,
            top_p=1.0 if top_p is None else top_p,
            max_tokens=max_tokens or (DEFAULT_PLAIN_TOKENS if plain else DEFAULT_MAX_TOKENS),
            n=_number(body, "n", int, 1, MOST_SAMPLES) or 1,
            stop=stop,
            seed=_number(body, "seed", int, None, None),
        ),
        max_tokens_given=max_tokens is not None or plain,
        top_logprobs=(top_logprobs or 0) if body.get("logprobs") else None,
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        token_ids=bool(body.get("return_token_ids")),
    )


def _refuse_unsupported(body: Mapping[str, Any], plain: bool) -> None:
    fields = PLAIN_FIELDS if plain else FIELDS
    neutral = NEUTRAL_PLAIN_VALUES if plain else NEUTRAL_VALUES
    for field, value in body.items():
        if field in fields or field in IDLE_FIELDS:
            continue
        if field not in neutral:
            raise RequestError(f"Unknown field {field!r}.", field, hint=did_you_mean(field, fields))
        if value not in neutral[field]:
            raise RequestError(f"This server does not support {field!r}.", field)


def _number(
    body: Mapping[str, Any], field: str, kind: type, least: float | None, most: float | None
) -> Any:
    value = body.get(field)
    if value is None:
        return None
    fits = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    if not fits or (least is not None and value < least) or (most is not None and value > most):
        bounds = f" from {least}" if least is not None else ""
        bounds += f" to {most}" if most is not None else ""
        noun = "a number" if kind is float else "an integer"
        raise RequestError(f"{field!r} must be {noun}{bounds}, not {value!r}.", field)
    return kind(value)


def _parse_prompt(given: Any) -> str:
    """Reads the text to continue; a list may hold one."""
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if not isinstance(given, str) or not given:
        raise RequestError("'prompt' must be one non-empty string.", "prompt")
    return given


def parse_messages(given: Any) -> tuple[Message, ...]:
    """Reads a conversation that ends in a user message."""
    if not isinstance(given, list) or not given:
        raise RequestError("'messages' must be a list of messages.", "messages")
    messages = []
    for i, one in enumerate(given):
        given_role = one.get("role") if isinstance(one, dict) else None
        role = ROLES.get(str(given_role))
        if role is None:
            raise RequestError(
                f"Message {i} has the role {given_role!r}; allowed are {', '.join(ROLES)}.",
                "messages",
            )
        messages.append(Message(role=role, content=_parse_content(one.get("content"), i)))
    if messages[-1].role != "user":
        raise RequestError("The last message must have the role user.", "messages")
    return tuple(messages)


def _parse_content(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [
            part.get("text")
            for part in content
            if isinstance(part, dict) and part.get("type") == "text"
        ]
        if len(texts) == len(content) and all(isinstance(text, str) for text in texts):
            return "".join(str(text) for text in texts)
    raise RequestError(f"Message {index} must contain text only.", "messages")


def render_error(error: AgenticluError) -> tuple[int, dict[str, Any]]:
    """Returns status and body of an error, in OpenAI's form."""
    kind, code, status = "server_error", None, 500
    param = getattr(error, "param", None)
    if isinstance(error, ModelNotFoundError):
        kind, code, status = "invalid_request_error", "model_not_found", 404
    elif isinstance(error, DocumentError):
        kind, code, status = "invalid_request_error", "context_length_exceeded", 400
    elif isinstance(error, UsageError):
        kind, status = "invalid_request_error", 400
    elif isinstance(error, EngineBusyError):
        kind, code, status = "rate_limit_error", "rate_limit_exceeded", 429
    inner = {"message": error.message, "type": kind, "param": param, "code": code}
    return status, {"error": inner}


def render_usage(usage: Usage) -> dict[str, Any]:
    """Returns the usage object of a reply."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def render_logprobs(tokens: Sequence[Any], count: int) -> dict[str, Any]:
    """Returns the log-probabilities of one completion."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    return {
        "content": [
            {
                **entry(token.text, token.logprob),
                "top_logprobs": [entry(text, value) for _, text, value in token.top[:count]],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def safe_text(text: str, stops: Sequence[str], *, strip: bool = True) -> str:
    """Returns the part of an unfinished reply that can no longer change.

    Half a character and what may turn into a stop text are held back, and white space at the ends
    where replies are stripped of it.

    >>> safe_text("  The mill EN", ["END"]), safe_text("  The mill EN", ["END"], strip=False)
    ('The mill', '  The mill ')
    """
    text = text.lstrip() if strip else text
    for stop in stops:
        if (at := text.find(stop)) >= 0:
            text = text[:at]
        for length in range(min(len(stop) - 1, len(text)), 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    text = text.rstrip("\ufffd")
    return text.rstrip() if strip else text
