"""Intervals, summaries, recall of trees and judges."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.errors import StoreError
from agenticlu.evaluation.judging import (
    LongAnswerVerdict,
    RowJudge,
    judged_file,
    parse_verdict_of,
)
from agenticlu.evaluation.recall import pass_at_k, tree_recall
from agenticlu.evaluation.statistics import estimate
from agenticlu.evaluation.summary import compare, load_summary, save_summary, summarise
from agenticlu.evaluation.tables import render_markdown
from agenticlu.records import Node, Prediction, Question, Tree, Turn, Usage


def prediction(
    method: str, length: int, document: int, question: int, value: float | None, **more: Any
) -> Prediction:
    known: dict[str, Any] = {
        "id": f"{more.get('engine', '')}-{method}-{length}-{document}-{question}",
        "task": "world",
        "method": method,
        "length": length,
        "document_id": f"d{document}",
        "question_id": f"q{question}",
        "question": "?",
        "gold": ("x",),
        "scores": {} if value is None else {"correct": value, "substring_exact_match": value},
        "error": "EngineError: gone" if value is None else None,
        "usage": Usage(requests=1, prompt_tokens=100, cached_tokens=10, completion_tokens=5),
        "seconds": 2.0,
    }
    return Prediction.model_validate(known | more)


# --- intervals --------------------------------------------------------------------------------


def test_interval_is_wider_when_questions_of_a_document_agree() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5
    apart = estimate(values, [str(i) for i in range(40)])
    together = estimate(values, [str(i // 4) for i in range(40)])
    assert apart is not None
    assert together is not None
    assert apart.mean == together.mean == 0.5
    assert together.num_clusters == 10
    width = [e.high - e.low for e in (apart, together)]  # type: ignore[operator]
    assert width[1] > 1.5 * width[0]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        chance = rng.beta(2, 2, 40)  # clusters differ in difficulty
        values = (rng.random((40, 4)) < chance[:, None]).astype(float).ravel()
        found = estimate(list(values), [str(i // 4) for i in range(160)], seed=trial)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 100 <= 0.99


def test_equal_values_still_leave_doubt() -> None:
    none = estimate([0.0] * 10, [str(i) for i in range(10)])
    every = estimate([1.0] * 10, [str(i) for i in range(10)])
    same = estimate([0.0] * 10, [str(i) for i in range(10)], bounds=(-1, 1))
    assert none is not None
    assert every is not None
    assert same is not None
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(0.2775, abs=1e-3)  # Wilson for 0 of 10
    assert every.low == pytest.approx(1 - 0.2775, abs=1e-3)
    assert same.low == pytest.approx(-0.2775, abs=1e-3)


def test_one_cluster_has_no_interval_and_nothing_has_no_mean() -> None:
    found = estimate([1.0, 0.0], ["a", "a"])
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    assert estimate([], []) is None


def test_intervals_can_be_repeated() -> None:
    values, clusters = [float(i % 3 == 0) for i in range(30)], [str(i // 2) for i in range(30)]
    assert estimate(values, clusters) == estimate(values, clusters)


# --- summaries --------------------------------------------------------------------------------


def cells(scores: dict[tuple[str, int], list[float | None]]) -> list[Prediction]:
    return [
        prediction(method, length, i // 2, i, value)
        for (method, length), values in scores.items()
        for i, value in enumerate(values)
    ]


def test_failed_items_are_counted_beside_the_mean() -> None:
    summary = summarise(cells({("direct", 256): [1.0, None, 0.0, 1.0]}))
    (cell,) = summary.cells
    assert (cell.num_scored, cell.num_failed) == (3, 1)
    assert cell.score is not None
    assert cell.score.mean == pytest.approx(2 / 3)
    assert summary.num_failed == 1
    assert "EngineError: gone" in render_markdown(summary)


def test_difference_is_paired_on_questions_that_both_answered() -> None:
    found = compare(
        cells({("direct", 256): [0.0, 0.0, None, 1.0]}),
        cells({("clarify", 256): [1.0, 1.0, 1.0, None]}),
    )
    assert found is not None
    assert found.difference.n == 2
    assert (found.baseline_mean, found.mean, found.difference.mean) == (0.0, 1.0, 1.0)


def test_paired_interval_is_narrower_than_the_two_alone() -> None:
    before = [float(i % 2) for i in range(40)]
    after = [1.0 if i % 10 == 0 else value for i, value in enumerate(before)]
    one = [prediction("direct", 256, i, i, v) for i, v in enumerate(before)]
    other = [prediction("clarify", 256, i, i, v) for i, v in enumerate(after)]
    found = compare(one, other)
    assert found is not None
    width = (found.difference.high or 0) - (found.difference.low or 0)
    cell = summarise(one).cells[0].score
    assert cell is not None
    assert width < (cell.high or 0) - (cell.low or 0)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({256: 0.8, 512: 0.75, 2048: 0.7, 4096: 0.3}, 2048),
        ({256: 0.8, 512: 0.2, 2048: 0.8}, 256),  # a dip ends it
        ({256: 0.5, 1024: 0.9, 2048: 0.8}, 2048),  # the best short length is the base
        ({256: 0.0, 2048: 0.0}, None),
        ({4096: 0.5, 8192: 0.45}, 8192),  # all long: the shortest is the base
    ],
)
def test_effective_length(scores: dict[int, float], expected: int | None) -> None:
    rows = []
    for length, mean in scores.items():
        values = [1.0] * round(20 * mean) + [0.0] * (20 - round(20 * mean))
        rows += [prediction("direct", length, i, i, value) for i, value in enumerate(values)]
    (found,) = summarise(rows).effective_lengths
    assert found.effective_length == expected


def test_pointback_and_hops_and_depth() -> None:
    pointed = Turn(kind="point", wording="w", request="", reply="<para 1>")
    rows = [
        prediction(
            "clarify",
            256,
            i,
            i,
            float(i < 2),
            cited=cited,
            gold_pieces=(1, 2),
            turns=(pointed,),
            hops=1 + i % 2,
            depth=i / 4,
        )
        for i, cited in enumerate([(1, 2), (1,), (), (7, 8)])
    ]
    (cell,) = summarise(rows).cells
    assert cell.point_recall is not None
    assert cell.point_precision is not None
    assert cell.point_recall.mean == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert cell.point_precision.mean == pytest.approx((1 + 1 + 0) / 3)  # no citation: none
    assert {hops: found.n for hops, found in cell.by_hops.items()} == {1: 2, 2: 2}
    assert sum(found.n for found in cell.by_depth.values()) == 4


def test_overhead_compares_the_same_items() -> None:
    rows = cells({("direct", 256): [1.0, 1.0, None]})
    dear = Usage(requests=5, prompt_tokens=300, cached_tokens=210, completion_tokens=20)
    rows += [prediction("clarify", 256, i // 2, i, 1.0, usage=dear, seconds=6.0) for i in range(3)]
    cell = summarise(rows).find("world", 256, "clarify")
    assert cell is not None
    assert cell.overhead is not None
    assert cell.overhead.prompt_tokens == 3.0
    assert cell.overhead.uncached_tokens == 1.0
    assert cell.overhead.completion_tokens == 4.0
    assert cell.overhead.seconds == 3.0


def test_summary_survives_its_file(tmp_path: Path) -> None:
    summary = summarise(cells({("direct", 256): [1.0, 0.0], ("clarify", 256): [1.0, 1.0]}))
    save_summary(summary, tmp_path)
    assert load_summary(tmp_path) == load_summary(tmp_path / "summary.json") == summary
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(StoreError):
        load_summary(tmp_path)
    with pytest.raises(StoreError):
        load_summary(tmp_path / "absent")


# --- trees ------------------------------------------------------------------------------------


def tree(name: str, *scores: tuple[int, float | None]) -> Tree:
    nodes = [
        Node(id=f"{name}{i}", parent=None if i == 0 else f"{name}0", depth=depth, ordinal=i,
             turns=(), score=score)
        for i, (depth, score) in enumerate(scores)
    ]  # fmt: skip
    return Tree(
        id=name,
        document_id=name[0],
        question=Question(id=name, text="?"),
        system="s",
        profile="p@1",
        nodes=tuple(nodes),
    )


def test_recall_by_depth_and_pass_at_k() -> None:
    trees = [
        tree("a1", (0, 1.0)),  # stopped: solved at once, so solved further down too
        tree("a2", (0, 0.0), (1, 1.0), (1, 0.0)),
        tree("b1", (0, 0.0), (1, 0.0), (1, 0.0), (2, 1.0)),
        tree("b2", (0, 0.0), (1, None), (1, 0.0), (2, 0.4)),
        tree("c1", (0, None)),
    ]
    found = tree_recall(trees)
    assert (found.num_trees, found.num_unscored) == (5, 1)
    recall = [one.recall.mean if one.recall else None for one in found.by_depth]
    assert recall == [0.25, 0.5, 0.75]
    assert [one.new_share for one in found.by_depth] == [1 / 4, 1 / 3, 1 / 2]
    samples = {one.k: one.value.mean for one in found.pass_at_k if one.value}
    assert samples == {1: pytest.approx((0.5 + 0 + 0) / 3), 2: pytest.approx((1 + 0) / 2)}


@pytest.mark.parametrize(
    ("n", "c", "k", "value"), [(4, 1, 1, 0.25), (4, 0, 3, 0.0), (4, 2, 3, 1.0)]
)
def test_pass_at_k(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == value


# --- judges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('Reasons {a}. {"fluency": 1, "correctness": 2}', 2.0),
        ('{"fluency": 1, "correctness": 1} then {"fluency": 0, "correctness": 3}', 0.0),
        ('```json\n{"fluency": 1,\n "correctness": 3}\n```', 3.0),
        ('{"fluency": 5, "correctness": 3}', None),
        ('{"fluency": 1}', None),
        ('{"fluency": 1, "correctness": 3, "extra": 1}', None),
        ('{"fluency": "yes", "correctness": 3}', None),
        ("I cannot grade this.", None),
    ],
)
def test_strict_verdicts(reply: str, score: float | None) -> None:
    found = parse_verdict_of(LongAnswerVerdict, reply)
    assert (found.score if found else None) == score


ROWS = [{"question": f"q{i}", "answer": ["a"], "output": "Answer: a"} for i in range(3)]


def test_unreadable_verdicts_leave_rows_unscored_not_zero() -> None:
    def reply(request: ScriptedRequest) -> str:
        return "hm" if "q1" in request.last else '{"fluency": 1, "correctness": 3}'

    engine = ScriptedEngine(reply)
    judged = asyncio.run(RowJudge(engine).long_answers(ROWS))
    assert [one.score for one in judged] == [1.0, None, 1.0]
    assert "unreadable" in (judged[1].problem or "")
    content = judged_file({"data": ROWS, "averaged_metrics": {}}, judged, summaries=False)
    assert content["averaged_metrics"]["gpt-4-score"] == 3.0
    assert content["num_unscored"] == 1
    assert content["data"][1]["gpt-4-scores"] is None


def test_summary_judge_counts_key_points_and_sentences() -> None:
    replies = {
        "read well": '{"fluency": 1}',
        "key points": '{"recall": 1}',
        "expert": '{"precision": 3, "sentence_count": 4}',
    }
    rows = [{"id": 7, "answer": ["expert text"], "output": "A summary."}]
    judge = RowJudge(ScriptedEngine(replies))
    (found,) = asyncio.run(judge.summaries(rows, {"7": ("one", "two")}))
    assert found.score == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    (absent,) = asyncio.run(judge.summaries(rows, {}))
    assert absent.score is None
    too_many = RowJudge(ScriptedEngine(replies | {"key points": '{"recall": 9}'}))
    (wrong,) = asyncio.run(too_many.summaries(rows, {"7": ("one", "two")}))
    assert wrong.score is None


def test_judge_command_writes_helmets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "narrativeqa_7892_v1__in8192_size3_x.json"
    path.write_text(json.dumps({"args": {}, "data": ROWS, "averaged_metrics": {}}))
    engine = ScriptedEngine(lambda request: '{"fluency": 1, "correctness": 3}')
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given: engine)
    result = CliRunner().invoke(command, ["judge", str(path)])
    assert result.exit_code == 0, result.output
    content = json.loads(
        (tmp_path / "narrativeqa_7892_v1__in8192_size3_x-gpt4eval_o.json").read_text()
    )
    assert content["averaged_metrics"]["gpt-4-score"] == 3.0
