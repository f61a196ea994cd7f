"""Keeps the time of an endpoint: when it was asked, and when it last answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agenticlu.engines.base import Health

STALLED_S = 120.0
"""An endpoint that was asked and says nothing for so long is called stalled."""


class EndpointClock:
    """Notes when an endpoint was asked and when it answered.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_asked = 0
        self._began: dict[int, float] = {}
        """Requests in flight, the oldest first, and when each began."""
        self._first_asked: float | None = None
        self._last_answer: float | None = None

    @contextmanager
    def request(self) -> Iterator[None]:
        """Holds while a request is in flight."""
        self._num_asked += 1
        number = self._num_asked
        self._began[number] = now = self._clock()
        if self._first_asked is None:
            self._first_asked = now
        try:
            yield
        finally:
            del self._began[number]

    def note_answer(self) -> None:
        """Notes an answer: any reply with a status, errors included."""
        self._last_answer = self._clock()

    @property
    def has_answered(self) -> bool:
        """Whether there ever was an answer."""
        return self._last_answer is not None

    @property
    def silent_s(self) -> float:
        """Seconds for which requests have been out without an answer to any; 0 when none is out."""
        if not self._began:
            return 0.0
        since = max(next(iter(self._began.values())), self._last_answer or 0.0)
        return self._clock() - since

    def health(self, address: str) -> Health:
        """Returns the endpoint's state."""
        known = self._first_asked if self._last_answer is None else self._last_answer
        return {
            "address": address,
            "state": "stalled" if self.silent_s > STALLED_S else "well",
            "in_flight": len(self._began),
            "failures": 0,
            "resting_s": 0.0,
            "last_answer_s": None if known is None else round(self._clock() - known, 1),
        }
