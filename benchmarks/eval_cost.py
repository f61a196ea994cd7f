"""What the agentic dialogue costs in document readings: our way beside the published way, one run.

    python benchmarks/eval_cost.py [--json FILE]

A *reading* is one document's worth of prompt tokens that the engine had to compute. The published
way asks its five turns with the prefix cache off, so each turn reads the document again. Four
measurements:

1. the bundled model in this process, one question, five turns: cache on against cache off;
2. the same model, 50 questions on one document by `direct`;
3. the same model, 50 questions on one document of twice the length by `clarify`;
4. a simulated server with a prefix cache at the paper's mean length, 50 questions by `clarify`
   (token counts do not depend on what the model says; a model of that window is not at hand).

Exits with 1 when a target is missed: 1.05 readings per question over all turns, 1.5 readings for
50 questions.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from agenticlu.core.records import Document, Question, Usage
from agenticlu.demo.world import World, build_questions
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import Tokenizer, load_tokenizer
from agenticlu.engines import BUNDLED_MODEL, load_engine
from agenticlu.engines.base import Engine
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.methods import View, answer
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.tables import render_table

MOST_READINGS_A_QUESTION = 1.05
MOST_READINGS_FOR_50 = 1.5
NUM_QUESTIONS = 50
REPLY = "The friend of that person lives in the town by the lake. Answer: Brellin"


@dataclass(frozen=True)
class Cost:
    """What one measurement found."""

    what: str
    document_tokens: int
    usage: Usage
    seconds: float
    limit: float | None

    @property
    def readings(self) -> float:
        """Prompt tokens computed, in documents."""
        return (self.usage.prompt_tokens - self.usage.cached_tokens) / self.document_tokens

    @property
    def is_met(self) -> bool:
        """Whether the target is met; True without one."""
        return self.limit is None or self.readings <= self.limit


def build_items(tokens: int, tokenizer: Tokenizer, num: int) -> list[Item]:
    """Returns `num` questions about one document of the world."""
    made = World(0).document("test", 0, tokens, tokenizer.count)
    document = Document(id=made.id, text=made.text, source="world")
    return [
        Item("world", tokens, document, Question(id=q.id, text=q.text, answers=q.answers))
        for q in build_questions(made.facts)[:num]
    ]


async def measure(
    what: str,
    method: str,
    items: list[Item],
    engine: Engine,
    settings: RunSettings,
    limit: float | None = None,
) -> Cost:
    """Answers all items and returns what that cost."""
    view = View(items[0], settings)
    shown = settings.tokenizer.count(view.marked)
    before, started = engine.usage, time.perf_counter()
    for item in items:
        await answer(method, item, view, engine, settings)
    after = engine.usage
    used = Usage(
        requests=after.requests - before.requests,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        cached_tokens=after.cached_tokens - before.cached_tokens,
        completion_tokens=after.completion_tokens - before.completion_tokens,
    )
    await engine.close()
    return Cost(what, shown, used, time.perf_counter() - started, limit)


async def run(tokens: int, middle_tokens: int, long_tokens: int) -> list[Cost]:
    """Returns all measurements."""
    tokenizer = load_tokenizer(str(BUNDLED_MODEL))
    config = EvaluationConfig(piece_tokens=64, max_tokens=24)
    settings = RunSettings(config, load_profile(), tokenizer)
    items = build_items(tokens, tokenizer, NUM_QUESTIONS)
    cached = load_engine(str(BUNDLED_MODEL))
    uncached = load_engine(str(BUNDLED_MODEL), cache=False)
    costs = [
        await measure(
            "published way: 5 turns, cache off", "clarify", items[:1], uncached, settings
        ),
        await measure(
            "clarify: 5 turns, one question",
            "clarify",
            items[:1],
            cached,
            settings,
            MOST_READINGS_A_QUESTION,
        ),
        await measure(
            f"direct: {NUM_QUESTIONS} questions, one document",
            "direct",
            items,
            load_engine(str(BUNDLED_MODEL)),
            settings,
            MOST_READINGS_FOR_50,
        ),
    ]
    costs.append(
        await measure(
            f"clarify: {NUM_QUESTIONS} questions, one document",
            "clarify",
            build_items(middle_tokens, tokenizer, NUM_QUESTIONS),
            load_engine(str(BUNDLED_MODEL)),
            settings,
            MOST_READINGS_FOR_50,
        )
    )
    many = build_items(long_tokens, tokenizer, NUM_QUESTIONS)
    wide = RunSettings(EvaluationConfig(), load_profile(), tokenizer)
    costs.append(
        await measure(
            f"clarify: {NUM_QUESTIONS} questions, one document, simulated server",
            "clarify",
            many,
            ScriptedEngine(lambda request: REPLY, tokenizer=tokenizer),
            wide,
            MOST_READINGS_FOR_50,
        )
    )
    return costs


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=8192, help="document, bundled model")
    parser.add_argument(
        "--middle-tokens", type=int, default=16384, help="document, bundled model, clarify"
    )
    parser.add_argument("--long-tokens", type=int, default=67812, help="document, simulated server")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    given = parser.parse_args()
    costs = asyncio.run(run(given.tokens, given.middle_tokens, given.long_tokens))
    rows = [
        [
            cost.what,
            f"{cost.document_tokens:,}",
            str(cost.usage.requests),
            f"{cost.usage.prompt_tokens:,}",
            f"{cost.usage.prompt_tokens - cost.usage.cached_tokens:,}",
            f"{cost.readings:.3f}",
            "" if cost.limit is None else f"≤ {cost.limit} {'met' if cost.is_met else 'MISSED'}",
            f"{cost.seconds:.1f}",
        ]
        for cost in costs
    ]
    header = ["", "document", "requests", "prompt", "computed", "readings", "target", "seconds"]
    print(render_table(header, rows))
    print(f"\npublished / ours, one question: {costs[0].readings / costs[1].readings:.2f}")
    if given.json:
        found = [
            {
                "name": cost.what,
                "value": round(cost.readings, 4),
                "unit": "document readings",
                "target": cost.limit,
                "met": None if cost.limit is None else cost.is_met,
            }
            for cost in costs
        ]
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if all(cost.is_met for cost in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
