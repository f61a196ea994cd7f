"""Measures how long a prefix must be for a server to reuse it from an earlier prompt.

Servers reuse prefixes in blocks of 16 tokens, of some hundred for models with recurrent layers, or
not at all. Prompts of growing length are sent twice, with another question behind them the second
time. A server that reports cached tokens says what it reused; with any other, the
time tells, where the difference is larger than the spread.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, field
from typing import Protocol

from agenticlu.core.errors import DocumentTooLongError
from agenticlu.core.records import Message
from agenticlu.engines.base import Asked, Sampling
from agenticlu.engines.http.protocol import Reply

WORDS = ("river", "lantern", "copper", "meadow", "harbour", "engine", "thistle", "marble")
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Of the prefixes, in tokens."""
WARM_UP = (8, 56)
"""Words of the first two prompts."""
FIRST, SECOND = "Which word is first?", "Which word is last?"
SLOW_S = 15.0
"""Once a prompt has taken more than this, no longer one is tried."""
LEAST_S = 0.2
"""Shorter times are mostly noise."""
REPEATS = 3
"""Prompts that are timed where a server does not report what it reused."""
QUICK_SHARE, SLOW_SHARE = 0.6, 0.8
"""A repeated prefix that takes at most the first share of the time was reused, one that takes at
least the second was not."""


class Measured(Protocol):
    """The part of an engine that measuring its server needs."""

    async def ask_setup(self, asked: Asked, sampling: Sampling) -> Reply:
        """Sends a request that only finds out about the server, and counts it as setup."""
        ...


@dataclass(frozen=True)
class Reuse:
    """What was found out."""

    from_tokens: float | None
    """Shortest prefix that was reused, without the start that all prompts share; infinite if none
    was, None if that cannot be told."""
    is_reported: bool
    """Whether the server reports cached tokens."""
    counts: bool
    """Whether it reports any usage."""
    how: str = ""
    """For people: the timings behind the finding, where the server does not report it."""
    tokens_per_s: float | None = None
    """How fast the longest new prompt was read."""


@dataclass(eq=False)
class _Lengths:
    """Prompts of known lengths, and how long they took."""

    engine: Measured
    tokens_per_word: float = 1.5
    counts: bool = False
    first_s: dict[int, list[float]] = field(default_factory=dict)
    second_s: dict[int, list[float]] = field(default_factory=dict)

    async def warm_up(self) -> None:
        """Sends the start that all prompts share; finds out how many tokens a word has."""
        few, _ = await self._send(write_words(WARM_UP[0]))
        many, _ = await self._send(write_words(WARM_UP[1]))
        tokens = many.usage.prompt_tokens - few.usage.prompt_tokens
        self.counts = many.usage.prompt_tokens > 0
        if tokens > 0:
            self.tokens_per_word = max(0.5, tokens / (WARM_UP[1] - WARM_UP[0]))

    @property
    def tokens_per_s(self) -> float | None:
        """Rate of the longest new prompt."""
        longest = max(self.first_s)
        seconds = min(self.first_s[longest])
        return longest / seconds if seconds > 0 else None

    async def count_reused(self, tokens: int) -> int:
        """Sends a new prefix twice; returns how many of its tokens the server says it reused."""
        length = max(8, round(tokens / self.tokens_per_word))
        text = write_words(length)
        before, first_s = await self._send(f"{text}\n{FIRST}")
        after, second_s = await self._send(f"{text}\n{SECOND}")
        self.first_s.setdefault(tokens, []).append(first_s)
        self.second_s.setdefault(tokens, []).append(second_s)
        # Beyond what the first one shared with everything before it: the template's start.
        more = after.usage.cached_tokens - before.usage.cached_tokens
        return more if more >= tokens / 2 else 0

    async def _send(self, text: str) -> tuple[Reply, float]:
        began = time.perf_counter()
        asked = (Message(role="user", content=text),)
        reply = await self.engine.ask_setup(asked, Sampling(max_tokens=1))
        return reply, time.perf_counter() - began


async def measure_reuse(engine: Measured, window: int | None) -> Reuse:
    """Sends prefixes of growing length twice, until one is reused.

    Args:
        engine: Asks the server.
        window: Its window in tokens, half of which is used; None when unknown.

    Raises:
        EngineError: The server does not answer.
    """
    most = LENGTHS[-1] if window is None else window // 2
    lengths = _Lengths(engine)
    await lengths.warm_up()
    for tokens in LENGTHS:
        if tokens > most and lengths.first_s:
            break
        try:
            reused = await lengths.count_reused(tokens)
        except DocumentTooLongError:
            if lengths.first_s:
                break
            raise
        if reused:
            return Reuse(reused, True, True, tokens_per_s=lengths.tokens_per_s)
        if lengths.first_s[tokens][0] > SLOW_S:
            break
    for _ in range(REPEATS - 1):
        await lengths.count_reused(max(lengths.first_s))
    found, how = _tell_by_time(lengths)
    return Reuse(found, False, lengths.counts, how, lengths.tokens_per_s)


def _tell_by_time(lengths: _Lengths) -> tuple[float | None, str]:
    longest = max(lengths.first_s)
    first, second = lengths.first_s[longest], lengths.second_s[longest]
    seen = (
        f"a repeated prefix of {longest:,} tokens took {min(second):.2f}-{max(second):.2f} s, "
        f"a new one {min(first):.2f}-{max(first):.2f} s"
    )
    if max(first) < LEAST_S:
        return None, f"The server is too quick to tell whether prefixes are reused: {seen}."
    if min(second) >= SLOW_SHARE * max(first):
        return math.inf, f"Prefixes of up to {longest:,} tokens are not reused: {seen}."
    if max(second) > QUICK_SHARE * min(first):
        return None, f"It is unclear whether prefixes are reused: {seen}."
    shortest = longest
    for tokens in sorted(lengths.first_s, reverse=True):
        if lengths.second_s[tokens][0] > QUICK_SHARE * lengths.first_s[tokens][0]:
            break
        shortest = tokens
    return shortest, f"Timing shows that prefixes from {shortest:,} tokens on are reused: {seen}."


def write_words(count: int) -> str:
    """Returns so many plain words in an order that no server has seen: the start is random."""
    start = secrets.randbelow(1 << 30)
    words = (WORDS[(start + i * i + i // 7) % len(WORDS)] for i in range(count))
    return f"{secrets.token_hex(4)} {' '.join(words)}"
