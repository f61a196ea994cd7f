"""How long ROUGE takes on long summaries: the summary rule beside the rouge_score package, one run.

    python benchmarks/rouge_speed.py [--rows N] [--json FILE]

Rows are pairs of texts of 800 words in 50 lines, words drawn by Zipf's law from 8,000. The rule
scores raw and parsed text against the gold, stemmed as HELMET does, and once more on Unicode words;
the package scores one pair in the stemmed way, on a few rows, and its time is reckoned for all.
Both give the same figures to the last bit, which is checked on the way. Processor time. Exits with
1 when the rule takes more than 20 ms a row.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
import time
from itertools import accumulate
from pathlib import Path

from agenticlu.core.records import Document, Question
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.scoring import rouge, rules
from agenticlu.evaluation.tables import render_table

NUM_WORDS, NUM_LINES, VOCABULARY = 800, 50, 8000
PACKAGE_ROWS = 5
MOST_MS_A_ROW = 20.0


def make_rows(num_rows: int, seed: int = 0) -> list[tuple[Item, str]]:
    """Returns items of the summary rule with the texts to be scored."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 10)))
             for _ in range(VOCABULARY)]  # fmt: skip
    weights = list(accumulate(1 / (rank + 1) for rank in range(VOCABULARY)))

    def text() -> str:
        drawn = rng.choices(words, cum_weights=weights, k=NUM_WORDS)
        width = NUM_WORDS // NUM_LINES
        return "\n".join(" ".join(drawn[i : i + width]) for i in range(0, NUM_WORDS, width))

    nowhere = Document.of("", "benchmark")
    return [
        (
            Item("t", 0, nowhere, Question(id="", text="?", answers=(text(),)), rule="summary"),
            text(),
        )
        for _ in range(num_rows)
    ]


def main() -> int:
    """Measures and prints."""
    from rouge_score.rouge_scorer import RougeScorer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    rows = make_rows(given.rows)
    scorer = RougeScorer(["rougeL", "rougeLsum"], use_stemmer=True)
    started = time.process_time()
    for item, text in rows:
        rules.score(item, text)
    ours_s = time.process_time() - started
    some = rows[:PACKAGE_ROWS]
    started = time.process_time()
    theirs = [scorer.score(item.question.answers[0], text) for item, text in some]
    package_s = (time.process_time() - started) * len(rows) / len(some)
    for (item, text), expected in zip(some, theirs, strict=True):
        found = rouge.rouge(text, item.question.answers)
        assert found["rougeL_f1"] == expected["rougeL"].fmeasure
        assert found["rougeLsum_f1"] == expected["rougeLsum"].fmeasure
    ms = 1000 * ours_s / len(rows)
    table = [
        ["the summary rule, all its figures", f"{ours_s:.1f}", f"{ms:.1f}"],
        ["the package, one scoring (reckoned)", f"{package_s:.1f}",
         f"{1000 * package_s / len(rows):.1f}"],
    ]  # fmt: skip
    print(render_table([f"{len(rows)} rows", "seconds", "ms a row"], table))
    print(f"\npackage / ours: {package_s / ours_s:.1f}")
    met = ms <= MOST_MS_A_ROW
    if given.json:
        found_rows = [
            {"name": "summary rule", "value": round(ms, 2), "unit": "ms a row",
             "target": MOST_MS_A_ROW, "met": met},
            {"name": "package / ours", "value": round(package_s / ours_s, 2), "unit": "times",
             "target": None, "met": None},
        ]  # fmt: skip
        given.json.write_text(json.dumps(found_rows, indent=2) + "\n", encoding="utf-8")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
