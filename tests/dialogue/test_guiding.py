"""What guided replies may be: quotes of the pieces, spans of the quotes, and a given hint."""

from __future__ import annotations

import pytest

from agenticlu.dialogue.guiding import is_about, list_replies, list_spans

PIECES = (
    "Nikola Tesla was born in Smiljan in 1856. He died in New York, alone.",
    "The hotel bill of 1943 was paid by Ada Vell (a friend), who kept it.",
)


def test_findings_are_sentences_that_bear_on_the_question() -> None:
    found = list_replies("sub_answer", PIECES, "Where was Tesla born?")
    assert found == ("Nikola Tesla was born in Smiljan in 1856.",)
    unrelated = list_replies("sub_answer", PIECES, "How tall is the mast?")
    assert len(unrelated) == 3, "where none bears on it, all may be quoted"


@pytest.mark.parametrize(
    ("question", "holds", "lacks"),
    [
        ("When was Tesla born?", {"1856"}, {"Smiljan", "born"}),
        ("Who paid the bill?", {"Ada Vell"}, {"paid by Ada Vell", "1943", "friend"}),
        ("Where did he die?", {"New York", "Smiljan"}, {"in New York", "New York alone"}),
    ],
)
def test_answers_are_spans_of_the_kind_that_is_asked_for(
    question: str, holds: set[str], lacks: set[str]
) -> None:
    found = {one.removeprefix("Answer: ") for one in list_replies("answer", PIECES, question)}
    assert holds <= found
    assert not lacks & found


def test_a_hint_is_used_where_the_pieces_hold_it_and_only_there() -> None:
    question = "What did Tesla die with in New York?"
    plain = list_replies("sub_answer", PIECES, question)
    assert "The hotel bill of 1943 was paid by Ada Vell (a friend), who kept it." not in plain
    hinted = list_replies("sub_answer", PIECES, question, ("a bill", "the hotel bill"))
    assert hinted == ("The hotel bill of 1943 was paid by Ada Vell (a friend), who kept it.",)
    assert list_replies("answer", hinted, question, ("the hotel bill",)) == (
        "Answer: the hotel bill",
    )
    assert list_replies("sub_answer", PIECES, question, ("a lamp",)) == plain


def test_spans_end_with_their_clause() -> None:
    assert "New York, alone" not in set(list_spans(PIECES[0]))
    assert {"New York", "alone"} <= set(list_spans(PIECES[0]))


def test_a_clarification_about_nothing_that_was_asked_is_not_worth_a_round() -> None:
    assert is_about("In which year did Tesla die?", "When did Tesla die?")
    assert not is_about("What do you need to know first?", "When did Tesla die?")
    assert not is_about("What Tesla did was die.?", "When did Tesla die?")
