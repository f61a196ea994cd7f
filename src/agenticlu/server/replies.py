"""Renders replies and errors in OpenAI's form, whole or as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.errors import (
    AgenticluError,
    DocumentError,
    DocumentTooLongError,
    EngineAuthError,
    EngineBusyError,
    EngineUnreachableError,
    ModelNotFoundError,
    UsageError,
)
from agenticlu.core.records import Usage
from agenticlu.engines.base import Completion, Generated, Sampled, TokenLogprob
from agenticlu.engines.streaming import HALF_CHARACTER
from agenticlu.server.limits import RequestError
from agenticlu.server.requests import CompletionRequest

FINISH = {"stop": "stop", "length": "length", "refused": "content_filter", "unknown": "stop"}


def render_error(error: AgenticluError) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Returns status, headers and body of an error, in OpenAI's form."""
    kind, code, status, headers = "server_error", None, 500, {}
    message = error.message
    if isinstance(error, RequestError):
        kind, code, status, headers = error.kind, error.code, error.status, error.headers
    elif isinstance(error, ModelNotFoundError):
        kind, code, status = "invalid_request_error", "model_not_found", 404
    elif isinstance(error, DocumentTooLongError):
        kind, code, status = "invalid_request_error", "context_length_exceeded", 400
    elif isinstance(error, DocumentError):
        kind, code, status = "invalid_request_error", "unreadable_document", 400
        message = error.advice  # it is for the client to mend the file
    elif isinstance(error, UsageError):
        kind, status = "invalid_request_error", 400
    elif isinstance(error, EngineUnreachableError | EngineAuthError):
        code, status = "upstream_failed", 502
    elif isinstance(error, EngineBusyError):
        kind, code, status = "rate_limit_error", "rate_limit_exceeded", 429
        headers = {"Retry-After": "1"}
    param = getattr(error, "param", None)
    return (
        status,
        headers,
        {"error": {"message": message, "type": kind, "param": param, "code": code}},
    )


def render_usage(usage: Usage) -> dict[str, Any]:
    """Returns the usage object of a reply."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def render_logprobs(tokens: Sequence[TokenLogprob], count: int) -> dict[str, Any]:
    """Returns the log-probabilities of tokens of a chat completion."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        # One token may be part of a character: its text then does not tell its bytes.
        known = HALF_CHARACTER not in text
        return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if known else None}

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


def render_plain_logprobs(
    tokens: Sequence[TokenLogprob], count: int, offset: int = 0
) -> dict[str, Any]:
    """Returns the log-probabilities of tokens of a continued text, in the older form.

    Args:
        tokens: In order.
        count: Rivals to report for each.
        offset: Characters before the first.
    """
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {text: value for _, text, value in token.top[:count]} if count else None
            for token in tokens
        ],
        "text_offset": offsets,
    }


def text_of(reply: Sampled, index: int) -> str:
    """Returns the text of a completion as sampled, where the engine tells it."""
    if isinstance(reply, Generated) and reply.raw_texts:
        return reply.raw_texts[index]
    return reply.completions[index].text


def details_of(reply: Sampled, index: int) -> tuple[TokenLogprob, ...]:
    """Returns the log-probabilities of a completion's tokens.

    The end token and what was sampled past a stop are left out, as they are from the text; where
    that leaves nothing the first token stays, for its rivals tell which label was near.
    """
    if not isinstance(reply, Generated) or not reply.logprobs:
        return ()
    kept = reply.completions[index].token_ids
    every = reply.logprobs[index]
    return every if kept is None else every[: max(1, len(kept))]


@dataclass
class Rendering:
    """Renders one reply, or the events of one stream.

    Args:
        request: Asked for.
        reply_id: Of the reply.
        model: Name of the model.
    """

    request: CompletionRequest
    reply_id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, replies: Sequence[Sampled]) -> dict[str, Any]:
        """Returns the body of a reply.

        Args:
            replies: One for each prompt.
        """
        choices: list[dict[str, Any]] = []
        for reply in replies:
            for i, one in enumerate(reply.completions):
                index = len(choices)
                details = details_of(reply, i)
                text = self._echo(index) + text_of(reply, i)
                said = {"role": "assistant", "content": text, "refusal": None}
                choices.append(
                    {
                        "index": index,
                        **({"text": text} if self.request.plain else {"message": said}),
                        "logprobs": self._logprobs(details),
                        **self._end(one),
                    }
                )
        usage = render_usage(sum((reply.usage for reply in replies), Usage()))
        kind = "text_completion" if self.request.plain else "chat.completion"
        return {**self._head(kind), "choices": choices, "usage": usage}

    def opening(self) -> list[str]:
        """Returns the first events of a stream: the role, or the text that is echoed."""
        said: list[dict[str, Any]] = [
            {"text": self._echo(index)}
            if self.request.plain
            else {"delta": {"role": "assistant", "content": "", "refusal": None}}
            for index in range(self.request.num_choices)
        ]
        if self.request.plain and not self.request.echo:
            return []
        return [
            self._event([{"index": i, **one, "logprobs": None, "finish_reason": None}])
            for i, one in enumerate(said)
        ]

    def delta(self, index: int, text: str, details: Sequence[TokenLogprob], offset: int = 0) -> str:
        """Returns an event with more of a choice's text."""
        return self._event(
            [
                {
                    "index": index,
                    **({"text": text} if self.request.plain else {"delta": {"content": text}}),
                    "logprobs": self._logprobs(details, offset),
                    "finish_reason": None,
                }
            ]
        )

    def ending(self, index: int, one: Completion) -> str:
        """Returns the last event of a choice."""
        nothing: dict[str, Any] = {"text": ""} if self.request.plain else {"delta": {}}
        return self._event([{"index": index, **nothing, "logprobs": None, **self._end(one)}])

    def closing(self, usage: Usage) -> list[str]:
        """Returns the events after the last choice's end."""
        told = [self._event([], render_usage(usage))] if self.request.include_usage else []
        return [*told, "data: [DONE]\n\n"]

    def failure(self, body: dict[str, Any]) -> list[str]:
        """Returns the events that end a stream in which the engine failed."""
        return [f"data: {json.dumps(body)}\n\n", "data: [DONE]\n\n"]

    def _event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
        kind = "text_completion" if self.request.plain else "chat.completion.chunk"
        body: dict[str, Any] = {**self._head(kind), "choices": choices}
        if self.request.include_usage:
            body["usage"] = usage
        return f"data: {json.dumps(body)}\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def _echo(self, index: int) -> str:
        asked = self.request.asked[index // self.request.sampling.n]
        return asked if self.request.echo and isinstance(asked, str) else ""

    def _logprobs(self, details: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any] | None:
        count = self.request.top_logprobs
        if count is None:
            return None
        if self.request.plain:
            return render_plain_logprobs(details, count, offset)
        return render_logprobs(details, count)

    def _end(self, one: Completion) -> dict[str, Any]:
        ending: dict[str, Any] = {"finish_reason": FINISH[one.finish_reason]}
        if self.request.token_ids and one.token_ids is not None:
            ending["token_ids"] = list(one.token_ids)
        return ending
