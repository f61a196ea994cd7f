"""When to ask a server again, and how many requests it may have at once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    >>> RetryPolicy(base_s=1.0, most_s=5.0).longest_s(attempt=4)
    5.0
    """

    attempts: int = 6
    """Tries in all, the first included."""
    first_contact_attempts: int = 2
    """Tries at connecting to a server that has never answered: a wrong address fails quickly."""
    base_s: float = 0.5
    """Longest pause after the first failure; it doubles with each."""
    most_s: float = 30.0
    """Longest pause of our own choice."""
    most_retry_after_s: float = 120.0
    """A server that asks for a longer pause than this is given up."""

    def longest_s(self, attempt: int) -> float:
        """Returns the longest pause after failure number `attempt`, from 0."""
        return min(self.most_s, self.base_s * 2.0**attempt)

    def pause_s(self, attempt: int, retry_after_s: float | None, random: random.Random) -> float:
        """Returns the pause to take: what the server asked for, or a draw up to the longest.

        Draws are from the upper half, so that they spread requests without losing the backoff.
        """
        longest = self.longest_s(attempt)
        drawn = longest * (0.5 + 0.5 * random.random())
        if retry_after_s is None:
            return drawn
        return retry_after_s + 0.1 * drawn


class Admission:
    """Lets requests in, in order: so many at once, with so many prompt tokens together.

    The number adapts (additive increase, multiplicative decrease): a server that says it is busy
    halves it, answers raise it again.

    Args:
        most: Requests at once.
        most_tokens: Prompt tokens at once, by estimate; None for no limit. A single larger
            request is let in alone.
    """

    def __init__(self, most: int, most_tokens: int | None = None) -> None:
        assert most >= 1
        self.most = most
        self.most_tokens = most_tokens
        self.limit = float(most)
        self.running = 0
        self.tokens = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._deaf = 0

    @asynccontextmanager
    async def admit(self, tokens: int) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        if self._waiting or not self._has_room(tokens):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (tokens, turn)
            self._waiting.append(entry)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._leave(tokens)
                elif entry in self._waiting:
                    self._waiting.remove(entry)
                    self._wake()
                raise
        else:
            self._enter(tokens)
        try:
            yield
        finally:
            self._leave(tokens)

    def ease(self) -> None:
        """Takes note of an answer."""
        self.limit = min(float(self.most), self.limit + 1.0 / self.limit)
        self._wake()

    def back_off(self) -> None:
        """Takes note of a refusal for load; refusals of one burst count once."""
        if self._deaf == 0:
            self.limit = max(1.0, self.limit / 2)
            self._deaf = max(0, self.running - 1)

    def _has_room(self, tokens: int) -> bool:
        if self.running == 0:
            return True
        fits = self.most_tokens is None or self.tokens + tokens <= self.most_tokens
        return fits and self.running < int(self.limit)

    def _enter(self, tokens: int) -> None:
        self.running += 1
        self.tokens += tokens

    def _leave(self, tokens: int) -> None:
        self.running -= 1
        self.tokens -= tokens
        self._deaf = max(0, self._deaf - 1)
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            tokens, turn = self._waiting.popleft()
            if not turn.done():
                self._enter(tokens)
                turn.set_result(None)
