from __future__ import annotations

from collections.abc import Callable

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document

Write = Callable[[str, bytes | str], str]


@pytest.mark.parametrize(
    "name", ["a.txt", "a.py", "a.json", "a.xml", "a.tex", "a.srt", "a", "a.log"]
)
def test_text_is_kept_to_the_character(write: Write, name: str) -> None:
    text = "First line.\r\n\r\nSecond — línea.\tEnd <b> \\x{1} \n"
    document = load_document(write(name, text))
    assert document.text == text
    assert document.pages == ()
    assert document.left_out == {}
    assert document.id == Document.of(text, "elsewhere").id


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(write: Write, encoding: str) -> None:
    assert load_document(write("a.txt", "Ada é".encode(encoding))).text == "Ada é"


def test_markdown_keeps_its_text_and_gives_a_title(write: Write) -> None:
    text = "intro\n\n## The *lamp* of Vell ##\n\n- one\n"
    document = load_document(write("a.md", text))
    assert document.text == text
    assert document.title == "The *lamp* of Vell"


TEXTS = {
    "cp1252": "Die Mühle von Dünmore steht am Fluß. Sie wurde von Ada Lärkin für 41 Taler erbaut.",
    "cp1250": "Młyn został zbudowany przez Adę Larkin. Później spłonął, lecz został odbudowany.",
    "cp1251": "Мельница была построена Адой Ларкин у реки. Позже она сгорела.",
    "koi8-r": "Мельница была построена Адой Ларкин у реки. Позже она сгорела.",
    "cp1253": "Ο μύλος χτίστηκε από την Άντα Λάρκιν δίπλα στο ποτάμι.",
    "cp1254": "Değirmen Ada Larkin tarafından ırmağın kıyısında inşa edildi. Sonra yandı.",
    "cp1255": "הטחנה נבנתה על ידי עדה לרקין ליד הנהר. מאוחר יותר היא נשרפה, אך נבנתה מחדש.",
    "cp1256": "بنيت الطاحونة على يد آدا لاركين بجانب النهر. احترقت لاحقا.",
    "shift_jis": "水車小屋は川のそばにエイダ・ラーキンによって建てられました。",
    "euc_jp": "水車小屋は川のそばにエイダ・ラーキンによって建てられました。",
    "gb18030": "磨坊由艾达·拉金在河边建造。后来它被烧毁，但第二年又重建了。",
    "big5": "磨坊由艾達·拉金在河邊建造。後來它被燒毀，但第二年又重建了。",
    "cp949": "방앗간은 에이다 라킨이 강가에 지었습니다. 나중에 불에 탔지만 다시 지어졌습니다.",
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_other_encodings_are_told_by_their_letters_and_said(write: Write, encoding: str) -> None:
    text = TEXTS[encoding]
    document = load_document(write("a.txt", text.encode(encoding)))
    assert document.text == text
    assert len(document.left_out) == 1
    (kind, count), *_ = document.left_out.items()
    assert kind.startswith("guessed ")
    assert count == sum(not char.isascii() for char in text)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "iso2022_jp"])
def test_encodings_that_cannot_be_mistaken_are_no_guess(write: Write, encoding: str) -> None:
    text = TEXTS["shift_jis"] + " It cost 41."
    document = load_document(write("a.txt", text.encode(encoding)))
    assert document.text == text
    assert document.left_out == {}


@pytest.mark.parametrize("data", [b"\x1b$B-!2A3J\x1b(B 41", b"\x1b$B-!2A3J\x1b(J 41"])
def test_signs_that_makers_added_to_japanese_tables(write: Write, data: bytes) -> None:
    assert load_document(write("a.txt", data)).text == "①価格 41"
    narrow = b"\x1b(I6E\x1b(B 41"
    assert load_document(write("a.txt", data + narrow)).text == "①価格 41ｶﾅ 41"
    page = b"<meta charset=euc-jp><p>\xad\xa1\xb2\xc1\xb3\xca 41"
    assert load_document(write("a.html", page)).text == "①価格 41\n"


def test_a_few_broken_bytes_are_counted(write: Write) -> None:
    data = ("Zoé’s café. " * 20).encode() + b"\xff" + b"Ende"
    document = load_document(write("a.txt", data))
    assert document.text.endswith("\ufffdEnde")
    assert document.left_out == {"non-UTF-8 byte": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Zoé".encode("latin-1"), "byte 2 is 0xe9"),
        ("Zoé".encode()[:-1], "byte 2 is 0xc3"),
        (b"\xff\xfeA\x00\x00", "UTF-16-LE: byte 4"),
        (bytes(range(256)) * 4, "binary"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "an image"),
        (b"\x7fELF" + b"\x00\x01" * 100, "a program"),
        (b"words\x00and\x00words", "binary"),
    ],
)
def test_what_cannot_be_told_is_refused(write: Write, content: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        load_document(write("a.txt", content))


def test_rare_bytes_of_no_known_encoding_are_guessed_and_counted(write: Write) -> None:
    data = b"The mill was built by Ada. " * 20 + b"Fa\xfdade." + b" It cost 41." * 20
    document = load_document(write("a.txt", data))
    assert "Faýade." in document.text
    assert document.left_out == {"guessed CP1252 character": 1}
