"""PDF files, by their text layer: some pages at a time, in processes with limits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from agenticlu.core.errors import DocumentError
from agenticlu.documents.confined import call
from agenticlu.documents.formats import Parsed, name_of
from agenticlu.documents.formats.pdf_pages import PagesRead
from agenticlu.documents.formats.pdf_text import join_pages

PAGES = 100
"""Pages that are read at a time: the limits on time and memory hold for each such part."""
_MOST_AT_ONCE = 2
ReadPages = Callable[[int, int], PagesRead]
"""Takes the first page, from 0, and the most pages to be read."""


def parse(data: bytes, source: str) -> Parsed:
    """Reads the text layer; the pages are spans that cover the text.

    Raises:
        DocumentError: The file is encrypted or broken, or has no text layer.
    """
    function = "agenticlu.documents.formats.pdf_pages:read_pages"
    read = partial(call, function, data, source, name=name_of(source), into=PagesRead)
    return parse_by(read, source)


def parse_by(read: ReadPages, source: str) -> Parsed:
    """Reads a PDF by a function that reads some of its pages.

    Raises:
        DocumentError: The file is encrypted or broken, or has no text layer.
    """
    parts = [read(0, PAGES)]
    rest = range(PAGES, parts[0].num_pages, PAGES)
    if rest:
        with ThreadPoolExecutor(min(_MOST_AT_ONCE, os.cpu_count() or 1)) as pool:
            parts += pool.map(lambda first: read(first, PAGES), rest)
    left_out = sum((part.left_out for part in parts), Counter[str]())
    if not any(part.text for part in parts):
        raise _no_text(source, parts[0].num_pages, left_out["broken page"])
    text, pages, places = join_pages(
        *zip(*((part.text, part.spans, part.places) for part in parts), strict=True)
    )
    return Parsed(text, parts[0].title, pages, left_out, places)


def _no_text(source: str, num_pages: int, num_broken: int) -> DocumentError:
    if num_broken == num_pages:
        return DocumentError(
            f"PDF {source!r} is broken: none of its {num_pages} page(s) can be read.",
            hint="Try to repair it: qpdf IN.pdf OUT.pdf",
        )
    return DocumentError(
        f"PDF {source!r} has no text layer: its {num_pages} page(s) are images.",
        hint="Recognise the text first: ocrmypdf IN.pdf OUT.pdf",
    )
