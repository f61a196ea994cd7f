"""The body, the notes, the headers and the footers of a Word document, brought into simple form.

Every part is cleaned by the same rules, so that a converter that knows paragraphs, runs, tables,
links and pictures reads all of its text, each passage once.
"""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Callable
from typing import Any

from lxml import etree

from agenticlu.documents.formats import ooxml, symbols
from agenticlu.documents.formats.equations import render_omml
from agenticlu.documents.formats.numbering import Styles, is_on, value_of

_W = f"{{{ooxml.WORD}}}"
_M = f"{{{ooxml.MATH}}}"
_R = f"{{{ooxml.RELATIONSHIPS}}}"
_A = f"{{{ooxml.DRAWING}}}"
_VML = "{urn:schemas-microsoft-com:vml}"
_OLE = "{urn:schemas-microsoft-com:office:office}OLEObject"
_KEPT = frozenset(
    f"{_W}{name}"
    for name in (
        *("document", "body", "hdr", "ftr", "footnotes", "footnote", "endnotes", "endnote"),
        *("p", "r", "t", "tbl", "tr", "tc", "drawing", "pict", "object"),
    )
)
"""Elements around text that the converter knows; of others only the content is kept."""
_KEPT_PROPERTIES = frozenset(
    f"{_W}{name}"
    for name in (
        *("pStyle", "numPr", "outlineLvl", "sectPr", "rPr", "del", "vertAlign"),
        *("strike", "tblHeader", "gridSpan", "vMerge"),
    )
)
"""Properties that bear on the text or its order."""
_DRAWN = re.compile(r"\s*EQ\b")
"""A field that draws an equation, from before there were better ones."""
_MAX_RAISED = 5
"""Characters. Longer stretches that stand higher are a matter of layout."""
_LEAST_RAISE = 4
"""Half-points."""
_MAX_COLUMNS = 63
"""Of a table, in Word."""
_NOTE_MARKS = tuple(
    f"{_W}{name}" for name in ("footnoteReference", "endnoteReference", "footnoteRef", "endnoteRef")
)


