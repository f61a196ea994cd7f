"""Lists of paragraphs that a model names by itself over whole documents, for the rounds of a run.

A search shows a round only what grounding kept, so its trees hold no list that the model made. Here
the model that is to be trained is asked to point, over the whole document, where right rounds
point. Each list is scored by its F1 against the pieces that the round needs, a reward for pointing
alone (the idea is that of LongRLVR, arXiv 2603.02146); `dataset build` makes pairs of good and bad
ones.

Replies stay in the run's ledger as sampled; trees stay as they were grown.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agenticlu.core.records import Node, Turn, content_id, content_seed
from agenticlu.data.necessity import find_supporting_rounds
from agenticlu.data.tree_view import TreeView
from agenticlu.dialogue.steps import MAX_TOKENS
from agenticlu.dialogue.thoughts import strip_thinking
from agenticlu.documents import parse_marks, render_marks
from agenticlu.engines.base import Sampling
from agenticlu.evaluation.scoring.answers import piece_f1
from agenticlu.search.caller import Caller, CallFailedError, decode_sampled, together
from agenticlu.search.store import CallId, Store

AT_ONCE = 8
"""Trees that are asked about side by side."""
SETTING = "mark_lists"
"""Name of the run's setting that says which lists hold."""


@dataclass(frozen=True)
class Asking:
    """How the lists were sampled."""

    engine: str
    """Name of the model."""
    samples: int
    """Lists for each round."""
    temperature: float

    def key(self, view: TreeView, node: Node) -> str:
        """Returns the key of a round's call: of all that its prompt depends on."""
        how = self.engine, str(self.samples), f"{self.temperature:g}"
        before = (turn.reply for turn in (*view.before(node), *turns_to_point(node)))
        return content_id(SETTING, *how, view.tree.id, node.id, *before, length=32)


def turns_to_point(node: Node) -> tuple[Turn, ...]:
    """Returns a round's turns up to the one that points; none where it does not point."""
    for index, turn in enumerate(node.turns):
        if turn.kind == "point":
            return node.turns[: index + 1]
    return ()


@dataclass(frozen=True)
class MarkList:
    """A list that was sampled, once or more often."""

    reply: str
    """As sampled, thoughts stripped."""
    pieces: tuple[int, ...]
    """Those of its numbers that the document has."""
    f1: float
    times: int


@dataclass
class ListSummary:
    """What became of the rounds that right answers rest on."""

    rounds: int = 0
    failed: int = 0
    """The call failed for good, such as a prompt too long."""
    lists: int = 0
    named: int = 0
    """Pieces that the lists name."""
    needed: int = 0
    """Pieces that their rounds need, once for each list."""
    right: int = 0
    """Of those named: needed."""
    exact: int = 0
    """Lists that name what is needed and nothing else."""
    f1_sum: float = 0.0

    def add(self, lists: Iterable[MarkList], needed: Collection[int]) -> None:
        """Counts the lists of a round."""
        for one in lists:
            self.lists += one.times
            self.named += one.times * len(one.pieces)
            self.needed += one.times * len(set(needed))
            self.right += one.times * len(set(one.pieces) & set(needed))
            self.exact += one.times * (one.f1 == 1)
            self.f1_sum += one.times * one.f1

    def as_dict(self) -> dict[str, Any]:
        """Returns counts and shares as JSON data; None where there is nothing to share."""

        def share(part: float, whole: int) -> float | None:
            return round(part / whole, 4) if whole else None

        return {
            "rounds": self.rounds,
            "failed": self.failed,
            "lists": self.lists,
            "precision": share(self.right, self.named),
            "recall": share(self.right, self.needed),
            "f1": share(self.f1_sum, self.lists),
            "exact": share(self.exact, self.lists),
        }


async def sample_mark_lists(
    store: Store,
    views: Iterable[TreeView],
    caller: Caller,
    samples: int,
    temperature: float,
    on_tree: Callable[[], None] | None = None,
) -> ListSummary:
    """Samples lists for every round that a right answer rests on; the ledger keeps them.

    What was sampled before is not sampled again. Data sets use the lists once all is done.

    Args:
        store: The run.
        views: Its finished trees; their rounds point at what they need.
        caller: Asks the model through the run's ledger.
        samples: Lists for each round.
        temperature: Of their sampling.
        on_tree: Called with every tree that is done.

    Raises:
        EngineError: The model could not be asked.
    """
    engine = caller.engine
    assert engine is not None
    asking = Asking(engine.name, samples, temperature)
    summary = ListSummary()

    async def ask(view: TreeView) -> None:
        for node in find_supporting_rounds(view):
            if not turns_to_point(node):
                continue
            summary.rounds += 1
            try:
                await _sample(view, node, caller, asking)
            except CallFailedError:
                summary.failed += 1
                continue
            summary.add(read_lists(store, view, node, asking), node.kept)
        if on_tree is not None:
            on_tree()

    await together(map(ask, views), asyncio.Semaphore(AT_ONCE))
    store.put(**{SETTING: asdict(asking)})
    return summary


