"""Builds the parts of a search from its settings: engine, tokenizer, judges, progress."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agenticlu.core.errors import UsageError
from agenticlu.core.progress import MetricsWriter, Progress
from agenticlu.core.records import Node, Tree
from agenticlu.data.corpus import LeftOut
from agenticlu.engines import (
    ModelChoice,
    load_engine,
    load_limited_engine,
)
from agenticlu.engines.admission import Admission
from agenticlu.engines.base import Engine
from agenticlu.engines.retry import LimitedEngine, Limiter, RetryPolicy
from agenticlu.judges import LlmJudge, solved_depth
from agenticlu.search.caller import LedgeredEngine
from agenticlu.search.run import Limits, Listener, Shard
from agenticlu.search.store import Store

JUDGE_REQUESTS = 64
"""Maximum requests to a judge in flight; of its own, so that the search never waits for it."""


class EngineChoice(ModelChoice):
    """A model that samples or judges."""

    def load_limited(self, limits: Limits, say: Callable[[str], None]) -> LimitedEngine:
        """Builds the engine that samples, under a run's limits; it says when it pauses."""
        return self._load_behind(limits.build_limiter(say), say)

    def load_judge(
        self, limits: Limits | None = None, say: Callable[[str], None] | None = None
    ) -> tuple[str, LimitedEngine]:
        """Builds the engine of a judge, named as the model; it says when it pauses."""
        model = self.model or ""
        name = model if self.base_url else Path(model).name
        return name, self._load_behind(_judge_limiter(name, limits, say), say)

    def _load_behind(self, limiter: Limiter, say: Callable[[str], None] | None) -> LimitedEngine:
        if not self.base_url:
            engine = load_engine(self.model, on_event=say, **self.engine_options)
            return LimitedEngine(engine, limiter)
        return load_limited_engine(
            self.model,
            self.base_url,
            self.api_key_env,
            limiter=limiter,
            timeout_s=self.timeout_s,
            on_event=say,
            **self.engine_options,
        )


def check_judges(models: Sequence[str], judges: Sequence[str]) -> None:
    """Refuses models of judges that would never be asked."""
    if models and "llm" not in judges:
        raise UsageError(
            f"--judge-model {models[0]} would not be asked: the judges are {', '.join(judges)}.",
            hint="Add --judge llm, and --judge exact to keep that one.",
        )


