"""HELMET's random draws, reproduced without the packages that it uses for them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import TypeVar

import numpy as np

T = TypeVar("T")
SEED = 42


def permutation(size: int, seed: int) -> list[int]:
    """Returns the order of `datasets.Dataset.shuffle(seed=seed)`."""
    return [int(i) for i in np.random.default_rng(seed).permutation(size)]


def shuffled(rows: Sequence[T], seed: int) -> list[T]:
    """Returns the rows in that order."""
    return [rows[i] for i in permutation(len(rows), seed)]


def train_test_split(rows: Sequence[T], test_size: float, seed: int) -> tuple[list[T], list[T]]:
    """Returns (train, test) as `datasets.Dataset.train_test_split` gives them."""
    order = permutation(len(rows), seed)
    num_test = math.ceil(test_size * len(rows))
    return [rows[i] for i in order[num_test:]], [rows[i] for i in order[:num_test]]


def text_seed(value: object) -> int:
    """Returns HELMET's seed of a key: its SHA-256, modulo 2**31.

    >>> text_seed("abc") == int(hashlib.sha256(b"abc").hexdigest(), 16) % 2**31
    True
    """
    return int(hashlib.sha256(str(value).encode("utf-8")).hexdigest(), 16) % 2**31


def sample_keys(keys: Sequence[T], num: int, seed: int = SEED) -> set[T]:
    """Returns `num` of the distinct keys, as drawn after `random.seed(seed)`."""
    distinct = sorted(set(keys))  # type: ignore[type-var]
    return set(Random(seed).sample(distinct, min(num, len(distinct))))


def first_per_key(rows: Sequence[T], key: Callable[[T], object], num: int) -> list[T]:
    """Returns the first row of each key, the first `num` of them."""
    seen: set[object] = set()
    kept: list[T] = []
    for row in rows:
        if len(kept) == num:
            break
        if key(row) not in seen:
            seen.add(key(row))
            kept.append(row)
    return kept


def group(rows: Iterable[T], label: Callable[[T], object]) -> dict[object, list[T]]:
    """Returns the rows of each label, labels in order of first appearance."""
    by_label: dict[object, list[T]] = {}
    for row in rows:
        by_label.setdefault(label(row), []).append(row)
    return by_label


def balance(rows: Iterable[T], label: Callable[[T], object], num: int, seed: int) -> list[T]:
    """Returns `num` rows in rounds that hold every label once."""
    return balance_groups(group(rows, label), num, seed)


def balance_groups(by_label: Mapping[object, list[T]], num: int, seed: int) -> list[T]:
    """Returns `num` rows in rounds that hold every label once, each round shuffled.

    Rows of a label repeat only when it has fewer rows than there are rounds.
    """
    rng = Random(seed)
    num_rounds = math.ceil(num / len(by_label))
    rounds: list[list[T]] = [[] for _ in range(num_rounds)]
    for found in by_label.values():
        drawn = rng.sample(range(len(found)), num_rounds % len(found))
        while len(drawn) < num_rounds:
            drawn += rng.sample(range(len(found)), min(num_rounds - len(drawn), len(found)))
        for i, index in enumerate(drawn):
            rounds[i].append(found[index])
    for one in rounds:
        rng.shuffle(one)
    return [row for one in rounds for row in one][:num]


def choose_unbalanced(rows: Sequence[T], num: int, seed: int) -> list[T]:
    """Returns `num` rows drawn regardless of their labels, by numpy's legacy generator."""
    rng = np.random.RandomState(seed)
    drawn: list[T] = []
    while len(drawn) < num:
        size = min(len(rows), num - len(drawn))
        drawn += [rows[int(i)] for i in rng.permutation(len(rows))[:size]]
    return drawn


def renamed_labels(num_labels: int, seed: int) -> list[int]:
    """Returns the number that each label is renamed to, as drawn after `random.seed(seed)`."""
    names = list(range(num_labels))
    Random(seed).shuffle(names)
    return names
