"""OpenDocument files: texts (odt), workbooks (ods) and presentations (odp), also as flat XML."""

from __future__ import annotations

import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Page
from agenticlu.documents.formats import Parsed, html, ooxml
from agenticlu.documents.formats import name_of as source_name
from agenticlu.documents.formats.numbering import set_labels
from agenticlu.documents.formats.odf_styles import OdfStyles, count_of, get, name_of
from agenticlu.documents.formats.odf_text import OdfWriter
from agenticlu.documents.formats.sheets import Sheet, build
from agenticlu.documents.formats.slide_order import reading_order

_MAX_REPEATED_ROWS = 1000
"""A row that a sheet repeats is read so many times at most."""
_UNITS = {"cm": 1.0, "mm": 0.1, "in": 2.54, "pt": 2.54 / 72, "pc": 2.54 / 6, "px": 2.54 / 96}


def matches(archive: zipfile.ZipFile) -> bool:
    """Whether an archive holds an OpenDocument file."""
    names = archive.namelist()
    return "content.xml" in names and (
        "mimetype" not in names or b"opendocument" in archive.read("mimetype")
    )


def parse_package(archive: zipfile.ZipFile, source: str) -> Parsed:
    """Reads the usual form: an archive.

    Raises:
        DocumentError: It is encrypted, or a kind without text.
    """
    names = archive.namelist()
    if "META-INF/manifest.xml" in names and b"encryption-data" in archive.read(
        "META-INF/manifest.xml"
    ):
        raise DocumentError(
            f"{source_name(source)} is encrypted.",
            hint="Remove the password in the office program.",
        )
    parts = [
        ooxml.parse_xml(archive.read(name))
        for name in ("content.xml", "styles.xml", "meta.xml")
        if name in names
    ]
    left_out: Counter[str] = Counter()
    modules = [name for name in names if re.match(r"Basic/.*/(?!script-l)[^/]+\.xml$", name)]
    left_out["macro"] += len(modules)
    return _read(archive, parts, left_out, source)


def parse(data: bytes, source: str) -> Parsed:
    """Reads the flat form: one XML file.

    Raises:
        DocumentError: It is broken, or a kind without text.
    """
    from lxml import etree

    try:
        root = ooxml.parse_xml(data)
    except etree.XMLSyntaxError as error:
        raise DocumentError(
            f"{source_name(source)} is broken: {error}", hint="Save it anew as odt, ods or odp."
        ) from error
    return _read(None, [root], Counter(), source)


def _read(
    archive: zipfile.ZipFile | None, parts: list[Any], left_out: Counter[str], source: str
) -> Parsed:
    styles = OdfStyles(*parts)
    writer = OdfWriter(archive, styles, left_out)
    found = next((body for one in parts for body in one.iter("{*}body")), None)
    kind = None if found is None else next((one for one in found if name_of(one)), None)
    name = "" if kind is None else name_of(kind)
    titles = (one.findtext(".//{http://purl.org/dc/elements/1.1/}title") for one in parts)
    title = next((text.strip() for text in titles if text and text.strip()), None)
    if kind is not None and name == "office:text":
        return _read_text(kind, parts, writer, title, left_out)
    if kind is not None and name == "office:spreadsheet":
        return build(_read_sheets(kind, styles, left_out), title, left_out)
    if kind is not None and name in {"office:presentation", "office:drawing"}:
        return _read_pages(kind, styles, writer, title, left_out)
    raise DocumentError(
        f"{source_name(source)} is an OpenDocument file without text.",
        hint="Texts, workbooks and presentations are read (odt, ods, odp).",
    )


def _read_text(
    body: Any, parts: list[Any], writer: OdfWriter, title: str | None, left_out: Counter[str]
) -> Parsed:
    seen: set[str] = set()
    header = writer.furniture(parts, "header", seen)
    blocks = writer.blocks(body)
    footer = writer.furniture(parts, "footer", seen)
    text = set_labels(html.convert(header + blocks + writer.notes() + footer).text)
    heading = re.search(r"^#+ (.*)$", text, re.MULTILINE)
    return Parsed(text, heading[1] if heading else title, (), +left_out)


def _read_pages(
    body: Any, styles: OdfStyles, writer: OdfWriter, title: str | None, left_out: Counter[str]
) -> Parsed:
    texts: list[str] = []
    pages: list[Page] = []
    length = 0
    for number, page in enumerate(body.findall("{*}page"), 1):
        text = ""
        if styles.value("drawing-page", page, "visibility") == "hidden":
            left_out["hidden slide"] += 1
        else:
            text = set_labels(html.convert(_page(page, writer)).text).strip()
        text = f"{text}\n\n" if text else ""
        pages.append(
            Page(number=number, start=length, end=length + len(text), name=f"slide {number}")
        )
        texts.append(text)
        length += len(text)
    whole = "".join(texts)
    heading = re.search(r"^## (.*)$", whole, re.MULTILINE)
    return Parsed(whole, heading[1] if heading else title, tuple(pages), +left_out)


