r"""Rich Text Format 1.9.1: text, lists, tables, notes, boxes and equations.

A file is a tree of groups in braces; a control word changes the state of its group, or tells what
the group is for (`\footnote`). Groups behind `\*` that are not known here hold no text.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lxml import etree

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats import Parsed, html, name_of, symbols
from agenticlu.documents.formats.equations import render_omml
from agenticlu.documents.formats.numbering import set_labels
from agenticlu.documents.formats.rtf_story import Paragraph, Story

_TOKEN = re.compile(
    r"\\([a-zA-Z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+"
    r"|([^\\{}\r\n]+)",
    re.DOTALL,
)
_CHARACTERS = {
    **{"tab": "\t", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "bullet": "•"},
    **{"ldblquote": "“", "rdblquote": "”", "emspace": " ", "enspace": " ", "qmspace": " "},
}
_SYMBOLS = {"~": "\u00a0", "_": "\u2011", "{": "{", "}": "}", "\\": "\\"}
_CODEPAGES = {
    **{
        2: "latin-1",
        77: "mac_roman",
        128: "cp932",
        129: "cp949",
        130: "johab",
        134: "gbk",
        136: "big5",
    },
    **{161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257"},
    **{204: "cp1251", 222: "cp874", 238: "cp1250"},
}
"""By a font's `\\fcharset`."""
_SKIPPED = frozenset(
    (
        *("colortbl", "filetbl", "revtbl", "rsidtbl", "generator", "nonshppict", "shprslt"),
        *("mmathPict", "nonesttables", "fontemb", "falt", "panose", "atnid", "atnauthor"),
        *("atntime", "atnicn", "atndate", "atnref", "atrfstart", "atrfend", "bkmkstart", "bkmkend"),
        *("xe", "tc", "rxe", "txe", "template", "private", "objclass", "objname", "objdata"),
        *("ftnsep", "ftnsepc", "aftnsep", "aftnsepc", "pgdsctbl", "listtable", "upr", "result"),
        *("author", "operator", "keywords", "comment", "doccomm", "subject", "manager", "company"),
        *("category", "creatim", "revtim", "printim", "buptim", "hlinkbase", "userprops"),
    )
)
_STORIES = {"footnote": "note", "shptxt": "box", "dptxbxtext": "box"} | {
    f"{kind}{side}": kind for kind in ("header", "footer") for side in ("", "l", "r", "f")
}
_LEFT_OUT = {"pict": "image", "object": "embedded object", "annotation": "comment"}
_CAPTURED = frozenset(("fonttbl", "stylesheet", "title", "listtext", "pntext", "fldinst"))
_PASSED = frozenset(("shpinst", "shppict", "shpgrp", "nesttableprops", "ud"))
"""Known groups behind `\\*` whose text is the document's."""
_MAX_PAGE_LINE = 15
"""A line of a header with no more characters beside its page number is only that."""
_MAX_TABLE_DEPTH = 20
_PROPERTY = re.compile(r".*Pr$")
_MATH_SPACE = "http://schemas.openxmlformats.org/officeDocument/2006/math"


@dataclass
class _Group:
    """The state within a pair of braces; an inner pair begins with a copy."""

    destination: str = "body"
    font: int | None = None
    skipped_after_u: int = 1
    script: str = ""
    hidden: bool = False
    deleted: bool = False
    struck: bool = False
    is_start: bool = False
    """Whether this group's first control word is still to come."""
    is_optional: bool = False
    """Whether it began with `\\*`."""
    is_element: bool = False
    """Whether it is an element of an equation."""
    style: int = 0
    """The number of the style that it describes."""


def parse(data: bytes, source: str) -> Parsed:
    """Reads a file.

    Raises:
        DocumentError: It is torn: it ends before its text does.
    """
    reader = _Reader()
    reader.read(data)
    if reader.depth > 0 and not reader.has_text:
        raise DocumentError(
            f"{name_of(source)} is broken: it ends within its head.",
            hint="Save it anew in the office program, as docx.",
        )
    text = set_labels(html.convert(reader.finish()).text)
    heading = re.search(r"^#+ (.*)$", text, re.MULTILINE)
    title = heading[1] if heading else reader.title.strip() or None
    return Parsed(text, title, (), +reader.left_out)


