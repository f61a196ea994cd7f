"""An engine for any OpenAI-compatible endpoint, even one that supports only part of the API.

Compatible servers drop fields silently: asked for eight samples, some return one, some eight equal
ones; asked for log-probabilities, some return none. `capabilities` probes once; `sample` and
`score_choices` work around what is missing (separate requests with different seeds; a parsed reply)
and the notes say which server setting would fix it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from agenticlu.core.errors import (
    AgenticluError,
    ContentRefusedError,
    DocumentTooLongError,
    EngineRefusedError,
)
from agenticlu.core.records import Message, Usage
from agenticlu.engines.adaptation import Dialect
from agenticlu.engines.base import (
    Asked,
    Capabilities,
    ChoiceProbs,
    Completion,
    Health,
    Sampled,
    Sampling,
)
from agenticlu.engines.naming import explain_not_found, find_model
from agenticlu.engines.probe import Findings, probe
from agenticlu.engines.protocol import (
    MalformedReplyError,
    Reply,
    first_logprobs,
    label_masses,
    read_reply,
)
from agenticlu.engines.refusals import StatusError
from agenticlu.engines.retry import single_sampling
from agenticlu.engines.thinking import LEAST_MASS, Thinking, ThinkingRoom, count_thinking
from agenticlu.engines.transport import Transport, unreadable
from agenticlu.engines.verdicts import PARSE_TOKENS, read_verdict

TOP_LOGPROBS = 20
"""The most that the protocol allows."""
ALIVE_S = 5.0
"""Seconds that a server may take to answer at all."""
MOST_ADAPTATIONS = 12
"""Ways in which one request is written, at most."""
ROOM_ENOUGH = 1024
"""Tokens, or half of what was wanted, that a prompt must leave for the reply."""
WARM = 0.5
"""At this temperature or above, samples differ unless something is wrong."""
LONG_TEXT_CHARACTERS = 80
"""Equal samples of at least this length at a temperature of at least `WARM` are no coincidence."""
CHAT_ROUTE = "/chat/completions"
PLAIN_ROUTE = "/completions"


class OpenAIEngine:
    """Asks one endpoint; sends each request once (`agenticlu.engines.retry` retries).

    Args:
        base_url: Address, such as http://127.0.0.1:8000/v1.
        model: Name under which the server lists it; None takes the only one it lists.
        api_key_env: Environment variable with the key. The key itself is never stored or shown.
        timeout_s: Of one request.
        on_event: Called with a line for people when the engine changes how it asks.
        name: Shown and stored; the model's name by default.
        thinking: Room for the model's thoughts; shared by the replicas of a pool. None: the
            default.
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
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.name = name or model or urlsplit(base_url).netloc
        self.findings = Findings()
        self.dialect = Dialect()
        self.transport = Transport(self.base_url, api_key_env, timeout_s)
        self.room = thinking or ThinkingRoom(Thinking(), self.name, hides=True, say=on_event)
        self._named = name is not None
        self._sent_name = model
        """The model's name as the server lists it, where it has a list."""
        self._on_event = on_event or (lambda text: None)
        self._random = random.Random()
        self._usage = Usage()
        self._connected = False
        self._connecting: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._capabilities: Capabilities | None = None

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._usage

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples replies with one request: one only where the server cannot give `sampling.n`.

        A model that thinks before it replies has room for that beside `sampling.max_tokens`, and
        is asked again where it was cut inside a thought.

        Raises:
            EngineError: See the tree in `agenticlu.core.errors`.
            ThoughtCutError: The model was still thinking when its room was used up.
            DocumentTooLongError: The server says that the prompt exceeds the model's window.
        """

        async def ask(wanted: Sampling) -> Sampled:
            return await self._sample(messages, wanted, session)

        return await self.room.sample(ask, sampling)

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples continuations of a plain text, through the server's completions route.

        Raises:
            EngineReplyError: The server has no such route.
            EngineError: As `sample`.
        """
        return await self._sample(text, sampling, session)

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Returns the probability of each choice as the reply's first token.

        A choice of several tokens is known by its first. A model that thinks is asked not to;
        where it thinks nevertheless, or there are no log-probabilities, one greedy reply is
        parsed. One that names no choice gives equal weights and no label mass.

        Raises:
            EngineError: As `sample`.
        """
        await self._connect()
        spent = Usage()
        weak: ChoiceProbs | None = None
        while self.findings.logprobs and weak is None and not self.room.hides_verdicts:
            found = await self._score_first_token(messages, choices, session)
            spent = spent + found.usage
            if found.label_mass >= LEAST_MASS or (found.label_mass and self.room.thinks is False):
                return replace(found, usage=spent)
            if found.method == "logprobs":
                weak = found
        wanted = Sampling(max_tokens=PARSE_TOKENS)
        parsed = read_verdict(await self.sample(messages, wanted, session=session), choices)
        spent = spent + parsed.usage
        if weak is not None and weak.label_mass and not self.room.thinks:
            self.room.thinks = False  # the prompt was worded badly; the token is no thought's
            return replace(weak, usage=spent)
        return replace(parsed, usage=spent)

    async def capabilities(self) -> Capabilities:
        """Asks the server a handful of short questions, once; remembers the answers."""
        if self._capabilities is None:
            await self._connect()
            self._capabilities = await probe(self)
        return self._capabilities

    async def answers(self) -> bool:
        """Whether the server answers a request for its list of models."""
        try:
            await self.transport.request("GET", "/models", name=self.name, timeout_s=ALIVE_S)
        except EngineRefusedError:
            return True
        except AgenticluError:
            return False
        return True

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
    ) -> Reply:
        """Sends one request, counts its cost and returns what the server replied.

        Args:
            asked: Conversation, or plain text to continue.
            sampling: How.
            session: Of the request.
            extra: Further fields of the body.

        Raises:
            EngineError: As `sample`.
        """
        await self._connect()
        body = self._render(asked, sampling) | dict(extra or {})
        data = await self._request(asked, body, session)
        try:
            reply = read_reply(data, plain=isinstance(asked, str))
        except MalformedReplyError as error:
            raise unreadable(self._where, error) from error
        self._usage = self._usage + reply.usage
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
        return f"{self.name} at {self.base_url}"

    # One request.

    async def _sample(self, asked: Asked, sampling: Sampling, session: str | None) -> Sampled:
        if sampling.n > 1 and not self._takes_n(sampling):
            sampling = single_sampling(sampling, 0)
        reply = await self._sample_once(asked, sampling, session)
        self._notice(reply, sampling)
        if len(reply.completions) == sampling.n > 1 and not self._takes_n(sampling):
            return replace(reply, completions=reply.completions[:1])  # the others are copies
        return reply

    async def _sample_once(self, asked: Asked, sampling: Sampling, session: str | None) -> Sampled:
        extra: dict[str, Any] = {"return_token_ids": True} if self.findings.token_ids else {}
        if isinstance(asked, str):
            reply = await self.ask(asked, sampling, session=session, extra=extra)
            continued = tuple(self._cut(one.as_continuation(), sampling) for one in reply.choices)
            return Sampled(continued, reply.usage)
        while True:
            fields = self.room.switch.fields
            try:
                reply = await self._ask_as_wished(asked, sampling, session, extra | dict(fields))
            except ContentRefusedError:
                raise
            except EngineRefusedError:
                if self.room.switch.refuse(fields):
                    continue
                raise
            break
        self.room.switch.take(fields)
        read = self._read_thoughts(reply, fields)
        whole = tuple(self._cut(one, sampling) for one in read.completions)
        return replace(read, completions=whole)

    def _read_thoughts(self, reply: Reply, fields: Mapping[str, Any]) -> Sampled:
        """Returns replies apart from what was thought before them, which is counted."""
        if any(choice.opened for choice in reply.choices):
            self.room.opened = True
        completions = tuple(one.as_completion(opened=self.room.opened) for one in reply.choices)
        usage = count_thinking(completions, reply.usage)
        self._usage = self._usage + Usage(
            thinking_tokens=usage.thinking_tokens - reply.usage.thinking_tokens
        )
        if usage.thinking_tokens:
            self.findings.thinks = True
            self.room.note_thought(fields)
        return Sampled(completions, usage)

    async def _ask_as_wished(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        session: str | None,
        extra: dict[str, Any],
    ) -> Reply:
        if sampling.schema is not None and self.findings.takes_schema:
            return await self._ask_with_schema(messages, sampling, session, extra)
        return await self.ask(messages, sampling, session=session, extra=extra)

    async def _score_first_token(
        self, messages: Sequence[Message], choices: Sequence[str], session: str | None
    ) -> ChoiceProbs:
        """Scores choices by log-probabilities; without any where another way is due."""
        fields = self.room.verdict_fields
        body = {"logprobs": True, "top_logprobs": TOP_LOGPROBS, **fields}
        nothing = ChoiceProbs({}, 0.0, Usage(), method="none")
        try:
            sampling = Sampling(temperature=0.0, max_tokens=1)
            reply = await self.ask(messages, sampling, session=session, extra=body)
            found = self.first_logprobs(reply)
            nothing = replace(nothing, usage=reply.usage)
        except ContentRefusedError:
            raise
        except EngineRefusedError:
            if self.room.refuse_verdict(fields):
                return nothing
            found = None  # refused the field; if it refuses all else too, the parse says so
        if found is None:
            self.findings.logprobs = False
            self.findings.note(
                f"{self.name} gives no log-probabilities; verdicts are parsed from replies,"
                " which are coarser. vLLM, SGLang and llama.cpp give them."
            )
            return nothing
        masses = label_masses(found, choices)
        total = sum(masses.values())
        if self.room.is_thought(fields, shown=reply.choices[0].thinks, label_mass=total):
            return nothing
        shares = {choice: mass / total for choice, mass in masses.items()} if total else {}
        return ChoiceProbs(shares, min(1.0, total), reply.usage)

    def _cut(self, completion: Completion, sampling: Sampling) -> Completion:
        """Ends a reply at a stop sequence that the server did not take."""
        ends = [completion.text.find(stop) for stop in sampling.stop]
        ends = [end for end in ends if end >= 0]
        if "stop" not in self.dialect.dropped or not ends:
            return completion
        text = completion.text[: min(ends)]
        return replace(completion, text=text, finish_reason="stop", token_ids=None)

    async def _ask_with_schema(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        session: str | None,
        extra: dict[str, Any],
    ) -> Reply:
        assert sampling.schema is not None
        wanted = {"name": "reply", "strict": True, "schema": json.loads(sampling.schema)}
        form = {"response_format": {"type": "json_schema", "json_schema": wanted}}
        try:
            return await self.ask(messages, sampling, session=session, extra=extra | form)
        except ContentRefusedError:
            raise
        except EngineRefusedError:
            # It may have refused the field; if it refuses the bare request too, this raises.
            reply = await self.ask(messages, sampling, session=session, extra=extra)
        self.findings.takes_schema = False
        self._tell("does not support reply schemas; the prompt alone asks for the format.")
        return reply

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

    async def _request(self, asked: Asked, body: dict[str, Any], session: str | None) -> Any:
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
            return body
        if room < min(ROOM_ENOUGH, length // 2):
            too_long = DocumentTooLongError(
                f"{self._where} refused the prompt as too long (status {error.refusal.status}):"
                f" {error.shown}"
            )
            too_long.window_tokens = limits.window_tokens
            raise too_long from error
        return body | {"max_tokens": min(room, length)}

    def _tell(self, words: str) -> None:
        """Tells once how the server differs from others."""
        text = f"{self.name} {words}"
        if text not in self.findings.notes:
            self.findings.note(text)
            self._on_event(text)

    def _takes_n(self, sampling: Sampling) -> bool:
        differ = self.findings.samples_differ or sampling.temperature == 0
        return self.findings.samples_n and differ

    def _notice(self, reply: Sampled, sampling: Sampling) -> None:
        """Takes note of samples that are too few, or too long and too equal to be chance."""
        texts = [one.text for one in reply.completions]
        if len(texts) < sampling.n:
            self.findings.samples_n = False
            self.findings.note(
                f"{self.name} returned {len(texts)} of {sampling.n} samples; samples are asked for"
                " one by one. A server that takes n (vLLM, SGLang) reads the prompt once."
            )
        elif (
            sampling.n > 1
            and sampling.temperature >= WARM
            and len(set(texts)) == 1
            and len(texts[0]) >= LONG_TEXT_CHARACTERS
        ):
            self.findings.samples_differ = False
            self.findings.note(
                f"{self.name} returned {sampling.n} equal samples at temperature"
                f" {sampling.temperature}; samples are asked for one by one with different seeds."
            )

    # The model's name.

    async def _connect(self) -> None:
        """Looks at the model list on first contact."""
        if self._connected:
            return
        loop = asyncio.get_running_loop()
        if self._connecting is None or self._loop is not loop:
            self._connecting, self._loop = asyncio.Lock(), loop  # a lock belongs to one loop
        async with self._connecting:
            if not self._connected:
                await self._find_model()
                self._connected = True

    async def _find_model(self) -> None:
        meant = await find_model(self.transport, self.model, self.name)
        if self.model is None:
            self.model = meant.sent
            if not self._named:
                self.name = self.room.name = self.model
        self._sent_name = meant.sent
        self.findings.context_tokens = meant.context_tokens
