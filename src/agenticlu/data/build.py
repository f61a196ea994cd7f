"""A run's trees into the files of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Literal

from agenticlu.core.errors import TrainingError
from agenticlu.core.records import Document, Piece, Tree
from agenticlu.data.contamination import EvaluationTexts
from agenticlu.data.corpus import own_id
from agenticlu.data.facts import without_paths
from agenticlu.data.pairs import PairPolicy, build_pairs, build_rows
from agenticlu.data.rows import RowFiles
from agenticlu.data.splits import Fingerprint, assign_splits
from agenticlu.data.summary import DatasetSummary
from agenticlu.data.traces import build_self_checks, build_trace
from agenticlu.data.tree_view import TreeView
from agenticlu.search.run import read_settings
from agenticlu.search.store import Store

Contaminated = Literal["document in evaluation", "question in evaluation"]
TreeLoss = Literal["unfinished", "answerable without document", Contaminated]
"""Why nothing of a tree is looked at."""


def build_dataset(
    store: Store,
    folder: Path,
    policy: PairPolicy,
    evaluation: EvaluationTexts | None = None,
    *,
    drop_contaminated: bool = True,
) -> DatasetSummary:
    """Writes `sft/` and `preference/` under a folder, split by document.

    Every question and every node of the run is counted once in the funnel: this is checked
    against the store's own counts.

    Args:
        store: The run; may be in the middle of a search.
        folder: Where to write.
        policy: Which pairs.
        evaluation: What the data set must not share with an evaluation.
        drop_contaminated: Leave out what is shared; else only count it.

    Raises:
        StoreError: The store holds no search.
        TrainingError: The trees give not a single row.
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
        with RowFiles(folder) as files:
            for view, is_finished in load_tree_views(store):
                loss: TreeLoss | None = (
                    _loss(view.tree, policy, *unwanted) if is_finished else "unfinished"
                )
                if loss is None:
                    _write_tree(view, policy, summary, files)
                else:
                    summary.funnel.traces[loss] += 1
                    summary.funnel.nodes[loss] += sum(
                        node.parent is not None for node in view.tree.nodes
                    )
            _count_unstarted(store, summary)
            summary.rows = files.counts()
            # Self-checks alone would teach nothing but doubt.
            if not any(sum(summary.rows[kind].values()) for kind in ("sft", "preference")):
                raise TrainingError(
                    f"The trees give no row. Questions: {_listed(summary)}.",
                    hint=_advice(summary, store.folder),
                )
    return summary


def load_tree_views(store: Store) -> Iterator[tuple[TreeView, bool]]:
    """Yields the trees of a run, in corpus order, and whether each is finished."""
    _, profile = read_settings(store)
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
        )
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
        files.write("sft", split, trace)
        summary.lengths.add_row(trace)
    for row in build_self_checks(view, policy.self_checks, drop_leaks=policy.drop_leaks):
        files.write("self_check", split, row)
    for pair in build_pairs(view, policy, summary.funnel):
        for row in build_rows(view, pair, policy, summary.funnel):
            files.write("preference", split, row)
            summary.lengths.add_row(row)
            summary.turn_kinds[row["turn_kind"]] += 1


def _count_unstarted(store: Store, summary: DatasetSummary) -> None:
    """Counts the questions that have no tree yet, and checks that nothing was lost."""
    counts, funnel = store.tree_counts(), summary.funnel
    unstarted = counts["questions"] - counts["growing"] - counts["done"]
    if unstarted:
        funnel.traces["unfinished"] += unstarted
    assert funnel.traces.total() == counts["questions"], "a question was lost"
    assert funnel.nodes.total() == store.num_rounds(), "a node was lost"


def _loss(
    tree: Tree, policy: PairPolicy, documents: Set[str], questions: Set[str]
) -> TreeLoss | None:
    """Returns why a finished tree is left out, given the ids of what is not wanted."""
    if tree.document_id in documents:
        return "document in evaluation"
    if tree.question.id in questions:
        return "question in evaluation"
    limit, share = policy.drop_closed_book, tree.closed_book
    if limit is not None and share is not None and share >= limit:
        return "answerable without document"
    return None


def _advice(summary: DatasetSummary, run: Path) -> str:
    """Returns what to do when everything was lost, by how most of it was."""
    lost = summary.funnel.traces.most_common(1)
    advice = {
        "document in evaluation": "Search other documents; --decontaminate-report only counts.",
        "question in evaluation": "Ask other questions; --decontaminate-report only counts.",
        "answerable without document": "Raise --drop-closed-book, or leave it out.",
        "leak": "Look at the trees (agenticlu report), or add --keep-leaks.",
    }
    search = f"See agenticlu status {run}; go on with the search, or search deeper: --depth."
    return advice.get(lost[0][0], search) if lost else search


def _listed(summary: DatasetSummary) -> str:
    reasons = summary.funnel.traces
    return ", ".join(f"{number} {why}" for why, number in sorted(reasons.items())) or "none"
