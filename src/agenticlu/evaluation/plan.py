"""Plans an evaluation: its jobs, which are still missing, and an upper bound on their cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from agenticlu.core.records import Prediction, Prices, Record, Usage, content_id
from agenticlu.dialogue.steps import Dialogue
from agenticlu.engines.base import Completion
from agenticlu.evaluation.config import EvaluationConfig, RunSettings
from agenticlu.evaluation.methods import (
    TOKENS_PER_MARKER,
    Method,
    View,
    document_room,
    find_method,
    wordings_of,
)
from agenticlu.evaluation.records import CHAT_TOKENS, PLAIN_TOKENS, DoesNotFitError, Item, in_form
from agenticlu.evaluation.tables import render_table
from agenticlu.evaluation.tasks import TaskRequest, load_items

NUM_COUNTED = 8
"""Documents of a task and length whose tokens are counted; the others are estimated."""
REQUEST_TOKENS = 48
"""Assumed for the question, the request and the chat template of one turn."""


@dataclass(frozen=True)
class Output:
    """One prediction wanted of a job."""

    id: str
    method: str
    """Name in the tables."""
    rounds: int | None = None
    """Rounds whose answer it is; None where the method has but one."""
    is_wanted: bool = True
    """False for one that exists already, and only comes along with the others."""


@dataclass(frozen=True)
class Job:
    """One item to be answered by one method."""

    method: str
    item: Item
    outputs: tuple[Output, ...]
    """Ascending in rounds: what is asked for the last one serves the others too."""

    @property
    def whole(self) -> Output:
        """The output that all requests are made for."""
        return self.outputs[-1]


class PlanRow(Record):
    """One method on one task at one length: what is still to be asked."""

    task: str
    length: int
    method: str
    num_items: int = 0
    """Items to ask."""
    num_finished: int = 0
    """Items that the folder of results holds already; not in the figures."""
    num_too_long: int = 0
    """Of the items to ask, those that the window refuses: they fail without a request."""
    num_cut: int = 0
    """Of the items to ask, those whose document is cut to fit."""
    num_requests: int = 0
    """Maximum requests (the self-check may end a dialogue sooner)."""
    prompt_tokens: int = 0
    """Tokens of all prompts, cached ones included."""
    uncached_tokens: int = 0
    """Tokens to compute when the engine keeps prefixes: each document once per run."""
    completion_tokens: int = 0
    """Maximum tokens sampled."""


class EvaluationPlan(Record):
    """The requests that a run would make."""

    rows: tuple[PlanRow, ...]
    left_out: tuple[str, ...] = ()
    """Sentences about tasks at lengths that their shortest item exceeds."""
    context_tokens: int | None = None
    """The window that documents were compared with; None when unknown."""
    price: float | None = None
    """Upper bound; None when no price is known."""
    hours: float | None = None
    """At the given rate; None without one."""

    @property
    def usage(self) -> Usage:
        """Requests and tokens of all rows."""
        prompt_tokens = self.total("prompt_tokens")
        return Usage(
            requests=self.total("num_requests"),
            prompt_tokens=prompt_tokens,
            cached_tokens=prompt_tokens - self.total("uncached_tokens"),
            completion_tokens=self.total("completion_tokens"),
        )

    def total(self, name: str) -> int:
        """Returns the sum of a column."""
        return sum(int(getattr(row, name)) for row in self.rows)


def load_run_items(settings: RunSettings, task: str, length: int) -> list[Item]:
    """Returns the items of one task at one length, their layouts in the form that is wanted."""
    config = settings.config
    items = load_items(
        TaskRequest(
            task=task,
            length=length,
            tokenizer=settings.tokenizer,
            limit=config.limit,
            seed=config.seed,
            questions_per_document=config.questions_per_document,
            options=config.options,
        )
    )
    return items if config.chat is None else [in_form(item, chat=config.chat) for item in items]


def build_jobs(items: Sequence[Item], settings: RunSettings) -> list[Job]:
    """Returns what is asked about items: one job per item and method that can answer it."""
    config = settings.config
    common = (config.label, config.model_fingerprint, *_common_parts(settings))

    def outputs_of(method: str, item: Item) -> tuple[Output, ...]:
        return tuple(
            replace(output, id=_output_id(item, method, output, settings, common))
            for output in build_outputs(method, config)
        )

    return [
        Job(method, item, outputs_of(method, item))
        for item in items
        for method in config.methods
        if not (find_method(method).layout and item.prompt is None)
    ]


def _common_parts(settings: RunSettings) -> tuple[str, ...]:
    """Returns what all ids of a run depend on."""
    config = settings.config
    decoding = (config.top_p, config.max_tokens, config.seed, config.as_published)
    view = (config.piece_tokens, settings.tokenizer_hash)
    return (settings.profile.label, settings.profile_hash, *map(str, (*decoding, *view)))


def build_outputs(method: str, config: EvaluationConfig) -> tuple[Output, ...]:
    """Returns the predictions wanted of a method, without ids: one per number of rounds."""
    if not find_method(method).several_rounds:
        return (Output("", method),)
    counts = config.round_counts
    if len(counts) == 1:
        return (Output("", method, counts[0]),)
    return tuple(Output("", f"{method}@{count}", count) for count in counts)


def _output_id(
    item: Item,
    method: str,
    output: Output,
    settings: RunSettings,
    common: Sequence[str],
) -> str:
    """Returns the id of an item's prediction: everything that its result depends on.

    The policy for documents longer than the window is not in it: the others do not depend on it.
    """
    config, found = settings.config, find_method(method)
    own: tuple[object, ...] = (settings.sampling("answer", item, method).temperature,)
    if output.rounds is not None:
        own = (*own, output.rounds)
    if found.ruled:
        own = (*own, settings.required_rule.model_dump_json(exclude={"fitted_on"}))
    if found.retrieves:
        own = (*own, config.top_k, config.retriever)
    if found.layout and item.prompt is not None:
        cut_end = config.overlong == "cut-end"  # cuts at the nominal length, whatever the window
        own = (*own, item.prompt.text, item.prompt.chat, item.max_tokens, cut_end)
    return content_id(
        *common,
        output.method,
        item.task,
        str(item.length),
        item.document.id,
        item.question.id,
        *wordings_of(found),
        *map(str, own),
    )


def find_missing_jobs(
    jobs: Sequence[Job],
    done: Mapping[str, Prediction],
    settings: RunSettings,
    retry_failed: bool = False,
) -> list[Job]:
    """Returns the jobs of which a prediction is missing, the missing ones marked as wanted.

    The prediction of a document longer than the window counts as missing where the policy for such
    documents, or the window, has changed.
    """

    def is_left(found: Prediction | None) -> bool:
        if found is None or (retry_failed and found.error is not None):
            return True
        return bool(found.overlong) and found.overlong != describe_overlong(settings)

    marked = [
        replace(
            job,
            outputs=tuple(
                replace(output, is_wanted=is_left(done.get(output.id))) for output in job.outputs
            ),
        )
        for job in jobs
    ]
    return [job for job in marked if any(output.is_wanted for output in job.outputs)]


def describe_overlong(settings: RunSettings) -> str:
    """Returns the policy for documents longer than the window, and the window, as stored."""
    window = "unknown" if settings.context_tokens is None else str(settings.context_tokens)
    return f"{settings.config.overlong} {window}"


def build_plan(
    settings: RunSettings,
    *,
    prices: Prices | None = None,
    done: Mapping[str, Prediction] | None = None,
    retry_failed: bool = False,
) -> EvaluationPlan:
    """Builds the plan from the very items that a run would ask; request counts are upper bounds.

    Args:
        settings: What would run; its label is that of the predictions in `done`.
        prices: Per million tokens.
        done: Predictions that the folder of results holds.
        retry_failed: Whether failed items would run again.
    """
    rows: list[PlanRow] = []
    left_out: list[str] = []
    for task in settings.config.tasks:
        for length in settings.config.lengths:
            try:
                items = load_run_items(settings, task, length)
            except DoesNotFitError as error:
                left_out.append(error.message)
                continue
            jobs = build_jobs(items, settings)
            left = find_missing_jobs(jobs, done or {}, settings, retry_failed)
            rows += _rows(task, length, jobs, left, settings)
    plan = EvaluationPlan(
        rows=tuple(rows), left_out=tuple(left_out), context_tokens=settings.context_tokens
    )
    prices, usage = prices or Prices(), plan.usage
    price, seconds = prices.price(usage), prices.seconds(usage)
    return plan.model_copy(
        update={
            "price": None if price is None else round(price, 4),
            "hours": None if seconds is None else round(seconds / 3600, 4),
        }
    )


@dataclass(frozen=True)
class _Size:
    """A document in tokens."""

    text: int
    marked: int
    """Of the marked view."""
    fitted: int
    """The estimate by which a run fits a document into a window."""
    pieces: int

    def times(self, share: float) -> _Size:
        """Returns the size of a document that is longer by a factor."""
        sizes = (self.text, self.marked, self.fitted, self.pieces)
        return _Size(*(max(1, round(size * share)) for size in sizes))


class _Row:
    """Counts one method's requests."""

    def __init__(self, method: Method, settings: RunSettings) -> None:
        self.counts: Counter[str] = Counter()
        """By the names of a `PlanRow`."""
        self._method = method
        self._config = settings.config
        self._settings = settings
        self._limits: list[int] | None = None

    def add(self, item: Item, document: _Size, is_read: bool) -> bool:
        """Counts an item; returns whether its document is read whole by it.

        Args:
            item: The item.
            document: Size of its document.
            is_read: Whether the document was read before.
        """
        if self._method.layout:
            self._add_layout(item, document)
            return False
        size = document.marked
        if self._method.retrieves:
            self._add_retrieval(document)
            size = size * min(self._config.top_k, document.pieces) // document.pieces
            self.counts["uncached_tokens"] += size
        else:
            room = document_room(self._settings)
            if room is not None and document.fitted > room:
                if self._settings.config.overlong == "refuse":
                    self.counts["num_too_long"] += 1
                    return False
                self.counts["num_cut"] += 1
                size = size * room // document.fitted
            self.counts["uncached_tokens"] += 0 if is_read else size
        history = 0
        if self._limits is None:
            self._limits = _limits(self._method, item, self._settings)
        for limit in self._limits:
            self._count(1, size + history + REQUEST_TOKENS, REQUEST_TOKENS, limit)
            history += limit + REQUEST_TOKENS
        return not self._method.retrieves

    def _add_retrieval(self, document: _Size) -> None:
        """Counts the engine's verdicts: one request a piece, the piece read whole."""
        if self._config.retriever != "engine":
            return
        tokens = document.marked + REQUEST_TOKENS * document.pieces
        self._count(document.pieces, tokens, tokens, document.pieces)

    def _add_layout(self, item: Item, document: _Size) -> None:
        """Counts the task's own prompt, demonstrations included; taken as read whole."""
        assert item.prompt is not None, "jobs without a layout are not made"
        limit = item.max_tokens or self._settings.config.max_tokens
        window = item.length if self._settings.config.overlong == "cut-end" else None
        window = window or self._settings.context_tokens
        frame = replace(item.prompt, context="").text
        size = document.text + self._settings.tokenizer.count(frame)
        size += CHAT_TOKENS if item.prompt.chat else PLAIN_TOKENS  # a run measures what they are
        if window is not None and size > window - limit:
            if self._settings.config.overlong == "refuse":
                self.counts["num_too_long"] += 1
                return
            self.counts["num_cut"] += 1
            size = window - limit
        self._count(1, size, size, limit)

    def _count(self, requests: int, prompt: int, uncached: int, sampled: int) -> None:
        self.counts.update(
            num_requests=requests,
            prompt_tokens=prompt,
            uncached_tokens=uncached,
            completion_tokens=sampled,
        )


