"""Thinking models behind servers: each form of thought, and the room that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from thinking_model import FORMS, ThinkingModel

from agenticlu.core.errors import DocumentTooLongError, EngineRefusedError, UsageError
from agenticlu.core.records import Message, Usage
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import Completion, Sampled, Sampling, ThoughtCutError, adaptations_of
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.retry import LimitedEngine, Limiter
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.engines.thinking import CHECKED_ROOM, FIRST_ROOM, Thinking, ThinkingRoom

ASKED = (Message(role="user", content="Who built the mill?"),)
CHOICES = ("yes", "maybe", "no")
Serve = Callable[..., Any]


def engine_at(endpoint: Any, said: list[str] | None = None, **thinking: Any) -> LimitedEngine:
    say = (said if said is not None else []).append
    room = ThinkingRoom(Thinking(**thinking), "m", hides=True, say=say)
    return LimitedEngine(OpenAIEngine(endpoint.url, "m", thinking=room), Limiter(Admission(8)))


def run(engine: LimitedEngine, *work: Callable[[], Any]) -> list[Any]:
    async def one_after_another() -> list[Any]:
        try:
            return [await one() for one in work]
        finally:
            await engine.close()

    return asyncio.run(one_after_another())


def sample(engine: LimitedEngine, **sampling: Any) -> Callable[[], Any]:
    return lambda: engine.sample(ASKED, Sampling(**{"max_tokens": 8} | sampling))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 3])
def test_a_short_limit_is_the_replys_alone(serve: Serve, form: str, n: int) -> None:
    script = ScriptedEngine({"mill": ("Ada Larkin built it.", "Bo built it, in 1911.")})
    model = ThinkingModel(script, form)
    said: list[str] = []
    engine = engine_at(serve(model), said)
    first, second = run(engine, *[sample(engine, n=n, temperature=1.0, seed=3)] * 2)
    expected = ["Ada Larkin built it.", "Bo built it, in 1911.", "Ada Larkin built it."]
    for found in (first, second):
        assert [one.text for one in found.completions] == expected[:n]
        assert {one.finish_reason for one in found.completions} == {"stop"}
        assert 0 < found.usage.thinking_tokens < found.usage.completion_tokens
        assert all(one.thinking or form == "hidden" for one in found.completions)
        assert not any("Okay" in one.text for one in found.completions)
    assert model.cut, "else nothing was cut"
    limits = [body["max_tokens"] for body in model.bodies]
    assert limits[0] == 8, "no room before it is known to be needed"
    assert set(limits[1:]) == {8 + FIRST_ROOM}, "found once"
    assert second.usage.requests == 1
    assert engine.usage == first.usage + second.usage, "everything is counted"
    assert len(said) == 1, said
    assert "thinks before it replies" in said[0]


def test_its_plain_twin_is_asked_as_ever(serve: Serve) -> None:
    script = ScriptedEngine({"mill": "one two three four five six seven eight nine ten"})
    model = ThinkingModel(script, thinks=False)
    said: list[str] = []
    engine = engine_at(serve(model), said)
    (found,) = run(engine, sample(engine))
    assert (found.completions[0].text[-5:], found.completions[0].finish_reason) == (
        "eight",
        "length",
    )
    assert [body["max_tokens"] for body in model.bodies] == [8]
    assert found.usage.thinking_tokens == 0
    assert not said


def test_a_reply_that_only_reads_like_a_thought_is_looked_into_once(serve: Serve) -> None:
    script = ScriptedEngine({"mill": "Okay, one two three four five six seven eight nine ten"})
    model = ThinkingModel(script, thinks=False)
    engine = engine_at(serve(model))
    found = run(engine, *[sample(engine)] * 3)
    assert {one.completions[0].text for one in found} == {"Okay, one two three four five six seven"}
    assert [body["max_tokens"] for body in model.bodies] == [8, 8 + FIRST_ROOM, 8, 8]
    assert [one.usage.requests for one in found] == [2, 1, 1], "what it took is counted"


def test_a_reply_that_never_ends_is_followed_so_far_and_no_further(serve: Serve) -> None:
    script = ScriptedEngine({"mill": "Okay, " + "on and on " * 10_000})
    model = ThinkingModel(script, thinks=False)
    engine = engine_at(serve(model))
    found = run(engine, *[sample(engine)] * 2)
    assert {len(one.completions[0].text.split()) for one in found} == {8}
    assert [body["max_tokens"] - 8 for body in model.bodies] == [0, FIRST_ROOM, CHECKED_ROOM, 0]


def test_an_empty_reply_that_was_cut_is_looked_into_once(serve: Serve, chat_reply: Any) -> None:
    endpoint = serve(lambda body, i: (200, chat_reply("", finish_reason="length")))
    engine = engine_at(endpoint)
    found = run(engine, *[sample(engine)] * 2)
    assert [one.completions[0].text for one in found] == ["", ""]
    assert [body["max_tokens"] for body in endpoint.bodies] == [8, 8 + FIRST_ROOM, 8]


@pytest.mark.parametrize("at_once", [1, 6])
def test_hidden_thoughts_that_nobody_reports_are_found_by_what_comes_after(
    serve: Serve, at_once: int
) -> None:
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}), "hidden", reports=False)
    engine = engine_at(serve(model))

    async def together() -> Any:
        return await asyncio.gather(*(sample(engine)() for _ in range(at_once)))

    first, (then,) = run(engine, together, sample(engine))[0], run(engine, sample(engine))
    assert {one.completions[0].text for one in [*first, then]} == {"Ada"}
    assert then.usage.requests == 1
    assert len(model.bodies) <= 2 * at_once + 3


def test_a_thought_that_outgrows_its_room_gets_twice_as_much(serve: Serve) -> None:
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}), very_long=2 * FIRST_ROOM, longest=1)
    model.thought = lambda messages: "hmm " * 2 * FIRST_ROOM  # type: ignore[method-assign]
    said: list[str] = []
    engine = engine_at(serve(model), said)
    first, second = run(engine, *[sample(engine)] * 2)
    assert first.completions[0].text == second.completions[0].text == "Ada"
    rooms = [body["max_tokens"] - 8 for body in model.bodies]
    assert rooms == [0, FIRST_ROOM, 2 * FIRST_ROOM, 2 * FIRST_ROOM]
    assert first.usage.requests == 3
    assert "asked again" in said[-1]


@pytest.mark.parametrize("form", ["reasoning_content", "think", "opened"])
def test_a_thought_without_an_end_fails_with_the_option_that_raises_it(
    serve: Serve, form: str
) -> None:
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}), form)
    model.thought = lambda messages: "Okay, " + "hmm " * 10**5  # type: ignore[method-assign]
    engine = engine_at(serve(model), tokens=2 * FIRST_ROOM)
    if form == "opened":  # known from an earlier reply
        engine.engine.room.opened = True  # type: ignore[attr-defined]
    with pytest.raises(ThoughtCutError, match=f"after {2 * FIRST_ROOM:,} tokens") as caught:
        run(engine, sample(engine))
    assert "--thinking-tokens (now 8,192)" in (caught.value.hint or "")
    assert len(model.bodies) == 3, "no retries beyond those with more room"
    assert engine.limiter.admission.spent.requests == 3, "spent, though nothing came of it"


def test_some_samples_cut_are_asked_again_alone() -> None:
    room = ThinkingRoom(Thinking(), "m", thinks=True)
    asked: list[Sampling] = []

    async def ask(sampling: Sampling) -> Sampled:
        asked.append(sampling)
        thought = Completion("", "length", thinking="hmm")
        whole = Completion(f"reply {len(asked)}", "stop", thinking="hmm")
        completions = [thought if len(asked) == 1 and k % 2 else whole for k in range(sampling.n)]
        return Sampled(tuple(completions), Usage(requests=1, thinking_tokens=1))

    found = asyncio.run(room.sample(ask, Sampling(n=5, seed=1, temperature=1.0)))
    assert [one.text for one in found.completions] == ["reply 1", "reply 2"] * 2 + ["reply 1"]
    assert [one.n for one in asked] == [5, 2]
    assert asked[0].seed != asked[1].seed, "or samples of the first request would come twice"
    assert found.usage == Usage(requests=2, thinking_tokens=2)


def test_a_window_too_narrow_for_the_room_gets_less() -> None:
    room = ThinkingRoom(Thinking(), "m", thinks=True)
    asked: list[int] = []

    async def ask(sampling: Sampling) -> Sampled:
        asked.append(sampling.max_tokens)
        if sampling.max_tokens > window:
            raise DocumentTooLongError("too long")
        return Sampled((Completion(text, reason, thinking="hmm"),), Usage(requests=1))

    window, text, reason = 2000, "Ada", "stop"
    assert asyncio.run(room.sample(ask, Sampling(max_tokens=16))).completions[0].text == "Ada"
    assert asked == [16 + 4096, 16 + 2048, 16 + 1024]
    text, reason = "", "length"
    with pytest.raises(ThoughtCutError) as caught:
        asyncio.run(room.sample(ask, Sampling(max_tokens=16)))
    assert "window" in (caught.value.hint or "")
    window = 50
    with pytest.raises(DocumentTooLongError):
        asyncio.run(room.sample(ask, Sampling(max_tokens=16)))


def test_a_reply_that_ran_into_the_thoughts_room_is_cut_where_it_was_meant_to_be() -> None:
    room = ThinkingRoom(Thinking(), "m", thinks=True)
    text = " ".join(["word"] * 500)

    async def ask(sampling: Sampling) -> Sampled:
        usage = Usage(requests=1, completion_tokens=600, thinking_tokens=100)
        return Sampled((Completion(text, reason, thinking="hmm"),), usage)

    reason = "length"
    found = asyncio.run(room.sample(ask, Sampling(max_tokens=50)))
    assert 40 <= len(found.completions[0].text.split()) <= 50
    reason = "stop"
    found = asyncio.run(room.sample(ask, Sampling(max_tokens=50)))
    assert found.completions[0].text == text, "what ended by itself is whole"


def test_a_reply_squeezed_out_by_its_thought_is_asked_again(serve: Serve) -> None:
    """Three of eight tokens are left for the reply: it was cut before its limit."""
    model = ThinkingModel(ScriptedEngine({"mill": "The mill was built by Ada"}))
    model.thought = lambda messages: "hmm hmm hmm hmm hmm"  # type: ignore[method-assign]
    engine = engine_at(serve(model))
    (found,) = run(engine, sample(engine))
    assert found.completions[0].text == "The mill was built by Ada"
    assert len(model.bodies) == 2


# --- Verdicts from the first token


def score(engine: LimitedEngine) -> Callable[[], Any]:
    return lambda: engine.score_choices(ASKED, CHOICES)


@pytest.mark.parametrize("form", ["reasoning_content", "think", "opened", "harmony"])
def test_the_first_token_of_a_thought_is_no_verdict(serve: Serve, form: str) -> None:
    script = ScriptedEngine({"mill": "Yes."}, {"mill": "yes"})
    model = ThinkingModel(script, form)
    engine = engine_at(serve(model))
    found = run(engine, *[score(engine)] * 3)
    for one in found:
        assert one.probabilities["yes"] == 1.0
        assert one.method == "parse"
        assert one.usage.thinking_tokens > 0
    assert found[-1].usage.requests == 1, "found once"
    assert engine.usage == sum((one.usage for one in found), Usage())
    assert any("chat_template_kwargs" in body for body in model.bodies), "asked not to think"


@pytest.mark.parametrize("form", ["reasoning_content", "think", "opened"])
def test_a_template_that_turns_thinking_off_gives_probabilities(serve: Serve, form: str) -> None:
    script = ScriptedEngine({"mill": "Yes."}, {"mill": {"yes": 0.6, "maybe": 0.1, "no": 0.3}})
    model = ThinkingModel(script, form, obeys=True)
    engine = engine_at(serve(model))
    found = run(engine, *[score(engine)] * 3)
    assert found[-1].probabilities == pytest.approx({"yes": 0.6, "maybe": 0.1, "no": 0.3})
    assert (found[-1].method, found[-1].usage.requests) == ("logprobs", 1)
    replies = [body for body in model.bodies if not body.get("logprobs")]
    assert not any("chat_template_kwargs" in body for body in replies), "samples think as ever"


def test_a_badly_worded_verdict_of_a_plain_model_is_still_its_first_token(serve: Serve) -> None:
    script = ScriptedEngine({"mill": "Well."}, {"mill": {"yes": 0.02, "no": 0.01}})
    model = ThinkingModel(script, thinks=False)
    engine = engine_at(serve(model))
    found = run(engine, *[score(engine)] * 3)
    assert {one.method for one in found} == {"logprobs"}
    assert [one.usage.requests for one in found] == [2, 1, 1]


# --- Effort


def test_thinking_off_tries_what_servers_know_until_one_has_effect(serve: Serve) -> None:
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}), longest=3)

    def answer(body: dict[str, Any], number: int) -> Any:
        if "chat_template_kwargs" in body:
            return 400, {"error": {"message": "Unrecognized request argument", "code": 400}}
        model.thinks = body.get("reasoning_effort") != "minimal"
        return model(body, number)

    engine = engine_at(serve(answer), effort="off")
    found = run(engine, *[sample(engine, max_tokens=64)] * 3)
    assert [one.usage.thinking_tokens > 0 for one in found] == [True, False, False]
    efforts = [body.get("reasoning_effort") for body in model.bodies]
    assert efforts == ["none", "minimal", "minimal"]
    assert {one.completions[0].text for one in found} == {"Ada"}


def test_thinking_off_without_effect_is_told(serve: Serve) -> None:
    said: list[str] = []
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}), longest=3)
    engine = engine_at(serve(model), said, effort="off")
    run(engine, *[sample(engine, max_tokens=64)] * 6)
    assert sum("although --thinking off" in line for line in said) == 1
    assert "reasoning_effort" not in model.bodies[-1]


def test_an_effort_goes_where_the_server_takes_it(serve: Serve) -> None:
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}))

    def answer(body: dict[str, Any], number: int) -> Any:
        if "reasoning_effort" in body:
            return 422, {"detail": [{"loc": ["body", "reasoning_effort"], "msg": "Extra inputs"}]}
        return model(body, number)

    engine = engine_at(serve(answer), effort="low")
    run(engine, *[sample(engine, max_tokens=64)] * 2)
    assert {str(body["chat_template_kwargs"]) for body in model.bodies} == {
        "{'reasoning_effort': 'low'}"
    }


def test_a_refusal_for_another_reason_is_not_held_against_the_effort(serve: Serve) -> None:
    """The fields were taken before, so a later refusal is the request's own."""
    answers = iter([(200, None), (400, {"error": {"message": "no such tool"}}), (200, None)])
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}))

    def answer(body: dict[str, Any], number: int) -> Any:
        status, content = next(answers)
        return (status, content) if content else model(body, number)

    engine = engine_at(serve(answer), effort="low")

    async def refused() -> None:
        with pytest.raises(Exception, match="no such tool"):
            await engine.sample(ASKED, Sampling(max_tokens=64))

    run(engine, sample(engine, max_tokens=64), refused, sample(engine, max_tokens=64))
    assert {body.get("reasoning_effort") for body in model.bodies} == {"low"}


