"""Imports preference data in the published schema: reads its rows, extracts its wordings.

A row of yzhuang/Agentic-Long-Context-Understanding-QA holds `prompt`, `chosen`, `rejected` (lists
of messages) and two scores. Its conversations begin with system, marked document + question, base
answer; each level then has four requests: clarify, point back, sub-answer, answer. The rows have no
ids of documents and questions; here they are made from the content, so that a split by document is
possible. What looks like a model's control token in a text is broken up, as in generated rows.
"""

from __future__ import annotations

import bisect
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agenticlu.core.errors import DocumentError, TrainingError
from agenticlu.core.records import TurnKind, content_id
from agenticlu.data.build import Contaminated, DatasetSummary, write_trace
from agenticlu.data.corpus import load_source_rows
from agenticlu.data.dataset import RowFiles, RowSorter
from agenticlu.data.overlap import EvaluationTexts
from agenticlu.data.pairs import log_ratio
from agenticlu.data.splits import Fingerprint, assign_splits
from agenticlu.data.tree_view import is_leak
from agenticlu.dialogue.steps import KINDS, Layout, Profile, Wording, load_profile
from agenticlu.documents import neutralise_controls, parse_marks

LEVEL: tuple[TurnKind, ...] = ("clarify", "point", "sub_answer", "answer")
ROUND: tuple[TurnKind, ...] = (*LEVEL, "check")
_MARK = re.compile(r"<(?P<closing>/?)para(?:graph)?\s*+(?P<number>\d{1,6})\s*+>")
Messages = list[dict[str, str]]
RowFlaw = Literal[
    "not in the published schema",
    "score is not a number",
    "prompt does not end in a request",
    "not exactly one reply",
    "chosen equals rejected",
    "empty reply",
    "no marked document",
]
"""Why a row is unusable."""


