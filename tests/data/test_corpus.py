from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from agenticlu.core.errors import ConfigError, DocumentError
from agenticlu.core.records import Piece
from agenticlu.data import corpus
from agenticlu.data.corpus import LeftOut, load_corpus, load_source_rows, own_id

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
        ([None, "x", {"text": None}], ("x",)),
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
    assert caught.value.hint == "Did you mean context or context_file?"


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
        ("", "holds no questions"),
        ("not json\n", "Line 1 of .* is not JSON"),
        ("[1]\n", "Entry 1 of .* is a number, not a JSON object"),
        ('{"question": "?", "answers": ["x"]}\n', "has no 'context'"),
        ('{"context": "t", "question": "?"}\n', "has no 'answers'"),
        ('{"context": "t", "question": "?", "answers": []}\n', "no accepted answer"),
        ('{"context": " ", "question": "?", "answers": ["x"]}\n', "must be a non-empty string"),
        ('{"context": 5, "question": "?", "answers": ["x"]}\n', "must be a non-empty string"),
        ('{"context": "t", "question": "?", "answers": {"text": null}}\n', "no accepted answer"),
        ('{"context": "t", "question": "?", "answers": [null]}\n', "no accepted answer"),
        (
            '{"context": "t", "question": "?", "answers": [{"start_token": 1}]}\n',
            "Line 1 of .*: answers is an object with 'start_token', which says no answer",
        ),
        (
            '{"context": "t", "question": "?", "answers": 2, "options": ["a", "b"]}\n',
            "Line 1 of .*: answers must be one of the 2 options, not 2",
        ),
        (
            '{"context": "t", "question": "?", "answers": "x", "hops": "two"}\n',
            "hops must be a whole number",
        ),
        (
            '{"context": "t", "question": "?", "answers": "x", "hops": 1.5}\n',
            "hops must be a whole number",
        ),
        (
            '{"context": "t", "question": "?", "answers": "x", "hops": -1}\n',
            "hops must be a whole number",
        ),
        (
            '{"context": "t", "question": "?", "answers": "x", "options": "ab"}\n',
            "options must be a list",
        ),
        (
            '{"context": "t", "question": "?", "answers": "x", "gold_spans": 3}\n',
            "gold_spans must be a list",
        ),
        (
            '{"context": "t", "question": "?", "answers": "x", "gold_spans": [[0]]}\n',
            "gold_spans must be",
        ),
        ('{"context": "t", "question": "?", "answers": "x", "gold_spans": ["01"]}\n', "gold_spans"),
        ('{"context": "t", "question": "?", "answers": "x", "gold_spans": [[0, 9]]}\n', "end <= 1"),
        ('{"context": "t", "question": "?", "answers": "x", "gold_spans": [[0, null]]}\n', "spans"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, content: str, words: str):
    path = tmp_path / "c.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DocumentError, match=words):
        list(load_corpus(str(path)))


def test_what_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(DocumentError, match="There is no file, directory or hub data set"):
        list(load_corpus(str(tmp_path / "no" / "such" / "file.jsonl")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DocumentError, match="holds no files of rows") as caught:
        list(load_corpus(str(tmp_path / "empty")))
    assert "give one" in (caught.value.hint or "")
    (tmp_path / "bad.parquet").write_bytes(b"words")
    pytest.importorskip("pyarrow")
    with pytest.raises(DocumentError, match="is not a readable Parquet file"):
        list(load_corpus(str(tmp_path / "bad.parquet")))


def layout(root: Path, *names: str) -> str:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        arrow.parquet.write_table(arrow.Table.from_pylist([{"name": name}]), root / name)
    return str(root)


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (("default/train/0000.parquet", "default/test/0000.parquet"), "train", (0,)),
        (("default/train/0000.parquet", "default/test/0000.parquet"), "test", (1,)),
        (
            ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
            "train",
            (0, 1),
        ),
        (("train_clean-0.parquet", "test.parquet"), "train_clean", (0,)),
        (("0000.parquet", "0001.parquet"), "train", (0, 1)),
        (("trainer.parquet",), "train", (0,)),
    ],
)
def test_a_split_is_told_by_files_and_folders(tmp_path: Path, names, split, found):
    rows = list(load_source_rows(layout(tmp_path, *names), split))
    assert [row["name"] for row in rows] == [names[i] for i in found]


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("default/train/0000.parquet",), "test"),
        (("default/test/0000.parquet", "0000.parquet"), "train"),
        (("0000.parquet",), "test"),
        (("training.parquet",), "train"),
    ],
)
def test_a_split_that_is_not_there_is_an_error(tmp_path: Path, names, split):
    with pytest.raises(DocumentError, match=f"has no split '{split}'") as caught:
        list(load_source_rows(layout(tmp_path, *names), split))
    assert "--split" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["data/x.json", "data/x.jsonl", "data/x.csv", "data/x.parquet"])
def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "_load_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(DocumentError, match="There is no file, directory or hub data set"):
        list(load_source_rows(name))
    with pytest.raises(pytest.fail.Exception):
        list(load_source_rows("owner/name-v1.5"))


