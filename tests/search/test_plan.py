from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Prices
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search import SearchConfig
from agenticlu.search.plan import build_plan, list_expansions, load_measured, render_plan
from agenticlu.search.run import run_search
from agenticlu.search.store import Store

ITEMS = corpus(documents=2)


MODES = ["scan", "scan-many", "shortlist", "point", "as-published"]


def sampler(items=ITEMS) -> ScriptedEngine:
    """The scripted world's engine; it also writes the lines that `scan-many` asks for."""
    one = engine(items, tokenizer=TOKENIZER)
    plain = one.replies

    def reply(request: ScriptedRequest):
        if "each numbered question" in request.last:
            texts = request.last.split("\n1. ")[1].count("\n") + 1
            return "\n".join(f"{i}. {'yes' if i % 2 else 'no'}" for i in range(1, texts + 1))
        return plain(request)

    one.replies = reply
    return one


def settings(grounding: str, **changes: object) -> SearchConfig:
    if grounding == "as-published":
        changes = {"piece_tokens": CONFIG.piece_tokens, "branching": 2, **changes}
        return SearchConfig.as_published(**changes)
    shape = {"growth": "full", "grounding": grounding, "shortlist_k": 4, "branching": 2}
    return SearchConfig.model_validate({**CONFIG.model_dump(), **shape, **changes})


def search(folder: Path, config: SearchConfig):
    with Store(folder) as store:
        return asyncio.run(run_search(ITEMS, sampler(), store, config, tokenizer=TOKENIZER))


@pytest.mark.parametrize("grounding", MODES)
@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 0},
        {"depth": 1, "check": False, "closed_book": 3},
        {"depth": 2},
        {"depth": 2, "view": "document", "root_check": True},
    ],
    ids=str,
)
def test_the_plan_of_full_growth_is_what_the_run_counts(
    tmp_path: Path, grounding: str, changes: dict[str, object]
):
    config = settings(grounding, **changes)
    plan = build_plan(ITEMS, TOKENIZER, config)
    summary = search(tmp_path, config)
    assert plan.is_exact
    counted = {phase: usage.requests for phase, usage in summary.usage.items()}
    assert {phase: n for phase, n in plan.most.requests.items() if n} == counted
    assert plan.most.total_requests == summary.total.requests


@pytest.mark.parametrize("grounding", MODES)
def test_tokens_are_near_when_measured_in_a_run_alike(tmp_path: Path, grounding: str):
    config = settings(grounding, depth=2)
    total = search(tmp_path, config).total
    assumed = build_plan(ITEMS, TOKENIZER, config).most
    measured = load_measured(tmp_path)
    plan = build_plan(ITEMS, TOKENIZER, config, measured=measured)
    near = plan.most
    assert near.prefill_tokens == pytest.approx(total.prompt_tokens - total.cached_tokens, rel=0.3)
    assert near.cached_tokens == pytest.approx(total.cached_tokens, rel=0.2)
    assert near.decoded_tokens == pytest.approx(total.completion_tokens, rel=0.2)
    assert assumed.decoded_tokens > 1.3 * total.completion_tokens, "else there is nothing to mend"
    assert measured.tokens_per_s is not None
    assert plan.is_measured
    assert "measured in the run given" in render_plan(plan, Prices())


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
    least, most = list_expansions(SearchConfig.model_validate(settings))
    assert (sum(least), sum(most)) == wanted


def test_judges_price_and_time():
    plan = build_plan(ITEMS, TOKENIZER, CONFIG, num_llm_judges=2)
    assert plan.least.judge_calls == 2 * len(ITEMS) * (1 + CONFIG.branching)
    assert plan.least.judge_tokens > 60 * plan.least.judge_calls
    unknown = plan.as_dict(Prices())
    assert unknown["least"]["price"] is None, "an unknown price is not 0"
    known = plan.as_dict(Prices(prompt=1.0, completion=2.0, cached=0.0, tokens_per_s=100.0))
    tokens = plan.most.prefill_tokens + 2 * plan.most.decoded_tokens
    assert known["most"]["price"] == pytest.approx(tokens / 1e6, abs=1e-4)
    assert known["most"]["seconds"] > known["least"]["seconds"] > 0
    assert "at least" in render_plan(plan, Prices())


def test_what_is_not_exact_does_not_look_it():
    plan = build_plan(ITEMS, TOKENIZER, settings("scan"), num_llm_judges=1)
    lines = render_plan(plan, Prices(prompt=1.0, completion=2.0, tokens_per_s=9.0)).splitlines()
    head = next(number for number, line in enumerate(lines) if line.split() == ["exactly"])
    rows = {line[:16].strip(): line[16:].strip() for line in lines[head + 1 : -5]}
    assert rows["requests"] == f"{plan.most.total_requests:,}"
    assert rows["judge calls"] == f"up to {plan.most.judge_calls}"
    for name in ("prefill tokens", "cached tokens", "decoded tokens", "price", "hours"):
        assert rows[name].startswith("~"), name
    assert "judge" not in render_plan(build_plan(ITEMS, TOKENIZER, CONFIG), Prices()).lower()


@pytest.mark.parametrize("given", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["prompt", "completion", "cached", "tokens_per_s"])
def test_prices_and_rates_are_numbers_that_can_be(name: str, given: float):
    free = {"prompt": 0.0, "completion": 0.0}
    with pytest.raises(UsageError, match="must be a number"):
        Prices(**{**free, name: given})
    if name != "tokens_per_s":
        Prices(**{**free, name: 0.0})
