"""Documents: loading from any file format, pieces, paragraph markers, token counts, citations.

Characters are counted in `Document.text`; every piece, page and citation is a span of it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from agenticlu.core.errors import DocumentError, did_you_mean
from agenticlu.core.limits import DocumentLimits
from agenticlu.core.records import Document
from agenticlu.documents.formats import name_of, parse
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


def load_document(source: str) -> Document:
    """Loads UTF-8 text, Markdown, HTML, PDF (its text layer), docx or epub.

    The format is recognised by the content, then by the file's ending.

    Args:
        source: A path, or '-' for standard input.

    Raises:
        DocumentError: The file is missing, a directory, empty, binary, encrypted or broken, not
            UTF-8, a PDF without a text layer, or over a limit (`agenticlu.core.limits`).
    """
    data = _read_bytes(source)
    if not data.strip(b" \t\r\n\f\v\x00"):
        raise DocumentError(f"{name_of(source)} is empty.", hint="Give a document with text in it.")
    parsed = parse(data, source)
    if not parsed.text.strip():
        raise DocumentError(f"{name_of(source)} contains no text.")
    return Document.of(
        parsed.text,
        source,
        title=parsed.title,
        pages=parsed.pages,
        left_out=dict(parsed.left_out),
    )


def _read_bytes(source: str) -> bytes:
    limits = DocumentLimits.read()
    if source == "-":
        return limits.read_all(sys.stdin.buffer, name_of(source))
    if re.match(r"https?://", source):
        raise DocumentError(
            f"{source!r} is a URL; documents are read from files or standard input.",
            hint=f"curl -L {source} | agenticlu ask - QUESTION",
        )
    path = Path(source)
    try:
        with path.open("rb") as file:
            return limits.read_all(file, name_of(source))
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
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(f"Cannot read {source!r}: {reason}.") from error


def _suggest_file(path: Path) -> str | None:
    try:
        names = [str(path.parent / other.name) for other in path.parent.iterdir()]
    except OSError:
        return None
    return did_you_mean(str(path), names)
