"""Generators: rows fit their length, keep the published rules and follow from their seed alone."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.core.errors import MissingDependencyError, UsageError
from agenticlu.core.records import Piece
from agenticlu.data.corpus import load_corpus
from agenticlu.documents.tokens import ApproximateTokenizer, Tokenizer, load_tokenizer
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.evaluation.helmet import LENGTHS, SPECS, find_file, find_scale
from agenticlu.evaluation.helmet.rows import load_rows
from agenticlu.evaluation.helmet.sources import RowRequest
from agenticlu.evaluation.records import DoesNotFitError, Item, gold_pieces
from agenticlu.evaluation.scoring import rules
from agenticlu.evaluation.tasks import TASKS, TaskRequest, generated, load_items, ruler
from agenticlu.evaluation.tasks.generated import Fitter, largest_fit
from agenticlu.evaluation.tasks.ruler import is_decided, zipf_counts
from agenticlu.evaluation.tasks.synthetic import (
    MIN_NOISE_TOKENS,
    PEOPLE,
    PLACES,
    THINGS,
    find_distances,
)

TOKENIZER = ApproximateTokenizer()
TINY = load_tokenizer(str(BUNDLED_MODEL))
GENERATORS = [name for name in TASKS if name not in {*SPECS, "corpus"}]
TEXT_ALONE = ("world", "world-choice", "babi_qa1", "babi_qa2", "babi_qa3")
"""Their length is the text's; that of the others has room for question, answer and reply."""


def items(
    task: str, length: int = 2048, limit: int = 6, tokenizer: Tokenizer = TOKENIZER, **options: Any
) -> list[Item]:
    return load_items(TaskRequest(task, length, tokenizer, limit=limit, options=options))


def used_tokens(item: Item, tokenizer: Tokenizer) -> int:
    """Tokens of text, question, answer and reply; of the text alone where that is the rule."""
    if item.task in TEXT_ALONE:
        return tokenizer.count(item.document.text)
    shown = f"{item.document.text}\n\n{item.question.text}"
    text = shown if item.prompt is None else item.prompt.text
    used = tokenizer.count(f"{text} {', '.join(item.question.answers)}")
    return used + (item.max_tokens or 0)


@pytest.mark.parametrize("task", GENERATORS)
def test_items_fit_score_and_differ(task: str) -> None:
    found = items(task)
    assert len(found) == 6
    assert len({item.question.id for item in found}) == 6
    for item in found:
        assert used_tokens(item, TOKENIZER) <= 2048
        right = " ".join(item.question.answers[:1])
        if item.rule == "all_of":
            right = ", ".join(item.question.answers)
        elif item.rule == "choice":
            right = f"Answer: {item.reference['letter']}"
        elif item.rule == "label":
            right = f"label: {right}"
        elif item.rule == "set_f1":
            right = f"Final Answer: {right}"
        headline = rules.RULES[item.rule].headline
        assert rules.score(item, right)[headline] == 1.0
        assert rules.score(item, "xyzzy")[headline] == 0.0


SHORTEST_TINY = {
    **dict.fromkeys(("world", "world-choice", "babi_qa1", "babi_qa2", "oolong_like"), 256),
    **dict.fromkeys(("niah_single_1", "niah_single_2", "niah_single_3"), 512),
    **dict.fromkeys(("niah_multikey_2", "fwe", "babi_qa3", "icl_like"), 512),
    **dict.fromkeys(("graph_walk", "graph_parents"), 512),
    **dict.fromkeys(("niah_multikey_1", "niah_multikey_3", "niah_multivalue"), 1024),
    **dict.fromkeys(("niah_multiquery", "vt", "key_values", "mrcr_2", "mrcr_4"), 1024),
    **dict.fromkeys(("mrcr_8", "cwe"), 2048),
}
"""Shortest of 256, 512, ... that a task fits under the bundled model's tokenizer."""


