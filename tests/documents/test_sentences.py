"""Where sentences end, in every script."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.records import Document
from agenticlu.dialogue.run import ShownDocument
from agenticlu.documents import split
from agenticlu.documents.citations import cite, statements
from agenticlu.documents.sentences import sentences
from agenticlu.documents.tokens import ApproximateTokenizer

TEXTS = {
    "English": [
        "Dr. J. Smith paid 3.5 crowns, cf. p. 5, on May 3.",
        "“Why?” she said.",
        "Then it rained!",
    ],
    "lower case": ["it rained.", "then it stopped."],
    "German": ["Er zahlte z. B. 41 Kronen usw. an sie.", "„Warum?“ fragte sie.", "Es regnete."],
    "Chinese": ["水坝由马拉女士出资建造。", "“费用是41枚！”", "她住在北京？"],
    "Japanese": ["彼は「行く。」", "価格は41円です。", "雨が降った。"],
    "Korean": ["그는 서울에 산다.", "요금은 41원이다.", "비가 왔다."],
    "Thai": ["เขาอยู่ที่กรุงเทพ", "ค่าธรรมเนียมคือเงิน", "ฝนตก"],
    "Lao": ["ລາວຢູ່ວຽງຈັນ", "ຝົນຕົກ"],
    "Khmer": ["គាត់រស់នៅភ្នំពេញ។", "ភ្លៀងធ្លាក់។"],
    "Burmese": ["သူသည် ရန်ကုန်တွင် နေသည်။", "မိုးရွာသည်။"],
    "Hindi": ["वह दिल्ली में रहता है।", "शुल्क 41 है।", "बारिश हुई?"],
    "Urdu": ["وہ دہلی میں رہتا ہے۔", "بارش ہوئی۔"],
    "Arabic": ["هل دفع الرسوم؟", "نعم، دفعها في مايو.", "ثم هطل المطر!"],
    "Greek": ["Πού είναι ο πύργος;", "Στον βορρά.", "Έβρεξε."],
    "Armenian": ["Նա ապրում է Երևանում։", "Անձրև եկավ։"],
    "Amharic": ["እሱ በአዲስ አበባ ይኖራል።", "ዘነበ።"],
    "Tibetan": ["བོད་སྐད་ཡིན།", "ཆར་པ་བབས།"],
}


@pytest.mark.parametrize("language", TEXTS)
def test_sentences_of_every_script(language: str) -> None:
    text = " ".join(TEXTS[language])
    assert [text[start:end] for start, end in sentences(text)] == TEXTS[language]


def test_an_ellipsis_for_what_is_left_out_ends_no_sentence() -> None:
    said = ["The fee of it [...] is 41 crowns.", "The fee of it … is 41 crowns."]
    assert statements(said) == said


@given(st.text(alphabet=st.sampled_from(" \n.。!?…a"), max_size=30))
def test_sentences_hold_all_but_white_space(text: str) -> None:
    spans = list(sentences(text))
    assert "".join(text[a:b] for a, b in spans).replace(" ", "").replace("\n", "") == "".join(
        text.split()
    )
    assert all(a < b for a, b in spans)


@pytest.mark.parametrize("language", ["Chinese", "Thai", "Khmer", "Hindi", "Burmese", "Urdu"])
def test_pieces_end_with_sentences_and_whole_characters(language: str) -> None:
    text = " ".join(TEXTS[language] * 40)
    document = Document.of(text, "x")
    pieces = split(document, ApproximateTokenizer(), 64)
    ends = {end for _, end in sentences(text)}
    assert len(pieces) > 3
    at_ends = [
        piece.end in ends or text[: piece.end].rstrip() != text[: piece.end] for piece in pieces
    ]
    assert sum(at_ends) > 0.9 * len(pieces)


@pytest.mark.parametrize(
    "text", ["क्षत्रिय" * 60, "ខ្មែរ" * 60, "မြန်မာ" * 60, "ที่นี้" * 60, "e\u0301\u0323" * 60]
)
@pytest.mark.parametrize("piece_tokens", [12, 16])
def test_no_mark_is_cut_off_its_letter(text: str, piece_tokens: int) -> None:
    pieces = split(Document.of(text, "x"), ApproximateTokenizer(), piece_tokens)
    assert len(pieces) > 1
    assert all(text[piece.start].isalpha() for piece in pieces)


CLOSEST = {
    "Chinese": ("谁出资建造了水坝？", 0),
    "Japanese": ("価格はいくらですか", 1),
    "Korean": ("요금은 얼마인가?", 1),
    "Thai": ("ค่าธรรมเนียมเท่าไร", 1),
    "Khmer": ("គាត់រស់នៅឯណា", 0),
    "Burmese": ("ရန်ကုန် မှာ ဘယ်သူ နေသလဲ", 0),
    "Hindi": ("दिल्ली में कौन रहता है", 0),
    "Arabic": ("متى هَطَلَ المطرُ", 2),
    "Greek": ("που ειναι ο πυργος", 0),
}


@pytest.mark.parametrize("language", CLOSEST)
def test_the_closest_sentence_is_found_in_every_script(language: str) -> None:
    hint, which = CLOSEST[language]
    document = Document.of(" ".join(TEXTS[language]), "x")
    pieces = split(document, ApproximateTokenizer())
    (citation,) = cite(document, pieces, [0], [], [hint])
    assert citation.quote == TEXTS[language][which]
    assert not citation.verified


def test_edges_of_a_neighbour_are_shown_without_spaces_too() -> None:
    document = Document.of("水坝由马拉女士出资建造" * 60, "x")
    shown = ShownDocument(document, split(document, ApproximateTokenizer(), 64))
    assert len(shown.pieces) > 3
    assert len(shown.text(1, edges=True)) > len(shown.text(1))


@pytest.mark.parametrize(
    "unit", [".", "。", "ก ", "\n", " ", "...", "[.", "a.", ";", "།", '"', "- \n"]
)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        began = time.process_time()
        list(sentences(text))
        statements([text])
        return time.process_time() - began

    seconds(1000)
    assert seconds(40_000) < 60 * max(seconds(4_000), 0.003)
