"""The charts of a report: which there are, and what stands under them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from agenticlu.core.records import Usage
from agenticlu.report import figures, plots
from agenticlu.report.data import Curve, Measure, ResultRow
from agenticlu.report.figures import Overview

MAIN_QUANTITIES = ("loss", "accuracy", "margin", "ordered", "likely")
"""Which training quantities get a chart: those whose name holds one of these words."""
Legend = tuple[tuple[Markup, str], ...]


@dataclass(frozen=True)
class Chart:
    """A drawn chart with what stands around it."""

    title: str
    caption: str
    svg: Markup
    legend: Legend = ()


@dataclass(frozen=True)
class Cast:
    """The systems and methods of a report: each has one look in all of its charts."""

    systems: tuple[str, ...]
    methods: tuple[str, ...]

    @classmethod
    def of(cls, rows: Iterable[ResultRow]) -> Cast:
        """Returns those of the rows, in their order."""
        every = list(rows)
        return cls(
            systems=tuple(dict.fromkeys(row.system for row in every)),
            methods=tuple(dict.fromkeys(row.method for row in every)),
        )

    def name(self, system: str, method: str) -> str:
        """Returns the name in a legend; the system only where there are several."""
        return f"{system}, {method}" if len(self.systems) > 1 else method

    def style(self, system: str, method: str) -> plots.Style:
        """Method gives colour and marker; the first of several systems is dashed and hollow."""
        index = self.methods.index(method)
        return plots.Style(
            colour=index % plots.NUM_STYLES + 1,
            dashed=len(self.systems) > 1 and self.systems.index(system) == 0,
            marker=index % 4,
        )

    def stands_out(self, system: str, method: str) -> bool:
        """With many lines, only the two that the headline compares stand out."""
        few = len(self.systems) * len(self.methods) <= 3
        if few or not {"direct", "clarify"} <= set(self.methods):
            return True
        base, last = figures.contest(self.systems)
        return (system, method) in ((base, "direct"), (last, "clarify"))

    def series(
        self, rows: Iterable[ResultRow], points: Callable[[str, ResultRow], Iterable[plots.Point]]
    ) -> list[plots.Series]:
        """Returns a line per system and method, its points by ascending length.

        Args:
            rows: Cells of one task.
            points: From a line's name and one of its cells to the points that it gives.
        """
        lines: dict[tuple[str, str], list[ResultRow]] = {}
        for row in rows:
            lines.setdefault((row.system, row.method), []).append(row)
        found = []
        for (system, method), cells in lines.items():
            name = self.name(system, method)
            cells.sort(key=lambda row: row.length)
            drawn = tuple(point for row in cells for point in points(name, row))
            style = self.style(system, method)
            found.append(plots.Series(name, style, drawn, self.stands_out(system, method)))
        return found


def result_charts(rows: Sequence[ResultRow], cast: Cast) -> list[Chart]:
    """Returns the charts of one task's rows."""
    return [_length_chart(rows, cast), *_depth_chart(rows, cast), *_tradeoff_chart(rows, cast)]


def search_charts(overview: Overview) -> list[Chart]:
    """Returns the charts of a search and of the data made from it, and what all stages cost."""
    return [
        *_recall_charts(overview),
        *_outcome_charts(overview),
        *_funnel_charts(overview.funnels),
        *_cost_charts(overview, "search", "judges"),
        *_cost_charts(overview, "evaluation"),
    ]


def training_charts(overview: Overview, curves: Sequence[Curve]) -> list[Chart]:
    """Returns the curves of the trainings, and what they cost."""
    return [*_curve_charts(curves), *_cost_charts(overview, "training")]


