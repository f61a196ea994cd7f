"""The way from the search to an engine: through the ledger, with admission and pauses.

`Caller` answers from the ledger what was already asked. Everything else waits for its share of the
prompt tokens in flight, is written down as intended, sent, and written down as done. A rate limit,
a time-out or a dead server is never held against a call: the breaker pauses the run, halves the
tokens in flight and tries again, until `patience_s` is over. A request that the server fails at
while it answers others waits alone, and is given up after a few times: it stops nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, TypeVar

from agenticlu.core.errors import (
    AgenticluError,
    BudgetExceededError,
    DocumentTooLongError,
    EngineBusyError,
    EngineError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.core.records import Message, Usage, content_id
from agenticlu.engines.base import Capabilities, ChoiceProbs, Completion, Engine, Sampled, Sampling
from agenticlu.engines.breaker import Breaker, Tries
from agenticlu.search.store import CallId, Store

Reply = TypeVar("Reply")

CHARACTERS_PER_TOKEN = 4
"""For admission only, where a rough estimate is enough."""
REPLY_ATTEMPTS = 3
"""Times a request is sent whose reply cannot be understood."""
LEAST_SHRUNK_FROM = 8
"""Requests in flight below which an overload tells nothing about how many are too many."""


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
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, tokens: int) -> None:
        """Waits for room, first come first served."""
        self._drop_cancelled()
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
        used = max(self.requests, LEAST_SHRUNK_FROM)
        self.limit_requests = max(1.0, min(self.limit_requests, used) / 2)
        self.limit_tokens = max(1.0, self.limit_tokens / 2)

    def _admit(self) -> None:
        self._drop_cancelled()
        while self._waiting and self._fits(self._waiting[0][0]):
            tokens, future = self._waiting.popleft()
            self._take(tokens)
            future.set_result(None)
            self._drop_cancelled()

    def _drop_cancelled(self) -> None:
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()

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
        max_spent_tokens: Computed tokens of this process, about: calls in flight are counted at
            the mean of those finished.
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
        self.gate = asyncio.Semaphore(2 * bound)
        """Holds back the making of requests that could not be sent yet anyway."""
        self.replayed = 0
        """Calls answered from the ledger."""
        self.judged: set[str] = set()
        """Keys of judgements that this process made: not even failed ones are made again."""
        self.retry_failed = retry_failed
        self._max_spent_tokens = max_spent_tokens
        self._finished = 0
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

        return await self.once(
            call.key, lambda: self._send(call, count_characters(messages), send, encode_sampled)
        )

    async def complete(self, call: CallId, text: str, sampling: Sampling) -> Sampled:
        """Continues a plain text, or returns what was sampled before under this key."""
        recorded = self._recorded(call.key)
        if recorded is not None:
            return decode_sampled(recorded[0], recorded[1])
        engine = self._engine(call)

        async def send() -> Sampled:
            return await engine.complete(text, sampling, session=call.document_id)

        return await self.once(call.key, lambda: self._send(call, len(text), send, encode_sampled))

    async def score_choices(
        self, call: CallId, messages: Sequence[Message], choices: Sequence[str]
    ) -> ChoiceProbs:
        """Scores choices, or returns what was found before under this key."""
        recorded = self._recorded(call.key)
        if recorded is not None:
            return decode_choice_probs(recorded[0], recorded[1])
        engine = self._engine(call)

        async def send() -> ChoiceProbs:
            return await engine.score_choices(messages, choices, session=call.document_id)

        probs = await self.once(
            call.key,
            lambda: self._send(call, count_characters(messages), send, encode_choice_probs),
        )
        return decode_choice_probs(encode_choice_probs(probs), probs.usage)

    async def once(self, key: str, work: Callable[[], Awaitable[Reply]]) -> Reply:
        """Runs work that several tasks want at the same time once for all of them."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._running[key] = task

            def forget(ended: asyncio.Task[Any]) -> None:
                self._running.pop(key, None)
                if not ended.cancelled():
                    ended.exception()  # told to whoever waits; nobody may be left

            task.add_done_callback(forget)
        result: Reply = await asyncio.shield(task)
        return result

    async def cancel(self) -> None:
        """Ends what is still under way; what was sent counts as in flight when the run goes on."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _recorded(self, key: str) -> tuple[Any, Usage] | None:
        found = self.store.find_call(key)
        if found is None:
            return None
        if found.state == "failed":
            if self.retry_failed and self.engine is not None:
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
        characters: int,
        send: Callable[[], Awaitable[Reply]],
        encode: Callable[[Reply], Any],
    ) -> Reply:
        assert self.engine is not None
        if not self._ready:
            await self.once("before first", self._prepare)
        with Tries(self.breaker, self.engine) as tries:
            return await self._try(tries, call, characters // CHARACTERS_PER_TOKEN, send, encode)

    async def _try(
        self,
        tries: Tries,
        call: CallId,
        tokens: int,
        send: Callable[[], Awaitable[Reply]],
        encode: Callable[[Reply], Any],
    ) -> Reply:
        attempts = 0
        while True:
            await self.breaker.wait()
            await self._staging.acquire(tokens)
            try:
                self._check_budget()
                await self.store.intend(call)
                await self.admission.acquire(tokens)
                tries.begin()
                try:
                    reply = await send()
                finally:
                    self.admission.release(tokens)
            except (EngineBusyError, EngineUnreachableError) as error:
                overload: EngineError | None = error
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
                usage: Usage = reply.usage  # type: ignore[attr-defined]
                self.spent = self.spent + usage
                self._finished += 1
                await self.store.finish(call.key, encode(reply), usage)
                return reply
            finally:
                self._staging.release(tokens)
            if overload is None:
                continue
            if await tries.is_own(overload):
                if tries.over:
                    await self._give_up(call, overload)
                await tries.pause()
                continue
            if not self.breaker.paused:
                self.admission.shrink()
            await self.breaker.trouble(overload)

    async def _prepare(self) -> None:
        assert self._before_first is not None
        await self._before_first()
        self._ready = True

    async def _give_up(self, call: CallId, error: AgenticluError) -> NoReturn:
        await self.store.fail(call.key, error.message)
        raise CallFailedError(error.message) from error

    def _check_budget(self) -> None:
        limit = self._max_spent_tokens
        if limit is None:
            return
        mean = self.spent.computed_tokens / max(1, self._finished)
        if self.spent.computed_tokens + mean * self.admission.requests >= limit:
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
        retry_failed: Send calls again that failed for good in an earlier run.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        breaker: Breaker | None = None,
        max_requests: int = 64,
        *,
        retry_failed: bool = False,
    ) -> None:
        self.name = engine.name
        self._engine = engine
        admission = Admission(max_requests=max_requests)
        self._caller = Caller(
            store, engine, admission=admission, breaker=breaker, retry_failed=retry_failed
        )

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._engine.usage

    def holds(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        """Whether a call was answered before, so that asking costs nothing."""
        found = self._caller.store.find_call(self._key(messages, sampling))
        return found is not None and found.state == "done"

    def _key(self, messages: Sequence[Message], sampling: Sampling) -> str:
        return sample_key(("judge", self.name), messages, sampling, 0)

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples, or returns what was sampled before."""
        key = self._key(messages, sampling)
        try:
            return await self._caller.sample(
                CallId(key, "judge", session or ""), messages, sampling
            )
        except CallFailedError as error:
            raise EngineReplyError(str(error)) from error

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a plain text, or returns what was sampled before."""
        key = complete_key(("judge", self.name), text, sampling)
        try:
            return await self._caller.complete(CallId(key, "judge", session or ""), text, sampling)
        except CallFailedError as error:
            raise EngineReplyError(str(error)) from error

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Scores choices, or returns what was found before."""
        key = choices_key(("judge", self.name), messages, choices)
        try:
            return await self._caller.score_choices(
                CallId(key, "judge", session or ""), messages, choices
            )
        except CallFailedError as error:
            raise EngineReplyError(str(error)) from error

    async def capabilities(self) -> Capabilities:
        """Of the engine."""
        return await self._engine.capabilities()

    async def close(self) -> None:
        """Ends what is under way, lest it look like a server that went away; closes the engine."""
        await self._caller.cancel()
        await self._engine.close()