def _rows(
    task: str,
    length: int,
    jobs: Sequence[Job],
    left: Sequence[Job],
    settings: RunSettings,
) -> list[PlanRow]:
    sizes = _sizes([job.item for job in left], settings)
    rows = {name: _Row(find_method(name), settings) for name in settings.config.methods}
    for job in jobs:
        rows[job.method].counts["num_finished"] += 1
    read: set[str] = set()
    for job in left:
        rows[job.method].counts.update(num_items=1, num_finished=-1)
        document = job.item.document.id
        if rows[job.method].add(job.item, sizes[document], document in read):
            read.add(document)
    return [
        PlanRow(task=task, length=length, method=name, **row.counts) for name, row in rows.items()
    ]


def _limits(method: Method, item: Item, settings: RunSettings) -> list[int]:
    """Returns the most tokens of each reply of a dialogue whose self-check never says yes."""
    dialogue = Dialogue(
        profile=settings.profile,
        document_id=item.document.id,
        view="",
        question=item.question,
        steps=method.steps,
        max_rounds=settings.config.max_rounds if method.several_rounds else 1,
    )
    limits = []
    while (request := dialogue.next_request()) is not None:
        limits.append(settings.max_reply_tokens(request.kind))
        dialogue = dialogue.advance(request.turn(Completion("no")))
    return limits


