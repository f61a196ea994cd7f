"""Keys and values of everything read, as a tree of token segments.

A segment is a stretch of tokens with its keys and values in every layer. It hangs on its parent at
some offset, not only at the end, so a prompt that diverges from a cached one in its middle shares
the part before without a copy and without a split. A prompt that goes on where a segment ends
extends it in place, unless it is long.
"""
# ruff: noqa: N803  (shapes live in names: q_HTD)

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
            self.keys.append(k_KnD.clone(memory_format=torch.contiguous_format))
            self.values.append(v_KnD.clone(memory_format=torch.contiguous_format))
            return
        for buffers, new in ((self.keys, k_KnD), (self.values, v_KnD)):
            buffer = buffers[layer]
            if end > buffer.shape[1]:
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
    """How much of a prompt is cached."""

    chain: Chain
    """Parts in order; empty parts left out."""
    anchor: tuple[CacheSegment, int]
    """Where the rest hangs on."""
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
        self, anchor: tuple[CacheSegment, int], ids: Sequence[int]
    ) -> tuple[CacheSegment, int]:
        """Adds tokens after an anchor; returns their segment and the index of the first in it.

        The caller writes the keys and values before anything reads them.
        """
        segment, offset = anchor
        assert len(ids) > 0
        if segment.parent is not None and offset == len(segment.ids) and segment.has_room(len(ids)):
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

    def shrink(self) -> None:
        """Drops least recently used leaves until a fifth of the limit is free, if it is passed."""
        if self.num_bytes <= self.limit_bytes:
            return
        leaves = [
            (segment.last_used, id(segment), segment)
            for segment in self._segments()
            if not segment.children
        ]
        heapq.heapify(leaves)
        while leaves and self.num_bytes > self.limit_bytes * 4 // 5:
            _, _, segment = heapq.heappop(leaves)
            parent = segment.parent
            assert parent is not None
            del parent.children[(segment.offset, segment.ids[0])]
            segment.dropped = True
            self.num_bytes -= segment.counted_bytes
            if parent.parent is not None and not parent.children:
                heapq.heappush(leaves, (parent.last_used, id(parent), parent))

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
        middle = (low + high) // 2
        if a[a_start + low : a_start + middle] == b[b_start + low : b_start + middle]:
            low = middle
        else:
            high = middle
    return low
