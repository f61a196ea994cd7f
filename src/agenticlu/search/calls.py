"""The way from the search to an engine: through the ledger, with admission and pauses.

`Caller` answers from the ledger what was already asked. Everything else waits for its share of the
prompt tokens in flight, is written down as intended, sent, and written down as done. A rate limit,
a time-out or a dead server is never held against a call: the breaker pauses the run, halves the
tokens in flight and tries again, until `patience_s` is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from agenticlu.engines.base import Capabilities, Completion, Engine, Sampled, Sampling, Weighed
from agenticlu.engines.breaker import Breaker
from agenticlu.errors import (
    AgenticluError,
    BudgetExceededError,
    DocumentTooLongError,
    EngineBusyError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.records import Message, Usage, content_id
from agenticlu.store import CallId, Store

Reply = TypeVar("Reply")

CHARACTERS_PER_TOKEN = 4
"""For admission only, where a rough estimate is enough."""
REPLY_ATTEMPTS = 3
"""Times a request is sent whose reply cannot be understood."""


class NotRecordedError(Exception):
    """Replaying met a call that the ledger does not hold. Never leaves the package."""


class CallFailedError(Exception):
    """A call failed for good; the reason is in the ledger. Never leaves the package."""


class Admission:
    """Bounds the prompt tokens in flight; the bound shrinks when an engine is overloaded.

    Args:
        max_tokens: Prompt tokens in flight at most; a larger request goes alone.
        max_requests: Requests in flight at most.
    """

    def __init__(self, max_tokens: int = 400_000, max_requests: int = 256) -> None:
        self.max_tokens = max_tokens
        self.max_requests = max_requests
        self.limit_tokens = float(max_tokens)
        self.limit_requests = float(max_requests)
        self.tokens = 0
        self.requests = 0
        self.most_requests = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    async def acquire(self, tokens: int) -> None:
        """Waits for room, first come first served."""
        if not self._waiting and self._fits(tokens):
            self._take(tokens)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tokens, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release(tokens)
            else:
                self._waiting = [entry for entry in self._waiting if entry[1] is not future]
            raise

    def release(self, tokens: int) -> None:
        """Gives room back and lets waiters in."""
        self.tokens -= tokens
        self.requests -= 1
        self._admit()

    def grow(self) -> None:
        """Raises the bound a little after a success."""
        self.limit_requests = min(self.max_requests, self.limit_requests + 1 / self.limit_requests)
        self.limit_tokens = min(self.max_tokens, self.limit_tokens + self.max_tokens / 1000)

    def shrink(self) -> None:
        """Halves the bound after an overload."""
        self.limit_requests = max(1.0, min(self.limit_requests, self.requests) / 2)
        self.limit_tokens = max(1.0, self.limit_tokens / 2)

    def _admit(self) -> None:
        admitted = 0
        for tokens, future in self._waiting:
            if not self._fits(tokens):
                break
            admitted += 1
            if not future.done():
                self._take(tokens)
                future.set_result(None)
        del self._waiting[:admitted]

    def _fits(self, tokens: int) -> bool:
        if self.requests == 0:
            return True
        return (
            self.requests + 1 <= self.limit_requests and self.tokens + tokens <= self.limit_tokens
        )

    def _take(self, tokens: int) -> None:
        self.tokens += tokens
        self.requests += 1
        self.most_requests = max(self.most_requests, self.requests)


class Caller:
    """Asks an engine through the ledger.

    All requests about a document are of one session, so that a pool keeps them on one replica.

    Args:
        store: The ledger.
        engine: None replays: what the ledger lacks raises `NotRecordedError`.
        admission: Bounds what is in flight.
        breaker: Pauses on overload.
        retry_failed: Send calls again that failed for good in an earlier run.
        max_spent_tokens: Computed tokens of this process at most.
        judging: While replaying, let judges ask their own models.
        before_first: Awaited once before anything is sent; never when nothing has to be.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine | None,
        *,
        admission: Admission | None = None,
        breaker: Breaker | None = None,
        retry_failed: bool = False,
        max_spent_tokens: int | None = None,
        judging: bool = False,
        before_first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.store = store
        self.engine = engine
        self.judging = judging
        self.admission = admission or Admission()
        self.breaker = breaker or Breaker()
        # Calls being written down beside those in flight: a commit never leaves a slot empty.
        bound = self.admission.max_requests
        self._staging = Admission(2 * self.admission.max_tokens, bound + max(2, bound // 2))
        self.spent = Usage()
        self.replayed = 0
        """Calls answered from the ledger."""
        self._retry_failed = retry_failed
        self._max_spent_tokens = max_spent_tokens
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._before_first = before_first
        self._ready = before_first is None

    async def sample(
        self, call: CallId, messages: Sequence[Message], sampling: Sampling
    ) -> Sampled:
        """Samples, or returns what was sampled before under this key."""
        recorded = self._recorded(call.key)
        if recorded is not None:
            return decode_sampled(recorded[0], recorded[1])
        engine = self._engine(call)

        async def send() -> Sampled:
            return await engine.sample(messages, sampling, session=call.document_id)

        sampled: Sampled = await self._send(call, messages, send, encode_sampled)
        return sampled

    async def weigh(
        self, call: CallId, messages: Sequence[Message], choices: Sequence[str]
    ) -> Weighed:
        """Weighs choices, or returns what was found before under this key."""
        recorded = self._recorded(call.key)
        if recorded is not None:
            return decode_weighed(recorded[0], recorded[1])
        engine = self._engine(call)

        async def send() -> Weighed:
            return await engine.weigh(messages, choices, session=call.document_id)

        weighed: Weighed = await self._send(call, messages, send, encode_weighed)
        return decode_weighed(encode_weighed(weighed), weighed.usage)

    async def once(self, key: str, work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Runs work that several tasks want at the same time once for all of them."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        result: Reply = await asyncio.shield(task)
        return result

    def _recorded(self, key: str) -> tuple[Any, Usage] | None:
        found = self.store.find_call(key)
        if found is None:
            return None
        if found.state == "failed":
            if self._retry_failed and self.engine is not None:
                return None
            raise CallFailedError(found.failure)
        self.replayed += 1
        return found.reply, found.usage

    def _engine(self, call: CallId) -> Engine:
        if self.engine is None:
            raise NotRecordedError(call.key)
        return self.engine

    async def _send(
        self,
        call: CallId,
        messages: Sequence[Message],
        send: Callable[[], Awaitable[Any]],
        encode: Callable[[Any], Any],
    ) -> Any:
        tokens = sum(len(message.content) for message in messages) // CHARACTERS_PER_TOKEN
        attempts = 0
        if not self._ready:
            await self.once("before first", self._prepare)
        while True:
            await self.breaker.wait()
            await self._staging.acquire(tokens)
            try:
                self._check_budget()
                await self.store.intend(call)
                await self.admission.acquire(tokens)
                try:
                    reply = await send()
                finally:
                    self.admission.release(tokens)
            except (EngineBusyError, EngineUnreachableError) as error:
                overload: AgenticluError | None = error
            except DocumentTooLongError as error:
                await self._give_up(call, error)
            except EngineReplyError as error:
                attempts += 1
                overload = None
                if attempts >= REPLY_ATTEMPTS:
                    await self._give_up(call, error)
            else:
                self.admission.grow()
                self.breaker.success()
                self.spent = self.spent + reply.usage
                await self.store.finish(call.key, encode(reply), reply.usage)
                return reply
            finally:
                self._staging.release(tokens)
            if overload is not None:
                if not self.breaker.paused:
                    self.admission.shrink()
                await self.breaker.trouble(overload)

    async def _prepare(self) -> None:
        assert self._before_first is not None
        await self._before_first()
        self._ready = True

    async def _give_up(self, call: CallId, error: AgenticluError) -> None:
        await self.store.fail(call.key, error.message)
        raise CallFailedError(error.message) from error

    def _check_budget(self) -> None:
        limit = self._max_spent_tokens
        if limit is not None and self.spent.computed_tokens >= limit:
            raise BudgetExceededError(
                f"The limit of {limit} engine tokens is reached.",
                hint="Everything finished is kept; raise --max-tokens and run the same command.",
            )


class LedgeredEngine:
    """A judge's engine behind the ledger: its calls are recorded, bounded and never repeated.

    Args:
        store: The ledger.
        engine: Asks the model.
        breaker: Pauses on overload.
        max_requests: Requests in flight at most; of its own, so that the search never waits.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        breaker: Breaker | None = None,
        max_requests: int = 64,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        admission = Admission(max_requests=max_requests)
        self._caller = Caller(store, engine, admission=admission, breaker=breaker)

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._engine.usage

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples, or returns what was sampled before."""
        key = sample_key(("judge", self.name), messages, sampling, 0)
        try:
            return await self._caller.sample(
                CallId(key, "judge", session or ""), messages, sampling
            )
        except CallFailedError as error:
            raise EngineReplyError(str(error)) from error

    async def weigh(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> Weighed:
        """Weighs, or returns what was found before."""
        key = weigh_key(("judge", self.name), messages, choices)
        try:
            return await self._caller.weigh(CallId(key, "judge", session or ""), messages, choices)
        except CallFailedError as error:
            raise EngineReplyError(str(error)) from error

    async def capabilities(self) -> Capabilities:
        """Of the engine."""
        return await self._engine.capabilities()

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()


async def together(work: Iterable[Coroutine[Any, Any, Reply]]) -> list[Reply]:
    """Runs coroutines side by side and returns their results in order.

    Where one meets a call that failed, the others are finished first, because what they ask is
    kept; any other error ends them all.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        for task in asyncio.as_completed(tasks):
            with contextlib.suppress(CallFailedError, NotRecordedError):
                await task
    except BaseException:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return [task.result() for task in tasks]


def prompt_hash(messages: Sequence[Message]) -> str:
    """Returns a hash of a conversation."""
    return content_id(*(f"{m.role}\x1e{m.content}" for m in messages), length=32)


def sample_key(
    scope: Sequence[str], messages: Sequence[Message], sampling: Sampling, first_ordinal: int
) -> str:
    """Returns the content key of a sampled call, the first sample's ordinal included."""
    how = json.dumps(asdict(sampling), sort_keys=True)
    return content_id("sample", *scope, prompt_hash(messages), how, str(first_ordinal), length=32)


def weigh_key(scope: Sequence[str], messages: Sequence[Message], choices: Sequence[str]) -> str:
    """Returns the content key of a weighed call."""
    return content_id("weigh", *scope, prompt_hash(messages), *choices, length=32)


def encode_sampled(sampled: Sampled) -> Any:
    """Returns JSON data of a reply; its usage is stored in columns."""
    return [
        [one.text, one.finish_reason, None if one.token_ids is None else list(one.token_ids)]
        for one in sampled.completions
    ]


def decode_sampled(data: Any, usage: Usage) -> Sampled:
    """Returns the reply of `encode_sampled`."""
    completions = tuple(
        Completion(text, finish, None if ids is None else tuple(ids)) for text, finish, ids in data
    )
    return Sampled(completions=completions, usage=usage)


def encode_weighed(weighed: Weighed) -> Any:
    """Returns JSON data of a weighing; probabilities keep six digits."""
    probabilities = {choice: round(p, 6) for choice, p in weighed.probabilities.items()}
    return [probabilities, round(weighed.label_mass, 6), weighed.method]


def decode_weighed(data: Any, usage: Usage) -> Weighed:
    """Returns the weighing of `encode_weighed`."""
    probabilities, mass, method = data
    return Weighed(probabilities=probabilities, label_mass=mass, usage=usage, method=method)
