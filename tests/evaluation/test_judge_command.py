"""`agenticlu eval judge`: verdicts are written beside a result file, kept, and asked for once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agenticlu.cli.eval import command
from agenticlu.core.errors import (
    ConfigError,
    EngineAuthError,
    IncompleteRunError,
    UsageError,
)
from agenticlu.engines.http.listing import ServedModel
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest

REPLIES = {
    "read well": '{"fluency": 1}',
    "key points": '{"supported_key_points": [2], "recall": 1}',
    "expert": '{"precision": 3, "sentence_count": 4}',
}
SUMMARY_ROW = {"id": 7, "answer": ["expert text"], "output": "A summary."}
GOOD = '{"fluency": 1, "correctness": 3}'
ROWS = [{"question": f"q{i}", "answer": ["a"], "output": "a"} for i in range(4)]


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


@pytest.mark.parametrize("task", ["json_kv", "ruler_vt", "icl_nlu_natural_label"])
def test_what_holds_no_long_answers_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    path = tmp_path / f"{task}_test_in8192_size3_x.json"
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
        "agenticlu.engines.http.probe.read_served_model",
        lambda *given, **options: ServedModel("judge-7b"),
    )
    words = ["judge", str(path), "--concurrency", "1", "--timeout", "7"]
    words += ["--base-url", "http://127.0.0.1:9/v1"]
    result = CliRunner().invoke(command, words)
    assert isinstance(result.exception, IncompleteRunError)
    assert "expired" in result.output
    judged = tmp_path / f"{path.stem}-gpt4eval_o.json"
    assert json.loads(judged.read_text())["num_unscored"] == 2
    assert [given["timeout_s"] for given in options] == [7.0]
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
