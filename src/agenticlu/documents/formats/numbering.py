"""Numbers of lists and headings in Word documents, as Word shows them: '2.1', '(a)', 'Article IV'.

A document holds only which list and level a paragraph is in (ECMA-376, part 1, 17.9).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from agenticlu.documents.formats.ooxml import WORD

_W = f"{{{WORD}}}"
_ROMAN = tuple(
    zip(
        (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
        ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"),
        strict=True,
    )
)
_HAN = "〇一二三四五六七八九十"
LABEL = "\ufdd0"
"""Stands between a list's bullet and its number until the HTML has become text."""
_MAX_LINKS = 20
"""Styles and lists that refer to each other are followed so far."""


def set_labels(text: str) -> str:
    """Puts numbers into the places of the bullets before them."""
    return text.replace(f"- {LABEL}", "").replace(LABEL, "")


def value_of(node: Any, *path: str) -> str | None:
    """Returns the `w:val` of a descendant by its path of local names, or None."""
    found = node.find("/".join(f"{_W}{name}" for name in path)) if node is not None else None
    return None if found is None else str(found.get(f"{_W}val", ""))


def is_on(node: Any, *path: str) -> bool:
    """Whether a switch such as `w:vanish` is given, and not given as off."""
    value = value_of(node, *path)
    return value is not None and value not in {"0", "false", "off", "none"}


class Styles:
    """The styles of a document, with what they inherit."""

    def __init__(self, root: Any | None) -> None:
        styles = () if root is None else root.findall(f"{_W}style")
        self._by_id = {one.get(f"{_W}styleId"): one for one in styles}
        self._values: dict[tuple[str | None, tuple[str, ...]], str | None] = {}
        defaults = (one for one in styles if one.get(f"{_W}default") in {"1", "true"})
        self.default = next(
            (s.get(f"{_W}styleId") for s in defaults if s.get(f"{_W}type") == "paragraph"), None
        )

    def chain(self, name: str | None) -> list[Any]:
        """Returns a style and those it is based on, nearest first."""
        found: list[Any] = []
        while name in self._by_id and len(found) < _MAX_LINKS:
            found.append(self._by_id[name])
            name = value_of(found[-1], "basedOn")
        return found

    def value(self, name: str | None, *path: str) -> str | None:
        """Returns the nearest value of a property in a style's chain."""
        if (name, path) not in self._values:
            values = (value_of(one, *path) for one in self.chain(name))
            self._values[name, path] = next((one for one in values if one is not None), None)
        return self._values[name, path]


@dataclass
class _List:
    """A list definition and how far it has counted."""

    levels: dict[int, Any]
    counts: dict[int, int] = field(default_factory=dict)
    style_link: str | None = None


