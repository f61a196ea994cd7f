"""Text that comes token by token."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticlu.core.errors import EngineUnreachableError
from agenticlu.core.records import Message, Usage
from agenticlu.engines import BUNDLED_MODEL, retry
from agenticlu.engines.base import (
    Completion,
    Engine,
    Sampled,
    Sampling,
    StreamingEngine,
    TokenLogprob,
    spent_on,
    stream_of,
)
from agenticlu.engines.pool import PoolEngine
from agenticlu.engines.retry import LimitedEngine
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.engines.streaming import UNSETTLED_TOKENS, ReplyText

GREEDY = Sampling()

needs_model = pytest.mark.skipif(
    not (BUNDLED_MODEL / "model.safetensors").is_file(), reason="the bundled model is absent"
)


def decode_bytes(ids: Sequence[int]) -> str:
    """A tokenizer with one token a byte, as what is rare is encoded by real ones."""
    return bytes(ids).decode("utf-8", "replace")


def cut(text: str, stops: list[str]) -> str:
    """A reply ends with the character that completes a stop, and is cut where that began."""
    for end in range(1, len(text) + 1):
        ends = [at for stop in stops if (at := text[:end].find(stop)) >= 0]
        if ends:
            return text[: min(ends)]
    return text


def details(token: int) -> TokenLogprob:
    return TokenLogprob(token, "", -1.0, ())


@given(
    text=st.text(max_size=40),
    stops=st.lists(st.text("ab 日🎉", min_size=1, max_size=4), max_size=4),
)
def test_parts_add_up_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    text = f"ab{text}日a b🎉b"
    ids = list(text.encode("utf-8", "surrogatepass"))
    reply = ReplyText(decode_bytes, tuple(stops))
    expected = cut(decode_bytes(ids), stops)
    sent, told = "", []
    for token in ids:
        part, heard = reply.feed(token, details(token))
        assert bool(part) >= bool(heard), "no log-probabilities without their text"
        sent += part
        told += heard
        assert expected.startswith(sent), "nothing is taken back"
    held = max((len(stop) for stop in stops), default=1) - 1
    assert len(expected) - len(sent) <= held
    assert len(sent) == reply.sent_chars
    assert [one.token_id for one in told] == ids[: len(told)]
    assert reply.sent_details == len(told)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(BUNDLED_MODEL))


@needs_model
@settings(max_examples=60)
@given(ids=st.lists(st.integers(0, 1900), max_size=60))
def test_parts_are_those_of_the_whole_decoding(tokenizer: Any, ids: list[int]) -> None:
    def decode(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), skip_special_tokens=True))

    reply = ReplyText(decode)
    sent = "".join(reply.feed(one)[0] for one in ids)
    assert decode(ids).startswith(sent)


def test_each_token_costs_the_same_however_long_the_reply_is() -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    reply = ReplyText(decode, ("END",))
    for _ in range(2000):
        reply.feed(65)
    for _ in range(2000):
        reply.feed(0xE6)  # begins a character that never comes
    assert longest <= 2 * (UNSETTLED_TOKENS + 1)


# --- Engines --------------------------------------------------------------------------------------

ASKED = (Message(role="user", content="Who built the mill?"),)


async def tell(
    engine: Engine, sampling: Sampling = GREEDY, **more: Any
) -> tuple[list[str], Sampled]:
    """What an engine tells of a reply, and the reply."""
    told: list[str] = []
    reply = await stream_of(engine)(ASKED, sampling, on_text=told.append, **more)
    return told, reply


def test_a_script_is_told_word_by_word_and_its_thoughts_are_not() -> None:
    engine = ScriptedEngine(lambda request: "<think>Who? Ada.</think> Ada  Larkin\nbuilt it. ")
    told, reply = asyncio.run(tell(engine, Sampling(n=3)))
    assert told == ["Ada  ", "Larkin\n", "built ", "it."]
    assert [one.text for one in reply.completions] == ["".join(told)], "one, whatever n says"
    whole = asyncio.run(ScriptedEngine(engine.replies).sample(ASKED, GREEDY))
    assert (reply.completions, reply.usage) == (whole.completions, whole.usage)


def test_an_engine_that_cannot_stream_tells_its_reply_as_a_whole() -> None:
    class Plain:
        async def sample(
            self, messages: Any, sampling: Sampling, *, session: Any = None
        ) -> Sampled:
            assert sampling.n == 1
            return Sampled((Completion("Ada Larkin", "stop"),), Usage(requests=1))

    assert not isinstance(Plain(), StreamingEngine)
    told, reply = asyncio.run(tell(Plain(), Sampling(n=2)))  # type: ignore[arg-type]
    assert told == ["Ada Larkin"]
    assert reply.usage.requests == 1


def test_a_script_stops_at_the_next_word_and_counts_what_it_said() -> None:
    engine = ScriptedEngine(lambda request: "one two three four")

    async def stop() -> Usage:
        told: list[str] = []
        work = asyncio.ensure_future(engine.stream(ASKED, GREEDY, on_text=told.append))
        while len(told) < 2:
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await work
        assert told == ["one ", "two "]
        return spent_on(cancelled.value)

    spent = asyncio.run(stop())
    assert spent.completion_tokens == engine.usage.completion_tokens == 2
    assert spent.prompt_tokens > 0


class Breaking(ScriptedEngine):
    """Breaks off after a number of words, the first `times` times."""

    words, times, streams = 0, 1, 0

    async def stream(self, *given: Any, on_text: Any, **named: Any) -> Sampled:
        self.streams += 1
        for word in ("Ada ", "Larkin ")[: self.words]:
            on_text(word)
        if self.streams <= self.times:
            raise EngineUnreachableError("The connection broke off.")
        return await super().stream(*given, on_text=on_text, **named)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_stream_is_tried_again_before_its_first_word_alone(
    monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    monkeypatch.setattr(retry, "sleep", lambda seconds: asyncio.sleep(0))

    def limited(inner: Engine) -> LimitedEngine:
        return LimitedEngine(PoolEngine([("a", inner)]) if pooled else inner)

    silent = Breaking(lambda request: "Ada")
    told, reply = asyncio.run(tell(limited(silent)))
    assert (told, silent.streams) == (["Ada"], 2)
    assert reply.usage.requests == 1
    spoke = Breaking(lambda request: "Ada")
    spoke.words = 2
    with pytest.raises(EngineUnreachableError) as broken:
        asyncio.run(tell(limited(spoke)))
    assert (spoke.streams, broken.value.is_midway) == (1, True)


def test_a_limiter_is_told_what_a_stopped_stream_cost() -> None:
    limited = LimitedEngine(ScriptedEngine(lambda request: "one two three four"))

    async def stop() -> None:
        work = asyncio.ensure_future(
            limited.stream(ASKED, GREEDY, on_text=lambda text: work.cancel())
        )
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(stop())
    admission = limited.limiter.admission
    assert (admission.spent.completion_tokens, admission.requests) == (1, 0)
