"""Progress of a run: the heartbeat that a search writes and the status that any process reads.

The process that searches writes a heartbeat into the run's file every few seconds. A killed process
leaves a heartbeat that no longer changes. A heartbeat that cannot be written is skipped: if the
disk is at fault, the run itself reports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agenticlu.core.errors import StoreError
from agenticlu.core.records import Prices, Usage
from agenticlu.engines.base import Engine, Health, Watched
from agenticlu.search.shards import Manifest, SharedFolder
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME, is_locked

EVERY_S = 5.0
"""Seconds between heartbeats."""
RATE_WINDOW_S = 60.0
"""The rate is that of the last minute, or of the time since the process began."""
STALLED_S = 120.0
"""A call in flight for longer is reported as stalled."""
SILENT_S = 6 * EVERY_S
"""A process without a heartbeat for longer is reported."""
WATCH_S = 2.0
_SESSIONS = "sessions"
"""Setting of a run: [began, last beat] of every process that searched, seconds since the epoch."""
_BEFORE = "before"
"""Setting of a run: its counts when the first of them began, such as what was merged into it."""
_PULSE = "pulse"
"""Setting of a run: the last beat's figures."""


@dataclass(eq=False)
class Heartbeat:
    """Writes a heartbeat every few seconds while the context is open."""

    store: Store
    """Open for writing."""
    engine: Engine | None = None
    """Asked for its health, where it reports any."""
    in_flight: Callable[[], int] | None = None
    """Returns the number of requests in flight."""
    every_s: float = EVERY_S
    """Seconds between beats."""
    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        began, store = self.clock(), self.store
        self._sessions: list[list[float]] = [*(store.get(_SESSIONS) or ()), [began, began]]
        # What was merged in before the first session was not earned in it: counted, it would make
        # the rate and the time left too good.
        if len(self._sessions) == 1:
            done, tokens = store.tree_counts()["done"], store.total_usage().computed_tokens
            store.put(**{_BEFORE: {"done": done, "tokens": tokens}})

    async def __aenter__(self) -> Heartbeat:
        self.beat()
        self._task = asyncio.create_task(self._keep_beating())
        return self

    async def __aexit__(self, *raised: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(StoreError):
            self.beat()

    def beat(self) -> None:
        """Writes a heartbeat now."""
        self.write(*self._measure())

    def write(
        self, in_flight: int | None, replicas: Sequence[Health], *, elsewhere: bool = False
    ) -> None:
        """Writes one heartbeat.

        Args:
            in_flight: Requests in flight; None when unknown.
            replicas: Health of the endpoints.
            elsewhere: The requests are not recorded in this run's file, but by workers.
        """
        now = self.clock()
        self._sessions[-1][1] = now
        pulse = {"at": now, "in_flight": in_flight, "replicas": [*replicas], "elsewhere": elsewhere}
        self.store.put(**{_SESSIONS: self._sessions, _PULSE: pulse})

    def _measure(self) -> tuple[int | None, Sequence[Health]]:
        in_flight = None if self.in_flight is None else self.in_flight()
        return in_flight, self.engine.health() if isinstance(self.engine, Watched) else ()

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self.every_s)
            figures = self._measure()
            with contextlib.suppress(StoreError):
                await asyncio.to_thread(self.write, *figures)  # the disk may be slow


