"""PDF files, by their text layer: some pages at a time, in processes with limits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from agenticlu.core.errors import DocumentError
from agenticlu.documents.confined import call
from agenticlu.documents.formats import Parsed, name_of
from agenticlu.documents.formats.ocr import Tesseract
from agenticlu.documents.formats.pdf_pages import PagesRead
from agenticlu.documents.formats.pdf_text import join_pages
from agenticlu.documents.rectangles import Places, Words, join_words

PAGES = 100
"""Pages that are read at a time: the limits on time and memory hold for each such part."""
DOTS_PER_POINT = 300 / 72
"""Of pictures of pages whose text is to be recognised."""
_MOST_AT_ONCE = 2
_PAGES_MODULE = "agenticlu.documents.formats.pdf_pages"
ReadPages = Callable[[int, int], PagesRead]
"""Takes the first page, from 0, and the most pages to be read."""
Recognise = Callable[[int], tuple[str, Words]]
"""Takes a page, from 0; returns its text and the places of the words."""
Given = TypeVar("Given")
Made = TypeVar("Made")


def parse(
    data: bytes, source: str, ocr: str = "", on_progress: Callable[[float], None] | None = None
) -> Parsed:
    """Reads the text layer; the pages are spans that cover the text.

    Args:
        data: The file.
        source: Its name.
        ocr: Languages in which pages are recognised whose text cannot be read, such as 'deu+eng';
            empty: such pages are counted as left out.
        on_progress: Called with the share that is read, in any thread.

    Raises:
        DocumentError: The file is encrypted or broken, or has no text layer; Tesseract is needed
            and not installed.
    """
    name = name_of(source)

    pages_read = 0

    def read(first: int, most: int) -> PagesRead:
        nonlocal pages_read
        function = f"{_PAGES_MODULE}:read_pages"
        part: PagesRead = call(function, data, source, first, most, name=name, into=PagesRead)
        pages_read += most
        if on_progress is not None and part.num_pages:
            on_progress(min(1.0, pages_read / part.num_pages))
        return part

    def recognise(index: int) -> tuple[str, Words]:
        function = f"{_PAGES_MODULE}:render_page"
        picture: bytes = call(function, data, source, index, DOTS_PER_POINT, name=name, into=bytes)
        return tesseract.recognise(picture, DOTS_PER_POINT)

    parts = read_all(read)
    if ocr and any(part.unreadable for part in parts):
        tesseract = Tesseract.find(ocr)
        parts = [recognise_pages(part, recognise) for part in parts]
    return join_parts(parts, source)


def read_all(read: ReadPages) -> list[PagesRead]:
    """Reads a PDF by a function that reads some of its pages."""
    parts = [read(0, PAGES)]
    rest = range(PAGES, parts[0].num_pages, PAGES)
    return parts + _side_by_side(lambda first: read(first, PAGES), rest)


def join_parts(parts: Sequence[PagesRead], source: str) -> Parsed:
    """Joins the parts of a PDF.

    Raises:
        DocumentError: There is no text in it.
    """
    left_out = sum((part.left_out for part in parts), Counter[str]())
    if not any(part.text for part in parts):
        raise _no_text(source, parts[0].num_pages, left_out["broken page"])
    text, pages, places = join_pages(
        *zip(*((part.text, part.spans, part.places) for part in parts), strict=True)
    )
    return Parsed(text, parts[0].title, pages, left_out, places)


def recognise_pages(part: PagesRead, recognise: Recognise) -> PagesRead:
    """Puts what is recognised of unreadable pages in the place of their text."""
    numbers = list(part.unreadable)
    found = zip(numbers, _side_by_side(recognise, numbers), strict=True)
    read = {index: one for index, one in found if one[0]}
    left_out = part.left_out - sum((part.unreadable[i] for i in read), Counter[str]())
    return replace(_replace_pages(part, read), left_out=left_out, unreadable={})


def _replace_pages(part: PagesRead, found: Mapping[int, tuple[str, Words]]) -> PagesRead:
    words = part.places.words
    texts: list[str] = []
    spans: list[tuple[int, int]] = []
    kept: list[Words] = []
    length = 0
    for index, (start, end) in enumerate(part.spans, start=part.first):
        if index in found:
            text, places = found[index][0] + "\n\n", found[index][1].moved(length)
        else:
            text = part.text[start:end]
            among = (words.starts >= start) & (words.starts < end)
            places = words.where(among).moved(length - start)
        texts.append(text)
        kept.append(places)
        spans.append((length, length + len(text)))
        length += len(text)
    return replace(part, text="".join(texts), spans=spans, places=Places.of(join_words(kept)))


def _side_by_side(work: Callable[[Given], Made], given: Sequence[Given]) -> list[Made]:
    if not given:
        return []
    with ThreadPoolExecutor(min(_MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, given))


def _no_text(source: str, num_pages: int, num_broken: int) -> DocumentError:
    if num_broken == num_pages:
        which = "its page cannot" if num_pages == 1 else f"none of its {num_pages} pages can"
        return DocumentError(
            f"PDF {source!r} is broken: {which} be read.",
            hint="Try to repair it: qpdf IN.pdf OUT.pdf",
        )
    return DocumentError(
        f"PDF {source!r} has no text layer: "
        + ("its page is an image." if num_pages == 1 else f"its {num_pages} pages are images."),
        hint="Recognise the text: --ocr (needs Tesseract), or for good: ocrmypdf IN.pdf OUT.pdf",
    )