class Numbering:
    """Counts the numbered paragraphs of a document in their order."""

    def __init__(self, root: Any | None, styles: Styles) -> None:
        self._styles = styles
        self._lists: dict[str, _List] = {}
        self._nums: dict[str, Any] = {}
        self._started: set[str] = set()
        for one in () if root is None else root:
            if one.tag == f"{_W}abstractNum":
                self._lists[one.get(f"{_W}abstractNumId", "")] = _List(
                    {_number(lvl.get(f"{_W}ilvl"), 0): lvl for lvl in one.findall(f"{_W}lvl")},
                    style_link=value_of(one, "numStyleLink"),
                )
            elif one.tag == f"{_W}num":
                self._nums[one.get(f"{_W}numId", "")] = one

    def next_label(self, paragraph: Any) -> tuple[str, int, str | None] | None:
        """Counts a paragraph.

        Returns:
            The list, the level from 0, and the label (None for a bullet); None for a paragraph
            that is in no list.
        """
        properties = paragraph.find(f"{_W}pPr")
        style = value_of(properties, "pStyle") or self._styles.default
        num = value_of(properties, "numPr", "numId")
        level = value_of(properties, "numPr", "ilvl")
        if num is None:
            num = self._styles.value(style, "pPr", "numPr", "numId")
            level = level or self._level_of_style(num, style)
        found = self._find(num)
        if num is None or found is None:
            return None
        depth = _number(level, 0)
        definition = self._definition(num, found, depth)
        if definition is None:
            return None
        if value_of(definition, "numFmt") == "bullet":
            return num, depth, None
        self._count(num, found, depth)
        return num, depth, self._render(num, found, depth)

    def _level_of_style(self, num: str | None, style: str | None) -> str | None:
        found = self._find(num)
        for depth, level in found.levels.items() if found else ():
            if value_of(level, "pStyle") == style:
                return str(depth)
        return self._styles.value(style, "pPr", "numPr", "ilvl")

    def _find(self, num: str | None) -> _List | None:
        for _ in range(_MAX_LINKS):
            found = self._lists.get(value_of(self._nums.get(num or ""), "abstractNumId") or "")
            if found is None or found.style_link is None or found.levels:
                return found
            num = self._styles.value(found.style_link, "pPr", "numPr", "numId")
        return None

    def _override(self, num: str, depth: int) -> Any | None:
        for one in self._nums[num].findall(f"{_W}lvlOverride"):
            if _number(one.get(f"{_W}ilvl"), -1) == depth:
                return one
        return None

    def _definition(self, num: str, found: _List, depth: int) -> Any | None:
        override = self._override(num, depth)
        own = None if override is None else override.find(f"{_W}lvl")
        return found.levels.get(depth) if own is None else own

    def _start(self, num: str, found: _List, depth: int) -> int:
        override = value_of(self._override(num, depth), "startOverride")
        own = value_of(self._definition(num, found, depth), "start")
        return _number(override, _number(own, 1))

    def _count(self, num: str, found: _List, depth: int) -> None:
        if num not in self._started:
            self._started.add(num)
            for level in list(found.counts):
                if value_of(self._override(num, level), "startOverride") is not None:
                    del found.counts[level]
        if depth in found.counts:
            found.counts[depth] += 1
        else:
            found.counts[depth] = self._start(num, found, depth)
        for level in [one for one in found.counts if one > depth]:
            restart = value_of(self._definition(num, found, level), "lvlRestart")
            if restart is None or depth < _number(restart, 9):
                del found.counts[level]

    def _render(self, num: str, found: _List, depth: int) -> str:
        definition = self._definition(num, found, depth)
        legal = is_on(definition, "isLgl")

        def count(match: re.Match[str]) -> str:
            level = int(match[1]) - 1
            number = found.counts.get(level, self._start(num, found, level))
            kind = value_of(self._definition(num, found, level), "numFmt")
            return format_number(number, "decimal" if legal else kind or "decimal")

        return re.sub(r"%([1-9])", count, value_of(definition, "lvlText") or "").strip()


def _number(text: object, default: int) -> int:
    return int(str(text)) if re.fullmatch(r"\d{1,9}", str(text), re.ASCII) else default


def format_number(number: int, kind: str) -> str:
    """Writes a number in one of Word's formats; rare ones are written in digits.

    >>> [format_number(28, k) for k in ("decimal", "upperRoman", "lowerLetter", "ordinal")]
    ['28', 'XXVIII', 'bb', '28th']
    """
    if kind == "none":
        return ""
    if kind in {"upperLetter", "lowerLetter"} and 0 < number <= 26 * 20:
        letters = chr(65 + (number - 1) % 26) * ((number - 1) // 26 + 1)
        return letters if kind == "upperLetter" else letters.lower()
    if kind in {"upperRoman", "lowerRoman"} and 0 < number < 4000:
        return _roman(number) if kind == "upperRoman" else _roman(number).lower()
    if kind == "decimalZero":
        return f"{number:02}"
    if kind == "ordinal":
        last = 0 if number // 10 % 10 == 1 else number % 10
        return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
    if kind.startswith(("decimalEnclosedCircle", "ideographEnclosedCircle")) and 0 < number <= 20:
        return chr(0x2460 + number - 1)
    if kind.startswith(("chineseCounting", "japaneseCounting", "taiwaneseCounting")):
        return _han(number) if 0 < number < 100 else str(number)
    return str(number)


def _roman(number: int) -> str:
    text = ""
    for value, letters in _ROMAN:
        text += letters * (number // value)
        number %= value
    return text


def _han(number: int) -> str:
    tens, ones = divmod(number, 10)
    return ((_HAN[tens] if tens > 1 else "") + "十" if tens else "") + (_HAN[ones] if ones else "")
