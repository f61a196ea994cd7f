"""An engine that plays a script: deterministic, without a model; for tests and dry runs.

    engine = ScriptedEngine({"Ask one question": ("Who built it?", "When?")}, {"gate": "yes"})

Replies come from a callable, from a table (text found in the last message, to its reply), from a
sequence (one reply per assistant turn), or, where the script is silent, from a hash of the prompt.
Usage is counted as a server with a prefix cache would count it. A thought between tags is parted
from its reply, as by any engine; limits on replies hold for both together.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Protocol, TypeVar

from agenticlu.core.errors import DocumentTooLongError, EngineReplyError
from agenticlu.core.records import Message, Usage, content_id, content_seed
from agenticlu.dialogue.thoughts import split_thinking
from agenticlu.engines.base import (
    Capabilities,
    ChoiceProbs,
    Completion,
    Feature,
    Likelihood,
    OnText,
    Sampled,
    Sampling,
    note_spent,
)


class SpanTokenizer(Protocol):
    """The part of a tokenizer that counting needs."""

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Returns the character span of every token."""
        ...


@dataclass(frozen=True)
class ScriptedRequest:
    """A request to the engine; passed to rules and kept in `ScriptedEngine.requests`."""

    messages: tuple[Message, ...]
    sampling: Sampling | None
    """None for a `score_choices` request."""
    choices: tuple[str, ...]
    """Empty for a `sample` request."""
    session: str | None
    call: int
    """Number of the request over the engine's life, from 0."""
    ordinal: int = 0
    """Which of the request's samples is wanted."""
    plain: bool = False
    """Whether a plain text is to be continued: the only message holds it."""

    @property
    def last(self) -> str:
        """Text of the last message."""
        return self.messages[-1].content

    @property
    def turn(self) -> int:
        """Assistant messages in the conversation so far."""
        return sum(message.role == "assistant" for message in self.messages)

    @property
    def key(self) -> str:
        """Hash of what a sampled reply depends on: prompt, seed and ordinal.

        A greedy request depends on the prompt alone, as with a real model.
        """
        parts = [f"{message.role}:{message.content}" for message in self.messages]
        if self.plain:
            parts = [self.last]
        if self.sampling is not None and self.sampling.temperature > 0:
            parts += [f"seed={self.sampling.seed}", f"ordinal={self.ordinal}"]
        return content_id(*parts)


Value = TypeVar("Value")
Reply = str | Completion
ReplyRule = Callable[[ScriptedRequest], Reply | None]
Replies = ReplyRule | Mapping[str, Reply | Sequence[Reply]] | Sequence[Reply]
Weights = Mapping[str, float] | str
WeighRule = Callable[[ScriptedRequest], Weights | None]
Faults = Mapping[int, BaseException] | Callable[[ScriptedRequest], BaseException | None]

FAVOURED_MASS = 0.9
"""Probability of a choice that a rule merely names."""


