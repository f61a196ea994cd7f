"""Writes the page: figures and charts as plain HTML, trees and documents as JSON beside them.

Each tree and each document is a script block of its own, parsed when it is opened; a document
appears once however many trees it has. Nothing is fetched: a content security policy forbids it.
Keys, folders and other private strings are blanked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import string
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from agenticlu import judges as judge
from agenticlu.core.records import (
    LONE_SURROGATE,
    Document,
    Node,
    Piece,
    Tree,
    Turn,
    Usage,
    without_lone_surrogates,
)
from agenticlu.core.secrets import redact, redact_text
from agenticlu.evaluation.recall import tree_recall
from agenticlu.evaluation.records import Cell
from agenticlu.report import figures, plots
from agenticlu.report.charts import Cast, result_charts, search_charts, training_charts
from agenticlu.report.figures import REPORT_VERSION, Overview, ReportData

MAX_TREES = 500
"""Trees in a page by default; the figures are always over all of them."""
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
    depths = tree_recall(data.trees).by_depth
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
        pointing=data.pointing,
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
        stopping=data.stopping,
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
    tasks = dict.fromkeys(cell.task for cell in overview.results)
    page = template.render(
        overview=overview,
        counts=overview.counts,
        css=Markup(css),
        script=Markup(script),
        script_hash=_hash(script),
        blocks=blocks,
        results=[_result(overview, task, cast) for task in tasks],
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
    environment.globals["system"] = figures.describe_system
    environment.filters["short"] = plots.short_number
    environment.filters["tokens"] = plots.length_name
    return environment


def _quieten(sentence: str) -> Markup:
    """Wraps what is in parentheses, so that the style sheet can set it apart."""
    head, bracket, rest = sentence.partition(" (")
    inside, closing, tail = rest.partition(")")
    if not bracket or not closing:
        return Markup.escape(sentence)
    return Markup("{} <span>({})</span>{}").format(head, inside, tail)


def _result(overview: Overview, task: str, cast: Cast) -> dict[str, Any]:
    """Returns what the page shows of one task."""
    cells = [cell for cell in overview.results if cell.task == task]
    pointing = [cell for cell in cells if cell.point_recall is not None]
    return {
        "table": _table(cells),
        "gains": [gain for gain in overview.gains if gain.task == task],
        "changes": [one for one in overview.changes if one.task == task],
        "pointing": _table(pointing) if pointing else None,
        "charts": result_charts(cells, cast),
    }


def _table(cells: Sequence[Cell]) -> dict[str, Any]:
    """Returns a task's rows by (engine, method) and columns by length; the best are marked."""
    lengths = sorted({cell.length for cell in cells})
    lines: dict[tuple[str, str], dict[int, Cell]] = {}
    best: dict[int, float] = {}
    for cell in cells:
        lines.setdefault((cell.engine, cell.method), {})[cell.length] = cell
        if cell.score is not None:
            best[cell.length] = max(cell.score.mean, best.get(cell.length, 0.0))
    return {
        "task": cells[0].task,
        "metric": cells[0].headline,
        "quantity": figures.quantity(cells[0].headline),
        "lengths": lengths,
        "lines": [
            (name, [found.get(length) for length in lengths]) for name, found in lines.items()
        ],
        "best": best,
        "num_systems": len({cell.engine for cell in cells}),
    }


_DIGITS = string.digits + string.ascii_lowercase


def script_json(value: Any) -> Markup:
    r"""Returns JSON that is safe inside a script element: `<` and lone surrogates are escaped.

    >>> str(script_json("</script>"))
    '"\\u003c/script>"'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Markup(LONE_SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text))


def compact_tree(tree: Tree) -> dict[str, Any]:
    """Returns a tree as the page's script reads it, small: a full one has hundreds of nodes.

    A turn is `[request, reply, computed, cached, sampled, finish]`: the request as an index into
    `requests` (they repeat from node to node) of `[kind, wording, text]`, the cost null where no
    engine was asked, the finish reason only where it is not 'stop'. Relevance is two digits a
    piece. What is null or false is left out, and token ids stay in the run.
    """
    requests: dict[tuple[str, str, str], int] = {}
    nodes = [_compact_node(node, requests) for node in tree.nodes]
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
        "usage": [*_compact_usage(tree.usage), tree.usage.requests],
        "requests": [list(request) for request in requests],
        "nodes": nodes,
    }


def _compact_node(node: Node, requests: dict[tuple[str, str, str], int]) -> dict[str, Any]:
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
            [verdict.judge, verdict.value, redact_text(verdict.reason)] for verdict in node.verdicts
        ],
        "turns": [_compact_turn(turn, requests) for turn in node.turns],
    }
    return {key: value for key, value in values.items() if value is not None and value is not False}


def _compact_turn(turn: Turn, requests: dict[tuple[str, str, str], int]) -> list[Any]:
    number = requests.setdefault((turn.kind, turn.wording, turn.request), len(requests))
    cost = (None, None, None) if turn.usage is None else _compact_usage(turn.usage)
    finish = () if turn.finish_reason == "stop" else (turn.finish_reason,)
    return [number, turn.reply, *cost, *finish]


def _compact_usage(usage: Usage) -> tuple[int, int, int]:
    """Returns tokens computed, cached and sampled."""
    computed = usage.prompt_tokens - usage.cached_tokens
    return computed, usage.cached_tokens, usage.completion_tokens


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
