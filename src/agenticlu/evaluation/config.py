"""Settings of `agenticlu eval`, and the configuration they resolve to, saved with the results."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agenticlu.core.config import Resolved
from agenticlu.core.errors import AgenticluError, EngineUnreachableError, UsageError
from agenticlu.core.records import TurnKind, content_id, content_seed
from agenticlu.core.secrets import public_address
from agenticlu.core.settings import (
    Effort,
    JsonSettings,
    ModelSettings,
    NonNegative,
    Positive,
    PriceSettings,
    Settings,
    Spelling,
    TokenCount,
    select,
)
from agenticlu.dialogue.steps import MAX_TOKENS, Profile
from agenticlu.dialogue.stopping import StopRule, find_rule, read_rule
from agenticlu.documents import DEFAULT_PIECE_TOKENS
from agenticlu.documents.tokens import (
    ApproximateTokenizer,
    Tokenizer,
    load_tokenizer,
    read_model_hint,
)
from agenticlu.engines import check_base_url, check_model_path, read_window
from agenticlu.engines.base import Sampling
from agenticlu.engines.http.listing import ServedModel
from agenticlu.engines.http.probe import read_served_model
from agenticlu.engines.models import find_cached, is_hub_id
from agenticlu.evaluation.records import CHAT_TOKENS, Item

CONFIG_NAME = "config.json"
PUBLISHED = {
    "as_published": True,
    "rounds": 1,
    "temperature": 0.6,
    "top_p": 1.0,
    "max_tokens": 1024,
    "metric": "substring_exact_match",
}
"""Settings of the published arms: one round, up to 1024 tokens in every turn, temperature 0.6 but
for the prompting arms, which are greedy, and HELMET's substring match as the score."""
PUBLISHED_GREEDY = frozenset({"step-by-step", "plan-and-solve", "fact-and-reflect"})
"""Methods that the published runs decoded greedily at every temperature of the others."""
ANSWERING: frozenset[TurnKind] = frozenset({"direct", "answer"})
"""Turns whose reply ends in the answer."""


class EvaluationChoices(Settings):
    """Settings of an evaluation that are saved with its results as they were given."""

    methods: tuple[str, ...] = ("direct", "clarify")
    """Methods to run; --list shows them."""
    lengths: Annotated[tuple[TokenCount, ...], Spelling(metavar="TOKENS")] = (256, 512, 1024, 2048)
    """Tokens of a document, such as 256 or 8k."""
    label: str = ""
    """Name of the model in the tables."""
    limit: Positive | None = None
    """Maximum items per task and length."""
    questions_per_document: Positive = 4
    """Questions of a document of the world task."""
    seed: int = 0
    """Seed of items and sampling."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: probability mass sampled from."""
    top_k: Positive = 4
    """Pieces that the method retrieve shows."""
    retriever: Literal["bm25", "engine"] = "bm25"
    """Ranking by which retrieve finds pieces."""
    overlong: Literal["refuse", "fit", "cut-end"] = "refuse"
    """Items longer than the window: refuse them; fit: leave out pieces without gold facts; cut-end:
    cut the context's end, as HELMET does (method helmet)."""
    metric: str | None = None
    """Metric shown first, such as substring_exact_match. Default: each task's own."""
    concurrency: Positive = 8
    """Maximum items in flight."""
    profile: str = "default"
    """Prompt profile: a bundled name or a TOML file."""
    chat: bool | None = None
    """Send HELMET's prompts as chat, or as plain text to continue. Default: as HELMET does."""
    as_published: bool = False
    """Use the published arms' settings; refuses settings that contradict them."""


class EvaluationConfig(EvaluationChoices):
    """The configuration of an evaluation; saved with its results."""

    tasks: tuple[str, ...] = ("world",)
    model_fingerprint: str = ""
    """Hash of the model's weights, so that other weights are other items; of the model's name where
    a server reports no more."""
    weights_known: bool = True
    """Whether the fingerprint is that of the weights."""
    servers: tuple[str, ...] = ()
    """Addresses of the servers; empty for a model in this process."""
    rounds: int | tuple[int, ...] = 1
    """Maximum rounds of the methods that have several. Of several numbers the largest is run,
    and each gets a row: 'clarify@1', 'clarify@3'."""
    max_tokens: int = 256
    """Token limit of a reply that ends in an answer, for every method."""
    thinking: Effort | None = None
    """Effort that was asked for; None: the model's own."""
    piece_tokens: int = 512
    with_rouge: bool = False
    stop_rule: StopRule | None = None
    """Ends the dialogues of the method clarify-stop-rule."""
    tokenizer: str = ""
    """Name of the tokenizer that lengths are counted with."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further settings of single tasks."""

    @property
    def max_rounds(self) -> int:
        """Rounds to ask for: the largest number wanted."""
        return self.round_counts[-1]

    @property
    def round_counts(self) -> tuple[int, ...]:
        """Numbers of rounds wanted, ascending; at least one."""
        given = (self.rounds,) if isinstance(self.rounds, int) else self.rounds
        return tuple(sorted(set(given)))


