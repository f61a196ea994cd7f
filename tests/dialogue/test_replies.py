from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agenticlu.dialogue.replies import is_refusal, parse_judgement, parse_verdict
from agenticlu.dialogue.thoughts import SplitReply, split_thinking, strip_thinking

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
    assert strip_thinking("so it is</think>\n b") == "b"
    assert strip_thinking("I think so") == "I think so"
    assert strip_thinking(" as sampled\n") == " as sampled\n", "nothing to strip, nothing changed"


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("[THINK]it may be no[/THINK]yes", "yes"),
        ("<thought>no, not sure</thought>yes", "yes"),
        ("<seed:think>no?</seed:think>yes", "yes"),
        ("<reasoning>\nno\n</reasoning>\n\nyes", "yes"),
        ("<Thinking>no</THINKING> yes", "yes"),
        ("no[/THINK] yes", "yes"),
        ("[THINK]no", ""),
        (
            "<|channel|>analysis<|message|>Perhaps no.<|end|><|start|>assistant"
            "<|channel|>final<|message|>yes<|return|>",
            "yes",
        ),
        (
            "<|start|>assistant<|channel|>analysis<|message|>no<|end|><|start|>assistant"
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            "",
        ),
        ("<|channel|>analysis<|message|>Perhaps no, cut o", ""),
        ("<|channel|>analysis", ""),
        ("<|channel|>final<|message|>yes", "yes"),
        ("[thin king] no", "[thin king] no"),
    ],
)
def test_every_familys_tags_are_known(reply: str, rest: str) -> None:
    assert strip_thinking(reply) == rest
    if rest == "yes":
        assert parse_verdict(reply, ("yes", "no")) == "yes"
        assert parse_judgement(reply) == 1.0


PARTS = st.sampled_from(
    (
        *("<think>", "</think>", "[THINK]", "[/THINK]", "<|end|>", "<|channel|>", "analysis"),
        *("final", "<|message|>", "<|start|>", "a", " ", "<", "\n"),
    )
)


@pytest.mark.parametrize(
    ("text", "thought", "is_cut", "opened"),
    [
        ("<think>a</think>b", "a", False, False),
        ("<think>a</think>b<think>c", "a\nc", True, False),
        ("a</think>b", "a", False, True),
        ("[THINK]a", "a", True, False),
        ("<think>\n\n</think>\n\nb", "", False, False),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant", "a", False, False),
        ("<|channel|>analysis<|message|>a", "a", True, False),
        ("b<|end|>", "", False, False),
        ("b", "", False, False),
    ],
)
def test_thoughts_are_told_from_replies(text: str, thought: str, is_cut: bool, opened: bool):
    found = split_thinking(text)
    assert (found.thinking, found.is_cut, found.opened) == (thought, is_cut, opened)
    if not opened and "think" in text.lower():
        inner = text.partition("<think>")[2] or text.partition("[THINK]")[2]
        assert split_thinking(inner, opened=True).thinking == found.thinking


@given(st.lists(PARTS, max_size=12).map("".join))
@example("<|channel|>analysis<think></think><|message|>")
def test_stripping_twice_is_stripping_once(text: str) -> None:
    assert strip_thinking(strip_thinking(text)) == strip_thinking(text)


