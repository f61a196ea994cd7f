from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.verdicts import parse_verdict, strip_thinking

AWKWARD: list[tuple[str, str | None]] = [
    # plain
    ("yes", "yes"),
    ("Yes.", "yes"),
    ("NO!!!", "no"),
    ("Maybe", "maybe"),
    ("  no  \n", "no"),
    ("yes yes yes", "yes"),
    ("Yes, the passage names her home.", "yes"),
    ("No, but it mentions the lamp.", "no"),
    ("Yes, but no mention of the town.", "yes"),
    ("Maybe not.", "maybe"),
    ("maybe yes", "maybe"),
    # whole words only
    ("I know... maybe", "maybe"),
    ("The notebook is known to all.", None),
    ("Nobody knows; nothing at noon.", None),
    ("Yesterday was nice.", None),
    ("not", None),
    ("It was a no-go area, yes.", "yes"),
    ("no-one", None),
    # labels
    ("**Answer:** no", "no"),
    ("Answer: yes", "yes"),
    ("answer is yes", "yes"),
    ("The answer is: No.", "no"),
    ("Final Answer: **Maybe**", "maybe"),
    ("Verdict = no", "no"),
    ("Answer - yes", "yes"),
    ("Answer：no", "no"),
    ("Answer\n\nno", "no"),
    ("Answer: yes. Wait. Answer: no", "no"),
    ("Yes it seems so at first. Answer: no", "no"),
    ("It says yes and no in places, \\boxed{no}", "no"),
    ("Answer:", None),
    ("Answer: not enough information", None),
    # markup
    ("**No**", "no"),
    ("`no`", "no"),
    ("> no", "no"),
    ("- no", "no"),
    ("# Yes", "yes"),
    ("1. yes", "yes"),
    ("“No.”", "no"),
    ("'yes'", "yes"),
    ("<answer>no</answer>", "no"),
    ('{"answer": "yes"}', "yes"),
    ('```json\n{"verdict": "maybe"}\n```', "maybe"),
    ('{"relevant": true}', "yes"),
    ("✅ Yes", "yes"),
    # undecided
    ("", None),
    ("   \n\t", None),
    ("?", None),
    ("Yes No", None),
    ("no... yes", None),
    ("yes or no", None),
    ("yes/maybe/no", None),
    ("Yes, maybe or no? No.", "no"),
    ("Yes or no? I would say yes.", "yes"),
    ("yes and no", "maybe"),
    ("not sure", "maybe"),
    ("I'm not sure.", "maybe"),
    ("Unclear", "maybe"),
    ("Perhaps.", "maybe"),
    ("I cannot tell from this.", "maybe"),
    ("It says 'No smoking'. So yes", None),
    # negation, idiom, change of mind
    ("The answer is not yes.", None),
    ("I would not say no.", None),
    ("It isn't no", None),
    ("No doubt about it: yes.", "yes"),
    ("no doubt", None),
    ("no, wait, yes", "yes"),
    ("Yes. Actually, no.", "no"),
    ("No — I mean maybe", "maybe"),
    # cut off
    ("Ye", None),
    ("N", None),
    ("may", None),
    ("The passage says that", None),
    ("Yes, becau", "yes"),
    # thinking
    ("<think>no no no</think>yes", "yes"),
    ("<think>\nIs it? yes\n</think>\n\nNo.", "no"),
    ("It might be yes. </think> no", "no"),
    ("<think> yes, I believe", None),
    # other scripts and languages
    ("Ｙｅｓ", "yes"),
    ("ja", "yes"),
    ("Nein.", "no"),
    ("Oui, bien sûr.", "yes"),
    ("Sí.", "yes"),
    ("нет", "no"),
    ("Да", "yes"),
    ("是", "yes"),
    ("不是。", "no"),
    ("はい、そうです", "yes"),
    ("いいえ", "no"),
    ("vielleicht", "maybe"),
    ("Ja gut aber", None),
    ("si el texto", None),
    ("nope", "no"),
    ("Yeah!", "yes"),
    ("false", "no"),
]


def test_the_table_is_long_and_has_every_outcome() -> None:
    assert len(AWKWARD) >= 60
    assert len({reply for reply, _ in AWKWARD}) == len(AWKWARD)
    assert {verdict for _, verdict in AWKWARD} == {"yes", "maybe", "no", None}


@pytest.mark.parametrize(("reply", "verdict"), AWKWARD, ids=[repr(r)[:40] for r, _ in AWKWARD])
def test_awkward_replies(reply: str, verdict: str | None) -> None:
    assert parse_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("not sure", None),
        ("Maybe.", None),
        ("yes and no", None),
        ("Yes.", "yes"),
        ("yes or no", None),
        ("vielleicht", None),
    ],
)
def test_a_verdict_is_always_one_of_the_choices(reply: str, verdict: str | None) -> None:
    assert parse_verdict(reply, ("yes", "no")) == verdict


def test_other_choices() -> None:
    choices = ("correct", "incorrect")
    assert parse_verdict("Incorrect: the town is wrong.", choices) == "incorrect"
    assert parse_verdict("The answer is correct.", choices) == "correct"
    assert parse_verdict("It is not correct.", choices) is None
    assert parse_verdict("ja", choices) is None
    assert parse_verdict("b", ("A", "B")) == "B"


@given(st.text(max_size=60), st.sampled_from(["yes", "no", "maybe"]))
def test_any_text_is_a_choice_or_none_and_a_last_label_wins(text: str, choice: str) -> None:
    assert parse_verdict(text) in {"yes", "maybe", "no", None}
    if "<" not in text and "no " not in text.lower():
        assert parse_verdict(f"{text}\nAnswer: {choice}") == choice


def test_thinking_is_stripped() -> None:
    assert strip_thinking("<think>a</think> b <THINK>c</THINK>d") == "b d"
    assert strip_thinking("no thinking here") == "no thinking here"
    assert strip_thinking("<think>never closed") == ""
    assert strip_thinking("kept <think>never closed") == "kept"
    assert strip_thinking("opened by the template</think> b") == "b"
    assert strip_thinking("<think>a <think>b</think> c") == "c"
    assert strip_thinking("<think>" * 20000) == "", "in linear time"
