"""Room for what a reasoning model thinks before it replies, and how it is asked to think less.

Replies are limited to 16 to 256 tokens, and servers count thoughts among them: a model that thinks
first would fall silent before its first word. Whether a model thinks is not asked; its replies
show it. From then on every request has room for the thought beside that for the reply, and a reply
that was cut inside its thought is asked for again with twice the room, up to a limit.

    room = ThinkingRoom(Thinking(), "mill-8b")
    sampled = await room.sample(ask, Sampling(max_tokens=64))  # `ask` sends one request
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from agenticlu.core.errors import DocumentTooLongError, UsageError, require_known
from agenticlu.core.records import Usage
from agenticlu.core.settings import THINKING_TOKENS, Effort
from agenticlu.documents.tokens import CHARACTERS_PER_TOKEN
from agenticlu.engines.base import Completion, Sampled, Sampling, ThoughtCutError
from agenticlu.engines.retry import single_sampling

EFFORTS: tuple[str, ...] = get_args(Effort)
FIRST_ROOM = 4096
"""Tokens of thought that a model is given once it is known to think; doubled where it needs more,
for servers refuse what does not fit their window."""
LEAST_ROOM = 128
"""A window that leaves less than this for a thought is full."""
LEAST_MASS = 0.1
"""Less probability on all choices together may mean that the first token is one of a thought."""
CHECKED_ROOM = 8192
"""Tokens after which a reply that reads like a thought, and that no tag closes, is a reply."""
LEAST_BEGINNING = 16
"""Characters that tell how a reply begins."""
Ask = Callable[[Sampling], Awaitable[Sampled]]
_MUSING = re.compile(
    r"(?:okay|ok|alright|all right|hmm+|wait|got it|let me|let's|let us|first,|so,|so the"
    r"|we need|we have|we are|i need|i have to|i should|the user|thinking)\b",
    re.IGNORECASE,
)
"""The first words of many thoughts, where no tag marks them."""


@dataclass(frozen=True)
class Thinking:
    """How much a model may think before it replies.

    Raises:
        UsageError: An unknown effort.
    """

    effort: Effort = "auto"
    """auto: as the model does by itself. on, off: asked for through the chat template, where the
    server passes that on. low, medium, high: asked for as the API's reasoning effort."""
    tokens: int = THINKING_TOKENS
    """Most tokens of thought before one reply; not counted among the reply's own."""

    def __post_init__(self) -> None:
        require_known(self.effort, EFFORTS, kind="value of --thinking", error=UsageError)
        assert self.tokens > 0


_TEMPLATE = "chat_template_kwargs"
# One switch, under the names that Qwen and GLM, and DeepSeek and Granite, have for it.
_QUIET: tuple[Mapping[str, Any], ...] = (
    {_TEMPLATE: {"enable_thinking": False, "thinking": False}},
    *({"reasoning_effort": effort} for effort in ("none", "minimal", "low")),
)
"""Fields that turn thinking off, or down: for vLLM, SGLang and llama.cpp; for OpenAI and Ollama."""


def _forms_of(effort: Effort) -> tuple[Mapping[str, Any], ...]:
    if effort == "auto":
        return ()
    if effort == "off":
        return _QUIET
    if effort == "on":
        return ({_TEMPLATE: {"enable_thinking": True, "thinking": True}},)
    return ({"reasoning_effort": effort}, {_TEMPLATE: {"reasoning_effort": effort}})


class Switch:
    """The fields of a request that ask for more or less thinking.

    Servers know different ones: a form that is refused, or without effect, gives way to the next.

    Args:
        forms: The most common one first.
    """

    def __init__(self, forms: Sequence[Mapping[str, Any]]) -> None:
        self._forms = forms
        self._at = 0
        self._is_taken = False

    @property
    def fields(self) -> Mapping[str, Any]:
        """Fields of the present form; empty when none is left."""
        return {} if self.is_spent else self._forms[self._at]

    @property
    def is_spent(self) -> bool:
        """Whether no form is left."""
        return self._at >= len(self._forms)

    def take(self, fields: Mapping[str, Any]) -> None:
        """Notes that a request with these fields was answered."""
        self._is_taken = self._is_taken or (bool(fields) and fields == self.fields)

    def refuse(self, fields: Mapping[str, Any]) -> bool:
        """Notes that a request with these fields was refused; whether to ask again without.

        A server that has answered with them refuses for another reason.
        """
        if not fields or (fields == self.fields and self._is_taken):
            return False
        self.give_way(fields)
        return True

    def restore(self, fields: Mapping[str, Any]) -> None:
        """Notes that a request was refused without any form, too: those were not at fault.

        Args:
            fields: Of the form that the request was first sent with.
        """
        if self.is_spent and fields in self._forms:
            self._at = self._forms.index(fields)

    def give_way(self, fields: Mapping[str, Any]) -> None:
        """Goes on to the next form, unless another request has seen to that."""
        if fields and fields == self.fields:
            self._at += 1
            self._is_taken = False


