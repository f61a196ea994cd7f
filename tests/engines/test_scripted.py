from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agenticlu.core.errors import DocumentTooLongError, EngineBusyError, EngineReplyError
from agenticlu.core.records import Message
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Completion, Sampling
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest

SYSTEM = Message(role="system", content="Read with care.")


def ask(text: str, *before: str) -> tuple[Message, ...]:
    turns = [*before, text]
    return (
        SYSTEM,
        *(
            Message(role="assistant" if i % 2 else "user", content=turn)
            for i, turn in enumerate(turns)
        ),
    )


def sample(engine: ScriptedEngine, text: str, *before: str, **sampling: Any) -> list[str]:
    reply = asyncio.run(engine.sample(ask(text, *before), Sampling(**sampling)))
    return [completion.text for completion in reply.completions]


def test_unscripted_samples_depend_on_prompt_seed_and_ordinal() -> None:
    def draw(text: str, seed: int) -> list[str]:
        return sample(ScriptedEngine(), text, n=3, temperature=1.0, seed=seed)

    assert draw("a", 1) == draw("a", 1)
    assert len({*draw("a", 1), *draw("a", 2), *draw("b", 1)}) == 9


def test_unscripted_greedy_samples_are_equal_as_a_models_are() -> None:
    one, two = sample(ScriptedEngine(), "a", n=2, seed=1)
    assert one == two == sample(ScriptedEngine(), "a", seed=2)[0]


def test_table_takes_the_longest_text_and_goes_round_its_replies() -> None:
    engine = ScriptedEngine({"Ask": "short", "Ask one question": ("first", "second")})
    assert sample(engine, "Ask one question now.", n=3) == ["first", "second", "first"]
    assert sample(engine, "Ask me.") == ["short"]


def test_sequence_answers_by_turn() -> None:
    engine = ScriptedEngine(["one", Completion("two", "length")])
    assert sample(engine, "a") == ["one"]
    assert sample(engine, "b", "a", "one") == ["two"]
    assert sample(engine, "c", "a", "one", "b", "two")[0].startswith("Reply ")


def test_callable_sees_the_ordinal() -> None:
    engine = ScriptedEngine(lambda request: f"{request.last}{request.ordinal}")
    assert sample(engine, "q", n=2) == ["q0", "q1"]


def test_reply_is_cut_by_length_and_stop() -> None:
    engine = ScriptedEngine({"": "one two three END four"})
    reply = asyncio.run(engine.sample(ask("a"), Sampling(max_tokens=2)))
    assert reply.completions[0] == Completion("one two", "length")
    assert sample(engine, "a", stop=("END",)) == ["one two three"]


def test_weights_by_rule() -> None:
    engine = ScriptedEngine(weights={"gate": "yes", "river": {"yes": 0.1, "no": 0.3}})
    choices = ("yes", "maybe", "no")
    named = asyncio.run(engine.score_choices(ask("the gate"), choices))
    assert named.probabilities["yes"] == pytest.approx(0.9)
    given = asyncio.run(engine.score_choices(ask("the river"), choices))
    assert given.probabilities == pytest.approx({"yes": 0.25, "maybe": 0.0, "no": 0.75})
    assert given.label_mass == pytest.approx(0.4)
    other = asyncio.run(engine.score_choices(ask("else"), choices))
    assert sum(other.probabilities.values()) == pytest.approx(1.0)


def test_a_server_without_logprobs_gives_a_hard_verdict() -> None:
    engine = ScriptedEngine(weights={"": "no"}, logprobs=False)
    probs = asyncio.run(engine.score_choices(ask("a"), ("yes", "no")))
    assert (probs.method, probs.probabilities) == ("parse", {"yes": 0.0, "no": 1.0})


