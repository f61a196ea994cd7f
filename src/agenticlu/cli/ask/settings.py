"""Settings of `agenticlu ask`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agenticlu.core.settings import (
    JsonSettings,
    ModelSettings,
    Positive,
    ReadingSettings,
    Spelling,
)


class AskSettings(ModelSettings, ReadingSettings, JsonSettings):
    """Settings of `agenticlu ask`."""

    questions: Annotated[
        tuple[str, ...], Spelling("question", ("-q", "--question"), separator="")
    ] = ()
    """A question; may be repeated."""
    questions_file: Annotated[str | None, Spelling("questions", metavar="FILE")] = None
    """Questions, one per line, or JSONL with question, options, id; '-' is standard input."""
    option: Annotated[tuple[str, ...], Spelling(separator="|", aliases=("options",))] = ()
    """A choice of a multiple-choice question; repeat it, or write A|B|C."""
    profile: str = "default"
    """Prompt profile: a bundled name or a TOML file."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Maximum rounds of clarification."""
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """Maximum tokens of a paragraph. Default: what suits the model, else 512."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    spans: bool = False
    """Read a document that is too long for the model piece by piece."""
    max_total_tokens: Positive | None = None
    """Maximum prompt and sampled tokens of one question. Default: no limit."""
    dry_run: bool = False
    """Estimate the cost; ask nothing."""
    quiet: bool = False
    """No progress and no inner steps on standard error."""
