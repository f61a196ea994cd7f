"""Attention over a trie: one call per rectangle or level, merged by log-sum-exp; as one operator.

`agenticlu::tree_attention` takes q_SHD, k_SGD, v_SGD and the plan's rectangles. The backward calls
each rectangle's ordinary backward with the merged out and log-sum-exp, which gives exactly that
rectangle's share (TRAINING 2.2, 2.3). As one opaque operator it can be named in a checkpoint
policy, counted by FlopCounterMode and stepped over by torch.compile.

`use_trie_attention()` puts it into transformers' table of attention functions under the name
"agenticlu_tree"; the plan travels as the keyword argument `tree_plan` and is mandatory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from agenticlu.attention.kernels import Blocks, Kernel, candidates, load_kernel, merge_into
from agenticlu.core.errors import TrainingError
from agenticlu.training.path_attention import path_attention
from agenticlu.training.separate import set_attention
from agenticlu.training.trie import Rectangle, TriePlan, TrieSegment, build_plan, count_pairs

NAME = "agenticlu_tree"


@dataclass(frozen=True)
class Call:
    """Rectangles with disjoint queries and disjoint keys: one variable-length call."""

    causal: bool
    rows: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]
    fresh_rows: bool
    """No earlier call has touched these query rows: write instead of merge."""
    fresh_keys: bool
    """No earlier call has touched these key rows: write instead of add."""

    def blocks(self, scale: float) -> Blocks:
        """Returns the call's blocks for a kernel."""
        return Blocks(_offsets(self.rows), _offsets(self.keys), self.causal, scale)


def _offsets(ranges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    total, offsets = 0, [0]
    for start, end in ranges:
        total += end - start
        offsets.append(total)
    return tuple(offsets)


def _touches(ranges: Sequence[tuple[int, int]], start: int, end: int) -> bool:
    return any(start < e and s < end for s, e in ranges)


@lru_cache(maxsize=256)
def group_calls(flat: tuple[int, ...], varlen: bool) -> tuple[Call, ...]:
    """Groups rectangles into calls whose queries and keys are both disjoint.

    Without `varlen`, one call per rectangle. Causal squares come before full rectangles, so the
    squares, which tile the rows, are written and the rest is merged into them.
    """
    rectangles: list[Rectangle] = [
        (flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4])
        for i in range(0, len(flat), 5)
    ]
    assert all(q1 > q0 and k1 > k0 for q0, q1, k0, k1, _ in rectangles), "an empty rectangle"
    groups: list[list[Rectangle]] = []
    for rectangle in sorted(rectangles, key=lambda r: (1 - r[4],)):
        q0, q1, k0, k1, causal = rectangle
        for group in groups if varlen else ():
            if (
                group[0][4] == causal
                and not _touches([r[:2] for r in group], q0, q1)
                and not _touches([r[2:4] for r in group], k0, k1)
            ):
                group.append(rectangle)
                break
        else:
            groups.append([rectangle])
    calls, seen_rows, seen_keys = [], list[tuple[int, int]](), list[tuple[int, int]]()
    for group in groups:
        group = sorted(group)
        rows = tuple((r[0], r[1]) for r in group)
        keys = tuple((r[2], r[3]) for r in group)
        fresh_rows = not any(_touches(seen_rows, *r) for r in rows)
        fresh_keys = not any(_touches(seen_keys, *r) for r in keys)
        # A call half fresh must merge: rows start at weight zero, keys at gradient zero.
        calls.append(Call(bool(group[0][4]), rows, keys, fresh_rows, fresh_keys))
        seen_rows += rows
        seen_keys += keys
    return tuple(calls)


def _whole(ranges: Sequence[tuple[int, int]]) -> slice | None:
    """Returns one slice when the ranges follow each other without a gap."""
    for (_, end), (start, _) in itertools.pairwise(ranges):
        if end != start:
            return None
    return slice(ranges[0][0], ranges[-1][1])


