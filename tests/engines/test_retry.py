from __future__ import annotations

import asyncio
import random

from agenticlu.engines.retry import Admission, RetryPolicy


def test_pauses_double_with_jitter_and_obey_the_server() -> None:
    policy = RetryPolicy(base_s=1.0, most_s=8.0)
    draws = random.Random(0)
    for attempt in range(6):
        longest = min(8.0, 2.0**attempt)
        pauses = [policy.pause_s(attempt, None, draws) for _ in range(50)]
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(set(pauses)) > 1
    assert 20.0 <= policy.pause_s(0, 20.0, draws) <= 20.1


def test_admission_limits_requests_and_tokens_in_order() -> None:
    async def scenario() -> tuple[int, int, list[int]]:
        gate = Admission(3, most_tokens=100)
        most_running = most_tokens = 0
        order: list[int] = []

        async def request(i: int, tokens: int) -> None:
            nonlocal most_running, most_tokens
            async with gate.admit(tokens):
                order.append(i)
                most_running = max(most_running, gate.running)
                most_tokens = max(most_tokens, gate.tokens)
                for _ in range(3):
                    await asyncio.sleep(0)

        sizes = [10, 10, 10, 10, 90, 50, 50, 10]
        await asyncio.gather(*(request(i, tokens) for i, tokens in enumerate(sizes)))
        assert gate.running == gate.tokens == 0
        return most_running, most_tokens, order

    most_running, most_tokens, order = asyncio.run(scenario())
    assert most_running == 3
    assert most_tokens <= 100
    assert order == list(range(8))


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    async def scenario() -> int:
        gate = Admission(4, most_tokens=10)
        async with gate.admit(1000):
            return gate.running

    assert asyncio.run(scenario()) == 1


def test_refusals_halve_and_answers_raise_again() -> None:
    async def scenario() -> tuple[float, float, float]:
        gate = Admission(16)
        async with gate.admit(1), gate.admit(1), gate.admit(1):
            gate.back_off()
            gate.back_off()
            gate.back_off()
        burst = gate.limit
        gate.back_off()
        after = gate.limit
        for _ in range(200):
            gate.ease()
        return burst, after, gate.limit

    assert asyncio.run(scenario()) == (8.0, 4.0, 16.0)


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
        return reached.is_set() and gate.running == 0

    assert asyncio.run(scenario())
