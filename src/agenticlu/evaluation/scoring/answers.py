"""Corrected scoring: final answers, letters chosen and pieces cited, and what matches a gold."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Collection, Sequence

from agenticlu.core.errors import UsageError

Golds = str | Sequence[str] | Sequence[Sequence[str]]
"""One gold answer, several, or several groups of aliases."""


def flat_golds(golds: Golds) -> list[str]:
    """Returns golds as a flat list, whatever their nesting.

    Raises:
        UsageError: There are none: a row without gold answers has no score.
    """
    if isinstance(golds, str):
        return [golds]
    flat: list[str] = []
    for gold in golds:
        flat.extend([gold] if isinstance(gold, str) else gold)
    if not flat:
        raise UsageError("A row without gold answers cannot be scored.")
    return flat


_ANSWER_LABEL = re.compile(r"\banswer\b(?:\s+is\b)?[*_`\s]*[:：][*_`]*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`«»„"


def parse_final_answer(text: str) -> str:
    r"""Returns the answer that the text ends on.

    What follows the *last* `Answer:` label, its first line that is not blank, without emphasis,
    quotes and a closing full stop; without a label the whole text, stripped alike.

    >>> parse_final_answer("Mara bakes. Answer: bread? No. **Answer:** 'a blue kite.'")
    'a blue kite'
    >>> parse_final_answer("Nine.")
    'Nine'
    """
    rest = after_label(text)
    if rest is None:
        return _bare(text)
    return _bare(next((line for line in rest.splitlines() if line.strip(" \t*_`")), ""))


def after_label(text: str) -> str | None:
    """Returns everything after the last `Answer:` label; None without one."""
    labels = list(_ANSWER_LABEL.finditer(text))
    return text[labels[-1].end() :] if labels else None


def _bare(text: str) -> str:
    """Strips white space, emphasis, quotes around the text and one full stop at its end."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip("*_").strip()
        if text.endswith(".") and not text.endswith("..") and not _ends_in_initial(text):
            text = text[:-1]
        if text and text[0] in _QUOTES and text[-1] in _QUOTES and len(text) > 1:
            text = text[1:-1]
        elif text and text[-1] in '"“”«»„`' and text.count(text[-1]) == 1:
            text = text[:-1]
    return text


def _ends_in_initial(text: str) -> bool:
    """Whether the last full stop belongs to an abbreviation such as U.S. or p.m."""
    return re.search(r"\b\w\.\w\.$", text) is not None


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
_TOKEN = re.compile(r"-?\d+(?:[.,]\d+)*(?:st|nd|rd|th)?(?![^\W_])|[^\W_]+(?:['’][^\W_]+)*|%")
_NUMBER = re.compile(r"(-?\d+(?:[.,]\d+)*)(st|nd|rd|th)?")


