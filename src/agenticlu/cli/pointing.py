"""`agenticlu generate pointing`: lists of paragraphs as the model itself would name them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from pydantic import Field

from agenticlu.cli.options import model_choice, note_bundled, operand, settings_command
from agenticlu.cli.termination import run_until_terminated
from agenticlu.core.config import Resolved
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import JsonSettings, ModelSettings

if TYPE_CHECKING:
    from agenticlu.data.mark_lists import ListSummary


class PointingSettings(ModelSettings, JsonSettings):
    """Settings of `agenticlu generate pointing`."""

    samples: Annotated[int, Field(ge=2, le=64)] = 8
    """Lists for each round."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Of their sampling."""
    retry_failed: bool = False
    """Repeat calls that failed for good before."""
    quiet: bool = False
    """Show no progress."""


@settings_command(PointingSettings, "generate.pointing", name="pointing")
@operand("run", type=click.Path(path_type=Path))
def command(resolved: Resolved[PointingSettings], run: Path) -> None:
    """Sample where the model itself would point, over whole documents, in the right rounds of RUN.

    Data sets built from RUN afterwards hold pairs of good and bad lists, scored by F1 against the
    pieces that the rounds need (agenticlu generate necessity, run before). Best asked of the model
    that is to be trained on them. Running the same command again resumes it.
    """
    settings = resolved.values
    summary = run_until_terminated(_sample_lists(run, settings))
    if settings.as_json:
        echo_json(summary.as_dict())
    else:
        echo(render_summary(summary, shlex.quote(str(run))))


async def _sample_lists(run: Path, settings: PointingSettings) -> ListSummary:
    from agenticlu.core.progress import Progress
    from agenticlu.data.build import load_tree_views
    from agenticlu.data.mark_lists import sample_mark_lists
    from agenticlu.search.caller import Caller
    from agenticlu.search.settings import load_run
    from agenticlu.search.store import Store

    load_run(run)  # a folder without a run is an error before it is opened for writing
    choice = model_choice(settings)
    note_bundled(settings, quiet=settings.quiet)
    engine = choice.load(lambda text: echo(text, err=True))
    try:
        with Store(run) as store, Progress("trees", quiet=settings.quiet) as progress:
            progress.update(0, total=store.tree_counts()["done"])
            views = load_tree_views(store, needed=True)
            return await sample_mark_lists(
                store,
                (view for view, is_finished in views if is_finished),
                Caller(store, engine, retry_failed=settings.retry_failed),
                settings.samples,
                settings.temperature,
                progress.advance,
            )
    finally:
        await engine.close()


def render_summary(summary: ListSummary, run: str) -> str:
    """Returns what became of the rounds, for people."""
    from agenticlu.data.mark_lists import render_lists

    lines = [render_lists(summary.as_dict())]
    if summary.failed:
        lines.append(f"{summary.failed} rounds failed; --retry-failed asks again")
    lines.append(f"Next: agenticlu dataset build {run} --out DIR")
    return "\n".join(lines)
