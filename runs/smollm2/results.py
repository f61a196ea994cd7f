"""Gathers the figures of runs/smollm2.sh: prints the table of docs/results.md, writes JSON, draws.

    python runs/smollm2/results.py RUN [--json FILE] [--plot FILE.svg]

Counts, means and intervals only; no text of the corpus.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agenticlu.core.records import Prediction
from agenticlu.evaluation.predictions import FILE_NAME, read_predictions
from agenticlu.evaluation.records import SUMMARY_NAME, Cell, load_summary
from agenticlu.evaluation.summary import compare
from agenticlu.evaluation.tables import percent, points, render_table
from agenticlu.search.store import Store

MODELS = ("base", "sft", "distill")
LABELS = {
    "direct": "answered directly",
    "clarify": "by the dialogue",
}


def find_cells(run: Path) -> dict[str, list[Cell]]:
    """Returns the cells of every model that was evaluated."""
    found = {}
    for model in MODELS:
        if (run / f"eval-{model}" / SUMMARY_NAME).is_file():
            found[model] = list(load_summary(run / f"eval-{model}").cells)
    return found


def load_arm(run: Path, model: str, method: str) -> list[Prediction]:
    """Returns a model's predictions by one method."""
    read = read_predictions(run / f"eval-{model}" / FILE_NAME, warn=False).values()
    return [one for one in read if one.method == method]


def describe_cell(cell: Cell) -> dict[str, Any]:
    """Returns the figures of one model and method."""
    alone = None if cell.alone_tokens is None else round(cell.alone_tokens / cell.num_scored, 1)
    return {
        "right": cell.score.model_dump(),
        "word_match": cell.metrics["word_match"].model_dump()
        if "word_match" in cell.metrics
        else None,
        "point_precision": cell.point_precision and cell.point_precision.model_dump(),
        "point_recall": cell.point_recall and cell.point_recall.model_dump(),
        "n": cell.num_scored,
        "failed": cell.num_failed,
        "cut_off": cell.num_cut_off,
        "completion_tokens": round(cell.usage.completion_tokens / cell.num_scored, 1),
        "prompt_tokens_alone": alone,
    }


def describe_search(run: Path) -> dict[str, Any]:
    """Returns what the search cost and found."""
    with Store(run / "search", writable=False) as store:
        return {**store.tree_counts(), "outcomes": store.outcomes(),
                "usage": store.total_usage().as_dict()}  # fmt: skip


def describe_training(folder: Path) -> dict[str, Any]:
    """Returns a training run's settings that matter, steps, losses and seconds."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [one for one in map(json.loads, lines) if one["event"] == "step"]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = ("lr", "batch", "epochs", "max_steps", "precision", "traces_per_trie", "lora_rank")
    return {
        "settings": {name: config[name] for name in kept if name in config},
        "steps": len(steps),
        "loss_first": steps[0]["loss"],
        "loss_last": steps[-1]["loss"],
        "stored_tokens": sum(one["stored_tokens"] for one in steps),
        "seconds": round(sum(one["step_s"] for one in steps), 1),
    }


def gather(run: Path) -> dict[str, Any]:
    """Returns all figures."""
    cells = find_cells(run)
    base = load_arm(run, "base", "direct")
    gains = {}
    for model, method in ((m, c.method) for m, found in cells.items() for c in found):
        if base and (model, method) != ("base", "direct"):
            gain = compare(base, load_arm(run, model, method))
            gains[f"{model} {method}"] = gain and gain.difference.model_dump()
    data = json.loads((run / "data" / "summary.json").read_text(encoding="utf-8"))
    return {
        "search": describe_search(run),
        "data": {"rows": data["build"]["rows"], "pointing": data["build"].get("pointing")},
        "training": {
            name: describe_training(run / name)
            for name in MODELS[1:]
            if (run / name / "metrics.jsonl").is_file()
        },
        "evaluation": {
            model: {cell.method: describe_cell(cell) for cell in found}
            for model, found in cells.items()
        },
        "against base direct": gains,
    }


def render(run: Path) -> str:
    """Returns the table of every model and method."""
    rows = []
    base = load_arm(run, "base", "direct")
    for model, found in find_cells(run).items():
        for cell in found:
            gain = compare(base, load_arm(run, model, cell.method))
            is_base = (model, cell.method) == ("base", "direct")
            rows.append(
                [
                    *(model, cell.method, percent(cell.score)),
                    "–" if is_base or gain is None else points(gain.difference),
                    *(percent(cell.point_precision), percent(cell.point_recall)),
                    *(str(cell.num_scored), str(cell.num_failed)),
                ]
            )
    header = ["model", "method", "right, %", "against base direct", "pointing", "recall", "n",
              "failed"]  # fmt: skip
    return render_table(header, rows)


def plot(run: Path, out: Path) -> None:
    """Draws each model's right answers by method, and its pointing, with 95% intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = find_cells(run)
    figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    series = {**LABELS, "point": "paragraphs cited that are right"}
    width = 0.8 / len(series)
    for number, (method, label) in enumerate(series.items()):
        places, means, below, above = [], [], [], []
        for place, cells in enumerate(found.values()):
            by_method = {cell.method: cell.score for cell in cells}
            pointing = next((c.point_precision for c in cells if c.method == "clarify"), None)
            value = pointing if method == "point" else by_method.get(method)
            if value is None:
                continue
            places.append(place + width * (number - (len(series) - 1) / 2))
            means.append(100 * value.mean)
            below.append(100 * (value.mean - value.low))
            above.append(100 * (value.high - value.mean))
        errors = {"yerr": [below, above], "capsize": 2, "error_kw": {"linewidth": 0.8}}
        axes.bar(places, means, width * 0.9, color=f"C{number}", label=label, **errors)
    axes.set_xticks(range(len(found)), list(found))
    axes.set(ylabel="% of test questions", ylim=(0, 100))
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8, loc="upper left")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Prints the table, writes the JSON and draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    print(render(given.run))
    if given.json:
        given.json.write_text(json.dumps(gather(given.run), indent=1) + "\n", encoding="utf-8")
    if given.plot:
        plot(given.run, given.plot)


if __name__ == "__main__":
    main()
