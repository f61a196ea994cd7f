"""HELMET's figures to the last bit, and the corrected twins beside them."""

from __future__ import annotations

import doctest
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticlu.core.errors import UsageError
from agenticlu.evaluation.scoring import answers, canonical, final, helmet, rouge
from agenticlu.evaluation.scoring import answers as choices
from agenticlu.evaluation.scoring import answers as pointback
from agenticlu.evaluation.scoring import helmet as alce


def test_worked_examples_of_the_docstrings_hold() -> None:
    found = [doctest.testmod(module) for module in (answers, canonical, final, helmet, rouge)]
    assert sum(one.attempted for one in found) > 10
    assert sum(one.failed for one in found) == 0


# --- HELMET's text metrics --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The U.S.A., a land", "usa land"),
        ("well-known", "wellknown"),  # punctuation is deleted, nothing put in its place
        ("Ångström’s – 3", "ångström’s – 3"),  # accents and other punctuation stay
        ("A", ""),
        ("theatre an aviary", "theatre aviary"),
        (" \t\n", ""),
    ],
)
def test_normalize(text: str, normal: str) -> None:
    assert helmet.normalize(text) == normal


def test_empty_normalised_gold_always_scores_as_in_helmet_and_never_when_corrected() -> None:
    assert helmet.substring_exact_match("anything", ["A"])
    assert helmet.exact_match("", ["the"])
    assert not answers.word_match("anything", ["A"])
    assert not answers.matches("", ["the"])
    assert not answers.word_match("anything", ["…"])
    assert answers.matches("A", ["a"])  # the letter itself is an answer


def test_short_golds_match_inside_words_only_in_helmet() -> None:
    assert helmet.substring_exact_match("They know it", ["no"])
    assert not answers.word_match("They know it", ["no"])
    assert answers.word_match("They say no.", ["no"])


def test_golds_of_any_nesting_are_maximised_per_metric() -> None:
    nested = [["blue kite"], ["red", "red lamp"]]
    assert helmet.exact_match("a red lamp", nested)
    assert helmet.f1("red lamp shade", nested) == 2 * (2 / 3) * 1 / (2 / 3 + 1)
    with pytest.raises(UsageError):
        helmet.exact_match("x", [])


@pytest.mark.parametrize(
    ("prediction", "gold", "value"),
    [
        ("yes", "yes it is", 0),
        ("yes it is", "yes", 0),
        ("no", "No.", 1.0),
        ("noanswer", "noanswer", 1.0),
        ("blue", "red", 0),
        ("", "", 0),
        ("x x y", "x y y", 2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3)),
    ],
)
def test_f1(prediction: str, gold: str, value: float) -> None:
    assert helmet.f1(prediction, gold) == value


# --- ROUGE ------------------------------------------------------------------------------------

WORDS = [
    "running",
    "runs",
    "ran",
    "relational",
    "cat",
    "cats",
    "dogs'",
    "über",
    "x_y",
    "12",
    "3rd",
    "The",
]
TEXTS = st.lists(
    st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", " ", ". ", "\n", "\n\n"])), max_size=30
).map(lambda parts: "".join(word + end for word, end in parts))


@settings(max_examples=150, deadline=None)
@given(gold=TEXTS, prediction=TEXTS)
def test_rouge_equals_the_package_bit_for_bit(gold: str, prediction: str) -> None:
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL", "rougeLsum"], use_stemmer=True)
    expected = scorer.score(gold, prediction)
    found = rouge.rouge(prediction, gold)
    for name in ("rougeL", "rougeLsum"):
        assert found[f"{name}_f1"] == expected[name].fmeasure
        assert found[f"{name}_recall"] == expected[name].recall


