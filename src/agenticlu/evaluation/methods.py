"""The methods under evaluation: each answers an item by a dialogue or by a single request.

All methods of a run share the decoding settings, the limit on a reply that ends in an answer, and
the document's place at the front of the prompt, so that they also share its keys and values.
"""

from __future__ import annotations

import functools
import importlib.resources
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from agenticlu.core.errors import DocumentTooLongError, UsageError, require_known
from agenticlu.core.records import Message, Piece, Turn, TurnKind, Usage
from agenticlu.dialogue.run import (
    RELEVANCE_CHOICES,
    PieceIndex,
    ShownDocument,
    best_of,
    compute_relevance,
    render_relevance,
    run_dialogue,
    show_document,
)
from agenticlu.dialogue.steps import DIRECT, FULL_ROUND, Dialogue, Profile, Request, Wording
from agenticlu.dialogue.stopping import decide
from agenticlu.dialogue.thoughts import strip_thinking
from agenticlu.engines.base import Engine, Sampled
from agenticlu.evaluation.config import ANSWERING, RunSettings
from agenticlu.evaluation.records import Item, Prompt, gold_pieces

TOKENS_PER_MARKER = 16
"""Tokens reserved for the two markers of a piece when a document is fitted into a window."""
TURN_RESERVE = 512
"""Tokens kept free for the question and the requests when a document is fitted into a window."""


@dataclass(frozen=True)
class Method:
    """One way to answer an item."""

    steps: tuple[TurnKind, ...] = DIRECT
    """Turns of one round."""
    several_rounds: bool = False
    """Whether the run's number of rounds applies; False means one round."""
    wording: str | None = None
    """Pool of `methods.toml` that replaces the request of the direct turn."""
    retrieves: bool = False
    """Show only the pieces that retrieval found."""
    regrounds: bool = False
    """After pointing, show only the pieces pointed to, until the round ends."""
    ruled: bool = False
    """Whether a stop rule ends the dialogue, in place of its self-checks."""
    layout: bool = False
    """Send the task's own prompt layout instead of the dialogue."""
    note: str = ""
    """What it is, for people."""


METHODS: dict[str, Method] = {
    "direct": Method(note="document and question, one reply"),
    "clarify": Method(FULL_ROUND, several_rounds=True, note="the agentic dialogue"),
    "clarify-no-clarification": Method(
        ("point", "answer", "check"), several_rounds=True, note="ablation: pointback only"
    ),
    "clarify-no-pointback": Method(
        ("clarify", "sub_answer", "answer", "check"),
        several_rounds=True,
        note="ablation: clarification only",
    ),
    "clarify-reground": Method(
        FULL_ROUND,
        several_rounds=True,
        regrounds=True,
        note="the dialogue; cited text is shown again, alone, after pointing",
    ),
    "clarify-stop-rule": Method(
        FULL_ROUND,
        several_rounds=True,
        ruled=True,
        note="the dialogue; a fitted rule says when it ends (generate stop-rule)",
    ),
    "retrieve": Method(retrieves=True, note="the pieces that retrieval ranks first, one reply"),
    "step-by-step": Method(wording="step-by-step", note="numbered steps, then the answer"),
    "plan-and-solve": Method(wording="plan-and-solve", note="a plan, its execution, the answer"),
    "fact-and-reflect": Method(wording="fact-and-reflect", note="facts, what follows, the answer"),
    "helmet": Method(layout=True, note="the task's own prompt layout, as HELMET sends it"),
}


@dataclass(frozen=True)
class Outcome:
    """The result of a method on an item."""

    raw: str
    """The reply that is scored."""
    turns: tuple[Turn, ...] = ()
    cited: tuple[int, ...] = ()
    """Pieces pointed to, or retrieved; ascending."""
    usage: Usage = field(default_factory=Usage)
    left: str | None = None
    """What was left of the document where it was cut to fit; None: all of it."""

    @property
    def truncated(self) -> bool:
        """Whether the document was cut to fit."""
        return self.left is not None


