from __future__ import annotations

import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest

from agenticlu.core.records import Document
from agenticlu.documents import load_document
from agenticlu.documents.formats import find, mail

HEAD = "From: Ada Larkin <ada@vell.example>\r\nTo: bo@vell.example\r\nSubject: The mill\r\n"
SHOWN = "From: Ada Larkin <ada@vell.example>\nTo: bo@vell.example\nSubject: The mill\n\n"


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Document]:
    def loaded(content: bytes | str, name: str = "a.eml") -> Document:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        return load_document(str(tmp_path / name))

    return loaded


def message(text: str = "Ada built the mill.\n", **headers: str) -> EmailMessage:
    made = EmailMessage()
    made["From"] = "Ada Larkin <ada@vell.example>"
    made["To"] = "bo@vell.example"
    made["Subject"] = "The mill"
    for name, value in headers.items():
        made[name] = value
    made.set_content(text)
    return made


def test_headers_and_text(read) -> None:
    document = read(message(Date="Mon, 01 Jun 2026 10:00:00 +0200", Received="by x").as_bytes())
    assert document.text == (
        "From: Ada Larkin <ada@vell.example>\nTo: bo@vell.example\n"
        "Date: Mon, 01 Jun 2026 10:00:00 +0200\nSubject: The mill\n\nAda built the mill.\n"
    )
    assert document.title == "The mill"


BODIES = {
    "quoted-printable": (
        "Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: "
        "quoted-printable\r\n\r\nZo=E9 built it =\r\nfor 41.",
        "Zoé built it for 41.\n",
    ),
    "base64": (
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        "Wm/DqSBidWlsdCBpdC4=",
        "Zoé built it.\n",
    ),
    "an unknown charset": ("Content-Type: text/plain; charset=klingon\r\n\r\nZoé", "Zoé\n"),
    "a wrong charset": (
        "Content-Type: text/plain; charset=us-ascii\r\n\r\nZoé built it.",
        "Zoé built it.\n",
    ),
    "HTML": (
        "Content-Type: text/html\r\n\r\n<html><body><p>Oak</p><table><tr><td>a<td>1</table>"
        "<blockquote type=cite>Said Bo</blockquote>",
        "Oak\n\na | 1\n\n> Said Bo\n",
    ),
    "lines broken to be sent": (
        "Content-Type: text/plain; format=flowed\r\n\r\nAda built \r\nthe mill.\r\n> Who \r\n> did?"
        "\r\n From here.\r\n-- \r\nAda",
        "Ada built the mill.\n> Who did?\nFrom here.\n--\nAda\n",
    ),
    "no type at all": ("\r\nAda built it.", "Ada built it.\n"),
    "a type that makes no sense": ("Content-Type: x\r\n\r\nAda built it.", "Ada built it.\n"),
    "a boundary that never comes": (
        "Content-Type: multipart/mixed; boundary=b\r\n\r\nAda built it.",
        "Ada built it.\n",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(read, name: str) -> None:
    body, text = BODIES[name]
    assert read(HEAD + body).text == SHOWN + text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("=?utf-8?q?Die_M=C3=BChle?=", "Die Mühle"),
        ("=?iso-8859-1?q?Caf=E9?= =?iso-8859-1?q?_Vell?=", "Café Vell"),
        ("=?utf-8?b?5rC06LuK?=", "水車"),
        ("=?klingon?q?Caf=E9?=", "=?klingon?q?Caf=E9?="),
        ("long\r\n and folded", "long and folded"),
        ("Café", "Café"),
    ],
)
def test_subjects(read, raw: str, shown: str) -> None:
    document = read(f"From: a@b.example\r\nSubject: {raw}\r\n\r\nText")
    assert document.title == shown
    assert f"Subject: {shown}\n" in document.text


def test_plain_text_is_preferred_unless_it_is_a_stub(read) -> None:
    made = message("Ada built the mill in 1901.")
    made.add_alternative("<p>Ada <b>built</b> the mill in 1901.</p>", subtype="html")
    assert read(made.as_bytes()).text == SHOWN + "Ada built the mill in 1901.\n"
    made = message("Open it in a browser.")
    made.add_alternative("<p>" + "Ada built the mill. " * 9 + "</p><img src=x>", subtype="html")
    document = read(made.as_bytes())
    assert "browser" not in document.text
    assert document.text.count("Ada built the mill.") == 9
    assert document.left_out == {"undescribed image": 1}


