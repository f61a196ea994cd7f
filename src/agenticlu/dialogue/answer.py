"""The answer to a question with the passages behind it, and the steps that lead to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup
from pydantic import Field

from agenticlu.core.errors import NoSupportedAnswerError, UsageError
from agenticlu.core.records import (
    Document,
    Question,
    Record,
    Turn,
    TurnKind,
    Usage,
    content_id,
)
from agenticlu.documents.citations import Citation

MOST_CHOICES = 26
"""Of a multiple-choice question: each has a letter."""
Status = Literal["supported", "unsupported", "not_in_document"]


class Claim(Record):
    """One sentence of an answer, with the citations that carry it."""

    text: str
    """As it stands in the answer's statement."""
    start: int
    """First character in `Answer.statement`."""
    end: int
    """One past the last character."""
    citations: tuple[int, ...] = ()
    """Indices into `Answer.citations`, from 0, ascending; people are shown `[index + 1]`."""
    verified: bool = False
    """Whether a quote that the model stated itself, word for word as in the source, says it."""


class Answer(Record):
    """The answer to a question, with the passages behind it."""

    document_id: str
    source: str
    question: str
    options: tuple[str, ...] = ()
    answer: str
    """Final answer; of a multiple choice question, the letter, or '' where none was chosen."""
    supported: bool
    """Whether the model named a passage of the document, or its self-check said yes."""
    checked: bool | None = None
    """The last self-check's verdict; None when it gave none."""
    citations: tuple[Citation, ...] = ()
    rounds: int = 0
    turns: tuple[Turn, ...] = ()
    num_pieces: int = 0
    shown_pieces: tuple[int, ...] | None = None
    """Pieces that the model saw in the dialogue, when reading by spans; None means all."""
    usage: Usage = Usage()
    setup: Usage = Usage()
    """The part of the usage that found out what the server can do and how long its window is."""
    seconds: float = 0.0
    engine: str = ""
    profile: str = ""
    tokenizer: str = ""
    notes: tuple[str, ...] = ()
    """Caveats for the reader: invalid marks, cut replies, spans, unverified quotes."""
    left_out: dict[str, dict[str, int]] = Field(default_factory=dict)
    """What of each file its text does not hold, by the file's name, counted by kind; files without
    such are not named. Of a folder, by its own name, what was passed over."""
    unread: dict[str, str] = Field(default_factory=dict)
    """Files among several that could not be read, by name, and why."""
    statement: str = Field(default_factory=lambda data: str(data.get("answer", "")))
    """The answer as prose, which claims cut into sentences: of a multiple choice question the
    option's text, else the final answer with all of its lines."""
    claims: tuple[Claim, ...] = ()
    """The sentences of the statement in order: every letter of it stands in one of them."""
    status: Status = Field(
        default_factory=lambda data: "supported" if data.get("supported") else "unsupported"
    )
    """`supported` for short, but for an answer that says the document does not tell."""
    stopped: bool = False
    """Whether it was stopped early, and so is the best answer until then."""
    cost: float | None = None
    """What its tokens cost, in the currency of the prices that were given; None without prices."""

    def _repr_html_(self) -> str:
        """Shows the answer in a notebook: its sentences with their numbers, then the sources."""
        said, at = Markup(), 0
        for claim in self.claims:
            marks = Markup().join(Markup("<sup>[{}]</sup>").format(i + 1) for i in claim.citations)
            said += self.statement[at : claim.end] + marks
            if not claim.verified and self.status != "not_in_document":
                said += Markup(" <small>(unverified)</small>")
            at = claim.end
        parts = [Markup("<p>{}</p>").format(said + self.statement[at:] or "(no answer)")]
        if self.status != "supported":
            parts.append(Markup("<p><em>{}</em></p>").format(self.status.replace("_", " ")))
        for number, citation in enumerate(self.citations, start=1):
            file = "" if citation.file is None else citation.file.name
            page = citation.page_name or ("" if citation.page is None else f"page {citation.page}")
            where = ", ".join(filter(None, (file, page, f"paragraph {citation.piece}")))
            quote = citation.quote if citation.verified else None
            shown = Markup("<br>“{}”").format(quote) if quote else Markup()
            parts.append(Markup("<p><small>[{}] {}{}</small></p>").format(number, where, shown))
        parts += [Markup("<p><small>{}</small></p>").format(note) for note in self.notes]
        return Markup("\n").join(parts)


EventKind = Literal["search", "scan", "begin", "text", "turn"]
"""search: pieces are looked for by words. scan: they are scored. begin: a turn is about to be
sampled. text: more of its reply came. turn: it is finished; its reply counts, whatever was told of
it before (a thought may have shown itself as such only at its end)."""


@dataclass(frozen=True)
class Event:
    """A step of the work, reported while it happens."""

    kind: EventKind
    round: int
    """From 1."""
    turn: Turn | None = None
    pieces: tuple[int, ...] = ()
    """Valid marks of a `point` turn; pieces kept by a finished scan."""
    done: int = 0
    """Pieces scored so far."""
    total: int = 0
    turn_kind: TurnKind | None = None
    """Of a `begin` or `text`: which turn."""
    text: str = ""
    """Of a `text`: what came."""


def make_question(document: Document, text: str, options: Sequence[str] = ()) -> Question:
    """Builds a question with an id made of document, text and options.

    Raises:
        UsageError: It has no text, or has one option, too many or an empty one.
    """
    text = text.strip()
    if not text:
        raise UsageError("The question is empty.", hint="Write what you want to know.")
    if len(options) == 1:
        raise UsageError("A multiple-choice question needs at least two choices.")
    if len(options) > MOST_CHOICES:
        raise UsageError(f"At most {MOST_CHOICES} choices are allowed, not {len(options)}.")
    if not all(option.strip() for option in options):
        raise UsageError("A choice is empty.")
    return Question(id=content_id(document.id, text, *options), text=text, options=tuple(options))


def check_supported(answer: Answer) -> None:
    """Raises NoSupportedAnswerError for an answer that nothing in the document supports."""
    if answer.stopped and not answer.answer:
        raise NoSupportedAnswerError("There is no answer: it was stopped before there was any.")
    if not answer.supported and not answer.answer:
        raise NoSupportedAnswerError(
            "There is no answer: the model replied with nothing.",
            hint="Look at what it can do: agenticlu doctor; or try another model.",
        )
    if not answer.supported:
        raise NoSupportedAnswerError(
            "The document does not support an answer: the model named no passage of it"
            + (", and its own check says no." if answer.checked is False else "."),
            hint="Ask more precisely, allow more rounds (--rounds 3), or try another model.",
        )