@dataclass
class Progress:
    """Requests answered for an item so far; kept when the item fails on the way."""

    turns: list[Turn] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    """Clock at the end of each turn, in seconds."""
    usage: Usage = field(default_factory=Usage)
    """Of all requests that were answered."""

    def add(self, usage: Usage, turn: Turn | None = None) -> None:
        """Records an answered request, and the turn built from it."""
        self.usage = self.usage + usage
        if turn is not None:
            self.turns.append(turn)
            self.ends.append(time.monotonic())


def find_method(name: str) -> Method:
    """Returns a method by name.

    Raises:
        UsageError: Unknown name.
    """
    require_known(name, METHODS, kind="method", error=UsageError)
    return METHODS[name]


class View:
    """A document as a run shows it, computed once for all its items and methods, when needed."""

    def __init__(self, item: Item, settings: RunSettings) -> None:
        self.document = item.document
        self._settings = settings

    @functools.cached_property
    def shown(self) -> ShownDocument:
        """The document in pieces."""
        settings = self._settings
        return show_document(self.document, settings.tokenizer, settings.config.piece_tokens)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The document's pieces."""
        return self.shown.pieces

    @functools.cached_property
    def marked(self) -> str:
        """All pieces, marked."""
        return self.shown.view()

    @functools.cached_property
    def index(self) -> PieceIndex:
        """Ranks the pieces by their words."""
        return PieceIndex(self.shown)

    def text_of(self, indices: Sequence[int]) -> str:
        """Returns the text of some pieces, unmarked."""
        text = self.document.text
        return "".join(text[self.pieces[i].start : self.pieces[i].end] for i in indices)


async def answer(
    name: str,
    item: Item,
    view: View,
    engine: Engine,
    settings: RunSettings,
    progress: Progress | None = None,
) -> Outcome:
    """Answers one item by the method of that name.

    Args:
        name: Of the method.
        item: To be answered.
        view: Of its document.
        engine: Answers.
        settings: Of the run.
        progress: Records every answered request.

    Raises:
        EngineError: The model could not be asked.
        DocumentTooLongError: The item is longer than the window and may not be cut.
    """
    method = find_method(name)
    if method.layout:
        return await _answer_layout(item, view, engine, settings)
    if method.retrieves:
        found, usage = await retrieve(item, view, engine, settings, progress)
        outcome = await _run_method(name, item, view, engine, settings, found, progress)
        return replace(outcome, cited=found, usage=usage + outcome.usage)
    fitted = fit(item, view, settings)
    outcome = await _run_method(name, item, view, engine, settings, fitted, progress)
    return outcome if fitted is None else replace(outcome, left=view.text_of(fitted))


async def _run_method(
    name: str,
    item: Item,
    view: View,
    engine: Engine,
    settings: RunSettings,
    only: Sequence[int] | None,
    progress: Progress | None,
) -> Outcome:
    """Runs a method's dialogue over some pieces; over all of them for None."""
    method = find_method(name)
    shown = view.shown
    text = view.marked if only is None else shown.view(only)
    cited: set[int] = set()

    async def sample(request: Request) -> Sampled:
        sampling = settings.sampling(request.kind, item, name)
        return await engine.sample(request.messages, sampling, session=item.session)

    async def after_turn(dialogue: Dialogue, turn: Turn) -> Dialogue:
        if progress is not None:
            progress.add(turn.usage or Usage(), turn)
        if turn.kind == "point":
            pointed = shown.named(turn.reply).valid
            cited.update(pointed)
            if method.regrounds and pointed:
                return replace(dialogue, view=shown.view(cited))
        elif turn.kind == "answer" and method.regrounds:
            return replace(dialogue, view=text)
        elif turn.kind == "check" and method.ruled:
            return decide(dialogue, shown, settings.required_rule)
        return dialogue

    dialogue = Dialogue(
        profile=_profile(settings.profile, method.wording),
        document_id=item.document.id,
        view=text,
        question=item.question,
        steps=method.steps,
        max_rounds=settings.config.max_rounds if method.several_rounds else 1,
        ends_on_repeat=True,
        controls=shown.controls,
    )
    dialogue = await run_dialogue(dialogue, sample, after_turn=after_turn)
    return Outcome(
        raw=[turn.reply for turn in dialogue.turns if turn.kind in ANSWERING][-1],
        turns=dialogue.turns,
        cited=tuple(sorted(cited)),
        usage=sum((turn.usage for turn in dialogue.turns if turn.usage), Usage()),
    )


