"""Formats of documents: how each is told, and the module that reads it."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agenticlu.core.records import LONE_SURROGATE, Page, without_lone_surrogates
from agenticlu.documents.confined import call
from agenticlu.documents.rectangles import Places


@dataclass(frozen=True)
class Parsed:
    """What a format's parser makes of a file."""

    text: str
    title: str | None = None
    pages: tuple[Page, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    """What the text does not hold, counted by kind in the singular: 'image', 'hidden slide'."""
    places: Places | None = None
    """Where its words stand on the pages; None where the format has no such places."""


@dataclass(frozen=True)
class Format:
    """A document format."""

    name: str
    """Shown to users."""
    matches: Callable[[bytes, str], bool]
    """Tells the format by the content and the lower-case ending of the file's name."""
    module: str
    """A module whose `parse` takes the content and the source's name and returns `Parsed`."""
    confined: bool = True
    """Whether it is parsed in a process of its own, with limits. What is read as it stands, without
    a library, needs none; PDFs are read by several."""
    recognises: bool = False
    """Whether `parse` takes the languages of pages that are pictures, and tells its progress."""


def _is_pdf(data: bytes, ending: str) -> bool:
    return data[:1024].lstrip().startswith(b"%PDF-") or ending == ".pdf"


def _is_html(data: bytes, ending: str) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    before = rb"(<\?xml[^>]*+>\s*+)?(<!--(?:(?!-->).)*+-->\s*+)*+"
    declared = re.match(before + rb"(<!doctype html|<html)", head, re.DOTALL)
    return ending in {".html", ".htm", ".xhtml"} or bool(declared)


def _is_flat_odf(data: bytes, ending: str) -> bool:
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith((b"<?xml", b"<office:document ")) and b"<office:document " in head


def _is_mail(data: bytes, ending: str) -> bool:
    head = data[:4096].lstrip()
    is_mailbox = re.match(rb"From \S+ [^\n]{0,80}\d{4}\r?\n[A-Za-z-]{2,40}:", head)
    if is_mailbox or ending in {".eml", ".mbox", ".mht", ".mhtml"}:
        return True
    names = re.findall(
        rb"^(from|to|date|subject|received|message-id|mime-version|return-path):",
        re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0],
        re.IGNORECASE | re.MULTILINE,
    )
    # Prose may begin with 'Date:' and 'Subject:'; no prose has a path of servers.
    known = {name.lower() for name in names}
    is_first = re.match(rb"(From \S.*\n)?[A-Za-z][\w-]*:", head) is not None
    return (
        is_first and len(known) > 2 and bool(known & {b"received", b"message-id", b"mime-version"})
    )


def _is_notebook(data: bytes, ending: str) -> bool:
    return ending == ".ipynb" or (
        data[:64].lstrip().startswith(b"{") and b'"nbformat":' in data[-200:]
    )


FORMATS = (
    Format("PDF", _is_pdf, f"{__name__}.pdf", False, True),
    Format(
        "docx, pptx, xlsx, odt, ods, odp, epub",
        lambda data, _: data.startswith(b"PK\x03\x04"),
        f"{__name__}.archives",
    ),
    Format("flat OpenDocument", _is_flat_odf, f"{__name__}.odf"),
    Format("rtf", lambda data, _: data[:64].lstrip().startswith(b"{\\rtf"), f"{__name__}.rtf"),
    Format("xls", lambda data, _: data.startswith(b"\xd0\xcf\x11\xe0"), f"{__name__}.ole"),
    Format(
        "csv, tsv", lambda _, ending: ending in {".csv", ".tsv", ".tab"}, f"{__name__}.delimited"
    ),
    Format("Jupyter notebook", _is_notebook, f"{__name__}.notebook"),
    Format("mail (eml, mbox, mhtml)", _is_mail, f"{__name__}.mail"),
    Format("HTML", _is_html, f"{__name__}.html"),
    Format("Markdown", lambda _, ending: ending in {".md", ".markdown"}, f"{__name__}.text", False),
    Format("plain text", lambda *_: True, f"{__name__}.text", False),
)
"""The first format that matches reads a document."""


def parse(
    data: bytes, source: str, ocr: str = "", on_progress: Callable[[float], None] | None = None
) -> Parsed:
    """Reads a document in the first format that matches.

    Args:
        data: The file.
        source: Its name.
        ocr: Languages in which pages are recognised that are pictures; empty: not at all.
        on_progress: Called with the share that is read, where that takes a while.

    Raises:
        DocumentError: The file is binary, encrypted or broken, in no known encoding, or takes more
            memory or time than the limits allow.
    """
    found = find(data, source)
    if found.confined:
        function = f"{__name__}:parse_as"
        return call(function, data, found.module, source, name=name_of(source), into=Parsed)
    if found.recognises:
        parsed: Parsed = importlib.import_module(found.module).parse(data, source, ocr, on_progress)
        return parsed
    return parse_as(data, found.module, source)


def find(data: bytes, source: str) -> Format:
    """Returns the first format that matches."""
    ending = Path(source).suffix.lower()
    return next(one for one in FORMATS if one.matches(data, ending))


def parse_as(data: bytes, module: str, source: str) -> Parsed:
    """Reads a document by the module of a format, in this process."""
    parsed: Parsed = importlib.import_module(module).parse(data, source)
    if LONE_SURROGATE.search(parsed.text) or LONE_SURROGATE.search(parsed.title or ""):
        return replace(
            parsed,
            text=without_lone_surrogates(parsed.text),
            title=parsed.title and without_lone_surrogates(parsed.title),
        )
    return parsed


def name_of(source: str) -> str:
    """Returns a document's name for messages."""
    return "Standard input" if source == "-" else f"Document {source!r}"
