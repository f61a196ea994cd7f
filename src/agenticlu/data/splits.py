"""Splits: which documents are held out, with near-copies on one side.

A document is held out when the hash of its own id in the corpus, or else of its text, is below the
share wanted, so its split does not change when a corpus grows. Documents with one id, texts equal
up to white space, case and markers, and near-duplicates (`data.overlap`) stay together; the lowest
hash of a group decides. A held-out document of which a near-copy was trained on would measure
memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agenticlu.core.records import content_id
from agenticlu.data.dataset import SPLITS, Split
from agenticlu.data.overlap import (
    SHINGLE_WORDS,
    Hashes,
    compute_signature,
    find_near_duplicates,
    fold,
    hash_shingles,
)


@dataclass(frozen=True)
class Fingerprint:
    """The facts about a document that splitting needs."""

    document_id: str
    own_id: str | None
    """Id that the corpus gives it; None when it gives none."""
    text_id: str
    """Hash of the text without white space, case and paragraph marks."""
    signature: Hashes
    num_shingles: int

    @classmethod
    def of(cls, document_id: str, text: str, own_id: str | None = None) -> Fingerprint:
        """Computes the fingerprint of a text, marked or not."""
        shingles = hash_shingles(text, SHINGLE_WORDS)
        return cls(
            document_id, own_id, content_id(fold(text)), compute_signature(shingles), len(shingles)
        )

    @property
    def position(self) -> float:
        """Place of the document in [0, 1); it is held out below the share wanted."""
        return int(content_id("split", self.own_id or self.text_id), 16) / 16**16


@dataclass(frozen=True)
class Splits:
    """The split of every document."""

    of: dict[str, Split]
    """Document id to split."""
    num_groups: int
    """Groups of documents that stay together, single documents among them."""
    num_same: int
    """Documents with the same id, or the same text up to white space and case, as another one."""
    num_alike: int
    """Other documents that have a near-duplicate."""
    num_moved: int
    """Documents of which the hash alone says another side: they went with those they belong to."""

    def documents(self, split: Split) -> list[str]:
        """Returns the documents of a split, sorted."""
        return sorted(name for name, found in self.of.items() if found == split)

    def as_dict(self) -> dict[str, int]:
        """Returns counts as JSON data."""
        return {
            **{split: len(self.documents(split)) for split in SPLITS},
            "groups": self.num_groups,
            "repeated": self.num_same,
            "near_duplicates": self.num_alike,
            "moved": self.num_moved,
        }


def assign_splits(fingerprints: Sequence[Fingerprint], share: float) -> Splits:
    """Assigns every document to a split.

    Args:
        fingerprints: The fingerprint of each document.
        share: Share of the documents to hold out. Above 0, at least one group is held out and at
            least one is not, if there are two.
    """
    groups = _Groups(len(fingerprints))
    for keys in ([f.text_id for f in fingerprints], [f.own_id for f in fingerprints]):
        first: dict[str | None, int] = {}
        for number, key in enumerate(keys):
            if key is not None:
                groups.join(first.setdefault(key, number), number)
    same = Counter(map(groups.leader, range(len(fingerprints)))).values()
    distinct = groups.leaders()
    signatures = [fingerprints[number].signature for number in distinct]
    sizes = [fingerprints[number].num_shingles for number in distinct]
    alike: set[int] = set()
    for one, other in find_near_duplicates(signatures, sizes):
        alike |= {distinct[one], distinct[other]}
        groups.join(distinct[one], distinct[other])
    lowest: dict[int, float] = {}
    for number, fingerprint in enumerate(fingerprints):
        leader = groups.leader(number)
        lowest[leader] = min(lowest.get(leader, 1.0), fingerprint.position)
    held_out = _hold_out(lowest, share)
    sides = [groups.leader(number) in held_out for number in range(len(fingerprints))]
    # The document with the lowest hash decides for its group, so it is never moved by another one.
    moved = [
        (fingerprint.position < share) != side
        and fingerprint.position > lowest[groups.leader(number)]
        for number, (fingerprint, side) in enumerate(zip(fingerprints, sides, strict=True))
    ]
    return Splits(
        of={
            fingerprint.document_id: "validation" if side else "train"
            for fingerprint, side in zip(fingerprints, sides, strict=True)
        },
        num_groups=len(lowest),
        num_same=sum(size for size in same if size > 1),
        num_alike=len(alike),
        num_moved=sum(moved),
    )


def _hold_out(lowest: dict[int, float], share: float) -> set[int]:
    if share == 0 or len(lowest) < 2:
        return set()
    by_position = sorted(lowest, key=lambda leader: (lowest[leader], leader))
    held_out = {leader for leader in by_position if lowest[leader] < share}
    held_out.add(by_position[0])
    held_out.discard(by_position[-1])
    return held_out


class _Groups:
    """Union-find over indices; the lowest index leads its group."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def leader(self, number: int) -> int:
        while self._above[number] != number:
            self._above[number] = self._above[self._above[number]]
            number = self._above[number]
        return number

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.leader(one), self.leader(other)))
        self._above[high] = low

    def leaders(self) -> list[int]:
        return [number for number in range(len(self._above)) if self.leader(number) == number]
