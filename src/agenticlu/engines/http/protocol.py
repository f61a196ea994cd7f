"""Reads what servers send: chat completions, continued texts and streams.

One typed reader for all of it. It is lenient where a difference does no harm (content in parts, a
count written as text, fields that are missing or unknown) and strict where a guess could pass for
a reply; what it cannot read raises `MalformedReplyError`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from agenticlu.core.records import FinishReason, Usage, without_lone_surrogates
from agenticlu.dialogue.thoughts import split_thinking, strip_thinking
from agenticlu.engines.base import Completion

Json = dict[str, Any]

MOST_TOKENS = 10**9
"""A count above this is no count of one request's tokens."""
MOST_LEVELS = 4
"""Depth to which parts of a content may hold parts."""
ROUNDING = 0.01
"""Nats by which a log-probability may exceed 0: servers compute in half precision."""
REASONS: dict[str, FinishReason] = {
    **dict.fromkeys(
        ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete", "tool_calls"), "stop"
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "model_length", "max_length", "max_output_tokens"), "length"
    ),
    **dict.fromkeys(("content_filter", "safety", "refusal", "prohibited_content"), "refused"),
}
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields in which servers send what a model thought, beside its reply."""


class MalformedReplyError(ValueError):
    """What a server sent cannot be read; the message completes 'the server replied ...'."""


def parse_json(content: bytes) -> Any:
    """Parses JSON, or the events of a stream, which some servers send though not asked to.

    Raises:
        MalformedReplyError: It is neither, or nested too deep.
    """
    text = content.decode("utf-8-sig", "replace")
    if text.lstrip()[:8].startswith(("data:", "event:", "id:", "retry:", ":")):
        return _join_events(text)
    return _load(text)


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise MalformedReplyError("with JSON nested too deep") from None
    except ValueError:
        start = text.lstrip()[:15].lower()
        page = start.startswith(("<!doctype", "<html"))
        raise MalformedReplyError(
            "with a web page" if page else "without JSON" if text.strip() else "with nothing"
        ) from None


def _join_events(text: str) -> Any:
    """Puts the chunks of a stream together into the reply that they are parts of."""
    joined: dict[Any, Json] = {}
    usage: Any = None
    other: Any = None
    ended = False
    for line in re.split(r"\r\n|\n|\r", text):  # a text may hold other ends of lines
        name, _, data = line.partition(":")
        if name != "data" or not data.strip():
            continue
        if data.strip() == "[DONE]":
            ended = True
            break
        chunk = _load(data)
        if not isinstance(chunk, dict):
            return chunk
        if _is_error(chunk):  # even beside choices: they are not whole, then
            return {name: value for name, value in chunk.items() if name != "choices"}
        usage = chunk.get("usage") or usage
        parts = chunk.get("choices")
        if not isinstance(parts, list):
            other = other or chunk  # a sign of life, or the usage alone
            continue
        for part in parts:
            if isinstance(part, dict) and isinstance(part.get("index", 0), int):
                _add_chunk(joined.setdefault(part.get("index", 0), {}), part)
    if other and not joined:
        return other  # an error in another form
    if not joined or not (ended or all(one.get("finish_reason") for one in joined.values())):
        raise MalformedReplyError("with a stream that broke off")
    return {"choices": [joined[index] for index in sorted(joined)], "usage": usage}


def _is_error(chunk: Json) -> bool:
    named = any(map(chunk.get, ("error", "errors", "detail")))
    return named or "error" in (chunk.get("object"), chunk.get("type"))


def _add_chunk(choice: Json, part: Json) -> None:
    delta = part.get("delta") or part.get("message")
    if isinstance(delta, dict):
        message = choice.setdefault("message", {})
        for name in ("content", "refusal", *THOUGHT_FIELDS):
            if delta.get(name):
                message.setdefault(name, []).append(delta[name])
    for name in ("text", "token_ids"):
        if isinstance(part.get(name), str | list):
            empty: str | list[Any] = "" if isinstance(part[name], str) else []
            before = choice.get(name, empty)
            choice[name] = before + part[name] if type(before) is type(empty) else before
    content = part["logprobs"].get("content") if isinstance(part.get("logprobs"), dict) else None
    if isinstance(content, list):
        choice.setdefault("logprobs", {"content": []})["content"] += content
    choice["finish_reason"] = part.get("finish_reason") or choice.get("finish_reason")


@dataclass(frozen=True)
class Spoken:
    """The content of a message, its parts by kind."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""