def test_usage_counts_the_longest_common_prefix_of_the_session() -> None:
    engine = ScriptedEngine({"": "Ada Larkin"})

    async def talk() -> list[Any]:
        first = await engine.sample(ask("the mill who?"), Sampling(), session="s")
        grown = await engine.sample(
            ask("when?", "the mill who?", "Ada Larkin"), Sampling(), session="s"
        )
        parted = await engine.sample(ask("the mill when?"), Sampling(), session="s")
        foreign = await engine.sample(ask("the mill who?"), Sampling(), session="t")
        return [one.usage for one in (first, grown, parted, foreign)]

    first, grown, parted, foreign = asyncio.run(talk())
    # <system> Read with care. <end> <user> the mill who? <end> <assistant>
    assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (11, 0, 2)
    # ... Ada Larkin <end> are known from the reply.
    assert grown.cached_tokens == 14
    assert parted.cached_tokens == 8
    assert foreign.cached_tokens == 0
    assert engine.usage.requests == 4


def test_faults_come_when_told_and_cost_nothing() -> None:
    engine = ScriptedEngine(faults={1: EngineBusyError("busy")})
    sample(engine, "a")
    with pytest.raises(EngineBusyError):
        sample(engine, "a")
    sample(engine, "a")
    assert engine.usage.requests == 2
    assert len(engine.requests) == 3


def test_concurrency_is_recorded() -> None:
    engine = ScriptedEngine(latency_s=0.001)

    async def burst() -> None:
        await asyncio.gather(*(engine.sample(ask("a"), Sampling()) for _ in range(5)))

    asyncio.run(burst())
    assert engine.most_concurrent == 5


def test_prefixes_shorter_than_the_cache_reuses_are_computed_again() -> None:
    def cached(**cache: Any) -> list[int]:
        engine = ScriptedEngine(**cache)
        found = []
        for text in ("word " * 20 + "one", "word " * 20 + "two", "word " * 40):
            usage = asyncio.run(engine.sample(ask(text), Sampling(), session="s")).usage
            found.append(usage.cached_tokens)
        return found

    any_length = cached()
    assert any_length[0] == 0 < any_length[1] <= any_length[2]
    assert cached(prefix_reuse_from_tokens=any_length[1] + 1)[1] == 0
    assert cached(prefix_reuse_from_tokens=any_length[1]) == any_length


def test_window_is_kept() -> None:
    with pytest.raises(DocumentTooLongError, match="takes 10"):
        sample(ScriptedEngine(context_tokens=10), "word " * 20)


def test_request_key_ignores_the_seed_of_a_greedy_request() -> None:
    def key(**sampling: Any) -> str:
        return ScriptedRequest(ask("a"), Sampling(**sampling), (), None, 0).key

    assert key(seed=1) == key(seed=2)
    assert key(seed=1, temperature=0.5) != key(seed=2, temperature=0.5)


def test_a_text_is_continued_with_its_white_space() -> None:
    engine = ScriptedEngine({"label": "\n5 \n"}, tokenizer=ApproximateTokenizer())
    reply = asyncio.run(engine.complete("text\nlabel:", Sampling(n=2)))
    assert [one.text for one in reply.completions] == ["\n5 \n"] * 2
    assert engine.requests[0].plain
    told = asyncio.run(engine.sample(ask("label"), Sampling()))
    assert told.completions[0].text == "5"
    silent = ScriptedEngine(completes=False)
    with pytest.raises(EngineReplyError):
        asyncio.run(silent.complete("x", Sampling()))


def test_a_thought_is_parted_from_its_reply_and_counted() -> None:
    engine = ScriptedEngine({"Who": "<think>Perhaps Bo.</think>Ada Larkin"})
    found = asyncio.run(engine.sample([Message(role="user", content="Who?")], Sampling()))
    assert (found.completions[0].text, found.completions[0].thinking) == (
        "Ada Larkin",
        "Perhaps Bo.",
    )
    assert found.usage.completion_tokens == 3, "as words: the tags stick to their neighbours"
    assert found.usage.thinking_tokens == 1
