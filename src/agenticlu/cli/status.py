"""`agenticlu status`: shows the progress of a run, even while another process writes to it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from agenticlu.cli.options import echo_json, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.settings import JsonSettings, PriceSettings

if TYPE_CHECKING:
    from agenticlu.search.status import Status


class StatusSettings(PriceSettings, JsonSettings):
    """Settings of `agenticlu status`."""

    watch: bool = False
    """Refresh every two seconds until the run ends; with --json, one line per refresh."""


@settings_command(StatusSettings, "status")
@operand("run")
def command(resolved: Resolved[StatusSettings], run: str) -> None:
    """Show the progress of RUN: done, in flight, rate, time left, tokens, cost, failures.

    RUN is the folder of a run, or the folder or URL that shards seal their segments to.
    """
    from agenticlu.search.status import load_status, watch_status

    settings = resolved.values
    prices = settings.prices()
    if not settings.watch:
        status = load_status(run, prices=prices)
        if settings.as_json:
            echo_json(status.as_dict())
        else:
            click.echo(status.render())
        return
    states = watch_status(run, prices=prices)
    if settings.as_json:
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
    """Prints a line whenever the state has changed, and the details at the end."""
    printed = ""
    for status in states:
        if status.line() != printed:
            printed = status.line()
            click.echo(printed)
    click.echo("\n".join(status.render().splitlines()[1:]))
