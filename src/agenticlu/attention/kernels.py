"""Attention kernels for training: they return the log-sum-exp and take it back in the backward.

A kernel works on blocks of rows of one sequence: queries q_THD, keys k_UGD and values v_UGD
(tokens, heads, head dim; G divides H), cut by `Blocks` into blocks that see
only each other. `forward` returns out_THD and lse_HT; `backward` takes the *merged* out and
log-sum-exp and returns exactly this call's share of dq, dk and dv (TRAINING 2.3).

`causal` is used on squares only: for unequal lengths the kernels disagree about alignment. Empty
blocks are never issued: on a CPU they end the process, elsewhere they poison the merge.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from agenticlu.core.errors import TrainingError, UsageError, require_known

_flash_for_cpu: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_efficient_for_gpu: Any = torch.ops.aten._scaled_dot_product_efficient_attention
PLAIN_DEVICES: set[str] = set()
"""Kinds of device whose kernel failed the trial when a model was loaded."""


def attend(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Returns the attention's output (B, H, T, D) and its log-sum-exp (B, H, T), in fp32.

    Args:
        q_BHTD: Queries.
        k_BKSD: Keys; with fewer heads than queries each serves H / K neighbouring heads.
        v_BKSD: Values.
        scale: Of the scores.
        causal: Only for T = S.
        mask: Added to the scores, broadcast from (B, 1, 1, S); no row may be fully masked.
    """
    kind = q_BHTD.device.type
    if kind == "cpu" and q_BHTD.shape[-1] == v_BKSD.shape[-1]:
        out, lse = _flash_for_cpu(q_BHTD, k_BKSD, v_BKSD, 0.0, causal, attn_mask=mask, scale=scale)
        return out, lse
    if kind == "cuda" and mask is None and kind not in PLAIN_DEVICES:
        return _attend_on_gpu(q_BHTD, k_BKSD, v_BKSD, scale, causal=causal)
    return _attend_plainly(q_BHTD, k_BKSD, v_BKSD, scale, causal=causal, mask=mask)


