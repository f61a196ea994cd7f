from __future__ import annotations

import pytest
from made_report import sample_report

from agenticlu.core.records import Node, Prediction, Question, Tree, Turn, Usage, Verdict
from agenticlu.judges import panel as judge
from agenticlu.report import figures
from agenticlu.report.data import ReportData
from agenticlu.report.page import build_report


def node(name: str, parent: str | None, depth: int, score: float | None, **more: object) -> Node:
    return Node(id=name, parent=parent, depth=depth, ordinal=0, turns=(), score=score, **more)


def tree(name: str, *nodes: Node, document: str | None = None, **more: object) -> Tree:
    return Tree(
        id=name,
        document_id=document or name,
        question=Question(id=name, text="Who?"),
        system="",
        profile="default 1",
        nodes=nodes,
        **more,
    )


def test_recall_counts_a_tree_at_its_least_solved_depth_and_leaves_unscored_trees_out() -> None:
    trees = [
        tree("direct", node("a", None, 0, 1.0)),
        tree("deep", node("b", None, 0, 0.0), node("c", "b", 1, 0.2), node("d", "c", 2, 0.9)),
        tree("never", node("e", None, 0, 0.0), node("f", "e", 1, 0.0)),
        tree("unknown", node("g", None, 0, None)),
        tree("broken", node("h", None, 0, None, status="failed", failure="time-out")),
    ]
    found = figures.recall_by_depth(trees)
    assert [figure.depth for figure in found] == [0, 1, 2]
    assert [figure.recall.n for figure in found] == [3, 3, 3]
    assert [round(3 * figure.recall.mean) for figure in found] == [1, 1, 2]
    counts = figures.count(ReportData(trees=tuple(trees)))
    assert (counts.unscored_trees, counts.unscored_nodes, counts.failed_nodes) == (2, 1, 1)
    assert figures.recall_by_depth(trees[3:]) == ()


NEARLY = (
    # Verdicts and the score that they combine to; the score alone would say the opposite.
    ((("exact", 0.0), ("rouge-l", 0.1), ("llm:a", 1.0)), 0.37, "right"),
    ((("exact", 0.0), ("rouge-l", 1.0)), 0.5, "wrong"),
    ((("exact", 0.0), ("llm:a", None)), 0.9, "unscored"),
)


@pytest.mark.parametrize(("found", "score", "state"), NEARLY)
def test_the_judges_decide_what_is_right_as_in_the_data_set(
    found: tuple[tuple[str, float | None], ...], score: float, state: str
) -> None:
    verdicts = tuple(Verdict(judge=name, value=value) for name, value in found)
    root = node("r", None, 0, 0.0, verdicts=(Verdict(judge="exact", value=0.0),))
    judged = tree("t", root, node("a", "r", 1, score, verdicts=verdicts))
    assert figures.node_state(judged.nodes[1]) == state
    depth = 1 if state == "right" else None
    assert figures.solved_depth(judged) == depth == judge.solved_depth(judged)
    assert figures.tree_entries([judged], ())[0].solved_depth == depth
    assert figures.recall_by_depth([judged])[-1].recall.mean == float(state == "right")
    counts = figures.count(ReportData(trees=(judged,)))
    assert (counts.right_nodes, counts.wrong_nodes, counts.unscored_nodes) == (
        state == "right", 1 + (state == "wrong"), state == "unscored",
    )  # fmt: skip


@pytest.mark.parametrize(("score", "state"), [(0.5, "right"), (0.49, "wrong"), (None, "unscored")])
def test_the_score_decides_only_where_no_verdict_is_kept(score: float | None, state: str) -> None:
    assert figures.node_state(node("a", None, 0, score)) == state


