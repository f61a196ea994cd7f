"""The names of all metrics, known before anything is scored."""

from __future__ import annotations

import functools
from typing import Any

from agenticlu.core.records import Document, Question
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.rules import RULES, score
from agenticlu.evaluation.scoring.helmet import ranking_cuts

LONG_ANSWER_METRIC = "gpt-4-score"
"""A judge's finding about a long answer, in [0, 1] (HELMET's own is out of 3)."""
SUMMARY_METRIC = "gpt-4-f1"
"""A judge's finding about a summary, in [0, 1]."""
JUDGED_METRICS = (LONG_ANSWER_METRIC, SUMMARY_METRIC)
"""What `agenticlu eval judge` adds to scores; shown first where it is there, as in HELMET."""
MOST_RANKED = 1000
"""Passages of the largest ranking task: with it every cut of the ranking measures is named."""
SAMPLES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "open": (("x",), {}),
    "long_answer": (("x",), {}),
    "choice": (("A",), {"letter": "A"}),
    "all_of": (("x",), {}),
    "label": (("1",), {}),
    "ranking": (("1",), {"labels": {"1": 1}, "cuts": ranking_cuts(MOST_RANKED)}),
    "summary": (("x",), {}),
    "string_em": (("x",), {"groups": [["x"]]}),
    "qampari": (("x",), {"groups": [["x"]]}),
    "set_f1": (("x",), {"nodes": ["x"]}),
    "only_label": (("x",), {"labels": ("x",)}),
    "recite": (("x",), {"prefix": ""}),
}
"""Scoring rule to the golds and the reference of the smallest item that it scores."""


@functools.cache
def metric_names() -> tuple[str, ...]:
    """Returns the names of all metrics that scoring rules and judges give, in rule order.

    They are read off by scoring one small item by every rule, so that no list can fall behind.
    """
    document = Document.of("x", "sample")
    names: dict[str, None] = {}
    for rule in RULES:
        golds, reference = SAMPLES[rule]
        question = Question(id="sample", text="x", answers=golds, options=("x", "y"))
        item = Item("sample", 1, document, question, rule=rule, reference=reference)
        names.update(dict.fromkeys(score(item, "x", with_rouge=True)))
    return (*names, *JUDGED_METRICS)
