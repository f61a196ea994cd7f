"""Zip containers, docx and epub, turned into HTML."""

from __future__ import annotations

import contextlib
import io
import posixpath
import urllib.parse
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterator
from xml.parsers.expat import ExpatError

from agenticlu.core.errors import DocumentError

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""Most bytes that an archive may unpack to."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, ExpatError, RuntimeError, OSError),
    *(KeyError, IndexError, ValueError, AttributeError),
)
"""What the parsers raise for damaged files; the last line stands for parts that are missing."""


@contextlib.contextmanager
def open_archive(data: bytes, name: str) -> Iterator[zipfile.ZipFile]:
    """Opens an archive; failures to read it inside the block become errors for users.

    Raises:
        DocumentError: The archive is broken, encrypted or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Sizes are those that the archive declares; zipfile reads no more than that.
            if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise DocumentError(f"{name} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB.")
            yield archive
    except _BROKEN as error:
        raise DocumentError(
            f"{name} is a broken or encrypted office file: {error}",
            hint="Open it in an office program and save it as PDF.",
        ) from error


def is_docx(archive: zipfile.ZipFile) -> bool:
    """Whether an archive holds a Word document."""
    return any(name.startswith("word/document") for name in archive.namelist())


def is_epub(archive: zipfile.ZipFile) -> bool:
    """Whether an archive holds an electronic book."""
    return "META-INF/container.xml" in archive.namelist()


def convert_docx(archive: zipfile.ZipFile) -> str:
    """Returns a Word document as HTML: headings, lists, tables, text boxes and notes."""
    import mammoth

    images = mammoth.images.img_element(lambda image: {"src": ""})
    html: str = mammoth.convert_to_html(archive.fp, convert_image=images).value
    return html


def read_epub(archive: zipfile.ZipFile) -> tuple[str | None, list[tuple[str, bytes]]]:
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
