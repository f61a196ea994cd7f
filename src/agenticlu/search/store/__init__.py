"""The crash-safe record of a run: one SQLite file, one writer, a ledger of every call.

A call is written down twice: its *intent* is committed before it is sent, its *outcome* after. A
process killed in between loses only the calls in flight; the next one finds every finished call by
its key, which is made of the call's content and of the sample's ordinal, so that resumed siblings
stay different. Appends are grouped: whatever arrives while one commit reaches the disk shares the
next commit.

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

import asyncio
import concurrent.futures
import contextlib
import fcntl
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Document, Node, Piece, Question, Tree, Usage
from agenticlu.search.store import writer as ledger_file
from agenticlu.search.store.writer import Statement

FILE_NAME = "run.sqlite"
LOCK_NAME = "run.lock"
APPLICATION_ID = 0x41474C55
"""Marks our files among all SQLite files ("AGLU")."""
STORE_VERSION = 1

_SCHEMA = """
CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE document (
    id TEXT PRIMARY KEY, header TEXT NOT NULL, text BLOB NOT NULL, pieces BLOB NOT NULL
);
CREATE TABLE question (
    id TEXT PRIMARY KEY, document_id TEXT NOT NULL, position INTEGER NOT NULL, record TEXT NOT NULL
);
CREATE INDEX question_position ON question (position);
CREATE TABLE call (
    key TEXT PRIMARY KEY, phase TEXT NOT NULL, document_id TEXT NOT NULL, question_id TEXT,
    node_id TEXT, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 1, reply BLOB,
    failure TEXT, requests INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
    started REAL, finished REAL
) WITHOUT ROWID;
CREATE TABLE grounding (
    key TEXT PRIMARY KEY, document_id TEXT NOT NULL, record BLOB NOT NULL,
    calls INTEGER NOT NULL, repeats INTEGER NOT NULL, requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, finished REAL
) WITHOUT ROWID;
CREATE TABLE judgement (key TEXT PRIMARY KEY, judge TEXT NOT NULL, record TEXT NOT NULL)
    WITHOUT ROWID;
