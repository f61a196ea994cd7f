"""Finds which of a round's kept pieces its finding needs: the pieces that are worth pointing at.

What grounding keeps is noisy, and a model that learns to name all of it learns the noise. A piece
is needed if what the round went on to say becomes less likely without it. Prompts hold the kept
pieces alone, so they are short.

The result is one grounding per round in the run's ledger, in place of the calls that it was read
from. Trees stay as they were grown; `dataset build` reads the smaller sets into them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Message, Node, Turn, content_id
from agenticlu.data.pointing import Pointing
from agenticlu.data.tree_view import TreeView, find_path_flaw
from agenticlu.documents import render_marks
from agenticlu.judges import is_correct
from agenticlu.search.caller import Caller, CallFailedError, reply_key, together
from agenticlu.search.store import CallId, Fold, Store

SAID = ("sub_answer", "answer")
"""Kinds of turns whose replies depend on the pieces."""
AT_ONCE = 8
"""Trees that are measured side by side."""
SETTING = "necessity"
"""Name of the run's setting that says which sets hold."""


@dataclass(frozen=True)
class Measure:
    """How need is measured."""

    engine: str
    """Name of the model that tells likelihoods."""
    fall: float
    """Nats by which what was said must become less likely without a piece that is needed."""

    def key(self, view: TreeView, node: Node) -> str:
        """Returns the key of a round's result: of the measure and of what the round holds."""
        said = (turn.reply for turn in node.turns if turn.kind in SAID)
        scope = SETTING, self.engine, f"{self.fall:g}", view.tree.id, node.id
        return content_id(*scope, render_marks(node.kept), *said, length=32)


@dataclass
class NecessitySummary:
    """What became of the rounds that right answers rest on."""

    rounds: int = 0
    """With more pieces than one: only these are measured."""
    shortened: int = 0
    failed: int = 0
    """A call failed for good, such as a prompt too long; their pieces stay."""
    pieces_before: int = 0
    pieces_after: int = 0
    pointing: Pointing = field(default_factory=Pointing)
    """Of all rounds that right answers rest on."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON data."""
        return {
            "rounds": self.rounds,
            "shortened": self.shortened,
            "failed": self.failed,
            "pieces": {"before": self.pieces_before, "after": self.pieces_after},
            "pointing": self.pointing.as_dict(),
        }


async def find_needed_pieces(
    store: Store,
    views: Iterable[TreeView],
    caller: Caller,
    fall: float,
    on_tree: Callable[[], None] | None = None,
) -> NecessitySummary:
    """Measures every round that a right answer rests on, and stores the pieces that it needs.

    What was measured before is not measured again. Data sets use the result once all is done.

    Args:
        store: The run.
        views: Its finished trees, as they were grown.
        caller: Asks the model through the run's ledger.
        fall: See `Measure`.
        on_tree: Called with every tree that is done.

    Raises:
        UsageError: The engine cannot score a given reply.
    """
    engine = caller.engine
    assert engine is not None
    if not engine.scores_replies:
        raise UsageError(
            f"{engine.name} cannot say how likely a given reply is; all pieces stay targets.",
            hint="Give a model that runs in this process: --model FOLDER",
        )
    measure = Measure(engine.name, fall)
    summary = NecessitySummary()

    async def work(view: TreeView) -> None:
        await _measure_tree(store, view, caller, measure, summary)
        if on_tree is not None:
            on_tree()

    await together(map(work, views), asyncio.Semaphore(AT_ONCE))
    store.put(**{SETTING: asdict(measure)})
    return summary


async def _measure_tree(
    store: Store, view: TreeView, caller: Caller, measure: Measure, summary: NecessitySummary
) -> None:
    rounds = find_supporting_rounds(view)
    for node in rounds:
        if len(node.kept) < 2:
            continue
        summary.rounds += 1
        key = measure.key(view, node)
        if store.find_grounding(key) is None:
            trial = _Trial(view, node, caller, measure, key)
            try:
                needed = await trial.run()
            except CallFailedError:
                summary.failed += 1
                continue
            fold = Fold(key, view.document.id, tuple(dict.fromkeys(trial.calls)), kept=needed)
            await store.finish_groundings([fold])
    smaller = use_needed_pieces(view, store, measure)
    summary.shortened += len(smaller.read)
    for node in rounds:
        summary.pieces_before += len(node.kept)
        summary.pieces_after += len(smaller.find(node.id).kept)
        summary.pointing.add(smaller, node.id)


def find_supporting_rounds(view: TreeView) -> list[Node]:
    """Returns the rounds on the way to right answers, themselves included, parents first."""
    wanted: set[str] = set()
    for node in view.tree.nodes:
        if node.parent is None or not is_correct(node.verdicts):
            continue
        if find_path_flaw(view.tree, node) is None:
            wanted |= {step.id for step in view.tree.path(node.id)[1:]}
    return [node for node in view.tree.nodes if node.id in wanted]


