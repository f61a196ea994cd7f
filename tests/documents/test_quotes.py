"""Quotes are found whatever lies between a page and a quote of it, and altered ones are not."""

from __future__ import annotations

import random
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticlu.documents.quotes import ENDS, MOST_LEFT_OUT, find_quote, fold, is_long_enough

PASSAGE = "Ada said: the “well-\nknown” lamp — a ﬁne one — cost 3-4 pounds in 1990–1995, at Zoé’s."


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ('the "well-known" lamp', "the “well-\nknown” lamp"),
        ("the wellknown lamp", "the “well-\nknown” lamp"),
        ("the known lamp", None),
        ("a fine one", "a ﬁne one"),
        ("cost 3-4  pounds in 1990-1995", "cost 3-4 pounds in 1990–1995"),
        ("cost 34 pounds", None),
        ("at Zoe\u0301's.", "at Zoé’s."),
        ("at Zoe's", None),
        ("ost 3-4 pounds", None),
        ("the lamp cost", None),
        ("ada said", None),
        ("“Ada said”", "Ada said"),
        ("...", None),
        ("", None),
    ],
)
def test_quotes_are_verbatim_but_for_typography(said: str, found: str | None) -> None:
    span = find_quote(said, fold(PASSAGE), PASSAGE)
    assert (None if span is None else PASSAGE[slice(*span)]) == found


@given(st.text(max_size=80), st.data())
def test_any_stretch_of_words_is_found_where_it_stands(text: str, data: st.DataObject) -> None:
    words = text.split()
    if not words:
        return
    start = data.draw(st.integers(0, len(words) - 1))
    stop = data.draw(st.integers(start + 1, len(words)))
    said = " ".join(words[start:stop])
    folded = fold(text)
    assert len(folded.text) == len(folded.origins)
    assert list(folded.origins) == sorted(folded.origins)
    span = find_quote(said, folded, text)
    if span is not None:
        assert 0 <= span[0] < span[1] <= len(text)
        core = fold(said).text.strip(ENDS)
        assert folded.text[folded.origins.index(span[0]) :].startswith(core)


SENTENCES = {
    "English": "The fee of the north tower is 41 crowns, and Ada's friend paid it in 1903.",
    "German": "Die große Brücke über den Fluß wurde im Jahr 1903 für 41 Kronen gebaut.",
    "French": "L'été dernier, l’œuvre a coûté 41 couronnes à la ville de Besançon.",
    "Vietnamese": "Ông ấy trả bốn mươi mốt đồng cho cây cầu ở phía bắc năm 1903.",
    "Greek": "Ο πύργος του βορρά κόστισε 41 κορώνες το έτος 1903, είπε ο Λόγος.",
    "Turkish": "İpek Hanım kuzey kulesi için ılık bir gün 41 kron ödedi, dedi.",
    "Russian": "Северная башня стоила 41 крону, и её оплатил друг Ады в 1903 году.",
    "Hindi": "उत्तरी मीनार का शुल्क 41 मुकुट था और आदा के मित्र ने चुकाया।",
    "Tamil": "வடக்குக் கோபுரத்தின் கட்டணம் 41 காசுகள் என்று அவர் சொன்னார்.",
    "Arabic": "بلغت رسوم البرج الشمالي 41 تاجا ودفعها صديق آدا في السنة.",
    "Hebrew": "האגרה של המגדל הצפוני היא 41 כתרים וחברה של עדה שילמה.",
    "Persian": "هزینه برج شمالی 41 تاج بود و دوست آدا آن را پرداخت.",
    "Korean": "북쪽 탑의 요금은 41 크라운이고 아다의 친구가 그것을 냈다.",
    "Chinese": "北塔的费用是41枚银币，由住在北京的马拉女士于1903年付清。",
    "Japanese": "北の塔の料金は41クローネで、アダの友人が1903年に支払った。",
    "Thai": "ค่าธรรมเนียมของหอคอยทางเหนือคือ 41 คราวน์ และเพื่อนของเธอเป็นผู้จ่าย",
    "Khmer": "ថ្លៃនៃប៉មខាងជើងគឺ ៤១ ហើយមិត្តរបស់នាងបានបង់ប្រាក់។",
    "Burmese": "မြောက်ဘက်မျှော်စင်၏ အခကြေးငွေသည် ၄၁ ဖြစ်ပြီး သူငယ်ချင်းက ပေးခဲ့သည်။",
}
BEFORE, AFTER = "Nobody saw it come. ", " Then it was night."
UNSPACED = ("Chinese", "Japanese", "Thai", "Khmer", "Burmese")
WRAPPED = [
    "**{}**",
    "*{}*",
    "_{}_",
    "`{}`",
    "[{}](http://x.y/z_1)",
    "~~{}~~",
    "“{}”",
    "‘{}’",
    "«{}»",
]
WRAPPED += [
    "<b>{}</b>",
    "<em>{}</em>",
    '[{}](x.html "A title")',
    "***{}***",
    "[{}][ref]",
    "\u2067{}\u2069",
]
INSIDE = ["\u00ad", "\u200b", "\ufeff", "\u2060", "\u00ad\n"]
SPACES = [
    "\n",
    "  ",
    "\u00a0",
    "\u2009",
    " \n ",
    "\r\n",
    "\t",
    "\n> ",
    "&nbsp;",
    "\u202f",
    "<br/>",
    " | ",
]
LIGATURES = {"fi": "ﬁ", "fl": "ﬂ", "ff": "ﬀ"}


