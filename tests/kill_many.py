"""Kills one search many times at random moments and proves that nothing was lost.

    python tests/kill_many.py --kills 50

The same scripted search runs once undisturbed and once under kill -9. In the end both exports must
be equal to the byte, the repeated calls at most those in flight at the kills, and siblings
distinct.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "search"))

from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.pairs import PairPolicy, build_dataset, load_groves
from agenticlu.search.run import Limits, run_search
from agenticlu.store import FILE_NAME, Store, load_trees


def work(folder: Path, documents: int, latency_s: float) -> None:
    """Runs the search to its end, or until somebody kills this process."""
    items = corpus(documents)
    sampler = engine(items, latency_s=latency_s)
    limits = Limits(parallel=4, requests_in_flight=8)
    with Store(folder) as store:
        asyncio.run(run_search(items, sampler, store, CONFIG, tokenizer=TOKENIZER, limits=limits))


def export(run: Path, out: Path) -> dict[str, bytes]:
    """Returns the bytes of every exported file."""
    with Store(run, writable=False) as store:
        build_dataset(load_groves(store), store.document_ids(), out, PairPolicy())
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


def start(folder: Path, documents: int, latency_s: float) -> subprocess.Popen[bytes]:
    """Starts the search in a process of its own."""
    arguments = ["--work", str(folder), "--documents", str(documents), "--latency", str(latency_s)]
    return subprocess.Popen([sys.executable, __file__, *arguments])


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
    began = time.monotonic()
    assert start(reference, documents, latency_s).wait() == 0
    whole_s = time.monotonic() - began
    lost = landed = 0
    while landed < kills:
        process = start(tried, documents, latency_s)
        # Early in a run at first; later kills need longer to come past what is replayed.
        delay = draw.uniform(0.2, max(0.4, whole_s * 0.8))
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            landed += 1
            lost += in_flight(tried)
            continue
        break
    assert start(tried, documents, latency_s).wait() == 0
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
    given = parser.parse_args()
    if given.work:
        work(given.work, given.documents, given.latency)
        return
    with tempfile.TemporaryDirectory() as root:
        print(kill_many(Path(root), given.kills, given.documents, given.latency, given.seed))


if __name__ == "__main__":
    main()
