"""Electronic books: EPUB 2 and 3 (https://www.w3.org/TR/epub-33/)."""

from __future__ import annotations

import contextlib
import posixpath
import re
import urllib.parse
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lxml import etree

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Page
from agenticlu.documents.formats import Parsed, html, name_of

_CONTAINER = "META-INF/container.xml"
_FONT_OBFUSCATIONS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Disguises of embedded fonts; the text of such a book is open."""
_LINK = re.compile(rb"<a\s[^<>]*?href\s*=\s*[\"']([^\"'#<>]+)")
_TEXT_TYPES = (
    "application/xhtml+xml",
    "application/x-dtbook+xml",
    "text/html",
    "text/x-oeb1-document",
)
_UNREADABLE = (
    *(KeyError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error),
    *(OSError, DocumentError),
)
"""What reading a file of a damaged or locked book raises."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A file of a book."""

    path: str
    """In the archive."""
    kind: str
    """Media type."""
    properties: frozenset[str]
    fallback: str | None
    """Id of an item to read instead."""

    @property
    def is_text(self) -> bool:
        """Whether it is a page of text; books without the right types go by the ending."""
        return self.kind in _TEXT_TYPES or (
            not self.kind.startswith(("image/", "audio/", "video/"))
            and self.path.lower().endswith((".xhtml", ".html", ".htm"))
        )


