from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from made_pdf import write_objects

from agenticlu.core.errors import DocumentError
from agenticlu.documents import (
    load_document,
    split,
)
from agenticlu.documents.tokens import ApproximateTokenizer

# --- Making files ---------------------------------------------------------------------------------


def pdf(pages: list[str], *, trailer: str = "", encrypt: bytes | None = None) -> bytes:
    """Writes a PDF by hand: one line of Helvetica per text line, no text where it is empty."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>"]
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode())
    objects.append(b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
    for i, text in enumerate(pages):
        shown = "".join(f"({line}) Tj T* " for line in text.split("\n") if line)
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown}ET".encode("latin-1") if text else b""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    if encrypt is not None:
        objects.append(encrypt)
        trailer += f" /Encrypt {len(objects)} 0 R /ID [<{'00' * 16}> <{'00' * 16}>]"
    return write_objects(objects, trailer)


def encryption(password: bytes) -> bytes:
    """The standard handler's dictionary, revision 2 (40 bit RC4), for a user password."""
    pad = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")

    def rc4(key: bytes, data: bytes) -> bytes:
        state, j = list(range(256)), 0
        for i in range(256):
            j = (j + state[i] + key[i % len(key)]) % 256
            state[i], state[j] = state[j], state[i]
        i = j = 0
        out = bytearray()
        for byte in data:
            i = (i + 1) % 256
            j = (j + state[i]) % 256
            state[i], state[j] = state[j], state[i]
            out.append(byte ^ state[(state[i] + state[j]) % 256])
        return bytes(out)

    padded = (password + pad)[:32]
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    permissions = (-4).to_bytes(4, "little", signed=True)
    key = hashlib.md5(padded + owner + permissions + bytes(16)).digest()[:5]
    user = rc4(key, pad)
    return f"<< /Filter /Standard /V 1 /R 2 /P -4 /O <{owner.hex()}> /U <{user.hex()}> >>".encode()


def zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


Write = Callable[[str, bytes | str], str]


# --- Loading --------------------------------------------------------------------------------------


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"<!DOCTYPE html><p>Ada &amp; Bo</p>")

    monkeypatch.setattr("sys.stdin", Stdin)
    document = load_document("-")
    assert document.text == "Ada & Bo\n"
    assert document.source == "-"


def test_pdf_pages_are_spans(write: Write) -> None:
    document = load_document(write("a.pdf", pdf(["Ada lives\nin Vell.", "", "Bo has a lamp."])))
    assert [page.number for page in document.pages] == [1, 2, 3]
    texts = [document.text[page.start : page.end].split() for page in document.pages]
    assert [" ".join(words) for words in texts] == [
        "Ada lives in Vell.",
        "",
        "Bo has a lamp.",
    ]
    assert document.pages[-1].end == len(document.text)
    for before, after in pairwise(document.pages):
        assert before.end == after.start
    assert document.page_of(document.text.index("Bo")) == 3
    pieces = split(document, ApproximateTokenizer(), 8)
    assert pieces[0].page == 1
    assert pieces[-1].page == 3


BROKEN_PDF = b"%PDF-1.4\nnothing that follows is a PDF"
REFUSED: list[tuple[str, str, bytes, str]] = [
    ("empty", "a.txt", b"", "is empty"),
    ("white space", "a.txt", b" \n\t\n", "is empty"),
    ("old office", "a.doc", b"\xd0\xcf\x11\xe0\x00\x00", "compound file"),
    ("pdf of pictures", "a.pdf", pdf(["", ""]), "no text layer"),
    ("pdf with password", "a.pdf", pdf(["x"], encrypt=encryption(b"pw")), "encrypted"),
    ("broken pdf", "a.pdf", BROKEN_PDF, "broken"),
    ("no pdf at all", "a.pdf", b"just text", "broken"),
    ("zip", "a.zip", zipped({"a.txt": "a"}), "no office file and no epub"),
    ("broken docx", "a.docx", zipped({"word/document.xml": "<w"}), "broken"),
    ("torn zip", "a.docx", zipped({"word/document.xml": "<w/>"})[:40], "broken"),
]


@pytest.mark.parametrize(
    ("name", "content", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused_documents_say_why(write: Write, name: str, content: bytes, message: str) -> None:
    path = write(name, content)
    with pytest.raises(DocumentError, match=message) as caught:
        load_document(path)
    assert name in caught.value.message
    assert caught.value.exit_code == 4


def test_missing_files(tmp_path: Path, write: Write) -> None:
    write("report.txt", "a")
    with pytest.raises(DocumentError, match="does not exist") as caught:
        load_document(str(tmp_path / "reprot.txt"))
    assert "report.txt" in str(caught.value.hint)
    with pytest.raises(DocumentError, match="does not exist"):
        load_document(str(tmp_path / "report.txt" / "inside.txt"))
    with pytest.raises(DocumentError):
        load_document("a\x00b")
