from __future__ import annotations

import pytest
from made_report import sample_report

from agenticlu import judges as judge
from agenticlu.core.records import Node, Prediction, Question, Tree, Turn, Usage, Verdict
from agenticlu.evaluation.recall import solved_depth, tree_recall
from agenticlu.evaluation.summary import summarise
from agenticlu.report import figures
from agenticlu.report.figures import ReportData
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
    found = tree_recall(trees).by_depth
    assert [figure.depth for figure in found] == [0, 1, 2]
    assert [figure.recall.n for figure in found] == [3, 3, 3]
    assert [round(3 * figure.recall.mean) for figure in found] == [1, 1, 2]
    counts = figures.count(ReportData(trees=tuple(trees)))
    assert (counts.unscored_trees, counts.unscored_nodes, counts.failed_nodes) == (2, 1, 1)
    assert tree_recall(trees[3:]).by_depth == ()


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
    assert solved_depth(judged) == depth == judge.solved_depth(judged)
    assert figures.tree_entries([judged], ())[0].solved_depth == depth
    assert tree_recall([judged]).by_depth[-1].recall.mean == float(state == "right")
    counts = figures.count(ReportData(trees=(judged,)))
    assert (counts.right_nodes, counts.wrong_nodes, counts.unscored_nodes) == (
        state == "right", 1 + (state == "wrong"), state == "unscored",
    )  # fmt: skip


@pytest.mark.parametrize(("score", "state"), [(0.5, "right"), (0.49, "wrong"), (None, "unscored")])
def test_the_score_decides_only_where_no_verdict_is_kept(score: float | None, state: str) -> None:
    assert figures.node_state(node("a", None, 0, score)) == state


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
            "engine": system,
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
    (gain,), _ = figures.compare_contest({"base": before, "trained": after})
    assert gain.difference.n == 9
    assert gain.baseline_mean == pytest.approx(1 / 9)
    assert gain.mean == pytest.approx(8 / 9)
    sentence = figures.headline(ReportData(gains=(gain,)), ())
    assert "trained model with clarifications" in sentence
    assert "+78 points (95% interval +" in sentence


def test_a_metric_that_is_no_share_of_right_answers_is_not_called_one() -> None:
    scores = {"rougeL_f1": 0.4}
    before = [prediction("base", "direct", i, 0.0, scores=scores) for i in range(4)]
    after = [prediction("trained", "clarify", i, 0.0, scores=scores) for i in range(4)]
    gains, _ = figures.compare_contest({"base": before, "trained": after})
    rows = summarise(before).cells
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
    (gain,), changes = figures.compare_contest({"base": before, "trained": after})
    assert [(one.before, one.after, one.gained) for one in changes] == [
        ("b2", "a2", True),
        ("b3", "a3", True),
        ("b0", "a0", False),
    ]
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


def test_headline_says_something_true_whatever_is_missing() -> None:
    whole = sample_report(num_trees=8)
    depths = tree_recall(whole.trees).by_depth
    only_trees = figures.headline(ReportData(trees=whole.trees), depths)
    assert "right answer to" in only_trees
    assert f"of {depths[-1].recall.n} questions" in only_trees
    assert "is right on" in figures.headline(ReportData(results=whole.results), ())
    assert figures.headline(ReportData(curves=whole.curves), ()) == "Training curves of dpo, sft."
    assert figures.headline(ReportData(), ()).startswith("Nothing to show")
