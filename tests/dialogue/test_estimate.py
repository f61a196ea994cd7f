from __future__ import annotations

import pytest

from agenticlu.core.records import Document
from agenticlu.dialogue.estimate import COUNTED_TOKENS, count_view
from agenticlu.dialogue.run import show_document
from agenticlu.documents.tokens import load_tokenizer
from agenticlu.engines import BUNDLED_MODEL


@pytest.mark.parametrize("text", ["a," * 100_000, "The mill was built by Ada. \n" * 12_000])
def test_a_very_long_document_is_counted_by_a_sample_and_never_too_low(text: str) -> None:
    tokenizer = load_tokenizer(str(BUNDLED_MODEL))
    shown = show_document(Document.of(text, source="long.txt"), tokenizer, 64)
    whole = tokenizer.count(shown.view())
    assert whole > 1.5 * COUNTED_TOKENS, "else it is counted whole"
    assert whole <= count_view(shown, tokenizer) <= 1.02 * whole


def test_a_document_is_counted_exactly_where_it_might_fit() -> None:
    tokenizer = load_tokenizer(str(BUNDLED_MODEL))
    shown = show_document(Document.of("Ada, Bo, Cy. " * 4000, source="short.txt"), tokenizer, 64)
    assert count_view(shown, tokenizer) == tokenizer.count(shown.view()) < COUNTED_TOKENS
