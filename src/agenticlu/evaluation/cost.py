"""What items cost, so that methods can be compared although they shared a cache.

Methods of a run read each document together: whichever asks first pays for it. What each would
have paid alone is read off its turns, whatever the order was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agenticlu.core.records import Prediction, Record, Usage


class Overhead(Record):
    """What a method costs, as a multiple of `direct` on the same items."""

    prompt_tokens: float | None = None
    """None where `direct` has no such cost, or was not run."""
    alone_tokens: float | None = None
    """Prompt tokens to compute, every item alone with an empty cache."""
    completion_tokens: float | None = None
    seconds: float | None = None
    """As run: cache and processor were shared with the other items in flight."""


def alone_tokens(prediction: Prediction) -> int:
    """Returns the prompt tokens that an item computes by itself, with a cache that begins empty.

    Its first turn is read whole. A later turn finds at most what the turn before it held, prompt
    and reply: what else it found was there because of other items. Retrieval by the engine reads
    its passages whole.

    >>> turn = lambda prompt, cached: {"kind": "direct", "wording": "", "request": "", "reply": "",
    ...     "usage": Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=5)}
    >>> alone_tokens(Prediction(id="", task="", method="", length=1, document_id="", gold=(),
    ...     question_id="", question="", turns=(turn(100, 90), turn(120, 105)),
    ...     usage=Usage(prompt_tokens=220, cached_tokens=195, completion_tokens=10)))
    115
    """
    turns = [turn.usage for turn in prediction.turns if turn.usage is not None]
    asked = sum(usage.prompt_tokens for usage in turns)
    total, held = prediction.usage.prompt_tokens - asked, 0
    for usage in turns:
        total += usage.prompt_tokens - min(usage.cached_tokens, held)
        held = usage.prompt_tokens + usage.completion_tokens
    return total


def overhead(scored: Sequence[Prediction], baseline: Sequence[Prediction]) -> Overhead:
    """Returns the cost as a multiple of the baseline's, on the items that both have."""
    own = {(p.document_id, p.question_id): p for p in scored}
    other = {(p.document_id, p.question_id): p for p in baseline}
    shared = [key for key in own if key in other]

    def ratio(cost: Callable[[Prediction], float]) -> float | None:
        base = sum(cost(other[key]) for key in shared)
        return round(sum(cost(own[key]) for key in shared) / base, 4) if base else None

    return Overhead(
        prompt_tokens=ratio(lambda p: p.usage.prompt_tokens),
        alone_tokens=ratio(alone_tokens),
        completion_tokens=ratio(lambda p: p.usage.completion_tokens),
        seconds=ratio(lambda p: p.seconds),
    )


def spent(predictions: Sequence[Prediction]) -> Usage:
    """Returns what predictions cost together; requests that several share are counted once."""
    return sum((p.usage for p in predictions if not p.part_of), Usage())