CREATE TABLE tree (
    id TEXT PRIMARY KEY, question_id TEXT NOT NULL, state TEXT NOT NULL, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE node (
    id TEXT PRIMARY KEY, tree_id TEXT NOT NULL, depth INTEGER NOT NULL, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX node_tree ON node (tree_id);
"""

TABLES = ("document", "question", "call", "grounding", "judgement", "tree", "node")
"""Tables whose rows are merged by key."""

_SCORED = "json_extract(judgement.record, '$.value') IS NOT NULL"
_OF_DOCUMENTS = {
    "document": "id IN (SELECT value FROM json_each(?))",
    "question": "document_id IN (SELECT value FROM json_each(?))",
    "call": "document_id IN (SELECT value FROM json_each(?))",
    "grounding": "document_id IN (SELECT value FROM json_each(?))",
    "tree": "question_id IN (SELECT id FROM question WHERE document_id IN "
    "(SELECT value FROM json_each(?)))",
}
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
class CallId:
    """What a call is about."""

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

    key: str
    state: str
    """'done' or 'failed'."""
    reply: Any
    """What the engine said, as JSON data; None when it failed."""
    failure: str | None
    usage: Usage
    attempts: int


@dataclass(frozen=True)
class GroundingRecord:
    """What grounding found for one text in one document."""

    key: str
    document_id: str
    kept: tuple[int, ...] | None
    """Pieces that were named; None where pieces are scored instead."""
    scores: tuple[float | None, ...] | None
    """One per piece; None for a piece that was not looked at."""
    unparsed: int
    """Verdicts that could not be read."""
    usage: Usage
    calls: int


@dataclass(frozen=True)
class Fold:
    """A grounding to be stored in place of the calls that it was read from."""

    key: str
    document_id: str
    call_keys: Sequence[str]
    kept: tuple[int, ...] | None = None
    scores: tuple[float | None, ...] | None = None
    unparsed: int = 0


def pack(data: Any) -> bytes:
    """Returns JSON data as bytes, compressed where that helps."""
    raw = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return b"z" + zlib.compress(raw, 6) if len(raw) > 400 else b"j" + raw


def unpack(blob: bytes) -> Any:
    """Returns the data of `pack`."""
    body = zlib.decompress(blob[1:]) if blob[:1] == b"z" else blob[1:]
    return json.loads(body)


class Store:
    """A run's file. One process writes; any number read.

    Use as a context manager, or call `close`. Writing methods return when the disk has the rows.

    Args:
        run: Folder of the run; made when `writable`.
        writable: Take the writer's lock. Readers see a live run as of each query.

    Raises:
        StoreError: The file is foreign, torn, newer than this program, locked by another writer,
            or on a network file system.
    """

    def __init__(self, run: str | Path, *, writable: bool = True) -> None:
        self.folder = Path(run)
        self.path = self.folder / FILE_NAME
        self._lock: int | None = None
        self._writer: ledger_file.Writer | None = None
        if writable:
            self._prepare()
        elif not self.path.is_file():
            raise StoreError(
                f"{self.folder} is no run folder: it holds no {FILE_NAME}.",
                hint="Give the folder that `agenticlu generate --out` wrote.",
            )
        try:
            self._reader = ledger_file.connect(self.path, writable=writable)
            self._check_or_create(writable)
        except sqlite3.Error as error:
            self._unlock()
            raise ledger_file.store_error(self.path, error) from error
        except StoreError:
            self._unlock()
            raise
        if writable:
            self._writer = ledger_file.Writer(self.path)
            self._writer.start()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Writes what is queued, folds the log into the file and frees the lock."""
        self._reader.close()
        if self._writer is not None:
            self._writer.stop()
            self._writer = None
        self._unlock()

    # -- settings of the run -------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """Returns a setting of the run, or None."""
        row = self._one("SELECT value FROM run WHERE name = ?", (name,))
        with self.decoding("a setting"):
            return None if row is None else json.loads(row[0])

    def put(self, **values: Any) -> None:
        """Sets settings of the run."""
        self.write([_setting(name, value) for name, value in values.items()])

    # -- documents and questions ---------------------------------------------------------------

    def add_document(self, document: Document, pieces: Sequence[Piece]) -> None:
        """Stores a document once, with its pieces."""
        header = document.model_dump_json(exclude={"text"})
        text = zlib.compress(document.text.encode("utf-8", "surrogatepass"), 6)
        rows = [[p.index, p.start, p.end, p.num_tokens, p.page] for p in pieces]
        self.write(
            [
                (
                    "INSERT OR IGNORE INTO document VALUES (?, ?, ?, ?)",
                    (document.id, header, text, pack(rows)),
                )
            ]
        )

    def has_document(self, document_id: str) -> bool:
        """Whether the document is stored."""
        return self._one("SELECT 1 FROM document WHERE id = ?", (document_id,)) is not None

    def document(self, document_id: str) -> Document:
        """Returns a stored document."""
        row = self._one("SELECT header, text FROM document WHERE id = ?", (document_id,))
        if row is None:
            raise StoreError(f"{self.path} holds no document {document_id!r}.")
        with self.decoding(f"document {document_id}"):
            text = zlib.decompress(row[1]).decode("utf-8", "surrogatepass")
            return Document.model_validate({**json.loads(row[0]), "text": text})

    def pieces(self, document_id: str) -> tuple[Piece, ...]:
        """Returns the pieces a document was split into."""
        row = self._one("SELECT pieces FROM document WHERE id = ?", (document_id,))
        if row is None:
            raise StoreError(f"{self.path} holds no document {document_id!r}.")
        with self.decoding(f"document {document_id}"):
            return tuple(
                Piece(index=i, start=start, end=end, num_tokens=tokens, page=page)
                for i, start, end, tokens, page in unpack(row[0])
            )

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
        if row is not None and (row[0], row[1]) != (document_id, record):
            raise StoreError(
                f"Question id {question.id!r} is already used in {self.path} for another question "
                "or document.",
                hint="Give every question its own id, or leave ids out.",
            )
        self.write(
            [
                (
                    "INSERT OR IGNORE INTO question VALUES (?, ?, ?, ?)",
                    (question.id, document_id, position, record),
                )
            ]
        )

    def questions(self) -> tuple[tuple[Question, str], ...]:
        """Returns all questions with their document's id, in corpus order."""
        rows = self._all("SELECT record, document_id FROM question ORDER BY position, id")
        with self.decoding("a question"):
            return tuple((Question.model_validate_json(row[0]), row[1]) for row in rows)

    # -- the ledger ----------------------------------------------------------------------------

    def find_call(self, key: str) -> CallRecord | None:
        """Returns a finished call; None when it was never made or never ended."""
        row = self._one(
            "SELECT state, reply, failure, requests, prompt_tokens, cached_tokens, "
            "completion_tokens, attempts FROM call WHERE key = ? AND state != 'intent'",
            (key,),
        )
        if row is None:
            return None
        with self.decoding(f"call {key}"):
            reply = None if row[1] is None else unpack(row[1])
        return CallRecord(
            key=key,
            state=row[0],
            reply=reply,
            failure=row[2],
            usage=Usage(
                requests=row[3],
                prompt_tokens=row[4],
                cached_tokens=row[5],
                completion_tokens=row[6],
            ),
            attempts=row[7],
        )

    async def intend(self, call: CallId) -> None:
        """Commits that a call is about to be sent."""
        await self.append(
            [
                (
                    "INSERT INTO call (key, phase, document_id, question_id, node_id, state, "
                    "started) VALUES (?, ?, ?, ?, ?, 'intent', ?) ON CONFLICT (key) DO UPDATE SET "
                    "attempts = attempts + 1, state = 'intent', failure = NULL, "
                    "started = excluded.started WHERE state != 'done'",
                    (
                        call.key,
                        call.phase,
                        call.document_id,
                        call.question_id,
                        call.node_id,
                        time.time(),
                    ),
                )
            ]
        )

    async def finish(self, key: str, reply: Any, usage: Usage) -> None:
        """Commits a call's reply and cost."""
        await self.append(
            [
                (
                    "UPDATE call SET state = 'done', reply = ?, requests = ?, prompt_tokens = ?, "
                    "cached_tokens = ?, completion_tokens = ?, finished = ? WHERE key = ? "
                    "AND state != 'done'",
                    (
                        pack(reply),
                        usage.requests,
                        usage.prompt_tokens,
                        usage.cached_tokens,
                        usage.completion_tokens,
                        time.time(),
                        key,
                    ),
                )
            ]
        )

    async def fail(self, key: str, reason: str) -> None:
        """Commits that a call failed for good."""
        await self.append(
            [
                (
                    "UPDATE call SET state = 'failed', failure = ?, finished = ? WHERE key = ?",
                    (reason, time.time(), key),
                )
            ]
        )

    def find_grounding(self, key: str) -> GroundingRecord | None:
        """Returns what grounding found, or None."""
        row = self._one(
            "SELECT document_id, record, calls, requests, prompt_tokens, cached_tokens, "
            "completion_tokens FROM grounding WHERE key = ?",
            (key,),
        )
        if row is None:
            return None
        with self.decoding(f"grounding {key}"):
            kept, scores, unparsed = unpack(row[1])
        return GroundingRecord(
            key=key,
            document_id=row[0],
            kept=None if kept is None else tuple(kept),
            scores=None if scores is None else tuple(scores),
            unparsed=unparsed,
            calls=row[2],
            usage=Usage(
                requests=row[3],
                prompt_tokens=row[4],
                cached_tokens=row[5],
                completion_tokens=row[6],
            ),
        )

    async def finish_groundings(self, folds: Sequence[Fold]) -> None:
        """Commits groundings and folds their calls into them, in one transaction.

        The calls' usage is summed by the database from the rows that are folded, so that the
        totals of a run do not depend on when it was interrupted.
        """
        statements: list[Statement] = []
        for fold in folds:
            record = pack([fold.kept, fold.scores, fold.unparsed])
            keys = tuple(fold.call_keys)
            marks = ",".join("?" * len(keys))
            statements += [
                (
                    "INSERT OR IGNORE INTO grounding SELECT ?, ?, ?, COUNT(*), "
                    "COALESCE(SUM(attempts - 1), 0), COALESCE(SUM(requests), 0), "
                    "COALESCE(SUM(prompt_tokens), 0), COALESCE(SUM(cached_tokens), 0), "
                    "COALESCE(SUM(completion_tokens), 0), MAX(finished) FROM call "
                    f"WHERE key IN ({marks})",
                    (fold.key, fold.document_id, record, *keys),
                ),
                (f"DELETE FROM call WHERE key IN ({marks})", keys),
            ]
        await self.append(statements)

    def find_judgement(self, key: str, *, only_scored: bool = False) -> str | None:
        """Returns a stored verdict as JSON, or None; perhaps only one with a value."""
        scored = f" AND {_SCORED}" if only_scored else ""
        row = self._one(f"SELECT record FROM judgement WHERE key = ?{scored}", (key,))
        return None if row is None else str(row[0])

    async def add_judgement(self, key: str, judge: str, record: str) -> None:
        """Commits a verdict; one with a value stays, one without gives way."""
        await self.append(
            [
                (
                    "INSERT INTO judgement VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                    f"record = excluded.record WHERE NOT {_SCORED}",
                    (key, judge, record),
                )
            ]
        )

    # -- trees ---------------------------------------------------------------------------------

    async def put_nodes(self, tree: Tree, nodes: Iterable[Node]) -> None:
        """Commits finished nodes and the state of their tree."""
        header = tree.model_copy(update={"nodes": ()}).model_dump_json()
        statements: list[Statement] = [
            (
                "INSERT INTO tree VALUES (?, ?, 'growing', ?) ON CONFLICT (id) DO UPDATE SET "
                "record = excluded.record",
                (tree.id, tree.question.id, header),
            )
        ]
        statements += [
            (
                "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)",
                (node.id, tree.id, node.depth, pack(node.model_dump(mode="json"))),
            )
            for node in nodes
        ]
        await self.append(statements)

    async def finish_tree(self, tree: Tree, *, finished: bool = True) -> None:
        """Commits that a tree will grow no further, replacing what was stored of it.

        Args:
            tree: The tree.
            finished: False where it lacks nodes; the search goes on with it.
        """
        header = tree.model_copy(update={"nodes": ()}).model_dump_json()
        statements: list[Statement] = [
            (
                "INSERT OR REPLACE INTO tree VALUES (?, ?, ?, ?)",
                (tree.id, tree.question.id, "done" if finished else "growing", header),
            ),
            ("DELETE FROM node WHERE tree_id = ?", (tree.id,)),
        ]
        statements += [
            (
                "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?)",
                (node.id, tree.id, node.depth, pack(node.model_dump(mode="json"))),
            )
            for node in tree.nodes
        ]
        await self.append(statements)

    async def keep_trees(self, ids: Collection[str]) -> None:
        """Drops all other trees, so that their questions count as not begun; no call is lost."""
        kept = json.dumps(sorted(ids))
        among = "(SELECT value FROM json_each(?))"
        await self.append(
            [
                (f"DELETE FROM node WHERE tree_id NOT IN {among}", (kept,)),
                (f"DELETE FROM tree WHERE id NOT IN {among}", (kept,)),
            ]
        )

    def tree_state(self, tree_id: str) -> str | None:
        """Returns 'growing', 'done', or None when there is no such tree."""
        row = self._one("SELECT state FROM tree WHERE id = ?", (tree_id,))
        return None if row is None else str(row[0])

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
            blobs = self._all(
                "SELECT record FROM node WHERE tree_id = ? ORDER BY depth", (tree_id,)
            )
            with self.decoding(f"tree {tree_id}"):
                nodes = sort_nodes(Node.model_validate(unpack(blob[0])) for blob in blobs)
                tree = Tree.model_validate_json(record).model_copy(update={"nodes": nodes})
            yield tree

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Reads one state of the file, whatever another process writes meanwhile; may be nested."""
        if self._reader.in_transaction:
            yield
            return
        self._all("BEGIN")
        self._all("SELECT 1 FROM run LIMIT 1")
        try:
            yield
        finally:
            self._all("ROLLBACK")

    # -- counting ------------------------------------------------------------------------------

    def usage_by_phase(self) -> dict[str, Usage]:
        """Returns what finished calls cost, by phase; grounding is folded into 'ground'."""
        rows = self._all(
            "SELECT phase, SUM(requests), SUM(prompt_tokens), SUM(cached_tokens), "
            "SUM(completion_tokens) FROM (SELECT phase, requests, prompt_tokens, cached_tokens, "
            "completion_tokens FROM call UNION ALL SELECT 'ground', requests, prompt_tokens, "
            "cached_tokens, completion_tokens FROM grounding) GROUP BY phase ORDER BY phase"
        )
        return {
            row[0]: Usage(
                requests=row[1],
                prompt_tokens=row[2],
                cached_tokens=row[3],
                completion_tokens=row[4],
            )
            for row in rows
        }

    def call_counts(self) -> dict[str, int]:
        """Returns how many calls are done, failed and in flight, and how many were repeated."""
        rows = self._all("SELECT state, COUNT(*), SUM(attempts - 1) FROM call GROUP BY state")
        folded = self._one(
            "SELECT COALESCE(SUM(calls), 0), COALESCE(SUM(repeats), 0) FROM grounding"
        )
        assert folded is not None
        counts = {"done": folded[0], "failed": 0, "intent": 0, "repeated": folded[1]}
        for state, number, repeats in rows:
            counts[state] += number
            counts["repeated"] += repeats
        return counts

    def tree_counts(self) -> dict[str, int]:
        """Returns how many questions there are, and how many trees are growing and done."""
        questions = self._one("SELECT COUNT(*) FROM question")
        assert questions is not None
        states = dict(self._all("SELECT state, COUNT(*) FROM tree GROUP BY state"))
        return {
            "questions": questions[0],
            "growing": states.get("growing", 0),
            "done": states.get("done", 0),
        }

    def num_rounds(self) -> int:
        """Returns how many nodes there are beside the roots."""
        row = self._one("SELECT COUNT(*) FROM node WHERE depth > 0")
        assert row is not None
        return int(row[0])

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

    def timing(self, recent_since: float, stalled_before: float) -> dict[str, Any]:
        """Returns when calls began and ended, and how many are recent, stalled, or of judges."""
        row = self._one(
            "SELECT MIN(started), MAX(finished), "
            "COALESCE(SUM(finished >= ?), 0), "
            "COALESCE(SUM(state = 'intent' AND started < ?), 0), "
            "COALESCE(SUM(state = 'intent' AND phase = 'judge'), 0) FROM call",
            (recent_since, stalled_before),
        )
        folded = self._one(
            "SELECT COALESCE(SUM(calls), 0) FROM grounding WHERE finished >= ?", (recent_since,)
        )
        assert row is not None
        assert folded is not None
        return {
            "first_started": row[0],
            "last_finished": row[1],
            "recent": row[2] + folded[0],
            "stalled": row[3],
            "judging": row[4],
        }

    # -- rows, for segments and merges -----------------------------------------------------------

    def rows(
        self, table: str, documents: Collection[str] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Yields a table's rows as they are, by key.

        Args:
            table: One of `TABLES`.
            documents: Only what is about these; judgements are about none.
        """
        assert table in TABLES
        order = "key" if table in ("call", "grounding", "judgement") else "id"
        where = ""
        parameters: tuple[str, ...] = ()
        if documents is not None:
            where = f"WHERE {_OF_DOCUMENTS[table]}"
            parameters = (json.dumps(sorted(documents)),)
        try:
            yield from self._reader.execute(
                f"SELECT * FROM {table} {where} ORDER BY {order}", parameters
            )
        except sqlite3.Error as error:
            raise ledger_file.store_error(self.path, error) from error

    def node_rows(self, tree_id: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a tree's nodes as they are, by key."""
        return self._all("SELECT * FROM node WHERE tree_id = ? ORDER BY id", (tree_id,))

    def progress_by_document(self) -> dict[str, tuple[Any, ...]]:
        """Returns for every document with anything finished figures that change when more is.

        Calls about no document, those of judges, stand under the empty id.
        """
        found: dict[str, tuple[Any, ...]] = {}
        for number, sql in enumerate(_PROGRESS):
            for document_id, *figures in self._all(sql):
                found[document_id] = (*found.get(document_id, ()), number, *figures)
        return found

    def tree_rows(self, tree_id: str) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]] | None:
        """Returns a tree's row and its nodes' rows as they are, or None."""
        row = self._one("SELECT * FROM tree WHERE id = ?", (tree_id,))
        if row is None:
            return None
        return row, self.node_rows(tree_id)

    def columns(self, table: str) -> tuple[str, ...]:
        """Returns a table's column names."""
        assert table in TABLES
        return tuple(row[1] for row in self._all(f"PRAGMA table_info({table})"))

    # -- plumbing ------------------------------------------------------------------------------

    def write(self, statements: Sequence[Statement]) -> None:
        """Commits statements and waits for the disk."""
        self._submit(statements).result()

    async def append(self, statements: Sequence[Statement]) -> None:
        """Commits statements together with whatever else is waiting."""
        await asyncio.wrap_future(self._submit(statements))

    @property
    def commits(self) -> int:
        """Commits so far: fewer than appends when they were grouped."""
        return self._writer.commits if self._writer else 0

    def _submit(self, statements: Sequence[Statement]) -> concurrent.futures.Future[None]:
        if self._writer is None:
            raise StoreError(f"{self.path} was opened for reading.")
        return self._writer.submit(statements)

    def _one(self, sql: str, parameters: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        try:
            row: tuple[Any, ...] | None = self._reader.execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise ledger_file.store_error(self.path, error) from error
        return row

    def _all(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._reader.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise ledger_file.store_error(self.path, error) from error

    @contextlib.contextmanager
    def decoding(self, what: str) -> Iterator[None]:
        """Turns what a damaged row does to its reader into words."""
        try:
            yield
        except (ValueError, zlib.error) as error:
            raise StoreError(
                f"{self.path} is damaged: {what} cannot be read ({str(error).splitlines()[0]}).",
                hint=ledger_file.DAMAGED_HINT,
            ) from error

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder {self.folder} cannot be made: {error.strerror}."
            ) from error
        kind = ledger_file.file_system_of(self.folder)
        if kind is not None and kind.split(".")[0] in ledger_file.REMOTE_FILE_SYSTEMS:
            raise StoreError(
                f"{self.folder} is on a network file system ({kind}), where SQLite's locks and "
                "durability cannot be trusted.",
                hint="Write to a local disk; seal what is finished to shared storage with --seal.",
            )
        self._lock = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._unlock()
            raise StoreError(
                f"Another process is writing to {self.folder}.",
                hint="Wait for it, or watch it: agenticlu status " + str(self.folder),
            ) from error

    def _check_or_create(self, writable: bool) -> None:
        tables = self._reader.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        application = self._reader.execute("PRAGMA application_id").fetchone()[0]
        version = self._reader.execute("PRAGMA user_version").fetchone()[0]
        if tables == 0 and application == 0 and writable:
            self._reader.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION_ID}; "
                f"PRAGMA user_version = {STORE_VERSION}; {_SCHEMA} COMMIT;"
            )
        elif tables == 0 and application == 0:
            raise StoreError(
                f"{self.path} is empty: no run was started in it, or the file was cut off.",
                hint=ledger_file.DAMAGED_HINT,
            )
        elif application != APPLICATION_ID:
            raise StoreError(
                f"{self.path} is a SQLite file of another program.",
                hint="Give --out a folder of its own.",
            )
        elif version > STORE_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer version (format {version}; this one reads "
                f"up to {STORE_VERSION}).",
                hint="Update: pip install --upgrade agenticlu",
            )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def load_trees(run: str | Path, *, only_finished: bool = False) -> list[Tree]:
    """Returns all trees of a run, in corpus order."""
    with Store(run, writable=False) as store:
        return list(store.trees(only_finished=only_finished))


