"""A small document of each format, and ways to damage one: for fuzzers and `hostile_many.py`."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from collections.abc import Callable

from made_pdf import make_pdf

SAID = "Ada Larkin built the mill in 1802."
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
TYPES = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">{}</Types>'


def pack(files: dict[str, str]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def unpack(data: bytes) -> dict[str, str]:
    """Returns the files of an archive; none where it is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {one: archive.read(one).decode(errors="replace") for one in archive.namelist()}
    except Exception:  # whatever the archive makes the module raise
        return {}


def relations(*targets: tuple[str, str]) -> str:
    inner = "".join(
        f'<Relationship Id="rId{number}" Type="{RELATIONS}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(targets, 1)
    )
    return f"<Relationships {PACKAGE}>{inner}</Relationships>"


def make_docx() -> bytes:
    numbered = '<w:pPr><w:numPr><w:ilvl w:val="0"/><w:numId w:val="1"/></w:numPr></w:pPr>'
    cell = "<w:tc><w:p><w:r><w:t>Cell</w:t></w:r></w:p></w:tc>"
    return pack(
        {
            "[Content_Types].xml": TYPES.format(""),
            "_rels/.rels": relations(("officeDocument", "word/document.xml")),
            "word/_rels/document.xml.rels": relations(
                ("footnotes", "footnotes.xml"), ("numbering", "numbering.xml")
            ),
            "word/document.xml": f"<w:document {W}><w:body>"
            f'<w:p><w:pPr><w:pStyle w:val="Heading1"/></w:pPr><w:r><w:t>Mill</w:t></w:r></w:p>'
            f'<w:p>{numbered}<w:r><w:t>{SAID}</w:t><w:footnoteReference w:id="2"/></w:r></w:p>'
            f'<w:tbl><w:tr>{cell}{cell}</w:tr><w:tr><w:trPr><w:gridBefore w:val="1"/></w:trPr>'
            f"{cell}</w:tr></w:tbl></w:body></w:document>",
            "word/footnotes.xml": f'<w:footnotes {W}><w:footnote w:id="2"><w:p><w:r>'
            "<w:t>A note.</w:t></w:r></w:p></w:footnote></w:footnotes>",
            "word/numbering.xml": f'<w:numbering {W}><w:abstractNum w:abstractNumId="0">'
            '<w:lvl w:ilvl="0"><w:start w:val="3"/><w:numFmt w:val="lowerRoman"/>'
            '<w:lvlText w:val="%1."/></w:lvl></w:abstractNum>'
            '<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num></w:numbering>',
        }
    )


def make_pptx() -> bytes:
    import pptx

    show, data = pptx.Presentation(), io.BytesIO()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "Mill"
    slide.placeholders[1].text = SAID
    slide.notes_slide.notes_text_frame.text = "A note."
    cells = slide.shapes.add_table(2, 2, 0, 0, 900_000, 900_000).table
    cells.cell(0, 0).text = "Cell"
    show.save(data)
    return data.getvalue()


def make_xlsx() -> bytes:
    import openpyxl

    book, data = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    sheet.title = "Prices"
    sheet.append([SAID, 12.5, None, True])
    sheet["B3"] = "=B1*2"
    sheet.merge_cells("C1:D2")
    book.create_sheet("Hidden").sheet_state = "hidden"
    book.save(data)
    return data.getvalue()


def make_odt() -> bytes:
    ns = "urn:oasis:names:tc:opendocument:xmlns"
    return pack(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "META-INF/manifest.xml": f'<manifest:manifest xmlns:manifest="{ns}:manifest:1.0"/>',
            "content.xml": f'<office:document-content xmlns:office="{ns}:office:1.0" '
            f'xmlns:text="{ns}:text:1.0" xmlns:table="{ns}:table:1.0"><office:body><office:text>'
            f'<text:h text:outline-level="1">Mill</text:h><text:p>{SAID}'
            '<text:s text:c="3"/>x</text:p>'
            '<table:table><table:table-row table:number-rows-repeated="2">'
            '<table:table-cell table:number-columns-repeated="3"><text:p>Cell</text:p>'
            "</table:table-cell></table:table-row></table:table>"
            "</office:text></office:body></office:document-content>",
        }
    )


def make_epub() -> bytes:
    return pack(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:'
            'container"><rootfiles><rootfile full-path="o/c.opf"/></rootfiles></container>',
            "o/c.opf": '<package xmlns="http://www.idpf.org/2007/opf"><metadata/><manifest>'
            '<item id="a" href="a.xhtml" media-type="application/xhtml+xml"/>'
            '<item id="b" href="b%20b.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
            "o/a.xhtml": f"<html><body><h1>One</h1><p>{SAID}</p></body></html>",
            "o/b b.xhtml": "<html><body><h1>Two</h1><p>The end.</p></body></html>",
        }
    )


def make_html() -> bytes:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Mill</title></head>'
        f"<body><main><h1>Mill</h1><p>{SAID} <sup>2</sup></p><ol start=3><li>One<li value=9>Two"
        "</ol><table><tr><th>A<th>B<tr><td rowspan=2 colspan=3>1<td><table><tr><td>x</table>"
        "</table><math><mfrac><mi>a</mi><mn>2</mn></mfrac></math><pre> code\n  here</pre>"
        "<select><option>One</select><input value=2><details><summary>S</summary>T</details>"
        "</main><!-- c --></body></html>"
    ).encode()