class _Files:
    """The files of an archive, found whatever the case of their names."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = archive.namelist()
        self._by_lower = {name.lower(): name for name in self.names}

    def __contains__(self, path: str) -> bool:
        return path.lower() in self._by_lower

    def read(self, path: str) -> bytes:
        """Reads a file; raises one of `_UNREADABLE`."""
        names = self._archive.NameToInfo
        return self._archive.read(path if path in names else self._by_lower[path.lower()])


def matches(archive: zipfile.ZipFile) -> bool:
    """Whether an archive holds a book."""
    names = archive.NameToInfo
    return _CONTAINER in names or (
        "mimetype" in names and archive.read("mimetype").strip() == b"application/epub+zip"
    )


def parse(archive: zipfile.ZipFile, source: str) -> Parsed:
    """Reads the chapters of a book in reading order, each as a page with its title.

    Chapters that cannot be read are counted. What the book's order calls auxiliary
    (linear="no"), such as notes, is read where it stands; what it does not name, but a chapter
    points to, comes last.

    Raises:
        DocumentError: The book is locked, or none of its chapters can be read.
    """
    files = _Files(archive)
    package_path = _package_path(files)
    package = _parse_xml(files.read(package_path))
    items = _items(package, package_path)
    left_out: Counter[str] = Counter()
    order = _reading_order(package, items, left_out)
    locked = _locked(files) & {item.path for item in order}
    titles = _chapter_titles(files, items)
    texts: list[str] = []
    pages: list[Page] = []
    start = 0
    known = {item.path for item in order}
    for item in order:  # it grows by what its pages point to
        try:
            if item.path in locked:
                raise KeyError(item.path)
            data = files.read(item.path)
            parsed = html.read(data, item.path, is_xml=True)
        except _UNREADABLE:
            left_out["unreadable chapter"] += 1
            continue
        left_out += parsed.left_out
        order += _pointed_to(data, item, items, known)
        if not parsed.text:
            continue
        text = parsed.text + "\n"
        title = titles.get(item.path) or _first_heading(parsed.text) or f"part {len(pages) + 1}"
        page = Page(number=len(pages) + 1, start=start, end=start + len(text), name=title)
        texts.append(text)
        pages.append(page)
        start = page.end
    if not texts:
        raise _nothing_read(files, source, bool(locked), left_out)
    whole = "".join(texts)[:-1]
    pages[-1] = pages[-1].model_copy(update={"end": len(whole)})
    return Parsed(whole, _title(package), tuple(pages), left_out)


def _nothing_read(
    files: _Files, source: str, is_locked: bool, left_out: Counter[str]
) -> DocumentError:
    name = name_of(source)
    if is_locked or "META-INF/rights.xml" in files:
        return DocumentError(
            f"{name} is locked: its shop encrypted it (DRM).",
            hint="Give a copy without DRM, or the publisher's PDF.",
        )
    if left_out["unreadable chapter"]:
        return DocumentError(
            f"{name} is a broken epub: none of its {left_out['unreadable chapter']} chapters can "
            "be read.",
            hint="Fetch it anew.",
        )
    return DocumentError(
        f"{name} contains no text: its pages are images.",
        hint="Save it as PDF; that is read by text recognition: --ocr",
    )


# --- The package ----------------------------------------------------------------------------------


def _package_path(files: _Files) -> str:
    named: list[str] = []
    with contextlib.suppress(KeyError):
        rootfiles = _parse_xml(files.read(_CONTAINER)).findall(".//{*}rootfile")
        named = [_joined("", one.get("full-path", "")) for one in rootfiles]
    # Damaged containers name none that exists; a book has one package.
    for path in (*named, *(name for name in files.names if name.endswith(".opf"))):
        if path in files:
            return path
    raise KeyError("it has no package file")


def _items(package: Any, package_path: str) -> dict[str, _Item]:
    folder = posixpath.dirname(package_path)
    return {
        one.get("id", ""): _Item(
            path=_joined(folder, one.get("href", "")),
            kind=one.get("media-type", "").lower(),
            properties=frozenset(one.get("properties", "").split()),
            fallback=one.get("fallback"),
        )
        for one in package.findall(".//{*}manifest/{*}item")
    }


def _reading_order(package: Any, items: dict[str, _Item], left_out: Counter[str]) -> list[_Item]:
    """Returns the files to read, each once; counts what the order names in vain."""
    order: dict[str, _Item] = {}
    for reference in package.findall(".//{*}spine/{*}itemref"):
        item = _readable(items, reference.get("idref", ""))
        if item is None:
            named = items.get(reference.get("idref", ""))
            is_image = named is not None and named.kind.startswith("image/")
            left_out["image" if is_image else "unreadable chapter"] += 1
        elif "nav" in item.properties:
            left_out["contents page"] += 1
        else:
            order.setdefault(item.path, item)
    if not order:  # without an order: as the book lists them
        texts = (item for item in items.values() if item.is_text)
        order = {item.path: item for item in texts if "nav" not in item.properties}
    return list(order.values())


def _pointed_to(data: bytes, item: _Item, items: dict[str, _Item], known: set[str]) -> list[_Item]:
    """Returns the pages of text, not known so far, that a page has links to."""
    if len(known) == len(items):
        return []
    folder = posixpath.dirname(item.path)
    links = {link.decode("utf-8", "replace") for link in _LINK.findall(data)}
    paths = {_joined(folder, link) for link in links if ":" not in link}
    found = [
        one
        for one in items.values()
        if one.path in paths - known and one.is_text and "nav" not in one.properties
    ]
    known.update(one.path for one in found)
    return found


def _readable(items: dict[str, _Item], name: str) -> _Item | None:
    """Returns an item, or the first of its fallbacks, that is text."""
    seen: set[str] = set()
    item = items.get(name)
    while item is not None and not item.is_text and item.path not in seen:
        seen.add(item.path)
        item = items.get(item.fallback or "")
    return item if item is not None and item.path not in seen else None


def _title(package: Any) -> str | None:
    texts = (" ".join("".join(one.itertext()).split()) for one in package.findall(".//{*}title"))
    return next((text for text in texts if text), None)


def _locked(files: _Files) -> set[str]:
    """Returns the paths of the encrypted files, less embedded fonts."""
    try:
        root = _parse_xml(files.read("META-INF/encryption.xml"))
    except KeyError:
        return set()
    paths = set()
    for data in root.findall(".//{*}EncryptedData"):
        method, reference = data.find("{*}EncryptionMethod"), data.find(".//{*}CipherReference")
        algorithm = "" if method is None else method.get("Algorithm", "")
        if reference is not None and algorithm not in _FONT_OBFUSCATIONS:
            paths.add(_joined("", reference.get("URI", "")))
    return paths


def _chapter_titles(files: _Files, items: dict[str, _Item]) -> dict[str, str]:
    """Returns path -> title from the book's table of contents, the first where it has several."""
    titles: dict[str, str] = {}
    nav = [item for item in items.values() if "nav" in item.properties]
    ncx = [item for item in items.values() if item.kind == "application/x-dtbncx+xml"]
    for item in [*nav, *ncx]:
        try:
            root = _parse_xml(files.read(item.path))
        except _UNREADABLE:
            continue
        folder = posixpath.dirname(item.path)
        links = [(a.get("href", ""), a) for a in root.iterfind(".//{*}nav//{*}a")]
        for point in root.iterfind(".//{*}navPoint"):
            label, content = point.find("{*}navLabel"), point.find("{*}content")
            if label is not None and content is not None:
                links.append((content.get("src", ""), label))
        for href, label in links:
            text = " ".join("".join(label.itertext()).split())
            if text:
                titles.setdefault(_joined(folder, href), text)
    return titles


# --- Files ----------------------------------------------------------------------------------------


def _parse_xml(data: bytes) -> Any:
    """Parses XML that may be damaged; raises KeyError if nothing of it can be read."""
    parser = etree.XMLParser(recover=True, resolve_entities=False, no_network=True)
    with contextlib.suppress(etree.XMLSyntaxError):
        if (root := etree.fromstring(data, parser)) is not None:
            return root
    raise KeyError("its list of files is no XML")


def _joined(folder: str, href: str) -> str:
    path = urllib.parse.unquote(href.partition("#")[0]).replace("\\", "/")
    return posixpath.normpath(posixpath.join(folder, path)).lstrip("/")


def _first_heading(text: str) -> str | None:
    line = text.partition("\n")[0]
    return line.lstrip("# ") if line.startswith("#") else None
