"""Settings of `agenticlu ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from agenticlu.core.settings import (
    JsonSettings,
    ModelSettings,
    Positive,
    PrefixSettings,
    PriceSettings,
    ReadingSettings,
    Spelling,
)


class AskSettings(ModelSettings, ReadingSettings, PrefixSettings, PriceSettings, JsonSettings):
    """Settings of `agenticlu ask`."""

    questions: Annotated[
        tuple[str, ...], Spelling("question", ("-q", "--question"), separator="")
    ] = ()
    """A question; may be repeated."""
    questions_file: Annotated[str | None, Spelling("questions", metavar="FILE")] = None
    """Questions: a line each, JSONL with question, options, id, or a CSV table with a column
    'question'; '-' is standard input."""
    option: Annotated[tuple[str, ...], Spelling(separator="|", aliases=("options",))] = ()
    """A choice of a multiple-choice question; repeat it, or write A|B|C."""
    profile: str = "default"
    """Prompt profile: a bundled name or a TOML file."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Maximum rounds of clarification."""
    stop_rule: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Rule that says when a further round is worth it, from agenticlu generate stop-rule. Default:
    the model's own, if its folder holds one; else a self-check of yes ends the rounds."""
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """Maximum tokens of a paragraph. Default: what suits the model, else 512."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    spans: bool = False
    """Read a document that is too long for the model piece by piece."""
    shortlist: Positive = 128
    """Of several documents read by --spans: most pieces that the model scores for a question. A
    search by words finds them."""
    max_total_tokens: Positive | None = None
    """Maximum prompt and sampled tokens of one question. Default: no limit."""
    out: Annotated[Path | None, Spelling(metavar="TABLE")] = None
    """Ask each question of each document by itself, into this .csv or .jsonl table; run again to
    resume."""
    concurrency: Positive = 1
    """With --out: documents asked at once."""
    dry_run: bool = False
    """Estimate the cost; ask nothing."""
    quiet: bool = False
    """No progress and no inner steps on standard error."""
