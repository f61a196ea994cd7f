"""Letters of multiple choice in prose: stated, decided on, alone on a line, bracketed, listed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agenticlu.evaluation.scoring.final import LABEL, SAID

_LETTER = re.compile(
    r"\s*(?:(?i:the|either|option|choice|letter|answer|\w+ly)\s+){0,8}"
    r"(?P<open>[(\[{<\"'“‘]*)(?P<letter>[A-Za-z])(?P<close>[)\]}>\"'”’]*)(?![\w'’-])",
)
_CLOSED = re.compile(r"\s*(?:[.,;:!?)(\]<\n–—。、]|-\s|$)")
_GOES_ON = re.compile(
    r"\s+(?:because|since|as|given|due|based|according|which|though|although|not|rather|instead|"
    r"over|while|and)\b"
)
"""What may follow the letter A (or I) when it is not an article (a pronoun)."""
_NEW_CLAUSE = re.compile(
    r"\s+(?:is|was|are|seems|looks|can|could|cannot|does|would|has|isn['’]t)\b"
)
"""After a letter: it is the subject of a new clause, not the object of the one before."""
_AND_ANOTHER = re.compile(r"\s*(?:(?P<either>or|/)|,|and\b|&)\s*+(?=\W*+\w)")
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n['’]t|\bcannot|\bnever|\bneither|\bnor|\brather\s+than|\binstead\s+of)"
    r"(?:\s+\w+)?\s*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"\s+(?:(?:is|was|are|seems|looks)\s+(?:\w+ly\s+)?(?:not|wrong|incorrect|false|out|tempting)\b|"
    r"isn['’]t|cannot|can['’]t|does(?:n['’]t|\s+not))",
    re.IGNORECASE,
)
_LABELS = re.compile(
    rf"<answer>|{LABEL}|{SAID}\s*:?|正解は|選択肢|选项|선택지|选择?|選擇?|คํ?[ำา]ตอบคือ|ตอบ|เฉลย|उत्तर\s|"
    r"\b(?:answer|ans|option|choice|letter|solution|correct)[\"'”’]?\s*[:：=]|"
    r"\banswer\s*[–—-]\s|"
    r"\b(?:answer|option|choice|letter)\b(?P<between>(?:\s+(?!is\b)[\w'’]+){0,6}?)"
    r"\s+(?:is|was|be|becomes)\b\s*[:：]?|"
    r"\banswer\b(?=\s)",
    re.IGNORECASE,
)
_DECISIONS = re.compile(
    r"\b(?:choos(?:e|ing)|chose|pick(?:ing|ed)?|select(?:ing|ed)?|go(?:ing)?\s+(?:with|for)|"
    r"went\s+with|opt(?:ing)?\s+for|settl(?:e|ing)\s+(?:on|for)|think|believe|guess|say|"
    r"(?:must|should|would|has\s+to|have\s+to)\s+be|it\s+is|it['’]s|that\s+is|that['’]s|"
    r"so|hence|thus|therefore|leav(?:es|ing)|not\s+(?:option\s+)?\W?[A-Z]\W?,?\s+but(?:\s+rather)?)"
    r"(?=[\s:]|,\s),?",
    re.IGNORECASE,
)
_VERDICT_ON = re.compile(
    r"(?:^|(?<=[\s(\[\"'“]))(?P<letter>[A-Z])[)\]\"'”]?\s+"
    r"(?:is|was|seems|appears|looks|(?:must|would|should|has\s+to|will)\s+be)\s+"
    r"(?:(?:the|most|only|\w+ly)\s+)*"
    r"(?:correct|right|best|answer|true|accurate)\b",
)
_ALONE = re.compile(
    r"^[^\S\n]*+(?:(?:option|choice|answer|letter)\s+)?[(\[<\"'“]{0,2}(?P<letter>[A-Za-z])"
    r"[)\]>\"'”]{0,2}"
    r"[^\S\n]*+(?:(?:입니다|이다|です|だ)?[.:。]?[^\S\n]*+$|,(?=\s))",
    re.MULTILINE | re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[](?P<letter>[A-Za-z])[)\]]")
_LISTED = re.compile(
    r"^[^\S\n]*+(?:(?:option|choice)\s+)?(?P<letter>[A-Z])(?:[.):](?=\s)|\s+[–—-]\s)"
    r"(?!\s*(?:is\s+)?(?:incorrect|wrong|false|not)\b)",
    re.MULTILINE | re.IGNORECASE,
)
AMBIGUOUS = "?"
"""Marks a statement that leaves the choice open, such as `B or C`."""


def settled_letter(plain: str, letters: str, options: Sequence[str]) -> str | None:
    """Returns the letter that a text settles on, `AMBIGUOUS`, or None where it names none.

    Args:
        plain: A reply without marks of emphasis.
        letters: Those that stand for options.
        options: Their texts.
    """
    for find in (_labelled, _decided, _alone, _bracketed, _listed):
        if found := find(plain, letters, options):
            return found[-1]
    return None


def settled_label(plain: str, labels: Sequence[str]) -> int | None:
    """Returns the position of the label that a text settles on; None where it names none.

    For labels that are not the letters A to Z: numbers, or letters of more than 26 options. They
    count after `Answer:` and its like, alone on a line, or where they open one.
    """
    names = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    name = rf"[(\[\"'“]*(?P<name>{names})[)\]\"'”]*(?!\w)"
    word = r"\b(?:answer|option|choice|letter|number)\b(?:\s+(?:is|would\s+be))?\s*+[:#]?"
    chosen = (
        r"\b(?:choos(?:e|ing)|chose|pick(?:ed)?|select(?:ed)?|(?:go|going)\s+(?:with|for)"
        r"|opt(?:ed)?\s+for)"
    )
    # What follows the label: a line end also where blanks come before it.
    close = r"(?=[^\S\n]*+(?:[.,;:<\n–—]|$)|\s*+[.,;:<–—])"
    for pattern in (
        rf"(?:<answer>|{LABEL}|{SAID}|{word})\s*+(?:(?:option|choice)\s+)?{name}{close}",
        rf"^[^\S\n]*+(?:option\s+)?{name}[.:]?[^\S\n]*+$",
        rf"{chosen}\s+(?:option\s+)?{name}{close}",
        rf"^[^\S\n]*+{name}[.):]\s",
    ):
        found = list(re.finditer(pattern, plain, re.IGNORECASE | re.MULTILINE))
        if found:
            said = found[-1]["name"].casefold()
            return [label.casefold() for label in labels].index(said)
    return None


def _letter_after(text: str, at: int, letters: str, options: Sequence[str]) -> str | None:
    """Returns the letter at a position, `AMBIGUOUS`, or None when no letter is meant."""
    found = _LETTER.match(text, at)
    letter = _meant(found, letters, options)
    if found is None or letter is None or _NEW_CLAUSE.match(text, found.end()):
        return None
    return AMBIGUOUS if _is_one_of_several(text, found.end(), letters, options) else letter


def _is_one_of_several(text: str, at: int, letters: str, options: Sequence[str]) -> bool:
    """Whether another letter follows one that ends at a position: `B or C`, `a, b`."""
    more = _AND_ANOTHER.match(text, at)
    other = _LETTER.match(text, more.end()) if more else None
    if more is None or other is None or other["letter"].upper() not in letters:
        return False
    if _NEW_CLAUSE.match(text, other.end()):
        return False
    ends = other["close"] or _CLOSED.match(text, other.end())
    goes_on = _AND_ANOTHER.match(text, other.end())
    return bool(ends or goes_on or (more["either"] and _meant(other, letters, options)))


def _meant(found: re.Match[str] | None, letters: str, options: Sequence[str]) -> str | None:
    """Returns the letter of a match if it is one of the options' and not a word."""
    if found is None or found["letter"].upper() not in letters:
        return None
    text, letter, end = found.string, found["letter"], found.end()
    if (found["open"] and found["close"]) or _CLOSED.match(text, end):
        return letter.upper()
    goes_on = _GOES_ON.match(text, end) is not None
    if letter in "AI":
        spelt = options[letters.index(letter)].casefold()
        following = text[end : end + len(spelt) + 8].lstrip().casefold()
        return letter if goes_on or following.startswith(spelt) else None
    if letter.islower():
        return letter.upper() if goes_on and letter not in "ai" else None
    return letter


