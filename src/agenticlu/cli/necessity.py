"""`agenticlu generate necessity`: finds the pieces that the rounds of a run need."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from agenticlu.cli.options import BUNDLED_MODEL_NOTE, operand, settings_command
from agenticlu.cli.termination import run_until_terminated
from agenticlu.core.config import Resolved
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import JsonSettings, Spelling, TokenCount, TrustSettings

if TYPE_CHECKING:
    from agenticlu.data.necessity import NecessitySummary


class NecessitySettings(TrustSettings, JsonSettings):
    """Settings of `agenticlu generate necessity`."""

    model: str | None = None
    """Model folder in Hugging Face layout, GGUF file or hub id. Default: the bundled tiny model."""
    window: Annotated[TokenCount | None, Spelling(metavar="TOKENS")] = None
    """Longest prompt plus reply that the model takes. Default: what the model says."""
    fall: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    """Nats by which what a round said must become less likely without a piece that it needs."""
    retry_failed: bool = False
    """Repeat calls that failed for good before."""
    quiet: bool = False
    """Show no progress."""


@settings_command(NecessitySettings, "generate.necessity", name="necessity")
@operand("run", type=click.Path(path_type=Path))
def command(resolved: Resolved[NecessitySettings], run: Path) -> None:
    """Find the pieces that right rounds of RUN need, among those that grounding kept.

    A piece is needed if what the round said becomes less likely without it. Data sets built from
    RUN afterwards point at these alone. Running the same command again resumes it.
    """
    settings = resolved.values
    summary = run_until_terminated(_find_needed(run, settings))
    if settings.as_json:
        echo_json(summary.as_dict())
    else:
        echo(render_needed(summary, shlex.quote(str(run))))


async def _find_needed(run: Path, settings: NecessitySettings) -> NecessitySummary:
    from agenticlu.core.progress import Progress
    from agenticlu.data.build import load_tree_views
    from agenticlu.data.necessity import find_needed_pieces
    from agenticlu.engines import ModelChoice
    from agenticlu.search.caller import Caller
    from agenticlu.search.settings import load_run
    from agenticlu.search.store import Store

    load_run(run)  # a folder without a run is an error before it is opened for writing
    choice = ModelChoice(
        settings.model,
        window_tokens=settings.window,
        trust_remote_code=settings.trust_remote_code,
    )
    if choice.bundled and not settings.quiet:
        echo(BUNDLED_MODEL_NOTE, err=True)
    engine = choice.load(lambda text: echo(text, err=True))
    try:
        with Store(run) as store, Progress("trees", quiet=settings.quiet) as progress:
            progress.update(0, total=store.tree_counts()["done"])
            return await find_needed_pieces(
                store,
                (view for view, is_finished in load_tree_views(store) if is_finished),
                Caller(store, engine, retry_failed=settings.retry_failed),
                settings.fall,
                progress.advance,
            )
    finally:
        await engine.close()


def render_needed(summary: NecessitySummary, run: str) -> str:
    """Returns what became of the rounds, for people."""
    from agenticlu.data.pointing import render_pointing

    lines = [
        f"{summary.rounds} rounds with several pieces: {summary.shortened} need fewer, "
        f"{summary.failed} failed",
        f"pieces to point at: {summary.pieces_after} of {summary.pieces_before} kept",
    ]
    for depth, _, *shares in render_pointing(summary.pointing.as_dict()):
        right, found, right_before, found_before = shares
        changes = f"precision {right_before} -> {right}, recall {found_before} -> {found}"
        lines.append(f"  depth {depth}: {changes}")
    lines.append(f"Next: agenticlu dataset build {run} --out DIR")
    return "\n".join(lines)
