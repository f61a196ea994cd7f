"""Parts of Office Open XML files: their XML, their relationships, charts and diagrams.

Files of the Strict class (ECMA-376) use other namespaces than everybody's; they are read as if they
were Transitional.
"""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
from collections.abc import Callable
from typing import Any

from lxml import etree

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"
RELATIONSHIPS = f"{OFFICE}/relationships"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
MATH = f"{OFFICE}/math"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
CHART = "http://schemas.openxmlformats.org/drawingml/2006/chart"
DIAGRAM = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
COMPATIBILITY = "http://schemas.openxmlformats.org/markup-compatibility/2006"
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/")


def parse_xml(data: bytes) -> Any:
    """Parses a part; namespaces of Strict files become those of Transitional ones.

    Raises:
        lxml.etree.XMLSyntaxError: The part is not well-formed.
    """
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True
    )
    return etree.fromstring(_transitional(data), parser)


def _transitional(data: bytes) -> bytes:
    return _STRICT.sub(rb"http://schemas.openxmlformats.org/\1/2006/", data)


def rewrite(archive: zipfile.ZipFile, adapted: Callable[[str, bytes], bytes]) -> io.BytesIO:
    """Returns a copy of a file for libraries that read Transitional ones only.

    Args:
        archive: The file.
        adapted: Takes the name and the content of each part, and returns what it becomes.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as copy:
        for name in dict.fromkeys(archive.namelist()):
            data = archive.read(name)
            if name.endswith((".xml", ".rels")):
                data = adapted(name, _transitional(data))
            copy.writestr(name, data)
    out.seek(0)
    return out


def relationships(archive: zipfile.ZipFile, part: str) -> dict[str, tuple[str, str]]:
    """Returns the last word of the type and the target part of each relationship of a part.

    Targets outside the file (links) are left out. The part '' is the whole file.
    """
    folder, name = posixpath.split(part)
    try:
        data = archive.read(posixpath.join(folder, "_rels", f"{name}.rels"))
    except KeyError:
        return {}
    found = {}
    for one in parse_xml(data):
        if one.get("TargetMode") != "External" and one.get("Target"):
            target = posixpath.normpath(posixpath.join("/", folder, one.get("Target"))).lstrip("/")
            found[one.get("Id", "")] = (one.get("Type", "").rpartition("/")[2], target)
    return found


def main_part(archive: zipfile.ZipFile) -> str | None:
    """Returns the name of the part that holds the document, workbook or presentation."""
    names = set(archive.namelist())
    named = [
        target
        for kind, target in relationships(archive, "").values()
        if kind == "officeDocument" and target in names
    ]
    usual = ("word/document.xml", "ppt/presentation.xml", "xl/workbook.xml", "xl/workbook.bin")
    return next((name for name in (*named, *usual) if name in names), None)


def vocabulary(archive: zipfile.ZipFile, part: str) -> str:
    """Returns which language a main part is in: 'wordprocessingml', say; '' for another."""
    with archive.open(part) as stream:
        found = re.search(rb"(wordprocessing|presentation|spreadsheet)ml", stream.read(4096))
    if found:
        return found[0].decode("ascii")
    folders = {"word": "wordprocessingml", "ppt": "presentationml", "xl": "spreadsheetml"}
    return folders.get(part.partition("/")[0], "")


def choose_alternatives(root: Any) -> None:
    """Keeps one of the renderings of what a program writes for newer and for older readers.

    The first is kept where it holds text that the fallback may not: text boxes, charts, equations.
    """
    for node in list(root.iter(f"{{{COMPATIBILITY}}}AlternateContent")):
        choices = node.findall(f"{{{COMPATIBILITY}}}Choice")
        fallback = node.find(f"{{{COMPATIBILITY}}}Fallback")
        kept = next((one for one in choices if _holds_text(one)), fallback)
        if kept is None and choices:
            kept = choices[0]
        replace(node, list(kept) if kept is not None else [])


def _holds_text(node: Any) -> bool:
    wanted = (
        *(f"{{{WORD}}}txbxContent", f"{{{DRAWING}}}t", f"{{{MATH}}}oMath"),
        *(f"{{{CHART}}}chart", f"{{{DIAGRAM}}}relIds"),
    )
    return next(node.iter(*wanted), None) is not None


def replace(node: Any, others: list[Any]) -> None:
    """Puts elements into the place of one; the text that follows it stays."""
    parent = node.getparent()
    if node.tail:
        before = others[-1] if others else node.getprevious()
        if before is None:
            parent.text = (parent.text or "") + node.tail
        else:
            before.tail = (before.tail or "") + node.tail
        node.tail = None
    place = parent.index(node)
    parent.remove(node)
    for offset, other in enumerate(others):
        parent.insert(place + offset, other)


def chart_rows(chart: Any) -> list[list[str]]:
    """Returns what a chart shows: a row with its title, one with the series, one per category."""
    title = chart.find(f".//{{{CHART}}}chart/{{{CHART}}}title")
    rows = [[text]] if title is not None and (text := drawing_text(title)) else []
    categories: dict[str, str] = {}
    columns = []
    for series in chart.iter(f"{{{CHART}}}ser"):
        name = " ".join(_points(series, "tx").values())
        for role in ("cat", "xVal"):
            categories |= _points(series, role)
        columns.append((name, _points(series, "val") or _points(series, "yVal")))
    if columns:
        rows.append(["", *(name for name, _ in columns)])
    places = sorted({*categories, *(at for _, points in columns for at in points)}, key=_place)
    for at in places:
        values = (points.get(at, "") for _, points in columns)
        rows.append([categories.get(at, ""), *values])
    return rows


def _place(index: str) -> tuple[int, str]:
    return (int(index), "") if re.fullmatch(r"\d{1,9}", index, re.ASCII) else (0, index)


def _points(series: Any, role: str) -> dict[str, str]:
    node = series.find(f"{{{CHART}}}{role}")
    if node is None:
        return {}
    # Categories in several rows: the innermost is the first, an outer one holds until the next.
    levels = node.findall(f".//{{{CHART}}}lvl") or [node]
    found = _values(levels[0])
    for level in levels[1:]:
        outer = _values(level)
        for at in found:
            before = [one for one in outer if _place(one) <= _place(at)]
            if before:
                found[at] = f"{outer[max(before, key=_place)]} {found[at]}"
    return found or ({"": node.findtext(f"{{{CHART}}}v") or ""} if role == "tx" else {})


def _values(level: Any) -> dict[str, str]:
    points = level.iter(f"{{{CHART}}}pt")
    return {one.get("idx", ""): one.findtext(f"{{{CHART}}}v") or "" for one in points}


def diagram_lines(data: Any) -> list[str]:
    """Returns the texts of a diagram (SmartArt) by its data part, in the order of the file."""
    texts = (drawing_text(point) for point in data.iter(f"{{{DIAGRAM}}}pt"))
    return [text for text in texts if text]


def drawing_text(node: Any) -> str:
    """Returns the paragraphs of a drawing, joined by spaces."""
    paragraphs = node.iter(f"{{{DRAWING}}}p")
    texts = ("".join(t.text or "" for t in one.iter(f"{{{DRAWING}}}t")) for one in paragraphs)
    return " ".join(filter(None, texts))


def image_text(alt: str | None) -> str:
    """Returns how a picture's description stands in the text; '' where it says nothing.

    >>> image_text("The mill in 1901"), image_text("IMG_4711.jpg")
    ('[image: The mill in 1901]', '')
    """
    words = " ".join((alt or "").split())
    is_name = re.search(r"\.(jpe?g|png|gif|svg|webp|bmp|tiff?|emf|wmf)$", words, re.IGNORECASE)
    return "" if is_name or len(words) <= 2 else f"[image: {words}]"