def test_rouge_equals_the_package_where_lines_compete() -> None:
    """Few words in many lines: many equally long subsequences, words that run out."""
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = rouge_scorer.RougeScorer(["rougeL", "rougeLsum"], use_stemmer=True)
    rng = random.Random(1)
    partial = 0
    for size in [2, 3, 5, 9] * 15:
        vocabulary = ["kite", "lamp", "mill", "boat", "tide", "quay", "dune", "reef", "moor"][:size]
        gold, prediction = (
            "\n".join(
                " ".join(rng.choices(vocabulary, k=rng.randint(0, 9)))
                for _ in range(rng.randint(1, 12))
            )
            for _ in range(2)
        )
        expected = scorer.score(gold, prediction)
        found = rouge.rouge(prediction, gold)
        for name in ("rougeL", "rougeLsum"):
            assert found[f"{name}_f1"] == expected[name].fmeasure
            assert found[f"{name}_recall"] == expected[name].recall
        partial += 0 < expected["rougeLsum"].recall < 1
    assert partial > 20, "the guard: most cases are neither all nor nothing"


def test_long_summaries_score_in_milliseconds() -> None:
    pytest.importorskip("rouge_score")
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 8))) for _ in range(600)]

    def text() -> str:
        return "".join(rng.choice(vocabulary) + rng.choice("    \n") for _ in range(800))

    rows = [(text(), text()) for _ in range(10)]
    rouge.rouge(*rows[0])
    started = time.process_time()
    for prediction, gold in rows:
        rouge.rouge(prediction, gold)
    assert time.process_time() - started < 1.0


def test_unicode_rouge_sees_other_scripts() -> None:
    gold = "Δύο λόγια"
    assert rouge.unicode_rouge("δύο λόγια", gold)["rougeL_f1"] == 1.0


# --- parsers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "prefix", "parsed"),
    [
        ("Answer: Paris\nmore", "Answer:", "Paris"),
        ("I think\nAnswer: one\nAnswer: two", "Answer:", "one"),  # the first label wins
        ("answer: ANSWER: x", "Answer:", "x"),
        ("Answer:\nParis", "Answer:", ""),  # a label before the line end gives nothing
        ("no label here\nsecond", "Answer:", "no label here"),
        ("", "Answer:", ""),
        ("Corresponding value: abc", "corresponding value:", "abc"),
        ("label: 7", "label:", "7"),
        ("\nParis", "Answer:", ""),
    ],
)
def test_parse_output(text: str, prefix: str, parsed: str) -> None:
    assert helmet.parse_output(text, prefix) == parsed


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("Ranking: 7 > 3 > 5", {"7": 3, "3": 2, "5": 1}),
        ("[ID: 7] > [ID: 3]", {"7": 2, "3": 1}),
        ("1 > 2, then 10 > 20 > 30", {"10": 3, "20": 2, "30": 1}),  # the longest one
        ("10 > 20; 30 > 40", {"10": 2, "20": 1}),  # the first of equals
        ("7 > 3 > 7", {"7": 3, "3": 2}),  # repeats count in the length
        ("None apply", {"none apply": 1}),
        ("I did it", {"i d it": 1}),  # every 'id' goes, also inside words
    ],
)
def test_parse_rankings(text: str, scores: dict[str, float]) -> None:
    assert helmet.parse_rankings(text) == scores


# --- ranking measures -------------------------------------------------------------------------


def test_ranking_measures_by_hand() -> None:
    labels = {"a": 3, "b": 0, "c": 1, "d": 2}
    found = helmet.ranking_measures({"b": 4, "a": 3, "x": 2, "c": 1}, labels, (1, 5, 10))
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert found["NDCG@1"] == 0.0
    assert found["NDCG@5"] == round((3 / math.log2(3) + 1 / math.log2(5)) / ideal, 5)
    assert found["MAP@5"] == round((1 / 2 + 2 / 4) / 3, 5)
    assert found["Recall@5"] == round(2 / 3, 5)
    assert found["P@5"] == 0.4  # a list shorter than k is still divided by k
    assert found["P@10"] == 0.2
    assert found["MRR"] == 0.5


def test_ties_go_by_id_descending_as_strings() -> None:
    labels = {"9": 1}
    assert helmet.ranking_measures({"9": 1, "10": 1}, labels, (1,))["P@1"] == 1.0
    assert helmet.ranking_measures({"9": 1, "a": 1}, labels, (1,))["P@1"] == 0.0


