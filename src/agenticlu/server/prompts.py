"""Turns a request's bytes into token ids, in threads: the event loop stays free for others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic_core import from_json

from agenticlu.core.errors import EngineError
from agenticlu.engines.base import Asked, OnToken, Sampled, Sampling
from agenticlu.server.inquiry import Inquiry, parse_inquiry
from agenticlu.server.limits import DIALOGUE_MODEL, RequestError
from agenticlu.server.requests import (
    DEFAULT_MAX_TOKENS,
    CompletionRequest,
    check_logprobs,
    check_model,
    parse_messages,
    parse_request,
)

LARGE_BYTES = 128 << 10
"""Larger bodies are read by a thread of their own, so that small ones need not wait for them."""
SLICE_CHARS = 64 << 10
"""A text is counted in slices: a tokenizer takes hundreds of bytes for each byte of one text."""
SLICING_SLACK = 1.25
"""Slices may count a few tokens more than the text has, so they refuse only what is far longer than
the window."""
TOKENIZE_FIELDS = frozenset({"model", "prompt", "messages"})

Result = TypeVar("Result")


@runtime_checkable
class DetailedEngine(Protocol):
    """An engine that also encodes prompts and reports tokens as they are sampled."""

    context_tokens: int | None
    chat: Any

    async def generate(
        self,
        asked: Asked,
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
        on_token: OnToken | None = None,
        ids: Sequence[int] = (),
    ) -> Sampled:
        """Samples with details; see `HFEngine.generate`."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A request that can be sampled."""

    request: CompletionRequest
    ids: tuple[list[int], ...] = ()
    """Of each prompt; empty where the engine encodes them."""


class AbandonedError(Exception):
    """Nobody waits for the work any more."""


