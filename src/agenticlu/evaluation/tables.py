"""Renders a summary: Markdown tables for people, CSV for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agenticlu.core.files import write_atomically
from agenticlu.core.records import Usage
from agenticlu.core.statistics import MeanEstimate
from agenticlu.evaluation.records import SUMMARY_NAME, Cell, Difference, Overhead, Summary

COLUMNS = (
    "engine", "task", "length", "method", "part", "metric", "n", "mean", "low", "high",
    "num_scored", "num_failed", "num_truncated", "num_cut_off", "num_clusters", "point_precision",
    "point_recall", "gold_present", "prompt_tokens", "cached_tokens", "alone_tokens",
    "completion_tokens", "thinking_tokens", "requests", "seconds", "prompt_vs_direct",
    "alone_vs_direct", "completion_vs_direct", "seconds_vs_direct", "effective",
)  # fmt: skip
"""Of results.csv: a line per cell, part of it (`all`, `hops 2`, `depth 0.0-0.2`) and metric; what
does not belong to a part is in the lines of `all`."""
DIFFERENCE_COLUMNS = (
    "task", "length", "metric", "baseline_engine", "baseline_method", "engine", "method", "n",
    "num_clusters", "baseline_mean", "mean", "difference", "low", "high",
)  # fmt: skip
"""Of differences.csv."""
LEGEND = (
    "Intervals: 95%, clustered: questions on one document, or one question at several depths, "
    "count as one unit. n/G: items behind a mean, and clusters among them. Failed / truncated / "
    "cut off: items without a reply, whose document was cut to fit, whose reply met the token "
    "limit. Counts are given per length where lengths differ."
)


def save_summary(summary: Summary, out: Path) -> None:
    """Writes `summary.json`, `results.md`, `results.csv` and `differences.csv` into a folder."""
    write_atomically(out / "results.md", render_markdown(summary))
    write_atomically(out / "results.csv", render_csv(summary))
    write_atomically(out / "differences.csv", render_differences_csv(summary))
    write_atomically(out / SUMMARY_NAME, summary.model_dump_json(indent=2) + "\n")


def percent(found: MeanEstimate | None) -> str:
    """Returns a mean and its interval in per cent, or a dash.

    >>> percent(MeanEstimate(mean=0.5, low=0.25, high=0.751, n=4, num_clusters=2))
    '50.0 [25.0, 75.1]'
    """
    return "–" if found is None else _with_interval(found, ".1f")


def points(found: MeanEstimate) -> str:
    """Returns a difference with its sign and interval, in percentage points."""
    return _with_interval(found, "+.1f")


def _with_interval(found: MeanEstimate, form: str) -> str:
    text = f"{100 * found.mean:{form}}"
    if found.low is not None and found.high is not None:
        text += f" [{100 * found.low:{form}}, {100 * found.high:{form}}]"
    return text


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders an aligned Markdown table."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def render_line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(widths[i]) for i, cell in enumerate(cells)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([render_line(lines[0]), rule, *map(render_line, lines[1:])])


def render_markdown(summary: Summary) -> str:
    """Renders the main table, the differences, costs, effective lengths, parts and failures."""
    parts = ["# Results", "", render_results(summary), "", LEGEND]
    parts += [f"\n{note}" for note in summary.notes]

    def add(title: str, *lines: str) -> None:
        parts.extend(["", f"## {title}", "", *lines])

    if summary.differences:
        add("Paired differences (percentage points)", render_differences(summary))
    add("Cost", _render_costs(summary), "", _cost_note(summary))
    if summary.effective_lengths:
        add("Effective length (85% of the score at a short length)", _render_effective(summary))
    if any(cell.by_hops for cell in summary.cells):
        names = [str(n) for n in sorted({n for cell in summary.cells for n in cell.by_hops})]
        found = [(c, {str(n): one for n, one in c.by_hops.items()}) for c in summary.cells]
        add("By the number of facts to combine", _render_parts(summary, names, found))
    if any(cell.by_depth for cell in summary.cells):
        names = sorted({name for cell in summary.cells for name in cell.by_depth})
        table = _render_parts(summary, names, [(c, c.by_depth) for c in summary.cells])
        add("By position of the first gold fact (share of the document)", table)
    if summary.left_out:
        add("Left out", *[f"- {line}" for line in summary.left_out])
    if summary.failures:
        failures = [
            f"- {f.task}, {f.length} tokens, {f.method}, question {f.question_id}: {f.error}"
            for f in summary.failures
        ]
        add(f"Failed items: {summary.num_failed}", *failures)
    return "\n".join([*parts, ""])


def _has_several_engines(summary: Summary) -> bool:
    return len({cell.engine for cell in summary.cells}) > 1


def _render_by_engine(
    summary: Summary, header: Sequence[str], rows: Iterable[Sequence[str]]
) -> str:
    """Renders a table whose rows begin with the engine, a column shown where there are several."""
    first = 0 if _has_several_engines(summary) else 1
    return render_table(["engine", *header][first:], [row[first:] for row in rows])


def render_results(summary: Summary) -> str:
    """Renders one line per engine, task and method, with a column per length.

    The last columns count the items behind each mean, length by length; once where all lengths
    agree.
    """
    lengths = sorted({cell.length for cell in summary.cells})
    groups: dict[tuple[str, str, str, str], dict[int, Cell]] = {}
    for cell in summary.cells:
        key = (cell.engine, cell.task, cell.method, cell.headline)
        groups.setdefault(key, {})[cell.length] = cell
    rows = []
    for key, by_length in groups.items():
        cells = [by_length.get(length) for length in lengths]
        support = [None if cell is None else _support(cell.score) for cell in cells]
        losses = [
            None if cell is None else f"{cell.num_failed}/{cell.num_truncated}/{cell.num_cut_off}"
            for cell in cells
        ]
        means = ["" if cell is None else percent(cell.score) for cell in cells]
        rows.append([*key, *means, _each(support), _each(losses)])
    header = ["task", "method", "metric", *map(str, lengths), "n/G", "failed/truncated/cut off"]
    return _render_by_engine(summary, header, rows)


def _support(found: MeanEstimate | None) -> str:
    return "0/0" if found is None else f"{found.n}/{found.num_clusters}"


def _each(values: Sequence[str | None]) -> str:
    """Returns one value where all that are known agree, else all of them in order."""
    known = {value for value in values if value is not None}
    if len(known) == 1:
        return known.pop()
    return ", ".join("–" if value is None else value for value in values)


def render_differences(summary: Summary) -> str:
    """Renders the paired differences, one line for each pair of systems."""
    lengths = sorted({d.length for d in summary.differences})
    groups: dict[tuple[str, str, str], dict[int, Difference]] = {}
    several = _has_several_engines(summary)
    for d in summary.differences:
        name = f"{d.engine} {d.method}" if several else d.method
        base = f"{d.baseline_engine} {d.baseline_method}" if several else d.baseline_method
        groups.setdefault((d.task, f"{name} − {base}", d.metric), {})[d.length] = d
    rows = []
    for key, by_length in groups.items():
        found = [by_length.get(length) for length in lengths]
        shown = ["" if one is None else points(one.difference) for one in found]
        support = [None if one is None else _support(one.difference) for one in found]
        rows.append([*key, *shown, _each(support)])
    return render_table(["task", "difference", "metric", *map(str, lengths), "n/G"], rows)


def _render_costs(summary: Summary) -> str:
    """Renders tokens and seconds per item, and what they are as a multiple of `direct`.

    Methods are compared by what each would have computed alone; see `_cost_note`.
    """

    def times(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}×"

    rows = []
    for cell in summary.cells:
        n = max(cell.num_scored, 1)
        usage, over = cell.usage, cell.overhead or Overhead()
        rows.append(
            [
                cell.engine,
                cell.task,
                str(cell.length),
                cell.method,
                f"{usage.requests / n:.1f}",
                f"{usage.prompt_tokens / n:.0f}",
                "–" if cell.alone_tokens is None else f"{cell.alone_tokens / n:.0f}",
                f"{(usage.prompt_tokens - usage.cached_tokens) / n:.0f}",
                f"{usage.completion_tokens / n:.0f}",
                f"{usage.thinking_tokens / n:.0f}",
                f"{cell.seconds / n:.2f}",
                times(over.alone_tokens),
                times(over.completion_tokens),
                times(over.seconds),
                percent(cell.point_precision),
                percent(cell.point_recall),
                "–" if cell.gold_present is None else f"{100 * cell.gold_present:.0f}",
            ]
        )
    header = (
        "task", "length", "method", "requests/item", "prompt", "computed alone",
        "computed as run", "sampled", "of it thought", "seconds as run", "alone vs direct",
        "sampled vs direct", "time vs direct, as run", "pointback precision", "pointback recall",
        "gold in document %",
    )  # fmt: skip
    return _render_by_engine(summary, header, rows)


def _cost_note(summary: Summary) -> str:
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


def _render_parts(
    summary: Summary,
    names: Sequence[str],
    found: Iterable[tuple[Cell, Mapping[str, MeanEstimate]]],
) -> str:
    """Renders the headline metric of each cell by parts of its items."""
    rows = [
        [
            *(cell.engine, cell.task, str(cell.length), cell.method, cell.headline),
            *[
                f"{percent(parts[name])} n={parts[name].n}" if name in parts else ""
                for name in names
            ],
        ]
        for cell, parts in found
        if parts
    ]
    return _render_by_engine(summary, ["task", "length", "method", "metric", *names], rows)


def _render_effective(summary: Summary) -> str:
    rows = [
        [
            *(e.engine, e.task, e.method, e.metric, f"{100 * e.base_score:.1f} at {e.base_length}"),
            "none" if e.effective_length is None else str(e.effective_length),
            "" if e.unknown_from is None else f"no sound result at {e.unknown_from}",
        ]
        for e in summary.effective_lengths
    ]
    header = ["task", "method", "metric", "whole score", "effective length", ""]
    return _render_by_engine(summary, header, rows)


def render_csv(summary: Summary) -> str:
    """Renders one line per cell, part of it and metric."""
    effective = {
        (e.engine, e.method, e.task, e.metric): e.effective_length or 0
        for e in summary.effective_lengths
    }
    rows = []
    for cell in summary.cells:
        whole = _cell_columns(cell)
        for name, found in cell.metrics.items():
            reach = effective.get((cell.engine, cell.method, cell.task, name))
            rows.append(_part_columns(cell, "all", name, found) | whole | {"effective": reach})
        parts = {f"hops {hops}": found for hops, found in cell.by_hops.items()}
        parts |= {f"depth {name}": found for name, found in cell.by_depth.items()}
        rows += [_part_columns(cell, part, cell.headline, one) for part, one in parts.items()]
    return _render_csv(COLUMNS, rows)


def _cell_columns(cell: Cell) -> dict[str, object]:
    over = cell.overhead or Overhead()
    precision, recall = cell.point_precision, cell.point_recall
    return {
        "num_scored": cell.num_scored,
        "num_failed": cell.num_failed,
        "num_truncated": cell.num_truncated,
        "num_cut_off": cell.num_cut_off,
        "point_precision": _figure(precision.mean if precision else None),
        "point_recall": _figure(recall.mean if recall else None),
        "gold_present": _figure(cell.gold_present),
        "prompt_tokens": cell.usage.prompt_tokens,
        "cached_tokens": cell.usage.cached_tokens,
        "alone_tokens": cell.alone_tokens,
        "completion_tokens": cell.usage.completion_tokens,
        "thinking_tokens": cell.usage.thinking_tokens,
        "requests": cell.usage.requests,
        "seconds": cell.seconds,
        "prompt_vs_direct": _figure(over.prompt_tokens),
        "alone_vs_direct": _figure(over.alone_tokens),
        "completion_vs_direct": _figure(over.completion_tokens),
        "seconds_vs_direct": _figure(over.seconds),
    }


def _part_columns(cell: Cell, part: str, metric: str, found: MeanEstimate) -> dict[str, object]:
    place = cell.model_dump(include={"engine", "task", "length", "method"})
    return {**place, "part": part, "metric": metric, **_estimate_columns(found)}


def render_differences_csv(summary: Summary) -> str:
    """Renders one line per paired difference."""
    rows = []
    for d in summary.differences:
        found = _estimate_columns(d.difference)
        means = {"difference": found["mean"], "mean": _figure(d.mean)}
        means["baseline_mean"] = _figure(d.baseline_mean)
        rows.append(d.model_dump(exclude={"difference"}) | found | means)
    return _render_csv(DIFFERENCE_COLUMNS, rows)


def _estimate_columns(found: MeanEstimate) -> dict[str, object]:
    values = found.model_dump()
    return values | {name: _figure(values[name]) for name in ("mean", "low", "high")}


def _render_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
