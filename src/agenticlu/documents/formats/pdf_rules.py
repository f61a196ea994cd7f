"""Horizontal rules of a PDF page: they part the rows of tables, and so tell tables from columns."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium

LEAST_LENGTH = 15.0
"""Shorter lines are parts of drawings and letters, in points."""
_SAME = 3.0
"""Rules that are no farther apart are edges of one, or the borders of neighbouring cells."""
_MOST_SEGMENTS = 20_000
"""A page of more is a drawing."""


class Rule(NamedTuple):
    """A horizontal line."""

    v: float
    """Its place down the page, in the frame of upright text."""
    u0: float
    u1: float


def read_rules(page: Any) -> list[Rule]:
    """Reads the rules of a page (the raw handle), borders of neighbouring cells joined."""
    found = sorted(Rule(-y, left, right) for left, right, y in _lines(page))
    rows: list[list[Rule]] = []
    for rule in found:
        if rows and rule.v - rows[-1][-1].v <= _SAME:
            rows[-1].append(rule)
        else:
            rows.append([rule])
    return [joined for row in rows for joined in _join(row)]


def _join(row: Sequence[Rule]) -> Iterator[Rule]:
    last: Rule | None = None
    for rule in sorted(row, key=lambda rule: rule.u0):
        if last is None:
            last = rule
        elif rule.u0 <= last.u1 + _SAME:
            last = last._replace(u1=max(last.u1, rule.u1))
        else:
            yield last
            last = rule
    if last is not None:
        yield last


def _lines(page: Any) -> Iterator[tuple[float, float, float]]:
    """Yields left, right and y of horizontal lines."""
    num_segments = 0
    matrix = pdfium.FS_MATRIX()
    x, y = ctypes.c_float(), ctypes.c_float()
    for index in range(pdfium.FPDFPage_CountObjects(page)):
        one = pdfium.FPDFPage_GetObject(page, index)
        if pdfium.FPDFPageObj_GetType(one) != pdfium.FPDF_PAGEOBJ_PATH:
            continue
        size = pdfium.FPDFPath_CountSegments(one)
        num_segments += max(size, 0)
        if num_segments > _MOST_SEGMENTS:
            return
        pdfium.FPDFPageObj_GetMatrix(one, ctypes.byref(matrix))
        first: tuple[float, float] | None = None
        last: tuple[float, float] | None = None
        for number in range(size):
            segment = pdfium.FPDFPath_GetPathSegment(one, number)
            pdfium.FPDFPathSegment_GetPoint(segment, ctypes.byref(x), ctypes.byref(y))
            point = (
                matrix.a * x.value + matrix.c * y.value + matrix.e,
                matrix.b * x.value + matrix.d * y.value + matrix.f,
            )
            kind = pdfium.FPDFPathSegment_GetType(segment)
            if kind == pdfium.FPDF_SEGMENT_MOVETO:
                first = last = point
                continue
            ends = [last] if kind == pdfium.FPDF_SEGMENT_LINETO else []
            if pdfium.FPDFPathSegment_GetClose(segment):
                ends.append(first)
            a = point
            for b in ends:
                if b and abs(a[1] - b[1]) < 0.5 and abs(a[0] - b[0]) >= LEAST_LENGTH:
                    yield min(a[0], b[0]), max(a[0], b[0]), (a[1] + b[1]) / 2
            last = point
