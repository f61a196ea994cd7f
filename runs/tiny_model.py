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
from network import Network, Shape, build_mask, export, load_checkpoint, save_checkpoint
from rows import Batch, Row, RowBuilder, collate
from tokenizer import MAX_POSITIONS, SPECIAL, build_tokenizer, save_tokenizer

from agenticlu.demo.world import Split
from agenticlu.dialogue.steps import Profile, load_profile

LESSONS = {
    "pairing": lessons.teach_pairing,
    "restating": lessons.teach_restating,
    "asking": lessons.teach_asking,
    "direct": instruct.teach_direct,
    "dialogue": instruct.teach_dialogue,
    "pointing": instruct.teach_pointing,
    "relevance": instruct.teach_relevance,
}


@dataclass(frozen=True)
class Stage:
    """A stretch of the curriculum with one mixture of lessons."""

    name: str
    steps: int
    mix: dict[str, float]
    """Share of the rows of each lesson."""
    size: int
    """Tokens of a row."""
    rows: int
    people: tuple[int, int]
    stretch: int = 0
    """Positions skipped at most within a document."""
    rate: float = 1.0
    """Learning rate, as a factor of the full one."""
    long_share: float = 0.0
    """Share of the batches whose rows are two or four and a half times as long, and as many fewer;
    their documents hold more people."""
    decay_to: float | None = None
    """Factor reached linearly at the end of the stage; None keeps `rate`."""


TALKING = {"direct": 0.35, "dialogue": 0.4, "relevance": 0.15, "pointing": 0.2}
POINTING = {"pointing": 0.7, "direct": 0.15, "relevance": 0.15}
CURRICULUM = (
    Stage("pairs", 200, {"pairing": 1.0}, size=160, rows=24, people=(2, 3)),
    Stage(
        "facts", 400, {"restating": 1.0, "asking": 0.6, "pairing": 0.1}, 176, 24, (2, 4), rate=0.7
    ),
    Stage("talking", 1000, {**TALKING, "asking": 0.2}, 320, 14, (2, 4), stretch=500, rate=0.5),
    Stage("pointing", 250, POINTING, size=256, rows=20, people=(2, 3), rate=0.7),
    Stage(
        "longer",
        steps=600,
        mix=TALKING,
        size=640,
        rows=9,
        people=(3, 7),
        stretch=1000,
        rate=0.5,
        long_share=0.15,
        decay_to=0.02,
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
    matrices = [p for n, p in network.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in network.named_parameters() if p.ndim != 2 or "embed" in n]
    # Muon learns the look-up several times faster than AdamW alone does.
    muon = torch.optim.Muon(matrices, lr=args.muon_lr, momentum=0.95, weight_decay=0.0)
    adam = torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.98), weight_decay=0.0)
    started, tokens, step, saved = time.monotonic(), 0, 0, time.monotonic()
    with args.log.open("a") as log:
        for stage in [s for s in CURRICULUM if not args.stages or s.name in args.stages]:
            tally: dict[str, list[bool]] = defaultdict(list)
            losses: list[float] = []
            for i, batch in enumerate(serve_batches(stage, profile, args.seed, args.data_core)):
                if i == stage.steps:
                    break
                rate = stage.rate * min(1.0, (step + 1) / 50)
                if stage.decay_to is not None:
                    rate += (stage.decay_to - stage.rate) * i / stage.steps
                for optimizer, full in ((muon, args.muon_lr), (adam, args.adam_lr)):
                    for group in optimizer.param_groups:
                        group["lr"] = full * rate
                loss, right = train_step(network, batch)
                muon.step()
                adam.step()
                network.zero_grad()
                losses.append(loss)
                for skill, hit in zip(batch.skills, right, strict=True):
                    tally[skill].append(hit)
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


def train_step(network: Network, batch: Batch) -> tuple[float, list[bool]]:
    """Computes gradients; returns the loss and which counted replies were right word by word."""
    with torch.autocast("cpu", torch.bfloat16):
        mask_BTT = build_mask(batch.segments_BT)
        logits_NV = network(batch.ids_BT, batch.positions_BT, mask_BTT, batch.at_N)
    losses_N = F.cross_entropy(logits_NV.float(), batch.targets_N, reduction="none")
    loss = (losses_N * batch.weights_N).sum() / batch.weights_N.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    return loss.item(), right_replies(logits_NV.detach(), batch)


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
    longer = rng.choice((2.0, 4.5)) if rng.random() < stage.long_share else 1.0
    builder.size = round(stage.size * longer)
    fewest, most = stage.people[0], min(14, round(stage.people[1] * longer))
    rows: list[Row] = []
    while len(rows) < max(2, stage.rows / longer):
        lesson = rng.choices(list(stage.mix), list(stage.mix.values()))[0]
        row = LESSONS[lesson](builder, profile, which, rng.randint(fewest, most))
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
    builder = RowBuilder(build_tokenizer(profile), stage.size, rng, stretch=stage.stretch)
    while True:
        queue.put(build_batch(builder, stage, profile))


def save(network: Network, args: argparse.Namespace, name: str) -> None:
    """Saves a checkpoint to go on from, and the model as it is used."""
    args.checkpoints.mkdir(parents=True, exist_ok=True)
    save_checkpoint(network, args.checkpoints / f"{name}.pt")
    ids = {token: i for i, token in enumerate(SPECIAL)}
    export(network, args.model, MAX_POSITIONS, ids["<|bos|>"], ids["<|end|>"], ids["<|pad|>"])


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
    parser.add_argument("--data-core", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    run_training(parse_args())
