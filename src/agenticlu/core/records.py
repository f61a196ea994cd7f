"""Records that are written to files and read back (documents, trees, pairs, ...); token prices.

All records are frozen, reject unknown fields and survive a JSON round trip. `SCHEMA_VERSION`
increases when an old reader would misread a new file.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from agenticlu.core.errors import UsageError

SCHEMA_VERSION = 1

Role = Literal["system", "user", "assistant"]
TurnKind = Literal["direct", "clarify", "point", "sub_answer", "answer", "check"]
"""The purpose of a turn: one user request and one assistant reply."""
FinishReason = Literal["stop", "length", "refused", "unknown"]
NodeStatus = Literal["done", "failed"]


LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which no file in UTF-8 can hold."""


def without_lone_surrogates(text: str) -> str:
    r"""Replaces lone surrogates, which UTF-8 cannot encode; keeps the length.

    >>> without_lone_surrogates("a" + chr(0xD83D))
    'a\ufffd'
    """
    return LONE_SURROGATE.sub("\ufffd", text)


def content_id(*parts: str, length: int = 16) -> str:
    """Returns a stable hexadecimal id of the parts (SHA-256, unit-separated).

    Independent of PYTHONHASHSEED, of the process and of the clock.
    """
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:length]


def content_seed(*parts: str) -> int:
    """Returns a stable seed in [0, 2**31) derived from the parts."""
    return int(content_id(*parts, length=16), 16) % (1 << 31)


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One message of a conversation, as chat templates take it."""

    role: Role
    content: str


class Usage(Record):
    """The cost of one or more requests in tokens."""

    requests: int = 0
    """Requests sent to the engine."""
    prompt_tokens: int = 0
    """Tokens of the prompts, cached ones included."""
    cached_tokens: int = 0
    """Prompt tokens whose keys and values were reused instead of computed."""
    completion_tokens: int = 0
    """Tokens sampled, over all samples; thinking included."""
    thinking_tokens: int = 0
    """Those of them that a model thought before its replies."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            thinking_tokens=self.thinking_tokens + other.thinking_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(**{name: value - getattr(other, name) for name, value in self})

    @property
    def sampled(self) -> str:
        """Tokens sampled, for people; with those of them that were thought, where there are any."""
        thought = f" ({self.thinking_tokens:,} of them thought)" if self.thinking_tokens else ""
        return f"{self.completion_tokens:,} sampled{thought}"

    @property
    def computed_tokens(self) -> int:
        """Uncached prompt tokens plus sampled tokens: what the engine really worked through."""
        return self.prompt_tokens - self.cached_tokens + self.completion_tokens

    def as_dict(self) -> dict[str, int]:
        """Returns the counts by name, computed tokens included."""
        return {**self.model_dump(), "computed_tokens": self.computed_tokens}


@dataclass(frozen=True)
class Prices:
    """Per million tokens, in any one currency; and a measured rate.

    Raises:
        UsageError: One of them is negative or not finite, or only one of prompt and completion is
            given.
    """

    prompt: float | None = None
    completion: float | None = None
    cached: float | None = None
    """None: as dear as any prompt token."""
    tokens_per_s: float | None = None
    """Computed and sampled tokens a second, all requests in flight together."""

    def __post_init__(self) -> None:
        for name, value in (
            ("--price-in", self.prompt),
            ("--price-out", self.completion),
            ("--price-cached", self.cached),
        ):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number of at least 0, not {value:g}.")
        if (self.prompt is None) != (self.completion is None):
            raise UsageError(
                "A price needs both --price-in and --price-out.",
                hint="Give 0 for tokens that cost nothing.",
            )
        rate = self.tokens_per_s
        if rate is not None and not 0 < rate < math.inf:
            raise UsageError(f"--tokens-per-s must be a number above 0, not {rate:g}.")

    def price(self, usage: Usage) -> float | None:
        """Returns what tokens cost, or None when no price is known."""
        if self.prompt is None or self.completion is None:
            return None
        cached = self.prompt if self.cached is None else self.cached
        computed = usage.prompt_tokens - usage.cached_tokens
        return (
            computed * self.prompt
            + usage.cached_tokens * cached
            + usage.completion_tokens * self.completion
        ) / 1_000_000

    def seconds(self, usage: Usage) -> float | None:
        """Returns the time that tokens take, or None when no rate is known."""
        if self.tokens_per_s is None:
            return None
        return usage.computed_tokens / self.tokens_per_s


NO_PRICES = Prices()


class Page(Record):
    """The span of a source page in the document's text."""

    number: int
    """Page number in the source, from 1."""
    start: int
    """First character of the page in `Document.text`."""
    end: int
    """One past the last character."""
    name: str | None = None
    """What the source calls it, such as 'slide 3' or 'sheet Prices'; None: 'page 3'."""

    @property
    def label(self) -> str:
        """What people are told: the source's own name, else the number."""
        return self.name or f"page {self.number}"


