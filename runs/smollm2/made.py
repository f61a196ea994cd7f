"""Writes made-up articles in XQuAD's form, so that runs/smollm2.sh can be tried without XQuAD.

    python runs/smollm2/made.py made.json

They are of the demo's world, which the bundled model knows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from agenticlu.demo import DemoSizes, write_corpus

SIZES = DemoSizes(num_documents=6, questions_per_document=4, lengths=(256,))


def build_articles(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns an article of one paragraph for each document, its answers placed where they occur.

    Questions whose answer does not occur in the document are left out.
    """
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        answer = row["answers"][0]
        at = row["context"].find(answer)
        found = asked.setdefault(row["context"], [])
        if at >= 0:
            number = f"{len(asked)}-{len(found)}"
            answers = [{"text": answer, "answer_start": at}]
            found.append({"id": number, "question": row["question"], "answers": answers})
    return [{"paragraphs": [{"context": text, "qas": qas}]} for text, qas in asked.items()]


if __name__ == "__main__":
    out = Path(sys.argv[1])
    corpus = out.with_suffix(".jsonl")
    write_corpus(corpus, SIZES)
    lines = corpus.read_text(encoding="utf-8").splitlines()
    data = build_articles([json.loads(line) for line in lines])
    out.write_text(json.dumps({"data": data}), encoding="utf-8")
