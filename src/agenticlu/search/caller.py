"""Sends the calls of a search to an engine, and records each one in the ledger.

`Caller` answers from the ledger what was already asked. Everything else is written down as
intended, sent under the engine's limits (`agenticlu.engines.retry`), and written down as done. A
request that the engine cannot answer, though it answers others, is written down as failed and stops
nobody else; an engine that is overloaded or away for longer than patience ends the run, and is
never held against a call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from agenticlu.core.errors import AgenticluError, DocumentTooLongError, EngineReplyError
from agenticlu.core.records import Message, Usage, content_id
from agenticlu.engines.base import (
    Capabilities,
    ChoiceProbs,
    Completion,
    Engine,
    Feature,
    Likelihood,
    Sampled,
    Sampling,
    setup_of,
    spent_on,
)
from agenticlu.engines.retry import LimitedEngine
from agenticlu.search.bounds import SETUP_TOKENS, Bounds, Size
from agenticlu.search.store import CallId, Store

CHOICE_TOKENS = 16
"""Of a reply whose choices are scored."""
Reply = TypeVar("Reply", Sampled, ChoiceProbs, Likelihood)
Result = TypeVar("Result")


class NotRecordedError(Exception):
    """Replaying met a call that the ledger does not hold. Never leaves the package."""


class CallFailedError(Exception):
    """A call failed for good; the reason is in the ledger. Never leaves the package."""


class Caller:
    """Sends calls to an engine through the ledger.

    All requests about a document are of one session, so that a pool keeps them on one replica.

    Args:
        store: The ledger.
        engine: One with limits keeps them; another gets the default ones. None replays: what the
            ledger lacks raises `NotRecordedError`.
        retry_failed: Send calls again that failed for good in an earlier run.
        judging: While replaying, let judges ask their own models.
        before_first: Awaited once before anything is sent; never when nothing has to be.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine | None,
        *,
        retry_failed: bool = False,
        judging: bool = False,
        before_first: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        if engine is not None and not isinstance(engine, LimitedEngine):
            engine = LimitedEngine(engine)
        self.store = store
        self.engine = engine
        self.judging = judging
        # Twice as many as may be in flight: requests are written down as intended before they queue
        # for a slot, so that no slot waits for a commit; more would only be intended too early.
        most = 2 * engine.limiter.admission.max_requests if engine is not None else 1
        self.gate = asyncio.Semaphore(most)
        """Holds back the making of requests that could not be sent yet anyway."""
        self.judged: set[str] = set()
        """Keys of judgements that this process made: not even failed ones are made again."""
        self.retry_failed = retry_failed
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._before_first = before_first
        self._is_open = False
        self._opening: str | None = None
        """Since the engine was met, until its first reply."""
        self._bounds_name = "" if engine is None else f"bounds {engine.name}"
        self._bounds = Bounds(store.get(self._bounds_name) or {})

    @property
    def num_in_flight(self) -> int:
        """Requests that were sent and are not answered."""
        return 0 if self.engine is None else self.engine.limiter.admission.requests

    async def sample(
        self, call: CallId, messages: Sequence[Message], sampling: Sampling
    ) -> Sampled:
        """Samples, or returns what was sampled before under this key."""
        return await self._answer(
            call,
            Size("sample", contents_of(messages), sampling.n, sampling.max_tokens),
            lambda engine: engine.sample(messages, sampling, session=call.document_id),
            encode_sampled,
            decode_sampled,
        )

    async def complete(self, call: CallId, text: str, sampling: Sampling) -> Sampled:
        """Continues a plain text, or returns what was sampled before under this key."""
        return await self._answer(
            call,
            Size("complete", (text,), sampling.n, sampling.max_tokens),
            lambda engine: engine.complete(text, sampling, session=call.document_id),
            encode_sampled,
            decode_sampled,
        )

    async def score_choices(
        self, call: CallId, messages: Sequence[Message], choices: Sequence[str]
    ) -> ChoiceProbs:
        """Scores choices, or returns what was found before under this key."""
        return await self._answer(
            call,
            Size("choices", contents_of(messages), 1, CHOICE_TOKENS),
            lambda engine: engine.score_choices(messages, choices, session=call.document_id),
            encode_choice_probs,
            decode_choice_probs,
        )

    async def score_reply(
        self, call: CallId, messages: Sequence[Message], reply: str
    ) -> Likelihood:
        """Scores a given reply, or returns what was found before under this key."""
        return await self._answer(
            call,
            Size("reply", (*contents_of(messages), reply), 1, CHOICE_TOKENS),
            lambda engine: engine.score_reply(messages, reply, session=call.document_id),
            lambda found: [round(found.logprob, 4), found.num_tokens],
            lambda data, usage: Likelihood(data[0], data[1], usage),
        )

    async def once(self, key: str, work: Callable[[], Awaitable[Result]]) -> Result:
        """Runs work once for all tasks that want it at the same time."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.ensure_future(work())
            self._running[key] = task

            def forget(ended: asyncio.Task[Any]) -> None:
                self._running.pop(key, None)
                if not ended.cancelled():
                    # Retrieved, or asyncio warns of it: whoever waited may have been cancelled.
                    ended.exception()

            task.add_done_callback(forget)
        # A waiter that is cancelled must not end what others wait for.
        result: Result = await asyncio.shield(task)
        return result

    async def cancel(self) -> None:
        """Ends what is under way; the ledger holds it as intended: a resumed run sends it again."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _answer(
        self,
        call: CallId,
        size: Size,
        send: Callable[[LimitedEngine], Awaitable[Reply]],
        encode: Callable[[Reply], Any],
        decode: Callable[[Any, Usage], Reply],
    ) -> Reply:
        # No await between this and `once`: a call that ended in between would be sent twice.
        found = self.store.find_call(call.key)
        if found is not None and found.state != "failed":
            return decode(found.reply, found.usage)
        if found is not None and not (self.retry_failed and self.engine is not None):
            raise CallFailedError(found.failure)
        engine = self.engine
        if engine is None:
            raise NotRecordedError(call.key)
        reply = await self.once(call.key, lambda: self._send(engine, call, size, send, encode))
        # Through the ledger's form, which rounds: a replay must see the very same numbers.
        return decode(encode(reply), reply.usage)

    async def _send(
        self,
        engine: LimitedEngine,
        call: CallId,
        size: Size,
        send: Callable[[LimitedEngine], Awaitable[Reply]],
        encode: Callable[[Reply], Any],
    ) -> Reply:
        if not self._is_open:
            await self.once("open", self._open)
        # Before the intent, or the ledger would show calls as interrupted that no budget allowed.
        async with engine.limiter.admission.reserved(size.expected_tokens):
            await self.store.intend(call, self._bounds.most(size, engine.thinking_room))
            try:
                reply = await send(engine)
            except (DocumentTooLongError, EngineReplyError) as error:
                # Only what is wrong with this call. Any other error, an outage or a rejected key,
                # ends the run and leaves the intent, so that a resumed run sends the call again.
                await self.store.fail(call.key, error.message, spent_on(error))
                raise CallFailedError(error.message) from error
        await self.store.finish(call.key, encode(reply), reply.usage)
        if self._bounds.learn(size, reply.usage):
            await self.store.note(self._bounds_name, self._bounds.known)
        if self._opening is not None:
            # The reply was charged with what was found out about the engine before it.
            opening, self._opening = self._opening, None
            await self.store.end_opening(opening)
        return reply

    async def _open(self) -> None:
        """Meets the engine; what that costs is not of a call until the first reply."""
        assert self.engine is not None
        self._opening = await self.store.begin_opening(Usage(prompt_tokens=SETUP_TOKENS))
        try:
            if self._before_first is not None:
                await self._before_first()
        except AgenticluError:
            await self.store.end_opening(self._opening, setup_of(self.engine))
            self._opening = None
            raise
        self._is_open = True


