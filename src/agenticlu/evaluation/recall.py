"""Recall by depth and pass@k from the trees of a generation run, as in the paper's section 4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from agenticlu.evaluation.statistics import Estimate, estimate
from agenticlu.records import Record, Tree, content_seed

SOLVED = 1.0
"""A node of this score, or more, holds a right answer."""


class DepthRecall(Record):
    """What trees know down to one depth."""

    depth: int
    """0 is the direct answer."""
    recall: Estimate | None
    """Share of the questions with a right answer at this depth or above it."""
    new_share: float | None
    """Of the questions unsolved before, the share first solved here; None where none was left."""


class PassAtK(Record):
    """What k samples of one round are worth."""

    k: int
    value: Estimate | None
    """Expected share of questions with at least one right answer among k samples of round 1."""


class TreeRecall(Record):
    """Both curves of one set of trees."""

    by_depth: tuple[DepthRecall, ...]
    pass_at_k: tuple[PassAtK, ...]
    num_trees: int
    num_unscored: int
    """Trees without any scored node: in none of the figures."""


def tree_recall(trees: Iterable[Tree], *, threshold: float = SOLVED) -> TreeRecall:
    """Returns recall by depth and pass@k, with intervals clustered by document.

    Args:
        trees: Of a generation run. Trees that stopped when solved count as solved further down.
        threshold: Least score of a right answer.
    """
    every = list(trees)
    scored = [tree for tree in every if any(node.score is not None for node in tree.nodes)]
    clusters = [tree.document_id for tree in scored]
    firsts = [_first_solved(tree, threshold) for tree in scored]
    deepest = max((node.depth for tree in scored for node in tree.nodes), default=-1)
    by_depth = []
    for depth in range(deepest + 1):
        known = [float(first is not None and first <= depth) for first in firsts]
        left = sum(first is None or first >= depth for first in firsts)
        new = sum(first == depth for first in firsts)
        by_depth.append(
            DepthRecall(
                depth=depth,
                recall=estimate(known, clusters, seed=content_seed("recall", str(depth))),
                new_share=new / left if left else None,
            )
        )
    return TreeRecall(
        by_depth=tuple(by_depth),
        pass_at_k=tuple(_pass_at_k(scored, threshold)),
        num_trees=len(every),
        num_unscored=len(every) - len(scored),
    )


def _first_solved(tree: Tree, threshold: float) -> int | None:
    return min(
        (n.depth for n in tree.nodes if n.score is not None and n.score >= threshold), default=None
    )


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Returns the unbiased estimate of Chen et al. (2021): 1 - C(n-c, k) / C(n, k).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    assert 1 <= k <= num_samples, "k samples out of n"
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def _pass_at_k(trees: Sequence[Tree], threshold: float) -> Iterable[PassAtK]:
    counted = []
    for tree in trees:
        scores = [n.score for n in tree.nodes if n.depth == 1 and n.score is not None]
        if scores:
            right = sum(score >= threshold for score in scores)
            counted.append((len(scores), right, tree.document_id))
    most = max((n for n, _, _ in counted), default=0)
    k = 1
    while k <= most:
        enough = [(n, c, unit) for n, c, unit in counted if n >= k]
        yield PassAtK(
            k=k,
            value=estimate(
                [pass_at_k(n, c, k) for n, c, _ in enough],
                [unit for _, _, unit in enough],
                seed=content_seed("pass", str(k)),
            ),
        )
        k *= 2
