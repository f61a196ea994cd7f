"""Writes the page: figures and charts as plain HTML, trees and documents as JSON beside them.

Each tree and each document is a script block of its own, parsed when it is opened; documents stand
once however many trees they have. Nothing is fetched: a content security policy forbids it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from agenticlu import judge
from agenticlu.records import Document, Node, Piece, Tree, Turn
from agenticlu.report import figures, plots
from agenticlu.report.data import REPORT_VERSION, Curve, Measure, ReportData, ResultRow, Stage
from agenticlu.report.figures import Overview
from agenticlu.report.secrets import redact, redact_text

MAX_TREES = 500
"""Trees in a page unless told otherwise; the figures are always over all of them."""
MARKS = (b'<meta name="generator" content="agenticlu">', b'"format": "agenticlu report"')
"""What the beginning of a page, and of its figures, is known by."""
VIEWER_PARTS = (
    "elements", "trees", "address", "picker", "drawing", "node", "document", "comparison", "viewer",
)  # fmt: skip
"""Script files of the viewer, each using those before it."""
_DIGITS = string.digits + string.ascii_lowercase
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAIN_QUANTITIES = ("loss", "accuracy", "margin", "ordered", "likely")
"""Which training quantities get a chart: those whose name holds one of these words."""


@dataclass(frozen=True)
class Chart:
    """A drawn chart with what stands around it."""

    title: str
    caption: str
    svg: Markup
    legend: tuple[tuple[Markup, str], ...] = ()


def build_overview(data: ReportData, max_trees: int = MAX_TREES) -> Overview:
    """Computes all figures of a report.

    Args:
        data: What happened.
        max_trees: Trees that the page will hold; the others are listed as not embedded.
    """
    depths = figures.recall_by_depth(data.trees)
    stages = data.stages
    if not any(stage.group == "search" for stage in stages):
        stages = (*figures.tree_stages(data.trees), *stages)
    embedded = {tree.id for tree in choose_trees(data.trees, max_trees)}
    return Overview(
        version=REPORT_VERSION,
        title=data.title,
        created=data.created,
        headline=figures.headline(data, depths),
        counts=figures.count(data),
        results=data.results,
        gains=data.gains,
        changes=data.changes,
        recall_by_depth=depths,
        funnels=data.funnels,
        stages=stages,
        curves=tuple(
            {
                "run": curve.run,
                "quantity": curve.quantity,
                "split": curve.split,
                "points": [[x, y] for x, y in plots.thin_out(curve.points)],
            }
            for curve in data.curves
        ),
        trees=tuple(
            entry.model_copy(update={"embedded": entry.id in embedded})
            for entry in figures.tree_entries(data.trees, data.pairs)
        ),
        config={name: redact(values) for name, values in data.config.items()},
        errors=tuple(redact_text(error) for error in data.errors),
    )


def choose_trees(trees: Sequence[Tree], most: int) -> tuple[Tree, ...]:
    """Returns at most `most` trees in their order; outcomes take turns, so none is missing."""
    if len(trees) <= most:
        return tuple(trees)
    by_outcome: dict[str, list[int]] = {}
    for i, tree in enumerate(trees):
        by_outcome.setdefault(tree.outcome, []).append(i)
    chosen: set[int] = set()
    queues = [list(reversed(indices)) for _, indices in sorted(by_outcome.items())]
    while len(chosen) < most:
        for queue in queues:
            if queue and len(chosen) < most:
                chosen.add(queue.pop())
    return tuple(trees[i] for i in sorted(chosen))


def build_report(data: ReportData, max_trees: int = MAX_TREES) -> str:
    """Returns the whole page; equal data gives an equal page.

    >>> "<!doctype html>" in build_report(ReportData())
    True
    """
    overview = build_overview(data, max_trees)
    trees = choose_trees(data.trees, max_trees)
    wanted = {tree.document_id for tree in trees}
    blocks: list[tuple[str, Markup]] = []
    listed = {
        "trees": [
            {**entry.model_dump(mode="json"), "answers": list(entry.answers)}
            for entry in overview.trees
        ],
        "pairs": [
            [pair.tree_id, pair.chosen, pair.rejected, pair.kind, pair.id] for pair in data.pairs
        ],
        "documents": {doc.id: doc.title or source_name(doc) for doc in data.documents},
    }
    blocks.append(("report-data", script_json(listed)))
    for tree in trees:
        blocks.append((f"tree-{tree.id}", script_json(compact_tree(tree))))
    for document in data.documents:
        if document.id in wanted:
            pieces = data.pieces.get(document.id, ())
            blocks.append(
                (f"document-{document.id}", script_json(compact_document(document, pieces)))
            )
    css, script = _asset("report.css"), _viewer()
    template = _environment().from_string(_asset("page.html.j2"))
    systems = list(dict.fromkeys(row.system for row in overview.results))
    methods = list(dict.fromkeys(row.method for row in overview.results))
    page = template.render(
        overview=overview,
        counts=overview.counts,
        css=Markup(css),
        script=Markup(script),
        script_hash=_hash(script),
        blocks=blocks,
        results=[
            {
                "table": _table(overview.results, task),
                "gains": [gain for gain in overview.gains if gain.task == task],
                "changes": [one for one in overview.changes if one.task == task],
                "pointing": _pointing(overview.results, task),
                "charts": [
                    _length_chart(overview.results, task, systems, methods),
                    *_depth_chart(overview.results, task, systems, methods),
                    *_tradeoff_chart(overview.results, task, systems, methods),
                ],
            }
            for task in _tasks(overview.results)
        ],
        search_charts=[
            *_search_charts(overview),
            *_outcome_charts(overview),
            *_funnel_charts(overview.funnels),
            *_cost_charts(overview, "search", "judges"),
            *_cost_charts(overview, "evaluation"),
        ],
        curve_charts=[*_curve_charts(data.curves), *_cost_charts(overview, "training")],
        num_hidden=sum(not entry.embedded for entry in overview.trees),
        config={
            name: json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True)
            for name, values in overview.config.items()
        },
    )
    return _LONE_SURROGATE.sub("\ufffd", page)


def summary_json(overview: Overview, data: ReportData | None = None) -> str:
    """Returns the figures of the page as JSON, and with `data` its trees and documents."""
    values = overview.model_dump(mode="json")
    if data is not None:
        values["records"] = {
            "documents": [document.model_dump(mode="json") for document in data.documents],
            "pieces": {
                name: [piece.model_dump(mode="json") for piece in pieces]
                for name, pieces in data.pieces.items()
            },
            "trees": [tree.model_dump(mode="json") for tree in data.trees],
            "pairs": [pair.model_dump(mode="json") for pair in data.pairs],
        }
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def script_json(value: Any) -> Markup:
    r"""Returns JSON that is safe inside a script element: `<` and lone surrogates are escaped.

    >>> str(script_json("</script>"))
    '"\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(_LONE_SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text))


