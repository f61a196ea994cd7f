"""Means with intervals that respect what is not independent.

Questions about one document, or one question at several depths, rise and fall together; the
bootstrap therefore draws whole clusters. Draws come from a fixed seed, so a table can be repeated.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agenticlu.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_RESAMPLES = 4000
CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054
"""Of the normal distribution at (1 + CONFIDENCE) / 2."""


class Estimate(Record):
    """A mean with its interval."""

    mean: float
    low: float | None = None
    """Lower end of the 95% interval; None with fewer than two clusters."""
    high: float | None = None
    n: int
    """Values averaged: scored items; failed ones are not among them."""
    num_clusters: int
    """Independent units among them."""


def estimate(
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Estimate | None:
    """Returns the mean of the values with a percentile bootstrap over clusters.

    The mean is over values, not over cluster means. Where all values or all clusters are equal,
    drawing them again says nothing: the interval is then Wilson's, with n the number of clusters
    (for 0 of n and n of n it reaches from the value towards the other bound). Returns None when
    there is no value.

    >>> estimate([1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]).mean
    0.75
    """
    assert len(values) == len(clusters), "a cluster for every value"
    if not values:
        return None
    names = {name: i for i, name in enumerate(sorted(set(clusters)))}
    sums, counts = np.zeros(len(names)), np.zeros(len(names))
    for value, name in zip(values, clusters, strict=True):
        sums[names[name]] += value
        counts[names[name]] += 1
    mean = float(np.mean(values))
    if len(names) < 2:
        return Estimate(mean=mean, n=len(values), num_clusters=len(names))
    if np.ptp(sums / counts) < 1e-12:
        low, high = _without_spread(mean, len(names), bounds, min(values) == max(values))
        return Estimate(mean=mean, low=low, high=high, n=len(values), num_clusters=len(names))
    draws = _draws(len(names), seed)
    means = (draws @ sums) / (draws @ counts)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(
        mean=mean, low=float(low), high=float(high), n=len(values), num_clusters=len(names)
    )


def _without_spread(
    mean: float, num_clusters: int, bounds: tuple[float, float], equal: bool
) -> tuple[float, float]:
    """Returns an interval where no cluster differs from another."""
    z2 = NORMAL_QUANTILE**2
    if equal or bounds != (0.0, 1.0):
        reach = z2 / (num_clusters + z2)
        return mean - reach * (mean - bounds[0]), mean + reach * (bounds[1] - mean)
    centre = (mean + z2 / (2 * num_clusters)) / (1 + z2 / num_clusters)
    spread = mean * (1 - mean) / num_clusters + z2 / (4 * num_clusters**2)
    half = NORMAL_QUANTILE * spread**0.5 / (1 + z2 / num_clusters)
    return centre - half, centre + half


@functools.lru_cache(maxsize=8)
def _draws(num_clusters: int, seed: int) -> NDArray[np.float64]:
    """Returns how often each cluster is drawn, resample by resample."""
    rng = np.random.default_rng(seed)
    chances = np.full(num_clusters, 1 / num_clusters)
    return rng.multinomial(num_clusters, chances, NUM_RESAMPLES).astype(np.float64)
