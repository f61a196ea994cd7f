"""Evaluation items: one question about one document, and the prompt layout of its task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document, Message, Piece, Question
from agenticlu.documents.tokens import Tokenizer
from agenticlu.engines.base import Engine, Sampling


class DoesNotFitError(UsageError):
    """The shortest item of a task is longer than the length wanted."""

    def __init__(self, task: str, length: int) -> None:
        super().__init__(
            f"{task} does not fit into {length} tokens.", hint="Choose a longer length for it."
        )


@dataclass(frozen=True)
class Prompt:
    """A task's own prompt layout, as HELMET sends it: used by the method `helmet`."""

    template: str
    """The user part, with fields in braces; the field `context` is the document."""
    fields: Mapping[str, Any]
    """Values of the fields, but for the context."""
    context: str
    label: str
    """What the reply continues, such as `Answer:`."""
    separator: str
    """Between the two in completion mode."""
    chat: bool
    """Chat mode sends the user part alone; the reply is scored without the label."""

    @property
    def user(self) -> str:
        """The user part, demonstrations and context included."""
        return self.template.format(context=self.context, **self.fields)

    @property
    def text(self) -> str:
        """What is sent."""
        return self.user if self.chat else self.user + self.separator + self.label


@dataclass(frozen=True)
class Item:
    """One question about one document."""

    task: str
    length: int
    """Nominal document length in tokens."""
    document: Document
    question: Question
    rule: str = "open"
    """Name of the scoring rule in `agenticlu.evaluation.scoring.rules`."""
    gold_spans: tuple[tuple[int, int], ...] | None = None
    """Characters of the document that hold the facts needed; None when unknown."""
    group: str = ""
    """Items of one group share a long prefix; empty means: those of one document do."""
    cluster: str = ""
    """Unit of the intervals: items of one cluster are not independent. Empty: the document."""
    max_tokens: int | None = None
    """Most tokens of a scored reply that the task itself asks for; None leaves it to the run."""
    prompt: Prompt | None = None
    """The task's own layout; None where it has none."""
    reference: Mapping[str, Any] = field(default_factory=dict)
    """What the scoring rule needs besides the accepted answers."""
    row: Mapping[str, Any] | None = None
    """The row's other columns than its context: HELMET's own, for its result file, or a
    generator's, with the seed that every draw follows from."""

    @property
    def session(self) -> str:
        """Name of the prefix shared with other items."""
        return self.group or self.document.id

    @property
    def unit(self) -> str:
        """Cluster for the intervals."""
        return self.cluster or self.document.id

    @property
    def depth(self) -> float | None:
        """Where the first gold span starts, from 0 (first character) to 1; None when unknown."""
        if not self.gold_spans or not self.document.text:
            return None
        return min(start for start, _ in self.gold_spans) / len(self.document.text)


def gold_pieces(item: Item, pieces: Sequence[Piece]) -> tuple[int, ...] | None:
    """Returns the pieces that overlap a gold span, ascending, or None where gold is unknown."""
    if item.gold_spans is None:
        return None
    return tuple(
        piece.index
        for piece in pieces
        if any(start < piece.end and piece.start < end for start, end in item.gold_spans)
    )


def in_form(item: Item, *, chat: bool) -> Item:
    """Returns an item whose layout, where it has one, is sent as chat or as a text to continue."""
    if item.prompt is None or item.prompt.chat == chat:
        return item
    return replace(item, prompt=replace(item.prompt, chat=chat))


CHAT_TOKENS = 64
"""Assumed where an engine does not report them: more than today's templates add."""
PLAIN_TOKENS = 1
"""Likewise for a text to continue: a start token."""
SAMPLE = "Which of these words comes first in the alphabet: lantern, copper, meadow?"


async def measure_framing(engine: Engine, tokenizer: Tokenizer, *, chat: bool) -> int:
    """Returns by how many tokens a prompt is longer than its text, from one short request.

    Args:
        engine: Says how many tokens it read.
        tokenizer: Counts the text, as it will count the prompts.
        chat: Whether the prompts are sent as chat.

    Raises:
        EngineError: The model could not be asked.
    """
    sampling = Sampling(max_tokens=1)
    if chat:
        reply = await engine.sample([Message(role="user", content=SAMPLE)], sampling)
    else:
        reply = await engine.complete(SAMPLE, sampling)
    if not reply.usage.prompt_tokens:
        return CHAT_TOKENS if chat else PLAIN_TOKENS
    return max(0, reply.usage.prompt_tokens - tokenizer.count(SAMPLE))
