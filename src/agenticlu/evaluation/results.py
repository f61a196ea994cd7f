"""Records of evaluation results: the content of `summary.json`, which tables and reports read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Record, Usage
from agenticlu.core.statistics import MeanEstimate

SUMMARY_NAME = "summary.json"
SUMMARY_VERSION = 2


class Overhead(Record):
    """What a method costs, as a multiple of `direct` on the same items."""

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
    """What failed items cost before they failed."""
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
    """How far a score holds as documents grow."""

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
    run_notes: tuple[str, ...] = ()
    """Those of the notes that only the run itself knows, such as a fall-back."""
    notes: tuple[str, ...] = ()
    """Sentences that a reader of the figures has to know: few clusters, nothing to pair, why the
    run ended early."""
    usage: Usage
    """What all items cost together, failed ones included."""

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
            hint="Run agenticlu eval first, or let it finish.",
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
