# ruff: noqa: N815 (shapes live in names)
"""Token tries: grouping of traces, layout, attention mask as rectangles, supervised edges.

Traces that begin with the same tokens share their rows. Segments (unbranched stretches) are laid
out in depth-first pre-order, so the descendants of a segment [s, e) are exactly the rows [e, t),
and the attention mask is a short list of rectangles:

    every segment                   a causal square   (s, e, s, e)
    every segment with descendants  a full rectangle  (e, t, s, e)

They cover each visible (query, key) pair once; a token sees depth + 1 keys, so their area is the
sum of depth + 1 over the stored tokens. Pure: numpy, no torch.

An optimizer step takes B units (traces or pairs), as tries of up to M units of one document. Which
unit meets which is a pure function of units, seed and epoch.

Legend: S stored tokens (rows), E edges, K (trace, edge) incidences.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from agenticlu.training.encode import Unit

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Rectangle = tuple[int, int, int, int, int]
"""Query rows [q0, q1), key rows [k0, k1), causal (1, squares only) or full (0)."""
Step = list[list[int]]
"""Tries of one optimizer step, each a list of unit numbers."""


@dataclass(frozen=True)
class TrieSegment:
    """A maximal stretch of the trie without a branch, stored once."""

    start: int
    """First row."""
    end: int
    """One past the last own row."""
    last: int
    """One past the last row of its descendants; equals `end` for a segment without any."""
    depth: int
    """Position of its first token in every trace through it."""
    level: int
    """Segments above it."""
    parent: int | None
    """Index of the segment above; None at the top."""


@dataclass(frozen=True)
class TriePlan:
    """Everything a forward pass needs to know about one trie."""

    ids_S: IntArray
    positions_S: IntArray
    """Depth of each row: its position for rotary embeddings."""
    segments: tuple[TrieSegment, ...]
    rectangles: tuple[Rectangle, ...]
    sources_E: IntArray
    """Row whose hidden state predicts the edge's target."""
    targets_E: IntArray
    """Token id predicted."""
    edge_of_K: IntArray
    """Incidences, grouped by trace: which edge ..."""
    trace_of_K: IntArray
    """... lies on which trace's path and is supervised there."""
    num_traces: int
    trace_tokens: int
    """Sum of the traces' lengths: what separate training would process."""
    trace_pairs: int
    """Visible pairs of separate training: sum of n (n + 1) / 2."""

    @property
    def num_rows(self) -> int:
        """Stored tokens."""
        return len(self.ids_S)

    @cached_property
    def area(self) -> int:
        """Visible (query, key) pairs, counted over the rectangles."""
        return sum(count_pairs(rectangle) for rectangle in self.rectangles)

    @property
    def depth_levels(self) -> int:
        """Levels of segments below the top one."""
        return max((segment.level for segment in self.segments), default=0)

    @cached_property
    def flat_rectangles(self) -> list[int]:
        """The rectangles as one list of integers, as the attention operator takes them."""
        return [number for rectangle in self.rectangles for number in rectangle]

    @cached_property
    def trace_targets(self) -> IntArray:
        """Supervised tokens of each trace."""
        return np.bincount(self.trace_of_K, minlength=self.num_traces).astype(np.int64)

    def edge_weights(self, weight_of_trace: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the weight of each edge: the sum over the traces that supervise it."""
        return np.bincount(
            self.edge_of_K, weights=weight_of_trace[self.trace_of_K], minlength=len(self.sources_E)
        ).astype(np.float64)


def count_pairs(rectangle: Rectangle) -> int:
    """Returns the number of visible pairs of a rectangle.

    >>> count_pairs((0, 4, 0, 4, 1)), count_pairs((4, 6, 0, 4, 0))
    (10, 8)
    """
    q0, q1, k0, k1, causal = rectangle
    rows, keys = q1 - q0, k1 - k0
    return rows * (rows + 1) // 2 if causal else rows * keys


def common_prefix(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> int:
    """Returns how many leading tokens two traces share."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    first = int(different.argmax()) if length else 0
    return first if length and different[first] else length


def sort_key(ids: npt.NDArray[np.integer]) -> bytes:
    """Returns bytes that sort like the sequence of ids."""
    return ids.astype(">u4").tobytes()  # big-endian: bytes compare as numbers do


class _Builder:
    """Grows segments in depth-first pre-order over lexicographically sorted traces."""

    def __init__(self, traces: list[npt.NDArray[np.integer]], min_shared: int) -> None:
        self.traces = traces
        self.min_shared = max(1, min_shared)
        self.shared = [0] + [common_prefix(a, b) for a, b in itertools.pairwise(traces)]
        """Tokens that each trace shares with the one before; sorted, so no other shares more."""
        self.segments: list[TrieSegment] = []
        self.ids: list[npt.NDArray[np.integer]] = []
        self.rows = 0
        self.end_segment: list[int | None] = [None] * len(traces)

    def grow(self, low: int, high: int, depth: int, parent: int | None) -> None:
        """Stores traces [low, high), which share their first `depth` tokens, already stored."""
        length = len(self.traces[low])
        branch = min(self.shared[low + 1 : high], default=length)
        ending = low
        while ending < high and len(self.traces[ending]) == branch:
            ending += 1
        if ending < high and branch - depth < self.min_shared:
            # Too short a stretch to be worth a level of its own: every child keeps its own copy.
            if ending > low:
                self.grow(low, ending, depth, parent)
            self.split(ending, high, branch, depth, parent)
            return
        segment = self.emit(low, depth, branch, parent) if branch > depth else parent
        self.end_segment[low:ending] = [segment] * (ending - low)
        self.split(ending, high, branch, branch, segment)
        if segment is not None:
            # Its descendants are exactly the rows stored since.
            self.segments[segment] = dataclasses.replace(self.segments[segment], last=self.rows)

    def emit(self, trace: int, depth: int, end: int, parent: int | None) -> int:
        start, self.rows = self.rows, self.rows + end - depth
        level = 0 if parent is None else self.segments[parent].level + 1
        self.segments.append(TrieSegment(start, self.rows, self.rows, depth, level, parent))
        self.ids.append(self.traces[trace][depth:end])
        return len(self.segments) - 1

    def split(self, low: int, high: int, branch: int, depth: int, parent: int | None) -> None:
        """Grows each run of traces that share more than `branch` tokens."""
        starts = [
            trace for trace in range(low, high) if trace == low or self.shared[trace] <= branch
        ]
        for start, end in itertools.pairwise([*starts, high]):
            self.grow(start, end, depth, parent)


def build_plan(
    traces: Sequence[npt.NDArray[np.integer]],
    masks: Sequence[BoolArray],
    *,
    min_shared: int = 1,
) -> TriePlan:
    """Builds the trie of some traces.

    Args:
        traces: Token ids of each trace.
        masks: True where the token is a supervised target; the first token never is.
        min_shared: Shared stretches below the top that are shorter than this are stored once per
            branch instead (still exact; fewer, larger rectangles). 1 shares everything.

    Returns:
        The plan; traces keep their numbers.
    """
    assert traces
    assert len(traces) == len(masks)
    assert all(len(ids) == len(mask) > 0 for ids, mask in zip(traces, masks, strict=True))
    assert not any(mask[0] for mask in masks), "the first token of a trace has no source"
    order = sorted(range(len(traces)), key=lambda number: sort_key(traces[number]))
    builder = _Builder([traces[number] for number in order], min_shared)
    builder.grow(0, len(order), 0, None)

    segments = tuple(builder.segments)
    ids_S = np.concatenate(builder.ids).astype(np.int64)
    positions_S = np.concatenate(
        [np.arange(s.depth, s.depth + s.end - s.start) for s in segments]
    ).astype(np.int64)
    # The row that predicts each row: the one before it, at a branch the parent's last.
    before_S = np.arange(-1, len(ids_S) - 1, dtype=np.int64)
    for segment in segments:
        before_S[segment.start] = -1 if segment.parent is None else segments[segment.parent].end - 1

    supervised: list[IntArray] = [np.empty(0, np.int64)] * len(traces)
    for place, number in enumerate(order):
        rows = _rows_of(segments, builder.end_segment[place])
        supervised[number] = rows[masks[number]]
    rows_K = np.concatenate(supervised)
    # A row that several traces supervise is one edge, computed once and weighed for all of them.
    rows_E, edge_of_K = np.unique(rows_K, return_inverse=True)
    lengths = [len(ids) for ids in traces]
    return TriePlan(
        ids_S=ids_S,
        positions_S=positions_S,
        segments=segments,
        rectangles=build_rectangles(segments),
        sources_E=before_S[rows_E],
        targets_E=ids_S[rows_E],
        edge_of_K=edge_of_K.astype(np.int64).reshape(-1),
        trace_of_K=np.repeat(np.arange(len(traces)), [len(rows) for rows in supervised]),
        num_traces=len(traces),
        trace_tokens=sum(lengths),
        trace_pairs=sum(n * (n + 1) // 2 for n in lengths),
    )


def _rows_of(segments: Sequence[TrieSegment], segment: int | None) -> IntArray:
    chain: list[TrieSegment] = []
    while segment is not None:
        chain.append(segments[segment])
        segment = chain[-1].parent
    return np.concatenate([np.arange(s.start, s.end) for s in reversed(chain)])


def build_rectangles(segments: Sequence[TrieSegment]) -> tuple[Rectangle, ...]:
    """Returns the mask of a trie: all causal squares, then the full rectangles level by level.

    >>> build_rectangles([TrieSegment(0, 4, 8, 0, 0, None), TrieSegment(4, 6, 6, 4, 1, 0),
    ...                TrieSegment(6, 8, 8, 4, 1, 0)])
    ((0, 4, 0, 4, 1), (4, 6, 4, 6, 1), (6, 8, 6, 8, 1), (4, 8, 0, 4, 0))
    """
    squares = [(s.start, s.end, s.start, s.end, 1) for s in segments]
    parents = sorted((s for s in segments if s.last > s.end), key=lambda s: (s.level, s.start))
    return (*squares, *((s.end, s.last, s.start, s.end, 0) for s in parents))


def dummy_plan(token: int = 0, num_rows: int = 64, num_traces: int = 1) -> TriePlan:
    """Returns a plan without edges, to fill an empty place among lockstep ranks."""
    lengths = range(num_rows - num_traces + 1, num_rows + 1)
    traces = [np.full(length, token, dtype=np.int64) for length in lengths]
    masks = [np.zeros(length, dtype=np.bool_) for length in lengths]
    return build_plan(traces, masks, min_shared=num_rows + 1)  # nothing shared


class Pairs:
    """Pairs of one trie's traces, as two arrays of trace numbers."""

    def __init__(self, chosen: Sequence[int], rejected: Sequence[int]) -> None:
        assert len(chosen) == len(rejected)
        self.chosen = np.asarray(chosen, dtype=np.int64)
        self.rejected = np.asarray(rejected, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.chosen)


@dataclass(frozen=True)
class Trie:
    """The units of one document that enter a step together, planned."""

    plan: TriePlan
    pairs: Pairs
    """DPO: numbers of the plan's traces; empty in SFT."""
    digests: tuple[bytes, ...]
    """DPO: hash of each trace; distillation: of what its teacher reads; empty in SFT."""


def build_trie(units: Sequence[Unit], *, min_shared: int) -> Trie:
    """Plans some units; both traces of a pair are always in one trie."""
    traces = [trace for unit in units for trace in unit.traces]
    plan = build_plan(
        [trace.ids for trace in traces], [trace.mask for trace in traces], min_shared=min_shared
    )
    if len(traces) == len(units):
        read = [unit.evidence for unit in units if unit.evidence is not None]
        return Trie(plan, Pairs([], []), tuple(trace.digest() for trace in read))
    pairs = Pairs(range(0, len(traces), 2), range(1, len(traces), 2))
    return Trie(plan, pairs, tuple(trace.digest() for trace in traces))


def group_by_document(units: Sequence[Unit]) -> list[list[int]]:
    """Returns the numbers of the units of each document.

    Where rows name no document, rows belong together when the shorter shares at least about half
    of itself with the other: compared by hashes of prefixes of 2^k ids.
    """
    groups: dict[object, list[int]] = {}
    for number, unit in enumerate(units):
        groups.setdefault(_find_document(unit, groups), []).append(number)
    return list(groups.values())


def _find_document(unit: Unit, known: Mapping[object, object]) -> object:
    if unit.document_id is not None:
        return unit.document_id
    ids = unit.traces[0].ids
    half = 1 << max((len(ids) // 2).bit_length() - 1, 0)
    keys = [
        hashlib.blake2b(ids[:length].tobytes(), digest_size=16).digest()
        for length in (half, half // 2, half * 2)
    ]
    return next((key for key in keys if key in known), keys[0])


def build_epoch(
    documents: Sequence[Sequence[int]],
    *,
    batch: int,
    per_trie: int,
    seed: int,
    epoch: int,
    questions: Sequence[str | None] = (),
) -> list[Step]:
    """Returns the steps of one epoch; every unit appears once, and the last step may be short.

    A group that crosses the end of a step is cut there: both parts stay tries, and every step
    but the last holds exactly `batch` units. Within a document the units of one question stay
    together, since one is often the beginning of another and then costs a trie nothing.

    Args:
        documents: Numbers of the units of each document.
        batch: Units of a step.
        per_trie: Units of a document at most that enter a step together.
        seed: Seed of the order.
        epoch: Number of the epoch; each has another order.
        questions: Id of each unit's question; left out, units are dealt one by one.
    """
    generator = np.random.default_rng([seed, epoch])
    groups: list[list[int]] = []
    for document in documents:
        families: dict[object, list[int]] = {}
        for number in document:
            question = questions[number] if questions else None
            families.setdefault(number if question is None else question, []).append(number)
        order = generator.permutation(len(families))
        together = list(families.values())
        shuffled = [number for index in order for number in together[index]]
        groups += [shuffled[i : i + per_trie] for i in range(0, len(shuffled), per_trie)]
    steps: list[Step] = [[]]
    room = batch
    for index in generator.permutation(len(groups)):
        group = groups[index]
        while group:
            if not room:
                steps.append([])
                room = batch
            part, group = group[:room], group[room:]
            steps[-1].append(part)
            room -= len(part)
    return [step for step in steps if step]


def build_schedule(
    documents: Sequence[Sequence[int]],
    *,
    batch: int,
    per_trie: int,
    seed: int,
    epochs: int,
    max_steps: int | None = None,
    questions: Sequence[str | None] = (),
) -> list[Step]:
    """Returns the steps of a whole run, at most `max_steps`; see `build_epoch`."""
    steps: list[Step] = []
    for epoch in range(epochs):
        steps += build_epoch(
            documents,
            batch=batch,
            per_trie=per_trie,
            seed=seed,
            epoch=epoch,
            questions=questions,
        )
        if max_steps is not None and len(steps) >= max_steps:
            return steps[:max_steps]
    return steps