@pytest.mark.parametrize("task", GENERATORS)
def test_short_lengths_work_where_they_can(task: str) -> None:
    """Under the bundled model's tokenizer most words cost many tokens, instructions too."""
    shortest = SHORTEST_TINY[task]
    for item in items(task, shortest, tokenizer=TINY, limit=3):
        assert used_tokens(item, TINY) <= shortest
        assert item.document.text
    if shortest > 256:
        with pytest.raises(DoesNotFitError):  # the first row that does not fit ends it
            items(task, shortest // 2, tokenizer=TINY, limit=100)


@pytest.mark.parametrize("task", GENERATORS)
def test_rows_carry_the_seed_of_every_draw(task: str) -> None:
    request = TaskRequest(task, 1500, TOKENIZER, limit=8, seed=3)
    for index, item in enumerate(load_items(request)):
        assert item.row is not None
        number = index // 6 if task == "key_values" else index  # six rows ask about one object
        expected = 3 if task.startswith("world") else request.row_seed(number)
        assert item.row["seed"] == expected


@pytest.mark.parametrize("task", GENERATORS)
def test_gold_spans_hold_the_evidence(task: str) -> None:
    for item in items(task):
        if task in ("cwe", "fwe", "icl_like", "oolong_like"):
            assert item.gold_spans is None
            continue
        for start, end in item.gold_spans or ():
            assert 0 <= start < end <= len(item.document.text)
        told = " ".join(item.document.text[start:end] for start, end in item.gold_spans or ())
        if task.startswith(("niah", "vt", "key_values")):
            assert all(answer in told for answer in item.question.answers)
        if task.startswith("babi"):
            assert item.question.answers[0] in told


def test_rows_do_not_depend_on_the_process() -> None:
    script = (
        "from agenticlu.evaluation.tasks import *;from agenticlu.documents.tokens import *;"
        f"print([i.document.id for t in {GENERATORS!r} for i in "
        "load_items(TaskRequest(t, 1500, ApproximateTokenizer(), limit=2))])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert runs[0].count("'") == 2 * 2 * len(GENERATORS)


def test_other_seeds_give_other_rows() -> None:
    one, other = (
        load_items(TaskRequest("niah_single_1", 1024, TOKENIZER, limit=2, seed=seed))
        for seed in (0, 1)
    )
    assert {item.document.id for item in one}.isdisjoint(item.document.id for item in other)


@pytest.mark.parametrize("task", ["cwe", "niah_multikey_3", "mrcr_8", "key_values"])
def test_what_does_not_fit_is_an_error(task: str) -> None:
    with pytest.raises(UsageError, match="fit"):
        items(task, length=64)


def test_largest_fit_is_what_growing_step_by_step_finds() -> None:
    rng = Random(0)
    for _ in range(50):
        limit, step = rng.randint(0, 500), rng.randint(1, 30)
        grown = 0
        while grown + step <= limit:
            grown += step
        assert largest_fit(lambda n, limit=limit: n <= limit, step) == grown


class Sizes:
    """Rows that are as long as their size, and a little longer from row to row."""

    def __init__(self, room: int, **settings: Any) -> None:
        request = TaskRequest("sizes", room, TOKENIZER)
        self.fitter = Fitter[int](request, **settings)

    def row(self, longer: int = 0) -> int:
        return self.fitter.row(lambda size: size, lambda size: size + longer)


def test_rows_shrink_in_steps_and_at_the_small_end_in_units() -> None:
    sizes = Sizes(130, step=25)
    assert [sizes.row(longer) for longer in (0, 5, 6, 0, 110, 129)] == [125, 125, 100, 125, 20, 1]
    with pytest.raises(DoesNotFitError):
        sizes.row(130)
    assert Sizes(20, step=25).row() == 20  # one step is too long
    assert Sizes(130, step=25, most=110).row() == 110  # there is no more
    assert Sizes(130, step=10, start=42).row() == 122  # grows from its start
    assert Sizes(30, step=10, start=42).row() == 22  # and shrinks below it
    assert Sizes(1, step=10, start=42).row() == 1
    refused = Sizes(130, step=25, usable=lambda size: size < 60 or size == 125)
    assert [refused.row(longer) for longer in (0, 6)] == [125, 50]
    small = Sizes(49, step=25, usable=lambda size: size in (31, 12))
    assert small.row() == 31  # steps are refused: units are tried
    assert small.row(20) == 12
    with pytest.raises(DoesNotFitError):
        Sizes(9, step=25, least=10).row()


def test_needle_variants() -> None:
    one = items("niah_single_1")[0]
    lines = one.document.text.split("\n")
    assert Counter(lines).most_common(1)[0][0] == generated.FILLER_LINE
    assert len([line for line in lines if line != generated.FILLER_LINE]) == 1
    assert re.fullmatch(r"\d{7}", one.question.answers[0])
    many = items("niah_multikey_2")[0]
    assert all("special magic number" in line for line in many.document.text.split("\n"))
    uuids = items("niah_multikey_3")[0]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab].*", uuids.question.answers[0])
    assert len(items("niah_multivalue")[0].question.answers) == 4
    query = items("niah_multiquery")[0].row
    assert query is not None
    assert query["query"].count(",") == 3
    assert ", and " in query["query"]
    text = items("niah_multikey_1")[0].document.text
    assert text.count("special magic number") == 4


def test_needles_hide_in_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_text("First sentence here. Second one there! A third?\n" * 40)
    text = items("niah_single_2", length=512, haystack=str(path))[0].document.text
    assert "Second one there!" in text
    with pytest.raises(UsageError, match="Haystack file not found"):
        items("niah_single_2", haystack=str(tmp_path / "absent"))


def test_chain_is_assigned_in_order() -> None:
    item = items("vt")[0]
    names = item.question.answers
    assert len(set(names)) == 5
    text = item.document.text
    places = [text.index(f"VAR {names[0]} = ")]
    places += [text.index(f"VAR {b} = VAR {a}") for a, b in itertools.pairwise(names)]
    assert places == sorted(places)
    assert item.prompt is not None
    example = item.prompt.fields["example"]
    assert len(re.findall(r"VAR [A-Z]{3} =", example)) == 5


def test_common_words_stand_ten_times_as_often() -> None:
    item = items("cwe", length=8192)[0]
    counts = Counter(re.split(r" ?\d+\. ", item.document.text)[1:])
    assert {count for word, count in counts.items() if word in item.question.answers} == {30}
    assert {count for word, count in counts.items() if word not in item.question.answers} == {3}
    assert len(item.question.answers) == 10


def test_common_words_end_where_the_word_list_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "words", lambda source: tuple(map(str, range(100, 145))))
    item = items("cwe", length=8192, limit=1)[0]
    assert len(set(re.split(r" ?\d+\. ", item.document.text)[1:])) == 45
    assert used_tokens(item, TOKENIZER) < 6000  # the guard: more words would have fitted