def canonical_tokens(text: str) -> tuple[str, ...]:
    """Returns the words that two spellings of one answer share.

    Case and punctuation go (hyphens part words), articles go unless nothing else is there,
    numbers become plain digits, dates with a month's name become `y-m-d`.

    >>> canonical_tokens("The Twenty-One lamps, 3.0 metres")
    ('21', 'lamps', '3', 'metres')
    >>> canonical_tokens("May 3rd, 1990") == canonical_tokens("3 May 1990")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
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


def matches(answer: str, golds: Golds) -> bool:
    """Whether an answer is one of the golds, up to case, articles, punctuation, numbers, dates.

    The whole answer must match: no part of it. A gold of no words never matches.

    >>> matches("Forty-one minutes.", ["41 minutes"]), matches("know", ["no"]), matches("", ["A"])
    (True, False, False)
    """
    said = canonical_tokens(answer)
    return bool(said) and any(said == canonical_tokens(gold) for gold in flat_golds(golds))


def word_match(text: str, golds: Golds) -> bool:
    """Whether a gold occurs in the text as whole words: `substring_exact_match`, corrected.

    >>> word_match("They know it.", ["no"]), word_match("Over the Sabel Strait.", ["sabel strait"])
    (False, True)
    """
    said = " ".join(canonical_tokens(text))
    for gold in flat_golds(golds):
        wanted = " ".join(canonical_tokens(gold))
        if wanted and f" {wanted} " in f" {said} ":
            return True
    return False


_LETTER = re.compile(
    r"\s*(?:(?i:the|either|option|choice|letter|answer|\w+ly)\s+){0,8}"
    r"(?P<open>[(\[{<\"'“‘]*)(?P<letter>[A-Za-z])(?P<close>[)\]}>\"'”’]*)(?![\w'’-])",
)
_CLOSED = re.compile(r"\s*(?:[.,;:!?)(\]<\n–—]|-\s|$)")
_GOES_ON = re.compile(
    r"\s+(?:because|since|as|given|due|based|according|which|though|although|not|rather|instead|"
    r"over|while|and)\b"
)
"""What may follow the letter A (or I) when it is not an article (a pronoun)."""
_NEW_CLAUSE = re.compile(
    r"\s+(?:is|was|are|seems|looks|can|could|cannot|does|would|has|isn['’]t)\b"
)
"""After a letter: it is the subject of a new clause, not the object of the one before."""
_AND_ANOTHER = re.compile(r"\s*(?:(?P<either>or|/)|,|and\b|&)\s*(?=\W*\w)")
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
    r"<answer>|\b(?:answer|ans|option|choice|letter|solution|correct)[\"'”’]?\s*[:：=]|"
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
    r"^[^\S\n]*+(?:(?:option|choice|answer|letter)\s+)?[(\[\"'“]?(?P<letter>[A-Za-z])[)\]\"'”]?"
    r"[^\S\n]*+(?:[.:]?[^\S\n]*+$|,(?=\s))",
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


def parse_choice(text: str, options: Sequence[str]) -> str | None:
    r"""Returns the letter that a reply settles on, or None.

    Read in this order, the last statement of the first kind that occurs: a labelled letter
    (`Answer: (B)`, `the best choice would be b`), a decision (`I would go with C`, `B is right`,
    `not A but B`), a letter alone on its line, a bracketed one, one that opens a line (`B. blue`);
    then an option given by its text. Letters that are denied do not count, nor do
    articles, and a statement that leaves it open (`B or C`) settles on none.

    >>> parse_choice("(A) is tempting, but the answer is **b**.", ["red", "blue"])
    'B'
    >>> parse_choice("It was a blue one. Answer:\nblue", ["red", "blue"])
    'B'
    >>> parse_choice("Answer: A or B", ["red", "blue"]) is None
    True
    """
    plain = re.sub(r"\\boxed\s*\{", "<answer>", text)
    plain = re.sub(r"[*_`$]+|\\text\s*\{|\}", "", plain)
    letters = string.ascii_uppercase[: len(options)]
    for find in (_labelled, _decided, _alone, _bracketed, _listed):
        found = find(plain, letters, options)
        if found:
            return None if found[-1] == AMBIGUOUS else found[-1]
    final = parse_final_answer(plain)
    if re.search(r"\w", final):
        for test in (matches, word_match):
            hits = [i for i, option in enumerate(options) if test(final, option)]
            if len(hits) == 1:
                return letters[hits[0]]
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


def choice_match(text: str, letter: str, options: Sequence[str]) -> bool:
    """Whether a reply settles on the letter: `helmet.score_choice`, corrected."""
    return parse_choice(text, options) == letter.upper()


def piece_scores(cited: Collection[int], gold: Collection[int]) -> dict[str, float]:
    """Returns precision, recall and full recall of cited pieces against gold ones.

    Precision of no citation is 0, as it found nothing that it could have found.
    """
    assert gold, "a question without gold pieces has no pointback score"
    hits = len(set(cited) & set(gold))
    return {
        "point_precision": hits / len(set(cited)) if cited else 0.0,
        "point_recall": hits / len(set(gold)),
        "point_complete": float(hits == len(set(gold))),
    }