def _sizes(items: Sequence[Item], settings: RunSettings) -> dict[str, _Size]:
    """Returns the size of each document.

    The first documents are counted; the others are estimated from their characters, since counting
    hundreds of long documents would take minutes.
    """
    sizes: dict[str, _Size] = {}
    counted = [0, 0, 0, 0]
    characters = 0
    for item in items:
        if item.document.id in sizes:
            continue
        length = max(1, len(item.document.text))
        if len(sizes) < NUM_COUNTED:
            view = View(item, settings)
            text = sum(piece.num_tokens for piece in view.pieces)
            num = len(view.pieces)
            marked = settings.tokenizer.count(view.marked)
            size = _Size(text, marked, text + TOKENS_PER_MARKER * num, max(1, num))
            counted = [a + b for a, b in zip(counted, astuple(size), strict=True)]
            characters += length
        else:
            size = _Size(*counted).times(length / characters)
        sizes[item.document.id] = size
    return sizes


def render_plan(plan: EvaluationPlan) -> str:
    """Renders the plan as a table with its price."""
    columns = (
        "num_items",
        "num_finished",
        "num_requests",
        "prompt_tokens",
        "uncached_tokens",
        "completion_tokens",
    )
    rows = [
        [row.task, str(row.length), row.method, *[f"{getattr(row, name):,}" for name in columns]]
        for row in plan.rows
    ]
    rows.append(["total", "", "", *[f"{plan.total(name):,}" for name in columns]])
    header = ["task", "length", "method", "items", "finished", "requests ≤", "prompt", "uncached"]
    price = "unknown (give --price-in and --price-out)" if plan.price is None else f"{plan.price}"
    lines = [render_table([*header, "sampled ≤"], rows), "", f"Price at most: {price}"]
    if plan.hours is not None:
        lines.append(f"Hours at most, at that rate: {plan.hours:.2f}")
    lines += [f"{line} It would be left out." for line in plan.left_out]
    too_long, cut = plan.total("num_too_long"), plan.total("num_cut")
    if plan.context_tokens is None:
        lines.append(
            "The model's window is unknown: documents longer than it are not accounted for."
        )
    if too_long:
        lines.append(
            f"{too_long} items do not fit the window of {plan.context_tokens} tokens and would "
            "fail; --overlong fit cuts them."
        )
    if cut:
        lines.append(f"{cut} items would be cut to fit.")
    return "\n".join(lines)
