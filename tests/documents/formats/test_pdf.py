from __future__ import annotations

import random
from functools import partial
from itertools import pairwise

import numpy as np
import pypdfium2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pdf import PdfPage, by_rows, column, make_form, make_notes, make_pdf, show

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents.citations import cite
from agenticlu.documents.formats import Parsed, pdf, pdf_words
from agenticlu.documents.formats.pdf_pages import read_pages
from agenticlu.documents.pieces import split
from agenticlu.documents.rectangles import Places, Rectangle, Words, rectangles_of
from agenticlu.documents.tokens import ApproximateTokenizer

MILL = [
    *("The mill at Dunmore was", "built by Ada Larkin in", "the spring of 1911. It"),
    *("has two wheels and a", "roof of red tiles that", "came from Vell by boat."),
]
WEIR = [
    *("The weir at Vell was", "paid for by Mara Quill", "and burnt down once. The"),
    *("bridge beside it stands", "on nine pillars of oak", "and was never painted."),
]
STONE = [
    *("Nobody knows where the", "third stone came from, but", "the people of Orsk say"),
    *("that it fell from a cart", "on the way to the fair", "in the year of the flood."),
]
NAMES = [
    [
        *("Ada Larkin of Dunmore and", "Mara Quill of Vell met", "Bo Orsk in Dunmore on"),
        *("Monday. They spoke about", "German wheels and French", "stones for an hour."),
    ],
    [
        *("In Vell the weir was", "built by masons from", "Orsk, who came in boats"),
        *("from the sea and went", "Home in winter when the", "Work was done."),
    ],
]
NUMBERS = [
    [
        *("In 1911 the mill had 2", "wheels, 41 steps and 17", "windows; by 1920 it had"),
        *("lost 1 wheel, 3 steps and", "all of its 17 windows."),
    ],
    [
        *("The weir cost 1,234", "crowns in 1890 and 2,500", "in 1911, of which 41 per"),
        *("cent were paid by 9 of", "the 63 mills."),
    ],
]
TITLE = "A history of the mills of the valley and of their people, told again"


def parse(data: bytes, source: str) -> Parsed:
    """Reads a PDF in this process."""
    return pdf.join_parts(pdf.read_all(partial(read_pages, data, source)), source)


def flat(parsed: Parsed) -> str:
    """The text without its line ends."""
    return " ".join(parsed.text.split())


def read(data: bytes) -> str:
    return flat(parse(data, "a.pdf"))


def joined(*columns: list[str]) -> str:
    return " ".join(" ".join(lines) for lines in columns)


# --- Reading order --------------------------------------------------------------------------------