def test_row_without_relevant_passages_scores_zero() -> None:
    found = helmet.ranking_measures({"a": 1}, {"a": 0}, (1, 5))
    assert set(found.values()) == {0.0}


def test_cuts_follow_the_first_row() -> None:
    assert helmet.ranking_cuts(6) == (1, 5)
    assert helmet.ranking_cuts(1000)[-1] == 1000


# --- post-processing --------------------------------------------------------------------------


def test_default_takes_the_best_of_raw_and_parsed_per_metric() -> None:
    raw = "Answer: Paris\nIt is the capital."
    metrics, parsed = helmet.score_default(raw, ["Paris"], with_rouge=False)
    assert parsed == "Paris"
    assert metrics == {"exact_match": True, "f1": 1.0, "substring_exact_match": True}


def test_first_line_of_reasoning_is_taken_for_the_answer_in_helmet_only() -> None:
    """Completion mode glues the label before the output, so reasoning is what gets parsed."""
    raw = "Answer: First, I look for the town.\nAnswer: Brellin"
    metrics, parsed = helmet.score_default(raw, ["Brellin"], with_rouge=False)
    assert parsed == "First, I look for the town."
    assert not metrics["exact_match"]
    assert answers.matches(final.parse_final_answer(raw), ["Brellin"])


def test_label_rule_scores_the_parsed_text_only() -> None:
    metrics, parsed = helmet.score_label("7 is near label: 12", "7", with_rouge=False)
    assert parsed == "12"
    assert not metrics["substring_exact_match"]


def test_ruler_recall_is_a_share_of_raw_substrings() -> None:
    assert helmet.ruler_recall("They are 12, 345.", ["12", "34", "9"]) == 2 / 3


@pytest.mark.parametrize(
    ("output", "exact", "substring"),
    [
        ("B", True, False),
        ("b. blue kite", True, True),
        ("I say B. Blue kite, of course", True, True),
        ("The answer is B", False, False),  # a letter in a sentence fails in HELMET
        ("Answer:\nB", False, False),
        ("", False, False),
    ],
)
def test_choice_rule(output: str, exact: bool, substring: bool) -> None:
    metrics, _ = helmet.score_choice(output, "B", "blue kite", with_rouge=False)
    assert (metrics["exact_match"], metrics["substring_exact_match"]) == (exact, substring)


def test_choice_gold_a_accepts_an_empty_output_in_helmet_only() -> None:
    metrics, _ = helmet.score_choice("", "A", "red", with_rouge=False)
    assert metrics["exact_match"]
    assert not choices.choice_match("", "A", ["red", "blue"])


# --- ALCE -------------------------------------------------------------------------------------


def test_alce_text_measures() -> None:
    text = alce.remove_citations(alce.clean_alce("Built by Pellisk [1][2].\n\nIt is [12]old."))
    assert text == "Built by Pellisk. It isold."
    assert alce.string_em(text, [["Oona Pellisk", "Pellisk"], ["41 minutes"]]) == (0.5, 0.0)


def test_qampari_measures() -> None:
    groups = [["Harbeck", "Harbeck Town"], ["Lorrigan"], ["Pask"]]
    found = alce.qampari_scores("Harbeck, the Lorrigan, Nowhere,.", groups)
    assert found["num_preds"] == 3
    assert found["qampari_prec"] == found["qampari_rec"] == found["qampari_rec_top5"] == 2 / 3
    six = [[name] for name in "uvwxyz"]
    assert alce.qampari_scores("u, v, w, x, y", six)["qampari_rec_top5"] == 1.0
    assert alce.qampari_scores("", six)["qampari_f1"] == 0


PASSAGES = [{"title": f"T{i}", "text": text} for i, text in enumerate(["sun", "moon", "star"], 1)]


def _entails(premise: str, hypothesis: str) -> bool:
    """Entailed when every word of the claim occurs in the premise."""
    return all(word in premise for word in hypothesis.rstrip(".").split())


