"""`agenticlu status`: how far a run is, read from its file while another process writes it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agenticlu.search.status import Status


@click.command()
@click.argument("run")
@click.option("--watch", is_flag=True, help="Look every two seconds, until the run ends.")
@click.option("--price-in", type=float, help="Price of a million prompt tokens.")
@click.option("--price-cached", type=float, help="Price of a million cached prompt tokens.")
@click.option("--price-out", type=float, help="Price of a million sampled tokens.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print as JSON; one line a look with --watch."
)
def command(
    *,
    run: str,
    watch: bool,
    price_in: float | None,
    price_cached: float | None,
    price_out: float | None,
    as_json: bool,
) -> None:
    """Say how far RUN is: done, in flight, rate, time left, tokens and money spent, failures.

    RUN is the folder of a run, or the folder or URL that shards seal their segments to.
    """
    from agenticlu.core.records import Prices
    from agenticlu.search.status import load_status, watch_status

    prices = Prices(price_in, price_out, price_cached)
    if not watch:
        status = load_status(run, prices=prices)
        click.echo(json.dumps(status.as_dict(), indent=2) if as_json else status.render())
        return
    states = watch_status(run, prices=prices)
    if as_json:
        for status in states:
            click.echo(json.dumps(status.as_dict()))
    elif sys.stdout.isatty():
        _redraw(states)
    else:
        _list(states)


def _redraw(states: Iterator[Status]) -> None:
    """Shows each state in the place of the one before."""
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        for status in states:
            live.update(Text(status.render()), refresh=True)


def _list(states: Iterator[Status]) -> None:
    """Prints a line whenever the state has changed, and all there is to say in the end."""
    said = ""
    for status in states:
        if status.line() != said:
            said = status.line()
            click.echo(said)
    click.echo("\n".join(status.render().splitlines()[1:]))
