from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.core.errors import BudgetExceededError, EngineBusyError
from agenticlu.core.records import Message
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search.bounded import BoundedEngine
from agenticlu.search.caller import Admission
from agenticlu.search.run import run_search
from agenticlu.search.store import Store

ITEMS = corpus(4, 1)
ASKED = (Message(role="user", content="x" * 400),)


def search_all(root: Path, bounded: BoundedEngine) -> list[BaseException | None]:
    """Searches each document in a store of its own, all at once; returns how each ended."""

    async def one(number: int) -> None:
        with Store(root / str(number)) as store:
            await run_search([ITEMS[number]], bounded, store, CONFIG, tokenizer=TOKENIZER)

    async def work() -> list[BaseException | None]:
        return await asyncio.gather(*map(one, range(len(ITEMS))), return_exceptions=True)

    return asyncio.run(work())


def test_several_searches_share_one_bound(tmp_path: Path):
    sampler = engine(ITEMS, latency_s=0.001)
    bounded = BoundedEngine(sampler, Admission(max_requests=5))
    assert search_all(tmp_path, bounded) == [None] * len(ITEMS)
    assert bounded.admission.most_requests == 5
    assert bounded.admission.requests == 0


def test_several_searches_share_one_budget(tmp_path: Path):
    sampler = engine(ITEMS)
    bounded = BoundedEngine(sampler, Admission(max_requests=1), max_tokens=2000)
    ended = search_all(tmp_path, bounded)
    assert all(isinstance(one, BudgetExceededError) for one in ended)
    assert 2000 <= sampler.usage.computed_tokens < 2000 + 600, "one request beyond"


def test_an_overload_shrinks_the_bound_for_all():
    sampler = ScriptedEngine(faults=lambda request: EngineBusyError("429"))
    bounded = BoundedEngine(sampler, Admission(max_requests=64))
    before = bounded.admission.limit_requests

    async def ask() -> None:
        await bounded.score_choices(ASKED, ("yes", "no"))

    with pytest.raises(EngineBusyError):
        asyncio.run(ask())
    assert bounded.admission.limit_requests < before
    assert bounded.admission.requests == 0
