"""A data set in the published schema into the files of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from agenticlu.core.errors import TrainingError
from agenticlu.core.records import content_id
from agenticlu.data.build import Contaminated
from agenticlu.data.contamination import EvaluationTexts
from agenticlu.data.corpus import load_source_rows
from agenticlu.data.pairs import log_ratio
from agenticlu.data.published import Messages, PublishedRow, parse_row
from agenticlu.data.rows import RowFiles
from agenticlu.data.spill import Spill
from agenticlu.data.splits import Fingerprint, assign_splits
from agenticlu.data.summary import DatasetSummary

_SCHEMA = "The schema is prompt, chosen, rejected, score_chosen, score_rejected."
NOT_BETTER = "chosen not scored above rejected"


def import_published(
    source: str,
    folder: Path,
    *,
    split: str = "train",
    validation: float = 0.1,
    evaluation: EvaluationTexts | None = None,
    drop_contaminated: bool = True,
) -> DatasetSummary:
    """Streams rows into a data set's files, split by document, document by document.

    Rows of one document stand together, whatever their order in the source: that is how Parquet
    keeps its text once.

    Args:
        source: JSON, JSONL or Parquet file, folder, or hub id.
        folder: Folder to write `preference/` and `sft/` into.
        split: Split of a folder or a hub data set.
        validation: Share of the documents to hold out.
        evaluation: What the data set must not share with an evaluation.
        drop_contaminated: Leave out what is shared; else only count it.

    Raises:
        DocumentError: The source cannot be read.
        TrainingError: Not a single row is of use.
    """
    label = Path(source).name if Path(source).exists() else source
    fingerprints: list[Fingerprint] = []
    shared_documents: set[str] = set()
    shared_questions: set[str] = set()
    with Spill(folder / "spill") as spill:
        summary = DatasetSummary(assign_splits((), 0))
        for row in _usable(_rows_of(source, split), summary):
            document_id = row.document_id
            if not spill.holds(document_id):
                fingerprints.append(Fingerprint.of(document_id, row.document))
                if evaluation is not None and evaluation.has_document(document_id, row.document):
                    shared_documents.add(document_id)
            spill.add(document_id, row.document, _without_document(row))
        summary.splits = assign_splits(fingerprints, validation)
        with RowFiles(folder) as files:
            for document_id, text, stored in spill.documents():
                for row in (_with_document(one, text) for one in stored):
                    shared = document_id in shared_documents
                    asked = evaluation is not None and evaluation.has_question(row.question)
                    if asked:
                        shared_questions.add(_question_id(document_id, row))
                    if drop_contaminated and (shared or asked):
                        reason: Contaminated = (
                            "document in evaluation" if shared else "question in evaluation"
                        )
                        summary.funnel.rows[reason] += 1
                    else:
                        _write(row, document_id, label, summary, files)
            summary.rows = files.counts()
            if not sum(summary.rows["preference"].values()):
                reasons = ", ".join(f"{n} {why}" for why, n in summary.funnel.rows.items())
                raise TrainingError(
                    f"{source} holds no usable row ({reasons or 'no rows'}).",
                    hint=_SCHEMA if "not in the published schema" in summary.funnel.rows else None,
                )
    if evaluation is not None:
        summary.contamination = evaluation.report(
            shared_documents, shared_questions, dropped=drop_contaminated
        )
    return summary


def _rows_of(source: str, split: str) -> Iterable[Mapping[str, Any]]:
    """Reads a source; a data set of ours holds conversations beside its preference rows."""
    preference = Path(source) / "preference"
    return load_source_rows(str(preference) if preference.is_dir() else source, split)


def _usable(rows: Iterable[Mapping[str, Any]], summary: DatasetSummary) -> Iterator[PublishedRow]:
    for raw in rows:
        row = parse_row(raw)
        if isinstance(row, str):
            summary.funnel.rows[row] += 1
        else:
            yield row


def _write(
    row: PublishedRow, document_id: str, label: str, summary: DatasetSummary, files: RowFiles
) -> None:
    split = summary.splits.of[document_id]
    preference = _preference(row, document_id, label)
    files.write("preference", split, preference)
    summary.funnel.rows["written"] += 1
    summary.turn_kinds[row.turn_kind] += 1
    summary.lengths.add_row(preference)
    summary.num_not_better += preference["margin"] <= 0
    if row.turn_kind != "answer":
        return
    if row.score_chosen <= row.score_rejected:
        summary.funnel.traces[NOT_BETTER] += 1
        return
    conversation = _conversation(row, document_id, label)
    files.write("sft", split, conversation)
    summary.funnel.traces["written"] += 1
    summary.lengths.add_row(conversation)


def _without_document(row: PublishedRow) -> dict[str, Any]:
    """Returns a row as JSON data, its document taken out of the first request."""
    return {**asdict(row), "document": "", "prompt": _opened(row.prompt, len(row.document), "")}


def _with_document(data: dict[str, Any], text: str) -> PublishedRow:
    row = PublishedRow(**{**data, "answers": tuple(data["answers"])})
    return replace(row, document=text, prompt=_opened(row.prompt, 0, text))


def _opened(prompt: Messages, cut: int, text: str) -> Messages:
    """Returns a prompt whose first request begins with a text instead of what is cut off."""
    first = next(i for i, message in enumerate(prompt) if message["role"] == "user")
    message = {"role": "user", "content": text + prompt[first]["content"][cut:]}
    return [*prompt[:first], message, *prompt[first + 1 :]]


def _preference(row: PublishedRow, document_id: str, source: str) -> dict[str, Any]:
    chosen, rejected = row.chosen[0]["content"], row.rejected[0]["content"]
    return {
        "prompt": row.prompt,
        "chosen": row.chosen,
        "rejected": row.rejected,
        "score_chosen": row.score_chosen,
        "score_rejected": row.score_rejected,
        **_provenance(row, document_id, source),
        "turn_kind": row.turn_kind,
        "chosen_node": "",
        "rejected_node": "",
        "pair_id": content_id(document_id, row.question, chosen, rejected, str(row.depth)),
        "pair_kind": "published",
        "margin": row.score_chosen - row.score_rejected,
        "log_length_ratio": round(log_ratio(chosen, rejected), 4),
    }


def _conversation(row: PublishedRow, document_id: str, source: str) -> dict[str, Any]:
    return {
        "messages": [*row.prompt, *row.chosen],
        "targets": [len(row.prompt)],
        **_provenance(row, document_id, source),
        "node_id": "",
        "score": row.score_chosen,
        "has_check": False,
    }


def _provenance(row: PublishedRow, document_id: str, source: str) -> dict[str, Any]:
    question_id = _question_id(document_id, row)
    return {
        "document_id": document_id,
        "question_id": question_id,
        "question": row.question,
        "answers": list(row.answers),
        "depth": row.depth,
        "tree_id": question_id,
        "engine": source,
        "judge": "",
        "seed": 0,
        "leak": row.leak,
        "closed_book": None,
    }


def _question_id(document_id: str, row: PublishedRow) -> str:
    return content_id(document_id, row.question)