def test_interval_is_wider_when_answers_of_one_document_stand_or_fall_together() -> None:
    alone = figures.measure([(str(i), float(i < 30)) for i in range(60)])
    together = figures.measure([(str(i // 6), float(i < 30)) for i in range(60)])
    assert alone.mean == together.mean == 0.5
    assert alone.low is not None
    assert together.low is not None
    assert together.low < alone.low - 0.1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_interval_of_all_equal_answers_has_a_width_and_stays_in_bounds(value: float) -> None:
    found = figures.measure([(str(i), value) for i in range(12)])
    assert found.low is not None
    assert found.high is not None
    assert 0.0 <= found.low <= value <= found.high <= 1.0
    assert found.high - found.low > 0.1


def test_nothing_scored_gives_no_interval() -> None:
    assert figures.measure([]) == figures.Measure(mean=0.0, n=0)
    assert figures.paired_difference([]).n == 0
    assert figures.paired_difference([("a", 0.0, 1.0)]).low is None


def test_paired_difference_covers_the_true_one_and_repeats() -> None:
    values = [(f"d{i // 2}", float(i % 5 == 0), float(i % 5 != 1)) for i in range(60)]
    found = figures.paired_difference(values)
    assert found == figures.paired_difference(list(reversed(values)))
    assert found.mean == pytest.approx(0.6)
    assert found.low is not None
    assert found.high is not None
    assert 0.3 < found.low < 0.6 < found.high < 0.9


def test_a_request_shared_by_siblings_is_paid_once() -> None:
    shared = Usage(requests=1, prompt_tokens=100, cached_tokens=60, completion_tokens=40)
    own = Usage(requests=1, prompt_tokens=50, completion_tokens=5)
    nodes = [Node(id="r", parent=None, depth=0, ordinal=0, turns=())]
    for i in range(4):
        turns = (
            Turn(kind="clarify", wording="c", request="?", reply=f"{i}", usage=shared),
            Turn(kind="point", wording="p", request="?", reply="<para 1>"),
            Turn(kind="answer", wording="a", request="?", reply="x", usage=own),
        )
        verdict = Verdict(judge="llm", value=1.0, usage=Usage(requests=1, prompt_tokens=9))
        nodes.append(
            Node(id=f"n{i}", parent="r", depth=1, ordinal=i, turns=turns, verdicts=(verdict,))
        )
    grounding = Usage(requests=32, prompt_tokens=3200, cached_tokens=3000, completion_tokens=32)
    total = shared + own + own + own + own + grounding
    stages = {s.name: s.usage for s in figures.tree_stages([tree("t", *nodes, usage=total)])}
    assert stages["clarification"] == shared
    assert stages["answer"] == own + own + own + own
    assert stages["grounding"] == grounding
    assert stages["judges"].prompt_tokens == 36
    assert "pointing back" not in stages


@pytest.mark.parametrize(
    ("values", "expected"),
    [((1.0, 0.0), True), ((1.0, 0.8), False), ((1.0, None), False), ((), False)],
)
def test_judges_disagree_only_across_the_line(
    values: tuple[float | None, ...], expected: bool
) -> None:
    verdicts = tuple(Verdict(judge=str(i), value=value) for i, value in enumerate(values))
    judged = node("a", None, 0, 1.0, verdicts=verdicts)
    assert figures.count(ReportData(trees=(tree("t", judged),))).disagreements == expected


def prediction(system: str, method: str, i: int, score: float, **more: object) -> Prediction:
    return Prediction(
        **{
            "id": f"{system}{method}{i}",
            "task": "world",
            "method": method,
            "length": 4096,
            "document_id": f"d{i // 2}",
            "question_id": f"q{i}",
            "question": "Who?",
            "gold": ("x",),
            "scores": {"correct": score},
            **more,
        }
    )


def test_gain_is_over_the_questions_that_both_sides_scored() -> None:
    before = [prediction("base", "direct", i, float(i < 2)) for i in range(10)]
    after = [prediction("trained", "clarify", i, float(i < 9)) for i in range(10)]
    after[0] = prediction("trained", "clarify", 0, 1.0, error="time-out", scores={})
    (gain,) = figures.main_gains({"base": before, "trained": after})
    assert gain.difference.n == 9
    assert gain.baseline_mean == pytest.approx(1 / 9)
    assert gain.contender_mean == pytest.approx(8 / 9)
    sentence = figures.headline(ReportData(gains=(gain,)), ())
    assert "trained model with clarifications" in sentence
    assert "+78 points (95% interval +" in sentence


def test_a_metric_that_is_no_share_of_right_answers_is_not_called_one() -> None:
    scores = {"rougeL_f1": 0.4}
    before = [prediction("base", "direct", i, 0.0, scores=scores) for i in range(4)]
    after = [prediction("trained", "clarify", i, 0.0, scores=scores) for i in range(4)]
    gains = figures.main_gains({"base": before, "trained": after})
    rows = figures.result_rows(before, "base")
    for data in (ReportData(gains=gains), ReportData(results=rows)):
        sentence = figures.headline(data, ())
        assert "mean rougeL_f1 of 40%" in sentence
        assert "right" not in sentence
    page = build_report(ReportData(results=rows))
    assert "Mean rougeL_f1; bands are 95% intervals" in page
    assert "world: mean rougeL_f1 in percent, with" in page


def test_changes_name_the_questions_behind_the_gain() -> None:
    before = [prediction("base", "direct", i, float(i < 2), answer=f"b{i}") for i in range(4)]
    after = [prediction("trained", "clarify", i, float(i > 0), answer=f"a{i}") for i in range(4)]
    changes = figures.main_changes({"base": before, "trained": after})
    assert [(one.before, one.after, one.gained) for one in changes] == [
        ("b2", "a2", True),
        ("b3", "a3", True),
        ("b0", "a0", False),
    ]
    (gain,) = figures.main_gains({"base": before, "trained": after})
    assert gain.difference.mean == pytest.approx((2 - 1) / 4)


@pytest.mark.parametrize(
    ("systems", "expected"),
    [
        (["base", "sft", "trained"], ("base", "trained")),
        (["trained", "base"], ("base", "trained")),
        (["a", "b", "c"], ("a", "c")),
        (["only"], ("only", "only")),
    ],
)
def test_what_is_compared_is_fixed_by_name_and_order(
    systems: list[str], expected: tuple[str, str]
) -> None:
    assert figures.contest(systems) == expected


def test_failed_items_are_counted_and_in_no_mean() -> None:
    items = [prediction("base", "direct", i, 1.0) for i in range(4)]
    items[3] = prediction("base", "direct", 3, 0.0, error="refused", scores={})
    (row,) = figures.result_rows(items, "base")
    assert (row.score.mean, row.score.n, row.num_failed) == (1.0, 3, 1)


def request(prompt: int, cached: int, sampled: int) -> Turn:
    usage = Usage(requests=1, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=sampled)
    return Turn(kind="answer", wording="w", request="?", reply="!", usage=usage)


def asked(*turns: Turn, beside: Usage | None = None) -> Prediction:
    spent = sum((turn.usage for turn in turns if turn.usage), beside or Usage())
    return prediction("base", "clarify", 0, 1.0, turns=turns, usage=spent)


def test_cost_alone_does_not_depend_on_who_read_the_document_before() -> None:
    first = asked(request(1000, 0, 10), request(1050, 1010, 20), request(1100, 1070, 5))
    after = asked(request(1000, 990, 10), request(1050, 1040, 20), request(1100, 1070, 5))
    assert first.usage.computed_tokens == 1000 + 40 + 30 + 35
    assert after.usage.computed_tokens < 100
    # The document once, then what the turns add: in the end every token of the conversation once.
    assert figures.lone_tokens(first) == figures.lone_tokens(after) == 1100 + 5
    assert figures.lone_tokens_per_item([first, after]) == 1105


def test_cost_alone_counts_what_an_item_reads_again() -> None:
    uncached = asked(request(1000, 0, 10), request(1050, 0, 20))
    assert figures.lone_tokens(uncached) == 1000 + 10 + 1050 + 20
    # The second request shows the cited pieces alone; the third the whole document again, of
    # which the first has left 1010 tokens in the cache.
    reground = asked(request(1000, 0, 10), request(300, 40, 20), request(1090, 1010, 5))
    assert figures.lone_tokens(reground) == 1010 + 260 + 20 + 80 + 5
    scan = Usage(requests=8, prompt_tokens=800, cached_tokens=700, completion_tokens=8)
    assert figures.lone_tokens(asked(request(100, 90, 5), beside=scan)) == 808 + 105


def test_cost_alone_of_several_requests_without_their_turns_is_not_known() -> None:
    one = asked(beside=Usage(requests=1, prompt_tokens=100, cached_tokens=90, completion_tokens=5))
    many = asked(beside=Usage(requests=2, prompt_tokens=200, cached_tokens=90))
    assert figures.lone_tokens(one) == 105
    assert figures.lone_tokens(many) is None
    assert figures.lone_tokens_per_item([one, many]) is None
    assert figures.lone_tokens_per_item([]) is None


def test_headline_says_something_true_whatever_is_missing() -> None:
    whole = sample_report(num_trees=8)
    depths = figures.recall_by_depth(whole.trees)
    only_trees = figures.headline(ReportData(trees=whole.trees), depths)
    assert "right answer to" in only_trees
    assert f"of {depths[-1].recall.n} questions" in only_trees
    assert "is right on" in figures.headline(ReportData(results=whole.results), ())
    assert figures.headline(ReportData(curves=whole.curves), ()) == "Training curves of dpo, sft."
    assert figures.headline(ReportData(), ()).startswith("Nothing to show")
