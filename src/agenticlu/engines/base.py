"""The Engine protocol, the interface between this package and anything that samples text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypedDict, runtime_checkable

from agenticlu.core.errors import EngineReplyError
from agenticlu.core.records import FinishReason, Message, Usage


@dataclass(frozen=True)
class Sampling:
    """Sampling settings of a request."""

    temperature: float = 0.0
    """0 means greedy."""
    top_p: float = 1.0
    max_tokens: int = 256
    n: int = 1
    """Independent samples from the one prompt."""
    stop: tuple[str, ...] = ()
    seed: int | None = None
    """Of the request; sample k of n uses a seed derived from it where the engine allows."""
    schema: str | None = None
    """JSON schema, as JSON, that replies should follow. A wish: engines and servers that cannot
    hold a model to it answer as without it."""
    among: tuple[str, ...] = field(default=(), repr=False)
    """Texts of which the reply must be one; none: any reply. For engines that guide replies."""
    begins: tuple[str, ...] = field(default=(), repr=False)
    """Texts with one of which the reply must begin. Likewise."""


Asked = Sequence[Message] | str
"""What is sampled from: a conversation, or a plain text to continue."""


@dataclass(frozen=True)
class Completion:
    """One sampled reply."""

    text: str
    """White space at both ends stripped; of a continued text as sampled."""
    finish_reason: FinishReason = "unknown"
    token_ids: tuple[int, ...] | None = None
    """As sampled, without the end token; None if the engine does not report them, or where they
    spell more than the text."""
    thinking: str = ""
    """What the model thought before its reply. It is for people alone: never part of a history, a
    verdict, a score or a training row."""


class ThoughtCutError(EngineReplyError):
    """The model was still thinking when its room was used up; asking again would not help."""

    usage: Usage = Usage()
    """Cost of the requests that yielded no reply."""


def spent_on(error: BaseException) -> Usage:
    """Returns what was paid for a call that failed or was cancelled, as far as it is known."""
    found: Usage = getattr(error, "usage", Usage())
    return found


def note_spent(error: BaseException, usage: Usage) -> None:
    """Notes on the cancellation of a call what it had cost, for `spent_on`.

    Not by an error of our own: `asyncio.timeout` knows its cancellations by their exact class.
    """
    error.__dict__["usage"] = usage


@dataclass(frozen=True)
class Sampled:
    """The reply to a `sample` request."""

    completions: tuple[Completion, ...]
    usage: Usage


@dataclass(frozen=True)
class TokenLogprob:
    """One sampled token and its likeliest rivals."""

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...]
    """(id, text, log-probability), likeliest first."""


OnToken = Callable[[int, int, TokenLogprob | None], None]
"""Told of a sampled token: which of the request's replies, its id, and its log-probability where
those were asked for."""


@dataclass(frozen=True)
class Generated(Sampled):
    """A reply with the details that a server reports."""

    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    """Per completion, per token; empty unless asked for."""
    raw_texts: tuple[str, ...] = ()
    """Per completion, its text as sampled, white space kept."""


@dataclass(frozen=True)
class ChoiceProbs:
    """The reply to a `score_choices` request."""

    probabilities: Mapping[str, float]
    """Choice to probability, normalised over the choices (sums to 1)."""
    label_mass: float
    """Probability that the model puts on the choices together; low mass means a badly worded
    prompt. Where only a parse was possible: 1.0, or 0.0 for a reply that named no choice."""
    usage: Usage
    method: str = "logprobs"
    """'logprobs', or 'parse' where a server gives none."""


@dataclass(frozen=True)
class Likelihood:
    """The reply to a `score_reply` request."""

    logprob: float
    """Of the whole given reply after the prompt, in nats; its end token is not counted."""
    num_tokens: int
    """Of the given reply."""
    usage: Usage


Feature = Literal[
    "samples_n",
    "repeats_seeds",
    "logprobs",
    "token_ids",
    "completes",
    "reports_cached_tokens",
    "prefix_reuse_from_tokens",
    "thinking_tokens",
]
"""Capabilities that an endpoint must be asked for; each is a field of `Capabilities`."""


@dataclass(frozen=True)
class Capabilities:
    """The features that an engine supports; of endpoints, as far as they are known."""

    samples_n: bool = True
    repeats_seeds: bool = True
    """Whether a repeated seed repeats a reply."""
    logprobs: bool = True
    token_ids: bool = False
    reports_cached_tokens: bool = True
    completes: bool = True
    """Whether plain text can be continued, without a chat template."""
    context_tokens: int | None = None
    """Longest prompt plus completion; None when unknown."""
    prefix_reuse_from_tokens: float | None = None
    """Shortest prefix that the engine reuses between requests, in tokens: 1 where it reuses any,
    infinite where it reused none of those measured, None when unknown."""
    thinking_tokens: int | None = None
    """Tokens of thought before a reply of one word; 0: it does not think. None: not looked at."""
    notes: tuple[str, ...] = field(default=())
    """Advice for people, such as the server flag that adds a missing feature."""


class Health(TypedDict):
    """The state of one endpoint."""

    address: str
    state: Literal["well", "resting", "stalled"]
    """resting: left alone for a while after a failure. stalled: asked, and silent for long."""
    in_flight: int
    """Requests that it was sent and has not answered."""
    failures: int
    """Requests lost in a row."""
    resting_s: float
    """Seconds until it is asked again; 0 unless it rests."""
    last_answer_s: float | None
    """Seconds since its last answer, or, where it never gave one, since it was first asked; None
    before that."""


@runtime_checkable
class Watched(Protocol):
    """An engine that reports the state of its endpoints."""

    def health(self) -> list[Health]:
        """Returns one entry for each endpoint."""
        ...


@runtime_checkable
class ReplyScorer(Protocol):
    """An engine that tells how likely a given reply is; servers rarely can."""

    async def score_reply(
        self, messages: Sequence[Message], reply: str, *, session: str | None = None
    ) -> Likelihood:
        """Returns the log-probability of a reply that is given, not sampled."""
        ...


OnText = Callable[[str], None]
"""Told more of a reply's text."""


