"""Records of an evaluation: items and their prompts, and the results saved in `summary.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agenticlu.core.errors import StoreError, UsageError
from agenticlu.core.records import Document, Message, Piece, Question, Record, Usage
from agenticlu.core.statistics import MeanEstimate
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
        """The text that is sent."""
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


SUMMARY_NAME = "summary.json"
SUMMARY_VERSION = 2


class Overhead(Record):
    """The cost of a method, as a multiple of `direct` on the same items."""

    prompt_tokens: float | None = None
    """None where `direct` has no such cost, or was not run."""
    alone_tokens: float | None = None
    """Prompt tokens to compute, every item alone with an empty cache."""
    completion_tokens: float | None = None
    seconds: float | None = None
    """As run: cache and processor were shared with the other items in flight."""


class Cell(Record):
    """One engine and method on one task at one length."""

    engine: str
    method: str
    task: str
    length: int
    headline: str
    """Metric shown first."""
    metrics: dict[str, MeanEstimate]
    """Metric to mean and interval over the scored items."""
    num_scored: int
    num_failed: int
    num_truncated: int
    """Scored items whose document was cut to fit the window."""
    num_cut_off: int
    """Scored items whose answering reply ended at the token limit."""
    usage: Usage
    """All scored items together, as run: what was cached depends on which method came first."""
    alone_tokens: int | None = None
    """Prompt tokens that the scored items compute when each is asked alone with an empty cache:
    the cost to compare methods by, since it does not depend on what ran beside them. None where a
    prediction keeps no turns."""
    failed_usage: Usage = Usage()
    """The cost of failed items before they failed."""
    seconds: float
    """Sum over items of the time from their first request to their last reply, as run: with the
    other items in flight beside them."""
    overhead: Overhead | None = None
    """Against `direct` of the same engine; None where that was not run."""
    point_precision: MeanEstimate | None = None
    """Share of cited pieces that are gold; None where gold or citations do not apply."""
    point_recall: MeanEstimate | None = None
    """Share of gold pieces that were cited."""
    gold_present: float | None = None
    """Share of the items whose gold answer occurs in what was left of the document; None where
    answers are not to be copied."""
    by_hops: dict[int, MeanEstimate] = Field(default_factory=dict)
    """Headline metric by the number of facts to combine."""
    by_depth: dict[str, MeanEstimate] = Field(default_factory=dict)
    """Headline metric by the place of the first gold fact, in fifths: '0.0-0.2' and so on."""

    @property
    def score(self) -> MeanEstimate | None:
        """The headline metric; None when no item was scored."""
        return self.metrics.get(self.headline)

    @property
    def computed_tokens_per_item(self) -> float:
        """Mean cost of a scored item as run, in tokens computed or sampled; 0 for no items."""
        return self.usage.computed_tokens / self.num_scored if self.num_scored else 0.0

    @property
    def alone_tokens_per_item(self) -> float | None:
        """Mean cost of a scored item asked alone, in tokens computed or sampled."""
        if self.alone_tokens is None or not self.num_scored:
            return None
        return (self.alone_tokens + self.usage.completion_tokens) / self.num_scored


class Difference(Record):
    """A paired difference on the questions that both sides answered."""

    task: str
    length: int
    metric: str
    baseline_engine: str
    baseline_method: str
    engine: str
    method: str
    baseline_mean: float
    mean: float
    difference: MeanEstimate
    """Of the second against the first; its interval leaves out 0 when the two really differ."""


class EffectiveLength(Record):
    """The document length up to which a score holds."""

    engine: str
    method: str
    task: str
    metric: str
    base_length: int
    """Length of the score that counts as whole: the best one up to 1024 tokens."""
    base_score: float
    effective_length: int | None
    """Longest length up to which every score keeps 85% of it, counting failed items as wrong;
    None when it is 0 already."""
    unknown_from: int | None = None
    """First longer length without a result of this method, where that, and no low score, ended it:
    the effective length may be longer. None when a score ended it, or nothing did."""


class Failure(Record):
    """An item without a result."""

    id: str
    engine: str
    method: str
    task: str
    length: int
    question_id: str
    error: str


class Summary(Record):
    """Everything that an evaluation found: the content of `summary.json`."""

    version: int = SUMMARY_VERSION
    settings: dict[str, Any]
    """The resolved configuration of the last run into this folder."""
    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    """Against `direct` of the same engine, and against `direct` of the first engine."""
    effective_lengths: tuple[EffectiveLength, ...]
    failures: tuple[Failure, ...]
    """At most 100; `num_failed` counts all."""
    num_items: int
    num_failed: int
    left_out: tuple[str, ...] = ()
    """Sentences about tasks at lengths that their shortest item exceeds."""
    num_wanted: int | None = None
    """Items wanted of the tasks and lengths that a run had begun when it ended early; None where it
    ran to its end."""
    not_begun: tuple[str, ...] = ()
    """Tasks at lengths that it had not begun by then, such as 'world at 4096'."""
    run_notes: tuple[str, ...] = ()
    """Those of the notes that only the run itself knows, such as a fall-back."""
    adapted: tuple[str, ...] = ()
    """How servers had to be asked otherwise than the settings say, in any run into this folder."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the figures has to know: few clusters, nothing to pair, why the
    run ended early."""
    usage: Usage
    """The cost of all items, failed ones included."""

    def find(self, task: str, length: int, method: str, engine: str | None = None) -> Cell | None:
        """Returns a cell, of the first engine that has it unless one is named."""
        for cell in self.cells:
            place = (cell.task, cell.length, cell.method)
            if place == (task, length, method) and engine in (None, cell.engine):
                return cell
        return None


def load_summary(path: str | Path) -> Summary:
    """Loads a summary from its file or its folder.

    Raises:
        StoreError: The file is missing, or not a summary of this version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / SUMMARY_NAME
    if not path.is_file():
        raise StoreError(
            f"No evaluation summary found: {path} does not exist.",
            hint=f"To write it from the items that are finished: agenticlu eval table {path.parent}"
            if (path.parent / "predictions.jsonl").is_file()
            else "Run agenticlu eval first, or let it finish.",
        )
    try:
        return Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the top level"
        raise StoreError(
            f"{path} is not the summary of an evaluation: {first['msg']} at {where}.",
            hint=f"To write it again from the predictions: agenticlu eval table {path.parent}",
        ) from error
