"""Builds a data set from the trees of a run, and accounts for every one of them.

The counts, with those of an import, are the first half of `summary.json`; facts about the run are
the second.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
import math
import re
import tomllib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agenticlu.core.errors import TrainingError
from agenticlu.core.records import Document, Piece, Tree
from agenticlu.data.corpus import corpus_name, own_id
from agenticlu.data.dataset import RowFiles, Split
from agenticlu.data.lessons import build_direct, build_lessons, build_point_rows
from agenticlu.data.mark_lists import ListPairs, ListSummary, read_asking
from agenticlu.data.necessity import SETTING, read_measure, use_needed_pieces, use_quoted_pieces
from agenticlu.data.overlap import Contamination, EvaluationTexts
from agenticlu.data.pairs import (
    PairPolicy,
    build_pairs,
    build_rows,
    build_self_checks,
    build_trace,
    cut_to_targets,
)
from agenticlu.data.pointing import Pointing
from agenticlu.data.splits import Fingerprint, Splits, assign_splits
from agenticlu.data.teaching import STAGES, advise, describe_lack, render_outcomes
from agenticlu.data.tree_view import Funnel, TreeView
from agenticlu.judges import disagrees, scores_of_judges
from agenticlu.search.run import SearchSummary
from agenticlu.search.settings import read_settings
from agenticlu.search.store import Store
from agenticlu.training.rows import FOLDERS

Contaminated = Literal["document in evaluation", "question in evaluation"]
TreeLoss = Literal["unfinished", "answerable without document", Contaminated]
"""Why a whole tree is left out."""


def build_dataset(
    store: Store,
    folder: Path,
    policy: PairPolicy,
    evaluation: EvaluationTexts | None = None,
    *,
    drop_contaminated: bool = True,
) -> DatasetSummary:
    """Writes `sft/`, `self_check/` and `preference/` into a directory, split by document.

    Every question and every node of the run is counted once in the funnel, which is checked
    against the store's own counts.

    Args:
        store: The run; may be in the middle of a search.
        folder: Directory to write into.
        policy: Which pairs to make.
        evaluation: Documents and questions of an evaluation, which training must not see.
        drop_contaminated: Leave out what the evaluation has; else only count it.

    Raises:
        StoreError: The store holds no search.
        TrainingError: The trees yield no row.
    """
    with store.snapshot():
        read_settings(store)  # before anything is written
        fingerprints, found = _read_documents(store, evaluation)
        asked = {
            question.id
            for question, _ in store.questions()
            if evaluation is not None and evaluation.has_question(question.text)
        }
        summary = DatasetSummary(assign_splits(fingerprints, policy.validation))
        if evaluation is not None:
            summary.contamination = evaluation.report(found, asked, dropped=drop_contaminated)
        unwanted = (found, asked) if drop_contaminated else (set[str](), set[str]())
        lists = _list_pairs(store, policy, summary)
        with RowFiles(folder) as files:
            for view, is_finished in load_tree_views(store, needed=policy.needed):
                loss: TreeLoss | None = (
                    _loss(view.tree, policy, *unwanted) if is_finished else "unfinished"
                )
                summary.outcomes[view.tree.outcome if is_finished else "unfinished"] += 1
                if loss is None:
                    _write_tree(view, policy, summary, files)
                    _write_list_pairs(view, policy, lists, summary, files)
                else:
                    summary.funnel.traces[loss] += 1
                    summary.funnel.nodes[loss] += sum(
                        node.parent is not None for node in view.tree.nodes
                    )
            _count_unstarted(store, summary)
            _write_held_out(store, summary.splits, files)
            summary.rows = files.counts()
            # Self-checks are all of wrong answers: alone they would teach nothing but doubt.
            if not any(sum(summary.rows[kind].values()) for kind in ("sft", "preference")):
                raise TrainingError(
                    f"Nothing to learn from: the trees yield no rows ({_render_fates(summary)}). "
                    f"{render_outcomes(summary.outcomes)}".strip(),
                    hint=f"Look at them: agenticlu status {store.folder}. "
                    + advise(summary.outcomes, summary.funnel.traces),
                )
    return summary


def load_tree_views(store: Store, *, needed: bool = False) -> Iterator[tuple[TreeView, bool]]:
    """Yields the trees of a run, in corpus order, and whether each is finished.

    Args:
        store: The run.
        needed: Leave out the pieces that `agenticlu generate necessity` found needless.
    """
    config, profile = read_settings(store)
    measure = read_measure(store) if needed else None
    bound = store.get("bound") or {}
    last: tuple[Document, tuple[Piece, ...]] | None = None
    for tree in store.trees():
        if last is None or last[0].id != tree.document_id:
            last = store.document(tree.document_id), store.pieces(tree.document_id)
        view = TreeView(
            tree=tree,
            document=last[0],
            pieces=last[1],
            profile=profile,
            engine=str(without_paths(bound.get("engine", ""))),
            seed=int(bound.get("seed", 0)),
            controls=tuple(bound.get("controls", ())),
        )
        if measure is not None:
            view = use_needed_pieces(view, store, measure)
        if needed and config.guide:
            view = use_quoted_pieces(view)
        yield view, store.tree_state(tree.id) == "done"


def _read_documents(
    store: Store, evaluation: EvaluationTexts | None
) -> tuple[list[Fingerprint], set[str]]:
    """Returns the documents' fingerprints, and the ids of those that the evaluation has."""
    fingerprints, found = [], set()
    for document_id in store.document_ids():
        document = store.document(document_id)
        fingerprints.append(Fingerprint.of(document_id, document.text, own_id(document)))
        if evaluation is not None and evaluation.has_document(document_id, document.text):
            found.add(document_id)
    return fingerprints, found


