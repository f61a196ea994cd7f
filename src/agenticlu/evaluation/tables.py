"""Renders a summary: for terminals and Markdown, for spreadsheets, and one line per cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from agenticlu.evaluation.statistics import Estimate
from agenticlu.evaluation.summary import Cell, Difference, Summary

COLUMNS = (
    "engine",
    "task",
    "length",
    "method",
    "metric",
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
    "completion_tokens",
    "requests",
    "seconds",
    "effective",
)


def percent(found: Estimate | None) -> str:
    """Returns a mean and its interval in per cent, or a dash.

    >>> percent(Estimate(mean=0.5, low=0.25, high=0.751, n=4, num_clusters=2))
    '50.0 [25.0, 75.1]'
    """
    if found is None:
        return "–"
    text = f"{100 * found.mean:.1f}"
    if found.low is not None and found.high is not None:
        text += f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return text


def points(found: Estimate) -> str:
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
    """Renders the main table, the differences, costs, effective lengths and failures."""
    parts = ["# Results", "", results_table(summary)]
    if summary.differences:
        parts += ["", "## Paired differences (percentage points)", "", differences_table(summary)]
    parts += ["", "## Cost", "", costs_table(summary)]
    if summary.effective_lengths:
        parts += ["", "## Effective length (85% of the score at a short length)", ""]
        parts.append(effective_table(summary))
    if summary.left_out:
        parts += ["", "## Left out", "", *[f"- {line}" for line in summary.left_out]]
    if summary.notes:
        parts += ["", "## Notes", "", *[f"- {line}" for line in summary.notes]]
    if summary.failures:
        parts += ["", f"## Failed items: {summary.num_failed}", ""]
        parts += [
            f"- {f.task}, {f.length} tokens, {f.method}, question {f.question_id}: {f.error}"
            for f in summary.failures
        ]
    parts += [
        "",
        "Intervals: 95%, bootstrap over clusters (questions on one document, or one question at "
        "several depths, are drawn together). Scored / failed / truncated / cut off: items with a "
        "score, without a reply, whose document was cut to fit, whose reply met the token limit.",
        "",
    ]
    return "\n".join(parts)


def _engines(summary: Summary) -> list[str]:
    return list(dict.fromkeys(cell.engine for cell in summary.cells))


def results_table(summary: Summary) -> str:
    """Renders one line per engine, task and method, with a column per length."""
    lengths = sorted({cell.length for cell in summary.cells})
    several = len(_engines(summary)) > 1
    header = [
        *(["engine"] if several else []),
        "task",
        "method",
        "metric",
        *[f"{length}" for length in lengths],
        "scored/failed/truncated/cut off",
    ]
    groups: dict[tuple[str, str, str, str], dict[int, Cell]] = {}
    for cell in summary.cells:
        key = (cell.engine, cell.task, cell.method, cell.headline)
        groups.setdefault(key, {})[cell.length] = cell
    rows = []
    for (engine, task, method, metric), by_length in groups.items():
        cells = list(by_length.values())
        counts = [
            sum(getattr(cell, name) for cell in cells)
            for name in ("num_scored", "num_failed", "num_truncated", "num_cut_off")
        ]
        rows.append(
            [
                *([engine] if several else []),
                task,
                method,
                metric,
                *[
                    percent(by_length[length].score) if length in by_length else ""
                    for length in lengths
                ],
                "/".join(map(str, counts)),
            ]
        )
    return render_table(header, rows)


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
        ]
        for (task, metric, name, base), by in groups.items()
    ]
    return render_table(["task", "difference", "metric", *map(str, lengths)], rows)


def costs_table(summary: Summary) -> str:
    """Renders tokens and seconds per item, and what they are as a multiple of `direct`."""
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
                f"{computed / n:.0f}",
                f"{usage.completion_tokens / n:.0f}",
                f"{cell.seconds / n:.2f}",
                times(over.uncached_tokens if over else None),
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
        "uncached",
        "sampled",
        "seconds",
        "uncached vs direct",
        "sampled vs direct",
        "time vs direct",
        "pointback precision",
        "pointback recall",
        "gold in document %",
    ]
    return render_table(header, rows)


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
        ]
        for e in summary.effective_lengths
    ]
    header = ["task", "method", "metric", "whole score", "effective length"]
    return render_table([*(["engine"] if several else []), *header], rows)


def render_csv(summary: Summary) -> str:
    """Renders one line per cell and metric."""
    effective = {(e.engine, e.method, e.task): e for e in summary.effective_lengths}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in summary.cells:
        holds = effective.get((cell.engine, cell.method, cell.task))
        for name, found in cell.metrics.items():
            writer.writerow(
                [
                    cell.engine,
                    cell.task,
                    cell.length,
                    cell.method,
                    name,
                    _figure(found.mean),
                    _figure(found.low),
                    _figure(found.high),
                    cell.num_scored,
                    cell.num_failed,
                    cell.num_truncated,
                    cell.num_cut_off,
                    found.num_clusters,
                    _mean(cell.point_precision),
                    _mean(cell.point_recall),
                    _figure(cell.gold_present),
                    cell.usage.prompt_tokens,
                    cell.usage.cached_tokens,
                    cell.usage.completion_tokens,
                    cell.usage.requests,
                    cell.seconds,
                    (holds.effective_length or 0) if holds and name == holds.metric else "",
                ]
            )
    return out.getvalue()


def _mean(found: Estimate | None) -> str:
    return _figure(found.mean if found else None)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
