"""Driver of the dialogue: the one loop behind `ask`, `eval` and `generate`.

    shown = show_document(document, tokenizer, piece_tokens=512)
    dialogue = Dialogue(..., view=shown.view(), controls=shown.controls)
    dialogue = await run_dialogue(dialogue, sample)

`ShownDocument` is the one place where text from outside is made harmless to a prompt; replies lose
their thinking where a turn is built (`steps.Request.turn`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from agenticlu.core.records import Document, Message, Piece, Turn
from agenticlu.dialogue.steps import FULL_ROUND, MAX_TOKENS, Dialogue, Request
from agenticlu.documents import Marks, mark, neutralise, parse_marks, split
from agenticlu.documents.tokens import MAX_TEMPLATE_TOKENS, Tokenizer
from agenticlu.engines.base import Sampled

ROUND_TOKENS = sum(MAX_TOKENS[kind] + 3 * MAX_TEMPLATE_TOKENS for kind in FULL_ROUND)
"""Window that one round needs beside its first request."""
NOTHING_KEPT = "(No paragraph was found to help.)"
"""Takes the document's place when no piece is shown."""
EDGE_SHARE = 8
"""A piece with its edges reaches this fraction of its length into each neighbour."""


@dataclass(frozen=True)
class ShownDocument:
    """A document as models are shown it: in marked pieces, with control tokens neutralised."""

    document: Document
    pieces: tuple[Piece, ...]
    controls: tuple[str, ...] = ()
    """The model's own control tokens, beside those known by their look."""

    def view(self, only: Collection[int] | None = None) -> str:
        """Returns the marked pieces, or those of them with the given indices."""
        marked = mark(self.document, self.pieces, only, controls=self.controls)
        return marked if only is None else marked or NOTHING_KEPT

    def text(self, index: int, *, edges: bool = False) -> str:
        """Returns one piece without markers.

        Args:
            index: Of the piece.
            edges: Add the edges of its neighbours, whole words of them: then neighbours overlap,
                and a fact cut by a border is whole in one of them.
        """
        piece, text = self.pieces[index], self.document.text
        start, end = piece.start, piece.end
        if edges:
            edge = (end - start) // EDGE_SHARE
            start, end = max(0, start - edge), min(len(text), end + edge)
            while start < piece.start and start > 0 and not text[start - 1].isspace():
                start += 1
            while end > piece.end and end < len(text) and not text[end].isspace():
                end -= 1
        return self.neutralise(text[start:end]).strip()

    def neutralise(self, text: str) -> str:
        """Returns a text whose markers and control tokens are broken; see `documents`."""
        return neutralise(text, self.controls)

    def named(self, reply: str, only: Collection[int] | None = None) -> Marks:
        """Reads the pieces that a reply names.

        Args:
            reply: To a request to point back.
            only: Pieces that the model was shown; others count as out of range. None: all.
        """
        marks = parse_marks(reply, len(self.pieces))
        if only is None:
            return marks
        hidden = [index for index in marks.valid if index not in only]
        return Marks(
            valid=tuple(index for index in marks.valid if index in only),
            out_of_range=tuple(sorted((*marks.out_of_range, *hidden))),
            duplicated=tuple(index for index in marks.duplicated if index in only),
        )


def show_document(document: Document, tokenizer: Tokenizer, piece_tokens: int) -> ShownDocument:
    """Splits a document for a model with this tokenizer."""
    pieces = split(document, tokenizer, piece_tokens)
    return ShownDocument(document, pieces, control_tokens(tokenizer))


def control_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Returns the control tokens of a tokenizer that knows them, such as '<|im_end|>'."""
    controls: tuple[str, ...] = getattr(tokenizer, "controls", ())
    return controls


def count_messages(messages: Sequence[Message], tokenizer: Tokenizer) -> int:
    """Returns the tokens of a conversation, chat template included (an upper estimate)."""
    return sum(tokenizer.count(message.content) + MAX_TEMPLATE_TOKENS for message in messages)


async def run_dialogue(
    dialogue: Dialogue,
    sample: Callable[[Request], Awaitable[Sampled]],
    *,
    may_ask: Callable[[Dialogue, Request], bool] | None = None,
    after_turn: Callable[[Dialogue, Turn], Awaitable[Dialogue]] | None = None,
) -> Dialogue:
    """Asks turn by turn until the dialogue is over, or may not go on.

    Args:
        dialogue: Where to start.
        sample: Asks a model; the first completion becomes the turn.
        may_ask: Called before every request; False ends the dialogue there.
        after_turn: Called with the advanced dialogue and its last turn; returns the dialogue to go
            on with, which may show another view of the document.

    Returns:
        The dialogue with all its turns.
    """
    while (request := dialogue.next_request()) is not None:
        if may_ask is not None and not may_ask(dialogue, request):
            break
        sampled = await sample(request)
        turn = request.turn(sampled.completions[0], sampled.usage)
        dialogue = dialogue.advance(turn)
        if after_turn is not None:
            dialogue = await after_turn(dialogue, turn)
    return dialogue
