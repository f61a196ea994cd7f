"""Jupyter notebooks (https://nbformat.readthedocs.io/en/latest/format_description.html)."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Page
from agenticlu.documents.formats import Parsed, html, name_of
from agenticlu.documents.formats.encodings import read_text
from agenticlu.documents.formats.text import first_heading

_ANSI = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]")
"""Colours of terminals."""
_NO_ATTACHMENT = re.compile(r"!\[([^\[\]\n]*)\]\((?:attachment:|data:)[^()\n]*\)")


def parse(data: bytes, source: str) -> Parsed:
    """Reads the cells of a notebook, each as a page: prose, code, and what the code printed.

    Raises:
        DocumentError: It is no notebook.
    """
    text, left_out = read_text(data, source)
    try:
        book = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DocumentError(
            f"{name_of(source)} is a broken notebook: {error}.", hint="Save it anew in Jupyter."
        ) from error
    if not isinstance(book, dict) or not isinstance(cells := _cells(book), list):
        raise DocumentError(
            f"{name_of(source)} is no notebook: it has no list of cells.",
            hint="Give it another ending, such as .json, to have it read as it stands.",
        )
    language = _language(book)
    pages: list[Page] = []
    texts: list[str] = []
    length = 0
    for number, cell in enumerate(cells, start=1):
        body = _read_cell(cell, language, left_out) if isinstance(cell, dict) else ""
        if not body.strip():
            continue
        body = body.strip("\n") + "\n\n"
        name = f"cell {number}"
        pages.append(Page(number=number, start=length, end=length + len(body), name=name))
        texts.append(body)
        length += len(body)
    if not pages:
        return Parsed("", left_out=left_out)
    whole = "".join(texts)[:-1]
    pages[-1] = pages[-1].model_copy(update={"end": len(whole)})
    return Parsed(whole, first_heading(whole), tuple(pages), +left_out)


def _cells(book: dict[str, Any]) -> Any:
    if "cells" in book:
        return book["cells"]
    sheets = book.get("worksheets")  # format 3 and older
    if not isinstance(sheets, list):
        return None
    return [cell for sheet in sheets if isinstance(sheet, dict) for cell in sheet.get("cells", ())]


def _language(book: dict[str, Any]) -> str:
    meta = book.get("metadata")
    for key, field in (("language_info", "name"), ("kernelspec", "language")):
        found = meta.get(key) if isinstance(meta, dict) else None
        if isinstance(found, dict) and isinstance(name := found.get(field), str):
            return name
    return "python"


def _read_cell(cell: dict[str, Any], language: str, left_out: Counter[str]) -> str:
    source = _joined(cell.get("source", cell.get("input")))
    kind = cell.get("cell_type")
    if kind == "heading":  # format 3
        level = cell.get("level")
        return f"{'#' * (level if isinstance(level, int) and 0 < level < 7 else 1)} {source}"
    if kind != "code":
        left_out["image"] += len(_NO_ATTACHMENT.findall(source))
        return _NO_ATTACHMENT.sub(r"[image: \1]", source).replace("[image: ]", "")
    parts = [f"```{language}\n{source.strip(chr(10))}\n```"] if source.strip() else []
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        if isinstance(output, dict) and (text := _read_output(output, left_out).strip("\n")):
            parts.append(f"Output:\n{text}")
    return "\n\n".join(parts)


def _read_output(output: dict[str, Any], left_out: Counter[str]) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        return _printed(_joined(output.get("text")))
    if kind in {"error", "pyerr"}:
        lines = _joined([*map(str, output.get("traceback") or ())], "\n")
        return _printed(lines) or f"{output.get('ename')}: {output.get('evalue')}"
    data = output.get("data", output)  # format 3 has the forms beside the type
    if not isinstance(data, dict):
        return ""
    plain = _printed(_joined(data.get("text/plain", data.get("text"))))
    markup = _joined(data.get("text/html", data.get("html")))
    for name in ("text/markdown", "text/latex"):
        if text := _joined(data.get(name)):
            return text
    if markup and (not plain.strip() or "<table" in markup or plain.startswith("<")):
        parsed = html.convert(markup, is_page=False)
        left_out.update(parsed.left_out)
        if parsed.text:
            return parsed.text
    if any(name.startswith("image/") or name in {"png", "jpeg", "svg"} for name in data):
        left_out["image"] += 1
        return "" if re.match(r"<.*>$", plain.strip()) else plain
    if not plain and (others := [name for name in data if name.startswith("application/")]):
        left_out["widget"] += len(others[:1])
    return plain


def _joined(value: Any, between: str = "") -> str:
    """Returns a text that may be stored as a list of lines."""
    if isinstance(value, list):
        return between.join(one for one in value if isinstance(one, str))
    return value if isinstance(value, str) else ""


def _printed(text: str) -> str:
    r"""Returns what a terminal shows in the end: after '\r', a line is written anew."""
    shown = (line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", text).split("\n"))
    return "\n".join(shown)
