"""The chain of clarifications: a step machine without input or output.

A round is clarify → point back → sub-answer → answer → self-check (the paper's CoC step, section
3 of arXiv 2502.15920). `agenticlu.dialogue.run` drives it for inference, search and evaluation;
training rows are its rendered turns:

    dialogue = Dialogue(profile=profile, document_id=document.id, view=marked, question=question)
    while (request := dialogue.next_request()) is not None:
        completion = ...                 # an engine's reply to request.messages
        dialogue = dialogue.advance(request.turn(completion))

The document comes before the question, and the system wording depends on the document alone, so
all traces of one document share one token prefix.

A profile in the published layout (REFERENCE: EvanZhuang/AgenticLU's data set) puts a base answer
before the rounds, in reply to document and question alone, and keeps self-checks out of what later
turns see.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from agenticlu.core.errors import ConfigError, require_known
from agenticlu.core.options import option_letter
from agenticlu.core.records import (
    Message,
    Node,
    Question,
    Record,
    Turn,
    TurnKind,
    Usage,
    content_seed,
)
from agenticlu.core.toml import parse_toml, read_toml
from agenticlu.dialogue.gist import asks_same, find_gist
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.dialogue.thoughts import strip_thinking
from agenticlu.documents import neutralise
from agenticlu.engines.base import Completion

KINDS = (
    "system",
    "direct",
    "clarify",
    "clarify_again",
    "point",
    "sub_answer",
    "answer",
    "check",
    "relevance",
)
"""Kinds of wording a profile must have."""

Layout = Literal["own", "published"]


class Wording(Record):
    """One paraphrase of one request."""

    id: str
    text: str


class Profile(Record):
    """All wordings of a run."""

    name: str
    version: int
    layout: Layout = "own"
    """How a conversation is put together. own: document, question and the first request open it
    together, and each round ends in its self-check. published: document and question open it
    alone and the reply to them, the base answer, stays in it; the self-check is asked aside and
    leaves no trace. The latter is the layout of the published data set."""
    system: tuple[Wording, ...]
    direct: tuple[Wording, ...]
    clarify: tuple[Wording, ...]
    clarify_again: tuple[Wording, ...]
    point: tuple[Wording, ...]
    sub_answer: tuple[Wording, ...]
    answer: tuple[Wording, ...]
    check: tuple[Wording, ...]
    relevance: tuple[Wording, ...]

    @property
    def label(self) -> str:
        """Name and version, as stored with every tree."""
        return f"{self.name}@{self.version}"

    def draw(self, kind: str, *seed_parts: str) -> Wording:
        """Returns the paraphrase of `kind` that the parts select; equal parts, equal wording."""
        wordings: tuple[Wording, ...] = getattr(self, kind)
        return wordings[content_seed(self.label, kind, *seed_parts) % len(wordings)]


def load_profile(name_or_path: str = "default") -> Profile:
    """Loads a bundled profile by name, or one from a TOML file.

    Raises:
        ConfigError: Unknown profile, or a file that does not hold one.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"Profile file not found: {name_or_path!r}.",
                hint="Give the path of a TOML file, or the name 'default'.",
            )
        data = read_toml(path)
    else:
        bundled = importlib.resources.files(__package__)
        names = sorted(p.name[:-5] for p in bundled.iterdir() if p.name.endswith(".toml"))
        require_known(name_or_path, names, kind="profile", hint="A path must end in .toml.")
        data = bundled.joinpath(f"{name_or_path}.toml").read_bytes()
    try:
        profile = Profile.model_validate(parse_toml(data, f"The profile {name_or_path!r}"))
    except ValidationError as error:
        raise ConfigError(f"Invalid profile {name_or_path!r}: {error}") from error
    empty = [kind for kind in KINDS if not getattr(profile, kind)]
    if empty:
        raise ConfigError(f"Profile {name_or_path!r} has no wording for: {', '.join(empty)}.")
    return profile


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
"""Default limit on the tokens of a reply, by kind."""
EARLIER_HEAD = "Asked before about this document:"
NO_ANSWER = "(none was found)"
NEXT_ROUND_CHECK = "no"
"""What the self-check of a round reads when another round follows it."""