def _length_chart(rows: Sequence[ResultRow], cast: Cast) -> Chart:
    lengths = sorted({row.length for row in rows})

    def points(name: str, row: ResultRow) -> Iterable[plots.Point]:
        if row.score.n:
            yield plots.Point(
                x=float(lengths.index(row.length)),
                y=row.score.mean,
                low=row.score.low,
                high=row.score.high,
                note=f"{name} at {row.length:,} tokens: {_measured(row.score)}",
            )

    series = cast.series(rows, points)
    return Chart(
        title="Accuracy by length",
        caption=f"{_quantity(rows)}; bands are 95% intervals.",
        svg=Markup(
            plots.line_chart(
                series,
                title="Accuracy by length",
                x_label="document length, tokens",
                y_label="accuracy",
                x_ticks=[(float(i), plots.length_name(n)) for i, n in enumerate(lengths)],
                y_range=(0.0, 1.0),
                y_percent=True,
            )
        ),
        legend=_legend(series),
    )


def _depth_chart(rows: Sequence[ResultRow], cast: Cast) -> list[Chart]:
    """Draws the longest length only: intervals of several lengths cannot be pooled.

    The lengths ask about the same units, so their items are not independent.
    """
    known = [row for row in rows if any(m.n for m in row.by_depth.values())]
    if not known:
        return []
    length = max(row.length for row in known)
    known = [row for row in known if row.length == length]
    fifths = sorted({fifth for row in known for fifth in row.by_depth}, key=_start)

    def points(name: str, row: ResultRow) -> Iterable[plots.Point]:
        for i, fifth in enumerate(fifths):
            found = row.by_depth.get(fifth)
            if found is not None and found.n:
                yield plots.Point(
                    x=float(i),
                    y=found.mean,
                    low=found.low,
                    high=found.high,
                    note=f"{name}, first fact at {_percents(fifth)} of the document: "
                    f"{_measured(found)}",
                )

    series = cast.series(known, points)
    sizes = [m.n for row in known for m in row.by_depth.values() if m.n]
    questions = f"{min(sizes):,}" + (f" to {max(sizes):,}" if max(sizes) > min(sizes) else "")
    return [
        Chart(
            title="Accuracy by depth",
            caption=f"{_quantity(rows)} by where the first gold fact stands, in fifths of the "
            f"document. Only the longest documents with known places ({length:,} tokens); "
            f"a point is {questions} question{'' if max(sizes) == 1 else 's'}; bands are 95% "
            "intervals.",
            svg=Markup(
                plots.line_chart(
                    series,
                    title="Accuracy by depth",
                    x_label="place of the first gold fact, % of the document",
                    y_label="accuracy",
                    x_ticks=[
                        (float(i), _percents(fifth).rstrip("%")) for i, fifth in enumerate(fifths)
                    ],
                    y_range=(0.0, 1.0),
                    y_percent=True,
                )
            ),
            legend=_legend(series),
        )
    ]


def _tradeoff_chart(rows: Sequence[ResultRow], cast: Cast) -> list[Chart]:
    scored = [row for row in rows if row.score.n]
    priced = [row for row in scored if row.lone_tokens_per_item]
    if not priced:
        return []

    def points(name: str, row: ResultRow) -> Iterable[plots.Point]:
        if row.lone_tokens_per_item:
            yield plots.Point(
                x=row.lone_tokens_per_item,
                y=row.score.mean,
                note=f"{name} at {row.length:,} tokens: {row.lone_tokens_per_item:,.0f} tokens a "
                f"question asked alone ({row.computed_tokens_per_item:,.0f} as run), "
                f"{_measured(row.score)}",
            )

    series = cast.series(priced, points)
    caption = (
        "Tokens computed for a question that is asked alone: its document read once, then what "
        "each turn adds, then the replies. In the run itself questions and methods on one document "
        "shared its reading, so they computed less. One point per length; lines run from the "
        "shortest documents to the longest."
    )
    if len(priced) < len(scored):
        left = len(scored) - len(priced)
        caption += f" {left} of {len(scored)} cells are left out: no predictions tell their turns."
    return [
        Chart(
            title="Cost against accuracy",
            caption=caption,
            svg=Markup(
                plots.line_chart(
                    series,
                    title="Cost against accuracy",
                    x_label="tokens computed per question, asked alone",
                    y_label="accuracy",
                    y_range=(0.0, 1.0),
                    y_percent=True,
                    x_log=True,
                )
            ),
            legend=_legend(series),
        )
    ]


