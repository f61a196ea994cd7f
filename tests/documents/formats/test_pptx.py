"""Presentations: slides as pages, and what is named as left out."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pptx
import pytest
from lxml import etree
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from agenticlu.core.records import Document
from agenticlu.documents import load_document

A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'
MATH = (
    '<a14:m xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"><m:oMathPara><m:oMath>'
    "<m:r><m:t>F=41 kN</m:t></m:r></m:oMath></m:oMathPara></a14:m>"
)
PIXEL = base64.b64decode(
    "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7",
)


def box(slide: Any, top: float, text: str = "", left: float = 1) -> Any:
    made = slide.shapes.add_textbox(Inches(left), Inches(top), Inches(3), Inches(1))
    made.text_frame.text = text
    return made


def saved(presentation: Any) -> bytes:
    out = io.BytesIO()
    presentation.save(out)
    return out.getvalue()


@pytest.fixture
def read(tmp_path: Path):
    def read(data: bytes, name: str = "a.pptx") -> Document:
        (tmp_path / name).write_bytes(data)
        return load_document(str(tmp_path / name))

    return read


def slide_with(layout: int = 6, title: str = "") -> tuple[Any, Any]:
    presentation = pptx.Presentation()
    slide = presentation.slides.add_slide(presentation.slide_layouts[layout])
    if title:
        slide.shapes.title.text = title
    return presentation, slide


def test_slides_are_pages(read) -> None:
    presentation, slide = slide_with(1, "The mill")
    frame = slide.placeholders[1].text_frame
    frame.text = "Oats"
    frame.add_paragraph().text = "White oats"
    frame.paragraphs[1].level = 1
    frame.add_paragraph().text = "Rye"
    slide.notes_slide.notes_text_frame.text = "Speak slowly."
    for title, shown in (("Never shown", "0"), ("Costs", "1")):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5])
        slide.shapes.title.text = title
        slide.element.set("show", shown)
    document = read(saved(presentation))
    first = "## The mill\n\n- Oats\n  - White oats\n- Rye\n\nNotes: Speak slowly.\n\n"
    assert document.text == first + "## Costs\n\n"
    assert document.title == "The mill"
    assert [(page.name, document.text[page.start : page.end]) for page in document.pages] == [
        ("slide 1", first),
        ("slide 2", ""),
        ("slide 3", "## Costs\n\n"),
    ]
    assert document.left_out == {"hidden slide": 1}


def looks(slide: Any) -> None:
    paragraph = box(slide, 1, "").text_frame.paragraphs[0]
    fonts = f'<a:latin {A} typeface="Symbol"/>', f'<a:sym {A} typeface="Symbol"/>'
    for text, strike, font in (
        *(("41", "sngStrike", ""), (" 45 ", "noStrike", "")),
        *(("\uf0b3", "", fonts[1]), (" ", "", fonts[1]), ("a", "", fonts[0])),
    ):
        run = paragraph.add_run()
        run.text = text
        properties = run._r.get_or_add_rPr()
        if strike:
            properties.set("strike", strike)
        if font:
            properties.append(etree.fromstring(font))


def numbered(slide: Any) -> None:
    frame = box(slide, 1, "a").text_frame
    for text in ("b", "c"):
        frame.add_paragraph().text = text
    for one in frame.paragraphs:
        one._p.get_or_add_pPr().append(
            etree.fromstring(f'<a:buAutoNum {A} type="alphaLcParenR" startAt="3"/>')
        )


def table(slide: Any) -> None:
    made = slide.shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1)).table
    for row in range(2):
        for column in range(2):
            made.cell(row, column).text = f"{row}{column}"


def grouped(slide: Any) -> None:
    group = slide.shapes.add_group_shape().shapes.add_group_shape()
    inner = group.shapes.add_textbox(Inches(1), Inches(1), Inches(1), Inches(1))
    inner.text_frame.text = "Deep inside"


def chart(slide: Any) -> None:
    data = CategoryChartData()
    data.categories = ["North", "South"]
    data.add_series("Sales", (19.25, 21.5))
    place = (Inches(1), Inches(1), Inches(4), Inches(2))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *place, data).chart.has_title = False


def chart_in_two_rows(slide: Any) -> None:
    data = CategoryChartData()
    for year in ("2023", "2024"):
        outer = data.add_category(year)
        for quarter in ("Q1", "Q2"):
            outer.add_sub_category(quarter)
    data.add_series("Sales", (1, 2, 3, 4))
    place = (Inches(1), Inches(1), Inches(4), Inches(2))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *place, data).chart.has_title = False


def equation(slide: Any, before: str = "Load: ") -> None:
    box(slide, 1, before).text_frame.paragraphs[0]._p.append(etree.fromstring(MATH))


def equation_as_powerpoint_writes_it(slide: Any) -> None:
    """The whole box in two renderings: text for new programs, a picture for old ones."""
    equation(slide)
    element = slide.shapes[0].element
    spaces = {
        "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
    }
    both = etree.Element(f"{{{spaces['mc']}}}AlternateContent", nsmap=spaces)
    element.getparent().replace(element, both)
    choice = etree.SubElement(both, f"{{{spaces['mc']}}}Choice", Requires="a14")
    choice.append(element)
    etree.SubElement(both, f"{{{spaces['mc']}}}Fallback")


def powers(slide: Any) -> None:
    paragraph = box(slide, 1, "10").text_frame.paragraphs[0]
    for text, baseline in (("6", "30000"), (" t", None)):
        run = paragraph.add_run()
        run.text = text
        if baseline:
            run._r.get_or_add_rPr().set("baseline", baseline)


def columns(slide: Any) -> None:
    box(slide, 3, "third")
    slide.shapes.add_shape(1, 0, 0, Inches(20), Inches(20))  # a background without text
    box(slide, 1, "second", left=4.1)
    box(slide, 1, "first")


def cards(slide: Any) -> None:
    for column, word in enumerate(("Oats", "Rye", "Maize")):
        box(slide, 1, word, left=1 + 4 * column)
    for column, price in enumerate((12, 15, 19)):
        box(slide, 2.1, f"{price} a sack", left=1 + 4 * column)


def labelled_rows(slide: Any) -> None:
    for row, year in enumerate((1901, 1924)):
        box(slide, 1 + 3 * row, f"{year}", left=1)
        box(slide, 1 + 3 * row, f"fire {row}", left=4.2)


def described(slide: Any) -> None:
    picture = slide.shapes.add_picture(io.BytesIO(PIXEL), 0, 0)
    picture._element.nvPicPr.cNvPr.set("descr", "The mill in 1901")


SLIDES: dict[str, tuple[Callable[[Any], None], str]] = {
    "numbers that start late": (numbered, "c) a\nd) b\ne) c\n\n"),
    "tables": (table, "00 | 01\n10 | 11\n\n"),
    "groups in groups": (grouped, "Deep inside\n\n"),
    "charts": (chart, "| Sales\nNorth | 19.25\nSouth | 21.5\n\n"),
    "charts with years above quarters": (
        chart_in_two_rows,
        "| Sales\n2023 Q1 | 1\n2023 Q2 | 2\n2024 Q1 | 3\n2024 Q2 | 4\n\n",
    ),
    "equations": (equation, "Load: F=41 kN\n\n"),
    "equations alone in a box": (lambda slide: equation(slide, ""), "F=41 kN\n\n"),
    "boxes in two renderings": (equation_as_powerpoint_writes_it, "Load: F=41 kN\n\n"),
    "powers": (powers, "10^6 t\n\n"),
    "boxes from top to bottom": (columns, "first\n\nsecond\n\nthird\n\n"),
    "columns of boxes": (
        cards,
        "Oats\n\n12 a sack\n\nRye\n\n15 a sack\n\nMaize\n\n19 a sack\n\n",
    ),
    "rows of boxes": (labelled_rows, "1901\n\nfire 0\n\n1924\n\nfire 1\n\n"),
    "descriptions of pictures": (described, "[image: The mill in 1901]\n\n"),
    "line breaks": (lambda slide: box(slide, 1, "a\vb"), "a\nb\n\n"),
    "struck figures and signs of a font of symbols": (looks, "~~41~~ 45 ≥ α\n\n"),
}


@pytest.mark.parametrize("name", SLIDES)
def test_what_a_slide_holds(read, name: str) -> None:
    presentation, slide = slide_with()
    SLIDES[name][0](slide)
    document = read(saved(presentation))
    assert document.text.lstrip() == SLIDES[name][1]
    assert document.left_out == {}


def test_pictures_and_hidden_shapes_are_named(read) -> None:
    presentation, slide = slide_with(5, "Title")
    slide.shapes.add_picture(io.BytesIO(PIXEL), 0, 0)
    box(slide, 1, "secret")._element.nvSpPr.cNvPr.set("hidden", "1")
    document = read(saved(presentation))
    assert document.text == "## Title\n\n"
    assert document.left_out == {"image": 1, "hidden shape": 1}


def repacked(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def strict(name: str, data: bytes) -> bytes:
    for kind in (b"presentationml", b"officeDocument", b"drawingml"):
        old = b"http://schemas.openxmlformats.org/" + kind + b"/2006/"
        data = data.replace(old, b"http://purl.oclc.org/ooxml/" + kind + b"/")
    return data


def as_kind(kind: bytes) -> Callable[[str, bytes], bytes]:
    plain = b"application/vnd.openxmlformats-officedocument.presentationml.presentation.main"
    return lambda name, data: data.replace(plain, b"application/vnd." + kind)


@pytest.mark.parametrize(
    "change",
    [
        strict,
        as_kind(b"openxmlformats-officedocument.presentationml.slideshow.main"),
        as_kind(b"openxmlformats-officedocument.presentationml.template.main"),
        as_kind(b"ms-powerpoint.presentation.macroEnabled.main"),
    ],
    ids=["Strict", "show", "template", "with macros"],
)
def test_other_kinds_of_presentations(read, change: Callable[[str, bytes], bytes]) -> None:
    presentation, slide = slide_with(5, "The fee is 41.")
    chart(slide)
    plain = saved(presentation)
    changed = repacked(plain, change)
    assert changed != plain
    assert read(changed).text == read(plain).text
    assert "The fee is 41." in read(changed).text


def test_a_footer_is_read_once(read) -> None:
    presentation = pptx.Presentation()
    for title in ("One", "Two"):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5])
        slide.shapes.title.text = title
        for kind, text in (("ftr", "Mill Ltd"), ("sldNum", "7")):
            place = box(slide, 7, text)._element.nvSpPr.nvPr
            place.append(
                etree.fromstring(
                    '<p:ph xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
                    f'type="{kind}"/>'
                )
            )
    assert read(saved(presentation)).text == "## One\n\nMill Ltd\n\n## Two\n\n"
