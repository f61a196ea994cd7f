"""Documents as models are shown them: numbered paragraphs and their pages, in words and as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Page, Piece
from agenticlu.dialogue.run import ShownDocument


def pieces_on(shown: ShownDocument, page: int) -> Sequence[Piece]:
    """Returns the pieces that hold text of a page; of several documents, of each.

    Raises:
        DocumentError: No document has text on such a page.
    """
    found = [
        piece
        for piece in shown.pieces
        if any(one.number == page for one in _pages_of(shown, piece))
    ]
    if not found:
        numbers = [one.number for pages in shown.document.pages_by_name.values() for one in pages]
        raise DocumentError(
            f"{shown.document.source} has no text on page {page}.",
            hint=f"Its pages: {min(numbers)} to {max(numbers)}." if numbers else "It has no pages.",
        )
    return found


def _pages_of(shown: ShownDocument, piece: Piece) -> Iterator[Page]:
    """Yields the pages that a piece has text of."""
    part = shown.document.part_of(piece.start)
    for page in shown.document.pages if part is None else part.pages:
        if max(page.start, piece.start) < min(page.end, piece.end):
            yield page


def render_pieces(shown: ShownDocument, pieces: Sequence[Piece]) -> Iterator[str]:
    """Yields what the model is shown, with a line where the page changes."""
    part, label = None, ""
    for piece in pieces:
        lines = shown.view((piece.index,)).split("\n")
        if (holding := shown.document.part_of(piece.start)) is not None:
            name, *lines = lines
            if holding is not part:
                part, label = holding, ""
                yield from ("", name)
        labels = [page.label for page in _pages_of(shown, piece)]
        now = " to ".join(dict.fromkeys((*labels[:1], *labels[-1:])))
        if now != label:
            label = now
            yield f"# {label}"
        yield "\n".join(lines)


def describe_shown(shown: ShownDocument, pieces: Sequence[Piece], tokenizer: str) -> dict[str, Any]:
    """Returns documents and some of their pieces for programs; `shown` is as models see it."""
    document = shown.document
    return {
        "source": document.source,
        "title": document.title,
        "document_id": document.id,
        "characters": len(document.text),
        "tokenizer": tokenizer,
        "num_pieces": len(shown.pieces),
        "num_tokens": sum(piece.num_tokens for piece in shown.pieces),
        "left_out": document.left_out_by_name,
        "unread": document.unread,
        "files": [
            part.model_dump(mode="json", exclude={"pages", "left_out"}) | {"pages": len(part.pages)}
            for part in document.parts
        ],
        "pieces": [_piece_as_dict(shown, piece) for piece in pieces],
    }


def _piece_as_dict(shown: ShownDocument, piece: Piece) -> dict[str, Any]:
    part = shown.document.part_of(piece.start)
    pages = list(_pages_of(shown, piece))
    return {
        "index": piece.index,
        "file": None if part is None else part.name,
        "start": piece.start,
        "end": piece.end,
        "num_tokens": piece.num_tokens,
        "pages": [page.number for page in pages],
        "page_names": [page.label for page in pages],
        "text": shown.document.text[piece.start : piece.end],
        "shown": shown.view((piece.index,)),
    }
