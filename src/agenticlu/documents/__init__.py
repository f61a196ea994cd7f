"""Loads documents, splits them into pieces, marks the pieces and reads marks back.

Characters are counted in `Document.text`; every piece, page and citation is a span of it. Only the
*marked view*, what a model is shown, differs from the text: there, words that look like our
markers or like a chat template's control tokens are broken by a space, so that a document can
neither forge a paragraph nor end its own turn.
"""

from __future__ import annotations

import bisect
import codecs
import io
import posixpath
import re
import sys
import unicodedata
import urllib.parse
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document, Page, Piece, without_lone_surrogates
from agenticlu.documents.tokens import Tokenizer

if TYPE_CHECKING:
    import bs4

DEFAULT_PIECE_TOKENS = 512
NO_MARKS = "No paragraph helps."
"""What stands for an empty list of marks."""
MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""Most bytes that an office file may unpack to."""


# --- Loading --------------------------------------------------------------------------------------


def load_document(source: str) -> Document:
    """Loads UTF-8 text, Markdown, HTML, PDF (by its text layer), docx or epub.

    The kind is told by the content, then by the ending of the name.

    Args:
        source: A path, or '-' for standard input.

    Raises:
        DocumentError: No such file, a folder, empty, binary, not UTF-8, a PDF without a text
            layer, encrypted or broken.
    """
    data = _read_bytes(source)
    if not data.strip(b" \t\r\n\f\v\x00"):
        raise DocumentError(f"{_named(source)} is empty.", hint="Give a document with text in it.")
    parsed = _parse(data, source)
    if not parsed.text.strip():
        raise DocumentError(f"{_named(source)} has no text in it.")
    return Document.of(parsed.text, source, title=parsed.title, pages=tuple(parsed.pages))


@dataclass
class _Parsed:
    text: str
    title: str | None = None
    pages: list[Page] = field(default_factory=list)


def _named(source: str) -> str:
    return "Standard input" if source == "-" else f"The document {source!r}"


def _read_bytes(source: str) -> bytes:
    if source == "-":
        return sys.stdin.buffer.read()
    if re.match(r"https?://", source):
        raise DocumentError(
            f"{source!r} is an address; documents are read from files or standard input.",
            hint=f"curl -L {source} | agenticlu ask - QUESTION",
        )
    path = Path(source)
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        near = _nearest_name(path)
        raise DocumentError(
            f"There is no file {source!r}.",
            hint=near or "Give the path of a document, or - to read standard input.",
        ) from error
    except IsADirectoryError as error:
        raise DocumentError(
            f"{source!r} is a folder; a document is one file.",
            hint="Give one of its files, or join them: cat FOLDER/*.txt | agenticlu ask - QUESTION",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DocumentError(f"{source!r} cannot be read: {reason}.") from error


def _nearest_name(path: Path) -> str | None:
    from agenticlu.core.errors import did_you_mean

    try:
        names = [str(path.parent / p.name) for p in path.parent.iterdir()]
    except OSError:
        return None
    return did_you_mean(str(path), names)


def _parse(data: bytes, source: str) -> _Parsed:
    ending = Path(source).suffix.lower()
    if data[:1024].lstrip().startswith(b"%PDF-") or ending == ".pdf":
        return _parse_pdf(data, source)
    if data.startswith(b"PK\x03\x04"):
        return _parse_zip(data, source)
    if ending in {".html", ".htm", ".xhtml"} or _looks_like_html(data):
        return _parse_html(_decode(data, source, declared=_declared_charset(data)))
    text = _decode(data, source)
    if ending in {".md", ".markdown"}:
        heading = re.search(r"^#{1,6}[ \t]+(.+?)[ \t#]*$", text, re.MULTILINE)
        return _Parsed(text, title=heading.group(1) if heading else None)
    return _Parsed(text)


# Plain text


_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def _decode(data: bytes, source: str, declared: str | None = None) -> str:
    encoding, skip = declared or "utf-8", 0
    for bom, name in _BOMS:
        if data.startswith(bom):
            encoding, skip = name, len(bom)
            break
    if not skip and encoding == "utf-8" and _is_binary(data):
        raise DocumentError(
            f"{_named(source)} is binary, not text{_kind_by_magic(data)}.",
            hint="Text, Markdown, HTML, PDF, docx and epub can be read.",
        )
    try:
        return data[skip:].decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + skip
        raise DocumentError(
            f"{_named(source)} is not {encoding.upper()}: byte {at} is 0x{data[at]:02x}.",
            hint="Convert it first, for example: iconv -f WINDOWS-1252 -t UTF-8 IN > OUT",
        ) from error
    except LookupError as error:
        raise DocumentError(
            f"{_named(source)} declares the unknown encoding {encoding!r}.",
            hint="Save it as UTF-8.",
        ) from error


def _is_binary(data: bytes) -> bool:
    head = data[:8192]
    control = sum(byte < 32 and byte not in b"\t\n\r\f\v\x1b\x08" for byte in head)
    return b"\x00" in data or control > max(4, len(head) // 50)


def _kind_by_magic(data: bytes) -> str:
    kinds = {
        b"\xd0\xcf\x11\xe0": "an old Office file; save it as docx or PDF",
        b"\x89PNG": "a picture",
        b"\xff\xd8\xff": "a picture",
        b"GIF8": "a picture",
        b"\x1f\x8b": "compressed by gzip; unpack it first",
        b"\x7fELF": "a program",
        b"SQLite format 3": "a database",
    }
    for magic, kind in kinds.items():
        if data.startswith(magic):
            return f" ({kind})"
    return ""


# HTML


def _words(names: str) -> frozenset[str]:
    return frozenset(names.split())


_BLOCKS = _words(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav "
    "ol option p pre section select summary table tbody tfoot thead tr ul"
)
_DROPPED = _words(
    "script style noscript template head svg math iframe object embed canvas audio video button "
    "input select textarea nav"
)
_PAGE_FURNITURE = _words("header footer aside form")


def _looks_like_html(data: bytes) -> bool:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return bool(re.match(rb"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype html|<html)", head, re.S))


def _declared_charset(data: bytes) -> str | None:
    found = re.search(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w-]+)", data[:4096], re.IGNORECASE)
    if found is None:
        found = re.match(rb"\s*<\?xml[^>]+encoding\s*=\s*[\"']([\w-]+)", data[:256])
    if found is None:
        return None
    name = found.group(1).decode("ascii").lower()
    if name in {"utf8", "utf-8"}:
        return None
    # Browsers read both as Windows-1252, and files of the web are made for browsers.
    return "cp1252" if name in {"iso-8859-1", "latin1", "ascii", "us-ascii"} else name


def _parse_html(html: str) -> _Parsed:
    """Renders the main text: headings with '#', items with '-', a blank line between blocks."""
    import bs4

    soup = bs4.BeautifulSoup(html, "html.parser")
    title = " ".join(soup.title.get_text().split()) if soup.title else None
    root, whole_page = _main_content(soup)
    return _Parsed(_render_html(root, drop_furniture=whole_page), title=title or None)


def _main_content(soup: bs4.BeautifulSoup) -> tuple[bs4.Tag, bool]:
    """Returns the element that holds the main text, and whether that is the whole page."""
    body = soup.body or soup
    size = len(body.get_text())
    for candidates in (
        soup.find_all("main"),
        soup.find_all(role="main"),
        soup.find_all("article"),
    ):
        # Several articles are a listing: then the page is the document.
        if len(candidates) == 1 and len(candidates[0].get_text()) * 3 >= size:
            return candidates[0], False
    return body, True


def _is_hidden(tag: bs4.Tag) -> bool:
    style = str(tag.get("style") or "").replace(" ", "").lower()
    return (
        tag.has_attr("hidden")
        or str(tag.get("aria-hidden") or "").lower() == "true"
        or "display:none" in style
        or "visibility:hidden" in style
    )


def _render_html(root: bs4.Tag, *, drop_furniture: bool) -> str:
    from bs4.element import CData, NavigableString, PageElement, Tag

    writer = _BlockWriter()
    # A stack, not recursion: pages may nest deeper than Python's limit.
    stack: list[tuple[PageElement, bool]] = [(root, False)]
    while stack:
        element, leaving = stack.pop()
        if isinstance(element, Tag):
            name = element.name.lower()
            if leaving:
                writer.leave(name)
                continue
            if name in _DROPPED or _is_hidden(element):
                continue
            if drop_furniture and name in _PAGE_FURNITURE and not element.find("h1"):
                continue
            writer.enter(name)
            stack.append((element, True))
            stack.extend((child, False) for child in reversed(element.contents))
        elif type(element) is NavigableString or isinstance(element, CData):
            writer.write(str(element))
    return writer.text()


class _BlockWriter:
    """Collects the text of inline elements into blocks."""

    def __init__(self) -> None:
        self._blocks: list[tuple[str, bool]] = []  # text, and whether a blank line goes before it
        self._line: list[str] = []
        self._prefix = ""
        self._tight = False
        self._pre = 0
        self._cells = 0

    def enter(self, name: str) -> None:
        if name in _BLOCKS:
            self._flush()
        if re.fullmatch(r"h[1-6]", name):
            self._prefix = "#" * int(name[1]) + " "
        elif name == "li":
            self._prefix, self._tight = "- ", True
        elif name == "tr":
            self._cells, self._tight = 0, True
        elif name in {"td", "th"}:
            if self._cells:
                self._line.append(" | ")
            self._cells += 1
        elif name == "pre":
            self._pre += 1
        elif name == "br":
            self._line.append("\n")

    def leave(self, name: str) -> None:
        if name in _BLOCKS:
            self._flush()
        if name == "pre":
            self._pre -= 1

    def write(self, text: str) -> None:
        self._line.append(text if self._pre else re.sub(r"[ \t\r\n\f]+", " ", text))

    def text(self) -> str:
        self._flush()
        parts: list[str] = []
        before_tight = False
        for block, tight in self._blocks:
            if parts:
                parts.append("\n" if tight and before_tight else "\n\n")
            parts.append(block)
            before_tight = tight
        return "".join(parts) + ("\n" if parts else "")

    def _flush(self) -> None:
        joined = "".join(self._line)
        self._line.clear()
        if self._pre:
            block = joined.strip("\n")
        else:
            lines = (re.sub(r" {2,}", " ", line).strip(" ") for line in joined.split("\n"))
            block = "\n".join(lines).strip()
        if block.strip():
            self._blocks.append((self._prefix + block, self._tight))
            self._prefix, self._tight = "", False


# PDF


def _parse_pdf(data: bytes, source: str) -> _Parsed:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise DocumentError(
                f"The PDF {source!r} is encrypted.",
                hint="Remove the password first: qpdf --decrypt --password=... IN.pdf OUT.pdf",
            ) from error
        raise DocumentError(
            f"The PDF {source!r} is broken: {error}",
            hint="Try to repair it: qpdf IN.pdf OUT.pdf",
        ) from error
    parts: list[str] = []
    pages: list[Page] = []
    length = 0
    try:
        for number in range(1, len(pdf) + 1):
            text = _pdf_page_text(pdf, number, source)
            body = f"{text}\n\n" if text else ""
            pages.append(Page(number=number, start=length, end=length + len(body)))
            parts.append(body)
            length += len(body)
        title = str(pdf.get_metadata_value("Title") or "").strip() or None
    finally:
        pdf.close()
    if length == 0:
        raise DocumentError(
            f"The PDF {source!r} has no text layer: its {len(pages)} page(s) are pictures.",
            hint="Recognise the text first: ocrmypdf IN.pdf OUT.pdf",
        )
    return _Parsed("".join(parts), title=title, pages=pages)


def _pdf_page_text(pdf: object, number: int, source: str) -> str:
    import pypdfium2

    try:
        page = pdf[number - 1]  # type: ignore[index]
        textpage = page.get_textpage()
        text: str = textpage.get_text_bounded()
        textpage.close()
        page.close()
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"Page {number} of the PDF {source!r} is broken: {error}") from error
    # PDFium ends lines with \r\n and writes U+FFFE (or U+0002) for a hyphen at a line's end.
    text = re.sub("[\ufffe\x02]\r?\n?", "", text).replace("\r\n", "\n").replace("\r", "\n")
    return without_lone_surrogates(text.replace("\x00", "")).strip()


# Office files


def _parse_zip(data: bytes, source: str) -> _Parsed:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise DocumentError(
                    f"{_named(source)} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB."
                )
            names = set(archive.namelist())
            if "word/document.xml" in names:
                return _parse_docx(archive)
            if "META-INF/container.xml" in names:
                return _parse_epub(archive, source)
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, RuntimeError) as error:
        raise DocumentError(
            f"{_named(source)} is a broken or encrypted office file: {error}",
            hint="Open it in an office program and save it as PDF.",
        ) from error
    raise DocumentError(
        f"{_named(source)} is a zip archive, but neither docx nor epub.",
        hint="Unpack it and give one of its files.",
    )


_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def _parse_docx(archive: zipfile.ZipFile) -> _Parsed:
    root = ElementTree.fromstring(archive.read("word/document.xml"))
    body = root.find(f"{_W}body")
    blocks: list[str] = []
    for block in [] if body is None else body:
        if block.tag == f"{_W}tbl":
            rows = [
                " | ".join(
                    " ".join(filter(None, map(_docx_text, cell.iter(f"{_W}p"))))
                    for cell in row.findall(f"{_W}tc")
                )
                for row in block.iter(f"{_W}tr")
            ]
            blocks.append("\n".join(rows))
            continue
        for paragraph in block.iter(f"{_W}p"):
            style = paragraph.find(f"{_W}pPr/{_W}pStyle")
            level = (
                re.search(r"(?i)heading\s*([1-6])", style.get(f"{_W}val", ""))
                if (style is not None)
                else None
            )
            text = _docx_text(paragraph)
            if text:
                blocks.append("#" * int(level.group(1)) + " " + text if level else text)
    title = next((b.lstrip("# ") for b in blocks if b.startswith("#")), None)
    return _Parsed("\n\n".join(blocks) + "\n" if blocks else "", title=title)


def _docx_text(paragraph: ElementTree.Element) -> str:
    parts: list[str] = []
    for node in paragraph.iter():
        if node.tag == f"{_W}t":
            parts.append(node.text or "")
        elif node.tag == f"{_W}tab":
            parts.append("\t")
        elif node.tag in {f"{_W}br", f"{_W}cr"}:
            parts.append("\n")
    return "".join(parts).strip()


def _parse_epub(archive: zipfile.ZipFile, source: str) -> _Parsed:
    container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
    rootfile = container.find(".//{*}rootfile")
    if rootfile is None:
        raise DocumentError(f"The epub {source!r} names no package file.")
    package_path = rootfile.get("full-path", "")
    package = ElementTree.fromstring(archive.read(package_path))
    hrefs = {item.get("id"): item.get("href", "") for item in package.findall(".//{*}item")}
    title = next((node.text for node in package.findall(".//{*}title") if node.text), None)
    chapters = []
    for reference in package.findall(".//{*}itemref"):
        href = urllib.parse.unquote(hrefs[reference.get("idref")])
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package_path), href))
        chapter = _decode(archive.read(name), f"{source}:{name}")
        chapters.append(_parse_html(chapter).text.strip())
    return _Parsed("\n\n".join(filter(None, chapters)) + "\n", title=title)


# --- Splitting ------------------------------------------------------------------------------------

_SENTENCE_END = re.compile(
    r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？][」』”’)]*"
    r"|(?<=[.!?…\"'”’»)\]:\n])\n|\n(?=[ \t]*(?:\n|[-*•#|]))"
)
"""Where a sentence, a paragraph or an item ends. Other line ends come second: in text wrapped at a
fixed width they stand inside sentences."""
_LINE_END = re.compile(r"\n")


def split(
    document: Document, tokenizer: Tokenizer, piece_tokens: int = DEFAULT_PIECE_TOKENS
) -> tuple[Piece, ...]:
    """Cuts a document into pieces of at most `piece_tokens` tokens; joined, they give it back.

    Tokens are counted when the whole document is tokenised at once, each where it starts. A piece
    ends between two tokens and, where the last quarter of the window has one, at the end of a
    sentence, else of a line. No character is split, even one that is made of more tokens than
    fit: such a character is a piece of its own.
    """
    if piece_tokens < 1:
        raise ValueError(f"piece_tokens must be at least 1, got {piece_tokens}")
    text = document.text
    if not text:
        return ()
    starts, clean = _cuts(text, tokenizer.spans(text))
    ends = tuple(
        [match.end() for match in kind.finditer(text)] for kind in (_SENTENCE_END, _LINE_END)
    )
    pieces: list[Piece] = []
    start = first = 0  # character and token at which the piece begins
    while start < len(text):
        if len(starts) - first <= piece_tokens:
            end = len(text)
        else:
            end = _choose_end(starts, clean, ends, first, piece_tokens, start)
        last = len(starts) if end == len(text) else bisect.bisect_left(starts, end, lo=first)
        pieces.append(
            Piece(
                index=len(pieces),
                start=start,
                end=end,
                num_tokens=last - first,
                page=document.page_of(start),
            )
        )
        start, first = end, last
    return tuple(pieces)


def _cuts(text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[bool]]:
    """Returns each token's first character, and whether cutting there harms nothing.

    A cut is clean where no earlier token reaches over it, no combining mark follows and no line
    end is halved.
    """
    starts: list[int] = []
    clean: list[bool] = []
    reach = 0
    for a, b in spans:
        start = max(starts[-1] if starts else 0, min(a, len(text) - 1))
        char = text[start]
        starts.append(start)
        clean.append(
            reach <= start
            and not unicodedata.combining(char)
            and char not in "\u200d\ufe0f"
            and not (char == "\n" and text[start - 1 : start] == "\r")
        )
        reach = max(reach, b)
    return starts, clean


def _choose_end(
    starts: Sequence[int],
    clean: Sequence[bool],
    ends: Sequence[Sequence[int]],
    first: int,
    piece_tokens: int,
    start: int,
) -> int:
    """Returns the character at which a piece ends that cannot hold the rest of the text."""
    over = first + piece_tokens  # the first token that does not fit
    quarter = starts[first + piece_tokens - piece_tokens // 4]
    for kind in ends:
        best = bisect.bisect_right(kind, starts[over]) - 1
        while best >= 0 and kind[best] > max(quarter, start):
            token = bisect.bisect_left(starts, kind[best], lo=first)
            if token <= over and starts[token] == kind[best] and clean[token]:
                return kind[best]
            best -= 1
    for token in range(over, max(first, over - max(8, piece_tokens // 4)), -1):
        if starts[token] > start and clean[token]:
            return starts[token]
    if starts[over] > start:
        return starts[over]
    # One character of more tokens than fit: it goes whole.
    after = bisect.bisect_right(starts, start, lo=first)
    return starts[after] if after < len(starts) else start + 1


# --- Marking --------------------------------------------------------------------------------------

_MARKER_LIKE = re.compile(r"<(?=/?para(?:graph)?s?(?:\b|\s*-?\d))", re.IGNORECASE)
_CONTROL_LIKE = re.compile(
    r"<(?="
    r"[|｜][^<>\n]{0,64}?[|｜]>"  # <|im_end|> and the full-width kind
    r"|/?(?:s|bos|eos|unk|pad|mask|cls|sep|sop|eop|role|think|thinking|tool_call|tool_response"
    r"|im_start|im_end|start_of_turn|end_of_turn|start_of_image|end_of_image|end_of_utterance"
    r"|begin_of_text|endoftext|seed:\w{1,24}|\w{2,24}_token)>"
    r"|/?<?SYS>"
    r"|(?:reserved|unused|extra_id|special)_?[\w ]{0,24}>"
    r"|[|][a-z_]{1,24}>|[a-z_]{1,24}[|]>"  # <|turn> and <turn|>
    r"|0x[0-9A-Fa-f]{2}>)"
    r"|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|SYSTEM_PROMPT|IMG|BOS"
    r"|EOS|PAD|UNK|MASK|CLS|SEP|gMASK|THINK|ARGS|CALL_ID|UNUSED_TOKEN_\d{1,4})\])"
    r"|\](?=~b\])|\[(?=e~\[)",
    re.IGNORECASE,
)


def neutralise(text: str, controls: Collection[str] = ()) -> str:
    """Breaks what looks like a marker or a control token by a space after its first character.

    Args:
        text: Text of a document, or any text from outside.
        controls: Exact control tokens of the model at hand, beside those known by their look.

    >>> neutralise("<para 3> says <|im_end|>")
    '< para 3> says < |im_end|>'
    """
    text = _CONTROL_LIKE.sub(r"\g<0> ", _MARKER_LIKE.sub("< ", text))
    exact = [c for c in controls if len(c) > 1 and c in text]
    if exact:
        longest_first = sorted(exact, key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)))
        text = pattern.sub(lambda m: f"{m.group()[0]} {m.group()[1:]}", text)
    return text


def render_piece(document: Document, piece: Piece, controls: Collection[str] = ()) -> str:
    """Returns what a model is shown of a piece: stripped, plain line ends, neutralised."""
    text = document.text[piece.start : piece.end].replace("\r\n", "\n").replace("\r", "\n")
    return neutralise(text.strip(), controls)


def mark(
    document: Document,
    pieces: Sequence[Piece],
    only: Collection[int] | None = None,
    *,
    controls: Collection[str] = (),
) -> str:
    """Returns the marked view: each piece between paragraph markers, one after another.

    Args:
        document: The document.
        pieces: Its pieces.
        only: Indices of the pieces to show; None shows all.
        controls: Control tokens to neutralise beside those known by their look.
    """
    shown = [piece for piece in pieces if only is None or piece.index in only]
    return "\n".join(
        f"<para {piece.index}> {render_piece(document, piece, controls)} </para {piece.index}>"
        for piece in shown
    )


# --- Marks in model text --------------------------------------------------------------------------


@dataclass(frozen=True)
class Marks:
    """Paragraphs that a model named."""

    valid: tuple[int, ...]
    """Ascending, each once."""
    out_of_range: tuple[int, ...]
    """Numbers that no piece has, ascending, each once."""
    duplicated: tuple[int, ...]
    """Valid numbers named more than once, ascending."""


_NUMBER = r"-?\d{1,99}(?!\d)"
_TO = r"[ \t]*(?:-|–|—|\.\.\.?|…|to|through|until)[ \t]*"
_ANGLE = re.compile(
    rf"<para(?:graph)?s?\s*(?P<a>{_NUMBER})\s*>"
    rf"(?:{_TO}<para(?:graph)?s?\s*(?P<b>{_NUMBER})\s*>)?",
    re.IGNORECASE,
)
_CLOSING = re.compile(rf"</para(?:graph)?s?\s*({_NUMBER})\s*>", re.IGNORECASE)
_LIST = rf"#?{_NUMBER}(?:(?:\s*(?:,|;|&|and|or|\+)\s*(?:and\s+)?|{_TO})#?{_NUMBER})*"
# Possessive: models loop on blanks, and plain `\s*` three times over is cubic in a run of them.
_WORDY = re.compile(
    r"\b(?:para(?:graph|s)?s?|passages?|pieces?)\.?\s*+(?:no\.|nos\.|numbers?)?\s*+:?\s*+"
    rf"(?P<list>{_LIST})",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"\[\s*(?P<list>{_LIST})\s*\]")
_BARE = re.compile(rf"[\s\[({{]*(?P<list>{_LIST}|{_NUMBER}(?:\s+{_NUMBER})*)[\s\])}}.]*")
_DENIED = re.compile(r"\b(?:none|neither)\s+of\b[^.\n]*", re.IGNORECASE)


def parse_marks(text: str, num_pieces: int) -> Marks:
    """Reads the paragraphs that a model named.

    Markers (`<para 3>`, also as a range) count first; without any, words ("paragraphs 3 and 5"),
    then brackets ("[3]"), then a reply of bare numbers.

    >>> parse_marks("I need <para 3> and <para 5>-<para 7>, not 2 more.", 7)
    Marks(valid=(3, 5, 6), out_of_range=(7,), duplicated=())
    """
    text = _DENIED.sub(" ", text)
    named = list(_angle_numbers(text, num_pieces))
    if not named:
        for pattern in (_WORDY, _BRACKETED):
            named = [
                number
                for match in pattern.finditer(text)
                for number in _listed(match["list"], num_pieces)
            ]
            if named:
                break
    if not named and (match := _BARE.fullmatch(text)):
        named = list(_listed(match["list"], num_pieces))
    counts = Counter(named)
    valid = sorted(n for n in counts if 0 <= n < num_pieces)
    return Marks(
        valid=tuple(valid),
        out_of_range=tuple(sorted(n for n in counts if not 0 <= n < num_pieces)),
        duplicated=tuple(n for n in valid if counts[n] > 1),
    )


def render_marks(indices: Iterable[int]) -> str:
    """Writes paragraphs as a model is taught to name them.

    >>> render_marks([3, 7])
    '<para 3> <para 7>'
    """
    return " ".join(f"<para {index}>" for index in indices) or NO_MARKS


def _angle_numbers(text: str, num_pieces: int) -> Iterator[int]:
    opened = set()
    for match in _ANGLE.finditer(text):
        for number in _range(int(match["a"]), int(match["b"] or match["a"]), num_pieces):
            opened.add(number)
            yield number
    # A closing marker repeats its opening one; alone, it still names a paragraph.
    for match in _CLOSING.finditer(text):
        if (number := int(match[1])) not in opened:
            opened.add(number)
            yield number


def _listed(listed: str, num_pieces: int) -> Iterator[int]:
    between = re.compile(rf"#?(?P<a>{_NUMBER})(?:{_TO}#?(?P<b>\d{{1,99}}(?!\d)))?", re.IGNORECASE)
    for match in between.finditer(listed):
        yield from _range(int(match["a"]), int(match["b"] or match["a"]), num_pieces)


def _range(first: int, last: int, num_pieces: int) -> Iterator[int]:
    """Yields first..last; of the numbers that no piece has, only the two ends."""
    if first > last:
        yield from (first, last)
        return
    if first < 0 or first >= num_pieces:
        yield first
    yield from range(max(first, 0), min(last, num_pieces - 1) + 1)
    if last != first and last >= num_pieces:
        yield last
