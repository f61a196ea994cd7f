"""Runs a model over its own cache, where its class cannot decode over one shared prefix.

A state is what the model keeps of the tokens it has read: keys and values, of narrow windows the
last ones, of recurrent layers their matrices. States are kept at the ends of prompts and at the
points where prompts part; a prompt continues a copy of the longest one that begins it, which is
exact for every kind of layer. Where a class keeps no state that can be copied, every token is
computed from the prompt's start.

Shapes: B branches, T tokens, V vocabulary.
"""

# ruff: noqa: N815  (shapes live in names: logits_V)

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agenticlu.engines.local.kvcache import num_common
from agenticlu.engines.local.snapshots import flatten, lay_over
from agenticlu.engines.local.stored import Exported

CHUNK_TOKENS = 2048
"""A prompt is read in chunks, which bounds the masks of its attention."""
PART_TOKENS = 32
"""Prompts that agree in this many more tokens than a kept state has are worth one of their own."""
REMEMBERED_PROMPTS = 64
"""Recent prompts that are compared with the next."""
CACHE_NAMES = ("past_key_values", "cache_params")
"""What classes call the cache in their forward pass."""
Regime = Callable[[int], int]
"""Number of tokens to the rotation that a text of this length is read with."""


class OwnForward:
    """A model's own forward pass over its own cache.

    Args:
        model: A causal language model of transformers.
        cached: False computes every token from the start.
        resumes: Whether a state may be continued by several tokens at once.
    """

    def __init__(self, model: Any, *, cached: bool = True, resumes: bool = True) -> None:
        self.model = model
        self.cached = cached
        self.resumes = resumes
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((one for one in CACHE_NAMES if one in parameters), None)
        self._keep_last = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._takes_positions = "position_ids" in parameters
        self._makes_cache = True
        self.regime, self.has_regimes = find_regime(model.config)
        self._stretched = [
            module
            for module in model.modules()
            if "dynamic" in str(getattr(module, "rope_type", ""))
        ]

    def feed(self, ids_BT: Tensor, cache: Any, start: int = 0) -> tuple[Tensor, Any]:
        """Reads tokens after a state, which it changes.

        Args:
            ids_BT: Tokens.
            cache: The state; None starts anew.
            start: How many tokens the state has.

        Returns:
            fp32 logits (B, V) of the token that follows, and the state.
        """
        self._reset_rotation()
        options: dict[str, Any] = dict(self._keep_last)
        if self._takes_positions:  # some classes count from 0 otherwise, whatever the state has
            end = start + ids_BT.shape[1]
            positions = torch.arange(start, end, device=ids_BT.device)
            options["position_ids"] = positions.expand(ids_BT.shape)
        if not self.cached:
            output = self.model(input_ids=ids_BT, use_cache=False, **options)
            return _last_logits(output), None
        assert self._cache_name is not None, "a cache under an unknown name"
        if cache is None and not self._makes_cache:
            cache = self._make_cache()
        options[self._cache_name] = cache
        output = self.model(input_ids=ids_BT, use_cache=True, **options)
        grown = getattr(output, self._cache_name, cache)
        if grown is None and self._makes_cache:
            self._makes_cache = False
            return self.feed(ids_BT, None, start)
        return _last_logits(output), grown

    def _make_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _reset_rotation(self) -> None:
        # Dynamic scaling remembers the longest text it has seen; a text must not depend on it. Only
        # a state within the original length is ever continued (see `find_regime`).
        for module in self._stretched:
            if hasattr(module, "original_inv_freq"):
                module.max_seq_len_cached = module.original_max_seq_len
                frequencies = module.original_inv_freq.to(module.inv_freq.device)
                module.register_buffer("inv_freq", frequencies, persistent=False)


def _last_logits(output: Any) -> Tensor:
    """Returns those of the last token; a view would hold all tokens' in memory."""
    logits: Tensor = output.logits[:, -1].to(torch.float32, copy=True)
    return logits


def find_regime(config: Any) -> tuple[Regime, bool]:
    """Returns which rotation a text of some length is read with, and whether there are several.

    Keys that were rotated one way are not attended to by queries rotated another. LongRoPE
    (arXiv 2402.13753) takes other factors beyond the original length; dynamic scaling changes them
    with every token beyond it.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kind = str(rope.get("rope_type", "default"))
    original = rope.get("original_max_position_embeddings") or getattr(
        text, "original_max_position_embeddings", None
    )
    limit = int(original or getattr(text, "max_position_embeddings", None) or 0)
    if kind == "longrope":
        return (lambda length: int(length > limit)), True
    if kind == "dynamic":
        return (lambda length: length if length > limit else 0), True
    return (lambda length: 0), False


def fork(cache: Any) -> Any:
    """Returns a copy of a cache that can go on by itself.

    Keys and values are never changed in place (longer ones replace them), so copies share them;
    the states of recurrent layers are, and are copied.
    """
    shared: dict[int, Any] = {}
    for layer in getattr(cache, "layers", ()):
        for name in ("keys", "values"):
            if isinstance(one := getattr(layer, name, None), Tensor):
                shared[id(one)] = one
    return copy.deepcopy(cache, shared)


def drop_unseen(cache: Any) -> None:
    """Lets go of what lies before a window: its keys and values are views of longer ones."""
    for layer in getattr(cache, "layers", ()):
        for name in ("keys", "values"):
            one = getattr(layer, name, None)
            if isinstance(one, Tensor) and one.untyped_storage().nbytes() > one.nbytes:
                setattr(layer, name, one.clone())


def count_bytes(value: Any) -> int:
    """Returns the bytes of the tensors in a cache."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(count_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(count_bytes, value))
    return sum(map(count_bytes, vars(value).values())) if hasattr(value, "__dict__") else 0


