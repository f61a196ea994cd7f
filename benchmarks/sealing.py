"""Cost of sealing and merging a run of many calls: time, size and memory.

    python benchmarks/sealing.py --documents 1000 --calls 200 [--json FILE]

The run is written straight into a store: no engine, no search. The first segment holds all of it,
the second what a search of sixteen questions at a time would have changed since.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from agenticlu.core.records import Document, Node, Piece, Question, Tree, content_id
from agenticlu.search.shards import SharedFolder
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.shards.sealer import Sealer
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME, Statement, pack

WORDS = 20_000
"""Words of a document."""
NODES = 17
CHANGED = 16
"""Documents that changed between two segments."""


def fill(store: Store, number: int, calls: int) -> str:
    """Writes one document with a finished tree; returns its id."""
    text = " ".join(f"w{(number * 7919 + i * 31) % 50_000}" for i in range(WORDS))
    document = Document.of(text, "made")
    step = len(text) // 200
    pieces = [
        Piece(index=i, start=i * step, end=(i + 1) * step, num_tokens=100) for i in range(200)
    ]
    store.add_document(document, pieces)
    question = Question(id=f"q{number}", text="What of it? " * 8)
    store.add_question(question, document.id, number)
    tree = Tree(
        id=f"t{number}",
        document_id=document.id,
        question=question,
        system="s",
        profile="p",
        nodes=(),
    )
    row = (tree.id, question.id, tree.model_dump_json())
    statements = [call(document.id, f"{number}-{i}") for i in range(calls)]
    statements.append(("INSERT INTO tree VALUES (?, ?, 'done', ?)", row))
    for i in range(NODES):
        node = Node(
            id=f"{number}-{i}",
            parent=f"{number}-0" if i else None,
            depth=min(i, 1),
            ordinal=i,
            turns=(),
            answer="word " * 40,
        )
        values = (node.id, tree.id, node.depth, pack(node.model_dump(mode="json")))
        statements.append(("INSERT INTO node VALUES (?, ?, ?, ?)", values))
    store.write(statements)
    return document.id


def call(document_id: str, name: str) -> Statement:
    """Returns the statement that writes a finished call down."""
    reply = pack([[f"{'word ' * 60}{name}", "stop", list(range(100, 160))]])
    return (
        "INSERT INTO call VALUES (?, 'answer', ?, NULL, NULL, 'done', 1, ?, NULL, 1, 3000, 2000, "
        "60, 1.0, 2.0)",
        (content_id(name, length=32), document_id, reply),
    )


def measure(root: Path, documents: int, calls: int) -> dict[str, float]:
    """Seals, seals again and merges; returns seconds and megabytes."""
    with Store(root / "run") as store:
        ids = [fill(store, number, calls) for number in range(documents)]
    figures = {"run_mb": (root / "run" / FILE_NAME).stat().st_size / 1e6}
    sealer = Sealer(root / "run", str(root / "sealed"))
    began = time.perf_counter()
    sealer.seal()
    figures["whole_s"] = time.perf_counter() - began
    with Store(root / "run") as store:
        store.write([call(one, f"new {one}") for one in ids[:CHANGED]])
    began = time.perf_counter()
    sealer.seal()
    figures["changed_s"] = time.perf_counter() - began
    sizes = sorted(one.bytes / 1e6 for one in SharedFolder(str(root / "sealed")).manifests())
    figures |= {"whole_mb": sizes[-1], "changed_mb": sizes[0]}
    figures["sealing_peak_mb"] = peak_mb()
    began = time.perf_counter()
    merge_runs(root / "merged", [str(root / "sealed")])
    figures["merge_s"] = time.perf_counter() - began
    figures["merging_peak_mb"] = peak_mb()
    return figures


def peak_mb() -> float:
    """Returns the largest size that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Parses arguments, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=200, help="Calls a document.")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        found = measure(Path(root), given.documents, given.calls)
    calls = given.documents * given.calls
    print(f"a run of {given.documents} documents and {calls} calls, {found['run_mb']:.0f} MB:")
    print(f"  sealed whole        {found['whole_s']:6.1f} s  {found['whole_mb']:6.1f} MB")
    print(f"  {CHANGED} documents of it {found['changed_s']:6.1f} s  {found['changed_mb']:6.1f} MB")
    print(f"  merged              {found['merge_s']:6.1f} s")
    print(
        f"  peak memory         {found['sealing_peak_mb']:.0f} MB sealing, "
        f"{found['merging_peak_mb']:.0f} MB merging"
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
