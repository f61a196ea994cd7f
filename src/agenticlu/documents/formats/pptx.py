"""Presentations, by python-pptx: a page for each slide.

Titles, lists, tables, charts, diagrams, equations and notes are read. A slide's boxes are read by
their places: their order in the file is that in which they were drawn.
"""

from __future__ import annotations

import html as html_text
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agenticlu.core.records import Page
from agenticlu.documents.formats import Parsed, html, ooxml, symbols
from agenticlu.documents.formats.equations import render_omml
from agenticlu.documents.formats.numbering import LABEL, format_number, set_labels
from agenticlu.documents.formats.slide_order import reading_order

_A = f"{{{ooxml.DRAWING}}}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_R = f"{{{ooxml.RELATIONSHIPS}}}"
_MAIN_TYPE = re.compile(rb"(slideshow|template)(\.macroEnabled)?\.main\+xml")
"""Shows and templates are presentations that open otherwise."""
_AUTO_NUMBERS = {
    "arabic": "decimal",
    "alphaLc": "lowerLetter",
    "alphaUc": "upperLetter",
    "romanLc": "lowerRoman",
    "romanUc": "upperRoman",
}
_FURNITURE = {"dt", "ftr", "hdr"}
"""Placeholders that stand on every slide."""
_MAX_DEPTH = 50


def parse(archive: zipfile.ZipFile) -> Parsed:
    """Reads a presentation, with the slides as pages; hidden ones are counted."""
    import pptx

    def adapted(name: str, data: bytes) -> bytes:
        if name == "[Content_Types].xml":
            return _MAIN_TYPE.sub(rb"presentation\2.main+xml", data)
        return data

    presentation = pptx.Presentation(ooxml.rewrite(archive, adapted))
    reader = _Reader()
    parts: list[str] = []
    pages: list[Page] = []
    length = 0
    for number, slide in enumerate(presentation.slides, 1):
        text = "" if slide.element.get("show") in {"0", "false"} else reader.read(slide)
        if slide.element.get("show") in {"0", "false"}:
            reader.left_out["hidden slide"] += 1
        body = f"{text.strip()}\n\n" if text.strip() else ""
        pages.append(
            Page(number=number, start=length, end=length + len(body), name=f"slide {number}")
        )
        parts.append(body)
        length += len(body)
    names = archive.namelist()
    reader.left_out["macro"] += sum(name.endswith("vbaProject.bin") for name in names)
    for name in names:
        if re.match(r"ppt/comments/[^/]*\.xml$", name):
            reader.left_out["comment"] += len(ooxml.parse_xml(archive.read(name)))
    title = reader.title or str(presentation.core_properties.title or "").strip() or None
    return Parsed("".join(parts), title, tuple(pages), +reader.left_out)


class _Reader:
    """Reads slides one after the other."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.title: str | None = None
        self._furniture: set[str] = set()

    def read(self, slide: Any) -> str:
        """Returns the text of a slide and of its notes."""
        ooxml.choose_alternatives(slide.element)
        title = slide.shapes.title
        blocks = []
        if title is not None and (heading := _lines(title.text_frame)):
            blocks.append(f"<h2>{'<br>'.join(heading)}</h2>")
            if self.title is None:
                self.title = " ".join(title.text_frame.text.split())
        for shape in _in_order(slide.shapes):
            if title is None or shape.element is not title.element:
                blocks += self._read_shape(shape, slide.part)
        if slide.has_notes_slide:
            frame = slide.notes_slide.notes_text_frame
            if frame is not None and (lines := _lines(frame)):
                blocks.append(f"<p>Notes: {'</p><p>'.join(lines)}</p>")
        return set_labels(html.convert("".join(blocks)).text)

    def _read_shape(self, shape: Any, part: Any, depth: int = 0) -> Iterator[str]:
        """Yields the HTML of a shape and of those that it holds."""
        if next(shape.element.iter(f"{_P}cNvPr")).get("hidden") in {"1", "true"}:
            self.left_out["hidden shape"] += 1
        elif hasattr(shape, "shapes"):
            for inner in _in_order(shape.shapes) if depth < _MAX_DEPTH else ():
                yield from self._read_shape(inner, part, depth + 1)
        elif getattr(shape, "has_table", False):
            yield _table(shape.table)
        elif getattr(shape, "has_chart", False):
            yield _rows(ooxml.chart_rows(shape.chart.part._element))
        elif shape.element.tag == f"{_P}graphicFrame":
            yield from self._read_frame(shape, part)
        elif shape.element.tag == f"{_P}pic":
            yield self._read_picture(shape)
        elif shape.has_text_frame and not self._is_furniture(shape):
            yield _paragraphs(shape)

    def _read_frame(self, shape: Any, part: Any) -> Iterator[str]:
        diagram = next(shape.element.iter(f"{{{ooxml.DIAGRAM}}}relIds"), None)
        if diagram is None:
            kind = "embedded object" if list(shape.element.iter(f"{_P}oleObj")) else "drawing"
            self.left_out[kind] += 1
            return
        data = part.related_part(diagram.get(f"{_R}dm")).blob
        for line in ooxml.diagram_lines(ooxml.parse_xml(data)):
            yield f"<p>{html_text.escape(line)}</p>"

    def _read_picture(self, shape: Any) -> str:
        films = shape.element.iter(f"{_A}videoFile", f"{_A}audioFile")
        alt = ooxml.image_text(next(shape.element.iter(f"{_P}cNvPr")).get("descr"))
        if next(films, None) is not None:
            self.left_out["recording"] += 1
        elif not alt:
            self.left_out["image"] += 1
        return f"<p>{html_text.escape(alt)}</p>"

    def _is_furniture(self, shape: Any) -> bool:
        """Whether a shape holds the slide's number, or what an earlier slide had below it, too."""
        found = next(shape.element.iter(f"{_P}ph"), None)
        kind = None if found is None else found.get("type")
        text = shape.text_frame.text
        if kind in _FURNITURE and text not in self._furniture:
            self._furniture.add(text)
            return False
        return kind == "sldNum" or kind in _FURNITURE


