"""Reads prompts and decodes branches on one model, batched, over one cache. Synchronous.

read = decoder.read([ids])[0]           # only what is not cached is computed
branches = decoder.join([(read, 8)])    # eight branches on one copy of the prompt's keys
logits_BV = decoder.step(tokens)        # one token of every branch
decoder.leave(branch)                   # its tokens stay cached
"""
# ruff: noqa: N815  (shapes live in names: q_HTD)

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from agenticlu.engines.local.kvcache import (
    AttentionPlan,
    Block,
    CacheSegment,
    Chain,
    DecodePlan,
    PrefixCache,
    Read,
    ReadPlan,
)
from agenticlu.engines.local.stored import Exported

ALONE_TOKENS = 256
"""Up to this length a part of a prompt is copied into the block of its only branch: one batched
call over the block costs less than a call of its own."""
SHARE_TOKENS = 128
"""Likewise for a part that several branches share."""
SHARE_MULTIPLE = 64
"""Lengths of shared parts are rounded down to this, so that later prompts fall in with them."""
SHARE_SPREAD = 128
"""Prompts that leave a segment within this many tokens share the shortest's part of it."""


def agree_on_lengths(users: Mapping[int, int], known: Collection[int]) -> dict[int, int]:
    """Returns, per length, how many of its tokens are attended to in place; 0 is left out.

    >>> agree_on_lengths({1000: 1, 1010: 7, 2000: 1, 90: 4}, known=())
    {1000: 960, 1010: 960, 2000: 1984}

    Args:
        users: Number of branches per length of one segment.
        known: Lengths that branches already share.
    """
    groups: list[tuple[int, list[int]]] = []
    for length in sorted(users):
        if not groups or length - groups[-1][0] > SHARE_SPREAD:
            base = length if length in known else length // SHARE_MULTIPLE * SHARE_MULTIPLE
            groups.append((base, []))
        groups[-1][1].append(length)
    agreed: dict[int, int] = {}
    for base, group in groups:
        num_users = sum(users[length] for length in group)
        if base in known or base > (SHARE_TOKENS if num_users > 1 else ALONE_TOKENS):
            agreed.update(dict.fromkeys(group, base))
    return agreed


class Forward(Protocol):
    """A model's forward pass."""

    def __call__(
        self, ids_T: Tensor, positions_T: Tensor, plan: AttentionPlan, last: Tensor
    ) -> Tensor:
        """Returns fp32 logits (rows, V) of the rows in `last`."""
        ...


class AnyReading(Protocol):
    """A prompt that was read."""

    @property
    def num_cached(self) -> int:
        """Tokens of it that an earlier prompt had read."""
        ...

    @property
    def logits_V(self) -> Tensor:  # noqa: N802
        """Of the token after the prompt."""
        ...


