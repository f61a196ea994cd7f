from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.records import Document, Message, Question, Turn, Usage
from agenticlu.dialogue.steps import (
    DIRECT,
    FULL_ROUND,
    MAX_TOKENS,
    Dialogue,
    Request,
    continue_round,
    load_profile,
    render_options,
)
from agenticlu.documents import mark, split
from agenticlu.documents.tokens import load_tokenizer
from agenticlu.engines.base import Completion, Sampling
from agenticlu.engines.scripted import ScriptedEngine

PROFILE = load_profile()
QUESTION = Question(id="q1", text="Where does Ada live?")
VIEW = "<para 0> Ada lives in Vell. </para 0>"


def dialogue(**changes: object) -> Dialogue:
    settings: dict[str, object] = {
        "profile": PROFILE,
        "document_id": "d1",
        "view": VIEW,
        "question": QUESTION,
    }
    return Dialogue(**{**settings, **changes})  # type: ignore[arg-type]


def run(state: Dialogue, replies: list[str]) -> tuple[Dialogue, list[Request]]:
    requests = []
    for reply in replies:
        request = state.next_request()
        if request is None:
            break
        requests.append(request)
        state = state.advance(request.turn(Completion(reply, "stop")))
    return state, requests


ROUND = ["Who is Ada?", "<para 0>", "Ada lives in Vell.", "Ada lives in Vell. Answer: Vell", "no"]


def test_one_round_step_by_step() -> None:
    state, requests = run(dialogue(), ROUND)
    assert [request.kind for request in requests] == list(FULL_ROUND)
    assert state.next_request() is None
    assert state.round == 1
    assert not state.satisfied
    first = requests[0].messages
    assert [message.role for message in first] == ["system", "user"]
    assert first[1].content == f"{VIEW}\n\nQuestion: {QUESTION.text}\n\n{requests[0].text}"
    last = requests[-1].messages
    assert [message.role for message in last] == ["system", *["user", "assistant"] * 4, "user"]
    assert sum(VIEW in message.content for message in last) == 1, "the document stands there once"
    assert [message.content for message in last if message.role == "assistant"] == ROUND[:-1]
    assert QUESTION.text in requests[3].text, "the answer turn asks the question again"


def test_rounds_and_the_self_check() -> None:
    state, requests = run(dialogue(max_rounds=3), ROUND * 3)
    assert state.round == 3
    assert len(requests) == 15
    assert requests[0].wording.startswith("clarify-")
    assert not requests[0].wording.startswith("clarify-again")
    assert requests[5].wording.startswith("clarify-again")
    state, requests = run(dialogue(max_rounds=3), [*ROUND[:-1], "**Yes.**"] * 3)
    assert state.satisfied
    assert len(requests) == 5


def test_a_repeated_clarification_ends_it_where_that_is_wanted() -> None:
    again = ["Who is Ada", *ROUND[1:]]
    for ends, num in ((False, 10), (True, 6)):
        state, requests = run(dialogue(max_rounds=2, ends_on_repeat=ends), [*ROUND, *again])
        assert len(requests) == num
        assert state.next_request() is None
    assert state.repeats
    other = ["Who is Ben?", *ROUND[1:]]
    _, requests = run(dialogue(max_rounds=2, ends_on_repeat=True), [*ROUND, *other])
    assert len(requests) == 10


def test_direct_and_ablations() -> None:
    state, requests = run(dialogue(steps=DIRECT), ["Answer: Vell"] * 3)
    assert [request.kind for request in requests] == ["direct"]
    assert state.next_request() is None
    steps = ("point", "answer")
    _, requests = run(dialogue(steps=steps, max_rounds=2), ["x"] * 9)
    assert [request.kind for request in requests] == [*steps, *steps]


def test_multiple_choice() -> None:
    question = Question(id="q", text="Where?", options=("Vell", "Wexley"))
    _, requests = run(dialogue(question=question), ROUND)
    assert "Question: Where?\nA. Vell\nB. Wexley\n" in requests[0].messages[1].content
    assert "A. Vell\nB. Wexley" in requests[3].text
    assert render_options(()) == ""


def test_wordings_depend_on_ids_alone() -> None:
    again = run(dialogue(), ROUND)[1]
    assert run(dialogue(), ROUND)[1] == again
    systems = {dialogue(document_id=str(i)).messages()[0] for i in range(40)}
    assert len(systems) == len(PROFILE.system)
    openings = set()
    for i in range(40):
        request = dialogue(question=Question(id=str(i), text="Where?")).next_request()
        assert request is not None
        assert request.messages[0] == dialogue().messages()[0], "the system turn is the document's"
        openings.add(request.wording)
    assert len(openings) == len(PROFILE.clarify)


def test_a_wrong_turn_is_our_mistake() -> None:
    request = dialogue().next_request()
    assert request is not None
    state = dialogue().advance(request.turn(Completion("Who?")))
    with pytest.raises(AssertionError, match="expected a point turn"):
        state.advance(request.turn(Completion("Who?")))


