"""Pages of PDF files as pictures, for people; called in a child that keeps the file's bytes."""

from __future__ import annotations

import io
import math
from typing import Any

import pypdfium2

from agenticlu.core.errors import DocumentError
from agenticlu.documents.formats.pdf_pages import open_pdf

MOST_PIXELS = 24_000_000
"""Of one picture; a larger page is drawn at a smaller scale."""
_open: list[tuple[bytes, Any]] = []
"""The file that is open, with its bytes."""


def measure_pages(data: bytes, source: str) -> list[tuple[float, float]]:
    """Returns width and height of each page in points, as it is shown; parses no page.

    Raises:
        DocumentError: The file is encrypted or broken.
    """
    pdf = _kept(data, source)
    sizes = []
    for index in range(len(pdf)):
        try:
            width, height = pdf.get_page_size(index)
        except pypdfium2.PdfiumError:
            width, height = 0.0, 0.0
        sizes.append((round(width, 2), round(height, 2)))
    return sizes


def draw_page(data: bytes, source: str, index: int, pixels_per_point: float) -> bytes:
    """Draws a page as it is shown, with what is filled in, as a PNG.

    Args:
        data: The file.
        source: Its name.
        index: Of the page, from 0.
        pixels_per_point: Scale; smaller where the picture would have too many pixels.

    Raises:
        DocumentError: There is no such page, or it is broken.
    """
    pdf = _kept(data, source)
    if not 0 <= index < len(pdf):
        raise DocumentError(f"PDF {source!r} has no page {index + 1}; it has {len(pdf)}.")
    try:
        page = pdf[index]
    except pypdfium2.PdfiumError as error:
        raise DocumentError(f"Page {index + 1} of PDF {source!r} is broken: {error}") from error
    try:
        width, height = page.get_size()
        fitting = math.sqrt(MOST_PIXELS / max(width * height, 1.0))
        bitmap = page.render(scale=min(pixels_per_point, fitting))
        file = io.BytesIO()
        bitmap.to_pil().save(file, "PNG", compress_level=1)
        bitmap.close()
        return file.getvalue()
    finally:
        page.close()


def _kept(data: bytes, source: str) -> Any:
    """Returns the open file; the same one while the child keeps its bytes."""
    if not _open or _open[0][0] is not data:
        for _, pdf in _open:
            pdf.close()
        _open[:] = [(data, open_pdf(data, source))]
    return _open[0][1]
