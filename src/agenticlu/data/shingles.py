"""How alike two texts are: runs of words, hashed, and sketches of them (MinHash).

A shingle is a run of k words, without case, punctuation and paragraph marks. The share of shingles
two texts have in common, |A and B| / |A or B|, is the share of equal entries of their signatures,
up to 0.04 (Broder, On the resemblance and containment of documents, 1997). Hashes are those of the
content, the same in every process.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from agenticlu.core.records import content_id

Hashes = npt.NDArray[np.uint64]
ALIKE_WORDS = 5
"""Words of a shingle when documents are compared with each other."""
ALIKE_SHARE = 0.8
"""Documents are alike from this share of common shingles, or of the shorter one's shingles."""
NUM_PERMUTATIONS = 128
BAND_ROWS = 3
"""Two documents are compared when so many neighbouring entries are equal anywhere: at a share of
0.5 (the half of a document against the whole) that is missed once in 300 times."""
BLOCK = 2048
"""Shingles that are permuted at a time."""
LONGEST_RUN = 64
"""Documents of one band that a document is compared with at most."""
MARKS = re.compile(r"</?para(?:graph)?\s*\d+\s*>", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+")
_PRIME = 0x9E3779B97F4A7C15


def words_of(text: str) -> list[str]:
    """Returns the words of a text, without case, punctuation and paragraph marks.

    >>> words_of("<para 0> Ada's HORSE </para 0>")
    ['ada', 's', 'horse']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", MARKS.sub(" ", text)).casefold())


def shingles_of(text: str, num_words: int) -> Hashes:
    """Returns the distinct hashes of all runs of words, ascending.

    A text of fewer words is one shingle; one without words has none.
    """
    words = words_of(text)
    if not words:
        return np.empty(0, np.uint64)
    size = min(num_words, len(words))
    known: dict[str, int] = {}
    codes = np.fromiter(
        (
            known.setdefault(word, zlib.crc32(word.encode("utf-8", "surrogatepass")))
            for word in words
        ),
        np.uint64,
        len(words),
    )
    total = np.zeros(len(words) - size + 1, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(size):
            total = total * np.uint64(_PRIME) + codes[place : place + len(total)]
        return np.unique(_mixed(total))


def sign(shingles: Hashes) -> Hashes:
    """Returns the signature of a set of shingles: its smallest hash under each permutation."""
    factors, summands = _permutations()
    smallest = np.full(NUM_PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, len(shingles), BLOCK):
            permuted = factors * shingles[start : start + BLOCK] + summands
            smallest = np.minimum(smallest, permuted.min(axis=1))
    return smallest


def find_alike(signatures: Sequence[Hashes], sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields pairs of numbers of texts that are alike.

    Of texts that are all alike not every pair is named, but enough to join them.

    Args:
        signatures: One of each text.
        sizes: The number of shingles of each text.
    """
    table = np.array(signatures, np.uint64).reshape(len(signatures), NUM_PERMUTATIONS)
    seen: set[tuple[int, int]] = set()
    for first in range(0, NUM_PERMUTATIONS - BAND_ROWS + 1, BAND_ROWS):
        for run in _equal_rows(table[:, first : first + BAND_ROWS]):
            for place, one in enumerate(run):
                for other in run[max(0, place - LONGEST_RUN) : place]:
                    pair = (int(other), int(one))
                    if pair in seen:
                        continue
                    seen.add(pair)
                    shared = float(np.mean(table[pair[0]] == table[pair[1]]))
                    if _is_alike(shared, sizes[pair[0]], sizes[pair[1]]):
                        yield pair


def _is_alike(shared: float, one: int, other: int) -> bool:
    if not one or not other:
        return False
    contained = shared * (one + other) / ((1 + shared) * min(one, other))
    return shared >= ALIKE_SHARE or contained >= ALIKE_SHARE


def _equal_rows(table: Hashes) -> Iterator[npt.NDArray[np.intp]]:
    """Yields the numbers of rows that are equal, ascending, where there are several."""
    order = np.lexsort(table.T[::-1])
    changes = np.any(table[order][1:] != table[order][:-1], axis=1)
    for run in np.split(order, np.flatnonzero(changes) + 1):
        if len(run) > 1:
            yield np.sort(run)


def _mixed(values: Hashes) -> Hashes:
    """Spreads the bits of hashes that differ little (the finish of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@functools.cache
def _permutations() -> tuple[Hashes, Hashes]:
    drawn = [
        [int(content_id("minhash", name, str(i)), 16) for i in range(NUM_PERMUTATIONS)]
        for name in ("factor", "summand")
    ]
    factors = np.array([[number | 1] for number in drawn[0]], np.uint64)
    return factors, np.array([[number] for number in drawn[1]], np.uint64)