def read_content(value: object) -> Spoken:
    """Reads a message's content: a text, parts of several kinds, or nothing.

    >>> read_content([{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Ada"}])
    Spoken(text='Ada', thinking='Hm.', refusal='')

    Raises:
        MalformedReplyError: It is something else, such as a number.
    """
    found: dict[str, list[str]] = {"text": [], "thinking": [], "refusal": []}
    _collect(value, "text", found, 0)
    return Spoken(*(without_lone_surrogates("".join(texts)) for texts in found.values()))


def _collect(value: object, kind: str, found: dict[str, list[str]], level: int) -> None:
    if value is None:
        return
    if isinstance(value, str):
        found[kind].append(value)
    elif isinstance(value, list) and level < MOST_LEVELS:
        for part in value:
            _collect(part, kind, found, level + 1)
    elif isinstance(value, dict) and level < MOST_LEVELS:
        named = str(value.get("type"))
        if named.startswith(("thinking", "reasoning", "thought")):
            kind = "thinking"
        elif named == "refusal":
            kind = "refusal"
        # The first that is there: other kinds of parts (images, calls of tools) hold none of them.
        for name in (kind, "text", "value", "thinking", "reasoning", "summary"):
            if value.get(name):
                _collect(value[name], kind, found, level + 1)
                break
    else:
        raise MalformedReplyError(f"with a content that is {_name_kind(value)}")


def _name_kind(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "nested too deep")


def _read_thought(value: object) -> str:
    """Reads what a model thought; a form that is unknown is no reason to lose the reply."""
    try:
        spoken = read_content(value)
    except MalformedReplyError:
        return ""
    return spoken.thinking or spoken.text


def read_count(value: object) -> int:
    """Reads a number of tokens; 0 for what cannot be one.

    >>> read_count(12), read_count("12"), read_count(10.5), read_count(10**30), read_count(None)
    (12, 12, 11, 0, 0)
    """
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    # Also false for what is no number.
    return math.ceil(value) if 0 <= value <= MOST_TOKENS else 0


def _object_or_empty(value: object) -> object:
    return value if isinstance(value, dict) else {}


def _read_reason(value: object) -> FinishReason:
    return REASONS.get(value.lower(), "unknown") if isinstance(value, str) else "unknown"


def _read_ids(value: object) -> tuple[int, ...] | None:
    right = isinstance(value, list) and all(type(one) is int and 0 <= one < 2**31 for one in value)
    return tuple(value) if right and value else None  # type: ignore[arg-type]


Count = Annotated[int, BeforeValidator(read_count)]
Thought = Annotated[str, BeforeValidator(_read_thought)]


class _Wire(BaseModel):
    """An object of the protocol; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True, arbitrary_types_allowed=True)


class _Details(_Wire):
    cached_tokens: Count = 0
    reasoning_tokens: Count = 0


class ReportedUsage(_Wire):
    """Tokens of a request, as the server reports them; 0 where it reports none."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    total_tokens: Count = 0
    prompt_tokens_details: Annotated[_Details, BeforeValidator(_object_or_empty)] = _Details()
    completion_tokens_details: Annotated[_Details, BeforeValidator(_object_or_empty)] = _Details()
    reasoning_tokens: Count = 0
    """Some gateways' place for it."""
    cached_tokens: Count = 0
    """Moonshot's place for it."""
    prompt_cache_hit_tokens: Count = 0
    """DeepSeek's name for it."""

    def as_usage(self) -> Usage:
        """Returns the cost of one request."""
        cached = max(
            self.prompt_tokens_details.cached_tokens,
            self.cached_tokens,
            self.prompt_cache_hit_tokens,
        )
        thinking = max(self.completion_tokens_details.reasoning_tokens, self.reasoning_tokens)
        completion = self.completion_tokens
        # xAI and Gemini count thoughts beside the completion, and into the total alone.
        if thinking and self.total_tokens >= self.prompt_tokens + completion + thinking:
            completion += thinking
        return Usage(
            requests=1,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=min(cached, self.prompt_tokens),
            completion_tokens=max(completion, thinking),
            thinking_tokens=thinking,
        )


