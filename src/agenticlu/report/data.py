"""The records that a page is made of, so that a report can be built without any file.

page = build_report(ReportData(title="My run", documents=(...), trees=(...)))
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from agenticlu.core.records import Document, Pair, Piece, Record, Tree, Usage
from agenticlu.evaluation.results import Cell, Difference

REPORT_VERSION = 2
"""Goes up when a reader of an older report's JSON would misread a new one."""


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
    """Date of the report, as shown; None leaves it out (the builder reads no clock)."""
    documents: tuple[Document, ...] = ()
    pieces: dict[str, tuple[Piece, ...]] = Field(default_factory=dict)
    """Pieces of each document by document id; a document without them is shown as one text."""
    trees: tuple[Tree, ...] = ()
    pairs: tuple[Pair, ...] = ()
    results: tuple[Cell, ...] = ()
    """Cells of the evaluations; `engine` is the name of the model: 'base', 'trained', or a label
    given on the command line."""
    gains: tuple[Difference, ...] = ()
    """The differences to show, of the engines in `results`; the first one makes the headline."""
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
    """Failures worth listing: items of an evaluation, unfinished questions."""