def test_the_corpus_s_own_id_survives_odd_names(tmp_path: Path):
    (tmp_path / "a#b").mkdir()
    source = write(
        tmp_path / "a#b" / "c.jsonl", {**LINE, "document_id": "x#1"}, {**LINE, "context": "other"}
    )
    first, second = load_corpus(source)
    assert own_id(first.document) == "x#1"
    assert own_id(second.document) is None


def test_lines_without_an_answer_are_left_out_and_counted(tmp_path: Path):
    rows = [LINE, {**LINE, "answers": []}, {**LINE, "question": "Who?"}, {**LINE, "answers": None}]
    source = write(tmp_path / "c.jsonl", *rows)
    left_out = LeftOut()
    items = list(load_corpus(source, left_out=left_out))
    assert [item.position for item in items] == [0, 2]
    assert left_out.render() == (
        "2 lines have no accepted answer and are left out; the first is line 2."
    )
    assert len(list(load_corpus(source, limit=2, left_out=LeftOut()))) == 2, "of questions"
    with pytest.raises(DocumentError, match=r"Line 2 of .* has no accepted answer"):
        list(load_corpus(source))


def test_a_corpus_without_any_answer_is_an_error(tmp_path: Path):
    source = write(tmp_path / "c.jsonl", {**LINE, "answers": ""}, {**LINE, "answers": [None]})
    with pytest.raises(
        DocumentError, match=r"None of the lines read from .* has an accepted answer"
    ):
        list(load_corpus(source, left_out=LeftOut()))


def test_an_empty_field_is_not_a_missing_column(tmp_path: Path):
    source = write(tmp_path / "c.jsonl", {**LINE, "question": None})
    with pytest.raises(
        DocumentError, match=r"Line 1 of .*: question must be a non-empty string, not None"
    ):
        list(load_corpus(source))


def test_one_id_stands_for_one_question(tmp_path: Path):
    first = {**LINE, "id": "q"}
    repeated = write(tmp_path / "repeated.jsonl", first, first)
    assert len(list(load_corpus(repeated))) == 2
    other = write(tmp_path / "other.jsonl", first, LINE, {**first, "question": "Who?"})
    with pytest.raises(DocumentError, match=r"Lines 1 and 3 of .* have the same id 'q' but differ"):
        list(load_corpus(other))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
def test_a_table_in_text_is_a_corpus(tmp_path: Path, ending: str):
    comma = "\t" if ending == ".tsv" else ","
    rows = [
        ("context", "question", "answers", "options", "hops", "gold_spans"),
        ('"Ada, of Brellin. ""Ben"" does\nnot."', "Where?", '"[""B"", ""Brellin""]"', "", "2", ""),
        ("Ada.", "Who?", "b", '"[""red"", ""blue""]"', "", '"[[0, 3]]"'),
        ("Ada.", "What?", "", "", "", ""),
    ]
    data = "\r\n".join(comma.join(row) for row in rows).encode()
    path = tmp_path / f"c{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    left_out = LeftOut()
    first, second = load_corpus(str(path), left_out=left_out)
    assert first.document.text == 'Ada, of Brellin. "Ben" does\nnot.'
    assert (first.question.answers, first.question.hops) == (("B", "Brellin"), 2)
    assert (second.question.answers, second.gold_spans) == (("blue",), ((0, 3),))
    assert (left_out.num_lines, left_out.first_line) == (1, 5)


def test_a_table_without_a_header_is_told_by_its_columns(tmp_path: Path):
    path = tmp_path / "c.csv"
    path.write_text(f"{'Ada lives here. ' * 9},Where?,here\nx,y,z\n")
    with pytest.raises(DocumentError, match=r"has no 'context'; its columns: .*…, Where\?, here"):
        list(load_corpus(str(path)))


def test_a_folder_of_shards_is_read_whatever_their_format(tmp_path: Path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name, question in (("train-00000.jsonl.gz", "A?"), ("train-00001.jsonl", "B?")):
        data = (json.dumps({**LINE, "question": question}) + "\n").encode()
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (folder / "test-00000.jsonl").write_text(json.dumps({**LINE, "question": "C?"}))
    (folder / "dataset_info.json").write_text("{}")
    (folder / ".hidden.jsonl").write_text("not rows")
    (folder / "README.md").write_text("About.")
    assert [item.question.text for item in load_corpus(str(folder))] == ["A?", "B?"]
    assert [item.question.text for item in load_corpus(str(folder), split="test")] == ["C?"]


def test_a_data_set_saved_by_the_datasets_package_is_read(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([LINE, {**LINE, "question": "Who?"}])
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "d")
    assert len(list(load_corpus(str(tmp_path / "d")))) == 2
    assert len(list(load_corpus(str(tmp_path / "d"), split="test"))) == 1


def test_a_hub_address_is_a_hub_id(monkeypatch):
    monkeypatch.setattr(corpus, "_load_hub", lambda name, split: iter([{**LINE, "name": name}]))
    (row,) = load_source_rows("hf://datasets/owner/name@main")
    assert row["name"] == "owner/name"
