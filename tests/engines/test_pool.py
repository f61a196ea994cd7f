from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from agenticlu.core.errors import EngineAuthError, EngineBusyError, EngineUnreachableError
from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.pool import PoolEngine
from agenticlu.engines.retry import LimitedEngine, Limiter, RetryPolicy
from agenticlu.engines.scripted import ScriptedEngine

ASKED = (Message(role="user", content="Who?"),)


class Mortal(ScriptedEngine):
    """A scripted engine that can be switched off."""

    def __init__(self, name: str) -> None:
        super().__init__(lambda request: self.name, faults=self._fault_now)
        self.name = name
        self.dead = False

    def _fault_now(self, request: Any) -> BaseException | None:
        return EngineUnreachableError(f"{self.name} is off") if self.dead else None


def make_pool(count: int = 3, **options: Any) -> tuple[PoolEngine, list[Mortal], list[str]]:
    engines = [Mortal(f"r{i}") for i in range(count)]
    told: list[str] = []
    options = {"rest_s": 0.01, "on_event": told.append} | options
    return PoolEngine([(one.name, one) for one in engines], **options), engines, told


def limited(pool: PoolEngine, patience_s: float | None = None) -> LimitedEngine:
    policy = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.02, patience_s=patience_s)
    return LimitedEngine(pool, Limiter(policy=policy))


async def where(pool: PoolEngine, session: str | None, patience_s: float | None = None) -> str:
    reply = await limited(pool, patience_s).sample(ASKED, Sampling(), session=session)
    return reply.completions[0].text


def test_a_session_stays_and_sessions_spread() -> None:
    pool, _, _ = make_pool()

    async def scenario() -> tuple[list[str], list[str]]:
        first = [await where(pool, f"s{i}") for i in range(60)]
        return first, [await where(pool, f"s{i}") for i in range(60)]

    first, again = asyncio.run(scenario())
    assert first == again
    assert min(Counter(first).values()) > 8
    assert len(set(first)) == 3


def test_texts_are_continued_where_their_session_is() -> None:
    pool, engines, _ = make_pool()

    async def scenario() -> tuple[str, str]:
        reply = await pool.complete("Once", Sampling(), session="s3")
        return reply.completions[0].text, await where(pool, "s3")

    text, there = asyncio.run(scenario())
    assert text == there
    for engine in engines:
        engine.name = "same"
    assert asyncio.run(make_pool(1)[0].capabilities()).completes
    engines[1].completes = False  # one that cannot is enough: sessions may move to it
    engines[2].prefix_reuse_from_tokens = 528
    found = asyncio.run(pool.capabilities())
    assert not found.completes
    assert found.prefix_reuse_from_tokens == 528


def test_only_a_dead_replicas_sessions_move_and_they_come_back() -> None:
    pool, engines, told = make_pool(rest_s=0.05)

    async def scenario() -> tuple[list[str], list[str], list[str]]:
        before = [await where(pool, f"s{i}") for i in range(30)]
        engines[1].dead = True
        during = [await where(pool, f"s{i}") for i in range(30)]
        engines[1].dead = False
        await asyncio.sleep(0.06)
        return before, during, [await where(pool, f"s{i}") for i in range(30)]

    before, during, after = asyncio.run(scenario())
    assert "r1" in before
    assert "r1" not in during
    assert [b == d for b, d in zip(before, during, strict=True)] == [b != "r1" for b in before]
    assert after == before
    assert len([one for one in told if "rests for" in one]) == 1
    assert any("answers again" in one for one in told)


def test_a_dead_replica_is_asked_once_not_by_every_request() -> None:
    pool, engines, _ = make_pool(rest_s=5.0)
    engines[0].dead = True

    async def scenario() -> None:
        for i in range(30):
            await where(pool, f"s{i}")

    asyncio.run(scenario())
    assert len(engines[0].requests) == 1


def test_when_all_are_down_the_run_pauses_and_goes_on() -> None:
    pool, engines, told = make_pool(2)

    async def scenario() -> str:
        for engine in engines:
            engine.dead = True
        asyncio.get_running_loop().call_later(0.05, setattr, engines[1], "dead", False)
        return await where(pool, "s", patience_s=5.0)

    assert asyncio.run(scenario()) == "r1"
    assert len([one for one in told if "rests for" in one]) >= 2


