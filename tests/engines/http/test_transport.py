from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from agenticlu.core.errors import EngineUnreachableError
from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling, Watched
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.pool import PoolEngine
from agenticlu.engines.retry import LimitedEngine
from agenticlu.engines.scripted import ScriptedEngine

ASKED = (Message(role="user", content="Who?"),)


def test_a_real_endpoint_tells_what_it_has_not_answered(
    serve: Callable[..., Any], chat_reply: Callable[..., Any]
) -> None:
    go_on = threading.Event()

    def answer(body: Any, number: int) -> tuple[int, Any]:
        go_on.wait(20)
        return 200, chat_reply("Ada")

    endpoint = serve(answer)
    engine = OpenAIEngine(endpoint.url, "m")
    assert isinstance(engine, Watched)

    async def scenario() -> tuple[Any, Any]:
        asked = asyncio.create_task(engine.sample(ASKED, Sampling()))
        while not endpoint.bodies:
            await asyncio.sleep(0.001)
        during = engine.health()
        go_on.set()
        await asked
        after = engine.health()
        await engine.close()
        return during, after

    (during,), (after,) = asyncio.run(scenario())
    assert (during["address"], during["in_flight"]) == (endpoint.url, 1)
    assert (after["in_flight"], after["state"], after["failures"]) == (0, "well", 0)


def test_a_pool_tells_which_replica_rests() -> None:
    def fault(request: Any) -> BaseException:
        return EngineUnreachableError("off")

    engines = [ScriptedEngine(lambda request: "Ada"), ScriptedEngine(faults=fault)]
    pool = PoolEngine([(f"r{i}", one) for i, one in enumerate(engines)], rest_s=50.0)

    async def scenario() -> list[Any]:
        for number in range(20):
            await LimitedEngine(pool).sample(ASKED, Sampling(), session=str(number))
        return pool.health()

    well, resting = asyncio.run(scenario())
    assert (well["address"], well["state"], well["failures"]) == ("r0", "well", 0)
    assert (resting["address"], resting["state"], resting["failures"]) == ("r1", "resting", 1)
    assert 0 < resting["resting_s"] <= 50


def test_a_pool_of_endpoints_tells_what_each_has_in_flight(
    serve: Callable[..., Any], chat_reply: Callable[..., Any]
) -> None:
    endpoint = serve(lambda body, number: (200, chat_reply("Ada")))
    pool = PoolEngine(
        [(url, OpenAIEngine(url, "m")) for url in (endpoint.url, "http://127.0.0.1:1/v1")]
    )
    limited = LimitedEngine(pool)

    async def scenario() -> list[Any]:
        for number in range(64):
            await limited.sample(ASKED, Sampling(), session=str(number))
        found = pool.health()
        await pool.close()
        return found

    well, away = asyncio.run(scenario())
    assert well["last_answer_s"] is not None
    assert (away["address"], away["state"]) == ("http://127.0.0.1:1/v1", "resting")
