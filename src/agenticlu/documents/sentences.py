"""Where sentences end, in every script."""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSERS = "\"'”’»)\\]」』）〉》】"
TERMINALS = "。！？｡।॥؟۔܀።፧၊။៕។᠃᠉꘎꘏꧉՜՞։"
"""Signs that end a sentence whatever follows; after the full stop and its like a space must."""
_MARKS = (
    rf"(?<![.!?…])[.!?…]++[{_CLOSERS}]*+(?=\s|\Z)|[{TERMINALS}]++[{_CLOSERS}]*+"
    r"|．(?!\d)|།[།\s]*+"
    "|(?<=[\u0370-\u03ff\u1f00-\u1fff]);(?=\\s)"
)
_ITEM = r"\n(?=[ \t\r]*(?:\n|[-*•#|]))"
SENTENCE_END = re.compile(rf"{_MARKS}|(?<=[.!?…{_CLOSERS}:\n])\n|\n(?=[ \t]*(?:\n|[-*•#|]))")
"""Where a sentence, a paragraph or an item ends. Other line ends come second: in text wrapped at a
fixed width they occur inside sentences."""
_THAI = "\u0e01-\u0e45\u0e47-\u0e5b\u0e81-\u0edf"
_CLOSE_SET = rf"{_THAI}\u1000-\u109f\u1780-\u17ff"
PHRASE_END = re.compile(rf"(?<=[{_CLOSE_SET}])(?= [{_CLOSE_SET}])|[，、；：]")
"""Where a part of a sentence ends in scripts without spaces between words."""
_END = re.compile(rf"{_MARKS}|(?<=[{_THAI}])[ ]+(?=[{_THAI}])|{_ITEM}")
"""Thai and Lao have no sign for it: there a space ends a sentence or a phrase."""
_NEVER_LAST = re.compile(
    r"(?:(?<![^\W_])[^\W\d_I]|(?<!\w)(?:Dr|Mr|Mrs|Ms|Prof|St|Sr|Sra|Mme|Mlle|Hr|Fr))\.$"
    r"|[\[(]\s?(?:\.{3}|…)\s?[\])]$"
)
"""An initial, a title, an ellipsis that stands for what a quote leaves out."""
_BEFORE_FIGURES = re.compile(r"(?<!\w)(?:No|Nos|Nr|Fig|Eq|Vol|vol|pp?|ch|sec|ca|approx)\.$")
_REACH = 16


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yields the (start, end) of each sentence, without the white space around it."""
    start = 0
    for end in (*_ends(text), len(text)):
        sentence = text[start:end]
        if stripped := sentence.strip():
            first = start + sentence.index(stripped)
            yield first, first + len(stripped)
        start = end


def _ends(text: str) -> Iterator[int]:
    has_case = text != text.lower()
    for match in _END.finditer(text):
        if match[0][0] not in ".!?…" or not _goes_on(text, match.end(), has_case):
            yield match.end()


def _goes_on(text: str, at: int, has_case: bool) -> bool:
    """Whether a sentence goes on behind what looks like its end."""
    before = text[max(0, at - _REACH) : at]
    following = text[at : at + _REACH].lstrip()[:1]
    return (
        _NEVER_LAST.search(before) is not None
        or (has_case and following.islower())
        or (following.isdigit() and _BEFORE_FIGURES.search(before) is not None)
    )
