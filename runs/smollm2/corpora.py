"""Writes the corpora of runs/smollm2.sh: articles of XQuAD as documents, questions in turn.

    python runs/smollm2/corpora.py xquad.en.json FOLDER [--articles 28] [--train-questions 280]

An article is one document of its five paragraphs. The first `--articles` are for training, the rest
for testing; a line is a question with its answer's place. Of a limited number every article, and
every paragraph of it, gives its share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any


def build_rows(article: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Yields the questions about one article, paragraph by paragraph in turn."""
    contexts = [one["context"] for one in article["paragraphs"]]
    text = "\n\n".join(contexts)
    starts = [sum(len(one) + 2 for one in contexts[:i]) for i in range(len(contexts))]
    asked = [[(start, qa) for qa in one["qas"]]
             for start, one in zip(starts, article["paragraphs"], strict=True)]  # fmt: skip
    for turn in zip_longest(*asked):
        for start, qa in filter(None, turn):
            places = sorted({(start + one["answer_start"], one["text"]) for one in qa["answers"]})
            yield {
                "id": qa["id"],
                "document_id": name,
                "context": text,
                "question": qa["question"].strip(),
                "answers": list(dict.fromkeys(answer for _, answer in places)),
                "gold_spans": [[at, at + len(answer)] for at, answer in places],
            }


def write(path: Path, articles: list[dict[str, Any]], first: int, most: int | None) -> None:
    """Writes one corpus, its articles named by their number."""
    rows = [list(build_rows(one, f"xquad-{first + i:02d}")) for i, one in enumerate(articles)]
    mixed = [row for turn in zip_longest(*rows) for row in turn if row is not None][:most]
    mixed.sort(key=lambda row: row["document_id"])  # a search reads each document once
    path.write_text("".join(json.dumps(row) + "\n" for row in mixed), encoding="utf-8")
    print(f"{path}: {len(mixed)} questions about {len(articles)} articles")


def main() -> None:
    """Writes train.jsonl and test.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("xquad", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--articles", type=int, default=28, help="for training; the rest tests")
    parser.add_argument("--train-questions", type=int)
    parser.add_argument("--test-questions", type=int)
    given = parser.parse_args()
    articles = json.loads(given.xquad.read_text(encoding="utf-8"))["data"]
    given.out.mkdir(parents=True, exist_ok=True)
    cut = given.articles
    write(given.out / "train.jsonl", articles[:cut], 1, given.train_questions)
    write(given.out / "test.jsonl", articles[cut:], cut + 1, given.test_questions)


if __name__ == "__main__":
    main()
