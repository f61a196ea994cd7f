"""Replies that come in parts, told from the thoughts between them."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agenticlu.dialogue.thoughts import SaidText, split_thinking

PARTS = st.sampled_from(
    (
        *("<think>", "</think>", "[THINK]", "[/think]", "<|end|>", "<|channel|>", "analysis"),
        *("final", "<|message|>", "<|start|>", "<|constrain|>", "json", "a", " ", "<", "\n", "`"),
        *("Ada wrote it.", "x" * 200, "[thin", "</thi"),
    )
)


@settings(max_examples=500)
@given(
    st.lists(PARTS, max_size=12).map("".join),
    st.lists(st.integers(0, 40), max_size=40),
    st.booleans(),
)
@example("<think>a</think> b <THINK>c</THINK>d", [1] * 40, False)
@example(
    "<|channel|>analysis<|message|>No.<|end|><|start|>assistant<|channel|>final<|message|>y",
    [5],
    False,
)
@example("no thought</think> yes", [4, 3], False)
@example("`</think>` is a tag", [1] * 20, False)
def test_parts_add_up_to_the_reply(text: str, cuts: list[int], opened: bool) -> None:
    said = SaidText(opened=opened)
    told, at = "", 0
    for cut in cuts:
        told += said.feed(text[at : at + cut])
        at += cut
        assert told == said.told
    told += said.feed(text[at:])
    reply = split_thinking(text, opened=opened).reply.strip()
    rest = said.finish(reply)
    if reply.startswith(told):
        assert told + rest == reply
    else:  # a tag said afterwards that all before it had been thought
        assert rest == ""
        assert "</think>" in text or "[/think]" in text or "final" in text


def test_plain_text_is_told_as_it_comes() -> None:
    said = SaidText()
    parts = [said.feed(part) for part in ("  Ada", " wrote ", "it <b", "> [1]", " `<", "`", "\n\n")]
    assert parts == ["Ada", " wrote", " it <b", "> [1]", " `", "<`", ""]
    assert said.finish("Ada wrote it <b> [1] `<`") == ""


def test_a_thought_that_only_its_end_shows_is_not_gone_on_with() -> None:
    said = SaidText()
    assert said.feed("So it is Ada.") == "So it is Ada."
    assert said.feed("</think>Ben") == ""
    assert said.finish("Ben") == "", "the parts cannot be mended: the reply takes their place"


@pytest.mark.parametrize("end", ["</think>Ben", ""])
def test_what_may_be_a_thought_waits(end: str) -> None:
    said = SaidText(doubts=lambda text: text.startswith("So"))
    assert [said.feed(part) for part in ("So ", "it is", " Ada.")] == ["", "", ""]
    assert said.feed(end) == ("Ben" if end else "")
    if not end:
        assert said.finish("So it is Ada.") == "So it is Ada."


def test_each_part_costs_the_same_however_long_the_thought_is() -> None:
    said = SaidText(opened=True)
    for _ in range(20_000):
        said.feed("It may be so. <")
        assert len(said._pending) < 100
