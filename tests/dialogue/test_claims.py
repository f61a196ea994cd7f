"""Claims: every letter of an answer in one, and the citations that carry it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pdf import make_pdf

from agenticlu.core.records import Document, Question
from agenticlu.dialogue.answer import Answer
from agenticlu.dialogue.ask import ask
from agenticlu.dialogue.claims import (
    annotations,
    citation_locations,
    number_claims,
)
from agenticlu.dialogue.statement import says_absent, split_claims
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents import load_document, split
from agenticlu.documents.loading import join_documents
from agenticlu.documents.sources import Source
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine

TOKENIZER = ApproximateTokenizer()
TEXT = (
    "The mill of Vell was built in 1834 by Mara Otis. It burned down in May 1871.\n\n"
    "The fee for grinding was 3.5 crowns a sack. Poor families paid nothing at all.\n\n"
    "Ada Yardley, a teacher, bought the ruin in 1902. She planted cherries there.\n\n"
)
DOCUMENT = Document.of(TEXT, "folder/mill.txt")


def asked(
    final: str,
    *,
    document: Document = DOCUMENT,
    points: str = "<para 0> <para 1>",
    finding: str = "It is told there.",
    check: str = "yes",
    options: tuple[str, ...] = (),
    piece_tokens: int = 24,
) -> Answer:
    engine = ScriptedEngine(["What?", points, finding, final, check], tokenizer=TOKENIZER)
    question = Question(id="q", text="What of the mill?", options=options)
    return asyncio.run(
        ask(
            document,
            question,
            engine,
            tokenizer=TOKENIZER,
            profile=load_profile(),
            piece_tokens=piece_tokens,
        )
    )


def check_record(answer: Answer) -> None:
    at = 0
    for claim in answer.claims:
        assert at <= claim.start < claim.end
        assert not answer.statement[at : claim.start].strip(), "a letter stands in no claim"
        assert answer.statement[claim.start : claim.end] == claim.text == claim.text.strip()
        assert all(0 <= index < len(answer.citations) for index in claim.citations)
        assert list(claim.citations) == sorted(set(claim.citations))
        assert claim.citations or not claim.verified
        at = claim.end
    assert not answer.statement[at:].strip()
    assert Answer.model_validate_json(answer.model_dump_json()) == answer
    assert [c.piece for c in answer.citations] == sorted(c.piece for c in answer.citations)


def test_the_document_has_three_pieces() -> None:
    starts = [TEXT[piece.start : piece.end][:8] for piece in split(DOCUMENT, TOKENIZER, 24)]
    assert starts == ["The mill", "The fee ", "Ada Yard"]


# --- Cutting --------------------------------------------------------------------------------------

CASES = {
    "sentences": ("Ada paid. Bo did not!", ["Ada paid.", "Bo did not!"]),
    "decimals": ("It cost 3.5 crowns. No. 7 was free.", ["It cost 3.5 crowns.", "No. 7 was free."]),
    "abbreviations": (
        "Dr. J. Smith, e.g. of Vell, paid. St. Ives did not.",
        ["Dr. J. Smith, e.g. of Vell, paid.", "St. Ives did not."],
    ),
    "numbered": (
        "They owe:\n1. Pay rent\n2. Keep quiet. At night.\n10. Leave",
        ["They owe:", "1. Pay rent", "2. Keep quiet.", "At night.", "10. Leave"],
    ),
    "numbered in a line": ("1. Ada paid. 2. Bo left.", ["1. Ada paid.", "2. Bo left."]),
    "lettered": ("(a) one\n(b) two\nC) three", ["(a) one", "(b) two", "C) three"]),
    "bullets": ("- one\n* two\n• three", ["- one", "* two", "• three"]),
    "headings": ("## Fees\nIt is 41.\n\n# End\n", ["## Fees\nIt is 41.", "# End"]),
    "code": ("Run it:\n```py\na = 1. \n\nb = 2\n```\nDone.", None),
    "open code": ("See:\n```\nx. y. z.", ["See:", "```\nx. y. z."]),
    "table": (
        "Fees:\n| a | b |\n|---|---|\n| 1. x | 2 |\n| 3 | 4 |\nThat is all.",
        ["Fees:", "| a | b |\n|---|---|", "| 1. x | 2 |", "| 3 | 4 |", "That is all."],
    ),
    "wrapped": ("The mill, which\nhad stood, burned.", ["The mill, which\nhad stood, burned."]),
    "Chinese": ("磨坊建于1834年。费用是3.5。", ["磨坊建于1834年。", "费用是3.5。"]),
    "Hindi": ("वह दिल्ली में है। शुल्क 41 है।", ["वह दिल्ली में है।", "शुल्क 41 है।"]),
    "value": ("3.5", ["3.5"]),
    "rules": ("One.\n\n---\n\nTwo.", ["One.\n\n---", "Two."]),
    "nothing": (" \n ", []),
    "signs": ("---", ["---"]),
}


@pytest.mark.parametrize("case", CASES)
def test_sentences_items_rows_and_code_are_claims(case: str) -> None:
    text, expected = CASES[case]
    found = [text[start:end] for start, end in split_claims(text)]
    if case == "code":
        expected = ["Run it:", "```py\na = 1. \n\nb = 2\n```", "Done."]
    assert found == expected


LETTERS = st.sampled_from(" \n\r\t.!?。|`~#-*1aAé磨ह\u0301\u2028()[]:;")


@given(st.text(LETTERS, max_size=60) | st.text(max_size=60))
def test_every_letter_stands_in_one_claim(text: str) -> None:
    at = 0
    for start, end in split_claims(text):
        assert at <= start < end
        assert not text[at:start].strip()
        assert text[start:end] == text[start:end].strip()
        at = end
    assert not text[at:].strip()


@given(st.text(LETTERS, max_size=40) | st.text(max_size=40))
def test_the_record_holds_whatever_a_model_answers(said: str) -> None:
    check_record(asked(said))
    check_record(asked(f"A fact. Answer: {said}"))


# --- Carrying -------------------------------------------------------------------------------------


def test_each_sentence_has_the_quote_that_says_it() -> None:
    answer = asked(
        "The mill of Vell was built in 1834 by Mara Otis. Poor families paid nothing at all. "
        "The king was pleased with all of this."
    )
    check_record(answer)
    assert answer.statement.endswith("all of this.")
    built, poor, king = answer.claims
    assert built.verified
    assert [answer.citations[i].quote for i in built.citations] == [
        "The mill of Vell was built in 1834 by Mara Otis."
    ]
    assert poor.verified
    assert [answer.citations[i].piece for i in poor.citations] == [1]
    assert (king.citations, king.verified) == ((), False)
    assert number_claims(answer.claims, answer.statement).endswith(
        "at all. [2] The king was pleased with all of this. (unverified)"
    )


def test_one_passage_is_quoted_once_for_each_claim() -> None:
    answer = asked(
        "The mill of Vell was built in 1834 by Mara Otis. It burned down in May 1871.",
        points="<para 0>",
    )
    check_record(answer)
    assert [claim.citations for claim in answer.claims] == [(0,), (1,)]
    assert [citation.quote for citation in answer.citations] == [
        "The mill of Vell was built in 1834 by Mara Otis.",
        "It burned down in May 1871.",
    ]
    assert {citation.piece for citation in answer.citations} == {0}
    assert all(claim.verified for claim in answer.claims)


def test_a_value_is_carried_by_the_quote_that_holds_it() -> None:
    answer = asked("The fee for grinding was 3.5 crowns a sack. Answer: 3.5 crowns")
    assert answer.statement == answer.answer == "3.5 crowns"
    (claim,) = answer.claims
    assert claim.verified
    assert [answer.citations[i].piece for i in claim.citations] == [1]


def test_a_value_that_no_passage_holds_is_unverified() -> None:
    answer = asked("The fee for grinding was 3.5 crowns a sack. Answer: 4.5 crowns")
    (claim,) = answer.claims
    assert (claim.citations, claim.verified) == ((), False)
    assert any(citation.verified for citation in answer.citations)


def test_other_words_are_carried_by_the_round_that_found_them() -> None:
    answer = asked(
        "Whoever was poor could have their corn ground free of charge.",
        finding="Poor people could have corn ground free of charge, whoever they were.",
        points="<para 1>",
    )
    (claim,) = answer.claims
    assert [answer.citations[i].piece for i in claim.citations] == [1]
    assert not claim.verified


def test_a_sentence_is_carried_by_the_paragraphs_that_it_names() -> None:
    answer = asked(
        "Grinding had its price then <para 1>. A woman had it put up <para 0>, long ago. "
        "Nobody was glad of it."
    )
    check_record(answer)
    assert "<para" not in answer.statement
    cited = [[answer.citations[i].piece for i in claim.citations] for claim in answer.claims]
    assert cited == [[1], [0], []]
    assert not any(claim.verified for claim in answer.claims)
    hidden = asked("Grinding had its price then <para 2>.", points="<para 1>")
    assert hidden.claims[0].citations == (), "what the model did not point to is not cited"


def test_what_leads_to_a_list_is_not_called_unverified() -> None:
    answer = asked("They say:\n- It burned down in May 1871.\n- It was pretty all the same.")
    shown = number_claims(answer.claims, answer.statement)
    assert shown.splitlines() == [
        "They say:",
        "- It burned down in May 1871. [1]",
        "- It was pretty all the same. (unverified)",
    ]


def test_a_number_before_a_heading_is_no_closest_sentence() -> None:
    document = Document.of("3. Fees. The monthly fee is 3,250 euros. It is due in May.", "a.txt")
    answer = asked("Answer: EUR 3", document=document, points="<para 0>", piece_tokens=64)
    assert answer.citations[0].quote != "3."


def test_a_shared_figure_is_needed() -> None:
    same = "The mill of Vell was built in 1834 by one Mara Otis, it says."
    other = "The mill of Vell was built in 1843 by one Mara Otis, it says."
    fact = "The mill of Vell was built in 1834 by Mara Otis."
    assert asked(same, finding=fact).claims[0].verified
    assert not asked(other, finding=fact).claims[0].verified
    short = asked("Answer: 1843", finding=fact)
    assert (short.claims[0].citations, short.claims[0].verified) == ((), False)


def test_words_and_figures_are_the_same_number() -> None:
    document = Document.of("A breach must be cured within thirty days after notice.", "a.txt")
    for said in ("It must be cured within 30 days after a notice of the breach.", "30 days"):
        answer = asked(f"Answer: {said}", document=document, points="<para 0>", piece_tokens=64)
        (claim,) = answer.claims
        assert claim.citations == (0,), said
    other = "It must be cured within 31 days after a notice of the breach."
    answer = asked(f"{other} Answer: {other}", document=document, points="<para 0>")
    assert (answer.claims[0].citations, answer.claims[0].verified) == ((0,), False)


def test_an_option_is_the_claim() -> None:
    answer = asked(
        "The fee for grinding was 3.5 crowns a sack. Answer: B",
        options=("2 crowns", "3.5 crowns"),
    )
    assert (answer.answer, answer.statement) == ("B", "3.5 crowns")
    assert answer.claims[0].verified
    none = asked("Neither.", options=("2 crowns", "3 crowns"))
    assert (none.statement, none.claims) == ("", ())


def test_yes_rests_on_what_was_found() -> None:
    answer = asked("Answer: yes", finding="It burned down in May 1871.", points="<para 0>")
    (claim,) = answer.claims
    assert (claim.citations, claim.verified) == ((0,), True)
    bare = asked("Answer: yes", points="No paragraph helps.")
    assert (bare.claims[0].citations, bare.claims[0].verified) == ((), False)


def test_all_lines_of_a_final_answer_are_stated() -> None:
    lines = "- The mill of Vell was built in 1834 by Mara Otis.\n- It burned down in May 1871."
    answer = asked(f"Facts. Answer:\n{lines}")
    assert answer.statement == lines
    assert [claim.verified for claim in answer.claims] == [True, True]


# --- Status ---------------------------------------------------------------------------------------


def test_status_tells_three_ends_apart() -> None:
    assert asked("Answer: 3.5 crowns").status == "supported"
    nothing = "No paragraph helps."
    assert asked("Answer: 9 crowns", points=nothing, check="no").status == "unsupported"
    for said in ("The document does not say.", "Answer: not mentioned in the text"):
        assert asked(said, points=nothing, check="no").status == "not_in_document"
    assert asked("The text does not tell who paid.", points="<para 1>").status == "not_in_document"


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("It is not stated.", True),
        ("Unknown", True),
        ("There is no information on fees.", True),
        ("The answer cannot be determined from the text.", True),
        ("文中没有提到。", True),
        ("Das Dokument nennt keine Gebühr.", True),
        ("Not Ada, but Bo", False),
        ("No one paid.", False),
        ("Unknown to her, the mill burned.", False),
        ("It is not known for its fees.", False),
        ("The contract does not mention rent.", False),
        ("no", False),
        ("", False),
    ],
)
def test_answers_that_say_the_document_does_not_tell(text: str, absent: bool) -> None:
    assert says_absent(text) is absent


# --- What clients parse ---------------------------------------------------------------------------


def test_a_quote_over_a_page_break_has_rectangles_on_both(tmp_path: Path) -> None:
    path = tmp_path / "mill.pdf"
    lines = (
        "The fee for grinding was three crowns a sack for all",
        "who lived in Vell. So it was.",
    )
    pages = [f"BT /F1 12 Tf 72 {80 + 620 * i} Td ({line}) Tj ET" for i, line in enumerate(lines)]
    path.write_bytes(make_pdf(pages))
    said = "The fee for grinding was three crowns a sack for all who lived in Vell."
    answer = asked(f"{said} Answer: three crowns", document=load_document(path), points="<para 0>")
    (citation,) = answer.citations
    assert citation.verified
    assert (citation.page, citation.end_page) == (1, 2)
    assert [one.page for one in citation.rectangles or ()] == [1, 2]
    (location,) = citation_locations(answer)
    assert location["type"] == "page_location"
    assert (location["start_page_number"], location["end_page_number"]) == (1, 3)
    assert location["document_title"] == "mill.pdf"
    assert [one["page"] for one in location["rectangles"]] == [1, 2]
    (told,) = annotations(answer, ["file-1"])
    assert (told["file_id"], told["index"]) == ("file-1", len("three crowns"))
    assert told["agenticlu"]["rectangles"] == location["rectangles"]


def test_locations_count_in_the_cited_file() -> None:
    other = "Rain fell for nine days and nights.\n\n"
    named = [
        (Source("other.txt", "other.txt"), Document.of(other, "other.txt")),
        (Source("mill.txt", "mill.txt"), Document.of(TEXT, "mill.txt")),
    ]
    joined = join_documents(named, "all")
    answer = asked(
        "It burned down in May 1871. Answer: May 1871", document=joined, points="<para 1>"
    )
    check_record(answer)
    (location,) = citation_locations(answer)
    assert location["type"] == "char_location"
    assert (location["document_index"], location["document_title"]) == (1, "mill.txt")
    cited = TEXT[location["start_char_index"] : location["end_char_index"]]
    assert cited == location["cited_text"] == "It burned down in May 1871."
    (told,) = annotations(answer, ["file-a", "file-b"])
    assert (told["type"], told["file_id"], told["filename"]) == (
        "file_citation",
        "file-b",
        "mill.txt",
    )
    assert told["agenticlu"]["quote"] == cited


def test_every_citation_is_annotated_and_no_path_is_told() -> None:
    answer = asked("The king was pleased with all of this.")
    told = annotations(answer)
    assert [one["agenticlu"]["citation"] for one in told] == [0, 1]
    assert {one["index"] for one in told} == {len(answer.statement)}
    assert {one["filename"] for one in told} == {"mill.txt"}
    assert "folder" not in json.dumps(told)
    assert json.loads(json.dumps(citation_locations(answer))) == citation_locations(answer)
