"""Labels by an invented rule: learn it from examples (icl_like), or count labels (oolong_like)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

from agenticlu.evaluation.helmet.layout import build_prompt, load_templates
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import DoesNotFitError, TaskRequest, vocabulary
from agenticlu.records import Document, Question, content_id, content_seed

NUM_LABELS = 4
_VERBS = ("carries", "hides", "sells", "mends")


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of `icl_like` or `oolong_like`."""
    for index in range(request.num_items):
        yield _item(request, index)


def _line(rng: Random, group: int) -> str:
    """A line whose label follows from its verb."""
    one, other = rng.sample(vocabulary.nouns(), 2)
    return f"The {rng.choice(vocabulary.adjectives())} {one} {_VERBS[group]} the {other}."


def _item(request: TaskRequest, index: int) -> Item:
    seed = content_seed(request.task, str(request.seed), str(request.length), str(index))
    rng = Random(seed)
    names = [str(n) for n in rng.sample(range(10, 100), NUM_LABELS)]
    blocks: list[str] = []
    groups: list[int] = []
    room, count = request.length - 64, request.tokenizer.count
    while True:
        order = rng.sample(range(NUM_LABELS), NUM_LABELS)
        if request.task == "oolong_like":
            order = [rng.choice(order)]
        made = [f"{_line(rng, group)}\nlabel: {names[group]}" for group in order]
        room -= sum(count(f"{block}\n\n") for block in made)
        if room < 0:
            break
        blocks += made
        groups += order
    if not blocks:
        raise DoesNotFitError(request.task, request.length)
    text = "\n\n".join(blocks)
    document = Document.of(text, f"{request.task}:{request.seed}:{index}")
    name = content_id(request.task, str(seed))
    if request.task == "oolong_like":
        asked = rng.choice(sorted(set(groups)))
        question = f"How many of the lines above have the label {names[asked]}?"
        answers = (str(Counter(groups)[asked]),)
        return Item(
            task=request.task,
            length=request.length,
            document=document,
            question=Question(id=name, text=question, answers=answers),
            max_tokens=20,
        )
    group = rng.randrange(NUM_LABELS)
    row = {"context": text, "question": _line(rng, group)}
    template = load_templates(request.options.get("templates"))["icl"]
    return Item(
        task=request.task,
        length=request.length,
        document=document,
        question=Question(id=name, text=template.ask.format(**row), answers=(names[group],)),
        rule="label",
        prompt=build_prompt(template, row, chat=False),
        max_tokens=20,
    )
