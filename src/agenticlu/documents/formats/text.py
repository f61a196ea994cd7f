"""Plain text and Markdown, and the encodings of text."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats import FORMATS, Parsed, name_of

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY_FORMATS = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\x7fELF": "a program",
    b"SQLite format 3": "a database",
}


def parse(data: bytes, source: str) -> Parsed:
    """Keeps the text to the character; the first heading of Markdown is the title."""
    text = decode(data, source)
    heading = None
    if Path(source).suffix.lower() in {".md", ".markdown"}:
        heading = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
    return Parsed(text, heading and heading[1])


def decode(data: bytes, source: str, declared: str | None = None) -> str:
    """Decodes a file by its byte order mark, else by what it declares, else as UTF-8.

    Raises:
        DocumentError: It is not in that encoding, or binary.
    """
    name = name_of(source)
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


def declared_charset(data: bytes) -> str | None:
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
