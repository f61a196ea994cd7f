"""HTML as plain text.

Headings and lists of HTML are written as in Markdown, rows of tables as lines with ' | ' between
cells. Emphasis, links and code keep only their text: quotes are looked up in this text, and models
quote words, not markup.
"""

from __future__ import annotations

import re
from typing import Any

import bs4
import markdownify

from agenticlu.documents.formats import Parsed
from agenticlu.documents.formats.text import declared_charset, decode

_DROPPED = frozenset(
    (
        *("script", "style", "noscript", "template", "head", "svg", "math", "iframe", "object"),
        *("embed", "canvas", "audio", "video", "button", "input", "select", "textarea", "nav"),
    )
)
_FURNITURE = frozenset(("header", "footer", "aside", "form"))
"""What surrounds the text of a whole page, unless a heading or a note is in it."""
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "center", "dd", "details", "dialog"),
        *("dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup"),
        *("html", "legend", "main", "menu", "option", "section", "summary"),
    )
)
"""Beside those that the converter knows as blocks."""
_BACKLINKS = frozenset("↑↩¶") | {"↩︎"}
"""Links from a note back to the text, or from a heading to itself."""
_LAYOUT_ONLY = ("table", "h1", "h2", "h3", "h4", "pre")
"""A table that holds one of these arranges a page; its cells are read as blocks."""
_CELLS = ("td", "th")
_INLINE = ("a", "b", "code", "del", "em", "hr", "i", "img", "kbd", "s", "samp", "strong", "sub")
_AS_WRITTEN = re.compile(r"\W.*|st|nd|rd|th|e|er|re|ème|[ao]|tm|sm", re.IGNORECASE)
"""Superscripts that are not exponents: ordinals, trade marks, footnote signs."""
_MAX_DEPTH = 150
"""The converter recurses; pages nest deeper than Python's limit allows."""


def parse(data: bytes, source: str) -> Parsed:
    """Reads a page in the encoding that it declares.

    Raises:
        DocumentError: It is not in that encoding, or the encoding is unknown.
    """
    return convert(decode(data, source, declared=declared_charset(data)))


def convert(html: str) -> Parsed:
    """Reads the main text of a page, and its title."""
    soup = bs4.BeautifulSoup(html, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else None
    root, is_whole_page = _find_main(soup)
    _prune(root, is_whole_page)
    text = _Converter().convert_soup(root)
    # Blocks are parted by one blank line; the converter leaves more around empty ones.
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip("\n")
    return Parsed(text + "\n" if text.strip() else "", title or None)


def _find_main(soup: bs4.BeautifulSoup) -> tuple[bs4.Tag, bool]:
    """Returns the element that holds the main text, and whether that is the whole page."""
    body = soup.body or soup
    size = len(body.get_text())
    for candidates in (
        soup.find_all("main"),
        soup.find_all(role="main"),
        soup.find_all("article"),
    ):
        # Several articles are a listing: then the page is the document.
        if len(candidates) == 1 and len(candidates[0].get_text()) * 3 >= size:
            return candidates[0], False
    return body, True


def _prune(root: bs4.Tag, is_whole_page: bool) -> None:
    """Removes what is not read, and brings the rest into elements that the converter knows."""
    for text in root.find_all(string=True):
        if isinstance(text, (bs4.ProcessingInstruction, bs4.Declaration)):
            text.extract()
    depths = {id(root): 0}
    for tag in root.find_all(True):
        depth = depths.get(id(tag.parent))
        if depth is None:
            continue  # inside something that was removed
        if _is_noise(tag) or (is_whole_page and _is_furniture(tag)):
            tag.extract()
        elif depth >= _MAX_DEPTH:
            tag.insert_before(" ")
            tag.insert_after(" ")
            tag.unwrap()
        else:
            depths[id(tag)] = depth + 1
            if tag.name == "table" and tag.find(_LAYOUT_ONLY):
                _unfold_table(tag)
            elif tag.name == "ol":
                _number_items(tag)
            elif tag.name in _BLOCKS:
                tag.name = "div"


def _unfold_table(table: bs4.Tag) -> None:
    cells = [cell for cell in table.find_all(_CELLS) if cell.find_parent("table") is table]
    for tag in (table, *cells):
        tag.name = "div"


def _number_items(ordered: bs4.Tag) -> None:
    """Writes into every item of a list the number that browsers show."""
    number = _parse_number(ordered.get("start"), 1)
    for item in ordered.find_all("li", recursive=False):
        number = _parse_number(item.get("value"), number)
        item["value"] = str(number)
        number += 1


def _parse_number(text: object, default: int) -> int:
    return int(str(text)) if re.fullmatch(r"-?\d{1,9}", str(text), re.ASCII) else default


def _is_noise(tag: bs4.Tag) -> bool:
    if tag.name in _DROPPED or tag.has_attr("hidden") or tag.get("aria-hidden") == "true":
        return True
    if tag.name == "a" and tag.get_text(strip=True) in _BACKLINKS:
        return True
    style = str(tag.get("style") or "").replace(" ", "").lower()
    return "display:none" in style or "visibility:hidden" in style


def _is_furniture(tag: bs4.Tag) -> bool:
    kind = f"{tag.get('role') or ''} {tag.get('epub:type') or ''}"
    return tag.name in _FURNITURE and tag.find(("h1", "h2", "h3")) is None and "note" not in kind


class _Converter(markdownify.MarkdownConverter):
    class Options:
        heading_style = markdownify.ATX
        bullets = "-"
        escape_asterisks = escape_underscores = False
        strip = _INLINE
        wrap = True  # line ends of the source are spaces...
        wrap_width = None  # ... and no line is broken

    def convert_br(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return " " if "_inline" in parent_tags else "\n"

    def convert_li(self, el: Any, text: str, parent_tags: set[str]) -> str:
        text = text.strip()
        number = el.get("value") if el.parent.name == "ol" else None
        mark = f"{number}. " if number else "- "
        before = "" if el.parent.name in {"ul", "ol"} else "\n"
        indented = text.replace("\n", "\n" + " " * len(mark))
        return f"{before}{mark}{indented}\n" if text else ""

    def convert_pre(self, el: Any, text: str, parent_tags: set[str]) -> str:
        block = text.strip("\n")
        return f"\n\n{block}\n\n" if block else ""

    def convert_sup(self, el: Any, text: str, parent_tags: set[str]) -> str:
        # 10<sup>6</sup> is not 106.
        return text if not text.strip() or _AS_WRITTEN.fullmatch(text.strip()) else f"^{text}"

    def convert_td(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return " ".join(text.split()) + " | "

    convert_th = convert_td

    def convert_tr(self, el: Any, text: str, parent_tags: set[str]) -> str:
        return text.removesuffix(" | ") + "\n"
