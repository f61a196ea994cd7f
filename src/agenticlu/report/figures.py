"""Computes the figures of a report: its headline, and counts, costs and stages of trees. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from agenticlu import judges as judge
from agenticlu.core.records import (
    Document,
    Node,
    Pair,
    Piece,
    Prediction,
    Record,
    Tree,
    TurnKind,
    Usage,
)
from agenticlu.core.statistics import MeanEstimate
from agenticlu.evaluation.recall import RIGHT, DepthRecall, is_right, is_scored, solved_depth
from agenticlu.evaluation.records import Cell, Difference
from agenticlu.evaluation.summary import compare, pair_scored

REPORT_VERSION = 2
"""Goes up when a reader of an older report's JSON would misread a new one."""


class Change(Record):
    """A question that one side of a comparison answered right and the other wrong."""

    task: str
    length: int
    question: str
    gold: tuple[str, ...]
    before: str
    """The baseline's answer."""
    after: str
    """The contender's answer."""
    gained: bool
    """Whether the contender is the one that is right."""


class Stage(Record):
    """The cost of one stage of the work."""

    group: str
    """The part of the work: 'search', 'judges', 'training' or 'evaluation'."""
    name: str
    usage: Usage


class Curve(Record):
    """One quantity over the steps of one training run."""

    run: str
    quantity: str
    """Key in `metrics.jsonl`, such as 'loss'."""
    points: tuple[tuple[float, float], ...]
    """(step, value), ascending in step."""
    split: str = "training"
    """'training' or 'validation'."""


class ReportData(Record):
    """All that a page shows; every part may be absent, and its section is then left out."""

    title: str = "agenticlu report"
    created: str | None = None
    """Date of the report, as shown; None leaves it out (the builder reads no clock)."""
    documents: tuple[Document, ...] = ()
    pieces: dict[str, tuple[Piece, ...]] = Field(default_factory=dict)
    """Pieces of each document by document id; a document without them is shown as one text."""
    trees: tuple[Tree, ...] = ()
    pairs: tuple[Pair, ...] = ()
    results: tuple[Cell, ...] = ()
    """Cells of the evaluations; `engine` is the name of the model: 'base', 'trained', or a label
    given on the command line."""
    gains: tuple[Difference, ...] = ()
    """The differences to show, of the engines in `results`; the first one makes the headline."""
    changes: tuple[Change, ...] = ()
    """Questions behind the gains; may be cut to some of each kind."""
    funnels: dict[str, dict[str, int]] = Field(default_factory=dict)
    """What became of the 'nodes', 'rows' and 'traces' of a data set: reason to number."""
    pointing: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Of each data set, by name: how right the pieces are that it teaches to name; see
    `agenticlu.data.pointing`."""
    stages: tuple[Stage, ...] = ()
    """Costs that the trees do not hold (training, evaluation); those of the trees are added."""
    curves: tuple[Curve, ...] = ()
    stopping: dict[str, Any] | None = None
    """A stop rule and what it was measured to do; see `agenticlu.data.stop_rule`."""
    config: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Resolved configurations by the folder they came from; secrets are blanked on the way out."""
    errors: tuple[str, ...] = ()
    """Failures worth listing: items of an evaluation, unfinished questions."""


KIND_NAMES: dict[TurnKind, str] = {
    "direct": "direct answer",
    "clarify": "clarification",
    "point": "pointing back",
    "sub_answer": "sub-answer",
    "answer": "answer",
    "check": "self-check",
}


class Counts(Record):
    """Counts of everything, failures included."""

    documents: int = 0
    trees: int = 0
    nodes: int = 0
    pairs: int = 0
    right_nodes: int = 0
    wrong_nodes: int = 0
    unscored_nodes: int = 0
    failed_nodes: int = 0
    unscored_trees: int = 0
    """Trees in which no node has a score."""
    disagreements: int = 0
    """Nodes about which two judges disagree."""
    outcomes: dict[str, int] = Field(default_factory=dict)
    evaluated: int = 0
    """Items of the evaluation that were scored."""
    evaluation_failed: int = 0
    evaluation_truncated: int = 0
    evaluation_cut_off: int = 0


