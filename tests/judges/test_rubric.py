"""HELMET's rubric: only valid grades are taken, and rows that cannot be judged are reported."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agenticlu.core.errors import (
    DocumentTooLongError,
    EngineAuthError,
)
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.judges.rubric import (
    FluencyGrade,
    Grade,
    LongAnswerGrade,
    PrecisionGrade,
    RecallGrade,
    RubricJudge,
    build_judged_file,
    find_kept_verdicts,
    parse_grade,
)


@pytest.mark.parametrize(
    ("kind", "reply", "taken"),
    [
        (LongAnswerGrade, '{"fluency": 1, "correctness": 3}', True),
        (LongAnswerGrade, '{"fluency": true, "correctness": 3}', False),
        (LongAnswerGrade, '{"fluency": 1, "correctness": true}', False),
        (LongAnswerGrade, '{"fluency": "1", "correctness": 3}', False),
        (LongAnswerGrade, '{"fluency": 1, "correctness": "3"}', False),
        (LongAnswerGrade, '{"fluency": 1, "correctness": 2.5}', False),
        (LongAnswerGrade, '{"fluency": 1, "correctness": 4}', False),
        (LongAnswerGrade, '{"fluency": 1, "correctness": -1}', False),
        (LongAnswerGrade, '{"fluency": null, "correctness": 3}', False),
        (LongAnswerGrade, '{"fluency": 1, "correctness": 3, "score": 3}', False),
        (FluencyGrade, '{"fluency": 0}', True),
        (FluencyGrade, '{"fluency": false}', False),
        (FluencyGrade, '{"fluency": 2}', False),
        (RecallGrade, '{"recall": 2}', True),
        (RecallGrade, '{"recall": 2, "supported_key_points": [1, 3]}', True),
        (RecallGrade, '{"recall": "2"}', False),
        (RecallGrade, '{"recall": true}', False),
        (RecallGrade, '{"recall": -1}', False),
        (RecallGrade, '{"recall": 2, "supported_key_points": ["1", "3"]}', False),
        (RecallGrade, '{"recall": 1, "supported_key_points": [true]}', False),
        (RecallGrade, '{"recall": 1, "supported_key_points": 1}', False),
        (PrecisionGrade, '{"precision": 3, "sentence_count": 3}', True),
        (PrecisionGrade, '{"precision": 4, "sentence_count": 3}', False),
        (PrecisionGrade, '{"precision": 0, "sentence_count": 0}', False),
        (PrecisionGrade, '{"precision": 1.0, "sentence_count": 3}', False),
        (PrecisionGrade, '{"precision": 1}', False),
    ],
)
def test_only_verdicts_of_the_right_form_are_taken(
    kind: type[Grade], reply: str, taken: bool
) -> None:
    assert (parse_grade(kind, reply) is not None) == taken


@pytest.mark.parametrize(
    ("recall", "points", "named", "holds"),
    [
        (2, [1, 3], True, True),
        (0, [], True, True),
        (2, [1], True, False),
        (1, [1, 3], True, False),
        (2, [1, 1], True, False),
        (1, [4], True, False),
        (1, [0], True, False),
        (2, None, True, False),
        (3, None, False, True),
        (4, None, False, False),
        (2, [1, 3], False, True),
        (2, [1], False, False),
    ],
)
def test_recall_agrees_with_the_points_named(
    recall: int, points: list[int] | None, named: bool, holds: bool
) -> None:
    verdict = RecallGrade(recall=recall, supported_key_points=points)
    assert verdict.holds(3, named=named) == holds


REPLIES = {
    "read well": '{"fluency": 1}',
    "key points": '{"supported_key_points": [2], "recall": 1}',
    "expert": '{"precision": 3, "sentence_count": 4}',
}
SUMMARY_ROW = {"id": 7, "answer": ["expert text"], "output": "A summary."}


def test_books_are_asked_for_the_numbers_of_their_key_points() -> None:
    engine = ScriptedEngine(REPLIES)
    points = {"7": ("one", "two")}
    (found,) = asyncio.run(
        RubricJudge(engine).judge_summaries([SUMMARY_ROW], points, by_number=True)
    )
    assert found.value == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert any("supported_key_points" in one.last for one in engine.requests)
    bare = ScriptedEngine(REPLIES | {"key points": '{"recall": 1}'})
    (unnamed,) = asyncio.run(
        RubricJudge(bare).judge_summaries([SUMMARY_ROW], points, by_number=True)
    )
    assert unnamed.value is None
    (cases,) = asyncio.run(RubricJudge(bare).judge_summaries([SUMMARY_ROW], points))
    assert cases.value == found.value
    assert "supported_key_points" not in bare.requests[-1].last


@pytest.mark.parametrize("lost", ["question", "answer", "output"])
@pytest.mark.parametrize("value", [None, 3, [1]])
def test_a_row_without_what_is_judged_stays_unscored(lost: str, value: Any) -> None:
    row = {"question": "q", "answer": ["a"], "output": "Answer: a", lost: value}
    engine = ScriptedEngine(lambda request: '{"fluency": 1, "correctness": 3}')
    (found,) = asyncio.run(RubricJudge(engine).judge_long_answers([row]))
    assert found.value is None
    assert "lacks" in (found.reason)
    assert engine.requests == []
    if lost != "question":
        (summary,) = asyncio.run(
            RubricJudge(engine).judge_summaries([{**row, "id": 1}], {"1": ("point",)})
        )
        assert "lacks" in (summary.reason)


def test_a_reply_of_brackets_alone_is_no_verdict() -> None:
    assert parse_grade(FluencyGrade, '{"a": ' + "[" * 100_000) is None


GOOD = '{"fluency": 1, "correctness": 3}'
ROWS = [{"question": f"q{i}", "answer": ["a"], "output": "a"} for i in range(4)]


def test_an_error_that_all_would_meet_keeps_the_verdicts_before_it() -> None:
    def reply(request: ScriptedRequest) -> str:
        if "q1" in request.last:
            raise DocumentTooLongError("longer than the judge's window")
        if "q2" in request.last:
            raise EngineAuthError("the key has expired")
        return GOOD

    engine = ScriptedEngine(reply)
    asking = RubricJudge(engine, concurrency=1)
    found = asyncio.run(asking.judge_long_answers(ROWS))
    assert [one.value for one in found] == [1.0, None, None, None]
    assert "window" in (found[1].reason)  # the row's own trouble: the others go on
    assert isinstance(asking.ended, EngineAuthError)
    assert "expired" in (found[3].reason)
    assert len(engine.requests) == 3  # nothing is asked once the key is refused


@pytest.mark.parametrize("summaries", [False, True])
def test_verdicts_of_the_same_judge_on_the_same_rows_are_kept(summaries: bool) -> None:
    rows: list[dict[str, Any]] = [{**row, "id": 7} for row in ROWS[:3]]
    points = {"7": ("one", "two", "three")}
    engine = ScriptedEngine(REPLIES if summaries else lambda request: GOOD)

    def ask(asking: RubricJudge) -> list[Any]:
        work = (
            asking.judge_summaries(rows, points) if summaries else asking.judge_long_answers(rows)
        )
        return asyncio.run(work)

    first = ask(RubricJudge(engine))
    assert first[0].value
    first[1] = first[1].model_copy(update={"value": None, "detail": {}})
    stored = json.loads(
        json.dumps(build_judged_file({"data": rows}, first, summaries=summaries, judge="m"))
    )
    rows[2] = {**rows[2], "output": "another reply"}
    kept = find_kept_verdicts(stored, rows, "m")
    assert kept == {0: first[0].model_copy(update={"usage": None, "judge": "m"})}
    assert find_kept_verdicts(stored, rows, "another judge") == {}
    assert list(find_kept_verdicts(stored, [rows[2], rows[0]], "m")) == [1]  # rows that moved
    num_before = len(engine.requests)
    second = ask(RubricJudge(engine, kept=kept))
    assert second[0] == kept[0]
    assert len(engine.requests) - num_before == (6 if summaries else 2)
