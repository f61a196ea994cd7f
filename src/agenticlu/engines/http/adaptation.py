"""Learns from a server's refusals how it wants to be asked, and writes requests that way.

A parameter that a server refuses is dropped, renamed or bounded after the first refusal; a role
that it refuses is folded into others. What was learnt holds for the rest of the run and is told
once. Every step takes something away for good, so adapting ends, whatever a server answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agenticlu.core.records import Message
from agenticlu.engines.folding import fold_system, merge_turns
from agenticlu.engines.http.refusals import ROLES, Refusal

LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
LEAST_TEMPERATURE = 0.01
"""Sent for 0 where a server wants more than that; as good as greedy."""
LEAST_TOP_LOGPROBS = 2
MOST_LEAST_REPLY = 64
"""Most tokens asked for where a server insists on longer replies; more would cost too much."""
NEEDED = frozenset({"model", "messages", "prompt", *LENGTH_FIELDS})
"""Fields that are never dropped."""
NAMES = {
    "temperature": r"temperature",
    "top_p": r"top[_-]?p|nucleus",
    "seed": r"seed",
    "n": r"['\"`\[]n['\"`\]]|\bn (?:>|must|is|should|=)|parameter n\b|candidate_?count"
    r"|only one (?:completion|candidate)|(?:multiple|several) (?:candidate|choice|completion)s",
    "stop": r"['\"`\[]stop['\"`\]]|stop[ _]?sequences?|parameters? stop\b|stop(?=\W*$)",
    "logprobs": r"logprobs|log[ _-]?prob",
    "top_logprobs": r"logprobs|log[ _-]?prob",
    "response_format": r"response_?format|json_?schema|structured output|guided|grammar",
}
"""How servers name a field in their words; others by its own name."""
_REFUSES = re.compile(
    r"\bnot\b|n't\b|\bun(?:supported|known|recogni[sz]ed|expected|available)|invalid|extra|forbid"
    r"|\bonly\b|must|cannot|should|disallow|refus|at most|exceed|greater|less than|malformed",
    re.IGNORECASE,
)
_POSITIVE = re.compile(
    r"strictly positive|greater than 0|> ?0(?:\.0)?\b|above 0|must be positive|non-?zero",
    re.IGNORECASE,
)
_RANGE = re.compile(r"between|range|at most|less than or equal|<=|maximum", re.IGNORECASE)
_CAP = re.compile(
    r"(?:max(?:imum)?(?: allowed| value)?|at most|less than or equal to|<=|between \d+ and|up to"
    r"|limit(?: of| is)?)\W{0,3}(\d{1,3})\b",
    re.IGNORECASE,
)
_LEAST = re.compile(r"(?:minimum|at least|>=|greater than or equal to)\W{0,3}(\d{1,3})\b", re.I)
_STREAM = re.compile(
    r"only supports? stream|stream(?:ing)? (?:mode )?is required|must be (?:streamed|streaming)"
    r"|enable the stream|stream(?:ing)?=true",
    re.IGNORECASE,
)
_STARTS = re.compile(
    r"\balternat(?:e|ing)\b|successive|consecutive|or more assistant", re.IGNORECASE
)

TOLD = {
    "temperature": "takes no temperature, so it samples at its own: replies meant to be greedy may"
    " differ from run to run.",
    "top_p": "takes no top_p; its own is used.",
    "seed": "does not take a seed; its samples are not reproducible.",
    "n": "does not take n; samples are asked for one by one.",
    "stop": "does not take stop sequences as they are; replies are cut here, and what is cut is"
    " paid for.",
}
"""What each missing field changes. Other fields, such as reply schemas and thinking switches, are
left to the code that sends them: it knows what to do without."""


@dataclass
class Dialect:
    """How one server wants to be asked."""

    length_field: str = "max_tokens"
    dropped: set[str] = field(default_factory=set)
    """Fields that are no longer sent."""
    folds_system: bool = False
    merges_turns: bool = False
    least_temperature: float = 0.0
    most_top_logprobs: int | None = None
    least_reply_tokens: int = 1
    most_reply_tokens: int | None = None
    streams: bool = False
    """Whether it answers only with streams."""
    told: dict[str, str] = field(default_factory=dict)
    """What was adapted, by the setting that it concerns, in words for people."""

    def arrange(self, messages: Sequence[Message]) -> Sequence[Message]:
        """Returns a conversation in roles that the server takes."""
        if self.folds_system:
            messages = fold_system(messages)
        return merge_turns(messages) if self.merges_turns else messages

    def write(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the body of a request in the fields that the server takes.

        Args:
            body: In the protocol's own; the length under `max_tokens`.
        """
        written = {name: value for name, value in body.items() if name not in self.dropped}
        if written.get("temperature") == 0.0 and self.least_temperature:
            written["temperature"] = self.least_temperature
        if self.most_top_logprobs is not None and "top_logprobs" in written:
            written["top_logprobs"] = min(written["top_logprobs"], self.most_top_logprobs)
        length = written.get("max_tokens")
        if length is not None:
            length = max(length, self.least_reply_tokens)
            written["max_tokens"] = min(length, self.most_reply_tokens or length)
        if length is not None and "messages" in written and self.length_field != "max_tokens":
            written[self.length_field] = written.pop("max_tokens")
        if self.streams:
            options = {"stream": True, "stream_options": {"include_usage": True}}
            written |= {name: one for name, one in options.items() if name not in self.dropped}
        return written

    def learn(self, refusal: Refusal, body: Mapping[str, Any], asked: Sequence[Message]) -> None:
        """Changes what is sent where a refusal says how; it may say nothing of use.

        Args:
            refusal: The server's words.
            body: What was sent.
            asked: The conversation, as it was before `arrange`; empty for a plain text.
        """
        text = refusal.text
        if _STREAM.search(text) and "stream" not in body:
            self.streams = True
            return
        if asked and ROLES.search(text) and self._learn_roles(text, asked):
            return
        for name in named_fields(refusal, body):
            self._learn_field(name, refusal, body)

    def _learn_roles(self, text: str, asked: Sequence[Message]) -> bool:
        """Folds what is left to fold; False where that was done before."""
        before = self.arrange(asked)
        merged = merge_turns(asked)
        if _STARTS.search(text) and not self.merges_turns and len(merged) < len(asked):
            self.merges_turns = True
            self._tell("roles", "wants roles to alternate; neighbours of one role are joined.")
        elif asked[0].role == "system":
            self.folds_system = True
            self._tell("system", "has no system role; its text opens the first user message.")
        return self.arrange(asked) != before

    def _learn_field(self, name: str, refusal: Refusal, body: Mapping[str, Any]) -> None:
        text = refusal.text
        if name in LENGTH_FIELDS:
            least = _LEAST.search(text)
            if least and int(least[1]) > body[name]:
                self.least_reply_tokens = min(int(least[1]), MOST_LEAST_REPLY)
            elif name == "max_tokens":
                self.length_field = "max_completion_tokens"
        elif name == "temperature" and _POSITIVE.search(text) and body[name] < LEAST_TEMPERATURE:
            self.least_temperature = LEAST_TEMPERATURE
            self._tell(name, f"takes no temperature of 0; {LEAST_TEMPERATURE} is sent.")
        elif name == "temperature" and body[name] > 1 and _RANGE.search(text):
            return  # the value is at fault, and it is the caller's
        elif name in ("logprobs", "top_logprobs"):
            cap = _CAP.search(text)
            if cap and LEAST_TOP_LOGPROBS <= int(cap[1]) < body.get("top_logprobs", 0):
                self.most_top_logprobs = int(cap[1])
                words = f"gives {cap[1]} log-probabilities; a label not among them counts as 0."
                self._tell("top_logprobs", words)
        elif name in TOLD or name == "stream_options":
            self.dropped.add(name)
            if name in TOLD:
                self._tell(name, TOLD[name])

    def bound_replies(self, tokens: int) -> None:
        """Caps the reply length that is asked for at what the model may write."""
        self.most_reply_tokens = min(tokens, self.most_reply_tokens or tokens)
        self._tell("max_tokens", f"writes replies of at most {tokens} tokens.")

    def note_room(self) -> None:
        """Notes that a reply was given less room than was asked for."""
        self._tell("window", "has less room behind long prompts; replies there end earlier.")

    def _tell(self, setting: str, words: str) -> None:
        self.told.setdefault(setting, words)