def test_citations_count_recall_and_needed_ones() -> None:
    sentences = ["sun [1].", "sun moon [1][2].", "moon [1][2].", "star.", "sun [9]."]
    found = alce.citation_scores(sentences, PASSAGES, _entails)
    assert found is not None
    assert found["citation_rec"] == 3 / 5
    # 1 of 1, 2 of 2, and of [1][2] for the moon only [2]; unvalid ones are not counted
    assert found["citation_prec"] == (1 + 2 + 1) / 5
    assert alce.citation_scores([], PASSAGES, _entails) is None


def test_citation_zero_means_the_last_passage_in_helmet_only() -> None:
    row = ["star [0]."]
    loose = alce.citation_scores(row, PASSAGES, _entails)
    strict = alce.citation_scores(row, PASSAGES, _entails, num_shown=3)
    unseen = alce.citation_scores(["star [3]."], PASSAGES, _entails, num_shown=2)
    assert loose is not None
    assert strict is not None
    assert unseen is not None
    assert (loose["citation_rec"], strict["citation_rec"], unseen["citation_rec"]) == (1, 0, 0)


# --- corrected: answers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The town is Brellin. Answer: Brellin.", "Brellin"),
        ("Answer: one\nAnswer: two", "two"),
        ("**Answer:** *Brellin*", "Brellin"),
        ("Final answer:\n\nBrellin\nmore", "Brellin"),
        ("The answer is: “Brellin”.", "Brellin"),
        ("Brellin", "Brellin"),
        ("Answer:", ""),
        ("", ""),
        ("answer： 東京", "東京"),
        ("Answer: the U.S.", "the U.S."),
        ("The question has no answer in it", "The question has no answer in it"),
    ],
)
def test_parse_final_answer(text: str, answer: str) -> None:
    assert final.parse_final_answer(text) == answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("three", "3"),
        ("3.0", "3"),
        ("1,200", "1200"),
        ("one hundred and five", "105"),
        ("Forty-one minutes", "41 minutes"),
        ("3 May 1990", "1990-05-03"),
        ("May 3rd, 1990", "the 3rd of May 1990"),
        ("U.S.", "US"),
        ("50%", "50 percent"),
        ("O’Brien's", "o'brien’s"),
        ("New-York", "new york"),
        ("an otter", "otter"),
    ],
)
def test_equal_answers_match(answer: str, gold: str) -> None:
    assert answers.matches(answer, ["something else", gold])
    assert answers.matches(gold, [answer])


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("thirteen", "3"),
        ("3.5", "35"),
        ("Brellin Hill", "Brellin"),
        ("May 3, 1990", "May 4, 1990"),
        ("one thousand", "1001"),
        ("-3", "3"),
        ("know", "no"),
        ("Odra", "Ödra"),
    ],
)
def test_different_answers_do_not_match(answer: str, gold: str) -> None:
    assert not answers.matches(answer, [gold])


def test_a_figure_of_more_digits_than_python_reads_is_a_figure() -> None:
    text = "7" * 5000
    assert answers.matches(text, [text])
    assert not answers.matches(text, ["7"])
    passages = [{"title": "A", "text": "a"}]
    assert helmet.citation_scores([f"A lamp [{text}]."], passages, lambda *_: True) is not None


@given(st.text(max_size=60))
def test_an_answer_matches_itself_unless_it_has_no_words(text: str) -> None:
    assert answers.matches(text, [text]) == bool(canonical.canonical_tokens(text))
    assert isinstance(final.parse_final_answer(text), str)


# --- corrected: choices -----------------------------------------------------------------------

