"""The routes of the server: what comes in, what is sampled, what goes out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
)
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import Any, TypeVar

from agenticlu.core.errors import AgenticluError
from agenticlu.core.records import Usage, content_id
from agenticlu.engines.base import Engine, Sampled, TokenLogprob, stream_of
from agenticlu.engines.streaming import ReplyText
from agenticlu.server.answering import Answering
from agenticlu.server.desk import Desk
from agenticlu.server.inquiry import Inquiry
from agenticlu.server.limits import MIB, Limits, RequestError, overloaded
from agenticlu.server.prompts import DetailedEngine, Prepared, Preparer
from agenticlu.server.replies import Rendering, details_of, render_error, text_of
from agenticlu.server.requests import unknown_model

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
News = tuple[int, int | str, TokenLogprob | None]
"""More of a choice, by its index: a token's id, or a text; its log-probability."""
Hear = Callable[[int, int | str, TokenLogprob | None], None]
Result = TypeVar("Result")
LONGEST_RETRY_S = 60


class ClientGoneError(Exception):
    """The client closed the connection."""


class ChatServer:
    """The routes' handlers.

    Args:
        engine: Answers.
        model: Name under which it is listed.
        details: Further fields of its entry in the list.
        limits: What clients may take.
        hidden: Texts, such as the model's folder, for which errors say the model's name.
        desk: Where documents are read; None where they are not.
    """

    def __init__(
        self,
        engine: Engine,
        model: str,
        details: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        hidden: tuple[str, ...] = (),
        desk: Desk | None = None,
    ) -> None:
        self.engine = engine
        self.model = model
        self.limits = limits or Limits()
        self.preparer = Preparer(engine, model, desk is not None, desk is not None and desk.sources)
        self._answering = None
        if desk is not None:
            patience_s = self.limits.client_timeout_s
            self._answering = Answering(engine, desk, _unless_gone, self._render_error, patience_s)
        self._details = dict(details or {})
        self._hidden = hidden
        self._created = int(time.time())
        self._replies = 0
        self._under_way = 0
        self._body_bytes = 0
        self._usual_s = 1.0
        """How long a request takes; recent ones count most."""

    def app(self) -> Any:
        """Builds the ASGI application."""
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route

        app = Starlette(
            routes=[
                Route("/v1/chat/completions", _Endpoint(self.chat), methods=["POST"]),
                Route("/v1/completions", _Endpoint(self.complete), methods=["POST"]),
                Route("/tokenize", _Endpoint(self.tokenize), methods=["POST"]),
                Route("/v1/models", self.list_models),
                Route("/v1/models/{model:path}", self.show_model),
                Route("/health", self.health),
                *self._document_routes(),
            ],
            exception_handlers={
                HTTPException: self._explain_route,
                AgenticluError: self._explain,
                Exception: self._explain_fault,
            },
        )
        app.router.redirect_slashes = False
        return app

    def _document_routes(self) -> list[Any]:
        from starlette.routing import Route

        routes = self._answering
        if routes is None:
            return []
        return [
            Route("/v1/responses", _Endpoint(self.respond), methods=["POST"]),
            Route("/v1/responses/{response}", routes.show_response),
            Route("/v1/responses/{response}", routes.delete_response, methods=["DELETE"]),
            Route("/v1/files", routes.list_files),
            Route("/v1/files", routes.upload, methods=["POST"]),
            Route("/v1/files/{file}", routes.show_file),
            Route("/v1/files/{file}", routes.delete_file, methods=["DELETE"]),
            Route("/v1/files/{file}/content", routes.file_content),
        ]

    async def health(self, request: Any) -> Any:
        """GET /health."""
        return _json({"status": "ok"})

    async def list_models(self, request: Any) -> Any:
        """GET /v1/models."""
        data = [await self._entry(name) for name in self.preparer.served]
        return _json({"object": "list", "data": data})

    async def show_model(self, request: Any) -> Any:
        """GET /v1/models/NAME."""
        name = request.path_params["model"]
        if name not in self.preparer.served:
            raise unknown_model(name, self.preparer.served)
        return _json(await self._entry(name))

    async def tokenize(self, request: Any, send: Send) -> None:
        """POST /tokenize: ids of a `prompt` or of `messages`."""
        async with self._body(request) as content:
            with self._turn():
                ids = await _unless_gone(request.receive, self.preparer.tokenize(content))
        window = getattr(self.engine, "context_tokens", None)
        body = {"count": len(ids), "tokens": ids, "max_model_len": window}
        await _json(body)(request.scope, request.receive, send)

    async def chat(self, request: Any, send: Send) -> None:
        """POST /v1/chat/completions."""
        await self._answer(request, send, plain=False)

    async def complete(self, request: Any, send: Send) -> None:
        """POST /v1/completions."""
        await self._answer(request, send, plain=True)

    async def respond(self, request: Any, send: Send) -> None:
        """POST /v1/responses."""
        assert self._answering is not None
        with ExitStack() as stack:
            async with self._body(request, self.limits.inline_bytes) as content:
                stack.enter_context(self._turn())
                inquiry = await _unless_gone(request.receive, self.preparer.inquire(content))
            del content
            await self._answering.answer(inquiry, request, send)

    async def _entry(self, name: str) -> dict[str, Any]:
        """Returns a model's entry in the list."""
        found = await self.engine.capabilities()
        own = self._details if name == self.model else {"dialogue_over": self.model}
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "agenticlu",
            "max_model_len": found.context_tokens,
            **own,
        }

    async def _answer(self, request: Any, send: Send, *, plain: bool) -> None:
        may_hold_files = self._answering is not None and not plain
        most = self.limits.inline_bytes if may_hold_files else self.limits.body_bytes
        with ExitStack() as stack:
            async with self._body(request, most) as content:
                stack.enter_context(self._turn())
                prepared = await _unless_gone(
                    request.receive, self.preparer.prepare(content, plain=plain)
                )
            del content
            if isinstance(prepared, Inquiry):
                assert self._answering is not None
                await self._answering.answer(prepared, request, send)
                return
            self._replies += 1
            number = content_id(self.model, str(self._created), str(self._replies))
            rendering = Rendering(
                prepared.request, f"{'cmpl' if plain else 'chatcmpl'}-{number}", self.model
            )
            session = request.headers.get("x-session-id")
            if prepared.request.stream:
                streaming = self._stream(prepared, rendering, session, send)
                await _unless_gone(request.receive, streaming)
                return
            sampling = self._sample_all(prepared, session)
            replies = await _unless_gone(request.receive, sampling)
            reply = await self.preparer.run(lambda _: _json(rendering.whole(replies)))
        await reply(request.scope, request.receive, send)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Holds a request's place among those under way.

        Raises:
            RequestError: There is none.
        """
        if self._under_way >= self.limits.requests:
            raise overloaded(
                f"{self._under_way} requests are under way, as many as this server takes.",
                min(LONGEST_RETRY_S, math.ceil(self._usual_s)),
            )
        self._under_way += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._under_way -= 1
            self._usual_s += 0.2 * (time.monotonic() - began - self._usual_s)

    @asynccontextmanager
    async def _body(self, request: Any, most: int = 0) -> AsyncIterator[bytearray]:
        """Reads a request's body; its bytes count until the block ends.

        Args:
            request: That comes in.
            most: Bytes that it may have; 0: as many as a prompt may take.

        Raises:
            RequestError: It is too large, or too slow, or there is no room for it.
            ClientGoneError: The client closed the connection.
        """
        content = bytearray()
        patience_s = self.limits.client_timeout_s
        try:
            self._check_length(int(request.headers.get("content-length") or 0), most)
            async with asyncio.timeout(patience_s):
                while True:
                    message = await request.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    part = message.get("body", b"")
                    self._check_length(len(content) + len(part), most)
                    if self._body_bytes + len(part) > self.limits.bodies_bytes:
                        raise overloaded("Too many large requests are under way.", 1)
                    self._body_bytes += len(part)
                    content += part
                    if not message.get("more_body", False):
                        break
            yield content
        except TimeoutError as error:
            raise RequestError(
                f"The body did not arrive within {patience_s:g} s.",
                status=408,
                headers={"Connection": "close"},
            ) from error
        finally:
            self._body_bytes -= len(content)

    def _check_length(self, num_bytes: int, most: int) -> None:
        limit = most or self.limits.body_bytes
        if num_bytes > limit:
            window = getattr(self.engine, "context_tokens", None)
            told = f"; the model's context window is {window:,} tokens" if window else ""
            if most and self._answering is not None:
                told += "; upload larger files with POST /v1/files"
            raise RequestError(
                f"The body has more than {limit / MIB:.3g} MiB, the most that this server takes"
                f" (--max-body-mib){told}.",
                status=413,
                code="request_too_large",
            )

    async def _sample_all(
        self,
        prepared: Prepared,
        session: str | None,
        hear: Hear | None = None,
    ) -> list[Sampled]:
        """Samples every prompt of a request.

        Args:
            prepared: The request.
            session: Of the client.
            hear: Called with every token, or with texts where the engine tells no tokens.
        """
        work = [
            asyncio.ensure_future(self._sample(prepared, i, session, hear))
            for i in range(len(prepared.request.asked))
        ]
        try:
            return await asyncio.gather(*work)
        finally:
            for one in work:
                one.cancel()

    async def _sample(
        self, prepared: Prepared, prompt: int, session: str | None, hear: Hear | None
    ) -> Sampled:
        request = prepared.request
        asked, first = request.asked[prompt], prompt * request.sampling.n
        if isinstance(self.engine, DetailedEngine):
            return await self.engine.generate(
                asked,
                request.sampling,
                top_logprobs=request.top_logprobs,
                on_token=hear and (lambda ordinal, *rest: hear(first + ordinal, *rest)),
                ids=prepared.ids[prompt],
            )
        if isinstance(asked, str):
            return await self.engine.complete(asked, request.sampling, session=session)
        if hear is None or request.sampling.n > 1:
            return await self.engine.sample(asked, request.sampling, session=session)
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            hear(first, text, None)

        stream = stream_of(self.engine)
        reply = await stream(asked, request.sampling, session=session, on_text=tell)
        if not reply.completions[0].text.startswith("".join(told)):
            # What was told turned out to be a thought.
            hear(first, f"\n\n{reply.completions[0].text}", None)
        return reply

    async def _stream(
        self, prepared: Prepared, rendering: Rendering, session: str | None, send: Send
    ) -> None:
        """Sends a reply as it comes: an error before its first token has a status of its own."""
        arrived: asyncio.Queue[News | None] = asyncio.Queue()

        def hear(choice: int, more: int | str, details: TokenLogprob | None) -> None:
            arrived.put_nowait((choice, more, details))

        work = asyncio.ensure_future(self._sample_all(prepared, session, hear))
        work.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            first = await arrived.get()
            if first is None:
                work.result()
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            events = self._events(rendering, first, arrived, work)
            async with aclosing(events):
                async for event in events:
                    part = {"type": "http.response.body", "body": event.encode(), "more_body": True}
                    await send(part)
            await send({"type": "http.response.body", "body": b""})
        finally:
            work.cancel()

    async def _events(
        self,
        rendering: Rendering,
        news: News | None,
        arrived: asyncio.Queue[News | None],
        work: asyncio.Future[list[Sampled]],
    ) -> AsyncGenerator[str, None]:
        """Yields server-sent events: text as it comes, then reasons, usage and the end."""
        request = rendering.request
        decode = self.engine.chat.decode if isinstance(self.engine, DetailedEngine) else str
        texts = [ReplyText(decode, request.sampling.stop) for _ in range(request.num_choices)]
        for event in rendering.opening():
            yield event
        while news is not None:
            index, more, details = news
            offset = texts[index].sent_chars
            text, told = texts[index].feed(more, details)
            if text:
                yield rendering.delta(index, text, told, offset)
            news = await arrived.get()
        try:
            replies = work.result()
        except AgenticluError as error:
            _, _, body = self._render_error(error)
            for event in rendering.failure(body):
                yield event
            return
        index = 0
        for reply in replies:
            for i, one in enumerate(reply.completions):
                sent = texts[index]
                text = text_of(reply, i)[sent.sent_chars :]
                details_left = details_of(reply, i)[sent.sent_details :]
                if text or details_left:
                    yield rendering.delta(index, text, details_left, sent.sent_chars)
                yield rendering.ending(index, one)
                index += 1
        for event in rendering.closing(sum((reply.usage for reply in replies), Usage())):
            yield event

    def _render_error(self, error: AgenticluError) -> tuple[int, dict[str, str], dict[str, Any]]:
        status, headers, body = render_error(error)
        for text in self._hidden:
            body["error"]["message"] = body["error"]["message"].replace(text, self.model)
        return status, headers, body

    async def _explain(self, request: Any, error: Any) -> Any:
        """Renders an error of ours."""
        status, headers, body = self._render_error(error)
        return _json(body, status, headers)

    async def _explain_route(self, request: Any, error: Any) -> Any:
        """Renders a wrong address or method."""
        where = f"{request.method} {request.url.path[:200]}"
        told = {404: f"There is no {where}.", 405: f"{where} is not allowed."}
        message = told.get(error.status_code, HTTPStatus(error.status_code).phrase)
        explained = RequestError(message, status=error.status_code, headers=error.headers)
        return await self._explain(request, explained)

    async def _explain_fault(self, request: Any, error: Exception) -> Any:
        """Renders a fault of the server's own; its traceback goes to the log."""
        body = {"message": "The server failed.", "type": "server_error"}
        return _json({"error": {**body, "param": None, "code": None}}, 500)


class _Endpoint:
    """A handler that sends its own response."""

    def __init__(self, handler: Callable[[Any, Send], Awaitable[None]]) -> None:
        self._handler = handler

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        from starlette.requests import Request

        # There is nobody left to tell.
        with suppress(ClientGoneError):
            await self._handler(Request(scope, receive), send)


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Waits for work; stops it if the client goes away first.

    Raises:
        ClientGoneError: It did.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(body, status_code=status, headers=headers)