LEFT, RIGHT = column(72, 700, MILL), column(320, 700, WEIR)
SHUFFLED = random.Random(1).sample(LEFT + RIGHT, k=len(LEFT + RIGHT))
ONE_OBJECT = "".join(
    f"BT /F1 12 Tf 1 0 0 1 72 {700 - 14 * i} Tm [({a}) {-6000 - 300 * i} ({b})] TJ ET\n"
    for i, (a, b) in enumerate(zip(MILL, WEIR, strict=True))
)
COLUMNS = {
    "row by row": (by_rows(LEFT, RIGHT), joined(MILL, WEIR)),
    "column by column": ("".join(LEFT + RIGHT), joined(MILL, WEIR)),
    "the right one first": ("".join(RIGHT + LEFT), joined(MILL, WEIR)),
    "from the bottom": ("".join(reversed(LEFT + RIGHT)), joined(MILL, WEIR)),
    "in no order": ("".join(SHUFFLED), joined(MILL, WEIR)),
    "rows in one operator": (ONE_OBJECT, joined(MILL, WEIR)),
    "not level": (by_rows(LEFT, column(320, 692, WEIR)), joined(MILL, WEIR)),
    "a narrow gutter": (
        by_rows(column(72, 700, MILL, 10), column(194, 700, WEIR, 10)),
        joined(MILL, WEIR),
    ),
    "of different length": (by_rows(column(72, 700, MILL * 2), RIGHT), joined(MILL * 2, WEIR)),
    "of two lines": (by_rows(LEFT[:2], RIGHT[:2]), joined(MILL[:2], WEIR[:2])),
    "in sizes of their own": (
        by_rows(column(72, 700, MILL, 11), column(320, 700, WEIR, 9)),
        joined(MILL, WEIR),
    ),
    "of lines that begin with names": (
        by_rows(column(72, 700, NAMES[0]), column(320, 700, NAMES[1])),
        joined(*NAMES),
    ),
    "with many numbers": (
        by_rows(column(72, 700, NUMBERS[0]), column(320, 700, NUMBERS[1])),
        joined(*NUMBERS),
    ),
    "above a table": (
        by_rows(LEFT, RIGHT)
        + by_rows(
            column(72, 560, ["Oak", "Elm"]),
            column(200, 560, ["12", "7"]),
            column(320, 560, ["Vell", "Orsk"]),
        ),
        joined(MILL, WEIR, ["Oak 12 Vell Elm 7 Orsk"]),
    ),
    "three of them": (
        by_rows(
            *(
                column(x, 700, c, 9)
                for x, c in zip((40, 220, 400), (MILL, WEIR, STONE), strict=True)
            )
        ),
        joined(MILL, WEIR, STONE),
    ),
    "a title over both": (
        show(72, 740, TITLE, 14) + by_rows(LEFT, RIGHT),
        joined([TITLE], MILL, WEIR),
    ),
    "a title over both, written last": (
        by_rows(LEFT, RIGHT) + show(72, 740, TITLE, 14),
        joined([TITLE], MILL, WEIR),
    ),
    "a running head and a foot": (
        show(72, 760, "Larkin and Quill", 9)
        + show(500, 760, "17", 9)
        + by_rows(LEFT, RIGHT)
        + show(300, 40, "18"),
        joined(["Larkin and Quill 17"], MILL, WEIR, ["18"]),
    ),
    "a footnote over both": (
        by_rows(LEFT, RIGHT) + show(72, 520, f"1 {TITLE}, and in the same words", 8),
        joined(MILL, WEIR, [f"1 {TITLE}, and in the same words"]),
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_are_read_one_after_another(name: str) -> None:
    stream, text = COLUMNS[name]
    assert read(make_pdf([stream])) == text


@pytest.mark.parametrize("turn", ["/Rotate 90", "/Rotate 180", "/Rotate 270"])
def test_rotated_pages(turn: str) -> None:
    stream = by_rows(LEFT, RIGHT)
    assert read(make_pdf([PdfPage(stream, turn)])) == joined(MILL, WEIR)
    turned = f"q 0 1 -1 0 792 0 cm\n{stream}Q"
    assert read(make_pdf([PdfPage(turned, "/MediaBox [0 0 792 792]")])) == joined(MILL, WEIR)


def table(rows: list[tuple[str, ...]], xs: tuple[int, ...], lead: int = 16) -> list[list[str]]:
    return [
        [show(x, 700 - lead * i, cell) for x, cell in zip(xs, row, strict=True)]
        for i, row in enumerate(rows)
    ]


TREES = [
    ("Oak", "12", "Dunmore"),
    ("Elm", "7", "Vell"),
    ("Ash", "41", "Orsk"),
    ("Yew", "3", "Vell"),
]
OWNERS = [
    ("Owner of the mill", "Ada Larkin of Dunmore"),
    ("Owner of the weir", "Mara Quill of Vell"),
    ("Year of the great fire", "nineteen hundred and eleven"),
    ("Builder of the bridge", "nobody who is known today"),
]
LABELS = [("Name:", "Ada Larkin"), ("Town:", "Dunmore"), ("Fee:", "41 crowns")]
CONTENTS = [("The mill and its wheels", "3"), ("The weir in the flood", "17"), ("A bridge", "41")]


@pytest.mark.parametrize("rows", [TREES, OWNERS, LABELS, CONTENTS], ids=lambda rows: rows[0][0])
@pytest.mark.parametrize("is_by_rows", [True, False])
def test_rows_of_tables_stay_rows(rows: list[tuple[str, ...]], is_by_rows: bool) -> None:
    if rows is OWNERS and not is_by_rows:
        pytest.skip("written so, it could be two columns")
    cells = table(rows, (72, 250, 400)[: len(rows[0])])
    by_columns = list(map(list, zip(*cells, strict=True)))
    stream = "".join("".join(group) for group in (cells if is_by_rows else by_columns))
    text = parse(make_pdf([stream]), "a.pdf").text
    assert text.strip() == "\n".join("\t".join(row) for row in rows)


def test_cells_of_several_lines_are_read_whole() -> None:
    rows = [
        (["Keeper of the", "northern gate"], ["Ada Larkin, who lives", "in the mill"], ["41"]),
        (["Keeper of the", "southern gate"], ["Mara Quill, who lives", "by the weir"], ["17"]),
        (["Keeper of the", "river gate"], ["Bo Orsk, who lives in", "a boat there"], ["9"]),
    ]
    stream = "".join(
        show(x, 700 - 38 * i - 14 * j, line)
        for i, row in enumerate(rows)
        for j in range(2)
        for x, cell in zip((72, 200, 400), row, strict=True)
        for line in cell[j : j + 1]
    )
    wanted = [" ".join(" ".join(cell) for cell in row) for row in rows]
    assert read(make_pdf([stream])) == " ".join(wanted)


@pytest.mark.parametrize(
    "cells",
    [
        ("close descriptor", "fileclose(n)", "commit writes", "fileflush(n)"),
        ("read a line", "fileread(n)", "write a line", "filewrite(n)"),
        ("Soup of the day", "Leek", "Main dish", "Trout"),
        ("Ada Orme", "Vell", "Bo Kest", "Dunmore"),
    ],
)
def test_space_after_every_few_rows_does_not_join_them(cells: tuple[str, ...]) -> None:
    rows = [(f"{left} {i}", right) for i in "abc" for left, right in (cells[:2], cells[2:])]
    stream = ""
    for i, (left, right) in enumerate(rows):
        y = 700 - 14 * i - 9 * (i // 2)
        stream += show(72, y, left) + show(300, y, right)
    text = parse(make_pdf([stream]), "a.pdf").text
    assert [line for line in text.split("\n") if line] == ["\t".join(row) for row in rows]


def ruled(rows: list[tuple[list[str], ...]], xs: tuple[int, ...], right: int) -> str:
    """A table of sentences with a border round each cell, the lines of a cell in its middle."""
    stream, y = "", 720
    for row in rows:
        height = 14 * max(map(len, row)) + 6
        for cell, x, end in zip(row, xs, (*xs[1:], right), strict=True):
            stream += f"{x - 3} {y - height} {end - x} {height} re S\n"
            top = y - 14 - 7 * (max(map(len, row)) - len(cell))
            stream += "".join(show(x, top - 14 * i, line) for i, line in enumerate(cell))
        y -= height
    return stream


def test_rules_tell_a_table_of_sentences_from_columns() -> None:
    rows = [
        (
            ["The keeper of the gate"],
            ["must open it before the", "sun is up, and close it"],
            ["41"],
        ),
        (["The keeper of the weir,", "who lives beside it"], ["counts the eels that pass"], ["17"]),
        (["The one who rings bells"], ["has to climb the tower,", "which is high"], ["9"]),
        (["The miller of the town"], ["grinds what is brought"], ["3"]),
    ]
    wanted = ["\t".join(" ".join(cell) for cell in row) for row in rows]
    text = parse(make_pdf([ruled(rows, (72, 220, 400), 450)]), "a.pdf").text
    assert text.strip().splitlines() == wanted


def test_numbered_rows_between_rules_stay_rows() -> None:
    long = "and all that the mill and its other houses have paid in kind"
    blocks = [(f"Wages {long}", f"Rent {long}"), ("Oats", "Barley", "Hay"), (f"Sum {long}",)]
    stream, wanted, y, number = "", [], 700, 18
    for i, block in enumerate(blocks):
        for label in block:
            end = 330 if i == 1 else 480
            stream += show(92, y, label) + show(72, y, str(number)) + show(end, y, str(number))
            wanted.append(f"{number} {label} {number}")
            number, y = number + 1, y - 16
        stream += f"72 {y + 12} m 510 {y + 12} l S "
    text = parse(make_pdf([stream]), "a.pdf").text
    assert [" ".join(line.split()) for line in text.split("\n") if line] == wanted


def test_bullets_stay_with_their_items() -> None:
    items = [
        "Open the gate of the mill",
        "before the sun is up.",
        "Ring the bell so that all hear.",
    ]
    stream = "".join(
        show(72, 700 - 14 * i, f"{i}.") + show(100, 700 - 14 * i, item)
        for i, item in enumerate(items)
    )
    assert read(make_pdf([stream])) == "0. {} 1. {} 2. {}".format(*items)


# --- Letters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["The mill was con-", "tinued by others."], "The mill was continued by others."),
        (["The peace of Austria-", "Hungary held."], "The peace of Austria-Hungary held."),
        (["In the COVID-", "19 years"], "In the COVID-19 years"),
        (["A well-known mill, a well-", "known weir"], "A well-known mill, a well-known weir"),
        (["It cost 41 - or 42 -", "crowns."], "It cost 41 - or 42 - crowns."),
    ],
)
def test_hyphens_at_line_ends(lines: list[str], text: str) -> None:
    assert read(make_pdf(["".join(column(72, 700, lines))])) == text


def test_powers_are_marked() -> None:
    raised = "/F1 7 Tf 5 Ts ({}) Tj 0 Ts /F1 12 Tf".format
    stream = f"BT /F1 12 Tf 72 700 Td (It holds 10) Tj {raised(6)} ( stones, 2) Tj {raised(10)} ET"
    assert read(make_pdf([stream])) == "It holds 10^6 stones, 2^10"


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (("in 1998", "^12", ", and 10", "^6", "."), "in 1998^12, and 10^6."),
        (("101", "_2", " is 5"), "101_2 is 5"),
        (("x", "_12", "5"), "x_{12}5"),
        (("^3", "1998 was dry"), "^{3}1998 was dry"),
        (("2", "^10", "5 times"), "2^{10}5 times"),
        (("C", "_12", "H", "_22", "O"), "C12H22O"),
        (("[12], 1,000 and 3.55",), "[12], 1,000 and 3.55"),
    ],
)
def test_small_digits_join_no_number(shown: tuple[str, ...], text: str) -> None:
    rises = {"^": 5, "_": -3}
    stream = "BT 72 700 Td "
    for part in shown:
        rise = rises.get(part[0], 0)
        stream += f"/F1 {7 if rise else 12} Tf {rise} Ts ({part.lstrip('^_')}) Tj "
    assert read(make_pdf([f"{stream} ET"])) == text


