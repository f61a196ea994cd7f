"""An invented run as records: for tests, the viewer benchmark and the pictures in the docs.

No model is asked; its figures say nothing about any model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from agenticlu.core.records import (
    Document,
    Node,
    Pair,
    Piece,
    Prediction,
    Question,
    Tree,
    Turn,
    Usage,
    Verdict,
    content_id,
)
from agenticlu.evaluation.summary import summarise
from agenticlu.judges import combine, is_correct
from agenticlu.report import figures
from agenticlu.report.figures import Curve, ReportData, Stage

_NAMES = (
    "Ada Birch", "Tom Alder", "Ines Rowan", "Karl Lindgren", "Mira Castell", "Jonas Hale",
    "Petra Quill", "Oskar Fenn", "Lena Marsh", "Ruth Calloway", "Emil Strand", "Nora Vale",
)  # fmt: skip
_TOWNS = ("Harwick", "Ostmoor", "Lindale", "Sarnby", "Velmouth", "Carrow", "Thornley", "Eskdale")
_TRADES = ("clockmaker", "surveyor", "glassblower", "printer", "harbour pilot", "botanist")
_FILLER = (
    "The harvest that year was late, and the river stood high until the first week of June.",
    "Few letters of that winter survive; those that do speak of the price of coal.",
    "The old bridge was repaired twice, each time with stone from the northern quarry.",
    "Visitors were struck by the quiet of the square on market days.",
    "A brass band played by the mill until the lamps were lit.",
    "The council met on Thursdays and wrote down more than it decided.",
    "It rained for nine days, and the road to the coast was closed to carts.",
)


def sample_report(
    num_trees: int = 24,
    branching: int = 4,
    depth: int = 2,
    num_pieces: int = 28,
    num_questions: int = 60,
    seed: int = 7,
) -> ReportData:
    """Builds a whole report: trees of every outcome, an evaluation of two systems, two trainings.

    Args:
        num_trees: Questions searched; three share a document.
        branching: Samples per expansion.
        depth: Rounds at most.
        num_pieces: Pieces per document.
        num_questions: Held-out questions per length; 0 leaves the evaluation out.
        seed: Equal seeds give equal reports.
    """
    rng = random.Random(seed)
    documents: dict[str, Document] = {}
    pieces: dict[str, tuple[Piece, ...]] = {}
    trees = []
    for i in range(num_trees):
        if i % 3 == 0:
            facts = _facts(rng)
            document, cut, places = _document(rng, facts, num_pieces, f"Chronicle {i // 3 + 1}")
            documents[document.id], pieces[document.id] = document, cut
        trees.append(_tree(rng, document, facts, places, i, branching, depth, num_pieces))
    pairs = tuple(pair for tree in trees for pair in _pairs(tree))
    predictions = {name: _predictions(rng, name, num_questions) for name in ("base", "trained")}
    evaluated = {name: items for name, items in predictions.items() if items}
    gains, changes = figures.compare_contest(evaluated)
    return ReportData(
        title="Sample run (invented figures)",
        documents=tuple(documents.values()),
        pieces=pieces,
        trees=tuple(trees),
        pairs=pairs,
        results=summarise(p for items in evaluated.values() for p in items).cells,
        gains=gains,
        changes=changes,
        funnels={
            "nodes": {
                "chosen": len(pairs),
                "rejected": len(pairs),
                "all right": 61,
                "all wrong": 120,
                "below margin": 48,
                "unscored": 36,
                "failed": 3,
            }
        },
        stages=(
            Stage(
                group="training",
                name="sft",
                usage=Usage(requests=300, prompt_tokens=9_400_000, cached_tokens=7_100_000),
            ),
        ),
        curves=_curves(rng),
        config={
            "run": {
                "branching": branching,
                "depth": depth,
                "engine": {
                    "base_url": ["http://127.0.0.1:8000/v1"],
                    "api_key_env": "OPENAI_API_KEY",
                },
                "grounding": "scan",
                "seed": seed,
            }
        },
        errors=("question 9f3c at 4,096 tokens: no reply within 60 s after 5 attempts",)
        if num_questions
        else (),
    )


def _facts(rng: random.Random) -> list[tuple[str, str, str, str]]:
    """Returns (person, trade, town, friend) of three people."""
    people = rng.sample(_NAMES, 4)
    towns, trades = rng.sample(_TOWNS, 3), rng.sample(_TRADES, 3)
    return [(people[k], trades[k], towns[k], people[k + 1]) for k in range(3)]


def _document(
    rng: random.Random, facts: Sequence[tuple[str, str, str, str]], num_pieces: int, title: str
) -> tuple[Document, tuple[Piece, ...], dict[str, int]]:
    places = dict(zip(range(6), rng.sample(range(num_pieces), min(6, num_pieces)), strict=False))
    where: dict[str, int] = {}
    texts = []
    for index in range(num_pieces):
        sentences = [rng.choice(_FILLER) for _ in range(5)]
        for k, (person, trade, town, friend) in enumerate(facts):
            if places.get(2 * k) == index:
                sentences.insert(
                    rng.randrange(5), f"{person}, a {trade} by trade, lived in {town}."
                )
                where[f"{person} lives"] = index
            if places.get(2 * k + 1) == index:
                sentences.insert(rng.randrange(5), f"The closest friend of {person} was {friend}.")
                where[f"{person} friend"] = index
        if index == 1:
            sentences.append(
                "A carved frieze 🦉 of owls ran above the door: <para 3> it said </para>."
            )
        texts.append(" ".join(sentences) + "\n\n")
    cut, start = [], 0
    for index, text in enumerate(texts):
        cut.append(
            Piece(
                index=index,
                start=start,
                end=start + len(text),
                num_tokens=len(text) // 5,
                page=index // 4 + 1,
            )
        )
        start += len(text)
    return (
        Document.of("".join(texts), source=f"{title.lower()}.txt", title=title),
        tuple(cut),
        where,
    )


def _tree(
    rng: random.Random,
    document: Document,
    facts: Sequence[tuple[str, str, str, str]],
    places: dict[str, int],
    number: int,
    branching: int,
    depth: int,
    num_pieces: int,
) -> Tree:
    (first, _, _, friend), (_, _, town, _), _ = facts
    text = f"In which town did the closest friend of {first} live?"
    if number % 3 == 1:
        text, town = f"In which town did {first} live?", facts[0][2]
    gold = tuple(sorted({places.get(f"{first} friend", 0), places.get(f"{friend} lives", 0)}))
    if number % 3 == 1:
        gold = (places.get(f"{first} lives", 0),)
    question = Question(
        id=content_id(document.id, text, str(number)),
        text=text,
        answers=(town,),
        gold_pieces=gold,
        hops=1 if number % 3 == 1 else 2,
    )
    tree_id = content_id("tree", question.id)
    fate = ("solved", "solved", "solved", "unsolved", "too-easy", "solved", "failed", "solved")[
        number % 8
    ]
    nodes: list[Node] = []

    def grow(parent: Node | None, ordinal: int) -> Node:
        level = 0 if parent is None else parent.depth + 1
        chance = {"too-easy": 1.0, "unsolved": 0.0}.get(fate, 0.1 + 0.3 * level)
        node = _node(
            rng, tree_id, parent, ordinal, question, friend, gold, num_pieces, rng.random() < chance
        )
        nodes.append(node)
        return node

    row = [grow(None, 0)]
    for _ in range(depth):
        row = [
            grow(parent, k) for parent in row if parent.status == "done" for k in range(branching)
        ]
    if fate == "failed":
        broken = nodes[-1].model_copy(
            update={
                "status": "failed",
                "failure": "the server closed the connection after 5 attempts",
                "verdicts": (),
                "score": None,
                "answer": "",
                "turns": nodes[-1].turns[:1],
            }
        )
        nodes[-1] = broken
    turns = sum((t.usage for node in nodes for t in node.turns if t.usage is not None), Usage())
    grounding = Usage(
        requests=num_pieces * len(nodes),
        prompt_tokens=num_pieces * len(nodes) * 130,
        cached_tokens=num_pieces * len(nodes) * 104,
        completion_tokens=num_pieces * len(nodes),
    )
    return Tree(
        id=tree_id,
        document_id=document.id,
        question=question,
        system="Read the document with care and answer from it alone.",
        profile="default 1",
        nodes=tuple(nodes),
        outcome=fate,  # type: ignore[arg-type]
        usage=turns + grounding,
    )


def _node(
    rng: random.Random,
    tree_id: str,
    parent: Node | None,
    ordinal: int,
    question: Question,
    friend: str,
    gold: tuple[int, ...],
    num_pieces: int,
    right: bool,
) -> Node:
    town = question.answers[0]
    said = town if right else rng.choice([name for name in _TOWNS if name != town])
    kept = (
        tuple(sorted({*gold, rng.randrange(num_pieces)}))
        if right
        else tuple(sorted({rng.choice(gold), rng.randrange(num_pieces)}))
    )
    relevance = tuple(
        round(min(1.0, rng.betavariate(1, 9) + (0.6 if k in kept else 0.0)), 3)
        for k in range(num_pieces)
    )
    reply = f"The text says that {friend} lived in {said}. Answer: {said}"
    turns: tuple[Turn, ...]
    if parent is None:
        asked = "Answer the question. State the fact, then end with Answer: and the answer alone."
        turns = (_turn(rng, "direct", asked, reply, 3000),)
        kept, relevances = (), None
    else:
        ask = (
            "Before you answer, ask yourself one question that would help."
            if parent.depth == 0
            else "What else do you need to know? Ask one more question."
        )
        own = rng.choice(
            (
                f"Who was the closest friend, and where does the text say that {friend} lived?",
                f"Where did {friend} live?",
                "Which friend is meant, and which town is named with that friend?",
            )
        )
        marks = " ".join(f"<para {k}>" for k in kept)
        again = (
            f"Now answer the first question: {question.text} State the fact, then end with Answer:"
        )
        turns = (
            _turn(rng, "clarify", ask, own, 700),
            _turn(rng, "point", "Name the paragraphs that answer your question.", marks, None),
            _turn(rng, "sub_answer", "Answer your own question from those paragraphs.",
                  f"{friend} lived in {said}.", 40),
            _turn(rng, "answer", again, reply, 30),
            _turn(rng, "check", "Is the first question fully answered? Reply yes or no.",
                  "yes" if right else rng.choice(("yes", "no")), 20),
        )  # fmt: skip
        relevances = relevance
    verdicts = _verdicts(rng, right)
    return Node(
        id=content_id(tree_id, "" if parent is None else parent.id, str(ordinal)),
        parent=None if parent is None else parent.id,
        depth=0 if parent is None else parent.depth + 1,
        ordinal=ordinal,
        turns=turns,
        kept=kept,
        relevance=relevances,
        answer=said,
        verdicts=verdicts,
        score=combine(verdicts),
        seed=rng.randrange(1 << 31),
    )


def _verdicts(rng: random.Random, right: bool) -> tuple[Verdict, ...]:
    """Returns what judges find, now and then at odds with each other or with nothing to say."""
    exact = Verdict(judge="exact", value=float(right))
    draw = rng.random()
    if draw < 0.06:
        return (Verdict(judge="llm:grader", value=None, reason="unreadable: Hard to say."),)
    if draw < 0.12:
        if right:
            reason = "names another town"
            return exact, Verdict(judge="llm:grader", value=0.0, reason=reason)
        return exact, Verdict(judge="rouge-l", value=0.62)
    if draw < 0.3:
        reason = "names the same town as the reference" if right else "names another town"
        return exact, Verdict(judge="llm:grader", value=float(right), reason=reason)
    return (exact,)


def _turn(rng: random.Random, kind: str, request: str, reply: str, prompt: int | None) -> Turn:
    usage = None
    if prompt is not None:
        total = 2400 + prompt
        usage = Usage(
            requests=1,
            prompt_tokens=total,
            cached_tokens=total - prompt - rng.randrange(12),
            completion_tokens=max(1, len(reply) // 5),
        )
    return Turn(
        kind=kind,  # type: ignore[arg-type]
        wording=f"{kind}-1",
        request=request,
        reply=reply,
        finish_reason="stop",
        usage=usage,
    )


def _pairs(tree: Tree) -> list[Pair]:
    pairs = []
    for parent in tree.nodes:
        children = tree.children(parent.id)
        best = next((node for node in children if is_correct(node.verdicts)), None)
        worst = next((node for node in children if is_correct(node.verdicts) is False), None)
        if best is None or worst is None or best.score is None or worst.score is None:
            continue
        pairs.append(
            Pair(
                id=content_id("pair", best.id, worst.id),
                tree_id=tree.id,
                document_id=tree.document_id,
                question_id=tree.question.id,
                kind="step",
                chosen=best.id,
                rejected=worst.id,
                score_chosen=best.score,
                score_rejected=worst.score,
            )
        )
    return pairs


def _predictions(rng: random.Random, system: str, num_questions: int) -> list[Prediction]:
    skill = {"base": (0.86, 0.16), "trained": (0.90, 0.11)}
    predictions = []
    for method in ("direct", "retrieve", "clarify"):
        for k, length in enumerate((512, 1024, 2048, 4096)):
            high, loss = skill[system]
            if method == "clarify":
                loss *= 0.25 if system == "trained" else 0.7
            if method == "retrieve":
                high, loss = high - 0.1, loss * 0.55
            for i in range(num_questions):
                right = rng.random() < high - loss * k
                failed = system == "base" and method == "clarify" and length == 4096 and i == 0
                prompt = length + (600 if method == "clarify" else 40)
                if method == "retrieve":
                    prompt = 500
                predictions.append(
                    Prediction(
                        engine=system,
                        id=content_id(system, method, str(length), str(i)),
                        task="world",
                        method=method,
                        length=length,
                        document_id=f"held-out-{length}-{i // 3}",
                        question_id=f"held-out-{length}-{i}",
                        question=f"In which town did the friend of {_NAMES[i % 12]} live?",
                        gold=("Harwick",),
                        answer="Harwick" if right else _TOWNS[1 + i % 7],
                        scores={} if failed else {"match": float(right)},
                        usage=Usage(requests=1, prompt_tokens=prompt, completion_tokens=30),
                        seconds=0.4,
                        error="no reply within 60 s after 5 attempts" if failed else None,
                    )
                )
    return predictions


def _curves(rng: random.Random) -> tuple[Curve, ...]:
    def curve(
        run: str, quantity: str, start: float, end: float, steps: int, noise: float, stride: int = 1
    ) -> Curve:
        points = []
        for step in range(stride, steps + 1, stride):
            share = 1 - 2 ** (-6 * step / steps)
            points.append((float(step), start + (end - start) * share + rng.gauss(0, noise)))
        split = "training" if stride == 1 else "validation"
        return Curve(run=run, quantity=quantity, points=tuple(points), split=split)

    return (
        curve("sft", "loss", 1.9, 0.42, 300, 0.03),
        curve("sft", "loss", 1.95, 0.55, 300, 0.01, 50),
        curve("dpo", "loss", 0.69, 0.31, 120, 0.02),
        curve("dpo", "pair_accuracy", 0.5, 0.93, 120, 0.03),
        curve("dpo", "margin", 0.0, 2.1, 120, 0.08),
    )
