"""How far a run is, from its file alone; any process may look."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agenticlu.records import Usage
from agenticlu.store import LOCK_NAME, Store, as_mapping

RATE_WINDOW_S = 60.0
"""The rate is that of the last minute with finished calls."""
STALLED_S = 120.0
"""A call in flight for longer is named as stalled."""


@dataclass(frozen=True)
class Status:
    """State of a run."""

    running: bool
    """Whether a process holds the writer's lock."""
    questions: int
    done: int
    growing: int
    outcomes: dict[str, int]
    calls: dict[str, int]
    """done, failed, intent (in flight, or lost by a kill), repeated."""
    stalled: int
    """Calls in flight for more than two minutes."""
    calls_per_s: float | None
    """None when nothing finished lately."""
    eta_s: float | None
    """Seconds until the last question, at the mean time per finished question."""
    usage: dict[str, Usage]
    failures: dict[str, int]
    """Reason to number of calls."""

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        data = asdict(self)
        data["usage"] = {name: as_mapping(usage) for name, usage in self.usage.items()}
        data["tokens"] = as_mapping(sum(self.usage.values(), Usage()))
        return data

    def render(self) -> str:
        """Returns lines for people."""
        state = "running" if self.running else "not running"
        total = sum(self.usage.values(), Usage())
        outcomes = ", ".join(f"{n} {name}" for name, n in sorted(self.outcomes.items()))
        lines = [
            f"{state}: {self.done} of {self.questions} questions done, {self.growing} growing",
            f"outcomes: {outcomes or 'none yet'}",
            f"calls: {self.calls['done']} done, {self.calls['intent']} in flight, "
            f"{self.calls['failed']} failed, {self.calls['repeated']} repeated",
            f"tokens: {total.prompt_tokens - total.cached_tokens} computed, "
            f"{total.cached_tokens} cached, {total.completion_tokens} sampled",
        ]
        if self.calls_per_s is not None:
            lines.append(f"rate: {self.calls_per_s:.1f} calls/s")
        if self.eta_s is not None and self.done < self.questions:
            lines.append(f"about {self.eta_s:.0f} s left")
        if self.stalled:
            lines.append(f"{self.stalled} calls have waited for more than {STALLED_S:.0f} s")
        lines += [f"failed {n} times: {reason}" for reason, n in self.failures.items()]
        return "\n".join(lines)


def load_status(run: str | Path, now: float | None = None) -> Status:
    """Returns the state of a run.

    Args:
        run: Its folder.
        now: Seconds since the epoch; the clock's when None.
    """
    now = time.time() if now is None else now
    with Store(run, writable=False) as store:
        counts = store.tree_counts()
        timing = store.timing(now - RATE_WINDOW_S, now - STALLED_S)
        started = timing["first_started"]
        done = counts["done"]
        left = counts["questions"] - done
        eta = None
        if started is not None and done:
            eta = (timing["last_finished"] - started) / done * left
        recent = timing["recent"]
        return Status(
            running=is_locked(Path(run)),
            questions=counts["questions"],
            done=done,
            growing=counts["growing"],
            outcomes=store.outcomes(),
            calls=store.call_counts(),
            stalled=int(timing["stalled"]),
            calls_per_s=round(recent / RATE_WINDOW_S, 2) if recent else None,
            eta_s=None if eta is None else round(eta, 1),
            usage=store.usage_by_phase(),
            failures=store.failures(),
        )


def load_rate(run: str | Path) -> float | None:
    """Returns the computed and sampled tokens per second of a run; None before it began."""
    with Store(run, writable=False) as store:
        timing = store.timing(0.0, 0.0)
        usage = sum(store.usage_by_phase().values(), Usage())
    if timing["first_started"] is None or timing["last_finished"] is None:
        return None
    seconds = timing["last_finished"] - timing["first_started"]
    return usage.computed_tokens / seconds if seconds > 0 else None


def is_locked(run: Path) -> bool:
    """Whether a process is writing to a run."""
    try:
        lock = os.open(run / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False
