"""Means and paired differences with cluster-robust confidence intervals.

Questions about one document, or one question at several depths, rise and fall together. Every
interval here is 95% and takes *clusters* of such values as its units: the variance is the
cluster-robust one (CR1) and the quantile that of Student's t with G - 1 degrees of freedom, G the
number of clusters. Nothing is drawn at random, so a table can be repeated to the last digit.

>>> gain = estimate_difference([0.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])  # gains in [-1, 1]
>>> gain.mean, gain.num_clusters
(0.25, 2)

Both estimates are None for no values, and have no interval for a single cluster.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist

from agenticlu.core.records import Record

CONFIDENCE = 0.95
FEW_CLUSTERS = 10
"""With fewer clusters than this an interval is unreliable."""
_EXPANSION_DEGREES = 200
"""From here on the expansion of t's quantile is exact to 1e-8."""


class MeanEstimate(Record):
    """A mean with its interval."""

    mean: float
    low: float | None = None
    """Lower end of the 95% interval; None for fewer than two clusters."""
    high: float | None = None
    n: int
    """Values averaged: scored items, without failed ones."""
    num_clusters: int
    """Independent units among them."""


def estimate_mean(values: Sequence[float], clusters: Sequence[str]) -> MeanEstimate | None:
    """Returns the mean of values in [0, 1] with Wilson's interval for clustered values.

    Wilson's interval takes a number of values and a quantile. The number is the effective one,
    that of independent values whose mean would vary as much as this one does; the quantile is
    that of t. Where all values are equal nothing is known of their spread, and the number is that
    of the clusters: 0 of n then reaches upwards, n of n downwards.

    The mean is over values, not over cluster means. Returns None without any value.

    Args:
        values: Scores in [0, 1], binary or not.
        clusters: For every value the unit that it belongs to.

    >>> found = estimate_mean([1.0, 0.0, 1.0, 1.0] * 10, [str(i // 2) for i in range(40)])
    >>> found.mean, round(found.low, 3), round(found.high, 3), found.num_clusters
    (0.75, 0.587, 0.864, 20)
    """
    if not values:
        return None
    mean, variance, size = _moments(values, clusters)
    if size < 2:
        return MeanEstimate(mean=mean, n=len(values), num_clusters=size)
    spread = mean * (1 - mean)
    effective = spread / variance if variance > 0 and spread > 0 else float(size)
    low, high = wilson_interval(mean, effective, t_quantile(size - 1))
    return MeanEstimate(mean=mean, low=low, high=high, n=len(values), num_clusters=size)


def estimate_difference(gains: Sequence[float], clusters: Sequence[str]) -> MeanEstimate | None:
    """Returns the mean of paired differences in [-1, 1] with a t interval over clusters.

    The interval ends at the bounds. Where all gains are equal nothing is known of their spread;
    the interval then reaches from the mean towards each bound by t²/(G + t²) of the way, which
    for 0 of n is Wilson's reach. Returns None without any value.

    Args:
        gains: Score of the contender less score of the baseline, question by question.
        clusters: For every gain the unit that it belongs to.
    """
    if not gains:
        return None
    mean, variance, size = _moments(gains, clusters)
    if size < 2:
        return MeanEstimate(mean=mean, n=len(gains), num_clusters=size)
    quantile = t_quantile(size - 1)
    if variance > 0:
        half = quantile * math.sqrt(variance)
        low, high = max(-1.0, mean - half), min(1.0, mean + half)
    else:
        reach = quantile**2 / (size + quantile**2)
        low, high = mean - reach * (mean + 1), mean + reach * (1 - mean)
    return MeanEstimate(mean=mean, low=low, high=high, n=len(gains), num_clusters=size)


def wilson_interval(mean: float, n: float, quantile: float) -> tuple[float, float]:
    """Returns Wilson's score interval of a proportion, in [0, 1].

    >>> [round(end, 3) for end in wilson_interval(1.0, 10, 1.959964)]
    [0.722, 1.0]
    """
    z2 = quantile**2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    spread = mean * (1 - mean) / n + z2 / (4 * n * n)
    half = quantile / (1 + z2 / n) * math.sqrt(max(0.0, spread))
    return max(0.0, centre - half), min(1.0, centre + half)


@functools.lru_cache(maxsize=1024)
def t_quantile(degrees: int, confidence: float = CONFIDENCE) -> float:
    """Returns the t with P(|T| <= t) = confidence for Student's distribution.

    The distribution function of whole degrees of freedom is a finite sum (Abramowitz and Stegun,
    26.7.3 and 26.7.4), inverted by bisection; for many degrees the quantile is the normal one
    with the terms of 26.7.5.

    >>> [round(t_quantile(degrees), 3) for degrees in (1, 4, 30, 1000)]
    [12.706, 2.776, 2.042, 1.962]
    """
    assert degrees >= 1, "at least one degree of freedom"
    if degrees >= _EXPANSION_DEGREES:
        return _expanded_quantile(degrees, NormalDist().inv_cdf((1 + confidence) / 2))
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        if _coverage(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return math.tan((low + high) / 2) * math.sqrt(degrees)


def _coverage(angle: float, degrees: int) -> float:
    """Returns P(|T| <= t) where t = tan(angle) * sqrt(degrees)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2 == 1
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= square * ((k - 1) / k)
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def _expanded_quantile(degrees: int, z: float) -> float:
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / math.pow(degrees, i) for i, term in enumerate(terms, 1))


def _moments(values: Sequence[float], clusters: Sequence[str]) -> tuple[float, float, int]:
    """Returns the mean, its cluster-robust variance and the number of clusters.

    The variance is never less than that of independent values: a handful of clusters whose sums
    happen to agree would otherwise claim a certainty that they do not have.
    """
    assert len(values) == len(clusters), "a cluster for every value"
    n = len(values)
    mean = math.fsum(values) / n
    residuals: dict[str, float] = {}
    for value, name in zip(values, clusters, strict=True):
        residuals[name] = residuals.get(name, 0.0) + value - mean
    size = len(residuals)
    if size < 2 or max(values) == min(values):
        return mean, 0.0, size
    robust = math.fsum(r * r for r in residuals.values()) / n**2 * size / (size - 1)
    independent = math.fsum((value - mean) ** 2 for value in values) / n**2
    return mean, max(robust, independent), size
