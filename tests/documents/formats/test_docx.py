"""Word documents: what is read, once, and what is named as left out. Files are made by hand."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document

OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"
SPACES = " ".join(
    f'xmlns:{prefix}="{uri}"'
    for prefix, uri in {
        "w": "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "m": f"{OFFICE}/math",
        "r": f"{OFFICE}/relationships",
        "mc": "http://schemas.openxmlformats.org/markup-compatibility/2006",
        "v": "urn:schemas-microsoft-com:vml",
        "o": "urn:schemas-microsoft-com:office:office",
        "wp": "http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing",
        "wps": "http://schemas.microsoft.com/office/word/2010/wordprocessingShape",
        "w14": "http://schemas.microsoft.com/office/word/2010/wordml",
        "a": "http://schemas.openxmlformats.org/drawingml/2006/main",
        "c": "http://schemas.openxmlformats.org/drawingml/2006/chart",
        "dgm": "http://schemas.openxmlformats.org/drawingml/2006/diagram",
    }.items()
)


def r(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def p(*content: str, style: str = "", more: str = "") -> str:
    named = f'<w:pStyle w:val="{style}"/>' if style else ""
    inner = "".join(one if one.startswith("<") else r(one) for one in content)
    return f"<w:p><w:pPr>{named}{more}</w:pPr>{inner}</w:p>"


def item(text: str, num: int = 1, level: int = 0) -> str:
    ids = f'<w:ilvl w:val="{level}"/><w:numId w:val="{num}"/>'
    return p(text, more=f"<w:numPr>{ids}</w:numPr>")


def relationships(links: dict[str, str]) -> str:
    """Builds the relationships of a part: {id: 'kind target'}."""
    rows = (
        f'<Relationship Id="{id_}" Type="{OFFICE}/relationships/{kind}" Target="{target}"/>'
        for id_, (kind, target) in ((id_, one.split()) for id_, one in links.items())
    )
    space = "http://schemas.openxmlformats.org/package/2006/relationships"
    return f'<Relationships xmlns="{space}">{"".join(rows)}</Relationships>'


def docx(body: str, links: dict[str, str] | None = None, **parts: str) -> bytes:
    """Packs a document; a part is named by its file in word/, without the ending."""
    files = {"word/document.xml": f"<w:document {SPACES}><w:body>{body}</w:body></w:document>"}
    files |= {f"word/{name}.xml": content for name, content in parts.items()}
    if links:
        files["word/_rels/document.xml.rels"] = relationships(links)
    return packed(files)


def packed(files: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def read(tmp_path: Path):
    def read(data: bytes, name: str = "a.docx") -> Document:
        (tmp_path / name).write_bytes(data)
        return load_document(str(tmp_path / name))

    return read


def field(kind: str) -> str:
    return f"<w:r><w:fldChar w:fldCharType='{kind}'/></w:r>"


def box(text: str) -> str:
    return f"<w:txbxContent>{p(text)}</w:txbxContent>"


def shape(content: str) -> str:
    """A text box as Word writes it: for new readers, and again for old ones."""
    return (
        '<w:r><mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wps:wsp><wps:txbx>'
        f"{content}</wps:txbx></wps:wsp></w:drawing></mc:Choice><mc:Fallback><w:pict><v:textbox>"
        f"{content}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r>"
    )


MATH = "<m:oMath><m:r><m:t>F=41 kN</m:t></m:r></m:oMath>"
BODIES: dict[str, tuple[str, str]] = {
    "headings and a table": (
        p("Lamps", style="Heading1")
        + p("Ada ", "has one.")
        + f"<w:tbl><w:tr><w:tc>{p('a')}</w:tc><w:tc>{p('b')}</w:tc></w:tr></w:tbl>",
        "# Lamps\n\nAda has one.\n\na | b\n",
    ),
    "hyphens and superscripts": (
        p(
            "<w:r><w:t>pages 3</w:t><w:noBreakHyphen/><w:t>9, 10</w:t></w:r>",
            r("6", '<w:vertAlign w:val="superscript"/>'),
        ),
        "pages 3\u20119, 10^6\n",
    ),
    "soft hyphens are no characters": (
        p("<w:r><w:t>Fahr</w:t><w:softHyphen/><w:t>geld</w:t></w:r>"),
        "Fahrgeld\n",
    ),
    "links whose target is missing": (
        p("See ", f"<w:hyperlink r:id='none'>{r('the mill')}</w:hyperlink>", "."),
        "See the mill.\n",
    ),
    "ends of pages": (p("a", "<w:r><w:br w:type='page'/></w:r>", "b"), "a\nb\n"),
    "line breaks": (p("<w:r><w:t>a</w:t><w:br/><w:t>b</w:t></w:r>"), "a\nb\n"),
    "an equation in a sentence": (p("The load is ", MATH, "."), "The load is F=41 kN.\n"),
    "an equation of its own": (p(f"<m:oMathPara>{MATH}</m:oMathPara>"), "F=41 kN\n"),
    "an equation outside paragraphs": (
        p("a") + f"<m:oMathPara>{MATH}</m:oMathPara>",
        "a\n\nF=41 kN\n",
    ),
    "a text box": (p("Anchor.", shape(box("Box."))), "Anchor.\n\nBox.\n"),
    "a text box in a text box": (
        p("Anchor.", shape(f"<w:txbxContent>{p('Outer.', shape(box('Inner.')))}</w:txbxContent>"))
        + p("After."),
        "Anchor.\n\nOuter.\n\nInner.\n\nAfter.\n",
    ),
    "a text box for new readers only": (
        p(
            "Anchor.",
            f"<w:r><w:drawing><wps:wsp><wps:txbx>{box('Box.')}</wps:txbx></wps:wsp>"
            f"</w:drawing></w:r>",
        ),
        "Anchor.\n\nBox.\n",
    ),
    "lettering drawn as a picture": (
        p('<w:r><w:pict><v:shape><v:textpath string="DRAFT"/></v:shape></w:pict></w:r>', " one"),
        "DRAFT one\n",
    ),
    "the description of a picture": (
        p(
            "Here: ",
            "<w:r><w:drawing><wp:inline><wp:docPr descr='The mill in 1901'/><a:blip r:embed='x'/>"
            "</wp:inline></w:drawing></w:r>",
        ),
        "Here: [image: The mill in 1901]\n",
    ),
    "moved text": (
        p(f"<w:moveFrom>{r('moved ')}</w:moveFrom>", "a")
        + p("b ", f"<w:moveTo>{r('moved')}</w:moveTo>"),
        "a\n\nb moved\n",
    ),
    "content controls around runs, paragraphs, rows": (
        p("Fee: ", f"<w:sdt><w:sdtPr/><w:sdtContent>{r('41')}</w:sdtContent></w:sdt>")
        + f"<w:sdt><w:sdtContent>{p('Whole.')}</w:sdtContent></w:sdt>"
        + f"<w:tbl><w:sdt><w:sdtContent><w:tr><w:tc>{p('x')}</w:tc></w:tr></w:sdtContent>"
        f"</w:sdt></w:tbl>",
        "Fee: 41\n\nWhole.\n\nx\n",
    ),
    "ticked boxes": (
        p(
            "<w:sdt><w:sdtPr><w14:checkbox><w14:checked w14:val='1'/></w14:checkbox></w:sdtPr>"
            f"<w:sdtContent>{r('☒')}</w:sdtContent></w:sdt>",
            " yes ",
            "<w:r><w:fldChar w:fldCharType='begin'><w:ffData><w:checkBox><w:default w:val='0'/>"
            "</w:checkBox></w:ffData></w:fldChar></w:r><w:r><w:instrText>FORMCHECKBOX</w:instrText>"
            "</w:r><w:r><w:fldChar w:fldCharType='end'/></w:r>",
            " no",
        ),
        "☒ yes ☐ no\n",
    ),
    "a chosen line of an old form": (
        p(
            "<w:r><w:fldChar w:fldCharType='begin'><w:ffData><w:ddList><w:result w:val='1'/>"
            "<w:listEntry w:val='oats'/><w:listEntry w:val='rye'/></w:ddList></w:ffData>"
            "</w:fldChar></w:r><w:r><w:fldChar w:fldCharType='end'/></w:r>"
        ),
        "rye\n",
    ),
    "fields": (
        p(
            "See ",
            f"<w:fldSimple w:instr='REF x'>{r('page 4')}</w:fldSimple>",
            "<w:r><w:fldChar w:fldCharType='begin'/></w:r><w:r><w:instrText>DATE</w:instrText>"
            "</w:r>"
            "<w:r><w:fldChar w:fldCharType='separate'/></w:r>",
            " of May",
            "<w:r><w:fldChar w:fldCharType='end'/></w:r>",
        ),
        "See page 4 of May\n",
    ),
    "a field that computes with another": (
        p(
            *(field("begin"), "<w:r><w:instrText>IF </w:instrText></w:r>"),
            *(field("begin"), "<w:r><w:instrText>PAGE</w:instrText></w:r>", field("separate")),
            *("7", field("end"), field("separate"), "shown", field("end")),
        ),
        "shown\n",
    ),
    "the end of a field that never began": (
        p("a", "<w:r><w:fldChar w:fldCharType='end'/></w:r>", "b"),
        "ab\n",
    ),
    "readings above characters": (
        p(
            f"<w:r><w:ruby><w:rt>{r('かんじ')}</w:rt><w:rubyBase>{r('漢字')}</w:rubyBase></w:ruby></w:r>"
        ),
        "漢字(かんじ)\n",
    ),
    "elements around text that nobody knows": (
        p("a", f"<w:dir w:val='rtl'>{r('b')}</w:dir>", f"<w:bdo>{r('c')}</w:bdo>")
        + f"<w:customXml>{p('d')}</w:customXml><w:future>{p('e')}</w:future>",
        "abc\n\nd\n\ne\n",
    ),
    "carriage returns part words": (
        p("<w:r><w:t>1998</w:t><w:cr/><w:t>2001</w:t></w:r>"),
        "1998\n2001\n",
    ),
    "struck text": (
        p(
            "Fee ",
            r("41", "<w:strike/>"),
            r(" 42", "<w:dstrike/>"),
            r(" 45", '<w:strike w:val="0"/>'),
        ),
        "Fee ~~41 42~~ 45\n",
    ),
    "characters of fonts of symbols": (
        p(
            r("x "),
            r("\uf0b3", '<w:rFonts w:ascii="Symbol" w:hAnsi="Symbol"/>'),
            r(" 41, "),
            r("a", '<w:rFonts w:ascii="Symbol"/>'),
            r(" \u00fe", '<w:rFonts w:hAnsi="Wingdings"/>'),
        ),
        "x ≥ 41, α 🗹\n",
    ),
    "a number that is raised by its position": (
        p(
            "10",
            r("6", '<w:position w:val="6"/>'),
            " boats",
            r(" all raised", '<w:position w:val="6"/>'),
        ),
        "10^6 boats all raised\n",
    ),
    "a large first letter": (
        p("T", more='<w:framePr w:dropCap="drop" w:lines="3"/>') + p("he mill."),
        "The mill.\n",
    ),
    "an equation between digits": (
        p(
            "2",
            "<m:oMath><m:f><m:num><m:r><m:t>1</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den>"
            "</m:f></m:oMath>",
            "3",
        ),
        "2 1/2 3\n",
    ),
    "rows that begin in a later column": (
        "<w:tbl>"
        + f"<w:tr><w:tc>{p('a')}</w:tc><w:tc>{p('b')}</w:tc><w:tc>{p('c')}</w:tc></w:tr>"
        + f"<w:tr><w:trPr><w:gridBefore w:val='2'/></w:trPr><w:tc>{p('7')}</w:tc></w:tr></w:tbl>",
        "a | b | c\n|  | 7\n",
    ),
    "a style of one's own in the outline": (
        p("Part", more="<w:outlineLvl w:val='1'/>") + p("Text."),
        "## Part\n\nText.\n",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_a_body_holds(read, name: str) -> None:
    body, text = BODIES[name]
    document = read(docx(body))
    assert document.text == text
    assert document.left_out == {}


@pytest.mark.parametrize("name", BODIES)
def test_strict_files_read_the_same(read, name: str) -> None:
    body, text = BODIES[name]
    data = io.BytesIO(docx(body))
    with zipfile.ZipFile(data) as archive:
        files = {one: archive.read(one) for one in archive.namelist()}
    for kind in (b"wordprocessingml", b"officeDocument", b"drawingml"):
        old = b"http://schemas.openxmlformats.org/" + kind + b"/2006/"
        new = b"http://purl.oclc.org/ooxml/" + kind + b"/"
        files = {one: content.replace(old, new) for one, content in files.items()}
    assert b"purl.oclc.org" in files["word/document.xml"]
    assert read(packed(files)).text == text


def test_parts_of_other_names(read) -> None:
    note = "<w:r><w:footnoteReference w:id='2'/></w:r>"
    notes = (
        f"<w:footnotes {SPACES}><w:footnote w:id='2'>{p('Paid by Mara.')}</w:footnote>"
        f"</w:footnotes>"
    )
    body = f"<w:document {SPACES}><w:body>{p('Old.', note)}</w:body></w:document>"
    files = {
        "_rels/.rels": relationships({"r": "officeDocument text/main.xml"}),
        "text/main.xml": body,
        "text/_rels/main.xml.rels": relationships({"n": "footnotes notes7.xml"}),
        "text/notes7.xml": notes,
    }
    assert read(packed(files)).text == "Old.[1]\n\n1. Paid by Mara.\n"


LEFT_OUT: dict[str, tuple[str, str, dict[str, int]]] = {
    "deleted text": (
        p("a", f"<w:del><w:r><w:delText>b</w:delText></w:r></w:del><w:ins>{r('c')}</w:ins>"),
        "ac\n",
        {"deleted passage": 1},
    ),
    "a deleted row": (
        f"<w:tbl><w:tr><w:tc>{p('a')}</w:tc></w:tr>"
        f"<w:tr><w:trPr><w:del/></w:trPr><w:tc>{p('b')}</w:tc></w:tr></w:tbl>",
        "a\n",
        {"deleted table row": 1},
    ),
    "hidden text": (
        p("a", r("b", "<w:vanish/>"), r("c", '<w:vanish w:val="0"/>')),
        "ac\n",
        {"hidden passage": 1},
    ),
    "pictures": (
        p("a", "<w:r><w:drawing><wp:inline><a:blip r:embed='x'/></wp:inline></w:drawing></w:r>"),
        "a\n",
        {"image": 1},
    ),
    "embedded objects": (
        p(
            "a",
            "<w:r><w:object><v:shape><v:imagedata r:id='x'/></v:shape>"
            "<o:OLEObject ProgID='Excel.Sheet.12'/>"
            "</w:object></w:r><w:r><w:object><o:OLEObject ProgID='Equation.3'/></w:object></w:r>",
        ),
        "a\n",
        {"embedded object": 1, "equation object": 1},
    ),
    "symbols of unknown fonts": (
        p("a", "<w:r><w:sym w:font='Mill Icons' w:char='F0E1'/></w:r>")
        + p("b", "<w:r><w:sym w:font='Wingdings' w:char='F0FC'/></w:r>"),
        "a\n\nb✓\n",
        {"symbol": 1},
    ),
    "equations that a field draws": (
        p(
            "a",
            "<w:r><w:fldChar w:fldCharType='begin'/></w:r><w:r><w:instrText> EQ \\f(1,2)"
            "</w:instrText></w:r><w:r><w:fldChar w:fldCharType='end'/></w:r>",
        ),
        "a\n",
        {"equation object": 1},
    ),
    "a chart whose part is missing": (
        p("a", "<w:r><w:drawing><c:chart r:id='none'/></w:drawing></w:r>"),
        "a\n",
        {"chart": 1},
    ),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_left_out_is_named(read, name: str) -> None:
    body, text, left_out = LEFT_OUT[name]
    document = read(docx(body))
    assert (document.text, document.left_out) == (text, left_out)


def test_comments_and_macros_are_named(read) -> None:
    comments = f"<w:comments {SPACES}><w:comment w:id='0'>{p('Really?')}</w:comment></w:comments>"
    document = read(
        docx(p("a"), comments=comments, vbaProject="").replace(b"Project.xml", b"Project.bin")
    )
    assert document.left_out == {"comment": 1, "macro": 1}
    assert document.text == "a\n"


STYLES = f"""<w:styles {SPACES}>
<w:style w:type="paragraph" w:styleId="Quiet"><w:rPr><w:vanish/></w:rPr></w:style>
<w:style w:type="paragraph" w:styleId="Quieter"><w:basedOn w:val="Quiet"/></w:style>
<w:style w:type="character" w:styleId="Power">
<w:rPr><w:vertAlign w:val="superscript"/></w:rPr></w:style>
<w:style w:type="paragraph" w:styleId="Head"><w:name w:val="My head"/>
<w:pPr><w:outlineLvl w:val="0"/><w:numPr><w:numId w:val="2"/></w:numPr></w:pPr></w:style>
<w:style w:type="paragraph" w:styleId="T"><w:name w:val="Title"/></w:style>
<w:style w:type="paragraph" w:styleId="Loop"><w:basedOn w:val="Loop"/></w:style>
<w:style w:type="numbering" w:styleId="Law">
<w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>
</w:styles>"""


@pytest.mark.parametrize(
    "renamed", [lambda name: name.replace("/", "\\"), "My file/{}".format, "./{}".format]
)
def test_archives_packed_anew_by_other_programs(read, renamed) -> None:
    with zipfile.ZipFile(io.BytesIO(docx(p("The fee is 41.")))) as archive:
        files = {renamed(name): archive.read(name) for name in archive.namelist()}
    root = {renamed("[Content_Types].xml"): b"<x/>", "__MACOSX/._x": b"junk"}
    assert read(packed({**root, **files})).text == "The fee is 41.\n"


def test_styles_hide_raise_and_head(read) -> None:
    body = (
        p("The mill", style="T")
        + p("secret", style="Quieter")
        + p("10", r("6", '<w:rStyle w:val="Power"/>'), style="Loop")
        + p("Costs", style="Head")
    )
    document = read(docx(body, styles=STYLES))
    assert document.text == "# The mill\n\n10^6\n\n# Costs\n"
    assert document.title == "The mill"
    assert document.left_out == {"hidden passage": 1}


def level(depth: int, kind: str, text: str, more: str = "") -> str:
    return (
        f'<w:lvl w:ilvl="{depth}"><w:start w:val="1"/><w:numFmt w:val="{kind}"/>'
        f'<w:lvlText w:val="{text}"/>{more}</w:lvl>'
    )


NUMBERING = f"""<w:numbering {SPACES}>
<w:abstractNum w:abstractNumId="0">{level(0, "decimal", "%1.")}{level(1, "lowerLetter", "(%2)")}
{level(2, "decimal", "%1.%2.%3", "<w:isLgl/>")}{level(3, "bullet", "o")}
{level(6, "decimal", "deep %7")}</w:abstractNum>
<w:abstractNum w:abstractNumId="1">
{level(0, "upperRoman", "Article %1", '<w:pStyle w:val="Head"/>')}
{level(1, "decimal", "%1.%2", "<w:lvlRestart w:val='0'/>")}</w:abstractNum>
<w:abstractNum w:abstractNumId="2"><w:numStyleLink w:val="Law"/></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>
<w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>
<w:num w:numId="3"><w:abstractNumId w:val="0"/><w:lvlOverride w:ilvl="0">
<w:startOverride w:val="7"/></w:lvlOverride></w:num>
<w:num w:numId="4"><w:abstractNumId w:val="2"/></w:num>
</w:numbering>"""
LISTS: dict[str, tuple[str, str]] = {
    "levels": (
        item("a") + item("b", level=1) + item("c", level=1) + item("d", level=2) + item("e"),
        "1. a\n  (a) b\n  (b) c\n    1.2.1 d\n2. e\n",
    ),
    "a list goes on after a paragraph": (
        item("a") + p("between") + item("b"),
        "1. a\n\nbetween\n\n2. b\n",
    ),
    "inner levels begin again": (
        item("a") + item("b", level=1) + item("c") + item("d", level=1),
        "1. a\n  (a) b\n2. c\n  (a) d\n",
    ),
    "bullets stay": (item("a") + item("b", level=3), "1. a\n  - b\n"),
    "numbers that a list starts with": (item("a", 3) + item("b", 3), "7. a\n8. b\n"),
    "an instance starts anew, then goes on": (
        item("a") + item("b", 3) + item("c"),
        "1. a\n7. b\n8. c\n",
    ),
    "numbered headings": (
        p("Grain", style="Head") + p("Oats", style="Head"),
        "# Article I Grain\n\n# Article II Oats\n",
    ),
    "a level that never restarts": (
        item("a", 2) + item("b", 2, 1) + item("c", 2) + item("d", 2, 1),
        "Article I a\n  I.1 b\nArticle II c\n  II.2 d\n",
    ),
    "a definition that refers to a style": (item("a", 4), "1. a\n"),
    "the number of an empty paragraph counts, but is not written": (
        item("a") + "<w:p><w:pPr><w:numPr><w:ilvl w:val='0'/><w:numId w:val='1'/></w:numPr>"
        "</w:pPr></w:p>" + item("b"),
        "1. a\n3. b\n",
    ),
    "numbering taken away": (item("a", 0), "a\n"),
    "a list that is not defined": (item("a", 99), "a\n"),
    "in a table": (
        f"<w:tbl><w:tr><w:tc>{item('a')}</w:tc><w:tc>{item('b')}</w:tc></w:tr></w:tbl>",
        "1. a | 2. b\n",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_have_the_numbers_that_word_shows(read, name: str) -> None:
    body, text = LISTS[name]
    assert read(docx(body, numbering=NUMBERING, styles=STYLES)).text == text


def test_headers_and_footers_are_read_once(read) -> None:
    section = (
        "<w:sectPr><w:headerReference w:type='default' r:id='h'/>"
        "<w:footerReference r:id='f'/></w:sectPr>"
    )
    first = (
        "<w:sectPr><w:headerReference w:type='first' r:id='x'/>"
        "<w:headerReference r:id='h2'/></w:sectPr>"
    )
    number = "<w:r><w:instrText> PAGE </w:instrText></w:r>"
    headers = {
        "header1": f"<w:hdr {SPACES}>{p('Draft 3')}</w:hdr>",
        "header2": f"<w:hdr {SPACES}>{p('Draft 3')}</w:hdr>",
        "headerx": f"<w:hdr {SPACES}>{p('never shown')}</w:hdr>",
        "footer1": f"<w:ftr {SPACES}>"
        f"{p('Page ', number, '1')}{p('Mill Ltd', number, ' confidential 1')}</w:ftr>",
    }
    links = {
        "h": "header header1.xml",
        "h2": "header header2.xml",
        "x": "header headerx.xml",
        "f": "footer footer1.xml",
    }
    body = p("a", more=section) + p("b") + first
    document = read(docx(body, links, **headers))
    assert document.text == "Draft 3\n\na\n\nb\n\nMill Ltd confidential 1\n"


def test_charts_and_diagrams_are_read(read) -> None:
    def points(role: str, *values: str) -> str:
        found = "".join(f'<c:pt idx="{i}"><c:v>{v}</c:v></c:pt>' for i, v in enumerate(values))
        return f"<c:{role}><c:numRef><c:numCache>{found}</c:numCache></c:numRef></c:{role}>"

    series = "".join(
        f"<c:ser>{points('tx', name)}{points('cat', 'North', 'South')}{points('val', *values)}"
        f"</c:ser>"
        for name, values in (("Sales", ("19", "21")), ("Costs", ("7", "8")))
    )
    title = "<c:title><a:p><a:r><a:t>Grain, t</a:t></a:r></a:p></c:title>"
    parts = {
        "chart1": f"<c:chartSpace {SPACES}><c:chart>{title}<c:plotArea><c:barChart>{series}"
        f"</c:barChart>"
        "</c:plotArea></c:chart></c:chartSpace>",
        "data1": f"<dgm:dataModel {SPACES}><dgm:pt><a:p><a:r><a:t>Sow</a:t></a:r></a:p></dgm:pt>"
        "<dgm:pt><a:p/></dgm:pt><dgm:pt><a:p><a:r><a:t>Reap</a:t></a:r></a:p></dgm:pt>"
        "</dgm:dataModel>",
    }
    drawings = (
        "<w:r><w:drawing><c:chart r:id='c'/></w:drawing></w:r><w:r><w:drawing>"
        "<dgm:relIds r:dm='d'/></w:drawing></w:r>"
    )
    document = read(
        docx(p("See:", drawings), {"c": "chart chart1.xml", "d": "diagramData data1.xml"}, **parts)
    )
    assert document.text == (
        "See:\n\nGrain, t\n| Sales | Costs\nNorth | 19 | 7\nSouth | 21 | 8\n\nSow\n\nReap\n"
    )
    assert document.left_out == {}


def test_texts_embedded_as_files_are_read(read) -> None:
    data = docx(
        "<w:altChunk r:id='h'/><w:altChunk r:id='d'/>" + p("b"),
        {"h": "aFChunk a.htm", "d": "aFChunk d.docx"},
    )
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("word/a.htm", "<html><body><h1>Mail</h1><p>from Ada</p></body></html>")
        archive.writestr("word/d.docx", docx(p("inner")))
    document = read(out.getvalue())
    assert document.text == "# Mail\n\nfrom Ada\n\nb\n"
    assert document.left_out == {"embedded document": 1}


@pytest.mark.parametrize("part", ["<w", "<w:document/>", ""])
def test_broken_files_say_so(read, part: str) -> None:
    with pytest.raises(DocumentError, match=r"broken|contains no text"):
        read(packed({"word/document.xml": part, "a.txt": "x"}))
