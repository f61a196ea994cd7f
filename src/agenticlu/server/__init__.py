"""OpenAI-compatible HTTP server over any engine."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from agenticlu.core.errors import (
    AgenticluError,
    EngineBusyError,
    ModelNotFoundError,
    UsageError,
    missing_dependency,
)
from agenticlu.core.records import content_id
from agenticlu.engines.base import Asked, Engine, OnToken, Sampled, Sampling
from agenticlu.server.requests import (
    DEFAULT_MAX_TOKENS,
    FINISH,
    CompletionRequest,
    RequestError,
    parse_messages,
    parse_request,
    render_error,
    render_logprobs,
    render_usage,
    safe_text,
)


@runtime_checkable
class DetailedEngine(Protocol):
    """An engine that also reports log-probabilities, and tokens as they are sampled."""

    context_tokens: int | None
    chat: Any

    async def generate(
        self,
        asked: Asked,
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
        on_token: OnToken | None = None,
    ) -> Any:
        """Samples with details; see `HFEngine.generate`."""
        ...


class ChatServer:
    """The routes' handlers.

    Args:
        engine: Answers.
        model: Name under which it is listed.
        details: Further fields of its entry in the list.
    """

    def __init__(
        self, engine: Engine, model: str, details: Mapping[str, Any] | None = None
    ) -> None:
        self.engine = engine
        self.model = model
        self._details = dict(details or {})
        self._created = int(time.time())
        self._replies = 0

    def app(self) -> Any:
        """Builds the ASGI application."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.list_models),
                Route("/tokenize", self.tokenize, methods=["POST"]),
                Route("/health", self.health),
            ]
        )

    async def health(self, request: Any) -> Any:
        """GET /health."""
        return _json({"status": "ok"})

    async def list_models(self, request: Any) -> Any:
        """GET /v1/models."""
        found = await self.engine.capabilities()
        entry = {
            "id": self.model,
            "object": "model",
            "created": self._created,
            "owned_by": "agenticlu",
            "max_model_len": found.context_tokens,
            **self._details,
        }
        return _json({"object": "list", "data": [entry]})

    async def tokenize(self, request: Any) -> Any:
        """POST /tokenize: ids of a `prompt` or of `messages`."""
        try:
            body = await _read_json(request)
            engine = self.engine
            if not isinstance(engine, DetailedEngine):
                raise RequestError("This engine has no tokenizer.", None)
            if isinstance(body, dict) and isinstance(body.get("prompt"), str):
                ids = engine.chat.encode_text(body["prompt"])
            else:
                messages = body.get("messages") if isinstance(body, dict) else None
                ids = engine.chat.encode(parse_messages(messages))
        except AgenticluError as error:
            return _json_error(error)
        return _json({"count": len(ids), "tokens": ids, "max_model_len": engine.context_tokens})

    async def chat(self, request: Any) -> Any:
        """POST /v1/chat/completions."""
        return await self._answer(request, plain=False)

    async def complete(self, request: Any) -> Any:
        """POST /v1/completions."""
        return await self._answer(request, plain=True)

    async def _answer(self, request: Any, *, plain: bool) -> Any:
        from starlette.responses import StreamingResponse

        try:
            body = await _read_json(request)
            asked = parse_request(body, plain=plain)
            if body.get("model") not in (None, self.model):
                raise ModelNotFoundError(
                    f"Unknown model {body['model']!r}. This server serves {self.model!r}."
                )
            asked = self._with_limit(asked)
            if asked.top_logprobs is not None and not isinstance(self.engine, DetailedEngine):
                raise RequestError("This engine gives no log-probabilities.", "logprobs")
            session = request.headers.get("x-session-id")
            self._replies += 1
            number = content_id(self.model, str(self._created), str(self._replies))
            reply_id = f"{'cmpl' if plain else 'chatcmpl'}-{number}"
            if asked.stream:
                events = self._stream(asked, reply_id, session)
                first = await anext(events)  # an error before it still has its own status
                return StreamingResponse(_chain(first, events), media_type="text/event-stream")
            work = asyncio.ensure_future(self._sample(asked, session))
            reply = await _unless_gone(request, work)
        except AgenticluError as error:
            return _json_error(error)
        return _json(self._render(asked, reply, reply_id))

    def _with_limit(self, asked: CompletionRequest) -> CompletionRequest:
        """Gives a conversation without a limit what is left of the window."""
        engine = self.engine
        if asked.max_tokens_given or not isinstance(engine, DetailedEngine):
            return asked
        if engine.context_tokens is None:
            return asked
        left = engine.context_tokens - len(engine.chat.encode(asked.asked))
        limit = max(1, min(DEFAULT_MAX_TOKENS, left))
        return replace(asked, sampling=replace(asked.sampling, max_tokens=limit))

    async def _sample(
        self,
        asked: CompletionRequest,
        session: str | None,
        on_token: OnToken | None = None,
    ) -> Sampled:
        if isinstance(self.engine, DetailedEngine):
            reply: Sampled = await self.engine.generate(
                asked.asked,
                asked.sampling,
                top_logprobs=asked.top_logprobs,
                on_token=on_token,
            )
            return reply
        if isinstance(asked.asked, str):
            return await self.engine.complete(asked.asked, asked.sampling, session=session)
        return await self.engine.sample(asked.asked, asked.sampling, session=session)

    def _render(self, asked: CompletionRequest, reply: Sampled, reply_id: str) -> dict[str, Any]:
        plain = isinstance(asked.asked, str)

        def said(text: str) -> dict[str, Any]:
            if plain:
                return {"text": text}
            return {"message": {"role": "assistant", "content": text, "refusal": None}}

        return {
            **self._head(reply_id, "text_completion" if plain else "chat.completion"),
            "choices": [
                {"index": i, **said(one.text), **_ending(asked, reply, i)}
                for i, one in enumerate(reply.completions)
            ],
            "usage": render_usage(reply.usage),
        }

    def _head(self, reply_id: str, kind: str) -> dict[str, Any]:
        return {"id": reply_id, "object": kind, "created": int(time.time()), "model": self.model}

    async def _stream(
        self, asked: CompletionRequest, reply_id: str, session: str | None
    ) -> AsyncIterator[str]:
        """Yields server-sent events: text as it comes, then reasons, usage and the end."""
        arrived: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        tokens: list[list[int]] = [[] for _ in range(asked.sampling.n)]
        sent = [""] * asked.sampling.n
        plain = isinstance(asked.asked, str)
        nothing: dict[str, Any] = {"text": ""} if plain else {"delta": {}}
        head = self._head(reply_id, "text_completion" if plain else "chat.completion.chunk")

        def event(choices: list[dict[str, Any]], **more: Any) -> str:
            return f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n"

        def delta(index: int, text: str) -> str:
            said = {"text": text} if plain else {"delta": {"content": text}}
            return event([{"index": index, **said, "finish_reason": None}])

        work = asyncio.ensure_future(
            self._sample(
                asked, session, lambda ordinal, token, _: arrived.put_nowait((ordinal, token))
            )
        )
        work.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            opened = False
            while (news := await arrived.get()) is not None:
                if not opened and not plain:
                    opened = True
                    for index in range(asked.sampling.n):
                        opening = {"role": "assistant", "content": ""}
                        yield event([{"index": index, "delta": opening, "finish_reason": None}])
                index, token = news
                tokens[index].append(token)
                assert isinstance(self.engine, DetailedEngine)
                text = self.engine.chat.decode(tokens[index])
                text = safe_text(text, asked.sampling.stop, strip=not plain)
                if len(text) > len(sent[index]):
                    yield delta(index, text[len(sent[index]) :])
                    sent[index] = text
            reply = work.result()
            for index, one in enumerate(reply.completions):
                if len(one.text) > len(sent[index]):
                    yield delta(index, one.text[len(sent[index]) :])
                yield event([{"index": index, **nothing, **_ending(asked, reply, index)}])
            if asked.include_usage:
                yield event([], usage=render_usage(reply.usage))
            yield "data: [DONE]\n\n"
        finally:
            work.cancel()


