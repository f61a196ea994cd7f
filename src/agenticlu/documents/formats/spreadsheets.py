"""Workbooks of Excel: cells as they are displayed, by openpyxl; old and binary ones by calamine."""

from __future__ import annotations

import datetime
import functools
import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from html import escape
from typing import Any

from lxml import etree

from agenticlu.documents.formats import Parsed, ooxml
from agenticlu.documents.formats.sheets import Sheet, build

_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^<>]*\bref="([A-Z]+)(\d+):([A-Z]+)(\d+)"')
_NO_VALUE = re.compile(
    rb"</(?:\w+:)?f>\s*+(?:(?:<(?:\w+:)?v\s*+/>|<(?:\w+:)?v>\s*+</(?:\w+:)?v>)\s*+)?+</"
)
"""A formula whose value the file does not hold, as programs other than Excel write it."""
_MOST_BYTES_FORMATTED = 24 << 20
"""Larger sheets (some 600,000 cells) are read without the formats of their numbers: in seconds."""
_LOOKS = {
    "vertAlign": {"superscript": "sup", "subscript": "sub"},
    "strike": {"": "s", "1": "s", "true": "s"},
}
"""Elements of HTML by what a run of a cell's text may look like."""
_RUN_LOOKS = re.compile(rb"<(?:\w+:)?rPr>")
_SCRIPTS = re.compile(rb"<(?:\w+:)?(?:vertAlign|strike)\b")
_OF_THE_SYSTEM = {"mm-dd-yy": "yyyy-mm-dd", "m/d/yy h:mm": "yyyy-mm-dd hh:mm"}
"""Formats 14 and 22: Excel shows a date as the reader's system does, not as the format says."""
_SHAPE = "{http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing}sp"
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, IndexError)
"""Raised by openpyxl for styles and sheets that other programs read."""


def parse(archive: zipfile.ZipFile, main: str) -> Parsed:
    """Reads a workbook whose main part is `main`: the sheets are pages, hidden ones are counted."""
    left_out: Counter[str] = Counter()
    names = archive.namelist()
    left_out["macro"] += sum(name.endswith("vbaProject.bin") for name in names)
    if main.endswith(".bin"):
        return _parse_by_calamine(archive.fp, left_out)
    plain = ooxml.rewrite(archive, _with_scripts)
    with zipfile.ZipFile(plain) as copy:
        parts = _sheet_parts(copy, main)
        size = sum(copy.getinfo(part).file_size for part in parts.values())
        if size <= _MOST_BYTES_FORMATTED:
            try:
                return build(list(_read_sheets(plain, copy, parts, left_out)), None, left_out)
            except _UNREADABLE:
                left_out.clear()
    left_out["format of numbers and dates"] += 1
    return _parse_by_calamine(plain, left_out)


def parse_old(data: bytes) -> Parsed:
    """Reads a workbook in the format of Excel 97 to 2003 (.xls)."""
    return _parse_by_calamine(io.BytesIO(data), Counter())


def _has_scripts(data: bytes) -> bool:
    """Whether a run of text, and not only the style of a cell, looks otherwise."""
    first = _RUN_LOOKS.search(data)
    return first is not None and _SCRIPTS.search(data, first.end()) is not None


def _with_scripts(_: str, data: bytes) -> bytes:
    """Writes into the texts of a part what is raised, lowered or struck: 10^6, ~~41~~."""
    from agenticlu.documents.formats import html

    if len(data) > _MOST_BYTES_FORMATTED or not _has_scripts(data):
        return data
    root = ooxml.parse_xml(data)
    for text in {one.getparent() for one in root.iter("{*}r")}:
        if not any(next(text.iter(f"{{*}}{name}"), None) is not None for name in _LOOKS):
            continue
        markup = "".join(_marked_up(one) for one in text.findall("{*}r"))
        runs = text.findall("{*}r")
        for one in runs:
            text.remove(one)
        node = etree.SubElement(text, f"{{{etree.QName(text).namespace}}}t")
        node.text = html.convert(f"<pre>{markup}</pre>").text.removesuffix("\n")
    return bytes(etree.tostring(root))


def _marked_up(run: Any) -> str:
    """Returns a run of a cell's text as HTML."""
    written = escape(run.findtext("{*}t") or "")
    for name, tags in _LOOKS.items():
        found = run.find(f"{{*}}rPr/{{*}}{name}")
        tag = "" if found is None else tags.get(found.get("val", ""), "")
        written = f"<{tag}>{written}</{tag}>" if tag and written.strip() else written
    return written


def _sheet_parts(archive: zipfile.ZipFile, main: str) -> dict[str, str]:
    """Returns the part of each sheet by its name."""
    links = ooxml.relationships(archive, main)
    found = {}
    for sheet in ooxml.parse_xml(archive.read(main)).iter("{*}sheet"):
        kind, target = links.get(sheet.get(f"{{{ooxml.RELATIONSHIPS}}}id", ""), ("", ""))
        if kind == "worksheet" and target in archive.namelist():
            found[sheet.get("name", "")] = target
    return found


