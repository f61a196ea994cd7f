"""`agenticlu status`: how far a run is, read from its file while another process writes it."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def command(*, run: Path, as_json: bool) -> None:
    """Say how far RUN is: done, in flight, rate, time left, tokens spent, failures."""
    from agenticlu.search.status import load_status

    status = load_status(run)
    click.echo(json.dumps(status.as_dict(), indent=2) if as_json else status.render())
