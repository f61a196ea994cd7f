"""Crash-safe store of a run: one SQLite file, one writer, a ledger of every call.

A call is written down twice: its *intent* is committed before it is sent, its *outcome* after. A
process killed in between loses only the calls in flight; the next one finds every finished call by
its key, which is made of the call's content and of the sample's ordinal, so that resumed siblings
stay different. Appends are grouped: all that arrive while one commit reaches the disk share the
next.

```
document ── question ── tree ── node        what was grown (nodes as finished records)
call        intent → done | failed          every request to an engine
grounding   (clarification, document)       a vector of scores; replaces its pieces' calls
judgement   (judge, question, gold, answer) every vote of a judge that costs something
run         name → JSON                     settings, the profile's text, progress
```

All keys are derived from content, so two files of one run are merged by union.
"""

from __future__ import annotations

import functools
import json
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Document, Node, Piece, Question, Tree, Usage, Verdict
from agenticlu.search.store.file import RunFile, Statement, pack, unpack


class TreeTables(RunFile):
    """Stores documents once, questions in corpus order, and each tree as a header and its nodes."""

    def add_document(self, document: Document, pieces: Sequence[Piece]) -> None:
        """Stores a document once, with its pieces."""
        header = document.model_dump_json(exclude={"text"})
        # A text cut out of UTF-16 may hold lone surrogates, and must come back as it was.
        text = zlib.compress(document.text.encode("utf-8", "surrogatepass"), 6)
        spans = pack([[p.index, p.start, p.end, p.num_tokens, p.page] for p in pieces])
        sql = "INSERT OR IGNORE INTO document VALUES (?, ?, ?, ?)"
        self.write([(sql, (document.id, header, text, spans))])

    def has_document(self, document_id: str) -> bool:
        """Whether the document is stored."""
        return self._one("SELECT 1 FROM document WHERE id = ?", (document_id,)) is not None

    def document(self, document_id: str) -> Document:
        """Returns a stored document."""
        header, text = self._document_columns("header, text", document_id)
        with self.decoding(f"document {document_id}"):
            text = zlib.decompress(text).decode("utf-8", "surrogatepass")
            return Document.model_validate({**json.loads(header), "text": text})

    def pieces(self, document_id: str) -> tuple[Piece, ...]:
        """Returns the pieces a document was split into."""
        (spans,) = self._document_columns("pieces", document_id)
        with self.decoding(f"document {document_id}"):
            return tuple(
                Piece(index=i, start=start, end=end, num_tokens=tokens, page=page)
                for i, start, end, tokens, page in unpack(spans)
            )

    def _document_columns(self, columns: str, document_id: str) -> tuple[Any, ...]:
        row = self._one(f"SELECT {columns} FROM document WHERE id = ?", (document_id,))
        if row is None:
            raise StoreError(f"{self.path} has no document {document_id!r}.")
        return row

    def document_ids(self) -> tuple[str, ...]:
        """Returns the ids of all documents, in the order of their first question."""
        rows = self._all(
            "SELECT d.id FROM document d LEFT JOIN question q ON q.document_id = d.id "
            "GROUP BY d.id ORDER BY MIN(q.position), d.id"
        )
        return tuple(row[0] for row in rows)

    def add_question(self, question: Question, document_id: str, position: int) -> None:
        """Stores a question; the same id must mean the same question."""
        record = question.model_dump_json()
        row = self._one("SELECT document_id, record FROM question WHERE id = ?", (question.id,))
        if row is not None and row != (document_id, record):
            raise StoreError(
                f"Question id {question.id!r} is already used in {self.path} for another question "
                "or document.",
                hint="Give every question its own id, or leave ids out.",
            )
        sql = "INSERT OR IGNORE INTO question VALUES (?, ?, ?, ?)"
        self.write([(sql, (question.id, document_id, position, record))])

    def questions(self) -> tuple[tuple[Question, str], ...]:
        """Returns all questions with their document's id, in corpus order."""
        rows = self._all("SELECT record, document_id FROM question ORDER BY position, id")
        with self.decoding("a question"):
            return tuple((Question.model_validate_json(row[0]), row[1]) for row in rows)

    async def put_nodes(self, tree: Tree, nodes: Iterable[Node]) -> None:
        """Commits finished nodes and the state of their growing tree."""
        # In one transaction: a node without its tree's row would not be found again.
        sql = (
            "INSERT INTO tree VALUES (?, ?, 'growing', ?) ON CONFLICT (id) DO UPDATE SET "
            "record = excluded.record"
        )
        header = (sql, (tree.id, tree.question.id, _render_header(tree)))
        await self.append([header, *_node_statements(tree.id, nodes)])

    async def finish_tree(self, tree: Tree, *, finished: bool = True) -> None:
        """Commits that a tree will grow no further, replacing what was stored of it.

        Args:
            tree: The tree.
            finished: False where it lacks nodes; the search continues with it.
        """
        state = "done" if finished else "growing"
        # Replaced as a whole: nodes that an earlier growth under other settings left must not mix
        # with these.
        await self.append(
            [
                (REPLACE_TREE, (tree.id, tree.question.id, state, _render_header(tree))),
                (DELETE_NODES, (tree.id,)),
                *_node_statements(tree.id, tree.nodes),
            ]
        )

    async def keep_trees(self, ids: Collection[str]) -> None:
        """Drops all other trees, so that their questions count as not begun; no call is lost."""
        kept = (json.dumps(sorted(ids)),)
        others = "NOT IN (SELECT value FROM json_each(?))"
        await self.append(
            [
                (f"DELETE FROM node WHERE tree_id {others}", kept),
                (f"DELETE FROM tree WHERE id {others}", kept),
            ]
        )

    def tree_state(self, tree_id: str) -> str | None:
        """Returns 'growing', 'done', or None when there is no such tree."""
        state: str | None = self._value("SELECT state FROM tree WHERE id = ?", (tree_id,))
        return state

    def read_chosen(self, tree_id: str) -> dict[str, str] | None:
        """Returns what was chosen for a tree; None where there is no such tree."""
        record = self._value("SELECT record FROM tree WHERE id = ?", (tree_id,))
        if record is None:
            return None
        with self.decoding(f"tree {tree_id}"):
            return Tree.model_validate_json(record).chosen

    def trees(
        self, *, only_finished: bool = False, document_id: str | None = None
    ) -> Iterator[Tree]:
        """Yields trees in corpus order, nodes sorted parents first.

        Args:
            only_finished: Leave out those that still grow.
            document_id: Only those of this document.
        """
        rows = self._all(
            "SELECT t.id, t.record FROM tree t JOIN question q ON q.id = t.question_id "
            "WHERE (t.state = 'done' OR NOT ?) AND COALESCE(q.document_id = ?, TRUE) "
            "ORDER BY q.position, q.id, t.id",
            (only_finished, document_id),
        )
        for tree_id, record in rows:
            blobs = self._all("SELECT record FROM node WHERE tree_id = ?", (tree_id,))
            with self.decoding(f"tree {tree_id}"):
                nodes = _sort_nodes(Node.model_validate(unpack(blob)) for (blob,) in blobs)
                tree = Tree.model_validate_json(record).model_copy(update={"nodes": nodes})
            yield tree

    def node_rows(self, tree_id: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a tree's nodes as stored, ordered by key."""
        return self._all("SELECT * FROM node WHERE tree_id = ? ORDER BY id", (tree_id,))

    def tree_rows(self, tree_id: str) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]] | None:
        """Returns a tree's row and its nodes' rows as stored, or None."""
        row = self._one("SELECT * FROM tree WHERE id = ?", (tree_id,))
        return None if row is None else (row, self.node_rows(tree_id))