class ThinkingRoom:
    """Learns from a model's replies whether it thinks, and gives its thoughts room.

    Args:
        thinking: How much it may think.
        name: Of the model, for messages.
        thinks: Whether it thinks; None where that is not known.
        opened: Whether the prompts themselves end in the tag that opens a thought.
        hides: Whether its thoughts may be hidden, as some servers do: then the first empty reply
            that was cut is looked into.
        say: Called with a line for people when the room changes.
    """

    def __init__(
        self,
        thinking: Thinking,
        name: str,
        *,
        thinks: bool | None = None,
        opened: bool = False,
        hides: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.thinking = thinking
        self.name = name
        self.thinks = thinks
        self.opened = opened
        self.tokens = 0
        """Room that every request has beside that for its reply."""
        self.num_cut = 0
        """Replies that were cut inside a thought."""
        self.switch = Switch(_forms_of(thinking.effort))
        self.quiet = self.switch if thinking.effort == "off" else Switch(_QUIET[:2])
        """Turns thinking off, where a verdict is read from the first token."""
        self._hides = hides
        self._say = say or (lambda text: None)
        self._is_told = False
        self._is_spent_told = False
        self._most_reply: int | None = None
        self._checking: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        if thinks:
            self.tokens = self._first

    @property
    def _first(self) -> int:
        return min(FIRST_ROOM, self.thinking.tokens)

    def facts(self) -> tuple[str, ...]:
        """Returns whether the wish for thinking was followed, and how often a thought was cut."""
        effort, found = self.thinking.effort, []
        if self.switch.is_spent and effort != "auto":
            what = (
                "thinks" if effort == "off" and self.thinks else "takes no setting of its thinking"
            )
            found.append(f"{self.name} {what}, although --thinking {effort} was asked for.")
        if self.num_cut:
            cut = "1 reply was" if self.num_cut == 1 else f"{self.num_cut} replies were"
            found.append(
                f"{self.name}: {cut} cut inside a thought and asked for again with more room."
            )
        return tuple(found)

    def take(self, fields: Mapping[str, Any]) -> None:
        """Notes that a request with these fields of the wish was answered."""
        self.switch.take(fields)
        if not fields and self.thinking.effort != "auto":
            self._tell_spent()

    def note_thought(self, fields: Mapping[str, Any]) -> None:
        """Notes that a model thought although a request's fields asked it not to."""
        if self.thinking.effort == "off" and fields:
            self.switch.give_way(fields)
            self._tell_spent()

    def _tell_spent(self) -> None:
        if self.switch.is_spent and not self._is_spent_told:
            self._is_spent_told = True
            self._say(self.facts()[0])

    # --- Verdicts: the probability of each choice as the first token

    @property
    def hides_verdicts(self) -> bool:
        """Whether the first token is always one of a thought, so that verdicts must be parsed."""
        if not self.thinks:
            return False
        return self.thinking.effort not in ("auto", "off") or self.quiet.is_spent

    @property
    def verdict_fields(self) -> Mapping[str, Any]:
        """Fields of a request whose first token is a verdict."""
        return self.quiet.fields if self.thinks else self.switch.fields

    def refuse_verdict(self, fields: Mapping[str, Any]) -> bool:
        """As `Switch.refuse`, for `verdict_fields`."""
        return (self.quiet if self.thinks else self.switch).refuse(fields)

    def restore_verdict(self, fields: Mapping[str, Any]) -> None:
        """As `Switch.restore`, for `verdict_fields`."""
        (self.quiet if self.thinks else self.switch).restore(fields)

    def is_thought(self, fields: Mapping[str, Any], *, shown: bool, label_mass: float) -> bool:
        """Whether the first token was of a thought, so that the verdict is asked for otherwise.

        Args:
            fields: Those of the request.
            shown: Whether the reply shows a thought.
            label_mass: Probability that the token is any of the choices.
        """
        if not self.thinks:
            self.thinks = shown or self.thinks
            return shown
        if not shown and label_mass >= LEAST_MASS:
            self.quiet.take(fields)
            return False
        if fields:
            self.quiet.give_way(fields)
        return True

    # --- Samples

    async def sample(self, ask: Ask, sampling: Sampling, check: Ask | None = None) -> Sampled:
        """Samples replies, each with room for the thought before it.

        Args:
            ask: Sends one request. Its completions have their thoughts apart, and its usage counts
                them.
            sampling: How; `max_tokens` is meant for the reply alone.
            check: Sends a request that only finds out whether the model thinks; `ask` by default.

        Raises:
            ThoughtCutError: No reply came before the most room there is was thought away.
            DocumentTooLongError: The prompt does not fit, even with little room.
            EngineError: As `ask` does.
        """
        if sampling.max_tokens == 1:  # to see whether the model answers at all
            return await ask(sampling)
        found, room = await self._fit(ask, sampling, self.tokens)
        found = await self._see_through(check or ask, sampling, found)
        replies, usage = self._read(found, sampling, room), found.usage
        while cut := self._find_cut(replies, usage):
            self.num_cut += len(cut)
            wider = self._widen(room)
            if wider <= room:
                break
            again = sampling
            if len(cut) < len(replies):  # a seed of its own: no sample of the others comes twice
                seed = single_sampling(sampling, sampling.n + cut[0]).seed
                again = replace(sampling, n=len(cut), seed=seed)
            found, got = await self._fit(ask, again, wider)
            usage = usage + found.usage
            for k, one in zip(cut, self._read(found, again, got), strict=False):
                replies[k] = one
            if got <= room:
                break  # the window holds no more
            room = got
        if len(self._find_cut(replies, usage)) == len(replies):
            raise self._explain(room, usage)
        return Sampled(tuple(replies), usage)

    def _read(self, found: Sampled, sampling: Sampling, room: int) -> list[Completion]:
        """Returns replies of the wanted length; learns from them whether the model thinks."""
        shows = any(one.thinking for one in found.completions) or found.usage.thinking_tokens
        if shows or self.opened:
            self.thinks = True
        if self.thinks and not self._is_told:
            self._is_told = True
            self.tokens = self.tokens or self._first
            self._say(
                f"{self.name} thinks before it replies: each reply has room for {self.tokens:,}"
                f" tokens of thought, up to {self.thinking.tokens:,} where they do not suffice"
                " (--thinking-tokens)."
            )
        return [self._shorten(one, sampling, found, room) for one in found.completions]

    def _find_cut(self, replies: Sequence[Completion], usage: Usage) -> list[int]:
        """Returns the replies that ended inside their thoughts, by their places."""
        cut = [k for k, one in enumerate(replies) if not one.text and one.finish_reason == "length"]
        shown = any(replies[k].thinking for k in cut) or usage.thinking_tokens
        return cut if self.thinks or shown else []

    def _widen(self, room: int) -> int:
        """Returns the room after one that was too narrow; the same where that was the most."""
        wider = max(self.tokens, self._first if room == 0 else min(2 * room, self.thinking.tokens))
        if wider > self.tokens and self.thinks:
            self.tokens = wider
            self._say(
                f"{self.name} was cut inside its thought after {room:,} tokens and is asked again;"
                f" each reply now has room for {wider:,} (at most --thinking-tokens"
                f" {self.thinking.tokens})."
            )
        return wider

    async def _fit(self, ask: Ask, sampling: Sampling, room: int) -> tuple[Sampled, int]:
        """Asks with as much room as the window holds; returns the room, too."""
        if self._most_reply is not None:
            room = max(0, min(room, self._most_reply - sampling.max_tokens))
        while True:
            try:
                wanted = replace(sampling, max_tokens=sampling.max_tokens + room)
                return await ask(wanted), room
            except DocumentTooLongError:
                if room < 2 * LEAST_ROOM:
                    raise
                room //= 2

    def bound(self, reply_tokens: int) -> None:
        """Notes the most tokens that the server lets a reply have, thoughts included."""
        self._most_reply = min(reply_tokens, self._most_reply or reply_tokens)

    def _shorten(
        self, one: Completion, sampling: Sampling, found: Sampled, room: int
    ) -> Completion:
        """Cuts a reply that ran into the thought's room, where it was cut anyway.

        One that the thought left too little room for becomes empty: it is asked for again.
        """
        if one.finish_reason != "length" or not one.text:
            return one
        tokens: float = len(one.text) / CHARACTERS_PER_TOKEN
        if len(found.completions) == 1 and found.usage.completion_tokens:
            tokens = found.usage.completion_tokens - found.usage.thinking_tokens
        if one.thinking and (not room or tokens < sampling.max_tokens / 2):
            return replace(one, text="", token_ids=None)
        if not room or tokens <= sampling.max_tokens:
            return one
        length = int(len(one.text) * sampling.max_tokens / tokens)
        return replace(one, text=one.text[:length].rstrip(), token_ids=None)

    # --- Thoughts that do not show

    async def _see_through(self, ask: Ask, sampling: Sampling, found: Sampled) -> Sampled:
        """Returns the replies, with those that are really thoughts marked as such.

        A template may open the thought itself. What the model writes then looks like a reply until
        a tag closes it, and one that was cut has none; a server may hide thoughts altogether. So
        what reads like a thought, or is empty, is asked for again, with room, to see what comes.
        """
        hides = self._hides and not found.usage.thinking_tokens
        doubtful = [
            one
            for one in found.completions
            if reads_like_thought(one) or (hides and is_cut_short(one))
        ]
        if self.thinks is None and doubtful:
            async with self._lock():
                # A request that waited for another one's check knows by now.
                if self.thinks is None and not self.opened:
                    usage = await self._follow(ask, replace(sampling, n=1), doubtful[0])
                    found = replace(found, usage=found.usage + usage)
        # Also of a reply that was read before another one showed it.
        if not self.opened:
            return found
        hidden = (_as_thought(one) for one in found.completions)
        return replace(found, completions=tuple(hidden))

    async def _follow(self, ask: Ask, sampling: Sampling, before: Completion) -> Usage:
        """Finds out with more room whether a reply was a thought; returns what that cost."""
        usage = Usage()
        for room in (self._first, min(CHECKED_ROOM, self.thinking.tokens)):
            found, _ = await self._fit(ask, sampling, room)
            usage, one = usage + found.usage, found.completions[0]
            # Whether a tag closes what is written, or anything is said after a long silence.
            # Another request may have found out meanwhile.
            found_out = self.opened if before.text else bool(one.text or one.thinking)
            self.thinks = self.thinks or found_out
            if self.thinks or not before.text or one.finish_reason != "length":
                break
        return usage

    def _lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._checking is None or self._loop is not loop:  # a lock belongs to one loop
            self._checking, self._loop = asyncio.Lock(), loop
        return self._checking

    def _explain(self, room: int, usage: Usage) -> ThoughtCutError:
        most = self.thinking.tokens
        error = ThoughtCutError(
            f"{self.name} was still thinking after {room:,} tokens, so no reply came."
        )
        if room < most:
            error.hint = "There is no more room: use a longer window, or --thinking off or low."
        else:
            error.hint = f"Raise --thinking-tokens (now {most:,}), or try --thinking off or low."
        error.usage = usage
        return error


def count_thinking(completions: Sequence[Completion], usage: Usage) -> Usage:
    """Returns the usage of a request with its tokens of thought, by their share of the text.

    For servers that do not report them.

    >>> thought = Completion("yes", thinking="It may be so.")
    >>> count_thinking([thought], Usage(completion_tokens=16)).thinking_tokens
    13
    """
    thought = sum(len(one.thinking) for one in completions)
    if usage.thinking_tokens or not thought:
        return usage
    whole = thought + sum(len(one.text) for one in completions)
    tokens = round(usage.completion_tokens * thought / whole)
    return usage.model_copy(update={"thinking_tokens": tokens})


def reads_like_thought(one: Completion) -> bool:
    """Whether a reply that was cut, and shows no thought, begins as many thoughts do."""
    cut = one.finish_reason == "length" and not one.thinking
    return cut and _MUSING.match(one.text.lstrip()) is not None


def may_become_thought(text: str) -> bool:
    """Whether a reply that begins so may turn out to be a thought without a tag at its head."""
    return len(text) < LEAST_BEGINNING or _MUSING.match(text) is not None


def is_cut_short(one: Completion) -> bool:
    """Whether a reply was cut before anything was said."""
    return one.finish_reason == "length" and not one.text and not one.thinking


def _as_thought(one: Completion) -> Completion:
    """Returns a cut reply without a tag as the thought that it is."""
    if one.finish_reason != "length" or one.thinking:
        return one
    return Completion("", "length", thinking=one.text)
