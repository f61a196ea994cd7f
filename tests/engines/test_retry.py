from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.core.errors import (
    AgenticluError,
    BudgetExceededError,
    EngineBusyError,
    EngineRefusedError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.core.records import Message, Usage
from agenticlu.engines import retry as limits
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import Sampling
from agenticlu.engines.retry import (
    LimitedEngine,
    Limiter,
    RetryPolicy,
    single_sampling,
    with_patience,
)
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search.run import run_search
from agenticlu.search.store import Store

ASKED = (Message(role="user", content="x" * 400),)
ITEMS = corpus(4, 1)


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    clock = Time()
    monkeypatch.setattr(limits, "sleep", clock.sleep)
    monkeypatch.setattr(limits, "monotonic", lambda: clock.now)
    return clock


def ask(engine: LimitedEngine) -> None:
    asyncio.run(engine.sample(ASKED, Sampling()))


def failing(error: type[AgenticluError], **attributes: object) -> ScriptedEngine:
    def fail(request: ScriptedRequest) -> BaseException:
        found = error("no")
        for name, value in attributes.items():
            setattr(found, name, value)
        return found

    return ScriptedEngine(faults=fail)


def test_pauses_double_with_jitter_and_obey_the_server() -> None:
    policy = RetryPolicy(first_pause_s=1.0, longest_pause_s=8.0)
    for failures in range(1, 7):
        pause = min(8.0, 2.0 ** (failures - 1))
        pauses = [policy.pause_s(failures) for _ in range(50)]
        assert all(pause <= one <= 1.1 * pause for one in pauses)
        assert len(set(pauses)) > 1
    assert 20.0 <= policy.pause_s(1, 20.0) <= 20.1


def test_admission_bounds_requests_and_tokens_in_order() -> None:
    async def scenario() -> tuple[int, int, list[int]]:
        gate = Admission(3, max_tokens=100)
        most_requests = most_tokens = 0
        order: list[int] = []

        async def request(i: int, tokens: int) -> None:
            nonlocal most_requests, most_tokens
            async with gate.admit(tokens):
                order.append(i)
                most_requests = max(most_requests, gate.requests)
                if tokens <= 100:
                    most_tokens = max(most_tokens, gate.tokens)
                else:
                    assert gate.requests == 1, "a request larger than the bound goes alone"
                for _ in range(3):
                    await asyncio.sleep(0)

        sizes = [10, 10, 10, 10, 90, 500, 50, 50, 10]
        await asyncio.gather(*(request(i, tokens) for i, tokens in enumerate(sizes)))
        assert gate.requests == gate.tokens == 0
        return most_requests, most_tokens, order

    most_requests, most_tokens, order = asyncio.run(scenario())
    assert most_requests == 3
    assert most_tokens <= 100
    assert order == list(range(9))


def test_an_overload_halves_the_bounds_and_successes_raise_them_slowly() -> None:
    async def scenario() -> None:
        gate = Admission(64, max_tokens=1000)
        async with gate.admit(1) as first:
            gate.requests = 40
            gate.shrink(first)
            gate.shrink(first)
            assert gate.limit_requests == 20, "refusals of one burst count once"
            assert gate.limit_tokens == 500
            gate.requests = 1
        async with gate.admit(1) as second:
            gate.shrink(second)
        assert gate.limit_requests == 4, "not below what says nothing: half of eight"
        for _ in range(20):
            gate.grow()
        assert 6 < gate.limit_requests < 9
        for _ in range(5000):
            gate.grow()
        assert (gate.limit_requests, gate.limit_tokens) == (64, 1000)

    asyncio.run(scenario())


def test_a_cancelled_wait_gives_its_place_on() -> None:
    async def scenario() -> bool:
        gate = Admission(1)
        reached = asyncio.Event()

        async def request(done: asyncio.Event | None) -> None:
            async with gate.admit(1):
                if done is not None:
                    done.set()

        async with gate.admit(1):
            waiting = asyncio.ensure_future(request(None))
            following = asyncio.ensure_future(request(reached))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.sleep(0)
        await following
        return reached.is_set() and gate.requests == 0

    assert asyncio.run(scenario())


def test_a_pause_holds_those_that_already_queue() -> None:
    async def scenario() -> list[str]:
        gate, order = Admission(1), list[str]()

        async def request() -> None:
            async with gate.admit(1):
                order.append("in")

        async with gate.admit(1):
            waiting = asyncio.ensure_future(request())
            await asyncio.sleep(0)
        with gate.paused():
            # Its turn came as the first left, before the pause began; a later one is held.
            await waiting
            later = asyncio.ensure_future(request())
            await asyncio.sleep(0.01)
            order.append("over")
        await later
        return order

    assert asyncio.run(scenario()) == ["in", "over", "in"]


@pytest.mark.parametrize(
    ("error", "attributes", "patience_s", "sent"),
    [
        (EngineBusyError, {}, None, 5),
        (EngineUnreachableError, {}, None, 5),
        (EngineBusyError, {}, 300.0, 10),
        (EngineBusyError, {"retry_after_s": 250.0}, 300.0, 2),
        (EngineBusyError, {"retry_after_s": 301.0}, 300.0, 1),
        (EngineBusyError, {"retry_after_s": 121.0}, None, 1),
        (EngineUnreachableError, {"never_answered": True}, 300.0, 2),
        (EngineUnreachableError, {"try_elsewhere": True}, None, 5),
        (EngineReplyError, {}, 300.0, 3),
        (EngineRefusedError, {}, 300.0, 1),
    ],
)
def test_so_many_requests_are_sent_and_no_more(
    time: Time,
    error: type[AgenticluError],
    attributes: dict[str, object],
    patience_s: float | None,
    sent: int,
) -> None:
    engine = failing(error, **attributes)
    with pytest.raises(error):
        ask(LimitedEngine(engine, Limiter(policy=RetryPolicy(patience_s=patience_s))))
    assert len(engine.requests) == sent
    if attributes.get("try_elsewhere"):
        assert time.slept == [], "another replica needs no pause"


def test_many_calls_in_an_outage_share_its_pauses(time: Time) -> None:
    engine = failing(EngineBusyError)
    said: list[str] = []
    limited = LimitedEngine(engine, Limiter(policy=RetryPolicy(patience_s=10), say=said.append))

    async def many() -> list[BaseException]:
        calls = (limited.sample(ASKED, Sampling()) for _ in range(6))
        return await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[return-value]

    ended = asyncio.run(many())
    assert all(isinstance(one, EngineBusyError) for one in ended)
    assert len(time.slept) == len([one for one in said if one.startswith("paused")]) == 3
    assert len([one for one in said if "the same command resumes" in one]) == 1


def test_patience_wraps_an_engine_once() -> None:
    inner = ScriptedEngine()
    once = LimitedEngine(inner, Limiter(Admission(3)))
    again = with_patience(once, 5.0)
    assert again.engine is inner
    assert again.limiter.admission is once.limiter.admission
    with pytest.raises(AssertionError):
        LimitedEngine(again)


def test_missing_samples_are_asked_for_one_by_one() -> None:
    class Single(ScriptedEngine):
        async def sample(self, messages, sampling, *, session=None):
            return await super().sample(messages, single_sampling(sampling, 0), session=session)

    engine = Single()
    limited = LimitedEngine(engine)
    reply = asyncio.run(limited.sample(ASKED, Sampling(n=3, temperature=1.0, seed=4)))
    assert len({one.text for one in reply.completions}) == 3
    assert reply.usage.requests == len(engine.requests) == 3


def search_all(root: Path, shared: LimitedEngine) -> list[BaseException | None]:
    """Searches each document in a store of its own, all at once; returns how each ended."""

    async def one(number: int) -> None:
        with Store(root / str(number)) as store:
            await run_search([ITEMS[number]], shared, store, CONFIG, tokenizer=TOKENIZER)

    async def work() -> list[BaseException | None]:
        return await asyncio.gather(*map(one, range(len(ITEMS))), return_exceptions=True)

    return asyncio.run(work())


def test_several_searches_share_one_bound(tmp_path: Path) -> None:
    shared = LimitedEngine(engine(ITEMS, latency_s=0.001), Limiter(Admission(5)))
    assert search_all(tmp_path, shared) == [None] * len(ITEMS)
    assert shared.limiter.admission.most_requests == 5
    assert shared.limiter.admission.requests == 0


def spend_all(limit: int, costs: list[tuple[int, int]], at_once: int) -> tuple[int, int]:
    """Sends requests of (most, actual) tokens side by side; returns tokens spent, and requests."""
    sent = 0

    async def work() -> int:
        admission = Admission(at_once, max_spent_tokens=limit)

        async def ask(most: int, actual: int) -> None:
            nonlocal sent
            async with admission.reserved(most), admission.admit(most):
                sent += 1
                await asyncio.sleep(0)
                admission.spend(Usage(requests=1, prompt_tokens=actual))

        ended = await asyncio.gather(*(ask(*one) for one in costs), return_exceptions=True)
        assert all(one is None or isinstance(one, BudgetExceededError) for one in ended)
        assert admission.spent.computed_tokens < limit or sent
        return admission.spent.computed_tokens

    return asyncio.run(asyncio.wait_for(work(), 60)), sent


@given(
    st.integers(1, 20_000),
    st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 100)), min_size=1, max_size=200),
    st.integers(1, 64),
)
def test_what_is_spent_stays_within_the_budget(
    limit: int, asked: list[tuple[int, int]], at_once: int
) -> None:
    """However many are sent side by side, and though none is finished when the others begin."""
    costs = [(most, most * percent // 100) for most, percent in asked]
    spent, sent = spend_all(limit, costs, at_once)
    assert sent >= 1, "a limit that allows no request would be of no use"
    largest = max(actual for _, actual in costs)
    # Before eight are finished each is taken to cost the most; later what the others cost.
    in_flight = sum(sorted((actual for _, actual in costs), reverse=True)[:at_once])
    assert spent <= limit + (largest if sent <= 8 else in_flight)


@pytest.mark.parametrize("percent", [5, 30, 100])
def test_the_budget_is_used_though_requests_cost_less_than_they_may(percent: int) -> None:
    costs = [(1000, 10 * percent)] * 2000
    spent, _ = spend_all(100_000, costs, 256)
    assert 85_000 <= spent <= 102_000


def test_several_searches_share_one_budget(tmp_path: Path) -> None:
    sampler = engine(ITEMS)
    shared = LimitedEngine(sampler, Limiter(Admission(1, max_spent_tokens=2000)))
    ended = search_all(tmp_path, shared)
    assert all(isinstance(one, BudgetExceededError) for one in ended)
    assert 1400 <= sampler.usage.computed_tokens < 2000 + 600, "one request more or less"
