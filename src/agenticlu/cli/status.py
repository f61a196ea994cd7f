"""`agenticlu status`: shows the progress of a run, even while another process writes to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agenticlu.cli.options import operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.printing import echo, echo_json, redraw
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
            echo(status.render())
        return
    states = watch_status(run, prices=prices)
    if settings.as_json:
        for status in states:
            echo_json(status.as_dict(), indent=None)
    elif sys.stdout.isatty():
        redraw(status.render() for status in states)
    else:
        _list(states)


def _list(states: Iterator[Status]) -> None:
    """Prints a line whenever the state has changed, and the details at the end."""
    printed = ""
    for status in states:
        if status.line() != printed:
            printed = status.line()
            echo(printed)
    echo("\n".join(status.render().splitlines()[1:]))
