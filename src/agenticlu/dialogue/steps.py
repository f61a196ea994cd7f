"""The chain of clarifications, defined once: a step machine without input or output.

A round is clarify → point back → sub-answer → answer → self-check (the paper's CoC step, section
3 of arXiv 2502.15920). Search, inference, training and evaluation all run this machine:

    dialogue = Dialogue(profile=profile, document_id=document.id, view=marked, question=question)
    while (request := dialogue.next_request()) is not None:
        reply = ...                      # ask an engine with request.messages
        dialogue = dialogue.advance(request.turn(reply))

The document stands before the question, and the system wording depends on the document alone, so
all traces of one document share one token prefix.

A profile in the published layout (REFERENCE: EvanZhuang/AgenticLU's data set) puts a base answer
before the rounds, in reply to document and question alone, and keeps self-checks out of what later
turns see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agenticlu.core.records import Message, Question, Turn, TurnKind, Usage
from agenticlu.dialogue.clarifications import is_near_duplicate
from agenticlu.dialogue.profiles import Profile
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.engines.base import Completion

FULL_ROUND: tuple[TurnKind, ...] = ("clarify", "point", "sub_answer", "answer", "check")
DIRECT: tuple[TurnKind, ...] = ("direct",)
OPENING = "opening"
"""Id of the request that is document and question alone."""
MAX_TOKENS: dict[TurnKind, int] = {
    "direct": 256,
    "clarify": 128,
    "point": 128,
    "sub_answer": 256,
    "answer": 256,
    "check": 16,
}
"""Most tokens a reply of each kind may take, unless the caller says otherwise."""


@dataclass(frozen=True)
class Request:
    """The next thing to ask an engine."""

    kind: TurnKind
    wording: str
    """Id of the wording."""
    text: str
    """The request, without document and question."""
    messages: tuple[Message, ...]
    """The whole conversation; ends in a user message."""

    def turn(
        self, completion: Completion, usage: Usage | None = None, reply: str | None = None
    ) -> Turn:
        """Builds the finished turn from a sampled reply (or from `reply`, set by grounding)."""
        return Turn(
            kind=self.kind,
            wording=self.wording,
            request=self.text,
            reply=completion.text if reply is None else reply,
            token_ids=completion.token_ids if reply is None else None,
            finish_reason=completion.finish_reason,
            usage=usage,
        )


@dataclass(frozen=True)
class Dialogue:
    """State of one conversation about one question; every step returns a new state.

    Args:
        profile: Wordings.
        document_id: Seeds the draw of the wordings.
        view: What the model sees of the document: all marked pieces, or, during search, those
            that grounding kept.
        question: Open or multiple choice.
        steps: Turn kinds of one round, in order. Leaving out `clarify` and `sub_answer`, or
            `point`, gives the paper's ablations; `DIRECT` is the plain answer, and needs no
            opening in any layout.
        max_rounds: Rounds at most.
        turns: Finished turns.
        ends_on_repeat: Whether a clarification that was asked before ends the conversation, with
            the answer it has. For inference: a search wants its samples whatever they are.
    """

    profile: Profile
    document_id: str
    view: str
    question: Question
    steps: tuple[TurnKind, ...] = FULL_ROUND
    max_rounds: int = 1
    turns: tuple[Turn, ...] = ()
    ends_on_repeat: bool = False

    @property
    def opening(self) -> tuple[TurnKind, ...]:
        """Turns before the first round: the base answer where the layout has one."""
        return opening_of(self.profile) if "direct" not in self.steps else ()

    @property
    def round(self) -> int:
        """Rounds finished."""
        return max(0, len(self.turns) - len(self.opening)) // len(self.steps)

    @property
    def rounds_begun(self) -> int:
        """Rounds of which at least one turn is finished."""
        return -(-max(0, len(self.turns) - len(self.opening)) // len(self.steps))

    @property
    def satisfied(self) -> bool:
        """Whether the last self-check said yes."""
        return bool(
            self.turns
            and self.turns[-1].kind == "check"
            and parse_verdict(self.turns[-1].reply, ("yes", "no")) == "yes"
        )

    @property
    def repeats(self) -> bool:
        """Whether the last turn is a clarification that an earlier round asked already."""
        if not self.turns or self.turns[-1].kind != "clarify":
            return False
        *before, last = [turn.reply for turn in self.turns if turn.kind == "clarify"]
        return any(is_near_duplicate(one, last) for one in before)

    def next_request(self) -> Request | None:
        """Returns what to ask next, or None when the conversation is over."""
        if self.round >= self.max_rounds or self.satisfied:
            return None
        if self.ends_on_repeat and self.repeats:
            return None
        kind = self._next_kind()
        if kind == "direct" and self.profile.layout == "published":
            wording, text = OPENING, ""
        else:
            pool = "clarify_again" if kind == "clarify" and self.round > 0 else kind
            drawn = self.profile.draw(pool, self.document_id, self.question.id, str(self.round))
            wording, text = drawn.id, drawn.text.replace("{question}", self._asked())
        asked = Message(role="user", content=self._opened(text, self.turns))
        return Request(kind, wording, text, (*self.messages(), asked))

    def advance(self, turn: Turn) -> Dialogue:
        """Returns the state after a finished turn."""
        expected = self._next_kind()
        assert turn.kind == expected, f"expected a {expected} turn, got {turn.kind}"
        return replace(self, turns=(*self.turns, turn))

    def messages(self) -> tuple[Message, ...]:
        """Renders the finished turns as a conversation; roles alternate after the system turn."""
        system = self.profile.draw("system", self.document_id)
        messages = [Message(role="system", content=system.text)]
        for i, turn in enumerate(self.turns):
            if turn.kind == "check" and self.profile.layout == "published":
                continue
            request = self._opened(turn.request, self.turns[:i])
            messages.append(Message(role="user", content=request))
            messages.append(Message(role="assistant", content=turn.reply))
        return tuple(messages)

    def _next_kind(self) -> TurnKind:
        number = len(self.turns) - len(self.opening)
        return self.opening[number] if number < 0 else self.steps[number % len(self.steps)]

    def _asked(self) -> str:
        if not self.question.options:
            return self.question.text
        return f"{self.question.text}\n{render_options(self.question.options)}\n"

    def _opened(self, request: str, before: Sequence[Turn]) -> str:
        """Puts document and question in front of the first request."""
        if before:
            return request
        if self.profile.layout == "published":
            return "\n\n".join(part for part in (self.view, self._asked().strip(), request) if part)
        return f"{self.view}\n\nQuestion: {self._asked()}\n\n{request}"


def opening_of(profile: Profile) -> tuple[TurnKind, ...]:
    """Returns the turns that stand before the first round in a profile's layout."""
    return DIRECT if profile.layout == "published" else ()


def render_options(options: Sequence[str]) -> str:
    r"""Returns options as lettered lines.

    >>> render_options(["red", "blue"])
    'A. red\nB. blue'
    """
    return "\n".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(options))