class TreeEntry(Record):
    """A tree in the list: what search and filters look at."""

    id: str
    document_id: str
    question: str
    answers: tuple[str, ...]
    outcome: str
    solved_depth: int | None
    """Least depth of a right node; None without one."""
    depth: int
    nodes: int
    right: int
    wrong: int
    failed: int
    unscored: int
    disagreements: int
    pairs: int
    hops: int | None
    computed_tokens: int
    embedded: bool = True
    """Whether the page holds the tree itself."""


class Overview(Record):
    """The figures of a report: what its JSON holds and the page shows above its trees."""

    format: Literal["agenticlu report"] = "agenticlu report"
    """Comes first, so that the file of a report can be recognised."""
    version: int
    title: str
    created: str | None
    headline: str
    counts: Counts
    results: tuple[Cell, ...]
    gains: tuple[Difference, ...]
    changes: tuple[Change, ...]
    recall_by_depth: tuple[DepthRecall, ...]
    funnels: dict[str, dict[str, int]]
    pointing: dict[str, dict[str, Any]]
    stages: tuple[Stage, ...]
    curves: tuple[dict[str, object], ...]
    stopping: dict[str, Any] | None
    trees: tuple[TreeEntry, ...]
    config: dict[str, dict[str, object]]
    errors: tuple[str, ...]


def node_state(node: Node) -> str:
    """Returns 'failed', 'unscored', 'right' or 'wrong'."""
    if node.status == "failed":
        return "failed"
    return {None: "unscored", True: "right", False: "wrong"}[is_right(node)]


def tree_stages(trees: Iterable[Tree]) -> tuple[Stage, ...]:
    """Splits the cost of the trees by turn kind.

    The cost of a request is recorded on each of its sibling samples, so clarifications that share
    one are counted once. What a tree paid beyond its turns (grounding, retries, merged duplicates)
    is its own row.
    """
    spent: dict[str, Usage] = {}
    judges = Usage()

    def add(name: str, usage: Usage) -> None:
        spent[name] = spent.get(name, Usage()) + usage

    for tree in trees:
        turns = Usage()
        seen: set[tuple[object, ...]] = set()
        for node in tree.nodes:
            for i, turn in enumerate(node.turns):
                if turn.usage is None:
                    continue
                if turn.kind == "clarify":
                    key = (node.parent, i, *turn.usage.model_dump().values())
                    if key in seen:
                        continue
                    seen.add(key)
                add(KIND_NAMES[turn.kind], turn.usage)
                turns = turns + turn.usage
            for verdict in node.verdicts:
                judges = judges + (verdict.usage or Usage())
        rest = Usage(
            requests=max(0, tree.usage.requests - turns.requests),
            prompt_tokens=max(0, tree.usage.prompt_tokens - turns.prompt_tokens),
            cached_tokens=max(0, tree.usage.cached_tokens - turns.cached_tokens),
            completion_tokens=max(0, tree.usage.completion_tokens - turns.completion_tokens),
        )
        if rest.cached_tokens > rest.prompt_tokens:  # turns counted otherwise than the tree
            rest = rest.model_copy(update={"cached_tokens": rest.prompt_tokens})
        if rest != Usage():
            add("grounding", rest)
    order = ["direct answer", "clarification", "grounding", *KIND_NAMES.values()]
    stages = [
        Stage(group="search", name=name, usage=spent[name])
        for name in dict.fromkeys(order)
        if name in spent
    ]
    if judges != Usage():
        stages.append(Stage(group="judges", name="judges", usage=judges))
    return tuple(stages)