@dataclass(frozen=True)
class _Trial:
    """Measures one round."""

    view: TreeView
    node: Node
    caller: Caller
    measure: Measure
    key: str
    calls: list[str] = field(default_factory=list)
    """Keys of the calls that told."""

    async def run(self) -> tuple[int, ...]:
        """Returns the pieces that the round needs: those that are missed when left out alone.

        Where none is missed, though all together are, some say the same. Then they go one after
        another, the least missed first, while what was said stays as likely.

        Not one after another in any case: a model at home with several pieces says other things of
        one or two, whatever these hold.
        """
        kept = self.node.kept
        without = [_leave_out(kept, piece) for piece in kept]
        whole, nothing, *alone = await together(map(self._score, (kept, (), *without)))
        least = whole - self.measure.fall
        if nothing >= least:
            return kept  # said without any of them: this tells nothing about each
        found = dict(zip(kept, alone, strict=True))
        missed = tuple(piece for piece in kept if found[piece] < least)
        if missed:
            return missed
        # Of equals, the last goes first: a text tends to introduce a thing where it first names it.
        needed = kept
        for piece in sorted(kept, key=lambda one: (found[one], one), reverse=True):
            rest = _leave_out(needed, piece)
            if rest and await self._score(rest) >= least:
                needed = rest
        return needed

    async def _score(self, pieces: Sequence[int]) -> float:
        """Returns the log-probability of what was said, as if grounding had kept `pieces` alone.

        A wrong answer on the way is left out: what led on is what the round found.
        """
        turns = list(self.view.before(self.node))
        asked = []
        for turn in self.node.turns:
            turns.append(point_at(turn, pieces) if turn.kind == "point" else turn)
            if turn.kind in SAID and (turn.kind != "answer" or is_correct(self.node.verdicts)):
                *messages, reply = self.view.render(turns, only=pieces)
                asked.append(self._ask(messages, reply.content))
        return math.fsum(await together(asked))

    async def _ask(self, messages: Sequence[Message], reply: str) -> float:
        document_id, tree = self.view.document.id, self.view.tree
        key = reply_key((SETTING, self.measure.engine, self.node.id), messages, reply)
        self.calls.append(key)
        call = CallId(key, "ground", document_id, tree.question.id, self.key)
        return (await self.caller.score_reply(call, messages, reply)).logprob


def _leave_out(pieces: Sequence[int], piece: int) -> tuple[int, ...]:
    return tuple(one for one in pieces if one != piece)


def read_measure(store: Store) -> Measure | None:
    """Returns the measure by which a run's needed pieces were found; None where they were not."""
    found = store.get(SETTING)
    return None if found is None else Measure(**found)


def use_needed_pieces(view: TreeView, store: Store, measure: Measure) -> TreeView:
    """Returns a tree whose rounds keep, and point at, the pieces that they need.

    Rounds that were not measured stay as they are.
    """
    found = {}
    for node in view.tree.nodes:
        record = store.find_grounding(measure.key(view, node)) if len(node.kept) > 1 else None
        if record is not None and record.kept and record.kept != node.kept:
            found[node.id] = record.kept
    return _point_anew(view, found)


def use_quoted_pieces(view: TreeView) -> TreeView:
    """Returns a tree whose rounds keep, and point at, the piece that their finding is quoted from.

    For guided searches, whose findings are sentences of the pieces: which one a round needs need
    not be measured. A round that quotes none stays as it is.
    """
    found = {}
    for node in view.tree.nodes:
        said = next((turn.reply for turn in node.turns if turn.kind == "sub_answer"), "")
        quoting = [index for index in node.kept if said and said in view.text(index)]
        if quoting and len(node.kept) > 1:
            found[node.id] = tuple(quoting[:1])
    return _point_anew(view, found)


def _point_anew(view: TreeView, found: Mapping[str, tuple[int, ...]]) -> TreeView:
    """Returns a tree of which some rounds, by id, keep and name other pieces."""
    if not found:
        return view
    nodes = [
        node.model_copy(
            update={
                "kept": found[node.id],
                "turns": tuple(
                    point_at(turn, found[node.id]) if turn.kind == "point" else turn
                    for turn in node.turns
                ),
            }
        )
        if node.id in found
        else node
        for node in view.tree.nodes
    ]
    read = {node.id: view.read.get(node.id, node.kept) for node in view.tree.nodes
            if node.id in found}  # fmt: skip
    tree = view.tree.model_copy(update={"nodes": tuple(nodes)})
    return replace(view, tree=tree, read={**view.read, **read})


def point_at(turn: Turn, pieces: Sequence[int]) -> Turn:
    """Returns a pointing turn that names other pieces."""
    return turn.model_copy(update={"reply": render_marks(pieces), "token_ids": None})