def _attend_on_gpu(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    scale: float,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """Like `attend`, by the GPU kernel that takes every dtype and returns the log-sum-exp."""
    num_rows = q_BHTD.shape[2]
    repeats = q_BHTD.shape[1] // k_BKSD.shape[1]
    if repeats > 1:
        k_BKSD = k_BKSD.repeat_interleave(repeats, dim=1)
        v_BKSD = v_BKSD.repeat_interleave(repeats, dim=1)
    out, lse, *_ = _efficient_for_gpu(q_BHTD, k_BKSD, v_BKSD, None, True, 0.0, causal, scale=scale)
    return out, lse[:, :, :num_rows]  # the kernel pads rows to a multiple of 32


def _attend_plainly(
    q_BHTD: Tensor,
    k_BKSD: Tensor,
    v_BKSD: Tensor,
    scale: float,
    *,
    causal: bool,
    mask: Tensor | None,
    block: int = 512,
) -> tuple[Tensor, Tensor]:
    """Like `attend`, by matrix products in blocks of query rows; any device and dtype."""
    repeats = q_BHTD.shape[1] // k_BKSD.shape[1]
    if repeats > 1:
        k_BKSD = k_BKSD.repeat_interleave(repeats, dim=1)
        v_BKSD = v_BKSD.repeat_interleave(repeats, dim=1)
    outs, lses = [], []
    for start in range(0, q_BHTD.shape[2], block):
        rows = q_BHTD[:, :, start : start + block]
        scores = (rows @ k_BKSD.transpose(-1, -2)).float() * scale
        if mask is not None:
            scores = scores + mask
        if causal:
            at = torch.arange(start, start + rows.shape[2], device=rows.device)
            hidden = at[:, None] < torch.arange(k_BKSD.shape[2], device=rows.device)
            scores = scores.masked_fill(hidden, float("-inf"))
        lse = scores.logsumexp(-1)
        outs.append(torch.exp(scores - lse[..., None]).to(v_BKSD.dtype) @ v_BKSD)
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def attend_folded(
    q_HnD: Tensor,
    k_KSD: Tensor,
    v_KSD: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention of n queries, of any branches, to one full rectangle of keys.

    Query heads that share a key head are folded into the query length as well, so each key is read
    once. Returns (H, n, D) and (H, n).
    """
    num_heads, num_rows, dim = q_HnD.shape
    num_key_heads = k_KSD.shape[0]
    folded = q_HnD.reshape(1, num_key_heads, -1, dim)
    out, lse = attend(folded, k_KSD[None], v_KSD[None], scale)
    return (
        out.reshape(num_heads, num_rows, v_KSD.shape[-1]),
        lse.reshape(num_heads, num_rows),
    )


def merge(out: Tensor, lse: Tensor, other_out: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merges two partial attentions of the same queries over disjoint keys.

    Args:
        out: (..., D).
        lse: (...), log-sum-exp of the scores behind `out`.
        other_out: Like `out`.
        other_lse: Like `lse`.
    """
    # exp(b - log(exp a + exp b)) is the logistic function of b - a, which cannot overflow.
    weight = torch.sigmoid(other_lse - lse)[..., None]
    if weight.dtype != out.dtype:
        weight = weight.to(out.dtype)
    return torch.lerp(out, other_out, weight), torch.logaddexp(lse, other_lse)


def merge_into(out_THD: Tensor, lse_HT: Tensor, part_THD: Tensor, part_lse_HT: Tensor) -> None:
    """Merges a partial attention into another of the same rows, in place.

    Rows that nothing was merged into yet may have a log-sum-exp of -inf.
    """
    # Not sigmoid and lerp: their last bits depend on how many heads are computed together, and a
    # trie shared by ranks (Ulysses) must equal one rank bit by bit.
    merged_HT = torch.logaddexp(lse_HT, part_lse_HT)
    out_THD.mul_((lse_HT - merged_HT).exp_().transpose(0, 1).unsqueeze(-1))
    out_THD.add_(part_THD * (part_lse_HT - merged_HT).exp_().transpose(0, 1).unsqueeze(-1))
    lse_HT.copy_(merged_HT)


Grads = tuple[Tensor, Tensor, Tensor]
Offsets = Sequence[int]


@dataclass(frozen=True)
class Blocks:
    """The computation of one call: pairs of row and key blocks, and how they are masked."""

    cu_q: Offsets
    """Starts of the blocks of rows, and the end of the last one."""
    cu_k: Offsets
    causal: bool
    """Squares only."""
    scale: float

    def pairs(self) -> list[tuple[slice, slice]]:
        """Returns the rows and keys of each block."""
        rows, keys = (itertools.pairwise(offsets) for offsets in (self.cu_q, self.cu_k))
        return [(slice(*r), slice(*k)) for r, k in zip(rows, keys, strict=True)]


class Kernel(Protocol):
    """One way to compute attention over blocks of rows."""

    name: str
    varlen: bool
    """Whether many blocks in one call are cheaper than one call each."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Returns out_THD and lse_HT."""
        ...

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        blocks: Blocks,
    ) -> Grads:  # fmt: skip
        """Returns dq_THD, dk_UGD, dv_UGD."""
        ...


def _heads_first(x: Tensor) -> Tensor:
    """THD → 1HTD, a view."""
    return x.transpose(0, 1).unsqueeze(0)


class PlainKernel:
    """Matrix products and a softmax in blocks of query rows: slow, works everywhere, the oracle."""

    name = "plain"
    varlen = False

    def __init__(self, block_rows: int = 1024) -> None:
        self.block_rows = block_rows

    def _scores(self, q: Tensor, k: Tensor, blocks: Blocks, first: int) -> Tensor:
        """Returns scores_GRTU of a block of query rows that starts at row `first`."""
        rows, heads, width = q.shape
        groups = k.shape[1]
        q_GRTD = q.reshape(rows, groups, heads // groups, width).permute(1, 2, 0, 3)
        scores = (q_GRTD * blocks.scale) @ k.permute(1, 2, 0).unsqueeze(1)
        if blocks.causal:
            row = torch.arange(first, first + rows, device=q.device)
            column = torch.arange(k.shape[0], device=q.device)
            scores = scores.masked_fill(column[None] > row[:, None], float("-inf"))
        return scores

    def forward(self, q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """Computes out and lse with scores kept for `block_rows` queries at a time."""
        wide = torch.promote_types(q.dtype, torch.float32)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        lse = torch.empty(q.shape[1], q.shape[0], dtype=wide, device=q.device)
        for rows, keys in blocks.pairs():
            k_b, v_b = k[keys].to(wide), v[keys].to(wide)
            for start in range(rows.start, rows.stop, self.block_rows):
                part = slice(start, min(start + self.block_rows, rows.stop))
                scores = self._scores(q[part].to(wide), k_b, blocks, start - rows.start)
                lse_GRT = scores.logsumexp(-1)
                probabilities = (scores - lse_GRT.unsqueeze(-1)).exp()
                o_GRTD = probabilities @ v_b.transpose(0, 1).unsqueeze(1)
                out[part] = o_GRTD.permute(2, 0, 1, 3).reshape(q[part].shape).to(q.dtype)
                lse[:, part] = lse_GRT.reshape(q.shape[1], -1)
        return out, lse

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        blocks: Blocks,
    ) -> Grads:  # fmt: skip
        """P = exp(score - lse); ds = P (dP - sum(dout out))."""
        wide = torch.promote_types(q.dtype, torch.float32)
        dq = torch.empty_like(q, memory_format=torch.contiguous_format)
        dk, dv = torch.zeros(k.shape, dtype=wide), torch.zeros(v.shape, dtype=wide)
        dk, dv = dk.to(k.device), dv.to(v.device)
        heads, groups = q.shape[1], k.shape[1]
        for rows, keys in blocks.pairs():
            k_b, v_b = k[keys].to(wide), v[keys].to(wide)
            for start in range(rows.start, rows.stop, self.block_rows):
                part = slice(start, min(start + self.block_rows, rows.stop))
                q_p, do_p, o_p = q[part].to(wide), dout[part].to(wide), out[part].to(wide)
                shape = (q_p.shape[0], groups, heads // groups, q_p.shape[2])
                scores = self._scores(q_p, k_b, blocks, start - rows.start)
                lse_GRT = lse[:, part].reshape(groups, heads // groups, -1)
                probabilities = (scores - lse_GRT.unsqueeze(-1)).exp()
                do_GRTD = do_p.reshape(shape).permute(1, 2, 0, 3)
                q_GRTD = q_p.reshape(shape).permute(1, 2, 0, 3)
                delta = (do_p * o_p).sum(-1).reshape(shape[:3]).permute(1, 2, 0)
                dprob = do_GRTD @ v_b.permute(1, 2, 0).unsqueeze(1)
                dscores = probabilities * (dprob - delta.unsqueeze(-1)) * blocks.scale
                dv[keys] += (probabilities.transpose(-1, -2) @ do_GRTD).sum(1).transpose(0, 1)
                dk[keys] += (dscores.transpose(-1, -2) @ q_GRTD).sum(1).transpose(0, 1)
                dq_GRTD = dscores @ k_b.transpose(0, 1).unsqueeze(1)
                dq[part] = dq_GRTD.permute(2, 0, 1, 3).reshape(q_p.shape).to(q.dtype)
        return dq, dk.to(k.dtype), dv.to(v.dtype)


class _AtenKernel:
    """Base of the kernels on private operators: checks the schema it was written for."""

    name = ""
    varlen = True
    schemas: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Operator and the leading argument names it must have."""

    def __init__(self) -> None:
        for operator, expected in self.schemas:
            check_schema(operator, expected)


def check_schema(operator: str, expected: Sequence[str]) -> None:
    """Raises TrainingError when torch's operator no longer takes the arguments we pass."""
    packet = getattr(torch.ops.aten, operator, None)
    if packet is None:
        raise TrainingError(f"This torch ({torch.__version__}) has no operator aten::{operator}.")
    found = tuple(argument.name for argument in packet.default._schema.arguments)
    if found[: len(expected)] != tuple(expected):
        raise TrainingError(
            f"aten::{operator} of torch {torch.__version__} takes ({', '.join(found)}); "
            f"this version of agenticlu was written for ({', '.join(expected)}, ...).",
            hint="Use --attention-kernel plain, or the torch version of constraints.txt.",
        )


class CpuKernel(_AtenKernel):
    """torch's flash attention for the CPU: fp64, fp32, bf16; grouped heads native."""

    name = "cpu"
    varlen = False
    schemas = (
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            ("query", "key", "value", "dropout_p", "is_causal", "attn_mask", "scale"),
        ),
        (
            "_scaled_dot_product_flash_attention_for_cpu_backward",
            ("grad_out", "query", "key", "value", "out", "logsumexp", "dropout_p", "is_causal"),
        ),
    )

    def __init__(self) -> None:
        super().__init__()
        aten = torch.ops.aten
        self._forward = aten._scaled_dot_product_flash_attention_for_cpu.default
        self._backward = aten._scaled_dot_product_flash_attention_for_cpu_backward.default

    def forward(self, q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """One call per block."""
        parts = []
        for rows, keys in blocks.pairs():
            out, lse = self._forward(
                _heads_first(q[rows]),
                _heads_first(k[keys]),
                _heads_first(v[keys]),
                0.0,
                blocks.causal,
                attn_mask=None,
                scale=blocks.scale,
            )
            parts.append((out[0].transpose(0, 1), lse[0]))
        if len(parts) == 1:
            return parts[0]
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts], dim=1)

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        blocks: Blocks,
    ) -> Grads:  # fmt: skip
        """One call per block."""
        parts = []
        for rows, keys in blocks.pairs():
            grads = self._backward(
                _heads_first(dout[rows]),
                _heads_first(q[rows]),
                _heads_first(k[keys]),
                _heads_first(v[keys]),
                _heads_first(out[rows]),
                lse[:, rows].unsqueeze(0),
                0.0,
                blocks.causal,
                attn_mask=None,
                scale=blocks.scale,
            )
            parts.append(tuple(grad[0].transpose(0, 1) for grad in grads))
        if len(parts) == 1:
            return parts[0][0], parts[0][1], parts[0][2]
        dq, dk, dv = (torch.cat(grads) for grads in zip(*parts, strict=True))
        return dq, dk, dv


_CU_CACHE: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}


