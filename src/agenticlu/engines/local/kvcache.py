"""Key-value cache as a tree of token segments, and attention over the prefixes it shares.

A segment is a stretch of tokens with its keys and values in every layer. It hangs on its parent at
some offset, not only at the end, so a prompt that diverges from a cached one in its middle shares
the part before without a copy and without a split. A prompt that continues where a segment ends
extends it in place, unless it is long.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from agenticlu.attention.kernels import attend, attend_folded, merge

GROW_TOKENS = 1024
"""A longer segment is not grown: what follows a document hangs on it as a segment of its own."""

Chain = list[tuple["CacheSegment", int]]
"""Parts of a sequence from its start: (segment, number of its first tokens)."""


class CacheSegment:
    """A stretch of tokens and its keys and values."""

    __slots__ = (
        "children",
        "counted_bytes",
        "dropped",
        "ids",
        "keys",
        "last_used",
        "offset",
        "parent",
        "values",
    )

    def __init__(self, parent: CacheSegment | None, offset: int, ids: Sequence[int]) -> None:
        self.parent = parent
        self.offset = offset
        self.ids = list(ids)
        # By offset and first token: at most one child can continue a prompt.
        self.children: dict[tuple[int, int], CacheSegment] = {}
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.last_used = 0
        self.counted_bytes = 0
        self.dropped = False

    def write(self, layer: int, start: int, k_KnD: Tensor, v_KnD: Tensor) -> None:
        """Stores keys and values (K, n, D) of the tokens from `start` on."""
        end = start + k_KnD.shape[1]
        if layer == len(self.keys):
            assert start == 0, "the first write of a segment begins at its start"
            # Copies: a view would keep the packed row of the whole pass in memory.
            self.keys.append(k_KnD.clone(memory_format=torch.contiguous_format))
            self.values.append(v_KnD.clone(memory_format=torch.contiguous_format))
            return
        for buffers, new in ((self.keys, k_KnD), (self.values, v_KnD)):
            buffer = buffers[layer]
            if end > buffer.shape[1]:
                # Growing by a quarter keeps the cost of appending token by token linear.
                room = max(end, buffer.shape[1] * 5 // 4 + 64)
                grown = buffer.new_empty(buffer.shape[0], room, buffer.shape[2])
                grown[:, :start] = buffer[:, :start]
                buffers[layer] = buffer = grown
            buffer[:, start:end] = new

    def read(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Returns keys and values (K, length, D) of the first tokens, as views."""
        return self.keys[layer][:, :length], self.values[layer][:, :length]

    def has_room(self, count: int) -> bool:
        """Whether growing in place copies little: it is short, or its buffers are long enough."""
        if len(self.ids) <= GROW_TOKENS:
            return True
        return bool(self.keys) and len(self.ids) + count <= self.keys[0].shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(one.nbytes for one in self.keys) + sum(one.nbytes for one in self.values)


@dataclass(frozen=True)
class Match:
    """The cached part of a prompt."""

    chain: Chain
    """Parts in order; empty parts left out."""
    anchor: tuple[CacheSegment, int]
    """The point that the rest is attached to."""
    num_tokens: int


