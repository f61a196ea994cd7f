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
    is_markdown = Path(source).suffix.lower() in {".md", ".markdown"}
    return Parsed(text, first_heading(text) if is_markdown else None, left_out=left_out)


def first_heading(text: str) -> str | None:
    r"""Returns the first heading of Markdown.

    >>> first_heading("intro\n## The lamp ##")
    'The lamp'
    """
    heading = re.search(r"^#{1,6}[ \t]++([^\s#].*)$", text, re.MULTILINE)
    return heading and heading[1].rstrip("# \t\r")