@dataclass(frozen=True)
class RunSettings:
    """A configuration with what it resolves to: shared by all methods of a run."""

    config: EvaluationConfig
    profile: Profile
    tokenizer: Tokenizer
    context_tokens: int | None = None
    """The engine's window; None when unknown."""
    framing_tokens: int = CHAT_TOKENS
    """What a chat template or a start token adds to a prompt of the method `helmet`."""

    @property
    def required_rule(self) -> StopRule:
        """The stop rule.

        Raises:
            UsageError: There is none.
        """
        if self.config.stop_rule is None:
            raise UsageError(
                "Method 'clarify-stop-rule' needs a stop rule, and the model has none.",
                hint="Fit one: agenticlu generate stop-rule RUN --out RULE.json; then --stop-rule "
                "RULE.json.",
            )
        return self.config.stop_rule

    @functools.cached_property
    def profile_hash(self) -> str:
        """Hash of the wordings."""
        return content_id(self.profile.model_dump_json())

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Hash of how the tokenizer cuts text: a copy in another folder has the same."""
        return content_id(*(f"{start}-{end}" for start, end in self.tokenizer.spans(_PROBE)))

    def sampling(self, kind: TurnKind, item: Item, method: str = "") -> Sampling:
        """Returns how a turn is sampled."""
        config = self.config
        is_greedy = config.as_published and method in PUBLISHED_GREEDY
        return Sampling(
            temperature=0.0 if is_greedy else config.temperature,
            top_p=config.top_p,
            max_tokens=self.max_reply_tokens(kind),
            seed=content_seed(str(config.seed), item.question.id, kind),
        )

    def max_reply_tokens(self, kind: TurnKind) -> int:
        """Returns the token limit of a turn's reply."""
        limit = self.config.max_tokens
        if kind in ANSWERING or self.config.as_published:
            return limit
        return min(MAX_TOKENS.get(kind, limit), limit)


def as_published_config(config: EvaluationConfig) -> EvaluationConfig:
    """Returns the configuration with the settings of the published arms."""
    return config.model_copy(update=PUBLISHED)


WHOLE_BYTES = 64 * 1024 * 1024
"""Files up to this size are hashed whole; of larger ones, both ends and the size."""
END_BYTES = 1024 * 1024
_PROBE = (
    "On the 17th of March 2026, at 09:45, Ms. O'Neill-Žižková paid €1,234.50 (about 3.1% more) "
    "for unbelievably heterogeneous antidisestablishmentarianism; nobody re-read it.\n\n"
    "\tdef f(x_1: int) -> str:\n        return f'{x_1!r}'  # naïve café, Straße, Привет, 東京 🙂\n"
    "https://example.org/a?b=c&d=0x1F wanders through the quiet, quieter, quietest neighbourhood."
)
"""Text of many kinds: tokenizers that cut it alike are taken for one."""


def fingerprint(folder: str | Path) -> str:
    """Returns a hash of a local model's weights and configuration.

    Args:
        folder: Of a model in Hugging Face layout; or its GGUF file.
    """
    digest = hashlib.sha256()
    root = Path(folder)
    names = ("*.safetensors", "*.bin", "config.json", "generation_config.json", "*.jinja")
    files = sorted({path for pattern in names for path in root.glob(pattern)})
    files = [root] if root.is_file() else [*files, *sorted(root.glob("tokenizer*.json"))]
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE_BYTES:
                digest.update(file.read())
            else:
                digest.update(file.read(END_BYTES))
                file.seek(-END_BYTES, 2)
                digest.update(file.read())
    return digest.hexdigest()[:16]


