from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agenticlu.core.errors import BudgetExceededError, EngineBusyError
from agenticlu.core.records import Message, Usage
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import ChoiceProbs, Completion, Sampled, Sampling
from agenticlu.engines.retry import LimitedEngine, Limiter, RetryPolicy
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search.caller import (
    Caller,
    CallFailedError,
    LedgeredEngine,
    decode_choice_probs,
    decode_sampled,
    encode_choice_probs,
    encode_sampled,
    sample_key,
    together,
)
from agenticlu.search.store import CallId, Store

MESSAGES = (Message(role="user", content="word " * 400),)


QUICK = RetryPolicy(first_pause_s=0.001, patience_s=60)


def call(key: str) -> CallId:
    return CallId(key, "answer", "d")


def test_the_key_holds_the_ordinal_and_the_whole_sampling():
    sampling = Sampling(temperature=1.0, n=2, seed=1)
    other = Sampling(temperature=1.0, n=2, seed=2)
    keys = {
        sample_key(("d",), MESSAGES, sampling, 0),
        sample_key(("d",), MESSAGES, sampling, 2),
        sample_key(("d",), MESSAGES, other, 0),
        sample_key(("e",), MESSAGES, sampling, 0),
        sample_key(("d",), (*MESSAGES, *MESSAGES), sampling, 0),
        sample_key(("d",), MESSAGES, replace(sampling, schema="{}"), 0),
    }
    assert len(keys) == 6
    assert sample_key(("d",), MESSAGES, sampling, 0) in keys


def test_keys_stay_what_they_are():
    """A call is found by its key in runs of years ago: a new setting must not change the rest."""
    sampling = Sampling(temperature=1.0, n=2, seed=1)
    assert sample_key(("d",), MESSAGES, sampling, 0) == "67e53c310e17cb4451ddb979cef67264"


def test_replies_come_back_from_json_as_they_were():
    usage = Usage(requests=1)
    sampled = Sampled((Completion("é", "length", (1, 2)), Completion("", "stop", None)), usage)
    assert decode_sampled(json.loads(json.dumps(encode_sampled(sampled))), usage) == sampled
    probs = ChoiceProbs({"yes": 0.25, "no": 0.75}, 0.5, usage, "parse")
    assert decode_choice_probs(json.loads(json.dumps(encode_choice_probs(probs))), usage) == probs


def test_many_failures_at_once_are_one_overload(tmp_path: Path):
    engine = ScriptedEngine(faults=lambda r: EngineBusyError("429") if r.call < 8 else None)

    async def work(store: Store) -> float:
        limited = LimitedEngine(engine, Limiter(Admission(8), QUICK))
        caller = Caller(store, limited)
        await together([caller.sample(call(f"k{i}"), MESSAGES, Sampling(seed=i)) for i in range(8)])
        return limited.limiter.admission.limit_requests

    with Store(tmp_path) as store:
        assert asyncio.run(work(store)) > 3
        assert store.call_counts()["done"] == 8


def test_a_limit_on_tokens_stops_before_the_next_call(tmp_path: Path):
    engine = ScriptedEngine()

    async def work(store: Store) -> None:
        caller = Caller(store, LimitedEngine(engine, Limiter(Admission(max_spent_tokens=1))))
        await caller.sample(call("a"), MESSAGES, Sampling())
        with pytest.raises(BudgetExceededError):
            await caller.sample(call("b"), MESSAGES, Sampling())
        await caller.sample(call("a"), MESSAGES, Sampling())

    with Store(tmp_path) as store:
        asyncio.run(work(store))
    assert len(engine.requests) == 1


def test_a_limit_on_tokens_counts_earlier_processes_and_what_they_lost(tmp_path: Path):
    """As told by `Store.engine_tokens`; see `run_search`."""
    engine = ScriptedEngine()

    async def work(store: Store, earlier: int) -> None:
        limited = LimitedEngine(engine, Limiter(Admission(max_spent_tokens=3000)))
        limited.limiter.admission.count_earlier(earlier)
        await Caller(store, limited).sample(call("a"), MESSAGES, Sampling())

    with Store(tmp_path) as store:
        with pytest.raises(BudgetExceededError, match="2990 are spent"):
            asyncio.run(work(store, 2990))
        assert not store.call_counts()["intent"], "a call that was never sent is not lost"
        asyncio.run(work(store, 1000))
    assert len(engine.requests) == 1


