# ruff: noqa: N815 (shapes live in names)
"""Context parallelism: one trie shared by several ranks.

By default every rank runs tries of its own. With context parallelism W ranks share one: each owns
some rows, runs the model on them with their depths as positions, and attention is computed in one
of three ways over the same list of rectangles (TRAINING 5):

    ulysses  rows x all heads ⇄ all rows x heads/W; rectangles unchanged
    gather   own queries against all keys; rectangles clipped to own query rows
    ring     key/value chunks rotate; rectangles clipped to own rows and to the chunk's rows

Legend: S rows of the trie, N own rows, H query heads, G key heads, D head dim, W ranks.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from agenticlu.attention.kernels import load_kernel
from agenticlu.core.errors import TrainingError
from agenticlu.training.attention import (
    TrieMask,
    backward_rectangles,
    forward_rectangles,
    tree_attention,
)
from agenticlu.training.model import to_tensors
from agenticlu.training.parallel import Ranks
from agenticlu.training.trie import IntArray, Rectangle, TriePlan, count_pairs

Range = tuple[int, int]
# Newer names of the same collectives, where torch has them.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def assign_rows(plan: TriePlan, ranks: int) -> list[list[Range]]:
    """Returns the rows of each rank, as ascending ranges.

    Long segments are cut into 2W chunks of which rank r owns r and 2W-1-r, so that all have the
    same area; short ones go, largest first, to the rank with the least area so far.
    """
    assert plan.num_rows >= ranks, "fewer rows than ranks"
    # In ever smaller pieces until each rank has some rows: all must take part in collectives.
    for piece in (64, 16, 4, 1):
        owned = _deal(plan, ranks, piece)
        if all(owned):
            return [_joined(ranges) for ranges in owned]
    # Fewer long stretches than ranks: cut the rows evenly, wherever that is.
    cuts = [plan.num_rows * i // ranks for i in range(ranks + 1)]
    return [[(start, end)] for start, end in itertools.pairwise(cuts)]


def _deal(plan: TriePlan, ranks: int, piece: int) -> list[list[Range]]:
    """Deals rows to ranks; segments whose chunks would be shorter than `piece` are not cut."""
    owned: list[list[Range]] = [[] for _ in range(ranks)]
    area = [0] * ranks

    # The area of rows at depths d ... is the sum of d + 1: what their queries see.
    def give(rank: int, start: int, end: int, depth: int) -> None:
        if end > start:
            owned[rank].append((start, end))
            area[rank] += (end - start) * (2 * depth + end - start + 1) // 2

    rest = []
    for segment in plan.segments:
        rows = segment.end - segment.start
        if rows < 2 * ranks * piece:
            rest.append(segment)
            continue
        cuts = [segment.start + rows * i // (2 * ranks) for i in range(2 * ranks + 1)]
        for chunk, (start, end) in enumerate(itertools.pairwise(cuts)):
            rank = min(chunk, 2 * ranks - 1 - chunk)
            give(rank, start, end, segment.depth + start - segment.start)
    for segment in sorted(rest, key=lambda s: (-(s.end - s.start) * (s.depth + 1), s.start)):
        rank = min(range(ranks), key=lambda r: (area[r], r))
        give(rank, segment.start, segment.end, segment.depth)
    return owned


def _joined(ranges: Iterable[Range]) -> list[Range]:
    joined: list[Range] = []
    for start, end in sorted(ranges):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def rows_in(ranges: Sequence[Range]) -> IntArray:
    """Returns the row numbers of some ranges."""
    return np.concatenate([np.arange(start, end) for start, end in ranges]).astype(np.int64)


def clip(
    rectangles: Sequence[Rectangle], rows: Sequence[Range], keys: Sequence[Range] | None = None
) -> list[Rectangle]:
    """Returns the part of the mask that own queries see of some keys, in local coordinates.

    Args:
        rectangles: The trie's.
        rows: Own query ranges; local row numbers count through them.
        keys: Key ranges of a chunk; None keeps the trie's key coordinates.

    >>> clip([(0, 4, 0, 4, 1)], [(2, 4)])
    [(0, 2, 0, 2, 0), (0, 2, 2, 4, 1)]
    """
    clipped: list[Rectangle] = []
    for q0, q1, k0, k1, causal in rectangles:
        local = 0
        for x, y in rows:
            a, b = max(q0, x), min(q1, y)
            shift = local - x
            local += y - x
            if a >= b:
                continue
            # Rows [a, b) of a causal square see every key before a, and a smaller square.
            pieces = [(a, b, k0, a, 0), (a, b, a, b, 1)] if causal else [(a, b, k0, k1, 0)]
            for piece in pieces:
                if piece[3] > piece[2]:
                    clipped += [
                        (p[0] + shift, p[1] + shift, *p[2:]) for p in _clip_keys(piece, keys)
                    ]
    return clipped


def _clip_keys(piece: Rectangle, keys: Sequence[Range] | None) -> list[Rectangle]:
    if keys is None:
        return [piece]
    a, b, k0, k1, causal = piece
    found: list[Rectangle] = []
    local = 0
    for u, v in keys:
        low, high = max(k0, u), min(k1, v)
        shift = local - u
        local += v - u
        if low >= high:
            continue
        if not causal:
            found.append((a, b, low + shift, high + shift, 0))
            continue
        # Keys [low, high) of a square: a smaller square, and every row below it.
        found.append((low, high, low + shift, high + shift, 1))
        if high < b:
            found.append((high, b, low + shift, high + shift, 0))
    return found


def _flatten(rectangles: Sequence[Rectangle]) -> tuple[int, ...]:
    return tuple(number for rectangle in rectangles for number in rectangle)


class Exchange:
    """Moves tensors between the ranks of one trie, each of which owns some rows."""

    def __init__(self, plan: TriePlan, group: Any, kernel: str, device: torch.device) -> None:
        self.group = group
        self.kernel = kernel
        self.size = dist.get_world_size(group)
        self.rank = dist.get_rank(group)
        self.ranges = assign_rows(plan, self.size)
        self.counts = [sum(end - start for start, end in ranges) for ranges in self.ranges]
        self.rectangles = plan.rectangles
        self.flat = plan.flat_rectangles
        self.device = device
        order = np.concatenate([rows_in(ranges) for ranges in self.ranges])
        self.order = torch.from_numpy(order).to(device)
        self.inverse = torch.empty_like(self.order)
        self.inverse[self.order] = torch.arange(len(order), device=device)
        areas = [sum(map(count_pairs, clip(plan.rectangles, ranges))) for ranges in self.ranges]
        assert min(areas) > 0, "every rank must have something to do"
        assert sum(areas) == plan.area, "the ranks' areas must sum to the plan's"

    @property
    def own(self) -> int:
        """Own rows."""
        return self.counts[self.rank]

    def all_to_all(self, x: Tensor, send: list[int], receive: list[int]) -> Tensor:
        """Exchanges rows of a flat (rows, width) tensor."""
        out = x.new_empty((sum(receive), *x.shape[1:]))
        dist.all_to_all_single(out, x.contiguous(), receive, send, group=self.group)
        return out

    def rows_to_heads(self, x_NHD: Tensor) -> Tensor:
        """Own rows of all heads → all rows of own heads, in the trie's order."""
        rows, heads, width = x_NHD.shape
        assert rows == self.own
        assert heads % self.size == 0
        x = x_NHD.reshape(rows, self.size, heads // self.size, width).transpose(0, 1)
        received = self.all_to_all(
            x.reshape(rows * self.size, heads // self.size, width), [rows] * self.size, self.counts
        )
        return received.index_select(0, self.inverse)

    def heads_to_rows(self, x_SHD: Tensor) -> Tensor:
        """The reverse of `rows_to_heads`."""
        _, heads, width = x_SHD.shape
        received = self.all_to_all(
            x_SHD.index_select(0, self.order), self.counts, [self.own] * self.size
        )
        x = received.reshape(self.size, self.own, heads, width).transpose(0, 1)
        return x.reshape(self.own, heads * self.size, width)

    def gather_rows(self, x_NGD: Tensor) -> Tensor:
        """Own rows → all rows, in the trie's order."""
        longest = max(self.counts)
        padded = x_NGD.new_zeros((longest, *x_NGD.shape[1:]))
        # The collective takes equal shares, so all are padded to the longest.
        padded[: self.own] = x_NGD
        gathered = x_NGD.new_empty((self.size * longest, *x_NGD.shape[1:]))
        _all_gather(gathered, padded, group=self.group)
        parts = [
            gathered[rank * longest : rank * longest + count]
            for rank, count in enumerate(self.counts)
        ]
        return torch.cat(parts).index_select(0, self.inverse)

    def scatter_rows(self, x_SGD: Tensor) -> Tensor:
        """Sums over ranks → own rows: the reverse of `gather_rows`."""
        longest = max(self.counts)
        # Summed in at least fp32: in bf16 every rank added would cost precision.
        wide = torch.promote_types(x_SGD.dtype, torch.float32)
        ordered = x_SGD.index_select(0, self.order)
        padded = x_SGD.new_zeros((self.size * longest, *x_SGD.shape[1:]), dtype=wide)
        start = 0
        for rank, count in enumerate(self.counts):
            padded[rank * longest : rank * longest + count] = ordered[start : start + count]
            start += count
        own = padded.new_empty((longest, *x_SGD.shape[1:]))
        _reduce_scatter(own, padded, group=self.group)
        return own[: self.own].to(x_SGD.dtype)

    def rotate(self, tensors: Sequence[Tensor], rows: int) -> list[Tensor]:
        """Sends tensors to the next rank and returns the previous rank's, of `rows` rows."""
        following = dist.get_global_rank(self.group, (self.rank + 1) % self.size)
        previous = dist.get_global_rank(self.group, (self.rank - 1) % self.size)
        received = [tensor.new_empty((rows, *tensor.shape[1:])) for tensor in tensors]
        operations = []
        for tensor, buffer in zip(tensors, received, strict=True):
            operations.append(dist.P2POp(dist.isend, tensor.contiguous(), following, self.group))
            operations.append(dist.P2POp(dist.irecv, buffer, previous, self.group))
        # In one batch: with plain sends every rank could wait for the next one to receive.
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        return received


class _Move(torch.autograd.Function):
    """A movement of rows between ranks, whose gradient is the movement back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(grads[0]), None, None


class Ulysses:
    """All-to-all between rows and heads; bit-identical to one rank."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None = None
    ) -> Tensor:
        """Returns out_NHD of own rows."""
        exchange, groups = self.exchange, k.shape[1]
        if groups % exchange.size:  # more ranks than key heads: each head goes to several ranks
            k, v = (x.repeat_interleave(exchange.size // groups, 1) for x in (k, v))
        move: Any = _Move.apply
        q_all, k_all, v_all = (
            move(x, exchange.rows_to_heads, exchange.heads_to_rows) for x in (q, k, v)
        )
        out, _ = tree_attention(q_all, k_all, v_all, exchange.flat, scale, exchange.kernel)
        result: Tensor = move(out, exchange.heads_to_rows, exchange.rows_to_heads)
        return result


class Gather:
    """Own queries against all keys and values."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.flat = _flatten(clip(exchange.rectangles, exchange.ranges[exchange.rank]))

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None = None
    ) -> Tensor:
        """Returns out_NHD of own rows."""
        move: Any = _Move.apply
        k_all, v_all = (
            move(x, self.exchange.gather_rows, self.exchange.scatter_rows) for x in (k, v)
        )
        out: Tensor = tree_attention(q, k_all, v_all, self.flat, scale, self.exchange.kernel)[0]
        return out


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, ring: Ring, scale: float) -> Tensor:
        exchange, kernel = ring.exchange, load_kernel(ring.exchange.kernel)
        wide = torch.promote_types(q.dtype, torch.float32)
        # The own chunk comes first: it covers every own row, so no log-sum-exp starts at -inf.
        out, lse = forward_rectangles(q, k, v, ring.flat[0], scale, kernel)
        total, chunk = out.to(wide), [k, v]
        for owner, flat in zip(ring.owners[1:], ring.flat[1:], strict=True):
            chunk = exchange.rotate(chunk, exchange.counts[owner])
            # Nothing in it is seen from here, but it had to be passed on.
            if not flat:
                continue
            part, part_lse = forward_rectangles(q, chunk[0], chunk[1], flat, scale, kernel)
            merged = torch.logaddexp(lse, part_lse)
            total = total * _weight(lse - merged) + part * _weight(part_lse - merged)
            lse = merged
        out = total.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.ring, ctx.scale = ring, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        ring, exchange = ctx.ring, ctx.ring.exchange
        kernel = load_kernel(exchange.kernel)
        wide = torch.promote_types(q.dtype, torch.float32)
        dq = torch.zeros(q.shape, dtype=wide, device=q.device)
        chunk = [k, v, torch.zeros_like(k, dtype=wide), torch.zeros_like(v, dtype=wide)]
        for step, (owner, flat) in enumerate(zip(ring.owners, ring.flat, strict=True)):
            if step:
                chunk = exchange.rotate(chunk, exchange.counts[owner])
            if flat:
                # `out` and `lse` are those of all chunks, so this gives exactly the share of the
                # chunk.
                parts = backward_rectangles(
                    grads[0], q, chunk[0], chunk[1], out, lse, flat, ctx.scale, kernel
                )
                for total, part in zip((dq, *chunk[2:]), parts, strict=True):
                    total += part
        dk, dv = exchange.rotate(chunk[2:], exchange.own)  # the last step home
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _weight(log_weight_HN: Tensor) -> Tensor:
    return log_weight_HN.exp().transpose(0, 1).unsqueeze(-1)


class Ring:
    """Keys and values rotate from rank to rank; in backward their gradients travel along."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        own = exchange.ranges[exchange.rank]
        self.owners = [(exchange.rank - step) % exchange.size for step in range(exchange.size)]
        """Ranks whose keys and values are here in each step."""
        self.flat = [
            _flatten(clip(exchange.rectangles, own, exchange.ranges[owner]))
            for owner in self.owners
        ]

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, layer: int | None = None
    ) -> Tensor:
        """Returns out_NHD of own rows."""
        result: Tensor = _RingAttention.apply(q, k, v, self, scale)  # type: ignore[no-untyped-call]
        return result


MODES: dict[str, type[Ulysses | Gather | Ring]] = {
    "ulysses": Ulysses,
    "gather": Gather,
    "ring": Ring,
}


def check_heads(mode: str, ranks: int, heads: int, groups: int) -> None:
    """Refuses a number of ranks among which the heads cannot be divided.

    Raises:
        TrainingError: Names the numbers that would work.
    """
    if mode != "ulysses" or ranks == 1:
        return
    if heads % ranks or (groups % ranks and ranks % groups):
        fits = [
            n for n in range(2, heads + 1)
            if heads % n == 0 and (groups % n == 0 or n % groups == 0)
        ]  # fmt: skip
        raise TrainingError(
            f"Ulysses cannot divide {heads} query and {groups} key heads among {ranks} ranks.",
            hint=f"Use --context-parallel {' or '.join(map(str, fits)) or '1'}, or "
            "--context-mode gather or ring.",
        )


@dataclass(frozen=True)
class TrieShare:
    """A rank's share of a trie: its input to the model, and its edges."""

    ids_N: Tensor
    positions_N: Tensor
    sources_e: Tensor
    """Own row of each own edge's source."""
    targets_e: Tensor
    own_edges: IntArray
    """Numbers of the own edges in the plan."""
    mask: TrieMask


def build_share(plan: TriePlan, ranks: Ranks, mode: str, kernel: str) -> TrieShare:
    """Returns this rank's share; the whole trie when it is alone."""
    mask, own_edges = TrieMask.of(plan, kernel), np.arange(len(plan.sources_E))
    ids, positions, sources = plan.ids_S, plan.positions_S, plan.sources_E
    if ranks.context > 1:
        exchange = Exchange(plan, ranks.context_group, kernel, ranks.device)
        mask = dataclasses.replace(mask, attend=MODES[mode](exchange))
        rows = rows_in(exchange.ranges[exchange.rank])
        own_row = np.full(plan.num_rows, -1, dtype=np.int64)
        own_row[rows] = np.arange(len(rows))
        own_edges = np.flatnonzero(own_row[sources] >= 0)
        ids, positions, sources = ids[rows], positions[rows], own_row[sources[own_edges]]
    ids_N, positions_N, sources_e, targets_e = to_tensors(
        ranks.device, ids, positions, sources, plan.targets_E[own_edges]
    )
    return TrieShare(ids_N, positions_N, sources_e, targets_e, own_edges, mask)


def collect_edges(
    value_e: Tensor, share: TrieShare, num_edges: int, ranks: Ranks
) -> npt.NDArray[np.float64]:
    """Returns a value of all edges of the trie (E, ...), on every rank that shares it."""
    own = value_e.detach().double().cpu()
    if ranks.context == 1:
        return np.asarray(own.numpy())
    # Each edge is owned by one rank and 0 elsewhere, so the sum only puts them together.
    total = torch.zeros((num_edges, *own.shape[1:]), dtype=torch.float64)
    total[torch.from_numpy(share.own_edges)] = own
    total = total.to(ranks.device)
    dist.all_reduce(total, group=ranks.context_group)
    return np.asarray(total.cpu().numpy())
