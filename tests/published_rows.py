"""Rows in the published schema, of documents that share no run of words."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

REQUESTS = ("Ask something about {q}, will you.", "Name the marks.", "Say it.", "Now: {q}")


def document(book: int, words: int = 400) -> str:
    """A marked document of two pieces."""
    draw = random.Random(book)
    told = " ".join(f"w{draw.randrange(3000)}" for _ in range(words))
    return f"<para 0> Book {book}. {told} </para 0><para 1> The end of {book}. </para 1>"


def published(book: int, place: int, *, words: int = 400, **changes: Any) -> dict[str, Any]:
    """A row that asks for assistant turn `place` of a conversation with a base answer."""
    asked = f"Who did deed {book}?"
    prompt = [
        {"role": "system", "content": "You read with care."},
        {"role": "user", "content": f"{document(book, words)}\n\n{asked}"},
        {"role": "assistant", "content": "A base answer."},
    ]
    for number in range(place):
        request = REQUESTS[number % 4].replace("{q}", asked)
        prompt.append({"role": "user", "content": request})
        prompt.append({"role": "assistant", "content": f"Reply {number}."})
    prompt.append({"role": "user", "content": REQUESTS[place % 4].replace("{q}", asked)})
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": f"good reply {place} of {book}"}],
        "rejected": [{"role": "assistant", "content": f"bad {place} of {book}"}],
        "score_chosen": 1.5,
        "score_rejected": 0.25,
        **changes,
    }


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes JSONL and returns its path."""
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)
