"""What a word is, in every script."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.words import (
    find_words,
    fold_letters,
    holds,
    search_terms,
    separate,
    whole_words,
)

SAME = {
    "full-width": ("Ｂ４１", "b41"),
    "half-width kana": ("ｶﾞｽ", "ガス"),
    "German": ("STRASSE", "Straße"),
    "Greek final sigma": ("ΛΟΓΟΣ", "λογος"),
    "Turkish": ("İSTANBUL", "istanbul"),
    "Turkish, without a dot": ("DIYARBAKIR", "Diyarbakır"),
    "Arabic vowel signs": ("كِتَابٌ", "كتاب"),
    "Arabic stroke": ("كـــتاب", "كتاب"),
    "Arabic digits": ("٤١٫٥", "41.5"),
    "Persian letters": ("کتابی", "كتابي"),
    "Persian joiner": ("می‌خواهم", "میخواهم"),
    "Hebrew points": ("שָׁלוֹם", "שלום"),
    "Hindi digits": ("४१", "41"),
    "Thai am": ("นํ้า", "น้ำ"),
    "Thai ae": ("เเม่", "แม่"),
    "soft hyphen": ("exam\u00adple", "example"),
    "bidi marks": ("\u2067שלום\u2069", "שלום"),
}
OTHER = [
    ("की", "का"),
    ("कि", "के"),
    ("কি", "কে"),
    ("ปู", "ปี"),
    ("เก", "แก"),
    ("มา", "ไม"),
    ("ກາ", "ກີ"),
    ("កា", "កិ"),
    ("ကာ", "ကိ"),
    ("தா", "தி"),
    ("తా", "తి"),
    ("má", "mà"),
    ("Ali علي", "Ali على"),
    ("が", "か"),
    ("北京", "南京"),
]
WORDS = {
    "Hindi": ("किताबें पढ़ती है।", ["किताबें", "पढ़ती", "है"]),
    "Tamil": ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
    "Malayalam": ("മലയാളം ക്ഷേത്രം", ["മലയാളം", "ക്ഷേത്രം"]),
    "Tibetan": ("བོད་སྐད", ["བོད", "སྐད"]),
    "Chinese": ("第3章iPhone手机", ["第", "3", "章", "iphone", "手", "机"]),
    "Japanese": ("東京タワーへ行った", ["東", "京", "タワー", "へ", "行", "っ", "た"]),
    "Thai": ("กรุงเทพ", ["ก", "รุ", "ง", "เท", "พ"]),
    "Lao": ("ພາສາລາວ", ["ພາ", "ສາ", "ລາ", "ວ"]),
    "Khmer": ("ភាសាខ្មែរ", ["ភា", "សា", "ខ្មែ", "រ"]),
    "Burmese": ("မြန်မာဘာသာ", ["မြန်", "မာ", "ဘာ", "သာ"]),
    "Korean": ("Mara의 41원", ["mara", "의", "41", "원"]),
    "English": ("Ada's naïve_plan", ["ada", "s", "naïve", "plan"]),
}
HELD = {
    "Chinese": ("他住在北京。", "北京", "南京"),
    "Japanese": ("彼は東京に住んでいます。", "東京", "京都"),
    "katakana": ("アンナはタワーにいる", "アンナ", "アン"),
    "Thai": ("เขาอยู่ที่กรุงเทพฯ", "กรุงเทพ", "กรุงธน"),
    "Korean": ("그는 서울에서는 살지 않았다", "서울", "울에"),
    "Korean copula": ("수도는 서울입니다.", "서울", "수"),
    "Arabic": ("ولد بالقاهرة عام ١٩٠١", "القاهرة", "قاهر"),
    "Hebrew": ("הוא גר בירושלים", "ירושלים", "רושל"),
    "Hindi": ("वह दिल्ली में रहता है", "दिल्ली", "दिल्ल"),
    "English": ("They know it", "know", "no"),
}


@pytest.mark.parametrize("kind", SAME)
def test_ways_of_writing_fold_to_one_word(kind: str) -> None:
    one, other = SAME[kind]
    assert one != other
    assert fold_letters(one) == fold_letters(other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_vowel_signs_and_accents_make_other_words(one: str, other: str) -> None:
    assert find_words(one) != find_words(other)


@pytest.mark.parametrize("language", WORDS)
def test_words_of_every_script(language: str) -> None:
    text, words = WORDS[language]
    for form in ("NFC", "NFD", "NFKC"):
        folded = [unicodedata.normalize("NFKC", word) for word in words]
        assert find_words(unicodedata.normalize(form, text)) == folded


@pytest.mark.parametrize("language", HELD)
def test_names_are_held_as_whole_words(language: str) -> None:
    text, name, other = HELD[language]
    assert holds(find_words(text), find_words(name))
    assert not holds(find_words(text), find_words(other))
    if language != "Arabic" and language != "Hebrew":
        assert whole_words([name]).search(text)


@given(st.text(), st.text())
def test_words_are_those_of_the_folded_text(one: str, other: str) -> None:
    folded = fold_letters(one)
    assert fold_letters(folded) == folded
    assert find_words(folded) == find_words(one)
    assert find_words(f"{one}\n{other}") == find_words(one) + find_words(other)
    assert all(not word.isspace() and word for word in find_words(one))
    assert "".join(separate(one).split()) == "".join(one.split())
    assert not find_words(one) or search_terms(one)


SCRIPTS = [
    "a",
    "é",
    "北",
    "ア",
    "ก",
    "ក",
    "က",
    "की",
    "가",
    "ا",
    "e\u0301",
    "_",
    "1",
    "\u0301",
    " 'a",
]


@pytest.mark.parametrize("unit", SCRIPTS)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        began = time.process_time()
        words = find_words(text)
        separate(text)
        holds(words, ["x"])
        search_terms(text)
        return time.process_time() - began

    seconds(1000)  # patterns are built
    assert seconds(60_000) < 60 * max(seconds(6_000), 0.002)
