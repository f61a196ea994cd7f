"""One document and one model, asked any number of questions: the class behind `agenticlu.ask`."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypedDict, Unpack

from agenticlu.core.config import resolve
from agenticlu.core.files import Closing
from agenticlu.core.loops import LoopThread
from agenticlu.core.records import NO_PRICES, Document, Prices
from agenticlu.core.settings import THINKING_TOKENS, Effort, PrefixSettings, TokenCount
from agenticlu.dialogue.answer import Answer, Event, make_question
from agenticlu.dialogue.ask import SHORTLIST
from agenticlu.dialogue.ask import ask as ask_engine
from agenticlu.dialogue.estimate import AskEstimate, estimate
from agenticlu.dialogue.halting import Stop
from agenticlu.dialogue.run import PieceIndex, ShownDocument, control_tokens
from agenticlu.dialogue.steps import Profile, load_profile
from agenticlu.dialogue.stopping import find_rule
from agenticlu.documents import DEFAULT_PIECE_TOKENS, load_document, split
from agenticlu.engines import DEFAULT_TIMEOUT_S, ModelChoice
from agenticlu.engines.base import Engine
from agenticlu.engines.thinking import Thinking

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Document
BUNDLED_NOTE = (
    "No model was named, so the bundled tiny model answers. It understands only its own invented "
    "world; name a model (model='FOLDER') or a server (base_url='http://...')."
)


class _Shared(PrefixSettings):
    """The settings that configuration files and variables share among all commands."""

    model: str | None = None
    base_url: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"
    tokenizer: str | None = None
    thinking: Effort = "auto"
    thinking_tokens: TokenCount = THINKING_TOKENS
    profile: str = "default"
    piece_tokens: int | None = None
    temperature: float = 0.0
    window: TokenCount | None = None
    trust_remote_code: bool = False


class Reader(Closing):
    """Answers questions about one document, which is read only once.

    What is not given comes from `AGENTICLU_*` variables, `agenticlu.toml` and the user's file, as
    on the command line. Use it as a context manager, in synchronous or asynchronous code:

    >>> with Reader("report.pdf", model="./my-model") as reader:  # doctest: +SKIP
    ...     answers = [reader.ask(question) for question in questions]

    Args:
        document: A path, an address, a folder, a pattern, a list of these (read as one), or a
            `Document`.
        model: A folder in Hugging Face layout, or the name of a served model.
        base_url: Address of an OpenAI-compatible server; several make a pool.
        engine: An engine of your own, instead of `model` and `base_url`; it is not closed here.
        api_key_env: Environment variable that holds the server's key.
        tokenizer: Folder or hub id, where the model's own is not known.
        profile: Wordings: a bundled profile's name, a TOML file, or a `Profile`.
        piece_tokens: Maximum tokens of a piece; None for what suits the model, else 512.
        timeout_s: Limit of one request to a server, in seconds.
        window: Longest prompt plus reply in tokens, where the server does not say it.
        thinking: Whether the model thinks before it replies ('on', 'off'), or the effort to ask
            for ('low', 'medium', 'high'); 'auto' as on the command line.
        thinking_tokens: Most tokens of thought before one reply.
        prefix_cache: Folder in which a model of this process keeps what it has read of the
            document, for later processes; None: the user's own; False: nowhere.
        prices: Of a million tokens, such as `Prices(0.2, 0.6)`; answers then say what they cost.

    Raises:
        DocumentError: The document cannot be read.
        ConfigError: A configuration file, the profile or the tokenizer cannot be read, or the
            folder's `agenticlu.toml` names a model or a server and is not trusted.
    """

    def __init__(
        self,
        document: Source,
        *,
        model: str | os.PathLike[str] | None = None,
        base_url: str | Sequence[str] = (),
        engine: Engine | None = None,
        api_key_env: str | None = None,
        tokenizer: str | None = None,
        profile: str | Profile | None = None,
        piece_tokens: int | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        window: int | None = None,
        thinking: Effort | None = None,
        thinking_tokens: int | None = None,
        prefix_cache: str | os.PathLike[str] | Literal[False] | None = None,
        prices: Prices | None = None,
    ) -> None:
        urls = (base_url,) if isinstance(base_url, str) else tuple(base_url)
        # A model folder named in the call is not looked for on a file's server.
        settings = resolve(
            _Shared,
            flags={
                "model": None if model is None else os.fspath(model),
                "base_url": urls if urls or model is not None else None,
                "api_key_env": api_key_env,
                "tokenizer": tokenizer,
                "profile": profile if isinstance(profile, str) else None,
                "piece_tokens": piece_tokens,
                "window": window,
                "thinking": thinking,
                "thinking_tokens": thinking_tokens,
                "prefix_cache": os.fspath(prefix_cache) if prefix_cache else None,
                "prefix_cache_gib": 0.0 if prefix_cache is False else None,
            },
        ).values
        # A server named in the call is not to be asked for a model that a file names for another.
        name = settings.model if model is not None or not urls else None
        self._choice = ModelChoice(
            name,
            settings.base_url,
            settings.api_key_env,
            timeout_s,
            settings.window,
            thinking=Thinking(settings.thinking, settings.thinking_tokens),
            trust_remote_code=settings.trust_remote_code,
            prefixes=settings.prefixes,
        )
        self._engine, self._owns_engine = engine, engine is None
        self._loop: LoopThread | None = None
        self._temperature, self._prices = settings.temperature, prices or NO_PRICES
        self.profile = profile if isinstance(profile, Profile) else load_profile(settings.profile)
        self.document = document if isinstance(document, Document) else load_document(document)
        self.tokenizer = self._choice.tokenizer(settings.tokenizer)
        self.rule = find_rule(self._choice.folder) if engine is None else None
        most = settings.piece_tokens or self._choice.hint("piece_tokens") or DEFAULT_PIECE_TOKENS
        self.pieces = split(self.document, self.tokenizer, most)
        shown = ShownDocument(self.document, self.pieces, control_tokens(self.tokenizer))
        self._index = PieceIndex(shown)

    @property
    def engine(self) -> Engine:
        """The engine; loaded when first used."""
        if self._engine is None:
            if self._choice.bundled:
                warnings.warn(BUNDLED_NOTE, UserWarning, stacklevel=3)
            self._engine = self._choice.load()
        return self._engine

    def ask(self, question: str, **options: Any) -> Answer:
        """Answers a question; see `ask_async` for the options and errors."""
        if self._loop is None:
            self._loop = LoopThread()
        engine = self.engine  # loaded here, so that a warning points to the caller
        assert engine is not None
        return self._loop.run(self.ask_async(question, **options))

    async def ask_async(
        self,
        question: str,
        *,
        options: Sequence[str] = (),
        rounds: int = 1,
        spans: bool = False,
        shortlist: int = SHORTLIST,
        temperature: float | None = None,
        max_total_tokens: int | None = None,
        earlier: Sequence[tuple[str, str]] = (),
        stop: Stop | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Answer:
        """Answers a question.

        Args:
            question: The question.
            options: Choices of a multiple-choice question.
            rounds: Maximum rounds of clarification; a self-check of yes ends them.
            spans: Read a document that does not fit the model's window piece by piece.
            shortlist: Most pieces of several documents that are scored then, found by words.
            temperature: 0 is greedy.
            max_total_tokens: Maximum prompt and sampled tokens.
            earlier: Questions asked before about the document and their answers, the latest last:
                this one may refer to them ("And when was she born?").
            stop: A function, or an event of the running loop. Once it is true, or set, the work
                ends within one token with the best answer so far; `answer.stopped` says so.
            on_event: Called with each step, and with the text of each turn as it comes.

        Returns:
            The answer. `answer.supported` says whether the document supports it.

        Raises:
            DocumentTooLongError: The document does not fit and `spans` is off.
            BudgetExceededError: The limit was reached before there was any answer.
            EngineError: The model could not be asked.
        """
        return await ask_engine(
            self.document,
            make_question(self.document, question, options),
            self.engine,
            tokenizer=self.tokenizer,
            profile=self.profile,
            rounds=rounds,
            spans=spans,
            shortlist=shortlist,
            temperature=self._temperature if temperature is None else temperature,
            pieces=self.pieces,
            index=self._index,
            max_total_tokens=max_total_tokens,
            earlier=earlier,
            stop=stop,
            rule=self.rule,
            prices=self._prices,
            on_event=on_event,
        )

    def estimate(
        self,
        question: str,
        *,
        rounds: int = 1,
        window: int | None = None,
        earlier: Sequence[tuple[str, str]] = (),
    ) -> AskEstimate:
        """Counts what a question would cost at most; sends nothing."""
        return estimate(
            self.document,
            make_question(self.document, question),
            tokenizer=self.tokenizer,
            profile=self.profile,
            rounds=rounds,
            pieces=self.pieces,
            window=window,
            earlier=earlier,
        )

    def close(self) -> None:
        """Releases the model or the connections."""
        if self._loop is not None:
            self._loop.run(self.close_async())
            self._loop.close()
            self._loop = None
        elif self._engine is not None and self._owns_engine:
            asyncio.run(self.close_async())

    async def close_async(self) -> None:
        """Releases the model or the connections, from asynchronous code."""
        if self._engine is not None and self._owns_engine:
            await self._engine.close()
            self._engine = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close_async()


class ReaderOptions(TypedDict, total=False):
    """Keyword arguments of `Reader`, for functions that build one."""

    model: str | os.PathLike[str] | None
    base_url: str | Sequence[str]
    engine: Engine | None
    api_key_env: str | None
    tokenizer: str | None
    profile: str | Profile | None
    piece_tokens: int | None
    timeout_s: float
    window: int | None
    thinking: Effort | None
    thinking_tokens: int | None
    prefix_cache: str | os.PathLike[str] | Literal[False] | None
    prices: Prices | None


def ask(
    document: Source,
    question: str,
    *,
    options: Sequence[str] = (),
    rounds: int = 1,
    spans: bool = False,
    shortlist: int = SHORTLIST,
    temperature: float | None = None,
    max_total_tokens: int | None = None,
    earlier: Sequence[tuple[str, str]] = (),
    stop: Stop | None = None,
    on_event: Callable[[Event], None] | None = None,
    **reader: Unpack[ReaderOptions],
) -> Answer:
    """Answers one question about a document; works in notebooks, too.

    Several questions about one document are cheaper with a `Reader`, which reads it once.

    >>> answer = ask("report.pdf", "Who signed?", model="./my-model")  # doctest: +SKIP
    >>> print(answer.answer, [c.quote for c in answer.citations])  # doctest: +SKIP

    Args:
        document: A path, an address, a folder, a pattern, a list of these (read as one), or a
            `Document`.
        question: The question.
        options: Choices of a multiple-choice question.
        rounds: Maximum rounds of clarification.
        spans: Read a document that does not fit the model's window piece by piece.
        shortlist: Most pieces of several documents that are scored then, found by words.
        temperature: 0 is greedy.
        max_total_tokens: Maximum prompt and sampled tokens.
        earlier: Questions asked before about the document, and their answers.
        stop: A function; once it is true, the best answer so far is the answer.
        on_event: Called with each step, in the thread of an event loop.
        **reader: `model`, `base_url` and the other arguments of `Reader`.

    Raises:
        AgenticluError: See `Reader` and `Reader.ask_async`.
    """
    with Reader(document, **reader) as opened:
        return opened.ask(
            question,
            options=options,
            rounds=rounds,
            spans=spans,
            shortlist=shortlist,
            temperature=temperature,
            max_total_tokens=max_total_tokens,
            earlier=earlier,
            stop=stop,
            on_event=on_event,
        )


async def ask_async(
    document: Source,
    question: str,
    *,
    options: Sequence[str] = (),
    rounds: int = 1,
    spans: bool = False,
    shortlist: int = SHORTLIST,
    temperature: float | None = None,
    max_total_tokens: int | None = None,
    earlier: Sequence[tuple[str, str]] = (),
    stop: Stop | None = None,
    on_event: Callable[[Event], None] | None = None,
    **reader: Unpack[ReaderOptions],
) -> Answer:
    """Answers one question about a document, from asynchronous code; see `ask`."""
    async with Reader(document, **reader) as opened:
        return await opened.ask_async(
            question,
            options=options,
            rounds=rounds,
            spans=spans,
            shortlist=shortlist,
            temperature=temperature,
            max_total_tokens=max_total_tokens,
            earlier=earlier,
            stop=stop,
            on_event=on_event,
        )
