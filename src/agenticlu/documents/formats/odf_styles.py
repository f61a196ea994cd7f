"""What the styles of OpenDocument files say about the text: hidden, raised, numbered (ODF 1.3)."""

from __future__ import annotations

import re
from typing import Any

from agenticlu.documents.formats.numbering import format_number

_KINDS = {"1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman"} | {
    "I": "upperRoman"
}
_MAX_PARENTS = 20


def name_of(node: Any) -> str:
    """Returns a short name of an element, such as 'text:p'; '' for a comment."""
    if not isinstance(node.tag, str):
        return ""
    space, _, local = node.tag[1:].rpartition("}")
    # urn:oasis:names:tc:opendocument:xmlns:text:1.0
    return f"{re.sub(':[0-9.]+$', '', space).rpartition(':')[2]}:{local}"


def get(node: Any, name: str, default: str = "") -> str:
    """Returns an attribute by its local name."""
    for key, value in node.attrib.items():
        if key.rpartition("}")[2] == name:
            return str(value)
    return default


def count_of(node: Any, name: str, default: int = 1) -> int:
    """Returns an attribute that is a count."""
    text = get(node, name)
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else default


class OdfStyles:
    """The styles of a document, from all of its parts."""

    def __init__(self, *roots: Any) -> None:
        self._styles: dict[tuple[str, str], Any] = {}
        self._lists: dict[str, dict[int, Any]] = {}
        self.outline: dict[int, Any] = {}
        for root in roots:
            for node in root.iter("{*}style"):
                self._styles[get(node, "family"), get(node, "name")] = node
            for node in root.iter("{*}list-style"):
                self._lists[get(node, "name")] = {count_of(one, "level"): one for one in node}
            for node in root.iter("{*}outline-style"):
                self.outline = {count_of(one, "level"): one for one in node}

    def chain(self, family: str, name: str) -> list[Any]:
        """Returns a style and those that it is based on."""
        found: list[Any] = []
        while (family, name) in self._styles and len(found) < _MAX_PARENTS:
            found.append(self._styles[family, name])
            name = get(found[-1], "parent-style-name")
        return found

    def value(self, family: str, node: Any, name: str) -> str:
        """Returns a property of an element's style, '' where it has none."""
        for style in self.chain(family, get(node, "style-name")):
            for properties in style:
                if value := get(properties, name):
                    return value
        return ""

    def script(self, node: Any) -> str:
        """Returns 'sup' or 'sub' for raised or lowered text."""
        position = self.value("text", node, "text-position").split(" ")[0]
        if position in {"super", "sub"}:
            return {"super": "sup"}.get(position, position)
        number = position.rstrip("%")
        if not re.fullmatch(r"-?[0-9.]+", number) or not number.strip("-0."):
            return ""
        return "sub" if number.startswith("-") else "sup"

    def is_struck(self, node: Any) -> bool:
        """Whether text has a line through it."""
        names = ("text-line-through-style", "text-line-through-type")
        return any(self.value("text", node, name) not in {"", "none"} for name in names)

    def is_title(self, node: Any) -> bool:
        """Whether a paragraph is the document's title."""
        names = [get(one, "name") for one in self.chain("paragraph", get(node, "style-name"))]
        return "Title" in (names or [get(node, "style-name")])

    def label(self, level: Any | None, counts: dict[int, int], depth: int, levels: Any) -> str:
        """Returns the number of an item at a depth from 1; '' for a bullet or none."""
        kind = "" if level is None else get(level, "num-format")
        if level is None or not kind:
            return ""
        shown = min(count_of(level, "display-levels"), depth)
        numbers = (
            format_number(
                counts.get(one, 1), _KINDS.get(get(levels.get(one, level), "num-format"), "decimal")
            )
            for one in range(depth - shown + 1, depth + 1)
        )
        return f"{get(level, 'num-prefix')}{'.'.join(numbers)}{get(level, 'num-suffix')}".strip()

    def levels(self, name: str) -> dict[int, Any]:
        """Returns the levels of a list style."""
        return self._lists.get(name, {})