async def _answer_layout(item: Item, view: View, engine: Engine, settings: RunSettings) -> Outcome:
    """Sends the task's own prompt: as one user message, or as a text that the reply continues."""
    if item.prompt is None:
        raise UsageError(
            f"Method 'helmet' needs a prompt layout, which task {item.task!r} does not have.",
            hint="Use it with HELMET's tasks; for this one, --methods direct.",
        )
    prompt = _fit_prompt(item.prompt, item, view, settings)
    sampling = settings.sampling("direct", item)
    if item.max_tokens is not None:
        sampling = replace(sampling, max_tokens=item.max_tokens)
    messages = (Message(role="user", content=prompt.text),)
    if prompt.chat:
        sampled = await engine.sample(messages, sampling, session=item.session)
    else:
        sampled = await engine.complete(prompt.text, sampling, session=item.session)
    completion = sampled.completions[0]
    turn = Request("direct", "helmet", "", messages).turn(completion, sampled.usage)
    # As in HELMET, parsers see the label and what continues it, white space included.
    raw = turn.reply if prompt.chat else strip_thinking(prompt.label + completion.text)
    left = None if prompt is item.prompt else prompt.context
    return Outcome(raw=raw, turns=(turn,), usage=sampled.usage, left=left)


def _fit_prompt(prompt: Prompt, item: Item, view: View, settings: RunSettings) -> Prompt:
    """Returns the prompt, its context cut where it is too long and may be cut.

    Raises:
        DocumentTooLongError: It may not, or what must stay is too long alone.
    """
    limit = item.length if settings.config.overlong == "cut-end" else settings.context_tokens
    if limit is None:
        return prompt
    room = limit - (item.max_tokens or settings.config.max_tokens) - settings.framing_tokens
    over = settings.tokenizer.count(prompt.text) - room
    if over <= 0:
        return prompt
    if settings.config.overlong == "refuse":
        raise DocumentTooLongError(
            f"The prompt exceeds the {room} tokens left in the window by {over}.",
            hint="Try --overlong fit, which leaves out pieces without gold facts, or a shorter "
            "length.",
        )
    if settings.config.overlong == "cut-end":
        return replace(prompt, context=_cut_end(prompt.context, over, settings))
    costs = {piece.index: piece.num_tokens for piece in view.pieces}
    excess = over
    while excess > 0:  # where pieces are joined anew, a token may be added
        fitted = replace(prompt, context=view.text_of(leave_out(item, view, costs, over)))
        excess = settings.tokenizer.count(fitted.text) - room
        over += excess
    return fitted


def _cut_end(context: str, over: int, settings: RunSettings) -> str:
    """Returns the context without its last `over` tokens: HELMET's rule."""
    spans = settings.tokenizer.spans(context)
    if over >= len(spans):
        raise DocumentTooLongError(
            "Instruction and demonstrations alone fill the window.", hint="Try fewer --shots."
        )
    return context[: spans[len(spans) - over][0]]


@functools.cache
def _wordings() -> dict[str, tuple[Wording, ...]]:
    text = importlib.resources.files(__package__).joinpath("methods.toml").read_text("utf-8")
    table = tomllib.loads(text)
    return {
        name: tuple(Wording.model_validate(entry) for entry in entries)
        for name, entries in table.items()
        if isinstance(entries, list)
    }


