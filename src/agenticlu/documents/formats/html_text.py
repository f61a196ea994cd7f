"""Elements of HTML as lines of text.

Headings and lists are written as in Markdown, rows of tables as lines with ' | ' between cells.
Emphasis, links and code keep only their text: quotes are looked up in this text, and models quote
words, not markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from selectolax.lexbor import LexborHTMLParser, LexborNode

from agenticlu.documents.formats.html_inline import Given, InlineWriter, Leave, Skipped
from agenticlu.documents.formats.html_lists import item_marks
from agenticlu.documents.formats.html_tables import Block, Table

_DROPPED = frozenset(
    (
        *("script", "style", "noscript", "noframes", "template", "head", "title", "datalist"),
        *("source", "track", "param", "rp", "area", "map", "col", "colgroup"),
    )
)
_MEDIA = {
    **{"iframe": "frame", "frame": "frame", "video": "video", "audio": "recording"},
    **{"embed": "embedded object", "canvas": "drawing"},
}
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "center", "details", "dialog"),
        *(
            "dir",
            "div",
            "dl",
            "dt",
            "fieldset",
            "figcaption",
            "figure",
            "footer",
            "form",
            "frameset",
        ),
        *("header", "hgroup", "hr", "html", "legend", "main", "menu", "nav", "object", "ol", "p"),
        *("search", "section", "summary", "ul", "caption", "optgroup"),
    )
)
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_LISTS = frozenset(("ol", "ul", "menu", "dir"))
_AS_IT_STANDS = frozenset(("pre", "xmp", "listing", "plaintext", "textarea"))
_ROLES = {
    **{"table": "table", "grid": "table", "treegrid": "table", "row": "tr", "cell": "td"},
    **{"gridcell": "td", "columnheader": "td", "rowheader": "td", "list": "ul", "listitem": "li"},
}
_DISPLAYS = {
    **{"table": "table", "table-row": "tr", "table-cell": "td"},
    **dict.fromkeys(("block", "flex", "grid", "list-item"), "div"),
}
_STYLES = (
    (re.compile(r"vertical-align:(super|text-top)\b"), "sup"),
    (re.compile(r"vertical-align:(sub|text-bottom)\b"), "sub"),
    (re.compile(r"text-decoration(-line)?:[^;]*line-through"), "s"),
)
"""What a page writes as a style in place of an element."""
_STYLED = frozenset(("span", "font", "small", "big", "b", "i", "em", "strong"))
_FURNITURE = frozenset(("header", "footer", "aside"))
"""What surrounds the text of a whole page, unless a heading or a note is in it."""
_ANCHOR_CLASSES = re.compile(
    r"\b(headerlink|anchor(js)?-link|hash-link|header-anchor|mw-editsection)\b"
)
_MATH_PICTURES = re.compile(r"MathJax|mjx-chtml|katex-html|mwe-math-fallback")
AROUND = "surrounding word"
_LONG_HEADING = 500
"""Characters. A longer 'heading' was never closed."""
_MAX_INDENTS = 20
_MAX_TABLES = 12
"""Tables inside each other; the rows of deeper ones are read cell after cell."""
_MAX_FRAMES = 3
"""Pages inside each other's frames."""