def test_ruler_words_are_those_of_wonderwords() -> None:
    assert len(generated.words("wonderwords")) == 8166
    assert [len(generated.wonderwords(kind)) for kind in ("noun", "adjective")] == [6782, 910]
    assert sum(" " in word for word in generated.words("wonderwords")) == 6
    before = random.getstate()
    found = items("cwe", limit=2)
    words = {word for item in found for word in item.question.answers}
    assert words <= set(generated.words("wonderwords"))
    assert not words & set(generated.words("own"))
    assert random.getstate() == before  # only the row's own generator is drawn from


@pytest.mark.parametrize("task", [task for task in GENERATORS if task.startswith("niah")])
def test_word_lists_reach_every_key(task: str) -> None:
    def keys(**options: Any) -> set[str]:
        found = items(task, limit=2, **options)
        told = " ".join(item.document.text for item in found)
        return set(re.findall(r"to remember for (.*?) is: ", told))

    if task == "niah_multikey_3":
        assert all(len(key) == 36 for key in keys())
        return
    own = {f"{a}-{b}" for a in generated.adjectives() for b in generated.nouns()}
    assert keys(words="own") <= own
    assert not keys() <= own
    pairs = {tuple(key.rpartition("-")[::2]) for key in keys()}
    adjectives = set(generated.wonderwords("adjective"))
    assert all(any(key.startswith(f"{a}-") for a in adjectives) for key in keys())
    assert pairs


