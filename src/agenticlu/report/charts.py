"""The charts of a report, with their captions and legends."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from agenticlu.core.records import Usage
from agenticlu.core.statistics import MeanEstimate
from agenticlu.evaluation.records import Cell
from agenticlu.report import figures, plots
from agenticlu.report.figures import Curve, Overview

MAIN_QUANTITIES = ("loss", "accuracy", "margin", "ordered", "likely")
"""Training quantities that get a chart: those whose name contains one of these words."""
Legend = tuple[tuple[Markup, str], ...]


@dataclass(frozen=True)
class Chart:
    """A drawn chart with its title, caption and legend."""

    title: str
    caption: str
    svg: Markup
    legend: Legend = ()


def _line_chart(
    title: str,
    caption: str,
    series: Sequence[plots.Series],
    axes: plots.Axes,
    *,
    svg_title: str = "",
    has_legend: bool = True,
    markers: bool = True,
) -> Chart:
    drawn = plots.line_chart(series, axes, title=svg_title or title, markers=markers)
    keys = tuple((Markup(plots.key(one.style)), one.name) for one in series) if has_legend else ()
    return Chart(title=title, caption=caption, svg=Markup(drawn), legend=keys)


@dataclass(frozen=True)
class Cast:
    """The engines and methods of a report: each has one look in all of its charts."""

    engines: tuple[str, ...]
    methods: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> Cast:
        """Returns those of the cells, in their order."""
        return cls(
            engines=tuple(dict.fromkeys(cell.engine for cell in cells)),
            methods=tuple(dict.fromkeys(cell.method for cell in cells)),
        )

    def name(self, engine: str, method: str) -> str:
        """Returns the name in a legend; the engine only where there are several."""
        return f"{engine}, {method}" if len(self.engines) > 1 else method

    def style(self, engine: str, method: str) -> plots.Style:
        """Method gives colour and marker; the first of several engines is dashed and hollow."""
        index = self.methods.index(method)
        return plots.Style(
            colour=index % plots.NUM_STYLES + 1,
            dashed=len(self.engines) > 1 and self.engines.index(engine) == 0,
            marker=index % 4,
        )

    def stands_out(self, engine: str, method: str) -> bool:
        """With many lines, only the two that the headline compares stand out."""
        few = len(self.engines) * len(self.methods) <= 3
        if few or not {"direct", "clarify"} <= set(self.methods):
            return True
        base, last = figures.contest(self.engines)
        return (engine, method) in ((base, "direct"), (last, "clarify"))

    def series(
        self, cells: Sequence[Cell], points: Callable[[str, Cell], Iterable[plots.Point]]
    ) -> list[plots.Series]:
        """Returns a line per engine and method, its points by ascending length.

        Args:
            cells: Cells of one task.
            points: From a line's name and one of its cells to the points that it gives.
        """
        found = []
        for engine, method in dict.fromkeys((cell.engine, cell.method) for cell in cells):
            own = [cell for cell in cells if (cell.engine, cell.method) == (engine, method)]
            own.sort(key=lambda cell: cell.length)
            name, style = self.name(engine, method), self.style(engine, method)
            drawn = tuple(point for cell in own for point in points(name, cell))
            found.append(plots.Series(name, style, drawn, self.stands_out(engine, method)))
        return found


def result_charts(cells: Sequence[Cell], cast: Cast) -> list[Chart]:
    """Returns the charts of one task's cells."""
    return [_length_chart(cells, cast), *_depth_chart(cells, cast), *_tradeoff_chart(cells, cast)]


def search_charts(overview: Overview) -> list[Chart]:
    """Returns the charts of a search and of the data made from it, and what all stages cost."""
    return [
        *_recall_charts(overview),
        *_outcome_charts(overview),
        *_stop_charts(overview),
        *_pointing_charts(overview),
        *_funnel_charts(overview.funnels),
        *_cost_charts(overview, "search", "judges"),
        *_cost_charts(overview, "evaluation"),
    ]


def training_charts(overview: Overview, curves: Sequence[Curve]) -> list[Chart]:
    """Returns the curves of the trainings, and what they cost."""
    return [*_curve_charts(curves), *_cost_charts(overview, "training")]


def _length_chart(cells: Sequence[Cell], cast: Cast) -> Chart:
    lengths = sorted({cell.length for cell in cells})

    def points(name: str, cell: Cell) -> Iterable[plots.Point]:
        if cell.score is not None:
            note = f"{name} at {cell.length:,} tokens: {_measured(cell.score)}"
            yield _point(float(lengths.index(cell.length)), cell.score, note)

    ticks = [(float(i), plots.length_name(length)) for i, length in enumerate(lengths)]
    return _line_chart(
        "Accuracy by length",
        f"{_quantity(cells)}; bands are 95% intervals.",
        cast.series(cells, points),
        plots.Axes("document length, tokens", "accuracy", ticks, y_share=True),
    )


