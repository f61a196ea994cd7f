"""`agenticlu report`: one self-contained HTML page of a run, and the same figures as JSON."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from agenticlu.core.errors import UsageError


@click.command()
@click.option("--run", type=click.Path(path_type=Path), help="Folder of a generation run.")
@click.option(
    "--eval", "evaluations", multiple=True, metavar="[LABEL=]DIR",
    help="Evaluation folder; several are compared. LABEL names its model (base, trained).",
)  # fmt: skip
@click.option(
    "--train", "trainings", multiple=True, metavar="[LABEL=]DIR",
    help="Training folder, for its curves; may be given several times.",
)  # fmt: skip
@click.option(
    "--data", "datasets", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
    help="Data set folder: marks the nodes that became chosen and rejected.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path),
    help="HTML file to write; its figures go beside it as .json. [default: report.html]",
)  # fmt: skip
@click.option("--title", help="Name of the report. [default: names of the folders]")
@click.option(
    "--trees", "max_trees", type=click.IntRange(min=0), default=500, show_default=True,
    help="Trees to put into the page; figures are over all of them in any case.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True,
    help="Print the figures as JSON and write no file unless --out is given.",
)  # fmt: skip
@click.option("--full", is_flag=True, help="Put trees and documents into the JSON as well.")
def command(
    run: Path | None,
    evaluations: tuple[str, ...],
    trainings: tuple[str, ...],
    datasets: tuple[Path, ...],
    out: Path | None,
    title: str | None,
    max_trees: int,
    as_json: bool,
    full: bool,
) -> None:
    """Show a run: results, costs, training curves, and every tree with its document.

    The page is one file and loads nothing from elsewhere. Needs no model and changes nothing.
    """
    from agenticlu.core.output_dir import write_atomically
    from agenticlu.report.page import build_overview, build_report, summary_json
    from agenticlu.report.sources import load_report

    if out is None and not as_json:
        out = Path("report.html")
    if out is not None and not out.parent.is_dir():
        raise UsageError(
            f"--out {str(out)!r} lies in a folder that does not exist.",
            hint=f"mkdir -p {out.parent}",
        )
    if out is not None and out.is_dir():
        raise UsageError(f"--out {str(out)!r} is a folder.", hint=f"--out {out / 'report.html'}")
    written = () if out is None else tuple(dict.fromkeys((out, out.with_suffix(".json"))))
    for path in written:
        _check_own(path)
    data = load_report(
        run,
        evaluations,
        trainings,
        datasets,
        title=title,
        created=datetime.date.today().strftime("%d %B %Y").lstrip("0"),
    )
    overview = build_overview(data, max_trees)
    summary = summary_json(overview, data if full else None)
    if out is not None:
        if out.suffix != ".json":
            write_atomically(out, build_report(data, max_trees).encode())
        write_atomically(out.with_suffix(".json"), summary.encode())
        click.echo(overview.headline, err=True)
    if as_json:
        click.echo(summary, nl=False)
    elif out is not None:
        click.echo(str(out))


def _check_own(path: Path) -> None:
    """Raises UsageError where a file stands that no report wrote, such as a data set's summary."""
    from agenticlu.report.page import MARKS

    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(4096)
    if head and not any(mark in head for mark in MARKS):
        raise UsageError(
            f"{str(path)!r} exists and is no report; --out would overwrite it.",
            hint=f"--out {path.with_name('report.html')}, or any name that is free.",
        )