def make_mail() -> bytes:
    return (
        "From: =?utf-8?q?Ada_L=C3=A4rkin?= <ada@example.org>\r\nTo: Bo <bo@example.org>\r\n"
        "Subject: The mill\r\nDate: Mon, 2 Jan 2023 10:00:00 +0100\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/mixed; boundary="XX"\r\n\r\n--XX\r\n'
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable"
        f"\r\n\r\n{SAID} =C3=A4\r\n--XX\r\nContent-Type: text/html\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\nPGI+SGk8L2I+\r\n--XX\r\n"
        'Content-Type: application/pdf; name="a.pdf"\r\n'
        "Content-Disposition: attachment\r\n\r\n%PDF\r\n--XX--\r\n"
    ).encode()


def make_notebook() -> bytes:
    output = {"output_type": "stream", "name": "stdout", "text": ["3\n"]}
    code = {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": "print(3)"}
    return json.dumps(
        {
            "cells": [
                {"cell_type": "markdown", "metadata": {}, "source": ["# Mill\n", SAID]},
                {**code, "outputs": [output]},
            ],
            "metadata": {"language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    ).encode()


def make_rtf() -> bytes:
    return (
        r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\title Mill}}\pard "
        rf"{SAID}\par \u228?\'e4{{\b bold}}\trowd\cellx100 One\cell Two\cell\row"
        r"{\footnote A note.}{\pict\bin3 abc}\par}"
    ).encode()


def make_pdf_pages() -> bytes:
    pages = [f"BT /F1 12 Tf 14 TL 72 720 Td ({SAID}) Tj T* (Next.) Tj ET", "0 0 9 9 re f"]
    return make_pdf(pages)


DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "a.docx": make_docx,
    "a.pptx": make_pptx,
    "a.xlsx": make_xlsx,
    "a.odt": make_odt,
    "a.epub": make_epub,
    "a.html": make_html,
    "a.eml": make_mail,
    "a.ipynb": make_notebook,
    "a.rtf": make_rtf,
    "a.csv": lambda: f'name,said\nAda,"{SAID}"\nBo,\n'.encode(),
    "a.pdf": make_pdf_pages,
    "a.md": lambda: f"# Mill\n\n{SAID}\n\n| a | b |\n".encode(),
    "a.txt": lambda: f"{SAID}\n\nThe end.\n".encode(),
    "a.py": lambda: f'"""{SAID}"""\n'.encode(),
}
"""File name -> a right document of that format."""

_PARTS = re.compile(r"<[^<>]*>|\"[^\"]*\"|[\w.]+|\s+|.", re.DOTALL)
_ODD = (
    *("-1", "0", "99999999", "9" * 400, "1e999", "nan", "", " " * 300, "\x00", "\ufffe", "\u202e"),
    *(
        "../../etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1:9/x",
        "&amp;",
        "&x;",
        "&#x110000;",
    ),
    *("<!--", "<![CDATA[", "<?x", "</p>", "<table>", "{\\", "}", '"', "%", "utf-7", "undefined"),
    *("XFD1048576", "rId99", "A1:XFD1048576", "\U0001f600" * 20, "=?utf-8?q?=ff?=", "[", "null"),
)


def damage(data: bytes, chosen: random.Random) -> bytes:
    """Returns a document with something taken away, doubled, nested or replaced."""
    files = unpack(data) if data.startswith(b"PK") and chosen.random() < 0.8 else {}
    if files:
        name = chosen.choice(list(files))
        act = chosen.random()
        if act < 0.08:
            del files[name]
        elif act < 0.14:
            other = chosen.choice(list(files))
            files[name], files[other] = files[other], files[name]
        else:
            files[name] = damage_text(files[name], chosen)
        return pack(files)
    if chosen.random() < 0.6 and not data.startswith((b"PK", b"%PDF")):
        return damage_text(data.decode(errors="surrogateescape"), chosen).encode(
            errors="surrogateescape"
        )
    found = bytearray(data)
    for _ in range(chosen.choice((1, 1, 3, 20))):
        at = chosen.randrange(len(found) + 1)
        until = min(len(found), at + chosen.choice((1, 4, 40)))
        act = chosen.random()
        if act < 0.4:
            found[at:until] = chosen.randbytes(until - at)
        elif act < 0.6:
            del found[at:until]
        elif act < 0.7:
            del found[at:]
        elif act < 0.85:
            found[at:at] = found[at:until] * chosen.choice((1, 50))
        else:
            found[at:until] = chosen.choice(_ODD).encode("utf-8", "replace")
    return bytes(found)


def damage_text(text: str, chosen: random.Random) -> str:
    parts = _PARTS.findall(text)
    for _ in range(chosen.choice((1, 1, 2, 6))):
        at = chosen.randrange(len(parts) + 1)
        until = min(len(parts), at + chosen.choice((1, 1, 3, 12)))
        act = chosen.random()
        if act < 0.25:
            del parts[at:until]
        elif act < 0.45:
            parts[at:at] = parts[at:until] * chosen.choice((1, 3, 200))
        elif act < 0.8:
            parts[at : at + 1] = [chosen.choice(_ODD)]
        elif act < 0.9 and parts:
            other = chosen.randrange(len(parts))
            parts[at:at] = parts[other : other + 8]
        else:
            parts[at:at] = [chosen.choice(("<p>", "<w:p>", "{", "[", "<div>", "(", '{"a":'))] * 300
    return "".join(parts)
