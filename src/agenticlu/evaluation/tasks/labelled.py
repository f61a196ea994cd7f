"""Labels by an invented rule: learn it from examples (icl_like), or count labels (oolong_like)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from agenticlu.evaluation.helmet.layout import build_prompt, load_templates
from agenticlu.evaluation.items import Item
from agenticlu.evaluation.tasks import TaskRequest, vocabulary
from agenticlu.evaluation.tasks.fitting import Fitter
from agenticlu.evaluation.tasks.questions import Asked, fitted_items, item_of

NUM_LABELS = 4
GEN_TOKENS = 20
_VERBS = ("carries", "hides", "sells", "mends")


def load(request: TaskRequest) -> Iterator[Item]:
    """Yields `num_items` rows of `icl_like` or `oolong_like`."""
    if request.task == "icl_like":
        yield from _examples(request)
    else:
        fitter = Fitter[Asked](request, step=1)
        yield from fitted_items(request, _count_labels, fitter, GEN_TOKENS, "open")


def _line(rng: Random, group: int) -> str:
    """A line whose label follows from its verb."""
    one, other = rng.sample(vocabulary.nouns(), 2)
    return f"The {rng.choice(vocabulary.adjectives())} {one} {_VERBS[group]} the {other}."


def _names(rng: Random) -> list[str]:
    return [str(number) for number in rng.sample(range(10, 100), NUM_LABELS)]


def _count_labels(rng: Random, num_lines: int) -> Asked:
    names = _names(rng)
    groups = [rng.randrange(NUM_LABELS) for _ in range(num_lines)]
    text = "\n\n".join(f"{_line(rng, group)}\nlabel: {names[group]}" for group in groups)
    asked = rng.choice(sorted(set(groups)))
    question = f"How many of the lines above have the label {names[asked]}?"
    return Asked(text, question, str(Counter(groups)[asked]))


def _learn_labels(rng: Random, num_rounds: int) -> Asked:
    """Every round of examples shows each label once."""
    names = _names(rng)
    rounds = [rng.sample(range(NUM_LABELS), NUM_LABELS) for _ in range(num_rounds)]
    text = "\n\n".join(
        f"{_line(rng, group)}\nlabel: {names[group]}" for order in rounds for group in order
    )
    group = rng.randrange(NUM_LABELS)
    return Asked(text, _line(rng, group), names[group])


def _examples(request: TaskRequest) -> Iterator[Item]:
    template = load_templates(request.options.get("templates"))["icl"]
    fitter = Fitter[Asked](request, step=1)

    def tokens(asked: Asked) -> int:
        row = {"context": asked.text, "question": asked.question}
        prompt = build_prompt(template, row, chat=False).text
        return request.tokenizer.count(f"{prompt} {asked.answer}") + GEN_TOKENS

    for index in range(request.num_items):
        seed = request.seed_of(index)

        def sized(size: int, seed: int = seed) -> Asked:
            return _learn_labels(Random(seed), size)

        asked = fitter.row(sized, tokens)
        row = {"context": asked.text, "question": asked.question}
        item = item_of(request, index, asked, "label", GEN_TOKENS)
        asked_text = template.ask.format(**row)
        yield replace(
            item,
            question=item.question.model_copy(update={"text": asked_text}),
            prompt=build_prompt(template, row, chat=False),
        )