TASK_OPTIONS = ("shots", "helmet_data", "helmet_tokenizer", "templates", "haystack", "words")
"""Settings that only some tasks look at, in the order in which they are saved."""


Round = Annotated[int, Field(ge=1, le=20)]


class TaskSettings(Settings):
    """Settings that only some tasks read."""

    shots: NonNegative | None = None
    """Demonstrations of HELMET's tasks. Default: HELMET's own number."""
    templates: Annotated[str | None, Spelling(metavar="FILE")] = None
    """TOML file of other instruction wordings."""
    haystack: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Text file that needles are hidden in. Default: invented prose."""
    words: Literal["wonderwords", "own"] = "wonderwords"
    """Source of RULER's keys and counted words from: the package that RULER takes them from
    (extra `evaluate`), or lists of our own."""

    def task_options(self) -> dict[str, Any]:
        """Returns those that are given."""
        values = ((name, getattr(self, name, None)) for name in TASK_OPTIONS)
        return {name: value for name, value in values if value is not None}


class HelmetSettings(TaskSettings):
    """Settings of HELMET's tasks."""

    helmet_data: Annotated[str | None, Spelling(metavar="FOLDER")] = None
    """Folder that holds HELMET's data/, and hub data sets by name."""
    helmet_tokenizer: Annotated[str | None, Spelling(metavar="FOLDER")] = None
    """Folder of the tokenizer that HELMET counts documents with. Default: Llama 2's."""


class EvalSettings(EvaluationChoices, HelmetSettings, ModelSettings, PriceSettings, JsonSettings):
    """Settings of `agenticlu eval`."""

    task: tuple[str, ...] = ("world",)
    """Tasks to run; --list shows them."""
    corpus: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Questions of your own, as agenticlu generate reads them; the task is then corpus. Without
    --lengths documents are read as they are, else among others of the corpus."""
    corpus_split: str = "train"
    """Split of a corpus that has several."""
    column: Annotated[tuple[str, ...], Spelling(metavar="FIELD=COLUMN")] = ()
    """Column of the corpus that holds a field, such as context=text."""
    out: Annotated[Path | None, Spelling(metavar="EVAL")] = None
    """Folder of results; run again to resume."""
    rounds: tuple[Round, ...] = (1,)
    """Maximum rounds of clarify; several numbers are shown side by side."""
    stop_rule: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Rule of the method clarify-stop-rule, from agenticlu generate stop-rule. Default: the model's
    own."""
    max_new_tokens: Annotated[Positive, Spelling(aliases=("max_tokens",))] = 256
    """Longest answering reply in tokens, for every method."""
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """Maximum tokens of a paragraph. Default: what suits the model, else 512."""
    rouge: bool = False
    """Also compute ROUGE."""
    patience: Annotated[float, Field(ge=0), Spelling(aliases=("patience_s",))] = 300.0
    """Seconds without an answer before giving up on an absent or overloaded server."""
    retry_failed: bool = False
    """Repeat items that failed before."""
    dry_run: bool = False
    """Estimate requests, tokens and price; ask nothing."""
    tokens_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Measured rate of computed tokens, for the estimate."""
    list_names: Annotated[bool, Spelling("list")] = False
    """List tasks and methods."""


@dataclass(frozen=True)
class ModelFacts:
    """A model, in process or served."""

    name: str
    """Name that it is served or was given under; empty for the bundled one."""
    tokenizer: Tokenizer
    weights: str
    """Hash of its weights; empty if the server does not report one."""
    servers: tuple[str, ...] = ()
    """Addresses that serve it; empty in process."""
    piece_tokens: int | None = None
    """Size of a piece that suits it; None when unknown."""
    context_tokens: int | None = None
    """Its window; None when unknown."""
    stop_rule: StopRule | None = None
    """The rule that its folder holds."""

    @property
    def is_estimate(self) -> bool:
        """Whether lengths are estimated because a served model's tokenizer was not found."""
        return bool(self.servers) and isinstance(self.tokenizer, ApproximateTokenizer)