def retyped(sentence: str, draw: random.Random, marked: bool) -> str:
    """The sentence with differences that are no words; its first and last word stay."""
    first, *inner, last = (
        sentence.split(" ") if " " in sentence else [sentence[:3], *sentence[3:-3], sentence[-3:]]
    )
    space = " " if " " in sentence else ""
    found = [first]
    for word in inner:
        if marked and draw.random() < 0.3 and word.strip(",.、，").isalpha():
            word = draw.choice(WRAPPED).format(word)
        elif marked and draw.random() < 0.2 and len(word) > 5 and word.isalpha():
            word = word[:3] + draw.choice(INSIDE) + word[3:]
        gap = draw.choice(SPACES) if space and draw.random() < 0.3 else space
        if not space and marked and draw.random() < 0.2 and found[-1].isalpha():
            gap = "\n"
        found += [gap, word]
    text = "".join([*found, space, last])
    if draw.random() < 0.5:
        text = unicodedata.normalize(draw.choice(["NFC", "NFD"]), text)
    for plain, ligature in LIGATURES.items():
        text = text.replace(plain, ligature) if draw.random() < 0.5 else text
    return text.replace("'", "’") if draw.random() < 0.5 else text


@pytest.mark.parametrize("language", SENTENCES)
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_a_retyped_sentence_is_found_at_its_exact_characters(language: str, seed: int) -> None:
    draw = random.Random(seed)
    shown, said = (retyped(SENTENCES[language], draw, marked) for marked in (True, False))
    text = f"{BEFORE}{shown}{AFTER}"
    span = find_quote(said, fold(text), text)
    assert span is not None, (shown, said)
    assert text[slice(*span)] == shown


@pytest.mark.parametrize("language", SENTENCES)
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_a_sentence_with_another_word_is_not_found(language: str, seed: int) -> None:
    draw = random.Random(seed)
    sentence = SENTENCES[language]
    shown = retyped(sentence, draw, True)
    text = f"{BEFORE}{shown}{AFTER}"
    if " " in sentence:
        words = sentence.split(" ")
        place = draw.randrange(len(words))
        other = draw.choice(
            [[], ["not", words[place]], ["42"], [words[place][:-1] + "q"], words[:2]]
        )
        said = " ".join([*words[:place], *other, *words[place + 1 :]])
        if place in (0, len(words) - 1) and not other:
            said = said.replace("41", "4").replace("๔๑", "๔")
    else:
        place = draw.randrange(len(sentence) - 1)
        said = (
            sentence[:place] + draw.choice(["不", "q", "7"]) + sentence[place + draw.randrange(2) :]
        )
    if fold(said).text.strip(" .。") not in fold(sentence).text:
        assert find_quote(said, fold(text), text) is None, (shown, said)


