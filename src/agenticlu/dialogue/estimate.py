"""What asking a question costs at most, counted without asking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agenticlu.core.records import Document, Piece, Question
from agenticlu.dialogue.run import ROUND_TOKENS, ShownDocument, control_tokens, count_messages
from agenticlu.dialogue.steps import FULL_ROUND, MAX_TOKENS, Dialogue, Profile, opening_kinds
from agenticlu.documents.tokens import MAX_TEMPLATE_TOKENS, Tokenizer

COUNTED_TOKENS = 100_000
"""A longer view is counted by a sample of its pieces of about this length: the text was tokenised
when it was split, and only marks and borders are not known."""
SAMPLE_MARGIN = 1.005


@dataclass(frozen=True)
class AskEstimate:
    """Upper bounds on the cost of asking."""

    document_tokens: int
    """Tokens of the document as shown, markers included."""
    num_pieces: int
    requests: int
    """Maximum requests; the self-check may end the rounds sooner."""
    prompt_tokens: int
    """Maximum prompt tokens over all requests."""
    cached_tokens: int
    """Those of them that an engine with a prefix cache need not compute again."""
    completion_tokens: int
    """Maximum sampled tokens, thoughts aside."""
    thinking_tokens: int
    """Maximum tokens of thought; 0 where the model is known not to think."""
    window_tokens: int | None
    """The model's window; None when unknown."""
    fits: bool | None
    """Whether document and first round fit the window; None when unknown."""
    needed_tokens: int
    """Tokens that the first round needs in the window."""
    approximate: bool
    """Whether tokens were estimated: without the model's tokenizer, or of a very long document."""


def estimate(
    document: Document,
    question: Question,
    *,
    tokenizer: Tokenizer,
    profile: Profile,
    rounds: int = 1,
    pieces: Sequence[Piece],
    window: int | None,
    thinking_tokens: int = 0,
    earlier: Sequence[tuple[str, str]] = (),
    view_tokens: int | None = None,
) -> AskEstimate:
    """Counts what asking would cost at most; sends nothing.

    Args:
        document: To be read.
        question: To be asked.
        tokenizer: Counts.
        profile: Wordings.
        rounds: Maximum rounds.
        pieces: Of the document.
        window: Of the model; None where unknown.
        thinking_tokens: Most tokens of thought before a reply.
        earlier: As in `agenticlu.dialogue.ask.ask`.
        view_tokens: See `count_view`, where another question about the document had it counted.
    """
    shown = ShownDocument(document, tuple(pieces), control_tokens(tokenizer))
    if view_tokens is None:
        view_tokens = count_view(shown, tokenizer)
    first = Dialogue(
        profile, document.id, "", question, controls=shown.controls, earlier=tuple(earlier)
    ).next_request()
    assert first is not None
    length = view_tokens + count_messages(first.messages, tokenizer)
    needed = length + ROUND_TOKENS
    prompt = cached = completion = before = 0
    kinds = (*opening_kinds(profile), *FULL_ROUND * rounds)
    for turn, kind in enumerate(kinds):
        if turn:
            length += tokenizer.count(getattr(profile, kind)[0].text) + MAX_TEMPLATE_TOKENS
            length += tokenizer.count(question.text) if kind == "answer" else 0
        prompt += length
        cached += before
        before = length
        completion += MAX_TOKENS[kind]
        length += MAX_TOKENS[kind] + MAX_TEMPLATE_TOKENS
    return AskEstimate(
        document_tokens=view_tokens,
        num_pieces=len(pieces),
        requests=len(kinds),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        thinking_tokens=thinking_tokens * len(kinds),
        window_tokens=window,
        fits=None if window is None else needed <= window,
        needed_tokens=needed,
        approximate=tokenizer.name.startswith("approximate") or view_tokens > COUNTED_TOKENS,
    )


def count_view(shown: ShownDocument, tokenizer: Tokenizer) -> int:
    """Returns the tokens of a whole document as shown, markers included.

    Those of more than `COUNTED_TOKENS` are an upper estimate.

    Args:
        shown: Split by the same tokenizer.
        tokenizer: Counts.
    """
    split = sum(piece.num_tokens for piece in shown.pieces)
    if split <= COUNTED_TOKENS:
        return tokenizer.count(shown.view())
    every = math.ceil(split / COUNTED_TOKENS)
    sample = range(0, len(shown.pieces), every)
    counted = tokenizer.count(shown.view(sample))
    more = counted - sum(shown.pieces[index].num_tokens for index in sample)
    return math.ceil((split + max(0, more) * len(shown.pieces) / len(sample)) * SAMPLE_MARGIN)