def find_model(
    model: str | None,
    base_url: Sequence[str],
    api_key_env: str,
    tokenizer: str | None,
    *,
    may_be_away: bool,
    timeout_s: float,
    say: Callable[[str], None],
) -> ModelFacts:
    """Finds out what is known of a model without loading it.

    Args:
        model: A folder, or the name of a served model; None is the bundled one, or the only one
            served.
        base_url: Addresses of servers; empty for a model in process.
        api_key_env: Environment variable with their key.
        tokenizer: Folder or hub id of the tokenizer; None takes the model's own, else an estimate.
        may_be_away: Whether to do without servers that do not answer, as an estimate can.
        timeout_s: Seconds that a server may take to list its models, where that is less than usual.
        say: Called with a message about what is missing.

    Raises:
        ModelNotFoundError: There is no such folder.
        EngineUnreachableError: No server answers.
    """
    urls = tuple(check_base_url(url) for url in base_url)
    if not urls:
        if may_be_away and model and is_hub_id(model) and find_cached(model) is None:
            return ModelFacts(model, load_tokenizer(tokenizer or model), weights="")
        folder = check_model_path(model, say)
        return ModelFacts(
            name=model or "",
            tokenizer=load_tokenizer(tokenizer or folder),
            weights=fingerprint(folder),
            piece_tokens=read_model_hint(folder, "piece_tokens"),
            context_tokens=read_window(Path(folder)) if may_be_away else None,
            stop_rule=find_rule(Path(folder)),
        )
    served = None
    try:
        served = read_served_model(urls, model, api_key_env, timeout_s=timeout_s)
    except EngineUnreachableError as error:
        if not may_be_away:
            raise
        say(f"{error.message} The plan is made without its window.")
    served = served or ServedModel(model or "")
    return ModelFacts(
        name=served.id,
        tokenizer=_load_served_tokenizer(tokenizer, served.root, model or ""),
        weights=served.weights,
        servers=tuple(map(public_address, urls)),
        piece_tokens=served.piece_tokens,
        context_tokens=served.context_tokens,
    )


def _load_served_tokenizer(given: str | None, root: str, model: str) -> Tokenizer:
    """Loads the tokenizer that was asked for, else the model's own, else one that estimates."""
    if given is not None:
        return load_tokenizer(given)
    for name in dict.fromkeys((root, model)):
        is_folder = Path(name).expanduser().is_dir()
        if not name or not (is_folder or re.fullmatch(r"\w[\w.-]*/[\w.-]+", name)):
            continue
        try:
            return load_tokenizer(str(Path(name).expanduser()) if is_folder else name)
        except AgenticluError:
            continue
    return load_tokenizer(None)


def build_config(settings: EvalSettings, facts: ModelFacts) -> EvaluationConfig:
    """Returns what an evaluation runs, as saved with its results."""
    rounds = tuple(sorted(set(settings.rounds)))
    return EvaluationConfig(
        **{
            **select(settings, EvaluationChoices).model_dump(),
            "tasks": settings.task,
            "with_rouge": settings.rouge,
            "max_tokens": settings.max_new_tokens,
            "thinking": None if settings.thinking == "auto" else settings.thinking,
            "rounds": rounds[0] if len(rounds) == 1 else rounds,
            "piece_tokens": settings.piece_tokens or facts.piece_tokens or DEFAULT_PIECE_TOKENS,
            "tokenizer": facts.tokenizer.name,
            "model_fingerprint": facts.weights or content_id("served as", facts.name),
            "weights_known": bool(facts.weights),
            "servers": facts.servers,
            "stop_rule": choose_rule(settings, facts),
            "label": settings.label or (facts.name if facts.servers else ""),
            "as_published": False,  # until it is known that nothing contradicts it
            "options": settings.task_options(),
        }
    )


def choose_rule(settings: EvalSettings, facts: ModelFacts) -> StopRule | None:
    """Returns the stop rule of an evaluation, if any of its methods takes one.

    Raises:
        ConfigError: It cannot be read.
    """
    if settings.stop_rule is not None:
        return read_rule(settings.stop_rule)
    return facts.stop_rule if "clarify-stop-rule" in settings.methods else None


def refuse_contradictions(resolved: Resolved[EvalSettings], config: EvaluationConfig) -> None:
    """Raises UsageError where a setting was given that --as-published sets otherwise."""
    for name, value in PUBLISHED.items():
        key = {"max_tokens": "max_new_tokens"}.get(name, name)
        origin = resolved.origins[key]
        given = getattr(config, name)
        if origin != "default" and name != "as_published" and given != value:
            flag = f"--{key.replace('_', '-')}"
            raise UsageError(
                f"--as-published means {flag} {value}, but {flag} {given} was given ({origin}).",
                hint=f"Leave one of them out; without --as-published, {flag} is free.",
            )