@lru_cache(maxsize=64)  # a trie's levels, used by all layers; these live on the device
def _index(ranges: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return torch.cat([torch.arange(start, end, device=device) for start, end in ranges])


def _take(x: Tensor, ranges: tuple[tuple[int, int], ...], dim: int = 0) -> Tensor:
    whole = _whole(ranges)
    if whole is not None:
        return x.narrow(dim, whole.start, whole.stop - whole.start)
    return x.index_select(dim, _index(ranges, x.device))


def forward_rectangles(
    q: Tensor, k: Tensor, v: Tensor, flat: tuple[int, ...], scale: float, kernel: Kernel
) -> tuple[Tensor, Tensor]:
    """Returns out_SHD (in the queries' dtype) and lse_HS of attention under rectangles.

    Rows that no rectangle covers come back as zeros with a log-sum-exp of -inf.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    calls = group_calls(flat, kernel.varlen)
    if len(calls) == 1 and calls[0].rows == ((0, q.shape[0]),):
        call = calls[0]
        k_c, v_c = _take(k, call.keys), _take(v, call.keys)
        return kernel.forward(q, k_c, v_c, call.blocks(scale))
    if kernel.varlen:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()  # once, not once per call
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.full((q.shape[1], q.shape[0]), float("-inf"), dtype=wide, device=q.device)
    wide_from = min(
        (start for call in calls if not call.fresh_rows for start, _ in call.rows),
        default=q.shape[0],
    )
    # Only rows with several partials need the wide buffer: the suffix, not the document.
    suffix = out[wide_from:].to(wide) if wide != q.dtype else out[wide_from:]

    def merge_rows(start: int, end: int, part: Tensor, part_lse: Tensor, fresh: bool) -> None:
        if fresh:
            lse[:, start:end] = part_lse
            out[start:end] = part
            if suffix.dtype != out.dtype and end > wide_from:
                low = max(start, wide_from)
                suffix[low - wide_from : end - wide_from] = part[low - start :]
            return
        merge_into(suffix[start - wide_from : end - wide_from], lse[:, start:end], part, part_lse)

    for call in calls:
        part, part_lse = kernel.forward(
            _take(q, call.rows), _take(k, call.keys), _take(v, call.keys), call.blocks(scale)
        )
        whole = _whole(call.rows)
        if whole is not None:
            merge_rows(whole.start, whole.stop, part, part_lse, call.fresh_rows)
            continue
        for (start, end), at in zip(call.rows, _offsets(call.rows), strict=False):
            size = end - start
            merge_rows(
                start, end, part[at : at + size], part_lse[:, at : at + size], call.fresh_rows
            )
    if suffix.dtype != out.dtype:
        out[wide_from:] = suffix.to(out.dtype)
    return out, lse


class _Sum:
    """Adds gradients into row ranges of a buffer; wide enough not to lose bits."""

    def __init__(self, like: Tensor, wide: torch.dtype) -> None:
        self.like = like
        self.total = torch.zeros(like.shape, dtype=wide, device=like.device)

    def add(self, ranges: tuple[tuple[int, int], ...], grad: Tensor, fresh: bool) -> None:
        whole = _whole(ranges)
        if whole is not None:
            if fresh:
                self.total[whole] = grad
            else:
                self.total[whole] += grad
            return
        if fresh:
            self.total.index_copy_(0, _index(ranges, grad.device), grad.to(self.total.dtype))
        else:
            self.total.index_add_(0, _index(ranges, grad.device), grad.to(self.total.dtype))

    def result(self) -> Tensor:
        return self.total.to(self.like.dtype)


def backward_rectangles(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    flat: tuple[int, ...], scale: float, kernel: Kernel,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Returns dq_SHD, dk_SGD, dv_SGD, given the merged out and log-sum-exp."""
    wide = torch.promote_types(q.dtype, torch.float32)
    calls = group_calls(flat, kernel.varlen)
    if (
        len(calls) == 1
        and calls[0].rows == ((0, q.shape[0]),)
        and calls[0].keys == ((0, k.shape[0]),)
    ):
        call = calls[0]
        return kernel.backward(dout, q, k, v, out, lse, call.blocks(scale))
    if kernel.varlen:
        dout, q, k, v = dout.contiguous(), q.contiguous(), k.contiguous(), v.contiguous()
    dq, dk, dv = _Sum(q, wide), _Sum(k, wide), _Sum(v, wide)
    for call in calls:
        dq_c, dk_c, dv_c = kernel.backward(
            _take(dout, call.rows), _take(q, call.rows), _take(k, call.keys),
            _take(v, call.keys), _take(out, call.rows), _take(lse, call.rows, dim=1),
            call.blocks(scale),
        )  # fmt: skip
        dq.add(call.rows, dq_c, call.fresh_rows)
        dk.add(call.keys, dk_c, call.fresh_keys)
        dv.add(call.keys, dv_c, call.fresh_keys)
    return dq.result(), dk.result(), dv.result()


@torch.library.custom_op("agenticlu::tree_attention", mutates_args=())
def tree_attention(
    q: Tensor, k: Tensor, v: Tensor, rectangles: Sequence[int], scale: float, kernel: str
) -> tuple[Tensor, Tensor]:
    """Attention of q_SHD over k_SGD, v_SGD under a flat list of rectangles: out_SHD, lse_HS."""
    counter.forward_calls += 1
    out, lse = forward_rectangles(q, k, v, tuple(rectangles), scale, load_kernel(kernel))
    return out.contiguous(), lse.contiguous()


@torch.library.custom_op("agenticlu::tree_attention_backward", mutates_args=())
def tree_attention_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    rectangles: Sequence[int], scale: float, kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `tree_attention`."""
    dq, dk, dv = backward_rectangles(
        dout, q, k, v, out, lse, tuple(rectangles), scale, load_kernel(kernel)
    )
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


@dataclass
class Counter:
    """Calls of trie attention in this process, checked against the layers."""

    forward_calls: int = 0
    path_calls: int = 0
    windows: int = 0
    """Those of layers that named their window; a layer that keeps it to itself cannot be right."""


counter = Counter()


@tree_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, rectangles: Sequence[int], scale: float, kernel: str
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(
        (q.shape[1], q.shape[0]), dtype=wide
    )


@tree_attention_backward.register_fake
def _(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    rectangles: Sequence[int], scale: float, kernel: str,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    make = torch.contiguous_format
    return (
        torch.empty_like(q, memory_format=make),
        torch.empty_like(k, memory_format=make),
        torch.empty_like(v, memory_format=make),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, rectangles, scale, kernel = inputs
    ctx.save_for_backward(q, k, v, *output)
    ctx.rectangles, ctx.scale, ctx.kernel = list(rectangles), scale, kernel
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, dout: Tensor, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    dq, dk, dv = tree_attention_backward(
        dout, q, k, v, out, lse, ctx.rectangles, ctx.scale, ctx.kernel
    )
    return dq, dk, dv, None, None, None


tree_attention.register_autograd(_backward, setup_context=_setup_context)


def _area(flat: Sequence[int]) -> int:
    return sum(
        count_pairs((flat[i], flat[i + 1], flat[i + 2], flat[i + 3], flat[i + 4]))
        for i in range(0, len(flat), 5)
    )


def _register_flops() -> None:
    from torch.utils.flop_counter import register_flop_formula

    @register_flop_formula(torch.ops.agenticlu.tree_attention)
    def forward_flops(
        q: Sequence[int], k: Any, v: Any, rectangles: Sequence[int], *_: Any, **__: Any
    ) -> int:
        return 4 * q[1] * q[2] * _area(rectangles)

    @register_flop_formula(torch.ops.agenticlu.tree_attention_backward)
    def backward_flops(
        dout: Any, q: Sequence[int], k: Any, v: Any, out: Any, lse: Any,
        rectangles: Sequence[int], *_: Any, **__: Any,
    ) -> int:  # fmt: skip
        return 10 * q[1] * q[2] * _area(rectangles)


_register_flops()


@dataclass(frozen=True)
class TrieMask:
    """The object passed through the model to its attention: the mask and how to compute it."""

    rectangles: list[int]
    """Flat; see `TriePlan.flat_rectangles`."""
    kernel: str
    max_depth: int
    """Tokens of the longest trace; a window that is wider hides nothing."""
    attend: Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor] | None = None
    """Context parallelism, groups of leaves: computes out_SHD from (q, k, v, scale, layer) instead
    of the plain operator."""
    segments: tuple[TrieSegment, ...] = ()
    """Of the trie; recurrent layers run along them."""

    @classmethod
    def of(cls, plan: TriePlan, kernel: str) -> TrieMask:
        """Wraps a plan for one process."""
        depth = int(plan.positions_S.max()) + 1
        return cls(plan.flat_rectangles, kernel, depth, segments=plan.segments)

    def refuse_division(self, who: str) -> None:
        """Raises TrainingError where ranks share the trie or it runs as groups of leaves."""
        if self.attend is not None:
            raise TrainingError(
                f"{who} run along a whole trie in one process: it is not shared among ranks nor "
                "split into groups of leaves.",
                hint="Use --context-parallel 1, and leave leaf_groups_tokens out.",
            )


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    tree_plan: TrieMask | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The function registered with transformers: q, k, v are (1, heads, rows, head dim).

    Raises:
        TrainingError: The plan did not arrive, or the layer wants what a trie cannot give.
    """
    kind = type(module).__name__
    if tree_plan is None:
        raise TrainingError(
            f"{kind} drops keyword arguments, so the trie's plan does not reach its attention.",
            hint="This architecture cannot be trained on tries.",
        )
    if attention_mask is not None:
        raise TrainingError(f"{kind} passed an attention mask; a trie's mask is its plan.")
    if dropout:
        raise TrainingError(
            f"{kind} uses dropout {dropout}: shared tokens cannot draw independent masks.",
            hint="Set the dropout probabilities in the model's config.json to 0.",
        )
    if position_bias is not None:
        raise TrainingError(f"{kind} uses a position bias, which trie attention does not compute.")
    assert query.shape[0] == 1, "a trie is one row"
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    counter.windows += sliding_window is not None
    narrow = sliding_window is not None and sliding_window < tree_plan.max_depth
    unequal = query.shape[-1] != value.shape[-1]  # the kernels know one head size
    if narrow or unequal or softcap is not None or s_aux is not None:
        tree_plan.refuse_division(f"{kind} layers with windows, capped scores, sinks or wide heads")
        counter.forward_calls += 1
        counter.path_calls += 1
        out = path_attention(
            q, k, v, tree_plan.segments, scale, window=sliding_window if narrow else None,
            softcap=softcap, sinks_H=s_aux,
        )  # fmt: skip
    elif tree_plan.attend is not None:
        out = tree_plan.attend(q, k, v, scale, getattr(module, "layer_idx", None))
    else:
        out, _lse = tree_attention(q, k, v, tree_plan.rectangles, scale, tree_plan.kernel)
    return out.unsqueeze(0), None


def use_trie_attention(model: Any) -> None:
    """Lets a model's layers call `attention_forward`; classes without the interface do not."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention_forward)
    set_attention(model, NAME)


@dataclass(frozen=True)
class KernelChoice:
    """The kernel that passed the self-test, and why better ones did not."""

    name: str
    rejected: tuple[tuple[str, str], ...]


def self_test(
    kernel: Kernel, heads: int, groups: int, width: int, dtype: torch.dtype, device: torch.device
) -> str | None:
    """Compares a kernel on a small trie, forward and backward, with `plain` in fp32.

    Returns:
        None when it agrees, else one sentence.
    """
    import numpy as np

    generator = np.random.default_rng(7)
    root = generator.integers(0, 1 << 20, 48)
    middle = [generator.integers(0, 1 << 20, n) for n in (9, 6)]
    leaves = [generator.integers(0, 1 << 20, n) for n in (7, 5, 8)]
    traces = [
        np.concatenate(parts)
        for parts in (
            (root, middle[0], leaves[0]), (root, middle[0], leaves[1]), (root, middle[1], leaves[2])
        )
    ]  # fmt: skip
    plan = build_plan(traces, [np.zeros(len(trace), bool) for trace in traces])
    flat = tuple(plan.flat_rectangles)
    torch_generator = torch.Generator().manual_seed(7)
    shapes = [(plan.num_rows, n, width) for n in (heads, groups, groups, heads)]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    exact = [
        torch.randn(shape, generator=torch_generator, dtype=wide).to(dtype).to(wide)
        for shape in shapes
    ]
    q, k, v, dout = (x.to(device=device, dtype=dtype) for x in exact)
    scale = width**-0.5
    out, lse = forward_rectangles(q, k, v, flat, scale, kernel)
    got = (out, *backward_rectangles(dout, q, k, v, out, lse, flat, scale, kernel))
    plain = load_kernel("plain")
    q, k, v, dout = exact
    out, lse = forward_rectangles(q, k, v, flat, scale, plain)
    expected = (out, *backward_rectangles(dout, q, k, v, out, lse, flat, scale, plain))
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-4}.get(dtype, 0.03)
    for name, a, b in zip(("out", "dq", "dk", "dv"), got, expected, strict=True):
        difference = float((a.to("cpu", wide) - b).norm() / b.norm())
        if not difference <= tolerance:  # also catches NaN
            return f"{name} is {difference:.1e} off (allowed {tolerance:.0e})"
    return None


def choose_kernel(
    name: str, heads: int, groups: int, width: int, dtype: torch.dtype, device: torch.device
) -> KernelChoice:
    """Returns the first kernel that passes the self-test.

    Raises:
        TrainingError: The kernel asked for by name fails.
    """
    rejected: list[tuple[str, str]] = []
    names = candidates(device.type, dtype) if name == "auto" else (name,)
    for candidate in names:
        try:
            kernel = load_kernel(candidate)
            problem = self_test(kernel, heads, groups, width, dtype, device)
        except (RuntimeError, TrainingError, ImportError, NotImplementedError, ValueError) as error:
            problem = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        if problem is None:
            return KernelChoice(candidate, tuple(rejected))
        rejected.append((candidate, problem))
    reasons = "; ".join(f"{kernel}: {reason}" for kernel, reason in rejected)
    raise TrainingError(
        f"No attention kernel passed the self-test on {device.type} in {dtype}: {reasons}.",
        hint="Use --attention-kernel auto.",
    )
