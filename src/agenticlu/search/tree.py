"""Grows one question's tree, from the direct answer to the outcome."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from agenticlu.core.records import (
    Node,
    Question,
    Tree,
    Turn,
    TurnKind,
    Usage,
    Verdict,
    content_id,
    content_seed,
)
from agenticlu.dialogue.guiding import close_questions, guide, is_about
from agenticlu.dialogue.run import run_dialogue
from agenticlu.dialogue.steps import (
    FULL_ROUND,
    Dialogue,
    Profile,
    Request,
    build_history,
    merge_near_duplicates,
)
from agenticlu.documents import render_marks
from agenticlu.engines.base import Completion, Sampled, Sampling
from agenticlu.evaluation.scoring.final import parse_final_answer
from agenticlu.judges import (
    SPARED,
    Judge,
    combine,
    is_correct,
    is_settled,
    judge_pointing,
    judgement_key,
)
from agenticlu.search import SearchConfig
from agenticlu.search.caller import Caller, CallFailedError, NotRecordedError, sample_key, together
from agenticlu.search.grounding import Grounded, Grounder, mean_relevance
from agenticlu.search.growth import Activity, Grown, Growth, Slots, build_growth, outcome_of
from agenticlu.search.store import CallId

WITHHELD = "(The document is withheld.)"


class TreeSearch:
    """Grows one tree.

    Args:
        question: The question.
        grounder: Grounds texts in its document.
        profile: Wordings.
        config: What to search.
        caller: Asks the engine, through the ledger.
        judges: Judge every answer.
        on_node: Called with every finished node.
        slots: Shared with the other trees of a run.
        chosen: What was chosen for it where the run's settings say `auto`; in `config` already.
    """

    def __init__(
        self,
        question: Question,
        grounder: Grounder,
        profile: Profile,
        config: SearchConfig,
        caller: Caller,
        judges: Sequence[Judge],
        on_node: Callable[[Node], None] | None = None,
        slots: Slots | None = None,
        chosen: Mapping[str, str] | None = None,
    ) -> None:
        self.question = question
        self._grounder = grounder
        self._document_id = grounder.shown.document.id
        self._profile = profile
        self._config = config
        self._caller = caller
        self._judges = judges
        self._on_node = on_node or (lambda node: None)
        self._activity = Activity(slots)
        self._chosen = dict(chosen or {})
        self.tree_id = name_tree(self._document_id, question.id, config)
        self._nodes: dict[str, Node] = {}
        self._orders: dict[str, tuple[int, ...]] = {}
        self._incomplete = False
        self._shortfall = 0
        self._usage = Usage()
        self._closed_book: float | None = None
        self._steps = FULL_ROUND if config.check else FULL_ROUND[:-1]

    @property
    def is_complete(self) -> bool:
        """Whether replaying found every call that the tree needs."""
        return not self._incomplete

    async def grow(self) -> Tree | None:
        """Grows the tree to its end.

        Returns:
            The tree; None when replaying and not even the root is recorded.
        """
        with self._activity.whole():
            return await self._grow()

    async def _grow(self) -> Tree | None:
        growth = build_growth(self._config)
        try:
            with self._activity.part():
                root = await self._root()
                if root.status == "failed" and self._chosen.get("view") == "document":
                    # It was chosen by an estimate: the engine may take less than it says.
                    self._chosen["view"] = "kept"
                    self._config = self._config.model_copy(update={"view": "kept"})
                    root = await self._root()
                await self._store([root])
                self._closed_book = await self._answer_blindly()
        except NotRecordedError:
            return None
        self._tell(growth, [root])
        while root.status == "done" and (wanted := growth.ask()):
            expansions = await together(self._expand(self._nodes[node_id]) for node_id in wanted)
            for node_id, children in zip(wanted, expansions, strict=True):
                self._tell(growth, children)
                if not children:
                    growth.close(node_id)
            # What to expand next depends on the nodes that a replay lacks.
            if self._incomplete:
                break
        tree = self._tree(growth)
        if self._caller.engine is not None:
            await self._caller.store.finish_tree(tree)
        return tree

    def _tell(self, growth: Growth, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._nodes[node.id] = node
            before = self._orders[node.parent] if node.parent else ()
            self._orders[node.id] = (*before, node.ordinal) if node.parent else ()
        growth.tell([self._grown(node) for node in nodes])

    def _grown(self, node: Node) -> Grown:
        # Siblings share the request that sampled their clarifications: count it with the first.
        usages = [
            turn.usage
            for turn in node.turns
            if turn.usage and (turn.kind != "clarify" or node.ordinal == 0)
        ]
        return Grown(
            id=node.id,
            parent=node.parent,
            depth=node.depth,
            order=self._orders[node.id],
            correct=is_correct(node.verdicts),
            score=node.score,
            relevance=mean_relevance(Grounded(node.kept, node.relevance)),
            failed=node.status == "failed",
            tokens=sum(usage.prompt_tokens + usage.completion_tokens for usage in usages),
        )

    async def _root(self) -> Node:
        node_id = content_id(self.tree_id, "root")
        node = Node(
            id=node_id,
            parent=None,
            depth=0,
            ordinal=0,
            turns=(),
            seed=content_seed(self.tree_id, "root"),
        )
        try:
            grounded = (await self._grounder.ground([self.question.text], node_id))[0]
            node = node.model_copy(update={"kept": grounded.kept, "relevance": grounded.relevance})
            steps: tuple[TurnKind, ...] = ("direct", "check")
            dialogue = self._dialogue(
                grounded.kept, steps=steps if self._config.root_check else steps[:1]
            )
            node = await self._answer(node, dialogue)
        except CallFailedError as error:
            node = _failed(node, error)
        return node

    async def _answer_blindly(self) -> float | None:
        """Returns the share of right answers among those given without the document."""
        number = self._config.closed_book
        if number == 0:
            return None
        root = Node(id=content_id(self.tree_id, "blind"), parent=None, depth=0, ordinal=0, turns=())
        dialogue = self._dialogue((), steps=("direct",))
        request = replace(dialogue, view=WITHHELD).next_request()
        assert request is not None
        sampling = self._sampling("direct", 1.0, root.id, n=number)
        try:
            sampled = await self._sample(root, request, sampling, phase="closed_book")
        except CallFailedError:
            return None
        answers = [parse_final_answer(request.turn(one).reply) for one in sampled.completions]
        judged = await together(
            together([self._judge(judge, answer) for judge in self._judges]) for answer in answers
        )
        right = [is_correct(verdicts) for verdicts in judged]
        scored = [one for one in right if one is not None]
        return sum(scored) / len(scored) if scored else None

    async def _expand(self, parent: Node) -> list[Node]:
        """Samples clarifications from a node and carries each through its round.

        When replaying meets a call that was not recorded, what is missing is left out.
        """
        try:
            with self._activity.part():
                dialogue = self._dialogue(parent.kept, self._history(parent))
                request = dialogue.next_request()
                assert request is not None
                asked = await self._clarify(parent, request)
                texts = [turn.reply for _, turn in asked]
                grounded = await self._grounder.ground(texts, parent.id)
                self._activity.change(len(asked))  # the children's, until each is done
        except NotRecordedError:
            self._incomplete = True
            return []
        except CallFailedError as error:
            return [self._failed_child(parent, error)]
        children = await together(
            self._child(parent, ordinal, clarified, found)
            for (ordinal, clarified), found in zip(asked, grounded, strict=True)
        )
        return [child for child in children if child is not None]

    async def _clarify(self, parent: Node, request: Request) -> list[tuple[int, Turn]]:
        """Samples distinct clarifications; returns each with the ordinal of its sample."""
        wanted = self._config.branching
        turns: list[Turn] = []
        distinct: tuple[int, ...] = ()
        for attempt in range(1 + (self._config.resamples if self._config.merge else 0)):
            # Ordinals count on over attempts, so the calls of a second one have keys of their own.
            first = len(turns)
            temperature, missing = self._config.clarify_temperature, wanted - len(distinct)
            sampling = self._sampling(
                "clarify", temperature, parent.id, "clarify", str(attempt), n=missing
            )
            sampled = await self._sample(parent, request, sampling, first)
            turns += [request.turn(one, sampled.usage) for one in sampled.completions]
            texts = [turn.reply for turn in turns]
            if self._config.guide:
                texts = [one if is_about(one, self.question.text) else "" for one in texts]
            if self._config.merge:
                distinct = merge_near_duplicates(texts)[:wanted]
            else:
                distinct = tuple(i for i, text in enumerate(texts) if text.strip())
            if len(distinct) >= wanted:
                break
        self._shortfall += max(0, wanted - len(distinct))
        return [(i, turns[i]) for i in distinct]

    async def _child(
        self, parent: Node, ordinal: int, clarified: Turn, grounded: Grounded
    ) -> Node | None:
        """Carries a clarification through point, sub-answer, answer, self-check and judges."""
        node_id = content_id(self.tree_id, parent.id, str(ordinal))
        node = Node(
            id=node_id,
            parent=parent.id,
            depth=parent.depth + 1,
            ordinal=ordinal,
            turns=(clarified,),
            kept=grounded.kept,
            relevance=grounded.relevance,
            seed=content_seed(node_id),
        )
        dialogue = self._dialogue(grounded.kept, (*self._history(parent), clarified))
        pointing = dialogue.next_request()
        assert pointing is not None
        # Grounding has found the pieces: the turn is written, so that it names what was found.
        marks = render_marks(grounded.kept)
        dialogue = dialogue.advance(pointing.turn(Completion(marks, "stop")))
        try:
            node = await self._answer(node, dialogue)
        except NotRecordedError:
            self._incomplete = True
            return None
        except CallFailedError as error:
            node = _failed(node.model_copy(update={"turns": dialogue.turns[-2:]}), error)
        finally:
            self._activity.change(-1)
        await self._store([node])
        return node

    async def _answer(self, node: Node, dialogue: Dialogue) -> Node:
        """Samples what is left of a round and judges the answer, beside the self-check."""
        # The node begins with its clarification and the pointing turn, both taken already.
        before = len(dialogue.turns) - len(node.turns) - (1 if node.turns else 0)
        rounds = dialogue.round
        answer = ""
        judging: list[asyncio.Task[Verdict]] = []

        async def sample(request: Request) -> Sampled:
            temperature = self._config.answer_temperature
            sampling = self._sampling(request.kind, temperature, node.id, request.kind)
            if not temperature:
                sampling = replace(sampling, top_p=1.0)
            return await self._sample(node, request, sampling)

        async def begin_judging(dialogue: Dialogue, turn: Turn) -> Dialogue:
            nonlocal answer, judging
            # Judges need the answer only, so they work while the self-check is sampled.
            if turn.kind in ("direct", "answer"):
                answer = parse_final_answer(turn.reply)
                judging = [
                    asyncio.create_task(self._judge(judge, answer)) for judge in self._judges
                ]
            return dialogue

        try:
            dialogue = await run_dialogue(
                dialogue,
                sample,
                # A node is a single round: the next one belongs to its children.
                may_ask=lambda dialogue, _: dialogue.round == rounds,
                after_turn=begin_judging,
            )
            waits = any(not judge.is_free for judge in self._judges)
            with self._activity.judged() if waits else contextlib.nullcontext():
                judged = await asyncio.gather(*judging)
        except BaseException:
            for task in judging:
                task.cancel()
            await asyncio.gather(*judging, return_exceptions=True)
            raise
        verdicts = (*judged, *self._judge_pointing(node))
        return node.model_copy(
            update={
                "turns": dialogue.turns[before:],
                "answer": answer,
                "verdicts": verdicts,
                "score": combine(verdicts, self._config.pointing_weight),
            }
        )

    def _judge_pointing(self, node: Node) -> list[Verdict]:
        """Returns how well the rounds up to a node point; none where that has no weight."""
        gold = self.question.gold_pieces
        if not self._config.pointing_weight or not gold or node.parent is None:
            return []
        # A fact of several parts is gathered over the rounds: a round alone cannot hold them all.
        path = [node, *self._above(node)]
        return [judge_pointing({i for step in path if step.parent for i in step.kept}, gold)]

    def _above(self, node: Node) -> list[Node]:
        """Returns the nodes above a node, from its parent to the root."""
        path = []
        while node.parent is not None:
            node = self._nodes[node.parent]
            path.append(node)
        return path

    async def _judge(self, judge: Judge, answer: str) -> Verdict:
        if judge.is_free:
            return await judge.judge(self.question, answer)
        key = judgement_key(judge.name, self.question, answer)
        judging = self._caller.engine is not None or self._caller.judging
        if not self._config.judge_all and await is_settled(self._judges, self.question, answer):
            found = self._caller.store.find_judgement(key)
            spared = Verdict(judge=judge.name, value=None, reason=SPARED)
            # A verdict that was paid for earlier is used all the same.
            return spared if found is None else found

        async def work() -> Verdict:
            again = judging and self._caller.retry_failed and key not in self._caller.judged
            found = self._caller.store.find_judgement(key, only_scored=again)
            if found is not None:
                return found
            if not judging:
                raise NotRecordedError(key)
            verdict = await judge.judge(self.question, answer)
            self._caller.judged.add(key)
            await self._caller.store.add_judgement(key, verdict)
            return verdict

        return await self._caller.once(key, work)

    def _sampling(
        self, kind: TurnKind, temperature: float, *seed_parts: str, n: int = 1
    ) -> Sampling:
        return Sampling(
            temperature=temperature,
            top_p=self._config.top_p,
            max_tokens=self._config.most_tokens(kind),
            n=n,
            seed=content_seed(*seed_parts),
        )

    def _dialogue(
        self,
        kept: Sequence[int],
        turns: tuple[Turn, ...] = (),
        steps: tuple[TurnKind, ...] | None = None,
    ) -> Dialogue:
        return Dialogue(
            profile=self._profile,
            document_id=self._document_id,
            view=self._grounder.shown.view(None if self._config.view == "document" else kept),
            question=self.question,
            steps=steps or self._steps,
            max_rounds=self._config.depth + 1,
            turns=turns,
            controls=self._grounder.shown.controls,
        )

    def _history(self, node: Node) -> tuple[Turn, ...]:
        """Returns the rounds that lead to a node, as its children see them."""
        return build_history([node, *self._above(node)][::-1], self._profile)

    async def _sample(
        self,
        node: Node,
        request: Request,
        sampling: Sampling,
        first_ordinal: int = 0,
        phase: str | None = None,
    ) -> Sampled:
        """Samples a turn; the call's key names the node, the turn and the samples."""
        if self._config.guide:
            pieces = [self._grounder.shown.text(index) for index in node.kept]
            hint = self.question.answers if self._config.hint else ()
            sampling = guide(sampling, request, pieces, self.question.text, hint)
        scope = (str(self._config.seed), self._document_id, self.question.id, node.id, request.kind)
        call = CallId(
            key=sample_key(scope, request.messages, sampling, first_ordinal),
            phase=phase or request.kind,
            document_id=self._document_id,
            question_id=self.question.id,
            node_id=node.id,
        )
        sampled = await self._caller.sample(call, request.messages, sampling)
        self._usage = self._usage + sampled.usage
        if self._config.guide and request.kind == "clarify":
            sampled = close_questions(sampled)
        return sampled

    def _failed_child(self, parent: Node, error: CallFailedError) -> Node:
        """Builds the failed node of an expansion that could not be made."""
        node_id = content_id(self.tree_id, parent.id, "failed")
        node = Node(id=node_id, parent=parent.id, depth=parent.depth + 1, ordinal=0, turns=())
        return _failed(node, error)

    async def _store(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            self._on_node(node)
        if self._caller.engine is not None:
            await self._caller.store.put_nodes(self._header(), nodes)

    def _header(self) -> Tree:
        return Tree(
            id=self.tree_id,
            document_id=self._document_id,
            question=self.question,
            system=self._profile.draw("system", self._document_id).id,
            profile=self._profile.label,
            nodes=(),
            chosen=self._chosen,
        )

    def _tree(self, growth: Growth) -> Tree:
        # In the order of the tree, not that of arrival, which differs from run to run.
        order = sorted(self._nodes.values(), key=lambda n: (n.depth, self._orders[n.id]))
        return self._header().model_copy(
            update={
                "nodes": tuple(order),
                "outcome": outcome_of(order, growth),
                "usage": self._usage,
                "closed_book": self._closed_book,
                "shortfall": self._shortfall,
            }
        )


def name_tree(document_id: str, question_id: str, config: SearchConfig) -> str:
    """Returns the id of a question's tree."""
    return content_id("tree", document_id, question_id, str(config.seed))


def _failed(node: Node, error: CallFailedError) -> Node:
    return node.model_copy(update={"status": "failed", "failure": str(error)})
