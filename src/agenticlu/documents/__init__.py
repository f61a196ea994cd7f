"""Documents: loading from any file format, pieces, paragraph markers, token counts, citations.

Characters are counted in `Document.text`; every piece, page and citation is a span of it.
"""

from __future__ import annotations

import codecs
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agenticlu.core.errors import DocumentError, did_you_mean
from agenticlu.core.records import Document, Page
from agenticlu.documents.pieces import (
    DEFAULT_PIECE_TOKENS,
    NO_MARKS,
    Marks,
    mark,
    neutralise,
    parse_marks,
    render_marks,
    render_piece,
    split,
)

__all__ = [
    "DEFAULT_PIECE_TOKENS",
    "NO_MARKS",
    "Marks",
    "load_document",
    "mark",
    "neutralise",
    "parse_marks",
    "render_marks",
    "render_piece",
    "split",
]


_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY_FORMATS = {
    b"\xd0\xcf\x11\xe0": "an old Office file; save it as docx or PDF",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\x7fELF": "a program",
    b"SQLite format 3": "a database",
}


def load_document(source: str) -> Document:
    """Loads UTF-8 text, Markdown, HTML, PDF (its text layer), docx or epub.

    The format is recognised by the content, then by the file's ending.

    Args:
        source: A path, or '-' for standard input.

    Raises:
        DocumentError: The file is missing, a directory, empty, binary, encrypted or broken, not
            UTF-8, or a PDF without a text layer.
    """
    data = _read_bytes(source)
    if not data.strip(b" \t\r\n\f\v\x00"):
        raise DocumentError(f"{_name(source)} is empty.", hint="Give a document with text in it.")
    text, title, pages = _parse(data, source)
    if not text.strip():
        raise DocumentError(f"{_name(source)} contains no text.")
    return Document.of(text, source, title=title, pages=pages)


def _name(source: str) -> str:
    return "Standard input" if source == "-" else f"Document {source!r}"


def _read_bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if re.match(r"https?://", source):
        raise DocumentError(
            f"{source!r} is a URL; documents are read from files or standard input.",
            hint=f"curl -L {source} | agenticlu ask - QUESTION",
        )
    path = Path(source)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DocumentError(
            f"File {source!r} does not exist.",
            hint=_suggest_file(path) or "Give the path of a document, or - for standard input.",
        ) from error
    except IsADirectoryError as error:
        raise DocumentError(
            f"{source!r} is a directory; a document is one file.",
            hint="Give one of its files, or join them: cat DIR/*.txt | agenticlu ask - QUESTION",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(f"Cannot read {source!r}: {reason}.") from error


def _suggest_file(path: Path) -> str | None:
    try:
        names = [str(path.parent / other.name) for other in path.parent.iterdir()]
    except OSError:
        return None
    return did_you_mean(str(path), names)


Parsed = tuple[str, str | None, tuple[Page, ...]]
"""Text, title and pages of a document."""


@dataclass(frozen=True)
class Format:
    """A document format."""

    name: str
    """Shown to users."""
    matches: Callable[[bytes, str], bool]
    """Tells the format by the content and the lower-case ending of the file's name."""
    parse: str
    """'module:function' that takes the content and the source's name and returns `Parsed`."""


def _is_pdf(data: bytes, ending: str) -> bool:
    return data[:1024].lstrip().startswith(b"%PDF-") or ending == ".pdf"


def _is_html(data: bytes, ending: str) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    declared = re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype html|<html)", head, re.S)
    return ending in {".html", ".htm", ".xhtml"} or bool(declared)


FORMATS = (
    Format("PDF (with a text layer)", _is_pdf, "agenticlu.documents.formats:parse_pdf"),
    Format("docx, epub", lambda data, _: data.startswith(b"PK\x03\x04"), f"{__name__}:_parse_zip"),
    Format("HTML", _is_html, f"{__name__}:_parse_html"),
    Format("Markdown", lambda _, ending: ending in {".md", ".markdown"}, f"{__name__}:_parse_text"),
    Format("plain text", lambda *_: True, f"{__name__}:_parse_text"),
)
"""The first format that matches reads a document."""


def _parse(data: bytes, source: str) -> Parsed:
    ending = Path(source).suffix.lower()
    found = next(one for one in FORMATS if one.matches(data, ending))
    module, _, function = found.parse.partition(":")
    parsed: Parsed = getattr(importlib.import_module(module), function)(data, source)
    return parsed


def _parse_text(data: bytes, source: str) -> Parsed:
    text = _decode(data, _name(source))
    heading = None
    if Path(source).suffix.lower() in {".md", ".markdown"}:
        heading = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    return text, heading and heading[1], ()


def _parse_html(data: bytes, source: str) -> Parsed:
    from agenticlu.documents.formats import parse_html

    text, title = parse_html(_decode(data, _name(source), declared=_declared_charset(data)))
    return text, title, ()


def _parse_zip(data: bytes, source: str) -> Parsed:
    from agenticlu.documents import formats

    with formats.open_archive(data, _name(source)) as archive:
        if formats.is_docx(archive):
            text, _ = formats.parse_html(formats.convert_docx(archive))
            heading = re.search(r"^#+ (.*)$", text, re.MULTILINE)
            return text, heading and heading[1], ()
        if formats.is_epub(archive):
            title, chapters = formats.read_epub(archive)
            texts = [_parse_html(chapter, f"{source}:{name}")[0] for name, chapter in chapters]
            return "\n\n".join(filter(None, map(str.strip, texts))) + "\n", title, ()
    raise DocumentError(
        f"{_name(source)} is a zip archive, but neither docx nor epub.",
        hint="Unpack it and give one of its files.",
    )


def _decode(data: bytes, name: str, declared: str | None = None) -> str:
    encoding, skip = declared or "utf-8", 0
    for bom, of_bom in _BOMS:
        if data.startswith(bom):
            encoding, skip = of_bom, len(bom)
            break
    if not skip and encoding == "utf-8" and _is_binary(data):
        kinds = (kind for magic, kind in _BINARY_FORMATS.items() if data.startswith(magic))
        kind = next(kinds, None)
        raise DocumentError(
            f"{name} is binary, not text{f' ({kind})' if kind else ''}.",
            hint=f"Supported formats: {', '.join(one.name for one in FORMATS)}.",
        )
    try:
        return data[skip:].decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + skip
        raise DocumentError(
            f"{name} is not {encoding.upper()}: byte {at} is 0x{data[at]:02x}.",
            hint="Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT",
        ) from error
    except LookupError as error:
        raise DocumentError(
            f"{name} declares the unknown encoding {encoding!r}.", hint="Save it as UTF-8."
        ) from error


def _is_binary(data: bytes) -> bool:
    head = data[:8192]
    control = sum(byte < 32 and byte not in b"\t\n\r\f\v\x1b\x08" for byte in head)
    return b"\x00" in data or control > max(4, len(head) // 50)


def _declared_charset(data: bytes) -> str | None:
    """Returns the encoding that an HTML file declares, by what browsers take its label for."""
    found = re.search(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w-]+)", data[:4096], re.IGNORECASE)
    if found is None:
        found = re.match(rb"\s*<\?xml[^>]+encoding\s*=\s*[\"']([\w-]+)", data[:256])
    if found is None:
        return None
    import webencodings

    label = found[1].decode("ascii").lower()
    if (known := webencodings.lookup(label)) is None:
        return label
    # A file whose declaration can be read as ASCII is not UTF-16, whatever it declares.
    return "utf-8" if known.name.startswith("utf-16") else known.codec_info.name