@dataclass(frozen=True)
class Status:
    """State of a run."""

    running: bool | None
    """Whether a process holds the writer's lock; None for segments, which cannot know."""
    questions: int
    done: int
    growing: int
    outcomes: dict[str, int]
    calls: dict[str, int]
    """done, failed, intent (under way, or lost by a kill), repeated."""
    usage: dict[str, Usage]
    failures: dict[str, int]
    """Reason to number of calls."""
    cut: dict[str, Usage] = field(default_factory=dict)
    """By phase: the most tokens beside `usage` that were spent on calls without an outcome, and on
    earlier tries of those that were sent again."""
    in_flight: int = 0
    """Calls that were sent and are not answered."""
    waiting: int = 0
    """Calls that are written down and wait to be sent."""
    lost: int = 0
    """Calls that a process left under way when it ended; they will be repeated."""
    stalled: int = 0
    """Calls under way for more than two minutes."""
    silent_s: float | None = None
    """Seconds since the running process's last heartbeat; None without one."""
    calls_per_s: float | None = None
    """None when nothing finished lately."""
    eta_s: float | None = None
    """Seconds until the last question, at the mean time per finished question in which a process
    worked; None when none works, or before the first is finished."""
    replicas: list[Health] = field(default_factory=list)
    """Of the running process's engine."""
    parts: int | None = None
    """Shards that sealed segments; None for a run folder."""
    sealed_s: float | None = None
    """Seconds since the last segment; None for a run folder."""
    spent: float | None = None
    """Price of the engine's tokens, without those of judges; None without prices."""
    cut_spent: float | None = None
    """The same of `cut`: the most that may have been spent beside it."""

    adapted: tuple[str, ...] = ()
    """How the server had to be asked otherwise than the settings say."""

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        data = asdict(self)
        data["usage"] = {name: usage.as_dict() for name, usage in self.usage.items()}
        data["tokens"] = sum(self.usage.values(), Usage()).as_dict()
        data["cut"] = sum(self.cut.values(), Usage()).as_dict()
        return data

    def line(self) -> str:
        """Returns the state in one line."""
        states = {True: "running", False: "not running", None: f"sealed by {self.parts} parts"}
        parts = [
            f"{states[self.running]}: {self.done} of {self.questions} questions done, "
            f"{self.growing} growing"
        ]
        if self.calls_per_s is not None:
            parts.append(f"{self.calls_per_s:.1f} calls/s")
        if self.eta_s is not None:
            parts.append(f"about {self.eta_s:.0f} s left")
        if self.sealed_s is not None:
            parts.append(f"the last segment is {self.sealed_s:.0f} s old")
        return ", ".join(parts)

    def render(self) -> str:
        """Returns lines for people."""
        total = sum(self.usage.values(), Usage())
        outcomes = ", ".join(f"{n} {name}" for name, n in sorted(self.outcomes.items()))
        calls = [f"{self.calls['done']} done", f"{self.in_flight} in flight"]
        calls += [f"{self.waiting} waiting"] if self.waiting else []
        calls += [f"{self.lost} lost (will be repeated)"] if self.lost else []
        calls += [f"{self.calls['failed']} failed", f"{self.calls['repeated']} repeated"]
        lines = [
            self.line(),
            f"outcomes: {outcomes or 'none yet'}",
            f"calls: {', '.join(calls)}",
            f"tokens: {total.prompt_tokens - total.cached_tokens} computed, "
            f"{total.cached_tokens} cached, {total.sampled}",
        ]
        if more := render_cut(self.cut, running=bool(self.running)):
            lines[-1] += f", and {more}"
        if self.spent is not None:
            more = f", and at most {self.cut_spent:,.2f} more" if self.cut_spent else ""
            lines.append(f"spent: {self.spent:,.2f}{more}, judges aside")
        if self.silent_s is not None and self.silent_s > SILENT_S:
            lines.append(f"no sign of life for {self.silent_s:.0f} s")
        lines += [render_health(one) for one in self.replicas if one["state"] != "well"]
        if self.stalled:
            lines.append(f"{self.stalled} calls have waited for more than {STALLED_S:.0f} s")
        lines += self.adapted
        lines += [f"failed {n} times: {reason}" for reason, n in self.failures.items()]
        return "\n".join(lines)


def render_cut(cut: Mapping[str, Usage], *, running: bool) -> str:
    """Returns what nobody could count, for people; nothing where there is none.

    >>> render_cut({"answer": Usage(prompt_tokens=900, completion_tokens=300)}, running=False)
    'at most 1,200 more in calls that were cut off'
    """
    most = sum(cut.values(), Usage()).computed_tokens
    under_way = " or are under way" if running else ""
    return f"at most {most:,} more in calls that were cut off{under_way}" if most else ""


def render_health(health: Health) -> str:
    """Returns a line about a replica.

    >>> render_health({"address": "http://a", "state": "stalled", "in_flight": 12, "failures": 0,
    ...     "resting_s": 0, "last_answer_s": 140.2})
    'http://a stalled: 12 requests, none answered for 140 s'
    """
    text = f"{health['address']} {health['state']}: {health['in_flight']} requests"
    if health["state"] == "resting":
        text += f", asked again in {health['resting_s']:.0f} s"
    elif health["last_answer_s"] is not None:
        text += f", none answered for {health['last_answer_s']:.0f} s"
    return text + (f", {health['failures']} lost in a row" if health["failures"] else "")


def load_status(
    run: str | Path, now: float | None = None, *, prices: Prices | None = None
) -> Status:
    """Returns the state of a run, or of what its shards have sealed.

    Args:
        run: Its folder; or a folder or URL of segments.
        now: Seconds since the epoch; the clock's when None.
        prices: Of the engine's tokens.

    Raises:
        StoreError: There is neither, or it is damaged.
    """
    now = time.time() if now is None else now
    is_url = "://" in str(run)
    manifests: list[Manifest] = []
    if is_url or (Path(run).is_dir() and not (Path(run) / FILE_NAME).is_file()):
        manifests = SharedFolder(str(run)).manifests(may_miss=not is_url)
    if manifests:
        status = _sum_manifests(manifests, now)
    else:
        with Store(run, writable=False) as store:
            status = _read_status(store, now)
    if prices is None:
        return status
    spent, cut_spent = (
        prices.price(sum((one for phase, one in usage.items() if phase != "judge"), Usage()))
        for usage in (status.usage, status.cut)
    )
    return replace(status, spent=spent, cut_spent=cut_spent)