async def _sample(view: TreeView, node: Node, caller: Caller, asking: Asking) -> None:
    *messages, _ = view.render((*view.before(node), *turns_to_point(node)))
    sampling = Sampling(
        temperature=asking.temperature,
        max_tokens=MAX_TOKENS["point"],
        n=asking.samples,
        seed=content_seed(SETTING, str(view.seed), node.id),
    )
    key = asking.key(view, node)
    call = CallId(key, "point", view.document.id, view.tree.question.id, node.id)
    await caller.sample(call, messages, sampling)


def read_asking(store: Store) -> Asking | None:
    """Returns how a run's lists were sampled; None where they were not."""
    found = store.get(SETTING)
    return None if found is None else Asking(**found)


def read_lists(store: Store, view: TreeView, node: Node, asking: Asking) -> list[MarkList]:
    """Returns the different lists of a round, the most frequent first; none where none are kept."""
    if not turns_to_point(node):
        return []
    found = store.find_call(asking.key(view, node))
    if found is None or found.state != "done":
        return []
    sampled = decode_sampled(found.reply, found.usage)
    counts = Counter(strip_thinking(one.text).strip() for one in sampled.completions)
    lists = []
    for reply, times in counts.most_common():
        pieces = parse_marks(reply, len(view.pieces)).valid
        lists.append(MarkList(reply, pieces, piece_f1(pieces, node.kept), times))
    return lists


@dataclass(frozen=True)
class ListPairs:
    """Makes preference rows of the lists of a tree's rounds.

    Args:
        store: The run.
        asking: How its lists were sampled.
        margin: Least difference of two lists' F1.
        most: Rows for each round at most.
    """

    store: Store
    asking: Asking
    margin: float
    most: int
    summary: ListSummary = field(default_factory=ListSummary)

    def rows(self, view: TreeView, *, drop_leaks: bool) -> list[dict[str, Any]]:
        """Returns the rows of a tree, its earliest rounds first.

        Chosen is a list that the model sampled itself and that names what is needed and nothing
        else; where it sampled none, that list is written for it. Rejected are its other lists, the
        ones that it gives most often first.
        """
        rows: list[dict[str, Any]] = []
        for node in find_supporting_rounds(view):
            lists = read_lists(self.store, view, node, self.asking)
            if not lists or not node.kept:
                continue
            self.summary.rounds += 1
            self.summary.add(lists, node.kept)
            if view.repeats(node) or (drop_leaks and view.is_tainted(node)):
                continue
            exact = next((one.reply for one in lists if one.f1 == 1), None)
            worse = [one for one in lists if one.reply and 1 - one.f1 >= max(self.margin, 1e-9)]
            rows += [
                self._row(view, node, exact or render_marks(node.kept), one)
                for one in worse[: self.most]
            ]
        return rows

    def _row(self, view: TreeView, node: Node, chosen: str, rejected: MarkList) -> dict[str, Any]:
        *prompt, _ = view.render((*view.before(node), *turns_to_point(node)))
        return {
            "prompt": [message.model_dump() for message in prompt],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected.reply}],
            "score_chosen": 1.0,
            "score_rejected": round(rejected.f1, 6),
            **view.provenance(node),
            "depth": node.depth,
            "turn_kind": "point",
            "chosen_node": node.id,
            "rejected_node": node.id,
            "pair_id": content_id("marks", node.id, chosen, rejected.reply),
            "pair_kind": "marks",
            "margin": round(1 - rejected.f1, 6),
            "log_length_ratio": round(
                math.log(max(1, len(chosen)) / max(1, len(rejected.reply))), 4
            ),
        }


def render_lists(summary: Mapping[str, Any]) -> str:
    """Returns what `ListSummary.as_dict` holds as a sentence for people."""
    if not summary["lists"]:
        return "no list was sampled"
    shares: Sequence[str] = [
        f"{name} {summary[name]:.1%}" if summary[name] is not None else f"{name} –"
        for name in ("precision", "recall", "f1", "exact")
    ]
    return f"{summary['lists']:,} lists of {summary['rounds']:,} rounds: {', '.join(shares)}"
