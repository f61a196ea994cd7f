"""Reads a one-word verdict out of what a model wrote, or says that there is none."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LABEL = re.compile(r"(?:final\s+)?(?:answer|verdict)\s*(?:is)?\s*[:：=]?\s*", re.IGNORECASE)


def parse_verdict(text: str, choices: Sequence[str] = ("yes", "maybe", "no")) -> str | None:
    """Returns the choice that the text settles on, or None.

    Whole words only: 'notebook' and 'know' hold no 'no'. A choice right after the last 'Answer:'
    wins; else the text's first word; else the only choice that occurs in the text at all. Two
    different choices without a label are no verdict.

    >>> parse_verdict("**Answer:** no")
    'no'
    >>> parse_verdict("The notebook is known to all.") is None
    True
    """
    plain = re.sub(r"[*_`\"'“”‘’]+", "", text).strip().lower()
    alternatives = "|".join(re.escape(choice.lower()) for choice in choices)
    word = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)")
    labels = list(_LABEL.finditer(plain))
    if labels and (found := word.match(plain, labels[-1].end())):
        return found.group()
    if found := word.match(plain):
        return found.group()
    every = {match.group() for match in word.finditer(plain)}
    return every.pop() if len(every) == 1 else None
