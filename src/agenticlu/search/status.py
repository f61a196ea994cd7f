"""How far a run is, from its file or its segments alone; any process may look."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agenticlu.core.records import Prices, Usage
from agenticlu.engines.base import Health
from agenticlu.search.heartbeat import BEFORE, EVERY_S, PULSE, SESSIONS, active_s
from agenticlu.search.shards.segments import Manifest, SharedFolder
from agenticlu.search.store import FILE_NAME, Store, is_locked

RATE_WINDOW_S = 60.0
"""The rate is that of the last minute, or of the time since the process began."""
STALLED_S = 120.0
"""A call in flight for longer is named as stalled."""
SILENT_S = 6 * EVERY_S
"""A process without a pulse for longer is told of."""
WATCH_S = 2.0


@dataclass(frozen=True)
class Status:
    """State of a run."""

    running: bool | None
    """Whether a process holds the writer's lock; None for segments, which do not tell."""
    questions: int
    done: int
    growing: int
    outcomes: dict[str, int]
    calls: dict[str, int]
    """done, failed, intent (under way, or lost by a kill), repeated."""
    usage: dict[str, Usage]
    failures: dict[str, int]
    """Reason to number of calls."""
    in_flight: int = 0
    """Calls that were sent and are not answered."""
    waiting: int = 0
    """Calls that are written down and wait to be sent."""
    lost: int = 0
    """Calls that a process left under way when it ended; they will be repeated."""
    stalled: int = 0
    """Calls under way for more than two minutes."""
    silent_s: float | None = None
    """Seconds since the running process's last pulse; None without a pulse."""
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
    """What the engine's tokens cost at the prices given, judges' aside; None without prices."""

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        data = asdict(self)
        data["usage"] = {name: usage.as_dict() for name, usage in self.usage.items()}
        data["tokens"] = sum(self.usage.values(), Usage()).as_dict()
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
            f"{total.cached_tokens} cached, {total.completion_tokens} sampled",
        ]
        if self.spent is not None:
            lines.append(f"spent: {self.spent:,.2f}, judges aside")
        if self.silent_s is not None and self.silent_s > SILENT_S:
            lines.append(f"no sign of life for {self.silent_s:.0f} s")
        lines += [render_health(one) for one in self.replicas if one["state"] != "well"]
        if self.stalled:
            lines.append(f"{self.stalled} calls have waited for more than {STALLED_S:.0f} s")
        lines += [f"failed {n} times: {reason}" for reason, n in self.failures.items()]
        return "\n".join(lines)


def render_health(health: Health) -> str:
    """Returns a line about a replica.

    >>> render_health({"address": "http://a", "state": "stalled", "in_flight": 12, "failures": 0,
    ...     "resting_s": 0, "last_answer_s": 140.2})
    'http://a stalled: 12 requests, none answered for 140 s'
    """
    words = f"{health['address']} {health['state']}: {health['in_flight']} requests"
    if health["state"] == "resting":
        words += f", asked again in {health['resting_s']:.0f} s"
    elif health["last_answer_s"] is not None:
        words += f", none answered for {health['last_answer_s']:.0f} s"
    return words + (f", {health['failures']} lost in a row" if health["failures"] else "")


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
    status = _load(run, now)
    if prices is None:
        return status
    sampled = [usage for phase, usage in status.usage.items() if phase != "judge"]
    return replace(status, spent=prices.price(sum(sampled, Usage())))


def _load(run: str | Path, now: float | None) -> Status:
    now = time.time() if now is None else now
    is_url = "://" in str(run)
    if is_url or (Path(run).is_dir() and not (Path(run) / FILE_NAME).is_file()):
        manifests = SharedFolder(str(run)).manifests(may_miss=not is_url)
        if manifests:
            return _gather(manifests, now)
    with Store(run, writable=False) as store:
        is_running = is_locked(Path(run))
        sessions = store.get(SESSIONS) or []
        counts = store.tree_counts()
        questions = max(counts["questions"], store.get("expected") or 0)
        began = sessions[-1][0] if sessions else now - RATE_WINDOW_S
        window_s = min(RATE_WINDOW_S, now - began)
        timing = store.call_times(now - window_s, now - STALLED_S)
        calls = store.call_counts()
        pulse = (store.get(PULSE) if is_running else None) or {"in_flight": None, "replicas": []}
        in_flight = calls["intent"]
        if pulse.get("elsewhere"):
            in_flight = pulse["in_flight"]
        elif pulse["in_flight"] is not None:
            # What judges ask is not the engine's; it is told apart by its phase.
            in_flight = min(in_flight, pulse["in_flight"] + timing.judging)
        recent = timing.recent if is_running and window_s > 0 else 0
        return Status(
            running=is_running,
            questions=questions,
            done=counts["done"],
            growing=counts["growing"],
            outcomes=store.outcomes(),
            calls=calls,
            usage=store.usage_by_phase(),
            failures=store.failures(),
            in_flight=in_flight if is_running else 0,
            waiting=max(0, calls["intent"] - in_flight) if is_running else 0,
            lost=0 if is_running else calls["intent"],
            stalled=timing.stalled if is_running else 0,
            silent_s=round(now - pulse["at"], 1) if "at" in pulse else None,
            calls_per_s=round(recent / window_s, 2) if recent else None,
            eta_s=_eta_s(store, counts["done"], questions, now) if is_running else None,
            replicas=pulse["replicas"],
        )


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
        timing = store.call_times(0.0, 0.0)
        tokens = sum(store.usage_by_phase().values(), Usage()).computed_tokens
        sessions = store.get(SESSIONS)
        before = (store.get(BEFORE) or {}).get("tokens", 0)
    if sessions and tokens > before:
        seconds = active_s(sessions)
        tokens -= before
    elif timing.first_started is None or timing.last_finished is None:
        return None
    else:
        seconds = timing.last_finished - timing.first_started
    return tokens / seconds if seconds > 0 else None


def _eta_s(store: Store, done: int, questions: int, now: float) -> float | None:
    sessions = store.get(SESSIONS)
    gained = done - (store.get(BEFORE) or {}).get("done", 0)
    if not sessions or gained <= 0 or done >= questions:
        return None
    worked_s: float = active_s([*sessions[:-1], (sessions[-1][0], now)])
    left_s: float = round(worked_s / gained * (questions - done), 1)
    return left_s


def _gather(manifests: list[Manifest], now: float) -> Status:
    """Returns the sum of what each shard said of itself in its last segment."""
    latest: dict[str, Manifest] = {}
    for one in sorted(manifests, key=lambda one: one.sealed_s):
        latest[one.label or one.sha256] = one
    told = [one.progress for one in latest.values() if one.progress]
    usage: dict[str, Usage] = {}
    for progress in told:
        for phase, data in progress["usage"].items():
            spent = Usage.model_validate({name: data[name] for name in Usage.model_fields})
            usage[phase] = usage.get(phase, Usage()) + spent
    return Status(
        running=None,
        questions=sum(progress["questions"] for progress in told),
        done=sum(progress["done"] for progress in told),
        growing=sum(progress["growing"] for progress in told),
        outcomes=_sum(progress["outcomes"] for progress in told),
        calls={"done": 0, "failed": 0, "intent": 0, "repeated": 0}
        | _sum(progress["calls"] for progress in told),
        usage=usage,
        failures=_sum(progress["failures"] for progress in told),
        parts=len(latest),
        sealed_s=round(now - max(one.sealed_s for one in manifests), 1),
    )


def _sum(counts: Iterator[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for name, number in one.items():
            total[name] = total.get(name, 0) + number
    return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0])))
