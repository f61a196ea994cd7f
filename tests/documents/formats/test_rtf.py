"""Rich Text Format, written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document
from agenticlu.documents.formats import rtf

HEAD = (
    r"{\rtf1\ansi\ansicpg1252\deff0{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial Cyr;}"
    r"{\f2\fcharset128 MS Mincho;}}{\colortbl;\red0\green0\blue0;}"
    r"{\stylesheet{\s0 Normal;}{\s1\b heading 1;}{\s2 heading 2;}{\s9 Title;}}"
    r"{\*\generator Nobody 1;}{\info{\title The report}{\author Ada}}"
)


@pytest.fixture
def read(tmp_path: Path):
    def read(body: str | bytes, head: str = HEAD) -> Document:
        content = body if isinstance(body, bytes) else (head + body + "}").encode("latin-1")
        (tmp_path / "a.rtf").write_bytes(content)
        return load_document(str(tmp_path / "a.rtf"))

    return read


JAPANESE = b"\x8aA\x8e\x9a".decode("cp932")
BODIES: dict[str, tuple[str, str]] = {
    "paragraphs": (r"\pard Ada built\par the mill.\par", "Ada built\n\nthe mill.\n"),
    "runs split within words": (r"\pard A{\b d}a \i b\i0 uilt\par", "Ada built\n"),
    "headings": (
        r"\pard\s9 The mill\par\pard\s2 Grain\par\pard Oats.\par",
        "# The mill\n\n## Grain\n\nOats.\n",
    ),
    "outline levels": (r"\pard\outlinelevel1 Grain\par\pard Oats.\par", "## Grain\n\nOats.\n"),
    "code pages": (
        r"\pard caf\'e9 {\f1 \'cc\'e0\'f0\'e0} {\f2 \'8aA\'8e\'9a}\par",
        f"café Мара {JAPANESE}\n",
    ),
    "characters beyond them": (
        r"\pard \u8364?5 \u-10179?\u-8704? {\uc2 \u945\'61\'62b} \emdash \~x\_y\par",
        "€5 😀 αb — x\u2011y\n",
    ),
    "braces and backslashes": (r"\pard a \{b\} c\\d\par", "a {b} c\\d\n"),
    "scripts": (r"\pard 10{\super 6} H{\sub 2}O 7\super 2\nosupersub  x\par", "10^6 H2O 7^2 x\n"),
    "raised and struck figures": (
        r"\pard 10{\up6 6} boats, fee {\strike 4\'31} 45\par",
        "10^6 boats, fee ~~41~~ 45\n",
    ),
    "signs of a font of symbols": (
        r"{\fonttbl{\f7\fcharset2 Symbol;}}\pard x {\f7 \'b3\u-3999?} 41\par",
        "x ≥a 41\n".replace("a", chr(0x3B1)),
    ),
    "rows that do not say that they are in a table, and merged cells": (
        r"\trowd\clvmgf\cellx1\cellx2 Oak\cell 12\cell\row"
        r"\trowd\clvmrg\cellx1\cellx2 \cell 30\cell\row\pard End.\par",
        "Oak | 12\nOak | 30\n\nEnd.\n",
    ),
    "lists": (
        r"\pard{\listtext 1.\tab}\ilvl0 a\par{\listtext (a)\tab}\ilvl1 b\par\pard"
        r"{\pntext\'b7\tab}c\par\pard d\par",
        "1. a\n  (a) b\n- c\n\nd\n",
    ),
    "a list up to the end, as TextEdit writes it": (
        "\\pard\\ls1\\ilvl0{\\listtext\t1.\t}a\\\n{\\listtext\t2.\t}b",
        "1. a\n2. b\n",
    ),
    "tables": (
        r"\trowd\cellx100\cellx200\pard\intbl a\cell b\cell\row"
        r"\trowd\cellx100\cellx200\pard\intbl c\par d\cell e\cell\row\pard after\par",
        "a | b\nc d | e\n\nafter\n",
    ),
    "line breaks": (r"\pard a\line b\par", "a\nb\n"),
    "fields": (
        r'\pard See {\field{\*\fldinst HYPERLINK "x"}{\fldrslt page 4}}.\par',
        "See page 4.\n",
    ),
    "footnotes": (
        r"\pard Old.{\super\chftn}{\footnote\pard\plain{\super\chftn} Paid by Mara.} New.\par",
        "Old.[1] New.\n\n[1] Paid by Mara.\n",
    ),
    "text boxes, once": (
        r"\pard Anchor{\shp{\*\shpinst\shpleft0{\sp{\sn x}{\sv y}}{\shptxt\pard Box.\par}}"
        r"{\shprslt{\*\do Box.}}}.\par",
        "Anchor.\n\nBox.\n",
    ),
    "unknown groups": (r"\pard a{\*\future b}{\unknown c}\par", "ac\n"),
    "both of two writings": (r"\pard {\upr{x}{\*\ud{\u945?}}}\par", "α\n"),
    "binary data": (r"\pard a{\*\blob\bin5 {{{\\}b\par", "ab\n"),
    "an equation": (
        r"\pard Load {\mmath{\*\moMath{\mf{\mfPr{\mctrlPr}}{\mnum{\mr a+b}}{\mden{\mr 42}}}}"
        r"{\mmathPict{\pict 00}}}.\par",
        "Load (a+b)/42.\n",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_a_body_holds(read, name: str) -> None:
    body, text = BODIES[name]
    document = read(body)
    assert document.text == text
    assert document.left_out == {}


def test_titles(read) -> None:
    assert read(r"\pard a\par").title == "The report"
    assert read(r"\pard\s1 Grain\par").title == "Grain"


def test_nested_tables_are_read_once(read) -> None:
    body = (
        r"\trowd\cellx100\pard\intbl\itap1 outer\par"
        r"\pard\intbl\itap2 x\nestcell{\nonesttables\par}\pard\intbl\itap2 y\nestcell"
        r"{\*\nesttableprops\trowd\cellx50\cellx100\nestrow}{\nonesttables\par}"
        r"\pard\intbl\itap1 end\cell\row\pard after\par"
    )
    text = read(body).text
    for word in ("outer", "x | y", "end", "after"):
        assert text.count(word) == 1


def test_what_is_left_out_is_named(read) -> None:
    body = (
        r"\pard a{\deleted gone}{\v secret}{\v0 b}{\pict\pngblip 00ff}"
        r"{\shp{\*\shpinst{\sp{\sn pib}{\sv{\pict 00}}}}}"
        r"{\*\shppict{\pict 00}}{\nonshppict{\pict 00}}{\object{\*\objdata 00}{\result{\pict 00}}}"
        r"{\*\annotation\pard Really?}\par"
    )
    document = read(body)
    assert document.text == "ab\n"
    assert document.left_out == {
        "deleted passage": 1,
        "hidden passage": 1,
        "image": 3,
        "embedded object": 1,
        "comment": 1,
    }


def test_headers_and_footers_are_read_once(read) -> None:
    body = (
        r"{\header\pard Draft 3\par}{\headerl\pard Draft 3\par}"
        r"{\footer\pard Page \chpgn\par Mill Ltd, confidential {\field{\*\fldinst PAGE}"
        r"{\fldrslt 3}}\par}\pard a\par"
    )
    assert read(body).text == "Draft 3\n\na\n\nMill Ltd, confidential 3\n"


def test_torn_files_are_refused_or_read_so_far() -> None:
    whole = (HEAD + r"\pard Ada built the mill.\par}").encode()
    read, refused = [], 0
    for cut in range(6, len(whole)):
        try:
            read.append(rtf.parse(whole[:cut], "a.rtf").text.strip())
        except DocumentError:
            refused += 1
    assert refused > 100
    assert all("Ada built the mill.".startswith(text) for text in read)
    assert read[-1] == "Ada built the mill."


def test_braces_that_do_not_match(read) -> None:
    assert read(r"\pard a}}} b\par").text == "a b\n"
    assert read(r"{{{\pard a\par").text == "a\n"