class PrefixCache:
    """The tree, with a limit on its bytes.

    Args:
        limit_bytes: Least recently used leaves go when the total exceeds it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.root = CacheSegment(None, 0, ())
        self.num_bytes = 0
        self._clock = 0

    def match(self, ids: Sequence[int]) -> Match:
        """Returns the longest cached prefix of the ids."""
        return self.follow((self.root, 0), [], ids)

    def follow(self, anchor: tuple[CacheSegment, int], chain: Chain, ids: Sequence[int]) -> Match:
        """Walks on from an anchor along the ids; `chain` leads up to the anchor."""
        self._clock += 1
        segment, start = anchor
        chain = list(chain)
        at = 0
        while True:
            segment.last_used = self._clock
            same = num_common(segment.ids, start, ids, at)
            at += same
            end = start + same
            if same and chain and chain[-1][0] is segment:
                chain[-1] = (segment, end)
            elif same:
                chain.append((segment, end))
            child = segment.children.get((end, ids[at])) if at < len(ids) else None
            if child is None:
                return Match(chain, (segment, end), at)
            segment, start = child, 0

    def extend(
        self, anchor: tuple[CacheSegment, int], ids: Sequence[int], *, grow: bool = False
    ) -> tuple[CacheSegment, int]:
        """Adds tokens after an anchor; returns their segment and the index of the first in it.

        The caller writes the keys and values before anything reads them.

        Args:
            anchor: The point that they are attached to.
            ids: The tokens.
            grow: Grows a segment that ends there, however long it is.
        """
        segment, offset = anchor
        assert len(ids) > 0
        ends = segment.parent is not None and offset == len(segment.ids)
        if ends and (grow or segment.has_room(len(ids))):
            # Nobody else notices: a chain says how many tokens of a segment it sees.
            segment.ids.extend(ids)
            return segment, offset
        child = CacheSegment(segment, offset, ids)
        child.last_used = self._clock
        segment.children[(offset, ids[0])] = child
        return child, 0

    def account(self, segment: CacheSegment) -> None:
        """Takes note of a segment's size after its buffers were written."""
        if not segment.dropped:
            size = segment.num_bytes
            self.num_bytes += size - segment.counted_bytes
            segment.counted_bytes = size

    def shrink(self, used: Iterable[tuple[CacheSegment, int]] = ()) -> None:
        """Drops least recently used leaves until a fifth of the limit is free, if it is passed.

        Args:
            used: Points up to which the tree stays, whatever the limit: the prompts that are being
                answered are in memory anyway, and would be computed anew for every turn.
        """
        if self.num_bytes <= self.limit_bytes:
            return
        held = {id(segment) for segment in self._cut_unused(used)}
        # From the leaves up, for a segment is useless without its parents. A fifth is freed at
        # once, so that the tree is not walked again for every prompt.
        leaves = [
            (segment.last_used, id(segment), segment)
            for segment in self._segments()
            if not segment.children and id(segment) not in held
        ]
        heapq.heapify(leaves)
        while leaves and self.num_bytes > self.limit_bytes * 4 // 5:
            _, _, segment = heapq.heappop(leaves)
            parent = segment.parent
            assert parent is not None
            del parent.children[(segment.offset, segment.ids[0])]
            segment.dropped = True
            self.num_bytes -= segment.counted_bytes
            if parent.parent is not None and not parent.children and id(parent) not in held:
                heapq.heappush(leaves, (parent.last_used, id(parent), parent))

    def _cut_unused(self, used: Iterable[tuple[CacheSegment, int]]) -> list[CacheSegment]:
        """Returns the segments up to some points, without long ends that are beyond all of them."""
        needed: dict[CacheSegment, int] = {}
        for point in used:
            segment: CacheSegment | None
            segment, length = point
            while segment is not None and segment.parent is not None:
                needed[segment] = max(needed.get(segment, 0), length)
                segment, length = segment.parent, segment.offset
        return [
            self._split(one, length) if 0 < length <= len(one.ids) // 2 else one
            for one, length in needed.items()
        ]

    def _split(self, segment: CacheSegment, length: int) -> CacheSegment:
        """Parts a segment in two, so that its end can be dropped; returns its beginning."""
        assert segment.parent is not None
        head = CacheSegment(segment.parent, segment.offset, segment.ids[:length])
        tail = CacheSegment(head, length, segment.ids[length:])
        head.last_used = tail.last_used = segment.last_used
        for name in ("keys", "values"):
            buffers: list[Tensor] = getattr(segment, name)
            setattr(head, name, [one[:, :length].clone() for one in buffers])
            setattr(tail, name, [one[:, length:] for one in buffers])
        head.children[(length, tail.ids[0])] = tail
        for (offset, token), child in segment.children.items():
            child.parent = head if offset <= length else tail
            child.offset = offset if offset <= length else offset - length
            child.parent.children[(child.offset, token)] = child
        # Whoever reads the old one goes on, outside the tree, and must not hold what hung on it.
        segment.children = {}
        segment.parent.children[(segment.offset, segment.ids[0])] = head
        segment.dropped = True
        self.num_bytes -= segment.counted_bytes
        self.account(head)
        self.account(tail)
        return head

    def clear(self) -> None:
        """Forgets everything."""
        for segment in self._segments():
            segment.dropped = True
        self.root = CacheSegment(None, 0, ())
        self.num_bytes = 0

    def _segments(self) -> list[CacheSegment]:
        found, todo = [], list(self.root.children.values())
        while todo:
            segment = todo.pop()
            found.append(segment)
            todo.extend(segment.children.values())
        return found


def num_common(a: Sequence[int], a_start: int, b: Sequence[int], b_start: int) -> int:
    """Returns how many elements agree from the two starts on.

    >>> num_common([1, 2, 3, 4], 1, [9, 9, 2, 3, 5], 2)
    2
    """
    low, high = 0, min(len(a) - a_start, len(b) - b_start)
    if a[a_start : a_start + high] == b[b_start : b_start + high]:
        return high
    while high - low > 1:  # the first `low` agree, the first `high` do not
        # Slices are compared in C, so bisection beats a loop over the tokens.
        middle = (low + high) // 2
        if a[a_start + low : a_start + middle] == b[b_start + low : b_start + middle]:
            low = middle
        else:
            high = middle
    return low


