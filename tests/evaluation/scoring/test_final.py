"""The answer that a reply ends on: labels, marks, citations; and choices of many options."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.options import option_letter
from agenticlu.evaluation.scoring.answers import parse_choice
from agenticlu.evaluation.scoring.final import parse_final_answer

MARKS = [
    *("<para 3>", "<para 3><para 4>", "<para 3>-<para 5>", "<para 3>, <para 7>", "</para 3>"),
    *("[3]", "[3][4]", "[3, 4]", "[^2]", "[[1]](http://a.example/x)", "[citation:3]", "[cite: 3]"),
    *("【4†source】", "<sup>2</sup>", "(paragraph 3)", "(Paragraphs 3 and 4)", "(see page 12)"),
    *("(p. 4)", "(Source: the letter)", "[Section 2]", "¹", "†"),
]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("form", ["{} {}", "{}.{}", '"{}" {}', "**{}** {}", "{} {}."])
def test_citations_are_no_part_of_an_answer(form: str, mark: str) -> None:
    for label in ("It burnt down.\nAnswer: ", "**Answer:** ", "The answer is ", ""):
        assert parse_final_answer(label + form.format("Ada Larkin", mark)) == "Ada Larkin"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: Ada [1] and Bo [2]", "Ada and Bo"),
        ("Answer: \\boxed{Ada Larkin}", "Ada Larkin"),
        ("__Answer:__ Ada", "Ada"),
        ("Respuesta final: Ada", "Ada"),
        ("Answer: [Ada](https://a.example)", "Ada"),
        ("Answer: Ada (from <para 3>)", "Ada"),
        ("Answer: Ada (as stated in paragraph 3)", "Ada"),
        ("Answer: Ada [Doc 2, p. 3]", "Ada"),
        ("Answer: Ada [1†L3-L5]", "Ada"),
        ("Answer: Ada \\cite{vell}", "Ada"),
        ("<|channel|>final<|message|>Answer: Ada<|return|>", "Ada"),
        ("Answer: Ada<｜end▁of▁sentence｜>", "Ada"),
        ("<response>Ada</response>", "Ada"),
        ('{"Answer": {"text": "Ada"}}', "Ada"),
        ('Sure: ```json\n{"answer": "Ada"}\n```', "Ada"),
        ('Answer: {"answer": "Ada"}', "Ada"),
        ("Answer: so\n\\boxed{\\text{Ada}}", "Ada"),
        ("It is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{cut", "\\boxed{cut"),
        ("<answer>Ada</answer>", "Ada"),
        ("<think>Bo?</think><answer>\nAda\n</answer> as I said", "Ada"),
        ("<final_answer>Ada", "Ada"),
        ('{"reason": "Bo was away.", "answer": "Ada"}', "Ada"),
        ('```json\n{"answer": "Ada"}\n```', "Ada"),
        ('{"answer": 42}', "42"),
        ("```\nAda\n```", "Ada"),
        ("Answer: Answer: Ada", "Ada"),
        ("Answer: Ada\n\nAnswer:", "Ada"),
        ("Answer:\n\n  Ada\nThat is all.", "Ada"),
        ("**Answer: Ada**", "Ada"),
        ("### Answer\nAda", "Ada"),
        ("**Final Answer**\n\nAda", "Ada"),
        ("Answer: *Ada*", "Ada"),
        ("Final answer is Ada", "Ada"),
        ("She built it. So the answer is Ada.", "Ada"),
        ("We add them.\n#### 42", "42"),
        ("A: Ada", "Ada"),
        ("Answer: Ada — <para 3>", "Ada"),
        ("Answer: Ada; [3]", "Ada"),
        ("Answer: Ada (Document [3])", "Ada"),
        ("Answer:\n- Ada", "Ada"),
        ("Answer:\n1. Ada\n2. Bo\n\nBoth built it.", "Ada, Bo"),
        ("Answer: <b>Ada</b>", "Ada"),
        ("Answer: AT&amp;T", "AT&T"),
        ("Answer: Ada<|im_end|>\n<|im_start|>user", "Ada"),
        ("Answer: Ada</s>", "Ada"),
        ("Final answer – Ada", "Ada"),
        ("Final Answer: The final answer is Ada. I hope it is correct.", "Ada"),
        ("[ANSWER]Ada[/ANSWER]", "Ada"),
        ("Short answer: Ada\nLong answer: Ada built it.", "Ada"),
        ("Answer:\nAnswer:\n", ""),
        ("答案：北京", "北京"),
        ("答案是北京。", "北京"),
        ("答え：東京", "東京"),
        ("정답: 서울", "서울"),
        ("Antwort: Berlin", "Berlin"),
        ("Die Antwort ist Berlin.", "Berlin"),
        ("Réponse : Paris", "Paris"),
        ("Respuesta: Madrid", "Madrid"),
        ("Ответ: Москва", "Москва"),
        ("الجواب: القاهرة", "القاهرة"),
        ("उत्तर: दिल्ली", "दिल्ली"),
        # What is an answer, although it looks like a mark.
        ("Answer: -3", "-3"),
        ("Answer: A*", "A*"),
        ("**Answer: A**", "A"),
        ("*Answer: A*", "A"),
        ("Answer: C++.", "C++"),
        ("Answer: C#", "C#"),
        ("Answer: .NET", ".NET"),
        ("Answer: x²", "x²"),
        ("Answer: 40 km²", "40 km²"),
        ("Answer: [3]", "[3]"),
        ("Answer: <para 3>", "<para 3>"),
        ("Answer: Ada Lovelace (1815)", "Ada Lovelace (1815)"),
        ("Answer: 3 [units]", "3 [units]"),
        ("Answer: $5", "$5"),
        ("The answer is not told.", "The answer is not told"),
    ],
)
def test_the_answer_is_told_from_what_stands_around_it(text: str, answer: str) -> None:
    assert parse_final_answer(text) == answer


@given(st.text(st.sampled_from("Answer: <para 3>[]()\\boxed{}*`\"'.#\n 答案¹"), max_size=80))
def test_any_reply_ends_on_some_answer(text: str) -> None:
    found = parse_final_answer(text)
    assert found == found.strip()
    assert parse_final_answer(f"{text}\nAnswer: Ada Larkin") in ("Ada Larkin", found) or "<" in text


@pytest.mark.parametrize(
    "unit",
    ["Answer:", "answer is ", "<para 3> ", "[3] ", "[3, ", "(see ", "\\boxed{", "<answer>", "```\n",
     '{"answer": ', "*", '"', "#", " ", "\n", "- ", "I hope ", "answer ", "<b>", "&amp;",
     "<|im_end|>", "A: ", "¹", ". "],
)  # fmt: skip
def test_final_answers_are_read_in_linear_time(unit: str) -> None:
    text = unit * (40_000 // len(unit))
    began = time.process_time()
    parse_final_answer(text)
    parse_final_answer(f"x{text}x")
    assert time.process_time() - began < 4, "seconds, of what takes half a one at most"


# --- Choices ---

MANY = [f"the lamp of {name}ville" for name in map(option_letter, range(30))]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: AB", "AB"),
        ("I choose AB.", "AB"),
        ("I think that none of them will do", None),
        ("The answer is (ac).", "AC"),
        ("AA", "AA"),
        ("AD. the lamp", "AD"),
        ("Answer: B", "B"),
        ("\\boxed{AA}", "AA"),
        ("It was the lamp of ACville.", "AC"),
        ("Answer: to the north", None),
        ("Answer: AE", None),
        ("", None),
    ],
)
def test_more_options_than_letters(text: str, letter: str | None) -> None:
    assert parse_choice(text, MANY) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: 3", "C"),
        ("The answer is option 2.", "B"),
        ("4", "D"),
        ("(1)", "A"),
        ("1. red", "A"),
        ("Answer: C", "C"),
        ("Answer: blue", "B"),
        ("Answer: 5", None),
        ("Answer: 30 lamps", None),
    ],
)
def test_options_may_be_called_by_numbers(text: str, letter: str | None) -> None:
    options = ["red", "blue", "green", "grey"]
    assert parse_choice(text, options, ["1", "2", "3", "4"]) == letter
    assert parse_choice(text, options, ["A", "B", "C", "D"]) == parse_choice(text, options)


def test_an_option_that_is_a_number_is_told_from_the_number_of_an_option() -> None:
    assert parse_choice("Answer: 2", ["4", "3", "2", "1"], ["1", "2", "3", "4"]) == "C"
    assert parse_choice("答案：Ｂ", ["red", "blue"]) == "B"
    assert parse_choice("Die Antwort ist B.", ["red", "blue"]) == "B"
