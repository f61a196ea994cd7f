"""Rows of well-known data sets, turned into rows of one context, question and answers.

Some rows hold many questions (SQuAD's file, QASPER, QuALITY, DROP, MRQA), some nest their fields
(NarrativeQA, Natural Questions), some have their context in parts (HotpotQA, 2WikiMultihopQA,
MuSiQue, TriviaQA). Other rows pass unchanged. Where parts are marked as supporting, their
characters become gold spans.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agenticlu.core.errors import DocumentError
from agenticlu.core.files import Row
from agenticlu.core.golds import as_python, is_absent

_CHILDREN = ("qas", "qa_pairs", "questions", "qa", "paragraphs", "data")
"""Columns that may hold one entry for each question, or for each part that has questions."""
_ASKED = ("questions", "question", "instructions", "queries")
_CHILD_IDS = ("id", "qid", "question_id", "question_unique_id", "query_id", "_id")
_PART_TEXTS = (
    *(
        "paragraph_text",
        "passage_text",
        "text",
        "contents",
        "content",
        "sentences",
        "body",
        "passage",
    ),
)
_PART_TITLES = ("title", "section_name", "heading", "name")
Spans = list[tuple[int, int]]


def expand_row(row: Row) -> Iterator[Row]:
    """Yields a row for each question of a row; one of a plain form as it is.

    Raises:
        DocumentError: It is a conversation, whose later questions need the earlier ones.

    >>> row = {"context": "Ada built it.", "qas": [{"question": "Who?", "answers": ["Ada"]}]}
    >>> [(one["context"], one["question"]) for one in expand_row(row)]
    [('Ada built it.', 'Who?')]
    """
    if row and all(isinstance(v, dict) and {"qa_pairs", "qas"} & v.keys() for v in row.values()):
        for part in row.values():
            yield from expand_row(part)
        return
    _refuse_conversation(row)
    for key in _CHILDREN:
        children = _children(row.get(key))
        if children and any(_is_asked(child) for child in children):
            shared = {name: value for name, value in row.items() if name not in (key, "id")}
            if key != "data":
                shared["context"] = join_context(row)[0] or row.get("context")
            for child in children:
                names = (child[name] for name in _CHILD_IDS if not is_absent(child.get(name)))
                yield from expand_row({**shared, "id": next(names, None), **child})
            return
    asked = next((key for key in _ASKED if isinstance(row.get(key), list)), None)
    if asked and (count := len(row[asked])):
        yield from _zipped(row, asked, count)
        return
    yield _flat(row)


def _children(value: Any) -> list[Row]:
    """Returns entries, also of the hub's way to write them as an object of lists."""
    if isinstance(value, Mapping):
        columns = {name: as_python(column) for name, column in value.items()}
        sizes = {len(column) for column in columns.values() if isinstance(column, list)}
        if len(sizes) == 1 and all(isinstance(column, list) for column in columns.values()):
            return [{name: column[i] for name, column in columns.items()} for i in range(*sizes)]
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return value
    return []


def _is_asked(child: Row) -> bool:
    """Whether an entry is a question, or holds some."""
    return "question" in child or any(
        any(map(_is_asked, _children(child.get(key)))) for key in _CHILDREN
    )


def _refuse_conversation(row: Row) -> None:
    asked, answers = row.get("questions"), row.get("answers")
    told = isinstance(answers, Mapping) and {"input_text", "texts"} & answers.keys()
    turns = isinstance(asked, list) and asked and isinstance(asked[0], Mapping)
    if isinstance(asked, list) and (told or (turns and "input_text" in asked[0])):
        raise DocumentError(
            f"it holds a conversation of {len(asked)} questions, of which the later ones need "
            "the earlier.",
            hint="Write a row for each question, in words that stand alone.",
        )


def _zipped(row: Row, asked: str, count: int) -> Iterator[Row]:
    """Yields a row for each entry of columns that are lists of the same length."""
    names = [name for name, value in row.items() if isinstance(value, list) and len(value) == count]
    names = [name for name in names if name not in ("context", "paragraphs", "contexts")]
    answers = [name for name in names if name != asked]
    if not answers:
        raise DocumentError(
            f"{asked} are {count}, and no other column has as many entries.",
            hint="Write a row for each question.",
        )
    singular = {"gold_labels": "gold_label", "outputs": "answers", asked: "question"}
    for number in range(count):
        own = {singular.get(name, name): row[name][number] for name in names}
        rest = {name: value for name, value in row.items() if name not in (*names, "id")}
        yield _flat({**rest, **own})