UNITS = (" ", "\n", "no ", "yes or ", "answer is ", "<", "<think>", "</think>", "[", "{", "{a:")
UNITS += (
    " \n",
    '{"verdict":',
    "sorry, ",
    "wait, ",
    "*",
    '"',
    "not ",
    "<|channel|>final",
    "\\boxed{",
)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("start", "end"), [("", ""), ("answer", "x"), ('{"verdict": "', '"x')])
def test_replies_are_read_in_linear_time(unit: str, start: str, end: str) -> None:
    text = start + unit * (40_000 // len(unit)) + end
    began = time.perf_counter()
    strip_thinking(text)
    parse_verdict(text)
    parse_judgement(text)
    parse_judgement(text, "length")
    is_refusal(text)
    assert time.perf_counter() - began < 5, "seconds, of what takes a few hundredths"


LETTERS = st.text("abcdefghijklmnopqrstuvwxyzäöüß", max_size=6)


@st.composite
def near_words(draw: st.DrawFn) -> str:
    """Words that hold a choice without being one: know, notebook, nowhere, eyes, yesterday."""
    before, after = draw(LETTERS), draw(LETTERS)
    choice = draw(st.sampled_from(["yes", "no", "maybe"]))
    word = f"{before}{choice}{after}"
    # These few are words for yes and no themselves.
    return "known" if not before + after or word in {"non", "nope"} else word


@given(st.lists(near_words(), min_size=1, max_size=8), st.sampled_from([str, str.title, str.upper]))
@example(["know", "notebook", "nothing", "nowhere", "another", "eyes"], str)
def test_a_word_that_holds_a_choice_never_counts(words: list[str], form) -> None:
    text = form(" ".join(words))
    assert parse_verdict(text) is None
    assert parse_verdict(f"Answer: {text}.") is None
    assert parse_judgement(text) is None
    assert parse_judgement(f"Verdict: {text}.") is None
    assert parse_judgement(json.dumps({"explanation": "x", "verdict": text})) is None


@given(st.lists(near_words(), max_size=5), st.sampled_from(["yes", "no", "maybe"]))
def test_nor_does_it_hide_a_choice(words: list[str], choice: str) -> None:
    assert parse_verdict(f"{' '.join(words)}. Answer: {choice}") == choice
    assert parse_verdict(f"{choice}, {' '.join(words)}") == choice


JUDGED: list[tuple[str, float | None]] = [
    # as asked for
    ('{"explanation": "same town", "verdict": "yes"}', 1.0),
    ('{"explanation": "No such town is known", "verdict": "no"}', 0.0),
    ('{"verdict": "no", "explanation": "yes, it is another town"}', 0.0),
    ('  \n{"explanation":"x","verdict":"yes"}\n\n', 1.0),
    ('{\n  "explanation": "x",\n  "verdict": "no"\n}', 0.0),
    ('{"explanation": "He said \\"no\\"; {braces} too", "verdict": "yes"}', 1.0),
    # nearly as asked for
    ('{"explanation":"x","Verdict":"Yes"}', 1.0),
    ('{"EXPLANATION": "X", "VERDICT": "NO"}', 0.0),
    ('{"explanation": "x", "judgment": "yes"}', 1.0),
    ('{"explanation": "x", "verdict": "Yes, it is the same."}', 1.0),
    ('{"explanation": "x", "verdict": " no. "}', 0.0),
    ('{"explanation": "x", "verdict": "**no**"}', 0.0),
    ('{"explanation": "x", "verdict": "correct"}', 1.0),
    ('{"explanation": "x", "verdict": "incorrect"}', 0.0),
    ('{"explanation": "x", "verdict": "true"}', 1.0),
    ('{"explanation": "x", "verdict": true}', 1.0),
    ('{"verdict": false, "explanation": "yes and no"}', 0.0),
    ('{"explanation": "x", "verdict": 1}', 1.0),
    ('{"explanation": "x", "verdict": 0}', 0.0),
    ('{"explanation": "x", "verdict": 0.0}', 0.0),
    ('{"explanation": "x", "verdict": "1"}', 1.0),
    ('{"explanation": "x", "verdict": "ja"}', 1.0),
    ('{"result": {"explanation": "x", "Verdict": "no"}}', 0.0),
    ('[{"explanation": "x", "verdict": "yes"}]', 1.0),
    # not quite JSON
    ('{"explanation": "x", "verdict": "yes",}', 1.0),
    ("{'explanation': \"no match\", 'verdict': 'yes'}", 1.0),
    ("{'explanation': 'it\\'s the \"same\"', 'verdict': 'no', }", 0.0),
    ("{'verdict': False, 'explanation': 'x'}", 0.0),
    ('{explanation: "x", verdict: "no"}', 0.0),
    ("{verdict: yes}", 1.0),
    ("{explanation: it is the same town, verdict: yes}", 1.0),
    ("{'explanation': 'it's the same', 'verdict': 'yes'}", 1.0),
    ('{"explanation": "It is the same, "verdict": "yes"}', 1.0),
    ('{"explanation": "a\nb", "verdict": "yes"}', 1.0),
    ("{“explanation”: “x”, “verdict”: “no”}", 0.0),
    ("｛＂verdict＂：＂ｎｏ＂｝", 0.0),
    # something around it
    ('```json\n{"explanation": "a", "verdict": "Yes."}\n```', 1.0),
    ('Sure! {"verdict": true}', 1.0),
    ('Here is my judgement:\n{"explanation": "x", "verdict": "no"}\nLet me know!', 0.0),
    ('The set {a, b} matters. {"explanation": "x", "verdict": "no"}', 0.0),
    ('{"explanation":"x {y} z","verdict":"no"} {"explanation":"b","verdict":"yes"}', 1.0),
    ('Draft: {"explanation": oops}\n{"explanation": "b", "verdict": "yes"}', 1.0),
    ('{"note": "no"} {"explanation": "b", "verdict": "yes"} {"end": true}', 1.0),
    ('<think>{"verdict": "no"} hmm</think>{"explanation":"ok","verdict":"yes"}', 1.0),
    ('No... </think>\n{"explanation": "ok", "verdict": "yes"}', 1.0),
    ("<think>The verdict: no", None),
    # cut off
    ('{"explanation": "cut off in the mid', None),
    ('{"explanation": "It is a yes/no question.", "verdict": ', None),
    ('{"explanation": "It is a yes/no question.", "verdict": "', None),
    ('{"explanation":"No, it is right that","verd', None),
    ('{"explanation": "The candidate says verdict: no", "verdict": "yes', None),
    ('{"explanation": "x", "verdict": "y', None),
    ('{"explanation": "x", "verdict": "yes"', 1.0),
    ('{"explanation":"the verdict: no way","verdict":"yes"', 1.0),
    ('```json\n{"explanation": "x", "verdict": "no"\n```', 0.0),
    ("{\"explanation\": \"It says 'verdict': 'no'", None),
    ("{\"explanation\": \"It says {'verdict': 'no'}", None),
    ('{"explanation": "It replied {"verdict": "no"} which is', None),
    ('{"explanation": "It says \\"verdict\\": \\"no\\"', None),
    ('{"explanation": "x", "verdict": "yes"} Wait: {"explanation": "in fact', None),
    ("{explanation: same, verdict: no", None),
    ("{", None),
    ('{"verdict', None),
    # the template repeated
    ('{"explanation": "one short sentence", "verdict": "yes" or "no"}', None),
    ('Reply: {"explanation":"a","verdict":"yes" or "no"}\n', None),
    ('{"explanation": "one short sentence", "verdict": "yes/no"}', None),
    ('{"verdict": "yes" or "no"} -> {"explanation": "a", "verdict": "no"}', 0.0),
    # no verdict in it
    ('{"verdict": "perhaps"}', None),
    ('{"explanation": "x", "verdict": "not yes"}', None),
    ('{"explanation": "x", "verdict": "maybe"}', None),
    ('{"explanation": "x", "verdict": 2}', None),
    ('{"explanation": "x", "verdict": ["yes"]}', None),
    ('{"verdict": null}', None),
    ('{"verdict": ""}', None),
    ('{"explanation": "yes"}', None),
    ('{"answer": "no"}', None),
    ("[]", None),
    ("{}", None),
    # prose
    ("yes", 1.0),
    ("Yes.", 1.0),
    ("No.", 0.0),
    ("NO!!!", 0.0),
    ("**Yes**", 1.0),
    ("Correct.", 1.0),
    ("Wrong!", 0.0),
    ("true", 1.0),
    ("0", 0.0),
    ("verdict: no", 0.0),
    ("The verdict is yes.", 1.0),
    ("**Answer:** no", 0.0),
    ("They name the same town.\nFinal answer: yes", 1.0),
    ("They name another town.\n\n**Verdict:** No.", 0.0),
    ("Yes, the candidate's answer is no different.", 1.0),
    ("No, wait, yes.", 1.0),
    ("No. The town is another one.", 0.0),
    ("No difference: it is right.", None),
    ("The candidate is right, no difference in meaning.", None),
    ("The candidate says no, the accepted answer is yes.", None),
    ("The accepted answer is yes", None),
    ("The candidate is not right.", None),
    ("I know that notebook.", None),
    ("I know... maybe", None),
    ("yes or no", None),
    ("Yes and no.", None),
    ("Yes. No.", None),
    ("The verdict is no surprise", None),
    ("Right, but the year is wrong.", None),
    ("I'm sorry, but I cannot judge this.", None),
    ("As an AI model I can give no verdict.", None),
    ("", None),
    (" \n\t", None),
    ("…", None),
    # other languages
    ("Ja.", 1.0),
    ("Nein, das ist eine andere Stadt.", 0.0),
    ("Oui", 1.0),
    ("нет", 0.0),
    ("是的。", 1.0),
    ("いいえ", 0.0),
    ("si el texto", None),
    ('{"explanation": "同じ町です", "verdict": "はい"}', 1.0),
    ('{"explanation": "die Antwort nennt eine andere Stadt", "verdict": "nein"}', 0.0),
]


def test_the_table_of_judgements_is_long_and_has_every_outcome() -> None:
    assert len(JUDGED) >= 60
    assert len({reply for reply, _ in JUDGED}) == len(JUDGED)
    assert {value for _, value in JUDGED} == {1.0, 0.0, None}


@pytest.mark.parametrize(("reply", "value"), JUDGED, ids=[repr(r)[:40] for r, _ in JUDGED])
def test_awkward_judgements(reply: str, value: float | None) -> None:
    assert parse_judgement(reply) == value


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"explanation": "x", "verdict": "yes"}', 1.0),
        ('{"explanation": "x", "verdict": "yes"}\n\nQuestion: Which', 1.0),
        ('{"explanation": "x", "verdict": "yes"}\n\nNext: {"verdict": "no"}', None),
        ('{"explanation": "x", "verdict": "no"', 0.0),
        ('{"explanation": "x", "verdict": "no', None),
        ("No", None),
        ("Yes, for the town is", None),
        ("", None),
    ],
)
def test_a_judgement_cut_off_by_the_limit(reply: str, value: float | None) -> None:
    assert parse_judgement(reply, "length") == value


