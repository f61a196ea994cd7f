"""What tokens cost, in money and time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Usage

MILLION = 1_000_000


@dataclass(frozen=True)
class Prices:
    """Per million tokens, in any one currency; and a measured rate.

    Raises:
        UsageError: One of them is no number from 0 on, or of prompt and sampled tokens only one
            has a price.
    """

    prompt: float | None = None
    completion: float | None = None
    cached: float | None = None
    """None: as dear as any prompt token."""
    tokens_per_s: float | None = None
    """Computed and sampled tokens a second, all requests in flight together."""

    def __post_init__(self) -> None:
        for name, value in (
            ("--price-in", self.prompt),
            ("--price-out", self.completion),
            ("--price-cached", self.cached),
        ):
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number from 0 on, not {value:g}.")
        if (self.prompt is None) != (self.completion is None):
            raise UsageError(
                "A price needs both --price-in and --price-out.",
                hint="Give 0 for tokens that cost nothing.",
            )
        rate = self.tokens_per_s
        if rate is not None and not 0 < rate < math.inf:
            raise UsageError(f"--tokens-per-s must be a number above 0, not {rate:g}.")

    def price(self, usage: Usage) -> float | None:
        """Returns what tokens cost, or None when no price is known."""
        if self.prompt is None or self.completion is None:
            return None
        cached = self.prompt if self.cached is None else self.cached
        computed = usage.prompt_tokens - usage.cached_tokens
        return (
            computed * self.prompt
            + usage.cached_tokens * cached
            + usage.completion_tokens * self.completion
        ) / MILLION

    def seconds(self, usage: Usage) -> float | None:
        """Returns the time that tokens take, or None when no rate is known."""
        if self.tokens_per_s is None:
            return None
        return usage.computed_tokens / self.tokens_per_s
