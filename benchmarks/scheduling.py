"""Whether a search keeps a server busy, and how much memory its process takes.

    python benchmarks/scheduling.py --calls 10000 [--json FILE]

Starts a server process with 50 ms latency and no model (benchmarks/slow_server.py) and runs a
search against it with 64 requests in flight. The first table line is over HTTP; the second has the
same latency inside the process (scripted engine), which shows the scheduler without a client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from agenticlu.data.corpus import Item, build_item
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines import load_engine
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import Engine
from agenticlu.engines.retry import Limiter
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import SearchConfig
from agenticlu.search.run import Limits, run_search
from agenticlu.search.store import Store

CONFIG = SearchConfig(branching=4, depth=1, piece_tokens=128, growth="full")
LEAST_BUSY = 0.95
MOST_MEMORY_MB = 500
CALLS_PER_QUESTION = 100
"""About: 16 pieces x 5 texts + 1 + 1 + 3 x 4."""


def build_corpus(questions: int) -> list[Item]:
    """Writes documents of sixteen pieces."""
    items = []
    for number in range(questions):
        text = " ".join(f"Line {i} of document {number} says nothing much." for i in range(190))
        row = {"context": text, "question": f"What of {number}?", "answers": ["x"]}
        items.append(build_item(row, number, "made"))
    return items


def start_server(latency_s: float) -> tuple[subprocess.Popen[str], str]:
    """Starts the server; returns its process and address."""
    script = Path(__file__).parent / "slow_server.py"
    process = subprocess.Popen(
        [sys.executable, str(script), "--latency", str(latency_s)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def search(engine: Engine, items: list[Item], in_flight: int) -> tuple[int, float]:
    """Runs the search; returns its calls and seconds."""

    async def work(store: Store) -> int:
        try:
            summary = await run_search(
                items,
                engine,
                store,
                CONFIG,
                tokenizer=ApproximateTokenizer(),
                limits=Limits(requests_in_flight=in_flight, parallel=16),
            )
        finally:
            await engine.close()
        return summary.calls["done"]

    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        began = time.perf_counter()
        return asyncio.run(work(store)), time.perf_counter() - began


class Watched(ScriptedEngine):
    """Notes how many requests it holds, and when."""

    def __init__(self, latency_s: float) -> None:
        super().__init__(lambda request: None, latency_s=latency_s)
        self.changes: list[tuple[float, int]] = []
        self._held = 0

    async def _begin(self, *arguments: Any) -> Any:
        self._note(1)
        try:
            return await super()._begin(*arguments)
        finally:
            self.requests.clear()
            self._note(-1)

    def _note(self, by: int) -> None:
        self._held += by
        self.changes.append((time.monotonic(), self._held))

    def stats(self, from_s: float = 2.0) -> tuple[float, float]:
        """Returns the share of time with a request in hand, and the mean in hand."""
        start, busy, weighted = self.changes[0][0] + from_s, 0.0, 0.0
        for (at, held), (after, _) in zip(self.changes, self.changes[1:], strict=False):
            span = max(0.0, after - max(at, start))
            busy += span * (held > 0)
            weighted += span * held
        window = max(1e-9, self.changes[-1][0] - start)
        return busy / window, weighted / window


def figure(
    name: str, value: float, unit: str, *, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """Returns one figure of the JSON file."""
    target = least if least is not None else most
    met = None if target is None else (value >= target if least is not None else value <= target)
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met}


def main() -> None:
    """Parses arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    items = build_corpus(max(1, given.calls // CALLS_PER_QUESTION))
    process, address = start_server(given.latency)
    try:
        engine = load_engine("slow", (address,), limiter=Limiter(Admission(given.in_flight)))
        calls, seconds = search(engine, items, given.in_flight)
        with urllib.request.urlopen(address.removesuffix("/v1") + "/stats") as response:
            stats = json.load(response)
    finally:
        process.terminate()
        process.wait()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ideal = calls * given.latency / given.in_flight
    print(
        f"over HTTP : {calls} calls in {seconds:.1f} s ({calls / seconds:.0f}/s; "
        f"{ideal:.1f} s if nothing but latency counted), server busy "
        f"{stats['busy_share']:.1%} of the time, mean {stats['mean_in_flight']:.1f} of "
        f"{given.in_flight} in flight, peak memory {memory:.0f} MB"
    )
    found = [
        figure("over HTTP: calls", calls, "calls"),
        figure("over HTTP: time", round(seconds, 2), "s"),
        figure("over HTTP: server busy", round(stats["busy_share"], 4), "share", least=LEAST_BUSY),
        figure("over HTTP: mean in flight", round(stats["mean_in_flight"], 2), "requests"),
        figure("over HTTP: peak memory", round(memory), "MB", most=MOST_MEMORY_MB),
    ]
    watched = Watched(given.latency)
    calls, seconds = search(watched, items, given.in_flight)
    busy, mean = watched.stats()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"in process: {calls} calls in {seconds:.1f} s ({calls / seconds:.0f}/s), engine busy "
        f"{busy:.1%} of the time, mean {mean:.1f} of {given.in_flight} in flight, peak memory "
        f"{memory:.0f} MB"
    )
    found += [
        figure("in process: calls", calls, "calls"),
        figure("in process: time", round(seconds, 2), "s"),
        figure("in process: engine busy", round(busy, 4), "share", least=LEAST_BUSY),
        figure("in process: mean in flight", round(mean, 2), "requests"),
        figure("in process: peak memory", round(memory), "MB", most=MOST_MEMORY_MB),
    ]
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