def _in_order(shapes: Any) -> list[Any]:
    """Returns shapes as they are read; pictures come last, and drawings without text not at all."""
    shown = [one for one in shapes if not one.has_text_frame or _lines(one.text_frame)]
    pictures = [one for one in shown if one.element.tag == f"{_P}pic"]
    found = [one for one in shown if one not in pictures]
    boxes = [(one.left or 0, one.top or 0, one.width or 0, one.height or 0) for one in found]
    return [found[index] for index in reading_order(boxes)] + pictures


def _lines(frame: Any) -> list[str]:
    """Returns the paragraphs of a text frame that are not empty, as HTML."""
    return [line for one in frame.paragraphs if (line := _inline(one._p)).strip()]


def _paragraphs(shape: Any) -> str:
    """Returns the paragraphs of a box as HTML: as lists, where they have bullets or numbers."""
    found = next(shape.element.iter(f"{_P}ph"), None)
    is_list = found is not None and found.get("type", "obj") in {"obj", "body"}
    out: list[str] = []
    depth = 0
    counts: dict[int, int] = {}
    for one in shape.text_frame.paragraphs:
        text, label = _inline(one._p), _label(one, counts)
        if not text.strip():
            continue
        if label is None and not (is_list and one._p.find(f"{_A}pPr/{_A}buNone") is None):
            out.append("</li></ul>" * depth + f"<p>{text}</p>")
            depth = 0
            continue
        wanted = min(one.level, depth) + 1
        out.append("</li></ul>" * (depth - wanted) + ("</li>" if wanted <= depth else "<ul>"))
        out.append(f"<li>{f'{LABEL}{label} ' if label else ''}{text}")
        depth = wanted
    return "".join(out) + "</li></ul>" * depth


def _label(one: Any, counts: dict[int, int]) -> str | None:
    """Returns a paragraph's number; '' for a bullet of its own, None where it has neither."""
    level = one.level
    for deeper in [deeper for deeper in counts if deeper > level]:
        del counts[deeper]
    number = one._p.find(f"{_A}pPr/{_A}buAutoNum")
    if number is None:
        counts.pop(level, None)
        bullet = one._p.find(f"{_A}pPr/{_A}buChar")
        return None if bullet is None else ""
    start = number.get("startAt", "1")
    first = int(start) if re.fullmatch(r"\d{1,5}", start, re.ASCII) else 1
    counts[level] = counts.get(level, first - 1) + 1
    parts = re.fullmatch(r"([a-z]++(?:[LU]c)?+)(\w*+)", number.get("type", "arabicPeriod"))
    kind, around = (parts[1], parts[2]) if parts else ("arabic", "Period")
    text = format_number(counts[level], _AUTO_NUMBERS.get(kind, "decimal"))
    opening = "(" if around == "ParenBoth" else ""
    closing = {"ParenBoth": ")", "ParenR": ")", "Plain": ""}.get(around, ".")
    return f"{opening}{text}{closing}"


def _inline(paragraph: Any) -> str:
    """Returns the runs, line breaks and equations of a paragraph as HTML."""
    out = []
    for node in paragraph:
        if node.tag == f"{_A}br":
            out.append("<br>")
        elif node.tag in {f"{_A}r", f"{_A}fld"} and node.get("type") != "slidenum":
            properties = node.find(f"{_A}rPr")
            text = html_text.escape(_as_shown(properties, node.findtext(f"{_A}t") or ""))
            shift = "0" if properties is None else properties.get("baseline", "0")
            strike = "noStrike" if properties is None else properties.get("strike", "noStrike")
            if strike != "noStrike" and text.strip():
                text = f"<s>{text}</s>"
            tag = "" if shift.strip("0%") == "" else "sub" if shift.startswith("-") else "sup"
            out.append(f"<{tag}>{text}</{tag}>" if tag and text.strip() else text)
        else:
            equations = map(render_omml, node.iter(f"{{{ooxml.MATH}}}oMath"))
            out.append(html_text.escape("; ".join(equations)))
    return "".join(out)


def _as_shown(properties: Any | None, text: str) -> str:
    """Reads a run in the font that it is shown in."""
    fonts = () if properties is None else properties.iterfind(f"{_A}latin")
    if properties is not None and re.search("[\uf020-\uf0ff]", text):
        fonts = properties.iterfind(f"{_A}sym")
    return symbols.as_shown(next((one.get("typeface") for one in fonts), None), text)


def _table(table: Any) -> str:
    rows = []
    for row in table.rows:
        cells = []
        for cell in row.cells:
            if not cell.is_spanned:
                span = f' rowspan="{cell.span_height}" colspan="{cell.span_width}"'
                lines = "<br>".join(_lines(cell.text_frame))
                cells.append(f"<td{span if cell.is_merge_origin else ''}>{lines}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _rows(rows: list[list[str]]) -> str:
    cells = ((f"<td>{html_text.escape(text)}</td>" for text in row) for row in rows)
    return f"<table>{''.join(f'<tr>{chr(32).join(row)}</tr>' for row in cells)}</table>"
