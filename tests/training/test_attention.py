from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from trie_gradients import backward_plan, gradients, separate, worst

from agenticlu.core.errors import TrainingError
from agenticlu.training import attention
from agenticlu.training.attention import TrieMask
from agenticlu.training.losses import sft_edge_weights
from agenticlu.training.model import EdgeModel
from agenticlu.training.parallel import checkpoint_layers
from agenticlu.training.step import group_ranges, run_groups
from agenticlu.training.trie import TriePlan, build_plan


def one_square(plan: TriePlan) -> TriePlan:
    fields = {name: getattr(plan, name) for name in TriePlan.__dataclass_fields__}
    return TriePlan(**{**fields, "rectangles": ((0, plan.num_rows, 0, plan.num_rows, 1),)})


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"),
    [("gpt2", torch.float64, 1e-12), ("llama", torch.float32, 2e-6)],
)
def test_trie_gradients_are_those_of_separate_traces(tries, make_model, family, dtype, tolerance):
    model = make_model(family).to(dtype)
    edges = EdgeModel(model)
    for seed in range(4):
        sample = tries(seed)
        expected_loss = separate(model, sample)
        expected = gradients(model)
        for min_shared in (1, 5):
            plan = build_plan(sample.traces, sample.masks, min_shared=min_shared)
            loss = backward_plan(edges, plan, len(sample.traces))
            assert loss == pytest.approx(expected_loss, rel=1e-6)
            assert worst(gradients(model), expected) < tolerance
        backward_plan(edges, one_square(plan), len(sample.traces))
        assert worst(gradients(model), expected) > 1e-2, "a wrong mask must be noticed"


def test_branches_do_not_see_each_other(make_model) -> None:
    edges = EdgeModel(make_model("llama"))
    root, tail = np.arange(10), np.arange(20, 26)
    traces = [np.concatenate((root, tail)), np.concatenate((root, tail + 10))]
    plan = build_plan(traces, [np.zeros(16, bool)] * 2)

    def hidden(ids: np.ndarray) -> torch.Tensor:
        tree_plan = TrieMask.of(plan, "cpu")
        positions = torch.from_numpy(plan.positions_S)
        return edges.hidden_states(torch.from_numpy(ids), positions, tree_plan).detach()

    before = hidden(plan.ids_S)
    changed = plan.ids_S.copy()
    changed[12] += 1  # in the first branch
    after = hidden(changed)
    assert torch.equal(before[16:], after[16:])
    assert torch.equal(before[:12], after[:12])
    assert not torch.equal(before[12:16], after[12:16])
    changed = plan.ids_S.copy()
    changed[3] += 1  # shared
    moved = (hidden(changed) - before).abs().amax(1)
    assert (moved[3:] > 0).all()
    assert (moved[:3] == 0).all()


def test_one_trace_is_bit_equal_to_the_models_own_attention(make_model, tries) -> None:
    model = make_model("llama")
    edges, ids = EdgeModel(model), tries(0).traces[0]
    plan = build_plan([ids], [np.arange(len(ids)) > 0])
    with torch.no_grad():
        positions = torch.from_numpy(plan.positions_S)
        row = torch.from_numpy(plan.ids_S)
        ours = edges.hidden_states(row, positions, TrieMask.of(plan, "cpu"))
        model.set_attn_implementation("sdpa")
        theirs = model.model(input_ids=row[None], use_cache=False).last_hidden_state[0]
        model.set_attn_implementation(attention.NAME)
    assert torch.equal(ours, theirs)
    sample = tries(0)
    two = build_plan(sample.traces[:2], sample.masks[:2])
    calls = [len(attention.group_calls(tuple(p.flat_rectangles), False)) for p in (plan, two)]
    assert calls[0] == 1 < calls[1], "two traces must take the merging path"


@pytest.mark.parametrize("mode", ["full", "keep-attention"])
def test_checkpointing_changes_nothing_but_the_calls(tries, make_model, mode, monkeypatch) -> None:
    sample = tries(2)
    plan = build_plan(sample.traces, sample.masks)
    plain_model = make_model("llama")
    model = copy.deepcopy(plain_model)
    checkpoint_layers(model, mode, offload=False)
    results, calls = [], []
    for each in (plain_model, model):
        before = attention.counter.forward_calls
        backward_plan(EdgeModel(each), plan, plan.num_traces)
        calls.append((attention.counter.forward_calls - before) / 2)
        results.append(gradients(each))
    assert calls == [1, 2 if mode == "full" else 1]
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_groups_of_leaves_equal_one_pass(tries, make_model, checkpointing) -> None:
    model = make_model("gpt2").double()
    edges = EdgeModel(model)
    sample = tries(3, num_traces=9)
    plan = build_plan(sample.traces, sample.masks)
    backward_plan(edges, plan, plan.num_traces)
    expected = gradients(model)
    checkpoint_layers(model, checkpointing, offload=False)
    weights = sft_edge_weights(plan, "per-trace", num_traces=plan.num_traces, num_targets=0)
    limit = plan.segments[0].end + 14
    groups = run_groups(edges, plan, "cpu", limit, lambda logp: weights)
    assert groups == len(group_ranges(plan, limit)) > 1
    assert worst(gradients(model), expected) < 1e-12


def call_attention(**changes):
    plan = build_plan([np.arange(6)], [np.zeros(6, bool)])
    q = torch.randn(1, 2, 6, 8)
    given = {"tree_plan": TrieMask.of(plan, "cpu"), "attention_mask": None, **changes}
    return attention.attention_forward(torch.nn.Identity(), q, q, q, **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tree_plan": None}, "drops keyword arguments"),
        ({"position_bias": torch.zeros(2)}, "position bias"),
        ({"attention_mask": torch.zeros(2)}, "attention mask"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_what_a_trie_cannot_express_is_refused(changes, message) -> None:
    out, _ = call_attention()
    assert out.shape == (1, 6, 2, 8)
    call_attention(sliding_window=6)
    with pytest.raises(TrainingError, match=message):
        call_attention(**changes)
