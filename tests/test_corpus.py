from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenticlu.corpus import load_corpus
from agenticlu.errors import ConfigError, DocumentError
from agenticlu.records import Piece

LINE = {"context": "Ada lives in Brellin. Ben does not.", "question": "Where?", "answers": ["B"]}


def write(path: Path, *rows: object) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


def test_a_line_becomes_a_document_and_a_question(tmp_path: Path):
    extra = {"id": "q7", "options": ["a", "b"], "gold_spans": [[0, 20]], "hops": 2}
    source = write(tmp_path / "c.jsonl", LINE, {**LINE, **extra})
    first, second = load_corpus(source)
    assert first.document.text == LINE["context"]
    assert first.document is second.document, "a repeated text is one document"
    assert (first.position, second.position) == (0, 1)
    assert first.question.answers == ("B",)
    assert second.question.id == "q7"
    assert second.question.options == ("a", "b")
    pieces = [Piece(index=0, start=0, end=15, num_tokens=4)]
    pieces += [Piece(index=1, start=15, end=21, num_tokens=2)]
    pieces += [Piece(index=2, start=21, end=35, num_tokens=3)]
    assert second.question_over(pieces).gold_pieces == (0, 1)
    assert first.question_over(pieces).gold_pieces is None


def test_ids_follow_from_content(tmp_path: Path):
    (a,) = load_corpus(write(tmp_path / "a.jsonl", LINE))
    (b,) = load_corpus(write(tmp_path / "b.jsonl", LINE))
    (c,) = load_corpus(write(tmp_path / "c.jsonl", {**LINE, "question": "When?"}))
    assert a.question.id == b.question.id != c.question.id


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ("one", ("one",)),
        (3, ("3",)),
        (["a", "a", " b "], ("a", "b")),
        ({"text": ["x"], "answer_start": [1]}, ("x",)),
        ([{"text": "x", "tokens": ["x"]}], ("x",)),
    ],
)
def test_answers_come_in_many_shapes(tmp_path: Path, value, answers):
    row = {"context": "text", "question": "?", "answer": value}
    (item,) = load_corpus(write(tmp_path / "c.jsonl", row))
    assert item.question.answers == answers


def test_columns_are_mapped(tmp_path: Path):
    source = write(tmp_path / "c.jsonl", {"body": "text", "q": "?", "gold": "x", "nr": 5})
    (item,) = load_corpus(source, columns={"context": "body", "question": "q", "id": "nr"})
    assert (item.document.text, item.question.text, item.question.id) == ("text", "?", "5")
    with pytest.raises(ConfigError) as caught:
        list(load_corpus(source, columns={"contxt": "body"}))
    assert caught.value.hint == "Did you mean context?"


def test_narrativeqa_is_known_by_its_layout(tmp_path: Path):
    row = {
        "document": {"id": "d1", "text": "A long tale.", "summary": {"text": "short"}},
        "question": {"text": "Who is it?", "tokens": []},
        "answers": [{"text": "Ada", "tokens": []}, {"text": "ada holt", "tokens": []}],
    }
    (item,) = load_corpus(write(tmp_path / "n.jsonl", row))
    assert item.document.text == "A long tale."
    assert item.document.source.endswith("#d1")
    assert item.question.text == "Who is it?"
    assert item.question.answers == ("Ada", "ada holt")


def test_parquet_files_and_folders(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_pylist([{**LINE, "answers": ["B"]}, {**LINE, "question": "Who?"}])
    arrow.parquet.write_table(table, tmp_path / "train-0.parquet")
    arrow.parquet.write_table(table, tmp_path / "test-0.parquet")
    for source in (tmp_path / "train-0.parquet", tmp_path):
        items = list(load_corpus(str(source)))
        assert [item.question.text for item in items] == ["Where?", "Who?"]
    assert len(list(load_corpus(str(tmp_path), limit=1))) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no question"),
        ("not json\n", "Line 1 of .* is not JSON"),
        ("[1]\n", "is no object"),
        ('{"question": "?", "answers": ["x"]}\n', "has no 'context'"),
        ('{"context": "t", "question": "?"}\n', "has no 'answers'"),
        ('{"context": "t", "question": "?", "answers": []}\n', "no accepted answer"),
        ('{"context": " ", "question": "?", "answers": ["x"]}\n', "no text, or empty"),
        ('{"context": 5, "question": "?", "answers": ["x"]}\n', "no text, or empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, words: str):
    path = tmp_path / "c.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DocumentError, match=words):
        list(load_corpus(str(path)))


def test_what_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(DocumentError, match="There is no corpus"):
        list(load_corpus(str(tmp_path / "no" / "such" / "file.jsonl")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match="no Parquet"):
        list(load_corpus(str(tmp_path / "empty")))
    (tmp_path / "bad.parquet").write_bytes(b"words")
    pytest.importorskip("pyarrow")
    with pytest.raises(DocumentError, match="no readable Parquet"):
        list(load_corpus(str(tmp_path / "bad.parquet")))
