"""Generated tasks: our own world, and tasks modelled on BABILong, GraphWalks, MRCR and OOLONG.

Samplers and wordings are ours, so figures are not comparable with those of the benchmarks.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from random import Random

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document, Question, content_seed
from agenticlu.demo.world import World, WorldDocument, WorldQuestion, render_choices
from agenticlu.evaluation.helmet import build_prompt, load_templates
from agenticlu.evaluation.records import DoesNotFitError, Item
from agenticlu.evaluation.tasks import TaskRequest, generated
from agenticlu.evaluation.tasks.generated import Asked, Fitter, build_item, fit_items

PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
PEOPLE = ("Mara", "Jon", "Sandor", "Dana")
THINGS = ("apple", "kettle", "lantern")
MIN_NOISE_TOKENS = 10
NUM_MOVES = {"babi_qa1": 6, "babi_qa2": 8, "babi_qa3": 10}
MAX_UNSUITABLE = 100
"""Invented sentences in a row that cannot be noise, after which no more are tried."""
_TOPIC = re.compile(
    rf"{'|'.join((*PLACES, *THINGS))}|\b(?:{'|'.join(PEOPLE)})\b", flags=re.IGNORECASE
)
"""The subjects of the stories; noise must not mention them."""

OUT_DEGREE = 2
MAX_STEPS = 3

KINDS = ("short note", "story", "riddle", "song", "letter", "speech")
NUM_EQUAL = {"mrcr_2": 2, "mrcr_4": 4, "mrcr_8": 8}
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
REPLY_SENTENCES = 2

NUM_LABELS = 4
LABEL_TOKENS = 20
_LABEL_VERBS = ("carries", "hides", "sells", "mends")
"""The verb of a line decides its label."""


def load_stories(request: TaskRequest) -> Iterator[Item]:
    """Yields stories about people, places and things among noise: BABILong's qa1, qa2 and qa3."""
    for index in range(request.num_items):
        yield _build_story(request, index)


def _build_story(request: TaskRequest, index: int) -> Item:
    rng = Random(request.row_seed(index))
    facts, question, answer, golds = _STORIES[request.task](rng, NUM_MOVES[request.task])
    count = request.tokenizer.count
    room = request.length - sum(count(f" {fact}") for fact in facts)
    if room < 0:
        raise DoesNotFitError(request.task, request.length)
    noise = _draw_noise(request, rng, room)
    gaps = sorted(rng.randrange(len(noise) + 1) for _ in facts)
    lines: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    for gap in range(len(noise) + 1):
        for number, fact in enumerate(facts):
            if gaps[number] == gap:
                if number in golds:
                    spans.append((length, length + len(fact)))
                lines.append(fact)
                length += len(fact) + 1
        if gap < len(noise):
            lines.append(noise[gap])
            length += len(noise[gap]) + 1
    asked = Asked(" ".join(lines), question, answer, tuple(spans), {"labels": PLACES})
    return build_item(request, index, asked, "only_label", 50)


def _draw_noise(request: TaskRequest, rng: Random, room: int) -> list[str]:
    """Returns sentences of `room` tokens at most, each of ten or more, none about the story.

    Raises:
        UsageError: The haystack file has no such sentence.
    """
    path = request.options.get("haystack")
    patience = len(generated.load_prose(path)) if path else MAX_UNSUITABLE
    noise: list[str] = []
    unsuitable = 0
    for sentence in generated.sentences(rng, path):
        cost = request.tokenizer.count(f" {sentence}")
        if MIN_NOISE_TOKENS <= cost <= room and not _TOPIC.search(sentence):
            noise.append(sentence)
            room -= cost
            unsuitable = 0
            continue
        unsuitable += 1
        if unsuitable >= patience or (noise and cost > room):
            break
    if path and not noise and room >= MIN_NOISE_TOKENS:
        raise UsageError(
            f"No sentence of the haystack file {path!r} can be used as noise: it needs "
            f"{MIN_NOISE_TOKENS} to {room} tokens and must not mention the story's people, places "
            "or things.",
            hint="Give another file, or omit --haystack for invented noise.",
        )
    return noise


Story = tuple[list[str], str, str, set[int]]
"""Facts, question, answer, and the numbers of the facts that are the evidence."""


def _draw_story_where_person(rng: Random, num: int) -> Story:
    where: dict[str, str] = {}
    moves = []
    for _ in range(num):
        person = rng.choice(PEOPLE)
        where[person] = _draw_other_place(rng, where.get(person))
        moves.append((person, where[person]))
    person = rng.choice(sorted({who for who, _ in moves}))
    last = max(i for i, (who, _) in enumerate(moves) if who == person)
    facts = [f"{who} went to the {place}." for who, place in moves]
    return facts, f"Where is {person}?", moves[last][1], {last}


