from __future__ import annotations

from collections import Counter

import pytest

from agenticlu.training.sampler import (
    build_epoch,
    build_schedule,
    check_lockstep,
    idle_share,
    place,
)

DOCUMENTS = [list(range(0, 11)), list(range(11, 14)), list(range(14, 30))]


@pytest.mark.parametrize(("batch", "per_trie"), [(1, 1), (4, 3), (7, 8), (64, 8)])
def test_everything_appears_once_per_epoch(batch: int, per_trie: int) -> None:
    steps = build_epoch(DOCUMENTS, batch=batch, per_trie=per_trie, seed=1, epoch=0)
    assert Counter(n for step in steps for trie in step for n in trie) == Counter(range(30))
    assert [sum(map(len, step)) for step in steps[:-1]] == [batch] * (len(steps) - 1)
    for trie in (trie for step in steps for trie in step):
        assert len(trie) <= per_trie
        assert any(set(trie) <= set(document) for document in DOCUMENTS)


def test_the_schedule_depends_on_seed_and_epoch_alone() -> None:
    settings = {"batch": 6, "per_trie": 4, "epochs": 2}
    a, b = (build_schedule(DOCUMENTS, seed=5, **settings) for _ in range(2))
    assert a == b
    assert a != build_schedule(DOCUMENTS, seed=6, **settings)
    half = len(a) // 2
    assert a[:half] != a[half:]
    assert build_schedule(DOCUMENTS, seed=5, max_steps=3, **settings) == a[:3]


def test_tries_of_a_micro_step_cost_about_the_same() -> None:
    costs = [9.0, 1.0, 8.0, 2.0, 5.0]
    rows = place(costs, 2)
    assert rows == [[0, 2], [4, 3], [1, None]]
    assert idle_share(costs, rows) == pytest.approx(1 - 25 / (2 * (9 + 5 + 1)))
    check_lockstep(rows, 2)
    short = [[n for n in row if n is not None] for row in rows]
    with pytest.raises(AssertionError, match=r"micro-step 2 has 1 tries for 2 ranks"):
        check_lockstep(short, 2)
