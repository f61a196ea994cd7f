"""What two spellings of one answer share: plain figures, dates and words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agenticlu.core.words import fold_letters, marks, separate

_UNITS = {
    word: number
    for number, word in enumerate(
        re.findall(
            r"\w+",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen",
        )
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety"), start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_MONTHS = {
    name: number
    for number, names in enumerate(
        re.findall(
            r"[^,]+",
            "january jan,february feb,march mar,april apr,may,june jun,july jul,august aug,"
            "september sep sept,october oct,november nov,december dec",
        ),
        start=1,
    )
    for name in names.split()
}
_LETTERS = rf"(?:[^\W_]++[{marks()}]*+)++"
_TOKEN = re.compile(rf"-?\d+(?:[.,]\d+)*(?:st|nd|rd|th)?(?![^\W_])|{_LETTERS}(?:['’]{_LETTERS})*|%")
_NUMBER = re.compile(r"(-?\d+(?:[.,]\d+)*)(st|nd|rd|th)?")


def canonical_tokens(text: str) -> tuple[str, ...]:
    """Returns the words that two spellings of one answer share.

    Case and punctuation go (hyphens part words), articles go unless nothing else is there,
    numbers become plain digits, dates with a month's name become `y-m-d`. In scripts without spaces
    words are characters, or the smallest parts that can be words (`core.words`).

    >>> canonical_tokens("The Twenty-One lamps, 3.0 metres")
    ('21', 'lamps', '3', 'metres')
    >>> canonical_tokens("May 3rd, 1990") == canonical_tokens("3 May 1990")
    True
    """
    folded = separate(fold_letters(text)).replace("’", "'")
    folded = re.sub(r"\b(?:[^\W\d_]\.){2,}", lambda found: found.group().replace(".", ""), folded)
    folded = re.sub(r"(?<=\w)-(?=\w)", " ", re.sub(r"(\d{4})-(\d\d?)-(\d\d?)", _iso_date, folded))
    words = [_number(token.replace("'", "")) for token in _TOKEN.findall(folded)]
    words = _join_dates(_join_numbers(["percent" if word == "%" else word for word in words]))
    kept = [word for word in words if word not in ("a", "an", "the")]
    return tuple(kept or words[-1:])


def _iso_date(found: re.Match[str]) -> str:
    year, month, day = (int(group) for group in found.groups())
    names = [name for name, number in _MONTHS.items() if number == month and len(name) > 3]
    return f"{day} {names[0] if names else 'may'} {year}" if 1 <= month <= 12 else found.group()


def _number(token: str) -> str:
    """Writes a figure plainly: `1,200.50` as `1200.5`, `3rd` as `3rd`; other tokens unchanged."""
    found = _NUMBER.fullmatch(token)
    if not found:
        return token
    figure, ordinal = found.groups()
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", figure):
        figure = figure.replace(",", "")
    if re.fullmatch(r"-?\d+(?:\.\d+)?", figure):
        whole, _, part = figure.partition(".")
        part = part.rstrip("0")
        # Python reads no more than 4,300 digits, and replies hold what they like.
        plain = str(int(whole)) if len(whole) < 100 else whole
        figure = f"{whole}.{part}" if part else plain
    return figure + (ordinal or "")


def _join_numbers(words: Sequence[str]) -> list[str]:
    """Replaces runs of number words by one figure."""
    joined: list[str] = []
    start = 0
    while start < len(words):
        end, value = _read_number(words, start)
        if value is None:
            joined.append(words[start])
            start += 1
        else:
            joined.append(str(value))
            start = end
    return joined


def _read_number(words: Sequence[str], start: int) -> tuple[int, int | None]:
    """Reads `two hundred and five` from `start`; returns where it ends and its value, if any."""
    total, group, last, at = 0, 0, "", start
    while at < len(words):
        word = words[at]
        if word in _UNITS and last in ("", "tens", "scale"):
            if last == "tens" and not 1 <= _UNITS[word] <= 9:
                break
            group, last = group + _UNITS[word], "unit"
        elif word in _TENS and last in ("", "scale"):
            group, last = group + _TENS[word], "tens"
        elif word == "hundred" and last in ("unit", "tens"):
            group, last = group * 100, "scale"
        elif word in _SCALES and word != "hundred" and last:
            total, group, last = total + max(group, 1) * _SCALES[word], 0, "scale"
        elif word == "and" and last == "scale" and at + 1 < len(words):
            if words[at + 1] not in _UNITS and words[at + 1] not in _TENS:
                break
        else:
            break
        at += 1
    return (at, total + group) if last else (start, None)


def _join_dates(words: Sequence[str]) -> list[str]:
    """Replaces `3 may 1990`, `may 3rd 1990`, `3rd of may` and `may 1990` by one word."""
    text = " ".join(words)
    months = "|".join(sorted(_MONTHS, key=len, reverse=True))
    day, year = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{4})"
    for pattern in (
        rf"\b(?:the )?{day} (?:of )?(?P<month>{months})(?: {year})?\b",
        rf"\b(?P<month>{months}) (?:the )?{day}(?: {year})?\b",
        rf"\b(?P<month>{months}) {year}\b",
    ):
        text = re.sub(pattern, _plain_date, text)
    return text.split()


def _plain_date(found: re.Match[str]) -> str:
    parts = found.groupdict()
    year, day = parts.get("year") or "", parts.get("day") or ""
    return f"{year}-{_MONTHS[parts['month']]}-{day.lstrip('0')}"
