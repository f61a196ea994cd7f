"""Which documents are held out: one rule for what is built and for what is imported.

A document is held out when the hash of its own id in the corpus, or else of its text, lies below
the share wanted. The hash knows nothing of other documents, so the split of a document does not
change when a corpus grows, and the same document falls into the same split everywhere.

Documents that belong together stay together: those of one id, those whose texts differ in white
space, case and paragraph marks alone, and near-duplicates. The lowest hash of a group decides, so
a held-out document stays held out whatever joins its group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agenticlu.core.records import content_id
from agenticlu.data.rows import SPLITS, Split
from agenticlu.data.shingles import ALIKE_WORDS, MARKS, Hashes, find_alike, shingles_of, sign


@dataclass(frozen=True)
class Fingerprint:
    """What the split needs to know of a document."""

    document_id: str
    own_id: str | None
    """Id that the corpus gives it; None when it gives none."""
    text_id: str
    """Hash of the text without white space, case and paragraph marks."""
    signature: Hashes
    num_shingles: int

    @classmethod
    def of(cls, document_id: str, text: str, own_id: str | None = None) -> Fingerprint:
        """Reads a text, marked or not."""
        shingles = shingles_of(text, ALIKE_WORDS)
        return cls(document_id, own_id, content_id(fold(text)), sign(shingles), len(shingles))

    @property
    def position(self) -> float:
        """Where the document lies in [0, 1); held out below the share wanted."""
        return int(content_id("split", self.own_id or self.text_id), 16) / 16**16


@dataclass(frozen=True)
class Splits:
    """Every document's split."""

    of: dict[str, Split]
    """Document id to split."""
    num_groups: int
    """Documents that do not belong together."""
    num_same: int
    """Documents that another one repeats, up to white space and case, or by its id."""
    num_alike: int
    """Documents that have a near-duplicate, beside those."""

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
        }


def fold(text: str) -> str:
    r"""Returns a text without white space, case and paragraph marks.

    >>> fold("<para 0> One  Horse\n</para 0>") == fold("one horse")
    True
    """
    return "".join(MARKS.sub(" ", text).casefold().split())


def assign_splits(fingerprints: Sequence[Fingerprint], share: float) -> Splits:
    """Assigns every document to a split.

    Args:
        fingerprints: One of each document.
        share: Share of the documents to hold out. Above 0, at least one document is held out
            and one is not, if there are two that do not belong together.
    """
    groups = _Groups(len(fingerprints))
    for keys in ([f.text_id for f in fingerprints], [f.own_id for f in fingerprints]):
        first: dict[str | None, int] = {}
        for number, key in enumerate(keys):
            if key is not None:
                groups.join(first.setdefault(key, number), number)
    same = groups.sizes()
    distinct = groups.leaders()
    signatures = [fingerprints[number].signature for number in distinct]
    sizes = [fingerprints[number].num_shingles for number in distinct]
    alike: set[int] = set()
    for one, other in find_alike(signatures, sizes):
        alike |= {distinct[one], distinct[other]}
        groups.join(distinct[one], distinct[other])
    lowest: dict[int, float] = {}
    for number, fingerprint in enumerate(fingerprints):
        leader = groups.leader(number)
        lowest[leader] = min(lowest.get(leader, 1.0), fingerprint.position)
    held_out = _hold_out(lowest, share)
    return Splits(
        of={
            fingerprint.document_id: (
                "validation" if groups.leader(number) in held_out else "train"
            )
            for number, fingerprint in enumerate(fingerprints)
        },
        num_groups=len(lowest),
        num_same=sum(size for size in same if size > 1),
        num_alike=len(alike),
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
    """Joins numbers into groups; the lowest number leads."""

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

    def sizes(self) -> Iterable[int]:
        counts = dict.fromkeys(self.leaders(), 0)
        for number in range(len(self._above)):
            counts[self.leader(number)] += 1
        return list(counts.values())
