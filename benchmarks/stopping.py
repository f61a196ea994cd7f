"""What stays of 500 requests and 50 that are stopped in the middle: memory, work, connections.

    python benchmarks/stopping.py [--requests N] [--aborted N] [--asks N] [--stopped N]

Two processes over the bundled model. A server: requests, half of them streamed, then streams whose
client goes away after the first word; the same with questions about a document. And one that asks
by itself, with each text told as it comes, and stops in the middle of a turn. Memory is compared
after two fifths of the requests and at the end; a process without work uses no processor time.
Figures as JSON: a list of {name, value, unit, target, met}.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parent))
from serve import CHAT, HEADERS, MIB, served

from agenticlu.core.records import Document
from agenticlu.dialogue.answer import Event
from agenticlu.dialogue.ask import ask
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import load_tokenizer
from agenticlu.engines import BUNDLED_MODEL, load_engine

TEXT = (
    "The snow lasted for nine days. Ada Yardley lives in Wexley. Bo Otis keeps a duck. "
    "The teacher of Bo Otis is Ada Yardley. "
)
QUESTION = "Where does the teacher of Bo Otis live?"
CACHE_GIB = 0.01
"""Small, so that it is full early."""
WARM = 40
"""Per cent of the requests after which memory is measured first: caches and buffers are full."""
IDLE_S = 2.0
Figures = list[dict[str, Any]]


def note(figures: Figures, name: str, value: float, unit: str, target: float) -> None:
    """Adds a figure."""
    met = value <= target
    figures.append(
        {"name": name, "value": round(value, 3), "unit": unit, "target": target, "met": met}
    )
    print(
        f"{name:66} {value:9.3f} {unit:3} (at most {target:g}){'' if met else '  MISSED'}",
        flush=True,
    )


def post(host: str, port: int, number: int, *, model: str | None, abort: bool) -> None:
    """Sends one request about a document of its own; an aborted one hangs up at its first word."""
    shown = f"{number}. {TEXT * (4 + number % 8)}\n\n{QUESTION}"
    body: dict[str, Any] = {"messages": [{"role": "user", "content": shown}], "temperature": 0}
    body["stream"] = abort or number % 2 == 0
    if model:
        body["model"] = model
    else:
        body["max_tokens"] = 1024 if abort else 24
    connection = http.client.HTTPConnection(host, port, timeout=600)
    try:
        connection.request("POST", CHAT, json.dumps(body), HEADERS)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        if abort:
            while b"content" not in response.fp.readline():
                pass
        else:
            response.read()
    finally:
        connection.close()


def idle_cpu_s(process: psutil.Process) -> float:
    """Returns the processor seconds that a process uses while it is asked nothing."""
    before = sum(process.cpu_times()[:2])
    time.sleep(IDLE_S)
    return float(sum(process.cpu_times()[:2])) - before


def measure_server(
    figures: Figures, model: str | None, requests: int, aborted: int, what: str
) -> None:
    """Sends requests to a server of its own."""
    with served("--cache-gib", str(CACHE_GIB)) as (host, port, process):
        early = 0.0
        for number in range(requests):
            post(host, port, number, model=model, abort=False)
            if number == requests * WARM // 100:
                early = process.memory_info().rss / MIB
        threads, files = process.num_threads(), process.num_fds()
        for number in range(aborted):
            post(host, port, number, model=model, abort=True)
        cpu_s = idle_cpu_s(process)
        late = process.memory_info().rss / MIB
        note(figures, f"{what}: memory after {requests} and {aborted} aborted, growth",
             100 * (late / early - 1), "%", 10)  # fmt: skip
        note(figures, f"{what}: processor time when idle after them, of {IDLE_S:g} s",
             cpu_s, "s", 0.05)  # fmt: skip
        more = process.num_threads() - threads + process.num_fds() - files
        note(figures, f"{what}: threads and open files beyond those before the aborted",
             max(0, more), "", 2)  # fmt: skip


async def ask_here(figures: Figures, asks: int, stopped: int) -> None:
    """Asks in this process."""
    engine = load_engine(cache_bytes=int(CACHE_GIB * 2**30))
    decoder = engine._worker.decoder  # type: ignore[attr-defined]
    options: dict[str, Any] = {
        "tokenizer": load_tokenizer(str(BUNDLED_MODEL)),
        "profile": load_profile(),
    }
    step, steps = decoder.step, 0

    def count(tokens: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(tokens)

    decoder.step = count
    process, early, tokens_after = psutil.Process(), 0.0, 0

    async def once(number: int, stop_at: int | None) -> None:
        nonlocal tokens_after
        document = Document.of(f"{number}. {TEXT * (4 + number % 8)}", f"{number}.txt")
        told, at, wanted = 0, 0, asyncio.Event()

        def hear(event: Event) -> None:
            nonlocal told, at
            told += event.kind == "text"
            if told == stop_at and not wanted.is_set():
                at = steps
                wanted.set()

        answer = await ask(document, QUESTION, engine, stop=wanted, on_event=hear, **options)
        assert answer.stopped == (stop_at is not None and told >= stop_at)
        if answer.stopped:
            tokens_after = max(tokens_after, steps - at)

    for number in range(asks):
        await once(number, None)
        if number == asks * WARM // 100:
            early = process.memory_info().rss / MIB
    for number in range(stopped):
        await once(number, 1 + number % 12)
    await asyncio.sleep(0.1)
    gc.collect()
    at, cpu_s = steps, await asyncio.to_thread(idle_cpu_s, process)
    late = process.memory_info().rss / MIB
    note(figures, f"in process: memory after {asks} and {stopped} stopped, growth",
         100 * (late / early - 1), "%", 10)  # fmt: skip
    note(figures, "in process: tokens decoded after a stop, most", tokens_after, "", 1)
    note(figures, f"in process: processor time when idle after them, of {IDLE_S:g} s",
         cpu_s, "s", 0.05)  # fmt: skip
    left = len(decoder.branches) + len(asyncio.all_tasks()) - 1 + steps - at
    note(figures, "in process: replies, tasks and tokens still under way", left, "", 0)
    await engine.close()
    note(figures, "in process: threads of the model after its end",
         sum("agenticlu" in one.name for one in threading.enumerate()), "", 0)  # fmt: skip


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--aborted", type=int, default=50)
    parser.add_argument("--asks", type=int, default=200)
    parser.add_argument("--stopped", type=int, default=50)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    figures: Figures = []
    measure_server(figures, None, given.requests, given.aborted, "model")
    measure_server(figures, "agenticlu", given.asks, given.stopped, "dialogue")
    asyncio.run(ask_here(figures, given.asks, given.stopped))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
