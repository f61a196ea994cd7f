"""Formats of documents: how each is told, and the module that reads it."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agenticlu.core.records import Page


@dataclass(frozen=True)
class Parsed:
    """What a format's parser makes of a file."""

    text: str
    title: str | None = None
    pages: tuple[Page, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)
    """What the text does not hold, counted by kind in the singular: 'image', 'hidden slide'."""


@dataclass(frozen=True)
class Format:
    """A document format."""

    name: str
    """Shown to users."""
    matches: Callable[[bytes, str], bool]
    """Tells the format by the content and the lower-case ending of the file's name."""
    module: str
    """A module whose `parse` takes the content and the source's name and returns `Parsed`."""


def _is_pdf(data: bytes, ending: str) -> bool:
    return data[:1024].lstrip().startswith(b"%PDF-") or ending == ".pdf"


def _is_html(data: bytes, ending: str) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    declared = re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype html|<html)", head, re.S)
    return ending in {".html", ".htm", ".xhtml"} or bool(declared)


FORMATS = (
    Format("PDF (with a text layer)", _is_pdf, f"{__name__}.pdf"),
    Format("docx, epub", lambda data, _: data.startswith(b"PK\x03\x04"), f"{__name__}.archives"),
    Format("HTML", _is_html, f"{__name__}.html"),
    Format("Markdown", lambda _, ending: ending in {".md", ".markdown"}, f"{__name__}.text"),
    Format("plain text", lambda *_: True, f"{__name__}.text"),
)
"""The first format that matches reads a document."""


def parse(data: bytes, source: str) -> Parsed:
    """Reads a document in the first format that matches.

    Raises:
        DocumentError: The file is binary, encrypted or broken, or in no known encoding.
    """
    ending = Path(source).suffix.lower()
    found = next(one for one in FORMATS if one.matches(data, ending))
    parsed: Parsed = importlib.import_module(found.module).parse(data, source)
    return parsed


def name_of(source: str) -> str:
    """Returns a document's name for messages."""
    return "Standard input" if source == "-" else f"Document {source!r}"
