"""PDFs written by hand: pages of operators, with annotations, forms and any further objects."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

FIRST = 4
"""Number of the first further object; 1 is the catalog, 2 the pages, 3 Helvetica (/F1)."""


@dataclass(frozen=True)
class PdfPage:
    """A page."""

    stream: str = ""
    """Operators."""
    entries: str = ""
    """Further entries of the page, such as /Rotate 90."""
    fonts: str = ""
    resources: str = ""


def make_pdf(
    pages: Sequence[PdfPage | str], objects: Sequence[str | bytes] = (), catalog: str = ""
) -> bytes:
    """Returns a PDF; a page may be given by its operators alone."""
    first_page = FIRST + len(objects)
    kids = " ".join(f"{first_page + 2 * i} 0 R" for i in range(len(pages)))
    bodies: list[bytes] = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        *(one.encode("latin-1") if isinstance(one, str) else one for one in objects),
    ]
    for i, given in enumerate(pages):
        page = PdfPage(given) if isinstance(given, str) else given
        bodies.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] {page.entries} "
            f"/Contents {first_page + 2 * i + 1} 0 R "
            f"/Resources << /Font << /F1 3 0 R {page.fonts} >> {page.resources} >> >>".encode()
        )
        stream = page.stream.encode("latin-1")
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    return write_objects(bodies)


def write_objects(bodies: Sequence[bytes], trailer: str = "") -> bytes:
    """Writes a file of numbered objects, of which the first is the catalogue."""
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(bodies, start=1):
        offsets.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
    entries = f"/Size {len(bodies) + 1} /Root 1 0 R {trailer}"
    out.write(f"trailer\n<< {entries} >>\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def show(x: float, y: float, text: str, size: float = 12) -> str:
    """Returns the operators that show a line of text."""
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"BT /F1 {size} Tf 1 0 0 1 {x} {y} Tm ({escaped}) Tj ET\n"


def column(x: float, y: float, lines: Sequence[str], size: float = 12) -> list[str]:
    """Returns the operators of lines below each other, one for each."""
    return [show(x, y - 1.2 * size * i, line, size) for i, line in enumerate(lines)]


def by_rows(*columns: Sequence[str]) -> str:
    """Joins operators of columns as writers of tables do: row by row."""
    rows = range(max(map(len, columns)))
    return "".join(column[i] for i in rows for column in columns if i < len(column))


def make_form(stream: str, *widgets: str, objects: Sequence[str] = ()) -> bytes:
    """Returns a page with the widgets of a form, each given by its entries."""
    numbers = " ".join(f"{FIRST + i} 0 R" for i in range(len(widgets)))
    bodies = [f"<< /Type /Annot /Subtype /Widget /F 4 {widget} >>" for widget in widgets]
    catalog = f"/AcroForm << /Fields [{numbers}] /DA (/F1 12 Tf) >>"
    return make_pdf([PdfPage(stream, f"/Annots [{numbers}]")], [*bodies, *objects], catalog)


def make_notes(stream: str, *notes: str) -> bytes:
    """Returns a page with annotations, each given by its entries."""
    numbers = " ".join(f"{FIRST + i} 0 R" for i in range(len(notes)))
    bodies = [f"<< /Type /Annot {note} >>" for note in notes]
    return make_pdf([PdfPage(stream, f"/Annots [{numbers}]")], bodies)
