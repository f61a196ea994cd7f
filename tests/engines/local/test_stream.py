"""A reply of a model in this process, told as it comes, and stopped in the middle."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agenticlu.core.records import Message, Usage
from agenticlu.engines.base import Sampling, spent_on
from agenticlu.engines.local import HFEngine

ASKED = (Message(role="user", content="Who built the mill at Dunmore, and in which spring?"),)


@pytest.mark.parametrize(
    "sampling", [Sampling(max_tokens=40), Sampling(1.0, max_tokens=40, seed=3)]
)
def test_what_is_told_is_the_reply(random_model: Path, sampling: Sampling) -> None:
    async def both() -> None:
        engine = HFEngine(random_model)
        told: list[str] = []
        try:
            reply = await engine.stream(ASKED, sampling, on_text=told.append)
            whole = await engine.sample(ASKED, sampling)
        finally:
            await engine.close()
        assert reply.completions == whole.completions
        assert "".join(told) == whole.completions[0].text
        assert len(told) > 5, "as it comes"
        assert reply.usage.completion_tokens == whole.usage.completion_tokens

    asyncio.run(both())


def test_a_stop_ends_the_work_within_one_token(random_model: Path) -> None:
    """Also the second stream's, which begins after it, and goes on."""

    async def stop() -> None:
        engine = HFEngine(random_model)
        steps: list[int] = []
        decoder = engine._worker.decoder
        step = decoder.step

        def count(tokens: Any) -> Any:
            steps.append(len(tokens))
            return step(tokens)

        decoder.step = count  # type: ignore[method-assign]
        told: list[str] = []
        heard = asyncio.Event()

        def hear(text: str) -> None:
            told.append(text)
            heard.set()

        try:
            work = asyncio.ensure_future(
                engine.stream(ASKED, Sampling(max_tokens=1500), on_text=hear)
            )
            await heard.wait()
            work.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await work
            at = len(steps)
            num_told = len(told)
            # The thread may be in the middle of a step; the next reply shows where it has got to.
            other = await engine.sample(ASKED, Sampling(max_tokens=10))
            assert set(steps[at + 1 :]) == {1}, "the stopped reply decodes no more"
            assert len(steps) <= at + 1 + other.usage.completion_tokens
            assert len(told) == num_told, "nobody hears of what was still on its way"
            spent = spent_on(cancelled.value)
            assert 0 < spent.completion_tokens <= at + 2
            assert spent.prompt_tokens > 10
            assert engine.usage == spent + other.usage
            assert other.usage.cached_tokens == other.usage.prompt_tokens - 1
            assert decoder.branches == []
        finally:
            await engine.close()

    asyncio.run(stop())


def test_a_prompt_that_waits_is_not_read(random_model: Path) -> None:
    async def stop() -> None:
        engine = HFEngine(random_model, max_batch=1)
        try:
            first = asyncio.ensure_future(engine.sample(ASKED, Sampling(max_tokens=60)))
            work = asyncio.ensure_future(
                engine.stream(ASKED, Sampling(max_tokens=60), on_text=lambda text: None)
            )
            await asyncio.sleep(0)
            work.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await work
            assert spent_on(cancelled.value) == Usage(requests=1)
            await first
            assert engine.usage.completion_tokens == (await first).usage.completion_tokens
        finally:
            await engine.close()

    asyncio.run(stop())
