"""The text of OpenDocument files as HTML: paragraphs, lists, tables, notes (ODF 1.3, 5-10)."""

from __future__ import annotations

import copy
import html as html_text
import posixpath
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from typing import Any

from lxml import etree

from agenticlu.documents.formats import ooxml
from agenticlu.documents.formats.numbering import LABEL
from agenticlu.documents.formats.odf_styles import OdfStyles, count_of, get, name_of

_SKIPPED = frozenset(
    (
        *("text:change", "text:change-start", "text:change-end", "office:annotation-end"),
        *("text:soft-page-break", "office:forms", "office:event-listeners", "text:note-citation"),
        *(
            "text:sequence-decls",
            "text:variable-decls",
            "text:user-field-decls",
            "svg-compatible:desc",
        ),
        *("svg-compatible:title", "text:script", "text:page-number", "text:page-count"),
        *("presentation:notes", "drawing:glue-point", "drawing:image-map", "office:scripts"),
    )
)
_CHART = "{urn:oasis:names:tc:opendocument:xmlns:chart:1.0}chart"
_SHAPES = ("drawing:", "dr3d:")
_MAX_REPEATS = 50
"""Columns that a table repeats are written so many times at most."""
_MAX_PAGE_LINE = 15
"""A line of a header with no more characters beside its page number is only that."""


