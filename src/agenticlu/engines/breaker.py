"""Waits while an engine is overloaded or away, instead of failing what is asked meanwhile."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from agenticlu.engines.base import Engine
from agenticlu.errors import AgenticluError, EngineBusyError, EngineUnreachableError

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
PASSING = (EngineBusyError, EngineUnreachableError)
"""Errors that say nothing about the request: another time it may be answered."""
ASKING = frozenset({"sample", "weigh", "complete"})
"""Methods of an engine that send requests."""


class Breaker:
    """Pauses everybody while an engine is overloaded or away.

    Args:
        patience_s: Seconds without a single success until the run is given up.
        say: Told in words when a pause begins and when it ends.
    """

    def __init__(self, patience_s: float = 900.0, say: Callable[[str], None] | None = None) -> None:
        self.patience_s = patience_s
        self._say = say or (lambda text: None)
        self._open = asyncio.Event()
        self._open.set()
        self._troubled_since: float | None = None
        self._last_success = -math.inf
        self._pause_s = FIRST_PAUSE_S

    @property
    def paused(self) -> bool:
        """Whether everybody is waiting."""
        return not self._open.is_set()

    async def wait(self) -> None:
        """Waits until the pause is over."""
        await self._open.wait()

    def success(self) -> None:
        """Notes that the engine works."""
        if self._troubled_since is not None:
            self._say(
                f"the engine answers again after {time.monotonic() - self._troubled_since:.0f} s"
            )
        self._troubled_since = None
        self._last_success = time.monotonic()
        self._pause_s = FIRST_PAUSE_S

    def succeeded_since(self, moment: float) -> bool:
        """Whether the engine has answered anybody since a moment of the monotonic clock."""
        return self._last_success > moment

    async def trouble(self, error: AgenticluError) -> None:
        """Pauses, as long as the engine asks for, or raises the error when patience is over."""
        now = time.monotonic()
        if self._troubled_since is None:
            self._troubled_since = now
        pause_s = max(self._pause_s, getattr(error, "retry_after_s", None) or 0.0)
        if now - self._troubled_since + pause_s > self.patience_s:
            raise error
        if self.paused:
            await self._open.wait()
            return
        self._open.clear()
        self._say(f"paused for {pause_s:.0f} s: {error.message}")
        try:
            await asyncio.sleep(pause_s)
        finally:
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._open.set()


def be_patient(engine: Engine, breaker: Breaker) -> Engine:
    """Returns the engine with a breaker before it: requests wait out a pause and are sent again.

    What it raises of `PASSING` means that the breaker's patience is over.
    """
    return cast(Engine, _Patient(engine, breaker))


class _Patient:
    """Stands for an engine; everything but asking is the engine's own."""

    def __init__(self, engine: Engine, breaker: Breaker) -> None:
        self._engine = engine
        self._breaker = breaker

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        return self._asking(found) if name in ASKING else found

    def _asking(self, ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def asked(*given: Any, **named: Any) -> Any:
            while True:
                await self._breaker.wait()
                try:
                    reply = await ask(*given, **named)
                except PASSING as error:
                    await self._breaker.trouble(error)
                    continue
                self._breaker.success()
                return reply

        return asked