@pytest.mark.parametrize("count", [1, 3, 8])
def test_replicas_do_not_multiply_tries(count: int) -> None:
    pool, engines, _ = make_pool(count, rest_s=60.0)  # none returns before the last try
    for engine in engines:
        engine.dead = True
    with pytest.raises(EngineUnreachableError, match="is off"):
        asyncio.run(where(pool, "s"))
    assert sum(len(engine.requests) for engine in engines) == RetryPolicy().tries
    assert len([engine for engine in engines if engine.requests]) == min(count, 5)


def test_one_refusal_for_load_costs_no_session_its_cache() -> None:
    faults = {i: EngineBusyError("429") for i in range(2)}
    engines = [ScriptedEngine(lambda r, k=k: f"r{k}", faults=dict(faults)) for k in range(2)]
    told: list[str] = []
    pool = PoolEngine([(f"r{k}", one) for k, one in enumerate(engines)], on_event=told.append)
    found = asyncio.run(where(pool, "s"))
    assert sorted(len(one.requests) for one in engines) == [0, 3]
    assert told == []
    own = int(found[1])
    engines[own].faults, engines[1 - own].faults = lambda r: EngineBusyError("429"), None
    assert asyncio.run(where(pool, "s")) != found, "load that stays moves the session on"
    assert len(told) == 1


def test_errors_that_another_replica_would_repeat_are_not_moved() -> None:
    engines = [ScriptedEngine(faults={0: EngineAuthError("no")}) for _ in range(2)]
    pool = PoolEngine([("a", engines[0]), ("b", engines[1])])
    with pytest.raises(EngineAuthError):
        asyncio.run(where(pool, "s"))
    assert sum(len(engine.requests) for engine in engines) == 1, "nobody else would take the key"


def test_requests_without_a_session_take_turns() -> None:
    pool, _, _ = make_pool()

    async def scenario() -> list[str]:
        return [await where(pool, None) for _ in range(6)]

    assert Counter(asyncio.run(scenario())) == {"r0": 2, "r1": 2, "r2": 2}


def test_a_request_that_no_replica_takes_closes_none(
    serve: Callable[..., Any], chat_reply: Any
) -> None:
    def answer(body: dict[str, Any], i: int) -> Any:
        if "poison" in body["messages"][0]["content"]:
            return 500, {"error": {"message": "boom"}}
        return 200, chat_reply("fine")

    endpoints = [serve(answer) for _ in range(3)]
    told: list[str] = []
    pool = PoolEngine(
        [(one.url, OpenAIEngine(one.url, "m")) for one in endpoints],
        rest_s=30.0,
        on_event=told.append,
    )
    poison = (Message(role="user", content="poison"),)

    async def scenario() -> list[str]:
        try:
            with pytest.raises(EngineBusyError, match="boom"):
                await limited(pool).sample(poison, Sampling(), session="s")
            return [await where(pool, f"s{i}") for i in range(9)]
        finally:
            await pool.close()

    assert asyncio.run(scenario()) == ["fine"] * 9
    assert not any("rests for" in text for text in told)
    assert all(one.bodies for one in endpoints), "each replica must have been tried"


def test_usage_is_the_sum() -> None:
    pool, engines, _ = make_pool()

    async def scenario() -> None:
        for i in range(7):
            await where(pool, f"s{i}")

    asyncio.run(scenario())
    assert pool.usage.requests == 7 == sum(engine.usage.requests for engine in engines)


def test_real_servers_the_session_travels_and_a_death_is_survived(
    serve: Callable[..., Any], chat_reply: Any
) -> None:
    endpoints = [serve(lambda body, i, k=k: (200, chat_reply(f"r{k}"))) for k in range(2)]
    broken = serve(lambda body, i: (500, {"error": {"message": "boom"}}))
    urls = [*(one.url for one in endpoints), broken.url]
    pool = PoolEngine([(url, OpenAIEngine(url, "m")) for url in urls], rest_s=10.0)
    assert all(isinstance(replica.engine, OpenAIEngine) for replica in pool.replicas)

    async def scenario() -> list[str]:
        try:
            return [await where(pool, f"s{i}") for i in range(40)]
        finally:
            await pool.close()

    found = asyncio.run(scenario())
    assert set(found) == {"r0", "r1"}
    assert len(broken.bodies) == 2, "two sessions, and it rests"
    sessions = [{h["x-session-id"] for h in one.headers} for one in endpoints]
    assert not sessions[0] & sessions[1]
    assert len(sessions[0] | sessions[1]) == 40
