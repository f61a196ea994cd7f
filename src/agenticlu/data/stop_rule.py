"""Fits a stop rule on the trees of a run, and measures what it would have done there.

Every finished round is an example: what was seen of it, and whether its answer is right by the
judges. The rule is a logistic regression with a ridge penalty. What it would do is measured out of
sample: each document's rounds are decided by a rule that was fitted on the others.

Only a complete tree (`--growth full`) shows what another round does to a *right* answer; others say
what is repaired, not what is spoiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agenticlu.core.errors import TrainingError
from agenticlu.core.records import Node, content_seed
from agenticlu.core.statistics import estimate_mean
from agenticlu.data.tree_view import TreeView, find_path_flaw
from agenticlu.dialogue.run import ShownDocument
from agenticlu.dialogue.stopping import FACTS, Round, StopRule, observe
from agenticlu.judges import is_correct

Floats = NDArray[np.float64]
FOLDS = 5
RIDGE = 1.0
"""Penalty on the weights: half of this times their squares is added to the loss."""
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(21))
LEAST_ROUNDS = 20
SETTING = "stop_rule"
"""Name of the run's setting that holds the rule and its curve, for reports."""


@dataclass(frozen=True)
class Seen:
    """A finished round as an example."""

    id: str
    parent: str | None
    """The round before it in the same tree; None for a first one."""
    document_id: str
    depth: int
    facts: tuple[float, ...]
    right: bool
    says_yes: bool


@dataclass
class Examples:
    """The rounds of a run, tree by tree."""

    trees: list[list[Seen]] = field(default_factory=list)
    """Parents stand before their children."""

    def add(self, view: TreeView) -> None:
        """Takes the rounds of a tree that are judged and sound all the way."""
        shown = ShownDocument(view.document, view.pieces, view.controls)
        rounds: list[Seen] = []
        for node in sorted(view.tree.nodes, key=lambda node: node.depth):
            right = is_correct(node.verdicts)
            if node.parent is None or right is None or find_path_flaw(view.tree, node) is not None:
                continue
            facts = observe(shown, [_round(one) for one in view.tree.path(node.id)[1:]])
            rounds.append(
                Seen(
                    id=node.id,
                    parent=node.parent if node.depth > 1 else None,
                    document_id=view.document.id,
                    depth=node.depth,
                    facts=tuple(facts[name] for name in FACTS),
                    right=right,
                    says_yes=bool(facts["says_yes"]),
                )
            )
        if rounds:
            self.trees.append(rounds)

    @property
    def rounds(self) -> list[Seen]:
        """All rounds."""
        return [one for tree in self.trees for one in tree]


def _round(node: Node) -> Round:
    return Round(node.turns, node.kept)


def fit_stop_rule(examples: Examples) -> tuple[StopRule, dict[str, Any]]:
    """Fits a rule; its threshold is the one that would have answered most questions rightly.

    Returns:
        The rule, and what it was measured to do: see `measure`.

    Raises:
        TrainingError: There are too few rounds, or all are right or all are wrong.
    """
    rounds = examples.rounds
    num_right = sum(one.right for one in rounds)
    documents = sorted({one.document_id for one in rounds})
    if len(rounds) < LEAST_ROUNDS or num_right in (0, len(rounds)) or len(documents) < 2:
        raise TrainingError(
            f"A stop rule cannot be fitted: {len(rounds)} judged rounds of {len(documents)} "
            f"documents, {num_right} of them right.",
            hint=f"It takes {LEAST_ROUNDS} rounds of two documents, right and wrong ones: search "
            "more questions, or deeper (agenticlu generate --growth full --depth 2).",
        )
    probabilities = _predict_held_out(rounds)
    curve = [measure(examples, probabilities, threshold) for threshold in THRESHOLDS]
    now = measure(examples, None, 0.5)
    # Of equally good ones the cheapest, then the least bold.
    best = max(curve, key=lambda one: (one["right"], -one["rounds"], one["threshold"]))
    weights, bias = _fit(_facts(rounds), _labels(rounds))
    found = {
        "rounds": len(rounds),
        "documents": len(documents),
        "right": num_right,
        "self_check": now,
        "curve": curve,
        "balanced_accuracy": {
            "self_check": _balanced(rounds, [float(one.says_yes) for one in rounds], 0.5),
            "rule": _balanced(rounds, [probabilities[one.id] for one in rounds], 0.5),
        },
        "followed_right": sum(
            one.right for one in rounds if any(other.parent == one.id for other in rounds)
        ),
    }
    rule = StopRule(
        weights={name: round(float(w), 4) for name, w in zip(FACTS, weights, strict=True)},
        bias=round(bias, 4),
        threshold=best["threshold"],
        fitted_on={name: found[name] for name in ("rounds", "documents", "right")},
    )
    return rule, found


