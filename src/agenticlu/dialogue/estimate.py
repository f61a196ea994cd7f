"""What asking a question costs at most, counted without asking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agenticlu.core.records import Document, Piece, Question
from agenticlu.dialogue.run import ROUND_TOKENS, ShownDocument, control_tokens, count_messages
from agenticlu.dialogue.steps import FULL_ROUND, MAX_TOKENS, Dialogue, Profile, opening_kinds
from agenticlu.documents.tokens import MAX_TEMPLATE_TOKENS, Tokenizer


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
    """Whether tokens were estimated, without the model's tokenizer."""


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
    """
    shown = ShownDocument(document, tuple(pieces), control_tokens(tokenizer))
    view = shown.view()
    first = Dialogue(
        profile, document.id, view, question, controls=shown.controls, earlier=tuple(earlier)
    ).next_request()
    assert first is not None
    length = count_messages(first.messages, tokenizer)
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
        document_tokens=tokenizer.count(view),
        num_pieces=len(pieces),
        requests=len(kinds),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        thinking_tokens=thinking_tokens * len(kinds),
        window_tokens=window,
        fits=None if window is None else needed <= window,
        needed_tokens=needed,
        approximate=tokenizer.name.startswith("approximate"),
    )
