"""Limits and retries: the only gate and the only retry loop in front of a server.

`LimitedEngine` puts an engine behind a `Limiter`: its `Admission` bounds what is in flight and what
may be spent, its `RetryPolicy` says which failures are worth another try. Nothing below retries:
an HTTP request is sent once, and a pool moves the *next* try to another replica. So one call sends

- five requests at most where no patience is set (`agenticlu ask`), in about 15 s;
- five at most where the failure is the call's own: the engine answers others meanwhile;
- otherwise one after each pause (1 s, doubling to 60 s) until patience is over: 10 requests in the
  300 s of `agenticlu eval`, 20 in the 900 s of `agenticlu generate`;
- two to an address at which no server ever answered;
- three where the reply cannot be read, and one where the server refuses the request.

If a call fails alone, it is compared with a short question, from its fourth failure on, when
hardly any other call is under way to compare it with.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from agenticlu.core.errors import (
    AgenticluError,
    EngineBusyError,
    EngineError,
    EngineRefusedError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.core.records import Message, Usage, content_seed
from agenticlu.documents.tokens import CHARACTERS_PER_TOKEN
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import (
    Capabilities,
    ChoiceProbs,
    Engine,
    Feature,
    Health,
    Likelihood,
    OnText,
    ReplyScorer,
    Sampled,
    Sampling,
    ThoughtCutError,
    Watched,
    adaptations_of,
    effort_of,
    setup_of,
    spent_on,
    stream_of,
    thinking_room_of,
)
from agenticlu.engines.streaming import Telling

Reply = TypeVar("Reply")
Answered = TypeVar("Answered", Sampled, ChoiceProbs, Likelihood)

FEW = 4
"""With this many calls under way or fewer, no other answer shows whether the engine works."""
SHORT_QUESTION = (Message(role="user", content="Say yes."),)
TRANSIENT = (EngineBusyError, EngineUnreachableError)
"""Errors of the engine rather than of the request: a later try may be answered."""

sleep = asyncio.sleep
"""Replaced by tests, together with `monotonic`."""
monotonic = time.monotonic


@dataclass(frozen=True)
class RetryPolicy:
    """The number of retries of a request, and the pauses before them."""

    tries: int = 5
    """Requests of one call, the first included."""
    reply_tries: int = 3
    """The same where the reply cannot be read."""
    first_contact_tries: int = 2
    """The same where no server has ever answered: a wrong address should fail quickly."""
    retries_timeouts: bool = True
    """Whether to ask again after waiting for a whole time-out in vain."""
    patience_s: float | None = None
    """While the whole engine is overloaded or away, seconds without any success until its error is
    raised; tries do not count meanwhile. None: they count."""
    first_pause_s: float = 1.0
    """Doubles with each failure."""
    longest_pause_s: float = 60.0
    longest_retry_after_s: float = 120.0
    """Without patience, a server that asks for a longer pause is given up."""

    @property
    def longest_s(self) -> float:
        """Longest pause that a server may ask for."""
        return self.longest_retry_after_s if self.patience_s is None else self.patience_s

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """Returns the pause after a number of failures, or what the server asks for if longer.

        A random tenth on top keeps processes that failed together from returning together.
        """
        pause = min(self.first_pause_s * 2.0 ** (failures - 1), self.longest_pause_s)
        return max(pause, retry_after_s or 0.0) + 0.1 * pause * random.random()


@dataclass
class _Tries:
    """The failures of one call."""

    began: float = math.inf
    """When it was last sent."""
    failed: float = math.inf
    """When it last failed."""
    first_failed: float = math.inf
    failures: int = 0
    faults: int = 0
    """Failures that may lie in the request: an error inside the server, a lost connection."""
    own: int = 0
    """Faults while the engine answered others."""
    unreadable: int = 0


class Limiter:
    """Sends calls when there is room, again where that may help, and pauses them all in an outage.

    Args:
        admission: Bounds what is in flight and spent.
        policy: When to send again, and when to give up.
        say: Called with a line for people when a pause begins and when it ends.
    """

    def __init__(
        self,
        admission: Admission | None = None,
        policy: RetryPolicy | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.admission = admission or Admission()
        self.policy = policy or RetryPolicy()
        self._say = say or (lambda text: None)
        self._num_under_way = 0
        self._last_success = -math.inf
        self._troubled_since: float | None = None
        self._num_pauses = 0
        self._gave_up = False

    async def run(
        self,
        ask: Callable[[], Awaitable[Reply]],
        tokens: int,
        ask_shortly: Callable[[], Awaitable[object]],
    ) -> Reply:
        """Returns the reply to one call.

        Args:
            ask: Sends the request, once.
            tokens: Of the prompt, by estimate.
            ask_shortly: Sends a short question, which any engine that works can answer.

        Raises:
            EngineBusyError: Overloaded until tries or patience were used up.
            EngineUnreachableError: Unreachable for as long.
            EngineReplyError: The request was refused, its reply could not be read, or the engine
                failed at it again and again while it answered others.
        """
        tries = _Tries()
        self._num_under_way += 1
        try:
            while True:
                try:
                    async with self.admission.admit(tokens) as epoch:
                        # Once there is room: time in the queue is not time at the server.
                        tries.began = monotonic()
                        reply = await ask()
                except (EngineRefusedError, ThoughtCutError):
                    raise
                except TRANSIENT as error:
                    if error.is_midway:
                        raise
                    # Only a refusal for load says that too much was in flight.
                    if isinstance(error, EngineBusyError) and not error.is_fault:
                        self.admission.shrink(epoch)
                    await self._recover(tries, error, ask_shortly)
                except EngineReplyError as error:
                    tries.unreadable += 1
                    if error.is_midway or tries.unreadable >= self.policy.reply_tries:
                        raise
                    await sleep(self.policy.pause_s(tries.unreadable))
                else:
                    self._note_success()
                    return reply
        finally:
            self._num_under_way -= 1

    def _note_success(self) -> None:
        if self._troubled_since is not None:
            self._say(f"the engine answers again after {monotonic() - self._troubled_since:.0f} s")
        self._troubled_since = None
        self._num_pauses = 0
        self._last_success = monotonic()
        self.admission.grow()

    async def _recover(
        self, tries: _Tries, error: EngineError, ask_shortly: Callable[[], Awaitable[object]]
    ) -> None:
        """Waits as long as it takes until another try makes sense, or raises."""
        policy = self.policy
        # A success during the pause before this try counts as much as one since it was sent.
        others_answered = self._last_success > min(tries.began, tries.failed)
        tries.failures += 1
        tries.failed = monotonic()
        tries.first_failed = min(tries.first_failed, tries.failed)
        # Another replica can take it at once, so there is nothing to wait for.
        if error.try_elsewhere and tries.failures < policy.tries:
            return
        if (
            (policy.patience_s is None and tries.failures >= policy.tries)
            or (error.never_answered and tries.failures >= policy.first_contact_tries)
            or (error.retry_after_s or 0.0) > policy.longest_s
            or (has_timed_out(error) and not policy.retries_timeouts)
        ):
            raise error
        if policy.patience_s is not None and may_be_own(error):
            tries.faults += 1
            if not others_answered and self._num_under_way <= FEW:
                others_answered = tries.faults >= policy.tries - 1 and await self._works(
                    ask_shortly
                )
                # A short question answered counts for all the failures before it.
                tries.own = max(tries.own, (policy.tries - 2) * others_answered)
            tries.own += others_answered
            if tries.own >= policy.tries:
                raise EngineReplyError(error.message, hint=error.hint) from error
        if others_answered:
            await self._pause_alone(tries, error)
        else:
            await self._pause_all(error)

    async def _works(self, ask_shortly: Callable[[], Awaitable[object]]) -> bool:
        try:
            await ask_shortly()
        except AgenticluError:
            return False
        self._note_success()
        return True

    async def _pause_alone(self, tries: _Tries, error: EngineError) -> None:
        pause_s = self.policy.pause_s(tries.failures, error.retry_after_s)
        patience_s = self.policy.patience_s
        is_patient = patience_s is None or tries.failed + pause_s - tries.first_failed <= patience_s
        if not is_patient and not may_be_own(error):  # faults end with their number of tries
            raise error
        await sleep(pause_s)

    async def _pause_all(self, error: EngineError) -> None:
        now, patience_s = monotonic(), self.policy.patience_s
        if self._troubled_since is None:
            self._troubled_since = now
        pause_s = self.policy.pause_s(self._num_pauses + 1, error.retry_after_s)
        if patience_s is not None and now - self._troubled_since + pause_s > patience_s:
            self._give_up(now - self._troubled_since)
            raise error
        if self.admission.is_paused:
            return  # another call leads the pause; admission holds this one until it is over
        self._say(f"paused for {pause_s:.0f} s: {error.message}")
        self._num_pauses += 1
        with self.admission.paused():
            await sleep(pause_s)

    def _give_up(self, waited_s: float) -> None:
        if not self._gave_up:  # every call under way gives up, one after another
            self._say(
                f"gave up after {waited_s:.0f} s without an answer (patience: "
                f"{self.policy.patience_s:.0f} s); everything finished is kept, and the same "
                "command resumes from there"
            )
        self._gave_up = True


class LimitedEngine:
    """An engine behind a limiter: each request has a slot, and is retried where that may help.

    Args:
        engine: Sends each request once. Of `sampling.n` samples it may return fewer; the rest are
            asked for one by one, each in a slot of its own.
        limiter: May be shared by several engines.
    """

    def __init__(self, engine: Engine, limiter: Limiter | None = None) -> None:
        assert not isinstance(engine, LimitedEngine), "retries would multiply"
        self.engine = engine
        self.limiter = limiter or Limiter()

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self.engine.usage

    @property
    def setup(self) -> Usage:
        """What finding out about the engine has cost so far; part of `usage`."""
        return setup_of(self.engine)

    @property
    def thinking_room(self) -> int:
        """The engine's."""
        return thinking_room_of(self.engine)

    @property
    def effort(self) -> str:
        """The engine's."""
        return effort_of(self.engine)

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` replies."""

        async def ask(wanted: Sampling) -> Sampled:
            return await self.engine.sample(messages, wanted, session=session)

        return await self._sample(ask, sampling, count_characters(messages))

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """Samples one reply and tells it as it comes; tried again before its first word alone."""
        telling = Telling(on_text)
        stream = stream_of(self.engine)

        async def ask() -> Sampled:
            try:
                return await stream(messages, sampling, session=session, on_text=telling)
            except EngineError as error:
                error.is_midway = telling.told
                raise

        try:
            return await self._ask(ask, count_characters(messages))
        finally:
            telling.ended = True

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` continuations of a plain text."""

        async def ask(wanted: Sampling) -> Sampled:
            return await self.engine.complete(text, wanted, session=session)

        return await self._sample(ask, sampling, len(text))

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Returns the probability of each choice as the reply's first token."""
        return await self._ask(
            lambda: self.engine.score_choices(messages, choices, session=session),
            count_characters(messages),
        )

    @property
    def scores_replies(self) -> bool:
        """Whether the engine can score a given reply."""
        return isinstance(self.engine, ReplyScorer)

    async def score_reply(
        self, messages: Sequence[Message], reply: str, *, session: str | None = None
    ) -> Likelihood:
        """Returns the log-probability of a given reply; see `scores_replies`."""
        engine = self.engine
        assert isinstance(engine, ReplyScorer), "the engine scores no replies"
        return await self._ask(
            lambda: engine.score_reply(messages, reply, session=session),
            count_characters(messages) + len(reply),
        )

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """The engine's, which may know its name only then."""
        ask = functools.partial(self.engine.capabilities, *wanted)
        return await self.limiter.run(ask, 0, self._ask_shortly)

    async def close(self) -> None:
        """Closes the engine."""
        await self.engine.close()

    def adaptations(self) -> tuple[str, ...]:
        """The engine's."""
        return adaptations_of(self.engine)

    def health(self) -> list[Health]:
        """The endpoints' health; empty for an engine without endpoints."""
        return self.engine.health() if isinstance(self.engine, Watched) else []

    async def _sample(
        self, ask: Callable[[Sampling], Awaitable[Sampled]], sampling: Sampling, characters: int
    ) -> Sampled:
        first = await self._ask(lambda: ask(sampling), characters)
        num_there = len(first.completions)
        if num_there >= sampling.n:
            return replace(first, completions=first.completions[: sampling.n])
        parts = await asyncio.gather(
            *(
                self._ask(functools.partial(ask, single_sampling(sampling, k)), characters)
                for k in range(num_there, sampling.n)
            )
        )
        usage = sum((part.usage for part in parts), first.usage)
        completions = (one for part in (first, *parts) for one in part.completions)
        return Sampled(tuple(completions), usage)

    async def _ask(self, ask: Callable[[], Awaitable[Answered]], characters: int) -> Answered:
        tokens = characters // CHARACTERS_PER_TOKEN
        admission = self.limiter.admission
        try:
            reply = await self.limiter.run(ask, tokens, self._ask_shortly)
        except (ThoughtCutError, asyncio.CancelledError) as error:
            admission.spend(spent_on(error))
            raise
        admission.spend(reply.usage)
        return reply

    async def _ask_shortly(self) -> Sampled:
        return await self.engine.sample(SHORT_QUESTION, Sampling(max_tokens=1))