def test_a_refused_judgement_is_none() -> None:
    assert parse_judgement("No.", "refused") is None


EXPLANATIONS = st.lists(
    st.text(max_size=8)
    | st.sampled_from(
        [
            "verdict",
            '"verdict": "no"',
            "{'verdict': 'yes'}",
            "no",
            "yes.",
            "\n",
            "{",
            "}",
            "Answer: no",
        ]
    ),
    max_size=5,
).map(" ".join)


@given(EXPLANATIONS, st.sampled_from(["yes", "no"]), st.booleans())
def test_a_judgement_cut_anywhere_is_the_same_or_none(said: str, verdict: str, plain: bool) -> None:
    reply = json.dumps({"explanation": said, "verdict": verdict}, ensure_ascii=plain)
    whole = float(verdict == "yes")
    if "think" not in reply:
        assert parse_judgement(reply) == whole
    for length in range(len(reply)):
        assert parse_judgement(reply[:length], "length") in (None, whole)
        assert parse_judgement(reply[:length]) in (None, whole)


@given(st.text(max_size=80), st.sampled_from(["stop", "length", "refused", "unknown"]))
def test_any_text_is_a_judgement_or_none(text: str, reason: str) -> None:
    assert parse_judgement(text, reason) in (None, 0.0, 1.0)