def test_attachments_are_read_or_named(read) -> None:
    made = message()
    made.add_attachment("name,price\noak,41\n", subtype="csv", filename="prices.csv")
    made.add_attachment("<p>Said <b>Bo</b></p>", subtype="html", filename="bo.html")
    png = b"\x89PNG\r\n\x1a\n\x00\x00"
    made.add_attachment(png, maintype="image", subtype="png", filename="Mühle.png")
    made.add_attachment(
        b"\x00\x01", maintype="application", subtype="octet-stream", filename="a.bin"
    )
    document = read(made.as_bytes())
    assert document.text == SHOWN + (
        "Ada built the mill.\n\nAttachment: prices.csv\n\nname | price\noak | 41\n\n"
        "Attachment: bo.html\n\nSaid Bo\n\nAttachment: Mühle.png\n\nAttachment: a.bin\n"
    )
    assert document.left_out == {"attachment": 2}


def test_forwarded_messages_are_read_to_a_depth(read) -> None:
    made = message("innermost\n")
    for number in range(8):
        outer = message(f"level {number}\n")
        outer.add_attachment(made)
        made = outer
    document = read(made.as_bytes())
    assert "level 7" in document.text
    assert document.text.count("Forwarded message:") == 5
    assert document.left_out == {"forwarded message": 1}


def test_signatures_are_silent_and_encrypted_parts_counted(read) -> None:
    content = HEAD + (
        "Content-Type: multipart/encrypted; boundary=b\r\n\r\n--b\r\nContent-Type: "
        "application/pgp-encrypted\r\n\r\nVersion: 1\r\n--b\r\nContent-Type: "
        "application/pgp-signature\r\n\r\nxyz\r\n--b--\r\n"
    )
    document = read(content)
    assert document.text == SHOWN.rstrip() + "\n"
    assert document.left_out == {"encrypted part": 1}


def test_every_message_of_a_mailbox_is_a_page(read) -> None:
    box = (
        "From ada@vell.example Mon Jun  1 10:00:00 2026\nSubject: One\n\nfirst\n>From here on\n\n"
        "From the start of 2026 it was so.\n\n"
        "From bo@vell.example Tue Jun  2 10:00:00 2026\nSubject: Two\n\nsecond\n"
    )
    for name in ("a.mbox", "mailbox"):
        document = read(box, name)
        assert [page.name for page in document.pages] == ["message 1", "message 2"]
        spans = [document.text[page.start : page.end] for page in document.pages]
        assert "".join(spans) == document.text
        assert spans[1] == "Subject: Two\n\nsecond\n"
        assert "\nFrom here on" in spans[0]
        assert "From the start of 2026" in spans[0]


def test_a_saved_page_is_its_text(read) -> None:
    content = (
        "From: <Saved by Blink>\r\nSubject: Vell\r\nMIME-Version: 1.0\r\nContent-Type: "
        "multipart/related; boundary=b\r\n\r\n--b\r\nContent-Type: text/html\r\n\r\n<html><body>"
        "<nav>Home</nav><p>Ada built it.</p></body></html>\r\n--b\r\nContent-Type: text/css\r\n\r\n"
        "p {}\r\n--b--\r\n"
    )
    document = read(content, "a.mhtml")
    assert document.text == "Ada built it.\n"
    assert document.title == "Vell"


@pytest.mark.parametrize(
    ("content", "name", "is_mail"),
    [
        (message(Received="by x", Date="now").as_string(), "noname", True),
        ("Return-Path: <a@b>\nReceived: by x\nFrom: a@b\n\nx", "-", True),
        (
            "Date: today\nSubject: mills\nTo: all\n\nProse that begins like a letter.",
            "a.txt",
            False,
        ),
        ("Note: this.\n\nFrom: x\nReceived: y\nMessage-ID: z\nTo: a", "a.txt", False),
        ("From here on: a story.\n", "a.txt", False),
    ],
)
def test_mail_is_told_by_its_headers(content: str, name: str, is_mail: bool) -> None:
    assert find(content.encode(), name).module.endswith(".mail") == is_mail


@pytest.mark.parametrize(
    "data",
    [
        b"From a 1234" + b" 1234" * 100_000,
        b"From a 1234\n" * 50_000,
        b"Subject: " + b"=?utf-8?q?" * 20_000 + b"\n\nx",
        b"From: " + b"(" * 20_000 + b"\n\nx",
        b"Content-Type: " + b"a;" * 20_000 + b"\n\nx",
        b"\n".join(b"a:" + b" b\n" * 5 for _ in range(5000)),
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\nx\n" * 5000,
    ],
)
def test_no_message_takes_long(data: bytes) -> None:
    began = time.process_time()
    mail.parse(data, "a.eml")
    assert time.process_time() - began < 5
