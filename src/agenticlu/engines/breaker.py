"""Waits while an engine is overloaded or away, instead of failing what is asked meanwhile.

A request that the engine fails at while it answers others waits alone, and is given up after a few
times: it stops nobody else. Where there are hardly any others, a short question stands for them.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

from agenticlu.core.errors import (
    AgenticluError,
    EngineBusyError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.core.records import Message
from agenticlu.engines.base import Engine, Sampling

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
OWN_ATTEMPTS = 5
"""Times that an engine may fail at one request while it answers others."""
FEW = 4
"""So many requests under way, and fewer, may all be such ones: no answer to others would tell."""
SHORT_QUESTION = (Message(role="user", content="Say yes."),)
PASSING = (EngineBusyError, EngineUnreachableError)
"""Errors that say nothing about the request: another time it may be answered."""
ASKING = frozenset({"sample", "score_choices", "complete"})
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
        self._gave_up = False
        self.under_way = 0
        """Requests that are asked or wait to be asked again."""

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

    async def try_out(self, engine: Engine) -> bool:
        """Whether the engine answers a short question, which is then a success."""
        try:
            await engine.sample(SHORT_QUESTION, Sampling(max_tokens=1))
        except AgenticluError:
            return False
        self.success()
        return True

    async def trouble(self, error: AgenticluError) -> None:
        """Pauses, as long as the engine asks for, or raises the error when patience is over."""
        now = time.monotonic()
        if self._troubled_since is None:
            self._troubled_since = now
        pause_s = max(self._pause_s, getattr(error, "retry_after_s", None) or 0.0)
        if now - self._troubled_since + pause_s > self.patience_s:
            self._give_up(now - self._troubled_since)
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

    def _give_up(self, waited_s: float) -> None:
        if not self._gave_up:  # all that were asked give up, one after the other
            self._say(
                f"given up after {waited_s:.0f} s without an answer ({self.patience_s:.0f} s of "
                "patience); what is finished is kept, and the same command goes on from there"
            )
        self._gave_up = True


class Tries:
    """The tries of one request: tells failures that are its own from those that all would meet.

    Use as a context manager around all of them.

    Args:
        breaker: Knows when the engine answered others.
        engine: Is asked a short question where there are hardly any others.
    """

    def __init__(self, breaker: Breaker, engine: Engine) -> None:
        self._breaker = breaker
        self._engine = engine
        self._num_own = 0
        self._began = self._failed_at = math.inf

    def __enter__(self) -> Tries:
        self._breaker.under_way += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._breaker.under_way -= 1

    @property
    def over(self) -> bool:
        """Whether the engine has failed at this request often enough."""
        return self._num_own >= OWN_ATTEMPTS

    def begin(self) -> None:
        """Notes that the request is sent."""
        self._began = time.monotonic()

    async def is_own(self, error: AgenticluError) -> bool:
        """Notes a failure and returns whether it is the request's own.

        It is where it may be due to the request, not to load (an inner error, a lost line), and
        the engine answered others since the try began or since the last failure.
        """
        first, since = self._failed_at == math.inf, min(self._began, self._failed_at)
        self._failed_at = time.monotonic()
        if isinstance(error, EngineBusyError) and not error.is_fault:
            return False
        own = self._breaker.succeeded_since(since)
        if not own and not first and self._breaker.under_way <= FEW:
            own = await self._breaker.try_out(self._engine)
        self._num_own += own
        return own

    async def pause(self) -> None:
        """Waits before the next try, longer each time; nobody else does."""
        await asyncio.sleep(min(FIRST_PAUSE_S * 2**self._num_own, LONGEST_PAUSE_S))


def be_patient(engine: Engine, breaker: Breaker) -> Engine:
    """Returns the engine with a breaker before it: requests wait out a pause and are sent again.

    What it raises of `PASSING` means that the breaker's patience is over; a request that the engine
    fails at while it answers others ends in an `EngineReplyError`.
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
            with Tries(self._breaker, self._engine) as tries:
                while True:
                    await self._breaker.wait()
                    tries.begin()
                    try:
                        reply = await ask(*given, **named)
                    except PASSING as error:
                        if not await tries.is_own(error):
                            await self._breaker.trouble(error)
                            continue
                        if tries.over:
                            raise EngineReplyError(error.message, hint=error.hint) from error
                        await tries.pause()
                        continue
                    self._breaker.success()
                    return reply

        return asked