NAME = "agenticlu_shared_prefix"
"""Under which the attention is registered with transformers."""


class AttentionPlan(Protocol):
    """The storage of a forward pass's keys and values, and the mask of its attention."""

    def attend(
        self,
        layer: int,
        q_HTD: Tensor,
        k_KTD: Tensor,
        v_KTD: Tensor,
        scale: float,
    ) -> Tensor:
        """Stores the new keys and values; returns the attention's output (T, H, D)."""
        ...


@dataclass
class Read:
    """New tokens of one prompt, side by side in the packed row."""

    segment: CacheSegment
    start: int
    """Index of the first new token in its segment."""
    row: int
    """Its row in the packed row of tokens."""
    num_rows: int


@dataclass
class ReadPlan:
    """Reads many prompts in one packed row of tokens, each after its cached part."""

    reads: list[Read] = field(default_factory=list)
    rectangles: dict[tuple[CacheSegment, int], list[int]] = field(default_factory=dict)
    """(segment, length) to the reads whose new tokens see the segment's first `length` tokens."""

    def add(self, read: Read, chain: list[tuple[CacheSegment, int]]) -> None:
        """Adds a prompt's new tokens, which follow the chain."""
        for part in chain:
            self.rectangles.setdefault(part, []).append(len(self.reads))
        self.reads.append(read)

    def attend(
        self,
        layer: int,
        q_HTD: Tensor,
        k_KTD: Tensor,
        v_KTD: Tensor,
        scale: float,
    ) -> Tensor:
        """Stores the new keys and values; returns the attention's output (T, H, D)."""
        for read in self.reads:
            rows = slice(read.row, read.row + read.num_rows)
            read.segment.write(layer, read.start, k_KTD[:, rows], v_KTD[:, rows])
        # All keys are written by now: a prompt may attend to tokens that another one adds in this
        # pass. Its attention is computed part by part and merged by the log-sum-exps.
        outs, lses = [], []
        for read in self.reads:
            rows = slice(read.row, read.row + read.num_rows)
            out, lse = attend(
                q_HTD[None, :, rows], k_KTD[None, :, rows], v_KTD[None, :, rows], scale, causal=True
            )
            outs.append(out[0])
            lses.append(lse[0])
        for (segment, length), indices in self.rectangles.items():
            keys, values = segment.read(layer, length)
            reads = [self.reads[i] for i in indices]
            queries = [q_HTD[:, read.row : read.row + read.num_rows] for read in reads]
            q_HnD = queries[0] if len(queries) == 1 else torch.cat(queries, dim=1)
            seen, seen_lse = attend_folded(q_HnD, keys, values, scale)
            at = 0
            for i in indices:
                end = at + self.reads[i].num_rows
                outs[i], lses[i] = merge(outs[i], lses[i], seen[:, at:end], seen_lse[:, at:end])
                at = end
        out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
        return out.transpose(0, 1)


class Block:
    """The suffixes of the branches that decode together: one row per branch.

    Per layer keys and values of shape (B, K, S, D); row b holds `lengths[b]` tokens. What lies
    beyond is masked.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[int] = []

    def ensure(self, layer: int, rows: int, length: int, k_KTD: Tensor, v_KTD: Tensor) -> None:
        """Makes room for `rows` branches of `length` tokens in a layer."""
        while len(self.keys) <= layer:
            self.keys.append(k_KTD.new_zeros(0, k_KTD.shape[0], 0, k_KTD.shape[-1]))
            self.values.append(v_KTD.new_zeros(0, v_KTD.shape[0], 0, v_KTD.shape[-1]))
        have_rows, _, have_length, _ = self.keys[layer].shape
        if rows <= have_rows and length <= have_length:
            return
        new_rows = have_rows if rows <= have_rows else max(rows, 2 * have_rows)
        new_length = have_length if length <= have_length else max(length + 32, 2 * have_length)
        for buffers in (self.keys, self.values):
            old = buffers[layer]
            # Zeros rather than uninitialised memory: masked values are multiplied by 0, and 0 * NaN
            # is NaN.
            grown = old.new_zeros(new_rows, old.shape[1], new_length, old.shape[3])
            grown[:have_rows, :, :have_length] = old
            buffers[layer] = grown

    def append(self, rows: range, segment: CacheSegment, start: int, end: int) -> None:
        """Copies tokens of a segment behind the rows' ends, which are equal."""
        at = self.lengths[rows.start]
        length = at + end - start
        for layer, (keys, values) in enumerate(zip(segment.keys, segment.values, strict=True)):
            self.ensure(layer, len(self.lengths), length, keys, values)
            self.keys[layer][rows.start : rows.stop, :, at:length] = keys[:, start:end]
            self.values[layer][rows.start : rows.stop, :, at:length] = values[:, start:end]
        for row in rows:
            self.lengths[row] = length

    def move(self, source: int, target: int) -> None:
        """Copies a branch's row over another's."""
        length = self.lengths[source]
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]
        self.lengths[target] = length