PAIRS = [
    # a page, a quote of it, whether it is one
    ("The **fee** is `41` [crowns](u).", "The fee is 41 crowns.", True),
    ("# The fee\n\nThe fee is\n- 41 crowns\n- paid", "The fee is 41 crowns paid", True),
    ("| Tower | Fee |\n|---|---|\n| north | 41 |", "Tower Fee north 41", True),
    ("| Tower | Fee |\n|---|---|\n| north | 41 |", "| north | 41 |", True),
    ("The fee &amp; the toll &#8211; both", "The fee & the toll – both", True),
    (r"The fee \*alone\* is 2 \* 3 crowns", "The fee *alone* is 2 * 3 crowns", True),
    ("see [^1] the fee[^note] is 41", "see the fee is 41", True),
    ("see ![a bridge](b.png) the fee", "see a bridge the fee", True),
    ("the snake_case_name of it", "the snake_case_name of it", True),
    ("the snake_case_name of it", "the snakecasename of it", False),
    ("the sum 5*3 is odd", "the sum 53 is odd", False),
    ("the sum 2 * 3 is even", "the sum 2 3 is even", False),
    ("it is 4[1] crowns then", "it is 41 crowns then", False),
    ("an area of 10² metres", "an area of 102 metres", False),
    ("an area of 10² metres", "an area of 10^2 metres", True),
    ("an area of 10<sup>2</sup> metres", "an area of 10² metres", True),
    ("it costs 1½ crowns here", "it costs 1 1/2 crowns here", True),
    ("it costs 1½ crowns here", "it costs 11/2 crowns here", False),
    ("it costs 41\u202f000 crowns", "it costs 41 000 crowns", True),
    ("it costs 41\u2009000 crowns", "it costs 41000 crowns", True),
    ("it costs 41 000 crowns", "it costs 41 crowns", False),
    ("it costs 3.5 crowns here", "it costs 35 crowns here", False),
    ("it costs 3.5 crowns here", "it costs 3 5 crowns here", False),
    ("it costs −5 crowns here", "it costs 5 crowns here", False),
    ("it costs −5 crowns here", "it costs -5 crowns here", True),
    ("ｔｈｅ　ｆｅｅ　ｉｓ　４１", "the fee is 41", True),
    ("a word - and another one", "a word — and another one", True),
    ("a word--and another one", "a word — and another one", True),
    ("Quoi ? Il est «\u00a0parti\u00a0» hier !", 'Quoi? Il est "parti" hier!', True),
    ("41 % of the crowns", "41% of the crowns", True),
    ("Xerox™ paid the fee", "Xerox paid the fee", True),
    ("the well-known lamp", "the known lamp", False),
    ("the hyphen-\nated word here", "the hyphenated word here", True),
    ("see pages 3-\n9 and 1911–\n  1912", "see pages 3-9 and 1911-1912", True),
    ("after COVID-\n19 a 5-\nyear plan", "after COVID-19 a 5-year plan", True),
    ("see pages 3-\n9 of it", "see pages 39 of it", False),
    ("the exam\u00ad\nple is here", "the example is here", True),
    ("The fee — 41 crowns — is due", "The fee - 41 crowns - is due", True),
    ("between 3 – 5 crowns here", "between 3-5 crowns here", True),
    ("between 3 – 5 crowns here", "between 35 crowns here", False),
    ("between 3 – 5 crowns here", "between 3 5 crowns here", False),
    ("السعر ٤١ تاجا هنا", "السعر 41 تاجا هنا", True),
    ("the square is x^{2} here", "the square is x² here", True),
    ("The fee[12] is 41 crowns.[1][2] It", "The fee is 41 crowns. It", True),
    ("The fee[12] is 41 crowns.[1] It", "The fee[12] is 41 crowns.[1] It", True),
    ("The fee[12] is 41 crowns.[1] It", "The fee[13] is 41 crowns. It", False),
    ("The toll¹ is 41 crowns.² It", "The toll is 41 crowns. It", True),
    ("The toll is 41 km² of land", "The toll is 41 km of land", False),
    ("he did not pay the fee", "he did pay the fee", False),
    ("كُتِبَ الكِتَابُ هُنَا", "كتب الكتاب هنا", True),
    ("הַסֵּפֶר נִכְתַּב כָּאן", "הספר נכתב כאן", True),
    ("كتب الكتاب هنا", "كتب الكاتب هنا", False),
    ("वह की बात थी", "वह का बात थी", False),
    ("他住在北京的一个村庄里。", "他住在北京", True),
    ("他 住 在 北 京 的 村 庄", "他住在北京的村庄", True),
    ("他在 Vell 工作多年", "他在Vell工作多年", True),
    ("他住在北京的村庄里", "他不住在北京的村庄里", False),
    ("그는 서울\n에 산다 오래", "그는 서울에 산다 오래", True),
    ("그는 서울에 산다 오래", "그는 서울에 산", False),
    ("เขาอยู่ที่กรุงเทพ", "เขาอยู่ที่กรุงเท", True),
    ("เขาอยู่ที่ปี", "เขาอยู่ที่ป", False),
    ("e\u0302\u0323 of the old coding", "ệ of the old coding", True),
    ("The king a <b and c> d", "The king a d", False),
    ("a&b of the firm", "a&b of the firm", True),
    ("The fee, paid by Ada in May, is 41 crowns.", "The fee [...] is 41 crowns.", False),
    (
        "The fee of it, paid by Ada in May, is 41 crowns now.",
        "The fee of it [...] is 41 crowns",
        True,
    ),
    ("The fee of it, paid by Ada in May, is 41 crowns now.", "The fee of it … is 41 crowns", True),
    ("The fee of it, paid by Ada in May, is 41 crowns now.", "The fee of it is 41 crowns", False),
    ("is 41 crowns now. The fee of it", "The fee of it ... is 41 crowns now", False),
    (f"The fee of it {'x ' * MOST_LEFT_OUT}is 41 crowns", "The fee of it ... is 41 crowns", False),
    ("...and the fee is 41 crowns...", "... and the fee is 41 crowns ...", True),
]