REPLACE_TREE = "INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?)"
DELETE_NODES = "DELETE FROM node WHERE tree_id = ?"
REPLACE_NODE = "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)"


def _render_header(tree: Tree) -> str:
    return tree.model_copy(update={"nodes": ()}).model_dump_json()


def _node_statements(tree_id: str, nodes: Iterable[Node]) -> Iterator[Statement]:
    for node in nodes:
        record = pack(node.model_dump(mode="json"))
        yield REPLACE_NODE, (node.id, tree_id, node.depth, record)


def _sort_nodes(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Returns nodes level by level, siblings in sample order."""
    by_parent: dict[str | None, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: node.ordinal):
        by_parent.setdefault(node.parent, []).append(node)
    ordered: list[Node] = []
    level = by_parent.get(None, [])
    while level:
        ordered += level
        level = [child for parent in level for child in by_parent.get(parent.id, ())]
    return tuple(ordered)


NOTHING = Usage()
USAGE_COLUMNS = tuple(Usage.model_fields)
"""The columns of a `Usage`."""
_HAS_VALUE = "json_extract(judgement.record, '$.value') IS NOT NULL"


@dataclass(frozen=True)
class CallId:
    """The identity of a call: its key, and what it is about."""

    key: str
    """Content key; holds the first sample's ordinal."""
    phase: str
    """'ground', 'judge' or the kind of the turn."""
    document_id: str
    question_id: str | None = None
    """None for calls that several questions share."""
    node_id: str | None = None
    """The node that asks; for a call of phase 'ground', the grounding that it will be folded
    into."""


@dataclass(frozen=True)
class CallRecord:
    """A call that is over."""

    state: str
    """'done' or 'failed'."""
    reply: Any
    """The engine's reply, as JSON data; None when it failed."""
    failure: str | None
    usage: Usage


@dataclass(frozen=True)
class GroundingRecord:
    """Result of grounding one text in one document."""

    kept: tuple[int, ...] | None
    """Pieces that were named; None where pieces are scored instead."""
    scores: tuple[float | None, ...] | None
    """One per piece; None for a piece that was not looked at."""
    unparsed: int
    """Verdicts that could not be parsed."""


@dataclass(frozen=True)
class Fold:
    """A grounding to be stored in place of the calls that it was read from."""

    key: str
    document_id: str
    call_keys: Sequence[str]
    kept: tuple[int, ...] | None = None
    scores: tuple[float | None, ...] | None = None
    unparsed: int = 0


class Ledger(RunFile):
    """Records every call to an engine: its intent before it is sent, its outcome after.

    A process that is killed in between loses only the calls in flight. The order matters: an
    outcome without an intent could not be counted as an attempt, and a call that was sent without
    a record would be paid for twice without anybody knowing.
    """

    @functools.cached_property
    def usage_columns(self) -> str:
        """The columns of a `Usage`, as SQL; one that the file is too old to have reads as zero."""
        there = self.columns("call")
        return ", ".join(name if name in there else f"0 AS {name}" for name in USAGE_COLUMNS)

    def find_call(self, key: str) -> CallRecord | None:
        """Returns a finished call; None when it was never made or never ended."""
        row = self._one(
            f"SELECT state, reply, failure, {self.usage_columns} FROM call "
            "WHERE key = ? AND state != 'intent'",
            (key,),
        )
        if row is None:
            return None
        state, reply, failure, *usage = row
        with self.decoding(f"call {key}"):
            reply = None if reply is None else unpack(reply)
        return CallRecord(state, reply, failure, build_usage(usage))

    async def intend(self, call: CallId) -> None:
        """Commits that a call is about to be sent."""
        # A call that is done keeps its reply and cost, even if a second task intends it again.
        sql = (
            "INSERT INTO call (key, phase, document_id, question_id, node_id, state, started) "
            "VALUES (?, ?, ?, ?, ?, 'intent', ?) ON CONFLICT (key) DO UPDATE SET "
            "attempts = attempts + 1, state = 'intent', failure = NULL, "
            "started = excluded.started WHERE state != 'done'"
        )
        about = (call.key, call.phase, call.document_id, call.question_id, call.node_id)
        await self.append([(sql, (*about, time.time()))])

    async def finish(self, key: str, reply: Any, usage: Usage) -> None:
        """Commits a call's reply and cost; the first reply stays."""
        sets = ", ".join(f"{name} = ?" for name in USAGE_COLUMNS)
        # The first reply stays: nodes may already have grown from it.
        sql = (
            f"UPDATE call SET state = 'done', reply = ?, {sets}, finished = ? "
            "WHERE key = ? AND state != 'done'"
        )
        spent = (getattr(usage, name) for name in USAGE_COLUMNS)
        await self.append([(sql, (pack(reply), *spent, time.time(), key))])

    async def fail(self, key: str, reason: str, usage: Usage = NOTHING) -> None:
        """Commits that a call failed for good, and what it cost all the same."""
        sets = ", ".join(f"{name} = ?" for name in USAGE_COLUMNS)
        sql = f"UPDATE call SET state = 'failed', failure = ?, {sets}, finished = ? WHERE key = ?"
        spent = (getattr(usage, name) for name in USAGE_COLUMNS)
        await self.append([(sql, (reason, *spent, time.time(), key))])

    def find_grounding(self, key: str) -> GroundingRecord | None:
        """Returns what grounding found, or None."""
        record = self._value("SELECT record FROM grounding WHERE key = ?", (key,))
        if record is None:
            return None
        with self.decoding(f"grounding {key}"):
            kept, scores, unparsed = unpack(record)
        return GroundingRecord(
            kept=None if kept is None else tuple(kept),
            scores=None if scores is None else tuple(scores),
            unparsed=unparsed,
        )

    async def finish_groundings(self, folds: Sequence[Fold]) -> None:
        """Commits groundings and folds their calls into them, in one transaction.

        The calls' usage is summed by the database from the very rows that are deleted: a crash
        between two transactions would count it twice or not at all.
        """
        sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in USAGE_COLUMNS)
        statements: list[Statement] = []
        for fold in folds:
            record = pack([fold.kept, fold.scores, fold.unparsed])
            keys = tuple(fold.call_keys)
            among = f"key IN ({','.join('?' * len(keys))})"
            # IGNORE: the same grounding may have come in by a merge.
            folded = (
                "INSERT OR IGNORE INTO grounding (key, document_id, record, calls, repeats, "
                f"{', '.join(USAGE_COLUMNS)}, finished) SELECT ?, ?, ?, COUNT(*), "
                f"COALESCE(SUM(attempts - 1), 0), {sums}, MAX(finished) FROM call WHERE {among}"
            )
            statements += [
                (folded, (fold.key, fold.document_id, record, *keys)),
                (f"DELETE FROM call WHERE {among}", keys),
            ]
        await self.append(statements)

    def find_judgement(self, key: str, *, only_scored: bool = False) -> Verdict | None:
        """Returns a stored verdict, perhaps only one with a value; None without one."""
        scored = f" AND {_HAS_VALUE}" if only_scored else ""
        found = self._value(f"SELECT record FROM judgement WHERE key = ?{scored}", (key,))
        return None if found is None else Verdict.model_validate_json(found)

    async def add_judgement(self, key: str, verdict: Verdict) -> None:
        """Commits a verdict; one with a value stays, one without gives way."""
        sql = (
            "INSERT INTO judgement VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            f"record = excluded.record WHERE NOT {_HAS_VALUE}"
        )
        await self.append([(sql, (key, verdict.judge, verdict.model_dump_json()))])


