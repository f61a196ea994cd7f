"""The pulse of a run: when it worked, what is in flight, how its replicas fare.

The process that searches writes it into the run's file every few seconds; `agenticlu status` reads
it from any other. A process that was killed leaves a pulse that stands still. A pulse that cannot
be written is left out: whatever is wrong with the disk, the run itself will meet it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Usage
from agenticlu.engines.base import Engine, Health, Watched
from agenticlu.search.store import Store

EVERY_S = 5.0
SESSIONS = "sessions"
"""Setting of a run: [began, last beat] of every process that searched, seconds since the epoch."""
BEFORE = "before"
"""Setting of a run: what it held when the first of them began, such as what was taken up."""
PULSE = "pulse"
"""Setting of a run: the last beat's figures."""


class Heartbeat:
    """Beats while the context is open.

    Args:
        store: Open for writing.
        engine: Asked how it fares, where it can tell.
        in_flight: Tells how many requests are out.
        every_s: Seconds between beats.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine | None = None,
        in_flight: Callable[[], int] | None = None,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._engine = engine
        self._in_flight = in_flight
        self._every_s = every_s
        self._clock = clock
        began = clock()
        self._sessions: list[list[float]] = [*(store.get(SESSIONS) or ()), [began, began]]
        if len(self._sessions) == 1:
            usage = sum(store.usage_by_phase().values(), Usage())
            before = {"done": store.tree_counts()["done"], "tokens": usage.computed_tokens}
            store.put(**{BEFORE: before})
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Heartbeat:
        self.beat()
        self._task = asyncio.create_task(self._keep_beating())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(StoreError):
            self.beat()

    def beat(self) -> None:
        """Writes how things are."""
        self.write(*self._figures())

    def write(
        self, in_flight: int | None, replicas: Sequence[Health], *, elsewhere: bool = False
    ) -> None:
        """Writes figures that somebody else gathered.

        Args:
            in_flight: Requests that are out.
            replicas: How the endpoints fare.
            elsewhere: The requests are not written down in this run's file.
        """
        now = self._clock()
        self._sessions[-1][1] = now
        pulse: dict[str, Any] = {"at": now, "in_flight": in_flight, "replicas": list(replicas)}
        pulse["elsewhere"] = elsewhere
        self._store.put(**{SESSIONS: self._sessions, PULSE: pulse})

    def _figures(self) -> tuple[int | None, Sequence[Health]]:
        in_flight = None if self._in_flight is None else self._in_flight()
        return in_flight, self._engine.health() if isinstance(self._engine, Watched) else ()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            figures = self._figures()
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self.write, *figures)  # the disk may be slow


def active_s(sessions: Sequence[Sequence[float]]) -> float:
    """Returns the seconds in which a process searched.

    >>> active_s([[100.0, 130.0], [500.0, 510.0]])
    40.0
    """
    return sum(last - began for began, last in sessions)