def glyphs(unicodes: list[str]) -> tuple[PdfPage, list[str]]:
    """A page with a font of boxes, one for each string that they mean; '' means nothing."""
    names = " ".join(f"/g{i}" for i in range(len(unicodes)))
    last = 96 + len(unicodes)
    widths = " ".join("700" for _ in unicodes)
    mapped = "\n".join(
        f"<{97 + i:02x}> <{text.encode('utf-16-be').hex()}>"
        for i, text in enumerate(unicodes)
        if text
    )
    num_mapped = sum(map(bool, unicodes))
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def\n"
        "1 begincodespacerange <00> <ff> endcodespacerange\n"
        f"{num_mapped} beginbfchar\n{mapped}\nendbfchar endcmap end end"
    )
    square = "700 0 0 0 700 700 d1 0 0 700 700 re f"
    procs = " ".join(f"/g{i} 4 0 R" for i in range(len(unicodes)))
    font = (
        "/F3 << /Type /Font /Subtype /Type3 /FontBBox [0 0 700 700] "
        f"/FontMatrix [0.001 0 0 0.001 0 0] /CharProcs << {procs} >> "
        f"/Encoding << /Type /Encoding /Differences [97 {names}] >> "
        f"/FirstChar 97 /LastChar {last} /Widths [{widths}] /ToUnicode 5 0 R >>"
    )
    codes = "".join(chr(97 + i) for i in range(len(unicodes)))
    page = PdfPage(f"BT /F3 12 Tf 72 700 Td ({codes}) Tj ET", fonts=font)
    streams = [f"<< /Length {len(one)} >>\nstream\n{one}\nendstream" for one in (square, cmap)]
    return page, streams


