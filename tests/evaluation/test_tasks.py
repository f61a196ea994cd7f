"""Generators: rows fit their length, keep the published rules and follow from their seed alone."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.errors import UsageError
from agenticlu.evaluation import rules
from agenticlu.evaluation.items import Item, gold_pieces
from agenticlu.evaluation.tasks import TASKS, TaskRequest, load_items, vocabulary
from agenticlu.evaluation.tasks.fitting import largest_fit
from agenticlu.evaluation.tasks.graphs import distances
from agenticlu.evaluation.tasks.stories import PLACES
from agenticlu.records import Piece
from agenticlu.tokens import ApproximateTokenizer

TOKENIZER = ApproximateTokenizer()
GENERATORS = [name for name, module in TASKS.items() if module != "helmet"]


def items(task: str, length: int = 2048, limit: int = 6, **options: object) -> list[Item]:
    return load_items(TaskRequest(task, length, TOKENIZER, limit=limit, options=options))


@pytest.mark.parametrize("task", GENERATORS)
def test_items_fit_score_and_differ(task: str) -> None:
    found = items(task)
    assert len(found) == 6
    assert len({item.question.id for item in found}) == 6
    for item in found:
        assert TOKENIZER.count(item.document.text) <= 2048
        if item.prompt is not None and task not in ("key_values", "icl_like"):
            gold = ", ".join(item.question.answers)
            used = TOKENIZER.count(f"{item.prompt.text} {gold}") + (item.max_tokens or 0)
            assert used <= 2048
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
        assert rules.score(item, "no idea at all")[headline] == 0.0


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
        "from agenticlu.evaluation.tasks import *;from agenticlu.tokens import *;"
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


def test_needle_variants() -> None:
    one = items("niah_single_1")[0]
    lines = one.document.text.split("\n")
    assert Counter(lines).most_common(1)[0][0] == vocabulary.FILLER_LINE
    assert len([line for line in lines if line != vocabulary.FILLER_LINE]) == 1
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
    with pytest.raises(UsageError, match="haystack"):
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
    counts = Counter(re.findall(r"\d+\. (\w+)", item.document.text))
    assert {count for word, count in counts.items() if word in item.question.answers} == {30}
    assert {count for word, count in counts.items() if word not in item.question.answers} == {3}
    assert len(item.question.answers) == 10


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
        found = distances(edges, asked[2])  # type: ignore[arg-type]
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


def test_rows_command_writes_columns_that_ruler_has(tmp_path: Path) -> None:
    out = tmp_path / "validation_1024.jsonl"
    arguments = ["rows", "--task", "niah_multivalue", "--lengths", "1k", "--limit", "3"]
    result = CliRunner().invoke(command, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert {"index", "context", "query", "answer", "type_needle_v", "length"} <= set(row)
        assert all(answer in row["context"] for answer in row["answer"])