@dataclass(eq=False)
class ScriptedEngine:
    """Plays a script behind the `Engine` protocol."""

    replies: Replies | None = None
    """A callable (None means: no rule for this), a table from a text that the last message contains
    to its reply or to one reply per ordinal (the longest matching text wins; ordinals beyond the
    last reply wrap round), or a sequence with one reply per assistant turn. Without a matching rule
    the reply is derived from a hash."""
    weights: WeighRule | Mapping[str, Weights] | None = None
    """For `score_choices`: a mapping of choice to weight, or the favoured choice."""
    _: KW_ONLY
    likelihood: Callable[[ScriptedRequest, str], float] | None = None
    """For `score_reply`: the log-probability of a given reply; without it a nat for each word."""
    tokenizer: SpanTokenizer | None = None
    """Counts tokens; words at white space without one."""
    faults: Faults | None = None
    """Errors to raise: by number of the call, or by a callable."""
    latency_s: float | Callable[[ScriptedRequest], float] = 0.0
    """Seconds each request takes, or a callable that says so."""
    word_latency_s: float = 0.0
    """Seconds each word of a stream takes."""
    logprobs: bool = True
    """False plays a server without log-probabilities: scores come from a reply."""
    completes: bool = True
    """False plays a server without a route for plain text."""
    context_tokens: int | None = None
    """Longest prompt; None for no limit."""
    prefix_reuse_from_tokens: float = 1
    """Shortest prefix that the simulated cache reuses; longer ones in whole blocks of that length,
    as servers do."""
    name: str = "scripted"
    """Shown and stored."""
    requests: list[ScriptedRequest] = field(default_factory=list, init=False)
    most_concurrent: int = field(default=0, init=False)
    _usage: Usage = field(default_factory=Usage, init=False)
    _prefixes: dict[str | None, set[int]] = field(default_factory=dict, init=False)
    _running: int = field(default=0, init=False)

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._usage

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Plays `sampling.n` replies."""
        return await self._play(await self._begin(messages, sampling, (), session), sampling)

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Plays `sampling.n` continuations of a text; their white space is kept."""
        if not self.completes:
            raise EngineReplyError(f"{self.name} continues no plain text.")
        messages = (Message(role="user", content=text),)
        request = await self._begin(messages, sampling, (), session, plain=True)
        return await self._play(request, sampling)

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """Plays one reply, word by word."""
        request = await self._begin(messages, sampling, (), session)
        self._prompt(request)
        whole = self._cut(self._reply(request, 0), sampling, plain=False)
        said = _part_thought(whole)
        thought_tokens = len(self._words(whole.text)) - len(self._words(said.text))
        told: list[str] = []
        try:
            for word in re.findall(r"\S++\s*+", said.text):
                await asyncio.sleep(self.word_latency_s)
                told.append(word)
                on_text(word)
        except asyncio.CancelledError as error:
            tokens = len(told) + thought_tokens
            note_spent(error, self._count(request, ["".join(told)], tokens, thought_tokens))
            raise
        tokens = len(self._words(whole.text))
        usage = self._count(request, [whole.text], tokens, thought_tokens)
        return Sampled(completions=(said,), usage=usage)

    async def _play(self, request: ScriptedRequest, sampling: Sampling) -> Sampled:
        completions = tuple(
            self._cut(self._reply(request, ordinal), sampling, request.plain)
            for ordinal in range(sampling.n)
        )
        sampled_tokens = sum(len(self._words(one.text)) for one in completions)
        parted = completions if request.plain else tuple(map(_part_thought, completions))
        said_tokens = sum(len(self._words(one.text)) for one in parted)
        usage = self._count(
            request, [one.text for one in completions], sampled_tokens, sampled_tokens - said_tokens
        )
        return Sampled(completions=parted, usage=usage)

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Plays the weights of the choices."""
        request = await self._begin(messages, None, tuple(choices), session)
        weights = self._score(request)
        total = sum(weights.values())
        usage = self._count(request, [], 1)
        if not self.logprobs:
            best = max(choices, key=lambda choice: weights[choice])
            hard = {choice: float(choice == best) for choice in choices}
            return ChoiceProbs(probabilities=hard, label_mass=1.0, usage=usage, method="parse")
        return ChoiceProbs(
            probabilities={choice: weight / total for choice, weight in weights.items()},
            label_mass=min(total, 1.0),
            usage=usage,
        )

    async def score_reply(
        self, messages: Sequence[Message], reply: str, *, session: str | None = None
    ) -> Likelihood:
        """Plays the log-probability of a given reply."""
        request = await self._begin(messages, None, (), session)
        num_tokens = len(self._words(reply))
        found = -float(num_tokens) if self.likelihood is None else self.likelihood(request, reply)
        return Likelihood(found, num_tokens, self._count(request, [reply], num_tokens))

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """Returns the capabilities that the script was given."""
        return Capabilities(
            logprobs=self.logprobs,
            completes=self.completes,
            context_tokens=self.context_tokens,
            prefix_reuse_from_tokens=self.prefix_reuse_from_tokens,
        )

    async def close(self) -> None:
        """Forgets the simulated cache."""
        self._prefixes.clear()

    async def _begin(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None,
        choices: tuple[str, ...],
        session: str | None,
        *,
        plain: bool = False,
    ) -> ScriptedRequest:
        call = len(self.requests)
        request = ScriptedRequest(tuple(messages), sampling, choices, session, call, plain=plain)
        self.requests.append(request)
        self._running += 1
        self.most_concurrent = max(self.most_concurrent, self._running)
        try:
            latency = self.latency_s(request) if callable(self.latency_s) else self.latency_s
            await asyncio.sleep(latency)
        finally:
            self._running -= 1
        fault = self._fault(request)
        if fault is not None:
            raise fault
        return request

    def _fault(self, request: ScriptedRequest) -> BaseException | None:
        if self.faults is None:
            return None
        if callable(self.faults):
            return self.faults(request)
        return self.faults.get(request.call)

    def _reply(self, request: ScriptedRequest, ordinal: int) -> Completion:
        wanted = replace(request, ordinal=ordinal)
        reply = self._scripted(wanted)
        if reply is None:
            reply = f"Reply {wanted.key}."
        return reply if isinstance(reply, Completion) else Completion(reply, "stop")

    def _scripted(self, request: ScriptedRequest) -> Reply | None:
        if self.replies is None:
            return None
        if callable(self.replies):
            return self.replies(request)
        if isinstance(self.replies, Mapping):
            found = _longest_match(self.replies, request.last)
            if found is None or isinstance(found, (str, Completion)):
                return found
            return found[request.ordinal % len(found)]
        return self.replies[request.turn] if request.turn < len(self.replies) else None

    def _score(self, request: ScriptedRequest) -> dict[str, float]:
        weights: Weights | None = None
        if callable(self.weights):
            weights = self.weights(request)
        elif self.weights is not None:
            weights = _longest_match(self.weights, request.last)
        if weights is None:
            return {
                choice: (1 + content_seed(request.key, choice) % 1000)
                / (1000 * len(request.choices))
                for choice in request.choices
            }
        if isinstance(weights, str):
            favoured, others = weights, max(1, len(request.choices) - 1)
            assert favoured in request.choices, f"{favoured!r} is not one of {request.choices}"
            weights = {
                choice: FAVOURED_MASS if choice == favoured else (1 - FAVOURED_MASS) / others
                for choice in request.choices
            }
        return {choice: float(weights.get(choice, 0.0)) for choice in request.choices}

    def _cut(self, completion: Completion, sampling: Sampling, plain: bool) -> Completion:
        text = completion.text
        ends = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        if ends:
            text = text[: min(ends)]
        words = self._words(text)
        if len(words) > sampling.max_tokens:
            end = words[sampling.max_tokens - 1][1] if sampling.max_tokens else 0
            completion = Completion(text[:end], "length")
            text = completion.text
        return Completion(
            text if plain else text.strip(), completion.finish_reason, completion.token_ids
        )

    def _words(self, text: str) -> Sequence[tuple[int, int]]:
        if self.tokenizer is not None:
            return self.tokenizer.spans(text)
        spans, at = [], 0
        for word in text.split():
            start = text.index(word, at)
            at = start + len(word)
            spans.append((start, at))
        return spans

    def _tokens(self, messages: Sequence[Message]) -> list[str]:
        tokens: list[str] = []
        for message in messages:
            text = message.content
            tokens.append(f"<{message.role}>")
            tokens.extend(text[start:end] for start, end in self._words(text))
            tokens.append("<end>")
        return tokens

    def _prompt(self, request: ScriptedRequest) -> list[str]:
        """Returns a prompt's tokens.

        Raises:
            DocumentTooLongError: They are too many.
        """
        prompt = [*self._tokens(request.messages), "<assistant>"]
        if request.plain:
            prompt = ["<start>", *prompt[1:-2]]
        if self.context_tokens is not None and len(prompt) > self.context_tokens:
            raise DocumentTooLongError(
                f"The prompt has {len(prompt)} tokens; {self.name} takes {self.context_tokens}."
            )
        return prompt

    def _count(
        self,
        request: ScriptedRequest,
        replies: Sequence[str],
        sampled_tokens: int,
        thinking_tokens: int = 0,
    ) -> Usage:
        """Counts a request; what was read and written is cached for the session's next one."""
        prompt = self._prompt(request)
        seen = self._prefixes.setdefault(request.session, set())
        cached, state = 0, 0
        for token in prompt[:-1]:
            state = hash((state, token))
            if state not in seen:
                break
            cached += 1
        block = self.prefix_reuse_from_tokens
        cached = 0 if block == math.inf else int(cached // block * block)
        branches: list[str | None] = [*replies] or [None]
        for reply in branches:
            state = 0
            written = [] if reply is None else self._tokens([Message(role="user", content=reply)])
            for token in [*prompt, *written[1:]]:
                state = hash((state, token))
                seen.add(state)
        usage = Usage(
            requests=1,
            prompt_tokens=len(prompt),
            cached_tokens=cached,
            completion_tokens=sampled_tokens,
            thinking_tokens=thinking_tokens,
        )
        self._usage = self._usage + usage
        return usage


def _part_thought(one: Completion) -> Completion:
    split = split_thinking(one.text)
    if split.reply == one.text:
        return one
    return Completion(split.reply, one.finish_reason, thinking=split.thinking)


def _longest_match(table: Mapping[str, Value], text: str) -> Value | None:
    """Returns the value of the longest key that `text` contains."""
    keys = [key for key in table if key in text]
    return table[max(keys, key=len)] if keys else None