@dataclass(eq=False)
class State:
    """What a model keeps after some tokens; nobody changes it."""

    ids: list[int]
    cache: Any
    logits_V: Tensor
    """Of the token that follows."""
    num_bytes: int = 0
    last_used: int = 0


@dataclass(frozen=True, eq=False)
class StateReading:
    """A prompt that was read."""

    state: State
    num_cached: int
    """Tokens that an earlier prompt had read."""

    @property
    def logits_V(self) -> Tensor:  # noqa: N802
        """Of the token after the prompt."""
        return self.state.logits_V


@dataclass(eq=False)
class StateBranch:
    """One sequence that decodes."""

    ids: list[int]
    """Prompt and reply so far."""


@dataclass(eq=False)
class Group:
    """Branches of one prompt; they are as long as each other, so they decode in one batch."""

    branches: list[StateBranch]
    cache: Any
    alone: bool
    """Whether it was one branch from the start."""
    logits_BV: Tensor | None = None
    """Of the last step."""

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all rows of the cache but these."""
        if self.cache is not None:
            self.cache.reorder_cache(torch.tensor(rows))


@dataclass(eq=False)
class StateDecoder:
    """Decodes over a model's own cache; used as `Decoder` is."""

    forward: OwnForward
    limit_bytes: int | None
    """Of the kept states; the least recently used go first. None keeps nothing."""
    device: torch.device
    branches: list[StateBranch] = field(default_factory=list, init=False)
    states: list[State] = field(default_factory=list, init=False)
    _groups: list[Group] = field(default_factory=list, init=False)
    _prompts: deque[list[int]] = field(
        default_factory=lambda: deque(maxlen=REMEMBERED_PROMPTS), init=False
    )
    _clock: int = field(default=0, init=False)

    def num_uncached(self, ids: Sequence[int]) -> int:
        """Returns how many tokens reading the prompt would compute."""
        state = self._find(ids)
        return max(1, len(ids) - (len(state.ids) if state else 0))

    def read_ahead(self, ids: list[int], count: int) -> bool:
        """Reads nothing: a state kept for each part of a prompt would be a copy of all before."""
        return False

    @torch.inference_mode()
    def read(self, prompts: Sequence[list[int]]) -> list[StateReading]:
        """Reads prompts one after another; those that share a prefix compute it once."""
        readings = []
        for number, ids in enumerate(prompts):
            assert ids, "an empty prompt"
            readings.append(self._read_one(ids, [*self._prompts, *prompts[number + 1 :]]))
            self._prompts.append(ids)
        return readings

    def _read_one(self, ids: list[int], others: Sequence[list[int]]) -> StateReading:
        state = self._find(ids)
        start = len(state.ids) if state else 0
        if state is not None and start == len(ids):
            return StateReading(state, start)
        cache = fork(state.cache) if state else None
        parts = self._find_parts(ids, start, others)
        logits, at = None, start
        for end in self._find_cuts(start, len(ids), parts):
            logits, cache = self.forward.feed(self._row(ids[at:end]), cache, at)
            at = end
            if end in parts:
                self._keep(State(ids[:end], fork(cache), logits[0]))
        assert logits is not None
        read = State(list(ids), cache, logits[0])
        self._keep(read)
        return StateReading(read, start)

    def _find(self, ids: Sequence[int]) -> State | None:
        """Returns the longest kept state that begins the ids."""
        best = None
        regime = self.forward.regime(len(ids))
        for state in self.states:
            length = len(state.ids)
            if length > len(ids) or (best is not None and length <= len(best.ids)):
                continue
            if length < len(ids) and not self.forward.resumes:
                continue
            if self.forward.regime(length) == regime and state.ids == list(ids[:length]):
                best = state
        if best is not None:
            self._clock += 1
            best.last_used = self._clock
        return best

    def _find_parts(self, ids: list[int], start: int, others: Sequence[list[int]]) -> set[int]:
        """Returns the lengths at which other prompts part from this one."""
        if self.limit_bytes is None or not (self.forward.cached and self.forward.resumes):
            return set()
        regime = self.forward.regime
        common = {num_common(ids, 0, other, 0) for other in others}
        ends = sorted(end for end in common if start + PART_TOKENS <= end < len(ids))
        kept: set[int] = set()
        for end in ends:
            if end >= max(kept, default=start) + PART_TOKENS and regime(end) == regime(len(ids)):
                kept.add(end)
        return kept

    def _find_cuts(self, start: int, end: int, parts: set[int]) -> Iterator[int]:
        """Yields where a prompt's reading pauses, its end included."""
        forward = self.forward
        # A chunk is read as a text of its length, so all must be of one regime.
        size = CHUNK_TOKENS if forward.cached and forward.resumes else end
        if forward.has_regimes:
            size = end
        cuts = {*parts, *range(start + size, end, size)} if size else set(parts)
        yield from sorted(cuts | {end})

    def _keep(self, state: State) -> None:
        if self.limit_bytes is None or state.cache is None:
            return
        drop_unseen(state.cache)
        state.num_bytes = count_bytes(state.cache) + state.logits_V.nbytes
        self._clock += 1
        state.last_used = self._clock
        self.states.append(state)
        total = sum(one.num_bytes for one in self.states)
        # The state in use stays, whatever the limit: it would be computed for every turn.
        while total > self.limit_bytes and len(self.states) > 1:
            oldest = min(self.states, key=lambda one: one.last_used)
            self.states.remove(oldest)
            total -= oldest.num_bytes

    @torch.inference_mode()
    def join(self, joining: Sequence[tuple[StateReading, int]]) -> list[list[StateBranch]]:
        """Adds branches that continue prompts; they decode from the next step on."""
        added = []
        for reading, count in joining:
            ids = reading.state.ids
            branches = [StateBranch(list(ids)) for _ in range(count)]
            group = Group(branches, fork(reading.state.cache), alone=count == 1)
            if count > 1:
                group.keep([0] * count)
            self._groups.append(group)
            self.branches.extend(group.branches)
            added.append(list(group.branches))
        return added

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feeds one token to every branch, in the order of `branches`; returns logits (B, V)."""
        for branch, token in zip(self.branches, tokens, strict=True):
            branch.ids.append(token)
        logits: dict[StateBranch, Tensor] = {}
        regime = self.forward.regime
        for group in self._groups:
            length = len(group.branches[0].ids)
            if group.cache is None or regime(length) != regime(length - 1):
                rows = torch.cat([self._row(branch.ids) for branch in group.branches])
                group.logits_BV, group.cache = self.forward.feed(rows, None)
            else:
                last = torch.tensor([[b.ids[-1]] for b in group.branches], device=self.device)
                group.logits_BV, group.cache = self.forward.feed(last, group.cache, length - 1)
            logits.update(zip(group.branches, group.logits_BV, strict=True))
        return torch.stack([logits[branch] for branch in self.branches])

    @torch.inference_mode()
    def leave(self, branch: StateBranch) -> None:
        """Takes a branch out; the state of a prompt's only reply is kept."""
        group = next(one for one in self._groups if branch in one.branches)
        self.branches.remove(branch)
        row = group.branches.index(branch)
        group.branches.remove(branch)
        if group.branches:
            group.keep([i for i in range(len(group.branches) + 1) if i != row])
            return
        self._groups.remove(group)
        # Of many replies none is likelier to be continued, and each has the prompt's whole state.
        if group.alone and group.logits_BV is not None:
            self._keep(State(branch.ids, group.cache, group.logits_BV[0]))

    def reset(self) -> None:
        """Drops all branches and states, after a pass that failed half-way."""
        self.branches.clear()
        self._groups.clear()
        self.states.clear()
        self._prompts.clear()

    def expect(self, ids: list[int]) -> None:
        """Has a state kept where a prompt that begins with these tokens parts from them."""
        if ids not in self._prompts:
            self._prompts.append(ids)

    def export(self, ids: Sequence[int]) -> Exported | None:
        """Returns the state after exactly these tokens, if there is one that can be described."""
        kept = next((state for state in self.states if state.ids == list(ids)), None)
        if kept is None:
            return None
        try:
            tensors, layout = flatten(kept.cache)
        except ValueError:
            return None
        tensors["logits"] = kept.logits_V
        return Exported({name: (tensor,) for name, tensor in tensors.items()}, layout)

    @torch.inference_mode()
    def restore(self, ids: Sequence[int], exported: Exported) -> None:
        """Keeps a state that another process has exported.

        Raises:
            ValueError, KeyError: It does not fit this model.
        """
        logits, cache = self.forward.feed(self._row(ids[:1]), None)
        tensors = {name: one.to(self.device) for name, (one,) in exported.tensors.items()}
        found = tensors.pop("logits")
        if found.shape != logits[0].shape or found.dtype != logits.dtype:
            raise ValueError(f"its vocabulary has {found.shape[-1]} tokens")
        self._keep(State(list(ids), lay_over(cache, tensors, exported.layout), found))

    def _row(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.device)
