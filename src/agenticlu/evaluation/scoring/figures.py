"""Writes figures that mean the same alike: signs, thousands, powers, fractions, money, units."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

MONTHS: dict[str, int] = {
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
SIGNS = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"} | {
    **{"₩": "won", "₽": "rouble", "₺": "lira", "₪": "shekel", "฿": "baht", "₫": "dong"},
    **{"₦": "naira", "₱": "peso", "₴": "hryvnia"},
}
"""Signs of currencies, to their words."""
FIGURE = r"\d+(?:[.,]\d+)*"
MOST_DIGITS = 40
"""A power of more digits is not written out."""
_SHORT_SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}
_SIGN = rf"[{''.join(SIGNS)}]"
_SCALE = r"(?:hundred|thousand|million|billion|trillion|[kmb]n?)\b"
_UNIT = (
    r"(?:[kcm]?ms?|[km]?g|kgs|m?l|ft|mi|lbs?|oz|mph|kmh|kph|h|hrs?|mins?|secs?|ms|[km]?w|kwh"
    r"|[kmg]?hz|[kmgt]b|[ap]m|[cf]|bn|mn|yrs?|px|usd|eur|gbp|jpy|inr)\b"
)


def fold_figures(text: str) -> str:
    """Returns a text in lower case whose figures are written alike.

    >>> fold_figures("−3, 10^6, 1/2")
    '-3, 1000000, 0.5'
    >>> fold_figures("£3m").split()
    ['3', 'million', 'pound']
    """
    for needs, pattern, becomes in _FOLDS:
        if not needs or any(char in text for char in needs):
            text = pattern.sub(becomes, text)
    return text


def _amount(found: re.Match[str]) -> str:
    """Writes an amount of money as it is said: the figure, its scale, the currency."""
    sign, figure, scale = found.groups()
    return f" {figure} {_SHORT_SCALES.get(scale or '', scale or '')} {SIGNS[sign]} "


def _power(found: re.Match[str]) -> str:
    parts = found.groupdict()
    times, base, power = parts["times"] or "1", parts.get("base") or "10", int(parts["power"])
    if abs(power) > MOST_DIGITS or len(times) + len(base) > MOST_DIGITS or int(base) == 0:
        return found[0]
    plain = format(Decimal(times) * Decimal(base) ** power, "f")
    return plain if len(plain) <= MOST_DIGITS else found[0]


def _fraction(found: re.Match[str]) -> str:
    """Writes a fraction below one as a decimal where that ends soon; keeps it whole otherwise."""
    whole, above, below = (int(group or 0) for group in found.groups())
    if not 0 < above < below:
        return found[0]
    if 10**4 % below == 0:
        return format(whole + Decimal(above) / below, "f")
    return f"{whole * below + above}/{below}"


def _written_date(found: re.Match[str]) -> str:
    """Reads 25.12.2020, and 12/25/2020 where only one of the two can be the month."""
    first, mark, second, year = int(found[1]), found[2], int(found[3]), found[4]
    if mark == "/" and first <= 12 and second <= 12 and first != second:
        return found.group()
    day, month = (second, first) if mark == "/" and second > 12 else (first, second)
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return found.group()
    return f"{day} {_month_name(month)} {year}"


def _month_name(number: int) -> str:
    return next(name for name, own in MONTHS.items() if own == number)


def _iso_date(found: re.Match[str]) -> str:
    year, month, day = (int(group) for group in found.groups())
    return f"{day} {_month_name(month)} {year}" if 1 <= month <= 12 else found.group()


_Fold = tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]]
_FOLDS: tuple[_Fold, ...] = (
    (
        "0",
        re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3}){0,4} 000(?!\d)"),
        lambda m: m[0].replace(" ", ""),
    ),
    # A sign stands before a figure, and right after nothing that it may join or part.
    ("−‒–", re.compile(rf"[−‒–](?<![\w)\]%].)(?<!\d .)(?={_SIGN}?\.?\d)"), "-"),
    ("−", re.compile(rf"−(?<![\w)\]%].)(?<![\w)\]%] .)\s+(?={_SIGN}?\.?\d)"), "-"),
    ("−", re.compile(r"(?<=[\w)])\s?−\s?(?=[\w(])"), " minus "),
    ("".join(SIGNS), re.compile(rf"-({_SIGN})(?=\.?\d)"), r"\1-"),
    (
        "".join(SIGNS),
        re.compile(rf"(?:\bus)?({_SIGN})\s?(-?{FIGURE})(?:\s?({_SCALE}))?"),
        _amount,
    ),
    ("".join(SIGNS), re.compile(rf"(?<=\d)\s?({_SIGN})"), lambda m: f" {SIGNS[m[1]]} "),
    (
        "",
        re.compile(
            rf"\b(usd|eur|gbp|jpy|inr|chf|cny|rmb|krw|cad|aud|nzd|sek|nok|dkk)\s?({FIGURE})"
        ),
        r"\2 \1",
    ),
    ("", re.compile(r"\bdegrees? (?:([cf])(?:elsius|ahrenheit)|(c)entigrade)\b"), r"\1\2"),
    ("23", re.compile(r"(?<=\d)(\s?(?:[kcm]?m|ft|mi))([23])\b"), r"\1^\2"),
    ("", re.compile(rf"(?<=\d)(?={_UNIT})"), " "),
    ("", re.compile(r"(?<=\d )(bn|mn)\b"), lambda m: _SHORT_SCALES[m[1]]),
    (
        "^*",
        re.compile(
            r"(?<![\w.])(?:(?P<times>-?\d+(?:\.\d+)?)\s?[×x*·⋅]\s?)?(?P<base>-?\d{1,6})\s?"
            r"(?:\^|\*\*)\s?[({]?(?P<power>[-+]?\d{1,2})[)}]?(?!\w)"
        ),
        _power,
    ),
    (
        "e",
        re.compile(r"(?<![\w.])(?P<times>-?\d+(?:\.\d+)?)e(?P<power>[-+]?\d{1,2})(?!\w)"),
        _power,
    ),
    ("*×·⋅", re.compile(r"(?<=\d)\s?[*×·⋅]\s?(?=\d)"), " x "),
    (
        "/",
        re.compile(r"(?<![\w./])(?:(\d{1,4})[ -])?(\d{1,3})\s?/\s?(\d{1,3})(?![\w/]|\.\d)"),
        _fraction,
    ),
    ("-", re.compile(r"(?<!\d)(\d{4})-(\d\d?)-(\d\d?)(?!\d)"), _iso_date),
    (
        "./",
        re.compile(r"(?<![\d./])(\d\d?)([./])(\d\d?)\2(\d{4})(?!\d|[./]\d)"),
        _written_date,
    ),
    (
        ".",
        re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:\.\d{3}){2,5}(?![\d]|[.]\d)"),
        lambda m: m[0].replace(".", ""),
    ),
    ("°", re.compile(r"°(?!\s?[cf]\b)"), " degree "),
    ("", re.compile(r"(?<=\d)\s?mph\b"), " mile per h"),
    ("", re.compile(r"(?<=\d)\s?km?ph\b|(?<=\d)\s?kmh\b"), " km per h"),
    (
        "/",
        re.compile(
            r"(?<=[a-z])\s?/\s?(?=(?:h|hr|s|sec|min|d|day|week|month|year|k?g|m?l|[ck]?m)\b)"
        ),
        " per ",
    ),
    ("", re.compile(r"(?<=\d)\s?to\s(?=\d)"), " "),
    ("", re.compile(r"(?<=\d)\s?in\.?\s*$"), " inch"),
    ("=", re.compile(r"([<>])="), lambda m: "≤" if m[1] == "<" else "≥"),
)
"""Characters of which a text needs one, the pattern, and what becomes of it; applied in turn."""