@pytest.mark.parametrize("text", ["{" * 50_000, '{"a":' * 20_000, "\n" * 50_000, "'" * 50_000])
def test_long_nonsense_is_read_in_little_time(text: str) -> None:
    assert parse_judgement(text) is None


REFUSALS = (
    "I'm sorry, I can't help.",
    "I’m sorry, I can’t help with that.",
    "I am sorry, but I cannot assist with this request.",
    "Sorry, I can't.",
    "Sorry, but I can't do that.",
    "I'm sorry.",
    "I cannot answer that.",
    "I can not answer this question.",
    "I can't provide that.",
    "I'm unable to answer.",
    "I am unable to help you here.",
    "I'm not able to respond to that.",
    "I apologize, but I cannot comply.",
    "I apologise for the inconvenience, but I can't answer.",
    "My apologies, I can't share that.",
    "Unfortunately, I cannot answer.",
    "I'm afraid I can't do that.",
    "As an AI, I cannot answer.",
    "As an AI language model, I can't discuss this.",
    "I must decline.",
    "I respectfully decline to answer.",
    "I won't answer that.",
    "I will not help with this.",
    "I'm not comfortable answering that.",
    "I do not feel comfortable discussing this.",
    "I am not allowed to answer.",
    "Answer: I'm sorry, I can't answer",
    "**Answer:** I cannot help with that.",
    "Final answer: I’m unable to assist.",
    "This request is against my guidelines.",
    "It would be inappropriate to answer.",
    "We cannot provide this.",
    "  \n I'm sorry, I can't help.",
)
ANSWERS = (
    "Sorry is the name of the horse",
    "Sorry",
    "I can't help but think of Brellin.",
    "I cannot say for certain, but it seems to be Brellin.",
    "I cannot give the exact year; about 1870.",
    "I do not know.",
    "I don't know.",
    "There is not enough information.",
    "The text does not say.",
    "I'm sorry, but the text does not say.",
    "I cannot answer this from the given passages.",
    "Unfortunately, the passages do not mention it.",
    "I can't tell from this paragraph.",
    "I cannot determine who it was.",
    "I'm sorry for the delay, wrote Ada.",
    "I am sorry, said the miller, and left.",
    "As an AI researcher she built it.",
    "As an aide to the mayor.",
    "I can help: it is Brellin.",
    "Answer: Brellin",
    "Answer: no",
    "No, he could not answer the letter.",
    "Cannot Hill",
    "Apologies were made by the king.",
    "He could not help it.",
    "They refused to help.",
    "I, Claudius",
    "Unable to sail, they walked.",
    "The request is in the letter.",
    "It would be Brellin.",
    "",
)


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_reply_that_declines(reply: str):
    assert is_refusal(reply)


@pytest.mark.parametrize("reply", ANSWERS)
def test_a_reply_that_answers_or_says_that_the_text_does_not(reply: str):
    assert not is_refusal(reply)


def test_a_tag_that_a_reply_speaks_of_is_none() -> None:
    said = "The template writes `</think>` before the reply, and `<think>` ahead of the thought."
    assert split_thinking(said) == SplitReply(said)
    assert strip_thinking(f"<think>So `</think>` it is.</think>{said}") == said
