"""Judges: only verdicts that can be are taken, and what cannot be judged is told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agenticlu.cli.eval import command
from agenticlu.core.errors import (
    ConfigError,
    DocumentTooLongError,
    EngineAuthError,
    IncompleteRunError,
    UsageError,
)
from agenticlu.engines.model_info import Served
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


# --- the command ------------------------------------------------------------------------------


def judge(path: Path, monkeypatch: pytest.MonkeyPatch, *more: str, reply: str = "") -> Result:
    engine = ScriptedEngine(lambda request: reply) if reply else ScriptedEngine(REPLIES)
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **more: engine)
    return CliRunner().invoke(command, ["judge", str(path), *more])


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, UsageError, "File not found"),
        ("", UsageError, "empty"),
        ("{", ConfigError, "not JSON"),
        (["a"], ConfigError, "no list 'data'"),
        ({"data": []}, ConfigError, "no rows"),
        ({"data": [{}, 3]}, ConfigError, "is a number, not a JSON object"),
        ({"args": 3, "data": [{}]}, ConfigError, "'args'"),
    ],
)
def test_judge_tells_what_is_wrong_with_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: Any,
    kind: type[Exception],
    message: str,
) -> None:
    path = tmp_path / "narrativeqa_7892_v1__in8192_size3_x.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    result = judge(path, monkeypatch, reply="x")
    assert isinstance(result.exception, kind), result.exception
    assert message in str(result.exception)


def test_what_holds_no_long_answers_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "json_kv_test_in8192_size3_x.json"
    path.write_text(json.dumps({"data": [{"output": "a", "answer": "a"}]}))
    result = judge(path, monkeypatch, reply="x")
    assert isinstance(result.exception, UsageError), result.exception
    assert "no long answers or summaries to judge" in str(result.exception)
    assert list(tmp_path.iterdir()) == [path]


def test_rows_that_cannot_be_judged_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "narrativeqa_7892_v1__in8192_size3_x.json"
    rows = [{"question": "q", "answer": ["a"], "output": "a"}, {"question": "q", "answer": ["a"]}]
    path.write_text(json.dumps({"data": rows}))
    result = judge(path, monkeypatch, reply='{"fluency": 1, "correctness": 3}')
    assert isinstance(result.exception, IncompleteRunError)
    assert "row 1: it lacks" in result.output
    written = json.loads((tmp_path / f"{path.stem}-gpt4eval_o.json").read_text())
    assert written["averaged_metrics"] == {"gpt-4-score": 3.0}
    assert written["num_unscored"] == 1


def test_summaries_of_books_are_judged_from_their_files(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "infbench_sum_eng_6792_v1__in8192_size3_x.json"
    keyed = root / "data/infbench/longbook_sum_eng_keypoints.jsonl"
    known = json.loads(keyed.read_text().split("\n")[0])
    path.write_text(json.dumps({"data": [{**SUMMARY_ROW, "id": known["id"]}]}))
    if len(known["keypoints"]) < 2:
        pytest.fail("the fixture must have two key points")
    result = judge(path, monkeypatch, "--helmet-data", str(root))
    assert result.exit_code == 0, result.output
    broken = tmp_path / "data/infbench/longbook_sum_eng_keypoints.jsonl"
    broken.parent.mkdir(parents=True)
    broken.write_text('{"id": 7}\n')
    result = judge(path, monkeypatch, "--helmet-data", str(tmp_path))
    assert isinstance(result.exception, ConfigError)
    assert "keypoints" in str(result.exception)


def test_collect_tells_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "kilt_nq_v1_x_in8192_size100_x.json"
    for content, message in (("{", "not JSON"), ("[]", "no averages"), ("{}", "no averages")):
        path.write_text(content)
        result = CliRunner().invoke(command, ["collect", str(tmp_path)])
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)


def test_judging_goes_on_where_it_stopped_and_names_the_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "narrativeqa_7892_v1__in8192_size3_x.json"
    path.write_text(json.dumps({"data": ROWS}))
    options: list[dict[str, Any]] = []
    is_mended = False

    def reply(request: ScriptedRequest) -> str:
        if "q2" in request.last and not is_mended:
            raise EngineAuthError("the key has expired")
        return GOOD

    engine = ScriptedEngine(reply)

    def load(*given: Any, **more: Any) -> ScriptedEngine:
        options.append(more)
        return engine

    monkeypatch.setattr("agenticlu.engines.load_engine", load)
    monkeypatch.setattr(
        "agenticlu.engines.model_info.read_served", lambda *given: Served("judge-7b")
    )
    words = ["judge", str(path), "--concurrency", "1", "--timeout", "7"]
    words += ["--base-url", "http://127.0.0.1:9/v1"]
    result = CliRunner().invoke(command, words)
    assert isinstance(result.exception, IncompleteRunError)
    assert "expired" in result.output
    judged = tmp_path / f"{path.stem}-gpt4eval_o.json"
    assert json.loads(judged.read_text())["num_unscored"] == 2
    assert options == [{"timeout_s": 7.0}]
    is_mended, num_before = True, len(engine.requests)
    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    assert "judged by judge-7b" in result.output
    assert len(engine.requests) - num_before == 2
    written = json.loads(judged.read_text())
    assert (written["num_unscored"], written["judge"]) == (0, "judge-7b")


def test_a_judge_that_answers_nobody_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "narrativeqa_7892_v1__in8192_size3_x.json"
    path.write_text(json.dumps({"data": ROWS}))

    def reply(request: ScriptedRequest) -> str:
        raise EngineAuthError("the key was refused")

    engine = ScriptedEngine(reply)
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **more: engine)
    result = CliRunner().invoke(command, ["judge", str(path)])
    assert isinstance(result.exception, EngineAuthError)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
