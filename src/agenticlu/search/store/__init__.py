"""Crash-safe record of a run: one SQLite file, one writer, a ledger of every call.

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

from dataclasses import dataclass
from typing import Any

from agenticlu.core.records import Usage
from agenticlu.search.store.ledger import USAGE, USAGE_COLUMNS, Ledger, build_usage
from agenticlu.search.store.trees import TreeTables

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
            f"SELECT phase, {sums} FROM (SELECT phase, {USAGE} FROM call UNION ALL "
            f"SELECT 'ground', {USAGE} FROM grounding) GROUP BY phase ORDER BY phase"
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
