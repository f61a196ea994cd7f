"""Training rows: a document once, then the conversations about it as branches of one tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from agenticlu.documents.tokens import FileTokenizer

IGNORED = -1
CLOSING_WEIGHT = 0.5
"""Loss weight of the number in a marker that closes a paragraph."""


@dataclass
class Row:
    """Token ids of one tree with what each position is for."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    """0 for the prefix, then the number of the branch."""
    weights: list[float] = field(default_factory=list)
    """Loss weight of predicting this token from what stands before it."""
    replies: list[int] = field(default_factory=list)
    """Which reply of `skills` a token belongs to, or IGNORED."""
    skills: list[str] = field(default_factory=list)
    """Skill of each reply."""


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, padded to one length."""

    ids_BT: Tensor
    positions_BT: Tensor
    segments_BT: Tensor
    at_N: Tensor
    """Flat positions that predict a supervised token."""
    targets_N: Tensor
    weights_N: Tensor
    replies_N: Tensor
    """Index into `skills`, or IGNORED."""
    skills: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of a reply, with its leading space."""

    text: str
    skill: str = ""
    """Counted as one right or wrong reply of this skill; empty when not counted."""
    weight: float = 1.0
    """Loss weight of its tokens; 0 when it is read but not learned."""


@dataclass(frozen=True)
class Exchange:
    """A request and what the model should say."""

    request: str
    parts: tuple[Part, ...]


def said(request: str, reply: str, skill: str, weight: float = 1.0) -> Exchange:
    """Returns an exchange whose reply counts as a whole."""
    return Exchange(request, (Part(f" {reply}<|end|>", skill, weight),))


class RowBuilder:
    """Fills rows of at most `size` tokens.

    Args:
        tokenizer: The tiny model's.
        rng: Draws which document tokens are supervised and where positions jump.
        size: Tokens of a row.
        document_weight: Loss weight of a supervised document token.
        stretch: Positions to skip at most, in all, at sentence ends of the document, so that
            distances of long documents are met in short rows.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        rng: Random,
        size: int = 320,
        document_weight: float = 0.2,
        stretch: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.rng = rng
        self.size = size
        self.document_weight = document_weight
        self.stretch = stretch
        # A copy: counting reads special tokens as plain text.
        self.counter = FileTokenizer(Tokenizer.from_str(tokenizer.to_str()), "tiny")
        self._closing = tokenizer.token_to_id("</para")
        self._stop = tokenizer.token_to_id(".")

    def open(self, prefix: str) -> Row:
        """Starts a row with the shared prefix."""
        row = Row()
        ids = self.tokenizer.encode(prefix).ids
        budget = self.rng.randint(0, self.stretch) if self.rng.random() < 0.5 else 0
        ends = 1 + sum(token == self._stop for token in ids)
        position = 0
        for i, token in enumerate(ids):
            # What closes a paragraph repeats its number: knowing the number of the paragraph one
            # is in is half of pointing to it.
            closing = i > 0 and ids[i - 1] == self._closing
            weight = CLOSING_WEIGHT if closing else self._drawn()
            self._add(row, token, position, 0, weight, IGNORED)
            position += 1
            if budget and token == self._stop:
                position += self.rng.randint(0, 2 * budget // ends)
        return row

    def _drawn(self) -> float:
        return self.document_weight if self.rng.random() < 0.15 else 0.0

    def add(self, row: Row, exchanges: Sequence[Exchange]) -> bool:
        """Adds one conversation as a branch; returns whether it fitted.

        The first request goes on after the prefix, inside its user message.
        """
        ids: list[int] = []
        weights: list[float] = []
        replies: list[int] = []
        skills: list[str] = []
        for i, exchange in enumerate(exchanges):
            opening = "" if i == 0 else "<|user|> "
            asked = self.tokenizer.encode(f"{opening}{exchange.request}<|end|><|assistant|>").ids
            ids += asked
            weights += [0.0] * len(asked)
            replies += [IGNORED] * len(asked)
            for part in exchange.parts:
                spoken = self.tokenizer.encode(part.text).ids
                ids += spoken
                weights += [part.weight] * len(spoken)
                counted = bool(part.skill and part.weight)
                replies += [len(row.skills) + len(skills) if counted else IGNORED] * len(spoken)
                skills += [part.skill] if counted else []
        if len(row.ids) + len(ids) > self.size:
            return False
        segment = row.segments[-1] + 1
        start = 1 + max(p for p, s in zip(row.positions, row.segments, strict=True) if s == 0)
        for i, token in enumerate(ids):
            self._add(row, token, start + i, segment, weights[i], replies[i])
        row.skills += skills
        return True

    @staticmethod
    def _add(row: Row, token: int, position: int, segment: int, weight: float, reply: int) -> None:
        row.ids.append(token)
        row.positions.append(position)
        row.segments.append(segment)
        row.weights.append(weight)
        row.replies.append(reply)


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Pads rows to the longest and lists the supervised positions.

    The first token of a branch is never supervised, so each supervised token is predicted from the
    position before it in the row.
    """
    size = max(len(row.ids) for row in rows)

    def padded(name: str, value: int) -> Tensor:
        return torch.tensor([getattr(r, name) + [value] * (size - len(r.ids)) for r in rows])

    at, targets, weights, replies = [], [], [], []
    skills: list[str] = []
    for b, row in enumerate(rows):
        for t in range(1, len(row.ids)):
            if row.weights[t] > 0:
                at.append(b * size + t - 1)
                targets.append(row.ids[t])
                weights.append(row.weights[t])
                replies.append(IGNORED if row.replies[t] < 0 else row.replies[t] + len(skills))
        skills += row.skills
    return Batch(
        ids_BT=padded("ids", pad),
        positions_BT=padded("positions", 0),
        segments_BT=padded("segments", -1),
        at_N=torch.tensor(at),
        targets_N=torch.tensor(targets),
        weights_N=torch.tensor(weights),
        replies_N=torch.tensor(replies),
        skills=tuple(skills),
    )
