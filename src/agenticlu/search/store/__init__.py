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

What a call that was cut off had cost by then nobody can tell. The intent holds the most that it may
cost; a call that is sent again keeps that of its earlier tries, apart from what it is known to cost
(`Store.cut_by_phase`).
"""

from __future__ import annotations

import functools
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.records import Usage, Verdict
from agenticlu.search.store.file import PUT, RunFile, Statement, pack, unpack
from agenticlu.search.store.trees import TreeTables

NOTHING = Usage()
USAGE_COLUMNS = tuple(Usage.model_fields)
"""The columns of a `Usage`."""
_CUT = ("cut_prompt_tokens", "cut_completion_tokens")
"""The most that tries cost whose outcome is unknown or was replaced."""
_OPENING = "opening "
"""Start of the name of a setting: an engine that was met and has not replied."""
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

    async def intend(self, call: CallId, most: Usage = NOTHING) -> None:
        """Commits that a call is about to be sent, and the most tokens that it may cost."""
        # What an earlier try cost at most, or is known to have cost, stays; the known costs are of
        # the last try alone, because a replay must see those of its reply.
        kept = ", ".join(
            f"cut_{name} = cut_{name} + CASE state WHEN 'intent' THEN most_{name} ELSE {name} END, "
            f"most_{name} = excluded.most_{name}"
            for name in ("prompt_tokens", "completion_tokens")
        )
        zeros = ", ".join(f"{name} = 0" for name in USAGE_COLUMNS)
        # A call that is done keeps its reply and cost, even if a second task intends it again.
        sql = (
            "INSERT INTO call (key, phase, document_id, question_id, node_id, state, started, "
            "most_prompt_tokens, most_completion_tokens) "
            "VALUES (?, ?, ?, ?, ?, 'intent', ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
            f"attempts = attempts + 1, state = 'intent', failure = NULL, {kept}, {zeros}, "
            "started = excluded.started WHERE state != 'done'"
        )
        about = (call.key, call.phase, call.document_id, call.question_id, call.node_id)
        bound = (most.prompt_tokens, most.completion_tokens)
        await self.append([(sql, (*about, time.time(), *bound))])

    async def note(self, name: str, value: Any) -> None:
        """Commits a setting of the run while calls are under way."""
        await self.append([(PUT, (name, json.dumps(value, sort_keys=True)))])

    async def begin_opening(self, most: Usage) -> str:
        """Commits that an engine is about to be met, and the most that it may cost; returns a name.

        Until its first reply, what that costs is of no call.
        """
        name = f"{_OPENING}{uuid.uuid4().hex}"
        await self.append([(PUT, (name, most.model_dump_json()))])
        return name

    async def end_opening(self, name: str, spent: Usage = NOTHING) -> None:
        """Commits that calls hold what meeting an engine cost, but for what is given."""
        drop: Statement = ("DELETE FROM run WHERE name = ?", (name,))
        keep: Statement = (PUT, (name, spent.model_dump_json()))
        await self.append([keep if spent.computed_tokens else drop])

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
        added = (*USAGE_COLUMNS, *_CUT)
        sums = ", ".join(f"COALESCE(SUM({name}), 0)" for name in added)
        statements: list[Statement] = []
        for fold in folds:
            record = pack([fold.kept, fold.scores, fold.unparsed])
            keys = tuple(fold.call_keys)
            among = f"key IN ({','.join('?' * len(keys))})"
            # IGNORE: the same grounding may have come in by a merge.
            folded = (
                "INSERT OR IGNORE INTO grounding (key, document_id, record, calls, repeats, "
                f"{', '.join(added)}, finished) SELECT ?, ?, ?, COUNT(*), "
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

    def cut_by_phase(self) -> dict[str, Usage]:
        """Returns the most that calls cost beside `usage_by_phase`, by phase.

        Of those without an outcome, and of earlier tries of those that were sent again.
        """
        if not {*_CUT} <= {*self.columns("call")}:
            return {}  # a file of an older version, which nobody has gone on with
        rows = self._all(
            "SELECT phase, SUM(prompt), SUM(completion) FROM (SELECT phase, "
            "cut_prompt_tokens + (state = 'intent') * most_prompt_tokens AS prompt, "
            "cut_completion_tokens + (state = 'intent') * most_completion_tokens AS completion "
            "FROM call UNION ALL SELECT 'ground', cut_prompt_tokens, cut_completion_tokens "
            "FROM grounding) GROUP BY phase HAVING SUM(prompt) + SUM(completion) > 0 ORDER BY phase"
        )
        found = {
            phase: Usage(prompt_tokens=prompt, completion_tokens=completion)
            for phase, prompt, completion in rows
        }
        met = self._all("SELECT value FROM run WHERE name GLOB ?", (f"{_OPENING}*",))
        with self.decoding("a setting"):
            opened = sum((Usage.model_validate_json(value) for (value,) in met), Usage())
        return found | ({"setup": opened} if met else {})

    def engine_tokens(self) -> int:
        """Returns the computed tokens of the engine that samples, those of `cut_by_phase`, too."""
        return sum(
            usage.computed_tokens
            for found in (self.usage_by_phase(), self.cut_by_phase())
            for phase, usage in found.items()
            if phase != "judge"
        )

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