class _Message(_Wire):
    content: Annotated[Spoken, BeforeValidator(read_content)] = Spoken()
    refusal: Thought = ""
    reasoning_content: Thought = ""
    reasoning: Thought = ""
    thinking: Thought = ""
    reasoning_details: Thought = ""
    """OpenRouter's; repeats `reasoning` where that is sent."""


class _Choice(_Wire):
    message: _Message | None = None
    text: str | None = None
    finish_reason: Annotated[FinishReason, BeforeValidator(_read_reason)] = "unknown"
    token_ids: Annotated[tuple[int, ...] | None, BeforeValidator(_read_ids)] = None
    logprobs: Any = None


@dataclass(frozen=True)
class Choice:
    """One sample, as the server sent it."""

    content: str
    """Verbatim; may hold thinking between tags."""
    thinking: str = ""
    """Sent apart from the content."""
    refusal: str = ""
    finish_reason: FinishReason = "unknown"
    token_ids: tuple[int, ...] | None = None
    logprobs: Any = None
    """In the server's form: see `first_logprobs`."""

    @property
    def withheld(self) -> bool:
        """Whether moderation let nothing of the reply through."""
        return self.finish_reason == "refused" and not (self.content.strip() or self.refusal)

    @property
    def thinks(self) -> bool:
        """Whether the model thought aloud before its reply."""
        return bool(self.thinking) or strip_thinking(self.content) != self.content

    @property
    def opened(self) -> bool:
        """Whether its thought began before the content: the template opens it."""
        return split_thinking(self.content).opened

    def as_completion(self, *, opened: bool = False) -> Completion:
        """Returns the reply of a conversation, without what was thought.

        Args:
            opened: Whether the template is known to open a thought: a content without a tag that
                was cut is one, then.
        """
        split = split_thinking(self.content)
        reason = self.finish_reason
        silent = split.is_cut or bool(self.thinking and not self.content.strip())
        if reason == "unknown" and silent:
            reason = "length"  # a thought and no reply: it was cut, whatever the server calls that
        cut = reason == "length"
        if opened and cut and split.reply == self.content:
            split = split_thinking(self.content, opened=True)
        text = "" if split.is_cut and cut else split.reply.strip()
        whole = text == self.content.strip() and not self.thinking
        return Completion(
            text=text or self.refusal,
            finish_reason="refused" if self.refusal else reason,
            token_ids=self.token_ids if whole else None,
            thinking=self.thinking.strip() or split.thinking,
        )

    def as_continuation(self) -> Completion:
        """Returns a continued text; its white space is part of it."""
        return Completion(self.content, self.finish_reason, self.token_ids)


@dataclass(frozen=True)
class Reply:
    """A server's answer to one request."""

    choices: tuple[Choice, ...]
    """At least one."""
    usage: Usage


def read_reply(data: object, *, plain: bool = False) -> Reply:
    """Reads the answer to a request for samples.

    Args:
        data: Parsed JSON.
        plain: Whether a text was continued: the choices then have a text instead of a message.

    Raises:
        MalformedReplyError: It is none, or a part of it that matters has the wrong form.

    >>> reply = read_reply({"choices": [{"message": {"content": "Ada"}}]})
    >>> reply.choices[0].content, reply.usage.prompt_tokens
    ('Ada', 0)
    """
    listed = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(listed, list) or not listed:
        raise MalformedReplyError(f"without a {'text' if plain else 'message'}")
    usage = ReportedUsage.model_validate(_object_or_empty(data.get("usage")))
    return Reply(tuple(_read_choice(one, plain) for one in listed), usage.as_usage())


