# ruff: noqa: N815 (shapes live in names)
"""Recurrent layers on a trie: the state at a branch point is computed once, handed to each child.

A recurrent layer (Gated DeltaNet, Mamba, a short convolution) reads its past from a fixed-size
state and the tail of a convolution. On a trie it runs once per segment, from the state that the
segment above ended with; gradients flow back through that state and add up over the children.
Segments without descendants need no end state, so those of one level run side by side, padded.

The layers are transformers' own: they are given a cache that keeps their states in the graph, and
know nothing of the trie. The idea of branching a recurrent state in training is that of Tree
Training (arXiv 2511.00413), OpenPipe ART (#739) and Megatron-LM (#7387).

Legend: S rows of the trie, B segments side by side, N rows of the longest of them, C width.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agenticlu.core.errors import TrainingError
from agenticlu.training.trie import BoolArray, IntArray, TrieSegment

STATE_ARGUMENTS = ("cache_params", "past_key_values")
"""Names under which transformers' recurrent layers take their cache."""
STATE_METHODS = {"update_conv_state", "update_recurrent_state"}
"""What a layer calls on it if it has a state."""
MOST_PADDING = 0.25
"""Share of padding rows up to which segments of unequal length run side by side."""


class BranchState:
    """A layer's states after some segments, in the form of a transformers cache for one call.

    Unlike transformers' caches it keeps the graph: nothing is copied or changed in place.
    """

    def __init__(self) -> None:
        self.conv: dict[int, Tensor] = {}
        """Last inputs of each convolution, (B, channels, at most kernel size - 1)."""
        self.recurrent: dict[int, Tensor] = {}
        """(B, ...), as the layer shapes them."""

    @classmethod
    def gather(cls, places: Sequence[tuple[BranchState, int]]) -> BranchState:
        """Returns the states at some places of earlier calls, side by side."""
        first = places[0][0]
        result = cls()
        for name in ("conv", "recurrent"):
            for key in getattr(first, name):
                parts = [getattr(state, name)[key][at : at + 1] for state, at in places]
                getattr(result, name)[key] = parts[0] if len(parts) == 1 else torch.cat(parts)
        return result

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Returns the tail of a convolution's inputs; None at the start of a trace."""
        return self.conv.get(state_idx)

    def update_conv_state(
        self,
        conv_states: Tensor,
        layer_idx: int,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
        **_: Any,
    ) -> Tensor:
        """Takes a convolution's new inputs and returns them behind the tail of the old ones."""
        tail = self.conv.get(state_idx)
        whole = conv_states if tail is None else torch.cat((tail, conv_states), dim=-1)
        # Without a size there is no telling how far back the layer looks: keep it all.
        reach = whole.shape[-1] if conv_kernel_size is None else max(conv_kernel_size - 1, 0)
        self.conv[state_idx] = whole[..., max(whole.shape[-1] - reach, 0) :]
        return whole

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> Tensor | None:
        """Returns the recurrent state; None at the start of a trace."""
        return self.recurrent.get(state_idx)

    def update_recurrent_state(
        self, recurrent_states: Tensor, layer_idx: int, state_idx: int = 0, **_: Any
    ) -> Tensor:
        """Takes the new recurrent state."""
        self.recurrent[state_idx] = recurrent_states
        return recurrent_states

    def has_previous_state(
        self, layer_idx: int | None = None, state_idx: int | None = None
    ) -> bool:
        """Returns whether anything came before."""
        return bool(self.conv or self.recurrent)

    def is_recording_past(self, layer_idx: int) -> bool:
        """Returns True: layers then leave out their shortcut for one token, which is in place."""
        return True


@dataclass(frozen=True)
class BranchCall:
    """Segments that a recurrent layer runs side by side."""

    segments: tuple[int, ...]
    rows_BN: IntArray
    """Rows of the trie; padded with the last one, whose results are then dropped."""
    own_BN: BoolArray
    """Rows whose output this call gives."""
    starts: tuple[int | None, ...]
    """Segments whose end state each begins with; None at the start of a trace."""
    hands_on: bool
    """Its end states are used; then nothing is padded."""


@functools.lru_cache(maxsize=64)
def build_branch_calls(segments: tuple[TrieSegment, ...]) -> tuple[BranchCall, ...]:
    """Returns the calls of a recurrent layer on a trie, in an order in which states are ready.

    A segment of one row hands on no state, because layers compute single rows by other code (and
    in place). Its row is repeated at the front of each child instead.
    """
    rows: list[tuple[int, ...]] = []
    starts: list[int | None] = []
    for segment in segments:
        own = tuple(range(segment.start, segment.end))
        above = segment.parent
        if above is not None and len(rows[above]) == 1:
            rows.append(rows[above] + own)
            starts.append(starts[above])
        else:
            rows.append(own)
            starts.append(above)
    handing = {start for start in starts if start is not None}
    levels: dict[tuple[int, bool], list[int]] = {}
    for number, segment in enumerate(segments):
        levels.setdefault((segment.level, number in handing), []).append(number)
    calls = []
    for (_, hands_on), numbers in sorted(levels.items()):
        for group in _group_lengths(sorted(numbers, key=lambda n: len(rows[n])), rows, hands_on):
            lengths = [segments[n].end - segments[n].start for n in group]
            calls.append(_build_call(group, [rows[n] for n in group], lengths, starts, hands_on))
    return tuple(calls)


