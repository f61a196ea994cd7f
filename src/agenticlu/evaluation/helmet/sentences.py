"""Text to sentences: by nltk's punkt, as ALCE does, or by a rule of ours where its data is absent.

Figures that depend on sentences (ALCE's rougeLsum and citations) say which of the two was used.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass

PUNKT = "nltk punkt"
BUILT_IN = "built-in rule"
PUNKT_HINT = "python -m nltk.downloader punkt_tab"
"""What fetches punkt's data."""

_END = re.compile(r"[.!?]+[\"'”’)\]]*(?:\s*\[\d+\])*\s+")
_NEVER_LAST = frozenset(
    re.findall(
        r"\S+",
        "dr mr mrs ms messrs prof st mt ft vs e.g i.e cf ca approx gen rev sen rep gov hon capt "
        "col lt sgt",
    )
)
"""Abbreviations that something always follows."""
_SOMETIMES_LAST = frozenset(
    re.findall(r"\S+", "etc inc ltd co corp bros jr sr u.s u.k u.n a.m p.m b.c a.d ph.d")
)
"""Abbreviations that may end a sentence: they do where a capital follows."""
_BEFORE_NUMBERS = frozenset(
    re.findall(r"\S+", "no nos fig vol pp p art sec jan feb aug sept oct nov dec")
)
"""Abbreviations where a figure follows, words otherwise."""


@dataclass(frozen=True)
class Splitter:
    """A way to cut text into sentences."""

    name: str
    """Stored with the figures."""
    split: Callable[[str], list[str]]


@functools.cache
def find_splitter() -> Splitter:
    """Returns punkt where its data is installed, else the built-in rule."""
    try:
        nltk = importlib.import_module("nltk")
        nltk.sent_tokenize("One. Two.")
    except (ModuleNotFoundError, LookupError):
        return Splitter(BUILT_IN, split_sentences)
    return Splitter(PUNKT, nltk.sent_tokenize)


def splitter_note() -> str | None:
    """Returns what a reader of figures over sentences should know; None with punkt."""
    if find_splitter().name == PUNKT:
        return None
    return (
        "ALCE's figures over sentences (rougeLsum, citations) use a built-in rule, since nltk's "
        f"punkt is not installed; as published: {PUNKT_HINT}"
    )


def split_sentences(text: str) -> list[str]:
    """Cuts text after full stops and the like; needs no capitals.

    Citations that follow the full stop stay with their sentence.

    >>> split_sentences("dr. ames left at 5 p.m. for st. ives. [1] she came back. why?")
    ['dr. ames left at 5 p.m. for st. ives. [1]', 'she came back.', 'why?']
    """
    sentences = []
    start = 0
    for found in _END.finditer(text):
        if _ends(text[start : found.start()], found.group(), text[found.end() :]):
            sentences.append(text[start : found.end()].strip())
            start = found.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends(before: str, mark: str, after: str) -> bool:
    """Whether a sentence ends with the mark between two texts."""
    capital = after[:1].isupper()
    if mark.startswith(".."):
        return capital
    if not mark.startswith("."):
        return True
    word = re.sub(r"^\W+", "", before.split()[-1] if before.split() else "")
    lowered = word.lower()
    if lowered in _NEVER_LAST or (len(word) == 1 and word.isalpha() and lowered != "i"):
        return False
    if lowered in _BEFORE_NUMBERS:
        return not after[:1].isdigit()
    if lowered in _SOMETIMES_LAST:
        return capital
    return True
