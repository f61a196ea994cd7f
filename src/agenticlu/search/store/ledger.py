"""The ledger: every call with its reply and cost, every grounding, every judge's verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.records import Usage, Verdict
from agenticlu.search.store.file import RunFile, Statement, pack, unpack

USAGE_COLUMNS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
USAGE = ", ".join(USAGE_COLUMNS)
"""The columns of a `Usage`, as SQL."""
_HAS_VALUE = "json_extract(judgement.record, '$.value') IS NOT NULL"


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

    def find_call(self, key: str) -> CallRecord | None:
        """Returns a finished call; None when it was never made or never ended."""
        row = self._one(
            f"SELECT state, reply, failure, {USAGE} FROM call WHERE key = ? AND state != 'intent'",
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

    async def fail(self, key: str, reason: str) -> None:
        """Commits that a call failed for good."""
        sql = "UPDATE call SET state = 'failed', failure = ?, finished = ? WHERE key = ?"
        await self.append([(sql, (reason, time.time(), key))])

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
                "INSERT OR IGNORE INTO grounding SELECT ?, ?, ?, COUNT(*), "
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
    """Returns the usage of a row's `USAGE` columns."""
    return Usage.model_validate(dict(zip(USAGE_COLUMNS, counts, strict=True)))
