"""Pages of PDF files, by their text layer, in reading order."""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import without_lone_surrogates
from agenticlu.documents.formats.pdf_fields import read_written
from agenticlu.documents.formats.pdf_layout import order_words
from agenticlu.documents.formats.pdf_rules import read_rules
from agenticlu.documents.formats.pdf_text import TextBuilder
from agenticlu.documents.formats.pdf_words import read_words
from agenticlu.documents.rectangles import Places

LEAST_IMAGE = 24.0
"""Smaller images are bullets and rules, in points."""
SCAN_SHARE = 0.8
"""An image that covers more of the page is the scan that a text layer was made from."""
LEAST_SCAN, LEAST_CHARS = 0.5, 100
"""A page with so large an image and so few characters is a scan with a stamp or a page number."""
_one_at_a_time = threading.Lock()
"""PDFium must not be called by two threads of a process."""
UNKNOWN_SHARE = 0.2
"""A page with more unknown glyphs among its characters cannot be read."""


@dataclass(frozen=True)
class PagesRead:
    """Some pages of a PDF."""

    num_pages: int
    """Of the whole file."""
    first: int
    """The first of these pages, from 0."""
    title: str | None
    text: str
    spans: list[tuple[int, int]]
    """Start and end of each page in the text."""
    places: Places
    left_out: Counter[str]
    unreadable: dict[int, Counter[str]]
    """Pages (from 0) that a picture of them says more of, with what their text lacks."""


def read_pages(data: bytes, source: str, first: int, most: int) -> PagesRead:
    """Reads the text layer of at most `most` pages from page `first` (from 0) on.

    Raises:
        DocumentError: The file is encrypted or broken.
    """
    builder = TextBuilder()
    left_out: Counter[str] = Counter()
    unreadable: dict[int, Counter[str]] = {}
    with _opened(data, source) as pdf:
        num_pages = len(pdf)
        for index in range(first, min(first + most, num_pages)):
            page_left_out, is_unreadable = _read_page(pdf, index, builder)
            left_out += page_left_out
            if is_unreadable:
                unreadable[index] = page_left_out
        if first == 0:
            left_out += _count_unread(pdf)
        title = without_lone_surrogates(str(pdf.get_metadata_value("Title") or "")).strip()
    return PagesRead(
        num_pages, first, title or None, *builder.build(), left_out=+left_out, unreadable=unreadable
    )


def render_page(data: bytes, source: str, index: int, dots_per_point: float) -> bytes:
    """Draws a page as it is shown, with what is filled in, as a grey picture (PGM).

    Raises:
        DocumentError: The page is broken.
    """
    with _opened(data, source) as pdf:
        try:
            page = pdf[index]
        except pypdfium2.PdfiumError as error:
            raise DocumentError(f"Page {index + 1} of PDF {source!r} is broken: {error}") from error
        bitmap = page.render(scale=dots_per_point, grayscale=True)
        rows = bitmap.to_numpy().reshape(bitmap.height, -1)[:, : bitmap.width]
        picture = b"P5 %d %d 255\n" % (bitmap.width, bitmap.height) + bytes(rows.tobytes())
        bitmap.close()
        page.close()
        return picture


@contextmanager
def _opened(data: bytes, source: str) -> Iterator[Any]:
    """Opens a PDF, with its form, and closes it.

    Raises:
        DocumentError: It is encrypted or broken.
    """
    with _one_at_a_time:
        pdf = open_pdf(data, source)
        try:
            yield pdf
        finally:
            pdf.close()


def open_pdf(data: bytes, source: str) -> Any:
    """Opens a PDF, with its form.

    Raises:
        DocumentError: It is encrypted or broken.
    """
    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentError(
                f"PDF {source!r} is encrypted.",
                hint="Remove the password first: qpdf --decrypt --password=... IN.pdf OUT.pdf",
            ) from error
        raise DocumentError(
            f"PDF {source!r} is broken: {error}", hint="Try to repair it: qpdf IN.pdf OUT.pdf"
        ) from error
    if pdfium.FPDF_GetFormType(pdf.raw) != pdfium.FORMTYPE_NONE:
        try:
            pdf.init_forms()
        except BaseException:
            pdf.close()
            raise
    return pdf


def _count_unread(pdf: Any) -> Counter[str]:
    """Counts what belongs to no page."""
    is_dynamic = pdfium.FPDF_GetFormType(pdf.raw) == pdfium.FORMTYPE_XFA_FULL
    return Counter(
        {
            "XFA form": int(is_dynamic),
            "attached file": max(0, pdfium.FPDFDoc_GetAttachmentCount(pdf.raw)),
        }
    )


def _read_page(pdf: Any, index: int, builder: TextBuilder) -> tuple[Counter[str], bool]:
    """Adds a page to the text; returns what it leaves out, and whether it is unreadable."""
    left_out: Counter[str] = Counter()
    try:
        page = pdf[index]
    except pypdfium2.PdfiumError:
        builder.add_page((), (0, 0, 0, 0), 0)
        return Counter({"broken page": 1}), False
    try:
        box, rotation = page.get_bbox(), page.get_rotation()
        words, left_out["unknown glyph"] = _words(page)
        shown = [word for word in words if _is_shown(word.box, box)]
        left_out["word outside the page"] = len(words) - len(shown)
        form = pdf.formenv.raw if pdf.formenv else None
        written = read_written(page.raw, form)
        lines = order_words(
            shown, written.values, written.blocks, written.notes, partial(read_rules, page.raw)
        )
        left_out += written.left_out
        builder.add_page(lines, box, rotation)
        images, scan_share = _measure_images(page.raw, box)
        size = sum(len(word.text) for word in shown)
        if lines:
            left_out["image"] += images
        else:
            num_objects = pdfium.FPDFPage_CountObjects(page.raw)
            left_out["page without text"] = int(num_objects > 0)
        is_scan = bool(lines) and scan_share > LEAST_SCAN and size < LEAST_CHARS
        left_out["scanned page"] = int(is_scan)
        is_unreadable = is_scan or left_out["page without text"] > 0
        return +left_out, is_unreadable or left_out["unknown glyph"] > UNKNOWN_SHARE * size
    finally:
        page.close()


def _words(page: Any) -> Any:
    textpage = pdfium.FPDFText_LoadPage(page.raw)
    if not textpage:
        return [], 0
    try:
        return read_words(textpage)
    finally:
        pdfium.FPDFText_ClosePage(textpage)


def _is_shown(word: Sequence[float], page: Sequence[float]) -> bool:
    return word[0] < page[2] and word[2] > page[0] and word[1] < page[3] and word[3] > page[1]


def _measure_images(page: Any, box: tuple[float, ...]) -> tuple[int, float]:
    """Counts pictures; returns the share of the page that the largest covers, too."""
    sides = [ctypes.c_float() for _ in range(4)]
    whole = max((box[2] - box[0]) * (box[3] - box[1]), 1.0)
    images, largest = 0, 0.0
    for index in range(pdfium.FPDFPage_CountObjects(page)):
        one = pdfium.FPDFPage_GetObject(page, index)
        if pdfium.FPDFPageObj_GetType(one) != pdfium.FPDF_PAGEOBJ_IMAGE:
            continue
        pdfium.FPDFPageObj_GetBounds(one, *map(ctypes.byref, sides))
        left, bottom, right, top = (side.value for side in sides)
        width, height = right - left, top - bottom
        share = width * height / whole
        largest = max(largest, share)
        images += min(width, height) >= LEAST_IMAGE and share <= SCAN_SHARE
    return images, largest
