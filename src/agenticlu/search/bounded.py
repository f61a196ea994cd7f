"""One engine under one bound and one budget, for several searches in one process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from agenticlu.core.errors import BudgetExceededError, EngineBusyError, EngineUnreachableError
from agenticlu.core.records import Message, Usage
from agenticlu.engines.base import (
    Capabilities,
    ChoiceProbs,
    Engine,
    Health,
    Sampled,
    Sampling,
    Watched,
)
from agenticlu.search.caller import CHARACTERS_PER_TOKEN, Admission, count_characters

Reply = TypeVar("Reply", Sampled, ChoiceProbs)


class BoundedEngine:
    """Lets requests through while there is room and something left to spend.

    Args:
        engine: Asks the model.
        admission: The bound.
        max_tokens: Computed tokens at most; None for no limit.
    """

    def __init__(self, engine: Engine, admission: Admission, max_tokens: int | None = None) -> None:
        self.admission = admission
        self._engine = engine
        self._max_tokens = max_tokens
        self._spent = Usage()
        self.name = engine.name

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._engine.usage

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples when there is room."""
        return await self._ask(
            count_characters(messages),
            lambda: self._engine.sample(messages, sampling, session=session),
        )

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a text when there is room."""
        return await self._ask(
            len(text), lambda: self._engine.complete(text, sampling, session=session)
        )

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Scores choices when there is room."""
        return await self._ask(
            count_characters(messages),
            lambda: self._engine.score_choices(messages, choices, session=session),
        )

    async def capabilities(self) -> Capabilities:
        """The engine's, which may know its name only then."""
        found = await self._engine.capabilities()
        self.name = self._engine.name
        return found

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()

    def health(self) -> list[Health]:
        """The engine's, where it can tell."""
        return self._engine.health() if isinstance(self._engine, Watched) else []

    async def _ask(self, characters: int, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        tokens = characters // CHARACTERS_PER_TOKEN
        await self.admission.acquire(tokens)
        try:
            if self._max_tokens is not None and self._spent.computed_tokens >= self._max_tokens:
                raise BudgetExceededError(
                    f"A worker's share of {self._max_tokens} engine tokens is used up.",
                    hint="What is finished is kept; raise --max-tokens and run the same command.",
                )
            reply = await ask()
        except (EngineBusyError, EngineUnreachableError):
            self.admission.shrink()
            raise
        finally:
            self.admission.release(tokens)
        self.admission.grow()
        self.name = self._engine.name
        self._spent = self._spent + reply.usage
        return reply