def _legend(series: Sequence[plots.Series]) -> Legend:
    return tuple((Markup(plots.key(one.style)), one.name) for one in series)


def _quantity(rows: Sequence[ResultRow]) -> str:
    return figures.quantity(rows[0].metric)


def _start(fifth: str) -> tuple[float, str]:
    """Returns the order of a name such as '0.2-0.4'; one that is no range comes last."""
    try:
        return float(fifth.partition("-")[0]), fifth
    except ValueError:
        return math.inf, fifth


def _percents(fifth: str) -> str:
    """Returns a range of shares in percent.

    >>> _percents("0.2-0.4")
    '20–40%'
    """
    try:
        low, high = (float(end) for end in fifth.split("-"))
    except ValueError:
        return fifth
    return f"{100 * low:.0f}–{100 * high:.0f}%"


def _measured(found: Measure) -> str:
    text = figures.percent(found.mean)
    if found.low is not None and found.high is not None:
        text += f" (95% interval {figures.percent(found.low)} to "
        text += f"{figures.percent(found.high)})"
    return f"{text}, n = {found.n}"


def _recall_charts(overview: Overview) -> list[Chart]:
    depths = overview.recall_by_depth
    if not depths:
        return []
    style = plots.Style(colour=1)
    points = tuple(
        plots.Point(
            x=float(figure.depth),
            y=figure.recall.mean,
            low=figure.recall.low,
            high=figure.recall.high,
            note=f"depth {figure.depth}: {figures.percent(figure.recall.mean)} of "
            f"{figure.recall.n} questions",
        )
        for figure in depths
    )
    ticks = [(float(f.depth), "direct" if f.depth == 0 else str(f.depth)) for f in depths]
    return [
        Chart(
            title="Recall by depth",
            caption="Questions with a right answer somewhere in their tree down to this depth; "
            "depth 0 is the direct answer.",
            svg=Markup(
                plots.line_chart(
                    [plots.Series("recall", style, points)],
                    title="Recall by depth",
                    x_label="rounds of clarification",
                    y_label="recall",
                    x_ticks=ticks,
                    y_range=(0.0, 1.0),
                    y_percent=True,
                )
            ),
        )
    ]


OUTCOME_NAMES = {
    "solved": "solved",
    "too-easy": "too easy (every answer right)",
    "unsolved": "unsolved",
    "budget": "budget reached",
    "failed": "failed",
}


def _outcome_charts(overview: Overview) -> list[Chart]:
    counts = overview.counts
    if not counts.trees:
        return []
    bars = [
        (name, [plots.Segment(name, counts.outcomes[outcome])], _share(outcome, counts))
        for outcome, name in OUTCOME_NAMES.items()
        if counts.outcomes.get(outcome)
    ]
    return [
        Chart(
            title="Outcomes",
            caption="What became of the trees. A tree is solved when a judge found one of its "
            "answers right; too easy, when all of them were.",
            svg=Markup(plots.stacked_bars(bars, title="Outcomes", unit="trees")),
        )
    ]


FUNNELS = {
    "nodes": (
        "From nodes to pairs",
        "What became of every node below the direct answers.",
        "nodes",
    ),
    "rows": ("From pairs to rows", "What became of every turn of the pairs.", "turns"),
    "traces": ("From trees to traces", "What became of every tree in the SFT rows.", "trees"),
}
USED = ("chosen", "rejected", "written")
"""What a funnel calls the part that ends up in the data set; all else are reasons for a loss."""


def _funnel_charts(funnels: Mapping[str, Mapping[str, int]]) -> list[Chart]:
    charts = []
    for name, (title, caption, unit) in FUNNELS.items():
        counts = {reason: num for reason, num in funnels.get(name, {}).items() if num}
        if not counts:
            continue
        total = sum(counts.values())
        order = sorted(counts, key=lambda reason: (reason not in USED, -counts[reason], reason))
        bars = [
            (
                reason,
                [plots.Segment(reason, counts[reason] if reason in USED else 0),
                 plots.Segment(reason, 0 if reason in USED else counts[reason])],
                f"{counts[reason]:,} ({figures.percent(counts[reason] / total)})",
            )
            for reason in order
        ]  # fmt: skip
        svg = Markup(plots.stacked_bars(bars, title=title, unit=unit))
        charts.append(Chart(title=title, caption=caption, svg=svg))
    return charts


