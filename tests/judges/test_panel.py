from __future__ import annotations

import asyncio
import json

import pytest

from agenticlu.core.errors import ConfigError, DocumentTooLongError
from agenticlu.core.records import Question, Usage, Verdict
from agenticlu.data.corpus import build_item
from agenticlu.engines.base import Completion, ThoughtCutError
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.scoring.final import parse_final_answer
from agenticlu.judges import (
    ExactJudge,
    LlmJudge,
    RougeJudge,
    build_judges,
    combine,
    disagrees,
    is_correct,
    judge_pointing,
    judgement_key,
)

QUESTION = Question(id="q", text="Which town?", answers=("Brellin", "the town of Brellin"))


def judge(one, answer: str, question: Question = QUESTION) -> Verdict:
    return asyncio.run(one.judge(question, answer))


@pytest.mark.parametrize(
    ("reply", "gold", "value"),
    [
        ("It fell.\nAnswer: −3 °C <para 4>", "-3 °C", 1.0),
        ("Answer: 3", "-3", 0.0),
        ("Answer: 10⁶ [2]", "1,000,000", 1.0),
        ("Answer: 10⁶", "106", 0.0),
        ("It is \\boxed{C}.", "C++", 0.0),
        ("<answer>C++</answer>", "C++", 1.0),
        ("Antwort: €5", "$5", 0.0),
        ("The answer is Ada Larkin (page 3).", "Ada Larkin", 1.0),
        ("Answer: yes", True, 1.0),
        ("Answer: A. Larkin", {"value": "Ada", "aliases": ["A. Larkin"]}, 1.0),
        ("Answer: anything", "…", None),
    ],
)
def test_exact_labels_what_a_search_writes(reply, gold, value):
    """As trees are judged: the final answer of a reply against a corpus's answers."""
    row = {"context": "A text.", "question": "?", "answers": gold}
    question = build_item(row, 0, "rows").question
    assert judge(ExactJudge(), parse_final_answer(reply), question).value == value


def test_exact_takes_any_number_of_options():
    options = tuple(f"lamp {number}" for number in range(30))
    question = Question(id="q", text="?", answers=("lamp 28",), options=options)
    assert judge(ExactJudge(), "AC", question).value == 1.0
    assert judge(ExactJudge(), "lamp 28", question).value == 1.0
    assert judge(ExactJudge(), "AB", question).value == 0.0


def test_exact_takes_aliases_numbers_and_options():
    assert judge(ExactJudge(), "brellin").value == 1.0
    assert judge(ExactJudge(), "Brell").value == 0.0
    assert judge(ExactJudge(), "3", Question(id="n", text="?", answers=("three",))).value == 1.0
    choice = Question(id="c", text="?", answers=("blue",), options=("red", "blue"))
    assert judge(ExactJudge(), "(B)", choice).value == 1.0
    assert judge(ExactJudge(), "(A)", choice).value == 0.0
    assert judge(ExactJudge(), "x", Question(id="u", text="?")).value is None


def test_rouge_is_graded():
    values = [judge(RougeJudge(), answer).value for answer in ("the town of Brellin", "town", "x")]
    assert values[0] == 1.0
    assert values[2] == 0.0
    assert values[1] is not None
    assert 0 < values[1] < 1


def test_an_unreadable_verdict_is_asked_again_and_then_unscored():
    engine = ScriptedEngine(lambda request: "hm" if request.call < 2 else '{"verdict": "yes"}')
    verdict = judge(LlmJudge(engine, "m"), "Brellin")
    assert (verdict.value, len(engine.requests)) == (1.0, 3)
    assert verdict.usage is not None
    assert verdict.usage.requests == 3
    stubborn = ScriptedEngine(lambda request: "hm")
    verdict = judge(LlmJudge(stubborn, "m"), "Brellin")
    assert (verdict.value, len(stubborn.requests)) == (None, 3)
    assert "hm" in verdict.reason


def test_a_judge_that_thinks_without_end_leaves_it_unscored_with_reason_and_cost():
    error = ThoughtCutError("m was still thinking after 64 tokens.")
    error.usage = Usage(requests=2, completion_tokens=128, thinking_tokens=128)
    verdict = judge(LlmJudge(ScriptedEngine(faults=lambda request: error), "m"), "Brellin")
    assert (verdict.value, verdict.reason) == (None, error.message)
    assert verdict.usage is not None
    assert verdict.usage.thinking_tokens == 3 * 128


def test_an_answer_that_a_judge_s_window_does_not_hold_is_unscored_at_once():
    error = DocumentTooLongError("m refused the prompt as too long.")
    engine = ScriptedEngine(faults=lambda request: error)
    verdict = judge(LlmJudge(engine, "m"), "Brellin")
    assert (verdict.value, verdict.reason, len(engine.requests)) == (None, error.message, 1)


