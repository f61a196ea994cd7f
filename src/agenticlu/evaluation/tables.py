"""Renders a summary: for terminals and Markdown, for spreadsheets, and one line per cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from agenticlu.core.output_dir import write_atomically
from agenticlu.core.records import Usage
from agenticlu.core.statistics import MeanEstimate
from agenticlu.evaluation.results import SUMMARY_NAME, Cell, Difference, Overhead, Summary

COLUMNS = (
    "engine",
    "task",
    "length",
    "method",
    "part",
    "metric",
    "n",
    "mean",
    "low",
    "high",
    "num_scored",
    "num_failed",
    "num_truncated",
    "num_cut_off",
    "num_clusters",
    "point_precision",
    "point_recall",
    "gold_present",
    "prompt_tokens",
    "cached_tokens",
    "alone_tokens",
    "completion_tokens",
    "requests",
    "seconds",
    "prompt_vs_direct",
    "alone_vs_direct",
    "completion_vs_direct",
    "seconds_vs_direct",
    "effective",
)
"""Of results.csv: a line per cell, part of it (`all`, `hops 2`, `depth 0.0-0.2`) and metric; what
does not belong to a part stands in the lines of `all`."""
DIFFERENCE_COLUMNS = (
    "task",
    "length",
    "metric",
    "baseline_engine",
    "baseline_method",
    "engine",
    "method",
    "n",
    "num_clusters",
    "baseline_mean",
    "mean",
    "difference",
    "low",
    "high",
)
"""Of differences.csv."""
LEGEND = (
    "Intervals: 95%, clustered: questions on one document, or one question at several depths, "
    "count as one unit. n/G: items behind a mean, and clusters among them. Failed / truncated / "
    "cut off: items without a reply, whose document was cut to fit, whose reply met the token "
    "limit. Counts stand length by length where lengths differ."
)


def percent(found: MeanEstimate | None) -> str:
    """Returns a mean and its interval in per cent, or a dash.

    >>> percent(MeanEstimate(mean=0.5, low=0.25, high=0.751, n=4, num_clusters=2))
    '50.0 [25.0, 75.1]'
    """
    if found is None:
        return "–"
    text = f"{100 * found.mean:.1f}"
    if found.low is not None and found.high is not None:
        text += f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return text


def points(found: MeanEstimate) -> str:
    """Returns a difference with its sign and interval, in percentage points."""
    text = f"{100 * found.mean:+.1f}"
    if found.low is not None and found.high is not None:
        text += f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    return text


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders an aligned Markdown table."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def line_of(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(widths[i]) for i, cell in enumerate(cells)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line_of(lines[0]), rule, *(line_of(cells) for cells in lines[1:])])


def render_markdown(summary: Summary) -> str:
    """Renders the main table, the differences, costs, effective lengths, parts and failures."""
    parts = ["# Results", "", results_table(summary), "", LEGEND]
    parts += [f"\n{note}" for note in summary.notes]
    if summary.differences:
        parts += ["", "## Paired differences (percentage points)", "", differences_table(summary)]
    parts += ["", "## Cost", "", costs_table(summary), "", cost_note(summary)]
    if summary.effective_lengths:
        parts += ["", "## Effective length (85% of the score at a short length)", ""]
        parts.append(effective_table(summary))
    if any(cell.by_hops for cell in summary.cells):
        parts += ["", "## By the number of facts to combine", "", hops_table(summary)]
    if any(cell.by_depth for cell in summary.cells):
        parts += ["", "## By where the first gold fact stands (share of the document)", ""]
        parts.append(depth_table(summary))
    if summary.left_out:
        parts += ["", "## Left out", "", *[f"- {line}" for line in summary.left_out]]
    if summary.failures:
        parts += ["", f"## Failed items: {summary.num_failed}", ""]
        parts += [
            f"- {f.task}, {f.length} tokens, {f.method}, question {f.question_id}: {f.error}"
            for f in summary.failures
        ]
    return "\n".join([*parts, ""])


def _engines(summary: Summary) -> list[str]:
    return list(dict.fromkeys(cell.engine for cell in summary.cells))


def results_table(summary: Summary) -> str:
    """Renders one line per engine, task and method, with a column per length.

    The last columns count what stands behind each mean, length by length; once where all lengths
    agree.
    """
    lengths = sorted({cell.length for cell in summary.cells})
    several = len(_engines(summary)) > 1
    header = [
        *(["engine"] if several else []),
        "task",
        "method",
        "metric",
        *[f"{length}" for length in lengths],
        "n/G",
        "failed/truncated/cut off",
    ]
    groups: dict[tuple[str, str, str, str], dict[int, Cell]] = {}
    for cell in summary.cells:
        key = (cell.engine, cell.task, cell.method, cell.headline)
        groups.setdefault(key, {})[cell.length] = cell
    rows = []
    for (engine, task, method, metric), by_length in groups.items():
        cells = [by_length.get(length) for length in lengths]
        rows.append(
            [
                *([engine] if several else []),
                task,
                method,
                metric,
                *["" if cell is None else percent(cell.score) for cell in cells],
                _each([None if cell is None else _support(cell.score) for cell in cells]),
                _each([None if cell is None else _losses(cell) for cell in cells]),
            ]
        )
    return render_table(header, rows)


def _support(found: MeanEstimate | None) -> str:
    return "0/0" if found is None else f"{found.n}/{found.num_clusters}"


def _losses(cell: Cell) -> str:
    return f"{cell.num_failed}/{cell.num_truncated}/{cell.num_cut_off}"


def _each(values: Sequence[str | None]) -> str:
    """Returns one value where all that are known agree, else all of them in order."""
    known = {value for value in values if value is not None}
    if len(known) == 1:
        return known.pop()
    return ", ".join("–" if value is None else value for value in values)


def differences_table(summary: Summary) -> str:
    """Renders the paired differences, one line for each pair of systems."""
    lengths = sorted({d.length for d in summary.differences})
    groups: dict[tuple[str, str, str, str], dict[int, Difference]] = {}
    several = len(_engines(summary)) > 1
    for d in summary.differences:
        name = f"{d.engine} {d.method}" if several else d.method
        base = f"{d.baseline_engine} {d.baseline_method}" if several else d.baseline_method
        groups.setdefault((d.task, d.metric, name, base), {})[d.length] = d
    rows = [
        [
            task,
            f"{name} − {base}",
            metric,
            *[points(by[length].difference) if length in by else "" for length in lengths],
            _each(
                [_support(by[length].difference) if length in by else None for length in lengths]
            ),
        ]
        for (task, metric, name, base), by in groups.items()
    ]
    return render_table(["task", "difference", "metric", *map(str, lengths), "n/G"], rows)


def costs_table(summary: Summary) -> str:
    """Renders tokens and seconds per item, and what they are as a multiple of `direct`.

    Methods are compared by what each would have computed alone; see `cost_note`.
    """
    rows = []
    several = len(_engines(summary)) > 1
    for cell in summary.cells:
        n = max(cell.num_scored, 1)
        usage, over = cell.usage, cell.overhead
        computed = usage.prompt_tokens - usage.cached_tokens

        def times(value: float | None) -> str:
            return "–" if value is None else f"{value:.2f}×"

        rows.append(
            [
                *([cell.engine] if several else []),
                cell.task,
                str(cell.length),
                cell.method,
                f"{usage.requests / n:.1f}",
                f"{usage.prompt_tokens / n:.0f}",
                "–" if cell.alone_tokens is None else f"{cell.alone_tokens / n:.0f}",
                f"{computed / n:.0f}",
                f"{usage.completion_tokens / n:.0f}",
                f"{cell.seconds / n:.2f}",
                times(over.alone_tokens if over else None),
                times(over.completion_tokens if over else None),
                times(over.seconds if over else None),
                percent(cell.point_precision),
                percent(cell.point_recall),
                "–" if cell.gold_present is None else f"{100 * cell.gold_present:.0f}",
            ]
        )
    header = [
        *(["engine"] if several else []),
        "task",
        "length",
        "method",
        "requests/item",
        "prompt",
        "computed alone",
        "computed as run",
        "sampled",
        "seconds as run",
        "alone vs direct",
        "sampled vs direct",
        "time vs direct, as run",
        "pointback precision",
        "pointback recall",
        "gold in document %",
    ]
    return render_table(header, rows)


def cost_note(summary: Summary) -> str:
    """Returns how the columns of costs are to be read."""
    flight = summary.settings.get("concurrency")
    flight_text = f"{flight} items" if isinstance(flight, int) else "several items"
    note = (
        "Tokens per scored item. Computed alone: prompt tokens that each item computes by itself "
        "with an empty cache, so that the order of methods does not matter. As run: one cache "
        f"shared by all methods, {flight_text} in flight; whichever method came first read the "
        "document for all, and no time is that of one method alone."
    )
    lost = sum((cell.failed_usage for cell in summary.cells), Usage())
    if lost.requests:
        note += (
            f" Failed items, not counted here, had taken {lost.prompt_tokens} prompt tokens and "
            f"{lost.completion_tokens} sampled ones."
        )
    return note


def hops_table(summary: Summary) -> str:
    """Renders scores by the number of facts to combine."""
    numbers = sorted({hops for cell in summary.cells for hops in cell.by_hops})
    parts = [
        (cell, [cell.by_hops.get(number) for number in numbers])
        for cell in summary.cells
        if cell.by_hops
    ]
    return _parts_table(summary, [str(number) for number in numbers], parts)


def depth_table(summary: Summary) -> str:
    """Renders scores by where the first gold fact stands."""
    names = sorted({name for cell in summary.cells for name in cell.by_depth})
    parts = [
        (cell, [cell.by_depth.get(name) for name in names])
        for cell in summary.cells
        if cell.by_depth
    ]
    return _parts_table(summary, names, parts)


def _parts_table(
    summary: Summary,
    names: Sequence[str],
    parts: Sequence[tuple[Cell, Sequence[MeanEstimate | None]]],
) -> str:
    several = len(_engines(summary)) > 1
    rows = [
        [
            *([cell.engine] if several else []),
            cell.task,
            str(cell.length),
            cell.method,
            cell.headline,
            *["" if one is None else f"{percent(one)} n={one.n}" for one in found],
        ]
        for cell, found in parts
    ]
    header = ["task", "length", "method", "metric", *names]
    return render_table([*(["engine"] if several else []), *header], rows)


def effective_table(summary: Summary) -> str:
    """Renders the effective lengths."""
    several = len(_engines(summary)) > 1
    rows = [
        [
            *([e.engine] if several else []),
            e.task,
            e.method,
            e.metric,
            f"{100 * e.base_score:.1f} at {e.base_length}",
            "none" if e.effective_length is None else str(e.effective_length),
            "" if e.unknown_from is None else f"no sound result at {e.unknown_from}",
        ]
        for e in summary.effective_lengths
    ]
    header = ["task", "method", "metric", "whole score", "effective length", ""]
    return render_table([*(["engine"] if several else []), *header], rows)


def render_csv(summary: Summary) -> str:
    """Renders one line per cell, part of it and metric."""
    effective = {(e.engine, e.method, e.task): e for e in summary.effective_lengths}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in summary.cells:
        holds = effective.get((cell.engine, cell.method, cell.task))
        for name, found in cell.metrics.items():
            reach = holds if holds is not None and name == holds.metric else None
            over = cell.overhead or Overhead()
            row = _figures(cell, "all", name, found) | {
                "num_scored": cell.num_scored,
                "num_failed": cell.num_failed,
                "num_truncated": cell.num_truncated,
                "num_cut_off": cell.num_cut_off,
                "point_precision": _mean(cell.point_precision),
                "point_recall": _mean(cell.point_recall),
                "gold_present": _figure(cell.gold_present),
                "prompt_tokens": cell.usage.prompt_tokens,
                "cached_tokens": cell.usage.cached_tokens,
                "alone_tokens": "" if cell.alone_tokens is None else cell.alone_tokens,
                "completion_tokens": cell.usage.completion_tokens,
                "requests": cell.usage.requests,
                "seconds": cell.seconds,
                "prompt_vs_direct": _figure(over.prompt_tokens),
                "alone_vs_direct": _figure(over.alone_tokens),
                "completion_vs_direct": _figure(over.completion_tokens),
                "seconds_vs_direct": _figure(over.seconds),
                "effective": "" if reach is None else reach.effective_length or 0,
            }
            writer.writerow([row.get(column, "") for column in COLUMNS])
        parts = {f"hops {hops}": found for hops, found in cell.by_hops.items()}
        parts |= {f"depth {name}": found for name, found in cell.by_depth.items()}
        for part, found in parts.items():
            row = _figures(cell, part, cell.headline, found)
            writer.writerow([row.get(column, "") for column in COLUMNS])
    return out.getvalue()


def render_differences_csv(summary: Summary) -> str:
    """Renders one line per paired difference."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(DIFFERENCE_COLUMNS)
    for d in summary.differences:
        row = {
            **d.model_dump(exclude={"difference"}),
            "n": d.difference.n,
            "num_clusters": d.difference.num_clusters,
            "baseline_mean": _figure(d.baseline_mean),
            "mean": _figure(d.mean),
            "difference": _figure(d.difference.mean),
            "low": _figure(d.difference.low),
            "high": _figure(d.difference.high),
        }
        writer.writerow([row[column] for column in DIFFERENCE_COLUMNS])
    return out.getvalue()


def _figures(
    cell: Cell, part: str, metric: str, found: MeanEstimate
) -> dict[str, str | int | float]:
    return {
        "engine": cell.engine,
        "task": cell.task,
        "length": cell.length,
        "method": cell.method,
        "part": part,
        "metric": metric,
        "n": found.n,
        "mean": _figure(found.mean),
        "low": _figure(found.low),
        "high": _figure(found.high),
        "num_clusters": found.num_clusters,
    }


def _mean(found: MeanEstimate | None) -> str:
    return _figure(found.mean if found else None)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def save_summary(summary: Summary, out: Path) -> None:
    """Writes `summary.json`, `results.md`, `results.csv` and `differences.csv` into a folder."""
    write_atomically(out / "results.md", render_markdown(summary))
    write_atomically(out / "results.csv", render_csv(summary))
    write_atomically(out / "differences.csv", render_differences_csv(summary))
    write_atomically(out / SUMMARY_NAME, summary.model_dump_json(indent=2) + "\n")
