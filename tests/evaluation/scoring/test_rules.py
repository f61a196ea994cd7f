"""Scoring rules of single replies."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document, Question
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.scoring import rouge, rules
from agenticlu.evaluation.scoring.helmet import ranking_cuts
from agenticlu.evaluation.summary import choose_headline


def item(rule: str, *answers: str, question: str = "?", **reference: Any) -> Item:
    options = reference.pop("options", ())
    return Item(
        task="t",
        length=0,
        document=Document.of("A passage.", "t"),
        question=Question(id="q", text=question, answers=answers, options=options),
        rule=rule,
        reference=reference,
    )


# --- BABILong ---------------------------------------------------------------------------------

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("bedroom", 1),
        ("The Bedroom.", 1),
        ("Answer:\nbedroom", 1),  # a line end ends no sentence
        ("\n\nbedroom\nnot the office", 0),
        ("bedroom. Before, the office.", 1),
        ("bedroom <context> the office", 1),
        ("bedroom <EXAMPLE> the office", 1),
        ("She left the garden for the bedroom.", 1),  # the question names the garden
        ("office", 0),
        (". bedroom", 0),
        ("", 0),
    ],
)
def test_first_sentence_names_the_only_label(reply: str, value: int) -> None:
    asked = item("only_label", "bedroom", question="Where from the garden?", labels=PLACES)
    assert rules.score(asked, reply)["babilong"] == value
    assert rules.score(asked, "Answer:\nbedroom")["correct"] == 1.0


# --- GraphWalks -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "reply", "value", "correct"),
    [
        (["a", "b"], "Final Answer: [a, b]", 1, 1),
        (["a", "b"], "Final Answer: [b]", 2 / 3, 0),
        (["a"], "**Final Answer:** ['a']", 1, 1),
        (["a"], "Final Answer: [b]\nNo. Final Answer: [a]", 1, 1),
        (["a"], "Final Answer: [a] where [b] is a citation", 1, 1),  # only the form counts
        (["a"], "Final Answer: [a]\n\n", 1, 1),
        (["a"], "Final Answer: [a]\nI hope that this helps.", 0, 1),  # the reply must end in it
        ([], "Final Answer: []\nThere is none.", 0, 1),
        (["a"], "The nodes are [a].", 0, 0),
        (["a"], "Final Answer: a", 0, 0),
        (["a"], "Final Answer: []", 0, 0),
        ([], "Final Answer: []", 1, 1),
        ([], "Final Answer: [ ]", 1, 1),
        ([], "", 1, 0),  # an empty reply on an empty set, as published; it states nothing
        ([], " \n", 1, 0),
        ([], "There is none.", 0, 0),
        ([], "Final Answer: [a]", 0, 0),
        (["a"], "", 0, 0),
    ],
)
def test_final_list_against_a_set(
    nodes: list[str], reply: str, value: float, correct: float
) -> None:
    found = rules.score(item("set_f1", nodes=nodes), reply)
    assert (found["set_f1"], found["correct"]) == (value, correct)


@pytest.mark.parametrize(
    ("reply", "final", "published"),
    [
        ("The edges end there. Answer: [a, b]", 1, 0),  # as the dialogue's requests ask for it
        ("Answer: Final Answer: [b, a]", 1, 1),
        ("Final Answer: [a, c]\nThat is all.", 0.5, 0),
        ("Answer: [a, b]\nNo. Answer: []", 0, 0),
        ("[a, b]", 0, 0),
    ],
)
def test_a_list_after_any_answer_label_counts_beside_the_published_rule(
    reply: str, final: float, published: float
) -> None:
    found = rules.score(item("set_f1", nodes=["a", "b"]), reply)
    assert (found["final_f1"], found["set_f1"]) == (final, published)


# --- MRCR -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "final", "correct", "published"),
    [
        ("Xy7The lamp fell. It broke.", 1, 1, 1),
        (" Xy7The lamp fell. It broke.", 1, 1, 0),  # white space first, too, is not the prefix
        ("It is the second note. Answer: Xy7The lamp fell. It broke.", 1, 1, 0),
        ("**Answer:** Xy7 The lamp fell. It broke.", 26 * 2 / 53, 1, 0),
        ("Answer: The lamp fell. It broke.", 0, 0, 0),
        ("Xy7", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_what_is_recited_behind_a_label_counts_beside_the_published_rule(
    reply: str, final: float, correct: float, published: float
) -> None:
    asked = item("recite", "Xy7The lamp fell. It broke.", prefix="Xy7")
    found = rules.score(asked, reply)
    assert found["final_ratio"] == pytest.approx(final, abs=0.03)
    assert (found["correct"], found["mrcr"]) == (correct, published)


@pytest.mark.parametrize(
    ("rule", "headline"),
    [("set_f1", "final_f1"), ("recite", "final_ratio"), ("only_label", "correct")],
)
def test_the_corrected_figure_is_shown_first(rule: str, headline: str) -> None:
    asked = item(rule, "Xy7 a", prefix="Xy7", nodes=["a"], labels=PLACES)
    assert choose_headline(rules.score(asked, "Answer: x")) == headline


# --- ROUGE on demand --------------------------------------------------------------------------


def test_rouge_is_computed_by_the_rules_whose_figure_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*given: Any) -> Any:
        raise AssertionError("nobody asked for ROUGE")

    cases = {
        "open": item("open", "a"),
        "choice": item("choice", "red", letter="A", options=("red", "blue")),
        "label": item("label", "3"),
        "all_of": item("all_of", "1", "2"),
        "ranking": item("ranking", "1", labels={"1": 1}, cuts=(1, 5)),
        "string_em": item("string_em", groups=[["a"]]),
        "qampari": item("qampari", groups=[["a"]]),
        "set_f1": item("set_f1", nodes=["a"]),
        "only_label": item("only_label", "office", labels=PLACES),
        "recite": item("recite", "xy", prefix="x"),
    }
    assert set(rules.RULES) - set(cases) == {"summary", "long_answer"}
    with monkeypatch.context() as patch:
        patch.setattr(rouge, "_rouge", refuse)
        for one in cases.values():
            assert not [name for name in rules.score(one, "a") if "rouge" in name]
    for name in ("summary", "long_answer"):
        scores = rules.score(item(name, "a blue kite"), "the blue kite")
        assert scores["rougeL_f1"] == pytest.approx(2 / 3)
        assert "unicode_rougeLsum_f1" in scores
    assert "rougeL_f1" in rules.score(cases["open"], "a", with_rouge=True)


def test_without_the_package_what_needs_no_rouge_is_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("rouge_score")]:
        monkeypatch.setitem(sys.modules, name, None)
    assert rules.score(item("open", "kite"), "kite")["correct"] == 1.0


SAMPLES: dict[str, Item] = {
    "open": item("open", "x"),
    "long_answer": item("long_answer", "x"),
    "choice": item("choice", options=("x", "y"), letter="A"),
    "all_of": item("all_of", "x"),
    "label": item("label", "1"),
    "ranking": item("ranking", labels={"1": 1}, cuts=ranking_cuts(1000)),
    "summary": item("summary", "x"),
    "string_em": item("string_em", groups=[["x"]]),
    "qampari": item("qampari", groups=[["x"]]),
    "set_f1": item("set_f1", nodes=["x"]),
    "only_label": item("only_label", "x", labels=("x",)),
    "recite": item("recite", "x", prefix=""),
}


@pytest.mark.parametrize("rule", rules.RULES)
def test_a_rule_gives_the_metrics_that_it_names(rule: str) -> None:
    assert tuple(rules.score(SAMPLES[rule], "x", with_rouge=True)) == rules.RULES[rule].metrics
    assert rules.RULES[rule].headline in rules.RULES[rule].metrics


# --- what a row must have ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (item("open"), "needs a gold answer"),
        (item("choice", "red", options=("red", "blue")), "needs 'letter'"),
        (item("choice", "red", letter="C", options=("red", "blue")), "'C' is not one of A to B"),
        (item("choice", "red", letter="A"), "needs options"),
        (item("choice", "red", letter=3, options=("red",)), "cannot be read"),
        (item("ranking", "1"), "needs 'labels'"),
        (item("ranking", labels={"1": "high"}, cuts=(1,)), "'labels' cannot be read"),
        (item("string_em"), "needs 'groups'"),
        (item("qampari", groups=[]), "'groups' cannot be read"),
        (item("qampari", groups=["a"]), "'groups' cannot be read"),
        (item("set_f1"), "needs 'nodes'"),
        (item("only_label", "office"), "needs 'labels'"),
        (item("recite", "xy"), "needs 'prefix'"),
        (item("nothing", "a"), "Unknown scoring rule 'nothing'"),
    ],
)
def test_a_row_that_cannot_be_scored_is_an_error(asked: Item, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rules.check_reference(asked)


def test_a_checked_reference_has_the_right_types_and_nothing_else() -> None:
    asked = item("ranking", "1", labels={"1": "2"}, cuts=[1], passages=[{"text": "long"}])
    assert rules.check_reference(asked) == {"labels": {"1": 2}, "cuts": (1,)}
    assert rules.stored_reference(asked) == {"labels": {"1": "2"}, "cuts": [1]}
