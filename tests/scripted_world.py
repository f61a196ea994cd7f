"""A small scripted world for the search's tests: documents of facts, a model that half knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from agenticlu.core.records import Tree, Usage, content_seed
from agenticlu.data.build import build_dataset
from agenticlu.data.corpus import Item, build_item
from agenticlu.data.pairs import PairPolicy
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search import SearchConfig
from agenticlu.search.store import Store

Kind = TypeVar("Kind", bound=ScriptedEngine)
TOKENIZER = ApproximateTokenizer()
CONFIG = SearchConfig(branching=3, depth=2, piece_tokens=48, top_k=4, deepen=None)


def corpus(documents: int = 3, questions: int = 2) -> list[Item]:
    """Documents of twenty facts; each question asks for one."""
    items = []
    for number in range(documents):
        facts = [f"Fact {i} of book {number}: item{i} is shade{i * 7 + number}." for i in range(20)]
        text = " ".join(facts)
        for asked in range(questions):
            start = text.index(facts[asked])
            row = {
                "context": text,
                "question": f"What colour is item{asked} of book {number}?",
                "answers": [f"shade{asked * 7 + number}"],
                "gold_spans": [[start, start + len(facts[asked])]],
                "hops": 1,
            }
            items.append(build_item(row, len(items), "scripted"))
    return items


def write_corpus(items: list[Item], path: Path) -> Path:
    """Writes items as the JSON lines that they are read from."""
    rows = [
        {
            "context": item.document.text,
            "question": item.question.text,
            "answers": item.question.answers,
            "gold_spans": item.gold_spans,
            "hops": item.question.hops,
        }
        for item in items
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def export(run: Path, out: Path) -> dict[str, bytes]:
    """The bytes of every file of the data set built from a run."""
    with Store(run, writable=False) as store:
        build_dataset(store, out, PairPolicy())
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.parquet"))}


def plain(trees: list[Tree]) -> list[Tree]:
    """Trees without what a prefix cache saved, which depends on when a process began."""
    return [
        tree.model_copy(
            update={
                "usage": uncached(tree.usage),
                "nodes": tuple(
                    node.model_copy(
                        update={
                            "turns": tuple(
                                turn.model_copy(update={"usage": uncached(turn.usage)})
                                for turn in node.turns
                            )
                        }
                    )
                    for node in tree.nodes
                ),
            }
        )
        for tree in trees
    ]


def uncached(usage: Usage | None) -> Usage | None:
    """The usage with nothing cached."""
    return None if usage is None else usage.model_copy(update={"cached_tokens": 0})


def gold_of(request: ScriptedRequest, items: list[Item]) -> str:
    """The accepted answer of the question that a conversation is about."""
    text = " ".join(message.content for message in request.messages)
    return next(i.question.answers[0] for i in items if i.question.text in text)


def engine(
    items: list[Item],
    *,
    right_share: float = 0.08,
    check: str = "yes",
    kind: type[Kind] = ScriptedEngine,  # type: ignore[assignment]
    **options: object,
) -> Kind:
    """Answers right for a share of the prompts, by their hash; finds every second piece."""

    def reply(request: ScriptedRequest) -> str | None:
        if "Answer: yes" in request.last:
            useful = content_seed("ground", request.key) % 3 == 0
            return f"It seems so. Answer: {'yes' if useful else 'no'}."
        if "Answer:" in request.last:
            lucky = content_seed("lucky", request.key) % 1000 < right_share * 1000
            return f"Fact. Answer: {gold_of(request, items) if lucky else 'grey'}"
        if "yes or no" in request.last:
            return check
        return None

    def weights(request: ScriptedRequest) -> str:
        return "yes" if content_seed("weigh", request.key) % 3 == 0 else "no"

    return kind(reply, weights, **options)  # type: ignore[arg-type]