def _write_tree(
    view: TreeView, policy: PairPolicy, summary: DatasetSummary, files: RowFiles
) -> None:
    split = summary.splits.of[view.document.id]
    if policy.drop_closed_book is not None:
        summary.num_not_asked_blindly += view.tree.closed_book is None
    trace = build_trace(view, summary.funnel, drop_leaks=policy.drop_leaks)
    if trace is not None:
        write_trace(files, split, trace)
        summary.lengths.add_row(trace)
        for step in view.tree.path(trace["node_id"])[1:]:
            summary.pointing.add(view, step.id)
    for row in build_self_checks(view, policy.self_checks, drop_leaks=policy.drop_leaks):
        files.write("self_check", split, row)
    direct = build_direct(view, drop_leaks=policy.drop_leaks) if policy.direct else None
    if direct is not None:
        files.write("direct", split, direct)
    for row in build_point_rows(view, drop_leaks=policy.drop_leaks) if policy.pointing else ():
        files.write("point", split, row)
    for row in build_lessons(view, policy.lessons, drop_leaks=policy.drop_leaks):
        files.write("distill", split, row)
    for pair in build_pairs(view, policy, summary.funnel):
        for row in build_rows(view, pair, policy, summary.funnel):
            files.write("preference", split, row)
            summary.lengths.add_row(row)
            summary.turn_kinds[row["turn_kind"]] += 1


def _list_pairs(store: Store, policy: PairPolicy, summary: DatasetSummary) -> ListPairs | None:
    asking = read_asking(store)
    if asking is None or not policy.mark_pairs:
        return None
    return ListPairs(store, asking, policy.margin, policy.mark_pairs, summary.lists)


def _write_list_pairs(
    view: TreeView,
    policy: PairPolicy,
    lists: ListPairs | None,
    summary: DatasetSummary,
    files: RowFiles,
) -> None:
    """Writes pairs on the turn that points; they stand beside the pairs of the tree's rounds."""
    for row in [] if lists is None else lists.rows(view, drop_leaks=policy.drop_leaks):
        files.write("preference", summary.splits.of[view.document.id], row)
        summary.lengths.add_row(row)
        summary.turn_kinds[row["turn_kind"]] += 1
        summary.num_list_pairs += 1


def _write_held_out(store: Store, splits: Splits, files: RowFiles) -> None:
    """Writes the questions about validation documents as a corpus, for `agenticlu eval`.

    All of them, whatever became of their trees: an evaluation over those that were answered right
    would flatter whoever answered them.
    """
    last: tuple[Document, tuple[Piece, ...]] | None = None
    for question, document_id in store.questions():
        if splits.of[document_id] != "validation":
            continue
        if last is None or last[0].id != document_id:
            last = store.document(document_id), store.pieces(document_id)
        document, pieces = last
        gold = question.gold_pieces
        spans = None if gold is None else [[pieces[i].start, pieces[i].end] for i in gold]
        row = {
            "context": document.text,
            "question": question.text,
            "answers": question.answers,
            "options": question.options,
            "gold_spans": spans,
            "hops": question.hops,
            "id": question.id,
            "document_id": document.id,
        }
        files.write("questions", "validation", row)


