"""Numbers of HTML's ordered lists, as browsers count and write them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborNode

_STYLES = {
    **{"lower-alpha": "a", "lower-latin": "a", "upper-alpha": "A", "upper-latin": "A"},
    **{"lower-roman": "i", "upper-roman": "I", "decimal": "1", "none": ""},
}
_LISTS = frozenset(("ol", "ul", "menu", "dir"))
_ROMAN = (
    *((1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l")),
    *((40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")),
)


def item_marks(ordered: LexborNode) -> dict[int, str]:
    """Returns the mark of each item of an `ol`, such as '3. ' or 'iv. ', by its `mem_id`."""
    items = list(_items(ordered))
    given = ordered.attributes
    step = -1 if "reversed" in given else 1
    number = _parse_number(given.get("start"), len(items) if step < 0 else 1)
    style = _style(given, "1")
    marks = {}
    for item in items:
        own = item.attributes
        number = _parse_number(own.get("value"), number)
        kind = _style(own, style)
        marks[item.mem_id] = f"{_write(number, kind)}. " if kind else "- "
        number += step
    return marks


def _items(ordered: LexborNode) -> Iterator[LexborNode]:
    """Yields the items of a list in order, also those in wrappers of the page's programs."""
    open_ = [ordered]
    while open_:
        node = open_.pop()
        if node.tag == "li":
            yield node
        elif node is ordered or node.tag not in _LISTS:
            open_ += reversed(list(node.iter()))


def _style(given: dict[str, str | None], default: str) -> str:
    css = re.search(r"list-style(?:-type)?\s*:[^;]*?([a-z]+(?:-[a-z]+)?)", given.get("style") or "")
    if css and css[1] in _STYLES:
        return _STYLES[css[1]]
    kind = given.get("type") or ""
    return kind if kind in {"a", "A", "i", "I", "1"} else default


def _parse_number(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch(r"\s*[-+]?\d{1,9}\s*", text, re.ASCII) else default


def _write(number: int, kind: str) -> str:
    if kind == "1" or number < 1 or (kind in "iI" and number > 3999):
        return str(number)
    letters = _roman(number) if kind in "iI" else _alphabetic(number)
    return letters.upper() if kind.isupper() else letters


def _alphabetic(number: int) -> str:
    letters = ""
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


def _roman(number: int) -> str:
    letters = ""
    for value, sign in _ROMAN:
        count, number = divmod(number, value)
        letters += sign * count
    return letters