@dataclass(frozen=True)
class PublishedRow:
    """One row, with what its conversation reveals."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    score_chosen: float
    score_rejected: float
    document: str
    """The marked document as it stands in the prompt."""
    question: str
    turn_kind: TurnKind
    depth: int
    answers: tuple[str, ...] = ()
    """Accepted answers; empty when the data set does not give them."""
    neutralised: bool = False
    """Whether control tokens were broken up in it."""

    @property
    def document_id(self) -> str:
        """Content hash of the marked document."""
        return content_id(self.document)

    @property
    def leak(self) -> bool | None:
        """Whether a clarification gives an answer away; None when no answer is known."""
        if not self.answers:
            return None
        pieces = _pieces(self.document)
        known = [self.question]
        replies = [m["content"] for m in self.prompt if m["role"] == "assistant"]
        replies.append(self.chosen[0]["content"])
        # The published conversations begin with a base answer and have no self-checks.
        kinds, first = (LEVEL, 1) if _layout(self) == "published" else (ROUND, 0)
        for number, reply in enumerate(replies):
            kind = kinds[(number - first) % len(kinds)] if number >= first else "direct"
            if kind == "clarify" and is_leak(reply, known, self.answers):
                return True
            known.append(reply)
            if kind == "point":
                named = parse_marks(reply, max(pieces, default=-1) + 1).valid
                known += [pieces[index] for index in named if index in pieces]
        return False


def parse_row(row: Mapping[str, Any]) -> PublishedRow | RowFlaw:
    """Returns a row, or the reason why it is unusable."""
    try:
        given = [_messages(row[name]) for name in ("prompt", "chosen", "rejected")]
        scores = float(row["score_chosen"]), float(row["score_rejected"])
    except (KeyError, TypeError, ValueError):
        return "not in the published schema"
    prompt, chosen, rejected = clean = [_neutralise(messages) for messages in given]
    if not all(map(math.isfinite, scores)):
        return "score is not a number"
    if not prompt or prompt[-1]["role"] != "user":
        return "prompt does not end in a request"
    if [m["role"] for m in chosen] != ["assistant"] or [m["role"] for m in rejected] != [
        "assistant"
    ]:
        return "not exactly one reply"
    if chosen == rejected:
        return "chosen equals rejected"
    if not chosen[0]["content"].strip() or not rejected[0]["content"].strip():
        return "empty reply"
    first = next(message["content"] for message in prompt if message["role"] == "user")
    document, question = split_opening(first)
    if not document:
        return "no marked document"
    kind, depth = _place(row, prompt)
    answers = row.get("answers")
    return PublishedRow(
        *(prompt, chosen, rejected, *scores, document, question, kind, depth),
        answers=tuple(map(str, answers)) if isinstance(answers, (list, tuple)) else (),
        neutralised=clean != given,
    )


def _pieces(document: str) -> dict[int, str]:
    """Returns the pieces of a marked document by number; a mark that is never closed is text."""
    marks = list(_MARK.finditer(document))
    closings: dict[str, list[int]] = {}
    for index, mark in enumerate(marks):
        if mark["closing"]:
            closings.setdefault(mark["number"], []).append(index)
    pieces: dict[int, str] = {}
    index = 0
    while index < len(marks):
        mark = marks[index]
        index += 1
        own = closings.get(mark["number"], [])
        if not mark["closing"] and (after := bisect.bisect_left(own, index)) < len(own):
            pieces[int(mark["number"])] = document[mark.end() : marks[own[after]].start()]
            index = own[after] + 1
    return pieces


def split_opening(text: str) -> tuple[str, str]:
    r"""Returns the marked document and the question of a conversation's first request.

    >>> split_opening("<para 0> Ada bakes. </para 0>\n\nWho bakes?")
    ('<para 0> Ada bakes. </para 0>', 'Who bakes?')
    """
    found = None
    for mark in _MARK.finditer(text):
        found = mark if mark["closing"] else found
    if not found:
        return "", text.strip()
    rest = text[found.end() :].strip()
    question = rest.split("\n\n")[0].strip()
    return text[: found.end()], question.removeprefix("Question:").strip()


def extract_profile(
    rows: Iterable[Mapping[str, Any]], name: str, *, least: int = 1, limit: int | None = None
) -> tuple[Profile, dict[str, int]]:
    """Extracts the fixed wordings of requests from a preference data set.

    Args:
        rows: Rows in the published schema.
        name: Of the profile.
        least: How often a wording must occur.
        limit: Most rows to read.

    Returns:
        A profile with the wordings found, the commonest first, completed from the default one for
        kinds that the data set does not have, in the layout of most of its conversations; and the
        number found of each kind.

    Raises:
        DocumentError: There is none.
    """
    found: dict[str, Counter[str]] = {}
    layouts: Counter[Layout] = Counter()
    for number, raw in enumerate(rows):
        if limit is not None and number >= limit:
            break
        row = parse_row(raw)
        if not isinstance(row, str):
            layouts[_layout(row)] += 1
            for kind, text in _wordings(row):
                found.setdefault(kind, Counter())[text] += 1
    pools: dict[str, tuple[Wording, ...]] = {}
    for kind, counter in found.items():
        texts = [text for text, times in counter.most_common() if times >= least]
        if texts:
            pools[kind] = tuple(
                Wording(id=f"{kind.replace('_', '-')}-{content_id(text, length=8)}", text=text)
                for text in texts
            )
    if not pools:
        raise DocumentError(
            "The data set yields no wordings.",
            hint="Rows need a prompt that begins with a marked document (<para 0> ... </para 0>).",
        )
    if "clarify_again" not in pools and "clarify" in pools:
        pools["clarify_again"] = pools["clarify"]
    layout = layouts.most_common(1)[0][0]
    changes = {"name": name, "version": 1, "layout": layout, **pools}
    profile = load_profile().model_copy(update=changes)
    return profile, {kind: len(pool) for kind, pool in sorted(pools.items())}


def render_profile(profile: Profile) -> str:
    """Returns a profile as TOML."""
    lines = [
        f"name = {_quoted(profile.name)}",
        f"version = {profile.version}",
        f"layout = {_quoted(profile.layout)}",
    ]
    for kind in KINDS:
        for wording in getattr(profile, kind):
            lines += ["", f"[[{kind}]]", f"id = {_quoted(wording.id)}"]
            lines.append(f"text = {_quoted(wording.text)}")
    return "\n".join(lines) + "\n"


def _messages(value: Any) -> Messages:
    if isinstance(value, str):
        value = json.loads(value)
    messages = [{"role": m["role"], "content": m["content"]} for m in value]
    if not all(isinstance(text, str) for message in messages for text in message.values()):
        raise TypeError("the content of a message must be a string")
    return messages


def _neutralise(messages: Messages) -> Messages:
    return [{**one, "content": neutralise_controls(one["content"])} for one in messages]


def _place(row: Mapping[str, Any], prompt: Sequence[Mapping[str, str]]) -> tuple[TurnKind, int]:
    """Returns which turn the row asks for, from its place in the conversation."""
    if row.get("turn_kind") in ROUND and row.get("depth"):
        return row["turn_kind"], int(row["depth"])
    answered = sum(message["role"] == "assistant" for message in prompt)
    if answered == 0:
        return "direct", 0
    return LEVEL[(answered - 1) % len(LEVEL)], (answered - 1) // len(LEVEL) + 1


def _layout(row: PublishedRow) -> Layout:
    """Returns the layout: 'published' if document and question alone open the conversation."""
    first = next(message["content"] for message in row.prompt if message["role"] == "user")
    rest = first[len(row.document) :].strip().removeprefix("Question:").strip()
    return "published" if rest == row.question else "own"


def _wordings(row: PublishedRow) -> Iterator[tuple[str, str]]:
    """Yields (kind, wording) of every request in a prompt."""
    requests = []
    for message in row.prompt:
        if message["role"] == "system":
            yield "system", message["content"]
        elif message["role"] == "user":
            requests.append(message["content"])
    if _layout(row) == "own":
        requests[0] = requests[0][len(row.document) :].strip().split("\n\n", 1)[1]
        kinds = ROUND
    else:
        requests, kinds = requests[1:], LEVEL
    for number, request in enumerate(requests):
        kind: str = kinds[number % len(kinds)]
        if kind == "clarify" and number >= len(kinds):
            kind = "clarify_again"
        text = request.replace(row.question, "{question}") if row.question else request
        if text.strip():
            yield kind, text


def _quoted(text: str) -> str:
    """Returns a TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


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
    """Streams preference rows into the files of a data set, split by document.

    Rows are written document by document, whatever their order in the source: only then does
    Parquet keep a document's text once.

    Args:
        source: JSON, JSONL or Parquet file, directory, or hub id.
        folder: Directory to write `preference/` and `sft/` into.
        split: Split of a directory or a hub data set.
        validation: Share of the documents to hold out.
        evaluation: Documents and questions of an evaluation, which training must not see.
        drop_contaminated: Leave out what the evaluation has; else only count it.

    Raises:
        DocumentError: The source cannot be read.
        TrainingError: No row is usable.
    """
    label = Path(source).name if Path(source).exists() else source
    fingerprints: list[Fingerprint] = []
    shared_documents: set[str] = set()
    shared_questions: set[str] = set()
    with RowSorter(folder / "rows.sqlite") as sorter:
        summary = DatasetSummary(assign_splits((), 0))
        for row in _parse_rows(_load_preference_rows(source, split), summary):
            document_id = row.document_id
            if sorter.add(document_id, row.document, _without_document(row)):
                fingerprints.append(Fingerprint.of(document_id, row.document))
                if evaluation is not None and evaluation.has_document(document_id, row.document):
                    shared_documents.add(document_id)
        summary.splits = assign_splits(fingerprints, validation)
        with RowFiles(folder) as files:
            for document_id, text, stored in sorter.documents():
                for row in (_with_document(one, text) for one in stored):
                    found: Contaminated | None = None
                    if evaluation is not None and evaluation.has_question(row.question):
                        shared_questions.add(_question_id(document_id, row))
                        found = "question in evaluation"
                    if document_id in shared_documents:
                        found = "document in evaluation"
                    if found is not None and drop_contaminated:
                        summary.funnel.rows[found] += 1
                    else:
                        _write(row, document_id, label, summary, files)
            summary.rows = files.counts()
            _require_rows(summary, source)
    if evaluation is not None:
        summary.contamination = evaluation.report(
            shared_documents, shared_questions, dropped=drop_contaminated
        )
    return summary


def _require_rows(summary: DatasetSummary, source: str) -> None:
    if not sum(summary.rows["preference"].values()):
        reasons = ", ".join(f"{n} {why}" for why, n in summary.funnel.rows.items())
        raise TrainingError(
            f"{source} holds no usable rows ({reasons or 'it is empty'}).",
            hint=_SCHEMA if "not in the published schema" in summary.funnel.rows else None,
        )


def _load_preference_rows(source: str, split: str) -> Iterable[Mapping[str, Any]]:
    """Reads a source; of a data set of agenticlu, its preference rows."""
    preference = Path(source) / "preference"
    return load_source_rows(str(preference) if preference.is_dir() else source, split)


def _parse_rows(
    rows: Iterable[Mapping[str, Any]], summary: DatasetSummary
) -> Iterator[PublishedRow]:
    for raw in rows:
        row = parse_row(raw)
        if isinstance(row, str):
            summary.funnel.rows[row] += 1
        else:
            summary.num_neutralised += row.neutralised
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
    write_trace(files, split, conversation)
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
