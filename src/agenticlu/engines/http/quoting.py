"""Takes the words of a request out of the error that quotes them.

Validators send back what they were given: a document that speaks of throttles, policies or context
windows would otherwise pass for what the server says is wrong, and every field of a quoted request
for one that it refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

LEAST_QUOTE = 60
"""Characters in a row that are the prompt's, not the server's own."""
LEAST_OWN = 12
"""Fewer letters than these say nothing: the words that looked like a quote are the server's."""
WINDOW, STEP = 32, 16
MOST_SEARCHED = 1 << 14
MARK = "..."
_INPUT = re.compile(r"(?<=['\"]input['\"]: )[\[{].*", re.DOTALL)
"""From a whole request that a validator quotes as a text on."""


def prompts_of(body: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Returns the texts of a request: its conversation's, or the one to be continued."""
    if body is None:
        return ()
    asked = body.get("messages") or [{"content": body.get("prompt")}]
    texts = [one.get("content") for one in asked if isinstance(one, dict)]
    return tuple(text for text in texts if isinstance(text, str) and len(text) >= LEAST_QUOTE)


def without_quotes(text: str, prompts: Sequence[str]) -> str:
    """Returns a server's words without those of the request.

    Args:
        text: What it sent.
        prompts: Texts of the request.

    >>> without_quotes("[{'msg': 'n must be 1', 'input': {'seed': 3, 'n': 2}}]", ())
    "[{'msg': 'n must be 1', 'input': ..."
    """
    own = _INPUT.sub(MARK, _without_input_values(text[:MOST_SEARCHED]))
    if len(own) >= LEAST_QUOTE and prompts:
        for source in prompts:
            # As it is, and as Python and JSON write it.
            for form in dict.fromkeys((source, repr(source)[1:-1], json.dumps(source)[1:-1])):
                own = _without(own, form)
    return own if sum(map(str.isalpha, own)) >= LEAST_OWN else text


def _without_input_values(text: str) -> str:
    """Takes out what pydantic's messages quote between `input_value=` and `, input_type=`."""
    kept, at, value = [], 0, "input_value="
    while (start := text.find(value, at)) >= 0:
        start += len(value)
        if (end := text.find(", input_type=", start)) < 0:
            break
        kept += [text[at:start], MARK]
        at = end
    return "".join((*kept, text[at:]))


def _without(text: str, source: str) -> str:
    kept, start, at = [], 0, 0
    while at + WINDOW <= len(text):
        place = source.find(text[at : at + WINDOW])
        if place < 0:
            at += STEP
            continue
        first, end = at, at + WINDOW
        while place >= 0:  # the longest quote: a document may repeat itself
            while first > start and place > 0 and text[first - 1] == source[place - 1]:
                first, place = first - 1, place - 1
            while (
                source[place + end - first : place + end - first + 1] == text[end : end + 1] != ""
            ):
                end += 1
            place = source.find(text[first : end + 1]) if end < len(text) else -1
        if end - first >= LEAST_QUOTE:
            kept += [text[start:first], MARK]
            start = end
        at = end
    return "".join((*kept, text[start:]))
