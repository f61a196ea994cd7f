"""An answer as a notebook shows it, and what cannot be asked."""

from __future__ import annotations

import re

import pytest

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document
from agenticlu.dialogue.answer import Answer, Claim, make_question
from agenticlu.documents.citations import Citation

HOSTILE = "<script>alert(1)</script>"


def make(**changes: object) -> Answer:
    statement = f"Ada signed. {HOSTILE} too."
    values = {
        "document_id": "d", "source": "a.txt", "question": "Who?", "answer": statement,
        "supported": True, "statement": statement, "status": "supported",
        "claims": (
            Claim(text="Ada signed.", start=0, end=11, citations=(0,), verified=True),
            Claim(text=f"{HOSTILE} too.", start=12, end=len(statement)),
        ),
        "citations": (
            Citation(piece=3, start=0, end=9, page=2, text="x", quote=f"Ada {HOSTILE}",
                     verified=True),
            Citation(piece=4, start=9, end=12, text="y", quote="closest", verified=False),
        ),
        "notes": (f"Note {HOSTILE}",),
    }  # fmt: skip
    return Answer.model_validate(values | changes)


def test_claims_sources_and_notes_are_shown_as_text() -> None:
    html = make()._repr_html_()
    assert "Ada signed.<sup>[1]</sup> &lt;script&gt;" in html
    assert html.count("(unverified)") == 1
    assert "[1] page 2, paragraph 3<br>“Ada &lt;script&gt;" in html
    assert "closest" not in html, "it was not quoted"
    assert set(re.findall(r"<(\w+)", html)) == {"p", "sup", "small", "br"}


def test_what_the_document_does_not_carry_says_so() -> None:
    assert "<em>not in document</em>" in make(status="not_in_document")._repr_html_()
    assert "(unverified)" not in make(status="not_in_document")._repr_html_()
    assert "(no answer)" in make(answer="", statement="", claims=(), citations=())._repr_html_()


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        (" \n", (), "question is empty"),
        ("Who?", ("Ada",), "at least two choices"),
        ("Who?", ("Ada", " "), "choice is empty"),
        ("Who?", tuple("abcdefghijklmnopqrstuvwxyz0"), "At most 26 choices"),
    ],
)
def test_what_cannot_be_asked_is_refused(text: str, options: tuple[str, ...], told: str) -> None:
    document = Document(id="d", text="Ada signed.", source="a.txt")
    with pytest.raises(UsageError, match=told):
        make_question(document, text, options)
