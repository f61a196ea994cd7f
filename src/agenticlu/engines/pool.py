"""An engine over several replicas of one model: keeps sessions together, routes around failures.

The requests of a session go to one replica, so that its prefix cache hits: the replica with the
highest hash of (session, address), which moves few sessions when a replica comes or goes
(rendezvous hashing). Each call sends one request to one replica; the error tells whether another
can take it at once, and `agenticlu.engines.retry` asks again. A replica that cannot be reached, or
is overloaded several times in a row, rests for a while and its sessions go to their next best. A
request that alone fails on a replica which otherwise works moves on alone: it may itself be to
blame.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from agenticlu.core.errors import (
    EngineBusyError,
    EngineError,
    EngineUnreachableError,
    ModelNotFoundError,
)
from agenticlu.core.records import Message, Usage, content_seed
from agenticlu.engines.base import (
    Capabilities,
    ChoiceProbs,
    Engine,
    Feature,
    Health,
    OnText,
    Sampled,
    Sampling,
    Watched,
    adaptations_of,
    effort_of,
    setup_of,
    stream_of,
    thinking_room_of,
)
from agenticlu.engines.clock import EndpointClock
from agenticlu.engines.retry import TRANSIENT, may_be_own

Reply = TypeVar("Reply")
OVERLOADS = 3
"""Overloads in a row after which a replica rests: its sessions lose their cached prefixes then, so
one refusal is not enough."""


@dataclass
class Replica:
    """One endpoint and its state."""

    key: str
    """Its address: what sessions are hashed with."""
    engine: Engine
    failures: int = 0
    """Rests in a row."""
    overloads: int = 0
    """Refusals for load in a row."""
    closed_until: float = 0.0
    """Time of the event loop until which it rests."""
    suspects: set[str] = field(default_factory=set)
    """Sessions that it failed since its last answer."""

    async def is_well(self) -> bool:
        """Whether a failure may be the request's own: only one session failed, the server is up."""
        ask = getattr(self.engine, "answers", None)
        return len(self.suspects) == 1 and ask is not None and await ask()


