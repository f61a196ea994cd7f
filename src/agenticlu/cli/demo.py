"""`agenticlu demo`: the whole loop, offline, on the bundled tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agenticlu.core.errors import UsageError


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("demo-run"),
    show_default=True,
    help="Folder of the demo; run again to go on where it stopped.",
)
@click.option("--documents", type=int, default=40, show_default=True, help="Training documents.")
@click.option("--items", type=int, default=60, show_default=True, help="Held-out items a length.")
@click.option(
    "--lengths",
    default="256,512,768,1024",
    show_default=True,
    help="Document tokens, shortest first.",
)
@click.option("--seed", type=int, default=0, show_default=True)
def command(out: Path, documents: int, items: int, lengths: str, seed: int) -> None:
    """Search, build data, train, evaluate and report on the bundled tiny model.

    Works offline on two cores in a few minutes. Each stage is printed as the command that runs it.
    """
    from agenticlu.cli import group
    from agenticlu.demo.loop import Settings, run_demo
    from agenticlu.demo.table import render_results

    try:
        tokens = tuple(int(length) for length in lengths.split(","))
    except ValueError as error:
        raise UsageError(
            f"--lengths takes whole numbers with commas between them, not {lengths!r}.",
            hint="For example: --lengths 256,512,768,1024",
        ) from error
    settings = Settings(num_documents=documents, num_items=items, lengths=tokens, seed=seed)

    def invoke(argv: Sequence[str]) -> None:
        group.main(list(argv), prog_name="agenticlu", standalone_mode=False)

    seconds = run_demo(out, settings, invoke, click.echo)
    click.echo(f"\n{render_results(out, tokens)}")
    click.echo(f"\nAll stages took {sum(seconds.values()):.0f} s. Look at {out / 'report.html'}")
