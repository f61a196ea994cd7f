"""One endpoint of an OpenAI-compatible server: what is known of it, and requests to it.

Requests are written in the server's dialect and counted. Those that only find out about the server
are counted as setup; the next reply is charged with them, so that no total leaves them out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from agenticlu.core.errors import (
    AgenticluError,
    ContentRefusedError,
    DocumentTooLongError,
    EngineRefusedError,
)
from agenticlu.core.records import Usage
from agenticlu.engines.base import (
    Asked,
    Capabilities,
    ChoiceProbs,
    Feature,
    Health,
    Sampled,
    Sampling,
)
from agenticlu.engines.http.adaptation import Dialect
from agenticlu.engines.http.naming import explain_not_found, find_model
from agenticlu.engines.http.probe import PROBES, Findings, summarise
from agenticlu.engines.http.protocol import MalformedReplyError, Reply, first_logprobs, read_reply
from agenticlu.engines.http.refusals import StatusError
from agenticlu.engines.http.transport import Hear, Transport, place, unreadable
from agenticlu.engines.http.window import CutWatch, read_window
from agenticlu.engines.thinking import Thinking, ThinkingRoom

ALIVE_S = 5.0
"""Seconds that a server may take to answer at all."""
MOST_ADAPTATIONS = 12
"""The most ways in which one request is tried."""
ROOM_ENOUGH = 1024
"""Tokens, or half of what was wanted, that a prompt must leave for the reply."""
Charged = TypeVar("Charged", Sampled, ChoiceProbs)
CHAT_ROUTE = "/chat/completions"
PLAIN_ROUTE = "/completions"


class Endpoint:
    """One endpoint; each request is sent once (`agenticlu.engines.retry` retries).

    Args:
        base_url: Address, such as http://127.0.0.1:8000/v1.
        model: Name under which the server lists it; None takes the only one it lists.
        api_key_env: Environment variable with the key. The key itself is never stored or shown.
        timeout_s: Of one request.
        on_event: Called with a line for people when the engine changes how it asks.
        name: Shown and stored; the model's name by default.
        thinking: Room for the model's thoughts; shared by the replicas of a pool. None: the
            default.
        dialect: How the server wants to be asked, as far as it is known; shared like `thinking`.
        context_tokens: The server's window, where it does not say it or says too much.

    Attributes:
        setup: Cost so far of the requests that only found out about the server. It is part of
            `usage`, and of the cost of the reply after them.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 600.0,
        on_event: Callable[[str], None] | None = None,
        name: str | None = None,
        thinking: ThinkingRoom | None = None,
        dialect: Dialect | None = None,
        context_tokens: int | None = None,
    ) -> None:
        self.model = model
        self.name = name or model or urlsplit(base_url).netloc
        self.findings = Findings(context_tokens=context_tokens)
        self.dialect = dialect or Dialect()
        self.transport = Transport(base_url.rstrip("/"), api_key_env, timeout_s)
        self.room = thinking or ThinkingRoom(Thinking(), self.name, hides=True, say=on_event)
        self._named = name is not None
        self._sent_name = model
        """The model's name as the server lists it, where it has a list."""
        self.setup = Usage()
        self.cuts = CutWatch()
        self._api_key_env = api_key_env
        self._on_event = on_event or (lambda text: None)
        self._random = random.Random()
        self._usage = Usage()
        self._unclaimed = Usage()
        """Setup that no reply has been charged with yet."""
        self._connected = False
        self._probing: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._probed: set[Any] = set()

    @property
    def base_url(self) -> str:
        """The address as it may be shown: without keys."""
        return self.transport.base_url

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._usage

    @property
    def thinking_room(self) -> int:
        """Tokens kept free for a thought before each reply; 0 unless the model thinks."""
        return self.room.tokens

    @property
    def effort(self) -> str:
        """How much the model is asked to think."""
        return self.room.thinking.effort

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """Returns what is known of the server, and asks it short questions for what is wanted.

        Raises:
            EngineError: As `sample`.
        """
        await self._connect()
        async with self._lock():
            for probe in dict.fromkeys(PROBES[feature] for feature in wanted):
                if probe not in self._probed:
                    await probe(self)
                    self._probed.add(probe)
        return summarise(self.findings)

    async def answers(self) -> bool:
        """Whether the server answers a request for its list of models."""
        try:
            await self.transport.request("GET", "/models", name=self.name, timeout_s=ALIVE_S)
        except EngineRefusedError:
            return True
        except AgenticluError:
            return False
        return True

    def adaptations(self) -> tuple[str, ...]:
        """Returns what the server made necessary to change, a sentence each."""
        learnt = (f"{self.name} {words}" for words in self.dialect.told.values())
        return (*learnt, *self.room.facts())

    def health(self) -> list[Health]:
        """Returns the endpoint's state."""
        return [self.transport.clock.health(self.base_url)]

    async def close(self) -> None:
        """Closes the connections."""
        await self.transport.close()

    async def ask(
        self,
        asked: Asked,
        sampling: Sampling,
        *,
        session: str | None = None,
        extra: Mapping[str, Any] | None = None,
        hear: Hear | None = None,
    ) -> Reply:
        """Sends one request and returns what the server replied, having read the whole prompt.

        Args:
            asked: Conversation, or plain text to continue.
            sampling: How.
            session: Of the request.
            extra: Further fields of the body.
            hear: Called with the bytes of the reply as they arrive.

        Raises:
            EngineError: As `sample`.
            DocumentTooLongError: The server refused the prompt, or cut it.
        """
        reply = await self._send(asked, sampling, session, extra, hear)
        try:
            await self.cuts.check(self, self._where, self.findings.owner, asked, reply.usage)
        except DocumentTooLongError as error:
            self.findings.context_tokens = error.window_tokens
            self._count_setup(reply.usage)
            raise
        self.findings.cached_tokens = reply.usage.cached_tokens > 0 or self.findings.cached_tokens
        return reply

    async def ask_setup(
        self, asked: Asked, sampling: Sampling, *, extra: Mapping[str, Any] | None = None
    ) -> Reply:
        """Sends a request that only finds out about the server, and counts it as setup.

        Args:
            asked: Conversation, or plain text to continue.
            sampling: How.
            extra: Further fields of the body.

        Raises:
            EngineError: As `sample`.
        """
        reply = await self._send(asked, sampling, None, extra)
        self._count_setup(reply.usage)
        return reply

    def _charge(self, reply: Charged) -> Charged:
        """Returns a reply whose cost includes that of setup since the last one.

        Only once it is whole: what a reply cost by itself tells how long it is.
        """
        unclaimed, self._unclaimed = self._unclaimed, Usage()
        return replace(reply, usage=reply.usage + unclaimed)

    def _count_setup(self, usage: Usage) -> None:
        self.setup = self.setup + usage
        self._unclaimed = self._unclaimed + usage

    async def _send(
        self,
        asked: Asked,
        sampling: Sampling,
        session: str | None,
        extra: Mapping[str, Any] | None,
        hear: Hear | None = None,
    ) -> Reply:
        await self._connect()
        body = self._render(asked, sampling) | dict(extra or {})
        try:
            data = await self._request(asked, body, session, hear)
        except DocumentTooLongError as error:
            self.findings.context_tokens = error.window_tokens or self.findings.context_tokens
            raise
        try:
            reply = read_reply(data, plain=isinstance(asked, str))
        except MalformedReplyError as error:
            raise unreadable(self._where, error) from error
        self._usage = self._usage + reply.usage
        if all(choice.withheld for choice in reply.choices):
            raise ContentRefusedError(f"{self._where} withheld its reply (content_filter).")
        return reply

    def first_logprobs(self, reply: Reply) -> list[tuple[str, float]] | None:
        """Returns (token, log-probability) of the first token's candidates; None if there are none.

        Raises:
            EngineReplyError: They cannot be read.
        """
        try:
            return first_logprobs(reply.choices[0])
        except MalformedReplyError as error:
            raise unreadable(self._where, error) from error

    @property
    def _where(self) -> str:
        return place(self.name, self.base_url)

    def _render(self, asked: Asked, sampling: Sampling) -> dict[str, Any]:
        """Returns a request's body in the protocol's own fields, without its conversation."""
        body: dict[str, Any] = {"model": self._sent_name}
        body |= {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
        if isinstance(asked, str):
            body["prompt"] = asked
        if sampling.n != 1:
            body["n"] = sampling.n
        if sampling.top_p != 1.0:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        seed = sampling.seed
        if seed is None and not self.findings.samples_differ and sampling.temperature > 0:
            seed = self._random.randrange(1 << 31)  # else it would return the same sample again
        if seed is not None:
            body["seed"] = seed
        return body

    async def _request(
        self, asked: Asked, body: dict[str, Any], session: str | None, hear: Hear | None
    ) -> Any:
        """Sends a request, again in another way where the server asks for one."""
        plain = isinstance(asked, str)
        is_bounded = False
        for _ in range(MOST_ADAPTATIONS):
            sent = self._write(asked, body)
            try:
                return await self.transport.request(
                    "POST",
                    PLAIN_ROUTE if plain else CHAT_ROUTE,
                    sent,
                    name=self.name,
                    session=session,
                    hear=hear,
                )
            except StatusError as error:
                refused = error
            if refused.refusal.limits.reply_tokens is not None and not is_bounded:
                body = self._bound_reply(refused, body)
                is_bounded = True
            else:
                self.dialect.learn(refused.refusal, sent, () if isinstance(asked, str) else asked)
            for words in self.dialect.told.values():
                self._tell(words)
            if self._write(asked, body) == sent:
                break
        if refused.refusal.status == 404 or (plain and refused.refusal.status in (405, 501)):
            raise await explain_not_found(
                self.transport, self.model or "", refused, plain=plain
            ) from refused
        raise refused

    def _write(self, asked: Asked, body: Mapping[str, Any]) -> dict[str, Any]:
        if isinstance(asked, str):
            return self.dialect.write(body)
        messages = [{"role": m.role, "content": m.content} for m in self.dialect.arrange(asked)]
        return self.dialect.write({**body, "messages": messages})

    def _bound_reply(self, error: StatusError, body: dict[str, Any]) -> dict[str, Any]:
        """Returns a body that asks for no longer a reply than fits.

        Raises:
            DocumentTooLongError: The prompt leaves too little room.
        """
        limits, length = error.refusal.limits, body["max_tokens"]
        room = limits.reply_tokens or 0
        if limits.prompt_tokens is None:
            self.dialect.bound_replies(room)
            self.room.bound(room)
            return body
        if room < min(ROOM_ENOUGH, length // 2):
            too_long = DocumentTooLongError(
                f"{self._where} refused the prompt as too long (status {error.refusal.status}):"
                f" {error.shown}"
            )
            too_long.window_tokens = limits.window_tokens
            raise too_long from error
        self.dialect.note_room()
        return body | {"max_tokens": min(room, length)}

    def _tell(self, words: str) -> None:
        """Says, once, how the server differs from others."""
        text = f"{self.name} {words}"
        if text not in self.findings.notes:
            self.findings.note(text)
            self._on_event(text)

    # The model's name.

    async def _connect(self) -> None:
        """Looks at the model list on first contact."""
        if self._connected:
            return
        async with self._lock():
            if not self._connected:
                await self._find_model()
                self._connected = True

    def _lock(self) -> asyncio.Lock:
        """Returns the lock of finding out about the server, which belongs to one event loop."""
        loop = asyncio.get_running_loop()
        if self._probing is None or self._loop is not loop:
            self._probing, self._loop = asyncio.Lock(), loop
        return self._probing

    async def _find_model(self) -> None:
        meant = await find_model(self.transport, self.model, self.name)
        if self.model is None:
            self.model = meant.sent
            if not self._named:
                self.name = self.room.name = self.model
        self._sent_name = meant.sent
        self.findings.owner = meant.owner
        if self.findings.context_tokens is None:
            self.findings.context_tokens = meant.context_tokens or await read_window(
                meant.sent,
                meant.owner,
                self.transport.address,
                self._api_key_env,
                min(ALIVE_S, self.transport.timeout_s),
            )