class Part:
    """A part of a document, with its relationships."""

    def __init__(
        self, archive: zipfile.ZipFile, name: str, styles: Styles, left_out: Counter[str]
    ) -> None:
        self._archive = archive
        self._styles = styles
        self._left_out = left_out
        self.root = ooxml.parse_xml(archive.read(name))
        self.links = ooxml.relationships(archive, name)

    def clean(self) -> None:
        """Brings all of the text into paragraphs, runs and tables; counts what is left out."""
        ooxml.choose_alternatives(self.root)
        steps: tuple[Callable[[], None], ...] = (
            *(self._drop_deleted, self._write_equations, self._write_fields, self._write_ruby),
            *(self._drop_hidden, self._unwrap, self._read_drawings, self._lift_boxes),
            *(self._join_initials, self._raise_styled, self._strike_styled, self._write_symbols),
            *(self._write_characters, self._indent_rows, self._simplify),
        )
        for step in steps:
            step()

    def _all(self, *names: str) -> list[Any]:
        return list(self.root.iter(*(f"{_W}{name}" for name in names)))

    def _drop_deleted(self) -> None:
        for node in self._all("del", "moveFrom"):
            if node.getparent() is None or node.getparent().tag in {f"{_W}rPr", f"{_W}trPr"}:
                continue  # the deletion of a paragraph's end or of a row
            if (
                node.tag == f"{_W}del"
                and next(node.iter(f"{_W}delText", f"{_M}t"), None) is not None
            ):
                self._left_out["deleted passage"] += 1
            ooxml.replace(node, [])
        for row in self._all("tr"):
            if row.find(f"{_W}trPr/{_W}del") is not None:
                self._left_out["deleted table row"] += 1
                ooxml.replace(row, [])

    def _write_equations(self) -> None:
        for name in ("oMathPara", "oMath"):
            for node in list(self.root.iter(f"{_M}{name}")):
                text = render_omml(node)
                whole = name == "oMathPara" and node.getparent().tag != f"{_W}p"
                if not whole:
                    text = _apart(node, text)
                ooxml.replace(node, [paragraph(text) if whole else run(text)])

    def _write_fields(self) -> None:
        """Writes the state of old form fields; drops ends of fields that have no beginning."""
        for code in self._all("instrText"):
            self._left_out["equation object"] += bool(_DRAWN.match(code.text or ""))
        shown: list[bool] = []  # of each open field: whether its result has begun
        for node in self._all("fldChar", "t"):
            if node.tag == f"{_W}t":
                if not all(shown[:-1]):  # in what another field computes with
                    ooxml.replace(node, [])
                continue
            kind = node.get(f"{_W}fldCharType")
            if kind == "begin":
                shown.append(False)
            elif not shown:
                ooxml.replace(node, [])
                continue
            elif kind == "separate":
                shown[-1] = True
            else:
                shown.pop()
            text = _form_field(node.find(f"{_W}ffData"))
            if text:
                node.getparent().addprevious(run(text))
                ooxml.replace(node.find(f"{_W}ffData"), [])

    def _write_ruby(self) -> None:
        for node in self._all("ruby"):
            base, above = (
                "".join(child.itertext(f"{_W}t"))
                for name in ("rubyBase", "rt")
                for child in node.findall(f"{_W}{name}")[:1] or [etree.Element("none")]
            )
            ooxml.replace(node, [_text(f"{base}({above})" if above else base)])

    def _drop_hidden(self) -> None:
        """Drops hidden text; the runs stay, as fields may begin or end in them."""
        for one in self._all("r"):
            texts = [text for text in one.findall(f"{_W}t") if text.text]
            if texts and self._is_hidden(one):
                self._left_out["hidden passage"] += 1
                for text in texts:
                    ooxml.replace(text, [])

    def _is_hidden(self, one: Any) -> bool:
        properties = one.find(f"{_W}rPr")
        if value_of(properties, "vanish") is not None:
            return is_on(properties, "vanish")
        own = self._styles.value(value_of(properties, "rStyle"), "rPr", "vanish")
        if own is None:
            block = next(one.iterancestors(f"{_W}p"), None)
            style = None if block is None else value_of(block, "pPr", "pStyle")
            own = self._styles.value(style, "rPr", "vanish")
        return own is not None and own not in {"0", "false", "off"}

    def _unwrap(self) -> None:
        for node in self._all("sdtPr", "sdtEndPr", "softHyphen"):
            ooxml.replace(node, [])
        for node in list(self.root.iter(f"{_W}*")):
            if node.tag in _KEPT or node.tag == f"{_W}txbxContent" or node.getparent() is None:
                continue
            if next(node.iter(f"{_W}t", f"{_W}altChunk"), None) not in {None, node}:
                ooxml.replace(node, list(node))

    def _read_drawings(self) -> None:
        """Writes the text of charts and diagrams; counts pictures and embedded objects."""
        for node in reversed(self._all("object")):
            kind = next((one.get("ProgID", "") for one in node.iter(_OLE)), "")
            name = "equation object" if kind.startswith("Equation") else "embedded object"
            self._left_out[name] += 1
            ooxml.replace(node, [])
        for node in reversed(self._all("drawing", "pict")):
            self._read_pictures(node)
            for art in node.iter(f"{_VML}textpath"):
                node.getparent().addprevious(run(art.get("string", "")))
            for chart in node.iter(f"{{{ooxml.CHART}}}chart"):
                rows = self._linked(chart.get(f"{_R}id"), "chart", ooxml.chart_rows)
                self._add_after(node, [table(rows)] if rows else [])
            for diagram in node.iter(f"{{{ooxml.DIAGRAM}}}relIds"):
                lines = self._linked(diagram.get(f"{_R}dm"), "diagram", ooxml.diagram_lines)
                self._add_after(node, [paragraph(line) for line in lines])

    def _read_pictures(self, node: Any) -> None:
        """Writes the description of a picture in its place."""
        pictures = list(node.iter(f"{_A}blip", f"{_VML}imagedata"))
        given = [one.get("descr") for one in node.iter("{*}docPr")]
        alt = ooxml.image_text(next(filter(None, given), None)) if pictures else ""
        if alt:
            node.getparent().addprevious(run(alt))
        else:
            self._left_out["image"] += len(pictures)
        for picture in pictures:
            ooxml.replace(picture, [])

    def _linked(self, link: str | None, kind: str, read: Callable[[Any], list[Any]]) -> list[Any]:
        _, target = self.links.get(link or "", ("", ""))
        found = []
        if target in self._archive.namelist():
            found = read(ooxml.parse_xml(self._archive.read(target)))
        if not found:
            self._left_out[kind] += 1
        return found

    def _lift_boxes(self) -> None:
        """Puts the paragraphs of a text box behind the one that it is anchored in."""
        for box in reversed(self._all("txbxContent")):
            self._add_after(box, list(box))
            ooxml.replace(box, [])

    def _add_after(self, node: Any, blocks: list[Any]) -> None:
        host = next(node.iterancestors(f"{_W}p"), None)
        for block in reversed(blocks):
            if host is not None:
                host.addnext(block)

    def _join_initials(self) -> None:
        """Puts a large first letter, which is a paragraph of its own, before its word."""
        for frame in self._all("framePr"):
            block = next(frame.iterancestors(f"{_W}p"), None)
            if frame.get(f"{_W}dropCap") not in {"drop", "margin"} or block is None:
                continue
            after = block.getnext()
            if after is not None and after.tag == block.tag:
                at = 0 if after.find(f"{_W}pPr") is None else 1
                after[at:at] = [one for one in block if one.tag != f"{_W}pPr"]
                ooxml.replace(block, [])

    def _raise_styled(self) -> None:
        """Writes into a run whether its style or position raises or lowers it, as in 10⁶."""
        for one in self._all("r"):
            properties = one.find(f"{_W}rPr")
            if properties is None or value_of(properties, "vertAlign") is not None:
                continue
            style = value_of(properties, "rStyle")
            found = _raised(one, value_of(properties, "position"))
            found = found or (style and self._styles.value(style, "rPr", "vertAlign"))
            if found and next(one.iter(*_NOTE_MARKS), None) is None:
                etree.SubElement(properties, f"{_W}vertAlign").set(f"{_W}val", found)

    def _strike_styled(self) -> None:
        """Marks struck text in one way, however it was struck."""
        for properties in self._all("rPr"):
            given = [properties.find(f"{_W}{name}") for name in ("strike", "dstrike")]
            is_struck = is_on(properties, "strike") or is_on(properties, "dstrike")
            if given == [None, None] and (style := value_of(properties, "rStyle")) is not None:
                values = (self._styles.value(style, "rPr", n) for n in ("strike", "dstrike"))
                is_struck = any(v is not None and v not in {"0", "false", "off"} for v in values)
            for old in given:
                if old is not None:
                    properties.remove(old)
            if is_struck:
                etree.SubElement(properties, f"{_W}strike")

    def _write_symbols(self) -> None:
        """Names the font of signs that are written as characters of a font of symbols."""
        for fonts in self._all("rFonts"):
            name = fonts.get(f"{_W}ascii") or fonts.get(f"{_W}hAnsi") or ""
            one = next(fonts.iterancestors(f"{_W}r"), None)
            if one is None or not symbols.FONT.fullmatch(name):
                continue
            for text in one.findall(f"{_W}t"):
                ooxml.replace(text, [_symbol(name, char) for char in text.text or ""])

    def _write_characters(self) -> None:
        for node in self._all("ptab"):
            ooxml.replace(node, [etree.Element(f"{_W}tab")])
        for node in self._all("cr"):
            ooxml.replace(node, [etree.Element(f"{_W}br")])
        for node in self._all("br"):
            node.attrib.clear()  # the end of a page parts words, too

    def _indent_rows(self) -> None:
        """Writes an empty cell for the columns that a row passes over at its beginning."""
        for before in self._all("gridBefore"):
            row = next(before.iterancestors(f"{_W}tr"), None)
            number = before.get(f"{_W}val", "")
            first = None if row is None else row.find(f"{_W}tc")
            if first is not None and number.isdecimal() and 0 < int(number) <= _MAX_COLUMNS:
                cell = etree.Element(f"{_W}tc")
                properties = etree.SubElement(cell, f"{_W}tcPr")
                etree.SubElement(properties, f"{_W}gridSpan").set(f"{_W}val", number)
                cell.append(etree.Element(f"{_W}p"))
                first.addprevious(cell)

    def _simplify(self) -> None:
        """Joins what stands in one line in one script: the converter takes its time for each."""
        for properties in self._all("pPr", "rPr", "tblPr", "trPr", "tcPr"):
            for one in list(properties):
                if one.tag not in _KEPT_PROPERTIES:
                    properties.remove(one)
            if not len(properties):
                properties.getparent().remove(properties)
        passed = ("bookmarkStart", "bookmarkEnd", "proofErr", "lastRenderedPageBreak", "tblGrid")
        for node in self._all(*passed):
            ooxml.replace(node, [])
        for one in self._all("r"):
            before = one.getprevious()
            if before is not None and before.tag == one.tag and _script(before) == _script(one):
                for child in one:
                    if child.tag != f"{_W}rPr":
                        _append(before, child)
                one.getparent().remove(one)


