from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from agenticlu.training.trie import TriePlan, build_epoch, build_plan, build_schedule, dummy_plan


def visible(plan: TriePlan) -> np.ndarray:
    """How often each (query, key) is covered by the plan's rectangles."""
    mask = np.zeros((plan.num_rows, plan.num_rows), dtype=int)
    for q0, q1, k0, k1, causal in plan.rectangles:
        block = np.ones((q1 - q0, k1 - k0), dtype=int)
        mask[q0:q1, k0:k1] += np.tril(block) if causal else block
    return mask


@pytest.mark.parametrize("min_shared", [1, 4])
def test_rectangles_cover_the_ancestors_once(tries: Callable, min_shared: int) -> None:
    deepest = shared_targets = inner_ends = 0
    for seed in range(60):
        sample = tries(seed)
        plan = build_plan(sample.traces, sample.masks, min_shared=min_shared)
        mask = visible(plan)
        assert mask.max() == 1
        assert plan.area == int((plan.positions_S + 1).sum()) == int(mask.sum())
        for number, (ids, targets) in enumerate(zip(sample.traces, sample.masks, strict=True)):
            own = plan.edge_of_K[plan.trace_of_K == number]
            assert np.array_equal(plan.targets_E[own], ids[targets])
            for edge, place in zip(own, np.flatnonzero(targets), strict=True):
                seen = plan.ids_S[mask[plan.sources_E[edge]] > 0]
                assert np.array_equal(seen, ids[:place])  # exactly its own past
        deepest = max(deepest, plan.depth_levels)
        counts = np.bincount(plan.edge_of_K)
        shared_targets += int((counts > 1).sum())
        ends = {(len(ids), ids.tobytes()) for ids in sample.traces}
        inner_ends += any(
            len(a) < n and np.array_equal(np.frombuffer(b, a.dtype)[: len(a)], a)
            for a in sample.traces for n, b in ends
        )  # fmt: skip
    assert deepest >= 3, "the sample must hold deep tries"
    assert shared_targets > 0, "the sample must hold shared supervised tokens"
    assert inner_ends > 0, "the sample must hold a trace that is a prefix of another"


def test_everything_common_is_stored_once(tries: Callable) -> None:
    for seed in range(20):
        sample = tries(seed)
        plan = build_plan(sample.traces, sample.masks)
        prefixes = {tuple(ids[: n + 1]) for ids in sample.traces for n in range(len(ids))}
        assert plan.num_rows == len(prefixes) < plan.trace_tokens
        coarse = build_plan(sample.traces, sample.masks, min_shared=6)
        assert coarse.num_rows >= plan.num_rows
        assert coarse.depth_levels <= plan.depth_levels


def test_one_trace_is_one_causal_square() -> None:
    ids = np.arange(9)
    plan = build_plan([ids], [ids > 3])
    assert plan.rectangles == ((0, 9, 0, 9, 1),)
    assert plan.sources_E.tolist() == [3, 4, 5, 6, 7]
    assert dummy_plan().sources_E.size == 0


def test_traces_without_a_common_token_make_a_forest() -> None:
    plan = build_plan([np.array([1, 2]), np.array([3, 4, 5])], [np.array([False, True]),
                      np.array([False, False, True])])  # fmt: skip
    assert plan.rectangles == ((0, 2, 0, 2, 1), (2, 5, 2, 5, 1))
    assert plan.positions_S.tolist() == [0, 1, 0, 1, 2]


def test_edge_weights_sum_over_the_traces_through_an_edge() -> None:
    a, b = np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])
    mask = np.array([False, False, True, True])
    plan = build_plan([a, b], [mask, mask])
    weights = plan.edge_weights(np.array([1.0, 10.0]))
    by_target = dict(zip(plan.targets_E.tolist(), weights.tolist(), strict=True))
    assert by_target == {3: 11.0, 4: 1.0, 5: 10.0}


DOCUMENTS = [list(range(0, 11)), list(range(11, 14)), list(range(14, 30))]


@pytest.mark.parametrize(("batch", "per_trie"), [(1, 1), (4, 3), (7, 8), (64, 8)])
def test_everything_appears_once_per_epoch(batch: int, per_trie: int) -> None:
    steps = build_epoch(DOCUMENTS, batch=batch, per_trie=per_trie, seed=1, epoch=0)
    assert Counter(n for step in steps for trie in step for n in trie) == Counter(range(30))
    assert [sum(map(len, step)) for step in steps[:-1]] == [batch] * (len(steps) - 1)
    for trie in (trie for step in steps for trie in step):
        assert len(trie) <= per_trie
        assert any(set(trie) <= set(document) for document in DOCUMENTS)


def test_units_of_one_question_enter_a_step_together() -> None:
    questions = [f"q{n // 3}" for n in range(30)]
    documents = [list(range(0, 12)), list(range(12, 30))]
    shuffled = [sorted(document, key=lambda n: n % 3) for document in documents]
    settings = {"batch": 6, "per_trie": 6, "seed": 1, "epoch": 0}
    steps = build_epoch(shuffled, questions=questions, **settings)
    assert Counter(n for step in steps for trie in step for n in trie) == Counter(range(30))
    for trie in (trie for step in steps for trie in step):
        assert set(Counter(questions[n] for n in trie).values()) == {3}
    # Where each question has one unit, the order is what it is without questions.
    alone = [str(n) for n in range(30)]
    assert build_epoch(documents, questions=alone, **settings) == build_epoch(documents, **settings)


def test_the_schedule_depends_on_seed_and_epoch_alone() -> None:
    settings = {"batch": 6, "per_trie": 4, "epochs": 2}
    a, b = (build_schedule(DOCUMENTS, seed=5, **settings) for _ in range(2))
    assert a == b
    assert a != build_schedule(DOCUMENTS, seed=6, **settings)
    half = len(a) // 2
    assert a[:half] != a[half:]
    assert build_schedule(DOCUMENTS, seed=5, max_steps=3, **settings) == a[:3]
