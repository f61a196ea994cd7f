"""Fonts of symbols, in which a character is another sign than its code says."""

from __future__ import annotations

import re

FONT = re.compile(r"Symbol|Webdings|Wingdings( [23])?")


def as_shown(font: str | None, text: str) -> str:
    r"""Returns text as a font shows it; signs that nobody knows stay as they are.

    Office programs write the codes of such fonts as they are, or moved by U+F000.

    >>> as_shown("Symbol", "a \uf0b3 41"), as_shown("Arial", "a")
    ('α ≥ 41', 'a')
    """
    if font is None or not FONT.fullmatch(font):
        return text
    from mammoth.docx.dingbats import dingbats

    return "".join(
        chr(dingbats.get((font, ord(char) & 0xFF), ord(char)))
        if char <= "\xff" or "\uf020" <= char <= "\uf0ff"
        else char
        for char in text
    )