def _depth_chart(cells: Sequence[Cell], cast: Cast) -> list[Chart]:
    """Draws the longest length only: intervals of several lengths cannot be pooled.

    The lengths ask about the same units, so their items are not independent.
    """
    known = [cell for cell in cells if cell.by_depth]
    if not known:
        return []
    length = max(cell.length for cell in known)
    known = [cell for cell in known if cell.length == length]
    fifths = sorted({fifth for cell in known for fifth in cell.by_depth}, key=_start)

    def points(name: str, cell: Cell) -> Iterable[plots.Point]:
        for i, fifth in enumerate(fifths):
            if (found := cell.by_depth.get(fifth)) is not None:
                place = f"first fact at {_percents(fifth)} of the document"
                yield _point(float(i), found, f"{name}, {place}: {_measured(found)}")

    sizes = [found.n for cell in known for found in cell.by_depth.values()]
    questions = f"{min(sizes):,}" + (f" to {max(sizes):,}" if max(sizes) > min(sizes) else "")
    ticks = [(float(i), _percents(fifth).rstrip("%")) for i, fifth in enumerate(fifths)]
    chart = _line_chart(
        "Accuracy by depth",
        f"{_quantity(cells)} by the place of the first gold fact, in fifths of the document. Only "
        f"the longest documents with known places ({length:,} tokens); a point is {questions} "
        f"question{'' if max(sizes) == 1 else 's'}; bands are 95% intervals.",
        cast.series(known, points),
        plots.Axes(
            "place of the first gold fact, % of the document", "accuracy", ticks, y_share=True
        ),
    )
    return [chart]


def _tradeoff_chart(cells: Sequence[Cell], cast: Cast) -> list[Chart]:
    scored = [cell for cell in cells if cell.score is not None]
    priced = [cell for cell in scored if cell.alone_tokens_per_item]
    if not priced:
        return []

    def points(name: str, cell: Cell) -> Iterable[plots.Point]:
        if (tokens := cell.alone_tokens_per_item) and cell.score is not None:
            yield plots.Point(
                x=tokens,
                y=cell.score.mean,
                note=f"{name} at {cell.length:,} tokens: {tokens:,.0f} tokens a question asked "
                f"alone ({cell.computed_tokens_per_item:,.0f} as run), {_measured(cell.score)}",
            )

    caption = (
        "Tokens computed for a question that is asked alone: its document read once, then what "
        "each turn adds, then the replies. In the run itself questions and methods on one document "
        "shared its reading, so they computed less. One point per length; lines run from the "
        "shortest documents to the longest."
    )
    if len(priced) < len(scored):
        left = len(scored) - len(priced)
        caption += f" {left} of {len(scored)} cells are left out: their predictions keep no turns."
    axes = plots.Axes(
        "tokens computed per question, asked alone", "accuracy", y_share=True, x_log=True
    )
    return [_line_chart("Cost against accuracy", caption, cast.series(priced, points), axes)]


def _point(x: float, found: MeanEstimate, note: str) -> plots.Point:
    return plots.Point(x=x, y=found.mean, low=found.low, high=found.high, note=note)


def _quantity(cells: Sequence[Cell]) -> str:
    return figures.quantity(cells[0].headline)


def _start(fifth: str) -> tuple[float, str]:
    """Returns the sort key of a name such as '0.2-0.4'; names that are not ranges come last."""
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


def _measured(found: MeanEstimate) -> str:
    text = figures.percent(found.mean)
    if found.low is not None and found.high is not None:
        text += f" (95% interval {figures.percent(found.low)} to "
        text += f"{figures.percent(found.high)})"
    return f"{text}, n = {found.n}"


def _recall_charts(overview: Overview) -> list[Chart]:
    depths = overview.recall_by_depth
    if not depths:
        return []
    points = tuple(
        _point(
            float(figure.depth),
            figure.recall,
            f"depth {figure.depth}: {figures.percent(figure.recall.mean)} of "
            f"{figure.recall.n} questions",
        )
        for figure in depths
    )
    ticks = [(float(f.depth), "direct" if f.depth == 0 else str(f.depth)) for f in depths]
    chart = _line_chart(
        "Recall by depth",
        "Questions with a right answer somewhere in their tree down to this depth; depth 0 is the "
        "direct answer.",
        [plots.Series("recall", plots.Style(colour=1), points)],
        plots.Axes("rounds of clarification", "recall", ticks, y_share=True),
        has_legend=False,
    )
    return [chart]


STOP_SERIES = {
    "right": "answered rightly",
    "repaired": "repaired: wrong at first",
    "spoiled": "spoiled: right at first",
}


