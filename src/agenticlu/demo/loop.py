"""The whole loop on the bundled tiny model, as the commands a user would type.

Every stage is one `agenticlu` command that resumes by itself, so a killed demo goes on where it
stopped. Nothing is faked: the same commands work with any model and any documents.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from agenticlu.demo.world import World
from agenticlu.documents.tokens import load_tokenizer

MODEL = Path(__file__).parent / "model"
LENGTHS = (256, 512, 768, 1024)


@dataclass(frozen=True)
class Settings:
    """Sizes of the demo; the defaults fill a few minutes on two cores."""

    num_documents: int = 40
    """Training documents to search, their lengths in turn those of `lengths`."""
    questions_per_document: int = 4
    lengths: tuple[int, ...] = LENGTHS
    """Document tokens, for training and evaluation."""
    num_items: int = 60
    """Held-out questions per length."""
    branching: int = 4
    depth: int = 2
    deepen: int = 2
    """Unsolved nodes that are searched further on each level."""
    rounds: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Stage:
    """One command of the loop."""

    title: str
    argv: tuple[str, ...]
    produces: str
    """The file, under the demo's folder, that people will want to open."""


def build_stages(out: Path, settings: Settings) -> list[Stage]:
    """Returns the commands of the loop, in order."""
    piece_tokens = json.loads((MODEL / "agenticlu.json").read_text())["piece_tokens"]
    shape = ("--piece-tokens", str(piece_tokens))

    def evaluate(label: str, model: Path) -> Stage:
        return Stage(
            f"Evaluate the {label} model on held-out documents",
            (
                *("eval", "--task", "world", "--methods", "direct,clarify", "--label", label),
                *("--lengths", ",".join(map(str, settings.lengths)), *shape),
                *("--limit", str(settings.num_items), "--rounds", str(settings.rounds)),
                *("--seed", str(settings.seed), "--model", str(model)),
                *("--out", str(out / f"eval-{label}")),
            ),
            f"eval-{label}/results.md",
        )

    return [
        Stage(
            "Search: grow trees of clarifications over training documents",
            (
                *("generate", "run", str(out / "corpus.jsonl"), "--model", str(MODEL), *shape),
                *("--branching", str(settings.branching), "--depth", str(settings.depth)),
                *("--deepen", str(settings.deepen), "--view", "document"),
                *("--top-k", "2", "--threshold", "0.75"),
                *("--seed", str(settings.seed), "--out", str(out / "search")),
            ),
            "search/run.sqlite",
        ),
        Stage(
            "Data: turn trees into conversations and preference pairs",
            ("dataset", "build", str(out / "search"), "--out", str(out / "data")),
            "data/README.md",
        ),
        Stage(
            "Train: supervised fine-tuning",
            (
                *("train", "sft", str(out / "data"), "--model", str(MODEL), "--preset", "tiny"),
                # One thread: two wait for each other on matrices this small when cores are busy.
                *("--batch", "4", "--lr", "2e-4", "--threads", "1"),
                *("--seed", str(settings.seed), "--out", str(out / "sft")),
            ),
            "sft/export",
        ),
        Stage(
            "Train: preference optimisation (DPO), from the fine-tuned weights",
            (
                *("train", "dpo", str(out / "data"), "--sft", str(out / "sft")),
                # A higher rate lowers the validation loss further and ruins the dialogue (LOG.md).
                *("--preset", "tiny", "--batch", "8", "--lr", "2e-5", "--threads", "1"),
                *("--seed", str(settings.seed), "--out", str(out / "dpo")),
            ),
            "dpo/export",
        ),
        evaluate("base", MODEL),
        evaluate("trained", out / "dpo" / "export"),
        Stage(
            "Report",
            (
                *("report", "--title", "AgenticLU on a tiny model", "--run", str(out / "search")),
                *("--data", str(out / "data"), "--train", f"SFT={out / 'sft'}"),
                *("--train", f"DPO={out / 'dpo'}", "--eval", f"base={out / 'eval-base'}"),
                *("--eval", f"trained={out / 'eval-trained'}"),
                *("--out", str(out / "report.html")),
            ),
            "report.html",
        ),
    ]


def write_corpus(path: Path, settings: Settings) -> None:
    """Writes the training documents and questions of the world, atomically."""
    count = load_tokenizer(str(MODEL)).count
    world = World(settings.seed)
    lines = []
    for index in range(settings.num_documents):
        document = world.document(
            "train",
            index,
            settings.lengths[index % len(settings.lengths)],
            count,
            num_questions=settings.questions_per_document,
        )
        for question in document.questions:
            row = {
                "id": question.id,
                "document_id": document.id,
                "context": document.text,
                "question": question.text,
                "answers": list(question.answers),
                "gold_spans": [[hop.fact.start, hop.fact.end] for hop in question.hops],
                "hops": len(question.hops),
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    partial = path.with_suffix(".partial")
    partial.write_text("".join(lines), encoding="utf-8")
    os.replace(partial, path)


def run_demo(
    out: Path,
    settings: Settings,
    invoke: Callable[[Sequence[str]], Any],
    say: Callable[[str], None],
) -> dict[str, float]:
    """Runs every stage and returns the seconds that each took.

    Args:
        out: Folder of the demo; stages that finished there are not repeated.
        settings: Sizes.
        invoke: Runs one `agenticlu` command, given its arguments.
        say: Prints one line.
    """
    out.mkdir(parents=True, exist_ok=True)
    corpus = out / "corpus.jsonl"
    if not corpus.exists():
        write_corpus(corpus, settings)
    seconds: dict[str, float] = {}
    stages = build_stages(out, settings)
    for number, stage in enumerate(stages, 1):
        say(click.style(f"\n[{number}/{len(stages)}] {stage.title}", bold=True))
        say(click.style(f"  $ agenticlu {shlex.join(stage.argv)}", dim=True))
        began = time.monotonic()
        invoke(stage.argv)
        seconds[stage.title] = time.monotonic() - began
        say(f"  {out / stage.produces}  ({seconds[stage.title]:.0f} s)")
    return seconds
