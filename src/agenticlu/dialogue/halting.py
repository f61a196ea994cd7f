"""Work that ends once somebody wants it to, and what is kept of a turn that was cut short."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from agenticlu.core.records import Turn, TurnKind
from agenticlu.dialogue.steps import Dialogue, Request
from agenticlu.engines.base import Completion

Stop = Callable[[], bool] | asyncio.Event
"""Wanted once the function returns True, or the event of the running loop is set."""
Result = TypeVar("Result")
ASK_S = 0.02
"""Pause between two looks at a function, in seconds."""
ANSWERS: tuple[TurnKind, ...] = ("answer", "direct")
_WHOLE_WORDS = re.compile(r"[\s\S]*[\s.!?。！？…)\]\"”»]")


class Halt:
    """Ends work once a stop is wanted.

    Args:
        stop: Says whether it is; None: never.
    """

    def __init__(self, stop: Stop | None) -> None:
        self._stop = stop
        self._task: asyncio.Future[Any] | None = None
        self._is_cut = False

    @property
    def wanted(self) -> bool:
        """Whether to stop."""
        if isinstance(self._stop, asyncio.Event):
            return self._stop.is_set()
        return self._stop is not None and self._stop()

    def look(self) -> None:
        """Stops at once what runs, where that is wanted; for what comes after each token."""
        if self._task is not None and self.wanted:
            self._is_cut = True
            self._task.cancel()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result | None:
        """Returns what comes of work; None where it was cancelled because a stop was wanted."""
        if self._stop is None:
            return await work
        self._task = task = asyncio.ensure_future(work)
        watch = asyncio.ensure_future(self._wait())
        try:
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
            self._is_cut = self._is_cut or watch.done()
        finally:
            task.cancel()
            watch.cancel()
            await asyncio.wait({task, watch})
        return None if task.cancelled() and self._is_cut else task.result()

    async def _wait(self) -> None:
        if isinstance(self._stop, asyncio.Event):
            await self._stop.wait()
            return
        while not self.wanted:
            await asyncio.sleep(ASK_S)


@dataclass
class PartialTurn:
    """A turn that is being sampled."""

    request: Request
    round: int
    """From 1."""
    text: str = ""
    """What was told of its reply."""

    def answer(self) -> Turn | None:
        """Returns it as a turn, if it answers the question: whole words of what was told.

        A word that was cut off could be another: of "in 1847" no "in 18" is kept.
        """
        whole = _WHOLE_WORDS.match(self.text)
        if self.request.kind not in ANSWERS or whole is None:
            return None
        return self.request.turn(Completion(whole[0].strip()))


def stop_early(dialogue: Dialogue, part: PartialTurn | None) -> Dialogue:
    """Returns the dialogue that was stopped, with the best answer that there is.

    A whole answer of an earlier round is better than the beginning of another.

    Args:
        dialogue: Of whole turns.
        part: The turn after them.
    """
    turn = part.answer() if part is not None else None
    if turn is None or any(dialogue.last(kind) for kind in ANSWERS):
        return dialogue
    return dialogue.advance(turn)