def test_words_are_never_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    generated.wonderwords.cache_clear()
    generated.words.cache_clear()
    with pytest.raises(MissingDependencyError, match="wonderwords") as caught:
        items("niah_single_1")
    assert "agenticlu[evaluate]" in (caught.value.hint or "")
    assert "--words own" in (caught.value.hint or "")
    with pytest.raises(MissingDependencyError):
        items("cwe")
    assert items("cwe", words="own")
    with pytest.raises(UsageError, match=r"'wonder'\. Allowed: wonderwords, own\."):
        items("cwe", words="wonder")


def test_drawing_more_than_there_is_ends() -> None:
    assert sorted(generated.distinct(lambda rng: str(rng.randrange(9)), Random(0), 9)) == list(
        "012345678"
    )
    with pytest.raises(UsageError, match="10 different values are needed, but only 9 exist"):
        generated.distinct(lambda rng: str(rng.randrange(9)), Random(0), 10)


def test_more_needles_than_keys_still_leave_the_asked_one_alone() -> None:
    options = {"words": "own"}
    build = ruler.needle_builder(TaskRequest("niah_multikey_2", 2**20, TOKENIZER, options=options))
    num = len(generated.adjectives()) * len(generated.nouns())
    row = build(Random(1), 12 * num).columns
    keys = re.findall(r"to remember for (.*?) is: ", row["context"])
    assert len(keys) == 12 * num + 1
    assert keys.count(row["query"]) == 1
    assert len(set(keys)) == num  # the guard: every other key occurs


def test_prose_has_the_words_wanted() -> None:
    build = ruler.needle_builder(TaskRequest("niah_single_2", 4096, TOKENIZER))
    made = build(Random(1), 500)
    assert len(made.columns["context"].replace(made.golds[0], "").split()) == 500


@pytest.mark.parametrize("length", [256, 320, 400, 512, 1024])
def test_frequent_words_are_told_apart(length: int) -> None:
    for tokenizer in (TOKENIZER, TINY):
        try:
            found = items("fwe", length, limit=4, tokenizer=tokenizer)
        except DoesNotFitError:
            assert tokenizer is TINY
            assert length < 512
            continue
        for item in found:
            counts = [n for _, n in Counter(item.document.text.split()).most_common(5)]
            assert counts[3] >= 1
            assert counts[3] > (counts[4] if len(counts) > 4 else 0)


