"""Trees and documents as the JSON blocks of a page: small, and safe inside a script element."""

from __future__ import annotations

import json
import math
import string
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from agenticlu.core.records import LONE_SURROGATE, Document, Node, Piece, Tree, Turn
from agenticlu.judges import panel as judge
from agenticlu.report import figures
from agenticlu.report.secrets import redact_text

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