def _device_offsets(offsets: Offsets, device: torch.device) -> Tensor:
    key = (device, tuple(offsets))
    if key not in _CU_CACHE:
        if len(_CU_CACHE) > 4096:
            _CU_CACHE.clear()
        _CU_CACHE[key] = torch.tensor(key[1], dtype=torch.int32, device=device)
    return _CU_CACHE[key]


def _longest(offsets: Offsets) -> int:
    return max(offsets[i + 1] - offsets[i] for i in range(len(offsets) - 1))


class FlashKernel(_AtenKernel):
    """torch's variable-length flash attention on CUDA (FA2, or FA3/FA4 when activated)."""

    name = "flash"
    schemas = (
        (
            "_flash_attention_forward",
            ("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p",
             "is_causal", "return_debug_mask", "scale"),
        ),
        (
            "_flash_attention_backward",
            ("grad_out", "query", "key", "value", "out", "logsumexp", "cum_seq_q", "cum_seq_k",
             "max_q", "max_k", "dropout_p", "is_causal", "rng_state", "unused"),
        ),
    )  # fmt: skip

    def __init__(self, implementation: str | None = None) -> None:
        super().__init__()
        if implementation is not None:
            from torch.nn import attention

            attention.activate_flash_attention_impl(implementation)
            self.name = implementation.lower()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        """One call for all blocks."""
        result = torch.ops.aten._flash_attention_forward(
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            _device_offsets(blocks.cu_q, q.device),
            _device_offsets(blocks.cu_k, q.device),
            _longest(blocks.cu_q),
            _longest(blocks.cu_k),
            0.0,
            blocks.causal,
            False,
            scale=blocks.scale,
        )
        return result[0], result[1]

    def backward(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
        blocks: Blocks,
    ) -> Grads:  # fmt: skip
        """One call for all blocks; no dropout, so the random state is never read."""
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)
        unused = torch.empty(0, dtype=torch.uint64, device=q.device)
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            dout.contiguous(),
            q.contiguous(),
            k.contiguous(),
            v.contiguous(),
            out.contiguous(),
            lse.contiguous(),
            _device_offsets(blocks.cu_q, q.device),
            _device_offsets(blocks.cu_k, q.device),
            _longest(blocks.cu_q),
            _longest(blocks.cu_k),
            0.0,
            blocks.causal,
            state,
            unused,
            scale=blocks.scale,
        )
        return dq, dk, dv


_FACTORIES: dict[str, Callable[[], Kernel]] = {
    "fa4": lambda: FlashKernel("FA4"),
    "fa3": lambda: FlashKernel("FA3"),
    "flash": FlashKernel,
    "cpu": CpuKernel,
    "plain": PlainKernel,
}
_KERNELS: dict[str, Kernel] = {}


def load_kernel(name: str) -> Kernel:
    """Returns the kernel of that name, made once.

    Raises:
        UsageError: Unknown kernel.
        TrainingError: torch has changed the operators that it uses.
    """
    require_known(name, _FACTORIES, kind="attention kernel", error=UsageError)
    if name not in _KERNELS:
        _KERNELS[name] = _FACTORIES[name]()
    return _KERNELS[name]


def candidates(device_type: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Returns the kernels to try, best first, on a device with a dtype."""
    if device_type == "cpu":
        return ("cpu", "plain")
    if device_type != "cuda":
        return ("plain",)
    if dtype in (torch.bfloat16, torch.float16):
        return ("fa4", "fa3", "flash", "plain")
    return ("plain",)