class PoolEngine:
    """Sends each session to one of several replicas.

    Args:
        replicas: Addresses and engines; all serve one model.
        rest_s: How long a failed replica rests; doubles with each failure in a row.
        most_rest_s: Longest rest.
        on_event: Called with a line for people when a replica fails or returns.
    """

    def __init__(
        self,
        replicas: Sequence[tuple[str, Engine]],
        *,
        rest_s: float = 5.0,
        most_rest_s: float = 60.0,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        assert replicas, "a pool needs a replica"
        self.name = replicas[0][1].name
        self.replicas = [Replica(key, engine) for key, engine in replicas]
        self._rest_s = rest_s
        self._most_rest_s = most_rest_s
        self._on_event = on_event or (lambda text: None)
        self._turn = itertools.count()

    @property
    def usage(self) -> Usage:
        """Total over the replicas."""
        return sum((replica.engine.usage for replica in self.replicas), Usage())

    @property
    def setup(self) -> Usage:
        """What finding out about the replicas has cost so far; part of `usage`."""
        return sum((setup_of(replica.engine) for replica in self.replicas), Usage())

    @property
    def thinking_room(self) -> int:
        """The most that a replica keeps free."""
        return max(thinking_room_of(replica.engine) for replica in self.replicas)

    @property
    def effort(self) -> str:
        """The replicas'."""
        return effort_of(self.replicas[0].engine)

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples on the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_one(
            session, lambda engine: engine.sample(messages, sampling, session=session)
        )

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """Streams from the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_one(
            session,
            lambda engine: stream_of(engine)(messages, sampling, session=session, on_text=on_text),
        )

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a text on the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_one(
            session, lambda engine: engine.complete(text, sampling, session=session)
        )

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Scores choices on the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_one(
            session, lambda engine: engine.score_choices(messages, choices, session=session)
        )

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """Returns the capabilities shared by all replicas that answer.

        Raises:
            EngineUnreachableError: None answers.
            ModelNotFoundError: The replicas serve different models.
        """
        asked = [one for one in self.replicas if self._is_open(one)] or self.replicas
        found = await asyncio.gather(
            *(replica.engine.capabilities(*wanted) for replica in asked), return_exceptions=True
        )
        known: list[Capabilities] = []
        lost: list[str] = []
        for replica, one in zip(asked, found, strict=True):
            if isinstance(one, Capabilities):
                known.append(one)
            elif isinstance(one, TRANSIENT):
                self._close(replica, one)
                lost.append(f"{replica.key} does not answer: {one}")
            else:
                raise one
        if not known:
            raise EngineUnreachableError(
                f"None of the {len(self.replicas)} replicas answers.", hint=lost[0]
            )
        names = {replica.engine.name for replica in self.replicas if not replica.failures}
        if len(names) > 1:
            raise ModelNotFoundError(
                f"The replicas serve different models: {', '.join(sorted(names))}.",
                hint="Choose one with --model.",
            )
        if names:
            self.name = names.pop()
        return _shared_by(known, lost)

    def adaptations(self) -> tuple[str, ...]:
        """Returns what any replica's server made necessary to change."""
        found = (adaptations_of(replica.engine) for replica in self.replicas)
        return tuple(dict.fromkeys(text for texts in found for text in texts))

    def health(self) -> list[Health]:
        """Returns the state of each replica, as its engine reports it, or that it is resting."""
        now = asyncio.get_running_loop().time()
        found = []
        for replica in self.replicas:
            watched = replica.engine
            known = (
                watched.health()[0] if isinstance(watched, Watched) else EndpointClock().health("")
            )
            resting_s = max(0.0, replica.closed_until - now)
            known |= {"address": replica.key, "failures": replica.failures}
            if resting_s:
                known |= {"state": "resting", "resting_s": round(resting_s, 1)}
            found.append(known)
        return found

    async def close(self) -> None:
        """Closes every replica's engine."""
        await asyncio.gather(*(replica.engine.close() for replica in self.replicas))

    def ranked(self, session: str | None) -> list[Replica]:
        """Returns the replicas, the session's own first; without a session in turn."""
        if session is None:
            start = next(self._turn) % len(self.replicas)
            return self.replicas[start:] + self.replicas[:start]
        return sorted(
            self.replicas,
            key=lambda replica: (content_seed("rendezvous", session, replica.key), replica.key),
            reverse=True,
        )

    async def _on_one(
        self, session: str | None, ask: Callable[[Engine], Awaitable[Reply]]
    ) -> Reply:
        replica = self._choose(session)
        try:
            reply = await ask(replica.engine)
        except TRANSIENT as error:
            await self._note_failure(replica, session, error)
            # Chosen after the failure was noted: it differs if another replica is open to the
            # session.
            best = self._choose(session)
            error.try_elsewhere = best is not replica and self._is_open(best)
            # Some replica has answered before, so this is an outage and not a wrong address.
            if any(one.engine.usage.requests for one in self.replicas):
                error.never_answered = False
            raise
        if replica.failures:
            self._on_event(f"{replica.key} answers again.")
        # A reply to a request sent before the replica was closed opens it again, too.
        replica.failures = replica.overloads = 0
        replica.closed_until = 0.0
        replica.suspects.clear()
        self.name = replica.engine.name
        return reply

    def _choose(self, session: str | None) -> Replica:
        """Returns the session's replica: the best that is open and did not fail this session.

        With all at rest, the one that returns first: the limiter has paused by then.
        """
        ranked = self.ranked(session)
        open_replicas = [one for one in ranked if self._is_open(one)]
        if not open_replicas:
            return min(ranked, key=lambda one: one.closed_until)
        return next((one for one in open_replicas if session not in one.suspects), open_replicas[0])

    def _is_open(self, replica: Replica) -> bool:
        return replica.closed_until <= asyncio.get_running_loop().time()

    async def _note_failure(
        self, replica: Replica, session: str | None, error: EngineError
    ) -> None:
        if isinstance(error, EngineBusyError) and not error.is_fault:
            replica.overloads += 1
            if replica.overloads >= OVERLOADS:
                self._close(replica, error)
            return
        # Requests without a session are counted one by one.
        replica.suspects.add(session or f"request {len(replica.suspects)}")
        if not (may_be_own(error) and await replica.is_well()):
            self._close(replica, error)

    def _close(self, replica: Replica, error: BaseException) -> None:
        now = asyncio.get_running_loop().time()
        if replica.closed_until > now:
            return  # sent before the failure that closed it
        replica.failures += 1
        rest = min(self._most_rest_s, self._rest_s * 2.0 ** (replica.failures - 1))
        replica.closed_until = now + rest
        replica.suspects.clear()  # the replica was to blame: its sessions return after the rest
        self._on_event(f"{replica.key} rests for {rest:.0f} s and its sessions move on: {error}")


def _shared_by(known: Sequence[Capabilities], lost: Sequence[str]) -> Capabilities:
    """Returns what all of some engines support, with the notes of each and on those lost."""
    windows = [one.context_tokens for one in known if one.context_tokens is not None]
    reuse = [one.prefix_reuse_from_tokens for one in known]
    thoughts = [one.thinking_tokens for one in known if one.thinking_tokens is not None]
    return Capabilities(
        samples_n=all(one.samples_n for one in known),
        repeats_seeds=all(one.repeats_seeds for one in known),
        logprobs=all(one.logprobs for one in known),
        token_ids=all(one.token_ids for one in known),
        reports_cached_tokens=all(one.reports_cached_tokens for one in known),
        completes=all(one.completes for one in known),
        context_tokens=min(windows) if windows else None,
        prefix_reuse_from_tokens=None
        if None in reuse
        else max(tokens for tokens in reuse if tokens is not None),
        thinking_tokens=max(thoughts) if thoughts else None,
        notes=tuple(dict.fromkeys([*(note for one in known for note in one.notes), *lost])),
    )
