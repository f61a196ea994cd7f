"""Verdicts where log-probabilities are missing: a reply is sampled and parsed."""

from __future__ import annotations

from collections.abc import Sequence

from agenticlu.dialogue.replies import parse_verdict
from agenticlu.engines.base import ChoiceProbs, Sampled

PARSE_TOKENS = 16
"""Length of a reply that is parsed for a verdict, without the thought before it."""


def read_verdict(sampled: Sampled, choices: Sequence[str]) -> ChoiceProbs:
    """Returns a sampled verdict as probabilities: all on the choice that the reply names.

    A reply that names none gives equal weights and no label mass.
    """
    verdict = parse_verdict(sampled.completions[0].text, tuple(choices))
    if verdict is None:
        even = {choice: 1.0 / len(choices) for choice in choices}
        return ChoiceProbs(even, 0.0, sampled.usage, method="parse")
    chosen = {choice.casefold(): choice for choice in choices}[verdict.casefold()]
    shares = {choice: float(choice == chosen) for choice in choices}
    return ChoiceProbs(shares, 1.0, sampled.usage, method="parse")
