"""What a reader should know about an answer: pages that were not read, quotes not found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agenticlu.core.records import Document, Page, Piece
from agenticlu.dialogue.run import PieceScanner
from agenticlu.documents.citations import Citation
from agenticlu.documents.quotes import find_quote, fold


def page_notes(document: Document) -> Iterator[str]:
    """Yields notes on pages without text, on unknown characters, on files that were not read."""
    for name, pages in document.pages_by_name.items():
        # A sheet, slide or chapter without text is counted by its format as what it is.
        blank = [page.number for page in pages if page.start == page.end and not page.name]
        if blank:
            listed = ", ".join(map(str, blank[:8])) + (", ..." if len(blank) > 8 else "")
            of = f" of {name}" if document.parts else ""
            yield (
                f"{len(blank)} of {len(pages)} pages{of} have no text layer and were not read: "
                f"{listed}. --ocr recognises pages that are pictures."
            )
        unknown = [page.number for page in pages if _is_unknown(document, page)]
        if unknown:
            of = f" of {name}" if document.parts else ""
            yield (
                f"The file does not say which characters most glyphs of {len(unknown)} pages"
                f"{of} are ({', '.join(map(str, unknown[:8]))}). --ocr recognises them."
            )
    if document.unread:
        total = len(document.unread) + len(document.parts)
        named = ", ".join(list(document.unread)[:8])
        more = ", ..." if len(document.unread) > 8 else ""
        yield f"{len(document.unread)} of {total} files were not read: {named}{more}."


def _is_unknown(document: Document, page: Page) -> bool:
    text = document.text[page.start : page.end]
    return text.count("\ufffd") > 0.2 * len(text)


def quote_notes(
    document: Document, pieces: Sequence[Piece], said: Sequence[str], citations: Sequence[Citation]
) -> Iterator[str]:
    """Yields a note where the statement is found in a paragraph that was not named, or nowhere.

    Args:
        document: That was asked.
        pieces: All its pieces.
        said: Statements of the answer's turn.
        citations: Of the pieces that the model named.
    """
    if not said or any(citation.verified for citation in citations):
        return
    text = document.text
    folded = fold(text)
    for statement in said:
        if (span := find_quote(statement, folded, text)) is not None:
            piece = next(piece for piece in pieces if piece.start <= span[0] < piece.end)
            yield f"The model's statement is in paragraph {piece.index}, which it did not name."
            return
    if citations:
        yield "The model's statement is not in the document word for word."


def span_note(scanner: PieceScanner, num_seen: int) -> str:
    """Returns how a document that does not fit the window was read.

    Args:
        scanner: Scored its pieces.
        num_seen: Pieces that the dialogue saw.
    """
    total, scored = len(scanner.shown.pieces), len(scanner.scores)
    if scored < total:
        text = (
            f"Read by spans: the documents do not fit the window, so a search by words chose "
            f"{scored:,} of their {total:,} pieces, which were scored one by one; "
            f"{total - scored:,} were not looked at. The dialogue saw {num_seen}."
        )
    else:
        text = (
            "Read by spans: the document does not fit the window, so each of its "
            f"{total} pieces was scored alone; the dialogue saw {num_seen}."
        )
    if not scanner.num_relevant:
        text += " None was found relevant; the likeliest were taken."
    elif scanner.num_left_out:
        text += f" {scanner.num_left_out} more seemed relevant, but did not fit."
    return text
