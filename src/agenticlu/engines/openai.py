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
    EngineError,
    EngineRefusedError,
    EngineReplyError,
    ModelNotFoundError,
    did_you_mean,
)
from agenticlu.core.records import Message, Usage
from agenticlu.engines.base import Asked, Capabilities, ChoiceProbs, Health, Sampled, Sampling
from agenticlu.engines.listing import parse_model_list, window_of
from agenticlu.engines.probe import Findings, probe
from agenticlu.engines.protocol import (
    MalformedReplyError,
    Reply,
    first_logprobs,
    label_masses,
    read_reply,
)
from agenticlu.engines.retry import single_sampling
from agenticlu.engines.thinking import LEAST_MASS, Thinking, ThinkingRoom, count_thinking
from agenticlu.engines.transport import StatusError, Transport, unreadable
from agenticlu.engines.verdicts import PARSE_TOKENS, read_verdict

TOP_LOGPROBS = 20
"""The most that the protocol allows."""
ALIVE_S = 5.0
"""Seconds that a server may take to answer at all."""
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
        self.transport = Transport(self.base_url, api_key_env, timeout_s)
        self.room = thinking or ThinkingRoom(Thinking(), self.name, hides=True, say=on_event)
        self._named = name is not None
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
        plain = isinstance(asked, str)
        while True:
            body = self._render(asked, sampling) | dict(extra or {})
            route = PLAIN_ROUTE if plain else CHAT_ROUTE
            try:
                data = await self.transport.request(
                    "POST", route, body, name=self.name, session=session
                )
            except StatusError as error:
                if self._adapt(error):
                    continue
                if error.status == 404 or (plain and error.status in (405, 501)):
                    raise await self._explain_not_found(error, plain) from error
                raise
            break
        try:
            reply = read_reply(data, plain=plain)
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
            return Sampled(tuple(one.as_continuation() for one in reply.choices), reply.usage)
        while True:
            fields = self.room.switch.fields
            try:
                reply = await self._ask_as_wished(asked, sampling, session, extra | dict(fields))
            except EngineRefusedError:
                if self.room.switch.refuse(fields):
                    continue
                raise
            break
        self.room.switch.take(fields)
        return self._read_thoughts(reply, fields)

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
        except EngineReplyError:
            # It may have refused the field; if it refuses the bare request too, this raises.
            reply = await self.ask(messages, sampling, session=session, extra=extra)
        self.findings.takes_schema = False
        text = f"{self.name} does not support reply schemas; the prompt alone asks for the format."
        self.findings.note(text)
        self._on_event(text)
        return reply

    def _render(self, asked: Asked, sampling: Sampling) -> dict[str, Any]:
        """Returns a request's body, in the fields that this server takes."""
        body: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature}
        if isinstance(asked, str):
            body |= {"prompt": asked, "max_tokens": sampling.max_tokens}
        else:
            body["messages"] = [{"role": m.role, "content": m.content} for m in asked]
            body[self.findings.length_field] = sampling.max_tokens
        if sampling.n != 1:
            body["n"] = sampling.n
        if sampling.top_p != 1.0:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        seed = sampling.seed
        if seed is None and not self.findings.samples_differ and sampling.temperature > 0:
            seed = self._random.randrange(1 << 31)  # else it would return the same sample again
        if seed is not None and self.findings.sends_seed:
            body["seed"] = seed
        return body

    def _adapt(self, error: StatusError) -> bool:
        """Changes how requests are written where the server asks for it; True to ask again.

        Each change is made once, so that a server that keeps asking cannot keep us busy.
        """
        if error.status != 400:
            return False
        if self.findings.length_field == "max_tokens" and "max_completion_tokens" in error.text:
            self.findings.length_field = "max_completion_tokens"
            return True
        if self.findings.sends_seed and error.param == "seed":
            self.findings.sends_seed = False
            self.findings.note(
                f"{self.name} does not take a seed; its samples are not reproducible."
            )
            return True
        return False

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
        try:
            served = await self._list_models()
        except EngineReplyError:
            # Some gateways have no model list; a given name may still be right.
            if self.model is None:
                raise ModelNotFoundError(
                    f"{self.base_url} lists no models.", hint="Name one with --model."
                ) from None
            return
        if self.model is None:
            if len(served) != 1:
                raise ModelNotFoundError(
                    f"{self.base_url} serves {len(served)} models: {_join_names(served)}.",
                    hint="Choose one with --model.",
                )
            self.model = next(iter(served))
            if not self._named:
                self.name = self.model
                self.room.name = self.name
        elif served and self.model not in served:
            raise self._no_such_model(served)
        if self.model in served:
            self.findings.context_tokens = window_of(served[self.model])

    async def _list_models(self) -> dict[str, dict[str, Any]]:
        reply = await self.transport.request("GET", "/models", name=self.name)
        found = parse_model_list(reply)
        if found is None:
            raise EngineReplyError(f"{self.base_url}/models did not return a list of models.")
        return found

    async def _explain_not_found(self, error: StatusError, plain: bool) -> EngineError:
        """Returns what a 404 means: no such route, or no such model."""
        try:
            served = await self._list_models()
        except EngineError:
            served = None
        if plain and (served is None or self.model in served):
            return EngineReplyError(
                f"{self.base_url} cannot continue plain text with {self.model!r} (status "
                f"{error.status} from {PLAIN_ROUTE}): {error.text}",
                hint="Send it as chat; in agenticlu eval: --chat.",
            )
        if served is None:
            return EngineReplyError(
                f"{self.base_url} has no chat completions (status 404): {error.text}",
                hint="Is the address that of an OpenAI-compatible API? It often ends in /v1.",
            )
        if self.model in served:
            return EngineReplyError(
                f"{self.base_url} lists the model {self.model!r} but answers 404: {error.text}"
            )
        return self._no_such_model(served)

    def _no_such_model(self, served: Mapping[str, Any]) -> ModelNotFoundError:
        return ModelNotFoundError(
            f"{self.base_url} has no model {self.model!r}. It serves: {_join_names(served)}.",
            hint=did_you_mean(self.model or "", served),
        )


def _join_names(served: Mapping[str, Any]) -> str:
    return ", ".join(sorted(served)[:8]) or "none"
