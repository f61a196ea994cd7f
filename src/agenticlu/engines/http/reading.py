"""Finds out whether a server reads a long prompt from its first word on.

A word stands at the start of a long text and is asked back at its end; where the server reports the
prompt's tokens, they are compared with those of the same kind of text in a short prompt. A model
that cannot repeat the word from a short text either proves nothing.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.protocol import Reply
from agenticlu.engines.http.reuse import Measured, write_words

SHORT_WORDS = 40
REPLY_TOKENS = 48
"""Enough for a short reply, or for a thought that names the word."""
ROOM_TOKENS = 256
"""Left of the window beside the text: for the template, the question and the reply."""
LEAST_SHARE = 0.9
"""A prompt reported at less than this share of its words' tokens was cut."""
NAMES = ("Ottoline", "Bartholomew", "Philippa", "Leopold", "Rosalind", "Cornelius")


@dataclass(frozen=True)
class Reading:
    """What became of a long prompt."""

    sent_tokens: int
    """Tokens of its text, by the server's count of a short one; an estimate if it counts none."""
    reported_tokens: int
    """As the server reports them; 0 where it does not."""
    recalls: bool | None
    """Whether the model repeats the first word; None where it does not do so at short range."""

    @property
    def is_whole(self) -> bool | None:
        """Whether the server read all of it; None where neither counts nor words tell."""
        if self.reported_tokens:
            return self.reported_tokens >= LEAST_SHARE * self.sent_tokens
        return self.recalls


async def read_back(engine: Measured, tokens: int) -> Reading:
    """Sends a short and a long prompt that begin with a word, and asks for it back.

    Args:
        engine: Asks the server.
        tokens: Of the long one.

    Raises:
        DocumentTooLongError: The server refuses it.
        EngineError: The server does not answer.
    """
    short, knows = await _ask(engine, SHORT_WORDS)
    first = short.usage.prompt_tokens
    other, _ = await _ask(engine, 3 * SHORT_WORDS)
    per_word = (other.usage.prompt_tokens - first) / (2 * SHORT_WORDS)
    per_word = per_word if first and per_word > 0 else 1.5
    count = max(SHORT_WORDS, int((tokens - ROOM_TOKENS) / per_word))
    reply, found = await _ask(engine, count)
    return Reading(
        sent_tokens=round(first + per_word * (count - SHORT_WORDS)) if first else tokens,
        reported_tokens=reply.usage.prompt_tokens,
        recalls=found if knows else None,
    )


async def _ask(engine: Measured, count: int) -> tuple[Reply, bool]:
    name = secrets.choice(NAMES)
    text = (
        f"The name of the keeper is {name}.\n\n{write_words(count)}\n\n"
        "What is the name of the keeper, as the first line says? Reply with the name alone."
    )
    asked = (Message(role="user", content=text),)
    reply = await engine.ask_setup(asked, Sampling(max_tokens=REPLY_TOKENS))
    said = "".join(one.content + one.thinking for one in reply.choices)
    return reply, name.casefold() in said.casefold()