def _ending(asked: CompletionRequest, reply: Sampled, index: int) -> dict[str, Any]:
    """Returns what a choice says beside its text."""
    one = reply.completions[index]
    logprobs = None
    if asked.top_logprobs is not None:
        logprobs = render_logprobs(getattr(reply, "logprobs", ())[index], asked.top_logprobs)
    ending: dict[str, Any] = {"finish_reason": FINISH[one.finish_reason], "logprobs": logprobs}
    if asked.token_ids and one.token_ids is not None:
        ending["token_ids"] = list(one.token_ids)
    return ending


def build_app(engine: Engine, model: str, details: Mapping[str, Any] | None = None) -> Any:
    """Builds the ASGI application over an engine.

    Args:
        engine: Answers.
        model: Name under which it is listed.
        details: Further fields of its entry in the list of models.

    Raises:
        MissingDependencyError: starlette is not installed.
    """
    try:
        import starlette  # noqa: F401
    except ImportError as error:
        raise missing_dependency("starlette", "serve") from error
    return ChatServer(engine, model, details).app()


def open_listener(host: str, port: int) -> socket.socket:
    """Binds the address to serve at, before the model is loaded.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.

    Raises:
        UsageError: The address is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Only listening shows that another server has the port; it starts over with its backlog.
        listener.listen()
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            hint="Try another --port, or --port 0 for a free one.",
        ) from error
    return listener


async def run_server(
    engine: Engine,
    model: str,
    listener: socket.socket,
    on_ready: Callable[[str], None] = print,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Serves until interrupted.

    Args:
        engine: Answers; closed at the end.
        model: Name under which it is listed.
        listener: From `open_listener`; closed at the end.
        on_ready: Called with the base URL once requests are accepted.
        details: Further fields of the model's entry in the list.

    Raises:
        MissingDependencyError: starlette or uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing_dependency("uvicorn", "serve") from error
    app = build_app(engine, model, details)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    work = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        while not server.started and not work.done():
            await asyncio.sleep(0.01)
        if server.started:
            on_ready(f"http://{shown}:{port}/v1")
        await work
    finally:
        listener.close()
        await engine.close()


def _json(body: Any, status: int = 200) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(body, status_code=status)


def _json_error(error: AgenticluError) -> Any:
    status, body = render_error(error)
    return _json(body, status)


async def _read_json(request: Any) -> Any:
    try:
        return json.loads(await request.body())
    except (ValueError, UnicodeDecodeError) as error:
        raise RequestError(f"The body is not JSON: {error}.", None) from error


async def _chain(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for event in rest:
        yield event


async def _unless_gone(request: Any, work: asyncio.Future[Sampled]) -> Sampled:
    """Waits for a reply; stops the work if the client goes away first."""
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            raise EngineBusyError("The client closed the connection.")
        return work.result()
    finally:
        gone.cancel()
        work.cancel()
