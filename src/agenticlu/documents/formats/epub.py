"""Electronic books."""

from __future__ import annotations

import posixpath
import urllib.parse
import xml.etree.ElementTree as ElementTree
import zipfile

from agenticlu.documents.formats import Parsed, html


def matches(archive: zipfile.ZipFile) -> bool:
    """Whether an archive holds a book."""
    return "META-INF/container.xml" in archive.namelist()


def parse(archive: zipfile.ZipFile, source: str) -> Parsed:
    """Reads the chapters of a book in reading order."""
    title, chapters = _read_chapters(archive)
    texts = [html.parse(chapter, f"{source}:{name}").text for name, chapter in chapters]
    return Parsed("\n\n".join(filter(None, map(str.strip, texts))) + "\n", title)


def _read_chapters(archive: zipfile.ZipFile) -> tuple[str | None, list[tuple[str, bytes]]]:
    """Returns the title of a book, and its chapters (name and HTML) in reading order."""
    container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
    rootfile = container.find(".//{*}rootfile")
    if rootfile is None:
        raise KeyError("META-INF/container.xml names no package file")
    package_path = rootfile.get("full-path", "")
    package = ElementTree.fromstring(archive.read(package_path))
    hrefs = {item.get("id"): item.get("href", "") for item in package.findall(".//{*}item")}
    title = next((node.text for node in package.findall(".//{*}title") if node.text), None)
    chapters = []
    for reference in package.findall(".//{*}itemref"):
        href = urllib.parse.unquote(hrefs[reference.get("idref")])
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package_path), href))
        chapters.append((name, archive.read(name)))
    return title, chapters