def _read_choice(data: object, plain: bool) -> Choice:
    try:
        found = _Choice.model_validate(data)
    except MalformedReplyError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, MalformedReplyError):
            raise cause from None
        place = ".".join(map(str, first["loc"])) or "choice"
        raise MalformedReplyError(f"with a wrong {place}: {first['msg']}") from None
    if plain:
        if found.text is None:
            raise MalformedReplyError("without a text")
        spoken, message = Spoken(without_lone_surrogates(found.text)), _Message()
    else:
        if found.message is None:
            raise MalformedReplyError("without a message")
        spoken, message = found.message.content, found.message
    thoughts = (message.reasoning_content, message.reasoning, message.thinking, spoken.thinking)
    return Choice(
        content=spoken.text,
        thinking=next(filter(None, thoughts), message.reasoning_details),
        refusal=message.refusal or spoken.refusal,
        finish_reason=found.finish_reason,
        token_ids=found.token_ids,
        logprobs=found.logprobs,
    )


def first_logprobs(choice: Choice) -> list[tuple[str, float]] | None:
    """Returns (token, log-probability) of the first token's candidates; None if there are none.

    Reads the form of chat completions and the older one of plain completions, which some servers
    use for both.

    Raises:
        MalformedReplyError: They are there, but are no log-probabilities.
    """
    given = choice.logprobs
    if not given:
        return None
    if not isinstance(given, dict):
        raise MalformedReplyError("with log-probabilities of another form")
    content, tokens = given.get("content"), given.get("tokens")
    if content:
        pairs = _read_candidates(content)
    elif tokens:
        pairs = _read_older_candidates(given)
    else:
        return None
    for token, logprob in pairs:
        number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
        if not isinstance(token, str) or not number or not logprob <= ROUNDING:
            raise MalformedReplyError("with a log-probability that is none")
    first, *others = pairs
    others = [(token, min(0.0, logprob)) for token, logprob in others]
    if all(token != first[0] for token, _ in others):
        others.append((first[0], min(0.0, first[1])))
    return others


def _read_candidates(content: Any) -> list[tuple[Any, Any]]:
    """Returns the first token and then its rivals, unchecked."""
    try:
        first = content[0]
        top = first.get("top_logprobs") or []
        return [(one["token"], one["logprob"]) for one in (first, *top)]
    except (TypeError, KeyError, AttributeError, IndexError):
        raise MalformedReplyError("with log-probabilities of another form") from None


def _read_older_candidates(given: Json) -> list[tuple[Any, Any]]:
    try:
        top = (given.get("top_logprobs") or [{}])[0] or {}
        return [(given["tokens"][0], given["token_logprobs"][0]), *top.items()]
    except (TypeError, KeyError, AttributeError, IndexError):
        raise MalformedReplyError("with log-probabilities of another form") from None


def label_masses(
    candidates: Sequence[tuple[str, float]], choices: Sequence[str]
) -> dict[str, float]:
    """Adds up the candidates' probabilities per choice.

    A candidate counts for the choice that it spells, case, white space and punctuation aside, or
    else for the only choice that it begins.

    >>> masses = label_masses([(" Yes", math.log(0.5)), ("may", math.log(0.25))], ("yes", "maybe"))
    >>> {choice: round(mass, 2) for choice, mass in masses.items()}
    {'yes': 0.5, 'maybe': 0.25}
    """
    masses = dict.fromkeys(choices, 0.0)
    for token, logprob in candidates:
        text = token.replace("Ġ", " ").replace("▁", " ").strip(" \t\n*_`\"'.,:;!?()[]").casefold()
        if not text:
            continue
        spelt = [choice for choice in choices if choice.casefold() == text]
        begun = [choice for choice in choices if choice.casefold().startswith(text)]
        owner = spelt or begun
        if len(owner) == 1:
            masses[owner[0]] += math.exp(logprob)
    return masses
