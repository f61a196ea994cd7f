from __future__ import annotations

import random

import pytest

from agenticlu.dialogue.steps import is_near_duplicate, merge_near_duplicates
from agenticlu.search import SearchConfig
from agenticlu.search.growth import Grown, build_growth

ROOT = Grown("r", None, 0, (), False, 0.0)


def children(
    parent: Grown, *right: bool, relevance: float = 0.0, scores: tuple[float, ...] | None = None
) -> list[Grown]:
    return [
        Grown(
            f"{parent.id}{i}",
            parent.id,
            parent.depth + 1,
            (*parent.order, i),
            correct,
            scores[i] if scores else float(correct),
            relevance,
            tokens=10,
        )
        for i, correct in enumerate(right)
    ]


def growth(kind: str, **settings):
    return build_growth(SearchConfig.model_validate({"growth": kind, "depth": 2, **settings}))


def test_full_growth_goes_level_by_level():
    full = growth("full")
    full.tell([ROOT])
    assert full.ask() == ("r",)
    level = children(ROOT, True, False)
    full.tell(level)
    assert full.ask() == ("r0", "r1")
    for node in level:
        full.tell(children(node, False))
    assert full.ask() == ()


def test_until_solved_stops_when_an_expansion_is_informative():
    until = growth("until-solved")
    until.tell([ROOT])
    assert until.ask() == ("r",)
    until.tell(children(ROOT, False, True))
    assert until.ask() == ()


def test_until_solved_deepens_the_best_of_all_wrong_one_at_a_time():
    until = growth("until-solved", deepen=None)
    level = children(ROOT, False, False, False, scores=(0.1, 0.4, 0.2))
    until.tell([ROOT, *level])
    order = []
    while wanted := until.ask():
        order += wanted
        node = next(one for one in level if one.id == wanted[0])
        until.tell(children(node, False))
    assert order == ["r1", "r2", "r0"]


def test_until_solved_can_be_kept_narrow():
    until = growth("until-solved", deepen=1)
    level = children(ROOT, False, False)
    until.tell([ROOT, *level])
    (first,) = until.ask()
    until.tell(children(level[int(first[1])], False))
    assert until.ask() == ()


def test_a_right_root_is_expanded_once_and_no_deeper():
    until = growth("until-solved")
    root = Grown("r", None, 0, (), True, 1.0)
    until.tell([root])
    assert until.ask() == ("r",)
    until.tell(children(root, False, False))
    assert until.ask() == ()


def test_best_first_takes_the_most_promising_node_anywhere_until_the_budget():
    best = growth("best-first", depth=3, branching=2, node_budget=7)
    level = children(ROOT, False, False, scores=(0.1, 0.6))
    best.tell([ROOT])
    assert best.ask() == ("r",)
    best.tell(level)
    assert best.ask() == ("r1",)
    best.tell(children(level[1], False, False, scores=(0.7, 0.0)))
    assert best.ask() == ("r10",)
    best.tell(children(Grown("r10", "r1", 2, (1, 0), False, 0.7), False, False))
    assert best.ask() == (), "six are grown, and two more would be eight"


def test_a_budget_of_nodes_is_never_exceeded():
    for budget in (3, 4, 5, 6):
        best = growth("best-first", branching=3, node_budget=budget)
        told = [ROOT]
        best.tell(told)
        while wanted := best.ask():
            (node,) = [one for one in told if one.id == wanted[0]]
            told += children(node, False, False, False)
            best.tell(told)
        assert len(told) - 1 == budget // 3 * 3
        assert best.over_budget
    with pytest.raises(ValueError, match=r"is less than one expansion \(3 nodes\)"):
        growth("best-first", branching=3, node_budget=2)


@pytest.mark.parametrize("kind", ["until-solved", "best-first"])
@pytest.mark.parametrize(
    ("first", "second", "best"),
    [
        ((0.1, 0.9), (0.2, 0.0), 1),
        ((0.0, 0.4), (0.0, 0.6), 1),
        ((None, 0.6), (0.0, 0.4), 0),
        ((0.0, 0.5), (0.0, 0.5), 0),
    ],
    ids=["score", "relevance", "unscored is 0", "order"],
)
def test_the_best_node_by_score_then_relevance_then_order(kind: str, first, second, best: int):
    grown = growth(kind)
    level = [
        Grown(f"r{i}", "r", 1, (i,), False, score, relevance)
        for i, (score, relevance) in enumerate((first, second))
    ]
    grown.tell([ROOT, *level])
    assert grown.ask() == (f"r{best}",)


def test_best_first_keeps_a_budget_of_tokens():
    best = growth("best-first", token_budget=15)
    best.tell([ROOT, *children(ROOT, False, False)])
    assert best.ask() == ()


@pytest.mark.parametrize("kind", ["full", "until-solved", "best-first"])
def test_a_growth_follows_from_what_it_was_told_in_any_order(kind: str):
    rng = random.Random(kind)
    grown, told = growth(kind, depth=3), [ROOT]
    grown.tell([ROOT])
    for _ in range(6):
        wanted = grown.ask()
        if not wanted:
            break
        for name in wanted:
            node = next(one for one in told if one.id == name)
            scores = (rng.random() / 2, rng.random() / 2)
            new = children(node, False, False, scores=scores)
            told += new
            grown.tell(new)
        rebuilt = growth(kind, depth=3)
        rng.shuffle(told)
        for node in told:
            rebuilt.tell([node])
        assert rebuilt.ask() == grown.ask()
    assert len(told) > 5


@pytest.mark.parametrize("kind", ["full", "until-solved", "best-first"])
def test_a_node_that_brought_no_child_is_not_asked_for_again(kind: str):
    grown = growth(kind, deepen=None)
    level = children(ROOT, False, False)
    grown.tell([ROOT, *level])
    asked = []
    while wanted := grown.ask():
        asked += wanted
        for name in wanted:
            grown.close(name)
    assert sorted(asked) == ["r0", "r1"]


@pytest.mark.parametrize("kind", ["full", "until-solved", "best-first"])
def test_failed_nodes_are_never_expanded(kind: str):
    grown = growth(kind)
    failed = Grown("r0", "r", 1, (0,), None, None, failed=True)
    grown.tell([ROOT, failed])
    assert grown.ask() == ()


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("Who is the mother of Ada?", "who is mother of Ada", True),
        ("Who is the mother of Ada?", "Who is the mother of Ben?", False),
        ("Where does Ada live?", "Where does Ada live now?", True),
        ("Where does Ada Holt live?", "Where does Ada Pratt live?", False),
        ("How old was he in 1901?", "How old was he in 1902?", False),
        (
            "In which of the small towns by the sea did the old friend of Ada live then?",
            "In which of the small towns by the sea did the old friend of Ben live then?",
            False,
        ),
        ("", "", True),
    ],
)
def test_near_duplicates(first: str, second: str, same: bool):
    assert is_near_duplicate(first, second) is same
    assert is_near_duplicate(second, first) is same


def test_merging_keeps_the_first_and_drops_the_empty():
    texts = ["Where is Ada?", "", "where is ada", "Who is Ben?", "  "]
    assert merge_near_duplicates(texts) == (0, 3)