def _share(outcome: str, counts: figures.Counts) -> str:
    number = counts.outcomes[outcome]
    return f"{number:,} ({figures.percent(number / counts.trees)})"


COST_TITLES = {
    "search": "Cost by stage",
    "training": "Cost of training",
    "evaluation": "Cost of the evaluation",
}


def _cost_charts(overview: Overview, *groups: str) -> list[Chart]:
    stages = [stage for stage in overview.stages if stage.group in groups]
    if not stages:
        return []
    title = COST_TITLES[groups[0]]
    names = [part.name for part in _parts(stages[0].usage)]
    if groups == ("training",):
        names.remove("sampled")
        caption = "Tokens computed, and tokens that sharing a document's prefix saved (as cached)."
    else:
        caption = "Tokens: prompt tokens computed, reused from a cache, and tokens sampled."
    if len(stages) > 1:
        total = sum((stage.usage for stage in stages), Usage())
        caption += f" In all {_bar('', total, names)[2]}."
    if groups == ("evaluation",):
        caption += (
            " As run: a method that comes after another on the same document reuses its reading, "
            "so these bars say what was paid, not which method is cheaper."
        )
    bars = [_bar(stage.name, stage.usage, names) for stage in stages]
    return [
        Chart(
            title=title,
            caption=caption,
            svg=Markup(plots.stacked_bars(bars, title=title)),
            legend=tuple((Markup(plots.bar_key(i)), name) for i, name in enumerate(names)),
        )
    ]


def _parts(usage: Usage) -> list[plots.Segment]:
    return [
        plots.Segment("computed", usage.prompt_tokens - usage.cached_tokens),
        plots.Segment("cached", usage.cached_tokens),
        plots.Segment("sampled", usage.completion_tokens),
    ]


def _bar(name: str, usage: Usage, names: Sequence[str]) -> tuple[str, list[plots.Segment], str]:
    parts = [part for part in _parts(usage) if part.name in names]
    return name, parts, " + ".join(plots.short_number(part.value) for part in parts)


def _curve_charts(curves: Sequence[Curve]) -> list[Chart]:
    """Returns one chart per main quantity, the runs as its lines; small runs keep all points."""
    runs = list(dict.fromkeys(curve.run for curve in curves))
    charts = []
    for quantity in dict.fromkeys(curve.quantity for curve in curves):
        if not any(word in quantity.lower() for word in MAIN_QUANTITIES):
            continue
        series = []
        for curve in curves:
            if curve.quantity != quantity or not curve.points:
                continue
            thinned = plots.thin_out([(x, y) for x, y in curve.points if math.isfinite(y)])
            held_out = curve.split != "training"
            style = plots.Style(
                colour=runs.index(curve.run) % plots.NUM_STYLES + 1, dashed=held_out
            )
            name = f"{curve.run}, {curve.split}" if held_out else curve.run
            series.append(
                plots.Series(name, style, tuple(plots.Point(x=x, y=y) for x, y in thinned))
            )
        if not any(one.points for one in series):
            continue
        is_share = quantity.endswith(("share", "accuracy"))
        name = quantity.replace("_", " ").replace("/", ": ")
        charts.append(
            Chart(
                title=name[:1].upper() + name[1:],
                caption="",
                svg=Markup(
                    plots.line_chart(
                        series,
                        title=f"Training: {name}",
                        x_label="step",
                        y_label=name,
                        y_range=(0.0, 1.0) if is_share else None,
                        y_percent=is_share,
                        x_whole=True,
                        markers=any(len(one.points) == 1 for one in series),
                    )
                ),
                legend=_legend(series),
            )
        )
    return charts
