"""Word documents."""

from __future__ import annotations

import re
import zipfile

import mammoth

from agenticlu.documents.formats import Parsed, html


def matches(archive: zipfile.ZipFile) -> bool:
    """Whether an archive holds a Word document."""
    return any(name.startswith("word/document") for name in archive.namelist())


def parse(archive: zipfile.ZipFile) -> Parsed:
    """Reads headings, lists, tables, text boxes and notes."""
    images = mammoth.images.img_element(lambda image: {"src": ""})
    text = html.convert(mammoth.convert_to_html(archive.fp, convert_image=images).value).text
    heading = re.search(r"^#+ (.*)$", text, re.MULTILINE)
    return Parsed(text, heading and heading[1])