def test_a_form_is_wished_for_once():
    engine = ScriptedEngine(lambda request: "hm")
    judge(LlmJudge(engine, "m"), "Brellin")
    first, *others = [request.sampling.schema for request in engine.requests]
    assert json.loads(first)["properties"]["verdict"]["enum"] == ["yes", "no"]
    assert others == [None, None]


def test_a_verdict_that_was_cut_off_is_asked_for_again_at_length():
    whole = '{"explanation": "the candidate says no", "verdict": "yes"}'

    def reply(request):
        short = request.sampling.max_tokens < 1000
        return Completion(whole[:45], "length") if short else whole

    engine = ScriptedEngine(reply)
    verdict = judge(LlmJudge(engine, "m"), "Brellin")
    assert (verdict.value, len(engine.requests)) == (1.0, 2)


def test_an_empty_answer_is_wrong_without_asking():
    engine = ScriptedEngine()
    assert judge(LlmJudge(engine, "m"), " ").value == 0.0
    assert engine.requests == []


def votes(*values: float | None, exact: float | None = None) -> list[Verdict]:
    panel = [Verdict(judge=f"llm:{i}", value=value) for i, value in enumerate(values)]
    return panel if exact is None else [Verdict(judge="exact", value=exact), *panel]


@pytest.mark.parametrize(
    ("verdicts", "correct"),
    [
        (votes(exact=1.0), True),
        (votes(exact=0.0), False),
        (votes(0.0, 0.0, exact=1.0), True),
        (votes(1.0, 1.0, 0.0, exact=0.0), True),
        (votes(1.0, 0.0, exact=0.0), False),
        (votes(1.0, None, None, exact=0.0), True),
        (votes(None, None, exact=0.0), None),
        (votes(None), None),
        ([Verdict(judge="rouge-l", value=0.6)], True),
        ([Verdict(judge="rouge-l", value=0.4)], False),
        ([Verdict(judge="exact", value=0.0), Verdict(judge="rouge-l", value=0.9)], False),
        ([], None),
    ],
)
def test_a_panel_decides_by_majority_and_silence_is_unscored(verdicts, correct):
    assert is_correct(verdicts) is correct
    assert (combine(verdicts) is None) == (correct is None)


def test_the_score_orders_answers():
    near = [Verdict(judge="exact", value=0.0), Verdict(judge="rouge-l", value=0.8)]
    far = [Verdict(judge="exact", value=0.0), Verdict(judge="rouge-l", value=0.1)]
    assert combine(votes(exact=1.0)) == 1.0
    assert 1.0 > (combine(near) or 0) > (combine(far) or 0) > 0
    assert disagrees(near)
    assert not disagrees(far)


def test_judges_are_built_by_name():
    assert [one.name for one in build_judges(["exact", "rouge-l", "exact"])] == ["exact", "rouge-l"]
    with pytest.raises(ConfigError) as caught:
        build_judges(["exakt"])
    assert caught.value.hint == "Did you mean exact?"
    with pytest.raises(ConfigError, match="needs a model"):
        build_judges(["llm"])


def test_the_cache_key_is_made_of_judge_question_gold_and_answer():
    keys = {
        judgement_key("a", QUESTION, "x"),
        judgement_key("b", QUESTION, "x"),
        judgement_key("a", QUESTION, "y"),
        judgement_key("a", QUESTION.model_copy(update={"answers": ("z",)}), "x"),
        judgement_key("a", QUESTION.model_copy(update={"text": "Who?"}), "x"),
    }
    assert len(keys) == 5
    same = QUESTION.model_copy(update={"id": "other", "hops": 2})
    assert judgement_key("a", same, "x") in keys


def test_pointing_has_a_share_of_the_score_and_decides_nothing() -> None:
    for right in (0.0, 1.0):
        for pieces, f1 in (({1, 2}, 2 / 3), ({1}, 1.0), ({3}, 0.0), ((), 0.0)):
            judged = Verdict(judge="exact", value=right)
            verdicts = (judged, judge_pointing(pieces, {1}))
            assert verdicts[1].value == pytest.approx(f1, abs=1e-6)
            assert combine(verdicts, 0.25) == pytest.approx(0.75 * right + 0.25 * f1, abs=1e-6)
            assert combine(verdicts) == combine((judged,), 0.25) == right
            assert is_correct(verdicts) is bool(right)
            assert not disagrees(verdicts)
    unscored = (Verdict(judge="exact", value=None), judge_pointing({1}, {1}))
    assert combine(unscored, 0.25) is None
    assert is_correct(unscored) is None
