"""The most tokens that a call may cost, known before it is sent.

What a call that a kill cuts off had cost by then, nobody can tell: its bound is kept in its place.
A prompt has at most a token for each byte; as soon as calls were answered, that of others is known
better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from agenticlu.core.records import Usage
from agenticlu.documents.tokens import CHARACTERS_PER_TOKEN

MARGIN = 1.5
"""How much denser than the densest prompt so far another may be."""
NEWS = 1.1
"""How much denser a prompt must be than all before it to be written down."""
TEMPLATE_TOKENS = 128
"""Tokens that a chat template adds to a conversation, at most: some write a system prompt."""
CHOICE_REQUESTS = 2
"""Where log-probabilities show no choice, a reply is asked for and parsed."""
SETUP_TOKENS = 4000
"""What finding out about an engine costs until its first reply, at most."""


@dataclass(frozen=True)
class Size:
    """The size of a call."""

    kind: str
    """'sample', 'complete', 'choices' or 'reply'."""
    texts: Sequence[str]
    """Of the prompt."""
    num_replies: int
    reply_tokens: int
    """Maximum of one reply."""

    @property
    def name(self) -> str:
        """Of all calls of the kind with as many replies."""
        return f"{self.kind} {self.num_replies}"

    @property
    def characters(self) -> int:
        """Length of the prompt."""
        return sum(map(len, self.texts))

    @property
    def expected_tokens(self) -> int:
        """The cost by estimate, with replies as long as allowed."""
        return self.characters // CHARACTERS_PER_TOKEN + self.num_replies * self.reply_tokens


@dataclass(eq=False)
class Bounds:
    """Bounds the cost of calls to one engine, by what earlier ones cost.

    >>> bounds, size = Bounds(), Size("sample", ("word " * 400,), 1, 50)
    >>> bounds.most(size).computed_tokens
    2178
    >>> bounds.learn(size, Usage(requests=1, prompt_tokens=420, completion_tokens=9))
    True
    >>> bounds.most(size).computed_tokens
    680
    """

    known: dict[str, list[float]] = field(default_factory=dict)
    """By kind of call: the requests that the last one took, and the most tokens of a prompt for
    each of its characters."""

    def most(self, size: Size, thinking_room: int = 0) -> Usage:
        """Returns the most tokens that a call may cost.

        Args:
            size: Of the call.
            thinking_room: Tokens that the engine adds to each reply.
        """
        prompt = TEMPLATE_TOKENS + sum(len(t.encode("utf-8", "surrogatepass")) for t in size.texts)
        # Not every server samples several replies to one request.
        requests: float = CHOICE_REQUESTS if size.kind == "choices" else size.num_replies
        densest = max((density for _, density in self.known.values()), default=None)
        if size.name in self.known:
            requests, densest = self.known[size.name]
        if densest is not None:
            prompt = min(prompt, math.ceil(size.characters * densest * MARGIN))
        return Usage(
            prompt_tokens=int(requests) * prompt,
            completion_tokens=max(int(requests), size.num_replies)
            * (size.reply_tokens + thinking_room),
        )

    def learn(self, size: Size, usage: Usage) -> bool:
        """Takes note of what a call cost; returns whether that was news."""
        requests = max(1, usage.requests)
        density = usage.prompt_tokens / requests / max(1, size.characters)
        before, densest = self.known.get(size.name, (0, 0.0))
        self.known[size.name] = [requests, max(density, densest)]
        return requests != before or density > NEWS * densest
