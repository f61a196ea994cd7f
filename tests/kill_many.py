"""Kills one search many times at random moments and proves that nothing was lost.

    python tests/kill_many.py --kills 50

The same scripted search runs once undisturbed and once under kill -9. In the end both exports must
be equal to the byte, the repeated calls at most those in flight at the kills, and siblings
distinct.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from made_trees import load_trees
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.data.build import build_dataset
from agenticlu.data.pairs import PairPolicy
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search.run import Limits, run_search
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME


class Doomed(ScriptedEngine):
    """An engine whose process is killed a while after its first request."""

    doom_s: float | None = None

    async def _begin(self, *arguments: Any) -> Any:
        if self.doom_s is not None and not self.requests:
            timer = threading.Timer(self.doom_s, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        return await super()._begin(*arguments)


def work(folder: Path, documents: int, latency_s: float, doom_s: float | None) -> None:
    """Runs the search to its end, or until it is killed."""
    items = corpus(documents)
    sampler = engine(items, kind=Doomed, latency_s=latency_s)
    sampler.doom_s = doom_s
    limits = Limits(parallel=4, requests_in_flight=8)
    with Store(folder) as store:
        began = time.monotonic()
        asyncio.run(run_search(items, sampler, store, CONFIG, tokenizer=TOKENIZER, limits=limits))
        print(time.monotonic() - began)


def export(run: Path, out: Path) -> dict[str, bytes]:
    """Returns the bytes of every exported file."""
    with Store(run, writable=False) as store:
        build_dataset(store, out, PairPolicy())
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


def run(
    folder: Path, documents: int, latency_s: float, doom_s: float | None = None
) -> tuple[int, str]:
    """Runs the search in a process of its own; returns its exit code and what it printed."""
    arguments = ["--work", str(folder), "--documents", str(documents), "--latency", str(latency_s)]
    if doom_s is not None:
        arguments += ["--doom", str(doom_s)]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=False
    )
    return done.returncode, done.stdout


def in_flight(folder: Path) -> int:
    """Returns the calls that a kill left without an outcome."""
    if not (folder / FILE_NAME).is_file():
        return 0
    with Store(folder, writable=False) as store:
        return store.call_counts()["intent"]


def kill_many(root: Path, kills: int, documents: int, latency_s: float, seed: int) -> str:
    """Runs the proof; returns one line of figures.

    Raises:
        AssertionError: Something was lost, repeated or changed.
    """
    draw = random.Random(seed)
    reference, tried = root / "reference", root / "tried"
    code, printed = run(reference, documents, latency_s)
    assert code == 0
    whole_s = float(printed)
    lost = landed = 0
    while landed < kills:
        # Small steps, so that so many kills fall into one run.
        code, _ = run(tried, documents, latency_s, draw.uniform(0, 1.5 * whole_s / kills))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        landed += 1
        lost += in_flight(tried)
    assert landed > kills // 2, f"the run was over after {landed} kills"
    assert run(tried, documents, latency_s)[0] == 0
    with Store(tried, writable=False) as store:
        counts = store.call_counts()
    with Store(reference, writable=False) as store:
        wanted = store.call_counts()
    assert counts["repeated"] <= lost, f"{counts['repeated']} repeated, {lost} were in flight"
    assert {**counts, "repeated": 0} == wanted
    for tree in load_trees(tried):
        for node in tree.nodes:
            asked = [child.turns[0].reply for child in tree.children(node.id)]
            assert len(set(asked)) == len(asked), "siblings became equal"
    before, after = export(reference, root / "a"), export(tried, root / "b")
    assert sum(map(len, before.values())) > 0
    assert before == after, "the exports differ"
    return (
        f"{landed} kills, {counts['done']} calls, {lost} in flight at kills, "
        f"{counts['repeated']} repeated, export equal ({sum(map(len, before.values()))} bytes)"
    )


def main() -> None:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--latency", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--doom", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.documents, given.latency, given.doom)
        return
    with tempfile.TemporaryDirectory() as root:
        print(kill_many(Path(root), given.kills, given.documents, given.latency, given.seed))


if __name__ == "__main__":
    main()
