"""Where some heads are taught to look, so that pointing to paragraphs forms.

Pointing needs three look-ups in a row: a word of the document has to know its paragraph's number, a
marker in a reply has to know what the clarification asked, and that marker has to find the words
that tell it. Each is of no use without the others, so from the loss of the replies alone none of
them formed in several million tokens. Where each should look is known when a row is written; a
second loss, -log of the attention that a head gives there, teaches them one by one. It ends with
the curriculum: the model is a plain Llama, and what it is fine-tuned with knows no such loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from rows import Batch
from torch import Tensor

MOST = 400
"""Queries of one role that a batch is judged by, at most."""
ROLES: dict[str, tuple[int, tuple[int, ...]]] = {
    "number": (1, (2,)),  # a word of the document: at the number of its paragraph
    "question": (1, (3,)),  # a marker in a reply: at the end of what was asked
    "paragraph": (2, (0, 1)),  # a marker in a reply: at the words of the right paragraph
}
"""Layer and heads that are taught each role, both counted from 0."""


@dataclass
class Looks:
    """Queries of one role and the keys that each should look at."""

    rows: list[int] = field(default_factory=list)
    queries: list[int] = field(default_factory=list)
    keys: list[list[int]] = field(default_factory=list)

    def add(self, row: int, query: int, keys: list[int]) -> None:
        """Adds one query with its keys."""
        self.rows.append(row)
        self.queries.append(query)
        self.keys.append(keys)

    def loss(self, logits_BHTT: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Returns the mean of -log of the attention on the keys, over queries and heads."""
        stride = -(-len(self.rows) // MOST)
        rows, queries = (torch.tensor(x[::stride]) for x in (self.rows, self.queries))
        elsewhere_NT = torch.full((len(rows), logits_BHTT.shape[-1]), -1e4)
        for number, keys in enumerate(self.keys[::stride]):
            elsewhere_NT[number, keys] = 0
        losses = []
        for head in heads:
            logits_NT = logits_BHTT[rows, head, queries].float()
            there_N = torch.logsumexp(logits_NT + elsewhere_NT, -1)
            losses.append((torch.logsumexp(logits_NT, -1) - there_N).mean())
        return torch.stack(losses).mean()


@dataclass(frozen=True)
class Marks:
    """The tokens by which paragraphs and questions are found."""

    opening: int
    """`<para`; the number follows."""
    closing: int
    """`</para`"""
    end: int
    """`<|end|>`"""
    asked: int
    """`?`"""


def find_looks(batch: Batch, marks: Marks) -> dict[str, Looks]:
    """Returns the queries of each role in a batch; a role without any is left out."""
    ids_BT, segments_BT = batch.ids_BT.tolist(), batch.segments_BT.tolist()
    size = len(ids_BT[0])
    looks = {role: Looks() for role in ROLES}
    paragraphs = []
    for row, (ids, segments) in enumerate(zip(ids_BT, segments_BT, strict=True)):
        words = _find_paragraphs(ids, segments, marks)
        for number_at, found in words.items():
            for word in found:
                looks["number"].add(row, word, [number_at])
        paragraphs.append({ids[at]: found for at, found in words.items()})
    told = zip(batch.at_N.tolist(), batch.targets_N.tolist(), batch.replies_N.tolist(), strict=True)
    for flat, target, reply in told:
        row, at = divmod(flat, size)
        if reply < 0 or ids_BT[row][at] != marks.opening or target not in paragraphs[row]:
            continue
        looks["paragraph"].add(row, at, paragraphs[row][target])
        asked = _find_question(ids_BT[row], segments_BT[row], at, marks)
        if asked is not None and batch.skills[reply] != "quote":
            looks["question"].add(row, at, [asked - 1, asked])
    return {role: found for role, found in looks.items() if found.rows}


def _find_paragraphs(ids: list[int], segments: list[int], marks: Marks) -> dict[int, list[int]]:
    """Returns where each paragraph's number stands, and its words' positions."""
    words: dict[int, list[int]] = {}
    number_at: int | None = None
    for at, (token, segment) in enumerate(zip(ids, segments, strict=True)):
        if segment:
            break
        if at and ids[at - 1] == marks.opening:
            number_at = at
        elif token == marks.closing:
            number_at = None
        elif number_at is not None and at > number_at + 1:  # past the marker's `>`
            words.setdefault(number_at, []).append(at)
    return words


def _find_question(ids: list[int], segments: list[int], at: int, marks: Marks) -> int | None:
    """Returns the end of the last message of this branch that ends in a question mark."""
    before = at - 1
    while before > 0 and segments[before] == segments[at]:
        if ids[before] == marks.end and ids[before - 1] == marks.asked:
            return before
        before -= 1
    return None