def count(data: ReportData) -> Counts:
    """Counts everything, the failed and the unscored by name."""
    states = Counter(node_state(node) for tree in data.trees for node in tree.nodes)
    return Counts(
        documents=len(data.documents) or len({tree.document_id for tree in data.trees}),
        trees=len(data.trees),
        nodes=sum(states.values()),
        pairs=len(data.pairs),
        right_nodes=states["right"],
        wrong_nodes=states["wrong"],
        unscored_nodes=states["unscored"],
        failed_nodes=states["failed"],
        unscored_trees=sum(not is_scored(tree) for tree in data.trees),
        disagreements=sum(
            judge.disagrees(node.verdicts) for tree in data.trees for node in tree.nodes
        ),
        outcomes=dict(sorted(Counter(tree.outcome for tree in data.trees).items())),
        evaluated=sum(cell.score.n for cell in data.results if cell.score is not None),
        evaluation_failed=sum(cell.num_failed for cell in data.results),
        evaluation_truncated=sum(cell.num_truncated for cell in data.results),
        evaluation_cut_off=sum(cell.num_cut_off for cell in data.results),
    )


def tree_entries(trees: Sequence[Tree], pairs: Sequence[Pair]) -> tuple[TreeEntry, ...]:
    """Returns the list of trees in their order."""
    per_tree = Counter(pair.tree_id for pair in pairs)
    entries = []
    for tree in trees:
        states = Counter(node_state(node) for node in tree.nodes)
        entries.append(
            TreeEntry(
                id=tree.id,
                document_id=tree.document_id,
                question=tree.question.text,
                answers=tree.question.answers,
                outcome=tree.outcome,
                solved_depth=solved_depth(tree),
                depth=max((node.depth for node in tree.nodes), default=0),
                nodes=len(tree.nodes),
                right=states["right"],
                wrong=states["wrong"],
                failed=states["failed"],
                unscored=states["unscored"],
                disagreements=sum(judge.disagrees(node.verdicts) for node in tree.nodes),
                pairs=per_tree[tree.id],
                hops=tree.question.hops,
                computed_tokens=tree.usage.computed_tokens,
            )
        )
    return tuple(entries)


METHOD_WORDS = {"direct": "answering directly", "clarify": "with clarifications"}
SHARES = (
    "correct", "match", "accuracy", "exact_match", "word_match", "substring_exact_match",
    "babilong", "str_hit",
)  # fmt: skip
"""Metrics that are 1 for a right answer and 0 for another."""
MOST_CHANGES = 12
"""Questions listed per task, length and direction."""


def quantity(metric: str) -> str:
    """Returns the name of a metric's mean.

    >>> quantity("correct"), quantity("rougeL_f1")
    ('Share of right answers', 'Mean rougeL_f1')
    """
    return "Share of right answers" if metric in SHARES else f"Mean {metric}"


def describe_system(engine: str, method: str) -> str:
    """Returns a model and a method as part of a sentence.

    >>> describe_system("trained", "clarify")
    'trained model with clarifications'
    """
    name = engine if engine.endswith("model") else f"{engine} model"
    return f"{name} {METHOD_WORDS.get(method, f'with {method}')}"


def contest(engines: Sequence[str]) -> tuple[str, str]:
    """Returns whose direct answer is compared with whose dialogue: base and trained, or the ends.

    Fixed by name and order, never picked by outcome.
    """
    base = "base" if "base" in engines else engines[0]
    return base, "trained" if "trained" in engines else engines[-1]


def select_gains(differences: Iterable[Difference], engines: Sequence[str]) -> list[Difference]:
    """Returns the differences of the contest, the longest length first: it makes the headline."""
    if not engines:
        return []
    base, last = contest(engines)
    wanted = (base, "direct", last, "clarify")
    gains = [
        d
        for d in differences
        if (d.baseline_engine, d.baseline_method, d.engine, d.method) == wanted
    ]
    return sorted(gains, key=lambda gain: (-gain.length, gain.task))


def compare_contest(
    predictions: Mapping[str, Sequence[Prediction]],
) -> tuple[tuple[Difference, ...], tuple[Change, ...]]:
    """Compares one model's dialogue with another's direct answer, per task and length.

    Args:
        predictions: By engine; see `contest` for which are compared.

    Returns:
        The differences, the longest length first, and some of the questions behind them: those
        gained, and those lost.
    """
    if not predictions:
        return (), ()
    base, last = contest(list(predictions))
    before = _group_by_cell(p for p in predictions[base] if p.method == "direct")
    after = _group_by_cell(p for p in predictions[last] if p.method == "clarify")
    gains, changes = [], []
    for cell in sorted(before.keys() & after.keys(), key=lambda at: (-at[1], at[0])):
        if (gain := compare(before[cell], after[cell])) is None:
            continue
        gains.append(gain)
        pairs = pair_scored(before[cell], after[cell])
        pairs.sort(key=lambda pair: (pair[0].document_id, pair[0].question_id))
        for gained in (True, False):
            changed = (_find_change(*pair, gain.metric, gained) for pair in pairs)
            changes += [one for one in changed if one is not None][:MOST_CHANGES]
    return tuple(gains), tuple(changes)


