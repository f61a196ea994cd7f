"""A question that is stopped: within one token, with the best answer until then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from agenticlu.core.errors import EngineUnreachableError, NoSupportedAnswerError
from agenticlu.core.records import Document, Usage
from agenticlu.dialogue.answer import Answer, Event, check_supported
from agenticlu.dialogue.ask import ask
from agenticlu.dialogue.halting import Halt
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Sampled
from agenticlu.engines.scripted import ScriptedEngine

DOCUMENT = Document.of(
    "Ada Yardley lives in Wexley.\n\nThe teacher of Bo Otis is Ada Yardley.\n\n" * 3, "town.txt"
)
ROUND = [
    "Who is the teacher of Bo Otis?",
    "<para 0>",
    "The teacher of Bo Otis is Ada Yardley.",
    "Ada Yardley lives in Wexley, since 1847. Answer: Wexley",
    "no",
]
SECOND = ["Where does Ada Yardley live?", *ROUND[1:3], "She lives in Vell. Answer: Vell", "yes"]


def stop_at(
    word: str, replies: Any = ROUND, *, as_event: bool = False, **options: Any
) -> tuple[Answer, ScriptedEngine, list[Event]]:
    """Asks, and wants a stop once a turn's text ends in a word."""
    engine = options.pop("engine", None) or ScriptedEngine(replies)
    events: list[Event] = []

    async def run() -> Answer:
        wanted = asyncio.Event()
        told = ""

        def hear(event: Event) -> None:
            nonlocal told
            events.append(event)
            told = event.text and told + event.text
            if word and told.strip().endswith(word):
                wanted.set()

        return await ask(
            DOCUMENT,
            "Where does the teacher of Bo Otis live?",
            engine,
            tokenizer=ApproximateTokenizer(),
            profile=load_profile().model_copy(update={"layout": options.pop("layout", "own")}),
            stop=wanted if as_event else wanted.is_set,
            on_event=hear,
            **options,
        )

    return asyncio.run(run()), engine, events


@pytest.mark.parametrize("as_event", [False, True])
def test_the_work_ends_at_the_next_word(as_event: bool) -> None:
    result, engine, events = stop_at("lives", as_event=as_event)
    assert len(engine.requests) == 4, "nothing is asked any more"
    assert events[-1].text == "lives ", "nothing is told any more"
    assert result.stopped
    assert result.usage == engine.usage, "what the stopped turn cost is counted"
    assert not any("not known in full" in note for note in result.notes)
    assert result.usage.completion_tokens < sum(len(reply.split()) for reply in ROUND[:4])


def test_the_beginning_of_an_answer_counts_in_whole_words() -> None:
    result, _, _ = stop_at("since")
    assert result.turns[-1].kind == "answer"
    assert result.turns[-1].reply == "Ada Yardley lives in Wexley, since"
    assert result.answer
    assert {citation.piece for citation in result.citations} == {0}
    assert (
        "Stopped during the answer of round 1, as requested; it may be incomplete." in result.notes
    )


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("It was built in 18", "It was built in"),
        ("It was built.", "It was built."),
        ("Wex", None),
        ("", None),
        ("建于。1847", "建于。"),
    ],
)
def test_a_word_that_may_be_incomplete_is_left_out(told: str, kept: str | None) -> None:
    from agenticlu.core.records import Question
    from agenticlu.dialogue.halting import PartialTurn
    from agenticlu.dialogue.steps import DIRECT, Dialogue

    question = Question(id="q", text="When?")
    request = Dialogue(load_profile(), "d", "Text.", question, steps=DIRECT).next_request()
    assert request is not None
    turn = PartialTurn(request, 1, told).answer()
    assert (turn and turn.reply) == kept


def test_a_whole_answer_is_better_than_the_beginning_of_another() -> None:
    result, engine, _ = stop_at("Vell.", [*ROUND, *SECOND], rounds=2)
    assert len(engine.requests) == 9
    assert result.answer == "Wexley"
    assert [turn.kind for turn in result.turns][-1] == "sub_answer"
    assert "Stopped during the answer of round 2, as requested." in result.notes


def test_without_any_answer_there_is_none() -> None:
    result, _, _ = stop_at("teacher")
    assert (result.answer, result.statement, result.claims) == ("", "", ())
    assert (result.supported, result.stopped) == (False, True)
    assert result.turns == ()
    assert "Stopped during the clarification of round 1, as requested." in result.notes
    assert not any("named no" in note or "none of" in note for note in result.notes)
    with pytest.raises(NoSupportedAnswerError, match="stopped before"):
        check_supported(result)


def test_a_base_answer_stands_in() -> None:
    result, _, _ = stop_at("teacher", ["Answer: Wexley", *ROUND], layout="published")
    assert result.answer == "Wexley"
    assert [turn.kind for turn in result.turns] == ["direct"]


def test_a_search_through_pieces_is_stopped_too() -> None:
    long = Document.of("".join(f"Person{i} lives in Town{i}.\n\n" for i in range(400)), "l.txt")
    engine = ScriptedEngine(ROUND, context_tokens=2000, latency_s=0.02)
    done: list[int] = []

    def hear(event: Event) -> None:
        done.append(event.done)

    result = asyncio.run(
        ask(
            long,
            "Where does Person7 live?",
            engine,
            tokenizer=ApproximateTokenizer(),
            profile=load_profile(),
            spans=True,
            piece_tokens=32,
            stop=lambda: len(done) > 20,
            on_event=hear,
        )
    )
    assert result.stopped
    assert "Stopped while the document was searched, as requested." in result.notes
    assert 20 < len(engine.requests) < 100


def test_a_stop_comes_between_the_words_of_a_slow_model() -> None:
    engine = ScriptedEngine(ROUND, latency_s=30.0)
    began = time.monotonic()

    async def run() -> Answer:
        wanted = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, wanted.set)
        return await ask(
            DOCUMENT,
            "Where?",
            engine,
            tokenizer=ApproximateTokenizer(),
            profile=load_profile(),
            stop=wanted,
        )

    result = asyncio.run(run())
    assert result.stopped
    assert "What the stopped turn cost is not known in full." in result.notes
    assert time.monotonic() - began < 10, "seconds, of thirty"


def test_work_that_is_cancelled_or_fails_is_as_without_a_halt() -> None:
    async def fail() -> int:
        raise ValueError("no")

    async def run(work: Callable[[], Any]) -> Any:
        return await Halt(lambda: False).run(work())

    with pytest.raises(ValueError, match="no"):
        asyncio.run(run(fail))

    async def outer() -> None:
        ended = []

        async def endless() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(True)

        work = asyncio.ensure_future(run(endless))
        await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert ended == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(outer())


class Breaking(ScriptedEngine):
    """Breaks off in the middle of its third reply."""

    async def stream(self, *given: Any, on_text: Any, **named: Any) -> Sampled:
        if len(self.requests) == 2:
            on_text("The teacher ")
            error = EngineUnreachableError("The connection broke off.")
            error.is_midway = True
            raise error
        return await super().stream(*given, on_text=on_text, **named)


def test_a_stream_that_breaks_off_is_asked_for_as_a_whole() -> None:
    result, engine, events = stop_at("", engine=Breaking(ROUND))
    assert result.answer == "Wexley"
    assert [turn.reply for turn in result.turns] == ROUND
    of_third = [event for event in events if event.turn_kind == "sub_answer"]
    assert [event.text for event in of_third] == ["", "The teacher "], "not told twice"
    assert len(engine.requests) == 5
    assert result.usage != Usage()
