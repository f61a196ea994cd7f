"""Trains the tiny model from scratch on one CPU core: `runs/tiny_model.sh` has the exact command.

The curriculum goes from looking up a fact among two people to the whole dialogue; its stages are
below. A second process on another core writes the rows. Progress goes to a JSON-lines log with the
share of right replies per skill; after every stage, and every few minutes, the model is exported in
Hugging Face layout.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent / "tiny_model"))

import instruct
import lessons
from looks import Marks, find_looks
from network import LONG, Network, Shape, build_mask, export, load_checkpoint, save_checkpoint
from rows import Batch, Row, RowBuilder, collate
from tokenizer import MAX_POSITIONS, SPECIAL, build_tokenizer, save_tokenizer

from agenticlu.demo.world import Split
from agenticlu.dialogue.steps import Profile, load_profile

PIECE_TOKENS = 24
"""What suits the model: a sentence or two."""
LESSONS = {
    "pairing": lessons.teach_pairing,
    "restating": lessons.teach_restating,
    "asking": lessons.teach_asking,
    "direct": instruct.teach_direct,
    "dialogue": instruct.teach_dialogue,
    "quoting": instruct.teach_quoting,
    "numbering": instruct.teach_numbering,
    "pointing": instruct.teach_pointing,
    "relevance": instruct.teach_relevance,
}


@dataclass(frozen=True)
class Rows:
    """One kind of batch."""

    mix: dict[str, float]
    """Share of the rows of each lesson."""
    size: int
    """Tokens of a row, at most."""
    num: int
    """Rows of a batch."""
    people: tuple[int, int]
    """People in a document."""
    stretch: int = 0
    """Positions skipped at most within a document."""


@dataclass(frozen=True)
class Stage:
    """A stretch of the curriculum."""

    name: str
    steps: int
    batches: tuple[tuple[float, Rows], ...]
    """Kinds of batches and their shares."""
    rate: float = 1.0
    """Learning rate, as a factor of the full one."""
    decay_to: float | None = None
    """Factor reached linearly at the end of the stage; None keeps `rate`."""
    looks: float = 0.2
    """Weight of the loss that tells some heads where to look."""
    looks_to: float | None = None
    """Weight reached linearly at the end of the stage; None keeps `looks`."""


FACTS = {"restating": 0.4, "asking": 0.4, "pairing": 0.1, "quoting": 0.3, "numbering": 0.6}
NUMBERS = {"restating": 0.1, "asking": 0.4, "quoting": 0.3, "numbering": 0.7}
REQUESTS = {"direct": 0.35, "dialogue": 0.4, "relevance": 0.15, "pointing": 0.2}
TALKING = REQUESTS | {"numbering": 0.1, "quoting": 0.03, "asking": 0.1}
LOOKING_UP = {"direct": 0.6, "asking": 0.4}
"""All that is taught about long documents. The dialogue is met over short ones alone."""
CURRICULUM = (
    Stage("pairs", 150, ((1.0, Rows({"pairing": 1.0}, 160, 24, (2, 3))),)),
    Stage("facts", 300, ((1.0, Rows(FACTS, 200, 22, (2, 4))),), rate=0.7),
    Stage("numbers", 300, ((1.0, Rows(NUMBERS, 256, 18, (2, 4))),), rate=0.7),
    Stage("talking", 600, ((1.0, Rows(TALKING, 320, 14, (2, 4), stretch=300)),), rate=0.6),
    Stage(
        "longer",
        800,
        (
            (0.5, Rows(TALKING, 384, 12, (2, 5), stretch=300)),
            (0.25, Rows(LOOKING_UP, 640, 8, (3, 7), stretch=300)),
            (0.15, Rows(LOOKING_UP, 1280, 4, (5, 10))),
            (0.1, Rows(LOOKING_UP, 2300, 2, (8, 14))),
        ),
        rate=0.6,
        decay_to=0.03,
        looks=0.15,
        looks_to=0.03,
    ),
)


def run_training(args: argparse.Namespace) -> None:
    """Runs the stages and writes log, checkpoints and the exported model."""
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    profile = load_profile()
    tokenizer = save_tokenizer(profile, args.model)
    network = (
        load_checkpoint(args.resume)
        if args.resume
        else Network(Shape(tokenizer.get_vocab_size()), tokenizer.token_to_id("<para"))
    )
    marks = Marks(*map(tokenizer.token_to_id, ("<para", "</para", "<|end|>", "?")))
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in network.named_parameters() if p.ndim != 2 or "embed" in n]
    # Muon learns the look-up several times faster than AdamW alone does.
    muon = torch.optim.Muon(matrices, lr=args.muon_lr, momentum=0.95, weight_decay=0.0)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    started, tokens, step, saved = time.monotonic(), 0, 0, time.monotonic()
    with args.log.open("a") as log:
        for stage in [s for s in CURRICULUM if not args.stages or s.name in args.stages]:
            tally: dict[str, list[float]] = defaultdict(list)
            losses: list[float] = []
            for i, batch in enumerate(serve_batches(stage, profile, args.seed, args.data_core)):
                if i == stage.steps:
                    break
                rate = stage.rate * min(1.0, (step + 1) / 30)
                if stage.decay_to is not None:
                    rate += (stage.decay_to - stage.rate) * i / stage.steps
                for optimizer, full in ((muon, args.muon_lr), (adam, args.adam_lr)):
                    for group in optimizer.param_groups:
                        group["lr"] = full * rate
                looks = stage.looks
                if stage.looks_to is not None:
                    looks += (stage.looks_to - stage.looks) * i / stage.steps
                loss, right, looked = train_step(network, batch, marks, looks)
                muon.step()
                adam.step()
                network.zero_grad()
                losses.append(loss)
                for skill, hit in zip(batch.skills, right, strict=True):
                    tally[skill].append(hit)
                for role, value in looked.items():
                    tally[f"look-{role}"].append(value)
                tokens += batch.ids_BT.numel()
                step += 1
                if step % 50 == 0:
                    line = {
                        "stage": stage.name,
                        "step": step,
                        "tokens": tokens,
                        "seconds": round(time.monotonic() - started),
                        "rate": round(rate, 4),
                        "loss": round(sum(losses) / len(losses), 4),
                        **{k: round(sum(v) / len(v), 4) for k, v in sorted(tally.items())},
                    }
                    print(json.dumps(line), file=log, flush=True)
                    tally.clear()
                    losses.clear()
                if time.monotonic() - saved > args.save_every_s:
                    saved = time.monotonic()
                    save(network, args, "latest")
            save(network, args, stage.name)


def train_step(
    network: Network, batch: Batch, marks: Marks, looks_weight: float
) -> tuple[float, list[bool], dict[str, float]]:
    """Computes gradients.

    Returns:
        The loss of the replies, which counted replies were right word by word, and for each role
        of `looks` minus the logarithm of the attention where it should be.
    """
    short = batch.ids_BT.shape[1] <= LONG  # longer rows have no explicit attention
    looks = find_looks(batch, marks) if looks_weight and short else {}
    with torch.autocast("cpu", torch.bfloat16):
        mask_BTT = build_mask(batch.segments_BT)
        logits_NV, looked = network(batch.ids_BT, batch.positions_BT, mask_BTT, batch.at_N, looks)
    losses_N = F.cross_entropy(logits_NV.float(), batch.targets_N, reduction="none")
    loss = (losses_N * batch.weights_N).sum() / batch.weights_N.sum()
    (loss + looks_weight * sum(looked.values())).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    right = right_replies(logits_NV.detach(), batch)
    return loss.item(), right, {role: value.item() for role, value in looked.items()}


def right_replies(logits_NV: Tensor, batch: Batch) -> list[bool]:
    """Tells for each counted reply whether every token of it was the likeliest one."""
    wrong_N = (logits_NV.argmax(-1) != batch.targets_N) & (batch.replies_N >= 0)
    right = torch.ones(len(batch.skills), dtype=torch.bool)
    right[batch.replies_N[wrong_N]] = False
    return right.tolist()


def serve_batches(stage: Stage, profile: Profile, seed: int, core: int) -> Iterator[Batch]:
    """Yields batches that a second process writes, without end."""
    context = multiprocessing.get_context("fork")
    queue = context.Queue(8)
    writer = context.Process(
        target=_write_batches, args=(queue, stage, profile, seed, core), daemon=True
    )
    writer.start()
    try:
        while True:
            yield queue.get()
    finally:
        writer.terminate()


def build_batch(
    builder: RowBuilder, stage: Stage, profile: Profile, which: Split = "train"
) -> Batch:
    """Builds one batch of a stage."""
    rng = builder.rng
    kinds = [kind for _, kind in stage.batches]
    kind = rng.choices(kinds, [share for share, _ in stage.batches])[0]
    builder.size, builder.stretch = kind.size, kind.stretch
    rows: list[Row] = []
    while len(rows) < kind.num:
        lesson = rng.choices(list(kind.mix), list(kind.mix.values()))[0]
        row = LESSONS[lesson](builder, profile, which, rng.randint(*kind.people))
        if row.skills:
            rows.append(row)
    return collate(rows, SPECIAL.index("<|pad|>"))


def _write_batches(
    queue: multiprocessing.Queue[Batch], stage: Stage, profile: Profile, seed: int, core: int
) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})
    torch.set_num_threads(1)
    rng = Random(f"{seed} {stage.name}")
    builder = RowBuilder(build_tokenizer(profile), rng)
    while True:
        queue.put(build_batch(builder, stage, profile))


def save(network: Network, args: argparse.Namespace, name: str) -> None:
    """Saves a checkpoint to go on from, and the model as it is used."""
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    save_checkpoint(network, args.checkpoints / f"{name}.pt")
    ids = {token: i for i, token in enumerate(SPECIAL)}
    export(network, args.model, MAX_POSITIONS, ids["<|bos|>"], ids["<|end|>"], ids["<|pad|>"])
    hints = {"piece_tokens": PIECE_TOKENS}
    (args.model / "agenticlu.json").write_text(json.dumps(hints) + "\n", encoding="utf-8")


def parse_args() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder for the trained model")
    parser.add_argument("--log", type=Path, required=True, help="JSON-lines log, appended to")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--resume", type=Path, help="checkpoint to start from")
    parser.add_argument("--stages", nargs="*", help="stages to run; all when left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--save-every-s", type=float, default=300.0)
    parser.add_argument("--data-core", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    run_training(parse_args())
