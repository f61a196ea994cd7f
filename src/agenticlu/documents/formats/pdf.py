"""PDF files, by their text layer."""

from __future__ import annotations

import re
from typing import Any

import pypdfium2

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Page, without_lone_surrogates
from agenticlu.documents.formats import Parsed


def parse(data: bytes, source: str) -> Parsed:
    """Reads the text layer; the pages are spans that cover the text.

    Raises:
        DocumentError: The file is encrypted or broken, or has no text layer.
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
    parts: list[str] = []
    pages: list[Page] = []
    length = 0
    try:
        for number in range(1, len(pdf) + 1):
            text = _extract_page(pdf, number, source)
            body = f"{text}\n\n" if text else ""
            pages.append(Page(number=number, start=length, end=length + len(body)))
            parts.append(body)
            length += len(body)
        title = str(pdf.get_metadata_value("Title") or "").strip() or None
    finally:
        pdf.close()
    if length == 0:
        raise DocumentError(
            f"PDF {source!r} has no text layer: its {len(pages)} page(s) are images.",
            hint="Recognise the text first: ocrmypdf IN.pdf OUT.pdf",
        )
    return Parsed("".join(parts), title, tuple(pages))


def _extract_page(pdf: Any, number: int, source: str) -> str:
    try:
        page = pdf[number - 1]
        textpage = page.get_textpage()
        text: str = textpage.get_text_bounded()
        textpage.close()
        page.close()
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"Page {number} of PDF {source!r} is broken: {error}") from error
    # PDFium ends lines with \r\n and writes U+FFFE (or U+0002) for a hyphen at a line's end.
    text = re.sub("[\ufffe\x02]\r?\n?", "", text).replace("\r\n", "\n").replace("\r", "\n")
    return without_lone_surrogates(text.replace("\x00", "")).strip()