def _page(page: Any, writer: OdfWriter) -> str:
    """Returns a slide: its title, its boxes, its notes."""
    drawn = [one for one in page if name_of(one).startswith("drawing:")]
    found = [one for one in drawn if _text(one) or next(one.iter("{*}object"), None) is not None]
    shapes = [found[index] for index in reading_order(list(map(_box, found)))]
    shapes += [one for one in drawn if one not in found]  # pictures, and what says nothing
    titles = [one for one in shapes if get(one, "class") == "title"][:1]
    blocks = []
    for one in titles:
        text = re.sub(r"</?(p|h\d|ul|li)>", " ", writer.block(one)).strip()
        blocks.append(f"<h2>{text}</h2>" if text else "")
    for one in shapes:
        if one not in titles:
            block = writer.block(one)
            blocks.append(block if block.startswith("<") else f"<p>{block}</p>")
    for notes in page.findall("{*}notes"):
        frames = (one for one in notes if get(one, "class") == "notes")
        text = writer.blocks(frames)
        blocks.append(text.replace("<p>", "<p>Notes: ", 1))
    return "".join(blocks) + writer.notes()


def _box(shape: Any) -> tuple[float, float, float, float]:
    x, y, width, height = (_length(get(shape, one)) for one in ("x", "y", "width", "height"))
    return x, y, width, height


def _length(text: str) -> float:
    found = re.fullmatch(r"(-?[0-9.]+)([a-z]{2})", text)
    try:
        return float(found[1]) * _UNITS.get(found[2], 1.0) if found else 0.0
    except ValueError:
        return 0.0


def _read_sheets(
    body: Any, styles: OdfStyles, left_out: Counter[str]
) -> Iterator[tuple[Sheet, bool]]:
    for table in body.findall("{*}table"):
        sheet = Sheet(get(table, "name"))
        if styles.value("table", table, "display") == "false":
            yield sheet, True
            continue
        merged: list[tuple[int, int, int, int]] = []
        number = 1
        for row in table.iter("{*}table-row"):
            repeats = count_of(row, "number-rows-repeated")
            cells = _read_row(row, number, merged, left_out)
            if cells:
                times = min(repeats, _MAX_REPEATED_ROWS)
                left_out["repeated row"] += repeats - times
                sheet.rows |= {number + offset: dict(cells) for offset in range(times)}
            number += repeats
        sheet.merged = merged
        shapes = [one for part in table.findall("{*}shapes") for one in part]
        sheet.notes = [text for one in shapes if (text := _text(one))]
        for frame in table.iter("{*}frame"):
            kinds = {name_of(one) for one in frame}
            is_chart = "drawing:object" in kinds
            left_out["chart" if is_chart else "image"] += is_chart or "drawing:image" in kinds
        yield sheet, False


def _read_row(
    row: Any, number: int, merged: list[tuple[int, int, int, int]], left_out: Counter[str]
) -> dict[int, str]:
    cells: dict[int, str] = {}
    column = 1
    for cell in row:
        if name_of(cell) not in {"table:table-cell", "table:covered-table-cell"}:
            continue
        repeats = count_of(cell, "number-columns-repeated")
        left_out["comment"] += len(cell.findall("{*}annotation"))
        text = _text(cell)
        if not text:
            values = (get(cell, name) for name in ("string-value", "date-value", "value"))
            text = next(filter(None, values), "")
        if text:
            cells |= {column + offset: text for offset in range(min(repeats, _MAX_REPEATED_ROWS))}
        down, right = (count_of(cell, f"number-{one}-spanned") for one in ("rows", "columns"))
        if down > 1 or right > 1:
            merged.append((number, column, number + down - 1, column + right - 1))
        column += repeats
    return cells


def _text(node: Any) -> str:
    """Returns the paragraphs of a cell or shape, without comments."""
    out = []
    for one in node.iter("{*}p"):
        if not any(name_of(above) == "office:annotation" for above in one.iterancestors()):
            out.append(" ".join("".join(_strings(one)).split()))
    return " ".join(filter(None, out))


def _strings(node: Any) -> Iterator[str]:
    yield node.text or ""
    for child in node:
        if name_of(child) in {"text:s", "text:tab", "text:line-break"}:
            yield " "
        elif name_of(child) != "office:annotation":
            yield from _strings(child)
        yield child.tail or ""
