"""What two spellings of one answer share: plain figures, dates, units, words with their signs.

Case, punctuation and articles tell no answers apart; signs do: -3 is not 3, C++ is not C, 10⁶ is
not 106 and €5 is not $5.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from agenticlu.core.words import fold_letters, marks, separate
from agenticlu.evaluation.scoring.figures import FIGURE, MONTHS, MOST_DIGITS, SIGNS, fold_figures

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
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_ORDINALS = {
    **{"first": "one", "second": "two", "third": "three", "fifth": "five", "eighth": "eight"},
    **{"ninth": "nine", "twelfth": "twelve"},
    **{f"{word}th": word for word in (*_UNITS, "hundred", "thousand", "million", "billion")},
    **{f"{word.removesuffix('y')}ieth": word for word in _TENS},
}
"""Words of an order, to those of the number."""
_SPELLINGS = {
    spelling: names.split()[0]
    for names in (
        "metre metres meter meters",
        "kilometre kilometres kilometer kilometers km kms",
        "centimetre centimetres centimeter centimeters cm cms",
        "millimetre millimetres millimeter millimeters mm",
        "kilogram kilograms kilogramme kilogrammes kilo kilos kg kgs",
        "gram grams gramme grammes",
        "milligram milligrams mg",
        "litre litres liter liters",
        "millilitre millilitres milliliter milliliters ml",
        "micrometre micrometres micrometer micrometers micron microns um μm",
        "microgram micrograms ug μg mcg",
        "nanometre nanometres nanometer nanometers nm",
        "tonne tonnes",
        "ton tons",
        "hectare hectares ha",
        "acre acres",
        "inch inches",
        "foot feet ft",
        "yard yards yd yds",
        "ounce ounces oz",
        "degree degrees",
        "mile miles",
        "hour hours hr hrs",
        "minute minutes min mins",
        "second seconds sec secs",
        "day days",
        "week weeks",
        "month months",
        "year years yr yrs",
        "percent pct",
        "dollar dollars usd",
        "euro euros eur",
        "pound pounds gbp",
        "yen jpy",
        "rupee rupees inr",
        "cent cents",
        "franc francs chf",
        "won krw",
        "yuan cny rmb renminbi",
        "rouble roubles ruble rubles rub",
    )
    for spelling in names.split()
}
"""Spellings of a unit or a currency, to one of them."""
_LENGTHS = ("metre", "kilometre", "centimetre", "millimetre", "foot", "inch", "mile", "yard")
_AFTER_FIGURES = {"m": "metre", "g": "gram", "h": "hour", "l": "litre", "s": "second"}
"""What a letter means right after a figure."""
CURRENCIES = frozenset({*SIGNS.values(), "franc"} - {"won"})  # which is also a verb
_LATEX = {
    **{"times": "×", "cdot": "×", "pi": "π", "infty": "∞", "sqrt": "√", "pm": "±"},
    **{"leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "approx": "≈", "neg": "¬", "circ": "°"},
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_ALIKE = str.maketrans("’⁄‐", "'/-")
_SPELT_SIGNS = {
    "♯": "#",
    "♭": " flat ",
    "√": " sqrt ",
    "∞": " infinity ",
    "¬": " not ",
    "π": " pi ",
    "≠": " ≠ ",
}
_MINUS = "\ue000"
"""Stands for the minus of a blood group, a grade or an ion while a text is read."""
_LETTERS = rf"(?:[^\W_]++[{marks()}]*+)++"
_WORD = rf"{_LETTERS}(?:'{_LETTERS})*"
_TOKEN = re.compile(
    rf"(?<![\w)])[+-]?(?:{FIGURE}|\.\d+)(?:/\d+)?(?:st|nd|rd|th)?(?:\+(?!\w))?(?![^\W_])"
    # A*, the algorithm, unlike *emphasis*; then x^2, .NET, C++, F#, A+, AB⁻ and plain words.
    r"|(?<![\w*])[^\W\d_]\*(?![\w*])"
    rf"|{_LETTERS}\^[+-]?[^\W_]+"
    rf"|(?:(?<![\w.)\]])\.(?=[^\W\d_]))?{_WORD}(?:\+\+|\+(?![\w+])|\#(?!\w)|{_MINUS})?"
    # Operators between what they join, or before a figure.
    r"|(?<=[\w)])\ ?[=+](?=\ ?[\w(])|[<>≤≥±](?=\ ?[-+.]?\d)|≠",
)
_NUMBER = re.compile(rf"([+-]?(?:{FIGURE}|\.\d+))(st|nd|rd|th)?")
_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")


def canonical_tokens(text: str) -> tuple[str, ...]:
    """Returns the words that two spellings of one answer share.

    Case and punctuation go (hyphens part words), articles go before another word, numbers become
    plain digits, dates with a month's name become `y-m-d`, units and currencies a word. Signs that
    change the meaning stay with what they belong to. A text of signs alone keeps them. In scripts
    without spaces words are characters, or the smallest parts that can be words (`core.words`).

    >>> canonical_tokens("The Twenty-One lamps, 3.0 metres")
    ('21', 'lamps', '3', 'metre')
    >>> canonical_tokens("May 3rd, 1990") == canonical_tokens("3 May 1990")
    True
    >>> canonical_tokens("−3 °C"), canonical_tokens("C++"), canonical_tokens("10⁶ km²")
    (('-3', 'c'), ('c++',), ('1000000', 'kilometre^2'))
    """
    words = [_plain_word(token.replace("'", "").strip()) for token in _TOKEN.findall(_fold(text))]
    words = _order_seconds(words)
    words = _join_powers([_plain_unit(words, at) for at in range(len(words))])
    found = _join_dates(_join_signs(_join_numbers(words)))
    if found:
        return tuple(found)
    return tuple(
        char for char in text if unicodedata.category(char).startswith("S") or char in "#@*/\\&-"
    )


# --- Folding ---


def _fold(text: str) -> str:
    """Returns a text in lower case, in which what means the same is written the same."""
    if "\\" in text:
        text = _without_latex(text)
    text = re.sub(r"\^\{([^{}]{1,20})\}", r"^\1", text)
    # As pandoc tells a formula from two amounts of dollars.
    text = re.sub(r"\$([^\s$](?:[^$\n]{0,200}[^\s$])?)\$(?!\d)", r" \1 ", text)
    text = re.sub("[⁰¹²³⁴-⁹⁺⁻]+", _lift, text)
    text = re.sub(r"(?<=\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = re.sub(r"(?<=\d)[\u00a0\u202f\u2009'’](?=\d{3}(?!\d))", "", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_ALIKE)
    text = re.sub(r"\b([A-Z]{1,2})[-−](?![\w-])", rf"\1{_MINUS}", text)
    text = re.sub(r"\bA(?= (?:minor|major)\b(?! \w))", "A_", text)  # a key, no article
    text = re.sub(r"♯(?= m)", " sharp", text)
    text = separate(fold_letters(text))
    text = re.sub(r"[√∞¬π≠♯♭]", lambda found: _SPELT_SIGNS[found.group()], text)
    text = re.sub(r"&(?:amp;)?", " and ", text)
    # U.S.; J. K. Rowling is J.K. Rowling
    text = re.sub(r"\b(?:[^\W\d_]\. ?)+[^\W\d_]\.", lambda m: re.sub("[. ]", "", m[0]), text)
    text = re.sub(r"\ba (?=(?:hundred|thousand|[mbtr]+illion)\b)", "one ", text)
    text = re.sub(_NUMBERED, lambda found: f"{found[1]}{_roman(found[2])}", text)
    text = re.sub(r"\b(?:an?|the)\b(?=[\s\"'“‘«(\[*_]+\w)", " ", text)
    text = re.sub(r"%|\bper cent\b", " percent ", text)
    text = re.sub(rf"\b({'|'.join(_TENS)})-second\b(?!s)", lambda m: f"{_TENS[m[1]] + 2}nd", text)
    text = re.sub(r"\b(?:no\. ?|№ ?)(?=\d)", "number ", text)
    if re.search(r"\d", text):
        text = fold_figures(text)
    return re.sub(r"(?<=\w)-(?=\w)", " ", text)


def _without_latex(text: str) -> str:
    text = re.sub(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"\1/\2", text)
    text = re.sub(r"\\(?:text|math|operatorname)\w*\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\([a-zA-Z]+)", lambda found: _LATEX.get(found[1], f" {found[1]} "), text)
    text = re.sub(r"(\^)\s*\{([^{}]*)\}", r"\1\2", re.sub(r"\\[,;:! ]", " ", text))
    return text.replace("^°", "°").replace("\\", "")


def _lift(found: re.Match[str]) -> str:
    """Writes superscripts on the line: x² as x^2; the sign of an ion stays one."""
    plain = found.group().translate(_SUPERSCRIPTS)
    if plain in ("+", "-"):
        return plain.replace("-", _MINUS)
    if plain[-1] in "+-":
        return f"{plain[:-1]}{plain[-1].replace('-', _MINUS)}"
    is_power = found.start() and (found.string[found.start() - 1].isalnum())
    return f"^{plain}" if is_power else plain


_NUMBERED = (
    r"\b((?:war|part|volume|vol\.|book|chapter|act|type|phase|stage|bowl|title|article|section|class"
    r"|mark|level|grade) )([ivx]{1,6})\b"
)
"""What is numbered in Roman figures: World War II, which no other word is."""


def _roman(text: str) -> str:
    """Writes a Roman figure up to 39 in digits; others unchanged.

    >>> _roman("xiv"), _roman("iiv")
    ('14', 'iiv')
    """
    found = re.fullmatch(r"(x{0,3})(ix|iv|v?i{0,3})", text)
    if not found or not text:
        return text
    ones = {"ix": 9, "iv": 4}.get(found[2], 5 * found[2].count("v") + found[2].count("i"))
    return str(10 * len(found[1]) + ones)


# --- Words ---


def _is_counted(words: Sequence[str], at: int) -> bool:
    """Whether a word stands where a unit does: after a figure, or after `per`."""
    return words[at - 1] == "per" or _PLAIN.fullmatch(words[at - 1]) is not None


def _plain_unit(words: Sequence[str], at: int) -> str:
    """Returns the one spelling of a unit, also of its power; other words unchanged."""
    unit, caret, power = words[at].partition("^")
    if not unit:
        return words[at]
    unit = _SPELLINGS.get(unit, unit)
    if at and _is_counted(words, at):
        unit = _AFTER_FIGURES.get(unit, unit)
    return f"{unit}{caret}{power}"


def _join_powers(words: Sequence[str]) -> list[str]:
    """Writes square kilometres as `kilometre^2`."""
    powers = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        if before in powers and (word in _LENGTHS or _AFTER_FIGURES.get(word) in _LENGTHS):
            joined[-1] = f"{_AFTER_FIGURES.get(word, word)}{powers[before]}"
        else:
            joined.append(word)
    return joined


def _order_seconds(words: Sequence[str]) -> list[str]:
    """Writes the `second` of an order as 2nd, and leaves that of a clock."""
    clock = {"per", *_UNITS, *_TENS, *_SCALES}
    return [
        "2nd"
        if word == "second" and not (at and (_is_counted(words, at) or words[at - 1] in clock))
        else word
        for at, word in enumerate(words)
    ]


def _plain_word(token: str) -> str:
    """Writes a figure plainly: `1,200.50` as `1200.5`, `+3rd` as `3rd`; others unchanged."""
    found = _NUMBER.fullmatch(token)
    if not found:
        return token
    figure, ordinal = found.groups()
    figure = figure.removeprefix("+")
    figure = re.sub(r"^(-?)(?=\.)", r"\g<1>0", figure)
    if re.fullmatch(r"-?\d{1,3}(?:(?:,\d{3})+|(?:,\d{2})+,\d{3})(?:\.\d+)?", figure):
        figure = figure.replace(",", "")
    if _PLAIN.fullmatch(figure):
        whole, _, part = figure.partition(".")
        part = part.rstrip("0")
        # Python reads no more than 4,300 digits, and replies hold what they like.
        plain = str(int(whole)) if len(whole) < 100 else whole
        figure = f"{whole}.{part}" if part else plain
    return figure + (ordinal or "")


def _join_numbers(words: Sequence[str]) -> list[str]:
    """Replaces runs of number words, and figures with their scale, by one figure."""
    joined: list[str] = []
    start = 0
    while start < len(words):
        end, value = _read_number(words, start)
        if value is None:
            joined.append(words[start])
            start += 1
        else:
            joined.append(value)
            start = end
    return joined


def _read_number(words: Sequence[str], start: int) -> tuple[int, str | None]:
    """Reads `two hundred and five` or `1.5 million` from `start`; returns its end and value."""
    if _PLAIN.fullmatch(words[start]):
        return _read_scaled(words, start)
    total, group, last, at = 0, 0, "", start
    order = ""
    while at < len(words) and not order:
        word = words[at]
        if word in _ORDINALS:
            order, word = word, _ORDINALS[word]
        if word in _UNITS and last in ("", "tens", "scale"):
            if last == "tens" and not 1 <= _UNITS[word] <= 9:
                order = ""
                break
            group, last = group + _UNITS[word], "unit"
        elif word in _TENS and last in ("", "scale"):
            group, last = group + _TENS[word], "tens"
        elif word == "hundred" and last in ("unit", "tens"):
            group, last = group * 100, "scale"
        elif word in _SCALES and word != "hundred" and last:
            total, group, last = total + max(group, 1) * _SCALES[word], 0, "scale"
        elif word == "and" and last == "scale" and at + 1 < len(words):
            following = _ORDINALS.get(words[at + 1], words[at + 1])
            if following not in _UNITS and following not in _TENS:
                break
        else:
            order = ""
            break
        at += 1
    value = str(total + group)
    return (at, f"{value}{_suffix(value) if order else ''}") if last else (start, None)


def _suffix(figure: str) -> str:
    """Returns what follows a figure of an order: 1st, 2nd, 3rd, 11th."""
    is_teen = figure[-2:-1] == "1"
    return {"1": "st", "2": "nd", "3": "rd"}.get("" if is_teen else figure[-1], "th")


def _read_scaled(words: Sequence[str], start: int) -> tuple[int, str | None]:
    at = start + 1
    scale = 1
    while at < len(words) and words[at] in _SCALES:
        scale, at = scale * _SCALES[words[at]], at + 1
    if scale == 1 or len(words[start]) > MOST_DIGITS or scale > 10**MOST_DIGITS:
        return start, None
    return at, _plain_word(format(Decimal(words[start]) * scale, "f"))


def _join_signs(words: Sequence[str]) -> list[str]:
    """Writes `minus 3` as `-3`, where nothing stands before from which 3 is taken."""
    joined: list[str] = []
    for word in words:
        is_figure = word[0].isdigit() and _PLAIN.fullmatch(word)
        if is_figure and joined and joined[-1] in ("minus", "negative"):
            before = joined[-2] if len(joined) > 1 else ""
            if not _PLAIN.fullmatch(before) and len(before) != 1:
                joined[-1] = f"-{word}"
                continue
        joined.append(word)
    return joined


def _join_dates(words: Sequence[str]) -> list[str]:
    """Replaces `3 may 1990`, `may 3rd 1990`, `3rd of may` and `may 1990` by one word."""
    text = " ".join(words)
    months = "|".join(sorted(MONTHS, key=len, reverse=True))
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
    return f"{year}-{MONTHS[parts['month']]}-{day.lstrip('0')}"