def write_trace(files: RowFiles, split: Split, trace: Mapping[str, Any]) -> None:
    """Writes a conversation for our trainer, and what of it any trainer may learn."""
    files.write("sft", split, trace)
    plain = cut_to_targets(trace)
    if plain is not None:
        files.write("plain", split, plain)


def _count_unstarted(store: Store, summary: DatasetSummary) -> None:
    """Counts the questions that have no tree yet, and checks that nothing was lost."""
    counts, funnel = store.tree_counts(), summary.funnel
    unstarted = counts["questions"] - counts["growing"] - counts["done"]
    if unstarted:
        funnel.traces["unfinished"] += unstarted
        summary.outcomes["unfinished"] += unstarted
    assert funnel.traces.total() == counts["questions"], "a question was lost"
    assert funnel.nodes.total() == store.num_rounds(), "a node was lost"


def _loss(
    tree: Tree, policy: PairPolicy, documents: Set[str], questions: Set[str]
) -> TreeLoss | None:
    """Returns why a finished tree is left out, given the ids of what the evaluation has."""
    if tree.document_id in documents:
        return "document in evaluation"
    if tree.question.id in questions:
        return "question in evaluation"
    limit, share = policy.drop_closed_book, tree.closed_book
    if limit is not None and share is not None and share >= limit:
        return "answerable without document"
    return None


def _render_fates(summary: DatasetSummary) -> str:
    reasons = summary.funnel.traces
    return ", ".join(f"{number} {why}" for why, number in sorted(reasons.items())) or "none"


PERCENTILES = (5, 25, 50, 75, 95)
Origin = Literal["built", "imported"]


@functools.cache
def load_meanings(origin: Origin) -> dict[str, dict[str, str]]:
    """Returns what the counts of a funnel mean: what is counted to reason to text."""
    path = importlib.resources.files("agenticlu.data") / "meanings.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    meanings: dict[str, dict[str, str]] = tables[origin]
    if origin == "built":
        for name in ("nodes", "traces"):
            meanings[name] |= tables["flaws"] | tables["trees"]
    return meanings


class Lengths:
    """Lengths of texts by name, eight bytes each, for their percentiles."""

    def __init__(self) -> None:
        self._values: dict[str, array[float]] = {}

    def add(self, name: str, value: float) -> None:
        """Adds a length."""
        self._values.setdefault(name, array("d")).append(value)

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Adds the characters of a row of either kind, and its log ratio."""
        if "messages" in row:
            self.add("conversation", _characters(row["messages"]))
            return
        for name in ("prompt", "chosen", "rejected"):
            self.add(name, _characters(row[name]))
        self.add("log_length_ratio", row["log_length_ratio"])

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Returns name to count, mean and percentiles."""
        return {name: _describe(values) for name, values in self._values.items()}


@dataclass
class DatasetSummary:
    """Counts of what was written."""

    splits: Splits
    rows: dict[str, dict[str, int]] = field(default_factory=dict)
    """Kind of data to split to the number of rows."""
    funnel: Funnel = field(default_factory=Funnel)
    outcomes: Counter[str] = field(default_factory=Counter)
    """How the questions of the search ended; none where rows were imported."""
    lengths: Lengths = field(default_factory=Lengths)
    turn_kinds: Counter[str] = field(default_factory=Counter)
    """Turn kind to preference rows."""
    pointing: Pointing = field(default_factory=Pointing)
    """The pieces that conversations teach to name."""
    lists: ListSummary = field(default_factory=ListSummary)
    """Lists of pieces that the model named by itself."""
    num_list_pairs: int = 0
    """Preference rows made of such lists."""
    num_not_better: int = 0
    """Imported preference rows whose chosen reply scores no higher than the rejected one."""
    num_neutralised: int = 0
    """Imported rows in which control tokens were broken up."""
    num_not_asked_blindly: int = 0
    """Questions that --drop-closed-book could not judge: never asked without their document."""
    contamination: Contamination | None = None
    """None when nothing was compared with an evaluation."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON data."""
        return {
            "rows": self.rows,
            "documents": self.splits.as_dict(),
            "funnel": self.funnel.as_dict(),
            "outcomes": dict(sorted(self.outcomes.items())),
            "characters": self.lengths.as_dict(),
            "turn_kinds": dict(sorted(self.turn_kinds.items())),
            "pointing": self.pointing.as_dict(),
            "mark_lists": {**self.lists.as_dict(), "pairs": self.num_list_pairs},
            "contamination": None if self.contamination is None else self.contamination.as_dict(),
        }

    def warnings(self, validation: float) -> list[str]:
        """Returns what to know before training on the data set.

        Args:
            validation: Share of the documents that was to be held out.
        """
        found = []
        for reason, words in (("unfinished", "are not finished"), ("failed", "failed")):
            if number := self.funnel.traces[reason]:
                found.append(
                    f"{number} of {self.funnel.traces.total()} questions {words} and give no rows; "
                    "run the search again to continue them."
                )
        if number := self.num_not_better:
            found.append(
                f"Rows whose scores do not prefer the chosen reply: {number}. They are kept; their "
                "margin is 0 or below."
            )
        if number := self.num_neutralised:
            found.append(
                f"Rows with what looks like a model's control token: {number}. A space breaks it "
                "up, as in generated rows: a model would read it as one."
            )
        if number := self.num_not_asked_blindly:
            found.append(
                f"{number} of {self.funnel.traces.total()} questions were not asked without their "
                "document, so --drop-closed-book kept them; agenticlu generate --closed-book asks."
            )
        if validation and not self.splits.documents("validation"):
            number = len(self.splits.of)
            why = (
                "there is one document"
                if number == 1
                else f"all {number} are near-copies of each other, or share an id, so they stay "
                "together; add other documents to have some to evaluate on"
            )
            found.append(f"No document is held out: {why}.")
        for stage in STAGES if self.outcomes else ():
            if not self.rows[FOLDERS[stage]]["train"]:
                lack, advice = describe_lack(self.rows, self.outcomes, stage)
                found.append(f"The data set has {lack} {advice}")
        return found


