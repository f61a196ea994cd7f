"""The offline demo: a synthetic world, a bundled tiny model, and every stage run on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.core.files import write_atomically
from agenticlu.core.records import Prediction
from agenticlu.demo.world import World
from agenticlu.documents.tokens import load_tokenizer, read_model_hint
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.records import Difference, load_summary
from agenticlu.evaluation.summary import compare
from agenticlu.evaluation.tables import percent, points, render_table
from agenticlu.loop.stages import Stage, run_stages
from agenticlu.search.run import summarise
from agenticlu.search.store import Store

MODEL = Path(__file__).parent / "model"
LENGTHS = (256, 512, 768, 1024)
ARMS = (("base", "direct"), ("base", "clarify"), ("trained", "direct"), ("trained", "clarify"))


@dataclass(frozen=True)
class DemoSizes:
    """Sizes of the demo; the defaults fill a few minutes on two cores."""

    num_documents: int = 48
    """Training documents to search, their lengths in turn those of `lengths` without the shortest,
    which the model knows."""
    questions_per_document: int = 6
    lengths: tuple[int, ...] = LENGTHS
    """Document tokens, for evaluation and, but for the shortest, for training."""
    num_items: int = 80
    """Held-out questions per length."""
    branching: int = 4
    depth: int = 2
    deepen: int = 2
    """Unsolved nodes that are searched further on each level."""
    rounds: int = 2
    seed: int = 0


def build_stages(out: Path, sizes: DemoSizes) -> list[Stage]:
    """Returns the commands of the loop, in order."""
    return [
        *_build_data_stages(out, sizes),
        *_build_training_stages(out, sizes),
        _build_evaluation(out, sizes, "base", MODEL),
        _build_evaluation(out, sizes, "trained", out / "dpo" / "export"),
        Stage(
            "Report",
            lambda: (
                *("report", "--title", "AgenticLU on a tiny model", "--run", str(out / "search")),
                *("--data", str(out / "data"), "--train", f"SFT={out / 'sft'}"),
                *("--train", f"DPO={out / 'dpo'}", "--eval", f"base={out / 'eval-base'}"),
                *("--eval", f"trained={out / 'eval-trained'}"),
                *("--out", str(out / "report.html")),
            ),
            "report.html",
        ),
    ]


def _build_data_stages(out: Path, sizes: DemoSizes) -> list[Stage]:
    return [
        Stage(
            "Search: grow trees of clarifications over training documents",
            lambda: (
                *("generate", "run", str(out / "corpus.jsonl"), "--model", str(MODEL)),
                *("--piece-tokens", str(_piece_tokens()), "--branching", str(sizes.branching)),
                *("--depth", str(sizes.depth), "--deepen", str(sizes.deepen)),
                *("--view", "document", "--grounding", "shortlist", "--shortlist-k", "12"),
                # A piece is a sentence or two, so one tells what a clarification asks; rounds whose
                # piece is a needed one are learned from before others.
                *("--top-k", "1", "--threshold", "0.75", "--pointing-weight", "0.5"),
                *("--seed", str(sizes.seed), "--out", str(out / "search")),
            ),
            "search/run.sqlite",
        ),
        Stage(
            "Data: turn trees into conversations and preference pairs",
            lambda: (
                *("dataset", "build", str(out / "search"), "--pointing"),
                *("--out", str(out / "data")),
            ),
            "data/README.md",
        ),
    ]


def _build_training_stages(out: Path, sizes: DemoSizes) -> list[Stage]:
    # One thread: two wait for each other on matrices this small when cores are busy.
    shared = ("--preset", "tiny", "--threads", "1", "--seed", str(sizes.seed))
    return [
        Stage(
            "Train: supervised fine-tuning",
            lambda: (
                *("train", "sft", str(out / "data"), "--model", str(MODEL), *shared),
                *("--batch", "8", "--lr", "5e-4", "--epochs", "3", "--out", str(out / "sft")),
            ),
            "sft/export",
        ),
        Stage(
            "Train: preference optimisation (DPO), from the fine-tuned weights",
            lambda: (
                *("train", "dpo", str(out / "data"), "--sft", str(out / "sft"), *shared),
                # A higher rate lowers the validation loss further and ruins the dialogue (LOG.md).
                *("--batch", "8", "--lr", "5e-5", "--out", str(out / "dpo")),
            ),
            "dpo/export",
        ),
    ]


def _build_evaluation(out: Path, sizes: DemoSizes, label: str, model: Path) -> Stage:
    return Stage(
        f"Evaluate the {label} model on held-out documents",
        lambda: (
            *("eval", "--task", "world", "--methods", "direct,clarify", "--label", label),
            *("--lengths", ",".join(map(str, sizes.lengths))),
            *("--piece-tokens", str(_piece_tokens()), "--limit", str(sizes.num_items)),
            *("--rounds", str(sizes.rounds), "--seed", str(sizes.seed), "--model", str(model)),
            *("--out", str(out / f"eval-{label}")),
        ),
        f"eval-{label}/results.md",
    )


def _piece_tokens() -> int:
    hint = read_model_hint(MODEL, "piece_tokens")
    assert hint is not None
    return hint


def write_corpus(path: Path, sizes: DemoSizes) -> None:
    """Writes the training documents and questions of the world, atomically."""
    count = load_tokenizer(str(MODEL)).count
    world = World(sizes.seed)
    lines = []
    lengths = sizes.lengths[1:] or sizes.lengths
    for index in range(sizes.num_documents):
        document = world.document(
            "train",
            index,
            lengths[index % len(lengths)],
            count,
            num_questions=sizes.questions_per_document,
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
    write_atomically(path, "".join(lines))


def run_demo(
    out: Path,
    sizes: DemoSizes,
    invoke: Callable[[Sequence[str]], Any],
    say: Callable[..., None],
) -> dict[str, float]:
    """Runs every stage and returns the seconds that each has taken.

    Args:
        out: Folder of the demo; stages that finished there are not repeated.
        sizes: Sizes of the demo.
        invoke: Runs one `agenticlu` command, given its arguments.
        say: Prints one line, `bold` or `dim`.
    """
    corpus = out / "corpus.jsonl"
    if not corpus.exists():
        write_corpus(corpus, sizes)
    return run_stages(out, build_stages(out, sizes), invoke, say)


def render_results(out: Path, lengths: Sequence[int]) -> str:
    """Returns the tables of a finished demo.

    The first holds accuracy with 95% intervals and the whole gain, the second training's own part
    and how well the dialogue points before and after; below stands the recall by depth.
    """
    summaries = {label: load_summary(out / f"eval-{label}") for label in ("base", "trained")}
    rows, pointing = [], []
    for length in lengths:
        cells = [summaries[label].find("world", length, method) for label, method in ARMS]
        gain = _compare_arms(out, length, ("base", "direct"), ("trained", "clarify"))
        rows.append(
            [
                str(length),
                *(percent(cell.score if cell else None) for cell in cells),
                points(gain.difference) if gain else "",
                str(cells[-1].num_scored if cells[-1] else 0),
            ]
        )
        own = _compare_arms(out, length, ("base", "clarify"), ("trained", "clarify"))
        talks = [cells[1], cells[3]]
        pointing.append(
            [
                str(length),
                points(own.difference) if own else "",
                *(percent(cell.point_precision if cell else None) for cell in talks),
                *(percent(cell.point_recall if cell else None) for cell in talks),
            ]
        )
    header = ["tokens", *(f"{label} {method}" for label, method in ARMS), "gain", "n"]
    pointing_header = ["tokens", "training's part", "cited right, base", "trained",
                       "found, base", "trained"]  # fmt: skip
    with Store(out / "search", writable=False) as store:
        recall = summarise(store).recall_by_depth
    by_depth = ", ".join(f"{depth}: {100 * share:.1f}%" for depth, share in recall.items())
    return (
        "Held-out documents, right answers in % with 95% intervals; the gain is the trained "
        "model's dialogue against\nthe base model's direct answer, paired by question.\n\n"
        f"{render_table(header, rows)}\n\n"
        "Of that gain training's own part, the trained model's dialogue against the base model's, "
        "and how well the\ndialogue points: the share of the paragraphs it cites that are right, "
        "and of the right ones that it finds.\n\n"
        f"{render_table(pointing_header, pointing)}\n\n"
        f"Recall by depth of the search trees (training questions): {by_depth}"
    )


def _compare_arms(
    out: Path, length: int, before: tuple[str, str], after: tuple[str, str]
) -> Difference | None:
    """Returns the paired gain of one model and method over another."""

    def load(label: str, method: str) -> list[Prediction]:
        found = read_predictions(out / f"eval-{label}" / "predictions.jsonl", warn=False)
        return [p for p in found.values() if p.method == method and p.length == length]

    return compare(load(*before), load(*after))
