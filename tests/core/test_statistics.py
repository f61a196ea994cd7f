"""Intervals: known quantiles, honest coverage with few clusters, doubt where nothing varies."""

from __future__ import annotations

import random

import pytest

from agenticlu.core.statistics import (
    MeanEstimate,
    estimate_difference,
    estimate_mean,
    t_quantile,
    wilson_interval,
)


def ends(found: MeanEstimate | None) -> tuple[float, float]:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        (1, 12.7062047362),
        (2, 4.3026527297),
        (3, 3.1824463053),
        (4, 2.7764451052),
        (7, 2.3646242516),
        (14, 2.1447866879),
        (29, 2.0452296421),
        (60, 2.0002978220),
        (199, 1.9719565442),
        (200, 1.9718962236),
        (1000, 1.9623390808),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=1e-8)


def test_other_confidences() -> None:
    assert t_quantile(1, 0.99) == pytest.approx(63.6567411629, abs=1e-8)
    assert t_quantile(10, 0.9) == pytest.approx(1.8124611228, abs=1e-8)


def test_wilson_is_the_known_interval() -> None:
    z = 1.959963984540054
    assert wilson_interval(0.0, 10, z) == pytest.approx((0.0, 0.2775328), abs=1e-7)
    assert wilson_interval(0.5, 20, z) == pytest.approx((0.2992980, 0.7007020), abs=1e-7)


def covered(num_clusters: int, a: float, b: float, trials: int, seed: int) -> tuple[float, float]:
    """Share of intervals that hold the true mean, of means and of paired differences."""
    rng = random.Random(seed)
    truth, gain = a / (a + b), b / (a + b) * 0.25 - a / (a + b) * 0.1
    hits = [0, 0]
    for _ in range(trials):
        values, gains, names = [], [], []
        for name in range(num_clusters):
            chance = rng.betavariate(a, b)  # documents differ in difficulty
            for _ in range(4):
                before = rng.random() < chance
                after = rng.random() >= 0.1 if before else rng.random() < 0.25
                values.append(float(before))
                gains.append(float(after) - before)
                names.append(str(name))
        low, high = ends(estimate_mean(values, names))
        hits[0] += low <= truth <= high
        low, high = ends(estimate_difference(gains, names))
        hits[1] += low <= gain <= high
    return hits[0] / trials, hits[1] / trials


@pytest.mark.parametrize("num_clusters", [5, 15])
@pytest.mark.parametrize(("a", "b"), [(2.0, 2.0), (6.0, 1.5)])
def test_intervals_hold_the_truth_as_often_as_they_say(
    num_clusters: int, a: float, b: float
) -> None:
    """A percentile bootstrap over clusters holds it about 0.88 of the times with 5 clusters."""
    means, differences = covered(num_clusters, a, b, trials=1000, seed=3)
    assert 0.935 <= means < 1
    assert 0.935 <= differences < 1


def test_interval_is_wider_when_questions_of_a_document_agree() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5
    apart = estimate_mean(values, [str(i) for i in range(40)])
    together = estimate_mean(values, [str(i // 4) for i in range(40)])
    assert apart is not None
    assert together is not None
    assert apart.mean == together.mean == 0.5
    assert together.num_clusters == 10
    (low, high), (least, most) = ends(apart), ends(together)
    assert most - least > 1.5 * (high - low)


def test_equal_values_still_leave_doubt() -> None:
    names = [str(i // 2) for i in range(20)]
    low, high = ends(estimate_mean([0.0] * 20, names))
    assert low == 0.0
    assert high == pytest.approx(0.3385, abs=1e-4)  # Wilson's 0 of 10 with the t of 9 degrees
    assert ends(estimate_mean([1.0] * 20, names)) == pytest.approx((1 - high, 1.0))
    assert ends(estimate_difference([0.0] * 20, names)) == pytest.approx((-high, high))
    assert ends(estimate_difference([1.0] * 20, names)) == pytest.approx((1 - 2 * high, 1.0))


def test_equal_clusters_claim_no_more_than_independent_values() -> None:
    """Every cluster is half right: their sums agree, and the variance between them is 0."""
    values = [float(i % 2) for i in range(20)]
    names = [str(i // 2) for i in range(20)]
    low, high = ends(estimate_mean(values, names))
    assert (low, high) == pytest.approx(wilson_interval(0.5, 20, t_quantile(9)))
    low, high = ends(estimate_difference([v - 0.5 for v in values], names))
    assert low == pytest.approx(-high)
    assert high == pytest.approx(t_quantile(9) * 0.5 / 20**0.5)


def test_differences_end_at_their_bounds() -> None:
    found = estimate_difference([1.0, 1.0, 0.0], ["a", "b", "c"])
    assert ends(found)[1] == 1.0


def test_graded_scores_are_not_taken_for_coin_flips() -> None:
    """ROUGE of 0.2 plus or minus 0.02 is known better than 20% of right answers."""
    names = [str(i) for i in range(40)]
    low, high = ends(estimate_mean([0.18, 0.22] * 20, names))
    assert 0.005 < high - low < 0.02


def test_one_cluster_has_no_interval_and_nothing_has_no_mean() -> None:
    for estimate in (estimate_mean, estimate_difference):
        found = estimate([1.0, 0.0], ["a", "a"])
        assert found is not None
        assert (found.mean, found.low, found.high, found.num_clusters) == (0.5, None, None, 1)
        assert estimate([], []) is None


def test_order_does_not_matter() -> None:
    values, names = [float(i % 3 == 0) for i in range(30)], [str(i // 2) for i in range(30)]
    assert estimate_mean(values, names) == estimate_mean(values[::-1], names[::-1])