def measure(
    examples: Examples, probabilities: dict[str, float] | None, threshold: float
) -> dict[str, Any]:
    """Returns what a way of stopping does, on the mean over all paths that it may take.

    A question begins with any of its first rounds, each as likely; where it goes on, with any of
    the rounds that follow; it ends where the rule says so, or where the tree does.

    Args:
        examples: The trees.
        probabilities: Of a right answer, by round; None asks the self-check instead.
        threshold: Least probability that ends it.

    Returns:
        `threshold`; `right`: share of questions answered rightly, with its interval over documents;
        `rounds`: their mean number; `repaired` and `spoiled`: shares of questions whose answer
        turned right, or wrong, after the first round.
    """

    def ends(one: Seen) -> bool:
        return one.says_yes if probabilities is None else probabilities[one.id] >= threshold

    totals = [_walk(tree, ends) for tree in examples.trees]
    clusters = [tree[0].document_id for tree in examples.trees]
    right = estimate_mean([total[0] for total in totals], clusters)
    assert right is not None
    rounds, repaired, spoiled = (float(np.mean([total[i] for total in totals])) for i in (1, 2, 3))
    return {
        "threshold": None if probabilities is None else threshold,
        "right": round(right.mean, 4),
        "interval": None if right.low is None else [round(right.low, 4), round(right.high or 0, 4)],
        "rounds": round(rounds, 3),
        "repaired": round(repaired, 4),
        "spoiled": round(spoiled, 4),
    }


def _walk(tree: Sequence[Seen], ends: Callable[[Seen], bool]) -> tuple[float, float, float, float]:
    """Returns the expected right answers, rounds, repairs and losses of one question."""
    below: dict[str | None, list[Seen]] = {}
    for one in tree:
        below.setdefault(one.parent, []).append(one)
    right = rounds = repaired = spoiled = 0.0

    def visit(ones: Sequence[Seen], weight: float, first: bool | None) -> None:
        nonlocal right, rounds, repaired, spoiled
        for one in ones:
            share = weight / len(ones)
            rounds += share
            began = one.right if first is None else first
            following = below.get(one.id, ())
            if following and not ends(one):
                visit(following, share, began)
                continue
            right += share * one.right
            repaired += share * (one.right and not began)
            spoiled += share * (began and not one.right)

    visit(below.get(None, ()), 1.0, None)
    return right, rounds, repaired, spoiled


def _predict_held_out(rounds: Sequence[Seen]) -> dict[str, float]:
    """Returns for every round the probability by a rule that never saw its document."""
    documents = sorted(
        {one.document_id for one in rounds}, key=lambda one: content_seed("fold", one)
    )
    fold_of = {name: i % min(FOLDS, len(documents)) for i, name in enumerate(documents)}
    facts, labels = _facts(rounds), _labels(rounds)
    folds = np.array([fold_of[one.document_id] for one in rounds])
    found = np.empty(len(rounds))
    for fold in range(folds.max() + 1):
        held = folds == fold
        weights, bias = _fit(facts[~held], labels[~held])
        found[held] = 1 / (1 + np.exp(-(facts[held] @ weights + bias)))
    return {one.id: float(p) for one, p in zip(rounds, found, strict=True)}


def _facts(rounds: Iterable[Seen]) -> Floats:
    return np.array([one.facts for one in rounds], np.float64)


def _labels(rounds: Iterable[Seen]) -> Floats:
    return np.array([one.right for one in rounds], np.float64)


def _fit(facts: Floats, labels: Floats) -> tuple[Floats, float]:
    """Returns the weights and the bias of a ridge logistic regression, by Newton's method."""
    inputs = np.column_stack([facts, np.ones(len(facts))])
    penalty = np.full(inputs.shape[1], RIDGE)
    penalty[-1] = 1e-3  # hardly any on the bias, so that one class alone stays finite
    weights = np.zeros(inputs.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(inputs @ weights)))
        gradient = inputs.T @ (p - labels) + penalty * weights
        curvature = (inputs * (p * (1 - p))[:, None]).T @ inputs + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    return weights[:-1], float(weights[-1])


def _balanced(rounds: Sequence[Seen], scores: Sequence[float], threshold: float) -> float:
    """Returns the mean of the shares of right rounds taken for right, and of wrong for wrong."""
    taken = np.array(scores) >= threshold
    right = np.array([one.right for one in rounds])
    return round(float((taken[right].mean() + (~taken[~right]).mean()) / 2), 4)