def test_token_ids_are_kept_only_where_they_spell_the_reply() -> None:
    request = dialogue().next_request()
    assert request is not None
    sampled = request.turn(Completion("a", "stop", (1, 2)), Usage(requests=1))
    assert sampled.token_ids == (1, 2)
    thought = request.turn(Completion("<think>b?</think> a", "stop", (1, 2)))
    assert (thought.reply, thought.token_ids) == ("a", None)


def test_control_tokens_of_question_and_options_are_broken() -> None:
    options = ("red~~STOP~~", "<para 3>")
    question = Question(id="q", text="Who? <|im_end|>~~STOP~~", options=options)
    request = dialogue(question=question, controls=("~~STOP~~",)).next_request()
    assert request is not None
    sent = request.messages[-1].content
    assert "Who? < |im_end|>~ ~STOP~~\nA. red~ ~STOP~~\nB. < para 3>" in sent


@given(st.lists(st.text(max_size=12), min_size=15, max_size=15), st.integers(1, 3))
def test_any_replies_keep_the_roles_alternating(replies: list[str], rounds: int) -> None:
    state, requests = run(dialogue(max_rounds=rounds), replies)
    for before, after in pairwise(requests):
        assert after.messages[: len(before.messages)] == before.messages
    roles = [message.role for message in state.messages()]
    assert roles == ["system", *["user", "assistant"] * len(state.turns)]
    assert len(requests) <= rounds * len(FULL_ROUND)
    assert set(MAX_TOKENS) >= set(FULL_ROUND)


def test_training_sees_the_messages_that_inference_sends() -> None:
    """The skeleton of a finished trace is what the engine was asked, reply by reply."""
    engine = ScriptedEngine(ROUND)

    async def ask() -> Dialogue:
        state = dialogue()
        while (request := state.next_request()) is not None:
            sampled = await engine.sample(request.messages, Sampling(), session="d1")
            state = state.advance(request.turn(sampled.completions[0]))
        return state

    state = asyncio.run(ask())
    trained = state.messages()
    for request in engine.requests:
        assert request.messages == trained[: len(request.messages)]
    assert len(engine.requests) == len(FULL_ROUND)
    assert trained[-1] == Message(role="assistant", content=ROUND[-1])


def test_a_round_that_goes_on_has_said_no() -> None:
    turns = (
        Turn(kind="answer", wording="w", request="r", reply="a"),
        Turn(kind="check", wording="w", request="r", reply="Yes, it is.", token_ids=(1,)),
    )
    after = continue_round(turns)
    assert after[0] is turns[0]
    assert (after[1].reply, after[1].token_ids) == ("no", None)
    kept = (turns[1].model_copy(update={"reply": "No, not yet."}),)
    assert continue_round(kept) == kept


# --- The shared prefix, on token ids --------------------------------------------------------------


def encode(model: Path, messages: tuple[Message, ...]) -> list[int]:
    import jinja2

    template = jinja2.Environment().from_string((model / "chat_template.jinja").read_text())
    text = template.render(
        messages=[message.model_dump() for message in messages],
        bos_token="<|bos|>",
        add_generation_prompt=False,
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def shared(a: list[int], b: list[int]) -> int:
    differing = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(differing, min(len(a), len(b)))


def test_all_traces_of_a_document_share_their_tokens_up_to_the_question(
    tiny_model_path: Path,
) -> None:
    tokenizer = load_tokenizer(str(tiny_model_path))
    text = "Ada Yardley lives in Wexley. Bo keeps a duck — café. " * 40
    document = Document.of(text, "test")
    view = mark(document, split(document, tokenizer, 64))
    questions = ["Where does Ada live?", "Where does Bo live?", "Who keeps a duck?", "É?"]
    traces = []
    for i, question in enumerate(questions):
        for rounds, steps in ((1, FULL_ROUND), (2, FULL_ROUND), (1, DIRECT)):
            state = Dialogue(
                profile=PROFILE,
                document_id=document.id,
                view=view,
                question=Question(id=str(i), text=question),
                steps=steps,
                max_rounds=rounds,
            )
            traces.append(encode(tiny_model_path, run(state, ROUND * 2)[0].messages()))
    opening = dialogue(document_id=document.id, view=view).next_request()
    assert opening is not None
    head = opening.messages[1].content.partition("Question: ")[0] + "Question:"
    prefix = encode(tiny_model_path, (opening.messages[0], Message(role="user", content=head)))[:-1]
    assert len(prefix) > tokenizer.count(view), "the prefix holds the whole document"
    for trace in traces:
        assert trace[: len(prefix)] == prefix
    assert any(shared(traces[0], trace) < len(prefix) + 10 for trace in traces), "then they part"
    other = Document.of(text + "x", "other")
    systems = [PROFILE.draw("system", str(i)) for i in range(20)]
    assert len(set(systems)) > 1, "a system turn drawn per question would break the prefix"
    assert other.id != document.id
