# ruff: noqa: N806 (shapes live in names)
"""Recurrent layers on a trie give what they give on each trace alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import make_model
from trie_gradients import backward_plan, gradients, separate, wide_floats, worst

from agenticlu.core.errors import TrainingError
from agenticlu.training import attention, recurrent
from agenticlu.training.attention import TrieMask
from agenticlu.training.losses import dpo_edge_weights, trace_sums
from agenticlu.training.model import EdgeModel
from agenticlu.training.parallel import checkpoint_layers
from agenticlu.training.probe import probe_model
from agenticlu.training.separate import use_own_attention
from agenticlu.training.step import run_groups
from agenticlu.training.trie import Pairs, TrieSegment, build_plan

FAMILIES = ("qwen3_5_text", "qwen3_next", "lfm2")


def build_hybrid(family: str) -> Any:
    model = make_model(family, vocab_size=40)
    model.set_experts_implementation("eager")  # the others refuse fp64
    attention.use_trie_attention(model)
    return model.train()


@pytest.fixture
def _wide_floats() -> Iterator[None]:
    with wide_floats():
        yield


def one_segment(plan):
    """The plan with its traces behind each other, as if they were one text."""
    whole = TrieSegment(0, plan.num_rows, plan.num_rows, 0, 0, None)
    fields = {name: getattr(plan, name) for name in type(plan).__dataclass_fields__}
    return type(plan)(**{**fields, "segments": (whole,)})


@pytest.mark.usefixtures("_wide_floats")
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_exact(tries, family) -> None:
    model = build_hybrid(family).double()
    edges = EdgeModel(model)
    for seed in range(3):
        sample = tries(seed)
        expected_loss = separate(model, sample)
        expected = gradients(model)
        for min_shared in (1, 5):
            plan = build_plan(sample.traces, sample.masks, min_shared=min_shared)
            loss = backward_plan(edges, plan, len(sample.traces))
            assert loss == pytest.approx(expected_loss, rel=1e-12)
            assert worst(gradients(model), expected) < 1e-11
        backward_plan(edges, one_segment(plan), len(sample.traces))
        assert worst(gradients(model), expected) > 1e-2, "a state that does not branch is noticed"


@pytest.mark.parametrize("family", FAMILIES)
def test_in_fp32_a_trie_is_about_as_exact_as_separate_traces(tries, family) -> None:
    sample = tries(0)
    plan = build_plan(sample.traces, sample.masks)
    model = build_hybrid(family)
    with wide_floats():
        twin = copy.deepcopy(model).double()
        separate(twin, sample)
        exact = gradients(twin)
    separate(model, sample)
    apart = worst(gradients(model), exact)
    backward_plan(EdgeModel(model), plan, len(sample.traces))
    assert apart > 0
    assert worst(gradients(model), exact) < 10 * max(apart, 1e-6)


@pytest.mark.usefixtures("_wide_floats")
@pytest.mark.parametrize("family", FAMILIES)
def test_preferences_are_those_of_separate_traces(tries, family) -> None:
    model = build_hybrid(family).double()
    edges, sample = EdgeModel(model), tries(4)
    plan = build_plan(sample.traces, sample.masks)
    pairs = Pairs([0, 2, 3], [1, 1, 4])
    reference = np.linspace(-9, -4, plan.num_traces)

    use_own_attention(model)
    sums = []
    for ids, mask in zip(sample.traces, sample.masks, strict=True):
        row = torch.from_numpy(ids)[None]
        logp = model(input_ids=row, use_cache=False).logits[0].log_softmax(-1)
        places = np.flatnonzero(mask)
        sums.append(logp[places - 1, row[0, places]].sum())
    model.set_attn_implementation(attention.NAME)
    gain = torch.stack(sums) - torch.from_numpy(reference)
    loss = -torch.nn.functional.logsigmoid(0.1 * (gain[pairs.chosen] - gain[pairs.rejected])).mean()
    loss.backward()
    expected = gradients(model)

    logp_E = edges.run(plan, "cpu")
    logp_L = trace_sums(plan, logp_E.detach().numpy())
    weight_E, _, loss_P = dpo_edge_weights(
        plan, pairs, logp_L, reference, num_pairs=len(pairs), beta=0.1
    )
    (-(logp_E * torch.from_numpy(weight_E)).sum()).backward()
    assert loss_P.mean() == pytest.approx(float(loss.detach()), rel=1e-12)
    assert worst(gradients(model), expected) < 1e-11


@pytest.mark.parametrize("family", FAMILIES)
def test_branches_do_not_see_each_other_and_one_row_branches(family) -> None:
    edges = EdgeModel(build_hybrid(family))
    root, tail = np.arange(10), np.arange(20, 26)
    traces = [
        np.concatenate((root, tail)), np.concatenate((root, tail + 10)),
        np.concatenate((root, tail + 10))[:11], np.concatenate((root, [30], root)),
    ]  # fmt: skip
    plan = build_plan(traces, [np.zeros(len(ids), bool) for ids in traces])
    assert any(s.end - s.start == 1 and s.last > s.end for s in plan.segments)

    def hidden(ids: np.ndarray) -> torch.Tensor:
        positions = torch.from_numpy(plan.positions_S)
        mask = TrieMask.of(plan, "cpu")
        return edges.hidden_states(torch.from_numpy(ids), positions, mask).detach()

    before = hidden(plan.ids_S)
    changed = plan.ids_S.copy()
    changed[12] += 1  # in the first branch
    after = hidden(changed)
    assert torch.equal(before[16:], after[16:])
    assert torch.equal(before[:12], after[:12])
    assert not torch.equal(before[12:16], after[12:16])
    changed = plan.ids_S.copy()
    changed[3] += 1  # shared
    assert ((hidden(changed) - before).abs().amax(1)[3:] > 0).all()


def test_calls_cover_each_row_once_with_little_padding(tries) -> None:
    for seed in range(20):
        sample = tries(seed, num_traces=12)
        plan = build_plan(sample.traces, sample.masks)
        calls = recurrent.build_branch_calls(plan.segments)
        rows = np.concatenate([call.rows_BN[call.own_BN] for call in calls])
        assert sorted(rows) == list(range(plan.num_rows))
        ready: set[int] = set()
        for call in calls:
            assert {start for start in call.starts if start is not None} <= ready
            for place, segment in enumerate(call.segments):
                width = call.rows_BN.shape[1]
                row = call.rows_BN[place]
                length = len(np.unique(row))
                if call.hands_on:  # a state after padding would be wrong
                    assert length == width
                    ready.add(segment)
                assert list(row[length:]) == [row[length - 1]] * (width - length)
        assert any(len(call.segments) > 1 for call in calls)


@pytest.mark.parametrize("family", ["qwen3_5_text", "lfm2"])
def test_checkpointing_changes_nothing(tries, family) -> None:
    sample = tries(2)
    plan = build_plan(sample.traces, sample.masks)
    plain = build_hybrid(family)
    results = []
    for mode in ("none", "full"):
        model = copy.deepcopy(plain)
        checkpoint_layers(model, mode, offload=False)
        before = recurrent.counter.calls
        backward_plan(EdgeModel(model), plan, plan.num_traces)
        assert recurrent.counter.calls - before == (4 if mode == "full" else 2)
        results.append(gradients(model))
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_a_trie_of_recurrent_layers_is_not_divided(tries) -> None:
    edges, sample = EdgeModel(build_hybrid("lfm2")), tries(3, num_traces=9)
    plan = build_plan(sample.traces, sample.masks)
    limit = plan.segments[0].end + 14
    with pytest.raises(TrainingError, match=r"not shared among ranks nor") as caught:
        run_groups(edges, plan, "cpu", limit, lambda logp: logp)
    assert "--context-parallel 1" in caught.value.hint


def test_a_layer_that_loses_the_plan_is_refused(monkeypatch) -> None:
    edges = EdgeModel(build_hybrid("lfm2"))
    layer = edges.model.model.layers[0].conv
    follow = layer.forward
    layer.forward = lambda hidden_states, **kwargs: follow(
        hidden_states, **{k: v for k, v in kwargs.items() if k != "tree_plan"}
    )
    with pytest.raises(TrainingError, match=r"reaches 1 of 2 recurrent"):
        probe_model(edges, "cpu")
