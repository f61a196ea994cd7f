"""What a request adds to its text: the tokens of a chat template, or of a start token."""

from __future__ import annotations

from agenticlu.core.records import Message
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import Engine, Sampling

CHAT_TOKENS = 64
"""Reckoned where an engine does not tell: more than today's templates add."""
PLAIN_TOKENS = 1
"""Likewise for a text to continue: a start token."""
SAMPLE = "Which of these words comes first in the alphabet: lantern, copper, meadow?"


async def measure_framing(engine: Engine, tokenizer: Tokenizer, *, chat: bool) -> int:
    """Returns by how many tokens a prompt is longer than its text, from one short request.

    Args:
        engine: Says how many tokens it read.
        tokenizer: Counts the text, as it will count the prompts.
        chat: Whether the prompts are sent as chat.

    Raises:
        EngineError: The model could not be asked.
    """
    sampling = Sampling(max_tokens=1)
    if chat:
        reply = await engine.sample([Message(role="user", content=SAMPLE)], sampling)
    else:
        reply = await engine.complete(SAMPLE, sampling)
    if not reply.usage.prompt_tokens:
        return CHAT_TOKENS if chat else PLAIN_TOKENS
    return max(0, reply.usage.prompt_tokens - tokenizer.count(SAMPLE))
