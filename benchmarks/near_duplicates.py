"""What near-duplicate clarifications cost: to find, and to ground once more, in one run.

    python benchmarks/near_duplicates.py --documents 4 --questions 4 --tokens 512 [--json FILE]

First, merging texts of the world's kind: all pairs compared, as the search does, against MinHash
with banding (128 permutations, 16 bands) and a comparison of the candidates. Then searches in which
a text takes over what was found for one asked before in the same document: the same text (what the
search does), the same words, or a near-duplicate. The latter two depend on which text came first,
so that trees would no longer follow from the ledger alone; they would have to be worth that.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from search_cost import build_corpus, describe, measure

from agenticlu.dialogue.gist import find_gist
from agenticlu.dialogue.steps import is_near_duplicate, merge_near_duplicates
from agenticlu.documents.tokens import read_model_hint
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.search import SearchConfig, run
from agenticlu.search.grounding import Grounded, Grounder

NAMES = ["Ada", "Ben", "Cora", "Dan", "Eve", "Finn", "Gus", "Holt", "Ivy", "Jon", "Kit", "Lea"]
THINGS = ["mother", "friend", "teacher", "house", "town", "trade", "age", "dog", "boat", "garden"]
FORMS = (
    "Who is the {thing} of {name}?",
    "who is {thing} of {name}",
    "What is the {thing} of {name} {other}?",
    "Which {thing} does {name} {other} have?",
    "Tell me the {thing} that {name} had in {year}.",
    "Where in the document is the {thing} of {name} {other} named?",
)
PERMUTATIONS, BANDS = 128, 16


def invent(number: int, seed: int = 0) -> list[str]:
    """Returns questions of a few forms, some of which differ in an article or a capital alone."""
    draw = random.Random(seed)
    return [
        draw.choice(FORMS).format(
            thing=draw.choice(THINGS),
            name=draw.choice(NAMES),
            other=draw.choice(NAMES),
            year=draw.randrange(1900, 1960),
        )
        for _ in range(number)
    ]


def merge_by_minhash(texts: Sequence[str]) -> tuple[int, ...]:
    """Merges as the search does, but compares only texts that share a band of their signature."""
    draw = np.random.default_rng(0)
    factors, offsets = draw.integers(1, 1 << 31, (2, PERMUTATIONS), dtype=np.uint64)
    rows = PERMUTATIONS // BANDS
    buckets: dict[tuple[int, bytes], list[int]] = {}
    kept: list[int] = []
    for index, text in enumerate(texts):
        words = sorted(set(find_gist(text).words))
        if not words:
            continue
        hashes = np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64)
        signature = ((hashes[:, None] * factors + offsets) % np.uint64(4294967291)).min(axis=0)
        keys = [(b, signature[b * rows : (b + 1) * rows].tobytes()) for b in range(BANDS)]
        near = {other for key in keys for other in buckets.get(key, ())}
        if any(is_near_duplicate(texts[other], text) for other in near):
            continue
        kept.append(index)
        for key in keys:
            buckets.setdefault(key, []).append(index)
    return tuple(kept)


def time_merging(number: int) -> dict[str, Any]:
    """Returns milliseconds of processor time of both ways, and pairs that MinHash missed."""
    texts, line = invent(number), {"texts": number}
    found = []
    for name, merge in (("exact", merge_near_duplicates), ("minhash", merge_by_minhash)):
        times = []
        for _ in range(max(3, 64 // number)):
            began = time.process_time()
            kept = merge(texts)
            times.append(time.process_time() - began)
        found.append(set(kept))
        line[f"{name}_ms"] = round(1000 * min(times), 2)
    return {**line, "kept": len(found[0]), "missed": len(found[1] - found[0])}


Alike = Callable[[str, str], bool]
WAYS: dict[str, Alike | None] = {
    "same text": None,
    "same words": lambda a, b: find_gist(a).words == find_gist(b).words,
    "near-duplicate": is_near_duplicate,
}


def grounder_that_reuses(alike: Alike | None) -> type[Grounder]:
    """Returns a grounder that takes over what it found for the first text that is alike."""

    class Reusing(Grounder):
        asked: tuple[str, ...] = ()

        async def ground(self, texts: Sequence[str], owner: str = "") -> list[Grounded]:
            if alike is not None:
                texts = [next((a for a in self.asked if alike(a, text)), text) for text in texts]
            self.asked = tuple(dict.fromkeys((*self.asked, *texts)))
            return await super().ground(texts, owner)

    return Reusing


def list_figures(
    times: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the content of the JSON file; there are no targets."""
    found = [
        (
            f"merging {line['texts']} texts: {key}",
            line[key],
            "ms" if key.endswith("ms") else "texts",
        )
        for line in times
        for key in ("exact_ms", "minhash_ms", "kept", "missed")
    ]
    found += [
        (f"{line['mode']}: {key}", line[key], unit)
        for line in lines
        for key, unit in (
            ("solved", "questions"),
            ("gold_recall", "share of gold pieces"),
            ("requests", "requests"),
            ("computed_tokens", "tokens"),
        )
    ]
    return [
        {"name": name, "value": value, "unit": unit, "target": None, "met": None}
        for name, value, unit in found
    ]


def main() -> None:
    """Parses arguments, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    times = [time_merging(number) for number in (8, 64, 512, 2048)]
    print(f"{'texts':>8}{'exact ms':>12}{'MinHash ms':>12}{'kept':>8}{'missed':>8}")
    for line in times:
        print(
            f"{line['texts']:>8}{line['exact_ms']:>12}{line['minhash_ms']:>12}{line['kept']:>8}"
            f"{line['missed']:>8}"
        )
    model = str(BUNDLED_MODEL)
    items = build_corpus(model, given.documents, given.questions, given.tokens, given.seed)
    shape = {
        "branching": 8,
        "depth": 2,
        "top_k": 4,
        "seed": given.seed,
        "piece_tokens": read_model_hint(model, "piece_tokens") or 512,
    }
    lines = []
    print(
        f"{'growth':<14}{'takes over':<16}{'solved':>8}{'gold':>7}{'requests':>10}{'computed':>10}"
    )
    for growth in ("until-solved", "full"):
        for name, alike in WAYS.items():
            run.Grounder = grounder_that_reuses(alike)  # type: ignore[misc]
            config = SearchConfig.model_validate({**shape, "growth": growth})
            line = describe(f"{growth}, {name}", *measure(model, items, config, cache=True))
            lines.append(line)
            print(
                f"{growth:<14}{name:<16}{line['solved']:>8}{line['gold_recall']:>7.2f}"
                f"{line['requests']:>10}{line['computed_tokens']:>10}",
                flush=True,
            )
    if given.json:
        figures = list_figures(times, lines)
        given.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
