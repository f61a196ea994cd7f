"""Renders answers as responses, whole or as a stream of events in the standard's order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from agenticlu.core.records import Usage
from agenticlu.dialogue.answer import Answer, Event
from agenticlu.server.desk import Reading
from agenticlu.server.inquiry import Inquiry
from agenticlu.server.limits import DIALOGUE_MODEL
from agenticlu.server.shown import Shown, show
from agenticlu.server.trail import TrailParts, render_trail

_ECHOED: dict[str, Any] = {
    "metadata": {},
    "instructions": None,
    "previous_response_id": None,
    "max_output_tokens": None,
    "user": None,
    "safety_identifier": None,
    "prompt_cache_key": None,
}
"""Fields of a request that its response repeats, and what stands there where it has none."""


def render_response_usage(usage: Usage) -> dict[str, Any]:
    """Returns the usage object of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.thinking_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


@dataclass
class ResponseRendering:
    """Renders one response, or the events of its stream.

    Args:
        inquiry: The request.
        reading: What was asked.
    """

    inquiry: Inquiry
    reading: Reading
    response_id: str = field(default_factory=lambda: f"resp_{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self._thought_id = f"rs_{uuid4().hex}"
        self._message_id = f"msg_{uuid4().hex}"
        self._events = 0
        self._parts: list[str] = []
        """Of the trail, as far as they are finished."""
        self._trail = TrailParts(len(self.reading.pieces))

    # The response

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Returns the body of a finished response; the answer's record stands beside."""
        return {
            **self._body("completed", [self._thoughts(render_trail(answer)), self._said(answer)]),
            "completed_at": int(time.time()),
            "usage": render_response_usage(answer.usage),
            DIALOGUE_MODEL: answer.model_dump(mode="json"),
        }

    def _body(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        asked = self.inquiry.body
        echoed = {
            name: nothing if asked.get(name) is None else asked[name]
            for name, nothing in _ECHOED.items()
        }
        return {
            "id": self.response_id,
            "object": "response",
            "created_at": self.created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": DIALOGUE_MODEL,
            "output": output,
            "parallel_tool_calls": True,
            "reasoning": {"effort": None, "summary": None, **(asked.get("reasoning") or {})},
            "service_tier": "default",
            "store": self.inquiry.store,
            "temperature": self.inquiry.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1.0,
            "truncation": "disabled",
            "max_tool_calls": None,
            "usage": None,
            **echoed,
        }

    def _thoughts(self, parts: list[str], status: str = "completed") -> dict[str, Any]:
        return {
            "id": self._thought_id,
            "type": "reasoning",
            "status": status,
            "summary": [_summary(text) for text in parts],
        }

    def _said(self, answer: Answer) -> dict[str, Any]:
        return self._message("completed", [self._content(answer)])

    def _message(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }

    def _content(self, answer: Answer) -> dict[str, Any]:
        shown = self._show(answer)
        return {
            "type": "output_text",
            "text": shown.text,
            "annotations": list(shown.annotations),
            "logprobs": [],
        }

    def _show(self, answer: Answer) -> Shown:
        return show(answer, self.reading.file_ids, sources=self.inquiry.sources)

    # The stream

    def opening(self) -> Iterator[str]:
        """Yields the first events of a stream: the response, and the trail's item."""
        yield self._event("response.created", response=self._body("in_progress", []))
        yield self._event("response.in_progress", response=self._body("in_progress", []))
        yield self._event(
            "response.output_item.added",
            output_index=0,
            item=self._thoughts([], "in_progress"),
        )

    def news(self, event: Event) -> Iterator[str]:
        """Yields events about a step of the work."""
        at = {"item_id": self._thought_id, "output_index": 0, "summary_index": len(self._parts)}
        kind = "response.reasoning_summary"
        for step in self._trail.feed(event):
            if step.kind == "begin":
                yield self._event(f"{kind}_part.added", **at, part=_summary(""))
            elif step.kind == "text":
                yield self._event(f"{kind}_text.delta", **at, delta=step.text)
            else:
                self._parts.append(step.text)
                yield self._event(f"{kind}_text.done", **at, text=step.text)
                yield self._event(f"{kind}_part.done", **at, part=_summary(step.text))

    def closing(self, answer: Answer) -> Iterator[str]:
        """Yields the events of the answer: its text claim by claim, then its annotations."""
        response = self.whole(answer)
        thoughts, said = response["output"]
        yield self._event("response.output_item.done", output_index=0, item=thoughts)
        item = self._message("in_progress", [])
        yield self._event("response.output_item.added", output_index=1, item=item)
        at = {"item_id": self._message_id, "output_index": 1, "content_index": 0}
        content = said["content"][0]
        empty = content | {"text": "", "annotations": []}
        yield self._event("response.content_part.added", **at, part=empty)
        for text in self._show(answer).parts:
            yield self._event("response.output_text.delta", **at, delta=text, logprobs=[])
        for i, found in enumerate(content["annotations"]):
            kind = "response.output_text.annotation.added"
            yield self._event(kind, **at, annotation_index=i, annotation=found)
        text = content["text"]
        yield self._event("response.output_text.done", **at, text=text, logprobs=[])
        yield self._event("response.content_part.done", **at, part=content)
        yield self._event("response.output_item.done", output_index=1, item=said)
        yield self._event("response.completed", response=response)
        yield "data: [DONE]\n\n"

    def failure(self, body: Mapping[str, Any]) -> Iterator[str]:
        """Yields the events that end a stream in which the work failed."""
        error = body["error"]
        failed = self._body("failed", [])
        failed["error"] = {"code": error["code"] or "server_error", "message": error["message"]}
        yield self._event("response.failed", response=failed)
        yield "data: [DONE]\n\n"

    def _event(self, kind: str, **fields: Any) -> str:
        body = {"type": kind, "sequence_number": self._events, **fields}
        self._events += 1
        return f"event: {kind}\ndata: {json.dumps(body)}\n\n"


def _summary(text: str) -> dict[str, str]:
    return {"type": "summary_text", "text": text}
