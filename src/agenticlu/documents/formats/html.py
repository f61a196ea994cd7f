"""HTML as plain text.

The page becomes the tree that browsers build (lexbor, by selectolax); html_text.py writes its
elements.
"""

from __future__ import annotations

import html as entities
import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats import Parsed, name_of
from agenticlu.documents.formats.encodings import declared_charset, read_text
from agenticlu.documents.formats.html_text import Writer

_MAIN = (("main, [role=main]", 4), ("article", 2))
"""Elements that hold the main text, and the least share of the page's words (as 1 / n) that makes
them believable."""
_NOTES = "[role^=doc-footnote], [role^=doc-endnote], [role^=doc-note], [role=note]"
_NOTE_MARK = re.compile(r"[\[(]?(\d{1,4}|[*†‡§¶]{1,3}|(?<=[\[(])[a-z])[\])]?")
_INLINE = frozenset(("a", "span", "sup", "b", "i", "em", "strong", "small"))
_NO_TEXT = "script, style, template, noscript"
_AROUND = "nav, body > header, body > footer, body > aside, [role=navigation]"
_MAX_DEPTH = 5000
"""Deeper elements are opened no more: building the tree takes the square of its depth."""
_OPENING = re.compile(
    r"<(/?)((?:div|section|article|ul|ol|dl|table|blockquote|center|form)\b)", re.I
)
_PREFIX = re.compile(
    r"xmlns:([\w.-]+)\s*=\s*[\"']http://www\.w3\.org/(?:1998/Math/MathML|1999/xhtml|2000/svg)[\"']"
)
_OWN_HEAD = re.compile(r"((?:[^<]|<\?[^>]*>|<!--.*?-->)*<!DOCTYPE[^>\[]*)\[(.*?)\]\s*>", re.DOTALL)
_ENTITY = re.compile(r"<!ENTITY\s++([\w.-]++)\s++(\"[^\"]*+\"|'[^']*+')\s*+>")
_REFERENCE = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)([\w.-]+);")
_MOST_ADDED = 1 << 20
"""Characters that entities of a page's own may become."""
_VOID = "area|base|br|col|embed|hr|img|input|link|meta|param|source|track|wbr"
_SELF_CLOSED = re.compile(
    rf"<(?!(?:{_VOID})\b)([A-Za-z][\w:.-]*+)((?:[^<>\"'/]|/(?!>)|\"[^\"<]*+\"|'[^'<]*+')*+)/>", re.I
)


def parse(data: bytes, source: str) -> Parsed:
    """Reads the main text of a page, in the encoding that browsers would read it in.

    Raises:
        DocumentError: It is binary, in no known encoding, or all its text is in frames.
    """
    html, left_out = read_text(data, source, declared_charset(data))
    is_xml = bool(re.match(r"\s*<\?xml|(?s:[^>]*>){0,3}?\s*<html[^>]*xhtml", html[:2000]))
    by_name = source.lower().endswith((".html", ".htm"))
    parsed, frames = _read(html, is_xml and not by_name, is_page=True)
    parsed.left_out.update(left_out)
    if not parsed.text and frames:
        raise DocumentError(
            f"{name_of(source)} contains no text, only frames.",
            hint=f"Give the pages in them: {', '.join(frames[:5])}",
        )
    return parsed


def read(data: bytes, source: str, *, is_xml: bool = False) -> Parsed:
    """Reads a part of a book or a message, which has nothing around its text.

    Raises:
        DocumentError: It is binary, or in no encoding that can be told.
    """
    text, left_out = read_text(data, source, declared_charset(data))
    parsed = convert(text, is_xml=is_xml, is_page=False)
    parsed.left_out.update(left_out)
    return parsed


def convert(html: str, *, is_xml: bool = False, is_page: bool = True) -> Parsed:
    """Reads a page.

    Args:
        html: The page.
        is_xml: Whether it is XHTML: `<p/>` is closed, CDATA is text.
        is_page: Whether there may be navigation and such around the main text, to be left out.
    """
    return _read(html, is_xml, is_page)[0]


