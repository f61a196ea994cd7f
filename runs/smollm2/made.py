"""Writes made-up articles in XQuAD's form, so that runs/smollm2.sh can be tried without XQuAD.

python runs/smollm2/made.py made.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOWNS = ("Brellin", "Orsk", "Tavern Hill", "Quill", "Mossend", "Arden")
TRADES = ("baker", "smith", "weaver", "miller", "tanner")


def build_article(number: int) -> dict[str, Any]:
    """Returns an article about one town: a paragraph, and two questions, for each of its trades."""
    town = TOWNS[number]
    paragraphs = []
    for i, trade in enumerate(TRADES):
        name, year = f"Ada {town.split()[0]}{trade}", str(1800 + 10 * number + i)
        text = f"The {trade} of {town} was {name}. The shop of the {trade} opened in {year}."
        asked = ((f"Who was the {trade} of {town}?", name),
                 (f"When did the shop of the {trade} of {town} open?", year))  # fmt: skip
        paragraphs.append(
            {
                "context": text,
                "qas": [
                    {
                        "id": f"{number}-{trade}-{j}",
                        "question": question,
                        "answers": [{"text": answer, "answer_start": text.index(answer)}],
                    }
                    for j, (question, answer) in enumerate(asked)
                ],
            }
        )
    return {"title": town, "paragraphs": paragraphs}


if __name__ == "__main__":
    data = [build_article(number) for number in range(len(TOWNS))]
    Path(sys.argv[1]).write_text(json.dumps({"data": data}), encoding="utf-8")
