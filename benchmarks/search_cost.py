"""Cost of tree search: the published algorithm against every mode of this one, in one run.

    python benchmarks/search_cost.py --documents 4 --questions 4 --tokens 512 [--json FILE]

The same documents, questions, model, branching and depth for all. Engine tokens are prompt tokens
that had to be computed plus sampled tokens, without those of judges. The published code runs its
engine without a prefix cache; it is also measured with ours, which is kinder to it. Recall is the
share of questions with a right answer anywhere in the tree.

The rows "prefixes from 528 tokens" are counted as by a server that reuses prefixes in blocks of so
many tokens only, as vLLM does for Qwen3.5-4B (vLLM #40696).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agenticlu.core.records import Message, Usage
from agenticlu.data.corpus import Item, build_item
from agenticlu.demo.world import World
from agenticlu.documents.tokens import load_tokenizer, read_model_hint
from agenticlu.engines import BUNDLED_MODEL, load_engine
from agenticlu.engines.base import Capabilities, ChoiceProbs, Engine, Feature, Sampled, Sampling
from agenticlu.search import SearchConfig
from agenticlu.search.run import SearchSummary, run_search
from agenticlu.search.store import Store

DEFAULT = "default (auto, until-solved)"
COARSE = "prefixes from 528 tokens"
BLOCK = 528
MODES: dict[str, dict[str, object]] = {
    DEFAULT: {},
    "kept pieces": {"view": "kept"},
    "full tree": {"growth": "full"},
    "scan-many": {"grounding": "scan-many"},
    "shortlist of 4": {"grounding": "shortlist", "shortlist_k": 4},
    "point": {"grounding": "point"},
    "best-first, 32 nodes": {"growth": "best-first", "node_budget": 32},
    "one node deepened": {"deepen": 1},
    "all nodes deepened": {"deepen": None},
    f"default, {COARSE}": {},
    f"kept pieces, {COARSE}": {"view": "kept", "grounding": "scan"},
    f"pieces of 512, {COARSE}": {"piece_tokens": 512},
}
SHIPPED = "as published, no prefix cache"
PUBLISHED = "as published, prefix cache"
LEAST_TIMES_FEWER = {SHIPPED: 120.0, PUBLISHED: 15.0}
"""Targets of the default's tokens per solved question, at no lower recall."""


class CoarseCache:
    """Counts an engine's tokens as one would that reuses prefixes in whole blocks only."""

    def __init__(self, engine: Engine, block: int) -> None:
        self._engine = engine
        self._block = block
        self.usage = Usage()

    @property
    def name(self) -> str:
        """The engine's."""
        return self._engine.name

    def _count(self, usage: Usage) -> Usage:
        cached = usage.cached_tokens // self._block * self._block
        counted = usage.model_copy(update={"cached_tokens": cached})
        self.usage = self.usage + counted
        return counted

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples."""
        found = await self._engine.sample(messages, sampling, session=session)
        return replace(found, usage=self._count(found.usage))

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a text."""
        found = await self._engine.complete(text, sampling, session=session)
        return replace(found, usage=self._count(found.usage))

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Scores."""
        found = await self._engine.score_choices(messages, choices, session=session)
        return replace(found, usage=self._count(found.usage))

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """The engine's, but for its cache."""
        found = await self._engine.capabilities(*wanted)
        return replace(found, prefix_reuse_from_tokens=self._block)

    async def close(self) -> None:
        """Closes the engine."""
        await self._engine.close()


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
    model: str, items: list[Item], config: SearchConfig, *, cache: bool = True, block: int = 1
) -> tuple[SearchSummary, float]:
    """Runs one search in a folder of its own, with an engine of its own."""

    async def work(store: Store) -> SearchSummary:
        engine = load_engine(model, cache=cache)
        if block > 1:
            engine = CoarseCache(engine, block)
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
        "phases": {
            phase: {"requests": usage.requests, "computed_tokens": usage.computed_tokens}
            for phase, usage in sorted(summary.usage.items())
        },
    }


def render(lines: list[dict[str, Any]]) -> str:
    """Returns the table, with ratios to the published algorithm without and with a cache."""
    rows = [
        f"{'mode':<40}{'recall':>9}{'gold':>7}{'requests':>10}{'computed':>11}"
        f"{'per solved':>12}{'times fewer':>19}{'s':>8}"
    ]
    for line in lines:
        ratios = [find_ratio(line, reference) for reference in lines[:2]]
        ratio = " / ".join("-" if one is None else f"{one:.1f}" for one in ratios)
        gold = "-" if line["gold_recall"] is None else f"{line['gold_recall']:.2f}"
        rows.append(
            f"{line['mode']:<40}{line['solved']:>5}/{line['questions']:<3}{gold:>7}"
            f"{line['requests']:>10}{line['computed_tokens']:>11}"
            f"{line['tokens_per_solved'] or '-':>12}{ratio:>19}{line['seconds']:>8}"
        )
    return "\n".join(rows)


def find_ratio(line: dict[str, Any], reference: dict[str, Any]) -> float | None:
    """Returns how many times fewer tokens a solved question takes; None where none is solved."""
    if not line["tokens_per_solved"] or not reference["tokens_per_solved"]:
        return None
    return float(reference["tokens_per_solved"] / line["tokens_per_solved"])


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
    ours = by_mode.get(DEFAULT)
    if ours is None:
        return found
    recall = ours["solved"] / ours["questions"]
    floor = by_mode[SHIPPED]["solved"] / by_mode[SHIPPED]["questions"]
    for name, least in LEAST_TIMES_FEWER.items():
        # None also where the published way solves nothing, and any answer is cheaper.
        ratio = find_ratio(ours, by_mode[name])
        enough = ratio is None or ratio >= least
        found.append(
            {
                "name": f"{DEFAULT}: times fewer tokens per solved question than {name}",
                "value": None if ratio is None else round(ratio, 2),
                "unit": "times",
                "target": least,
                "met": ours["solved"] > 0 and recall >= floor and enough,
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
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
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
        block = BLOCK if COARSE in name else 1
        summary, seconds = measure(given.model, items, config, cache=name != SHIPPED, block=block)
        lines.append(describe(name, summary, seconds))
        print(json.dumps(lines[-1]), flush=True)
    print(render(lines))
    if given.json:
        given.json.write_text(json.dumps(list_figures(lines), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