def _read_sheets(
    data: io.BytesIO, archive: zipfile.ZipFile, parts: dict[str, str], left_out: Counter[str]
) -> Iterator[tuple[Sheet, bool]]:
    import openpyxl
    from openpyxl.utils.datetime import CALENDAR_MAC_1904

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of extensions that hold no text
        book = openpyxl.load_workbook(data, read_only=True, data_only=True)
        formulas = None
        is_1904 = book.epoch == CALENDAR_MAC_1904
        left_out["chart"] += len(book.sheetnames) - len(book.worksheets)
        for one in book.worksheets:
            sheet = Sheet(one.title)
            if one.sheet_state != "visible":
                yield sheet, True
                continue
            raw = archive.read(parts[one.title]) if one.title in parts else b""
            sheet.merged = [_cells_of(*match) for match in _MERGED.findall(raw)]
            sheet.notes = _read_extras(archive, parts.get(one.title), left_out)
            _read_rows(one, sheet, is_1904)
            if missing := len(_NO_VALUE.findall(raw)):
                left_out["value of a formula"] += missing
                formulas = formulas or openpyxl.load_workbook(data, read_only=True)
                _read_rows(formulas[one.title], sheet, is_1904)
            yield sheet, False


def _read_rows(source: Any, sheet: Sheet, is_1904: bool) -> None:
    """Adds the cells that a sheet does not hold yet."""
    source.reset_dimensions()  # what a file says of its size may be wrong
    for row in source.iter_rows():
        for cell in row:
            if cell.value is not None:
                text = _display(cell.value, cell.number_format, is_1904)
                sheet.rows.setdefault(cell.row, {}).setdefault(cell.column, text)


def _read_extras(archive: zipfile.ZipFile, part: str | None, left_out: Counter[str]) -> list[str]:
    """Returns the texts of boxes on a sheet; counts its comments, charts and pictures."""
    texts = []
    for kind, target in ooxml.relationships(archive, part or "").values() if part else ():
        if target not in archive.namelist():
            continue
        if kind == "comments":
            left_out["comment"] += len(
                list(ooxml.parse_xml(archive.read(target)).iter("{*}comment"))
            )
        elif kind == "drawing":
            drawing = ooxml.parse_xml(archive.read(target))
            ooxml.choose_alternatives(drawing)
            texts += [ooxml.drawing_text(shape) for shape in drawing.iter(_SHAPE)]
            left_out["image"] += len(list(drawing.iter(f"{{{ooxml.DRAWING}}}blip")))
            left_out["chart"] += len(list(drawing.iter(f"{{{ooxml.CHART}}}chart")))
        elif kind in {"oleObject", "package"}:
            left_out["embedded object"] += 1
    return [text for text in texts if text]


def _cells_of(left: bytes, top: bytes, right: bytes, bottom: bytes) -> tuple[int, int, int, int]:
    from openpyxl.utils import column_index_from_string as column

    return int(top), column(left.decode()), int(bottom), column(right.decode())


@functools.lru_cache(maxsize=1 << 16, typed=True)
def _display(value: Any, number_format: str | None, is_1904: bool) -> str:
    """Returns what a cell shows; a number without a format of its own in all its digits."""
    import xlfmt
    from openpyxl.utils.escape import unescape

    if isinstance(value, str):
        return str(unescape(value)) if "_x" in value else value
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds() / 86_400  # a day is 1
    number_format = _OF_THE_SYSTEM.get(number_format or "", number_format)
    if isinstance(value, (bool, int, float)) and number_format in {None, "General"}:
        return _plain(value)
    try:
        shown = str(xlfmt.format_value(value, number_format, date1904=is_1904)).strip()
    except (ValueError, TypeError, ArithmeticError):
        shown = ""
    return shown if shown and not re.fullmatch("#+", shown) else _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ") if value.time() != datetime.time() else str(value.date())
    return str(value)


def _parse_by_calamine(data: Any, left_out: Counter[str]) -> Parsed:
    from python_calamine import CalamineError

    data.seek(0)
    try:
        return build(list(_read_by_calamine(data, left_out)), None, left_out)
    except CalamineError as error:
        raise ValueError(str(error)) from error


def _read_by_calamine(data: Any, left_out: Counter[str]) -> Iterator[tuple[Sheet, bool]]:
    from python_calamine import CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

    book = CalamineWorkbook.from_filelike(data)
    for about in book.sheets_metadata:
        sheet = Sheet(about.name)
        if about.typ != SheetTypeEnum.WorkSheet:
            left_out["chart" if about.typ == SheetTypeEnum.ChartSheet else "macro"] += 1
            continue
        is_hidden = about.visible != SheetVisibleEnum.Visible
        if not is_hidden:
            found = book.get_sheet_by_name(about.name)
            for row, values in enumerate(found.to_python(skip_empty_area=False), 1):
                cells = ((at, _plain(value)) for at, value in enumerate(values, 1))
                sheet.rows[row] = {at: text for at, text in cells if text}
            merged = found.merged_cell_ranges or ()
            sheet.merged = [(a + 1, b + 1, c + 1, d + 1) for (a, b), (c, d) in merged]
        yield sheet, is_hidden