def test_ligatures_and_shapes_are_letters() -> None:
    page, objects = glyphs(["o", "ﬃ", "c", "e"])
    assert read(make_pdf([page], objects)) == "office"


def test_accents_before_their_letters_are_joined_to_them() -> None:
    page, objects = glyphs(list("L¨oser caf´e ¨q"))
    assert read(make_pdf([page], objects)) == "Löser café ¨q"
    shown = show(72, 700, "Die Uberschrift der Mu hle") + "BT /F1 12 Tf 97.5 702 Td (\xa8) Tj ET"
    assert read(make_pdf([shown])) == "Die Überschrift der Mu hle"


def test_glyphs_without_a_character_are_marked_and_counted() -> None:
    page, objects = glyphs(["", "", "\ue123"])
    parsed = parse(make_pdf([page, show(72, 700, "Plain.")], objects), "a.pdf")
    assert flat(parsed) == "\ufffd\ufffd\ufffd Plain."
    assert parsed.left_out == {"unknown glyph": 3}


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("is_reversed", [False, True])
def test_vertical_writing(is_reversed: bool, size: int) -> None:
    lines = ["吾輩は猫である", "名前はまだ無い"]
    font = (
        "/F2 << /Type /Font /Subtype /Type0 /BaseFont /HeiseiMin-W3 /Encoding /UniJIS-UCS2-V "
        "/DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 /BaseFont /HeiseiMin-W3 "
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (Japan1) /Supplement 2 >> "
        "/FontDescriptor << /Type /FontDescriptor /FontName /HeiseiMin-W3 /Flags 4 "
        "/FontBBox [0 -200 1000 900] /ItalicAngle 0 /Ascent 900 /Descent -200 /StemV 80 >> >>] >>"
    )
    shown = [
        "".join(
            f"BT /F2 14 Tf 1 0 0 1 {500 - 24 * i} {700 - 14 * at} Tm "
            f"<{line[at : at + size].encode('utf-16-be').hex()}> Tj ET\n"
            for at in range(0, len(line), size)
        )
        for i, line in enumerate(lines)
    ]
    stream = "".join(reversed(shown) if is_reversed else shown)
    parsed = parse(make_pdf([PdfPage(stream, fonts=font)]), "a.pdf")
    assert parsed.text.split() == lines
    first = rectangles_of(
        Document.of(parsed.text, "a", pages=parsed.pages, places=parsed.places), 0, 7
    )
    assert len(first) == 1
    assert first[0].bottom - first[0].top > 5 * (first[0].right - first[0].left)


