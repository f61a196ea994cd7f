"""The text of a reply that a server sends as events, read while they arrive.

The reply itself is read from the whole stream once it has ended, as one that came at once is: see
`agenticlu.engines.http.protocol`. Here only its text is told, so what cannot be read is passed
over.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.records import without_lone_surrogates
from agenticlu.dialogue.thoughts import SaidText
from agenticlu.engines.http.protocol import MalformedReplyError, read_content
from agenticlu.engines.streaming import StopText, Telling

STREAM_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}
"""Of a request whose reply is to come as events, the last of which has its usage."""


@dataclass(eq=False)
class EventText:
    """Tells the first choice's text as its events arrive; thoughts aside.

    Args:
        telling: Who is told.
        said: Parts thoughts from the reply.
        stop: Ends the text at a stop that the server does not take.
    """

    telling: Telling
    said: SaidText
    stop: StopText = field(default_factory=StopText)
    num_parts: int = 0
    """Events with a piece of a reply or a thought: mostly a token each."""
    _line: bytearray = field(default_factory=bytearray)

    def feed(self, content: bytes) -> None:
        """Takes the next bytes of the body."""
        start = 0
        for at, byte in enumerate(content):
            if byte in b"\r\n":
                self._line += content[start:at]
                self._read(bytes(self._line))
                self._line.clear()
                start = at + 1
        self._line += content[start:]

    def finish(self, reply: str) -> None:
        """Tells what of the whole reply was not told."""
        self.telling(self.said.finish(reply))

    def _read(self, line: bytes) -> None:
        name, _, data = line.partition(b":")
        if name.lstrip(b"\xef\xbb\xbf") != b"data" or b"{" not in data:
            return
        with suppress(ValueError, RecursionError):
            for text in _texts(json.loads(data)):
                self.num_parts += 1
                self.telling(self.said.feed(self.stop.feed(text)))


def _texts(chunk: Any) -> list[str]:
    """Returns what a chunk adds to the first choice's text; '' for a part of a thought."""
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    found = []
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict) and choice.get("index", 0) == 0:
            with suppress(MalformedReplyError):
                text = read_content(delta.get("content")).text
                found.append(without_lone_surrogates(text))
    return found
