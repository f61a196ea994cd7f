"""What a card says about a run, collected from its store."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from agenticlu.data.corpus import corpus_name
from agenticlu.judges.panel import disagrees, solved_depth
from agenticlu.search.store import Store

_PATH = re.compile(
    r"(?<![\w/.~])(?:~?/(?!/)|[A-Za-z]:\\)(?:[^\s,;'\"/\\]+[/\\])*([^\s,;'\"/\\]+)/?"
)


def collect_facts(store: Store) -> dict[str, Any]:
    """Returns what a card says about a run; names no folder of this machine."""
    bound = store.get("bound") or {}
    by_depth: dict[int, int] = {}
    finished = failed = scored = judged = disagreeing = 0
    with store.snapshot():
        counts = store.tree_counts()
        for tree in store.trees(only_finished=True):
            finished += 1
            failed += tree.outcome == "failed"
            scored += any(node.score is not None for node in tree.nodes)
            depth = solved_depth(tree)
            if depth is not None:
                by_depth[depth] = by_depth.get(depth, 0) + 1
            for node in tree.nodes:
                if sum(verdict.value is not None for verdict in node.verdicts) > 1:
                    judged += 1
                    disagreeing += disagrees(node.verdicts)
        nodes = store.num_rounds()
        sources = sorted({corpus_name(store.document(i)) for i in store.document_ids()})
    recall: dict[str, float] = {}
    solved = 0
    for depth in range(max(by_depth, default=-1) + 1):
        solved += by_depth.get(depth, 0)
        recall[str(depth)] = round(solved / scored, 4) if scored else 0.0
    profile = store.get("profile") or {}
    facts = {
        "engine": bound.get("engine"),
        "tokenizer": bound.get("tokenizer"),
        "profile": bound.get("profile"),
        "profile_sha256": hashlib.sha256(
            json.dumps(profile, sort_keys=True, ensure_ascii=False).encode()
        ).hexdigest(),
        "search": store.get("config"),
        "judges": store.get("judges"),
        "questions": counts["questions"],
        "finished_questions": finished,
        "failed_questions": failed,
        "documents": len(store.document_ids()),
        "sources": sources,
        "nodes": nodes,
        "scored_questions": scored,
        "recall_by_depth": recall,
        "judge_disagreements": {"answers": judged, "disagreeing": disagreeing},
        "judge_controls": store.get("controls"),
        "tokens_by_phase": {
            name: usage.as_dict() for name, usage in store.usage_by_phase().items()
        },
    }
    public: dict[str, Any] = without_paths(facts)
    return public


def without_paths(value: Any) -> Any:
    """Returns JSON data in which folders of this machine are cut to their last name.

    >>> without_paths({"tokenizer": "/home/ada/models/tiny", "url": "http://localhost:8000/v1"})
    {'tokenizer': 'tiny', 'url': 'http://localhost:8000/v1'}
    """
    if isinstance(value, str):
        return _PATH.sub(r"\1", value)
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return value
