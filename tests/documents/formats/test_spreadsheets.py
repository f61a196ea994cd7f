"""Workbooks and tables of values: cells as displayed, with the place of each."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import xlsxwriter

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document
from agenticlu.documents.formats import spreadsheets
from agenticlu.documents.formats.sheets import Sheet, column_name, is_number, render


@pytest.fixture
def read(tmp_path: Path):
    def read(data: bytes | str, name: str = "a.xlsx") -> Document:
        content = data.encode() if isinstance(data, str) else data
        (tmp_path / name).write_bytes(content)
        return load_document(str(tmp_path / name))

    return read


def workbook(make: Callable[[Any], None], **options: Any) -> bytes:
    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"in_memory": True, **options})
    make(book)
    book.close()
    return out.getvalue()


def prices(book: Any) -> None:
    sheet = book.add_worksheet("Prices")

    def cell(row: int, column: int, value: Any, number_format: str) -> None:
        sheet.write(row, column, value, book.add_format({"num_format": number_format}))

    sheet.write_row(0, 0, ["Item", "Price", "Date", "Share", "Sum", "Code"])
    sheet.write(1, 0, "Oats")
    cell(1, 1, 1234.5, "#,##0.00 €")
    cell(1, 2, datetime.datetime(2024, 3, 9), "dd/mm/yyyy")
    cell(1, 3, 0.256, "0.0%")
    sheet.write_formula(1, 4, "=B2*2", None, 2469)
    cell(1, 5, 7, "00000")
    sheet.write(2, 0, "Rye,\nwinter")
    sheet.write(2, 1, 123456789012)
    cell(2, 2, datetime.time(13, 5), "h:mm AM/PM")
    sheet.write(2, 3, 1 / 3)
    sheet.write(2, 4, True)


def test_cells_are_read_as_displayed(read) -> None:
    document = read(workbook(prices))
    assert document.text == (
        "## Prices\n\n"
        "A1: Item | B1: Price | C1: Date | D1: Share | E1: Sum | F1: Code\n"
        "Row 2: Item: Oats | Price: 1,234.50 € | Date: 09/03/2024 | Share: 25.6% | Sum: 2469 "
        "| Code: 00007\n"
        "Row 3: Item: Rye, winter | Price: 123456789012 | Date: 1:05 PM "
        "| Share: 0.333333333333333 | Sum: TRUE\n\n"
    )
    assert document.left_out == {}


def test_raised_lowered_and_struck_figures(read) -> None:
    def make(book: Any) -> None:
        up, gone = book.add_format({"font_script": 1}), book.add_format({"font_strikeout": True})
        sheet = book.add_worksheet("Boats")
        sheet.write_rich_string(0, 0, "10", up, "6", " boats")
        sheet.write_rich_string(1, 0, "Fee ", gone, "41", " 45")
        sheet.write_rich_string(2, 0, "a ", book.add_format({"bold": True}), "b", " <c>")

    text = read(workbook(make)).text
    assert [part in text for part in ("10^6 boats", "Fee ~~41~~ 45", "a b <c>")] == [True] * 3


def test_sheets_are_pages_and_hidden_ones_are_named(read) -> None:
    def make(book: Any) -> None:
        for name, hide in (("First", ""), ("Secret", "hide"), ("Deep", "very_hidden"), ("R&D", "")):
            sheet = book.add_worksheet(name)
            sheet.write(2, 3, f"in {name}")
            if hide:
                getattr(sheet, hide)()

    document = read(workbook(make))
    assert [(page.name, document.text[page.start : page.end]) for page in document.pages] == [
        ("sheet First", "## First\n\nD3: in First\n\n"),
        ("sheet Secret", ""),
        ("sheet Deep", ""),
        ("sheet R&D", "## R&D\n\nD3: in R&D\n\n"),
    ]
    assert document.left_out == {"hidden sheet": 2}


def test_charts_pictures_comments_and_boxes(read) -> None:
    def make(book: Any) -> None:
        sheet = book.add_worksheet("A")
        sheet.write(0, 0, 7)
        sheet.write_comment(0, 0, "Really?")
        chart = book.add_chart({"type": "column"})
        chart.add_series({"values": "=A!$A$1:$A$1"})
        sheet.insert_chart("C2", chart)
        sheet.insert_textbox("A9", "Draft for Mara")

    document = read(workbook(make))
    assert document.text == "## A\n\nA1: 7\nDraft for Mara\n\n"
    assert document.left_out == {"comment": 1, "chart": 1}


def test_formulas_that_were_never_computed(read) -> None:
    book = openpyxl.Workbook()
    book.active.append([2, "=A1*2"])
    out = io.BytesIO()
    book.save(out)
    document = read(out.getvalue())
    assert document.text == "## Sheet\n\nA1: 2 | B1: =A1*2\n\n"
    assert document.left_out == {"value of a formula": 1}


def test_dates_of_1904(read) -> None:
    def make(book: Any) -> None:
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        book.add_worksheet("A").write_datetime(0, 0, datetime.datetime(2024, 3, 9), day)

    assert "A1: 2024-03-09" in read(workbook(make, date_1904=True)).text


DISPLAYED = {
    "30:05": (datetime.timedelta(hours=30, minutes=5), "[h]:mm"),
    "2024-03-09": (datetime.datetime(2024, 3, 9), "mm-dd-yy"),
    "2024-03-09 14:30": (datetime.datetime(2024, 3, 9, 14, 30), "m/d/yy h:mm"),
    "12,345.68": (12345.678, '_(* #,##0.00_);_(* (#,##0.00);_(* "-"??_);_(@_)'),
    "(5)": (-5, "0;(0)"),
    "1 1/2": (1.5, "# ?/?"),
    "1.23E+06": (1234567, "0.00E+00"),
    "5": (5, ";;;"),
    "0.3": (0.1 + 0.2, "General"),
    "20": (20.0, "General"),
    "a\rb": ("a_x000D_b", "General"),
    "FALSE": (False, "0"),
}


@pytest.mark.parametrize("text", DISPLAYED)
def test_values_in_their_formats(text: str) -> None:
    value, number_format = DISPLAYED[text]
    assert " ".join(spreadsheets._display(value, number_format, False).split(" ")) == text


def repacked(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def strict(name: str, data: bytes) -> bytes:
    for kind in (b"spreadsheetml", b"officeDocument", b"drawingml"):
        old = b"http://schemas.openxmlformats.org/" + kind + b"/2006/"
        data = data.replace(old, b"http://purl.oclc.org/ooxml/" + kind + b"/")
    return data


def test_strict_workbooks_read_the_same(read) -> None:
    plain = workbook(prices)
    changed = repacked(plain, strict)
    assert changed != plain
    assert read(changed).text == read(plain).text


def test_a_wrong_size_of_a_sheet_hides_no_cells(read) -> None:
    def change(name: str, data: bytes) -> bytes:
        return data.replace(b'<dimension ref="A1:F3"/>', b'<dimension ref="A1"/>')

    plain = workbook(prices)
    changed = repacked(plain, change)
    assert changed != plain
    assert read(changed).text == read(plain).text


def without_cell_formats(name: str, data: bytes) -> bytes:
    return data.replace(b"<cellXfs", b"<nothing").replace(b"</cellXfs", b"</nothing")


def test_a_workbook_with_broken_styles_is_read_without_them(read) -> None:
    document = read(repacked(workbook(prices), without_cell_formats))
    assert "Item: Oats | Price: 1234.5" in document.text
    assert document.left_out == {"format of numbers and dates": 1}


def test_a_large_workbook_is_read_without_formats(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "_MOST_BYTES_FORMATTED", 10)
    with zipfile.ZipFile(io.BytesIO(workbook(prices))) as archive:
        parsed = spreadsheets.parse(archive, "xl/workbook.xml")
    assert "Row 2: Item: Oats | Price: 1234.5 | Date: 2024-03-09" in parsed.text
    assert dict(parsed.left_out) == {"format of numbers and dates": 1}


HEADINGS: dict[str, tuple[list[list[str]], str]] = {
    "a line above": ([["Report"], ["a", "b", "c"], ["1", "2", "3"]], "Row 3: a: 1 | b: 2 | c: 3"),
    "names and values": (
        [["Name", "Ada"], ["Born", "1901"], ["In", "Cork"]],
        "A2: Born | B2: 1901",
    ),
    "two columns of words and numbers": (
        [["Item", "t"], ["Oats", "7"]],
        "Row 2: Item: Oats | t: 7",
    ),
    "years": (
        [["Item", "2023", "2024"], ["Oats", "7", "8"]],
        "Row 2: Item: Oats | 2023: 7 | 2024: 8",
    ),
    "years that are no series": (
        [["Ada", "1901", "1977"], ["Bo", "1903", "1990"]],
        "A2: Bo | B2: 1903 | C2: 1990",
    ),
    "notes above that are wider than a line": (
        [
            ["do", "not", ""],
            ["note", "here", ""],
            ["Who", "Job", "Age"],
            ["Ada", "", "69"],
            ["Bo", "", "71"],
        ],
        "Row 5: Who: Bo | Age: 71",
    ),
    "a wider row of words below the headings": (
        [["Who", "Job", "In"], ["Ada", "poet", "Vell", "x"], ["Bo", "cook", "Orsk", "y"]],
        "Row 3: Who: Bo | Job: cook | In: Orsk | D: y",
    ),
    "numbers at once": ([["1", "2", "3"], ["4", "5", "6"]], "A2: 4 | B2: 5 | C2: 6"),
    "a column without a heading": (
        [["a", "b", "c"], ["1", "2", "3", "4"]],
        "Row 2: a: 1 | b: 2 | c: 3 | D: 4",
    ),
    "the same heading twice": ([["a", "a", "c"], ["1", "2", "3"]], "A2: 1 | B2: 2 | C2: 3"),
    "empty cells": ([["a", "b", "c"], ["1", "", "3"]], "Row 2: a: 1 | c: 3"),
    "a heading as long as a sentence": (
        [["a" * 70, "b", "c"], ["1", "2", "3"]],
        "Row 2: A: 1 | b: 2 | c: 3",
    ),
}


@pytest.mark.parametrize("name", HEADINGS)
def test_headings_name_the_cells_below(name: str) -> None:
    rows, last = HEADINGS[name]
    cells = {n: dict(enumerate(row, 1)) for n, row in enumerate(rows, 1)}
    lines = render(Sheet("x", cells))
    assert last in lines


def test_merged_cells_reach_into_their_rows_and_headings() -> None:
    rows = {
        1: {2: "2023", 4: "2024"},
        2: {1: "Region", 2: "Oats", 3: "Rye", 4: "Wheat", 5: "Maize"},
        3: {1: "North", 2: "1", 3: "2", 4: "3", 5: "4"},
        4: {2: "5", 3: "6", 4: "7", 5: "8"},
    }
    lines = render(Sheet("x", rows, merged=[(1, 2, 1, 3), (1, 4, 1, 5), (3, 1, 9, 1)]))
    assert lines[-2:] == [
        "Row 3: Region: North | 2023 Oats: 1 | 2023 Rye: 2 | 2024 Wheat: 3 | 2024 Maize: 4",
        "Row 4: Region: North | 2023 Oats: 5 | 2023 Rye: 6 | 2024 Wheat: 7 | 2024 Maize: 8",
    ]


def test_names_of_columns_and_numbers() -> None:
    from openpyxl.utils import get_column_letter

    assert all(column_name(n) == get_column_letter(n) for n in range(1, 16385))
    numbers = ("7", "-1,234.50", "25.6%", "£3", "12 €", "(5)", "09/03/2024", "1:05", "1e5"[:1])
    assert all(map(is_number, numbers))
    assert not any(map(is_number, ("Oats", "A1", "2 oats", "", "-")))


TABLES: dict[str, tuple[str, str]] = {
    "commas": ('a,b\n1,"x, y"\n', "a | b\n1 | x, y\n"),
    "semicolons with decimal commas": ("a;b\n1,5;2,5\n3,5;4,5\n", "a | b\n1,5 | 2,5\n3,5 | 4,5\n"),
    "tabs": ("a\tb\n1\t2\n", "a | b\n1 | 2\n"),
    "line ends in cells": ('a,b\n"one\ntwo",2\n', "a | b\none two | 2\n"),
    "doubled quotes": ('a,b\n"say ""oats""",2\n', 'a | b\nsay "oats" | 2\n'),
    "what Excel notes": ("sep=|\na|b\n1|2\n", "a | b\n1 | 2\n"),
    "ragged rows and empty cells": ("a,b,c\n1,,3\n4\n", "a | b | c\n1 |  | 3\n4\n"),
    "one column": ("oats\nrye\n", "oats\nrye\n"),
    "a quote that is never closed": ('a,b\n"1,2\n', "a | b\n1,2\n"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_values(read, name: str) -> None:
    content, text = TABLES[name]
    assert read(content, "a.csv").text == text


def test_a_long_table_names_its_cells(read) -> None:
    rows = "".join(f"item {n},{n},x\n" for n in range(100))
    lines = read("Item,Price,Note\n" + rows, "a.csv").text.splitlines()
    assert lines[0] == "Item | Price | Note"
    assert lines[58] == "Item: item 57 | Price: 57 | Note: x"
    assert len(lines) == 101


def test_a_table_of_one_huge_cell(read) -> None:
    assert len(read("a,b\n" + "x" * 300_000 + ",2\n", "a.csv").text) > 300_000


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)


@pytest.mark.parametrize(
    ("stream", "message", "hint"),
    [
        ("WordDocument", "an old Word file", "soffice --headless --convert-to docx"),
        ("PowerPoint Document", "an old PowerPoint file", "soffice --headless --convert-to pptx"),
        ("EncryptedPackage", "encrypted", "password"),
        ("__substg1.0_1", "an Outlook message", ".eml"),
        ("Workbook", "broken or encrypted Excel file", "xlsx"),
        ("Other", "unknown program", "PDF"),
    ],
)
def test_old_files_say_what_to_type(read, stream: str, message: str, hint: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        read(OLE + stream.encode("utf-16-le"), "a.doc")
    assert hint in (caught.value.hint or "")