def _script(one: Any) -> tuple[str, bool]:
    is_struck = value_of(one, "rPr", "strike") is not None
    return value_of(one, "rPr", "vertAlign") or "baseline", is_struck


def _apart(node: Any, text: str) -> str:
    """Keeps an equation from joining the word before or after it: '2' and '1/2' are not '21/2'."""
    before, after = node.getprevious(), node.getnext()
    last = "" if before is None else "".join(before.itertext(f"{_W}t"))[-1:]
    first = "" if after is None else "".join(after.itertext(f"{_W}t"))[:1]
    left = last.isalnum() and text[:1].isalnum()
    return " " * left + text + " " * (first.isalnum() and text[-1:].isalnum())


def _raised(one: Any, position: str | None) -> str | None:
    """Returns the script that a run's position (in half-points) comes to, None if it is none."""
    if position is None or not re.fullmatch(r"[-+]?\d{1,4}", position):
        return None
    text = "".join(one.itertext(f"{_W}t")).strip()
    if abs(int(position)) < _LEAST_RAISE or not 0 < len(text) <= _MAX_RAISED:
        return None
    return "superscript" if int(position) > 0 else "subscript"


def _symbol(font: str, char: str) -> Any:
    if not (" " < char <= "\xff" or "\uf020" < char <= "\uf0ff"):
        return _text(char)
    node = etree.Element(f"{_W}sym")
    node.set(f"{_W}font", font)
    node.set(f"{_W}char", f"F0{ord(char) & 0xFF:02X}")
    return node


