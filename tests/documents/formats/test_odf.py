"""OpenDocument files, made by hand in the flat form and packed into the usual one."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document

NAMES = {
    **{"office": "office", "text": "text", "table": "table", "draw": "drawing", "style": "style"},
    **{"fo": "xsl-fo-compatible", "svg": "svg-compatible", "presentation": "presentation"},
    **{"chart": "chart", "meta": "meta", "number": "datastyle"},
}
SPACES = " ".join(
    f'xmlns:{prefix}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for prefix, name in NAMES.items()
) + (
    ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:math="http://www.w3.org/1998/Math/MathML"'
)


def level(depth: int, number_format: str, more: str = "") -> str:
    return (
        f'<text:list-level-style-number text:level="{depth}" '
        f'style:num-format="{number_format}" style:num-suffix="." {more}/>'
    )


STYLES = f"""<office:automatic-styles>
<style:style style:name="Up" style:family="text"><style:text-properties
 style:text-position="super 58%"/></style:style>
<style:style style:name="Down" style:family="text"><style:text-properties
 style:text-position="-25% 58%"/></style:style>
<style:style style:name="Struck" style:family="text"><style:text-properties
 style:text-line-through-style="solid"/></style:style>
<style:style style:name="Gone" style:family="text"><style:text-properties text:display="none"/>
</style:style>
<style:style style:name="GonePage" style:family="drawing-page"><style:drawing-page-properties
 presentation:visibility="hidden"/></style:style>
<style:style style:name="GoneTable" style:family="table"><style:table-properties
 table:display="false"/></style:style>