OPTIONS = ["red kite", "blue kite", "green lamp", "a lamp"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("[C]", "C"),
        ("B.", "B"),
        ("B)", "B"),
        ("B: blue kite", "B"),
        ("B. blue kite", "B"),
        ("B) blue kite", "B"),
        ("Option D: a lamp", "D"),
        ("Option B", "B"),
        ("Option B.", "B"),
        ("Answer: B", "B"),
        ("answer: b", "B"),
        ("**Answer:** (C)", "C"),
        ("Answer:\nB", "B"),
        ("Answer:\n\nB.", "B"),
        ("Answer: B. blue kite", "B"),
        ("Answer: A red kite", "A"),
        ("Answer: A (red kite)", "A"),
        ("Answer: A - red kite", "A"),
        ("The answer is B.", "B"),
        ("The answer is A because it flew.", "A"),
        ("Answer: A because it flew", "A"),
        ("I choose B", "B"),
        ("I choose A.", "A"),
        ("I would go with C.", "C"),
        ("I'd go with option C, I think.", "C"),
        ("The answer would be B.", "B"),
        ("It must be C", "C"),
        ("must be C", "C"),
        ("not A but B", "B"),
        ("Not A, so B", "B"),
        ("B, because it flew", "B"),
        ("A, because it flew", "A"),
        ("<answer>C</answer>", "C"),
        ("<answer> (C) </answer>", "C"),
        ("Option B is correct; option C is not.", "B"),
        ("Option C is not correct. Option B is.", None),
        ("Answer: B or C", None),
        ("Answer: either B or C", None),
        ("Answer: B and C", None),
        ("Answer: A, B", None),
        ("Answer: B/C", None),
        ("The correct option is C because (A) is wrong.", "C"),
        ("A is tempting. B is right.", "B"),
        ("Answer: A\nNo. Answer: D", "D"),
        ("\\boxed{C}", "C"),
        ("So it is \\boxed{\\text{B}}.", "B"),
        ("$\\boxed{D}$", "D"),
        ("It was the blue kite.", "B"),
        ("Answer: green lamp", "C"),
        ("Answer: a lamp", "D"),
        ("Answer: A lamp", "D"),
        ("The best choice among these is B.", "B"),
        ("The answer to the question is therefore D.", "D"),
        ("The right answer is option B", "B"),
        ("The answer is definitely B", "B"),
        ("My final answer is C!", "C"),
        ("Final answer: **D**", "D"),
        ("Final Answer B", "B"),
        ("The answer cannot be B. It is C.", "C"),
        ("The answer is not (B).", None),
        ("The answer isn't B but C.", None),
        ("I would not choose B; I pick D.", "D"),
        ("The answer is B, not A.", "B"),
        ("B rather than A: the answer is B", "B"),
        ("I choose A over B.", "A"),
        ("A is wrong. B and C are wrong, so D.", "D"),
        ("It could be A, but it must be C.", "C"),
        ("I think it's C.", "C"),
        ("I believe B is the answer", "B"),
        ("B seems the most accurate one", "B"),
        ("I'm between A and C but I'd go with A", "A"),
        ("Everything points to (B).", "B"),
        ("(A) is wrong, (C) fits best.", "C"),
        ("(A) and (B) are both plausible", None),
        ("A. red kite\nB. blue kite\nC. green lamp\nD. a lamp", None),
        ("A. red kite\nB. blue kite\nC. green lamp\nD. a lamp\nThe answer is B", "B"),
        ("A man walked by.", None),
        ("A kite is in the sky.", None),
        ("So a man came.", None),
        ("I think a kite flew.", None),
        ("The answer is a matter of taste.", None),
        ("It is a bird.", None),
        ("A", "A"),
        ("It must be a trick.", None),
        ("I choose a kite", None),
        ("The answer is A lamp", "D"),
        ("I cannot tell.", None),
        ("red kite or blue kite", None),
        ("", None),
        ("E", None),
        ("Answer: E", None),
        ("The answer is B because A is wrong", "B"),
        ("the answer is b", "B"),
        ("The answer is A and it flies.", "A"),
        ('Answer: "B"', "B"),
        ("Correct: C", "C"),
        ("Thus, option B.", "B"),
        ("That leaves C.", "C"),
        ("答案：B", "B"),
        ("選択肢B", "B"),
        ("正解はBです", "B"),
        ("B입니다", "B"),
        ("คำตอบคือ B", "B"),
        ("respuesta correcta: B", "B"),
        ("Answer：B", "B"),
        ("The options are A, B, C and D.", None),
        ("Is it A or B?", None),
        ("A-frame houses burn.", None),
        ("B-flat", None),
        ("Vitamin C helps.", None),
        ("The answer is C's neighbour", None),
        ("The letter is B", "B"),
        ("I'd say B.", "B"),
        ("I would choose (d).", "D"),
        ("Choice B", "B"),
        ("Of the options, B is the best.", "B"),
        ("the answer is c because it flew", "C"),
        ("The answer is B. Option A is tempting.", "B"),
        ("Answer: A\n\nExplanation: option B is wrong, so is C.", "A"),
        ("a. red kite", "A"),
        ("So, B it is.", "B"),
        ("I pick the letter C", "C"),
        ("The answer is not A but B.", "B"),
        ("The answer is a, b or c.", None),
        ("The answer is A, and (B) is wrong.", "A"),
        ("Answer: (A) or (B)", None),
        ("Answer: Option C", "C"),
        ("The answer is Option B.", "B"),
        ("I would choose Option (D)", "D"),
        ("The Answer Is Option A because it flew", "A"),
        ("Answer: Option A or Option B", None),
        ("Answer: <B>", "B"),
        ("Correct answer - B", "B"),
        ("Answer — C. green lamp", "C"),
        ("My answer - a long story - is that it is C", "C"),
        ("A correct - B incorrect", None),
        ("B: Correct\nC: incorrect", "B"),
        ("A. Wrong\nB. False\nC. Right\nD. Not correct", "C"),
        ('{"reason": "A kite flew.", "answer": "B"}', "B"),
        ("B [3]", "B"),
        ("Answer: (C) <para 3><para 4>", "C"),
        ("The blue kite [2].", "B"),
        ("The correct option is \\(B\\).", "B"),
        ("<<B>>", "B"),
        ("[[B]]", "B"),
        ("#### B", "B"),
        ("La respuesta correcta es B.", "B"),
        ("正确答案是B", "B"),
        ("정답은 B입니다", "B"),
        ("{'answer': 'C', 'reason': 'A is red'}", "C"),
    ],
)
def test_parse_choice(text: str, letter: str | None) -> None:
    assert choices.parse_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: I", "I"),
        ("So I think it flew.", None),
        ("I, for one, cannot tell.", None),
        ("The answer is I because it flew", "I"),
        ("(i)", "I"),
        ("J", None),
    ],
)
def test_the_letter_i_is_told_from_the_pronoun(text: str, letter: str | None) -> None:
    assert choices.parse_choice(text, [f"option number {i}" for i in range(9)]) == letter


