"""Admission control: limits requests and prompt tokens in flight, and total tokens spent."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from agenticlu.core.errors import BudgetExceededError
from agenticlu.core.records import Usage

ENOUGH_FINISHED = 8
"""Finished requests from whose cost that of others is expected."""
CAUTION = 1.5
"""How much more than those a request is expected to cost: they differ."""
LEAST_SHRUNK_FROM = 8
"""An overload with fewer requests in flight says nothing about how many are too many."""


class Admission:
    """Bounds requests and prompt tokens in flight, first come first served, and tokens spent.

    The bounds adapt (additive increase, multiplicative decrease): an overload halves them, each
    success raises them a little.

    Args:
        max_requests: Requests in flight.
        max_tokens: Prompt tokens in flight, by estimate; a larger request goes alone.
        max_spent_tokens: Computed tokens over all requests. What a request may cost is reserved
            before it is sent.
    """

    def __init__(
        self,
        max_requests: int = 256,
        max_tokens: int | None = None,
        max_spent_tokens: int | None = None,
    ) -> None:
        assert max_requests >= 1
        self.max_requests = max_requests
        self.max_tokens = math.inf if max_tokens is None else max_tokens
        self.limit_requests = float(max_requests)
        self.limit_tokens = float(self.max_tokens)
        self.requests = 0
        self.most_requests = 0
        self.tokens = 0
        self.spent = Usage()
        self._earlier_tokens = 0
        self._max_spent_tokens = max_spent_tokens
        self._reserved = 0
        """Expected cost of the requests that hold a reservation."""
        self._num_reserved = 0
        self._num_finished = self._bound_finished = 0
        """Requests whose reservation ended, and the most that they might have cost."""
        self._short_of_budget: deque[asyncio.Future[None]] = deque()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._is_paused = False
        self._epoch = 0
        """Number of halvings."""

    @asynccontextmanager
    async def admit(self, tokens: int) -> AsyncIterator[int]:
        """Waits for room and holds it; yields what `shrink` wants to know of the request."""
        if self._waiting or not self._has_room(tokens):
            await self._queue(tokens)
        else:
            self._enter(tokens)
        try:
            yield self._epoch
        finally:
            self._leave(tokens)

    def grow(self) -> None:
        """Raises the bounds a little after a success."""
        self.limit_requests = min(self.max_requests, self.limit_requests + 1 / self.limit_requests)
        if self.limit_tokens < self.max_tokens:
            self.limit_tokens = min(self.max_tokens, self.limit_tokens + self.max_tokens / 1000)
        self._wake()

    def shrink(self, epoch: int) -> None:
        """Halves the bounds after an overload.

        A request admitted before the last halving says nothing about the bounds since: without
        this check one burst of refusals would shut the gate to a single request.
        """
        if epoch < self._epoch:
            return
        self._epoch += 1
        used = max(self.requests, LEAST_SHRUNK_FROM)
        self.limit_requests = max(1.0, min(self.limit_requests, used) / 2)
        if self.limit_tokens < math.inf:
            self.limit_tokens = max(1.0, self.limit_tokens / 2)

    @property
    def is_paused(self) -> bool:
        """Whether nobody is let in."""
        return self._is_paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Lets nobody in while the block lasts, those in the queue included."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            self._wake()

    def spend(self, usage: Usage) -> None:
        """Counts what a request cost."""
        self.spent = self.spent + usage

    def count_earlier(self, tokens: int) -> None:
        """Counts computed tokens of earlier processes towards the limit."""
        self._earlier_tokens += tokens

    @asynccontextmanager
    async def reserved(self, most_tokens: int) -> AsyncIterator[None]:
        """Holds what a request is expected to cost, waiting while others hold what is left.

        For whoever records a call before it is sent; `admit` does not check, because a call that is
        recorded and then refused here would look like one that was sent and lost.

        Args:
            most_tokens: The most that it may cost: its prompt, and its replies as long as allowed.
                Less is expected as soon as requests have cost less, by prefixes that are cached or
                replies that end early.

        Raises:
            BudgetExceededError: It would pass the limit, and nothing under way can change that.
        """
        if self._max_spent_tokens is None:
            yield
            return
        expected = await self._afford(most_tokens, self._max_spent_tokens)
        self._reserved += expected
        self._num_reserved += 1
        try:
            yield
        finally:
            self._reserved -= expected
            self._num_reserved -= 1
            self._num_finished += 1
            self._bound_finished += most_tokens
            while self._short_of_budget:
                turn = self._short_of_budget.popleft()
                if not turn.done():
                    turn.set_result(None)

    async def _afford(self, most_tokens: int, limit: int) -> int:
        """Returns what a request is expected to cost, once that is left."""
        while True:
            spent = self.spent.computed_tokens
            share = 1.0
            if self._num_finished >= ENOUGH_FINISHED:
                share = min(1.0, CAUTION * spent / max(1, self._bound_finished))
            expected = math.ceil(most_tokens * share)
            spent += self._earlier_tokens
            # The first request goes in any case: a limit that allows none would be of no use.
            if spent + self._reserved + expected <= limit or (not spent and not self._num_reserved):
                return expected
            if spent >= limit or not self._num_reserved:
                raise BudgetExceededError(
                    f"The limit of {limit} engine tokens is reached: {spent} are spent, and the "
                    "next request may need more than is left.",
                    hint="Everything finished is kept; raise --max-total-tokens and run the same "
                    "command.",
                )
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._short_of_budget.append(turn)
            await turn

    async def _queue(self, tokens: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (tokens, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled in the same step in which its turn came: the room is taken, so give it back.
            if turn.done() and not turn.cancelled():
                self._leave(tokens)
            elif entry in self._waiting:
                self._waiting.remove(entry)
                self._wake()  # a large request may have kept smaller ones behind it waiting
            raise

    def _has_room(self, tokens: int) -> bool:
        if self._is_paused:
            return False
        if self.requests == 0:  # however large: it would otherwise never go
            return True
        return self.requests + 1 <= self.limit_requests and (
            self.tokens + tokens <= self.limit_tokens
        )

    def _enter(self, tokens: int) -> None:
        self.requests += 1
        self.tokens += tokens
        self.most_requests = max(self.most_requests, self.requests)

    def _leave(self, tokens: int) -> None:
        self.requests -= 1
        self.tokens -= tokens
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._has_room(self._waiting[0][0]):
            tokens, turn = self._waiting.popleft()
            if not turn.done():
                # Entered here, not by the waiter: it runs later, and the room must not go twice.
                self._enter(tokens)
                turn.set_result(None)
