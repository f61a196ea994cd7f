"""Formats that are zip archives: office files and electronic books."""

from __future__ import annotations

import contextlib
import io
import xml.etree.ElementTree as ElementTree
import zipfile
import zlib
from collections.abc import Iterator
from xml.parsers.expat import ExpatError

from lxml import etree

from agenticlu.core.errors import DocumentError
from agenticlu.core.limits import VARIABLES, DocumentLimits
from agenticlu.documents.formats import Parsed, name_of

MAX_ENTRIES = 50_000
"""Most files of an archive; books of thousands of pictures have some thousands."""
_ROOT_FILES = ("[Content_Types].xml", "META-INF/container.xml", "META-INF/manifest.xml")
"""Of which a document has one."""
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, ExpatError, RuntimeError, OSError),
    *(etree.LxmlError, KeyError, IndexError, ValueError, AttributeError, TypeError),
)
"""Raised by the parsers for damaged files; the last line is for missing parts, too."""


@contextlib.contextmanager
def open_archive(data: bytes, name: str) -> Iterator[zipfile.ZipFile]:
    """Opens an archive; failures to read it inside the block become errors for users.

    Raises:
        DocumentError: The archive is broken, encrypted or too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_sizes(archive, name)
            _tidy_names(archive)
            yield archive
    except RecursionError:
        raise  # it is whole, but nested too deeply, which the caller says
    except _BROKEN as error:
        raise DocumentError(
            f"{name} is a broken or encrypted office file: {error}",
            hint="Open it in an office program and save it as PDF.",
        ) from error


def _tidy_names(archive: zipfile.ZipFile) -> None:
    """Undoes what repacking does to names: backslashes, and one folder around everything."""
    infos = [one for one in archive.infolist() if not one.filename.startswith("__MACOSX/")]
    names = [one.filename.replace("\\", "/").removeprefix("./") for one in infos]
    folder = names[0].partition("/")[0] + "/" if names else ""
    has_root = any(f"{folder}{name}" in names for name in _ROOT_FILES)
    if has_root and all(name.startswith(folder) for name in names):
        names = [name.removeprefix(folder) for name in names]
    for info, name in zip(infos, names, strict=True):
        info.filename = name
    archive.filelist = infos
    archive.NameToInfo = dict(zip(names, infos, strict=True))


def _check_sizes(archive: zipfile.ZipFile, name: str) -> None:
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise DocumentError(
            f"{name} is an archive of {len(infos):,} files, too many for a document."
        )
    # Of what is stored or deflated, zipfile unpacks no more than the archive declares; other
    # methods, which no office file or book has, unpack a block of any size at once.
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
        raise DocumentError(
            f"{name} is an archive packed by another method than 'deflate'.",
            hint="Unpack it and give one of its files, or save it anew in the office program.",
        )
    limits = DocumentLimits.read()
    if sum(info.file_size for info in infos) > limits.most_bytes:
        raise DocumentError(
            f"{name} unpacks to more than {limits.mib} MiB.",
            hint=f"If it is worth more: export {VARIABLES['mib']}={4 * limits.mib}",
        )


def parse(data: bytes, source: str) -> Parsed:
    """Reads the document in an archive.

    Raises:
        DocumentError: The archive is broken, encrypted or too large, or no document.
    """
    from agenticlu.documents.formats import docx, epub, odf, ooxml, pptx, spreadsheets

    with open_archive(data, name_of(source)) as archive:
        if epub.matches(archive):
            return epub.parse(archive, source)
        if odf.matches(archive):
            return odf.parse_package(archive, source)
        main = ooxml.main_part(archive)
        language = "" if main is None else ooxml.vocabulary(archive, main)
        if main is not None and language == "wordprocessingml":
            return docx.parse(archive, main)
        if main is not None and language == "spreadsheetml":
            return spreadsheets.parse(archive, main)
        if language == "presentationml":
            return pptx.parse(archive)
        if any(name.endswith(".iwa") for name in archive.namelist()):
            raise DocumentError(
                f"{name_of(source)} is a file of Pages, Numbers or Keynote.",
                hint="Export it there as docx, xlsx, pptx or PDF.",
            )
    raise DocumentError(
        f"{name_of(source)} is a zip archive, but no office file and no epub.",
        hint="Unpack it and give one of its files.",
    )
