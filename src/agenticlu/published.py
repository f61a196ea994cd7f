"""Preference data in the published schema: read it, import it, read its wordings off.

A row of yzhuang/Agentic-Long-Context-Understanding-QA holds `prompt`, `chosen`, `rejected` (lists
of messages) and two scores. Its conversations begin with system, marked document + question, base
answer; each level then has four requests: clarify, point back, sub-answer, answer. Ids of document
and question are not kept there; here they are made from the content, so that a split by document
is possible.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.corpus import load_rows
from agenticlu.errors import DocumentError, TrainingError
from agenticlu.pairs import open_writers
from agenticlu.prompts import KINDS, Layout, Profile, Wording, load_profile
from agenticlu.records import TurnKind, content_id, content_seed

LEVEL: tuple[TurnKind, ...] = ("clarify", "point", "sub_answer", "answer")
ROUND: tuple[TurnKind, ...] = (*LEVEL, "check")
_LAST_MARK = re.compile(r"</para(?:graph)?\s*\d+\s*>(?!.*</para(?:graph)?\s*\d+\s*>)", re.DOTALL)
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class PublishedRow:
    """One row, with what its conversation tells."""

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

    @property
    def document_id(self) -> str:
        """Content hash of the marked document."""
        return content_id(self.document)


@dataclass
class ImportSummary:
    """What an import wrote."""

    rows: dict[str, int] = field(default_factory=dict)
    """By split."""
    documents: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Reason to rows left out."""

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        return {
            "rows": self.rows,
            "documents": self.documents,
            "refused": dict(sorted(self.refused.items())),
        }


def parse_row(row: Mapping[str, Any]) -> PublishedRow | str:
    """Returns a row, or the reason why it is of no use."""
    try:
        prompt, chosen, rejected = (
            _messages(row[name]) for name in ("prompt", "chosen", "rejected")
        )
        scores = float(row["score_chosen"]), float(row["score_rejected"])
    except (KeyError, TypeError, ValueError):
        return "not in the published schema"
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
    return PublishedRow(prompt, chosen, rejected, *scores, document, question, kind, depth)


def split_opening(text: str) -> tuple[str, str]:
    r"""Returns the marked document and the question of a conversation's first request.

    >>> split_opening("<para 0> Ada bakes. </para 0>\n\nWho bakes?")
    ('<para 0> Ada bakes. </para 0>', 'Who bakes?')
    """
    found = _LAST_MARK.search(text)
    if not found:
        return "", text.strip()
    rest = text[found.end() :].strip()
    question = rest.split("\n\n")[0].strip()
    return text[: found.end()], question.removeprefix("Question:").strip()


def import_published(
    source: str, out: Path, *, split: str = "train", validation: float = 0.1
) -> ImportSummary:
    """Streams rows into a data set folder, split by document.

    A document's text stands in each of its rows, but Parquet's dictionaries and compression keep
    it once in the file.

    Args:
        source: JSON, JSONL or Parquet file, folder, or hub id.
        out: Folder to write `preference/` and `sft/` into.
        split: Split of a hub data set.
        validation: Share of the documents, chosen by hash.

    Raises:
        DocumentError: The source cannot be read.
        TrainingError: Not a single row is of use.
    """
    summary = ImportSummary()
    documents: set[str] = set()
    writers = open_writers(out)
    try:
        for raw in load_rows(source, split):
            row = parse_row(raw)
            if isinstance(row, str):
                summary.refused[row] += 1
                continue
            document_id = row.document_id
            documents.add(document_id)
            held_out = content_seed("split", document_id) < validation * (1 << 31)
            part = "validation" if held_out else "train"
            writers["preference", part].write(_preference(row, document_id, source))
            if row.turn_kind == "answer":
                writers["sft", part].write(_conversation(row, document_id, source))
        if not documents:
            reasons = ", ".join(f"{n} {why}" for why, n in summary.refused.items()) or "no rows"
            raise TrainingError(
                f"{source} holds no usable row ({reasons}).",
                hint="The schema is prompt, chosen, rejected, score_chosen, score_rejected.",
            )
    except BaseException:
        for writer in writers.values():
            writer.discard()
        raise
    for writer in writers.values():
        writer.close()
    summary.documents = len(documents)
    summary.rows = {part: writers["preference", part].count for part in ("train", "validation")}
    return summary


def extract_profile(
    rows: Iterable[Mapping[str, Any]], name: str, *, least: int = 1, limit: int | None = None
) -> tuple[Profile, dict[str, int]]:
    """Reads the fixed wordings of requests off a preference data set.

    Args:
        rows: Rows in the published schema.
        name: Of the profile.
        least: Times a wording must occur.
        limit: Rows to read at most.

    Returns:
        A profile with the wordings found, the commonest first, completed from the default one for
        kinds that the data set does not have, in the layout of most of its conversations; and the
        number found of each kind.

    Raises:
        DocumentError: No wording was found.
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
            "No wording could be read off the data set.",
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


# --- Inside ---------------------------------------------------------------------------------------


def _messages(value: Any) -> Messages:
    if isinstance(value, str):
        value = json.loads(value)
    return [{"role": str(m["role"]), "content": str(m["content"])} for m in value]


def _place(row: Mapping[str, Any], prompt: Sequence[Mapping[str, str]]) -> tuple[TurnKind, int]:
    """Returns which turn the row asks for, from its place in the conversation."""
    if row.get("turn_kind") in ROUND and row.get("depth"):
        return row["turn_kind"], int(row["depth"])
    answered = sum(message["role"] == "assistant" for message in prompt)
    if answered == 0:
        return "direct", 0
    return LEVEL[(answered - 1) % len(LEVEL)], (answered - 1) // len(LEVEL) + 1


def _layout(row: PublishedRow) -> Layout:
    """Tells whether document and question open the conversation alone."""
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
        "log_length_ratio": 0.0,
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
    question_id = content_id(document_id, row.question)
    return {
        "document_id": document_id,
        "question_id": question_id,
        "question": row.question,
        "answers": [],
        "depth": row.depth,
        "tree_id": question_id,
        "engine": source,
        "judge": "",
        "seed": 0,
        "leak": False,
        "closed_book": None,
    }


def _quoted(text: str) -> str:
    """Returns a TOML basic string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
