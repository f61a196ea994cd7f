"""Writes the page: figures and charts as plain HTML, trees and documents as JSON beside them.

Each tree and each document is a script block of its own, parsed when it is opened; documents stand
once however many trees they have. Nothing is fetched: a content security policy forbids it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from agenticlu.core.records import LONE_SURROGATE, Tree, without_lone_surrogates
from agenticlu.report import figures, plots
from agenticlu.report.blocks import (
    compact_document,
    compact_tree,
    script_json,
    source_name,
)
from agenticlu.report.charts import Cast, result_charts, search_charts, training_charts
from agenticlu.report.data import REPORT_VERSION, ReportData, ResultRow
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
    cast = Cast.of(overview.results)
    page = template.render(
        overview=overview,
        counts=overview.counts,
        css=Markup(css),
        script=Markup(script),
        script_hash=_hash(script),
        blocks=blocks,
        results=[_result(overview, task, cast) for task in _tasks(overview.results)],
        search_charts=search_charts(overview),
        curve_charts=training_charts(overview, data.curves),
        num_hidden=sum(not entry.embedded for entry in overview.trees),
        config={
            name: json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True)
            for name, values in overview.config.items()
        },
    )
    return without_lone_surrogates(page)


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
    return LONE_SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


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
    environment.filters["lower_first"] = lambda text: text[:1].lower() + text[1:]
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


def _result(overview: Overview, task: str, cast: Cast) -> dict[str, Any]:
    """Returns what the page shows of one task."""
    rows = [row for row in overview.results if row.task == task]
    pointing = [row for row in rows if row.point_recall is not None]
    return {
        "table": _table(rows),
        "gains": [gain for gain in overview.gains if gain.task == task],
        "changes": [one for one in overview.changes if one.task == task],
        "pointing": _table(pointing) if pointing else None,
        "charts": result_charts(rows, cast),
    }


def _table(rows: Sequence[ResultRow]) -> dict[str, Any]:
    """Returns one task's rows by (system, method) and columns by length; the best are marked."""
    lengths = sorted({row.length for row in rows})
    lines: dict[tuple[str, str], dict[int, ResultRow]] = {}
    for row in rows:
        lines.setdefault((row.system, row.method), {})[row.length] = row
    scored = [row for row in rows if row.score.n]
    best = {
        length: max(row.score.mean for row in scored if row.length == length)
        for length in {row.length for row in scored}
    }
    return {
        "task": rows[0].task,
        "metric": rows[0].metric,
        "quantity": figures.quantity(rows[0].metric),
        "lengths": lengths,
        "lines": [
            (name, [cells.get(length) for length in lengths]) for name, cells in lines.items()
        ],
        "best": best,
        "num_systems": len({row.system for row in rows}),
    }
