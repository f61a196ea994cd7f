"""Loss against steps for M = 1, 8, 16, 32: what sharing costs in learning, beside what it saves.

    python benchmarks/sharing_curves.py --json sharing_curves.json

The same batch size (32 traces) and number of steps for every M; only how many traces of a batch
come from one document changes. Rows are questions about documents of the synthetic world, the
start is the bundled tiny model, and the validation documents share no people with the training
ones. Time is that of this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import agenticlu
from agenticlu.demo.world import Split, World
from agenticlu.documents.tokens import load_tokenizer
from agenticlu.training.loop import Run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from made_config import resolve_config

MODEL = Path(agenticlu.__file__).parent / "demo" / "model"
SHARED = (1, 8, 16, 32)


def write_rows(folder: Path, documents: int, traces: int, tokens: int) -> None:
    """Writes SFT rows of the world: `traces` questions about each document."""
    world, tokenizer = World(seed=5), load_tokenizer(str(MODEL))
    (folder / "sft").mkdir(parents=True)
    splits: tuple[tuple[Split, int], ...] = (("train", documents), ("validation", 8))
    for split, count in splits:
        rows = []
        for index in range(count):
            document = world.document(split, index, tokens, tokenizer.count, num_questions=traces)
            for question in document.questions:
                prompt = f"{document.text}\n\nQuestion: {question.text}"
                reply = f"{question.statement} Answer: {question.answer}"
                rows.append({
                    "id": question.id, "document_id": document.id,
                    "messages": [
                        {"role": "user", "content": prompt},
                        {"role": "assistant", "content": reply},
                    ],
                })  # fmt: skip
        path = folder / "sft" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def train(rows: Path, out: Path, shared: int, steps: int, lr: float) -> dict[str, Any]:
    """Trains with M = `shared`; returns the curve."""
    config = resolve_config(
        "sft",
        preset="tiny",
        changes={
            "dataset": str(rows), "model": str(MODEL), "out": str(out), "batch": 32, "epochs": 9,
            "traces_per_trie": shared, "max_steps": steps, "lr": lr, "threads": 1,
            "validation_rows": 64, "save_every": 0,
        },
    )  # fmt: skip
    run = Run(config)
    run.load_rows()
    run.load_model()
    before = run.evaluate(0)["nll_nat"]
    losses, stored, start = [], 0, time.process_time()
    for index in range(steps):
        values = run.run_step(index)
        losses.append(values["loss"])
        stored += values["stored_tokens"]
    seconds = time.process_time() - start
    return {
        "traces_per_trie": shared, "losses": losses, "validation_nat_before": before,
        "validation_nat_after": run.evaluate(steps)["nll_nat"], "process_s": seconds,
        "stored_tokens": stored,
    }  # fmt: skip


def main() -> None:
    """Prints one line per M."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", dest="out", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_rows(work / "rows", arguments.documents, 32, arguments.tokens)
        print(f"{'M':>4}{'stored':>10}{'seconds':>10}{'loss, last 4':>14}{'validation':>12}")
        for shared in SHARED:
            line = train(work / "rows", work / str(shared), shared, arguments.steps, arguments.lr)
            results.append(line)
            last = sum(line["losses"][-4:]) / 4
            print(
                f"{shared:4}{line['stored_tokens']:10}{line['process_s']:10.1f}{last:14.4f}"
                f"{line['validation_nat_after']:12.4f}", flush=True,
            )  # fmt: skip
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {
                "name": f"M = {one['traces_per_trie']}: validation loss",
                "value": one["validation_nat_after"],
                "unit": "nat",
                "target": None,
                "met": None,
                **one,
            }
            for one in results
        ]
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
