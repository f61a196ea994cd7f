"""`agenticlu show`: documents as a model is shown them."""

from __future__ import annotations

from agenticlu.cli.ask.settings import AskSettings
from agenticlu.cli.options import note_estimate, operand, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.settings import Positive, ReadingSettings, settings_of
from agenticlu.documents.described import describe_reading

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
    from agenticlu.dialogue.showing import describe_shown, pieces_on, render_pieces
    from agenticlu.documents import DEFAULT_PIECE_TOKENS, load_document
    from agenticlu.engines import ModelChoice

    settings = resolved.values
    choice = ModelChoice(settings.model, settings.base_url)
    document = load_document(files, limits=settings.limits)
    tokenizer = choice.tokenizer(settings.tokenizer)
    note_estimate(settings, tokenizer)
    piece_tokens = settings.piece_tokens or choice.hint("piece_tokens") or DEFAULT_PIECE_TOKENS
    shown = show_document(document, tokenizer, piece_tokens)
    pieces = shown.pieces if settings.page is None else pieces_on(shown, settings.page)
    if settings.as_json:
        echo_json(describe_shown(shown, pieces, tokenizer.name))
        return
    total = sum(piece.num_tokens for piece in shown.pieces)
    number = len(shown.pieces)
    about = "about " if tokenizer.name.startswith("approximate") else ""
    paragraphs = f"{number:,} paragraph{'s' if number != 1 else ''}"
    echo(f"# {document.source}: {paragraphs}, {about}{total:,} tokens")
    for line in describe_reading(document):
        echo(f"# {line}")
    for line in render_pieces(shown, pieces):
        echo(line)
