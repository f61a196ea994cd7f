"""Plain text, Markdown and source code as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from agenticlu.documents.formats import Parsed
from agenticlu.documents.formats.encodings import read_text


def parse(data: bytes, source: str) -> Parsed:
    """Keeps the text to the character; the first heading of Markdown is the title.

    Raises:
        DocumentError: The text is binary, or in no encoding that can be told.
    """
    text, left_out = read_text(data, source)
    heading = None
    if Path(source).suffix.lower() in {".md", ".markdown"}:
        heading = re.search(r"^#{1,6}[ \t]++(\S.*)$", text, re.MULTILINE)
    title = heading[1].rstrip(" \t\r#") if heading else None
    return Parsed(text, title or None, left_out=left_out)