@pytest.mark.parametrize(
    "unit", [" ", "\n", "\t\n", "answer ", "1 ", "so ", "(A) ", "A ", "*", "I, "]
)
def test_choices_are_read_in_linear_time(unit: str) -> None:
    """Models loop; a reply must not cost more than its length is worth."""
    for start, end in (("", ""), ("A", "x"), ("Answer:", "x"), ("option", " A")):
        began = time.process_time()
        choices.parse_choice(start + unit * (20_000 // len(unit)) + end, OPTIONS)
        assert time.process_time() - began < 5, "seconds, of what takes half a one at most"


@given(st.text(alphabet="ABCDE abcorisnt.,:()\n", max_size=80))
def test_any_text_settles_on_a_letter_or_on_none(text: str) -> None:
    assert choices.parse_choice(text, OPTIONS) in {None, "A", "B", "C", "D"}


def test_a_long_reply_is_read_at_once() -> None:
    text = "So it is a kite and the option is, I think, of no use (x). " * 3000
    started = time.process_time()
    assert choices.parse_choice(text + "Answer: C", OPTIONS) == "C"
    assert choices.parse_choice(text, OPTIONS) is None
    assert time.process_time() - started < 3.0


def test_piece_scores() -> None:
    assert pointback.piece_scores((1, 2, 3), (2, 9)) == {
        "point_precision": 1 / 3,
        "point_recall": 0.5,
        "point_complete": 0.0,
    }
    assert pointback.piece_scores((), (2,))["point_precision"] == 0.0
