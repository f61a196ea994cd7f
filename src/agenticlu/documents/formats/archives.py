"""Formats that are zip archives: office files and electronic books."""

from __future__ import annotations

import contextlib
import io
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterator
from xml.parsers.expat import ExpatError

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats import Parsed, name_of

MAX_UNPACKED_BYTES = 256 * 1024 * 1024
"""Most bytes that an archive may unpack to."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, ExpatError, RuntimeError, OSError),
    *(KeyError, IndexError, ValueError, AttributeError),
)
"""Raised by the parsers for damaged files; the last line is for missing parts."""


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


def parse(data: bytes, source: str) -> Parsed:
    """Reads the document in an archive.

    Raises:
        DocumentError: The archive is broken, encrypted or too large, or no document.
    """
    from agenticlu.documents.formats import docx, epub

    with open_archive(data, name_of(source)) as archive:
        if docx.matches(archive):
            return docx.parse(archive)
        if epub.matches(archive):
            return epub.parse(archive, source)
    raise DocumentError(
        f"{name_of(source)} is a zip archive, but neither docx nor epub.",
        hint="Unpack it and give one of its files.",
    )
