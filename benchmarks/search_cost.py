"""Cost of tree search: the published algorithm against every mode of this one, in one run.

    python benchmarks/search_cost.py --documents 2 --questions 2 --tokens 1024 [--json FILE]

The same documents, questions, model, branching and depth for all. Engine tokens are prompt tokens
that had to be computed plus sampled tokens, without those of judges. The published code runs its
engine without a prefix cache; it is also measured with ours, which is kinder to it. Recall is the
share of questions with a right answer anywhere in the tree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from agenticlu.data.corpus import Item, build_item
from agenticlu.demo.world import World
from agenticlu.documents.tokens import load_tokenizer, read_model_hint
from agenticlu.engines import BUNDLED_MODEL, load_engine
from agenticlu.search import SearchConfig
from agenticlu.search.run import SearchSummary, run_search
from agenticlu.search.store import Store

DEFAULT = "default (scan, until-solved)"
MODES: dict[str, dict[str, object]] = {
    DEFAULT: {},
    "scan, full tree": {"growth": "full"},
    "scan-many": {"grounding": "scan-many"},
    "shortlist": {"grounding": "shortlist", "shortlist_k": 8},
    "point": {"grounding": "point"},
    "best-first, 32 nodes": {"growth": "best-first", "node_budget": 32},
    "scan, one node deepened": {"deepen": 1},
    "scan, all nodes deepened": {"deepen": None},
}
SHIPPED = "as published, no prefix cache"
PUBLISHED = "as published, prefix cache"
LEAST_TIMES_FEWER = 20.0
"""Target of the default's tokens per solved question against `SHIPPED`, at no lower recall."""


def build_corpus(model: str, documents: int, questions: int, tokens: int, seed: int) -> list[Item]:
    """Writes documents of the world with their questions."""
    count = load_tokenizer(model).count
    world = World(seed)
    items: list[Item] = []
    for index in range(documents):
        document = world.document("train", index, tokens, count, num_questions=questions)
        for question in document.questions:
            row = {
                "id": question.id,
                "context": document.text,
                "question": question.text,
                "answers": list(question.answers),
                "gold_spans": [[hop.fact.start, hop.fact.end] for hop in question.hops],
                "hops": len(question.hops),
            }
            items.append(build_item(row, len(items), "world"))
    return items


def measure(
    model: str, items: list[Item], config: SearchConfig, cache: bool
) -> tuple[SearchSummary, float]:
    """Runs one search in a folder of its own, with an engine of its own."""

    async def work(store: Store) -> SearchSummary:
        engine = load_engine(model, cache=cache)
        try:
            return await run_search(items, engine, store, config, tokenizer=load_tokenizer(model))
        finally:
            await engine.close()

    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        began = time.perf_counter()
        summary = asyncio.run(work(store))
        return summary, time.perf_counter() - began


def describe(name: str, summary: SearchSummary, seconds: float) -> dict[str, Any]:
    """Returns one line of the table."""
    solved = sum(summary.solved_by_depth.values())
    total = summary.total
    return {
        "mode": name,
        "solved": solved,
        "questions": summary.questions,
        "gold_recall": summary.gold_recall,
        "requests": total.requests,
        "computed_tokens": total.computed_tokens,
        "cached_tokens": total.cached_tokens,
        "tokens_per_question": round(total.computed_tokens / summary.questions),
        "tokens_per_solved": round(total.computed_tokens / solved) if solved else None,
        "seconds": round(seconds, 1),
    }


def render(lines: list[dict[str, Any]]) -> str:
    """Returns the table, with ratios to the published algorithm."""
    reference = lines[0]
    rows = [
        f"{'mode':<32}{'recall':>9}{'gold':>7}{'requests':>10}{'computed':>11}"
        f"{'per solved':>12}{'times fewer':>13}{'s':>8}"
    ]
    for line in lines:
        ratio = "-"
        if line["tokens_per_solved"] and reference["tokens_per_solved"]:
            ratio = f"{reference['tokens_per_solved'] / line['tokens_per_solved']:.1f}"
        gold = "-" if line["gold_recall"] is None else f"{line['gold_recall']:.2f}"
        rows.append(
            f"{line['mode']:<32}{line['solved']:>5}/{line['questions']:<3}{gold:>7}"
            f"{line['requests']:>10}{line['computed_tokens']:>11}"
            f"{line['tokens_per_solved'] or '-':>12}{ratio:>13}{line['seconds']:>8}"
        )
    return "\n".join(rows)


def list_figures(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the content of the JSON file: every figure by mode, then the default's targets."""
    units = {
        "solved": "questions",
        "questions": "questions",
        "gold_recall": "share of gold pieces",
        "requests": "requests",
        "computed_tokens": "tokens",
        "cached_tokens": "tokens",
        "tokens_per_question": "tokens",
        "tokens_per_solved": "tokens",
        "seconds": "s",
    }
    found: list[dict[str, Any]] = [
        {"name": f"{line['mode']}: {key}", "value": line[key], "unit": unit}
        | {"target": None, "met": None}
        for line in lines
        for key, unit in units.items()
    ]
    by_mode = {line["mode"]: line for line in lines}
    ours, shipped = by_mode.get(DEFAULT), by_mode[SHIPPED]
    if ours is None:
        return found
    recall, floor = (line["solved"] / line["questions"] for line in (ours, shipped))
    ratio = None  # also where the published way solves nothing, and any answer is cheaper
    if ours["tokens_per_solved"] and shipped["tokens_per_solved"]:
        ratio = shipped["tokens_per_solved"] / ours["tokens_per_solved"]
    found.append(
        {
            "name": f"{DEFAULT}: times fewer tokens per solved question than {SHIPPED}",
            "value": None if ratio is None else round(ratio, 2),
            "unit": "times",
            "target": LEAST_TIMES_FEWER,
            "met": ours["solved"] > 0
            and recall >= floor
            and (ratio is None or ratio >= LEAST_TIMES_FEWER),
        }
    )
    found.append(
        {
            "name": f"{DEFAULT}: recall, at least that of {SHIPPED}",
            "value": round(recall, 4),
            "unit": "share of questions",
            "target": round(floor, 4),
            "met": recall >= floor,
        }
    )
    return found


def main() -> None:
    """Parses arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(BUNDLED_MODEL))
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--branching", type=int, default=8)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", action="append", help="Names of modes; may be repeated.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    items = build_corpus(given.model, given.documents, given.questions, given.tokens, given.seed)
    shape: dict[str, object] = {
        "branching": given.branching,
        "depth": given.depth,
        "piece_tokens": read_model_hint(given.model, "piece_tokens") or 512,
        "seed": given.seed,
    }
    ours: dict[str, object] = {**shape, "top_k": given.top_k, "threshold": given.threshold}
    published = SearchConfig.as_published(**{**shape, "judges": ("exact",)})
    configs = {SHIPPED: published, PUBLISHED: published}
    for name, changes in MODES.items():
        if not given.only or any(wanted in name for wanted in given.only):
            configs[name] = SearchConfig.model_validate({**ours, **changes})
    lines = []
    for name, config in configs.items():
        summary, seconds = measure(given.model, items, config, cache=name != SHIPPED)
        lines.append(describe(name, summary, seconds))
        print(json.dumps(lines[-1]), flush=True)
    print(render(lines))
    if given.json:
        given.json.write_text(json.dumps(list_figures(lines), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
