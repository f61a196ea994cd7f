"""The answer that a dialogue comes to, with the passages behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from agenticlu.core.records import Turn, TurnKind
from agenticlu.dialogue.answer import Answer
from agenticlu.dialogue.caveats import quote_notes
from agenticlu.dialogue.claims import find_claims, find_findings, find_marked
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.run import ShownDocument
from agenticlu.dialogue.statement import says_absent, state
from agenticlu.dialogue.steps import Dialogue
from agenticlu.documents import Marks
from agenticlu.documents.citations import cite, statements
from agenticlu.evaluation.scoring.answers import parse_choice
from agenticlu.evaluation.scoring.final import LABEL, parse_final_answer

_STATING: tuple[TurnKind, ...] = ("answer", "sub_answer")


def conclude(dialogue: Dialogue, shown: ShownDocument, kept: tuple[int, ...] | None) -> Answer:
    """Reads a dialogue's turns as an answer; what it cost is not known here.

    Args:
        dialogue: Finished, or stopped early.
        shown: The document.
        kept: Pieces that the model was shown; None: all.
    """
    document, question = shown.document, dialogue.question
    pointed = [shown.named(turn.reply, kept) for turn in dialogue.turns if turn.kind == "point"]
    cited = tuple(sorted({index for marks in pointed for index in marks.valid}))
    notes = [note for marks in pointed for note in _mark_notes(marks)]
    # The base answer, where a dialogue was stopped before it had another.
    final = dialogue.last("answer") or dialogue.last("direct")
    reply = final.reply if final else ""
    if question.options:
        answer = parse_choice(reply, question.options) or ""
        if not answer and final:
            notes.append("The reply names none of the options.")
    else:
        answer = parse_final_answer(reply)
    verdict, said = _checked(dialogue), _statements(dialogue.turns)
    notes += _check_notes(dialogue, verdict, cited)
    citations = cite(document, shown.pieces, cited, said, (answer, reply, question.text))
    notes += quote_notes(document, shown.pieces, statements([reply], LABEL), citations)
    statement = state(reply, answer, question)

    def named(text: str) -> tuple[int, ...]:
        return shown.named(text, kept).valid

    findings, marked = find_findings(dialogue.turns, named), find_marked(reply, statement, named)
    claims, citations = find_claims(
        statement, document, shown.pieces, citations, said, findings, marked
    )
    supported = bool(answer) and (bool(cited) or verdict == "yes")
    return Answer(
        document_id=document.id,
        source=document.source,
        question=question.text,
        options=question.options,
        answer=answer,
        supported=supported,
        checked=None if verdict is None else verdict == "yes",
        citations=citations,
        rounds=dialogue.rounds_begun,
        turns=dialogue.turns,
        num_pieces=len(shown.pieces),
        shown_pieces=kept,
        profile=dialogue.profile.label,
        notes=tuple(notes),
        left_out=document.left_out_by_name,
        unread=document.unread,
        statement=statement,
        claims=claims,
        status=_status(statement, supported),
    )


def _mark_notes(marks: Marks) -> Iterator[str]:
    if marks.out_of_range:
        wrong = ", ".join(map(str, marks.out_of_range[:5]))
        yield f"The model named paragraphs that it was not shown: {wrong}."
    elif not marks.valid:
        yield "The model named no paragraph."


def _status(
    statement: str, supported: bool
) -> Literal["supported", "unsupported", "not_in_document"]:
    if says_absent(statement):
        return "not_in_document"
    return "supported" if supported else "unsupported"


def _check_notes(dialogue: Dialogue, verdict: str | None, cited: Sequence[int]) -> Iterator[str]:
    if dialogue.last("check") is not None and verdict is None:
        yield "The self-check gave no clear verdict."
    elif verdict == "no" and cited:
        yield "The model's own check says that the answer is not settled."


def _checked(dialogue: Dialogue) -> str | None:
    check = dialogue.last("check")
    return parse_verdict(check.reply, ("yes", "no")) if check else None


def _statements(turns: Sequence[Turn]) -> list[str]:
    """Returns what the model stated, the latest first."""
    return statements([turn.reply for turn in reversed(turns) if turn.kind in _STATING], LABEL)
