"""`agenticlu demo`: the whole loop, offline, on the bundled tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from agenticlu.cli.options import settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.printing import echo
from agenticlu.core.settings import Positive, Settings, Spelling, TokenCount


class DemoSettings(Settings):
    """Settings of `agenticlu demo`."""

    out: Annotated[Path, Spelling(metavar="FOLDER")] = Path("demo-run")
    """Folder of the demo; run again to resume."""
    documents: Positive = 48
    """Training documents."""
    items: Positive = 80
    """Held-out items per length."""
    lengths: Annotated[tuple[TokenCount, ...], Spelling(metavar="TOKENS")] = (256, 512, 768, 1024)
    """Tokens of a document, shortest first."""
    seed: int = 0
    """Seed of documents, search and training."""


@settings_command(DemoSettings, "demo", extra="demo")
def command(resolved: Resolved[DemoSettings]) -> None:
    """Search, build data, train, evaluate and report on the bundled tiny model.

    Runs offline in a few minutes on two cores. Each stage is printed as the command that runs it.
    """
    from agenticlu.cli import group
    from agenticlu.demo import DemoSizes, render_results, run_demo

    settings = resolved.values
    sizes = DemoSizes(
        num_documents=settings.documents,
        num_items=settings.items,
        lengths=settings.lengths,
        seed=settings.seed,
    )

    def invoke(argv: Sequence[str]) -> None:
        group.main(list(argv), prog_name="agenticlu", standalone_mode=False)

    seconds = run_demo(settings.out, sizes, invoke, echo)
    report = settings.out / "report.html"
    echo(f"\n{render_results(settings.out, settings.lengths)}")
    echo(f"\nAll stages took {sum(seconds.values()):.0f} s. Look at {report}")