class _Reader:
    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self.title = ""
        self.has_text = False
        self._encoding = "cp1252"
        self._fonts: dict[int, str] = {}
        self._font_names: dict[int, str] = {}
        self._default_font: int | None = None
        self._headings: dict[int, int] = {}
        self._group = _Group()
        self._stack: list[_Group] = []
        self._stories = [Story("body")]
        self._paragraph = Paragraph()
        self._outer_paragraphs: list[Paragraph] = []
        self._furniture: dict[str, list[str]] = {"header": [], "footer": []}
        self._notes: list[str] = []
        self._bytes = bytearray()
        self._captured = ""
        self._merged: list[bool] = []
        self._is_merged = False
        self._to_skip = 0
        self._dropping = ""
        self._math: list[Any] = []

    @property
    def depth(self) -> int:
        """How many groups are open."""
        return len(self._stack)

    def read(self, data: bytes) -> None:
        """Reads all tokens."""
        text = data.decode("latin-1")
        at = 0
        while match := _TOKEN.search(text, at):
            at = match.end()
            word, number, code, symbol, brace, plain = match.groups()
            if word == "bin":
                at += max(int(number or 0), 0)
            elif code:
                self._add_bytes(bytes.fromhex(code))
            elif plain:
                self._add_bytes(plain.encode("latin-1"))
            elif word or symbol or brace:
                self._flush()
                if brace == "{":
                    self._stack.append(self._group)
                    self._group = replace(
                        self._group, is_start=True, is_optional=False, is_element=False
                    )
                elif brace == "}":
                    self._end_group()
                elif symbol:
                    self._symbol(symbol)
                else:
                    self._word(word, None if number is None else int(number))
        self._flush()

    def finish(self) -> str:
        """Returns the document as HTML."""
        while len(self._stories) > 1:
            self._end_story()
        self._end_paragraph()
        body = self._stories[0].finish()
        header, footer = ("".join(dict.fromkeys(self._furniture[k])) for k in ("header", "footer"))
        whole = header + body + "".join(self._notes) + footer
        # Characters beyond the first plane are written as two halves.
        return whole.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    # --- Text -------------------------------------------------------------------------------------

    def _add_bytes(self, data: bytes) -> None:
        self._group.is_start = False
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        self._bytes += data[skipped:]

    def _flush(self) -> None:
        if self._bytes:
            font = self._default_font if self._group.font is None else self._group.font
            encoding = self._fonts.get(-1 if font is None else font, self._encoding)
            data, self._bytes = bytes(self._bytes), bytearray()
            text = data.decode(encoding, "replace")
            if self._group.destination == "fonttbl" and self._group.font is not None:
                self._font_names[self._group.font] = text.strip(" ;")
            self._add_text(text)

    def _add_text(self, text: str) -> None:
        group = self._group
        if group.destination in _CAPTURED:
            self._captured += text
        elif group.destination == "math":
            self._add_math(text)
        elif group.destination == "body":
            dropped = "deleted" if group.deleted else "hidden" if group.hidden else ""
            if dropped and text.strip() and self._dropping != dropped:
                self.left_out[f"{dropped} passage"] += 1
            if text.strip():
                self._dropping = dropped
            if not dropped:
                self.has_text = self.has_text or bool(text.strip())
                font = self._default_font if group.font is None else group.font
                text = symbols.as_shown(self._font_names.get(-1 if font is None else font), text)
                self._stories[-1].add(text, group.script, is_struck=group.struck)

    # --- Groups and control words -----------------------------------------------------------------

    def _symbol(self, symbol: str) -> None:
        if symbol == "*":
            self._group.is_optional = True
        elif symbol in "\r\n":
            self._word("par", None)
        elif symbol in _SYMBOLS:
            self._group.is_start = False
            self._add_text(_SYMBOLS[symbol])

    def _word(self, word: str, number: int | None) -> None:
        if self._to_skip:
            self._to_skip -= 1
            return
        is_first, self._group.is_start = self._group.is_start, False
        if is_first and self._begin_destination(word):
            return
        if self._group.destination in {"skip", "sp"}:
            return
        if word in _CHARACTERS:
            self._add_text(_CHARACTERS[word])
        elif word == "u" and number is not None:
            self._add_text(chr(number % 0x10000))
            self._to_skip = self._group.skipped_after_u
        elif (action := _ACTIONS.get(word)) is not None:
            action(self, number)

    def _begin_destination(self, word: str) -> bool:
        """Enters the group that a control word begins; False where it begins none."""
        group = self._group
        if group.destination == "math" or word in {"moMath", "moMathPara"}:
            return self._begin_math(word)
        if word in _LEFT_OUT and group.destination != "skip":
            self.left_out[_LEFT_OUT[word]] += 1
            group.destination = "skip"
            return True
        if group.destination in {"skip", "sp"} and word != "ud":
            return True
        if word == "sp":  # a property of a drawing, which may be its picture
            group.destination = word
        elif word in _SKIPPED or (group.is_optional and not _is_known(word)):
            group.destination = "skip"
        elif word in _STORIES and group.destination == "body":
            self._stories.append(Story(_STORIES[word], len(self._stack)))
            self._outer_paragraphs.append(self._paragraph)
            self._paragraph = Paragraph()
            self._group = replace(group, script="", hidden=False)
        elif word in _CAPTURED:
            group.destination = word
            self._captured = ""
        elif word == "ud":
            group.destination = "body"
        else:
            return word in _PASSED
        return True

    def _end_group(self) -> None:
        group = self._group
        if not self._stack:
            return
        outer = self._stack.pop()
        if group.destination in _CAPTURED:
            self._take(group, outer)
        if group.destination == "math":
            self._end_math(outer)
        story = self._stories[-1]
        if story.depth > len(self._stack):
            self._end_story()
        self._group = outer
        self._to_skip = 0

    def _take(self, group: _Group, outer: _Group) -> None:
        """Uses the text of a group that is read for something else than the story."""
        text, kind = self._captured, group.destination
        if kind == "stylesheet" and outer.destination == kind:
            self._headings |= _heading_style(text, group.style)
        elif kind == "title" and outer.destination != kind:
            self.title = text
        elif kind in {"listtext", "pntext"} and outer.destination != kind:
            label = text.strip()
            self._paragraph.label = label if any(map(str.isalnum, label)) else ""
        elif kind == "fldinst" and re.match(r"\s*(PAGE|NUMPAGES)\b", text):
            self._stories[-1].counts_pages = True
        if kind != "fldinst" or outer.destination != kind:
            self._captured = ""

    def _end_story(self) -> None:
        self._end_paragraph()
        story = self._stories.pop()
        blocks = story.finish()
        self._paragraph = self._outer_paragraphs.pop()
        outer = self._stories[-1]
        if story.kind == "note":
            mark = f"[{len(self._notes) + 1}]"
            outer.add(mark)
            self._notes.append(blocks.replace("<p>", f"<p>{mark} ", 1))
        elif story.kind == "box":
            outer.add_float(blocks)
        else:
            self._furniture[story.kind].append(blocks)

    def _end_paragraph(self, _: int | None = None) -> None:
        story = self._stories[-1]
        plain = re.sub("<[^<>]*>", "", story.text()).strip()
        if story.kind in self._furniture and story.counts_pages and len(plain) <= _MAX_PAGE_LINE:
            story.drop_line()
        story.end_paragraph(self._paragraph)
        self._paragraph.label = None

    # --- What control words do --------------------------------------------------------------------

    def _reset_paragraph(self, _: int | None) -> None:
        label = self._paragraph.label
        self._paragraph = Paragraph(label=label)

    def _reset_characters(self, _: int | None) -> None:
        self._group = replace(
            self._group, script="", hidden=False, deleted=False, struck=False, font=None
        )

    def _end_cell(self, _: int | None) -> None:
        self._set_in_table(None)  # some programs do not say so
        self._stories[-1].end_cell(self._paragraph)
        self._paragraph.label = None

    def _end_row(self, _: int | None) -> None:
        self._stories[-1].end_row(1, self._merged)

    def _begin_row(self, _: int | None) -> None:
        self._merged = []

    def _begin_merged(self, _: int | None) -> None:
        self._is_merged = True

    def _define_cell(self, _: int | None) -> None:
        self._merged.append(self._is_merged)
        self._is_merged = False

    def _end_nested_row(self, _: int | None) -> None:
        self._stories[-1].end_row(self._paragraph.table_depth)

    def _set_style(self, number: int | None) -> None:
        if self._group.destination == "stylesheet":
            self._group.style = number or 0
        else:
            self._paragraph.heading = self._headings.get(number or 0, 0)

    def _set_outline(self, number: int | None) -> None:
        level = 0 if number is None else number
        if self._group.destination == "body" and 0 <= level <= 8:
            self._paragraph.heading = level + 1

    def _set_depth(self, number: int | None) -> None:
        self._paragraph.table_depth = min(max(number or 0, 0), _MAX_TABLE_DEPTH)

    def _set_in_table(self, _: int | None) -> None:
        self._paragraph.table_depth = max(self._paragraph.table_depth, 1)

    def _set_list_level(self, number: int | None) -> None:
        self._paragraph.list_level = min(max(number or 0, 0), 8)

    def _set_codepage(self, number: int | None) -> None:
        self._encoding = _known_encoding(f"cp{number}", self._encoding)

    def _set_font(self, number: int | None) -> None:
        self._group.font = number

    def _set_default_font(self, number: int | None) -> None:
        self._default_font = number

    def _set_charset(self, number: int | None) -> None:
        if self._group.destination == "fonttbl" and self._group.font is not None:
            encoding = _known_encoding(_CODEPAGES.get(number or 0, ""), self._encoding)
            self._fonts[self._group.font] = encoding

    def _set_skipped(self, number: int | None) -> None:
        self._group.skipped_after_u = min(max(1 if number is None else number, 0), 10)

    def _break_line(self, _: int | None) -> None:
        if self._group.destination == "body":
            self._stories[-1].add_break()

    def _count_pages(self, _: int | None) -> None:
        self._stories[-1].counts_pages = True

    def _set_script(self, script: str) -> None:
        self._group.script = script

    def _set_hidden(self, number: int | None) -> None:
        self._group.hidden = number != 0

    def _set_struck(self, number: int | None) -> None:
        self._group.struck = number != 0

    def _raise(self, number: int | None, script: str = "sup") -> None:
        self._group.script = "" if number == 0 else script

    def _set_deleted(self, number: int | None) -> None:
        self._group.deleted = number != 0

    # --- Equations --------------------------------------------------------------------------------

    def _begin_math(self, word: str) -> bool:
        """Builds the element of Office's own markup that a control word stands for."""
        group = self._group
        if word == "mmathPict" or group.destination == "skip":
            group.destination = "skip"
        elif word.startswith("m") and len(self._stack) > len(self._math) - 1:
            name = {"moMath": "oMath", "moMathPara": "oMathPara"}.get(word, word[1:])
            element = etree.Element(f"{{{_MATH_SPACE}}}{name}")
            if group.destination == "math" and self._math:
                self._math[-1].append(element)
            self._math.append(element)
            group.destination = "math"
            group.is_element = True
        return True

    def _add_math(self, text: str) -> None:
        if self._math and text.strip():
            node = self._math[-1]
            parent = node.getparent()
            if parent is not None and _PROPERTY.match(parent.tag):
                node.set("val", node.get("val", "") + text)
            else:
                etree.SubElement(node, f"{{{_MATH_SPACE}}}t").text = text

    def _end_math(self, outer: _Group) -> None:
        if self._group.is_element:
            element = self._math.pop()
            if not self._math and outer.destination != "math":
                self.has_text = True
                self._stories[-1].add(render_omml(element))