@pytest.mark.parametrize("length", [1024, 4096])
def test_frequent_words_grow_from_a_sixth_by_a_thirty_second(length: int) -> None:
    def counts(steps: int) -> list[int]:
        return zipf_counts(length // 6 + steps * (length // 32), length // 50)

    for tokenizer in (TOKENIZER, TINY):
        for item in items("fwe", length, limit=2, tokenizer=tokenizer):
            found = [n for _, n in Counter(item.document.text.split()).most_common()]
            (steps,) = (k for k in range(-8, 40) if [n for n in counts(k) if n] == found)
            per_word = tokenizer.count(item.document.text) / sum(found)
            one_step = per_word * (sum(counts(steps + 1)) - sum(found))
            assert used_tokens(item, tokenizer) + 1.2 * one_step > length  # no more would fit


def test_sizes_that_leave_the_third_word_undecided_are_refused() -> None:
    refused = [n for n in range(200) if not is_decided(zipf_counts(n, 10))]
    assert refused == [*range(27), *range(42, 53)]
    assert is_decided(zipf_counts(45, 4))  # no fifth word that could be as frequent


def test_worked_example_of_chains_is_short_and_renamed_from_row_to_row() -> None:
    for tokenizer in (TOKENIZER, TINY):
        for length in (1024, 4096):
            shown = []
            for item in items("vt", length, limit=4, tokenizer=tokenizer):
                assert item.prompt is not None
                example = item.prompt.fields["example"]
                assert example.endswith("\n\n")
                assert tokenizer.count(example.removesuffix("\n\n")) <= 500
                shown.append(example)
            assert len(set(shown)) == 4
            masked = {re.sub(r"\b[A-Z]{3}\b|\d{5}", "?", text) for text in shown}
            assert len(masked) == 1
            if length == 4096:
                one_more = tokenizer.count(f" {generated.FILLER_LINE}")
                assert tokenizer.count(shown[0]) > 480 - one_more  # the guard: it fills its room


def test_frequent_words_follow_the_law() -> None:
    item = items("fwe", length=4096)[0]
    words = item.document.text.split()
    counts = Counter(words)
    dots, *rest = [word for word, _ in counts.most_common(4)]
    assert dots == "..."
    assert rest == list(item.question.answers)
    first = counts["..."]
    assert counts[rest[0]] == pytest.approx(first / 4, abs=1)
    assert counts[rest[2]] == pytest.approx(first / 16, abs=1)
    assert math.isclose(first / len(words), 6 / math.pi**2, rel_tol=0.1)


def test_key_values_ask_six_places_of_one_object() -> None:
    found = items("key_values", length=4096, limit=12)
    assert len({item.document.id for item in found}) == 2
    pairs = json.loads(found[0].document.text.removeprefix("JSON data:\n"))
    assert len(pairs) == 50  # HELMET's number at 4096
    depths = [item.depth or 0.0 for item in found[:6]]
    assert depths == sorted(depths)
    assert depths[0] < 0.05
    assert depths[-1] > 0.95


def test_key_values_have_as_many_pairs_of_the_ladder_as_fit() -> None:
    found = items("key_values", length=4096, limit=12, tokenizer=TINY)
    assert all(used_tokens(item, TINY) <= 4096 for item in found)
    sizes = [item.row["num_kvs"] for item in found if item.row]
    assert sizes[0] < 50
    assert sizes[:6] == [sizes[0]] * 6
    assert len({item.document.id for item in found}) == 2
    more = items("key_values", length=4096, limit=1, tokenizer=TINY, shots=12)[0]
    assert more.prompt is not None
    assert more.prompt.user.count("Corresponding value: ") == 12
    assert more.row is not None
    assert more.row["num_kvs"] < sizes[0]  # the demonstrations take their place
    with pytest.raises(UsageError, match="60 demonstrations") as caught:
        items("key_values", length=4096, shots=60)
    assert caught.value.hint == "Try --shots 49."


def test_noise_says_nothing_of_the_story(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    told = " ".join(f"Nobody knows what was once in the old {p} of the mill." for p in PLACES)
    mixed = f"The jonquils by the water had been planted in long and even rows. {told} "
    path.write_text(mixed + "Jon has been here before, as they all say of him. Short one." * 3)
    for options in ({}, {"haystack": str(path)}):
        for item in items("babi_qa2", length=1024, limit=4, **options):
            noise = [
                sentence
                for sentence in item.document.text.split(". ")
                if not re.search(r"went to the|picked up the", sentence)
            ]
            assert len(noise) > 10
            for word in (*PLACES, *THINGS):
                assert not any(word in sentence.lower() for sentence in noise)
            assert not any(re.search(rf"\b{name}\b", " ".join(noise)) for name in PEOPLE)
            assert all(TOKENIZER.count(f" {sentence}.") >= MIN_NOISE_TOKENS for sentence in noise)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Too short. All of it. ", "No sentence of the haystack"),
        (b"The kitchen is told of in this sentence of more than ten tokens.", "No sentence of"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        ("Grüße aus der Mühle.".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_unfit_haystacks_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "prose.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message) as caught:
        items("babi_qa1", haystack=str(path))
    assert "--haystack" in (caught.value.hint or "")
    if message.startswith("is "):
        with pytest.raises(UsageError, match=message):
            items("niah_single_2", haystack=str(path))


@pytest.mark.parametrize("task", ["babi_qa1", "babi_qa2", "babi_qa3"])
def test_stories_can_be_followed(task: str) -> None:
    """Reads the facts back from the text and answers from them alone."""
    for item in items(task, limit=20):
        where: dict[str, str] = {}
        holder, seen = "", list[str]()
        moves = re.findall(
            r"(\w+) (?:went to the (\w+)|picked up the (\w+) there)\.", item.document.text
        )
        for who, place, thing in moves:
            if thing:
                holder = who
                seen.append(where[who])
            else:
                where[who] = place
                if who == holder:
                    seen.append(place)
        asked = re.search(r"Where is (\w+)\?", item.question.text)
        if task == "babi_qa1":
            assert asked is not None
            expected = where[asked[1]]
        elif task == "babi_qa2":
            expected = seen[-1]
        else:
            assert f"before the {seen[-1]}" in item.question.text
            expected = seen[-2]
        assert item.question.answers == (expected,)
        assert expected in PLACES


def test_babilong_rule_leaves_out_labels_of_the_question() -> None:
    item = next(i for i in items("babi_qa3", limit=30))
    gold = item.question.answers[0]
    other = next(p for p in PLACES if p != gold and p not in item.question.text)
    named = re.search(r"before the (\w+)", item.question.text)
    assert named is not None

    def right(raw: str) -> float:
        return rules.score(item, raw)["babilong"]

    assert right(f"Before the {named[1]} it was in the {gold}.") == 1
    assert right(f"In the {gold} or the {other}.") == 0
    assert right(f"I do not know. The {gold}.") == 0  # the first sentence counts


def test_graph_answers_are_those_of_a_breadth_first_search() -> None:
    for item in items("graph_walk", length=1024, limit=10):
        edges = [tuple(line.split(" -> ")) for line in item.document.text.splitlines()]
        asked = re.search(r"exactly (\d) steps from (\w+)", item.question.text)
        assert asked is not None
        found = find_distances(edges, asked[2])  # type: ignore[arg-type]
        assert sorted(n for n, d in found.items() if d == int(asked[1])) == item.reference["nodes"]


@pytest.mark.parametrize(
    ("nodes", "raw", "value"),
    [
        (["a", "b"], "Final Answer: [a, b]", 1.0),
        (["a", "b"], "[x] Final Answer: ['b']", 2 / 3),
        ([], "Final Answer: []", 1.0),
        ([], "Final Answer: [a]", 0.0),
        (["a"], "a", 0.0),
    ],
)
def test_set_f1(nodes: list[str], raw: str, value: float) -> None:
    item = items("graph_walk", limit=1)[0]
    item.reference["nodes"][:] = nodes  # type: ignore[index]
    assert rules.score(item, raw)["set_f1"] == pytest.approx(value)


def test_reciting_wants_the_prefix_and_the_right_one() -> None:
    item = items("mrcr_4", limit=1)[0]
    prefix, gold = item.reference["prefix"], item.question.answers[0]
    body = gold.removeprefix(prefix)
    assert item.document.text.count(body) == 1
    assert rules.score(item, gold)["mrcr"] == 1.0
    assert rules.score(item, body)["mrcr"] == 0.0
    assert 0.3 < rules.score(item, prefix + body[: len(body) // 2])["mrcr"] < 1.0


def test_gold_pieces_overlap_the_spans() -> None:
    item = items("niah_single_1", limit=1)[0]
    start, end = (item.gold_spans or ((0, 0),))[0]
    size = len(item.document.text)
    pieces = [
        Piece(index=0, start=0, end=start + 1, num_tokens=1),
        Piece(index=1, start=start + 1, end=end, num_tokens=1),
        Piece(index=2, start=end, end=size, num_tokens=1),
    ]
    assert gold_pieces(item, pieces) == (0, 1)


def write_rows(task: str, path: Path, *more: str, length: int = 4096, limit: int = 7) -> None:
    arguments = ["rows", "--task", task, "--lengths", str(length), "--limit", str(limit), *more]
    result = CliRunner().invoke(command, [*arguments, "--out", str(path)])
    assert result.exit_code == 0, result.output


IN_HELMET = {
    **{f"niah_single_{i}": f"ruler_niah_s_{i}" for i in (1, 2, 3)},
    **{f"niah_multikey_{i}": f"ruler_niah_mk_{i}" for i in (1, 2, 3)},
    "niah_multivalue": "ruler_niah_mv",
    "niah_multiquery": "ruler_niah_mq",
    "vt": "ruler_vt",
    "cwe": "ruler_cwe",
    "fwe": "ruler_fwe",
    "key_values": "json_kv",
}


@pytest.mark.parametrize("task", IN_HELMET)
def test_rows_read_back_give_the_same_prompts(task: str, tmp_path: Path) -> None:
    name = IN_HELMET[task]
    write_rows(task, tmp_path / find_file(SPECS[name], 4096))
    made = {item.prompt.text for item in items(task, 4096, limit=7) if item.prompt}
    options = {"helmet_data": str(tmp_path)}
    read = load_items(TaskRequest(name, 4096, TOKENIZER, options=options))
    assert {item.prompt.text for item in read if item.prompt} == made
    assert len(made) == 7
    rows = load_rows(RowRequest(name, 4096, tmp_path)).rows
    assert all(row["seed"] >= 0 for row in rows)


def test_rows_command_writes_columns_that_helmet_has(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows("niah_multivalue", path, length=1024)
    for row in map(json.loads, path.read_text().splitlines()):
        assert {"index", "context", "query", "answer", "type_needle_v", "length"} <= set(row)
        assert all(answer in row["context"] for answer in row["answer"])
    write_rows("key_values", path, length=1024)
    for row in map(json.loads, path.read_text().splitlines()):
        assert {"context", "question", "answer", "num_kvs", "depth", "id"} <= set(row)
        assert all(len(pair) == 2 for pair in row["demos"])
        assert isinstance(row["answer"], str)
    write_rows("vt", path, length=1024)
    assert not json.loads(path.read_text().splitlines()[0])["example"].endswith("\n")


@pytest.mark.parametrize("task", [task for task in GENERATORS if task not in IN_HELMET])
def test_other_rows_are_a_corpus(task: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_rows(task, path, length=1500)
    for read, made in zip(load_corpus(str(path)), items(task, 1500, limit=7), strict=True):
        assert read.document.text == made.document.text
        # Of options, the right one's text stands for every spelling of the answer.
        wanted = [a for a in made.question.answers if a in (made.question.options or (a,))]
        assert list(read.question.answers) == wanted
        assert read.question.options == made.question.options
        assert read.gold_spans == made.gold_spans


def test_rows_command_takes_the_options_of_its_tasks(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_rows("cwe", path, "--words", "own", limit=1)
    answers = json.loads(path.read_text())["answer"]
    assert set(answers) <= set(generated.words("own"))
    arguments = ["rows", "--task", "kilt_nq", "--lengths", "8k", "--out", str(path)]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, UsageError)
    assert "HELMET's own files" in result.exception.message


def test_ladder_doubles_beyond_its_end() -> None:
    assert find_scale(SPECS["json_kv"], 262144) == 3600
    assert find_file(SPECS["kilt_nq"], 524288) == "data/kilt/nq-dev-multikilt_1000_k4000_dep6.jsonl"
    for length in (0, 1000, LENGTHS[-1] * 3):
        with pytest.raises(UsageError, match="HELMET has no files"):
            find_scale(SPECS["json_kv"], length)
