from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.search.config import SearchConfig
from agenticlu.search.plan import Prices, build_plan, count_expansions, render
from agenticlu.search.run import run_search
from agenticlu.store import Store

ITEMS = corpus(documents=2)


@pytest.mark.parametrize("grounding", ["scan", "shortlist", "point", "as-published"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_plan_of_full_growth_is_what_the_run_counts(tmp_path: Path, grounding: str, depth: int):
    config = SearchConfig.model_validate(
        {
            **CONFIG.model_dump(),
            "growth": "full",
            "grounding": grounding,
            "depth": depth,
            "shortlist_k": 4,
            "branching": 2,
        }
    )
    if grounding == "as-published":
        config = SearchConfig.as_published(
            branching=2, depth=depth, piece_tokens=CONFIG.piece_tokens
        )
    plan = build_plan(ITEMS, TOKENIZER, config)
    with Store(tmp_path) as store:
        summary = asyncio.run(run_search(ITEMS, engine(ITEMS), store, config, tokenizer=TOKENIZER))
    assert plan.is_exact
    counted = {phase: usage.requests for phase, usage in summary.usage.items()}
    assert {phase: n for phase, n in plan.most.requests.items() if n} == counted
    assert plan.most.total_requests == summary.total.requests


def test_other_growths_stay_within_their_plan(tmp_path: Path):
    plan = build_plan(ITEMS, TOKENIZER, CONFIG)
    with Store(tmp_path) as store:
        summary = asyncio.run(run_search(ITEMS, engine(ITEMS), store, CONFIG, tokenizer=TOKENIZER))
    assert not plan.is_exact
    assert plan.least.total_requests <= summary.total.requests <= plan.most.total_requests


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"growth": "full", "branching": 8, "depth": 3}, (73, 73)),
        ({"growth": "full", "branching": 1, "depth": 3}, (3, 3)),
        ({"growth": "full", "depth": 0}, (0, 0)),
        ({"growth": "until-solved", "branching": 8, "depth": 3, "deepen": None}, (1, 73)),
        ({"growth": "until-solved", "branching": 8, "depth": 3, "deepen": 2}, (1, 5)),
        ({"growth": "best-first", "branching": 8, "depth": 3, "node_budget": 20}, (1, 2)),
    ],
)
def test_expansions(settings, wanted):
    assert count_expansions(SearchConfig.model_validate(settings)) == wanted


def test_judges_price_and_time():
    plan = build_plan(ITEMS, TOKENIZER, CONFIG, num_llm_judges=2)
    assert plan.least.judge_calls == 2 * len(ITEMS) * (1 + CONFIG.branching)
    unknown = plan.as_dict(Prices())
    assert unknown["least"]["price"] is None, "an unknown price is not 0"
    known = plan.as_dict(Prices(prompt=1.0, completion=2.0, cached=0.0, tokens_per_s=100.0))
    tokens = plan.most.prefill_tokens + 2 * plan.most.decoded_tokens
    assert known["most"]["price"] == pytest.approx(tokens / 1e6, abs=1e-4)
    assert known["most"]["seconds"] > known["least"]["seconds"] > 0
    assert "at least" in render(plan, Prices())