def wordings_of(method: Method) -> tuple[str, ...]:
    """Returns the texts of a method's own wordings; empty where it has none."""
    return tuple(one.text for one in _wordings()[method.wording]) if method.wording else ()


def _profile(profile: Profile, wording: str | None) -> Profile:
    """Returns the profile with the direct request replaced; the system wordings stay."""
    if wording is None:
        return profile
    return profile.model_copy(update={"direct": _wordings()[wording]})


def document_room(settings: RunSettings) -> int | None:
    """Returns the tokens of a window that a document may take; None where none is known.

    It is the same for all methods of a run: what the longest dialogue leaves.
    """
    if settings.context_tokens is None:
        return None
    round_tokens = sum(map(settings.max_reply_tokens, FULL_ROUND))
    reply_tokens = settings.config.max_tokens + settings.config.max_rounds * round_tokens
    room = settings.context_tokens - reply_tokens - TURN_RESERVE
    return max(room, settings.context_tokens // 2)


def fit(item: Item, view: View, settings: RunSettings) -> tuple[int, ...] | None:
    """Returns the pieces to show when the document is longer than the window, else None.

    Pieces that hold gold facts stay, so do the first and the last ones; others are left out from
    the middle outwards. What is left keeps its numbers.

    Raises:
        DocumentTooLongError: The policy is to refuse, or the gold pieces alone are too long.
    """
    room = document_room(settings)
    if room is None:
        return None
    costs = {piece.index: piece.num_tokens + TOKENS_PER_MARKER for piece in view.pieces}
    over = sum(costs.values()) - room
    if over <= 0:
        return None
    if settings.config.overlong == "refuse":
        raise DocumentTooLongError(
            f"The document needs about {sum(costs.values())} tokens; the window has {room} left.",
            hint="Try --overlong fit to leave out pieces without gold facts, or a shorter length.",
        )
    return leave_out(item, view, costs, over)


def leave_out(item: Item, view: View, costs: Mapping[int, int], over: int) -> tuple[int, ...]:
    """Returns the pieces that stay when those left out cost at least `over` tokens, ascending.

    Pieces go from the middle outwards; those with gold facts stay, where they are known.

    Raises:
        DocumentTooLongError: Without the others it is still too long.
    """
    gold = set(gold_pieces(item, view.pieces) or ())
    middle = (len(view.pieces) - 1) / 2
    kept = set(costs)
    for index in sorted(costs, key=lambda i: (abs(i - middle), i)):
        if over <= 0:
            break
        if index not in gold:
            kept.discard(index)
            over -= costs[index]
    if over > 0:
        raise DocumentTooLongError(
            f"The pieces with gold facts alone are {over} tokens too long.",
            hint="Choose a shorter length, or fewer --shots.",
        )
    return tuple(sorted(kept))


async def retrieve(
    item: Item, view: View, engine: Engine, settings: RunSettings, progress: Progress | None = None
) -> tuple[tuple[int, ...], Usage]:
    """Returns the best pieces for the question, ascending, and what finding them cost."""
    usage = Usage()
    top_k, shown = settings.config.top_k, view.shown
    if settings.config.retriever != "engine":
        return view.index.pick(" ".join((item.question.text, *item.question.options)), top_k), usage
    scores = {}
    asked = [shown.neutralise(item.question.text)]
    for piece in view.pieces:
        messages = render_relevance(
            settings.profile, item.document.id, shown.text(piece.index), asked
        )
        session = f"{item.session}/{piece.index}"
        found = await engine.score_choices(messages, RELEVANCE_CHOICES, session=session)
        usage = usage + found.usage
        if progress is not None:
            progress.add(found.usage)
        scores[piece.index] = compute_relevance(found.probabilities)
    return tuple(sorted(best_of(scores, top_k))), usage
