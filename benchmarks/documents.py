"""How long documents take to be read, and how much memory: PDFs of 500 and 1,000 pages, and others.

    python benchmarks/documents.py [--pages N] [--only NAME] [--json FILE]

Documents are made of words drawn by Zipf's law from 8,000 and written by hand, so that the maker
costs nothing: dense pages (65 lines of 90 characters) in one and in two columns, those written row
by row, a docx of as many pages, a workbook of 100,000 rows, and 20 MB of text and of HTML. Each is
loaded in a fresh process. Seconds are those of `load_document` on the clock, the start of the
processes that parse included; processor seconds are those of all processes, imports included, and
tell more on a busy machine; memory is the peak of the first process and of two that parse. Exits
with 1 where a line misses its target.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import string
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from agenticlu.evaluation.tables import render_table

VOCABULARY = 8_000
LINES, WIDTH = 65, 90
"""Of a dense page."""
MOST_S = 10.0
"""For 1,000 pages."""
MOST_MB = 500.0
TEXT_BYTES = 20_000_000
NUM_ROWS = 100_000

_LOAD = """
import json, resource, sys, time
from agenticlu.documents import load_document
began = time.perf_counter()
document = load_document(sys.argv[1])
seconds = time.perf_counter() - began
own = resource.getrusage(resource.RUSAGE_SELF)
try:
    from agenticlu.documents.confined import end_idle
    end_idle()
except ImportError:
    pass
child = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "seconds": seconds, "cpu_s": own.ru_utime + own.ru_stime + child.ru_utime + child.ru_stime,
    "mb": (own.ru_maxrss + 2 * child.ru_maxrss) / 1024,
}))
"""


def draw_lines(num: int, width: int, seed: int = 0) -> list[str]:
    """Returns lines of words, each nearly as long as the width."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 10)))
             for _ in range(VOCABULARY)]  # fmt: skip
    weights = list(accumulate(1 / (rank + 1) for rank in range(VOCABULARY)))
    drawn = iter(rng.choices(words, cum_weights=weights, k=num * width // 3))
    lines = []
    for _ in range(num):
        line = next(drawn)
        while len(line) < width - 9:
            line += " " + next(drawn)
        lines.append(line)
    return lines


def write_pdf(pages: Sequence[str]) -> bytes:
    """Writes a PDF of pages given by their operators; /F1 is Helvetica."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, stream in enumerate(pages):
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * i} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>",
            f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
        ]
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(out.tell())
        out.write(f"{number} 0 obj\n{body}\nendobj\n".encode())
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write(b"".join(b"%010d 00000 n \n" % offset for offset in offsets))
    trailer = f"<< /Size {len(objects) + 1} /Root 1 0 R >>"
    out.write(f"trailer {trailer}\nstartxref\n{start}\n%%EOF\n".encode())
    return out.getvalue()


def make_pdf(num_pages: int, num_columns: int = 1, *, by_rows: bool = False) -> bytes:
    """Makes a PDF of dense pages."""
    size, step = (9, 530) if num_columns == 1 else (8, 270)
    lines = draw_lines(num_pages * LINES * num_columns, WIDTH // num_columns - 2)
    pages = []
    for page in range(num_pages):
        places = [(column, row) for column in range(num_columns) for row in range(LINES)]
        if by_rows:
            places.sort(key=lambda place: place[1])
        first = page * LINES * num_columns
        shown = [
            f"1 0 0 1 {40 + step * column} {750 - 11 * row} Tm "
            f"({lines[first + column * LINES + row]}) Tj\n"
            for column, row in places
        ]
        pages.append(f"BT /F1 {size} Tf\n{''.join(shown)}ET")
    return write_pdf(pages)


def make_docx(num_pages: int) -> bytes:
    """Makes a docx of paragraphs of five lines."""
    lines = draw_lines(num_pages * LINES, WIDTH)
    w = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
    paragraphs = (" ".join(lines[i : i + 5]) for i in range(0, len(lines), 5))
    body = "".join(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>" for text in paragraphs)
    types = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
    links = "http://schemas.openxmlformats.org/package/2006/relationships"
    return zip_of({
        "[Content_Types].xml": types,
        "_rels/.rels": f'<Relationships xmlns="{links}"><Relationship Id="r" Type="{kind}" '
                       'Target="word/document.xml"/></Relationships>',
        "word/document.xml": f"<w:document {w}><w:body>{body}</w:body></w:document>",
    })  # fmt: skip


def make_xlsx(num_rows: int) -> bytes:
    """Makes a workbook with one sheet of five columns."""
    names = draw_lines(num_rows, 20)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    links = "http://schemas.openxmlformats.org/package/2006/relationships"
    doc = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    types = "http://schemas.openxmlformats.org/package/2006/content-types"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"
    rows = "".join(
        f'<row r="{i}"><c r="A{i}" t="inlineStr"><is><t>{name}</t></is></c>'
        + "".join(f'<c r="{column}{i}"><v>{i * 7 % 1000}</v></c>' for column in "BCDE")
        + "</row>"
        for i, name in enumerate(names, start=1)
    )
    return zip_of({
        "[Content_Types].xml": f'<Types xmlns="{types}"><Default Extension="rels" ContentType='
                               '"application/vnd.openxmlformats-package.relationships+xml"/>'
                               f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.'
                               'main+xml"/><Override PartName="/xl/worksheets/sheet1.xml" '
                               f'ContentType="{kind}.worksheet+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{links}"><Relationship Id="r" Type="{doc}/'
                       'officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{doc}"><sheets><sheet name="Prices" '
                           'sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{links}"><Relationship Id="r1" Type='
                                      f'"{doc}/worksheet" Target="worksheets/sheet1.xml"/>'
                                      "</Relationships>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData>'
                                    "</worksheet>",
    })  # fmt: skip


def zip_of(files: dict[str, str]) -> bytes:
    """Packs files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def make_text(num_bytes: int, before: str = "", after: str = "\n") -> bytes:
    """Makes a text of so many bytes, each line between two marks."""
    lines = draw_lines(num_bytes // (WIDTH + len(before)), WIDTH)
    return "".join(f"{before}{line}{after}" for line in lines).encode()


def make_all(num_pages: int) -> Iterator[tuple[str, Callable[[], bytes], float | None]]:
    """Yields the documents: a file's name, its maker, and the seconds that it may take."""
    full, half = num_pages, num_pages // 2
    limit = MOST_S * num_pages / 1000
    yield f"{full} pages.pdf", lambda: make_pdf(full), limit
    yield f"{half} pages.pdf", lambda: make_pdf(half), limit / 2
    yield f"{half} pages in two columns.pdf", lambda: make_pdf(half, 2), limit / 2
    yield (
        f"{half} pages in two columns by rows.pdf",
        lambda: make_pdf(half, 2, by_rows=True),
        limit / 2,
    )
    yield f"{full} pages.docx", lambda: make_docx(full), limit
    yield f"{NUM_ROWS} rows.xlsx", lambda: make_xlsx(NUM_ROWS), None
    yield "20 MB.txt", lambda: make_text(TEXT_BYTES), None
    yield (
        "20 MB.html",
        lambda: b"<html><body>" + make_text(TEXT_BYTES, "<p>", "</p>\n") + b"</body></html>",
        None,
    )


def measure(path: Path) -> dict[str, Any]:
    """Loads a file in a fresh process; returns what it printed, or why it failed."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["?"])[-1][:200]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--only", default="", help="documents with this in their names")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make, most_s in make_all(given.pages):
            if given.only not in name:
                continue
            path = Path(folder, name)
            path.write_bytes(make())
            result = measure(path)
            path.unlink()
            if "error" in result:
                print(f"{name}: {result['error']}", file=sys.stderr)
            is_bounded = most_s is not None
            for value, unit, target in (
                (result.get("seconds"), "s", most_s),
                (result.get("cpu_s"), "processor s", None),
                (result.get("mb"), "MB", MOST_MB if is_bounded else None),
            ):
                met = None if target is None else value is not None and value <= target
                lines.append(
                    {"name": name, "value": value, "unit": unit, "target": target, "met": met}
                )
    print(render_table(
        ["document", "", "", "at most", "met"],
        [[line["name"], "-" if line["value"] is None else f"{line['value']:.1f}", line["unit"],
          "-" if line["target"] is None else f"{line['target']:g}",
          {True: "yes", False: "no", None: ""}[line["met"]]] for line in lines],
    ))  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
    return int(any(line["met"] is False for line in lines))


if __name__ == "__main__":
    sys.exit(main())