def _is_known(word: str) -> bool:
    return word in _STORIES or word in _CAPTURED or word in _PASSED


def _known_encoding(name: str, default: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return default


def _heading_style(name: str, number: int) -> dict[int, int]:
    """Returns the level of a heading's style by its number."""
    found = re.fullmatch(r"\s*(?:heading ([1-9])|(title));?\s*", name, re.IGNORECASE)
    return {number: int(found[1] or 1)} if found else {}


_ACTIONS: dict[str, Callable[[_Reader, int | None], None]] = {
    **dict.fromkeys(("par", "sect", "page", "column"), _Reader._end_paragraph),
    **dict.fromkeys(("cell", "nestcell"), _Reader._end_cell),
    **{"row": _Reader._end_row, "nestrow": _Reader._end_nested_row},
    **{"trowd": _Reader._begin_row, "clvmrg": _Reader._begin_merged},
    **{"cellx": _Reader._define_cell},
    **{"pard": _Reader._reset_paragraph, "plain": _Reader._reset_characters},
    **{"s": _Reader._set_style, "outlinelevel": _Reader._set_outline},
    **{"itap": _Reader._set_depth, "intbl": _Reader._set_in_table, "ilvl": _Reader._set_list_level},
    **{"ansicpg": _Reader._set_codepage, "f": _Reader._set_font, "deff": _Reader._set_default_font},
    **{"fcharset": _Reader._set_charset, "uc": _Reader._set_skipped, "line": _Reader._break_line},
    **{"chpgn": _Reader._count_pages, "v": _Reader._set_hidden, "deleted": _Reader._set_deleted},
    **dict.fromkeys(("strike", "striked"), _Reader._set_struck),
    **{"up": _Reader._raise, "dn": lambda reader, number: reader._raise(number, "sub")},
    "super": lambda reader, _: reader._set_script("sup"),
    "sub": lambda reader, _: reader._set_script("sub"),
    "nosupersub": lambda reader, _: reader._set_script(""),
}
