"""What a report is made of: plain records, so that a page can be built without any file.

page = build_report(ReportData(title="My run", documents=(...), trees=(...)))
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agenticlu.core.records import Document, Pair, Piece, Record, Tree, Usage

REPORT_VERSION = 1
"""Goes up when a reader of an older report's JSON would misread a new one."""


class Measure(Record):
    """A mean over questions with its 95% interval."""

    mean: float
    low: float | None = None
    """Lower end; None when no interval is known."""
    high: float | None = None
    n: int = 0
    """Questions that were scored; failed and unscored ones are not in it."""


class ResultRow(Record):
    """One cell of the results table: a system and a method on a task at one length."""

    system: str
    """Which weights answered: 'base', 'trained', or the label given on the command line."""
    method: str
    task: str
    length: int
    """Nominal document length in tokens."""
    metric: str
    score: Measure
    num_failed: int = 0
    num_truncated: int = 0
    """Scored items whose document was cut to fit the window."""
    num_cut_off: int = 0
    """Scored items whose reply ended at the token limit."""
    usage: Usage = Usage()
    """Cost of all scored items together, as run: items share what they read of a document."""
    lone_tokens_per_item: float | None = None
    """Mean cost of a scored item that is asked alone, in tokens computed: the same in whatever
    order items and methods run. None where the predictions do not say."""
    seconds: float = 0.0
    """Time of all scored items together."""
    point_precision: Measure | None = None
    """Share of cited pieces that are gold; None where gold or citations do not apply."""
    point_recall: Measure | None = None
    """Share of gold pieces that were cited."""
    by_depth: dict[str, Measure] = Field(default_factory=dict)
    """Score by where the first gold fact stands, in fifths of the document: '0.0-0.2' and so on;
    empty where that is not known."""

    @property
    def computed_tokens_per_item(self) -> float:
        """Mean cost of a scored item as run; 0 when none was scored."""
        return self.usage.computed_tokens / self.score.n if self.score.n else 0.0


class Gain(Record):
    """A paired difference between two cells, over the questions that both scored."""

    task: str
    length: int
    baseline: str
    """System and method in words, such as 'base model answering directly'."""
    contender: str
    """The same of the other side, such as 'trained model with clarifications'."""
    metric: str = "correct"
    baseline_mean: float
    contender_mean: float
    difference: Measure


class Change(Record):
    """A question that one side of a comparison answered right and the other wrong."""

    task: str
    length: int
    question: str
    gold: tuple[str, ...]
    before: str
    """The baseline's answer."""
    after: str
    """The contender's answer."""
    gained: bool
    """Whether the contender is the one that is right."""


class Stage(Record):
    """What one stage of the work cost."""

    group: str
    """Which part of the work: 'search', 'judges', 'training' or 'evaluation'."""
    name: str
    usage: Usage


class Curve(Record):
    """One quantity over the steps of one training run."""

    run: str
    quantity: str
    """Key in `metrics.jsonl`, such as 'loss'."""
    points: tuple[tuple[float, float], ...]
    """(step, value), ascending in step."""
    split: str = "training"
    """'training' or 'validation'."""


class ReportData(Record):
    """All that a page shows; every part may be absent, and its section is then left out."""

    title: str = "agenticlu report"
    created: str | None = None
    """When the report was written, in words; None leaves it out (the builder knows no clock)."""
    documents: tuple[Document, ...] = ()
    pieces: dict[str, tuple[Piece, ...]] = Field(default_factory=dict)
    """Pieces of each document by document id; a document without them is shown as one text."""
    trees: tuple[Tree, ...] = ()
    pairs: tuple[Pair, ...] = ()
    results: tuple[ResultRow, ...] = ()
    gains: tuple[Gain, ...] = ()
    """The first one makes the headline."""
    changes: tuple[Change, ...] = ()
    """Questions behind the gains; may be cut to some of each kind."""
    funnels: dict[str, dict[str, int]] = Field(default_factory=dict)
    """What became of the 'nodes', 'rows' and 'traces' of a data set: reason to number."""
    stages: tuple[Stage, ...] = ()
    """Costs that the trees do not hold (training, evaluation); those of the trees are added."""
    curves: tuple[Curve, ...] = ()
    config: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Resolved configurations by the folder they came from; secrets are blanked on the way out."""
    errors: tuple[str, ...] = ()
    """Failures worth listing, in words: items of an evaluation, torn lines, missing files."""
