"""`agenticlu prompts`: profiles of wordings."""

from __future__ import annotations

from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Read wordings off a data set; check a profile."""


@command.command("extract")
@click.argument("dataset")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="TOML file to write.")
@click.option("--name", default="extracted", show_default=True, help="Name of the profile.")
@click.option("--split", default="train", show_default=True, help="Of a folder or hub data set.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="Rows to read at most.",
)
@click.option(
    "--least",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Leave out wordings that occur less often.",
)
def extract(*, dataset: str, out: Path, name: str, split: str, limit: int, least: int) -> None:
    """Rebuild the fixed wordings from the user turns of DATASET (published schema)."""
    from agenticlu.core.errors import UsageError
    from agenticlu.core.output_dir import write_atomically
    from agenticlu.data.corpus import load_source_rows
    from agenticlu.data.published import extract_profile, render_profile

    if out.suffix != ".toml":
        raise UsageError(f"{str(out)!r} is no TOML file.", hint=f"Try --out {out}.toml")
    profile, found = extract_profile(
        load_source_rows(dataset, split), name, least=least, limit=limit
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render_profile(profile))
    counts = ", ".join(f"{number} {kind}" for kind, number in found.items())
    click.echo(f"{out}: {counts}. Use it with --profile {out}")


@command.command("check")
@click.argument("profile")
def check(*, profile: str) -> None:
    """Load PROFILE (a name or a TOML file) and count its wordings."""
    from agenticlu.dialogue.profiles import KINDS, load_profile

    loaded = load_profile(profile)
    counts = ", ".join(f"{len(getattr(loaded, kind))} {kind}" for kind in KINDS)
    click.echo(f"{loaded.label}: {counts}")