class LedgeredEngine:
    """A judge's engine behind the ledger: its calls are recorded and never repeated.

    Args:
        store: The ledger.
        engine: Asks the model; has limits of its own, so that the search never waits for a judge.
        retry_failed: Send calls again that failed for good in an earlier run.
    """

    def __init__(self, store: Store, engine: Engine, *, retry_failed: bool = False) -> None:
        self.name = engine.name
        self._engine = engine
        self._caller = Caller(store, engine, retry_failed=retry_failed)

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._engine.usage

    def holds(self, messages: Sequence[Message], sampling: Sampling) -> bool:
        """Whether a call was answered before, so that asking costs nothing."""
        found = self._caller.store.find_call(self._sample_key(messages, sampling))
        return found is not None and found.state == "done"

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples, or returns what was sampled before."""
        call = CallId(self._sample_key(messages, sampling), "judge", session or "")
        return await _unwrap(self._caller.sample(call, messages, sampling))

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a plain text, or returns what was sampled before."""
        key = complete_key(("judge", self.name), text, sampling)
        call = CallId(key, "judge", session or "")
        return await _unwrap(self._caller.complete(call, text, sampling))

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Scores choices, or returns what was found before."""
        key = choices_key(("judge", self.name), messages, choices)
        call = CallId(key, "judge", session or "")
        return await _unwrap(self._caller.score_choices(call, messages, choices))

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """The engine's."""
        return await self._engine.capabilities(*wanted)

    async def close(self) -> None:
        """Ends calls under way, so that they do not look like lost connections, and closes."""
        await self._caller.cancel()
        await self._engine.close()

    def _sample_key(self, messages: Sequence[Message], sampling: Sampling) -> str:
        return sample_key(("judge", self.name), messages, sampling, 0)


