from __future__ import annotations

from collections import Counter

import pytest
import torch

from agenticlu.engines.local.drawing import choose, draw_uniforms, keep_nucleus


def test_frequencies_follow_the_probabilities() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    uniforms = draw_uniforms(3, 4000)
    logits = probabilities.log().expand(4000, 4)
    counts = Counter(choose(logits, [1.0] * 4000, [1.0] * 4000, uniforms))
    for token, probability in enumerate(probabilities.tolist()):
        assert counts[token] / 4000 == pytest.approx(probability, abs=0.03)


def test_temperature_sharpens_and_zero_is_greedy() -> None:
    logits = torch.tensor([[1.0, 1.2, 0.9]]).expand(500, 3)
    uniforms = draw_uniforms(0, 500)
    assert set(choose(logits, [0.0] * 500, [1.0] * 500, uniforms)) == {1}
    hot = Counter(choose(logits, [1.0] * 500, [1.0] * 500, uniforms))
    cold = Counter(choose(logits, [0.05] * 500, [1.0] * 500, uniforms))
    assert hot[1] < 300 < cold[1]


def test_nucleus_keeps_the_smallest_set_that_reaches_top_p() -> None:
    probabilities = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    kept = keep_nucleus(probabilities, torch.tensor([0.7]))
    assert (kept > 0).tolist() == [[False, True, False, True]]
    for least in (0.01, 0.0):
        one = keep_nucleus(probabilities, torch.tensor([least]))
        assert (one > 0).tolist() == [[False, True, False, False]]


def test_a_row_draws_the_same_whatever_its_companions() -> None:
    logits = torch.randn(6, 50)
    uniforms = draw_uniforms(9, 6)
    temperatures, top_ps = [0.0, 1.0, 0.7, 1.3, 0.0, 1.0], [1.0, 0.9, 1.0, 0.5, 1.0, 1.0]
    together = choose(logits, temperatures, top_ps, uniforms)
    apart = [
        choose(logits[i : i + 1], [temperatures[i]], [top_ps[i]], [uniforms[i]])[0]
        for i in range(6)
    ]
    assert together == apart