def _append(one: Any, child: Any) -> None:
    if child.tag == f"{_W}t" and len(one) and one[-1].tag == child.tag:
        one[-1].text = (one[-1].text or "") + (child.text or "")
        one[-1].set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    else:
        one.append(child)


def _form_field(data: Any | None) -> str:
    """Returns what an old form field shows beside its text: a tick, or the chosen line."""
    if data is None:
        return ""
    box = data.find(f"{_W}checkBox")
    if box is not None:
        checked = box.find(f"{_W}checked")
        return "☒" if is_on(box, "default" if checked is None else "checked") else "☐"
    entries = [one.get(f"{_W}val", "") for one in data.iter(f"{_W}listEntry")]
    chosen = value_of(data, "ddList", "result") or value_of(data, "ddList", "default") or "0"
    return entries[int(chosen)] if chosen.isdecimal() and int(chosen) < len(entries) else ""


def _text(text: str) -> Any:
    node = etree.Element(f"{_W}t")
    node.set("{http://www.w3.org/XML/1998/namespace}space", "preserve")
    node.text = text
    return node


def run(text: str) -> Any:
    """Builds a run."""
    node = etree.Element(f"{_W}r")
    node.append(_text(text))
    return node


def paragraph(text: str) -> Any:
    """Builds a paragraph."""
    node = etree.Element(f"{_W}p")
    node.append(run(text))
    return node


def table(rows: list[list[str]]) -> Any:
    """Builds a table."""
    node = etree.Element(f"{_W}tbl")
    for row in rows:
        line = etree.SubElement(node, f"{_W}tr")
        for text in row:
            etree.SubElement(line, f"{_W}tc").append(paragraph(text))
    return node


def set_list(properties: Any, num: str, level: int) -> None:
    """Puts a paragraph into a list."""
    for old in properties.findall(f"{_W}numPr"):
        properties.remove(old)
    node = etree.SubElement(properties, f"{_W}numPr")
    etree.SubElement(node, f"{_W}ilvl").set(f"{_W}val", str(level))
    etree.SubElement(node, f"{_W}numId").set(f"{_W}val", num)


def set_style(properties: Any, name: str) -> None:
    """Sets the style of a paragraph."""
    node = properties.find(f"{_W}pStyle")
    if node is None:
        node = etree.SubElement(properties, f"{_W}pStyle")
    node.set(f"{_W}val", name)
