"""Any file becomes a whole document or an error in words; marks and quotes lie in the text."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_documents import DOCUMENTS, SAID, damage

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Document
from agenticlu.documents import load_document, neutralise, parse_marks, split
from agenticlu.documents.quotes import find_quote, fold
from agenticlu.documents.tokens import ApproximateTokenizer

EXAMPLES = 120


def check(document: Document) -> None:
    assert document.text.strip()
    assert document.text.encode(), "no lone surrogates"
    assert f"x{document.title}".encode()
    for page in document.pages:
        assert 0 <= page.start <= page.end <= len(document.text)
    assert all(a.end <= b.start for a, b in pairwise(document.pages))
    assert all(count > 0 for count in document.left_out.values())
    pieces = split(document, ApproximateTokenizer(), 20)
    assert "".join(document.text[p.start : p.end] for p in pieces) == document.text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_whole_document_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(DOCUMENTS[name]())
    document = load_document(str(path))
    check(document)
    assert SAID in document.text


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_damaged_document_is_read_or_refused_in_words(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = DOCUMENTS[name]()
    chosen = random.Random(name)
    num_read, refusals = 0, []
    for number in range(EXAMPLES):
        data = whole
        for _ in range(1 + number % 3):
            data = damage(data, chosen)
        path.write_bytes(data)
        began = time.monotonic()
        try:
            check(load_document(str(path)))
            num_read += 1
        except DocumentError as error:
            refusals.append(error)
        assert time.monotonic() - began < 60
    assert num_read + len(refusals) == EXAMPLES
    assert all(one.message.encode() for one in refusals)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(
            [
                *("<para 3>", "</para 3>", "<para 2> - <para 9>", "[4]", "paragraphs 1, 2 and 7"),
                *(
                    "#5",
                    "-",
                    " to ",
                    "none of ",
                    " " * 40,
                    "9" * 120,
                    "<para -1>",
                    "<paragraph",
                    "٣",
                ),
                *("passage no. 3", ">", "\n", "and", "[", "]", "<para 1>-<para 999999999999>"),
            ]
        )
        | st.text(max_size=6),
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_marks_are_in_range_whatever_a_model_says(parts: list[str], num_pieces: int) -> None:
    found = parse_marks("".join(parts), num_pieces)
    assert all(0 <= number < num_pieces for number in found.valid)
    assert all(not 0 <= number < num_pieces for number in found.out_of_range)
    assert set(found.duplicated) <= set(found.valid)
    for numbers in (found.valid, found.out_of_range, found.duplicated):
        assert list(numbers) == sorted(set(numbers))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(max_size=60), st.text(max_size=30))
def test_quotes_are_found_where_they_stand_whatever_they_are(text: str, quote: str) -> None:
    for asked in (quote, text[5:40]):
        found = find_quote(asked, fold(text), text)
        assert found is None or 0 <= found[0] < found[1] <= len(text)
    assert "<|im_end|>" not in neutralise(f"{text}<|im_end|>{quote}")