async def together(
    work: Iterable[Coroutine[Any, Any, Reply]], gate: asyncio.Semaphore | None = None
) -> list[Reply]:
    """Runs coroutines side by side and returns their results in order.

    Where one meets a call that failed, the others are finished first, because what they ask is
    kept; any other error ends them all.

    Args:
        work: Coroutines; taken one by one, so that a generator makes each when its turn comes.
        gate: Bounds how many there are at a time, over all that share it. Only for work that
            does not itself wait at the gate.
    """
    tasks: list[asyncio.Task[Reply]] = []
    ended = False

    def leave(task: asyncio.Task[Reply]) -> None:
        nonlocal ended
        assert gate is not None
        gate.release()
        tolerated = (CallFailedError, NotRecordedError)
        if task.cancelled() or not isinstance(task.exception(), (type(None), *tolerated)):
            ended = True

    try:
        coroutines = iter(work)
        while not ended:
            if gate is not None:
                await gate.acquire()
            one = next(coroutines, None)
            if one is None:
                if gate is not None:
                    gate.release()
                break
            task = asyncio.create_task(one)
            tasks.append(task)
            if gate is not None:
                task.add_done_callback(leave)
        for done in asyncio.as_completed(tasks):
            with contextlib.suppress(CallFailedError, NotRecordedError):
                await done
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    return [task.result() for task in tasks]


def count_characters(messages: Sequence[Message]) -> int:
    """Returns the length of a conversation, from which its tokens are guessed."""
    return sum(len(message.content) for message in messages)


def prompt_hash(messages: Sequence[Message]) -> str:
    """Returns a hash of a conversation."""
    return content_id(*(f"{m.role}\x1e{m.content}" for m in messages), length=32)


def sample_key(
    scope: Sequence[str], messages: Sequence[Message], sampling: Sampling, first_ordinal: int
) -> str:
    """Returns the content key of a sampled call, the first sample's ordinal included."""
    fields = asdict(sampling)
    if fields["schema"] is None:
        del fields["schema"]  # calls without one keep the keys that they had before there was any
    how = json.dumps(fields, sort_keys=True)
    return content_id("sample", *scope, prompt_hash(messages), how, str(first_ordinal), length=32)


def complete_key(scope: Sequence[str], text: str, sampling: Sampling) -> str:
    """Returns the content key of a continued text."""
    how = json.dumps(asdict(sampling), sort_keys=True)
    return content_id("complete", *scope, text, how, length=32)


def choices_key(scope: Sequence[str], messages: Sequence[Message], choices: Sequence[str]) -> str:
    """Returns the content key of a `score_choices` call."""
    # "weigh" was the name of this request; it stays in the key so that stored ledgers are found.
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


def encode_choice_probs(probs: ChoiceProbs) -> Any:
    """Returns JSON data of choice probabilities; probabilities keep six digits."""
    probabilities = {choice: round(p, 6) for choice, p in probs.probabilities.items()}
    return [probabilities, round(probs.label_mass, 6), probs.method]


def decode_choice_probs(data: Any, usage: Usage) -> ChoiceProbs:
    """Inverts `encode_choice_probs`."""
    probabilities, mass, method = data
    return ChoiceProbs(probabilities=probabilities, label_mass=mass, usage=usage, method=method)