def _group_by_cell(items: Iterable[Prediction]) -> dict[tuple[str, int], list[Prediction]]:
    cells: dict[tuple[str, int], list[Prediction]] = {}
    for p in items:
        cells.setdefault((p.task, p.length), []).append(p)
    return cells


def _find_change(before: Prediction, after: Prediction, metric: str, gained: bool) -> Change | None:
    """Returns a question if one side alone is right: the contender where `gained`."""
    if metric not in before.scores or metric not in after.scores:
        return None
    right = (before.scores[metric] >= RIGHT, after.scores[metric] >= RIGHT)
    if right != (not gained, gained):
        return None
    return Change(
        task=before.task,
        length=before.length,
        question=before.question,
        gold=before.gold,
        before=before.answer,
        after=after.answer,
        gained=gained,
    )


def percent(value: float) -> str:
    """Returns a share as a whole percentage.

    >>> percent(0.815)
    '82%'
    """
    return f"{math.floor(100 * value + 0.5):d}%"


def signed(points: float) -> str:
    """Returns a whole number with its sign, with a true minus.

    >>> signed(-3.2)
    '−3'
    """
    return f"{points:+.0f}".replace("-", "−")


def headline(data: ReportData, depths: Sequence[DepthRecall]) -> str:
    """Returns the main result in one sentence, with its interval."""
    if data.gains:
        return _gain_headline(data.gains[0])
    if depths:
        return _recall_headline(depths[0].recall, depths[-1].recall, len(depths) > 1)
    scored = [cell for cell in data.results if cell.score is not None]
    if scored:
        return _result_headline(max(scored, key=lambda cell: cell.length))
    if data.curves:
        runs = sorted({curve.run for curve in data.curves})
        return f"Training curves of {', '.join(runs)}."
    if data.trees:
        return f"{len(data.trees):,} trees; none has a score yet."
    return "Nothing to show yet: neither trees, nor results, nor training curves."


def _gain_headline(gain: Difference) -> str:
    before, after = percent(gain.baseline_mean), percent(gain.mean)
    baseline = describe_system(gain.baseline_engine, gain.baseline_method)
    sentence = f"At {gain.length:,} tokens, the {describe_system(gain.engine, gain.method)} "
    if gain.metric in SHARES:
        sentence += f"is right on {after} of the questions, the {baseline} on {before}"
    else:
        sentence += f"reaches a mean {gain.metric} of {after}, the {baseline} {before}"
    sentence += f": {signed(100 * gain.difference.mean)} points"
    low, high = gain.difference.low, gain.difference.high
    if low is not None and high is not None:
        sentence += f" (95% interval {signed(100 * low)} to {signed(100 * high)})"
    return sentence + "."


def _recall_headline(first: MeanEstimate, last: MeanEstimate, has_rounds: bool) -> str:
    sentence = f"The search found a right answer to {percent(last.mean)} of {last.n:,} questions"
    if last.low is not None and last.high is not None:
        sentence += f" (95% interval {percent(last.low)} to {percent(last.high)})"
    if has_rounds:
        sentence += f"; the direct answer was right for {percent(first.mean)}"
    return sentence + "."


def _result_headline(cell: Cell) -> str:
    assert cell.score is not None, "a scored cell"
    mean = percent(cell.score.mean)
    found = f"is right on {mean} of"
    if cell.headline not in SHARES:
        found = f"reaches a mean {cell.headline} of {mean} over"
    return (
        f"At {cell.length:,} tokens, the {describe_system(cell.engine, cell.method)} {found} "
        f"{cell.score.n:,} questions."
    )
