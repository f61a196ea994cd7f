"""An engine for any OpenAI-compatible endpoint, even one that supports only part of the API.

Compatible servers drop fields silently: asked for eight samples, some return one, some eight equal
ones; asked for log-probabilities, some return none. `sample` and `score_choices` work around what
is missing (separate requests with different seeds; a parsed reply) and the notes say which server
setting would fix it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agenticlu.core.errors import (
    ContentRefusedError,
    EngineBusyError,
    EngineError,
    EngineRefusedError,
    EngineReplyError,
)
from agenticlu.core.records import Message, Usage
from agenticlu.dialogue.thoughts import SaidText
from agenticlu.engines.base import (
    Asked,
    ChoiceProbs,
    Completion,
    OnText,
    Sampled,
    Sampling,
    note_spent,
)
from agenticlu.engines.http.endpoint import Endpoint
from agenticlu.engines.http.events import STREAM_FIELDS, EventText
from agenticlu.engines.http.protocol import Reply, label_masses
from agenticlu.engines.http.transport import Hear
from agenticlu.engines.retry import single_sampling
from agenticlu.engines.streaming import StopText, Telling
from agenticlu.engines.thinking import LEAST_MASS, count_thinking, may_become_thought
from agenticlu.engines.verdicts import PARSE_TOKENS, read_verdict

TOP_LOGPROBS = 20
"""The most that the protocol allows."""
WARM = 0.5
"""At this temperature or above, samples differ unless something is wrong."""
LONG_TEXT_CHARACTERS = 80
"""Equal samples of at least this length at a temperature of at least `WARM` are no coincidence."""


class OpenAIEngine(Endpoint):
    """Samples and scores through one endpoint; see `Endpoint` for the arguments."""

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

        return self._charge(await self.room.sample(ask, sampling))

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """Samples one reply and tells it as its events arrive; see `StreamingEngine`.

        Of a server that refuses to stream, or that sends no usage with a stream, replies are asked
        for at once and told as a whole.

        Raises:
            EngineError: As `sample`.
        """
        telling = Telling(on_text)

        async def ask(wanted: Sampling) -> Sampled:
            if telling.told:  # again, with more room for its thought: another text than was told
                return await check(wanted)
            return await self._sample_aloud(messages, wanted, session, telling)

        async def check(wanted: Sampling) -> Sampled:
            return await self._sample(messages, wanted, session)

        try:
            return self._charge(await self.room.sample(ask, replace(sampling, n=1), check))
        except EngineError as error:
            error.is_midway = telling.told
            raise
        finally:
            telling.ended = True

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples continuations of a plain text, through the server's completions route.

        Raises:
            EngineReplyError: The server has no such route.
            EngineError: As `sample`.
        """
        return self._charge(await self._sample(text, sampling, session))

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
        return self._charge(await self._score_choices(messages, choices, session))

    async def _score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], session: str | None
    ) -> ChoiceProbs:
        spent = Usage()
        weak: ChoiceProbs | None = None
        lacks_logprobs = False
        wished = self.room.verdict_fields
        while (
            self.findings.logprobs
            and not lacks_logprobs
            and weak is None
            and not self.room.hides_verdicts
        ):
            found = await self._score_first_token(messages, choices, session)
            if found is None:
                lacks_logprobs = True
                continue
            spent = spent + found.usage
            if found.label_mass >= LEAST_MASS or (found.label_mass and self.room.thinks is False):
                return replace(found, usage=spent)
            if found.method == "logprobs":
                weak = found
        wanted = Sampling(max_tokens=PARSE_TOKENS)
        try:
            sampled = await self.sample(messages, wanted, session=session)
        except EngineRefusedError:
            self.room.restore_verdict(wished)
            raise
        parsed = read_verdict(sampled, choices)
        spent = spent + parsed.usage
        if lacks_logprobs:  # told by the parse: it was the field that the server refused, not all
            self._note_no_logprobs()
        if weak is not None and weak.label_mass and not self.room.thinks:
            self.room.thinks = False  # the prompt was worded badly; the token is no thought's
            return replace(weak, usage=spent)
        return replace(parsed, usage=spent)

    # One request.

    async def _sample(self, asked: Asked, sampling: Sampling, session: str | None) -> Sampled:
        if sampling.n > 1 and not self._takes_n(sampling):
            sampling = single_sampling(sampling, 0)
        reply = await self._sample_once(asked, sampling, session)
        self._notice(reply, sampling)
        if len(reply.completions) == sampling.n > 1 and not self._takes_n(sampling):
            return replace(reply, completions=reply.completions[:1])  # the others are copies
        return reply

    async def _sample_aloud(
        self, messages: Sequence[Message], sampling: Sampling, session: str | None, telling: Telling
    ) -> Sampled:
        """Sends one request, and tells the reply as it comes or as a whole."""
        await self._connect()
        reply: Sampled | None = None
        doubts = None if self.findings.shows_thoughts else may_become_thought
        stops = sampling.stop if "stop" in self.dialect.dropped else ()
        text = EventText(telling, SaidText(self.room.opened, doubts), StopText(stops))
        if self._may_stream:
            reply = await self._stream(messages, sampling, session, text)
        if reply is None:
            reply = await self._sample_once(messages, sampling, session)
            if not _counted(reply):  # a stream's would not be, either
                self.findings.counts = False
        one = reply.completions[0]
        if one.thinking or one.finish_reason == "stop":
            self.findings.shows_thoughts = True
        text.finish(one.text)
        return reply

    @property
    def _may_stream(self) -> bool:
        known = self.findings
        return known.streams is not False and (known.counts_streams or not known.counts)

    async def _stream(
        self, messages: Sequence[Message], sampling: Sampling, session: str | None, text: EventText
    ) -> Sampled | None:
        """Sends one request for a stream; None where the server sends none, and is asked again."""
        findings = self.findings
        try:
            reply = await self._sample_once(messages, sampling, session, text.feed)
        except asyncio.CancelledError as error:
            spent = Usage(requests=1, completion_tokens=text.num_parts)
            self._usage = self._usage + spent
            note_spent(error, spent)
            raise
        except (EngineReplyError, EngineBusyError) as error:
            is_load = isinstance(error, EngineBusyError) and not error.is_fault
            refuses_content = isinstance(error, ContentRefusedError)
            if findings.streams or text.num_parts or is_load or refuses_content:
                raise
            found = await self._sample_once(messages, sampling, session)  # or it was not the stream
            findings.stream_faults += 1
            if isinstance(error, EngineRefusedError) or findings.stream_faults > 1:
                findings.streams = False
                self._tell("does not stream; each reply is shown once it is whole.")
            return found
        findings.streams = True
        if not _counted(reply):
            findings.counts_streams = False
            self._tell(
                "sends no usage with a stream, which tells whether it cuts prompts; so each reply"
                " is shown once it is whole."
            )
        return reply

    async def _sample_once(
        self,
        asked: Asked,
        sampling: Sampling,
        session: str | None,
        hear: Hear | None = None,
    ) -> Sampled:
        extra: dict[str, Any] = {"return_token_ids": True} if self.findings.token_ids else {}
        extra |= STREAM_FIELDS if hear else {}
        if isinstance(asked, str):
            reply = await self.ask(asked, sampling, session=session, extra=extra)
            continued = tuple(self._cut(one.as_continuation(), sampling) for one in reply.choices)
            return Sampled(continued, reply.usage)
        wished = self.room.switch.fields
        while True:
            fields = self.room.switch.fields
            try:
                extra_fields = extra | dict(fields)
                reply = await self._ask_as_wished(asked, sampling, session, extra_fields, hear)
            except ContentRefusedError:
                raise
            except EngineRefusedError:
                if self.room.switch.refuse(fields):
                    continue
                if not fields:  # it was something else that the server refused
                    self.room.switch.restore(wished)
                raise
            break
        self.room.take(fields)
        read = self._read_thoughts(reply, fields)
        whole = tuple(self._cut(one, sampling) for one in read.completions)
        return replace(read, completions=whole)

    def _read_thoughts(self, reply: Reply, fields: Mapping[str, Any]) -> Sampled:
        """Returns replies with the thoughts before them split off and counted."""
        if any(choice.opened for choice in reply.choices):
            self.room.opened = True
        completions = tuple(one.as_completion(opened=self.room.opened) for one in reply.choices)
        usage = count_thinking(completions, reply.usage)
        self._usage = self._usage + Usage(
            thinking_tokens=usage.thinking_tokens - reply.usage.thinking_tokens
        )
        if usage.thinking_tokens:
            self.room.note_thought(fields)
        return Sampled(completions, usage)

    async def _ask_as_wished(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        session: str | None,
        extra: dict[str, Any],
        hear: Hear | None,
    ) -> Reply:
        if sampling.schema is not None and self.findings.takes_schema:
            return await self._ask_with_schema(messages, sampling, session, extra, hear)
        return await self.ask(messages, sampling, session=session, extra=extra, hear=hear)

    async def _score_first_token(
        self, messages: Sequence[Message], choices: Sequence[str], session: str | None
    ) -> ChoiceProbs | None:
        """Scores choices by log-probabilities; the result has none where they must be parsed.

        Returns:
            None where the server refused to give any, or something else about the request.
        """
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
            return None
        if found is None:
            self._note_no_logprobs()
            return nothing
        masses = label_masses(found, choices)
        total = sum(masses.values())
        if self.room.is_thought(fields, shown=reply.choices[0].thinks, label_mass=total):
            return nothing
        shares = {choice: mass / total for choice, mass in masses.items()} if total else {}
        return ChoiceProbs(shares, min(1.0, total), reply.usage)

    def _note_no_logprobs(self) -> None:
        self.findings.logprobs = False
        self.findings.note(
            f"{self.name} gives no log-probabilities; verdicts are parsed from replies,"
            " which are coarser. vLLM, SGLang and llama.cpp give them."
        )

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
        hear: Hear | None,
    ) -> Reply:
        assert sampling.schema is not None
        wanted = {"name": "reply", "strict": True, "schema": json.loads(sampling.schema)}
        form = {"response_format": {"type": "json_schema", "json_schema": wanted}}
        try:
            extended = extra | form
            return await self.ask(messages, sampling, session=session, extra=extended, hear=hear)
        except ContentRefusedError:
            raise
        except EngineRefusedError:
            # It may have refused the field; if it refuses the bare request too, this raises.
            reply = await self.ask(messages, sampling, session=session, extra=extra, hear=hear)
        self.findings.takes_schema = False
        self._tell("does not support reply schemas; the prompt alone asks for the format.")
        return reply

    def _takes_n(self, sampling: Sampling) -> bool:
        differ = self.findings.samples_differ or sampling.temperature == 0
        return self.findings.samples_n and differ

    def _notice(self, reply: Sampled, sampling: Sampling) -> None:
        """Takes note of samples that are too few, or equal and too long for chance."""
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


def _counted(reply: Sampled) -> bool:
    """Whether the server said what a reply cost."""
    return bool(reply.usage.prompt_tokens or reply.usage.completion_tokens)