def _draw_other_place(rng: Random, place: str | None) -> str:
    return rng.choice([other for other in PLACES if other != place])


def _draw_carried(rng: Random, num: int) -> tuple[list[str], str, list[tuple[str, int, int]]]:
    """One thing is picked up and carried about: facts, the thing, (place, move, pick-up)."""
    thing, carrier = rng.choice(THINGS), rng.choice(PEOPLE)
    facts: list[str] = []
    seen: list[tuple[str, int, int]] = []
    where: dict[str, str] = {}
    picked = -1
    for i in range(num):
        if i == num // 3:
            place = where.get(carrier)
            if place is None:
                place = rng.choice(PLACES)
                facts.append(f"{carrier} went to the {place}.")
                where[carrier] = place
            picked = len(facts)
            facts.append(f"{carrier} picked up the {thing} there.")
            seen.append((place, picked - 1, picked))
        person = carrier if i > num // 3 and i % 2 else rng.choice(PEOPLE)
        where[person] = place = _draw_other_place(rng, where.get(person))
        facts.append(f"{person} went to the {place}.")
        if person == carrier and picked >= 0:
            seen.append((place, len(facts) - 1, picked))
    return facts, thing, seen


def _draw_story_where_thing(rng: Random, num: int) -> Story:
    facts, thing, seen = _draw_carried(rng, num)
    place, move, picked = seen[-1]
    return facts, f"Where is the {thing}?", place, {move, picked}


def _draw_story_where_before(rng: Random, num: int) -> Story:
    """Asks for the place before the last one; the last place occurs once on the way."""
    while True:
        facts, thing, seen = _draw_carried(rng, num)
        places = [place for place, _, _ in seen]
        if len(seen) > 1 and places.count(places[-1]) == 1:
            break
    before, last = seen[-2], seen[-1]
    question = f"Where was the {thing} before the {last[0]}?"
    return facts, question, before[0], {before[1], last[1], last[2]}


_STORIES = {
    "babi_qa1": _draw_story_where_person,
    "babi_qa2": _draw_story_where_thing,
    "babi_qa3": _draw_story_where_before,
}


Edge = tuple[str, str]


def load_graphs(request: TaskRequest) -> Iterator[Item]:
    """Yields lists of edges, after GraphWalks: nodes at a distance, or parents of a node."""
    ask = _ask_for_parents if request.task == "graph_parents" else _ask_for_walk

    def build(rng: Random, num_nodes: int) -> Asked:
        edges = _draw_edges(rng, num_nodes)
        asked, golds, evidence = ask(rng, edges)
        text = "\n".join(_render_edges(edges))
        spans = (
            (text.index(line), text.index(line) + len(line)) for line in _render_edges(evidence)
        )
        return Asked(
            text,
            f"The document lists the edges of a graph. {asked} "
            "End with Final Answer: [a, b, ...], or Final Answer: [] if there is none.",
            f"[{', '.join(golds)}]",
            tuple(spans),
            {"nodes": golds},
        )

    yield from fit_items(request, build, Fitter[Asked](request, step=4, least=4), 200, "set_f1")


def _draw_edges(rng: Random, num_nodes: int) -> list[Edge]:
    nodes = generated.distinct(lambda source: f"{source.getrandbits(32):08x}", rng, num_nodes)
    edges = {(node, rng.choice(nodes)) for node in nodes for _ in range(OUT_DEGREE)}
    ordered = sorted((a, b) for a, b in edges if a != b)
    rng.shuffle(ordered)
    return ordered


def _render_edges(edges: list[Edge]) -> list[str]:
    return [f"{a} -> {b}" for a, b in edges]


def find_distances(edges: list[Edge], start: str) -> dict[str, int]:
    """Returns the fewest steps from `start` to every node that can be reached."""
    following: dict[str, list[str]] = {}
    for a, b in edges:
        following.setdefault(a, []).append(b)
    found, border = {start: 0}, [start]
    while border:
        ahead = dict.fromkeys(b for a in border for b in following.get(a, ()) if b not in found)
        found |= dict.fromkeys(ahead, found[border[0]] + 1)
        border = list(ahead)
    return found


def _ask_for_parents(rng: Random, edges: list[Edge]) -> tuple[str, list[str], list[Edge]]:
    """Returns a question about a graph, the nodes that answer it, and the edges that show it."""
    node = rng.choice(edges)[rng.randrange(2)]
    evidence = [(a, b) for a, b in edges if b == node]
    asked = f"Which nodes have an edge that leads straight to {node}?"
    return asked, sorted({a for a, _ in evidence}), evidence


def _ask_for_walk(rng: Random, edges: list[Edge]) -> tuple[str, list[str], list[Edge]]:
    """Likewise, for the nodes at a distance."""
    node = rng.choice(edges)[rng.randrange(2)]
    steps = rng.randint(1, MAX_STEPS)
    found = find_distances(edges, node)
    golds = sorted(name for name, far in found.items() if far == steps)
    asked = f"Which nodes are exactly {steps} steps from {node}, going along the edges?"
    return asked, golds, [(a, b) for a, b in edges if found.get(a, steps) < steps]


