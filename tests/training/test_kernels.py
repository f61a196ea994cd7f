from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from agenticlu.attention import kernels
from agenticlu.attention.kernels import CpuKernel, PlainKernel, load_kernel
from agenticlu.core.errors import TrainingError, UsageError
from agenticlu.training.attention import (
    backward_rectangles,
    choose_kernel,
    forward_rectangles,
    group_calls,
    self_test,
)
from agenticlu.training.trie import build_plan

CPU = torch.device("cpu")
NAMES = ("cpu", "plain")


class GroupedPlain(PlainKernel):
    """The oracle, called as a variable-length kernel is: many blocks in one call."""

    varlen = True


def dense(q, k, v, plan, scale):
    """Masked softmax over the whole trie, with autograd."""
    mask = torch.zeros(plan.num_rows, plan.num_rows, dtype=torch.bool)
    for q0, q1, k0, k1, causal in plan.rectangles:
        block = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        mask[q0:q1, k0:k1] |= block.tril() if causal else block
    ratio = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(ratio, 1), v.repeat_interleave(ratio, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def sample(tries: Callable, heads: int, groups: int, dtype: torch.dtype, seed: int = 1):
    drawn = tries(seed, num_traces=8)
    plan = build_plan(drawn.traces, drawn.masks)
    assert plan.depth_levels >= 2
    generator = torch.Generator().manual_seed(seed)
    shapes = [(plan.num_rows, n, 16) for n in (heads, groups, groups, heads)]
    return plan, [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes
    ]


def worst(got, expected) -> float:
    pairs = zip(got, expected, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("kernel", [CpuKernel(), PlainKernel(block_rows=7), GroupedPlain()])
def test_kernels_equal_dense_softmax(tries, heads, dtype, tolerance, kernel) -> None:
    plan, (q, k, v, dout) = sample(tries, *heads, dtype)
    flat = tuple(plan.flat_rectangles)
    out, lse = forward_rectangles(q, k, v, flat, 0.3, kernel)
    got = (out, *backward_rectangles(dout, q, k, v, out, lse, flat, 0.3, kernel))
    inputs = [x.double().requires_grad_() for x in (q, k, v)]
    expected_out = dense(*inputs, plan, 0.3)
    grads = torch.autograd.grad(expected_out, inputs, dout.double())
    expected = (expected_out.detach(), *grads)
    assert worst([x.double() for x in got], expected) < tolerance


def test_a_partial_log_sum_exp_in_backward_is_caught(tries) -> None:
    plan, (q, k, v, dout) = sample(tries, 4, 2, torch.float64)
    kernel, flat = CpuKernel(), tuple(plan.flat_rectangles)
    out, lse = forward_rectangles(q, k, v, flat, 0.3, kernel)
    right = backward_rectangles(dout, q, k, v, out, lse, flat, 0.3, kernel)
    squares = tuple(n for r in plan.rectangles if r[4] for n in r)
    _, partial = forward_rectangles(q, k, v, squares, 0.3, kernel)
    wrong = backward_rectangles(dout, q, k, v, out, partial, flat, 0.3, kernel)
    assert worst(wrong, right) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_bf16_is_as_good_as_one_dense_call(tries, name) -> None:
    plan, (q, k, v, dout) = sample(tries, 4, 2, torch.bfloat16)
    flat, kernel = tuple(plan.flat_rectangles), load_kernel(name)
    out, lse = forward_rectangles(q, k, v, flat, 0.25, kernel)
    got = (out, *backward_rectangles(dout, q, k, v, out, lse, flat, 0.25, kernel))
    exact_in = [x.double().requires_grad_() for x in (q, k, v)]
    exact_out = dense(*exact_in, plan, 0.25)
    exact = (exact_out.detach(), *torch.autograd.grad(exact_out, exact_in, dout.double()))
    mask = torch.zeros(plan.num_rows, plan.num_rows, dtype=torch.bool)
    for q0, q1, k0, k1, causal in plan.rectangles:
        block = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        mask[q0:q1, k0:k1] |= block.tril() if causal else block
    one_in = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    one_out = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in one_in), attn_mask=mask, scale=0.25, enable_gqa=True
    )[0].transpose(0, 1)
    one = (one_out.detach(), *torch.autograd.grad(one_out, one_in, dout))
    for a, b, truth in zip(got, one, exact, strict=True):
        assert float((a.double() - truth).norm()) <= 1.3 * float((b.double() - truth).norm())


def test_a_level_is_one_call(tries) -> None:
    plan, _ = sample(tries, 4, 2, torch.float32)
    flat = tuple(plan.flat_rectangles)
    assert len(group_calls(flat, True)) == plan.depth_levels + 1
    assert len(group_calls(flat, False)) == len(plan.rectangles) > plan.depth_levels + 1


def test_self_test_names_a_broken_kernel(monkeypatch) -> None:
    class Broken(PlainKernel):
        name = "broken"

        def forward(self, *args):
            out, lse = super().forward(*args)
            return out * 1.01, lse

    assert self_test(PlainKernel(), 4, 2, 16, torch.float32, CPU) is None
    assert "out is" in (self_test(Broken(), 4, 2, 16, torch.float32, CPU) or "")
    monkeypatch.setitem(kernels._KERNELS, "cpu", Broken())
    choice = choose_kernel("auto", 4, 2, 16, torch.float32, CPU)
    assert choice.name == "plain"
    assert choice.rejected[0][0] == "cpu"
    with pytest.raises(TrainingError, match=r"cpu: out is"):
        choose_kernel("cpu", 4, 2, 16, torch.float32, CPU)


def test_a_changed_operator_is_named() -> None:
    kernels.check_schema("_scaled_dot_product_flash_attention_for_cpu", ("query", "key"))
    with pytest.raises(TrainingError, match=r"takes \(query, key"):
        kernels.check_schema("_scaled_dot_product_flash_attention_for_cpu", ("query", "value"))
    with pytest.raises(TrainingError, match=r"no operator"):
        kernels.check_schema("_no_such_attention", ("query",))


@pytest.mark.parametrize("name", ["flash"])
def test_operators_of_other_devices_still_have_the_schema_we_use(name) -> None:
    assert load_kernel(name).name == name


def test_an_unknown_kernel_gets_a_suggestion() -> None:
    with pytest.raises(UsageError) as caught:
        load_kernel("flahs")
    assert "flash" in (caught.value.hint or "")
