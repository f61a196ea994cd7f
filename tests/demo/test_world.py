"""The world: what it promises about splits, facts, questions, lengths and repeatability."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from agenticlu.core.errors import StoreError
from agenticlu.demo import DemoSizes, write_corpus
from agenticlu.demo.lexicon import FIRST_NAMES, SURNAMES
from agenticlu.demo.world import (
    SPLITS,
    World,
    WorldDocument,
    build_questions,
    draw_people,
    gold_pieces,
    render_choices,
    split_of,
)


def count_words(text: str) -> int:
    return len(re.findall(r"\w+|[^\w\s]|\n\n", text))


@pytest.fixture(scope="module")
def documents() -> list[WorldDocument]:
    world = World(seed=3)
    return [
        world.document(which, i, tokens, count_words)
        for which, i, tokens in itertools.product(SPLITS, range(3), (256, 700, 2048))
    ]


@dataclass(frozen=True)
class Window:
    start: int
    end: int


def test_splits_share_no_people_but_every_name() -> None:
    seen: dict[str, set[str]] = {which: set() for which in SPLITS}
    for which, i in itertools.product(SPLITS, range(60)):
        seen[which].update(draw_people(Random(f"{which} {i}"), which, 12))
    assert all(len(people) > 100 for people in seen.values())  # not vacuous
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b]
    pairs = [split_of(a, b) for a, b in itertools.product(FIRST_NAMES, SURNAMES)]
    assert 0.75 < pairs.count("train") / len(pairs) < 0.85
    for first in FIRST_NAMES:
        assert any(split_of(first, surname) == "train" for surname in SURNAMES)


def test_documents_keep_to_the_people_of_their_split(documents: list[WorldDocument]) -> None:
    for document in documents:
        named = re.findall(rf"\b({'|'.join(FIRST_NAMES)}) (\w+)", document.text)
        assert {f"{a} {b}" for a, b in named} <= set(document.people)
        assert {split_of(a, b) for a, b in named} == {document.split}


def test_spans_hold_the_facts(documents: list[WorldDocument]) -> None:
    num = plain = 0
    for document in documents:
        for fact in document.facts:
            stated = document.text[fact.start : fact.end]
            assert fact.key.lower() in stated.lower()
            assert stated.endswith(f" {fact.value}.")
            assert stated.count(".") == 1
            plain += stated.lower().endswith(fact.sentence.lower())
            num += 1
    assert 0.6 < plain / num < 0.9


def test_chains_lead_from_the_question_to_the_answer(documents: list[WorldDocument]) -> None:
    hops = set()
    for question in (q for document in documents for q in document.questions):
        hops.add(len(question.hops))
        assert question.hops[0].fact.key in question.text
        assert question.hops[-1].answer == question.answers[0]
        assert question.answer not in question.text
        for before, after in itertools.pairwise(question.hops):
            assert after.fact.key == before.answer
            assert before.answer in after.question
            assert before.answer not in question.text  # the step between has to be looked up
        assert question.statement.endswith(f" {question.answer}.")
    assert hops == {1, 2, 3}


def test_a_question_has_one_right_answer(documents: list[WorldDocument]) -> None:
    for document in documents:
        texts = [question.text for question in build_questions(document.facts)]
        assert len(set(texts)) == len(texts) > 50


def test_gold_pieces_are_those_that_overlap_a_fact() -> None:
    document = World().document("test", 0, 512, count_words)
    question = next(q for q in document.questions if len(q.hops) == 2)
    windows = [Window(i, i + 100) for i in range(0, len(document.text), 100)]
    gold = gold_pieces(question, windows)
    for i, window in enumerate(windows):
        covered = range(window.start, window.end)
        holds = any(
            c in covered for hop in question.hops for c in range(hop.fact.start, hop.fact.end)
        )
        assert holds == (i in gold)
    whole = [Window(0, len(document.text))]
    assert gold_pieces(question, whole) == (0,)


@pytest.mark.parametrize("tokens", [256, 512, 1024, 2048, 4096, 16384])
def test_length_is_met_and_never_exceeded(tokens: int) -> None:
    document = World().document("validation", tokens, tokens, count_words)
    assert 0.95 * tokens <= count_words(document.text) <= tokens


def test_too_many_people_for_the_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="fewer people or a longer document"):
        World().document("train", 0, 100, count_words, people=9)


def test_multiple_choice_holds_the_answer_once(documents: list[WorldDocument]) -> None:
    letters = set()
    for document in documents:
        for question in document.questions:
            choice = render_choices(Random(0), question, document.facts, document.people)
            assert len(set(choice.options)) == 4
            assert choice.options["ABCD".index(choice.letter)] == question.answer
            letters.add(choice.letter)
    assert letters == set("ABCD")


def test_equal_in_every_process() -> None:
    code = (
        "from agenticlu.demo.world import World\n"
        "d = World(7).document('train', 5, 600, lambda t: len(t.split()))\n"
        "print(d.id, [q.id for q in d.questions])"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    other = World(8).document("train", 5, 600, lambda t: len(t.split()))
    assert other.id not in texts.pop()


def test_a_demo_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, no folder")
    with pytest.raises(StoreError, match="Cannot write"):
        write_corpus(tmp_path / "out" / "corpus.jsonl", DemoSizes(num_documents=1, num_items=1))