@dataclass
class DecodePlan:
    """One token of each branch: row b of the packed row is branch b of the block."""

    block: Block
    shared: list[tuple[CacheSegment, int, Tensor | None]]
    """(segment, length, rows of the branches that see it; None for all of them)."""
    mask: Tensor | None = field(init=False)
    positions: Tensor = field(init=False)
    rows: Tensor = field(init=False)
    num_keys: int = field(init=False)
    level: bool = field(init=False)
    """Whether all branches have the same number of tokens in the block."""

    def start_step(self, device: torch.device, dtype: torch.dtype) -> None:
        """Prepares a step; the block's lengths do not yet count the new tokens."""
        lengths = self.block.lengths
        self.num_keys = max(lengths) + 1
        self.level = min(lengths) == self.num_keys - 1
        self.mask = None
        if self.level:
            return
        self.positions = torch.tensor(lengths, device=device)
        self.rows = torch.arange(len(lengths), device=device)
        hidden = torch.arange(self.num_keys, device=device) > self.positions[:, None]
        if device.type == "cpu" and dtype != torch.float64:
            dtype = torch.float32  # see `_attention`
        mask = torch.zeros(hidden.shape, device=device, dtype=dtype)
        self.mask = mask.masked_fill_(hidden, float("-inf"))[:, None, None, :]

    def attend(
        self, layer: int, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scale: float
    ) -> Tensor:
        """Stores the new keys and values; returns the attention's output (T, H, D)."""
        num_heads, num_rows, _ = q_HTD.shape
        num_key_heads = k_KTD.shape[0]
        self.block.ensure(layer, num_rows, self.num_keys, k_KTD, v_KTD)
        keys, values = self.block.keys[layer], self.block.values[layer]
        if self.level:
            keys[:num_rows, :, self.num_keys - 1] = k_KTD.transpose(0, 1)
            values[:num_rows, :, self.num_keys - 1] = v_KTD.transpose(0, 1)
        else:
            keys[self.rows, :, self.positions] = k_KTD.transpose(0, 1)
            values[self.rows, :, self.positions] = v_KTD.transpose(0, 1)
        q_BKGD = q_HTD.transpose(0, 1).reshape(
            num_rows, num_key_heads, num_heads // num_key_heads, -1
        )
        own, own_lse = attend(
            q_BKGD,
            keys[:num_rows, :, : self.num_keys],
            values[:num_rows, :, : self.num_keys],
            scale,
            mask=self.mask,
        )
        out = own.reshape(num_rows, num_heads, -1)
        lse = own_lse.reshape(num_rows, num_heads)
        for segment, length, rows in self.shared:
            shared_keys, shared_values = segment.read(layer, length)
            queries = q_HTD if rows is None else q_HTD[:, rows]
            seen, seen_lse = attend_folded(queries, shared_keys, shared_values, scale)
            seen, seen_lse = seen.transpose(0, 1), seen_lse.transpose(0, 1)
            if rows is None:
                out, lse = merge(out, lse, seen, seen_lse)
            else:
                out[rows], lse[rows] = merge(out[rows], lse[rows], seen, seen_lse)
        return out


def register() -> str:
    """Registers the attention with transformers; returns its name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attention)
    return NAME


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    agenticlu_plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer: (1, heads, T, D) to (1, T, H, D)."""
    assert agenticlu_plan is not None, "the model dropped the plan between layer and attention"
    assert kwargs.get("softcap") is None, "soft-capped scores are not supported"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    dtype = query.dtype
    if query.device.type == "cpu" and dtype != torch.float64:
        # Products in half precision are fast on a CPU, its attention over few rows is not.
        query, key, value = query.float(), key.float(), value.float()
    out = agenticlu_plan.attend(module.layer_idx, query[0], key[0], value[0], scale)
    return out[None].to(dtype), None