<style:style style:name="P1" style:family="paragraph" style:parent-style-name="Title"/>
<style:style style:name="Title" style:family="paragraph"/>
<style:style style:name="Loop" style:family="paragraph" style:parent-style-name="Loop"/>
<text:list-style style:name="L">{level(1, "1")}{level(2, "a", 'text:display-levels="2"')}
{level(3, "", "")}</text:list-style>
</office:automatic-styles>"""


def flat(kind: str, body: str, styles: str = STYLES) -> bytes:
    inner = f"<office:body><office:{kind}>{body}</office:{kind}></office:body>"
    whole = f"<office:document {SPACES}>{styles}{inner}</office:document>"
    return f"<?xml version='1.0'?>\n{whole}".encode()


def package(kind: str, body: str, styles: str = STYLES, **parts: str) -> bytes:
    mime = "application/vnd.oasis.opendocument.text"
    content = flat(kind, body, styles).replace(b"office:document", b"office:document-content")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", mime)
        archive.writestr("content.xml", content.replace(b"-content-content", b"-content"))
        for name, part in parts.items():
            archive.writestr(f"{name.replace('__', '/')}.xml", part)
    return out.getvalue()


@pytest.fixture
def read(tmp_path: Path):
    def read(data: bytes, name: str = "a.odt") -> Document:
        (tmp_path / name).write_bytes(data)
        return load_document(str(tmp_path / name))

    return read


def p(inner: str) -> str:
    return f"<text:p>{inner}</text:p>"


def item(*inner: str, more: str = "") -> str:
    return f"<text:list-item {more}>{''.join(inner)}</text:list-item>"


def listed(*items: str, more: str = "") -> str:
    return f'<text:list text:style-name="L" {more}>{"".join(items)}</text:list>'


def frame(inner: str, more: str = "") -> str:
    return f"<draw:frame {more}>{inner}</draw:frame>"


def row(*cells: str, more: str = "") -> str:
    made = (
        one if one.startswith("<") else f"<table:table-cell>{p(one)}</table:table-cell>"
        for one in cells
    )
    return f"<table:table-row {more}>{''.join(made)}</table:table-row>"


def table(*rows: str, more: str = "") -> str:
    return f"<table:table {more}>{''.join(rows)}</table:table>"


TEXTS: dict[str, tuple[str, str]] = {
    "headings": (
        '<text:h text:outline-level="2">Grain</text:h>' + p("Oats."),
        "## Grain\n\nOats.\n",
    ),
    "a title": ('<text:p text:style-name="P1">The mill</text:p>', "# The mill\n"),
    "scripts": (
        p(
            '10<text:span text:style-name="Up">6</text:span> H<text:span text:style-name="Down">2'
            "</text:span>O"
        ),
        "10^6 H2O\n",
    ),
    "struck figures": (
        p('Fee <text:span text:style-name="Struck">41</text:span> 45'),
        "Fee ~~41~~ 45\n",
    ),
    "spaces, tabs, line ends": (
        p('a<text:s text:c="3"/>b<text:tab/>c<text:line-break/>d <text:span>e</text:span> f'),
        "a b c\nd e f\n",
    ),
    "numbers of lists": (
        listed(item(p("a"), listed(item(p("b")), item(p("c")))), item(p("d"))),
        "1. a\n  1.a. b\n  1.b. c\n2. d\n",
    ),
    "a list that goes on": (
        listed(item(p("a")), more='xml:id="x"')
        + p("between")
        + listed(item(p("b")), more='text:continue-list="x"')
        + p("again")
        + listed(item(p("c"))),
        "1. a\n\nbetween\n\n2. b\n\nagain\n\n1. c\n",
    ),
    "numbers given": (
        listed(item(p("a"), more='text:start-value="7"'), item(p("b"))),
        "7. a\n8. b\n",
    ),
    "a heading in a list": (
        listed(item('<text:h text:outline-level="1">Grain</text:h>')),
        "# 1. Grain\n",
    ),
    "a skipped level": (listed(item(listed(item(p("a"))))), "1.a. a\n"),
    "tables with merged cells": (
        table(
            row(
                '<table:table-cell table:number-columns-spanned="2"><text:p>a</text:p>'
                "</table:table-cell><table:covered-table-cell/>",
                "b",
            ),
            row("c", "d", "e"),
        ),
        "a |  | b\nc | d | e\n",
    ),
    "notes": (
        p(
            'Old.<text:note text:note-class="footnote"><text:note-citation>1</text:note-citation>'
            "<text:note-body><text:p>Paid by Mara.</text:p></text:note-body></text:note> New."
        )
        + p("End."),
        "Old.[1] New.\n\nEnd.\n\n[1] Paid by Mara.\n",
    ),
    "readings": (
        p(
            "<text:ruby><text:ruby-base>漢字</text:ruby-base><text:ruby-text>かんじ</text:ruby-text>"
            "</text:ruby>"
        ),
        "漢字(かんじ)\n",
    ),
    "text boxes": (
        p("a" + frame(f"<draw:text-box>{p('Box.')}</draw:text-box>") + "b"),
        "ab\n\nBox.\n",
    ),
    "drawn shapes": (
        p(f"a<draw:g><draw:rect>{p('In a group.')}</draw:rect></draw:g>"),
        "a\n\nIn a group.\n",
    ),
    "descriptions of pictures": (
        p("See " + frame("<draw:image/><svg:desc>The mill in 1901</svg:desc>") + "."),
        "See [image: The mill in 1901].\n",
    ),
    "sections and indexes": (
        f"<text:section>{p('a')}</text:section><text:table-of-content><text:index-body>"
        f"{p('Grain 4')}</text:index-body></text:table-of-content>",
        "a\n\nGrain 4\n",
    ),
    "fields and inserted text": (
        p(
            'a <text:change-start text:change-id="x"/><text:date>9 May</text:date>'
            '<text:change-end text:change-id="x"/> <text:text-input>b</text:text-input>'
        ),
        "a 9 May b\n",
    ),
    "a style based on itself": ('<text:p text:style-name="Loop">a</text:p>', "a\n"),
}


@pytest.mark.parametrize("form", [flat, package])
@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_holds(read, name: str, form) -> None:
    body, text = TEXTS[name]
    document = read(form("text", body), "a.fodt" if form is flat else "a.odt")
    assert document.text == text
    assert document.left_out == {}


def test_formulas_and_charts(read) -> None:
    formula = (
        f"<math:math {SPACES}><math:mi>F</math:mi><math:mo>=</math:mo>"
        f"<math:mn>41</math:mn></math:math>"
    )
    chart = (
        f"<office:document-content {SPACES}><office:body><office:chart><chart:chart><chart:title>"
        f"{p('Grain, t')}</chart:title>{table(row('', 'Sales'), row('North', '19'))}</chart:chart>"
        "</office:chart></office:body></office:document-content>"
    )
    body = p("Load " + frame('<draw:object xlink:href="./Object 1"/><draw:image/>')) + p(
        "See" + frame('<draw:object xlink:href="./Object 2"/><draw:image/>')
    )
    parts = {"Object 1__content": formula, "Object 2__content": chart}
    document = read(package("text", body, **parts))
    assert document.text == "Load F = 41\n\nSee\n\nGrain, t\n\n| Sales\nNorth | 19\n"
    assert document.left_out == {}


def test_what_is_left_out_is_named(read) -> None:
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p>"
        "</text:deletion></text:changed-region></text:tracked-changes>"
        + p("a<office:annotation><text:p>Really?</text:p></office:annotation>")
        + p('<text:span text:style-name="Gone">secret</text:span>b')
        + p("c" + frame("<draw:image/>") + frame("<draw:object-ole/>") + frame("<draw:plugin/>"))
        + p(frame('<draw:object xlink:href="./none"/>'))
    )
    document = read(package("text", body, Basic__Standard__Module1="<x/>"))
    assert document.text == "a\n\nb\n\nc\n"
    assert document.left_out == {
        "deleted passage": 1,
        "comment": 1,
        "hidden passage": 1,
        "image": 1,
        "embedded object": 2,
        "recording": 1,
        "macro": 1,
    }


def test_headers_and_footers_are_read_once(read) -> None:
    number = "<text:page-number>3</text:page-number>"
    master = (
        f"<office:master-styles><style:master-page><style:header>{p('Draft 3')}</style:header>"
        f"<style:footer>{p(f'Page {number}')}{p(f'Mill Ltd, confidential {number}')}</style:footer>"
        f"</style:master-page><style:master-page><style:header>{p('Draft 3')}</style:header>"
        "</style:master-page></office:master-styles>"
    )
    document = read(flat("text", p("a"), STYLES + master))
    assert document.text == "Draft 3\n\na\n\nMill Ltd, confidential\n"


def test_workbooks_show_what_their_cells_display(read) -> None:
    value = '<table:table-cell office:value-type="percentage" office:value="0.256">'
    empty = '<table:table-cell table:number-columns-repeated="{}"/>'
    sheets = table(
        row("Item", "Price", "Share"),
        row("Oats", "1.234,50 €", f"{value}<text:p>25,6 %</text:p></table:table-cell>"),
        row(more='table:number-rows-repeated="5"'),
        row("Rye", empty.format(1), f"{value}</table:table-cell>"),
        row(empty.format(1000), more='table:number-rows-repeated="1048000"'),
        more='table:name="Prices"',
    ) + table(row("secret"), more='table:name="Gone" table:style-name="GoneTable"')
    document = read(flat("spreadsheet", sheets), "a.fods")
    assert document.text == (
        "## Prices\n\nA1: Item | B1: Price | C1: Share\n"
        "Row 2: Item: Oats | Price: 1.234,50 € | Share: 25,6 %\n"
        "Row 8: Item: Rye | Share: 0.256\n\n"
    )
    assert document.left_out == {"hidden sheet": 1}
    assert [page.name for page in document.pages] == ["sheet Prices", "sheet Gone"]


def test_repeated_rows_are_read_and_the_rest_is_counted(read) -> None:
    sheet = table(row("x", more='table:number-rows-repeated="1048000"'), more='table:name="S"')
    document = read(flat("spreadsheet", sheet), "a.fods")
    assert document.text.count("x") == 1000
    assert document.left_out == {"repeated row": 1_047_000}


def test_slides_are_pages(read) -> None:
    def slide(*frames: str, more: str = "") -> str:
        return f"<draw:page {more}>{''.join(frames)}</draw:page>"

    def box(inner: str, more: str = "") -> str:
        return frame(f"<draw:text-box>{inner}</draw:text-box>", more)

    notes = box(p("Slowly."), 'presentation:class="notes"')
    body = (
        slide(
            box(p("below"), 'svg:y="5cm"'),
            box(p("The mill"), 'presentation:class="title" svg:y="9cm"'),
            box(p("above"), 'svg:y="20mm"'),
            f"<presentation:notes>{notes}</presentation:notes>",
        )
        + slide(box(p("secret")), more='draw:style-name="GonePage"')
        + slide(frame(table(row("a", "b")) + "<draw:image/>"))
    )
    document = read(flat("presentation", body), "a.fodp")
    first = "## The mill\n\nabove\n\nbelow\n\nNotes: Slowly.\n\n"
    assert document.text == first + "a | b\n\n"
    assert [(page.name, page.end - page.start) for page in document.pages] == [
        ("slide 1", len(first)),
        ("slide 2", 0),
        ("slide 3", 7),
    ]
    assert document.left_out == {"hidden slide": 1}
    assert document.title == "The mill"


def test_a_text_about_the_format_is_no_file_of_it(read) -> None:
    about = "The root is `<office:document ...>`.\n"
    assert read(about.encode(), "a.md").text == about


LOCKED = {"META-INF__manifest": "<m><encryption-data/></m>"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (package("text", p("a"), **LOCKED), "encrypted"),
        (package("chart", p("a")), "without text"),
        (package("text", p("a")).replace(b"<text:p>a", b"<text:q>a"), "broken"),
        (flat("text", p("a")).replace(b"</text:p>", b"</text:q>"), "broken"),
    ],
    ids=["encrypted", "a chart of its own", "torn package", "torn flat file"],
)
def test_what_cannot_be_read_says_why(read, data: bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        read(data)