def compact_tree(tree: Tree) -> dict[str, Any]:
    """Returns a tree as the page's script reads it, small: a full one has hundreds of nodes.

    A turn is `[request, reply, computed, cached, sampled, finish]`: the request as an index into
    `requests` (they repeat from node to node) of `[kind, wording, text]`, the cost null where no
    engine was asked, the finish reason only where it is not 'stop'. Relevance is two digits a
    piece. What is null or false is left out, and token ids stay in the run.
    """
    requests: dict[tuple[str, str, str], int] = {}

    def turn_row(turn: Turn) -> list[Any]:
        request = (turn.kind, turn.wording, turn.request)
        usage = turn.usage
        return [
            requests.setdefault(request, len(requests)),
            turn.reply,
            *(
                (None, None, None)
                if usage is None
                else (
                    usage.prompt_tokens - usage.cached_tokens,
                    usage.cached_tokens,
                    usage.completion_tokens,
                )
            ),
            *(() if turn.finish_reason == "stop" else (turn.finish_reason,)),
        ]

    def node_dict(node: Node) -> dict[str, Any]:
        values = {
            "id": node.id,
            "parent": node.parent,
            "depth": node.depth,
            "ordinal": node.ordinal,
            "state": figures.node_state(node),
            "split": judge.disagrees(node.verdicts),
            "kept": list(node.kept),
            "relevance": None
            if node.relevance is None
            else "".join(_two_digits(score) for score in node.relevance),
            "answer": node.answer,
            "score": node.score,
            "failure": None if node.failure is None else redact_text(node.failure),
            "verdicts": [
                [verdict.judge, verdict.value, redact_text(verdict.reason)]
                for verdict in node.verdicts
            ],
            "turns": [turn_row(turn) for turn in node.turns],
        }
        return {
            key: value for key, value in values.items() if value is not None and value is not False
        }

    nodes = [node_dict(node) for node in tree.nodes]
    return {
        "id": tree.id,
        "document": tree.document_id,
        "question": tree.question.text,
        "answers": list(tree.question.answers),
        "options": list(tree.question.options),
        "gold": None if tree.question.gold_pieces is None else list(tree.question.gold_pieces),
        "hops": tree.question.hops,
        "outcome": tree.outcome,
        "system": tree.system,
        "profile": tree.profile,
        "usage": [
            tree.usage.prompt_tokens - tree.usage.cached_tokens,
            tree.usage.cached_tokens,
            tree.usage.completion_tokens,
            tree.usage.requests,
        ],
        "requests": [list(request) for request in requests],
        "nodes": nodes,
    }