@pytest.mark.parametrize("is_by_glyphs", [False, True])
def test_right_to_left_columns_begin_at_the_right(is_by_glyphs: bool) -> None:
    right, left = ["אבג דהו", "זחט יכל"], ["מנס עפצ", "קרש תאב"]
    letters = sorted({char for line in right + left for char in line} - {" "})
    page, objects = glyphs(letters)
    stream = ""
    for x, lines in ((150, left), (350, right)):
        for y, line in zip((700, 684), lines, strict=True):
            at = x
            for word in line[::-1].split():  # as it is seen, from left to right
                codes = "".join(chr(97 + letters.index(char)) for char in word)
                for part in codes if is_by_glyphs else [codes]:
                    stream += f"BT /F3 12 Tf 1 0 0 1 {at:g} {y} Tm ({part}) Tj ET\n"
                    at += 8.4 * len(part)
                at += 5
    words = parse(make_pdf([PdfPage(stream, fonts=page.fonts)], objects), "a.pdf").text.split()
    assert words == " ".join(right + left).split()


@pytest.mark.parametrize(
    ("given", "places", "word"),
    [
        ("تينب", [0, 10, 20, 30], "بنيت"),
        ("بنيت", [30, 20, 10, 0], "بنيت"),
        ("نكرال.", [10, 20, 30, 40, 40, 5], "لاركن."),  # lam and alef are one glyph
        ("בְּן", [30, 31, 31, 20], "בְּן"),
    ],
)
def test_words_given_as_they_are_seen_are_turned(given: str, places: list[int], word: str) -> None:
    boxes = np.array([(at, 0, at + 8, 10) for at in places], float)
    assert pdf_words._turn(given, boxes) == word


