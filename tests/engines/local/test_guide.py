"""Guided replies of a model in this process: one of the given texts, and nobody else disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agenticlu.core.records import Message
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.base import Sampling
from agenticlu.engines.local import HFEngine
from agenticlu.engines.local.guide import draw_among

ASKED = (Message(role="user", content="Where does Ada live?"),)
TEXTS = ("Ada lives in Orsk.", "Ada lives in Orsk and Brellin.", "Nobody knows.")


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    made = HFEngine(BUNDLED_MODEL)
    yield made
    asyncio.run(made.close())


def test_a_reply_is_one_of_the_texts_and_others_in_the_batch_are_as_alone(
    engine: HFEngine,
) -> None:
    free = Sampling(max_tokens=12)
    drawn = Sampling(temperature=5.0, max_tokens=32, n=24, seed=3, among=TEXTS)

    async def both() -> tuple[list[str], str]:
        guided, other = await asyncio.gather(
            engine.sample(ASKED, drawn), engine.sample(ASKED, free)
        )
        assert all(one.finish_reason == "stop" for one in guided.completions)
        for one in guided.completions:
            assert engine.chat.decode(list(one.token_ids or ())).strip() == one.text
        return [one.text for one in guided.completions], other.completions[0].text

    replies, beside = asyncio.run(both())
    alone = asyncio.run(engine.sample(ASKED, free)).completions[0].text
    assert set(replies) <= set(TEXTS)
    assert len(set(replies)) > 1, "hot samples differ"
    assert beside == alone
    assert alone not in TEXTS, "unguided it says something else"


def test_a_reply_begins_as_it_must_and_goes_on_freely(engine: HFEngine) -> None:
    sampling = Sampling(max_tokens=12, begins=("Which", "Nobody"))
    text = asyncio.run(engine.sample(ASKED, sampling)).completions[0].text
    assert text.startswith(sampling.begins)
    assert text not in sampling.begins


def test_draws_follow_the_probabilities() -> None:
    draws = [draw_among([4, 7], [0.0, 1.0986123], 1.0, (i + 0.5) / 100) for i in range(100)]
    assert draws.count(7) == 75
    assert draw_among([4, 7], [0.0, 1.1], 0.0, 0.0) == 7