def test_a_call_is_intended_with_what_it_may_cost(tmp_path: Path):
    engine = ScriptedEngine()

    async def work(store: Store) -> None:
        caller = Caller(store, engine)
        await caller.sample(call("a"), MESSAGES, Sampling(n=3, max_tokens=50))
        await caller.sample(call("b"), MESSAGES, Sampling(n=3, max_tokens=50))

    with Store(tmp_path) as store:
        asyncio.run(work(store))
        columns = store.columns("call")
        first, second = (dict(zip(columns, row, strict=True)) for row in store.rows("call"))
        assert not store.cut_by_phase(), "all were answered"
    for row in (first, second):
        assert row["most_prompt_tokens"] >= row["prompt_tokens"]
        assert row["most_completion_tokens"] == 150
    assert first["most_prompt_tokens"] >= 3 * 2000, "a server may read the prompt for each reply"
    assert second["most_prompt_tokens"] < 2 * second["prompt_tokens"], "known better from the first"


def test_together_finishes_the_others_when_one_call_failed():
    done: list[int] = []

    async def fail() -> None:
        raise CallFailedError("no")

    async def work(number: int) -> None:
        await asyncio.sleep(0.001 * number)
        done.append(number)

    async def all_of_them() -> None:
        await together([work(1), fail(), work(3)])

    with pytest.raises(CallFailedError):
        asyncio.run(all_of_them())
    assert done == [1, 3]


def test_together_ends_the_others_on_any_other_error():
    done: list[int] = []

    async def fail() -> None:
        raise BudgetExceededError("spent")

    async def work() -> None:
        await asyncio.sleep(5)
        done.append(1)

    async def all_of_them() -> None:
        await together([work(), fail()])

    with pytest.raises(BudgetExceededError):
        asyncio.run(all_of_them())
    assert done == []


def test_work_wanted_by_many_at_once_is_done_once(tmp_path: Path):
    async def work(store: Store) -> int:
        caller = Caller(store, ScriptedEngine())
        times = 0

        async def once() -> int:
            nonlocal times
            times += 1
            await asyncio.sleep(0)
            return times

        assert await together([caller.once("k", once) for _ in range(5)]) == [1] * 5
        return await caller.once("k", once)

    with Store(tmp_path) as store:
        assert asyncio.run(work(store)) == 2


def poisoned(request: ScriptedRequest) -> BaseException | None:
    """The server fails at one request, and at nothing else."""
    if request.sampling is None or request.sampling.seed != 0:
        return None
    error = EngineBusyError("inner error")
    error.is_fault = True
    return error


def test_a_request_that_the_server_cannot_answer_stops_nobody_else(tmp_path: Path):
    said: list[str] = []
    engine = ScriptedEngine(faults=poisoned, latency_s=0.002)

    async def work(store: Store) -> None:
        caller = Caller(store, LimitedEngine(engine, Limiter(policy=QUICK, say=said.append)))

        async def others() -> None:
            for seed in range(1, 200):
                await caller.sample(call(f"k{seed}"), MESSAGES, Sampling(seed=seed))

        with pytest.raises(CallFailedError, match="inner error"):
            await together([caller.sample(call("k0"), MESSAGES, Sampling(seed=0)), others()])

    with Store(tmp_path) as store:
        asyncio.run(work(store))
        counts = store.call_counts()
        assert (counts["failed"], counts["done"], counts["intent"]) == (1, 199, 0)
    seeds = [request.sampling.seed for request in engine.requests if request.sampling]
    # More, if others were slower than its pauses: only failures while others are answered count.
    assert seeds.count(0) >= QUICK.tries
    assert 0 not in seeds[-20:], "given up long before the others are done"


def test_a_request_that_cannot_be_answered_is_given_up_though_there_is_no_other(tmp_path: Path):
    """Nobody else's answer tells that the engine is well: a short question does."""
    engine = ScriptedEngine(faults=poisoned)

    async def work(store: Store) -> None:
        caller = Caller(store, LimitedEngine(engine, Limiter(policy=QUICK)))
        with pytest.raises(CallFailedError, match="inner error"):
            await together(
                caller.sample(call(name), MESSAGES, Sampling(seed=0)) for name in ("a", "b")
            )

    with Store(tmp_path) as store:
        asyncio.run(asyncio.wait_for(work(store), 30))
        counts = store.call_counts()
    assert (counts["failed"], counts["done"], counts["intent"]) == (2, 0, 0)
    sent = [r for r in engine.requests if r.messages == MESSAGES]
    assert len(sent) == 2 * QUICK.tries
    assert len(engine.requests) - len(sent) <= 2, "one short question each"