# --- Forms and notes ------------------------------------------------------------------------------

BOX = "/AP << /N << /Yes {0} 0 R /Off {0} 0 R >> >>".format
EMPTY = "<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Length 0 >>\nstream\n\nendstream"
FORMS = {
    "text": (
        make_form(show(72, 700, "Name:"), "/FT /Tx /T (n) /V (Mara Quill) /Rect [200 694 400 716]"),
        "Name: Mara Quill",
    ),
    "another script": (
        make_form(
            show(72, 700, "Name:"), "/FT /Tx /T (n) /V <FEFF4E2D6587> /Rect [200 695 400 715]"
        ),
        "Name: 中文",
    ),
    "two rows, the lower first": (
        make_form(
            show(72, 700, "Name:") + show(72, 670, "Town:"),
            "/FT /Tx /T (t) /V (Vell) /Rect [200 665 400 682]",
            "/FT /Tx /T (n) /V (Mara) /Rect [200 695 400 712]",
        ),
        "Name: Mara Town: Vell",
    ),
    "boxes": (
        make_form(
            show(100, 700, "a dog") + show(100, 680, "a cat"),
            f"/FT /Btn /T (d) /V /Yes /AS /Yes /Rect [80 698 92 710] {BOX(6)}",
            f"/FT /Btn /T (c) /V /Off /AS /Off /Rect [80 678 92 690] {BOX(6)}",
            objects=[EMPTY],
        ),
        "[x] a dog [ ] a cat",
    ),
    "radio buttons": (
        make_form(
            show(100, 700, "by day") + show(100, 680, "by night"),
            f"/FT /Btn /Ff 32768 /T (w) /V /Yes /AS /Yes /Rect [80 698 92 710] {BOX(5)}",
            objects=[EMPTY],
        ),
        "[x] by day by night",
    ),
    "a choice by its label": (
        make_form(
            show(72, 700, "Coat:"),
            "/FT /Ch /Ff 131072 /T (c) /Opt [[(r) (red felt)] [(b) (blue)]] /V (r) "
            "/Rect [200 695 400 712]",
        ),
        "Coat: red felt",
    ),
    "several choices": (
        make_form(
            "",
            "/FT /Ch /Ff 2097152 /T (c) /Opt [(Vell) (Orsk) (Dunmore)] /V [(Vell) (Dunmore)] "
            "/I [0 2] /Rect [200 640 300 712]",
        ),
        "Vell, Dunmore",
    ),
    "several lines": (
        make_form(
            show(72, 700, "Remarks:") + show(72, 560, "Signed."),
            "/FT /Tx /Ff 4096 /T (r) /V (It burnt.\\nIt stands.) /Rect [72 600 400 690]",
        ),
        "Remarks: It burnt. It stands. Signed.",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_values_of_fields_are_read_beside_their_names(name: str) -> None:
    data, text = FORMS[name]
    assert read(data) == text


def test_notes_are_read() -> None:
    data = make_notes(
        show(72, 700, "First.") + show(72, 500, "Last."),
        "/Subtype /Text /Contents (Ask Ada.) /T (Mara) /Rect [300 700 320 720]",
        "/Subtype /FreeText /Contents (Between.) /Rect [72 590 300 610] /DA (/F1 12 Tf)",
        "/Subtype /Highlight /Contents (Is it true?) /Rect [72 498 130 512] "
        "/QuadPoints [72 512 130 512 72 498 130 498]",
    )
    assert read(data) == "First. Between. Last. [Note by Mara: Ask Ada.] [Note: Is it true?]"


def test_what_a_page_does_not_show_is_counted() -> None:
    hidden = "/Subtype /FreeText /F 2 /Contents (Unseen.) /Rect [72 590 300 610]"
    parsed = parse(make_notes(show(72, 700, "Seen.") + show(2000, 700, "Far off"), hidden), "a.pdf")
    assert flat(parsed) == "Seen."
    assert parsed.left_out == {"hidden note": 1, "word outside the page": 2}
    secret = make_form(
        show(72, 700, "Word:"), "/FT /Tx /Ff 8192 /T (w) /V (swordfish) /Rect [200 695 400 712]"
    )
    parsed = parse(secret, "a.pdf")
    assert (flat(parsed), parsed.left_out) == ("Word:", {"hidden field": 1})


IMAGE = (
    "<< /Type /XObject /Subtype /Image /Width 1 /Height 1 /ColorSpace /DeviceGray "
    "/BitsPerComponent 8 /Length 1 >>\nstream\n0\nendstream"
)


def picture(size: int) -> PdfPage:
    return PdfPage(f"q {size} 0 0 {size} 72 72 cm /I Do Q", resources="/XObject << /I 4 0 R >>")


def test_pages_without_text_and_pictures_are_counted() -> None:
    beside = PdfPage(show(72, 700, "Text.") + picture(200).stream, resources=picture(0).resources)
    parsed = parse(make_pdf([beside, picture(400), PdfPage("")], [IMAGE]), "a.pdf")
    assert parsed.left_out == {"image": 1, "page without text": 1}
    assert [page.end - page.start > 0 for page in parsed.pages] == [True, False, False]


# --- Broken and refused ---------------------------------------------------------------------------


def test_a_broken_page_is_one_note() -> None:
    data = make_pdf(["".join(column(72, 700, [f"Page {i}."])) for i in (1, 2, 3)])
    data = data.replace(b"/Kids [4 0 R 6 0 R 8 0 R]", b"/Kids [4 0 R 99 0 R 8 0 R]")
    parsed = parse(data, "a.pdf")
    assert flat(parsed) == "Page 1. Page 3."
    assert parsed.left_out == {"broken page": 1}
    assert [(page.number, page.end > page.start) for page in parsed.pages] == [
        (1, True),
        (2, False),
        (3, True),
    ]


def test_pictures_alone_are_refused_with_a_way_on() -> None:
    with pytest.raises(DocumentError, match="no text layer") as caught:
        parse(make_pdf([picture(400)], [IMAGE]), "scan.pdf")
    assert "ocrmypdf" in str(caught.value.hint)


@given(st.data())
def test_no_damage_is_a_traceback(data: st.DataObject) -> None:
    content = bytearray(FORMS["several lines"][0])
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=20)):
        content[at] = data.draw(st.integers(0, 255))
    try:
        parsed = parse(bytes(content), "a.pdf")
    except DocumentError:
        return
    assert parsed.pages[-1].end == len(parsed.text)


