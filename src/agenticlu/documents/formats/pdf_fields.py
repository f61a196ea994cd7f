"""What people wrote into a PDF: values of form fields, text boxes and notes."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pypdfium2.raw as pdfium

from agenticlu.documents.formats.pdf_words import Word

_HIDDEN = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_PASSWORD = 1 << 13
"""Flag of text fields that show no value (ISO 32000-1, table 228)."""
_UNREAD = {pdfium.FPDF_ANNOT_LINK, pdfium.FPDF_ANNOT_POPUP}
"""Say nothing of their own."""
_CHOICES = {pdfium.FPDF_FORMFIELD_COMBOBOX, pdfium.FPDF_FORMFIELD_LISTBOX}
_MARKS = {pdfium.FPDF_FORMFIELD_CHECKBOX, pdfium.FPDF_FORMFIELD_RADIOBUTTON}
_LINE_HEIGHT = 14.0
"""Fields that are lower hold one line, in points."""


@dataclass
class Written:
    """What was written into a page."""

    values: list[Word] = field(default_factory=list)
    """Of fields of one line, and marks of boxes: read with the text beside them."""
    blocks: list[Word] = field(default_factory=list)
    """Fields of several lines and text boxes: read where they stand."""
    notes: list[Word] = field(default_factory=list)
    """Notes and comments: read at the end of the page."""
    left_out: Counter[str] = field(default_factory=Counter)


def read_written(page: Any, form: Any | None) -> Written:
    """Reads the annotations of a page.

    Args:
        page: The raw handle.
        form: The raw handle of the form environment; None where the file has no form.
    """
    written = Written()
    for index in range(pdfium.FPDFPage_GetAnnotCount(page)):
        with _annotation(page, index) as annotation:
            kind = pdfium.FPDFAnnot_GetSubtype(annotation)
            if annotation is None or kind in _UNREAD:
                continue
            is_hidden = bool(pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN)
            if kind == pdfium.FPDF_ANNOT_WIDGET:
                if form is not None:
                    _read_field(written, form, annotation, is_hidden)
            else:
                _read_note(written, annotation, kind, is_hidden)
    return written


@contextmanager
def _annotation(page: Any, index: int) -> Iterator[Any]:
    annotation = pdfium.FPDFPage_GetAnnot(page, index)
    try:
        yield annotation
    finally:
        if annotation:
            pdfium.FPDFPage_CloseAnnot(annotation)


def _read_field(written: Written, form: Any, annotation: Any, is_hidden: bool) -> None:
    kind = pdfium.FPDFAnnot_GetFormFieldType(form, annotation)
    flags = pdfium.FPDFAnnot_GetFormFieldFlags(form, annotation)
    if kind == pdfium.FPDF_FORMFIELD_SIGNATURE:
        written.left_out["signature"] += bool(pdfium.FPDFAnnot_HasKey(annotation, b"V"))
        return
    if kind in _MARKS:
        value = "[x]" if pdfium.FPDFAnnot_IsChecked(form, annotation) else "[ ]"
    elif kind in _CHOICES:
        value = ", ".join(_selected(form, annotation)) or _field_value(form, annotation)
    elif kind == pdfium.FPDF_FORMFIELD_TEXTFIELD:
        value = _field_value(form, annotation)
    else:
        return
    if not value:
        return
    if is_hidden or (kind == pdfium.FPDF_FORMFIELD_TEXTFIELD and flags & _PASSWORD):
        written.left_out["hidden field"] += 1
        return
    word = _word(value, annotation)
    if "\n" in value or (kind == pdfium.FPDF_FORMFIELD_TEXTFIELD and len(value) > 200):
        written.blocks.append(word)
        return
    # A field is often higher than its text, which stands in the middle.
    left, bottom, right, top = word.box
    middle, half = (bottom + top) / 2, min(_LINE_HEIGHT, top - bottom) / 2
    written.values.append(word._replace(box=(left, middle - half, right, middle + half)))


def _selected(form: Any, annotation: Any) -> Iterator[str]:
    for index in range(pdfium.FPDFAnnot_GetOptionCount(form, annotation)):
        if pdfium.FPDFAnnot_IsOptionSelected(form, annotation, index):
            yield _read_string(partial(pdfium.FPDFAnnot_GetOptionLabel, form, annotation, index))


def _field_value(form: Any, annotation: Any) -> str:
    return _read_string(partial(pdfium.FPDFAnnot_GetFormFieldValue, form, annotation))


def _read_note(written: Written, annotation: Any, kind: int, is_hidden: bool) -> None:
    def entry(key: bytes) -> str:
        return _read_string(partial(pdfium.FPDFAnnot_GetStringValue, annotation, key))

    text = entry(b"Contents")
    if not text:
        # A text box may be drawn without saying its text; marks and lines say nothing.
        written.left_out["drawn note"] += kind == pdfium.FPDF_ANNOT_FREETEXT and not is_hidden
        written.left_out["stamp"] += kind == pdfium.FPDF_ANNOT_STAMP and not is_hidden
    elif is_hidden:
        written.left_out["hidden note"] += 1
    elif kind == pdfium.FPDF_ANNOT_FREETEXT:
        written.blocks.append(_word(text, annotation))
    else:
        author = entry(b"T")
        name = f"Note by {author}" if author else "Note"
        written.notes.append(_word(f"[{name}: {text}]", annotation))


def _word(text: str, annotation: Any) -> Word:
    rect = pdfium.FS_RECTF()
    pdfium.FPDFAnnot_GetRect(annotation, ctypes.byref(rect))
    bottom, top = sorted((rect.bottom, rect.top))
    left, right = sorted((rect.left, rect.right))
    return Word(text, (left, bottom, right, top))


def _read_string(fill: Callable[[Any, int], int]) -> str:
    """Reads a string of pdfium's: UTF-16LE with an end mark, its size in bytes asked for first."""
    size = fill(None, 0)
    if size <= 2:
        return ""
    buffer = (ctypes.c_ushort * ((size + 1) // 2))()
    fill(buffer, size)
    text = bytes(buffer)[: size - 2].decode("utf-16-le", "replace")
    return re.sub(r"\r\n?|\u2028|\u2029", "\n", text).replace("\x00", "").strip()
