"""Renders answers as chat completions, with annotations on the message and in the last chunk."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from agenticlu.dialogue.answer import Answer, Event
from agenticlu.server.desk import Reading
from agenticlu.server.inquiry import Inquiry
from agenticlu.server.limits import DIALOGUE_MODEL
from agenticlu.server.replies import render_usage
from agenticlu.server.shown import Shown, show
from agenticlu.server.trail import TrailParts, render_trail


@dataclass
class ChatRendering:
    """Renders one chat completion, or the chunks of its stream.

    Args:
        inquiry: The request.
        reading: What was asked.
    """

    inquiry: Inquiry
    reading: Reading
    reply_id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._trail = TrailParts(len(self.reading.pieces))

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Returns the body of a completion; the answer's record stands beside."""
        shown = self._show(answer)
        message = {
            "role": "assistant",
            "content": shown.text,
            "refusal": None,
            "annotations": list(shown.annotations),
            "reasoning_content": "\n\n".join(render_trail(answer)),
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": render_usage(answer.usage),
            DIALOGUE_MODEL: answer.model_dump(mode="json"),
        }

    def opening(self) -> Iterator[str]:
        """Yields the first chunk."""
        yield self._chunk({"role": "assistant", "content": "", "refusal": None})

    def news(self, event: Event) -> Iterator[str]:
        """Yields chunks with more of the trail."""
        for step in self._trail.feed(event):
            if step.kind == "text":
                yield self._chunk({"reasoning_content": step.text})
            elif step.kind == "end":
                yield self._chunk({"reasoning_content": "\n\n"})

    def closing(self, answer: Answer) -> Iterator[str]:
        """Yields the chunks of the answer: its text claim by claim, then its annotations."""
        shown = self._show(answer)
        for text in shown.parts:
            yield self._chunk({"content": text})
        record = {DIALOGUE_MODEL: answer.model_dump(mode="json")}
        yield self._chunk({"annotations": list(shown.annotations)}, "stop", record)
        if self.inquiry.include_usage:
            yield self._event({"choices": [], "usage": render_usage(answer.usage)})
        yield "data: [DONE]\n\n"

    def _show(self, answer: Answer) -> Shown:
        return show(answer, self.reading.file_ids, sources=self.inquiry.sources)

    def failure(self, body: Mapping[str, Any]) -> Iterator[str]:
        """Yields what ends a stream in which the work failed."""
        yield f"data: {json.dumps(body)}\n\n"
        yield "data: [DONE]\n\n"

    def _chunk(
        self,
        delta: dict[str, Any],
        ending: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ending}
        usage = {"usage": None} if self.inquiry.include_usage else {}
        return self._event({"choices": [choice], **usage, **(more or {})})

    def _event(self, fields: Mapping[str, Any]) -> str:
        return f"data: {json.dumps({**self._head('chat.completion.chunk'), **fields})}\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.reply_id,
            "object": kind,
            "created": self.created,
            "model": DIALOGUE_MODEL,
            "system_fingerprint": None,
        }
