"""Known answers in the shapes that HELMET gives them."""

from __future__ import annotations

from collections.abc import Sequence

from agenticlu.core.errors import UsageError

Golds = str | Sequence[str] | Sequence[Sequence[str]]
"""One gold answer, several, or several groups of aliases."""


def flat_golds(golds: Golds) -> list[str]:
    """Returns golds as a flat list, whatever their nesting.

    Raises:
        UsageError: There is none: a row without golds has no score.
    """
    if isinstance(golds, str):
        return [golds]
    flat: list[str] = []
    for gold in golds:
        flat.extend([gold] if isinstance(gold, str) else gold)
    if not flat:
        raise UsageError("A row without gold answers cannot be scored.")
    return flat