def source_name(document: Document) -> str:
    """Returns where a document came from, without the folders of this machine."""
    source = document.source
    if "://" in source:
        return redact_text(source)
    return source.replace("\\", "/").rstrip("/").rpartition("/")[2] or source


def compact_document(document: Document, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Returns a document with the ends of its pieces, in characters (not UTF-16 units)."""
    return {
        "id": document.id,
        "title": document.title,
        "source": source_name(document),
        "text": document.text,
        "pieces": [[p.index, p.start, p.end, p.num_tokens, p.page] for p in pieces],
    }


def _two_digits(score: float) -> str:
    """Returns a score in thousandths as two digits to base 36; 'zz' for one that is not known.

    A tree holds nodes times pieces of them: as a list of numbers they would be half of the page.

    >>> [_two_digits(score) for score in (0.0, 0.5, 1.0, float("nan"))]
    ['00', 'dw', 'rs', 'zz']
    """
    if math.isnan(score):
        return "zz"
    high, low = divmod(round(1000 * min(1.0, max(0.0, score))), 36)
    return _DIGITS[high] + _DIGITS[low]


def _asset(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _viewer() -> str:
    """Returns the script of the tree viewer: its parts in one scope, run where there are trees."""
    parts = "\n".join(_asset(f"viewer/{name}.js") for name in VIEWER_PARTS)
    return (
        '"use strict";\nconst root = document.getElementById("viewer");\n'
        f"if (root) (() => {{\n{parts}}})();\n"
    )


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["quieten"] = _quieten
    environment.filters["percent"] = figures.percent
    environment.filters["short"] = plots.short_number
    environment.filters["tokens"] = plots.length_name
    return environment


def _quieten(sentence: str) -> Markup:
    """Sets what stands in parentheses apart, so that the style sheet can lower its voice."""
    head, bracket, rest = sentence.partition(" (")
    inside, closing, tail = rest.partition(")")
    if not bracket or not closing:
        return Markup.escape(sentence)
    return Markup("{} <span>({})</span>{}").format(head, inside, tail)


def _tasks(rows: Sequence[ResultRow]) -> list[str]:
    return list(dict.fromkeys(row.task for row in rows))


def _table(rows: Sequence[ResultRow], task: str) -> dict[str, Any]:
    """Returns one task's rows by (system, method) and columns by length; the best are marked."""
    mine = [row for row in rows if row.task == task]
    lengths = sorted({row.length for row in mine})
    lines: dict[tuple[str, str], dict[int, ResultRow]] = {}
    for row in mine:
        lines.setdefault((row.system, row.method), {})[row.length] = row
    scored = [row for row in mine if row.score.n]
    best = {
        length: max(row.score.mean for row in scored if row.length == length)
        for length in {row.length for row in scored}
    }
    return {
        "task": task,
        "metric": mine[0].metric,
        "lengths": lengths,
        "lines": [
            (name, [cells.get(length) for length in lengths]) for name, cells in lines.items()
        ],
        "best": best,
        "num_systems": len({row.system for row in mine}),
    }


def _style(system: str, method: str, systems: Sequence[str], methods: Sequence[str]) -> plots.Style:
    """Method gives colour and marker; the first of several systems is dashed and hollow."""
    index = methods.index(method)
    return plots.Style(
        colour=index % plots.NUM_STYLES + 1,
        dashed=len(systems) > 1 and systems.index(system) == 0,
        marker=index % 4,
    )


def _stands_out(system: str, method: str, systems: Sequence[str], methods: Sequence[str]) -> bool:
    """With many lines, only the two that the headline compares stand out."""
    if len(systems) * len(methods) <= 3 or not {"direct", "clarify"} <= set(methods):
        return True
    base, last = figures.contest(systems)
    return (system, method) in ((base, "direct"), (last, "clarify"))


def _named(system: str, method: str, systems: Sequence[str]) -> str:
    return f"{system}, {method}" if len(systems) > 1 else method


def _length_chart(
    rows: Sequence[ResultRow], task: str, systems: Sequence[str], methods: Sequence[str]
) -> Chart:
    table = _table(rows, task)
    lengths: list[int] = table["lengths"]
    series = []
    for (system, method), cells in table["lines"]:
        name = _named(system, method, systems)
        points = tuple(
            plots.Point(
                x=float(lengths.index(row.length)),
                y=row.score.mean,
                low=row.score.low,
                high=row.score.high,
                note=f"{name} at {row.length:,} tokens: {_measured(row.score)}",
            )
            for row in cells
            if row is not None and row.score.n
        )
        strong = _stands_out(system, method, systems, methods)
        style = _style(system, method, systems, methods)
        series.append(plots.Series(name, style, points, strong))
    return Chart(
        title="Accuracy by length",
        caption="Share of right answers; bands are 95% intervals.",
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
        legend=tuple((Markup(plots.key(one.style)), one.name) for one in series),
    )


def _depth_chart(
    rows: Sequence[ResultRow], task: str, systems: Sequence[str], methods: Sequence[str]
) -> list[Chart]:
    """Draws the longest length only: intervals of several lengths cannot be pooled.

    The lengths ask about the same units, so their items are not independent.
    """
    known = [row for row in rows if row.task == task and any(m.n for m in row.by_depth.values())]
    if not known:
        return []
    length = max(row.length for row in known)
    known = [row for row in known if row.length == length]
    fifths = sorted({fifth for row in known for fifth in row.by_depth}, key=_start)
    series = []
    for row in known:
        name = _named(row.system, row.method, systems)
        points = tuple(
            plots.Point(
                x=float(i),
                y=found.mean,
                low=found.low,
                high=found.high,
                note=f"{name}, first fact at {_percents(fifth)} of the document: "
                f"{_measured(found)}",
            )
            for i, fifth in enumerate(fifths)
            if (found := row.by_depth.get(fifth)) is not None and found.n
        )
        strong = _stands_out(row.system, row.method, systems, methods)
        style = _style(row.system, row.method, systems, methods)
        series.append(plots.Series(name, style, points, strong))
    sizes = [m.n for row in known for m in row.by_depth.values() if m.n]
    questions = f"{min(sizes):,}" + (f" to {max(sizes):,}" if max(sizes) > min(sizes) else "")
    return [
        Chart(
            title="Accuracy by depth",
            caption="Share of right answers by where the first gold fact stands, in fifths of the "
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
            legend=tuple((Markup(plots.key(one.style)), one.name) for one in series),
        )
    ]


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


def _search_charts(overview: Overview) -> list[Chart]:
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
USED = ("chosen", "rejected", "row", "trace")
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
    bars = [_bar(stage) for stage in overview.stages if stage.group in groups]
    if not bars:
        return []
    names = ("computed", "cached", "sampled")
    title = COST_TITLES[groups[0]]
    caption = "Tokens: prompt tokens computed, prompt tokens reused from a cache, tokens sampled."
    if groups == ("training",):
        caption = "Tokens computed, and tokens that sharing a document's prefix saved (as cached)."
    if groups == ("evaluation",):
        caption += (
            " As run: a method that comes after another on the same document reuses its reading, "
            "so these bars say what was paid, not which method is cheaper."
        )
    return [
        Chart(
            title=title,
            caption=caption,
            svg=Markup(plots.stacked_bars(bars, title=title)),
            legend=tuple((Markup(plots.bar_key(i)), name) for i, name in enumerate(names)),
        )
    ]


def _tradeoff_chart(
    rows: Sequence[ResultRow], task: str, systems: Sequence[str], methods: Sequence[str]
) -> list[Chart]:
    mine = [row for row in rows if row.task == task and row.score.n]
    priced = [row for row in mine if row.lone_tokens_per_item]
    if not priced:
        return []
    series = []
    for (system, method), cells in _table(priced, task)["lines"]:
        name = _named(system, method, systems)
        points = tuple(
            plots.Point(
                x=row.lone_tokens_per_item,
                y=row.score.mean,
                note=f"{name} at {row.length:,} tokens: {row.lone_tokens_per_item:,.0f} tokens a "
                f"question asked alone ({row.computed_tokens_per_item:,.0f} as run), "
                f"{_measured(row.score)}",
            )
            for row in cells
            if row is not None and row.lone_tokens_per_item
        )
        strong = _stands_out(system, method, systems, methods)
        style = _style(system, method, systems, methods)
        series.append(plots.Series(name, style, points, strong))
    caption = (
        "Tokens computed for a question that is asked alone: its document read once, then what "
        "each turn adds, then the replies. In the run itself questions and methods on one document "
        "shared its reading, so they computed less. One point per length; lines run from the "
        "shortest documents to the longest."
    )
    if len(priced) < len(mine):
        left = len(mine) - len(priced)
        caption += f" {left} of {len(mine)} cells are left out: no predictions tell their turns."
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
            legend=tuple((Markup(plots.key(one.style)), one.name) for one in series),
        )
    ]


def _bar(stage: Stage) -> tuple[str, list[plots.Segment], str]:
    usage = stage.usage
    parts = [
        plots.Segment("computed", usage.prompt_tokens - usage.cached_tokens),
        plots.Segment("cached", usage.cached_tokens),
        plots.Segment("sampled", usage.completion_tokens),
    ]
    return stage.name, parts, " + ".join(plots.short_number(part.value) for part in parts)


def _pointing(rows: Sequence[ResultRow], task: str) -> list[ResultRow]:
    """Returns the cells in which passages were cited and the gold ones are known."""
    return [row for row in rows if row.task == task and row.point_recall is not None]


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
                legend=tuple((Markup(plots.key(one.style)), one.name) for one in series),
            )
        )
    return charts