def _is_denied_before(text: str, at: int) -> bool:
    return _DENIED_BEFORE.search(text, max(0, at - 40), at) is not None


def _labelled(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = []
    for label in _LABELS.finditer(text):
        if label["between"] and re.search(r"\b(?:not|never|cannot)\b|n['’]t\b", label["between"]):
            continue
        found.append(_letter_after(text, label.end(), letters, options))
    return [letter for letter in found if letter]


def _decided(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found: list[tuple[int, str | None]] = []
    for decision in _DECISIONS.finditer(text):
        if not _is_denied_before(text, decision.start()):
            letter = _letter_after(text, decision.end(), letters, options)
            found.append((decision.start(), letter))
    for verdict in _VERDICT_ON.finditer(text):
        if verdict["letter"] in letters and not _is_denied_before(text, verdict.start()):
            found.append((verdict.start(), verdict["letter"]))
    return [letter for _, letter in sorted(found, key=lambda pair: pair[0]) if letter]


def _alone(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = (one["letter"].upper() for one in _ALONE.finditer(text) if one[0].strip() != "I,")
    return [letter for letter in found if letter in letters]


def _bracketed(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = []
    end = 0
    for one in _BRACKETED.finditer(text):
        denied = _is_denied_before(text, one.start()) or _DENIED_AFTER.match(text, one.end())
        if one["letter"].upper() in letters and not denied and one.start() >= end:
            more = _AND_ANOTHER.match(text, one.end())
            other = _BRACKETED.match(text, more.end()) if more else None
            found.append(AMBIGUOUS if other else one["letter"].upper())
            end = other.end() if other else end
    return found


def _listed(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = [one["letter"].upper() for one in _LISTED.finditer(text)]
    found = [letter for letter in found if letter in letters]
    return [] if len(letters) > 1 and set(found) == set(letters) else found  # the options, repeated