def with_patience(
    engine: Engine, patience_s: float, say: Callable[[str], None] | None = None
) -> LimitedEngine:
    """Returns the engine with calls that wait out an outage instead of failing; its bounds stay.

    Args:
        engine: Limited or not.
        patience_s: Seconds without any success until the engine's error is raised.
        say: Called with a line for people when a pause begins and when it ends.
    """
    policy = RetryPolicy(patience_s=patience_s)
    if isinstance(engine, LimitedEngine):
        return LimitedEngine(engine.engine, Limiter(engine.limiter.admission, policy, say))
    return LimitedEngine(engine, Limiter(None, policy, say))


def single_sampling(sampling: Sampling, ordinal: int) -> Sampling:
    """Returns how to ask for sample number `ordinal` alone: with a seed derived from the request's.

    >>> single_sampling(Sampling(n=4, seed=7), 0)
    Sampling(temperature=0.0, top_p=1.0, max_tokens=256, n=1, stop=(), seed=7, schema=None)
    """
    seed = sampling.seed
    # Sample 0 keeps the seed: asked for alone, it is the first of those asked for together.
    if seed is not None and ordinal > 0:
        seed = content_seed("sample", str(seed), str(ordinal))
    return replace(sampling, n=1, seed=seed)


def may_be_own(error: EngineError) -> bool:
    """Whether the cause may lie in the request: a lost connection, an error inside the server."""
    return not isinstance(error, EngineBusyError) or error.is_fault


def has_timed_out(error: EngineError) -> bool:
    """Whether there was no answer in time."""
    return isinstance(error, EngineBusyError) and error.timed_out


def count_characters(messages: Sequence[Message]) -> int:
    """Returns the length of a conversation, from which its tokens are estimated."""
    return sum(len(message.content) for message in messages)