@dataclass(eq=False)
class Preparer:
    """Parses and encodes requests.

    Args:
        engine: Encodes, where it can.
        model: Name under which it is served.
        reads: Whether the model that reads documents is served, too.
        sources: Whether its texts name their sources in words.
    """

    engine: Any
    model: str
    reads: bool = False
    sources: bool = False
    _small: ThreadPoolExecutor = field(init=False)
    _large: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._small = ThreadPoolExecutor(2, thread_name_prefix="agenticlu-serve")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="agenticlu-serve-large")

    def close(self) -> None:
        """Ends the threads once they have finished their work."""
        for pool in (self._small, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def prepare(self, content: bytes | bytearray, *, plain: bool) -> Prepared | Inquiry:
        """Reads a request's body; one to the model that reads documents is an inquiry.

        Raises:
            RequestError: It is malformed, or the prompt exceeds the model's window.
        """
        return await self.run(lambda job: self._prepare(content, plain, job), len(content))

    async def inquire(self, content: bytes | bytearray) -> Inquiry:
        """Reads the body of a request for a response.

        Raises:
            RequestError: It is malformed, or asks another model.
        """
        return await self.run(lambda job: self._inquire(content, job), len(content))

    async def tokenize(self, content: bytes | bytearray) -> list[int]:
        """Reads the body of a request for token ids; returns them.

        Raises:
            RequestError: It is malformed, or the engine has no tokenizer.
        """
        return await self.run(lambda job: self._tokenize(content, job), len(content))

    async def run(
        self, function: Callable[[threading.Event], Result], num_bytes: int = 0
    ) -> Result:
        """Runs a function in a thread.

        Args:
            function: Called with an event that is set when nobody waits for it any more.
            num_bytes: Of what it is to read.
        """
        pool = self._large if num_bytes > LARGE_BYTES else self._small
        abandoned = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, function, abandoned)
        except asyncio.CancelledError:
            abandoned.set()
            raise

    def _prepare(
        self, content: bytes | bytearray, plain: bool, abandoned: threading.Event
    ) -> Prepared | Inquiry:
        body = _parse_json(content, abandoned)
        if self.reads and isinstance(body, dict) and body.get("model") == DIALOGUE_MODEL:
            if plain:
                raise RequestError(
                    f"The model {DIALOGUE_MODEL!r} answers questions: it continues no text.",
                    "model",
                )
            return parse_inquiry(body, responses=False, sources=self.sources)
        request = parse_request(body, plain=plain)
        check_model(body, self.served)
        del body
        if not isinstance(self.engine, DetailedEngine):
            if request.top_logprobs is not None:
                raise RequestError("This engine gives no log-probabilities.", "logprobs")
            return Prepared(request)
        ids = tuple(self._encode(asked, abandoned) for asked in request.asked)
        request = self._with_limit(request, max(map(len, ids)))
        limit, reply = self.engine.context_tokens, request.sampling.max_tokens
        for one in ids:
            if limit is not None and len(one) + reply > limit:
                raise _too_long(
                    f"The prompt has {len(one)} tokens and its reply may take {reply};"
                    f" {self.model} takes {limit} in all.",
                    request.plain,
                )
        check_logprobs(request, request.sampling.max_tokens)
        return Prepared(request, ids)

    @property
    def served(self) -> list[str]:
        """Names of the models that may be asked."""
        return [self.model, *([DIALOGUE_MODEL] if self.reads else [])]

    def _inquire(self, content: bytes | bytearray, abandoned: threading.Event) -> Inquiry:
        body = _parse_json(content, abandoned)
        if not isinstance(body, dict):
            raise RequestError("The body must be a JSON object.")
        check_model(body, self.served)
        if body.get("model") == self.model:
            raise RequestError(
                f"Responses are given by the model {DIALOGUE_MODEL!r}; {self.model!r} is asked at"
                " /v1/chat/completions.",
                "model",
            )
        return parse_inquiry(body, responses=True, sources=self.sources)

    def _with_limit(self, request: CompletionRequest, num_tokens: int) -> CompletionRequest:
        """Gives a conversation without a limit what is left of the window."""
        window = self.engine.context_tokens
        if request.max_tokens_given or window is None:
            return request
        limit = max(1, min(DEFAULT_MAX_TOKENS, window - num_tokens))
        return replace(request, sampling=replace(request.sampling, max_tokens=limit))

    def _encode(self, asked: Asked, abandoned: threading.Event) -> list[int]:
        texts = [asked] if isinstance(asked, str) else [one.content for one in asked]
        self._refuse_overlong(texts, abandoned, plain=isinstance(asked, str))
        chat = self.engine.chat
        try:
            ids: list[int] = (
                chat.encode_plain(asked) if isinstance(asked, str) else chat.encode(asked)
            )
        except EngineError as error:  # no chat template, or one that refuses the conversation
            raise RequestError(error.message, "messages") from error
        return ids

    def _refuse_overlong(
        self, texts: Sequence[str], abandoned: threading.Event, *, plain: bool
    ) -> None:
        """Refuses what is far longer than the window before it is encoded as a whole."""
        window = self.engine.context_tokens
        if window is None:
            return
        total = len(texts)  # a message has at least one token, for its role
        limit = window * SLICING_SLACK + 64
        for text in texts:
            for start in range(0, len(text), SLICE_CHARS):
                if total > limit:
                    break
                if abandoned.is_set():
                    raise AbandonedError
                total += len(self.engine.chat.encode_text(text[start : start + SLICE_CHARS]))
        if total > limit:
            raise _too_long(
                f"The prompt has more than {window} tokens; {self.model} takes {window} in all,"
                " its reply included.",
                plain,
            )

    def _tokenize(self, content: bytes | bytearray, abandoned: threading.Event) -> list[int]:
        body = _parse_json(content, abandoned)
        if not isinstance(body, dict):
            raise RequestError("The body must be a JSON object.")
        for name, value in body.items():
            if name not in TOKENIZE_FIELDS and (name, value) != ("add_special_tokens", False):
                raise RequestError(f"This server does not support {name[:60]!r}.", name)
        if not isinstance(self.engine, DetailedEngine):
            raise RequestError("This engine has no tokenizer.")
        if "messages" in body:
            return self._encode(parse_messages(body["messages"]), abandoned)
        prompt = body.get("prompt")
        if not isinstance(prompt, str):
            raise RequestError("Give a 'prompt' (a string) or 'messages'.", "prompt")
        self._refuse_overlong([prompt], abandoned, plain=True)
        ids: list[int] = self.engine.chat.encode_text(prompt)
        return ids


def _too_long(message: str, plain: bool) -> RequestError:
    param = "prompt" if plain else "messages"
    return RequestError(message, param, code="context_length_exceeded")


def _parse_json(content: bytes | bytearray, abandoned: threading.Event) -> Any:
    """Parses a body; strict UTF-8, no NaN, no deep nesting, no lone surrogates."""
    if abandoned.is_set():
        raise AbandonedError
    try:
        return from_json(content, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"The body is not JSON: {error}.") from error
