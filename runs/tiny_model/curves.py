"""Draws the training curves of the log: `python runs/tiny_model/curves.py LOG.jsonl OUT.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SKILLS = {
    "pair": "a value after a name",
    "number": "number a question's paragraph",
    "restate": "restate a fact",
    "direct-1": "answer, 1 hop",
    "direct-2": "answer, 2 hops",
    "direct-3": "answer, 3 hops",
    "sub_answer": "sub-answer",
    "point": "point, in a dialogue",
    "relevance": "relevance",
}


def draw(log: Path, out: Path) -> None:
    """Draws the share of right replies per skill over the tokens trained on."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    offset, total, last = [], 0, 0
    for line in lines:  # tokens count from 0 again in each run of the script
        total += line["tokens"] - last if line["tokens"] > last else line["tokens"]
        last = line["tokens"]
        offset.append(total / 1e6)
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for skill, label in SKILLS.items():
        points = [
            (x, 100 * line[skill]) for x, line in zip(offset, lines, strict=True) if skill in line
        ]
        axes.plot(*zip(*points, strict=True), label=label, linewidth=1.4)
    for x, before, line in zip(offset, [None, *lines], lines, strict=False):
        if before is not None and before["stage"] != line["stage"]:
            axes.axvline(x, color="0.7", linewidth=0.8, linestyle=":")
    axes.set(xlabel="million tokens", ylabel="right replies (%)", ylim=(0, 101))
    axes.grid(alpha=0.25)
    figure.legend(fontsize=8, loc="outside right center")
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
