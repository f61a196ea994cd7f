"""How many questions grow at a time: those that only wait for a judge do not count."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Slots:
    """Admits questions while fewer than so many keep the sampler busy.

    Args:
        limit: Questions at work at most. One that goes on after its judge answered is not held
            up, so for moments there may be more.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.at_work = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Waits for a slot; the caller must begin its work before it awaits anything else."""
        while self.at_work >= self.limit:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def change(self, by: int) -> None:
        """Notes that questions begin or cease to work."""
        self.at_work += by
        while by < 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break


class Activity:
    """What one question has under way; it holds a slot while anything of it is at work.

    Args:
        slots: Of the run; None where nobody counts.
    """

    def __init__(self, slots: Slots | None = None) -> None:
        self._slots = slots
        self._number = 0

    def change(self, by: int) -> None:
        """Notes that parts of the question's work begin or end."""
        before, self._number = self._number, self._number + by
        if self._slots is not None and bool(before) != bool(self._number):
            self._slots.change(1 if self._number else -1)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Counts the block as work."""
        self.change(1)
        try:
            yield
        finally:
            self.change(-1)

    @contextmanager
    def rest(self) -> Iterator[None]:
        """Does not count the block, which stands inside some work."""
        self.change(-1)
        try:
            yield
        finally:
            self.change(1)
