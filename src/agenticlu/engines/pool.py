"""Several replicas of one model behind one engine.

The requests of a session go to one replica, so that its prefix cache hits: the replica with the
highest hash of (session, address), which moves few sessions when a replica comes or goes
(rendezvous hashing). A replica that fails is left alone for a while and its sessions go to their
next best; when none is left the pool pauses, says so, and tries again. One session's request that
fails on a replica which is there is tried on the next and closes none: it may be the request.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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
    Health,
    Sampled,
    Sampling,
    Watched,
)
from agenticlu.engines.openai import OpenAIEngine
from agenticlu.engines.pulse import Pulse
from agenticlu.engines.retry import RetryPolicy

Reply = TypeVar("Reply")
MOVABLE = (EngineUnreachableError, EngineBusyError)
"""Errors after which another replica may do better."""


@dataclass
class Replica:
    """One endpoint and how it fares."""

    key: str
    """Its address: what sessions are hashed with."""
    engine: Engine
    failures: int = 0
    """Requests lost in a row."""
    closed_until: float = 0.0
    """Time of the event loop until which it gets nothing; 0 while it is well."""
    suspects: set[str] = field(default_factory=set)
    """Sessions that it failed since its last answer."""

    async def is_well(self, session: str | None) -> bool:
        """Whether a failure may be the request's own: only this session's, and the server is up."""
        self.suspects.add(session or f"request {len(self.suspects)}")
        ask = getattr(self.engine, "answers", None)
        return len(self.suspects) == 1 and ask is not None and await ask()


class PoolEngine:
    """Sends each session to one of several replicas.

    Args:
        replicas: Addresses and engines; all serve one model.
        rest_s: How long a failed replica is left alone; doubles with each failure in a row.
        most_rest_s: Longest rest.
        patience_s: How long the pool waits, all replicas down, before it gives up.
        on_event: Called with a line for people when a replica fails, returns, or all are down.

    Raises:
        EngineUnreachableError: From requests, when every replica has been down for `patience_s`.
    """

    def __init__(
        self,
        replicas: Sequence[tuple[str, Engine]],
        *,
        rest_s: float = 5.0,
        most_rest_s: float = 60.0,
        patience_s: float = 120.0,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        assert replicas, "a pool needs a replica"
        self.name = replicas[0][1].name
        self.replicas = [Replica(key, engine) for key, engine in replicas]
        self._rest_s = rest_s
        self._most_rest_s = most_rest_s
        self._patience_s = patience_s
        self._on_event = on_event
        self._turn = itertools.count()
        self._capabilities: Capabilities | None = None

    @classmethod
    def of(
        cls,
        base_urls: Sequence[str],
        model: str | None = None,
        *,
        rest_s: float = 5.0,
        patience_s: float = 120.0,
        on_event: Callable[[str], None] | None = None,
        **options: Any,
    ) -> PoolEngine:
        """Builds a pool of endpoints.

        Args:
            base_urls: Addresses.
            model: Name under which all of them list the model.
            rest_s: See the class.
            patience_s: See the class.
            on_event: See the class; the endpoints use it, too.
            **options: Passed to each `OpenAIEngine`.
        """
        # Another replica is a better second try than the same one again and again.
        options.setdefault("retry", RetryPolicy(attempts=3, first_contact_attempts=1))
        engines = [
            (url, OpenAIEngine(url, model, on_event=on_event, **options)) for url in base_urls
        ]
        return cls(engines, rest_s=rest_s, patience_s=patience_s, on_event=on_event)

    @property
    def usage(self) -> Usage:
        """Total over the replicas."""
        return sum((replica.engine.usage for replica in self.replicas), Usage())

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples on the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_some(
            session, lambda engine: engine.sample(messages, sampling, session=session)
        )

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a text on the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_some(
            session, lambda engine: engine.complete(text, sampling, session=session)
        )

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Scores choices on the session's replica.

        Raises:
            EngineError: As the replicas' engines do.
        """
        return await self._on_some(
            session, lambda engine: engine.score_choices(messages, choices, session=session)
        )

    async def capabilities(self) -> Capabilities:
        """What every replica that answers can do.

        Raises:
            EngineUnreachableError: None answers.
            ModelNotFoundError: The replicas serve different models.
        """
        if self._capabilities is None:
            found = await asyncio.gather(
                *(replica.engine.capabilities() for replica in self.replicas),
                return_exceptions=True,
            )
            notes: list[str] = []
            known: list[Capabilities] = []
            for replica, one in zip(self.replicas, found, strict=True):
                if isinstance(one, Capabilities):
                    known.append(one)
                    notes.extend(note for note in one.notes if note not in notes)
                elif isinstance(one, MOVABLE):
                    self._note_failure(replica, one)
                    notes.append(f"{replica.key} does not answer: {one}")
                else:
                    raise one
            if not known:
                raise EngineUnreachableError(
                    f"None of the {len(self.replicas)} replicas answers.", hint=notes[0]
                )
            names = {replica.engine.name for replica in self.replicas if not replica.failures}
            if len(names) > 1:
                raise ModelNotFoundError(
                    f"The replicas serve different models: {', '.join(sorted(names))}.",
                    hint="Choose one with --model.",
                )
            if names:
                self.name = names.pop()
            windows = [one.context_tokens for one in known if one.context_tokens is not None]
            self._capabilities = Capabilities(
                samples_n=all(one.samples_n for one in known),
                logprobs=all(one.logprobs for one in known),
                token_ids=all(one.token_ids for one in known),
                reports_cached_tokens=all(one.reports_cached_tokens for one in known),
                completes=all(one.completes for one in known),
                context_tokens=min(windows) if windows else None,
                notes=tuple(notes),
            )
        return replace(self._capabilities)

    def health(self) -> list[Health]:
        """Returns how each replica fares: what its engine tells, and what the pool thinks of it."""
        now = asyncio.get_running_loop().time()
        found = []
        for replica in self.replicas:
            watched = replica.engine
            known = watched.health()[0] if isinstance(watched, Watched) else Pulse().health("")
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

    async def _on_some(
        self, session: str | None, ask: Callable[[Engine], Awaitable[Reply]]
    ) -> Reply:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._patience_s
        ranked = self.ranked(session)
        last: EngineError | None = None
        while True:
            open_replicas = [one for one in ranked if one.closed_until <= loop.time()]
            for replica in open_replicas:
                try:
                    reply = await ask(replica.engine)
                except MOVABLE as error:
                    last = error
                    if not (_may_be_the_request(error) and await replica.is_well(session)):
                        self._note_failure(replica, error)
                    continue
                self._note_answer(replica)
                return reply
            if last is not None and any(one.closed_until <= loop.time() for one in open_replicas):
                raise last  # no replica takes this request, but they work
            now = loop.time()
            if now >= give_up:
                break
            soonest = min(replica.closed_until for replica in self.replicas)
            pause = min(max(soonest - now, 0.01), give_up - now)
            self._tell(f"All {len(ranked)} replicas are down; trying again in {pause:.0f} s.")
            await asyncio.sleep(pause)
        raise EngineUnreachableError(
            f"All {len(ranked)} replicas have been down for {self._patience_s:.0f} s.",
            hint=last.message if last is not None else None,
        )

    def _note_failure(self, replica: Replica, error: BaseException) -> None:
        now = asyncio.get_running_loop().time()
        if replica.closed_until > now:
            return  # a companion of the request that closed it
        replica.failures += 1
        rest = min(self._most_rest_s, self._rest_s * 2.0 ** (replica.failures - 1))
        replica.closed_until = now + rest
        self._tell(
            f"{replica.key} is left alone for {rest:.0f} s and its sessions move on: {error}"
        )

    def _note_answer(self, replica: Replica) -> None:
        if replica.failures:
            self._tell(f"{replica.key} answers again.")
        replica.failures = 0
        replica.suspects.clear()
        self.name = replica.engine.name
        replica.closed_until = 0.0

    def _tell(self, text: str) -> None:
        if self._on_event is not None:
            self._on_event(text)


def _may_be_the_request(error: EngineError) -> bool:
    """Whether the cause may lie in the request: a lost connection, an error in the server."""
    return not isinstance(error, EngineBusyError) or error.is_fault
