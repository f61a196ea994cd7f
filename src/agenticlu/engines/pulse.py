"""When an endpoint was asked and when it answered."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agenticlu.engines.base import Health

STALLED_S = 120.0
"""An endpoint that was asked and says nothing for so long is called stalled."""


class Pulse:
    """Notes the requests of one endpoint.

    Args:
        clock: Seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self._began: dict[int, float] = {}
        """Requests in flight, the oldest first, and when each began."""
        self._first_asked: float | None = None
        self._last_answer: float | None = None

    @contextmanager
    def request(self) -> Iterator[None]:
        """Holds while a request is in flight; an answer is whatever has a status, errors too."""
        number = next(self._numbers)
        self._began[number] = now = self._clock()
        if self._first_asked is None:
            self._first_asked = now
        try:
            yield
        except Exception as error:
            if getattr(error, "status_code", None) is not None:
                self._last_answer = self._clock()
            raise
        else:
            self._last_answer = self._clock()
        finally:
            del self._began[number]

    @property
    def silent_s(self) -> float:
        """Seconds for which requests have been out without an answer to any; 0 when none is out."""
        if not self._began:
            return 0.0
        since = max(next(iter(self._began.values())), self._last_answer or 0.0)
        return self._clock() - since

    def health(self, address: str, *, failures: int = 0, resting_s: float = 0.0) -> Health:
        """Returns how the endpoint fares.

        Args:
            address: Shown.
            failures: Requests lost in a row.
            resting_s: For how long it is still left alone.
        """
        known = self._first_asked if self._last_answer is None else self._last_answer
        is_stalled = self.silent_s > STALLED_S
        return {
            "address": address,
            "state": "resting" if resting_s > 0 else "stalled" if is_stalled else "well",
            "in_flight": len(self._began),
            "failures": failures,
            "resting_s": round(resting_s, 1),
            "last_answer_s": None if known is None else round(self._clock() - known, 1),
        }