# --- Places ---------------------------------------------------------------------------------------


def load(data: bytes) -> Document:
    parsed = parse(data, "a.pdf")
    return Document.of(parsed.text, "a.pdf", pages=parsed.pages, places=parsed.places)


def places_of(document: Document, text: str) -> tuple[Rectangle, ...]:
    start = document.text.index(text)
    return rectangles_of(document, start, start + len(text))


def ink(data: bytes, rectangle: Rectangle, scale: float = 2.0) -> float:
    """The share of dark pixels in a rectangle of a rendered page."""
    with pypdfium2.PdfDocument(data) as shown:
        picture = shown[rectangle.page - 1].render(scale=scale, grayscale=True).to_numpy()
    rows = slice(int(rectangle.top * scale), int(rectangle.bottom * scale) + 1)
    columns = slice(int(rectangle.left * scale), int(rectangle.right * scale) + 1)
    return float((picture[rows, columns] < 128).mean())


@pytest.mark.parametrize(
    "entries", ["", "/Rotate 90", "/Rotate 180", "/Rotate 270", "/CropBox [50 100 600 780]"]
)
def test_rectangles_lie_on_the_words_of_the_page_as_shown(entries: str) -> None:
    words = {"Dunmore": (300, 500), "Vell": (120, 650), "Orsk": (400, 200)}
    for word, (x, y) in words.items():
        data = make_pdf([PdfPage(show(x, y, word), entries)])
        (place,) = places_of(load(data), word)
        assert ink(data, place) > 0.1, word
        everything = Rectangle(page=1, left=0, top=0, right=2000, bottom=2000)
        with pypdfium2.PdfDocument(data) as shown:
            width, height = shown[0].get_size()
        dark = ink(data, place) * (place.right - place.left) * (place.bottom - place.top)
        assert dark == pytest.approx(ink(data, everything) * width * height, rel=0.25), word


