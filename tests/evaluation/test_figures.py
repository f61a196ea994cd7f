"""Intervals, summaries, recall of trees and judges."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.core.errors import StoreError
from agenticlu.core.records import Document, Node, Prediction, Question, Tree, Turn, Usage, Verdict
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.evaluation.recall import pass_at_k, render_recall, tree_recall
from agenticlu.evaluation.records import load_summary
from agenticlu.evaluation.summary import compare, count_alone_tokens, summarise
from agenticlu.evaluation.tables import (
    render_csv,
    render_differences_csv,
    render_markdown,
    render_results,
    save_summary,
)
from agenticlu.judges import combine
from agenticlu.judges.rubric import LongAnswerGrade, RubricJudge, build_judged_file, parse_grade
from agenticlu.search.run import summarise as search_summary
from agenticlu.search.store import Store


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


@pytest.mark.parametrize(
    ("at_1024", "at_4096", "reached", "unknown"),
    [
        ([None] * 20, [1.0] * 20, 256, 1024),  # all failed: nothing is known beyond 256
        ([], [1.0] * 20, 256, 1024),  # not run here, but for another method
        ([1.0] * 20, [1.0] + [None] * 19, 1024, 4096),  # one of 20 is no result
        (
            [1.0] * 20,
            [1.0] * 19 + [None],
            4096,
            None,
        ),  # wrong or not, the failed one decides nothing
        ([1.0] * 20, [0.0] * 20, 1024, None),
    ],
)
def test_an_effective_length_does_not_reach_over_what_is_not_known(
    at_1024: list[float | None], at_4096: list[float | None], reached: int, unknown: int | None
) -> None:
    scores = {("direct", 256): [1.0] * 20, ("direct", 1024): at_1024, ("direct", 4096): at_4096}
    rows = cells({**scores, ("retrieve", 1024): [1.0] * 20})
    found = next(e for e in summarise(rows).effective_lengths if e.method == "direct")
    assert (found.effective_length, found.unknown_from) == (reached, unknown)


def test_tables_tell_what_stands_behind_each_mean() -> None:
    summary = summarise(
        cells(
            {("direct", 256): [1.0] * 4, ("direct", 512): [1.0, None, 0.0], ("clarify", 512): [1.0]}
        )
    )
    rows = {line.split("|")[2].strip(): line for line in render_results(summary).splitlines()[2:]}
    assert "4/2, 2/2" in rows["direct"]
    assert "0/0/0, 1/0/0" in rows["direct"]
    assert "| 1/1 " in rows["clarify"]
    assert any("Fewer than 10 clusters" in note and "512: 1" in note for note in summary.notes)
    assert any("Fewer than 10" in line for line in render_markdown(summary).splitlines())
    many = summarise([prediction("direct", 256, i, i, 1.0) for i in range(10)])
    assert many.notes == ()


def test_parts_and_differences_are_in_every_form() -> None:
    rows = [
        prediction(method, 256, i, i, float(i < 4), hops=1 + i % 2, depth=i / 8)
        for method in ("direct", "clarify")
        for i in range(8)
    ]
    summary = summarise(rows)
    markdown = render_markdown(summary)
    assert "## By the number of facts" in markdown
    assert "0.8-1.0" in markdown
    lines = list(csv.DictReader(io.StringIO(render_csv(summary))))
    assert {line["part"] for line in lines} >= {"all", "hops 1", "hops 2", "depth 0.0-0.2"}
    whole = next(line for line in lines if line["part"] == "all" and line["method"] == "clarify")
    assert (whole["n"], whole["num_clusters"], whole["alone_tokens"]) == ("8", "8", "800")
    assert whole["alone_vs_direct"] == "1"
    one_hop = next(line for line in lines if line["part"] == "hops 1")
    assert (one_hop["n"], one_hop["mean"], one_hop["prompt_tokens"]) == ("4", "0.5", "")
    (difference,) = csv.DictReader(io.StringIO(render_differences_csv(summary)))
    assert (difference["method"], difference["baseline_method"]) == ("clarify", "direct")
    assert (difference["n"], difference["difference"], difference["mean"]) == ("8", "0", "0.5")
    assert float(difference["low"]) < 0 < float(difference["high"])


def test_rounds_stand_in_order_beside_their_method() -> None:
    rows = cells({(name, 256): [1.0] for name in ("clarify@10", "clarify@2", "direct", "retrieve")})
    found = summarise(rows)
    assert [c.method for c in found.cells] == ["direct", "clarify@2", "clarify@10", "retrieve"]


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


def asked(prompt: int, cached: int, sampled: int = 5, kind: str = "direct") -> dict[str, Any]:
    usage = Usage(requests=1, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=sampled)
    return {"kind": kind, "wording": "w", "request": "", "reply": "", "usage": usage}


def dialogue(first_cached: int) -> dict[str, Any]:
    """Two turns over a document of 100 tokens; the first found so much of it in the cache."""
    turns = (asked(100, first_cached, kind="clarify"), asked(120, 105, kind="answer"))
    usage = sum((turn["usage"] for turn in turns), Usage())
    return {"turns": turns, "usage": usage}


def test_overhead_is_the_same_whichever_method_read_the_document_first() -> None:
    """One cache for all: the first method pays for the document, the second finds it there."""

    def ratio(direct_cached: int, clarify_cached: int) -> tuple[float | None, int, int]:
        first = {"turns": (asked(100, direct_cached),)}
        usage = first["turns"][0]["usage"]
        rows = [prediction("direct", 256, 0, 0, 1.0, usage=usage, **first)]
        rows.append(prediction("clarify", 256, 0, 0, 1.0, **dialogue(clarify_cached)))
        cell = summarise(rows).find("world", 256, "clarify")
        assert cell is not None
        assert cell.overhead is not None
        as_run = cell.usage.prompt_tokens - cell.usage.cached_tokens
        return cell.overhead.alone_tokens, cell.alone_tokens, as_run

    after, before = ratio(0, 95), ratio(95, 0)
    assert after[:2] == before[:2] == (1.15, 115)
    assert after[2] != before[2]  # the guard: as run, the order does matter


def test_a_turn_finds_no_more_than_its_own_history_and_retrieval_reads_its_passages() -> None:
    lucky = prediction("clarify", 256, 0, 0, 1.0, **dialogue(0))
    lucky = lucky.model_copy(update={"turns": (*lucky.turns[:1], Turn(**asked(120, 119)))})
    assert count_alone_tokens(lucky) == 100 + 120 - 105
    scored = Usage(requests=4, prompt_tokens=400, cached_tokens=390, completion_tokens=4)
    turn = asked(40, 30)
    found = prediction("retrieve", 256, 0, 0, 1.0, turns=(turn,), usage=scored + turn["usage"])
    assert count_alone_tokens(found) == 400 + 40


def asked_alone(*requests: tuple[int, int, int]) -> int | None:
    turns = tuple(
        Turn(
            kind="answer",
            wording="w",
            request="?",
            reply="!",
            usage=Usage(
                requests=1, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=sampled
            ),
        )
        for prompt, cached, sampled in requests
    )
    usage = sum((turn.usage for turn in turns if turn.usage), Usage())
    return count_alone_tokens(prediction("clarify", 256, 0, 0, 1.0, turns=turns, usage=usage))


def test_alone_the_document_is_still_in_the_cache_after_a_turn_about_a_part_of_it() -> None:
    """Counted against the turn just before, the last request would compute 60, and all 160."""
    assert asked_alone((80, 70, 0), (40, 20, 0), (100, 80, 0)) == 80 + 20 + 20 == 120
    reground = asked_alone((1000, 0, 10), (300, 40, 20), (1090, 1010, 5))
    assert reground == 1000 + 260 + 80


def test_alone_does_not_depend_on_who_read_the_document_before() -> None:
    first = asked_alone((1000, 0, 10), (1050, 1010, 20), (1100, 1070, 5))
    after = asked_alone((1000, 990, 10), (1050, 1040, 20), (1100, 1070, 5))
    assert first == after == 1000 + 40 + 30
    assert asked_alone((1000, 0, 10), (1050, 0, 20)) == 1000 + 1050


def test_alone_several_requests_without_their_turns_are_not_known() -> None:
    usage = {"prompt_tokens": 100, "cached_tokens": 90, "completion_tokens": 5}
    rows = [
        prediction("direct", 256, 0, i, 1.0, usage=Usage(requests=num, **usage))
        for i, num in enumerate((1, 2))
    ]
    assert [count_alone_tokens(row) for row in rows] == [100, None]
    one, both = summarise(rows[:1]).cells[0], summarise(rows).cells[0]
    assert (one.alone_tokens, one.alone_tokens_per_item) == (100, 105.0)
    assert (both.alone_tokens, both.alone_tokens_per_item) == (None, None)
    assert "–" in render_markdown(summarise(rows))


def test_overhead_compares_the_same_items() -> None:
    rows = cells({("direct", 256): [1.0, 1.0, None]})
    dear = Usage(requests=5, prompt_tokens=300, cached_tokens=210, completion_tokens=20)
    rows += [prediction("clarify", 256, i // 2, i, 1.0, usage=dear, seconds=6.0) for i in range(3)]
    cell = summarise(rows).find("world", 256, "clarify")
    assert cell is not None
    assert cell.overhead is not None
    assert cell.overhead.prompt_tokens == 3.0
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


def node(name: str, i: int, depth: int, verdicts: tuple[Verdict, ...]) -> Node:
    return Node(
        id=f"{name}{i}",
        parent=None if i == 0 else f"{name}0",
        depth=depth,
        ordinal=i,
        turns=(),
        verdicts=verdicts,
        score=combine(verdicts),
    )


def tree(name: str, *found: tuple[int, float | None]) -> Tree:
    """Builds a tree from (depth, exact verdict) of its nodes."""
    nodes = [
        node(name, i, depth, (Verdict(judge="exact", value=value),))
        for i, (depth, value) in enumerate(found)
    ]
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
        tree("b2", (0, 0.0), (1, None), (1, 0.0), (2, 0.0)),
        tree("c1", (0, None)),
    ]
    found = tree_recall(trees, num_unfinished=2)
    assert (found.num_trees, found.num_unscored, found.num_unfinished) == (5, 1, 2)
    recall = [one.recall.mean if one.recall else None for one in found.by_depth]
    assert recall == [0.25, 0.5, 0.75]
    assert [one.new_share for one in found.by_depth] == [1 / 4, 1 / 3, 1 / 2]


def test_pass_at_k_is_taken_over_the_same_questions_at_every_k() -> None:
    """b2 has one scored sample: with it in the mean of k = 1 alone the curve would bend by luck."""
    trees = [
        tree("a2", (0, 0.0), (1, 1.0), (1, 0.0)),
        tree("b1", (0, 0.0), (1, 0.0), (1, 0.0)),
        tree("b2", (0, 0.0), (1, 1.0), (1, None)),
        tree("b3", (0, 0.0), (1, 0.0), (1, 0.0), (1, 0.0), (1, 0.0)),
    ]
    found = tree_recall(trees)
    assert [one.k for one in found.pass_at_k] == [1, 2]  # four samples: one question of four
    values = [one.value for one in found.pass_at_k if one.value]
    assert [value.n for value in values] == [3, 3]
    assert [value.mean for value in values] == [pytest.approx(0.5 / 3), pytest.approx(1 / 3)]
    assert (found.num_sampled, found.num_sampled_enough) == (4, 3)
    shown = render_recall(found)
    assert "the same 3 questions at every k" in shown
    assert "dropped repeated clarifications" in shown


def test_a_search_and_eval_recall_agree_on_what_a_model_judged_right(tmp_path: Path) -> None:
    """An exact match fails, ROUGE is low, the model says yes: right, at a score of 0.43."""
    judged = tuple(
        Verdict(judge=judge, value=value)
        for judge, value in (("exact", 0.0), ("rouge-l", 0.3), ("llm:m", 1.0))
    )
    wrong = (*judged[:2], Verdict(judge="llm:m", value=0.0))
    question = {name: Question(id=name, text=f"{name}?") for name in ("q1", "q2", "q3")}

    def grown(name: str, *found: tuple[Verdict, ...]) -> Tree:
        nodes = tuple(node(name, i, min(i, 1), one) for i, one in enumerate(found))
        return tree(name).model_copy(update={"question": question[name], "nodes": nodes})

    async def fill(store: Store) -> None:
        await store.finish_tree(grown("q1", judged))
        await store.finish_tree(grown("q2", wrong, judged))
        await store.put_nodes(grown("q3"), grown("q3", wrong).nodes)

    document = Document.of("text", "test")
    with Store(tmp_path) as store:
        store.add_document(document, ())
        for position, one in enumerate(question.values()):
            store.add_question(one, document.id, position)
        asyncio.run(fill(store))
    with Store(tmp_path, writable=False) as store:
        by_search = search_summary(store)
    result = CliRunner().invoke(command, ["recall", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["recall"]["mean"] for one in found["by_depth"]] == [0.5, 1.0]
    assert by_search.solved_by_depth == {0: 1, 1: 1}
    assert (found["num_trees"], found["num_unfinished"]) == (2, 1)


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
    found = parse_grade(LongAnswerGrade, reply)
    assert (found.score if found else None) == score


ROWS = [{"question": f"q{i}", "answer": ["a"], "output": "Answer: a"} for i in range(3)]


def test_unreadable_verdicts_leave_rows_unscored_not_zero() -> None:
    def reply(request: ScriptedRequest) -> str:
        return "hm" if "q1" in request.last else '{"fluency": 1, "correctness": 3}'

    engine = ScriptedEngine(reply)
    judged = asyncio.run(RubricJudge(engine).judge_long_answers(ROWS))
    assert [one.value for one in judged] == [1.0, None, 1.0]
    assert "unreadable" in (judged[1].reason)
    content = build_judged_file({"data": ROWS, "averaged_metrics": {}}, judged, summaries=False)
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
    judge = RubricJudge(ScriptedEngine(replies))
    (found,) = asyncio.run(judge.judge_summaries(rows, {"7": ("one", "two")}))
    assert found.value == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    (absent,) = asyncio.run(judge.judge_summaries(rows, {}))
    assert absent.value is None
    too_many = RubricJudge(ScriptedEngine(replies | {"key points": '{"recall": 9}'}))
    (wrong,) = asyncio.run(too_many.judge_summaries(rows, {"7": ("one", "two")}))
    assert wrong.value is None


def test_judge_command_writes_helmets_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "narrativeqa_7892_v1__in8192_size3_x.json"
    path.write_text(json.dumps({"args": {}, "data": ROWS, "averaged_metrics": {}}))
    engine = ScriptedEngine(lambda request: '{"fluency": 1, "correctness": 3}')
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **more: engine)
    result = CliRunner().invoke(command, ["judge", str(path)])
    assert result.exit_code == 0, result.output
    content = json.loads(
        (tmp_path / "narrativeqa_7892_v1__in8192_size3_x-gpt4eval_o.json").read_text()
    )
    assert content["averaged_metrics"]["gpt-4-score"] == 3.0
