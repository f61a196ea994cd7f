from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from agenticlu.training.budget import ModelShape, compute_idle_share, deal_tries
from agenticlu.training.model import EdgeModel
from agenticlu.training.trie import build_plan


def test_tries_of_a_micro_step_cost_about_the_same() -> None:
    costs = [9.0, 1.0, 8.0, 2.0, 5.0]
    rows = deal_tries(costs, 2)
    assert rows == [[0, 2], [4, 3], [1, None]]
    assert compute_idle_share(costs, rows) == pytest.approx(1 - 25 / (2 * (9 + 5 + 1)))
    assert all(len(row) == 2 for row in rows), "a rank without a trie would be waited for"


def test_counted_flop_equal_the_planners(make_model, tries) -> None:
    model = make_model("llama")
    shape = ModelShape.from_config(model.config)
    ratios = []
    for traces in (2, 7):
        sample = tries(5, num_traces=traces)
        plan = build_plan(sample.traces, sample.masks)
        edges = EdgeModel(model)
        with FlopCounterMode(display=False) as counted:
            edges.run(plan, "cpu").sum().backward()
        # Beyond the model's FLOP: attention's backward is 2.5 forwards, the head's logits twice.
        extra = 0.5 * shape.flop_per_pair * plan.area
        extra += 2 * shape.head_weights * len(plan.sources_E)
        expected = shape.count_trie_flop(plan) + extra
        assert counted.get_total_flops() == expected
        ratios.append(expected / plan.num_rows)
    assert ratios[0] != ratios[1]