@pytest.mark.parametrize("load", [True, False], ids=["overload", "all fail"])
def test_a_lone_request_is_kept_where_it_is_not_to_blame(tmp_path: Path, load):
    """An engine that has no room, or fails at short questions too, ends the run, not the call."""
    policy = RetryPolicy(first_pause_s=0.01, patience_s=0.5)

    def fail(request: ScriptedRequest) -> BaseException | None:
        error = EngineBusyError("away")
        error.is_fault = not load
        return None if load and request.messages != MESSAGES else error

    async def work(store: Store) -> None:
        limiter = Limiter(policy=policy)
        caller = Caller(store, LimitedEngine(ScriptedEngine(faults=fail), limiter))
        with pytest.raises(EngineBusyError, match="away"):
            await caller.sample(call("a"), MESSAGES, Sampling())

    with Store(tmp_path) as store:
        asyncio.run(asyncio.wait_for(work(store), 30))
        assert store.call_counts()["failed"] == 0


def test_a_call_wanted_twice_at_once_is_sent_once(tmp_path: Path):
    engine = ScriptedEngine(latency_s=0.01)

    async def work(store: Store) -> None:
        caller = Caller(store, engine)
        sampled = await together(
            [caller.sample(call("same"), MESSAGES, Sampling()) for _ in range(3)]
        )
        assert sampled[0] == sampled[1] == sampled[2]

    with Store(tmp_path) as store:
        asyncio.run(work(store))
    assert len(engine.requests) == 1


def test_what_is_under_way_ends_with_the_run(tmp_path: Path):
    engine = ScriptedEngine(latency_s=30.0)

    async def work(store: Store) -> None:
        caller = Caller(store, engine)
        waiting = asyncio.create_task(caller.sample(call("a"), MESSAGES, Sampling()))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await caller.cancel()
        assert len(asyncio.all_tasks()) <= 2, "this one, and the waiter if it is not yet reaped"

    with Store(tmp_path) as store:
        asyncio.run(asyncio.wait_for(work(store), 5))


def test_a_gate_bounds_the_tasks_that_are_made():
    made = most = 0

    async def one(number: int) -> int:
        nonlocal made, most
        made += 1
        most = max(most, made)
        await asyncio.sleep(0.0001)
        made -= 1
        return number

    async def work() -> list[list[int]]:
        gate = asyncio.Semaphore(5)
        return await together(together((one(i) for i in range(50)), gate) for _ in range(4))

    assert asyncio.run(work()) == [list(range(50))] * 4
    assert most == 5


def test_a_gate_does_not_go_on_feeding_after_the_end():
    made: list[int] = []

    async def one(number: int) -> None:
        made.append(number)
        if number == 3:
            raise BudgetExceededError("spent")
        await asyncio.sleep(0)

    async def work() -> None:
        await together((one(i) for i in range(1000)), asyncio.Semaphore(2))

    with pytest.raises(BudgetExceededError):
        asyncio.run(work())
    assert len(made) < 20


def test_what_is_under_way_ends_before_the_engine_is_closed(tmp_path: Path):
    """Else the request meets a closed connection, and a server is said to be away that is not."""
    events: list[str] = []

    class Slow(ScriptedEngine):
        async def sample(self, *given: Any, **named: Any) -> Sampled:
            try:
                await asyncio.Event().wait()
            finally:
                events.append("ended")
            raise AssertionError

        async def close(self) -> None:
            events.append("closed")

    async def run() -> None:
        with Store(tmp_path) as store:
            engine = LedgeredEngine(store, Slow())
            asked = asyncio.create_task(engine.sample(MESSAGES, Sampling()))
            await asyncio.sleep(0.05)
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            assert not events, "what others wait for, too, goes on"
            await engine.close()

    asyncio.run(run())
    assert events == ["ended", "closed"]