def test_an_unknown_effort_is_refused() -> None:
    with pytest.raises(UsageError, match="auto, on, off, low, medium, high"):
        Thinking("loud")  # type: ignore[arg-type]


# --- What doctor finds


@pytest.mark.parametrize("form", FORMS)
def test_a_probe_tells_how_much_is_thought_before_a_word(serve: Serve, form: str) -> None:
    script = ScriptedEngine({"one word": "yes", "sentence": ("A meadow.", "A river."), "four": "a"})
    model = ThinkingModel(script, form)
    engine = OpenAIEngine(serve(model).url, "m")
    found = asyncio.run(probe_and_close(engine, "thinking_tokens", "samples_n", "repeats_seeds"))
    assert found.thinking_tokens is not None
    assert abs(found.thinking_tokens - len(model.thought(PROBED).split())) <= 2
    assert engine.setup.thinking_tokens or not model.reports or form != "hidden"
    plain = ThinkingModel(script, thinks=False)
    found = asyncio.run(probe_and_close(OpenAIEngine(serve(plain).url, "m"), "thinking_tokens"))
    assert found.thinking_tokens == 0
    assert len(plain.bodies) == 1


PROBED = [Message(role="user", content="Reply with one word: yes.")]


async def probe_and_close(engine: OpenAIEngine, *wanted: Any) -> Any:
    try:
        return await engine.capabilities(*wanted)
    finally:
        await engine.close()