@pytest.mark.parametrize(("text", "said", "same"), PAIRS)
def test_what_is_typography_and_what_is_another_word(text: str, said: str, same: bool) -> None:
    span = find_quote(said, fold(text), text)
    assert (span is not None) is same, (fold(text).text, fold(said).text)
    if span is not None:
        assert span == find_quote(text[slice(*span)], fold(text), text)


@given(st.text(), st.text())
def test_folding_twice_changes_nothing_that_is_found(one: str, other: str) -> None:
    text = f"{one}\n{other}"
    folded = fold(text)
    assert all(0 <= at < len(text) for at in folded.origins)
    assert len(folded.text) == len(folded.origins)
    assert "  " not in folded.text


UNITS = [
    "ab[1]",
    "1    ",
    "1 - ",
    "^{",
    "The kite flew, 41. ",
    "北",
    "ก",
    "की ",
    "가",
    "é",
    "[",
    "](",
    "<b ",
    "*",
    "_",
    "-\n",
    "&a",
    "\n",
    "| -",
]
UNITS += [
    "\u0301",
    "a b ",
    "> ",
    "\u00ad",
    "''",
    "1 000 ",
    "\\",
    "<sup>",
    "…",
    "«",
    " ",
    "[^",
    "--- ",
    "![",
    "((",
]


@pytest.mark.parametrize("unit", UNITS)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        began = time.process_time()
        folded = fold(text)
        find_quote(text[: length // 3] + " x", folded, text)
        find_quote(text[: length // 3], folded, text)
        find_quote(unit * 3 + "... " + unit * 4, folded, text)
        return time.process_time() - began

    seconds(1000)  # patterns are built
    assert seconds(20_000) < 60 * max(seconds(2_000), 0.002)


@pytest.mark.parametrize(
    ("said", "enough"),
    [
        ("in Vell", False),
        ("北京的", False),
        ("他住在北京的", True),
        ("वह घर है", True),
        ("the fee is", True),
    ],
)
def test_short_statements_are_no_quotes(said: str, enough: bool) -> None:
    assert is_long_enough(said) is enough