def _read(html: str, is_xml: bool, is_page: bool) -> tuple[Parsed, list[str]]:
    """Returns what was read, and the addresses of the page's frames."""
    tree = LexborHTMLParser(_prepare(html, is_xml))
    root = tree.root
    if root is None:
        return Parsed(""), []
    body = root.css_first("body, frameset") or root
    writer = Writer(spare=len(html) + 4096)
    notes = _linked_notes(body)
    writer.point_to(notes)
    if is_page:
        writer.furniture = False
        _keep_to_main(body, notes, writer)
    writer.write(body)
    if is_page and not writer.text():  # all of it is navigation: an index
        writer = Writer(spare=len(html) + 4096)
        writer.write(body)
    node = root.css_first("head > title") or root.css_first("title")
    title = " ".join(node.text().split()) if node is not None else None
    return Parsed(writer.text(), title or None, left_out=+writer.left_out), writer.frames


def _prepare(html: str, is_xml: bool) -> str:
    if "xmlns:" in html:
        for prefix in set(_PREFIX.findall(html)):
            html = re.sub(rf"<(/?){re.escape(prefix)}:(?=\w)", r"<\1", html)
    if is_xml:
        html = _with_own_entities(html)
        html = _SELF_CLOSED.sub(r"<\1\2></\1>", html)
        html = _escape_cdata(html)
    if "shadowrootmode" in html:  # saved from a browser: what the reader saw
        html = re.sub(r"<template(?=[^<>]*shadowrootmode)", "<div", html)
        html = html.replace("<template", "<div hidden").replace("</template", "</div")
    depth = 0

    def limit(found: re.Match[str]) -> str:
        nonlocal depth
        depth = max(0, depth - 1) if found[1] else depth + 1
        return found[0] if depth <= _MAX_DEPTH else f"<{found[1]}span "

    if len(html) > 5 * _MAX_DEPTH and sum(1 for _ in _OPENING.finditer(html)) > _MAX_DEPTH:
        html = _OPENING.sub(limit, html)
    return html


def _with_own_entities(html: str) -> str:
    """Writes out the entities that a file of XML declares for itself, such as '&mill;'."""
    head = _OWN_HEAD.match(html)
    if head is None:
        return html
    # One that is made of others could grow without end.
    values = {name: value[1:-1] for name, value in _ENTITY.findall(head[2])}
    values = {name: value for name, value in values.items() if not _REFERENCE.search(value)}
    spare = _MOST_ADDED

    def written(found: re.Match[str]) -> str:
        nonlocal spare
        value = values.get(found[1], found[0])
        spare -= len(value)
        return value if spare > 0 else found[0]

    return head[1] + ">" + _REFERENCE.sub(written, html[head.end() :])


def _escape_cdata(html: str) -> str:
    first, *rest = html.split("<![CDATA[")
    for part in rest:
        text, end, after = part.partition("]]>")
        first += entities.escape(text) + after if end else part
    return first


def _linked_notes(body: LexborNode) -> list[LexborNode]:
    """Returns the elements that numbers and signs in the text, such as [3] and *, point to."""
    targets = {
        (link.attributes["href"] or "")[1:]
        for link in body.css("a[href^='#']")
        if _NOTE_MARK.fullmatch(link.text().strip())
    }
    found = []
    for node in body.css("[id]") if targets else ():
        if node.attributes["id"] in targets:
            while node.tag in _INLINE and node.parent is not None:
                node = node.parent
            found.append(node)
    return found


def _keep_to_main(body: LexborNode, linked: list[LexborNode], writer: Writer) -> None:
    """Has the writer pass over what surrounds the main text of a page."""
    size = _num_chars(body, f"{_NO_TEXT}, {_AROUND}")
    for selector, share in _MAIN:
        found = body.css(selector)
        # Several articles are a listing: then the page is the document.
        if len(found) == 1 and _num_chars(found[0], _NO_TEXT) * share >= size > 0:
            passed = {node.mem_id for node in found[0].traverse()} | _around(found[0])
            notes = [one for one in body.css(_NOTES) + linked if one.mem_id not in passed]
            writer.keep_to([*_heading_above(body, found[0]), found[0], *notes])
            return


def _num_chars(node: LexborNode, without: str) -> int:
    """Counts the characters of an element's text, less those of some elements in it."""
    return len(node.text()) - sum(len(one.text()) for one in node.css(without))


def _heading_above(body: LexborNode, main: LexborNode) -> list[LexborNode]:
    """Returns the page's title where it stands outside the main text."""
    heading = body.css_first("h1")
    if heading is None or main.css_first("h1") is not None:
        return []
    return [heading]


def _around(node: LexborNode) -> set[int]:
    """Returns the identities of the elements around one."""
    found = set()
    while node.parent is not None:
        node = node.parent
        found.add(node.mem_id)
    return found
