"""Which clarifications ask the same, and which differ in a word that tells."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.dialogue.gist import find_gist
from agenticlu.dialogue.steps import is_near_duplicate

LONG = "of the old stone bridge over the river at the village of Vell in the year of the flood?"
SAME = [
    ("Who is the mother of Ada?", "who is mother of Ada"),
    ("What is the height of the tower?", "What's the height of the tower?"),
    ("What is the height of the tower?", "What is the *height* … of the tower"),
    ("What is the height of the tower?", "Could you tell me what the height of the tower is?"),
    ("What is the height of the tower?", "Clarification: What is the height of the tower?"),
    ("Where does Ada live?", "According to the document, where does Ada live?"),
    ("Where does Ada live?", "Where does Ada live, please?"),
    ("Where does Ada live?", "Where exactly does Ada live now?"),
    ("Who didn't sign the letter?", "Who did not sign the letter?"),
    ("Who can't swim in the lake?", "Who cannot swim in the lake?"),
    ("In which year was the bridge built?", "The bridge was built in which year?"),
    ("In the letter of May, who signed?", "Who signed in the letter of May?"),
    ("Which of the seven towers fell?", "Which of the 7 towers fell?"),
    ("What happened on May 3rd, 1990?", "What happened on 3 May 1990?"),
    ("What did it cost: 1,200 crowns?", "What did it cost, 1200 crowns"),
    ("Who owns the “blue” kite?", "Who owns the 'blue' kite?"),
    ("Who owns the café in Málaga?", "Who owns the cafe in Malaga?"),
    ("Who owns the ﬁne mill?", "Who owns the fine mill?"),
    ("他住在哪里？", "请问他住在哪里"),
    ("北塔的高度是多少？", "北塔高度是多少"),
    ("北の塔の高さは何メートルですか。", "北の塔の高さは何メートルでしょうか？"),
    ("ﾀﾜｰの高さは？", "タワーの高さは"),
    ("북쪽 탑의 높이는 얼마입니까?", "북쪽 탑의 높이는 얼마인가요?"),
    ("Où habite l’amie d’Ada ?", "où habite l'amie d'Ada?"),
    ("¿Cuántos años tiene la torre?", "Cuantos anos tiene la torre"),
    ("WIE HEISST DIE STRASSE?", "Wie heißt die Straße?"),
    ("ΠΟΥ ΕΙΝΑΙ Ο ΠΥΡΓΟΣ;", "που ειναι ο πυργος"),
    ("أين يقع البُرجُ الشمالي؟", "أين يقع البرج الشمالي"),
    ("איפה נמצא הַמִּגְדָּל?", "איפה נמצא המגדל"),
    ("हवा की गति ४१ क्यों है?", "हवा की गति 41 क्यों है"),
    ("หอคอยอยู่ที่ไหน?", "หอคอยอยู่ที่ไหน"),
]
OTHER = [
    (
        f"What is the height of the north tower {LONG}",
        f"What is the height of the south tower {LONG}",
    ),
    (f"Which members did sign the letter {LONG}", f"Which members did not sign the letter {LONG}"),
    (f"Who never crossed it {LONG}", f"Who ever crossed it {LONG}"),
    (f"Who can cross it {LONG}", f"Who can't cross it {LONG}"),
    (f"What was built before the mill {LONG}", f"What was built after the mill {LONG}"),
    (f"Which is the oldest part {LONG}", f"Which is the youngest part {LONG}"),
    (f"Which is the first part {LONG}", f"Which is the last part {LONG}"),
    (f"Who bought a part {LONG}", f"Who sold a part {LONG}"),
    (f"Who lent money to Ada {LONG}", f"Who lent money to Ben {LONG}"),
    (f"Who lent money to ada {LONG}", f"Who lent money to ben {LONG}"),
    (f"What happened in 1901 {LONG}", f"What happened in 1910 {LONG}"),
    (f"What happened to three boats {LONG}", f"What happened to four boats {LONG}"),
    (f"Who lived there with Ada {LONG}", f"Who lived there without Ada {LONG}"),
    (f"Who is the mayor {LONG}", f"Who was the mayor {LONG}"),
    (f"Where does Ada live {LONG}", f"Where did Ada live {LONG}"),
    (f"Did the king pay the queen {LONG}", f"Did the queen pay the king {LONG}"),
    (f"Is Vell north of Brellin {LONG}", f"Is Brellin north of Vell {LONG}"),
    (f"Who is the son of the king {LONG}", f"Who is the king of the son {LONG}"),
    (f"When did it happen {LONG}", f"Where did it happen {LONG}"),
    (f"Were all of them there {LONG}", f"Were some of them there {LONG}"),
    (f"Was it more than 41 {LONG}", f"Was it less than 41 {LONG}"),
    (f"Was it Ada and Ben {LONG}", f"Was it Ada or Ben {LONG}"),
    (f"What did he read {LONG}", f"What did she read {LONG}"),
    (f"What must they do {LONG}", f"What may they do {LONG}"),
    (f"Was it written by Ada {LONG}", f"Was it written for Ada {LONG}"),
    (f"Is it C++ code {LONG}", f"Is it C# code {LONG}"),
    (f"Was it -3 degrees {LONG}", f"Was it 3 degrees {LONG}"),
    (
        "在1903年的那场大洪水之后，北塔的高度是多少？",
        "在1903年的那场大洪水之后，南塔的高度是多少？",
    ),
    (
        "在那次会议上，七名成员中有谁在五月的信上签了名？",
        "在那次会议上，七名成员中有谁没在五月的信上签名？",
    ),
    ("国王在大桥上打败了王后吗？", "王后在大桥上打败了国王吗？"),
    ("王が女王を古い橋の上で助けましたか。", "王を女王が古い橋の上で助けましたか。"),
    ("古い橋の北の塔の高さは何メートルですか。", "古い橋の南の塔の高さは何メートルですか。"),
    (
        "홍수 뒤에 오래된 다리의 북쪽 탑은 얼마나 높습니까?",
        "홍수 뒤에 오래된 다리의 남쪽 탑은 얼마나 높습니까?",
    ),
    ("หอคอยทางเหนือของสะพานเก่าสูงเท่าไร", "หอคอยทางใต้ของสะพานเก่าสูงเท่าไร"),
    ("राम ने पुराने पुल पर रावण को क्यों मारा?", "रावण ने पुराने पुल पर राम को क्यों मारा?"),
    ("पुराने पुल की लंबाई क्या है?", "पुराने पुल का लंबाई क्या है?"),
    ("متى بُني البرج الشمالي للجسر القديم؟", "متى بُني البرج الجنوبي للجسر القديم؟"),
    ("متى وقع الملك الرسالة؟", "متى لم يوقع الملك الرسالة؟"),
    ("מי בנה את המגדל הצפוני של הגשר?", "מי בנה את המגדל הדרומי של הגשר?"),
    ("Wer hat den Nordturm der Brücke gebaut?", "Wer hat den Südturm der Brücke gebaut?"),
    ("Sah der Mann den Hund auf der Brücke?", "Sah den Mann der Hund auf der Brücke?"),
    ("¿Vio Ada a Ben en el puente?", "¿Vio a Ada Ben en el puente?"),
    ("Qui n'a pas signé la lettre de mai ?", "Qui a signé la lettre de mai ?"),
    ("Ông bán cây cầu cũ cho ai?", "Ông bạn cây cầu cũ cho ai?"),
    ("Кто построил северную башню моста?", "Кто построил южную башню моста?"),
    ("Köprünün kuzey kulesi ne kadar?", "Köprünün güney kulesi ne kadar?"),
    ("🙂", "🙃"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_question_in_other_dress_is_merged(one: str, other: str) -> None:
    for form in ("NFC", "NFD"):
        assert is_near_duplicate(one, unicodedata.normalize(form, other))
        assert is_near_duplicate(unicodedata.normalize(form, other), one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_one_telling_word_keeps_long_questions_apart(one: str, other: str) -> None:
    assert not is_near_duplicate(one, other), (find_gist(one), find_gist(other))
    assert not is_near_duplicate(other, one)
    assert is_near_duplicate(one, one.upper().lower())


@given(st.text(max_size=60), st.text(max_size=60))
def test_being_the_same_is_symmetric(one: str, other: str) -> None:
    assert is_near_duplicate(one, one)
    assert is_near_duplicate(one, other) == is_near_duplicate(other, one)
    assert is_near_duplicate(f"What is {one}?", f"what is {one}")


@pytest.mark.parametrize(
    "unit", ["could you ", "and so ", "in the text ", "a b ", "吗", " ", "can't", "1 ", "what is "]
)
def test_time_grows_with_the_length_alone(unit: str) -> None:
    def seconds(length: int) -> float:
        one, other = (unit * (length // len(unit)) + end for end in ("what", ""))
        began = time.process_time()
        is_near_duplicate(one, other + "what")
        is_near_duplicate(one, "what" + other)
        return time.process_time() - began

    seconds(100)
    assert seconds(40_000) < 60 * max(seconds(4_000), 0.003)