def test_thoughts_that_differ_are_samples_that_differ(serve: Serve) -> None:
    """Both replies of a probe are cut inside a thought; what was thought shows that it samples."""

    def answer(body: dict[str, Any], number: int) -> Any:
        choices = [
            {
                "index": k,
                "message": {"content": None, "reasoning_content": f"Hm {k + (body['seed'] or 0)}"},
                "finish_reason": "length",
            }
            for k in range(body.get("n", 1))
        ]
        return 200, {"choices": choices, "usage": {"completion_tokens": 24}}

    engine = OpenAIEngine(serve(answer).url, "m")
    found = asyncio.run(probe_and_close(engine, "samples_n", "repeats_seeds"))
    assert (found.samples_n, found.repeats_seeds, found.notes) == (True, True, ())


def test_a_server_that_bounds_replies_is_not_asked_for_more_in_vain(serve: Serve) -> None:
    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}))
    model.thought = lambda messages: "hmm " * 10**5  # type: ignore[method-assign]

    def answer(body: dict[str, Any], number: int) -> Any:
        if body["max_tokens"] > 2000:
            message = "max_tokens is too large: this model supports at most 2000 completion tokens"
            return 400, {"error": {"message": message, "param": "max_tokens", "code": "invalid"}}
        return model(body, number)

    engine = engine_at(serve(answer))
    with pytest.raises(ThoughtCutError):
        run(engine, sample(engine))
    assert [body["max_tokens"] for body in model.bodies][:2] == [8, 2000]
    assert len(model.bodies) <= 3


