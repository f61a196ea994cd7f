"""Documents: loaded from files, cut into pieces, shown with markers, and cited.

Characters are counted in `Document.text`; every piece, page and citation is a span of it.
"""

from __future__ import annotations

import codecs
import re
import sys
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


FORMATS = "Supported formats: plain text, Markdown, HTML, PDF (with a text layer), docx and epub."
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


def _parse(data: bytes, source: str) -> tuple[str, str | None, tuple[Page, ...]]:
    """Returns text, title and pages."""
    ending = Path(source).suffix.lower()
    if data[:1024].lstrip().startswith(b"%PDF-") or ending == ".pdf":
        from agenticlu.documents.formats import parse_pdf

        return parse_pdf(data, source)
    if data.startswith(b"PK\x03\x04"):
        return *_parse_zip(data, source), ()
    if ending in {".html", ".htm", ".xhtml"} or _looks_like_html(data):
        return *_parse_html(data, _name(source)), ()
    text = _decode(data, _name(source))
    heading = None
    if ending in {".md", ".markdown"}:
        heading = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    return text, heading and heading[1], ()


def _parse_html(data: bytes, name: str) -> tuple[str, str | None]:
    from agenticlu.documents.formats import parse_html

    return parse_html(_decode(data, name, declared=_declared_charset(data)))


def _parse_zip(data: bytes, source: str) -> tuple[str, str | None]:
    from agenticlu.documents import formats as html
    from agenticlu.documents import formats as office

    with office.open_archive(data, _name(source)) as archive:
        if office.is_docx(archive):
            text, _ = html.parse_html(office.convert_docx(archive))
            heading = re.search(r"^#+ (.*)$", text, re.MULTILINE)
            return text, heading and heading[1]
        if office.is_epub(archive):
            title, chapters = office.read_epub(archive)
            texts = [_parse_html(chapter, f"{source}:{name}")[0] for name, chapter in chapters]
            return "\n\n".join(filter(None, map(str.strip, texts))) + "\n", title
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
            f"{name} is binary, not text{f' ({kind})' if kind else ''}.", hint=FORMATS
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


def _looks_like_html(data: bytes) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return bool(re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype html|<html)", head, re.S))


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