@dataclass(frozen=True)
class Request:
    """The next request to an engine."""

    kind: TurnKind
    wording: str
    """Id of the wording."""
    text: str
    """The request, without document and question."""
    messages: tuple[Message, ...]
    """The whole conversation; ends in a user message."""

    def turn(self, completion: Completion, usage: Usage | None = None) -> Turn:
        """Builds the finished turn from a reply, thinking stripped."""
        reply = strip_thinking(completion.text)
        return Turn(
            kind=self.kind,
            wording=self.wording,
            request=self.text,
            reply=reply,
            # Ids are what training learns from: they must spell the reply and nothing else.
            token_ids=completion.token_ids if reply == completion.text else None,
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
        question: Open or multiple choice; shown with its control tokens neutralised.
        steps: Turn kinds of one round, in order. Leaving out `clarify` and `sub_answer`, or
            `point`, gives the paper's ablations; `DIRECT` is the plain answer, and needs no
            opening in any layout.
        max_rounds: Maximum number of rounds.
        turns: Finished turns.
        ends_on_repeat: Whether a clarification that was asked before ends the conversation, with
            the answer it has. For inference; a search keeps its samples in any case.
        controls: The model's own control tokens; see `documents.neutralise`.
        earlier: Questions asked before about the document, and their answers. They stand behind
            the document, so that all questions about it share its tokens.
    """

    profile: Profile
    document_id: str
    view: str
    question: Question
    steps: tuple[TurnKind, ...] = FULL_ROUND
    max_rounds: int = 1
    turns: tuple[Turn, ...] = ()
    ends_on_repeat: bool = False
    controls: tuple[str, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    over: bool | None = None
    """Whether a stop rule ends the conversation after the last turn; None: the self-check does."""

    @property
    def opening(self) -> tuple[TurnKind, ...]:
        """Turns before the first round: the base answer where the layout has one."""
        return opening_kinds(self.profile) if "direct" not in self.steps else ()

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
        return bool(self.turns) and find_repeat(self.turns) == len(self.turns) - 1

    def next_request(self) -> Request | None:
        """Returns what to ask next, or None when the conversation is over."""
        if self.round >= self.max_rounds or (self.satisfied if self.over is None else self.over):
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

    def last(self, kind: TurnKind) -> Turn | None:
        """Returns the latest turn of a kind, if any."""
        return next((turn for turn in reversed(self.turns) if turn.kind == kind), None)

    def advance(self, turn: Turn) -> Dialogue:
        """Returns the state after a finished turn."""
        expected = self._next_kind()
        assert turn.kind == expected, f"expected a {expected} turn, got {turn.kind}"
        return replace(self, turns=(*self.turns, turn), over=None)

    def decided(self, over: bool) -> Dialogue:
        """Returns the state in which a stop rule has decided whether the last turn is the last."""
        return replace(self, over=over)

    def messages(self) -> tuple[Message, ...]:
        """Renders the finished turns as a conversation; roles alternate after the system turn."""
        system = self.profile.draw("system", self.document_id)
        messages = [Message(role="system", content=system.text)]
        for i, turn in enumerate(self.turns):
            if turn.kind == "check" and self.profile.layout == "published":
                continue
            request = self._opened(turn.request, self.turns[:i])
            messages.append(Message(role="user", content=request))
            messages.append(Message(role="assistant", content=self._said(i)))
        return tuple(messages)

    def _said(self, index: int) -> str:
        """Returns a turn's reply as later turns see it: no round follows a self-check of yes."""
        turn = self.turns[index]
        goes_on = turn.kind == "check" and (index + 1 < len(self.turns) or self.over is False)
        if goes_on and parse_verdict(turn.reply, ("yes", "no")) == "yes":
            return NEXT_ROUND_CHECK
        return turn.reply

    def _next_kind(self) -> TurnKind:
        number = len(self.turns) - len(self.opening)
        return self.opening[number] if number < 0 else self.steps[number % len(self.steps)]

    def _asked(self) -> str:
        text = neutralise(self.question.text, self.controls)
        if not self.question.options:
            return text
        options = [neutralise(option, self.controls) for option in self.question.options]
        return f"{text}\n{render_options(options)}\n"

    def _opened(self, request: str, before: Sequence[Turn]) -> str:
        """Puts document and question in front of the first request."""
        if before:
            return request
        view = self.view
        if self.earlier:
            view = f"{view}\n\n{render_earlier(self.earlier, self.controls)}"
        if self.profile.layout == "published":
            return "\n\n".join(part for part in (view, self._asked().strip(), request) if part)
        return f"{view}\n\nQuestion: {self._asked()}\n\n{request}"


def opening_kinds(profile: Profile) -> tuple[TurnKind, ...]:
    """Returns the kinds of turns that precede the first round in a profile's layout."""
    return DIRECT if profile.layout == "published" else ()


def build_history(path: Sequence[Node], profile: Profile) -> tuple[Turn, ...]:
    """Returns the turns along a path, from the root on, as the next round sees them."""
    opening = opening_kinds(profile)
    turns: list[Turn] = []
    for node in path:
        if node.parent is None:
            turns += [turn for turn in node.turns if turn.kind in opening]
        else:
            turns += continue_round(node.turns)
    return tuple(turns)


def continue_round(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Returns a round's turns as the next round sees them: its self-check reads "no".

    A next round happens only after a "no". Where the sampled check said otherwise, although the
    judges found the answer wrong (or a complete tree was asked for), its reply is overwritten, as
    grounding writes the marks.
    """
    rewritten = {"reply": NEXT_ROUND_CHECK, "token_ids": None, "finish_reason": "stop"}
    return tuple(
        turn.model_copy(update=rewritten)
        if turn.kind == "check" and parse_verdict(turn.reply, ("yes", "no")) != "no"
        else turn
        for turn in turns
    )


def render_earlier(earlier: Sequence[tuple[str, str]], controls: Sequence[str] = ()) -> str:
    r"""Returns earlier questions with their answers, without markers and control tokens.

    >>> render_earlier([("Who wrote it?", "Ada")])
    'Asked before about this document:\nQuestion: Who wrote it?\nAnswer: Ada'
    """
    lines = [EARLIER_HEAD] if earlier else []
    for question, answer in earlier:
        for label, text in (("Question", question), ("Answer", answer or NO_ANSWER)):
            lines.append(f"{label}: {' '.join(neutralise(text, controls).split())}")
    return "\n".join(lines)


def render_options(options: Sequence[str]) -> str:
    r"""Returns options as lettered lines.

    >>> render_options(["red", "blue"])
    'A. red\nB. blue'
    """
    return "\n".join(f"{option_letter(i)}. {option}" for i, option in enumerate(options))


# --- Clarifications that repeat another -----------------------------------------------------------


def find_repeat(turns: Sequence[Turn]) -> int | None:
    """Returns the index of the first clarification that repeats an earlier one, if any."""
    asked: list[str] = []
    for index, turn in enumerate(turns):
        if turn.kind == "clarify":
            if any(is_near_duplicate(one, turn.reply) for one in asked):
                return index
            asked.append(turn.reply)
    return None


def is_near_duplicate(first: str, second: str) -> bool:
    """Whether two clarifications ask the same thing in the same words; see `dialogue.gist`.

    >>> is_near_duplicate("Who is the mother of Ada?", "who is mother of Ada")
    True
    >>> is_near_duplicate("Who is the mother of Ada?", "Who is the mother of Ben?")
    False
    """
    return asks_same(find_gist(first), find_gist(second))


def merge_near_duplicates(texts: Sequence[str]) -> tuple[int, ...]:
    """Returns the index of the first of every group of near-duplicates; empty texts are dropped.

    All pairs are compared, 0.02 ms for 8 texts and 1.4 ms for 64. MinHash would be faster only from
    some hundreds on, and misses pairs (LOG).
    """
    kept: list[int] = []
    for index, text in enumerate(texts):
        if text.strip() and not any(is_near_duplicate(texts[other], text) for other in kept):
            kept.append(index)
    return tuple(kept)