def build_panel(
    engines: Sequence[tuple[str, Engine]],
    store: Store | None = None,
    *,
    limits: Limits | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[LlmJudge, ...]:
    """Returns one judge for each engine.

    Args:
        engines: Names and engines; a `LimitedEngine` keeps its own limits.
        store: Records the judges' calls; None asks without a record.
        limits: How long a judge's server may be away, and whether to ask again what failed.
        say: Called with a message when a judge pauses.
    """
    if store is None:
        return tuple(LlmJudge(engine, name) for name, engine in engines)
    retry_failed = limits is not None and limits.retry_failed
    panel = []
    for name, engine in engines:
        if not isinstance(engine, LimitedEngine):
            engine = LimitedEngine(engine, _judge_limiter(name, limits, say))
        recorded = LedgeredEngine(store, engine, retry_failed=retry_failed)
        panel.append(LlmJudge(recorded, name, recorded=recorded if retry_failed else None))
    return tuple(panel)


@contextlib.asynccontextmanager
async def open_panel(
    judges: Sequence[EngineChoice], store: Store, limits: Limits, say: Callable[[str], None]
) -> AsyncIterator[tuple[LlmJudge, ...]]:
    """Builds a panel for a run that is not searched, and closes its engines at the end."""
    panel = build_panel([one.load_judge(limits, say) for one in judges], store, limits=limits)
    try:
        yield panel
    finally:
        for judge in panel:
            await judge.close()


EARLY_TREES = 20
"""Finished questions after which a search says what share of them is usable."""


def render_early(outcomes: Mapping[str, int]) -> str:
    """Returns what the first finished questions tell, and what to try where that is little.

    >>> print(render_early({"solved": 9, "unsolved": 11}))
    Of the first 20 questions 9 were answered right: 45% give conversations to learn from.

    Args:
        outcomes: Outcome of a tree to number; see `records.Tree.outcome`.
    """
    total = sum(outcomes.values())
    easy = outcomes.get("too-easy", 0)
    usable = outcomes.get("solved", 0) + easy
    said = (
        f"Of the first {total} questions {usable} were answered right: {usable / total:.0%} give "
        "conversations to learn from."
    )
    if outcomes.get("failed", 0) * 2 > total:
        return f"{said} Most failed: see agenticlu status RUN."
    if usable * 5 < total:
        said += (
            " A model that cannot hold the dialogue yet needs help at first: --guide, with --hint "
            "where that is not enough (models in this process); easier questions; shorter "
            "--piece-tokens."
        )
    elif easy * 5 > 4 * total:
        said += (
            " Nearly all are right however they are asked: there is nothing to choose between. "
            "Longer documents or harder questions teach more."
        )
    return said


@dataclass(eq=False)
class ProgressListener(Listener):
    """Shows a bar to people and writes a line per finished tree for machines."""

    progress: Progress
    metrics: MetricsWriter
    left_out: LeftOut
    _began: float = field(default_factory=time.monotonic, init=False)
    _nodes: int = field(default=0, init=False)
    _solved: int = field(default=0, init=False)
    _outcomes: Counter[str] = field(default_factory=Counter, init=False)

    @property
    def _note(self) -> str:
        return f"{self._solved} solved, {self._nodes} nodes"

    def start(self, questions: int) -> None:
        """Shows how many questions there are, and what the corpus lacks."""
        self.progress.update(0, total=questions)
        if self.left_out.num_lines:
            self.say(self.left_out.render())

    def node(self, node: Node) -> None:
        """Counts a node."""
        self._nodes += 1
        self.progress.update(self.progress.done, note=self._note)

    def tree(self, tree: Tree) -> None:
        """Counts a finished tree and writes its line."""
        depth = solved_depth(tree)
        self._solved += depth is not None
        self.metrics.write(
            event="tree",
            elapsed_s=round(time.monotonic() - self._began, 3),
            question_id=tree.question.id,
            outcome=tree.outcome,
            solved_depth=depth,
            nodes=len(tree.nodes),
            computed_tokens=tree.usage.computed_tokens,
        )
        self.progress.advance(note=self._note)
        self._outcomes[tree.outcome] += 1
        if self._outcomes.total() == EARLY_TREES:
            self.say(render_early(self._outcomes))

    def say(self, text: str) -> None:
        """Passes on a message of the run."""
        self.metrics.write(event="note", text=text)
        self.progress.warn(text)


def _judge_limiter(name: str, limits: Limits | None, say: Callable[[str], None] | None) -> Limiter:
    policy = RetryPolicy(patience_s=(limits or Limits()).patience_s)
    tell = None if say is None else lambda text: say(f"judge {name}: {text}")
    return Limiter(Admission(JUDGE_REQUESTS), policy, tell)


def parse_shard(text: str | None) -> Shard | None:
    """Reads `i/n`, from 0.

    >>> parse_shard("1/4")
    Shard(index=1, count=4)
    """
    if text is None:
        return None
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UsageError(
            f"{text!r} is not a shard. A shard is i/n, with i from 0 to n - 1.",
            hint="For a Slurm array of four: --shard $SLURM_ARRAY_TASK_ID/4",
        )
    return Shard(int(index), int(count))


def parse_columns(pairs: Sequence[str]) -> dict[str, str] | None:
    """Reads `field=column` settings; None when there are none."""
    columns: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise UsageError(
                f"--column {pair}: expected FIELD=COLUMN.",
                hint="For example: --column context=NAME_IN_YOUR_FILE",
            )
        columns[field] = column
    return columns or None