class OdfWriter:
    """Writes elements of a document as HTML."""

    def __init__(
        self, archive: zipfile.ZipFile | None, styles: OdfStyles, left_out: Counter[str]
    ) -> None:
        self._archive = archive
        self._styles = styles
        self._left_out = left_out
        self._notes: list[str] = []
        self._floats: list[str] = []
        self._lists: dict[str, dict[int, int]] = {}
        self._outline: dict[int, int] = {}

    def notes(self) -> str:
        """Returns the foot- and endnotes so far, and forgets them."""
        found, self._notes = "".join(self._notes), []
        return found

    def blocks(self, nodes: Iterable[Any]) -> str:
        """Returns elements that stand below each other."""
        return "".join(map(self.block, nodes))

    def block(self, node: Any, label: str = "") -> str:
        """Returns a block element; `label` is the number of a list's item before its text."""
        name = name_of(node)
        if name in {"text:p", "text:h"}:
            return self._paragraph(node, label)
        if name == "text:list":
            return self._list(node, 1, "", {})
        if name == "table:table":
            return self.table(node)
        if name == "text:tracked-changes":
            deleted = node.iter("{*}deletion")
            self._left_out["deleted passage"] += sum(
                bool("".join(one.itertext())) for one in deleted
            )
            return ""
        if name == "office:annotation":
            self._left_out["comment"] += 1
            return ""
        if name.startswith(_SHAPES):
            return self._shape(node)
        if get(node, "display") == "none" or get(node, "is-hidden") == "true":
            self._left_out["hidden passage"] += 1
            return ""
        return "" if name in _SKIPPED or not name else self.blocks(node)

    def _paragraph(self, node: Any, label: str) -> str:
        if self._is_hidden("paragraph", node):
            return ""
        text = self._inline(node)
        floats, self._floats = "".join(self._floats), []
        tag = "h1" if self._styles.is_title(node) else "p"
        if name_of(node) == "text:h":
            level = max(count_of(node, "outline-level"), 1)
            label = label or self._outline_label(node, level)
            tag = f"h{min(level, 6)}"
        mark = f"{LABEL}{label} " if label and text.strip() else ""
        return f"<{tag}>{mark}{text}</{tag}>{floats}"

    def _outline_label(self, node: Any, level: int) -> str:
        definition = self._styles.outline.get(level)
        if definition is None or get(node, "is-list-header") == "true":
            return ""
        _count(self._outline, level, count_of(definition, "start-value"), node)
        return self._styles.label(definition, self._outline, level, self._styles.outline)

    def _list(self, node: Any, depth: int, style: str, counts: dict[int, int]) -> str:
        style = get(node, "style-name") or style
        if depth == 1:
            before = get(node, "continue-list") or style
            goes_on = get(node, "continue-list") or get(node, "continue-numbering") == "true"
            counts = self._lists.get(before, {}) if goes_on else {}
            self._lists[style] = self._lists[get(node, "id") or style] = counts
        levels = self._styles.levels(style)
        definition = levels.get(depth)
        items: list[str] = []
        for item in node:
            label = ""
            is_bare = bool(len(item)) and all(name_of(child) == "text:list" for child in item)
            if name_of(item) == "text:list-item" and not is_bare:
                start = 1 if definition is None else count_of(definition, "start-value")
                _count(counts, depth, start, item)
                label = self._styles.label(definition, counts, depth, levels)
            inner = ""
            for child in item:
                if name_of(child) == "text:list":
                    inner += self._list(child, depth + 1, style, counts)
                else:
                    inner += self.block(child, label)
                    label = ""
            if is_bare and items and items[-1].endswith("</li>"):
                items[-1] = items[-1].removesuffix("</li>") + f"{inner}</li>"
            elif inner:
                # A level that is skipped, or a heading that is in a list for its number.
                is_block = is_bare or inner.startswith("<h")
                inner = inner if is_block else re.sub("^<p>(.*?)</p>", r"\1", inner)
                items.append(inner if is_block else f"<li>{inner}</li>")
        found = "".join(items)
        return f"<ul>{found}</ul>" if found.startswith("<li>") else found

    def table(self, node: Any) -> str:
        """Returns a table."""
        rows = []
        for row in _rows(node):
            cells = []
            for cell in row:
                if name_of(cell) != "table:table-cell":
                    continue
                spans = "".join(
                    f' {side}span="{count_of(cell, f"number-{name}-spanned")}"'
                    for side, name in (("row", "rows"), ("col", "columns"))
                    if count_of(cell, f"number-{name}-spanned") > 1
                )
                repeats = min(count_of(cell, "number-columns-repeated"), _MAX_REPEATS)
                cells.append(f"<td{spans}>{self.blocks(cell)}</td>" * repeats)
            rows.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table>{''.join(rows)}</table>"

    def _is_hidden(self, family: str, node: Any) -> bool:
        hidden = self._styles.value(family, node, "display") == "none"
        if hidden and "".join(node.itertext()).strip():
            self._left_out["hidden passage"] += 1
        return hidden

    def _inline(self, node: Any) -> str:
        out = [html_text.escape(node.text or "")]
        for child in node:
            out += [self._inline_child(child), html_text.escape(child.tail or "")]
        return "".join(out)

    def _inline_child(self, node: Any) -> str:
        name = name_of(node)
        if name == "text:span":
            if self._is_hidden("text", node):
                return ""
            text, tag = self._inline(node), self._styles.script(node)
            if text.strip() and self._styles.is_struck(node):
                text = f"<s>{text}</s>"
            return f"<{tag}>{text}</{tag}>" if tag and text.strip() else text
        if name in {"text:s", "text:tab"}:
            return " "
        if name == "text:line-break":
            return "<br>"
        if name == "text:note":
            return self._note(node)
        if name == "text:ruby":
            base, above = (
                "".join(map(self._inline, node.findall(f"{{*}}{part}")))
                for part in ("ruby-base", "ruby-text")
            )
            return f"{base}({above})" if above else base
        if name.startswith(_SHAPES):
            shape = self._shape(node)
            if shape.startswith("<math") or not shape.startswith("<"):
                return shape
            self._floats.append(shape)
            return ""
        if name in {"office:annotation", "text:list", "table:table", "text:hidden-text"}:
            return self.block(node)
        return "" if name in _SKIPPED or not name else self._inline(node)

    def _note(self, node: Any) -> str:
        mark = " ".join("".join(one.itertext()) for one in node.findall("{*}note-citation"))
        outer, self._floats = self._floats, []
        body = self.blocks(child for one in node.findall("{*}note-body") for child in one)
        self._floats = outer
        self._notes.append(body.replace("<p>", f"<p>[{html_text.escape(mark)}] ", 1))
        return f"[{html_text.escape(mark)}]"

    def _shape(self, node: Any) -> str:
        """Returns a frame or drawing: an equation or a picture's description stands in the line."""
        children = {name_of(child): child for child in node}
        if "drawing:object" in children:
            return self._object(children["drawing:object"])
        if "drawing:object-ole" in children:
            self._left_out["embedded object"] += 1
            return ""
        if "drawing:plugin" in children:
            self._left_out["recording"] += 1
            return ""
        if "drawing:image" in children and not children.keys() & {
            "drawing:text-box",
            "table:table",
        }:
            given = (node.findtext(f"{{*}}{part}") for part in ("desc", "title"))
            alt = ooxml.image_text(next(filter(None, given), None))
            self._left_out["image"] += not alt
            return html_text.escape(alt)
        return self.blocks(node)

    def _object(self, node: Any) -> str:
        part = posixpath.normpath(f"{get(node, 'href')}/content.xml")
        root = node
        if self._archive is not None and part in self._archive.namelist():
            root = ooxml.parse_xml(self._archive.read(part))
        if (formula := next(root.iter("{*}math"), None)) is not None:
            return _plain_math(formula)
        if (chart := next(root.iter(_CHART), None)) is None:
            self._left_out["embedded object"] += 1
            return ""
        title = self.blocks(child for one in chart.findall("{*}title") for child in one)
        return title + self.blocks(chart.findall("{*}table")[:1])

    def furniture(self, roots: Iterable[Any], kind: str, seen: set[str]) -> str:
        """Returns the headers or footers of all pages, each once."""
        out = []
        for root in roots:
            for node in (
                one for page in root.iter("{*}master-page") for one in page.iter(f"{{*}}{kind}")
            ):
                for child in node:
                    numbers = next(child.iter("{*}page-number"), None) is not None
                    block = self.block(child)
                    text = "".join("".join(etree.HTML(block).itertext()).split()) if block else ""
                    if text and text not in seen and not (numbers and len(text) <= _MAX_PAGE_LINE):
                        seen.add(text)
                        out.append(block)
        return "".join(out)


def _count(counts: dict[int, int], depth: int, start: int, node: Any) -> None:
    """Counts an item; deeper levels begin again."""
    given = get(node, "start-value")
    before = counts.get(depth, start - 1)
    counts[depth] = count_of(node, "start-value") if given else before + 1
    for deeper in [one for one in counts if one > depth]:
        del counts[deeper]


def _rows(node: Any) -> Iterable[Any]:
    for child in node:
        name = name_of(child)
        if name == "table:table-row":
            yield child
        elif name in {"table:table-header-rows", "table:table-rows", "table:table-row-group"}:
            yield from _rows(child)


def _plain_math(root: Any) -> str:
    """Returns a formula in elements without a prefix, as HTML has them."""
    root = copy.deepcopy(root)
    for node in root.iter("*"):
        node.tag = node.tag.rpartition("}")[2]
    etree.cleanup_namespaces(root)
    root.tail = None
    return str(etree.tostring(root, encoding="unicode"))
