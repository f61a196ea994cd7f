"""Entries of a history, made of a real PDF with places on its pages."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pypdfium2
from made_pdf import PdfPage, make_pdf

from agenticlu.documents import load_document
from agenticlu.documents.rectangles import rectangles_of
from agenticlu.room.export import PageImage, PageKey

LINES = (
    ("The contract was signed in Wexley.", "Ada Yardley signed it first."),
    ("<script>alert(1)</script> is a line of the annex.", "Bo Otis signed it second."),
)
HOSTILE = "</style><script>document.title='taken'</script><img src=x onerror=alert(1)>"


def write_pdf(path: Path) -> Path:
    pages = [
        PdfPage(
            "BT /F1 14 Tf 72 700 Td " + " 0 -20 Td ".join(f"({line}) Tj" for line in lines) + " ET"
        )
        for lines in LINES
    ]
    path.write_bytes(make_pdf(pages))
    return path


def make_entry(path: Path, number: int = 1, **changes: Any) -> dict[str, Any]:
    document = load_document(str(path))
    quotes = (LINES[0][1], LINES[1][0])
    citations, places = [], []
    for piece, quote in enumerate(quotes):
        start = document.text.index(quote)
        end = start + len(quote)
        boxes = [one.model_dump(mode="json") for one in rectangles_of(document, start, end)]
        assert boxes
        page = document.page_of(start)
        citations.append(
            {
                "piece": piece, "start": 0, "end": len(document.text), "page": page,
                "text": document.text, "quote": quote, "quote_start": start, "quote_end": end,
                "verified": piece == 0, "file": None, "rectangles": boxes,
            }
        )  # fmt: skip
        places.append(
            {"part": 0, "start": start, "end": end, "page": page, "rectangles": boxes,
             "page_name": None, "piece": piece}
        )  # fmt: skip
    statement = f"Ada Yardley signed first. The annex says {HOSTILE} too."
    first = len("Ada Yardley signed first.")
    return {
        "id": f"e{number}",
        "conversation": "c",
        "document": document.id,
        "document_name": f"contract {HOSTILE}.pdf",
        "asked_at": "2026-01-02T03:04:05Z",
        "question": f"Who signed first? {HOSTILE}",
        "answer": {
            "answer": statement,
            "statement": statement,
            "status": "supported",
            "supported": True,
            "claims": [
                {"text": statement[:first], "start": 0, "end": first, "citations": [0],
                 "verified": True},
                {"text": statement[first + 1 :], "start": first + 1, "end": len(statement),
                 "citations": [0, 1], "verified": False},
            ],
            "citations": citations,
            "notes": [f"A note {HOSTILE}"],
            "usage": {"prompt_tokens": 1200, "cached_tokens": 1000, "completion_tokens": 30},
            "seconds": 1.25,
            "engine": "tiny",
        },
        "places": places,
        "trail": [
            {"round": 1, "kind": "clarify", "reply": f"Who is Ada? {HOSTILE}", "places": []},
            {"round": 1, "kind": "point", "reply": "<para 0>", "places": []},
            {"round": 1, "kind": "answer", "reply": "Ada", "places": []},
        ],
        **changes,
    }  # fmt: skip


def draw_pages(path: Path, document: str, scale: float = 2.0) -> dict[PageKey, PageImage]:
    images = {}
    with pypdfium2.PdfDocument(path) as pdf:
        for number in range(len(pdf)):
            page = pdf[number]
            data = io.BytesIO()
            page.render(scale=scale).to_pil().save(data, "PNG")
            images[PageKey(document, 0, number + 1)] = PageImage(data.getvalue(), *page.get_size())
    return images