def _flat(row: Row) -> Row:
    """Returns a row whose context, question and answers are fields of their own."""
    flat = dict(row)
    document, question = row.get("document"), row.get("question")
    if isinstance(question, Mapping) and "text" in question:
        flat["question"] = question["text"]
    if isinstance(document, Mapping):
        flat["document_id"] = row.get("document_id", document.get("id"))
    context, spans = join_context(row)
    if context is not None:
        flat["context"] = context
        if spans:
            flat.setdefault("gold_spans", spans)
    if "input" in row and "question" in row and "context" not in flat:  # BABILong
        flat["context"] = row["input"]
    if not is_absent(row.get("answer_aliases")):
        flat["answers"] = [row.get("answer"), row["answer_aliases"]]
    if "annotations" in row and not {"answers", "answer", "short_answers"} & row.keys():
        flat["answers"] = _annotated(row)
    label, answers = row.get("label"), row.get("answers")
    if isinstance(label, int) and isinstance(answers, list) and "options" not in row:  # ReClor
        flat["options"], flat["answers"] = answers, label
    if {"paragraph", "idx"} <= row.keys() and label == 0:  # MultiRC: a wrong answer
        flat["answers"] = flat["answer"] = None
    if row.get("answerable") is False or row.get("is_impossible") is True:
        # MuSiQue and SQuAD name an answer for these, too, that the context does not support.
        flat["answers"] = flat["answer"] = None
    return flat


def _annotated(row: Row) -> Any:
    """Returns Natural Questions' annotations; those of its simplified file with their texts."""
    given = as_python(row["annotations"])
    found = (_children(given) or given) if isinstance(given, Mapping) else given
    words = str(row.get("document_text") or "").split(" ")
    if isinstance(found, list) and len(words) > 1:
        return [
            {**one, "short_answers": [_spelt(place, words) for place in one["short_answers"]]}
            if isinstance(one, Mapping) and isinstance(one.get("short_answers"), list)
            else one
            for one in found
        ]
    return found


def _spelt(place: Any, words: Sequence[str]) -> Any:
    if not isinstance(place, Mapping) or "text" in place:
        return place
    ends = (place.get("start_token"), place.get("end_token"))
    return " ".join(words[slice(*ends)]) if all(isinstance(end, int) for end in ends) else place


def join_context(row: Mapping[str, Any]) -> tuple[str | None, Spans]:
    """Returns a text put together from the parts that a row has, and the spans that support.

    None where the row has no context in parts.
    """
    document = row.get("document")
    if isinstance(document, Mapping):
        return _document_text(document), []
    for key in ("context", "contexts", "paragraphs", "documents", "passages", "ctxs", "full_text"):
        value = as_python(row.get(key))
        if isinstance(value, str) and key == "paragraphs" and value.startswith("["):
            value = _load(value)
        parts = _parts(value)
        if parts:
            head = [("", str(row[name]), False) for name in ("title", "abstract") if row.get(name)]
            text, spans = _join(
                [*head, *_supported(parts, row)] if key == "full_text" else _supported(parts, row)
            )
            return text, spans
    pages, results = row.get("entity_pages"), row.get("search_results")
    for found, name in ((pages, "wiki_context"), (results, "search_context")):
        texts = _children(found) or ([found] if isinstance(found, Mapping) else [])  # type: ignore[list-item]
        plain = [text for part in texts for text in _texts(part.get(name))]
        if plain:
            return "\n\n".join(plain), []
    return None, []


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _document_text(document: Mapping[str, Any]) -> str | None:
    """Returns the text of a document that is an object: its text, or its words without HTML."""
    if isinstance(document.get("text"), str):
        return str(document["text"])
    tokens = _children(document.get("tokens"))
    words = [str(one.get("token")) for one in tokens if not one.get("is_html")]
    return " ".join(words) or None


_Part = tuple[str, Sequence[str] | str, bool]
"""Title, text or sentences, and whether it supports the answer."""


def _parts(value: Any) -> list[_Part]:
    if isinstance(value, Mapping):
        value = value.get("contexts") or _children(value)
    if not isinstance(value, list):
        return []
    parts: list[_Part] = []
    for entry in map(as_python, value):
        if isinstance(entry, str):
            parts.append(("", entry, False))
        elif isinstance(entry, Mapping):
            title = next((entry[name] for name in _PART_TITLES if entry.get(name)), "")
            names = ("paragraphs", *_PART_TEXTS)
            text = next((entry[name] for name in names if entry.get(name)), "")
            parts.append(
                (
                    str(title),
                    _texts(text),
                    bool(entry.get("is_supporting") or entry.get("is_selected")),
                )
            )
        elif isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
            parts.append((entry[0], _texts(entry[1]), False))  # HotpotQA's own files
        else:
            return []
    return parts


def _texts(value: Any) -> list[str]:
    value = as_python(value)
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) and value.strip() else []


def _supported(parts: Sequence[_Part], row: Mapping[str, Any]) -> list[_Part]:
    """Marks the parts whose titles HotpotQA names as supporting."""
    facts = row.get("supporting_facts")
    titles: set[str] = set()
    if isinstance(facts, Mapping):
        titles = set(_texts(facts.get("title")))
    elif isinstance(facts, list):
        titles = {fact[0] for fact in facts if isinstance(fact, list) and fact}
    return [(title, text, mark or title in titles) for title, text, mark in parts]


def _join(parts: Sequence[_Part]) -> tuple[str, Spans]:
    texts: list[str] = []
    spans: Spans = []
    at = 0
    for title, body, is_supporting in parts:
        plain = body if isinstance(body, str) else " ".join(text.strip() for text in body)
        whole = f"{title}\n{plain}" if title else plain
        if is_supporting:
            spans.append((at + len(whole) - len(plain), at + len(whole)))
        texts.append(whole)
        at += len(whole) + 2
    return "\n\n".join(texts), [span for span in spans if span[0] < span[1]]
