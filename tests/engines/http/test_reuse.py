"""From how many tokens on prefixes are reused: as the server says, or as its time does."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from agenticlu.core.records import Message, Usage
from agenticlu.engines.base import Asked, Sampling
from agenticlu.engines.http import reuse
from agenticlu.engines.http.protocol import Choice, Reply
from agenticlu.engines.http.reuse import Reuse, measure_reuse

TEMPLATE = 30
"""Tokens that every prompt begins with."""


@dataclass
class Caching:
    """A server on a clock of its own that reuses prefixes from some length on."""

    from_tokens: float = 1
    reports: bool = True
    counts: bool = True
    tokens_per_s: float = 1000.0
    noise: Callable[[int], float] = lambda number: 0.0
    now: float = 0.0
    seen: list[list[str]] = field(default_factory=list)
    prompt_tokens: int = 0

    async def ask_setup(self, asked: Asked, sampling: Sampling) -> Reply:
        words = [*("<s>",) * TEMPLATE, *str(asked[0].content if asked else "").split()]  # type: ignore[union-attr]
        shared = max((_shared(words, one) for one in self.seen), default=0)
        shared = shared if shared >= self.from_tokens else 0
        self.seen.append(words)
        self.now += (len(words) - shared) / self.tokens_per_s + self.noise(len(self.seen))
        self.prompt_tokens += len(words)
        counted = (len(words), shared if self.reports else 0) if self.counts else (0, 0)
        usage = Usage(requests=1, prompt_tokens=counted[0], cached_tokens=counted[1])
        return Reply((Choice("x"),), usage)


def _shared(one: list[str], other: list[str]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reuse]:
    def measure(server: Caching, window: int | None = 32_768) -> Reuse:
        monkeypatch.setattr(reuse.time, "perf_counter", lambda: server.now)
        return asyncio.run(measure_reuse(server, window))

    return measure


@pytest.mark.parametrize("from_tokens", [1, 64, 150, 528, 2000])
def test_what_a_server_reports(measured: Callable[..., Reuse], from_tokens: int) -> None:
    server = Caching(from_tokens)
    got = measured(server)
    assert (got.is_reported, got.counts, got.how) == (True, True, "")
    assert got.from_tokens is not None
    assert from_tokens - TEMPLATE <= got.from_tokens <= max(2 * from_tokens, 80)
    # No longer prefixes are sent than it takes.
    assert max(map(len, server.seen)) < 2 * from_tokens + TEMPLATE + 80


@pytest.mark.parametrize(("from_tokens", "found"), [(1, 64), (600, 1024), (math.inf, math.inf)])
@pytest.mark.parametrize("counts", [True, False])
def test_time_tells_where_a_server_does_not(
    measured: Callable[..., Reuse], from_tokens: float, found: float, counts: bool
) -> None:
    got = measured(Caching(from_tokens, reports=False, counts=counts, tokens_per_s=5000))
    assert (got.from_tokens, got.is_reported, got.counts) == (found, False, counts)
    assert "a repeated prefix of 8,192 tokens took" in got.how


def test_what_is_over_in_no_time_tells_nothing(measured: Callable[..., Reuse]) -> None:
    got = measured(Caching(reports=False, tokens_per_s=1_000_000))
    assert got.from_tokens is None
    assert "too quick to tell" in got.how


def test_time_that_wavers_tells_nothing(measured: Callable[..., Reuse]) -> None:
    server = Caching(reports=False, tokens_per_s=10_000, noise=lambda number: number % 3)
    got = measured(server)
    assert got.from_tokens is None
    assert "It is unclear" in got.how


def test_a_slow_server_and_a_small_window_are_not_asked_for_long_prompts(
    measured: Callable[..., Reuse],
) -> None:
    slow = Caching(math.inf, tokens_per_s=20)
    assert measured(slow).from_tokens == math.inf
    assert max(map(len, slow.seen)) < 800
    small = Caching(math.inf)
    assert measured(small, window=512).from_tokens == math.inf
    assert max(map(len, small.seen)) < 512


def test_messages_are_what_is_sent(measured: Callable[..., Reuse]) -> None:
    sent: list[Asked] = []

    class Noting(Caching):
        async def ask_setup(self, asked: Asked, sampling: Sampling) -> Reply:
            sent.append(asked)
            return await super().ask_setup(asked, sampling)

    measured(Noting())
    assert all(isinstance(one[0], Message) for one in sent)
    begun = [one[0].content.split()[0] for one in sent if isinstance(one[0], Message)]
    assert len(set(begun)) == 2 + (len(begun) - 2) / 2, "each prefix is new, and sent twice"
