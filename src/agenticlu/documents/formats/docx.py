"""Word documents, by mammoth.

mammoth writes HTML. What it does not know is brought into elements that it does: equations, numbers
of lists, charts, boxes, fields, headers and footers. ECMA-376, part 1, 17.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import mammoth
from lxml import etree

from agenticlu.documents.formats import Parsed, html, ooxml, word_parts
from agenticlu.documents.formats.numbering import (
    LABEL,
    Numbering,
    Styles,
    is_on,
    set_labels,
    value_of,
)

_W = f"{{{ooxml.WORD}}}"
_R = f"{{{ooxml.RELATIONSHIPS}}}"
_CHUNK = "\ufdd1"
"""Stands around the number of an embedded text until then."""
_MAX_LIST_LEVEL = 9
_STYLE_MAP = "\n".join(
    (
        *(f"p[style-name='{name}'] => h1:fresh" for name in ("Title", "title")),
        *(
            f"p:unordered-list({level}) => {'ul|ol > li > ' * (level - 1)}ul > li:fresh"
            for level in range(6, _MAX_LIST_LEVEL + 1)  # mammoth's own rules end at five
        ),
    )
)
_PAGE_FIELD = re.compile(r"^\s*(PAGE|NUMPAGES|SECTIONPAGES)\b")
_MAX_PAGE_LINE = 15
"""A line of a header of no more characters than this, beside its page number, is only that."""


def parse(archive: zipfile.ZipFile, main: str) -> Parsed:
    """Reads a document whose body is the part `main`: text, tables, notes, boxes and equations.

    Headers come first and footers last, each once. Deleted and hidden text is none.
    """
    document = _Document(archive, main)
    rewritten = document.rewrite()
    with _no_collection():
        converted = mammoth.convert_to_html(rewritten, style_map=_STYLE_MAP)
    # Boxes to tick stand in the text already.
    markup = re.sub(r"<input [^<>]*>", "", converted.value)
    lost = [one for one in converted.messages if "w:sym" in one.message]
    document.left_out += Counter({"symbol": len(lost)} if lost else {})
    text = set_labels(html.convert(markup, is_page=False).text)
    for number, chunk in enumerate(document.chunks):
        text = text.replace(f"{_CHUNK}{number}{_CHUNK}", chunk)
    heading = re.search(r"^#+ (.*)$", text, re.MULTILINE)
    return Parsed(text, heading[1] if heading else document.title(), (), document.left_out)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from looking for garbage among objects that are all needed to the end.

    mammoth makes very many of them for a long document; the search takes half of its time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Document:
    """A document on its way to one that mammoth reads whole."""

    def __init__(self, archive: zipfile.ZipFile, main: str) -> None:
        self._archive = archive
        self._main = main
        self._links = ooxml.relationships(archive, main)
        self.left_out: Counter[str] = Counter()
        self.chunks: list[str] = []
        self._styles = Styles(self._find("styles"))
        self._numbering_root = self._find("numbering")
        self._numbering = Numbering(self._numbering_root, self._styles)

    def _names(self, kind: str) -> Iterator[str]:
        """Yields the parts of a kind, or the one that is usually named so."""
        names = self._archive.namelist()
        linked = [target for k, target in self._links.values() if k == kind and target in names]
        usual = f"word/{kind}.xml"
        yield from dict.fromkeys(linked or ([usual] if usual in names else []))

    def _find(self, kind: str) -> Any | None:
        name = next(self._names(kind), None)
        return None if name is None else ooxml.parse_xml(self._archive.read(name))

    def title(self) -> str | None:
        """Returns the title among the document's properties."""
        for kind, target in ooxml.relationships(self._archive, "").values():
            if kind == "core-properties" and target in self._archive.namelist():
                found = ooxml.parse_xml(self._archive.read(target)).findtext("{*}title")
                return (found or "").strip() or None
        return None

    def rewrite(self) -> io.BytesIO:
        """Returns the document as one that mammoth reads whole; counts what is left out."""
        parts: dict[str, bytes] = {}
        body = self._clean(self._main)
        self._add_headers(body)
        self._label(body)
        parts[self._main] = etree.tostring(body)
        for kind in ("footnotes", "endnotes"):
            for name in self._names(kind):
                notes = self._clean(name)
                self._label(notes)
                parts[name] = etree.tostring(notes)
        comments = self._find("comments")
        self.left_out["comment"] = 0 if comments is None else len(comments)
        names = self._archive.namelist()
        self.left_out["macro"] = sum(name.endswith("vbaProject.bin") for name in names)
        if self._numbering_root is not None:
            for number in self._numbering_root.iter(f"{_W}numFmt"):
                number.set(f"{_W}val", "bullet")
            for name in self._names("numbering"):
                parts[name] = etree.tostring(self._numbering_root)
        self.left_out = +self.left_out
        return self._pack(parts)

    def _pack(self, parts: dict[str, bytes]) -> io.BytesIO:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as packed:
            for name in dict.fromkeys(self._archive.namelist()):
                if name in parts:
                    packed.writestr(name, parts[name])
                elif name.endswith((".xml", ".rels")):
                    packed.writestr(name, self._archive.read(name))
        out.seek(0)
        return out

    def _clean(self, name: str) -> Any:
        part = word_parts.Part(self._archive, name, self._styles, self.left_out)
        part.clean()
        for chunk in part.root.iter(f"{_W}altChunk"):
            ooxml.replace(chunk, [word_parts.paragraph(self._read_chunk(part, chunk))])
        return part.root

    def _read_chunk(self, part: word_parts.Part, chunk: Any) -> str:
        """Reads a file that is embedded as a part of the text, such as HTML from a mail."""
        from agenticlu.documents import formats

        _, target = part.links.get(chunk.get(f"{_R}id", ""), ("", ""))
        data = self._archive.read(target) if target in self._archive.namelist() else b"PK"
        if data.startswith(b"PK"):
            self.left_out["embedded document"] += 1
            return ""
        parsed = formats.parse(data, target)
        self.left_out += parsed.left_out
        self.chunks.append(parsed.text.strip())
        return f"{_CHUNK}{len(self.chunks) - 1}{_CHUNK}"

    def _add_headers(self, root: Any) -> None:
        """Writes what stands on every page once: headers above the body, footers below it."""
        body = root.find(f"{_W}body")
        if body is None:
            return
        seen: set[str] = set()
        for kind in ("header", "footer"):
            blocks: list[Any] = []
            for section in root.iter(f"{_W}sectPr"):
                for reference in section.findall(f"{_W}{kind}Reference"):
                    unused = reference.get(f"{_W}type") == "first" and not is_on(section, "titlePg")
                    _, target = self._links.get(reference.get(f"{_R}id", ""), ("", ""))
                    if not unused and target in self._archive.namelist():
                        blocks += self._furniture(target, seen)
            if kind == "header":
                body[:0] = blocks
            else:
                body.extend(blocks)

    def _furniture(self, name: str, seen: set[str]) -> list[Any]:
        if name in seen:
            return []
        seen.add(name)
        blocks = []
        for block in self._clean(name):
            _drop_page_numbers(block)
            text = "".join(block.itertext(f"{_W}t")).strip()
            if not text or text in seen:
                continue
            seen.add(text)
            block = copy.deepcopy(block)
            for node in block.iter():
                # Links and pictures belong to the header's own list of relationships.
                for key in [key for key in node.attrib if key.startswith(_R)]:
                    del node.attrib[key]
            blocks.append(block)
        return blocks

    def _label(self, root: Any) -> None:
        """Writes the number of a list or heading before its text."""
        levels: list[int] = []
        list_parent = None
        for paragraph in root.iter(f"{_W}p"):
            found = self._numbering.next_label(paragraph)
            properties = paragraph.find(f"{_W}pPr")
            if found is None or paragraph.getparent() is not list_parent:
                levels = []
            if found is not None and next(paragraph.iter(f"{_W}t"), None) is not None:
                num, level, label = found
                list_parent = paragraph.getparent()
                # Levels that are skipped would become empty items.
                levels = [*(one for one in levels if one < level), level]
                if properties is None:
                    properties = etree.Element(f"{_W}pPr")
                    paragraph.insert(0, properties)
                word_parts.set_list(properties, num, len(levels) - 1)
                if label is not None:
                    run = word_parts.run(f"{LABEL}{label} " if label else LABEL)
                    paragraph.insert(1 + paragraph.index(properties), run)
            self._mark_heading(properties)

    def _mark_heading(self, properties: Any | None) -> None:
        """Gives a paragraph that is in the outline, in whatever style, that of a heading."""
        style = value_of(properties, "pStyle")
        level = value_of(properties, "outlineLvl") or self._styles.value(style, "pPr", "outlineLvl")
        if properties is None or level is None or not re.fullmatch("[0-8]", level):
            return
        names = [(value_of(one, "name") or "").lower() for one in self._styles.chain(style)[:1]]
        if "title" not in names:
            word_parts.set_style(properties, f"Heading{min(int(level) + 1, 6)}")


def _drop_page_numbers(block: Any) -> None:
    """Empties a line of a header that only counts the pages."""
    codes = [node.text or "" for node in block.iter(f"{_W}instrText")]
    if not any(map(_PAGE_FIELD.match, codes)):
        return
    if len("".join(block.itertext(f"{_W}t")).strip()) <= _MAX_PAGE_LINE:
        for text in block.iter(f"{_W}t"):
            text.text = ""
