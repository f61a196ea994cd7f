"""`agenticlu dataset`: rows for training out of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Turn trees into rows for SFT and DPO."""


@command.command("build")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--pairs", type=click.Choice(["step", "path"]), default="step", show_default=True)
@click.option(
    "--rejected",
    type=click.Choice(["mean-2sd", "min", "near-miss"]),
    default="mean-2sd",
    show_default=True,
)
@click.option("--margin", type=float, default=0.25, show_default=True)
@click.option("--pairs-per-node", type=int, default=2, show_default=True)
@click.option("--max-log-ratio", type=float, default=1.5, show_default=True)
@click.option("--keep-leaks", is_flag=True, help="Keep clarifications that hold the answer.")
@click.option(
    "--drop-closed-book", type=float, help="Drop questions answered blindly at least this often."
)
@click.option("--validation", type=float, default=0.1, show_default=True, help="Share.")
@click.option("--license", "licence", help="Licence of the data set; never assumed.")
@click.option("--push-to-hub", "hub_id", metavar="OWNER/NAME", help="Upload when built.")
@click.option("--private/--public", default=True, show_default=True, help="Of the upload.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def build(
    *,
    run: Path,
    out: Path,
    licence: str | None,
    hub_id: str | None,
    private: bool,
    keep_leaks: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write OUT/sft and OUT/preference from the trees of RUN, with a data card."""
    from agenticlu.dataset_card import check_push, push, write_card
    from agenticlu.pairs import PairPolicy, build_dataset, load_groves
    from agenticlu.store import Store

    policy = PairPolicy.model_validate({**options, "drop_leaks": not keep_leaks})
    if hub_id is not None:
        check_push(hub_id, licence)
    with Store(run, writable=False) as store:
        document_ids = store.document_ids()
        summary = build_dataset(load_groves(store), document_ids, out, policy)
        write_card(out, store, policy, summary, licence)
    if hub_id is not None:
        push(out, hub_id, private=private)
    data = summary.as_dict()
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    for kind, splits in summary.rows.items():
        counts = ", ".join(f"{number} {split}" for split, number in splits.items())
        click.echo(f"{kind}: {counts} rows")
    for name, counter in data["funnel"].items():
        if isinstance(counter, dict):
            reasons = ", ".join(f"{n} {why}" for why, n in counter.items() if why != "total")
            click.echo(f"  {counter['total']} {name}: {reasons}")
    click.echo(f"Written to {out}. Next: agenticlu train {out} --out TRAIN")


@command.command("import")
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--split", default="train", show_default=True, help="Of a hub data set.")
@click.option("--validation", type=float, default=0.1, show_default=True, help="Share.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def import_(*, source: str, out: Path, split: str, validation: float, as_json: bool) -> None:
    """Stream a preference data set in the published schema into OUT, split by document."""
    from agenticlu.published import import_published

    summary = import_published(source, out, split=split, validation=validation)
    data = summary.as_dict()
    if as_json:
        click.echo(json.dumps(data, indent=2))
        return
    counts = ", ".join(f"{number} {part}" for part, number in summary.rows.items())
    click.echo(f"{counts} rows about {summary.documents} documents, in {out}")
    for reason, number in data["refused"].items():
        click.echo(f"  {number} rows left out: {reason}")
