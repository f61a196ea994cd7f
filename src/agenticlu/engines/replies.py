"""Reads the replies of OpenAI-compatible servers, whatever they leave out or add.

Replies are JSON objects as the server sent them; `check_reply` vouches for the little that the
other functions rely on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.records import FinishReason, Usage, without_lone_surrogates
from agenticlu.dialogue.replies import strip_thinking
from agenticlu.engines.base import Completion

REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refused",
}


Json = dict[str, Any]


@dataclass(frozen=True)
class ServedModel:
    """A model as a server lists it."""

    id: str
    """Name under which it is served."""
    weights: str = ""
    """Hash of its weights, as `agenticlu serve` tells; empty where a server does not."""
    root: str = ""
    """Folder or hub id that it was loaded from (vLLM's field); empty if unknown."""
    piece_tokens: int | None = None
    """Size of a piece that suits it, as `agenticlu serve` tells."""
    context_tokens: int | None = None
    """Longest prompt plus completion."""


def check_reply(reply: Any, *, plain: bool = False) -> bool:
    """Whether this is a chat completion: an object with at least one choice that has a message.

    Args:
        reply: From the server.
        plain: Whether a text was continued: the choices then have a text.

    >>> check_reply({"choices": [{"message": {"content": "Ada"}}]}), check_reply({"choices": "x"})
    (True, False)
    >>> check_reply({"choices": [{"text": " Ada"}]}, plain=True)
    True
    """
    name, kind = ("text", str) if plain else ("message", dict)
    choices = reply.get("choices") if isinstance(reply, dict) else None
    return (
        isinstance(choices, list)
        and bool(choices)
        and all(isinstance(c, dict) and isinstance(c.get(name), kind) for c in choices)
    )


def usage_of(reply: Json) -> Usage:
    """Reads the cost of one request; zeros where the server tells nothing."""
    usage = reply.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        requests=1,
        prompt_tokens=usage.get("prompt_tokens") or 0,
        cached_tokens=details.get("cached_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
    )


def content_of(choice: Json) -> str:
    """Returns the text of one sample verbatim."""
    return without_lone_surrogates(choice["message"].get("content") or "")


def holds_thinking(choice: Json) -> bool:
    """Whether the model thought aloud before its reply."""
    named = (choice["message"].get(name) for name in ("reasoning_content", "reasoning"))
    content = content_of(choice)
    return strip_thinking(content) != content or any(
        isinstance(text, str) and text for text in named
    )


def completion_of(choice: Json) -> Completion:
    """Reads one sample."""
    content = content_of(choice)
    refused = choice["message"].get("refusal")
    text = strip_thinking(content).strip()
    ids = choice.get("token_ids")
    whole = text == content.strip()
    reason = REASONS.get(choice.get("finish_reason") or "", "unknown")
    return Completion(
        text=text or (refused or ""),
        finish_reason="refused" if refused else reason,
        token_ids=tuple(ids) if ids and whole else None,
    )


def continuation_of(choice: Json) -> Completion:
    """Reads one sample of a continued text; its white space is part of it."""
    ids = choice.get("token_ids")
    return Completion(
        text=without_lone_surrogates(choice["text"]),
        finish_reason=REASONS.get(choice.get("finish_reason") or "", "unknown"),
        token_ids=tuple(ids) if ids else None,
    )


def first_logprobs(reply: Json) -> list[tuple[str, float]] | None:
    """Returns (token, log-probability) of the first token's candidates; None if absent."""
    content = (reply["choices"][0].get("logprobs") or {}).get("content")
    if not content:
        return None
    first = content[0]
    candidates = [(one["token"], one["logprob"]) for one in first.get("top_logprobs") or ()]
    if all(token != first["token"] for token, _ in candidates):
        candidates.append((first["token"], first["logprob"]))
    return candidates


def label_masses(
    candidates: Sequence[tuple[str, float]], choices: Sequence[str]
) -> dict[str, float]:
    """Adds up the candidates' probabilities per choice.

    A candidate counts for the choice that it spells, case, white space and punctuation aside, or
    else for the only choice that it begins.

    >>> masses = label_masses([(" Yes", math.log(0.5)), ("may", math.log(0.25))], ("yes", "maybe"))
    >>> {choice: round(mass, 2) for choice, mass in masses.items()}
    {'yes': 0.5, 'maybe': 0.25}
    """
    masses = dict.fromkeys(choices, 0.0)
    for token, logprob in candidates:
        text = token.replace("Ġ", " ").replace("▁", " ").strip(" \t\n*_`\"'.,:;!?()[]").casefold()
        if not text:
            continue
        spelt = [choice for choice in choices if choice.casefold() == text]
        begun = [choice for choice in choices if choice.casefold().startswith(text)]
        owner = spelt or begun
        if len(owner) == 1:
            masses[owner[0]] += math.exp(logprob)
    return masses


def parse_model_list(reply: Any) -> dict[str, Json] | None:
    """Returns the entries of a model list by id; None if this is not a model list.

    >>> parse_model_list({"data": [{"id": "mill-8b"}]})
    {'mill-8b': {'id': 'mill-8b'}}
    """
    data = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(data, list):
        return None
    return {str(one["id"]): one for one in data if isinstance(one, dict) and "id" in one}


def parse_served_model(entry: Json) -> ServedModel:
    """Reads one entry of a model list."""
    piece_tokens = entry.get("piece_tokens")
    return ServedModel(
        id=str(entry["id"]),
        weights=str(entry.get("weights") or ""),
        root=str(entry.get("root") or ""),
        piece_tokens=piece_tokens if isinstance(piece_tokens, int) and piece_tokens > 0 else None,
        context_tokens=window_of(entry),
    )


def window_of(entry: Json) -> int | None:
    """Reads a model's window from its entry in the model list, under the names servers use."""
    for source in (entry, entry.get("meta")):
        for name in ("max_model_len", "context_length", "max_context_length", "n_ctx"):
            value = source.get(name) if isinstance(source, dict) else None
            if isinstance(value, int) and value > 0:
                return value
    return None