@runtime_checkable
class StreamingEngine(Protocol):
    """An engine that tells a reply while it samples it."""

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """Samples one reply, whatever `sampling.n` says; cancelled, it ends within one token.

        Args:
            messages: The conversation; ends in a user message.
            sampling: How.
            session: As in `Engine.sample`.
            on_text: Called in the event loop with each part of the reply that is certain, from its
                first word to its last; what the model thinks is not told. The result counts: now
                and then it is another text, where a thought showed itself as such only by its end.

        Raises:
            EngineError: As `Engine.sample`. Where a part was told before, `is_midway` says so.
        """
        ...


class Stream(Protocol):
    """The method of a streaming engine."""

    async def __call__(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """See `StreamingEngine.stream`."""
        ...


def stream_of(engine: Engine) -> Stream:
    """Returns how an engine streams; of one that cannot, `sample`, its reply told as a whole."""
    if isinstance(engine, StreamingEngine):
        return engine.stream

    async def sample(
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        sampled = await engine.sample(messages, replace(sampling, n=1), session=session)
        if text := sampled.completions[0].text:
            on_text(text)
        return sampled

    return sample


@runtime_checkable
class PrefixKeeper(Protocol):
    """An engine that may keep what it reads of a document for later processes."""

    def share_prefix(self, text: str, name: str) -> None:
        """Is told what the next prompts have in common."""
        ...


def share_prefix(engine: object, text: str, name: str) -> None:
    """Tells an engine what the next prompts have in common, if it wants to know.

    Args:
        engine: Any.
        text: A message of each begins with it; what follows differs.
        name: Of the text, for people.
    """
    if isinstance(engine, PrefixKeeper):
        engine.share_prefix(text, name)


def setup_of(engine: Engine) -> Usage:
    """Returns what an engine has spent on finding out about its server; part of its usage."""
    found: Usage = getattr(engine, "setup", Usage())
    return found


def thinking_room_of(engine: Engine) -> int:
    """Returns the tokens that an engine keeps free for a thought before each reply."""
    found: int = getattr(engine, "thinking_room", 0)
    return found


def effort_of(engine: Engine) -> str:
    """Returns how much an engine's model is asked to think; 'auto' where nothing is asked."""
    found: str = getattr(engine, "effort", "auto")
    return found


@runtime_checkable
class Adapted(Protocol):
    """An engine that may have to ask in another way than it was told to."""

    def adaptations(self) -> tuple[str, ...]:
        """Returns what was changed, a sentence each, such as a temperature that was refused."""
        ...


def adaptations_of(engine: object) -> tuple[str, ...]:
    """Returns how an engine asked otherwise than it was told to; results depend on it."""
    return engine.adaptations() if isinstance(engine, Adapted) else ()


class Engine(Protocol):
    """Samples text and scores choices.

    Implementations are safe to call concurrently from one event loop, raise only
    `agenticlu.core.errors.EngineError` and its children, and add every request to `usage`.
    """

    @property
    def name(self) -> str:
        """Shown to people and stored with results; never holds a key."""
        ...

    @property
    def usage(self) -> Usage:
        """Total so far."""
        ...

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` replies; fewer where it takes more requests: see `LimitedEngine`.

        Args:
            messages: The conversation; ends in a user message.
            sampling: How.
            session: Requests of one session share a prefix: pools keep them on one replica,
                in-process engines keep their cache.
        """
        ...

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` continuations of a plain text, white space kept.

        No chat template; the text is preceded by what the model's tokenizer puts before any text
        (one start token, or nothing). Control tokens in the text are read as words.

        Args:
            text: To be continued.
            sampling: How.
            session: As in `sample`.
        """
        ...

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Returns the probability of each choice as the reply's first token."""
        ...

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """Returns what is known of the engine.

        Args:
            wanted: What must be known, if short requests have to be sent to find it out. Each is
                asked for once; without any, a server is only met: its name, perhaps its window.
        """
        ...

    async def close(self) -> None:
        """Frees connections and memory."""
        ...
