"""Which traces meet in which optimizer step: a pure function of (units, seed, epoch).

A step is B units (traces or pairs). Units of one document are dealt into groups of M; a group is
one trie. Everything appears once per epoch; the last step of an epoch may be short.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Step = list[list[int]]
"""Tries of one optimizer step, each a list of unit numbers."""


def build_epoch(
    documents: Sequence[Sequence[int]], *, batch: int, per_trie: int, seed: int, epoch: int
) -> list[Step]:
    """Returns the steps of one epoch.

    A group that crosses the end of a step is cut there: both parts stay tries, and every step
    but the last holds exactly `batch` units.
    """
    generator = np.random.default_rng([seed, epoch])
    groups: list[list[int]] = []
    for document in documents:
        shuffled = generator.permutation(np.asarray(document, dtype=np.int64)).tolist()
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
) -> list[Step]:
    """Returns the steps of a whole run, at most `max_steps`."""
    steps: list[Step] = []
    for epoch in range(epochs):
        steps += build_epoch(documents, batch=batch, per_trie=per_trie, seed=seed, epoch=epoch)
        if max_steps is not None and len(steps) >= max_steps:
            return steps[:max_steps]
    return steps


def place(costs: Sequence[float], ranks: int) -> list[list[int | None]]:
    """Deals tries to ranks for lockstep micro-steps.

    Sorted by cost and filled row by row, so that the tries of one micro-step cost about the same;
    the time of a step is the sum over micro-steps of the largest cost.

    Returns:
        For each micro-step the trie of each rank; None is a place to be filled with a dummy.

    >>> place([1.0, 5.0, 4.0], 2)
    [[1, 2], [0, None]]
    """
    by_cost = sorted(range(len(costs)), key=lambda number: (-costs[number], number))
    order: list[int | None] = [*by_cost]
    order += [None] * (-len(order) % ranks)
    return [order[i : i + ranks] for i in range(0, len(order), ranks)]


def check_lockstep(rows: Sequence[Sequence[int | None]], ranks: int) -> None:
    """Asserts that every rank has something to run in every micro-step, so that none waits."""
    for number, row in enumerate(rows):
        assert len(row) == ranks, f"micro-step {number} has {len(row)} tries for {ranks} ranks"


def idle_share(costs: Sequence[float], rows: Sequence[Sequence[int | None]]) -> float:
    """Returns the predicted share of time that ranks wait for the largest of their micro-step."""
    total = sum(costs)
    busy = sum(max(costs[i] for i in row if i is not None) * len(row) for row in rows)
    return 1.0 - total / busy if busy else 0.0
