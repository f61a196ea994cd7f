"""What `agenticlu serve` adds to a request, and what one client can do to the others.

    python benchmarks/serve.py [--repeats N] [--huge-mib N] [--json FILE]

A server process over the bundled model, asked over loopback: the time a request takes more than the
same one in this process, the latency of small requests while another client sends a huge one or
holds a thousand connections open, the memory that the huge one takes, and how soon the place of a
client that hung up is free. Figures as JSON: a list of {name, value, unit, target, met}.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from agenticlu.core.records import Message
from agenticlu.engines import load_engine
from agenticlu.engines.base import Sampling

CHAT = "/v1/chat/completions"
HEADERS = {"Content-Type": "application/json"}
QUESTION = "Where does Ada Yardley live?"
MIB = 1 << 20


@contextmanager
def served(*options: str) -> Iterator[tuple[str, int, psutil.Process]]:
    """Runs a server; yields host, port and process."""
    command = [sys.executable, "-u", "-c", "from agenticlu.cli import main; main()", "serve"]
    process = subprocess.Popen(
        [*command, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)/v1", process.stdout.readline())
        assert found, f"the server ended with {process.poll()}"
        yield found[1], int(found[2]), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def ask(connection: http.client.HTTPConnection, **more: Any) -> float:
    """Asks a small question; returns the seconds it took."""
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1, "temperature": 0}
    began = time.perf_counter()
    connection.request("POST", CHAT, json.dumps(body | more), HEADERS)
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    return time.perf_counter() - began


def ask_here(repeats: int) -> list[float]:
    """Seconds of the same question in this process."""
    engine = load_engine()
    messages = [Message(role="user", content=QUESTION)]

    async def run() -> list[float]:
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            await engine.sample(messages, Sampling(max_tokens=1))
            times.append(time.perf_counter() - began)
        await engine.close()
        return times

    return asyncio.run(run())


def send_huge(host: str, port: int, mib: float) -> int:
    """Sends one request of that size; returns its status."""
    text = "The mill at Dunmore was built by Ada Larkin. "
    content = json.dumps(
        {"messages": [{"role": "user", "content": text * int(mib * MIB / len(text))}]}
    )
    connection = http.client.HTTPConnection(host, port, timeout=600)
    connection.request("POST", CHAT, content, HEADERS)
    status = connection.getresponse().status
    connection.close()
    return status


def beside(host: str, port: int, work: Callable[[], Any]) -> tuple[list[float], Any]:
    """Asks small questions, each over a new connection, while other work runs in a thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    times = []
    while thread.is_alive() or len(times) < 5:
        connection = http.client.HTTPConnection(host, port, timeout=600)
        times.append(ask(connection))
        connection.close()
        time.sleep(0.005)
    thread.join()
    return times, results[0]


@contextmanager
def peak_of(process: psutil.Process) -> Iterator[list[float]]:
    """Measures by how many MiB a process grows at most; the list holds the figure afterwards."""
    before = process.memory_info().rss
    peak = before
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    grown: list[float] = []
    try:
        yield grown
    finally:
        done.set()
        thread.join()
        grown.append((peak - before) / MIB)


def hold_open(host: str, port: int, count: int) -> Callable[[], int]:
    """Returns work that holds connections open on which half a request was sent."""

    def work() -> int:
        held = []
        for _ in range(count):
            one = socket.create_connection((host, port))
            held.append(one)
            with suppress(ConnectionError):  # it may have made room already
                one.sendall(b"POST /v1/chat")
        time.sleep(1)
        for one in held:
            one.close()
        return count

    return work


def hang_up(host: str, port: int) -> float:
    """Hangs up on a long reply; returns the seconds until its only place is free."""
    body = json.dumps(
        {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 30_000, "n": 4}
    ).encode()
    one = socket.create_connection((host, port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x.localhost\r\nContent-Type: application/json\r\n"
    one.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(1)
    one.close()
    began = time.perf_counter()
    while True:
        connection = http.client.HTTPConnection(host, port, timeout=600)
        try:
            ask(connection)
            return time.perf_counter() - began
        except AssertionError:
            time.sleep(0.002)
        finally:
            connection.close()


def measure(repeats: int, huge_mib: float) -> list[dict[str, Any]]:
    """Takes all figures."""
    figures: list[dict[str, Any]] = []

    def note(name: str, value: float, unit: str, target: float) -> None:
        met = value <= target
        figures.append(
            {"name": name, "value": round(value, 3), "unit": unit, "target": target, "met": met}
        )

    here = statistics.median(ask_here(repeats))
    with served("--max-requests", "64") as (host, port, process):
        connection = http.client.HTTPConnection(host, port, timeout=600)
        times = [ask(connection) for _ in range(repeats)]
        note("added to a request", 1000 * (statistics.median(times) - here), "ms", 5)
        note("small request alone", 1000 * statistics.median(times), "ms", 25)
        with peak_of(process) as grown:
            times, status = beside(host, port, lambda: send_huge(host, port, huge_mib))
        assert status == 413, status
        note(f"small request beside {huge_mib:g} MiB refused, slowest", max(times), "s", 0.5)
        note(f"memory for {huge_mib:g} MiB refused", grown[0], "MiB", 32)
        times, _ = beside(host, port, hold_open(host, port, 1000))
        note("small request beside 1,000 half-open connections, slowest", max(times), "s", 0.5)
        times, status = beside(host, port, lambda: send_huge(host, port, 0.03))
        assert status == 200, status
        note("small request beside a prompt of 30 KiB, slowest", max(times), "s", 1.5)
    with served("--max-body-mib", str(2 * huge_mib)) as (host, port, process):
        with peak_of(process) as grown:
            times, status = beside(host, port, lambda: send_huge(host, port, huge_mib))
        assert status == 400, status
        note(f"small request beside {huge_mib:g} MiB read, slowest", max(times), "s", 0.5)
        note(
            f"small request beside {huge_mib:g} MiB read, median",
            statistics.median(times),
            "s",
            0.1,
        )
        note(f"memory for {huge_mib:g} MiB read", grown[0], "MiB", 6 * huge_mib)
    with served("--max-requests", "1") as (host, port, _):
        note("until the place of a client that hung up is free", hang_up(host, port), "s", 0.25)
    return figures


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--huge-mib", type=float, default=60)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    figures = measure(given.repeats, given.huge_mib)
    for one in figures:
        verdict = "" if one["met"] else "  MISSED"
        print(
            f"{one['name']:62} {one['value']:9.3f} {one['unit']:4} (at most {one['target']:g})"
            f"{verdict}"
        )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
