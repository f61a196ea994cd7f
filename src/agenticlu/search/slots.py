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
        self._is_open = False
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Waits for a slot; the caller must begin its work before it awaits anything else."""
        while self.at_work >= self.limit and not self._is_open:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn

    def open(self) -> None:
        """Lets everybody in who waits or comes: there is no question left to hold back."""
        self._is_open = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)

    def change(self, by: int) -> None:
        """Notes that questions begin or cease to work."""
        self.at_work += by
        while by < 0 and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break


class Activity:
    """What one question has under way; it holds a slot unless all of it waits for a judge.

    Args:
        slots: Of the run; None where nobody counts.
    """

    def __init__(self, slots: Slots | None = None) -> None:
        self._slots = slots
        self._parts = 0
        self._judged = 0
        self._holds = False

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Counts the question itself: from its first step to its last."""
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)

    def change(self, by: int) -> None:
        """Notes that parts of the question's work begin or end."""
        self._parts += by
        self._update()

    @contextmanager
    def part(self) -> Iterator[None]:
        """Counts the block as a part of the work."""
        self.change(1)
        try:
            yield
        finally:
            self.change(-1)

    @contextmanager
    def judged(self) -> Iterator[None]:
        """The part that the block stands in waits for a judge."""
        self._judged += 1
        self._update()
        try:
            yield
        finally:
            self._judged -= 1
            self._update()

    def _update(self) -> None:
        # Between one part and the next there is none, and the slot is kept all the same.
        self._hold(not 0 < self._judged == self._parts)

    def _hold(self, holds: bool) -> None:
        if self._slots is not None and holds != self._holds:
            self._slots.change(1 if holds else -1)
        self._holds = holds
