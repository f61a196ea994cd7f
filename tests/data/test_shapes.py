"""Rows as well-known data sets have them, each read as the corpus that it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenticlu.core.errors import AgenticluError, DocumentError
from agenticlu.data.corpus import ALIASES, Item, LeftOut, load_corpus

TEXT = "The mill was built by Ada Larkin. It burnt down once."
WHO = "Who built the mill?"
MILL: dict[str, Any] = {"title": "Mill", "sentences": ["The mill stands. ", "Ada built it."]}

ROWS: dict[str, dict[str, Any]] = {
    "LongBench": {
        **{"input": WHO, "context": TEXT, "answers": ["Ada"], "length": 11, "dataset": "x"},
        **{"language": "en", "all_classes": None, "_id": "7"},
    },
    "SQuAD": {
        **{"id": "1", "title": "Mill", "context": TEXT, "question": WHO},
        "answers": {"text": ["Ada", "Ada"], "answer_start": [22, 22]},
    },
    "SQuAD's file": {
        "version": "2",
        "data": [{"title": "Mill", "paragraphs": [{"context": TEXT, "qas": [
            {"id": "a", "question": WHO, "answers": [{"text": "Ada", "answer_start": 22}],
             "is_impossible": False}]}]}],
    },
    "MRQA": {"context": TEXT, "qas": [{"qid": "a", "question": WHO, "answers": ["Ada"]}]},
    "TriviaQA": {
        **{"question": WHO, "question_id": "q", "search_results": {"search_context": []}},
        "entity_pages": {"title": ["Mill"], "wiki_context": [TEXT]},
        "answer": {"value": "Ada", "aliases": ["Ada"], "normalized_aliases": ["ada"]},
    },
    "NarrativeQA": {
        "document": {"id": "d", "text": TEXT, "summary": {"text": "A mill."}},
        "question": {"text": WHO, "tokens": []},
        "answers": [{"text": "Ada", "tokens": ["Ada"]}],
    },
    "Natural Questions": {
        "document": {"title": "Mill", "tokens": {"token": ["<p>", "Ada", "built", "it."],
                                                 "is_html": [True, False, False, False]}},
        "question": {"text": WHO, "tokens": []},
        "annotations": {"id": ["1"], "short_answers": [{"text": ["Ada"], "start_byte": [1]}],
                        "yes_no_answer": [-1], "long_answer": [{"start_byte": 1}]},
    },
    "KILT": {"input": WHO, "context": TEXT, "output": [{"answer": "Ada", "provenance": []}]},
    "QASPER": {
        **{"id": "p", "title": "Mills", "abstract": "On mills."},
        "full_text": {"section_name": ["One"], "paragraphs": [["The mill.", TEXT]]},
        "qas": {"question": [WHO], "question_id": ["a"], "answers": [
            {"answer": [{"unanswerable": False, "extractive_spans": ["Ada"], "yes_no": None,
                         "free_form_answer": "", "evidence": [TEXT]}]}]},
    },
    "HotpotQA": {
        **{"id": "1", "question": WHO, "answer": "Ada"},
        "supporting_facts": {"title": ["Mill"], "sent_id": [1]},
        "context": {"title": ["Inn", "Mill"], "sentences": [["An inn."], MILL["sentences"]]},
    },
    "HotpotQA's file": {
        **{"_id": "1", "question": WHO, "answer": "Ada", "supporting_facts": [["Mill", 1]]},
        "context": [["Inn", ["An inn."]], ["Mill", MILL["sentences"]]],
    },
    "MuSiQue": {
        **{"question": WHO, "answer": "Ada Larkin", "answer_aliases": ["Ada"], "answerable": True},
        "paragraphs": [
            {"idx": 0, "title": "Inn", "paragraph_text": "An inn.", "is_supporting": False},
            {"idx": 1, "title": "Mill", "paragraph_text": TEXT, "is_supporting": True},
        ],
    },
    "BoolQ": {"passage": TEXT, "question": "did it burn", "answer": True},
    "DROP": {
        **{"section_id": "s", "query_id": "q", "passage": TEXT, "question": WHO},
        "answers_spans": {"spans": ["Ada"], "types": ["span"]},
    },
    "DROP's file": {"nfl_1": {"passage": TEXT, "qa_pairs": [
        {"question": WHO, "query_id": "q", "answer": {
            "number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["Ada"]}}]}},
    "QASPER's file": {"p1": {
        **{"title": "Mills", "abstract": "On mills."},
        "full_text": [{"section_name": "One", "paragraphs": [TEXT]}],
        "qas": [{"question": WHO, "answers": [{"answer": {
            "extractive_spans": ["Ada"], "yes_no": None, "free_form_answer": ""}}]}]}},
    "Natural Questions' file": {
        **{"document_text": "By Ada Ada built it.", "question_text": WHO},
        "annotations": [{"short_answers": [{"start_token": 1, "end_token": 2}],
                         "yes_no_answer": "NONE"}],
    },
    "MS MARCO": {"query": WHO, "answers": ["Ada"], "passages": {
        "is_selected": [0, 1], "passage_text": ["An inn.", TEXT], "url": ["a", "b"]}},
    "other case": {"Context": TEXT, "Question": WHO, "Answer": "Ada"},
    "DuoRC": {"plot": TEXT, "question": WHO, "answers": ["Ada"], "no_answer": False},
    "BABILong": {"input": TEXT, "question": WHO, "target": "Ada"},
    "L-Eval": {"input": TEXT, "context": TEXT, "instructions": [WHO, "What burnt?"],
               "outputs": ["Ada", "The mill"]},
    "several texts": {"contexts": ["An inn.", TEXT], "question": WHO, "answer": "Ada"},
    "retrieved passages": {"ctxs": [{"title": "Mill", "text": TEXT}], "question": WHO,
                           "answers": ["Ada"]},
}  # fmt: skip
CHOICES: dict[str, dict[str, Any]] = {
    "QuALITY": {"article": TEXT, "question": WHO, "options": ["Bo", "Ada"], "gold_label": 2},
    "QuALITY's file": {
        "article": TEXT,
        "questions": [{"question": WHO, "question_unique_id": "a", "options": ["Bo", "Ada"],
                       "gold_label": 2, "difficult": 0}],
    },
    "QuALITY of the hub": {"context": TEXT, "question": WHO, "choices": ["Bo", "Ada"], "label": 1},
    "QuALITY in lists": {
        **{"text": TEXT, "questions": [WHO, f"So {WHO}"], "gold_label": [2, 1]},
        "options": [["Bo", "Ada"], ["Ada", "Bo"]],
    },
    "LongBench v2": {
        **{"context": TEXT, "question": WHO, "choice_A": "Bo", "choice_B": "Ada"},
        **{"choice_C": "Cy", "choice_D": "Di", "answer": "B", "difficulty": "hard"},
    },
    "RACE": {"article": TEXT, "question": WHO, "options": ["Bo", "Ada"], "answer": "B"},
    "ARC": {
        **{"context": TEXT, "question": WHO, "answerKey": "2"},
        "choices": {"text": ["Bo", "Ada"], "label": ["1", "2"]},
    },
    "InfiniteBench": {
        **{"context": TEXT, "input": WHO, "answer": ["Ada", "B"], "options": ["Bo", "Ada"]},
    },
    "CosmosQA": {"context": TEXT, "question": WHO, "answer0": "Bo", "answer1": "Ada", "label": 1},
    "ReClor": {"context": TEXT, "question": WHO, "answers": ["Bo", "Ada"], "label": 1},
    "MedMCQA": {"context": TEXT, "question": WHO, "opa": "Bo", "opb": "Ada", "cop": 1},
    "NovelQA": {"context": TEXT, "Question": WHO, "Options": {"A": "Bo", "B": "Ada"}, "Gold": "B"},
    "MedQA": {"context": TEXT, "question": WHO, "options": {"A": "Bo", "B": "Ada"}, "answer": "B"},
}  # fmt: skip


def load(tmp_path: Path, row: Any, **options: Any) -> list[Item]:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    return list(load_corpus(str(path), **options))


@pytest.mark.parametrize("name", [*ROWS, *CHOICES])
def test_rows_of_known_data_sets_are_read(tmp_path: Path, name: str) -> None:
    items = load(tmp_path, {**ROWS, **CHOICES}[name])
    first = items[0]
    assert "Ada built it." in first.document.text or TEXT in first.document.text
    assert first.question.text in (WHO, "did it burn")
    assert set(first.question.answers) & {"Ada", "yes"}
    assert bool(first.question.options) == (name in CHOICES)
    if name in CHOICES:
        assert first.question.answers == ("Ada",)


def test_the_documents_name_the_data_sets_and_columns() -> None:
    text = (Path(__file__).parents[2] / "docs" / "rows.md").read_text(encoding="utf-8")
    for name in (*ROWS, *CHOICES):
        if name[0].isupper():
            plain = name.partition("'")[0].partition(" of ")[0].partition(" in ")[0]
            assert plain in text, plain
    for field, names in ALIASES.items():
        assert f"| {field} | {', '.join(names)} |" in text


def test_questions_of_one_row_share_their_document(tmp_path: Path) -> None:
    (first, second) = load(tmp_path, ROWS["L-Eval"])
    assert first.document is second.document
    assert second.question.answers == ("The mill",)
    (first, second) = load(tmp_path, CHOICES["QuALITY in lists"])
    assert first.question.options != second.question.options
    assert first.question.answers == second.question.answers == ("Ada",)
    asked = [{"question": WHO, "answers": ["Ada"]}, {"question": "What?", "answers": ["mill"]}]
    row = {"context": TEXT, "id": "same", "qas": asked}
    assert len({item.question.id for item in load(tmp_path, row)}) == 2
    assert len(load(tmp_path, row, limit=1)) == 1


@pytest.mark.parametrize("name", ["HotpotQA", "HotpotQA's file", "MuSiQue"])
def test_supporting_parts_are_gold_spans(tmp_path: Path, name: str) -> None:
    (item,) = load(tmp_path, ROWS[name])
    assert item.gold_spans is not None
    ((start, end),) = item.gold_spans
    assert "Ada" in item.document.text[start:end]
    assert "inn" not in item.document.text[start:end]
    assert "Inn\nAn inn.\n\nMill\n" in item.document.text


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"story": TEXT, "questions": [WHO, "Where?"],
             "answers": {"input_text": ["Ada", "here"], "answer_start": [1, 2]}},
            "Line 1 of .*: it holds a conversation of 2 questions",
        ),
        (
            {"story": TEXT, "questions": [{"input_text": WHO, "turn_id": 1}],
             "answers": [{"input_text": "Ada"}]},
            "conversation of 1 questions",
        ),
        ({"context": TEXT, "question": [WHO, WHO], "answers": "Ada"}, "question are 2, and no"),
        ({"context": TEXT, "question": WHO, "label": 1}, "label names an option, and the row has"),
        ({"context": TEXT, "question": WHO, "answerKey": "B"}, "answerKey names an option"),
        (
            {"paragraph": TEXT, "question": WHO, "answer": "Bo", "label": 0, "idx": {"p": 1}},
            "no accepted answer",
        ),
        (
            {"paragraphs": [{"title": "Vell", "paragraph_text": TEXT}], "question": WHO,
             "answer": "Ada", "answer_aliases": ["A."], "answerable": False},
            "no accepted answer",
        ),
        (
            {"context": TEXT, "question": WHO, "answers": ["Ada"], "is_impossible": True},
            "no accepted answer",
        ),
        ({"question": WHO, "answer": "Ada"}, "has no 'context'; its columns: question, answer"),
        ({"input": TEXT, "outputs": ["1"]}, "no 'context'"),
    ],
)  # fmt: skip
def test_what_is_no_question_over_a_document_is_refused(tmp_path: Path, row, words: str) -> None:
    with pytest.raises(DocumentError, match=words):
        load(tmp_path, row)


def test_questions_without_an_answer_are_counted(tmp_path: Path) -> None:
    row = {"context": TEXT, "qas": [
        {"question": WHO, "answers": [], "is_impossible": True},
        {"question": WHO, "answers": [{"text": "Ada", "answer_start": 22}]}]}  # fmt: skip
    left_out = LeftOut()
    assert len(load(tmp_path, row, left_out=left_out)) == 1
    assert left_out.num_lines == 1


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["text", "title", "question", "answers", "qas", "sentences", "label",
                         "token", "is_html", "input_text"]),
        inner,
        max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip
KEYS = st.sampled_from(
    ["label", "idx", "document_text", "context", "question", "answers", "options", "choices",
     "paragraphs", "qas", "data",
     "document", "questions", "annotations", "entity_pages", "supporting_facts", "gold_spans",
     "hops", "full_text", "answer_aliases", "id", "A", "B"]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*ROWS, *CHOICES]), st.dictionaries(KEYS, VALUE, max_size=3))
def test_any_row_is_read_or_refused_in_words(tmp_path_factory, name: str, changes) -> None:
    row = {**{**ROWS, **CHOICES}[name], **changes}
    folder = tmp_path_factory.getbasetemp()
    try:
        for item in load(folder, row, left_out=LeftOut()):
            assert item.question.answers
            assert item.document.text.strip()
    except AgenticluError as error:
        assert "rows.jsonl" in error.message  # noqa: PT017


def test_a_null_answer_is_not_made_up_for_by_a_models_response(tmp_path: Path) -> None:
    row = {"context": TEXT, "question": WHO, "answers": None, "response": "Bo", "label": 1}
    with pytest.raises(DocumentError, match="no accepted answer"):
        load(tmp_path, row)
    (item,) = load(tmp_path, {**row, "answer": "Ada"})
    assert item.question.answers == ("Ada",)


def test_a_column_stands_for_one_field(tmp_path: Path) -> None:
    row = {"instruction": WHO, "input": TEXT, "output": "Ada"}
    (item,) = load(tmp_path, row, columns={"context": "input"})
    assert (item.question.text, item.document.text) == (WHO, TEXT)