def test_what_became_of_the_wish_is_among_the_facts_of_a_run(serve: Serve) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if body.keys() & {"reasoning_effort", "chat_template_kwargs"}:
            return 400, {"error": {"message": "Unrecognized request argument"}}
        return model(body, number)

    model = ThinkingModel(ScriptedEngine({"mill": "Ada"}))
    said: list[str] = []
    engine = engine_at(serve(answer), said, effort="low")
    run(engine, sample(engine), sample(engine))
    told = "m takes no setting of its thinking, although --thinking low was asked for."
    assert said.count(told) == 1
    assert adaptations_of(engine) == (
        told, "m: 1 reply was cut inside a thought and asked for again with more room."
    )  # fmt: skip


REPLIES = st.builds(
    Completion,
    st.sampled_from(["", "Ada", "Okay, so", "word " * 50]),
    st.sampled_from(["stop", "length", "unknown"]),
    st.none(),
    st.sampled_from(["", "hmm " * 9]),
)
USAGES = st.builds(
    Usage,
    requests=st.just(1),
    completion_tokens=st.integers(0, 9000),
    thinking_tokens=st.sampled_from([0, 7]),
)


@given(
    st.data(),
    st.sampled_from([None, True, False]),
    st.booleans(),
    st.integers(1, 3),
    st.integers(1, 20_000),
)
def test_whatever_comes_back_asking_ends_and_is_counted(
    data: st.DataObject, thinks: bool | None, hides: bool, n: int, tokens: int
) -> None:
    room = ThinkingRoom(Thinking(tokens=tokens), "m", thinks=thinks, hides=hides)
    paid, lengths = Usage(), []

    async def ask(sampling: Sampling) -> Sampled:
        nonlocal paid
        lengths.append(sampling.max_tokens)
        if data.draw(st.integers(0, 9)) == 0:
            raise DocumentTooLongError("too long")
        fewest = min(sampling.n, data.draw(st.integers(1, 3)))
        usage = data.draw(USAGES)
        paid = paid + usage
        return Sampled(tuple(data.draw(REPLIES) for _ in range(fewest)), usage)

    limit = 8
    try:
        found = asyncio.run(room.sample(ask, Sampling(max_tokens=limit, n=n)))
        told, num_replies = found.usage, len(found.completions)
    except ThoughtCutError as error:
        told, num_replies = error.usage, n
    except DocumentTooLongError:
        told, num_replies = paid, n if lengths[-1] < limit + 256 else 0
    assert told == paid
    assert 1 <= num_replies <= n
    assert len(lengths) <= 60
    assert max(lengths) <= limit + max(tokens, CHECKED_ROOM if thinks is None else 0)