@dataclass(slots=True)
class Writer(InlineWriter):
    """Writes elements as blocks of text."""

    furniture: bool = True
    """Whether to write what surrounds a page's text."""
    spare: int = 1 << 16
    """Characters that spans of cells may still repeat: a few bytes can ask for gigabytes."""
    frames: list[str] = field(default_factory=list)
    """Addresses of the frames."""
    blocks: list[Block] = field(default_factory=list)
    gap: int = 2
    """Line ends before the next block."""
    indents: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    """Of the last indents those whose first line is still to come, such as '1. '."""
    verbatim: int = 0
    """Open elements whose white space is kept."""
    lists: list[dict[int, str]] = field(default_factory=list)
    """Marks of the items of the open lists, by the item's identity."""
    tables: list[Table] = field(default_factory=list)
    depth: int = 0
    """Frames around the element."""
    sections: int = 0
    """Open elements whose headers and footers are their own, not the page's."""

    notes: frozenset[int] = frozenset()
    """Identities of the notes that the text points to, and of the elements around them."""
    kept: frozenset[int] = frozenset()
    """Identities of the elements that are read, where not all are."""
    above: frozenset[int] = frozenset()
    """Those of the elements around them; emptied inside one that is read."""

    def keep_to(self, nodes: list[LexborNode]) -> None:
        """Has everything outside of some elements left out, and counted."""
        self.kept = frozenset(node.mem_id for node in nodes)
        self.above = _around(nodes)

    def point_to(self, nodes: list[LexborNode]) -> None:
        """Has notes read wherever they stand, also where they are hidden until one asks."""
        self.notes = frozenset(node.mem_id for node in nodes) | _around(nodes)

    def text(self) -> str:
        """Returns what was written, ending with a line end unless it is empty."""
        self.flush()
        text = "".join("\n" * block.gap + block.text for block in self.blocks).strip("\n")
        return f"{text}\n" if text.strip() else ""

    def write(self, root: LexborNode) -> None:
        """Writes an element and what is in it; not recursive, for pages nest without limit."""
        open_: list[tuple[LexborNode, Leave | None]] = []
        node: LexborNode | None = root
        while True:
            if node is None:
                parent, leave = open_.pop()
                if leave is not None:
                    leave()
                if not open_:
                    break
                node = parent.next
                continue
            tag = str(node.tag)
            if tag == "-text":
                data = node.text_content or ""
                if self.above:
                    self._pass_over(data)
                elif self.verbatim:
                    self.line.append(data)
                else:
                    self.line.append(data.replace("\n", " "))
            elif tag[0] != "-":
                entered = self._enter(node, tag)
                if not isinstance(entered, Skipped):
                    open_.append((node, entered))
                    node = node.child
                    continue
                if not open_:
                    break
            node = node.next
        self.flush()

    def flush(self) -> None:
        """Ends a block."""
        if not self.line:
            return
        text = "".join(self.line)
        self.line.clear()
        if self.verbatim:
            text = re.sub(r"\A([ \t]*+\n)++", "", text.replace("\xa0", " ").rstrip())
        else:
            text = _squeeze(text)
        if text:
            self._put(text)

    def _put(self, text: str, kind: str = "") -> None:
        rest = "".join(self.indents)
        if rest:
            first = "".join(self.indents[: len(self.indents) - len(self.marks)] + self.marks)
            lines = text.split("\n")
            text = "\n".join([first + lines[0], *((rest + one).rstrip() for one in lines[1:])])
            self.marks.clear()
        self.blocks.append(Block(self.gap, text, kind))
        self.gap = 2

    def _pass_over(self, text: str) -> None:
        self.left_out[AROUND] += len(text.split())

    def _break(self) -> None:
        if self.heading:
            self.line.append(" ")
        elif self.verbatim:
            if self.line and not self.line[-1].endswith("\n"):
                self.line.append("\n")
        else:
            self.flush()

    def _enter(self, node: LexborNode, tag: str) -> Leave | Skipped | None:
        """Begins an element; returns what ends it, None, or that it is skipped."""
        if self.above:
            return self._enter_around(node, tag)
        given = node.attributes
        if self._is_dropped(node, tag, given):
            return Skipped()
        style = (given.get("style") or "").replace(" ", "").lower() if "style" in given else ""
        if "role" in given:
            tag = _ROLES.get(given["role"] or "", tag)
            if given["role"] == "heading":
                tag = f"h{min(6, _number(given.get('aria-level'), 2))}"
        if style:
            tag = _styled(tag, style)
        if tag in _AS_IT_STANDS or "white-space:pre" in style or "white-space:break" in style:
            return self._enter_verbatim()
        if tag in _HEADINGS:
            return self._enter_heading(node, tag)
        if (method := _METHODS.get(tag)) is not None:
            return method(self, node, given)
        if tag in _BLOCKS:
            self._break()
            return self._enter_block(node, tag, given)
        return None

    def _enter_around(self, node: LexborNode, tag: str) -> Leave | Skipped | None:
        if node.mem_id in self.above:
            return None
        if node.mem_id not in self.kept:
            if tag not in _DROPPED:
                self._pass_over(node.text())
            return Skipped()
        above, self.above = self.above, frozenset()
        inner = self._enter(node, tag)

        def leave() -> None:
            if inner is not None and not isinstance(inner, Skipped):
                inner()
            self._break()
            self.above = above

        return leave

    def _is_dropped(self, node: LexborNode, tag: str, given: Given) -> bool:
        if tag in _DROPPED:
            if tag == "script" and (given.get("type") or "").startswith("math/tex"):
                self.line.append(f" {node.text().strip()} ")
            return True
        if tag in _MEDIA:
            if tag == "iframe" and given.get("srcdoc"):
                self._write_frame(str(given["srcdoc"]))
                return True
            if tag in {"iframe", "frame"} and given.get("src"):
                self.frames.append(str(given["src"]))
            self.left_out[_MEDIA[tag]] += 1
            return True
        if not given:
            return tag in _FURNITURE | {"nav", "dialog"} and self._is_aside(node, tag, given)
        if node_class := given.get("class"):
            if _MATH_PICTURES.search(node_class):
                return tag == "img" or tag == "span" or "Display" in node_class
            if _ANCHOR_CLASSES.search(node_class) and len(node.text().strip()) < 12:
                return True
        kind = f"{given.get('role') or ''} {given.get('epub:type') or ''}"
        if "pagebreak" in kind:  # the number of a printed page, in the middle of a sentence
            return True
        is_note = node.mem_id in self.notes or ("note" in kind and "noteref" not in kind)
        if not is_note and _is_hidden(tag, given):
            if node.css_first("math") is not None:  # hidden beside a picture of the formula
                return False
            self.left_out["hidden passage"] += bool(node.text().strip())
            return True
        return self._is_aside(node, tag, given)

    def _write_frame(self, page: str) -> None:
        if self.depth < _MAX_FRAMES and (body := LexborHTMLParser(page).body) is not None:
            self.depth += 1
            self._break()
            self.write(body)
            self.depth -= 1

    def _is_aside(self, node: LexborNode, tag: str, given: Given) -> bool:
        if tag == "dialog" and "open" not in given:
            self.left_out["hidden passage"] += 1
            return True
        if self.furniture or node.mem_id in self.notes:
            return False
        kind = f"{given.get('role') or ''} {given.get('epub:type') or ''}"
        if tag != "nav" and "navigation" not in kind:
            if tag not in _FURNITURE or self.sections or "note" in kind:
                return False
            if node.css_first("h1, h2, h3") is not None:
                return False
        self._pass_over(node.text())
        return True

    def _enter_block(self, node: LexborNode, tag: str, given: Given) -> Leave:
        if tag in _LISTS:
            return self._enter_list(node, given)
        quoted = tag == "blockquote" and (
            given.get("type") == "cite" or "gmail_quote" in (given.get("class") or "")
        )
        if quoted:
            self._indent("> ", "> ")
        self.sections += (is_section := tag in {"article", "section", "main"})

        def leave() -> None:
            self._break()
            self.sections -= is_section
            if quoted:
                self._unindent()

        return leave

    def _enter_verbatim(self) -> Leave:
        self._break()
        self.verbatim += 1

        def leave() -> None:
            if not self.heading and self.verbatim == 1:
                self.flush()
            self.verbatim -= 1
            self._break()

        return leave

    def _enter_heading(self, node: LexborNode, tag: str) -> Leave:
        self._break()
        if self.heading or len(node.text()) > _LONG_HEADING:
            return self._break
        self.heading += 1

        def leave() -> None:
            self.heading -= 1
            text = " ".join("".join(self.line).split())
            self.line.clear()
            if text:
                self._put(f"{'#' * int(tag[1])} {text}", "heading")

        return leave

    def _enter_list(self, node: LexborNode, given: Given) -> Leave:
        self.lists.append(item_marks(node) if node.tag == "ol" else {})
        self.gap = 1 if len(self.lists) > 1 and self.blocks else self.gap
        if is_bare := node.parent is not None and node.parent.tag in _LISTS:
            self._indent("   ", "   ")

        def leave() -> None:
            self._break()
            self.lists.pop()
            if is_bare:
                self._unindent()
            self.gap = 1 if self.lists else self.gap

        return leave

    def _enter_item(self, node: LexborNode, given: Given) -> Leave:
        self._break()
        before = node.prev
        while before is not None and before.tag != "li":
            before = before.prev
        if before is not None and not self.heading:
            self.gap = 1
        mark = self.lists[-1].get(node.mem_id, "- ") if self.lists else "- "
        self._indent(mark, " " * len(mark))

        def leave() -> None:
            self._break()
            self._unindent()

        return leave

    def _indent(self, mark: str, indent: str) -> None:
        deep = len(self.indents) >= _MAX_INDENTS
        self.marks.append("" if deep else mark)
        self.indents.append("" if deep else indent)

    def _unindent(self) -> None:
        self.indents.pop()
        if len(self.marks) > len(self.indents):
            self.marks.pop(0)
        elif self.marks:
            self.marks.pop()

    def _enter_definition(self, node: LexborNode, given: Given) -> Leave:
        self._break()
        self.gap = 1
        return self._break

    def _enter_table(self, node: LexborNode, given: Given) -> Leave:
        self._break()
        self.tables.append(Table())

        def leave() -> None:
            self._break()
            self.tables.pop()

        return leave

    def _enter_row(self, node: LexborNode, given: Given) -> Leave | None:
        if not self.tables or self.heading or len(self.tables) > _MAX_TABLES:
            return self._break
        self._break()
        table = self.tables[-1]
        table.begin_row(node)

        def leave() -> None:
            self._break()
            blocks, self.spare = table.end_row(self.spare)
            for number, block in enumerate(blocks):
                if number or block.kind == "row":
                    self.gap = block.gap
                self._put(block.text, block.kind)

        return leave

    def _enter_cell(self, node: LexborNode, given: Given) -> Leave | None:
        if not self.tables or self.tables[-1].cells is None or self.heading:
            self.line.append(" ")
            return self._break
        self._break()
        table = self.tables[-1]
        before = self.blocks, self.gap, self.indents, self.marks, self.lists, self.verbatim
        self.blocks, self.gap, self.indents, self.marks, self.lists = [], 2, [], [], []
        self.verbatim = 0

        def leave() -> None:
            self._break()
            table.add_cell(self.blocks, _number(given.get("colspan"), 1), given.get("rowspan"))
            self.blocks, self.gap, self.indents, self.marks, self.lists, self.verbatim = before

        return leave


