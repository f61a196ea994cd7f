"""Questions about the synthetic world: held-out documents, gold pieces known."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from random import Random

from agenticlu.core.records import Document, Question, content_seed
from agenticlu.demo.world import World, WorldDocument, WorldQuestion, render_choices
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` questions on as many test documents as they need."""
    world = World(request.seed)
    wanted = request.num_items
    for index in count():
        made = world.document(
            "test",
            index,
            request.length,
            request.tokenizer.count,
            num_questions=request.questions_per_document,
        )
        document = Document(id=made.id, text=made.text, source=f"world:{request.seed}:{index}")
        for question in made.questions:
            if wanted == 0:
                return
            wanted -= 1
            yield _item(request, document, index, made, question)


def _item(
    request: TaskRequest,
    document: Document,
    index: int,
    made: WorldDocument,
    question: WorldQuestion,
) -> Item:
    spans = tuple((hop.fact.start, hop.fact.end) for hop in question.hops)
    options: tuple[str, ...] = ()
    reference: dict[str, str] = {}
    if request.task == "world-choice":
        rng = Random(content_seed("choices", made.id, question.id))
        choice = render_choices(rng, question, made.facts, made.people)
        options, reference = choice.options, {"letter": choice.letter}
    return Item(
        task=request.task,
        length=request.length,
        document=document,
        question=Question(
            id=question.id,
            text=question.text,
            answers=question.answers,
            options=options,
            hops=len(question.hops),
        ),
        rule="choice" if options else "open",
        gold_spans=spans,
        reference=reference,
        row={
            "document": index,
            "id": question.id,
            "question": question.text,
            "answers": question.answers,
            "options": options,
            "gold_spans": spans,
            "hops": len(question.hops),
            "length": request.length,
            "seed": request.seed,
        },
    )
