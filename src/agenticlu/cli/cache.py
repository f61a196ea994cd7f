"""`agenticlu cache`: what models have kept of documents on disk, and how to be rid of it."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
from pydantic import Field

from agenticlu.cli.options import CONTEXT, DefaultGroup, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import ConfigError
from agenticlu.core.limits import PrefixLimits
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import JsonSettings, Spelling

if TYPE_CHECKING:
    from agenticlu.engines.prefixes import PrefixFolder, StoredPrefix

DAY_S = 86_400
UNITS = ("B", "KiB", "MiB", "GiB")


class ListGroup(DefaultGroup):
    """Lists where nothing else is asked for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Runs `run` without words, too."""
        return super().parse_args(ctx, args or ["run"])


class CacheSettings(JsonSettings):
    """Settings of `agenticlu cache`."""

    prefix_cache: Annotated[Path | None, Spelling(metavar="FOLDER")] = None
    """The folder. Default: the user's own, ~/.cache/agenticlu/prefixes."""


class ClearSettings(CacheSettings):
    """Settings of `agenticlu cache clear`."""

    older_than: Annotated[
        float | None, Field(ge=0, allow_inf_nan=False), Spelling(metavar="DAYS")
    ] = None
    """Only what was not used for so many days."""
    only_model: Annotated[str | None, Spelling(flags=("--model",), metavar="NAME")] = None
    """Only what this model has read: its name as in the list, or its folder."""


@click.group("cache", cls=ListGroup, context_settings=CONTEXT)
def command() -> None:
    """List what models of this process have kept of documents, so as not to read them again.

    Each line is a document and a model: their names, the tokens kept, the size on disk, and when
    it was last used. A document's text can be recovered from what is kept.
    """


@settings_command(CacheSettings, "cache", name="run", group=command)
def run(resolved: Resolved[CacheSettings]) -> None:
    """List what is kept, the last used first."""
    settings = resolved.values
    folder = _open(settings)
    entries = folder.entries()
    total = sum(one.bytes for one in entries)
    if settings.as_json:
        rows = [_as_dict(one) for one in entries]
        echo_json({"folder": str(folder.path), "bytes": total, "prefixes": rows})
        return
    for one in entries:
        used = datetime.fromtimestamp(one.last_used).strftime("%Y-%m-%d %H:%M")
        echo(
            f"{used}  {_size(one.bytes):>9}  {one.tokens:>9,} tokens  "
            f"{one.model or '?'}  {one.document or '?'}"
        )
    if reason := folder.refuse():
        echo(f"It is not used: {reason}.")
    documents = f"{len(entries)} document{'s' * (len(entries) != 1)}"
    echo(f"{folder.path}: {documents}, {_size(total)}" if entries else f"{folder.path}: nothing")


@settings_command(ClearSettings, "cache.clear", group=command, inherits=("cache",))
def clear(resolved: Resolved[ClearSettings]) -> None:
    """Remove what is kept: all of it, or of one model, or what was not used for long."""
    settings = resolved.values
    folder = _open(settings)
    before = {one.path: one for one in folder.entries()}
    days = settings.older_than
    gone = [
        before[path]
        for path in folder.clear(
            older_than_s=None if days is None else days * DAY_S, model=settings.only_model
        )
        if path in before
    ]
    freed = sum(one.bytes for one in gone)
    if settings.as_json:
        rows = [_as_dict(one) for one in gone]
        echo_json({"folder": str(folder.path), "bytes": freed, "removed": rows})
        return
    kept = len(before) - len(gone)
    echo(f"{folder.path}: {len(gone)} removed, {_size(freed)}; {kept} kept")
    models = sorted({one.model for one in before.values()})
    if settings.only_model is not None and not gone and models:
        echo(f"Models in the list: {', '.join(models)}.", err=True)


def _open(settings: CacheSettings) -> PrefixFolder:
    from agenticlu.engines.prefixes import open_prefix_folder

    given = settings.prefix_cache
    folder = open_prefix_folder(PrefixLimits(None if given is None else str(given)))
    if folder is None:
        raise ConfigError(
            "There is no home folder, so there is no folder of what was read.",
            hint="Set HOME or XDG_CACHE_HOME, or name the folder: --prefix-cache FOLDER.",
        )
    return folder


def _as_dict(one: StoredPrefix) -> dict[str, Any]:
    return {
        "file": one.path.name,
        "document": one.document,
        "model": one.model,
        "tokens": one.tokens,
        "bytes": one.bytes,
        "last_used": datetime.fromtimestamp(one.last_used).astimezone().isoformat("T", "seconds"),
        "days_unused": round(max(0.0, time.time() - one.last_used) / DAY_S, 2),
    }


def _size(count: float) -> str:
    """Returns a number of bytes for people.

    >>> _size(105_000_000)
    '100.1 MiB'
    """
    unit = 0
    while count >= 1024 and unit < len(UNITS) - 1:
        count, unit = count / 1024, unit + 1
    return f"{count:,.1f} {UNITS[unit]}" if unit else f"{count:.0f} B"
