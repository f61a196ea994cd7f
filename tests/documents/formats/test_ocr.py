from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pypdfium2
import pytest
from made_pdf import PdfPage, make_pdf, show

from agenticlu.core.errors import DocumentError
from agenticlu.core.limits import ReadingLimits
from agenticlu.documents import load_document
from agenticlu.documents.formats import ocr, pdf
from agenticlu.documents.formats.pdf_pages import PagesRead
from agenticlu.documents.rectangles import Places, Words, rectangles_of

TEXT = "The mill was built by Ada Larkin"
needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="Tesseract is not installed"
)


def scanned(*, stamp: str = "") -> bytes:
    """Two pages: one of text, one that is a picture of text, perhaps with a stamp on it."""
    box = "/MediaBox [0 0 300 100]"
    original = make_pdf([PdfPage(show(20, 60, TEXT, 14), box)])
    with pypdfium2.PdfDocument(original) as shown:
        bitmap = shown[0].render(scale=3, grayscale=True)
        width, height = bitmap.width, bitmap.height
        pixels = bitmap.to_numpy().reshape(height, -1)[:, :width].tobytes()
    image = (
        b"<< /Type /XObject /Subtype /Image /Width %d /Height %d /ColorSpace /DeviceGray "
        b"/BitsPerComponent 8 /Length %d >>\nstream\n%s\nendstream"
        % (width, height, len(pixels), pixels)
    )
    drawn = "q 300 0 0 100 0 0 cm /I Do Q\n" + (show(20, 10, stamp) if stamp else "")
    page = PdfPage(drawn, box, resources="/XObject << /I 4 0 R >>")
    return make_pdf([show(72, 700, "A page of text."), page], [image])


@needs_tesseract
@pytest.mark.parametrize("stamp", ["", "17"])
def test_pages_that_are_pictures_are_recognised_where_asked(tmp_path: Path, stamp: str) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(scanned(stamp=stamp))
    document = load_document(path)
    assert "Larkin" not in document.text
    assert document.left_out == {"scanned page" if stamp else "page without text": 1}
    document = load_document(path, limits=ReadingLimits(ocr="eng"))
    assert document.left_out == {}
    assert document.text.startswith("A page of text.\n\n")
    start = document.text.index(TEXT)
    assert document.page_of(start) == 2
    (place,) = rectangles_of(document, start, start + len(TEXT))
    assert (place.left, place.bottom) == pytest.approx((20, 43), abs=3)


def test_without_tesseract_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DocumentError, match="not installed") as caught:
        pdf.parse(scanned(), "a.pdf", "eng")
    assert "ocrmypdf" in str(caught.value.hint)
    text = make_pdf([show(72, 700, "A page of text.")])
    assert pdf.parse(text, "a.pdf", "eng").text == "A page of text.\n\n"  # nothing to recognise


@needs_tesseract
def test_a_language_that_is_not_there_is_named() -> None:
    with pytest.raises(DocumentError, match="no data for 'klingon'"):
        ocr.Tesseract.find("eng+klingon")


def test_what_is_recognised_takes_the_place_of_its_page() -> None:
    part = PagesRead(
        num_pages=5,
        first=2,
        title=None,
        text="one two\n\nlast\n\n",
        spans=[(0, 9), (9, 9), (9, 15)],
        places=Places.of(Words.of((0, 4, 9), (3, 7, 13), (0, 0, 0), ((1, 1, 9, 9),) * 3)),
        left_out=Counter({"page without text": 1, "image": 2}),
        unreadable={3: Counter({"page without text": 1})},
    )
    one = Words.of((0,), (4,), (0,), ((5, 5, 6, 6),))
    found = pdf.recognise_pages(part, lambda index: (f"page {index}", one))
    assert found.text == "one two\n\npage 3\n\nlast\n\n"
    assert found.spans == [(0, 9), (9, 17), (17, 23)]
    assert found.places.words.starts.tolist() == [0, 4, 9, 17]
    assert found.left_out == {"image": 2}
    blank = pdf.recognise_pages(part, lambda index: ("", Words.of((), (), (), ())))
    assert blank.left_out == {"image": 2, "page without text": 1}


def test_the_table_of_words_is_read_in_paragraphs_and_lines() -> None:
    header = "level page_num block_num par_num line_num word_num left top width height conf text"
    rows = [
        "4\t1\t1\t1\t1\t0\t10\t10\t90\t20\t-1\t",
        "5\t1\t1\t1\t1\t1\t10\t10\t40\t20\t96\tThe",
        "5\t1\t1\t1\t1\t2\t60\t10\t40\t20\t96\tmill",
        "5\t1\t1\t1\t2\t1\t10\t40\t40\t20\t96\tstands.",
        "5\t1\t2\t1\t1\t1\t10\t90\t40\t20\t96\tNext",
    ]
    text, words = ocr._read_table("\n".join([header, *rows]), 2.0)
    assert text == "The mill\nstands.\n\nNext"
    assert [text[a:b] for a, b in zip(words.starts, words.ends, strict=True)] == text.split()
    assert words.lines.tolist() == [0, 0, 1, 2]
    assert words.boxes[1].tolist() == [30, 5, 50, 15]