def _characters(messages: list[dict[str, str]]) -> int:
    return sum(len(message["content"]) for message in messages)


def _describe(values: array[float]) -> dict[str, float]:
    described = {"n": float(len(values)), "mean": math.fsum(values) / len(values)}
    names = [f"p{percent}" for percent in PERCENTILES]
    described |= dict(zip(names, np.percentile(values, PERCENTILES).tolist(), strict=True))
    return {name: round(value, 2) + 0 for name, value in described.items()}  # + 0: no "-0.0"


_PATH = re.compile(
    r"(?<![\w/.~])(?:~?/(?!/)|[A-Za-z]:\\)(?:[^\s,;'\"/\\]+[/\\])*([^\s,;'\"/\\]+)/?"
)


def collect_facts(store: Store) -> dict[str, Any]:
    """Returns what a card says about a run, without local paths."""
    bound = store.get("bound") or {}
    summary = SearchSummary()
    judged = disagreeing = 0
    with store.snapshot():
        counts = store.tree_counts()
        for tree in store.trees(only_finished=True):
            summary.add(tree)
            for node in tree.nodes:
                if len(scores_of_judges(node.verdicts)) > 1:
                    judged += 1
                    disagreeing += disagrees(node.verdicts)
        nodes = store.num_rounds()
        sources = sorted({corpus_name(store.document(i)) for i in store.document_ids()})
    profile = store.get("profile") or {}
    facts = {
        "engine": bound.get("engine"),
        "tokenizer": bound.get("tokenizer"),
        "profile": bound.get("profile"),
        "profile_sha256": hashlib.sha256(
            json.dumps(profile, sort_keys=True, ensure_ascii=False).encode()
        ).hexdigest(),
        "search": store.get("config"),
        "judges": store.get("judges"),
        "necessity": store.get(SETTING),
        "adapted": store.get("adapted") or [],
        "questions": counts["questions"],
        "finished_questions": summary.outcomes.total(),
        "failed_questions": summary.outcomes["failed"],
        "documents": len(store.document_ids()),
        "sources": sources,
        "nodes": nodes,
        "scored_questions": summary.scored,
        "recall_by_depth": {str(d): round(r, 4) for d, r in summary.recall_by_depth.items()},
        "judge_disagreements": {"answers": judged, "disagreeing": disagreeing},
        "judge_controls": store.get("controls"),
        "tokens_by_phase": {
            name: usage.as_dict() for name, usage in store.usage_by_phase().items()
        },
    }
    public: dict[str, Any] = without_paths(facts)
    return public


def without_paths(value: Any) -> Any:
    """Returns JSON data in which local paths are cut to their last name.

    >>> without_paths({"tokenizer": "/home/ada/models/tiny", "url": "http://localhost:8000/v1"})
    {'tokenizer': 'tiny', 'url': 'http://localhost:8000/v1'}
    """
    if isinstance(value, str):
        return _PATH.sub(r"\1", value)
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    return value
