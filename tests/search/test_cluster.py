from __future__ import annotations

import os
from pathlib import Path

import pytest

from agenticlu.corpus import build_item
from agenticlu.search.cluster import Job, _item, _row, label_of, search_on_ray
from agenticlu.search.config import SearchConfig
from agenticlu.search.run import Limits
from agenticlu.search.setup import EngineChoice, JudgeChoice
from agenticlu.store import load_trees

ITEMS = [
    build_item(
        {
            "context": f"Ada keeps a horse. Ben lives in town {book}. " * 3,
            "question": "What does Ada keep?",
            "answers": ["a horse"],
            "gold_spans": [[0, 18]],
        },
        book,
        "made",
    )
    for book in range(5)
]


def test_a_question_travels_whole():
    assert [_item(_row(item)) for item in ITEMS] == ITEMS
    assert len({label_of([item]) for item in ITEMS}) == len(ITEMS)


def test_three_ray_workers_come_to_the_trees_of_one(tmp_path: Path, tiny_model_path: Path):
    pytest.importorskip("ray")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    trees = {}
    for workers in (1, 3):
        job = Job(
            config=SearchConfig(branching=2, depth=1, piece_tokens=32, clarify_temperature=0.0),
            engine=EngineChoice(str(tiny_model_path)),
            judges=JudgeChoice(),
            limits=Limits(),
            tokenizer=None,
            sealed=str(tmp_path / f"sealed{workers}"),
            scratch=str(tmp_path / "scratch"),
        )
        out = tmp_path / f"run{workers}"
        merged = search_on_ray(ITEMS, out, job, workers)
        assert merged.trees == len(ITEMS)
        trees[workers] = [
            [(node.id, [turn.reply for turn in node.turns]) for node in tree.nodes]
            for tree in load_trees(out)
        ]
        again = search_on_ray(ITEMS, tmp_path / f"again{workers}", job, workers)
        assert again.rows == merged.rows, "sealed documents are not searched again"
    assert trees[1] == trees[3]