def _group_lengths(
    numbers: Iterable[int], rows: Sequence[tuple[int, ...]], equal: bool
) -> list[list[int]]:
    """Groups segments, sorted by length, such that little is padded; `equal`: nothing."""
    groups: list[list[int]] = []
    stored = 0
    for number in numbers:
        length = len(rows[number])
        if groups:
            padded = (len(groups[-1]) + 1) * length
            room = 0.0 if equal else MOST_PADDING
            if padded - stored - length <= room * padded:
                groups[-1].append(number)
                stored += length
                continue
        groups.append([number])
        stored = length
    return groups


def _build_call(
    group: Sequence[int],
    rows: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    starts: Sequence[int | None],
    hands_on: bool,
) -> BranchCall:
    # One row alone would be computed by a layer's code for decoding.
    width = max(2, *(len(r) for r in rows))
    rows_BN = np.array([[*r, *[r[-1]] * (width - len(r))] for r in rows], dtype=np.int64)
    own_BN = np.zeros(rows_BN.shape, dtype=np.bool_)
    for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        own_BN[place, len(row) - length : len(row)] = True
    return BranchCall(tuple(group), rows_BN, own_BN, tuple(starts[n] for n in group), hands_on)


@functools.lru_cache(maxsize=64)  # a trie's calls, used by all layers; these live on the device
def _device_rows(
    segments: tuple[TrieSegment, ...], device: torch.device
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Returns each call's rows, the places of its own rows, and the row order of all outputs."""
    calls = build_branch_calls(segments)
    rows = [torch.from_numpy(call.rows_BN).to(device) for call in calls]
    own = [torch.from_numpy(np.flatnonzero(call.own_BN)).to(device) for call in calls]
    order = np.argsort(np.concatenate([call.rows_BN[call.own_BN] for call in calls]))
    return rows, own, torch.from_numpy(order).to(device)


def run_on_trie(
    layer: Callable[..., Tensor],
    hidden_1SC: Tensor,
    segments: tuple[TrieSegment, ...],
    state_argument: str,
    **kwargs: Any,
) -> Tensor:
    """Runs a recurrent layer over the segments of a trie.

    Args:
        layer: A transformers layer: hidden states (B, N, C) and a cache in, (B, N, C) out.
        hidden_1SC: The rows of the trie.
        segments: Of the trie, in the order of their rows.
        state_argument: Name under which the layer takes its cache.
        kwargs: Passed on to the layer.

    Returns:
        The layer's output for each row, (1, S, C).
    """
    rows, own, order = _device_rows(segments, hidden_1SC.device)
    ended: dict[int, tuple[BranchState, int]] = {}
    outputs = []
    calls = build_branch_calls(segments)
    for call, rows_BN, own_places in zip(calls, rows, own, strict=True):
        starts = [ended[start] for start in call.starts if start is not None]
        assert len(starts) in (0, len(call.starts)), "segments of one level start alike"
        state = BranchState.gather(starts) if starts else BranchState()
        out_BNC = layer(hidden_1SC[0][rows_BN], **{state_argument: state}, **kwargs)
        outputs.append(out_BNC.flatten(0, 1)[own_places])
        if call.hands_on:
            ended |= {segment: (state, at) for at, segment in enumerate(call.segments)}
    return torch.cat(outputs)[order].unsqueeze(0)


@dataclass
class _Counter:
    """Calls of recurrent layers on a trie in this process."""

    calls: int = 0


counter = _Counter()


def find_state_argument(module: nn.Module) -> str | None:
    """Returns the name under which a recurrent layer takes its cache; None for other modules."""
    forward: Any = inspect.unwrap(type(module).forward)
    code = getattr(forward, "__code__", None)
    if code is None or not STATE_METHODS & set(code.co_names):
        return None
    names = inspect.signature(forward).parameters
    return next((name for name in STATE_ARGUMENTS if name in names), None)


def install(model: nn.Module) -> int:
    """Lets the recurrent layers of a model follow a trie; safe to call again.

    The plan travels as the keyword argument `tree_plan`, as that of attention; without it a layer
    does what it always did.

    Returns:
        The number of recurrent layers.
    """
    found = 0
    for module in model.modules():
        argument = find_state_argument(module)
        if argument is None:
            continue
        found += 1
        if not isinstance(module.forward, functools.partial):
            module.forward = functools.partial(_forward, module.forward, argument)
    return found


def _forward(
    original: Callable[..., Any],
    state_argument: str,
    hidden_states: Tensor,
    *args: Any,
    tree_plan: Any = None,
    **kwargs: Any,
) -> Any:
    if tree_plan is None:
        return original(hidden_states, *args, **kwargs)
    counter.calls += 1
    tree_plan.refuse_division("Recurrent layers, whose state passes from row to row,")
    if kwargs.pop("attention_mask", None) is not None:
        raise TrainingError("A recurrent layer was given a mask; a trie's mask is its plan.")
    kwargs.pop(state_argument, None)
    return run_on_trie(original, hidden_states, tree_plan.segments, state_argument, **kwargs)