def load_document(run: str | Path, document_id: str) -> tuple[Document, tuple[Piece, ...]]:
    """Returns a document of a run and the pieces it was split into."""
    with Store(run, writable=False) as store:
        return store.document(document_id), store.pieces(document_id)


def load_documents(run: str | Path) -> dict[str, tuple[Document, tuple[Piece, ...]]]:
    """Returns every document of a run with its pieces, by id."""
    with Store(run, writable=False) as store:
        return {i: (store.document(i), store.pieces(i)) for i in store.document_ids()}


def sort_nodes(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Returns nodes level by level, siblings in sample order."""
    ordered: list[Node] = []
    by_parent: dict[str | None, list[Node]] = {}
    for node in nodes:
        by_parent.setdefault(node.parent, []).append(node)
    level: list[str | None] = [None]
    while level:
        found = [
            child
            for parent in level
            for child in sorted(by_parent.get(parent, ()), key=lambda node: node.ordinal)
        ]
        ordered += found
        level = [node.id for node in found]
    return tuple(ordered)


def _setting(name: str, value: Any) -> Statement:
    return "INSERT OR REPLACE INTO run VALUES (?, ?)", (name, json.dumps(value, sort_keys=True))


def as_mapping(usage: Usage) -> Mapping[str, int]:
    """Returns a usage as plain numbers, computed tokens included."""
    return {**usage.model_dump(), "computed_tokens": usage.computed_tokens}