class AnyDecoder(Protocol):
    """What the worker drives: reads prompts, decodes branches, keeps what may come again."""

    @property
    def branches(self) -> Sequence[Any]:
        """Sequences that decode, in the order that `step` takes and returns."""
        ...

    def num_uncached(self, ids: Sequence[int]) -> int:
        """Returns how many tokens reading the prompt would compute."""
        ...

    def read(self, prompts: Sequence[list[int]]) -> Sequence[AnyReading]:
        """Reads prompts."""
        ...

    def read_ahead(self, ids: list[int], count: int) -> bool:
        """Reads the next tokens of a long prompt, for `read` to find; False if it cannot."""
        ...

    def join(self, joining: Sequence[tuple[Any, int]]) -> Sequence[Sequence[Any]]:
        """Adds branches that continue prompts: (what `read` returned, how many)."""
        ...

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feeds one token to every branch; returns logits (B, V)."""
        ...

    def leave(self, branch: Any) -> None:
        """Takes a branch out."""
        ...

    def reset(self) -> None:
        """Drops all branches and what is kept, after a pass that failed half-way."""
        ...

    def expect(self, ids: list[int]) -> None:
        """Is told that more prompts will begin with these tokens."""
        ...

    def export(self, ids: Sequence[int]) -> Exported | None:
        """Returns what is kept of exactly these tokens, or None where they are not kept."""
        ...

    def restore(self, ids: Sequence[int], exported: Exported) -> None:
        """Keeps what another process has exported of these tokens.

        Raises:
            ValueError, KeyError: It does not fit this model.
        """
        ...


@dataclass
class Reading:
    """A prompt that was read."""

    ids: list[int]
    num_cached: int
    chain: Chain
    anchor: tuple[CacheSegment, int]
    logits_V: Tensor
    """Of the token after the prompt."""


@dataclass(eq=False)
class Branch:
    """One sequence that decodes."""

    anchor: tuple[CacheSegment, int]
    shared: tuple[tuple[CacheSegment, int], ...]
    num_folded: int
    """Tokens of the prompt at the start of its row of the block."""
    num_prompt: int
    row: int
    fed: list[int] = field(default_factory=list)
    """Tokens decoded so far whose keys and values are in the block."""


@dataclass(eq=False)
class Decoder:
    """One model, one cache, one block of branches."""

    forward: Forward
    cache: PrefixCache | None
    """Kept between prompts; None reads every prompt from its start."""
    device: torch.device
    dtype: torch.dtype
    share: bool = True
    """False copies what a branch has read into its own row, to compare."""
    branches: list[Branch] = field(default_factory=list, init=False)
    _block: Block = field(default_factory=Block, init=False)
    _plan: DecodePlan | None = field(default=None, init=False)

    def num_uncached(self, ids: Sequence[int]) -> int:
        """Returns how many tokens reading the prompt would compute."""
        if self.cache is None:
            return len(ids)
        return max(1, len(ids) - self.cache.match(ids).num_tokens)

    def read_ahead(self, ids: list[int], count: int) -> bool:
        """Reads the next `count` tokens of a long prompt into the cache.

        Returns:
            False where there is none, or it had no room to keep them.
        """
        if self.cache is None:
            return False
        known = self.cache.match(ids).num_tokens
        # One segment for the whole prompt: replies attend to each one in a call of its own.
        self.read([ids[: known + count]], grow=True)
        return self.cache.match(ids).num_tokens > known

    @torch.inference_mode()
    def read(self, prompts: Sequence[list[int]], *, grow: bool = False) -> list[Reading]:
        """Reads prompts in one forward pass; those that share a prefix compute it once.

        Args:
            prompts: Ids of each.
            grow: Whether tokens join the segment before them, however long that is.
        """
        plan = ReadPlan()
        tokens: list[int] = []
        positions: list[int] = []
        last: list[int] = []
        readings: list[Reading] = []
        nothing = torch.empty(0)
        if self.cache is not None:  # what an earlier prompt held beyond the limit goes first
            self.cache.shrink([self.cache.match(ids).anchor for ids in prompts])
        for ids in prompts:
            assert ids, "an empty prompt"
            # Without a cache every prompt gets a tree of its own, which is then forgotten.
            cache = PrefixCache(0) if self.cache is None else self.cache
            match = cache.match(ids)
            if match.num_tokens == len(ids):
                # Only the last token's logits are missing: it is read again, outside the tree.
                new = ids[-1:]
                read = Read(CacheSegment(None, 0, new), 0, len(tokens), 1)
                segment, length = match.chain[-1]
                before = [*match.chain[:-1], (segment, length - 1)]
                chain, anchor = match.chain, match.anchor
            else:
                new = ids[match.num_tokens :]
                # From here on, later prompts of this pass match these tokens although their keys do
                # not exist yet: `ReadPlan.attend` writes those of all prompts before it reads any.
                segment, start = cache.extend(match.anchor, new, grow=grow)
                read = Read(segment, start, len(tokens), len(new))
                before = match.chain
                anchor = (segment, start + len(new))
                # A segment that grew in place is one part of the chain, old and new tokens
                # together.
                kept = before[:-1] if before and before[-1][0] is segment else before
                chain = [*kept, anchor]
            plan.add(read, [part for part in before if part[1] > 0])
            tokens.extend(new)
            positions.extend(range(len(ids) - len(new), len(ids)))
            last.append(len(tokens) - 1)
            readings.append(Reading(ids, len(ids) - len(new), chain, anchor, nothing))
        logits = self._run(tokens, positions, plan, last)
        for reading, row in zip(readings, logits, strict=True):
            reading.logits_V = row
        if self.cache is not None:
            for read in plan.reads:
                if read.segment.parent is not None:
                    self.cache.account(read.segment)
            self.cache.shrink(reading.anchor for reading in readings)
        return readings

    @torch.inference_mode()
    def join(self, joining: Sequence[tuple[Reading, int]]) -> list[list[Branch]]:
        """Adds branches that continue prompts; they decode from the next step on.

        Args:
            joining: Prompts, and how many branches continue each.
        """
        shares = self._choose_shares(joining)
        groups = []
        for reading, count in joining:
            # What is not shared is copied behind the row's end, even from between two shared parts.
            # Keys carry their positions, so attention does not depend on where they are stored.
            shared: list[tuple[CacheSegment, int]] = []
            first = len(self.branches)
            self._block.lengths.extend([0] * count)
            for segment, length in reading.chain:
                keep = shares.get((segment, length), 0)
                if keep:
                    shared.append((segment, keep))
                if keep < length:
                    self._block.append(range(first, first + count), segment, keep, length)
            group = [
                Branch(
                    anchor=reading.anchor,
                    shared=tuple(shared),
                    num_folded=self._block.lengths[first],
                    num_prompt=len(reading.ids),
                    row=first + i,
                )
                for i in range(count)
            ]
            self.branches.extend(group)
            groups.append(group)
        self._plan = None
        return groups

    def _choose_shares(
        self, joining: Sequence[tuple[Reading, int]]
    ) -> dict[tuple[CacheSegment, int], int]:
        """Returns how much of each part of the prompts is attended to in place.

        Prompts that part within a few tokens of each other agree on one length, so that one call
        serves them; the rest is copied. A part of few users and tokens is copied whole.
        """
        if not self.share:
            return {}
        users: dict[CacheSegment, Counter[int]] = {}
        known: dict[CacheSegment, set[int]] = {}
        for branch in self.branches:
            for segment, length in branch.shared:
                users.setdefault(segment, Counter())[length] += 1
                known.setdefault(segment, set()).add(length)
        for reading, count in joining:
            for segment, length in reading.chain:
                users.setdefault(segment, Counter())[length] += count
        return {
            (segment, length): share
            for segment, lengths in users.items()
            for length, share in agree_on_lengths(lengths, known.get(segment, ())).items()
        }

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Feeds one token to every branch, in the order of `branches`; returns logits (B, V)."""
        if self._plan is None:
            self._plan = DecodePlan(self._block, self._group_shared())
        positions = [branch.num_prompt + len(branch.fed) for branch in self.branches]
        self._plan.start_step(self.device, self.dtype)
        logits = self._run(list(tokens), positions, self._plan, list(range(len(tokens))))
        for branch, token in zip(self.branches, tokens, strict=True):
            branch.fed.append(token)
            self._block.lengths[branch.row] += 1
        return logits

    @torch.inference_mode()
    def leave(self, branch: Branch) -> None:
        """Takes a branch out; what it decoded is kept in the cache."""
        # Below a segment that was dropped from the tree nothing could be found again.
        if self.cache is not None and branch.fed and not branch.anchor[0].dropped:
            self._keep(branch, self.cache)
        # The last branch fills the gap, so that the rows of the block stay dense.
        moved = self.branches.pop()
        if moved is not branch:
            self._block.move(moved.row, branch.row)
            self.branches[branch.row] = moved
            moved.row = branch.row
        self._block.lengths.pop()
        self._plan = None
        if not self.branches:
            self._block = Block()

    def reset(self) -> None:
        """Drops all branches and the cache, after a pass that failed half-way."""
        self.branches.clear()
        self._block = Block()
        self._plan = None
        if self.cache is not None:
            self.cache.clear()

    def expect(self, ids: list[int]) -> None:
        """Does nothing: prompts share what they have in common wherever they part."""

    def export(self, ids: Sequence[int]) -> Exported | None:
        """Returns the keys and values of these tokens, or None where they are not all kept."""
        if self.cache is None or (match := self.cache.match(ids)).num_tokens < len(ids):
            return None
        tensors: dict[str, tuple[Tensor, ...]] = {}
        for layer in range(len(match.chain[0][0].keys)):
            parts = [segment.read(layer, length) for segment, length in match.chain]
            tensors[f"keys.{layer}"] = tuple(keys for keys, _ in parts)
            tensors[f"values.{layer}"] = tuple(values for _, values in parts)
        return Exported(tensors)

    @torch.inference_mode()
    def restore(self, ids: Sequence[int], exported: Exported) -> None:
        """Keeps keys and values that another process has exported.

        Raises:
            ValueError, KeyError: They do not fit this model.
        """
        assert self.cache is not None
        layers = self._like()
        given = [
            (f"{kind}.{i}", one) for i, pair in enumerate(layers) for kind, one in pair.items()
        ]
        if {name for name, _ in given} != set(exported.tensors):
            raise ValueError("it has other layers than the model")
        for name, like in given:
            (found,) = exported.tensors[name]
            if found.dtype != like.dtype or found.shape != (like.shape[0], len(ids), like.shape[2]):
                raise ValueError(f"{found.dtype} {tuple(found.shape)} does not fit the model")
        match = self.cache.match(ids)
        if match.num_tokens == len(ids):
            return
        segment, start = self.cache.extend(match.anchor, ids[match.num_tokens :])
        for layer in range(len(layers)):
            keys, values = (
                exported.tensors[f"{kind}.{layer}"][0][:, match.num_tokens :].to(self.device)
                for kind in ("keys", "values")
            )
            if start:
                segment.write(layer, start, keys, values)
            else:
                segment.keys.append(keys)
                segment.values.append(values)
        self.cache.account(segment)
        self.cache.shrink([(segment, len(segment.ids))])

    def _like(self) -> list[dict[str, Tensor]]:
        """Returns the keys and values of one token, layer by layer."""
        alone = Decoder(self.forward, PrefixCache(0), self.device, self.dtype)
        segment = alone.read([[0]])[0].chain[0][0]
        pairs = zip(segment.keys, segment.values, strict=True)
        return [{"keys": keys, "values": values} for keys, values in pairs]

    def _keep(self, branch: Branch, cache: PrefixCache) -> None:
        # A sibling that decoded the same tokens may have kept them already.
        match = cache.follow(branch.anchor, [], branch.fed)
        rest = branch.fed[match.num_tokens :]
        if not rest:
            return
        segment, start = cache.extend(match.anchor, rest)
        begin = branch.num_folded + match.num_tokens
        end = branch.num_folded + len(branch.fed)
        for layer, (keys, values) in enumerate(
            zip(self._block.keys, self._block.values, strict=True)
        ):
            row = branch.row
            segment.write(layer, start, keys[row, :, begin:end], values[row, :, begin:end])
        cache.account(segment)
        cache.shrink([(segment, len(segment.ids))])

    def _group_shared(self) -> list[tuple[CacheSegment, int, Tensor | None]]:
        groups: dict[tuple[CacheSegment, int], list[int]] = {}
        for branch in self.branches:
            for part in branch.shared:
                groups.setdefault(part, []).append(branch.row)
        return [
            (
                segment,
                length,
                None
                if len(rows) == len(self.branches)
                else torch.tensor(sorted(rows), device=self.device),
            )
            for (segment, length), rows in groups.items()
        ]

    def _run(
        self,
        tokens: list[int],
        positions: list[int],
        plan: ReadPlan | DecodePlan,
        last: list[int],
    ) -> Tensor:
        ids = torch.tensor(tokens, device=self.device)
        at = torch.tensor(positions, device=self.device)
        return self.forward(ids, at, plan, torch.tensor(last, device=self.device))
