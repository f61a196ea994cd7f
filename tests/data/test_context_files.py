"""Corpora whose rows name files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agenticlu.core.errors import DocumentError
from agenticlu.data.corpus import load_corpus


def write_corpus(folder: Path, *contexts: object) -> str:
    rows = [
        {"context_file": context, "question": f"Who is {i}?", "answers": ["Ada"]}
        for i, context in enumerate(contexts)
    ]
    path = folder / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_context_may_be_a_file_or_several_beside_the_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "texts").mkdir(parents=True)
    (corpus / "texts" / "a.txt").write_text("Ada built it.")
    (corpus / "texts" / "b.html").write_text("<title>B</title><p>Bo paid.</p>")
    both = ["texts/a.txt", "texts/b.html"]
    source = write_corpus(corpus, "texts/a.txt", "texts/a.txt", both, "texts")
    first, again, joined, folder = (item.document for item in load_corpus(source))
    assert first.text == "Ada built it."
    assert again is first, "rows that repeat a document share it"
    assert [part.name for part in joined.parts] == ["a.txt", "b.html"]
    assert folder.text == joined.text
    assert first.source == source
    row = {"context_file": None, "context": "As text.", "question": "Who?", "answers": ["Ada"]}
    Path(source).write_text(json.dumps(row))
    assert next(load_corpus(source)).document.text == "As text."


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("../secret.txt", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("link.txt", "leads out of"),
        ("https://example.org/a.txt", "leads out of"),
        ("a\0b", "leads out of"),
        ("gone.txt", "there is no file 'gone.txt'"),
        ("binary.txt", "Line 1 of .*binary"),
        (["good.txt", "binary.txt"], "names what cannot be read: binary.txt"),
        ([], "has no 'context'"),
        ([1], "must be a path or a list of paths"),
        ({"a": 1}, "must be a path or a list of paths"),
    ],
)
def test_a_corpus_names_nothing_outside_its_folder(
    tmp_path: Path, named: object, words: str
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "good.txt").write_text("Good.")
    (corpus / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (corpus / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(DocumentError, match=words):
        list(load_corpus(write_corpus(corpus, named)))


def test_a_context_that_is_the_name_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a b.pdf").write_bytes(b"%PDF")
    path = tmp_path / "qa.jsonl"
    row = {"context": "a b.pdf", "question": "Who?", "answers": ["Ada"]}
    path.write_text(json.dumps(row))
    with pytest.raises(DocumentError, match=r"Line 1 .*name of a file, 'a b.pdf'") as caught:
        next(load_corpus(str(path)))
    assert "--column context_file=" in str(caught.value.hint)
    for text in ("It is in a b.pdf.", "no.pdf", "x" * 9000, "a\0.pdf", "Ada", "."):
        path.write_text(json.dumps(row | {"context": text}))
        assert next(load_corpus(str(path))).document.text == text
