"""The commands that tests/kill_many.py kills: how they begin, and what must be there in the end."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripted_world import export

from agenticlu.core.errors import StoreError
from agenticlu.core.progress import read_metrics
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.search.store import Store
from agenticlu.search.store.file import FILE_NAME

PROBES = 8
"""Requests that find out about a server, at most."""
Found = dict[str, Any]
FLEETING = re.compile(r"usage|tokens|requests|seconds|_vs_|effective")
"""Fields that depend on the clock, or on the server being new to a process, which then asks it what
it can do."""


@dataclass(frozen=True)
class Tear:
    """What a power failure leaves of a file that was being written."""

    file: Callable[[Path], Path | None]
    """The file in a folder of results, if it is there."""
    change: Callable[[bytes, random.Random], bytes]
    costs: bool = False
    """Whether something that was on the disk is gone."""

    def damage(self, out: Path, draw: random.Random) -> None:
        """Damages the file."""
        path = self.file(out)
        assert path is not None
        path.write_bytes(self.change(path.read_bytes(), draw))


def part_of(data: bytes, draw: random.Random) -> bytes:
    """Returns the first part of what might have been appended: what was, once more."""
    last = data[-4000:].removesuffix(b"\n")[data[-4000:-1].rfind(b"\n") + 1 :]
    return last[: draw.randrange(1, max(2, len(last) - 1))]


def torn(data: bytes, draw: random.Random) -> bytes:
    return data + part_of(data, draw)


def blank(data: bytes, draw: random.Random) -> bytes:
    return data + bytes(draw.randrange(1, 9000))


def blank_then_text(data: bytes, draw: random.Random) -> bytes:
    """The first page of an append is missing, the second is there."""
    return data + bytes(draw.randrange(1, 4096)) + b'": 3}\n'


def cut(data: bytes, draw: random.Random) -> bytes:
    return data[: -draw.randrange(1, max(2, len(data) // 3))]


def flipped(data: bytes, draw: random.Random) -> bytes:
    at = len(data) - draw.randrange(1, max(2, min(9000, len(data))))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def overwritten(data: bytes, draw: random.Random) -> bytes:
    size = draw.randrange(1, max(2, min(9000, len(data))))
    return data[:-size] + draw.randbytes(size)


class Work:
    """A command, and how its results are read."""

    module = ""
    """What the command imports, to be loaded before the forks."""
    probes = PROBES
    ranks = 1
    """Processes that do it together."""
    tears: dict[str, Tear]

    def __init__(self, *command: object) -> None:
        self.command = [str(one) for one in command]

    def arguments(self, out: Path) -> list[str]:
        """The command line."""
        return [*self.command, "--out", str(out)]

    def finished(self, out: Path) -> Found:
        """What is finished in a folder, by name; it may never change again."""
        raise NotImplementedError

    def result(self, out: Path, built: Path) -> Found:
        """What two runs have in common in the end."""
        raise NotImplementedError

    def settled(self, out: Path) -> frozenset[str]:
        """Questions that nothing needs to be asked about any more."""
        return frozenset()

    def in_flight(self, out: Path) -> int:
        """Calls under way when a process was killed, at most."""
        return 0

    def check_start(self, kept: Found, said: str) -> None:
        """Checks what a process said about where it goes on."""

    def check_spent(self, out: Path, served: Callable[[], int]) -> None:
        """Checks what is told of tokens against what the server worked through."""

    def check_calls(self, out: Path, lost: int) -> None:
        """Checks how many calls were repeated, of those lost."""


class Generate(Work):
    """A search; its calls are in a ledger."""

    module = "agenticlu.search.run"

    def __init__(self, *command: object) -> None:
        super().__init__("generate", *command)

        def log(out: Path) -> Path | None:
            path = out / f"{FILE_NAME}-wal"
            return path if path.is_file() and path.stat().st_size > 40_000 else None

        self.tears = {
            "a torn frame": Tear(log, torn),
            "blank pages": Tear(log, blank),
            "the log cut": Tear(log, cut, costs=True),
            "a bit of the log": Tear(log, flipped, costs=True),
            "the log overwritten": Tear(log, overwritten, costs=True),
        }

    def finished(self, out: Path) -> Found:
        if not has_store(out):
            return {}
        with Store(out, writable=False) as store:
            calls = [row for row in store.rows("call") if row[5] == "done"]
            folded = {f"grounding {row[0]}": hash(row[:3]) for row in store.rows("grounding")}
            trees = {f"tree {tree.id}": len(tree.nodes) for tree in store.trees(only_finished=True)}
        # Those of the phase 'ground' are folded into the groundings that they were made for.
        kept = {f"call {row[0]}": hash(row[7:]) for row in calls if row[1] != "ground"}
        return kept | folded | trees

    def result(self, out: Path, built: Path) -> Found:
        with Store(out, writable=False) as store:
            counts = store.call_counts()
        return {**export(out, built), "calls": {**counts, "repeated": 0}}

    def settled(self, out: Path) -> frozenset[str]:
        if not has_store(out):
            return frozenset()
        with Store(out, writable=False) as store:
            return frozenset(tree.question.text for tree in store.trees(only_finished=True))

    def in_flight(self, out: Path) -> int:
        if not has_store(out):
            return 0
        with Store(out, writable=False) as store:
            return store.call_counts()["intent"]

    def check_spent(self, out: Path, served: Callable[[], int]) -> None:
        if not has_store(out):
            assert not served()
            return
        with Store(out, writable=False) as store:
            known, cut = (
                sum(one.prompt_tokens + one.completion_tokens for one in usage.values())
                for usage in (store.usage_by_phase(), store.cut_by_phase())
            )
        assert known <= served() <= known + cut, f"{known} to {known + cut} told, {served()} served"

    def check_calls(self, out: Path, lost: int) -> None:
        with Store(out, writable=False) as store:
            repeated = store.call_counts()["repeated"]
            assert repeated <= lost, f"{repeated} repeated, {lost} were in flight"
            for tree in store.trees():
                for node in tree.nodes:
                    asked = [child.turns[0].reply for child in tree.children(node.id)]
                    assert len(set(asked)) == len(asked), "siblings became equal"


def has_store(out: Path) -> bool:
    """Whether a search has begun; a process that ends early leaves an empty file."""
    try:
        with Store(out, writable=False):
            return True
    except StoreError as error:
        if "is empty" in error.message or "not a run folder" in error.message:
            return False
        raise


class Evaluate(Work):
    """An evaluation; a line for each finished item."""

    module = "agenticlu.evaluation.run"

    def __init__(self, num_methods: int, *command: object) -> None:
        super().__init__("eval", *command)
        self.num_methods = num_methods

        def lines(out: Path) -> Path | None:
            path = out / "predictions.jsonl"
            return path if path.is_file() and path.stat().st_size > 3000 else None

        self.tears = {
            "a torn line": Tear(lines, torn),
            "blank pages": Tear(lines, blank),
            "a page of two blank": Tear(lines, blank_then_text),
            "lines cut off": Tear(lines, cut, costs=True),
            "no line end": Tear(lines, lambda data, _: data[:-1]),
        }

    def finished(self, out: Path) -> Found:
        path = out / "predictions.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        rows = [json.loads(line) for line in lines if b"\0" not in line]
        return {row["id"]: row for row in rows}

    def result(self, out: Path, built: Path) -> Found:
        rows = {key: lasting(row) for key, row in self.finished(out).items()}
        for name in ("results.csv", "differences.csv"):
            with (out / name).open(encoding="utf-8", newline="") as file:
                rows[name] = [
                    {key: one for key, one in row.items() if not FLEETING.search(key)}
                    for row in csv.DictReader(file)
                ]
        return rows

    def settled(self, out: Path) -> frozenset[str]:
        asked = [row["question"] for row in self.finished(out).values()]
        return frozenset(text for text in asked if asked.count(text) == self.num_methods)


def lasting(value: Any) -> Any:
    """Returns a record without its fleeting fields."""
    if isinstance(value, dict):
        return {key: lasting(one) for key, one in value.items() if not FLEETING.search(key)}
    return [lasting(one) for one in value] if isinstance(value, list) else value


class Train(Work):
    """A training run with a checkpoint after every step."""

    module = "agenticlu.training.loop"
    probes = 0

    def __init__(self, *command: object, ranks: int = 1) -> None:
        super().__init__("train", *command)
        self.ranks = ranks

        def newest(name: str) -> Callable[[Path], Path | None]:
            def find(out: Path) -> Path | None:
                steps = checkpoints(out)
                # The one before must be there to go on from.
                return out / "checkpoints" / f"step-{steps[-1]}" / name if steps[1:] else None

            return find

        def metrics(out: Path) -> Path | None:
            return out / "metrics.jsonl" if checkpoints(out) else None

        self.tears = {
            "a torn line of metrics": Tear(metrics, torn),
            "blank pages of metrics": Tear(metrics, blank),
            "weights cut": Tear(newest("__0_0.distcp"), cut, costs=True),
            "a bit of the weights": Tear(newest("__0_0.distcp"), flipped, costs=True),
            "a blank manifest": Tear(
                newest("manifest.json"), lambda data, _: bytes(len(data)), costs=True
            ),
            "an index overwritten": Tear(newest(".metadata"), overwritten, costs=True),
        }

    def finished(self, out: Path) -> Found:
        return {f"step {step}": step for step in range(1, max(checkpoints(out), default=0) + 1)}

    def result(self, out: Path, built: Path) -> Found:
        files = sorted((out / "export").iterdir())
        # The card tells the settings, and with them the folder.
        hashes = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.name != "README.md"
        }
        events = [
            row
            for row in read_metrics(out / "metrics.jsonl")
            if row["event"] not in ("start", "resume")
        ]
        losses = [(row["event"], row.get("step"), row.get("loss")) for row in events]
        summary = json.loads((out / "summary.json").read_text("utf-8"))
        told = {name: summary[name] for name in ("steps", "final_loss", "trace_tokens")}
        return {**hashes, "losses": losses, **told}

    def check_start(self, kept: Found, said: str) -> None:
        resumed = re.search(r"resumed after step (\d+)/", said)
        if resumed is not None:
            step = int(resumed[1])
            assert step >= len(kept), f"resumed after {step}, not {len(kept)}"


def checkpoints(out: Path) -> list[int]:
    """Returns the steps of complete checkpoints."""
    found = (out / "checkpoints").glob("step-*/manifest.json")
    names = [path.parent.name.removeprefix("step-") for path in found]
    return sorted(int(name) for name in names if name.isdigit())


def write_training_rows(folder: Path, documents: int) -> Path:
    """Writes conversations and pairs over few words."""
    draw = np.random.default_rng(5)
    words = ["Mara", "keeps", "the", "blue", "lamp", "in", "Torvale", "near", "old", "mill"]

    def say(role: str, count: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(draw.choice(words, count))}

    for split, number in (("train", documents), ("validation", 1)):
        rows: dict[str, list[Any]] = {"sft": [], "preference": []}
        for document in range(number):
            prompt, about = [say("user", 40)], {"document_id": f"{split}-{document}"}
            for _ in range(4):
                rows["sft"].append({**about, "messages": [*prompt, say("assistant", 6)]})
                pair = {"chosen": [say("assistant", 5)], "rejected": [say("assistant", 7)]}
                rows["preference"].append({**about, "prompt": prompt, **pair})
        for name, lines in rows.items():
            path = folder / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def build_works(root: Path, corpus: Path, url: str) -> dict[str, Work]:
    """Returns the works by name.

    Args:
        root: Folder for what they read.
        corpus: Questions for `generate` and `eval`.
        url: Of the server.
    """
    server = ("--base-url", url, "--model", "m", "--piece-tokens", 48)
    rows = write_training_rows(root / "rows", 4)
    recipe = "--batch 2 --save-every 1 --keep-checkpoints 2 --precision fp32 --threads 1 --lr 1e-3"
    training = (rows, *recipe.split())
    search = ["--branching", "3", "--depth", "2", "--top-k", "4", "--concurrency", "16", "--quiet"]
    evaluation = ["--methods", "direct,clarify", "--concurrency", "4"]
    return {
        "generate": Generate(corpus, *search, *server),
        "eval": Evaluate(2, "--corpus", corpus, *evaluation, *server),
        "train": Train("sft", *training, "--model", BUNDLED_MODEL),
        "dpo": Train("dpo", *training, "--from", BUNDLED_MODEL),
        "ranks": Train("sft", *training, "--model", BUNDLED_MODEL, ranks=2),
    }