def watch_status(
    run: str | Path,
    every_s: float = WATCH_S,
    sleep: Callable[[float], None] = time.sleep,
    prices: Prices | None = None,
) -> Iterator[Status]:
    """Yields the state of a run again and again, until no process works at it any more."""
    while True:
        status = load_status(run, prices=prices)
        yield status
        if not status.running:
            return
        sleep(every_s)


def load_rate(run: str | Path) -> float | None:
    """Returns the computed and sampled tokens per second of a run, while a process worked.

    A merged run does not know its processes: there it is over the time from the first call to the
    last. None before it began.
    """
    with Store(run, writable=False) as store:
        times = store.call_times(0.0, 0.0)
        tokens = store.total_usage().computed_tokens
        sessions = store.get(_SESSIONS)
        before = (store.get(_BEFORE) or {}).get("tokens", 0)
    if sessions and tokens > before:
        seconds = _active_s(sessions)
        tokens -= before
    elif times.first_started is None or times.last_finished is None:
        return None
    else:
        seconds = times.last_finished - times.first_started
    return tokens / seconds if seconds > 0 else None


def _read_status(store: Store, now: float) -> Status:
    # Before the counts: the calls of a process that ends in between would otherwise look lost.
    is_running = is_locked(store.folder)
    sessions = store.get(_SESSIONS) or []
    counts = store.tree_counts()
    questions = max(counts["questions"], store.get("expected") or 0)
    window_s = min(RATE_WINDOW_S, now - sessions[-1][0]) if sessions else RATE_WINDOW_S
    times = store.call_times(now - window_s, now - STALLED_S)
    calls = store.call_counts()
    status = Status(
        running=is_running,
        questions=questions,
        done=counts["done"],
        growing=counts["growing"],
        outcomes=store.outcomes(),
        calls=calls,
        usage=store.usage_by_phase(),
        failures=store.failures(),
        cut=store.cut_by_phase(),
        adapted=tuple(store.get("adapted") or ()),
    )
    if not is_running:
        return replace(status, lost=calls["intent"])
    pulse = store.get(_PULSE) or {"in_flight": None, "replicas": []}
    in_flight = calls["intent"]
    if pulse.get("elsewhere"):
        in_flight = pulse["in_flight"]
    elif pulse["in_flight"] is not None:
        # The heartbeat counts the sampling engine's requests only; those of judges have a phase of
        # their own in the ledger.
        in_flight = min(in_flight, pulse["in_flight"] + times.judging)
    is_active = window_s > 0 and times.recent
    return replace(
        status,
        in_flight=in_flight,
        waiting=max(0, calls["intent"] - in_flight),
        stalled=times.stalled,
        silent_s=round(now - pulse["at"], 1) if "at" in pulse else None,
        calls_per_s=round(times.recent / window_s, 2) if is_active else None,
        eta_s=_estimate_left_s(store, sessions, counts["done"], questions, now),
        replicas=pulse["replicas"],
    )


def _estimate_left_s(
    store: Store, sessions: Sequence[Sequence[float]], done: int, questions: int, now: float
) -> float | None:
    gained = done - (store.get(_BEFORE) or {}).get("done", 0)
    if not sessions or gained <= 0 or done >= questions:
        return None
    worked_s = _active_s([*sessions[:-1], (sessions[-1][0], now)])
    return float(round(worked_s / gained * (questions - done), 1))


def _active_s(sessions: Sequence[Sequence[float]]) -> float:
    """Returns the seconds in which a process searched.

    >>> _active_s([[100.0, 130.0], [500.0, 510.0]])
    40.0
    """
    return sum(last - began for began, last in sessions)


def _sum_manifests(manifests: Sequence[Manifest], now: float) -> Status:
    """Returns the sum of the progress that each shard reported in its last segment."""
    latest = {one.label or one.sha256: one for one in sorted(manifests, key=lambda m: m.sealed_s)}
    reports = [one.progress for one in latest.values() if one.progress]
    none = {"done": 0, "failed": 0, "intent": 0, "repeated": 0}
    return Status(
        running=None,
        questions=sum(report["questions"] for report in reports),
        done=sum(report["done"] for report in reports),
        growing=sum(report["growing"] for report in reports),
        outcomes=_sum_counts(report["outcomes"] for report in reports),
        calls=none | _sum_counts(report["calls"] for report in reports),
        usage=_sum_usage(report["usage"] for report in reports),
        failures=_sum_counts(report["failures"] for report in reports),
        cut=_sum_usage(report.get("cut", {}) for report in reports),
        parts=len(latest),
        sealed_s=round(now - max(one.sealed_s for one in manifests), 1),
    )


def _sum_usage(reports: Iterable[Mapping[str, Any]]) -> dict[str, Usage]:
    """Returns the sums by phase."""
    total: dict[str, Usage] = {}
    for report in reports:
        for phase, data in report.items():
            # Segments of older versions lack counts that are newer than they.
            counts = {name: data[name] for name in Usage.model_fields if name in data}
            total[phase] = total.get(phase, Usage()) + Usage.model_validate(counts)
    return total


def _sum_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Returns the sums by name, the largest first."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0])))