def test_rectangles_of_columns_and_pages() -> None:
    data = make_pdf([by_rows(LEFT, RIGHT), show(72, 700, "There the story ends.")])
    document = load(data)
    lines = places_of(document, "built by Ada Larkin in\nthe spring of 1911.")
    assert [round(place.left) for place in lines] == [72, 72]
    assert [place.page for place in lines] == [1, 1]
    assert lines[0].bottom <= lines[1].top + 1
    assert lines[0].right < 320
    over = places_of(document, "and was never painted.\n\nThere the story ends.")
    assert [place.page for place in over] == [1, 2]


def test_places_follow_divided_words() -> None:
    data = make_pdf(["".join(column(72, 700, ["It was con-", "tinued by the smiths."]))])
    document = load(data)
    assert "continued by" in document.text
    assert len(places_of(document, "continued")) == 2
    (place,) = places_of(document, "smiths.")
    assert ink(data, place) > 0.1


def test_citations_have_rectangles() -> None:
    document = load(make_pdf([by_rows(LEFT, RIGHT)]))
    pieces = split(document, ApproximateTokenizer(), 512)
    (citation,) = cite(document, pieces, [0], ["paid for by Mara Quill and burnt down once"], [])
    assert citation.verified
    assert citation.rectangles is not None
    assert len(citation.rectangles) == 2
    assert all(place.left > 300 for place in citation.rectangles)
    text = Document.of("Paid for by Mara Quill.", "a.txt")
    (citation,) = cite(text, split(text, ApproximateTokenizer(), 512), [0], [], ["Mara Quill"])
    assert citation.rectangles is None


def test_places_are_packed_and_joined() -> None:
    words = Words(
        np.array([0, 5]), np.array([4, 9]), np.array([0, 1]), np.array([[1, 2, 30, 14.0]] * 2)
    )
    packed = Places.of(words)
    assert packed.words.boxes == pytest.approx(words.boxes, abs=0.01)
    twice = Places.joined([(packed, 0), (packed, 100)]).words
    assert twice.starts.tolist() == [0, 5, 100, 105]
    assert twice.ends.tolist() == [4, 9, 104, 109]
    assert twice.boxes == pytest.approx(np.vstack([words.boxes] * 2), abs=0.01)


def test_parts_read_in_processes_of_their_own_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["A well-known mill", "and a well-", "known weir, con-", "tinued below"]
    data = make_pdf(["".join(column(72, 700, [f"Page {i}.", *lines])) for i in range(5)])
    whole = parse(data, "a.pdf")
    monkeypatch.setattr(pdf, "PAGES", 2)
    parts = pdf.parse(data, "a.pdf")
    assert parts == whole
    assert "a well-known weir, continued below" in flat(parts)
    assert whole.places is not None
    assert parts.places is not None
    for one, other in zip(parts.places.words, whole.places.words, strict=True):
        assert one == pytest.approx(other, abs=0.02)


def test_pages_cover_the_text() -> None:
    parsed = parse(make_pdf(["".join(LEFT), "", "".join(RIGHT)]), "a.pdf")
    assert [page.number for page in parsed.pages] == [1, 2, 3]
    for before, after in pairwise(parsed.pages):
        assert before.end == after.start
    assert parsed.pages[-1].end == len(parsed.text)
