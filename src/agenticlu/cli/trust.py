"""`agenticlu trust`: allows what a folder's `agenticlu.toml` decides."""

from __future__ import annotations

import os
from pathlib import Path

import click

from agenticlu.cli.options import operand, settings_command
from agenticlu.core.config import PROJECT_FILE, Resolved, load_project, trust_store
from agenticlu.core.errors import ConfigError
from agenticlu.core.printing import echo
from agenticlu.core.settings import Settings
from agenticlu.core.trust import Consent


class TrustFileSettings(Settings):
    """Settings of `agenticlu trust`."""

    keys: bool = False
    """Also send keys to the servers that it names, from the variables that it names."""
    forget: bool = False
    """No longer trust it."""


@settings_command(TrustFileSettings, "trust")
@operand("folder", default=".", type=click.Path(path_type=Path))
def command(resolved: Resolved[TrustFileSettings], folder: Path) -> None:
    """Allow the agenticlu.toml of FOLDER, as it now stands, to choose servers, models and files.

    Without that it can change numbers and the like alone, since a folder may come from anyone.
    FOLDER is the working folder where none is given. Look at the file first: what it decides is
    shown. A change of the file ends the trust.
    """
    settings = resolved.values
    file = load_project(folder / PROJECT_FILE)
    if file is None:
        raise ConfigError(
            f"{str(folder)!r} has no {PROJECT_FILE}.", hint="Give the folder that holds one."
        )
    consent = Consent() if settings.forget else Consent(file=True, keys=settings.keys)
    trust_store(os.environ).remember(file, consent)
    echo(f"{file.path} is {'no longer trusted' if settings.forget else 'trusted'}. It sets")
    echo("\n".join(f"  {line}" for line in file.decisions()) or "  nothing of concern")
    if not settings.forget:
        said = "Keys are sent as it says." if settings.keys else "No key is sent to its servers."
        echo(said)
