"""Training data that evaluation has, planted and found."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from made_trees import asked, make_run, node, tree
from published_rows import document as marked
from published_rows import published, write_rows

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.data import contamination
from agenticlu.data.build import build_dataset
from agenticlu.data.contamination import SHARE, EvaluationTexts, load_evaluation
from agenticlu.data.intake import import_published
from agenticlu.data.pairs import PairPolicy
from agenticlu.search.store import Store

MIXED = (node("a", 1.0), node("b", 0.0, ordinal=1))


def words(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    return [f"w{draw.randrange(4000)}" for _ in range(count)]


def joined(*parts: list[str]) -> str:
    return " ".join(word for part in parts for word in part)


def evaluation(*texts: str) -> EvaluationTexts:
    found = EvaluationTexts()
    for text in texts:
        found.add_document(text)
    return found


PASSAGE, BOOK = words(1, 120), words(2, 6000)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (joined(words(3, 3000)), 0.0),
        (joined(words(3, 1500), PASSAGE, words(4, 1500)), 1.0),
        (joined(words(3, 1500), PASSAGE[:60], words(4, 1500)), 48 / 108),
        (joined(words(3, 1500), PASSAGE[:20], words(4, 1500)), 8 / 108),
        (joined(words(3, 1500), PASSAGE[:12], words(4, 1500)), 0.0),
        (joined(BOOK).upper().replace(" ", "\n"), 1.0),
        (joined(BOOK[:600]), 1.0),
        (joined(BOOK[:300], words(5, 300)), 288 / 588),
        (joined(BOOK[1000:2000], words(5, 4000)), 988 / 4988),
        ("", 0.0),
    ],
)
def test_the_share_is_of_the_shorter_document_s_runs(text: str, share: float):
    texts = evaluation(joined(words(6, 800)), joined(PASSAGE), joined(BOOK))
    assert texts.largest_share(text) == pytest.approx(share, abs=0.02)
    assert texts.has_document("id", text) is (share >= SHARE)


def test_a_sketch_of_a_long_document_is_enough(monkeypatch):
    monkeypatch.setattr(contamination, "SKETCH", 500)
    texts = evaluation(joined(BOOK))
    assert texts.largest_share(joined(BOOK[:3000])) == pytest.approx(1.0, abs=0.15)
    half = joined(BOOK[:1500], words(5, 1500))
    assert texts.largest_share(half) == pytest.approx(0.5, abs=0.1)


def test_short_texts_are_found_only_when_equal():
    texts = evaluation("Yes it is.", "A short passage of nine words in all here.")
    assert texts.has_document("id", "yes  it is.")
    assert not texts.has_document("id", "Yes it is, he said, " + joined(words(1, 100)))


def test_questions_are_equal_up_to_case_and_punctuation():
    texts = EvaluationTexts()
    texts.add_question("Who paid the miller, twice?")
    assert texts.has_question("who paid the Miller twice")
    assert not texts.has_question("who paid the miller")
    assert not texts.has_question("?")


ROWS: dict[str, dict[str, Any]] = {
    "corpus": {"context": joined(BOOK), "question": "Who?", "answers": ["x"]},
    "helmet": {"question": "Who?", "ctxs": [{"title": "T", "text": joined(PASSAGE)}], "demos": []},
    "ruler": {"index": 0, "context": joined(BOOK), "query": "Who?", "outputs": ["x"]},
    "infbench": {"id": 0, "context": joined(BOOK), "input": "Who?", "answer": ["x"]},
    "narrativeqa": {"document": {"id": "d", "text": joined(BOOK)}, "question": {"text": "Who?"}},
    "alce": {"question": "Who?", "docs": [{"text": joined(PASSAGE)}], "qa_pairs": []},
    "lexsum": {"id": "d", "sources": [joined(BOOK), joined(PASSAGE)], "query": "Who?"},
}


@pytest.mark.parametrize("layout", ROWS)
def test_documents_and_questions_are_found_in_many_layouts(tmp_path: Path, layout: str):
    (tmp_path / "task.jsonl").write_text(json.dumps(ROWS[layout]))
    texts = load_evaluation([tmp_path / "task.jsonl"])
    assert texts.num_documents >= 1
    assert texts.has_question("who")
    assert texts.largest_share(joined(BOOK, PASSAGE)) == 1.0


def test_arrays_objects_parquet_and_folders_are_read(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.json").write_text(json.dumps([{"question": "One?"}]))
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"question": "Two?"}]}, indent=1))
    (tmp_path / "c").mkdir()
    table = pyarrow.Table.from_pylist([{"question": "Three?"}])
    pyarrow.parquet.write_table(table, tmp_path / "c" / "test.parquet")
    texts = load_evaluation([tmp_path])
    assert texts.num_questions == 3
    assert texts.sources == [tmp_path.name], "the folder above is nobody's business"


def test_saved_predictions_name_documents_by_id(tmp_path: Path):
    line = {"document_id": "0123abc", "question": "Who?", "turns": [{"text": joined(BOOK)}]}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(line))
    texts = load_evaluation([tmp_path / "predictions.jsonl"])
    assert texts.has_document("0123abc", "any text")
    assert texts.num_documents == 0, "what a model wrote is no evaluation"


def test_what_cannot_be_compared_is_said(tmp_path: Path):
    with pytest.raises(DocumentError, match="no evaluation data"):
        load_evaluation([tmp_path / "none.jsonl"])
    with pytest.raises(DocumentError, match=r"no \.jsonl"):
        load_evaluation([tmp_path])
    (tmp_path / "a.jsonl").write_text('{"score": 1}')
    with pytest.raises(DocumentError, match="no document and no question"):
        load_evaluation([tmp_path / "a.jsonl"])
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(DocumentError, match="is not JSON"):
        load_evaluation([tmp_path / "b.json"])


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of six documents; the evaluation has one of them, half of one, and one question."""
    root = tmp_path_factory.mktemp("planted")
    documents = [Document.of(joined(words(50 + i, 400)), "made") for i in range(6)]
    run = make_run(
        root / "run",
        [
            (document, tree(*MIXED, question=asked(2 * i + j), document=document))
            for i, document in enumerate(documents)
            for j in range(2)
        ],
    )
    half = " ".join(documents[1].text.split()[:200])
    rows = [
        {"context": documents[0].text, "question": "Another?"},
        {"context": f"{half} {joined(words(99, 700))}", "question": "One more?"},
        {"context": joined(words(98, 500)), "question": "town  6"},
    ]
    (root / "task.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return run, root / "task.jsonl"


def test_a_planted_overlap_is_left_out_and_counted(planted: tuple[Path, Path], tmp_path: Path):
    import pyarrow.parquet

    run, task = planted
    found = {}
    for drop in (True, False):
        with Store(run, writable=False) as store:
            summary = build_dataset(
                store,
                tmp_path / str(drop),
                PairPolicy(),
                load_evaluation([task]),
                drop_contaminated=drop,
            )
        files = (tmp_path / str(drop) / "sft").glob("*.parquet")
        found[drop] = {
            row["question"] for f in files for row in pyarrow.parquet.read_table(f).to_pylist()
        }
        told = summary.as_dict()
        assert told["contamination"] == {
            "sources": ["task.jsonl"],
            "evaluation_documents": 3,
            "evaluation_questions": 3,
            "run_words": 13,
            "share": 0.2,
            "documents_found": 2,
            "questions_found": 1,
            "dropped": drop,
        }
        traces = told["funnel"]["traces"]
        assert traces["total"] == 12
        assert traces.get("document in evaluation", 0) == (4 if drop else 0)
        assert traces.get("question in evaluation", 0) == (1 if drop else 0)
    everything = {f"Town {i}?" for i in range(12)}
    assert found[False] == everything
    assert found[True] == everything - {f"Town {i}?" for i in (0, 1, 2, 3, 6)}


def test_an_import_is_compared_alike(tmp_path: Path):
    rows = [published(book, place) for book in range(4) for place in range(4)]
    plain = marked(0).replace("<para 0>", "").replace("</para 0>", "")
    task = [{"context": plain, "question": "x y"}, {"question": "Who did deed 2?"}]
    evaluation_file = Path(write_rows(tmp_path / "task.jsonl", task))
    summary = import_published(
        write_rows(tmp_path / "p.jsonl", rows),
        tmp_path / "out",
        evaluation=load_evaluation([evaluation_file]),
    )
    assert dict(summary.funnel.rows) == {
        "written": 8,
        "document in evaluation": 4,
        "question in evaluation": 4,
    }
    told = summary.as_dict()["contamination"]
    assert (told["documents_found"], told["questions_found"]) == (1, 1)
