"""Settings of an evaluation, and facts about its model found before any item is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agenticlu.core.config import Resolved
from agenticlu.core.errors import AgenticluError, EngineUnreachableError, UsageError
from agenticlu.core.records import content_id
from agenticlu.core.settings import (
    JsonSettings,
    ModelSettings,
    NonNegative,
    Positive,
    PriceSettings,
    Settings,
    Spelling,
    TokenCount,
)
from agenticlu.documents import DEFAULT_PIECE_TOKENS
from agenticlu.documents.tokens import (
    ApproximateTokenizer,
    Tokenizer,
    load_tokenizer,
    read_model_hint,
)
from agenticlu.engines import check_base_url, check_model_path, read_window
from agenticlu.engines.probe import read_served_model
from agenticlu.engines.replies import ServedModel
from agenticlu.evaluation.config import PUBLISHED, EvaluationConfig, fingerprint

TASK_OPTIONS = ("shots", "helmet_data", "helmet_tokenizer", "templates", "haystack", "words")
"""Settings that only some tasks look at, in the order in which they are saved."""


Round = Annotated[int, Field(ge=1, le=20)]


class TaskSettings(Settings):
    """Settings that only some tasks look at."""

    shots: NonNegative | None = None
    """Demonstrations of HELMET's tasks. Default: HELMET's own number."""
    templates: Annotated[str | None, Spelling(metavar="FILE")] = None
    """TOML file of other instruction wordings."""
    haystack: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Text file that needles are hidden in. Default: invented prose."""
    words: Literal["wonderwords", "own"] = "wonderwords"
    """Where RULER's tasks take keys and counted words from: the package that RULER takes them from
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


class EvalSettings(HelmetSettings, ModelSettings, PriceSettings, JsonSettings):
    """Settings of `agenticlu eval`."""

    task: tuple[str, ...] = ("world",)
    """Tasks; --list shows them."""
    methods: tuple[str, ...] = ("direct", "clarify")
    """Methods; --list shows them."""
    lengths: Annotated[tuple[TokenCount, ...], Spelling(metavar="TOKENS")] = (256, 512, 1024, 2048)
    """Tokens of a document, such as 256 or 8k."""
    out: Annotated[Path | None, Spelling(metavar="EVAL")] = None
    """Folder of results; run again to go on."""
    label: str = ""
    """Name of the model in the tables."""
    limit: Positive | None = None
    """Items per task and length at most."""
    questions_per_document: Positive = 4
    """Questions of a document of the world task."""
    rounds: tuple[Round, ...] = (1,)
    """Rounds of clarify at most; several numbers are shown side by side."""
    seed: int = 0
    """Seed of items and sampling."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: probability mass sampled from."""
    max_new_tokens: Annotated[Positive, Spelling(aliases=("max_tokens",))] = 256
    """Longest answering reply in tokens, for every method."""
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """Tokens of a paragraph at most. Default: what suits the model, else 512."""
    top_k: Positive = 4
    """Pieces that the method retrieve shows."""
    retriever: Literal["bm25", "engine"] = "bm25"
    """How retrieve finds pieces."""
    overlong: Literal["refuse", "fit", "cut-end"] = "refuse"
    """Items longer than the window: refuse them; fit: leave out pieces without gold facts; cut-end:
    cut the context's end, as HELMET does (method helmet)."""
    rouge: bool = False
    """Compute ROUGE, too."""
    metric: str | None = None
    """Metric shown first, such as substring_exact_match. Default: each task's own."""
    concurrency: Positive = 8
    """Items in flight at most."""
    patience: Annotated[float, Field(ge=0), Spelling(aliases=("patience_s",))] = 300.0
    """Seconds without any answer until an absent or overloaded server is given up."""
    profile: str = "default"
    """Prompt profile: a bundled one or a TOML file."""
    chat: bool | None = None
    """Send HELMET's prompts as chat, or as plain text to continue. Default: as HELMET does."""
    as_published: bool = False
    """Use the published arms' settings; refuses settings that contradict them."""
    retry_failed: bool = False
    """Run items again that failed before."""
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
    """Hash of its weights; empty where a server does not tell."""
    servers: tuple[str, ...] = ()
    """Addresses that serve it; empty in process."""
    piece_tokens: int | None = None
    """Size of a piece that suits it; None when unknown."""
    context_tokens: int | None = None
    """Its window; None when unknown."""

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
        say: Called with a message about what is missing.

    Raises:
        ModelNotFoundError: There is no such folder.
        EngineUnreachableError: No server answers.
    """
    urls = tuple(check_base_url(url) for url in base_url)
    if not urls:
        folder = check_model_path(model)
        return ModelFacts(
            name=model or "",
            tokenizer=load_tokenizer(tokenizer or folder),
            weights=fingerprint(folder),
            piece_tokens=read_model_hint(folder, "piece_tokens"),
            context_tokens=read_window(Path(folder)) if may_be_away else None,
        )
    served = None
    try:
        served = read_served_model(urls, model, api_key_env)
    except EngineUnreachableError as error:
        if not may_be_away:
            raise
        say(f"{error.message} The plan is made without its window.")
    served = served or ServedModel(model or "")
    return ModelFacts(
        name=served.id,
        tokenizer=_load_served_tokenizer(tokenizer, served.root, model or ""),
        weights=served.weights,
        servers=urls,
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
    values = settings.model_dump()
    same = EvaluationConfig.model_fields.keys() & values.keys()
    rounds = tuple(sorted(set(settings.rounds)))
    return EvaluationConfig(
        **{
            **{name: values[name] for name in same},
            "tasks": settings.task,
            "with_rouge": settings.rouge,
            "max_tokens": settings.max_new_tokens,
            "rounds": rounds[0] if len(rounds) == 1 else rounds,
            "piece_tokens": settings.piece_tokens or facts.piece_tokens or DEFAULT_PIECE_TOKENS,
            "tokenizer": facts.tokenizer.name,
            "model_fingerprint": facts.weights or content_id("served as", facts.name),
            "weights_known": bool(facts.weights),
            "servers": facts.servers,
            "label": settings.label or (facts.name if facts.servers else ""),
            "as_published": False,  # until it is known that nothing contradicts it
            "options": settings.task_options(),
        }
    )


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