def _stop_charts(overview: Overview) -> list[Chart]:
    found = overview.stopping
    if not found:
        return []
    now, series = found["self_check"], []
    for number, (name, words) in enumerate(STOP_SERIES.items(), start=1):
        points = tuple(
            plots.Point(
                one["rounds"],
                one[name],
                note=f"stops from p = {one['threshold']:.2f}: {one['rounds']:.2f} rounds, "
                f"{figures.percent(one[name])} {words}",
            )
            for one in sorted(found["curve"], key=lambda one: float(one["rounds"]))
        )
        series.append(plots.Series(words, plots.Style(colour=number, marker=number - 1), points))
    followed = (
        ""
        if found["followed_right"]
        else " No right round was followed by another here, so nothing could be spoiled."
    )
    rule, check = (figures.percent(found["balanced_accuracy"][k]) for k in ("rule", "self_check"))
    caption = (
        "Share of questions by the mean number of rounds, for a rule that stops earlier or later; "
        "each document is decided by a rule fitted on the others. The self-check alone takes "
        f"{now['rounds']:.2f} rounds: {figures.percent(now['right'])} right, "
        f"{figures.percent(now['repaired'])} repaired, {figures.percent(now['spoiled'])} spoiled. "
        "Whether a round is right is told with a balanced accuracy of "
        f"{rule} by the rule, {check} by the self-check.{followed}"
    )
    axes = plots.Axes("rounds, mean", "share of questions", y_share=True)
    return [_line_chart("When to stop", caption, series, axes)]


TARGETS = (
    ("taught", "right", "named", "precision, as taught"),
    ("taught", "found", "gold", "recall, as taught"),
    ("kept", "right", "named", "precision, all kept"),
    ("kept", "found", "gold", "recall, all kept"),
)
"""Whose marks, what is counted, of what, and its name."""


def _pointing_charts(overview: Overview) -> list[Chart]:
    found = []
    for name, pointing in overview.pointing.items():
        depths = {int(depth): one for depth, one in pointing["by_depth"].items()}
        series = []
        for number, (marks, part, whole, words) in enumerate(TARGETS):
            points = []
            for depth, one in sorted(depths.items()):
                total = one["gold"] if whole == "gold" else one[marks][whole]
                share = one[marks][part] / total if total else 0.0
                note = f"depth {depth}, {words}: {figures.percent(share)} of {total}"
                points.append(plots.Point(float(depth), share, note=note))
            style = plots.Style(colour=1 + number % 2, dashed=number > 1, marker=number)
            series.append(plots.Series(words, style, tuple(points)))
        caption = (
            f"Pieces that the conversations of {name} name, against those that hold the facts: of "
            "those named, the share that is right (precision); of the right ones, the share that a "
            "round or one before it names (recall). All kept: before needless pieces were left out "
            f"in {pointing['shortened']:,} of {pointing['rounds']:,} rounds."
        )
        ticks = [(float(depth), str(depth)) for depth in sorted(depths)]
        axes = plots.Axes("depth", "share of pieces", ticks, y_share=True)
        found.append(_line_chart(f"What is taught to point at: {name}", caption, series, axes))
    return found


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
    "cells": ("From pairs to cells", "What became of every turn of the pairs.", "turns"),
    "traces": ("From trees to traces", "What became of every tree in the SFT cells.", "trees"),
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
    thinks = any(stage.usage.thinking_tokens for stage in stages)
    names = [part.name for part in _parts(stages[0].usage)][: 3 + thinks]
    if groups == ("training",):
        names = names[:2]
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
        plots.Segment("sampled", usage.completion_tokens - usage.thinking_tokens),
        plots.Segment("thought", usage.thinking_tokens),
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
        drawn = [curve for curve in curves if curve.quantity == quantity and curve.points]
        series = [_curve_line(curve, runs.index(curve.run)) for curve in drawn]
        if not any(one.points for one in series):
            continue
        name = quantity.replace("_", " ").replace("/", ": ")
        is_share = quantity.endswith(("share", "accuracy"))
        chart = _line_chart(
            name[:1].upper() + name[1:],
            "",
            series,
            plots.Axes("step", name, y_share=is_share, x_whole=True),
            svg_title=f"Training: {name}",
            markers=any(len(one.points) == 1 for one in series),
        )
        charts.append(chart)
    return charts


def _curve_line(curve: Curve, number: int) -> plots.Series:
    held_out = curve.split != "training"
    thinned = plots.thin_out([(x, y) for x, y in curve.points if math.isfinite(y)])
    style = plots.Style(colour=number % plots.NUM_STYLES + 1, dashed=held_out)
    name = f"{curve.run}, {curve.split}" if held_out else curve.run
    return plots.Series(name, style, tuple(plots.Point(x=x, y=y) for x, y in thinned))
