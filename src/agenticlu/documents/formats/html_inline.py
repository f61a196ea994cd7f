"""Elements of HTML inside a line: links, scripts, formulas, images, fields of forms."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from selectolax.lexbor import LexborNode

from agenticlu.documents.formats.mathml import formula

_BACKLINKS = frozenset("↑↩¶#§🔗^") | {"↩︎"}
"""Links from a note back to the text, or from a heading to itself."""
_AS_WRITTEN = re.compile(
    r"(?![-+−–]\w)\W.*|st|nd|rd|th|e|er|re|ème|[ao]|tm|sm", re.IGNORECASE | re.DOTALL
)
"""Superscripts that are not exponents: ordinals, trade marks, footnote signs."""
_ONE_SCRIPT = re.compile(r"[-+−–]?\w+|\w+[-+−–]")
_MAX_SCRIPTS = 4
_CODE = ("style", "script")


class Skipped(NamedTuple):
    """An element that is not read."""


Leave = Callable[[], None]
Given = Mapping[str, str | None]
"""Attributes of an element."""


@dataclass(slots=True)
class InlineWriter:
    """Writes elements into the line of the block that is being written.

    Its methods begin an element; they return what ends it, None, or that it is not entered.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    line: list[str] = field(default_factory=list)
    """The block that is being written."""
    heading: int = 0
    """Open elements in which blocks do not part the line."""
    scripts: int = 0
    """Open super- and subscripts."""

    def _enter_link(self, node: LexborNode, given: Given) -> Leave | Skipped | None:
        page, sign, _ = (given.get("href") or "").partition("#")
        if not sign:
            return None
        text = node.text().strip().replace("\u200b", "")
        if text in _BACKLINKS or (given.get("role") or "") == "doc-backlink":
            return Skipped()
        glued = bool(self.line) and self.line[-1][-1:].strip(" \t\n([{/") != ""
        is_note = "noteref" in f"{given.get('role')} {given.get('epub:type')}"
        if page and not is_note:  # notes of another page are numbered behind words
            glued = glued and re.fullmatch(r"[\w.,;:!?)”’»]", self.line[-1][-1:]) is not None
        if (glued or is_note) and re.fullmatch(r"\d{1,4}|[*†‡§a-z]", text):
            self.line.append(f"[{text}]")
            return Skipped()
        return None

    def _enter_superscript(self, node: LexborNode, given: Given) -> Leave | None:
        def write(text: str) -> str:
            return text if _AS_WRITTEN.fullmatch(text) else "^" + _braced(text, node)

        return self._enter_script(write)

    def _enter_subscript(self, node: LexborNode, given: Given) -> Leave | None:
        before = self.line[-1][-1:] if self.line else ""

        def write(text: str) -> str:
            # H2O is written so; x_12 and 101_2 are not.
            after_letter = before.isalpha() or before in {")", "]"}
            is_chemical = text.isdigit() and after_letter and not _next_char(node).isdigit()
            return text if is_chemical else "_" + _braced(text, node)

        return self._enter_script(write)

    def _enter_script(self, write: Callable[[str], str]) -> Leave | None:
        if self.scripts >= _MAX_SCRIPTS:
            return None
        self.scripts += 1
        at = len(self.line)

        def leave() -> None:
            self.scripts -= 1
            text = "".join(self.line[at:]).strip()
            if text:
                self.line[at:] = [write(text)]

        return leave

    def _enter_math(self, node: LexborNode, given: Given) -> Skipped:
        text = formula(node)
        before, after = "".join(self.line[-1:])[-1:], _next_char(node)
        self.line.append(" " * before.isalnum() + text + " " * after.isalnum())
        return Skipped()

    def _enter_image(self, node: LexborNode, given: Given) -> Skipped:
        alt = " ".join((given.get("alt") or "").split())
        if re.search(r"(?i)\.(jpe?g|png|gif|svg|webp|bmp|tiff?)$", alt):
            alt = ""  # a file's name
        if len(alt) <= 2:
            self.line.append(alt)
        else:
            self.line.append(f"[image: {alt}]")
        if not alt and given.get("alt") != "" and given.get("width") not in {"0", "1"}:
            self.left_out["undescribed image"] += 1
        return Skipped()

    def _enter_input(self, node: LexborNode, given: Given) -> Skipped:
        kind = (given.get("type") or "text").lower()
        if kind in {"checkbox", "radio"}:
            self.line.append(" [x] " if "checked" in given else " [ ] ")
        elif kind not in {"hidden", "submit", "button", "reset", "image", "password", "file"}:
            self.line.append(f" {given.get('value') or ''} ")
        return Skipped()

    def _enter_select(self, node: LexborNode, given: Given) -> Skipped:
        options = node.css("option")
        chosen = [one for one in options if "selected" in one.attributes]
        if not chosen and "multiple" not in given:
            chosen = options[:1]  # what browsers show
        self.line.append(f" {', '.join(one.text().strip() for one in chosen)} ")
        self.left_out["unchosen option"] += len(options) - len(chosen)
        return Skipped()

    def _enter_svg(self, node: LexborNode, given: Given) -> Skipped:
        for one in node.traverse(include_text=True):
            self.left_out["undescribed image"] += one.tag == "image"
            if one.tag == "-text" and one.parent is not None and one.parent.tag not in _CODE:
                self.line += [" ", (one.text_content or "").strip()]
        self.line.append(" ")
        return Skipped()

    def _enter_mathjax(self, node: LexborNode, given: Given) -> Skipped:
        if (math := node.css_first("math")) is not None:
            self._enter_math(math, math.attributes)
        else:
            self.left_out["formula"] += 1
        return Skipped()

    def _enclose(self, before: str, after: str) -> Leave:
        self.line.append(before)
        return lambda: self.line.append(after)

    def _enter_break(self, node: LexborNode, given: Given) -> Skipped:
        self.line.append(" " if self.heading else "\n")
        return Skipped()


def _next_char(node: LexborNode) -> str:
    after = node.next
    return (after.text_content or "")[:1] if after is not None and after.tag == "-text" else ""


def _braced(text: str, node: LexborNode) -> str:
    one = _ONE_SCRIPT.fullmatch(text) and not _next_char(node).isalnum()
    return text if one else f"{{{text}}}"