def test_what_was_found_out_before_a_reply_does_not_shorten_it(
    serve: Serve, chat_reply: Any
) -> None:
    said = "one two three four five six seven eight nine ten eleven twelve"

    def answer(body: dict[str, Any], number: int) -> Any:
        found = chat_reply(said, finish_reason="length", prompt=9)
        found["usage"]["completion_tokens"] = 12
        return 200, found

    endpoint = serve(answer)
    room = ThinkingRoom(Thinking(), "m", thinks=True)
    engine = OpenAIEngine(endpoint.url, "m", thinking=room)

    async def twice() -> list[Any]:
        try:
            for _ in range(20):
                await engine.ask_setup(ASKED, Sampling(max_tokens=12))
            return [await engine.sample(ASKED, Sampling(max_tokens=12)) for _ in range(2)]
        finally:
            await engine.close()

    first, second = asyncio.run(twice())
    assert first.completions[0].text == second.completions[0].text == said
    assert first.usage.requests == 21, "setup is counted with the reply after it"
    assert engine.usage == first.usage + second.usage


def test_a_prompt_that_is_refused_however_it_is_asked_changes_nothing(
    serve: Serve, chat_reply: Any
) -> None:
    token = {"token": "yes", "logprob": -0.1, "top_logprobs": []}

    def answer(body: dict[str, Any], number: int) -> Any:
        if "long" in body["messages"][0]["content"]:
            words = "Request too large on tokens per min (TPM): Limit 30000, Requested 50000."
            return 429, {"error": {"message": words, "code": "rate_limit_exceeded"}}
        found = chat_reply("yes", prompt=9)
        if "logprobs" in body:
            found["choices"][0]["logprobs"] = {"content": [token]}
        return 200, found

    endpoint, said = serve(answer), []
    room = ThinkingRoom(Thinking("off"), "m", say=said.append)
    engine = OpenAIEngine(endpoint.url, "m", thinking=room)
    long = (Message(role="user", content="a long one"),)

    async def scenario() -> Any:
        try:
            for ask in (
                engine.sample(long, Sampling(max_tokens=8)),
                engine.score_choices(long, CHOICES),
            ):
                with pytest.raises(EngineRefusedError, match="Limit 30000"):
                    await ask
            await engine.sample(ASKED, Sampling(max_tokens=8))
            return await engine.score_choices(ASKED, CHOICES)
        finally:
            await engine.close()

    found = asyncio.run(scenario())
    assert found.method == "logprobs"
    assert "chat_template_kwargs" in endpoint.bodies[-2]
    assert engine.findings.notes == said == []