class Part(Record):
    """One of several sources that were read as one document."""

    source: str
    """Its origin, as `Document.source`."""
    name: str
    """What people and models are shown: short, and no other part's."""
    start: int
    """First character of its text in `Document.text`."""
    end: int
    """One past the last character; a blank line may stand between it and the next part."""
    title: str | None = None
    pages: tuple[Page, ...] = ()
    """Its own pages, numbered as in the source; their characters are of `Document.text`."""
    left_out: dict[str, int] = {}
    """As `Document.left_out`, of this source alone."""


class Document(Record):
    """A source text, or several read as one."""

    id: str
    """Content hash of the text."""
    text: str
    source: str
    """Its origin: a path, '-' for standard input, or a generator's name."""
    title: str | None = None
    pages: tuple[Page, ...] = ()
    """Empty when the source has no pages, or when there are parts: pages are theirs then."""
    left_out: dict[str, int] = {}
    """What of the source the text does not hold, counted by kind in the singular: 'image'. Of
    several sources: what was passed over, such as a 'hidden file'; each part counts its own."""
    parts: tuple[Part, ...] = ()
    """The sources of a reading of several, in the order of the text; empty for a single one."""
    unread: dict[str, str] = {}
    """Sources among several that could not be read, by name, and why."""
    _places: Any = PrivateAttr(default=None)

    @classmethod
    def of(cls, text: str, source: str, *, places: Any = None, **fields: Any) -> Document:
        """Builds a document whose id is the hash of its text."""
        document = cls(id=content_id(text), text=text, source=source, **fields)
        return document.with_places(places)

    def with_places(self, places: Any) -> Document:
        """Returns the document with the places of its words (see `places`)."""
        document = self.model_copy()
        document._places = places
        return document

    @property
    def places(self) -> Any:
        """Where its words stand (`agenticlu.documents.rectangles.Places`), or None; never saved."""
        return self._places

    @property
    def sections(self) -> tuple[tuple[int, int], ...]:
        """The spans of the parts, together the whole text; pieces end where a section does."""
        starts = [part.start for part in self.parts] or [0]
        return tuple(pairwise((*starts, len(self.text))))

    @property
    def pages_by_name(self) -> dict[str, tuple[Page, ...]]:
        """The pages of each part by its name, of a single document by its source."""
        if not self.parts:
            return {self.source: self.pages}
        return {part.name: part.pages for part in self.parts}

    @property
    def left_out_by_name(self) -> dict[str, dict[str, int]]:
        """What each part leaves out by its name, and the whole by its source, where it is any."""
        counts = {self.source: self.left_out} | {part.name: part.left_out for part in self.parts}
        return {name: kinds for name, kinds in counts.items() if kinds}

    def part_of(self, offset: int) -> Part | None:
        """Returns the part that holds the character at `offset`; None in a single document."""
        index = bisect.bisect_right(self.parts, offset, key=lambda part: part.start) - 1
        return self.parts[index] if index >= 0 else None

    def page_at(self, offset: int) -> Page | None:
        """Returns the page that holds the character at `offset`, if pages exist.

        In a reading of several sources it is one of the character's own source.
        """
        part = self.part_of(offset)
        pages = self.pages if part is None else part.pages
        index = bisect.bisect_right(pages, offset, key=lambda page: page.start) - 1
        # Of pages that begin at one character all but the last are blank.
        return pages[index] if index >= 0 and offset < pages[index].end else None

    def page_of(self, offset: int) -> int | None:
        """Returns the number of the page that holds the character at `offset`, if pages exist."""
        page = self.page_at(offset)
        return None if page is None else page.number


class Piece(Record):
    """A window of a document."""

    index: int
    """Number shown in the paragraph marker, from 0."""
    start: int
    """First character in the document's text."""
    end: int
    """One past the last character."""
    num_tokens: int
    """Tokens of the piece, counted when the whole document is tokenised at once."""
    page: int | None = None
    """Page of the first character, or None where the source has no pages."""


class Question(Record):
    """A question about one document."""

    id: str
    text: str
    answers: tuple[str, ...] = ()
    """Accepted answers; empty when unknown (as in `ask`)."""
    options: tuple[str, ...] = ()
    """Options of a multiple choice question, without letters; empty for an open one."""
    gold_pieces: tuple[int, ...] | None = None
    """Pieces that hold the facts needed; None when unknown."""
    hops: int | None = None
    """Facts that must be combined; None when unknown."""


class Turn(Record):
    """One request and its reply. The document is not repeated here: the dialogue renders it."""

    kind: TurnKind
    wording: str
    """Id of the request's wording in the profile."""
    request: str
    """Text of the request, without the document."""
    reply: str
    token_ids: tuple[int, ...] | None = None
    """Ids of the reply as the engine sampled them, end token excluded; None where not known."""
    finish_reason: FinishReason = "unknown"
    usage: Usage | None = None
    """Cost of the request that produced this reply; shared by its sibling samples. None for
    replies that no engine sampled (marks written by grounding)."""


