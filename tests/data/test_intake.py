"""What becomes of a data set in the published schema."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from published_rows import document, published, write_rows

from agenticlu.core.errors import TrainingError
from agenticlu.core.records import content_id
from agenticlu.data import spill
from agenticlu.data.intake import import_published
from agenticlu.data.spill import Spill

ROWS = [published(book, place) for book in range(30) for place in range(8)]


def rows_of(folder: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    return {
        path.stem: pyarrow.parquet.read_table(path).to_pylist()
        for path in sorted((folder / kind).glob("*.parquet"))
    }


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    bad = {**ROWS[0], "chosen": ROWS[0]["rejected"]}
    summary = import_published(
        write_rows(root / "p.jsonl", [*ROWS, bad]), root / "out", validation=0.3
    )
    assert sum(summary.rows["preference"].values()) == len(ROWS)
    assert dict(summary.funnel.rows) == {"written": len(ROWS), "chosen equals rejected": 1}
    assert len(summary.splits.of) == 30
    return root / "out"


def test_no_document_is_in_two_splits(imported: Path):
    for kind in ("sft", "preference"):
        rows = rows_of(imported, kind)
        texts = {
            split: {(row.get("messages") or row["prompt"])[1]["content"] for row in found}
            for split, found in rows.items()
        }
        assert len(texts["train"]) + len(texts["validation"]) == 30
        assert not texts["train"] & texts["validation"]


def test_every_row_is_kept_as_it_was(imported: Path):
    rows = [row for found in rows_of(imported, "preference").values() for row in found]
    key = lambda row: json.dumps(row, sort_keys=True)  # noqa: E731
    assert sorted(({k: row[k] for k in ROWS[0]} for row in rows), key=key) == sorted(ROWS, key=key)


def test_what_can_be_computed_is_and_what_is_not_known_is_none(imported: Path):
    for row in (row for found in rows_of(imported, "preference").values() for row in found):
        one, other = (len(row[name][0]["content"]) for name in ("chosen", "rejected"))
        assert row["log_length_ratio"] == pytest.approx(math.log(one / other), abs=1e-4)
        assert row["leak"] is None
        assert row["engine"] == "p.jsonl", "the folder is nobody's business"


def test_rows_whose_scores_contradict_them_are_kept_and_told(tmp_path: Path):
    rows = [published(0, 0), published(0, 1, score_chosen=0.25), published(1, 0, score_chosen=0.1)]
    summary = import_published(write_rows(tmp_path / "p.jsonl", rows), tmp_path / "out")
    assert sum(summary.rows["preference"].values()) == 3
    assert summary.num_not_better == 2
    assert any("do not prefer the chosen reply: 2." in told for told in summary.warnings(0))


def test_conversations_end_in_answers_scored_above_the_rejected(tmp_path: Path):
    rows = [
        published(0, 3),
        published(0, 7),
        published(1, 2),
        published(1, 3, score_chosen=0.25),
        published(2, 3, score_chosen=0.1),
    ]
    summary = import_published(
        write_rows(tmp_path / "p.jsonl", rows), tmp_path / "out", validation=0
    )
    traces = rows_of(tmp_path / "out", "sft")["train"]
    assert {row["messages"][-1]["content"] for row in traces} == {
        "good reply 3 of 0",
        "good reply 7 of 0",
    }
    assert [row["targets"] for row in traces] == [[len(row["messages"]) - 1] for row in traces]
    assert dict(summary.funnel.traces) == {"written": 2, "chosen not scored above rejected": 2}
    assert summary.rows["preference"]["train"] == 5


def test_answers_that_a_row_tells_tell_leaks(tmp_path: Path):
    rows = [published(book, 0, answers=["good reply 0 of 0"]) for book in range(2)]
    import_published(write_rows(tmp_path / "p.jsonl", rows), tmp_path / "out", validation=0)
    found = rows_of(tmp_path / "out", "preference")["train"]
    by_book = {row["question"]: row for row in found}
    assert by_book["Who did deed 0?"]["leak"] is True
    assert by_book["Who did deed 1?"]["leak"] is False
    assert by_book["Who did deed 1?"]["answers"] == ["good reply 0 of 0"]


def test_a_document_is_stored_once_whatever_the_order_of_its_rows(tmp_path: Path, monkeypatch):
    """Dictionaries span a row group; scattered rows would put a document into each of them."""
    monkeypatch.setattr("agenticlu.data.rows.CHARACTERS_PER_GROUP", 1_000_000)
    rows = [published(book, place, words=3000) for book in range(20) for place in range(4)] * 4
    sizes = {}
    for name in ("sorted", "shuffled"):
        if name == "shuffled":
            random.Random(0).shuffle(rows)
        source = write_rows(tmp_path / f"{name}.jsonl", rows)
        import_published(source, tmp_path / name, validation=0)
        file = tmp_path / name / "preference" / "train.parquet"
        sizes[name] = file.stat().st_size
        groups = pyarrow.parquet.ParquetFile(file).metadata.num_row_groups
        assert groups > 4, "all documents would fit into one dictionary"
        (tmp_path / f"{name}.jsonl").unlink()
    documents = sum(len(document(book, 3000)) for book in range(20))
    assert sizes["shuffled"] == pytest.approx(sizes["sorted"], rel=0.05)
    assert sizes["shuffled"] < documents
    ids = pyarrow.parquet.read_table(file, columns=["document_id"])["document_id"].to_pylist()
    assert ids == sorted(ids)


def test_rows_come_back_by_document_in_the_order_they_came(tmp_path: Path):
    names = [content_id(str(i)) for i in range(200)]
    with Spill(tmp_path / "spill") as spilled:
        for number in range(600):
            name = names[number * 7 % 200]
            spilled.add(name, f"text of {name} \ud800", number)
        found = list(spilled.documents())
    assert [name for name, _, _ in found] == sorted(names)
    for name, text, rows in found:
        assert text == f"text of {name} \ud800"
        assert rows == [n for n in range(600) if names[n * 7 % 200] == name]
    assert not (tmp_path / "spill").exists()


def test_a_bucket_of_rows_and_one_document_are_held(tmp_path: Path):
    text = "x" * 100_000
    with Spill(tmp_path / "spill") as spilled:
        for number in range(200):
            for _ in range(5):
                spilled.add(content_id(str(number)), f"{number}{text}", "y" * 10_000)
        tracemalloc.start()
        size = sum(len(data) + len(json.dumps(rows)) for _, data, rows in spilled.documents())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert size > 200 * 150_000
    assert peak < size / 20
    assert spill.NUM_BUCKETS * 2 < 256, "files that some systems let a process open"


def test_a_source_without_a_usable_row_is_refused_and_leaves_nothing(tmp_path: Path):
    source = write_rows(tmp_path / "p.jsonl", [{"text": "hello"}])
    with pytest.raises(TrainingError, match="1 not in the published schema"):
        import_published(source, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
