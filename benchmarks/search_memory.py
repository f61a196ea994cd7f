"""Memory of a search at the paper's shape: one question, eight branches, three levels.

    python benchmarks/search_memory.py [--depth 3] [--as-published] [--json FILE]

Complete trees over a document of 68,000 tokens in pieces of 512; a scripted engine that keeps
nothing answers at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from agenticlu.core.records import content_seed
from agenticlu.data.corpus import Item, build_item
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search import SearchConfig
from agenticlu.search.run import SearchSummary, run_search
from agenticlu.search.store import Store

TOKENS = 68_000
MOST_MB = 500


class Forgetful(ScriptedEngine):
    """Keeps neither requests nor prefixes: what is measured is the search."""

    async def _begin(self, *arguments: Any) -> Any:
        begun = await super()._begin(*arguments)
        self.requests.clear()
        self._prefixes.clear()
        return begun


def build_book(tokenizer: ApproximateTokenizer) -> Item:
    """Writes a long document and a question that nothing in it answers."""
    lines = (f"Line {i} of the book says that item{i} has the shade{i * 7}." for i in range(20_000))
    text = " ".join(lines)
    text = text[: tokenizer.spans(text)[TOKENS][0]]
    row = {"context": text, "question": "What colour is item3?", "answers": ["none"]}
    return build_item(row, 0, "made")


def verdict(request: ScriptedRequest) -> str:
    """Keeps a tenth of the pieces."""
    return "yes" if content_seed("verdict", request.key) % 10 == 0 else "no"


def reply(request: ScriptedRequest) -> str | None:
    """Reasons about a piece where the published request asks to; else anything."""
    return f"So it seems. Answer: {verdict(request)}." if "Answer: yes" in request.last else None


def search(config: SearchConfig) -> SearchSummary:
    """Grows the tree in a folder that goes away."""
    tokenizer = ApproximateTokenizer()
    with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
        return asyncio.run(
            run_search(
                [build_book(tokenizer)],
                Forgetful(reply, verdict),
                store,
                config,
                tokenizer=tokenizer,
            )
        )


def main() -> None:
    """Parses arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--as-published", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    shape = {"branching": 8, "depth": given.depth}
    config = SearchConfig.as_published(**shape) if given.as_published else SearchConfig(**shape)
    began = time.perf_counter()
    summary = search(config.model_copy(update={"growth": "full"}))
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{summary.nodes} nodes, {summary.calls['done']:,} calls in {seconds:.0f} s, peak memory "
        f"{memory:.0f} MB (at most {MOST_MB})"
    )
    if given.json:
        figures = [
            {"name": "calls", "value": summary.calls["done"], "unit": "calls",
             "target": None, "met": None},
            {"name": "peak memory", "value": round(memory), "unit": "MB", "target": MOST_MB,
             "met": memory <= MOST_MB},
        ]  # fmt: skip
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
