"""`agenticlu report`: writes a self-contained HTML page about a run, and its figures as JSON."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated

from agenticlu.cli.options import settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import UsageError
from agenticlu.core.printing import echo
from agenticlu.core.settings import JsonSettings, NonNegative, Spelling


class ReportSettings(JsonSettings):
    """Settings of `agenticlu report`."""

    run: Annotated[Path | None, Spelling(metavar="DIR")] = None
    """Folder of a generation run."""
    evaluations: Annotated[tuple[str, ...], Spelling("eval", metavar="[LABEL=]DIR")] = ()
    """Evaluation folder; several are compared. LABEL names its model (such as base, trained)."""
    trainings: Annotated[tuple[str, ...], Spelling("train", metavar="[LABEL=]DIR")] = ()
    """Training folder, for its curves."""
    datasets: Annotated[tuple[Path, ...], Spelling("data", metavar="DIR")] = ()
    """Data set folder: marks the nodes that became chosen and rejected."""
    out: Annotated[Path | None, Spelling(metavar="FILE")] = None
    """HTML file to write; its figures go beside it as .json. Default: report.html, or no file with
    --json."""
    title: str | None = None
    """Name of the report. Default: names of the folders."""
    trees: NonNegative = 500
    """Trees to include in the page; figures always cover all of them."""
    full: bool = False
    """Put trees and documents into the JSON as well."""


@settings_command(ReportSettings, "report")
def command(resolved: Resolved[ReportSettings]) -> None:
    """Show a run: results, costs, training curves, and every tree with its document.

    The page is one file and loads nothing from elsewhere. Needs no model and changes nothing.
    """
    from agenticlu.core.files import write_atomically
    from agenticlu.report.page import build_overview, build_report, summary_json
    from agenticlu.report.sources import load_report

    settings = resolved.values
    out = settings.out
    if out is None and not settings.as_json:
        out = Path("report.html")
    if out is not None:
        _check_out(out)
    data = load_report(
        settings.run,
        settings.evaluations,
        settings.trainings,
        settings.datasets,
        title=settings.title,
        created=datetime.date.today().strftime("%d %B %Y").lstrip("0"),
    )
    overview = build_overview(data, settings.trees)
    summary = summary_json(overview, data if settings.full else None)
    if out is not None:
        if out.suffix != ".json":
            write_atomically(out, build_report(data, settings.trees).encode())
        write_atomically(out.with_suffix(".json"), summary.encode())
        echo(overview.headline, err=True)
    if settings.as_json:
        echo(summary, nl=False)
    elif out is not None:
        echo(str(out))


def _check_out(out: Path) -> None:
    """Raises UsageError if the report cannot be written or would overwrite another file."""
    from agenticlu.report.page import MARKS

    if not out.parent.is_dir():
        raise UsageError(
            f"--out {str(out)!r} is in a folder that does not exist.",
            hint=f"mkdir -p {out.parent}",
        )
    if out.is_dir():
        raise UsageError(f"--out {str(out)!r} is a folder.", hint=f"--out {out / 'report.html'}")
    for path in dict.fromkeys((out, out.with_suffix(".json"))):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            head = file.read(4096)
        if head and not any(mark in head for mark in MARKS):
            raise UsageError(
                f"{str(path)!r} exists and is not a report; --out would overwrite it.",
                hint=f"--out {path.with_name('report.html')}, or another name.",
            )
