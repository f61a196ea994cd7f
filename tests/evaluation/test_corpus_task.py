"""One's own corpus as a task: documents as they are, or among others at a length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli.eval import command
from agenticlu.core.errors import DocumentError, UsageError
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.predictions import read_predictions
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.tasks import TaskRequest, load_items

TOKENIZER = ApproximateTokenizer()
NAMES = ("Ada", "Bo", "Cy", "Di", "Eve", "Fay")


def text_of(number: int) -> str:
    return (
        f"{NAMES[number]} keeps a lamp. It cost {40 + number} crowns. " + "Rain fell all day. " * 9
    )


def rows(**changes: Any) -> list[dict[str, Any]]:
    found = []
    for number, name in enumerate(NAMES):
        text = text_of(number)
        price = str(40 + number)
        for asked, answer in (
            (f"What did the lamp of {name} cost?", price),
            (f"Who is {name}?", name),
        ):
            start = text.index(answer)
            found.append(
                {
                    **{"context": text, "question": asked, "answers": [answer]},
                    **{"gold_spans": [[start, start + len(answer)]], **changes},
                }
            )
    return found


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return str(path)


def load(corpus: str, length: int = 512, limit: int | None = None, **options: Any) -> list[Item]:
    given = {"corpus": corpus, **options}
    return load_items(TaskRequest("corpus", length, TOKENIZER, limit=limit, options=given))


def gold_of(item: Item) -> list[str]:
    assert item.gold_spans is not None
    return [item.document.text[start:end] for start, end in item.gold_spans]


def test_documents_as_they_are(corpus: str) -> None:
    items = load(corpus)
    assert [item.document.text for item in items] == [text_of(i // 2) for i in range(12)]
    assert all(gold_of(item) == list(item.question.answers) for item in items)


def test_a_document_among_others_keeps_its_gold(corpus: str) -> None:
    sizes = {}
    for length in (128, 256):
        items = load(corpus, length, corpus_fill=True)
        for item in items:
            assert gold_of(item) == list(item.question.answers)
            assert TOKENIZER.count(item.document.text) <= length
        assert len({item.document.id for item in items}) == len(NAMES), "one text a document"
        assert len({item.unit for item in items}) == len(NAMES)
        sizes[length] = {item.question.id: item.document.text for item in items}
    for key, short in sizes[128].items():
        held = [text for text in map(text_of, range(6)) if text in short]
        assert len(held) >= 2
        assert all(text in sizes[256][key] for text in held)
        assert len(sizes[256][key]) > len(short)
    starts = [item.gold_spans[0][0] for item in load(corpus, 512, corpus_fill=True)]  # type: ignore[index]
    assert len(set(starts)) > 4, "a document stands anywhere, not always first"
    again = load(corpus, 256, corpus_fill=True)
    assert {i.question.id: i.document.text for i in again} == sizes[256]


def test_a_limit_takes_from_every_document(corpus: str) -> None:
    assert len({item.document.id for item in load(corpus, limit=6)}) == 6
    kept = load(corpus, limit=8)
    assert [sum(item.document.text == text_of(i) for item in kept) for i in range(6)] == [
        2,
        2,
        1,
        1,
        1,
        1,
    ]


def test_choices_are_scored_by_letter(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    lines = [{**row, "options": ["nobody", row["answers"][0]]} for row in rows()]
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert {(item.rule, item.reference["letter"]) for item in load(str(path))} == {("choice", "B")}
    path.write_text(json.dumps({**rows()[0], "options": ["a", "b"]}) + "\n")
    with pytest.raises(DocumentError, match=r"Line 1 of .*answers must be one of the 2 options"):
        load(str(path))


def test_what_cannot_be_done_is_said(corpus: str) -> None:
    with pytest.raises(UsageError, match="needs a file of questions"):
        load_items(TaskRequest("corpus", 64, TOKENIZER))
    with pytest.raises(UsageError, match=r"6 of 6 documents of .* are longer than 16 tokens"):
        load(corpus, 16, corpus_fill=True)


def test_the_command(corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine(lambda request: "Answer: 41", context_tokens=32768)
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **named: engine)
    out = tmp_path / "eval"
    words = ("--corpus", corpus, "--methods", "direct", "--out", str(out))
    done = CliRunner().invoke(command, list(words))
    assert done.exit_code == 0, done.output
    found = read_predictions(out / "predictions.jsonl")
    assert len(found) == 12
    right = {one.question_id for one in found.values() if one.scores["correct"] == 1}
    assert len(right) == 1
    lengths = {one.length for one in found.values()}
    assert len(lengths) == 1
    plan = CliRunner().invoke(
        command,
        ["--corpus", corpus, "--lengths", "512,1k", "--methods", "direct", "--dry-run", "--json"],
    )
    planned = json.loads(plan.stdout)["rows"]
    assert [(row["task"], row["length"], row["num_items"]) for row in planned] == [
        ("corpus", 512, 12),
        ("corpus", 1024, 12),
    ]
    assert planned[1]["prompt_tokens"] > planned[0]["prompt_tokens"]


def test_lines_that_cannot_be_scored_are_told(corpus: str) -> None:
    with Path(corpus).open("a") as file:
        file.write(json.dumps({**rows()[0], "answers": []}) + "\n")
    done = CliRunner().invoke(command, ["--corpus", corpus, "--methods", "direct", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "Line 13 has no accepted answer and is left out." in done.stderr


def test_another_corpus_is_another_folder(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine(lambda request: "Answer: 41", context_tokens=32768)
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **named: engine)
    words = ["--methods", "direct", "--lengths", "512", "--out", str(tmp_path / "eval")]
    assert CliRunner().invoke(command, ["--corpus", corpus, *words]).exit_code == 0
    asked = len(engine.requests)
    assert CliRunner().invoke(command, ["--corpus", corpus, *words]).exit_code == 0
    assert len(engine.requests) == asked, "finished items are not asked again"
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(rows()[0]) + "\n")
    with pytest.raises(UsageError, match="corpus"):
        CliRunner().invoke(command, ["--corpus", str(other), *words], catch_exceptions=False)