_Method = Callable[[Writer, LexborNode, Given], Leave | Skipped | None]
_METHODS: dict[str, _Method] = {
    **{"li": Writer._enter_item, "dd": Writer._enter_definition, "table": Writer._enter_table},
    **{"tr": Writer._enter_row, "td": Writer._enter_cell, "th": Writer._enter_cell},
    **{"a": Writer._enter_link, "sup": Writer._enter_superscript, "sub": Writer._enter_subscript},
    **{"math": Writer._enter_math, "img": Writer._enter_image, "input": Writer._enter_input},
    **{"select": Writer._enter_select, "svg": Writer._enter_svg, "br": Writer._enter_break},
    "mjx-container": Writer._enter_mathjax,
    "rt": lambda writer, *_: writer._enclose("(", ")"),
    "q": lambda writer, *_: writer._enclose("“", "”"),
    **dict.fromkeys(("del", "s", "strike"), lambda writer, *_: writer._enclose("~~", "~~")),
}


def _around(nodes: list[LexborNode]) -> frozenset[int]:
    """Returns the identities of the elements around some elements."""
    found = set()
    for node in nodes:
        at = node.parent
        while at is not None and at.mem_id not in found:
            found.add(at.mem_id)
            at = at.parent
    return frozenset(found)


def _styled(tag: str, style: str) -> str:
    """Returns the element that one with a style looks like."""
    display = re.search(r"display:([\w-]+)", style)
    shown = _DISPLAYS.get(display[1], tag) if display else tag
    if tag not in _STYLED:
        return tag if shown == "div" else shown
    return next((name for look, name in _STYLES if look.search(style)), shown)


def _is_hidden(tag: str, given: Given) -> bool:
    if "hidden" in given and (given["hidden"] or "").lower() != "until-found":
        return True
    if given.get("aria-hidden") == "true":
        return True
    style = (given.get("style") or "").replace(" ", "").lower()
    return "display:none" in style or "visibility:hidden" in style


def _squeeze(text: str) -> str:
    text = text.replace("\u00ad", "")  # a soft hyphen
    if "\n" not in text:
        return " ".join(text.split())
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return re.sub("\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _number(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch(r"\d{1,5}", text, re.ASCII) else default
