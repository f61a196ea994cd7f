from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from made_trees import load_trees
from pydantic import ValidationError
from scripted_world import TOKENIZER, corpus, engine

from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search import SearchConfig
from agenticlu.search.run import run_search
from agenticlu.search.store import Store

ITEMS = corpus(1, 1)
SHAPE = {"branching": 3, "depth": 2, "piece_tokens": 48}


def search(folder: Path, sampler: ScriptedEngine, config: SearchConfig):
    with Store(folder) as store:
        return asyncio.run(run_search(ITEMS, sampler, store, config, tokenizer=TOKENIZER))


def test_the_published_algorithm_asks_as_it_was_published(tmp_path: Path):
    """Requests, samples, temperatures and lengths of the published program (REFERENCE)."""
    config = SearchConfig.as_published(**SHAPE)
    sampler = engine(ITEMS, right_share=1.0)
    summary = search(tmp_path, sampler, config)
    pieces = len(load_trees(tmp_path)[0].nodes[0].relevance or ())
    branching, expanded = 3, 1 + 3
    assert pieces > 3
    assert len(sampler.requests) == pieces + 2 + expanded * (1 + branching * (pieces + 3))
    assert summary.nodes == 1 + 3 + 9, "complete, although every answer is right"
    kinds: dict[tuple[object, ...], int] = {}
    for request in sampler.requests:
        asked = request.sampling
        assert asked is not None, "verdicts are decoded"
        kind = (asked.n, asked.temperature, asked.top_p, asked.max_tokens)
        kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds == {
        (3, 1.0, 0.95, 512): expanded,
        # Verdicts of pieces and self-checks; then sub-answers, answers and the base answer.
        (1, 0.2, 0.95, 128): pieces * (1 + expanded * branching) + 1 + expanded * branching,
        (1, 0.2, 0.95, 1024): 1 + 2 * expanded * branching,
    }
    assert config.judge_all
    assert (config.merge, config.top_k, config.threshold) == (False, None, 0.5)


def test_its_verdicts_are_read_strictly(tmp_path: Path):
    """Published: a piece goes if its reply holds the letters 'no'. Here: only if it says so."""
    said = iter(
        ["Answer: yes, it is well known.", "Answer: no", "Answer: maybe", "A reason that was cut"]
    )

    def reply(request: ScriptedRequest) -> str | None:
        return next(said, "Answer: no") if "Answer: yes" in request.last else None

    search(tmp_path, ScriptedEngine(reply), SearchConfig.as_published(**SHAPE | {"depth": 0}))
    assert load_trees(tmp_path)[0].nodes[0].kept == (0, 2)


@pytest.mark.parametrize("merge", [True, False])
def test_empty_clarifications_are_a_shortfall(tmp_path: Path, merge: bool):
    def reply(request: ScriptedRequest) -> str | None:
        if request.sampling and request.sampling.temperature == 1.0:
            return "Where is it?" if request.ordinal == 1 else " "
        return "Answer: grey" if "Answer:" in request.last else None

    published = SearchConfig.as_published(**SHAPE | {"depth": 1})
    config = published.model_copy(update={"merge": merge, "grounding": "scan"})
    summary = search(tmp_path, ScriptedEngine(reply), config)
    assert summary.nodes == 2
    assert summary.shortfall == 2
    assert load_trees(tmp_path)[0].shortfall == 2


def test_lengths_of_replies_fall_back_to_the_dialogues():
    config = SearchConfig(reply_tokens={"answer": 7})
    assert (config.most_tokens("answer"), config.most_tokens("clarify")) == (7, 128)
    with pytest.raises(ValidationError, match="reply_tokens"):
        SearchConfig.model_validate({"reply_tokens": {"anser": 7}})
