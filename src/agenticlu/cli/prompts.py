"""`agenticlu prompts`: extracts and checks profiles, the wordings of the dialogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click

from agenticlu.cli.options import CONTEXT, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.printing import echo
from agenticlu.core.settings import Positive, Settings, Spelling


@click.group(context_settings=CONTEXT)
def command() -> None:
    """Extract wordings from a data set; check a profile."""


class ExtractSettings(Settings):
    """Settings of `agenticlu prompts extract`."""

    out: Annotated[Path, Spelling(metavar="FILE")]
    """TOML file to write."""
    name: str = "extracted"
    """Name of the profile."""
    split: str = "train"
    """Split of a folder or hub data set."""
    limit: Positive = 20_000
    """Maximum rows to read."""
    least: Positive = 1
    """Leave out wordings that occur less often."""


@settings_command(ExtractSettings, "prompts.extract", group=command)
@operand("dataset")
def extract(resolved: Resolved[ExtractSettings], dataset: str) -> None:
    """Rebuild the fixed wordings from the user turns of DATASET (published schema)."""
    from agenticlu.core.errors import UsageError
    from agenticlu.core.files import write_atomically
    from agenticlu.data.corpus import load_source_rows
    from agenticlu.data.published import extract_profile, render_profile

    settings = resolved.values
    out = settings.out
    if out.suffix != ".toml":
        raise UsageError(f"--out {out} must be a .toml file.", hint=f"Try --out {out}.toml")
    rows = load_source_rows(dataset, settings.split)
    profile, found = extract_profile(
        rows, settings.name, least=settings.least, limit=settings.limit
    )
    write_atomically(out, render_profile(profile))
    counts = ", ".join(f"{number} {kind}" for kind, number in found.items())
    echo(f"{out}: {counts}. Use it with --profile {out}")


@settings_command(Settings, "prompts.check", group=command)
@operand("profile")
def check(resolved: Resolved[Settings], profile: str) -> None:
    """Load PROFILE (a name or a TOML file) and count its wordings."""
    from agenticlu.dialogue.steps import KINDS, load_profile

    loaded = load_profile(profile)
    counts = ", ".join(f"{len(getattr(loaded, kind))} {kind}" for kind in KINDS)
    echo(f"{loaded.label}: {counts}")