def named_fields(refusal: Refusal, body: Mapping[str, Any]) -> list[str]:
    """Returns the fields of a request that a refusal is about, where it names any.

    Servers name one in a field of the error, in a validator's path, or in the first sentence that
    refuses something.

    >>> text = "bedrock does not support parameters: ['seed', 'n'], for model=x. Drop them."
    >>> named_fields(Refusal(400, text), {"seed": 7, "n": 2, "model": "x"})
    ['seed', 'n']
    """
    heads = {re.split(r"[.\[]", path)[0] for path in (refusal.param, *refusal.fields)}
    found = [name for name in body if name in heads and _may_change(name)]
    sentences = re.split(r"(?<=[.;\n])\s", refusal.text)
    for sentence in sentences if not found else ():
        if _REFUSES.search(sentence):
            found = list(_named_in(sentence, body))
            if found:
                break
    if {"temperature", "top_p"} <= set(found) and re.search(r"\bboth\b|\bone\b", refusal.text):
        return ["top_p"]  # they may not be sent together
    return found


def _named_in(sentence: str, body: Mapping[str, Any]) -> Iterator[str]:
    for name in body:
        pattern = NAMES.get(name, re.escape(name))
        if _may_change(name) and re.search(rf"(?<!\w)(?:{pattern})(?!\w)", sentence, re.IGNORECASE):
            yield name


def _may_change(name: str) -> bool:
    return name not in NEEDED or name in LENGTH_FIELDS