Turn = tuple[str, str]


def load_dialogues(request: TaskRequest) -> Iterator[Item]:
    """Yields long dialogues, one of whose equal requests' replies is to be recited, after MRCR.

    The texts come from templates and are easier to tell apart than MRCR's own.
    """
    num_equal = NUM_EQUAL[request.task]

    def build(rng: Random, num_others: int) -> Asked:
        return _draw_dialogue(rng, num_equal, num_others)

    yield from fit_items(request, build, Fitter[Asked](request, step=1, least=0), 200, "recite")


def _draw_turn(rng: Random, kind: str, topic: str) -> Turn:
    source = generated.sentences(rng)
    reply = " ".join(next(source) for _ in range(REPLY_SENTENCES))
    return f"User: Write a {kind} about a {topic}.", reply


def _draw_dialogue(rng: Random, num_equal: int, num_others: int) -> Asked:
    kind, topic = rng.choice(KINDS), rng.choice(generated.nouns())
    equal = [_draw_turn(rng, kind, topic) for _ in range(num_equal)]
    asked = rng.randrange(num_equal)
    prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=10))
    turns: list[Turn] = []
    while len(turns) < num_others:
        made = _draw_turn(rng, rng.choice(KINDS), rng.choice(generated.nouns()))
        if made[0] != equal[0][0]:
            turns.append(made)
    places = sorted(rng.randrange(num_others + 1) for _ in equal)
    for place, one in reversed(list(zip(places, equal, strict=True))):
        turns.insert(place, one)
    text = "\n".join(f"{request}\nAssistant: {reply}" for request, reply in turns)
    wanted = equal[asked][1]
    start = text.index(wanted)
    return Asked(
        text,
        f"The document is a dialogue. Write {prefix} and, right after it, the "
        f"{ORDINALS[asked]} {kind} about a {topic}, word for word and nothing else.",
        prefix + wanted,
        ((start, start + len(wanted)),),
        {"prefix": prefix},
    )


def load_label_counts(request: TaskRequest) -> Iterator[Item]:
    """Yields labelled lines whose labels are to be counted, after OOLONG."""
    fitter = Fitter[Asked](request, step=1)
    yield from fit_items(request, _draw_label_count, fitter, LABEL_TOKENS, "open")


def load_labelled_examples(request: TaskRequest) -> Iterator[Item]:
    """Yields examples of an invented labelling rule, to be applied to one more line."""
    template = load_templates(request.options.get("templates"))["icl"]
    fitter = Fitter[Asked](request, step=1)

    def tokens(asked: Asked) -> int:
        row = {"context": asked.text, "question": asked.question}
        prompt = build_prompt(template, row, chat=False).text
        return request.tokenizer.count(f"{prompt} {asked.answer}") + LABEL_TOKENS

    for index, asked in fitter.rows(_draw_labelled_examples, tokens):
        row = {"context": asked.text, "question": asked.question}
        item = build_item(request, index, asked, "label", LABEL_TOKENS)
        question = item.question.model_copy(update={"text": template.ask.format(**row)})
        yield replace(item, question=question, prompt=build_prompt(template, row, chat=False))


def _draw_line(rng: Random, group: int) -> str:
    one, other = rng.sample(generated.nouns(), 2)
    return f"The {rng.choice(generated.adjectives())} {one} {_LABEL_VERBS[group]} the {other}."


def _draw_labels(rng: Random) -> list[str]:
    return [str(number) for number in rng.sample(range(10, 100), NUM_LABELS)]


def _draw_label_count(rng: Random, num_lines: int) -> Asked:
    labels = _draw_labels(rng)
    groups = [rng.randrange(NUM_LABELS) for _ in range(num_lines)]
    text = "\n\n".join(f"{_draw_line(rng, group)}\nlabel: {labels[group]}" for group in groups)
    asked = rng.choice(sorted(set(groups)))
    question = f"How many of the lines above have the label {labels[asked]}?"
    return Asked(text, question, str(Counter(groups)[asked]))


def _draw_labelled_examples(rng: Random, num_rounds: int) -> Asked:
    """Draws rounds of examples; each shows every label once."""
    labels = _draw_labels(rng)
    rounds = [rng.sample(range(NUM_LABELS), NUM_LABELS) for _ in range(num_rounds)]
    text = "\n\n".join(
        f"{_draw_line(rng, group)}\nlabel: {labels[group]}" for order in rounds for group in order
    )
    group = rng.randrange(NUM_LABELS)
    return Asked(text, _draw_line(rng, group), labels[group])


def load_world(request: TaskRequest) -> Iterator[Item]:
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
