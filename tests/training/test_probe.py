"""The check that a trie gives a model's own log-probabilities."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import agenticlu
from agenticlu.core.errors import TrainingError
from agenticlu.training import attention
from agenticlu.training.model import EdgeModel, load_model
from agenticlu.training.probe import FACTOR, probe_model
from agenticlu.training.trie import TriePlan


def see_all(plan: TriePlan) -> TriePlan:
    """Every trace sees the traces stored before it."""
    return dataclasses.replace(plan, rectangles=((0, plan.num_rows, 0, plan.num_rows, 1),))


def lose_a_prefix(plan: TriePlan) -> TriePlan:
    return dataclasses.replace(plan, rectangles=plan.rectangles[:-1])


def count_on(plan: TriePlan) -> TriePlan:
    """Positions go on from one branch to the next."""
    return dataclasses.replace(plan, positions_S=np.arange(plan.num_rows))


def shift_branches(plan: TriePlan) -> TriePlan:
    positions = plan.positions_S.copy()
    positions[plan.segments[0].end :] += 1
    return dataclasses.replace(plan, positions_S=positions)


class Faulty(EdgeModel):
    """Runs other plans than it is given."""

    def __init__(self, model, fault) -> None:
        super().__init__(model)
        self.fault = fault

    def run(self, plan, kernel):
        return super().run(self.fault(plan), kernel)


FAULTS = [see_all, lose_a_prefix, count_on, shift_branches]


@pytest.fixture(scope="module")
def trained():
    """The bundled model in bf16, which its own kernels round by a quarter of a nat."""
    folder = Path(agenticlu.__file__).parent / "demo" / "model"
    return load_model(str(folder), torch.bfloat16, torch.device("cpu")).model


def test_rounding_of_the_models_own_kernels_is_allowed(trained) -> None:
    result = probe_model(EdgeModel(trained), "cpu")
    assert result.dtype == torch.bfloat16
    assert result.allowed_nat == FACTOR * result.own_nat > 1e-3
    assert 0 < result.trie_nat < result.own_nat
    exact = probe_model(EdgeModel(trained.float()), "cpu")
    trained.bfloat16()
    assert exact.trie_nat < result.trie_nat / 100


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_shows_above_the_rounding_of_bf16(trained, fault) -> None:
    with pytest.raises(TrainingError, match=r"one by one .*own kernels differ"):
        probe_model(Faulty(trained, fault), "cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_random_models_pass_in_every_dtype(make_model, family, dtype) -> None:
    edges = EdgeModel(make_model(family).to(dtype))
    result = probe_model(edges, "cpu")
    assert result.trie_nat <= result.allowed_nat
    assert edges.model.training
    for fault in FAULTS:
        with pytest.raises(TrainingError, match=r"one by one"):
            probe_model(Faulty(edges.model, fault), "cpu")


def test_what_bf16_hides_is_decided_in_fp32(make_model) -> None:
    """Attention of a model with small weights is so flat that positions drown in rounding."""
    model = make_model("llama", initializer_range=0.02, vocabulary=500, hidden_size=64)
    buffers = {name: buffer.dtype for name, buffer in model.named_buffers()}
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert probe_model(EdgeModel(model), "cpu").dtype == torch.float32
    for fault in (count_on, shift_branches):
        with pytest.raises(TrainingError, match=r"one by one"):
            probe_model(Faulty(model, fault), "cpu")
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, before[name])
    assert buffers == {name: buffer.dtype for name, buffer in model.named_buffers()}


def test_a_wrong_scale_is_caught(make_model) -> None:
    edges = EdgeModel(make_model("llama"))
    edges.logit_scale = 0.5
    with pytest.raises(TrainingError, match=r"one by one"):
        probe_model(edges, "cpu")


def test_a_check_that_could_not_fail_is_an_error(make_model) -> None:
    model = make_model("llama")
    for layer in model.model.layers:  # attention that adds nothing
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    with pytest.raises(TrainingError, match=r"could not fail"):
        probe_model(EdgeModel(model), "cpu")


def test_a_model_class_that_drops_keywords_is_refused() -> None:
    from transformers import StableLmConfig, StableLmForCausalLM

    config = StableLmConfig(
        vocab_size=40, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, use_cache=False,
    )  # fmt: skip
    model = StableLmForCausalLM(config)
    attention.use_trie_attention(model)
    with pytest.raises(TrainingError, match=r"drops keyword arguments|cannot be trained on tries"):
        probe_model(EdgeModel(model), "cpu")