def build_usage(counts: Sequence[int]) -> Usage:
    """Returns the usage of a row's `USAGE_COLUMNS`."""
    return Usage.model_validate(dict(zip(USAGE_COLUMNS, counts, strict=True)))


_PROGRESS = (
    "SELECT document_id, COUNT(*), SUM(attempts), SUM(state = 'failed'), MAX(finished) FROM call "
    "WHERE state != 'intent' GROUP BY document_id",
    "SELECT document_id, COUNT(*), SUM(calls) FROM grounding GROUP BY document_id",
    "SELECT q.document_id, COUNT(*), SUM(t.state = 'done') FROM tree t "
    "JOIN question q ON q.id = t.question_id GROUP BY q.document_id",
    "SELECT q.document_id, COUNT(*) FROM node n JOIN tree t ON t.id = n.tree_id "
    "JOIN question q ON q.id = t.question_id GROUP BY q.document_id",
)


@dataclass(frozen=True)
class CallTimes:
    """When the calls of a run were made, and how many of them are recent, stalled, or of judges."""

    first_started: float | None
    """Seconds since the epoch; None before the first call."""
    last_finished: float | None
    recent: int
    """Calls that ended lately, those folded into groundings included."""
    stalled: int
    """Calls without an outcome that began long ago."""
    judging: int
    """Calls of judges without an outcome."""


