"""Scores of answers in scripts without spaces, with vowel signs, or with case of their own kind."""

from __future__ import annotations

import unicodedata

import pytest

from agenticlu.evaluation.scoring.answers import matches, word_match
from agenticlu.evaluation.scoring.rouge import unicode_rouge

ANSWERS = {
    # a reply, the gold that it holds, another of nearly the same letters
    "Chinese": ("他住在北京。", "北京", "南京"),
    "Chinese among Latin": ("他在Vell工作，住在北京", "Vell", "Vel"),
    "Japanese": ("彼は東京に住んでいます。", "東京", "京都"),
    "Thai": ("เขาอยู่ที่กรุงเทพฯ", "กรุงเทพ", "กรุงธน"),
    "Lao": ("ລາວຢູ່ວຽງຈັນ", "ວຽງຈັນ", "ວຽງຈີນ"),
    "Khmer": ("គាត់រស់នៅភ្នំពេញ។", "ភ្នំពេញ", "ភ្នំពោញ"),
    "Burmese": ("သူသည် ရန်ကုန်တွင် နေသည်။", "ရန်ကုန်", "ရန်ကင်း"),
    "Hindi": ("वह दिल्ली में रहता है।", "दिल्ली", "दिल्ला"),
    "Bengali": ("সে ঢাকায় থাকে, ঢাকা শহরে।", "ঢাকা", "ঢাকি"),
    "Tamil": ("அவர் சென்னை நகரில்", "சென்னை", "சென்ன"),
    "Arabic": ("وُلِدَ فِي القَاهِرَةِ", "القاهرة", "قاهر"),
    "Hebrew": ("הוא גר בִּירוּשָׁלַיִם", "ירושלים", "ירוש"),
    "Korean": ("그는 서울에서 태어났다", "서울", "울에"),
    "Turkish": ("İSTANBUL'DA YAŞIYOR", "istanbul", "istan"),
    "German": ("IN DER GROSSEN STRASSE", "großen Straße", "groß"),
    "Greek": ("ΣΤΟΝ ΠΥΡΓΟΣ", "πυργος", "πυργο"),
    "Vietnamese": ("Ông sống ở Hà Nội", "Hà Nội", "Ha Noi"),
    "French": ("Elle vit en l’Espagne", "Espagne", "Espa"),
}


@pytest.mark.parametrize("language", ANSWERS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_answers_are_found_as_words(language: str, form: str) -> None:
    reply, gold, other = ANSWERS[language]
    assert word_match(unicodedata.normalize(form, reply), [gold])
    assert not word_match(reply, [other])
    assert matches(unicodedata.normalize(form, gold), [gold])
    assert not matches(other, [gold])
    assert unicode_rouge(unicodedata.normalize(form, gold), [gold])["rougeL_f1"] == 1.0
    assert unicode_rouge(other, [gold])["rougeL_f1"] < 1.0


SENTENCES = {
    # a sentence, one that shares most of it, one that shares little
    "Chinese": ("他出生在北京的一个小村庄", "他出生在上海的一个小村庄", "磨坊旁边流过河水"),
    "Japanese": ("私は猫が好きです。", "私は犬が好きです。", "川のそばに水車"),
    "Thai": ("เขาเกิดที่กรุงเทพมหานคร", "เขาเกิดที่เชียงใหม่มหานคร", "แม่น้ำไหลผ่านโรงสี"),
    "Hindi": ("वह दिल्ली के गाँव में रहता है", "वह पटना के गाँव में रहता है", "नदी पुरानी चक्की"),
    "Arabic": ("وُلِدَ في قرية صغيرة", "ولد في مدينة صغيرة", "النهر يجري قرب الطاحونة"),
    "Korean": (
        "그는 서울의 작은 마을에서 태어났다",
        "그는 부산의 작은 마을에서 태어났다",
        "강은 오래된 방앗간",
    ),
}


@pytest.mark.parametrize("language", SENTENCES)
def test_rouge_measures_what_sentences_share(language: str) -> None:
    sentence, near, far = SENTENCES[language]
    shared = [unicode_rouge(text, [sentence])["rougeL_f1"] for text in (sentence, near, far)]
    assert shared[0] == 1.0
    assert 0.5 < shared[1] < 1.0
    assert shared[2] < 0.35