async def _unwrap(work: Coroutine[Any, Any, Reply]) -> Reply:
    try:
        return await work
    except CallFailedError as error:
        raise EngineReplyError(str(error)) from error


async def together(
    work: Iterable[Coroutine[Any, Any, Result]], gate: asyncio.Semaphore | None = None
) -> list[Result]:
    """Runs coroutines side by side and returns their results in order.

    Where one meets a call that failed, the others are finished first, because what they ask is
    kept; any other error ends them all.

    Args:
        work: Coroutines; taken one by one, so that a generator makes each when its turn comes.
        gate: Bounds how many there are at a time, over all that share it. Only for work that
            does not itself wait at the gate.
    """
    tasks: list[asyncio.Task[Result]] = []
    ended = False

    def leave(task: asyncio.Task[Result]) -> None:
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
        # As they end, not in order: an error that ends them all must not wait for slower ones.
        for done in asyncio.as_completed(tasks):
            with contextlib.suppress(CallFailedError, NotRecordedError):
                await done
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    # Raises the first tolerated error, now that everything has ended.
    return [task.result() for task in tasks]


def contents_of(messages: Sequence[Message]) -> tuple[str, ...]:
    """Returns the texts of a conversation."""
    return tuple(message.content for message in messages)


def prompt_hash(messages: Sequence[Message]) -> str:
    """Returns a hash of a conversation."""
    return content_id(*(f"{m.role}\x1e{m.content}" for m in messages), length=32)


def sample_key(
    scope: Sequence[str], messages: Sequence[Message], sampling: Sampling, first_ordinal: int
) -> str:
    """Returns the content key of a sampled call, the first sample's ordinal included."""
    fields = _describe(sampling)
    if fields["schema"] is None:
        del fields["schema"]  # calls without one keep the keys that they had before there was any
    how = json.dumps(fields, sort_keys=True)
    return content_id("sample", *scope, prompt_hash(messages), how, str(first_ordinal), length=32)


def complete_key(scope: Sequence[str], text: str, sampling: Sampling) -> str:
    """Returns the content key of a continued text."""
    how = json.dumps(_describe(sampling), sort_keys=True)
    return content_id("complete", *scope, text, how, length=32)


def _describe(sampling: Sampling) -> dict[str, Any]:
    """Returns the settings of a key; unguided calls keep the keys from before there were guides."""
    return {
        name: value
        for name, value in asdict(sampling).items()
        if value or name not in ("among", "begins")
    }


def choices_key(scope: Sequence[str], messages: Sequence[Message], choices: Sequence[str]) -> str:
    """Returns the content key of a `score_choices` call."""
    # "weigh" was the name of this request; it stays in the key so that stored ledgers are found.
    return content_id("weigh", *scope, prompt_hash(messages), *choices, length=32)


def reply_key(scope: Sequence[str], messages: Sequence[Message], reply: str) -> str:
    """Returns the content key of a `score_reply` call."""
    return content_id("score reply", *scope, prompt_hash(messages), reply, length=32)


def encode_sampled(sampled: Sampled) -> Any:
    """Returns JSON data of a reply; its usage is stored in columns."""
    return [
        [one.text, one.finish_reason, None if one.token_ids is None else list(one.token_ids)]
        for one in sampled.completions
    ]


def decode_sampled(data: Any, usage: Usage) -> Sampled:
    """Inverts `encode_sampled`."""
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