class Verdict(Record):
    """One judge's finding about one answer."""

    judge: str
    value: float | None
    """In [0, 1]; None means unscored (the verdict could not be parsed), never 0."""
    reason: str = ""
    usage: Usage | None = None


class Node(Record):
    """One round in the tree; the root holds the direct answer."""

    id: str
    parent: str | None
    depth: int
    """0 for the root."""
    ordinal: int
    """Which of its parent's samples this is, from 0."""
    turns: tuple[Turn, ...]
    kept: tuple[int, ...] = ()
    """Pieces that grounding found to bear on the clarification, ascending."""
    relevance: tuple[float, ...] | None = None
    """Grounding score per piece (probability of yes plus half of maybe); None where not scored."""
    answer: str = ""
    """Final answer parsed from the answer turn."""
    verdicts: tuple[Verdict, ...] = ()
    score: float | None = None
    """Combined verdicts in [0, 1]; None when unscored."""
    status: NodeStatus = "done"
    failure: str | None = None
    """Why the node failed; None when it did not."""
    seed: int = 0


class Tree(Record):
    """All rounds for one (document, question)."""

    version: int = SCHEMA_VERSION
    id: str
    document_id: str
    question: Question
    system: str
    """Wording of the system turn, fixed per document."""
    profile: str
    """Name and version of the prompt profile."""
    nodes: tuple[Node, ...]
    """Parents before children; nodes[0] is the root."""
    outcome: Literal["solved", "unsolved", "too-easy", "failed", "budget"] = "unsolved"
    """too-easy: the direct answer and every expansion were right."""
    usage: Usage = Usage()
    closed_book: float | None = None
    """Share of the answers given without the document that were right; None when not asked."""
    shortfall: int = 0
    """Clarifications that its expansions wanted and did not find; 0 in older files."""
    chosen: dict[str, str] = {}
    """What the search chose where its settings said `auto`: the view, the grounding."""

    def path(self, node_id: str) -> tuple[Node, ...]:
        """Returns the nodes from the root to `node_id`, both included."""
        by_id = {node.id: node for node in self.nodes}
        path = [by_id[node_id]]
        while path[-1].parent is not None:
            path.append(by_id[path[-1].parent])
        return tuple(reversed(path))

    def children(self, node_id: str) -> tuple[Node, ...]:
        """Returns the children of a node in sample order."""
        return tuple(node for node in self.nodes if node.parent == node_id)


class Pair(Record):
    """Two continuations of the same history, one better than the other."""

    id: str
    tree_id: str
    document_id: str
    question_id: str
    kind: Literal["step", "path"]
    chosen: str
    """Node id."""
    rejected: str
    """Node id."""
    score_chosen: float
    score_rejected: float


class Prediction(Record):
    """One answer to one question by one method: a line of an evaluation's results."""

    id: str
    """Content hash of (engine, method, task, length, question, seed)."""
    task: str
    method: str
    length: int
    """Nominal document length in tokens."""
    document_id: str
    question_id: str
    question: str
    gold: tuple[str, ...]
    raw: str = ""
    """The scored reply as sampled."""
    answer: str = ""
    """Final answer parsed from it."""
    scores: dict[str, float] = {}
    """Metric name to value in [0, 1]; empty when the item failed."""
    cited: tuple[int, ...] = ()
    gold_pieces: tuple[int, ...] | None = None
    hops: int | None = None
    turns: tuple[Turn, ...] = ()
    usage: Usage = Usage()
    seconds: float = 0.0
    truncated: bool = False
    """The document was cut to fit the window. A reply cut at the token limit is not meant."""
    overlong: str = ""
    """How a document longer than the window was met, and that window ('fit 8192'), be it that the
    item failed or that it was cut; empty where the document fits."""
    conditions: dict[str, str | int | float | bool | None] = {}
    """Conditions it was asked under: settings that comparable results must share, and weights."""
    part_of: str = ""
    """Id of the prediction of more rounds whose first turns these are: the same requests, paid
    once. Empty where they are its own."""
    error: str | None = None
    """Why the item failed; None when it did not."""
    engine: str = ""
    """Name, or label given on the command line, of what answered."""
    options: tuple[str, ...] = ()
    """Options of a multiple choice question; empty for an open one."""
    unit: str = ""
    """Cluster of items that are not independent of each other; empty: the document."""
    depth: float | None = None
    """Position of the first gold fact in the document, 0 to 1; None when unknown."""
    gold_present: bool | None = None
    """Whether a gold answer occurs, as words, in what was left of the document; None where answers
    are not meant to be copied."""
    rule: str | None = None
    """Name of the scoring rule; None in files of older versions."""
    reference: dict[str, Any] = {}
    """Further data that the rule needs besides `gold` and `options`; never passages."""
