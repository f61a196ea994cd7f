"""`agenticlu show`: documents as a model is shown them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from agenticlu.cli.ask.settings import AskSettings
from agenticlu.cli.options import note_estimate, operand, settings_command
from agenticlu.cli.reading import describe_reading
from agenticlu.core.config import Resolved
from agenticlu.core.errors import DocumentError
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import Positive, ReadingSettings, settings_of

if TYPE_CHECKING:
    from agenticlu.core.records import Page, Piece
    from agenticlu.dialogue.run import ShownDocument

USED = ("piece_tokens", "model", "base_url", "tokenizer", "json")
"""Settings of `ask`, besides those of reading, that decide what is shown."""


class ShowSettings(AskSettings):
    """Settings of `agenticlu show`: those of [ask], of which the others are passed over."""

    page: Positive | None = None
    """Show this page alone; of several documents, of each."""


UNUSED = tuple(settings_of(AskSettings).keys() - {*USED, *settings_of(ReadingSettings)})


@settings_command(ShowSettings, "show", without=UNUSED, inherits=("ask",))
@operand("files", nargs=-1, required=True, metavar="FILE...")
def command(resolved: Resolved[ShowSettings], files: tuple[str, ...]) -> None:
    """Print FILE as a model is shown it: numbered paragraphs, pages, and what was left out.

    A FILE is what `agenticlu ask` takes: a document, a folder, a pattern, an address, or '-'. The
    paragraphs are those of `agenticlu ask` with the same model and settings, so their numbers are
    those of its sources. Lines that begin with '#' are no part of what the model is shown.
    """
    from agenticlu.dialogue.run import show_document
    from agenticlu.documents import DEFAULT_PIECE_TOKENS, load_document
    from agenticlu.engines import ModelChoice

    settings = resolved.values
    choice = ModelChoice(settings.model, settings.base_url)
    document = load_document(files, limits=settings.limits)
    tokenizer = choice.tokenizer(settings.tokenizer)
    note_estimate(settings, tokenizer)
    piece_tokens = settings.piece_tokens or choice.hint("piece_tokens") or DEFAULT_PIECE_TOKENS
    shown = show_document(document, tokenizer, piece_tokens)
    pieces = _select(shown, settings.page)
    if settings.as_json:
        echo_json(_as_dict(shown, pieces, tokenizer.name))
        return
    total = sum(piece.num_tokens for piece in shown.pieces)
    number = len(shown.pieces)
    about = "about " if tokenizer.name.startswith("approximate") else ""
    paragraphs = f"{number:,} paragraph{'s' if number != 1 else ''}"
    echo(f"# {document.source}: {paragraphs}, {about}{total:,} tokens")
    for line in describe_reading(document):
        echo(f"# {line}")
    for line in _lines(shown, pieces):
        echo(line)


def _select(shown: ShownDocument, page: int | None) -> Sequence[Piece]:
    """Returns the pieces that hold text of a page; of all pages with None."""
    if page is None:
        return shown.pieces
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


def _lines(shown: ShownDocument, pieces: Sequence[Piece]) -> Iterator[str]:
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


def _as_dict(shown: ShownDocument, pieces: Sequence[Piece], tokenizer: str) -> dict[str, Any]:
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