class Store(Ledger, TreeTables):
    """A run: its ledger, its trees, and the counts of both.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
    ...     store.put(seed=3)
    ...     (store.get("seed"), store.tree_counts()["questions"], list(store.trees()))
    (3, 0, [])
    """

    def usage_by_phase(self) -> dict[str, Usage]:
        """Returns what finished calls cost, by phase; grounding is folded into 'ground'."""
        sums = ", ".join(f"SUM({name})" for name in USAGE_COLUMNS)
        rows = self._all(
            f"SELECT phase, {sums} FROM (SELECT phase, {self.usage_columns} FROM call UNION ALL "
            f"SELECT 'ground', {self.usage_columns} FROM grounding) GROUP BY phase ORDER BY phase"
        )
        return {phase: build_usage(usage) for phase, *usage in rows}

    def total_usage(self) -> Usage:
        """Returns what all finished calls cost."""
        return sum(self.usage_by_phase().values(), Usage())

    def call_counts(self) -> dict[str, int]:
        """Returns how many calls are done, failed and in flight, and how many were repeated."""
        rows = self._all(
            "SELECT state, COUNT(*), SUM(attempts - 1) FROM call GROUP BY state UNION ALL "
            "SELECT 'done', COALESCE(SUM(calls), 0), COALESCE(SUM(repeats), 0) FROM grounding"
        )
        counts = {"done": 0, "failed": 0, "intent": 0, "repeated": 0}
        for state, number, repeats in rows:
            counts[state] += number
            counts["repeated"] += repeats
        return counts

    def tree_counts(self) -> dict[str, int]:
        """Returns how many questions there are, and how many trees are growing and done."""
        states = dict(self._all("SELECT state, COUNT(*) FROM tree GROUP BY state"))
        return {
            "questions": self._value("SELECT COUNT(*) FROM question"),
            "growing": states.get("growing", 0),
            "done": states.get("done", 0),
        }

    def num_rounds(self) -> int:
        """Returns how many nodes there are besides the roots."""
        return int(self._value("SELECT COUNT(*) FROM node WHERE depth > 0"))

    def outcomes(self) -> dict[str, int]:
        """Returns how finished trees ended."""
        rows = self._all(
            "SELECT json_extract(record, '$.outcome'), COUNT(*) FROM tree WHERE state = 'done' "
            "GROUP BY 1 ORDER BY 1"
        )
        return dict(rows)

    def failures(self) -> dict[str, int]:
        """Returns the reasons of failed calls, the most frequent first."""
        rows = self._all(
            "SELECT failure, COUNT(*) FROM call WHERE state = 'failed' GROUP BY failure "
            "ORDER BY COUNT(*) DESC, failure LIMIT 20"
        )
        return dict(rows)

    def call_times(self, recent_since: float, stalled_before: float) -> CallTimes:
        """Returns when calls began and ended; both limits are in seconds since the epoch."""
        row = self._one(
            "SELECT MIN(started), MAX(finished), COALESCE(SUM(finished >= ?), 0), "
            "COALESCE(SUM(state = 'intent' AND started < ?), 0), "
            "COALESCE(SUM(state = 'intent' AND phase = 'judge'), 0) FROM call",
            (recent_since, stalled_before),
        )
        folded = self._value(
            "SELECT COALESCE(SUM(calls), 0) FROM grounding WHERE finished >= ?", (recent_since,)
        )
        assert row is not None
        first, last, recent, stalled, judging = row
        return CallTimes(first, last, recent + folded, stalled, judging)

    def progress_by_document(self) -> dict[str, tuple[Any, ...]]:
        """Returns, for every document with anything finished, figures that change when more is.

        Calls about no document, those of judges, are listed under the empty id.
        """
        found: dict[str, tuple[Any, ...]] = {}
        for number, sql in enumerate(_PROGRESS):
            for document_id, *figures in self._all(sql):
                found[document_id] = (*found.get(document_id, ()), number, *figures)
        return found
