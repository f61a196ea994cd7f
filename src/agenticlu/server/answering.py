"""The routes of documents: what is asked of them, and the files that clients upload."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from agenticlu.core.errors import AgenticluError
from agenticlu.dialogue.answer import Answer, Event
from agenticlu.engines.base import Engine
from agenticlu.server.chat_answers import ChatRendering
from agenticlu.server.desk import KEPT_CHARACTERS, Desk, Reading
from agenticlu.server.inquiry import Inquiry
from agenticlu.server.limits import RequestError
from agenticlu.server.responses import ResponseRendering
from agenticlu.server.uploads import PURPOSES

Send = Callable[[dict[str, Any]], Awaitable[None]]
Result = TypeVar("Result")
KEPT_RESPONSES = 256
"""That can be fetched and followed; with more the oldest go."""
MOST_FIELD_BYTES = 4096
"""Of a field beside the file in an upload."""


class UnlessGone(Protocol):
    """Waits for work; stops it where the client goes away first."""

    def __call__(
        self, receive: Callable[[], Awaitable[dict[str, Any]]], work: Coroutine[Any, Any, Result]
    ) -> Coroutine[Any, Any, Result]:
        """Returns what the work returns."""
        ...


@dataclass(frozen=True)
class _Stored:
    """A response that can be fetched and followed."""

    body: dict[str, Any]
    reading: Reading
    earlier: tuple[tuple[str, str], ...]


class Answering:
    """Handlers of what is asked of documents.

    Args:
        engine: Of the served model.
        desk: Where documents are read and asked.
        unless_gone: Stops work whose client went away.
        render_error: Returns status, headers and body of an error.
        patience_s: In which a client must have sent its file.
    """

    def __init__(
        self,
        engine: Engine,
        desk: Desk,
        unless_gone: UnlessGone,
        render_error: Callable[[AgenticluError], tuple[int, dict[str, str], dict[str, Any]]],
        patience_s: float,
    ) -> None:
        self.desk = desk
        self._engine = engine
        self._unless_gone = unless_gone
        self._render_error = render_error
        self._patience_s = patience_s
        self._responses: OrderedDict[str, _Stored] = OrderedDict()

    async def answer(self, inquiry: Inquiry, request: Any, send: Send) -> None:
        """Answers a question about documents, whole or as a stream.

        Raises:
            RequestError: A file or an earlier response is not there.
            AgenticluError: A document cannot be read, or the model cannot be asked.
        """
        before = self._stored(inquiry.previous, "previous_response_id")
        reading = await self._unless_gone(
            request.receive,
            self.desk.read(inquiry.files, before.reading if before else None),
        )
        earlier = (*(before.earlier if before else ()), *inquiry.earlier)
        kind = ResponseRendering if inquiry.responses else ChatRendering
        rendering: ResponseRendering | ChatRendering = kind(inquiry, reading)
        if inquiry.stream:
            work = self._stream(inquiry, reading, earlier, rendering, send)
            await self._unless_gone(request.receive, work)
            return
        answer = await self._unless_gone(request.receive, self._ask(inquiry, reading, earlier))
        body = rendering.whole(answer)
        self._keep(inquiry, reading, earlier, answer, body)
        await _json(body)(request.scope, request.receive, send)

    async def _ask(
        self,
        inquiry: Inquiry,
        reading: Reading,
        earlier: tuple[tuple[str, str], ...],
        on_event: Callable[[Event], None] | None = None,
    ) -> Answer:
        return await self.desk.ask(
            reading,
            inquiry.asked,
            self._engine,
            options=inquiry.options,
            rounds=inquiry.rounds,
            spans=inquiry.spans,
            temperature=inquiry.temperature,
            earlier=earlier,
            on_event=on_event,
        )

    async def _stream(
        self,
        inquiry: Inquiry,
        reading: Reading,
        earlier: tuple[tuple[str, str], ...],
        rendering: ResponseRendering | ChatRendering,
        send: Send,
    ) -> None:
        """Sends the trail as it grows, then the answer."""
        arrived: asyncio.Queue[Event | None] = asyncio.Queue()
        work = asyncio.ensure_future(
            self._ask(inquiry, reading, earlier, on_event=arrived.put_nowait)
        )
        work.add_done_callback(lambda _: arrived.put_nowait(None))

        async def tell(events: Iterable[str]) -> None:
            for event in events:
                await send(
                    {"type": "http.response.body", "body": event.encode(), "more_body": True}
                )

        try:
            first = await arrived.get()
            if first is None:
                work.result()  # an error before anything was done has a status of its own
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await tell(rendering.opening())
            news = first
            while news is not None:
                await tell(rendering.news(news))
                news = await arrived.get()
            try:
                answer = work.result()
            except AgenticluError as error:
                await tell(rendering.failure(self._render_error(error)[2]))
            else:
                self._keep(inquiry, reading, earlier, answer, None, rendering)
                await tell(rendering.closing(answer))
            await send({"type": "http.response.body", "body": b""})
        finally:
            work.cancel()

    # Responses that were given

    def _keep(
        self,
        inquiry: Inquiry,
        reading: Reading,
        earlier: tuple[tuple[str, str], ...],
        answer: Answer,
        body: dict[str, Any] | None,
        rendering: ResponseRendering | ChatRendering | None = None,
    ) -> None:
        if not inquiry.responses or not inquiry.store:
            return
        if body is None:
            assert rendering is not None
            body = rendering.whole(answer)
        told = (*earlier, (inquiry.question, answer.statement))
        self._responses[str(body["id"])] = _Stored(body, reading, told)
        while len(self._responses) > KEPT_RESPONSES or (
            self._held_characters > 2 * KEPT_CHARACTERS and len(self._responses) > 1
        ):
            self._responses.popitem(last=False)

    @property
    def _held_characters(self) -> int:
        """Of the documents that the responses are about, each counted once."""
        held = {id(one.reading.document): one.reading.document for one in self._responses.values()}
        return sum(len(document.text) for document in held.values())

    def _stored(self, number: str | None, param: str | None = None) -> _Stored | None:
        if number is None:
            return None
        if number not in self._responses:
            raise RequestError(
                f"There is no response {number[:60]!r}: this server keeps its last {KEPT_RESPONSES}"
                " in memory, fewer of long documents.",
                param,
                status=404,
                code="response_not_found",
            )
        return self._responses[number]

    async def show_response(self, request: Any) -> Any:
        """GET /v1/responses/ID."""
        stored = self._stored(request.path_params["response"])
        assert stored is not None
        return _json(stored.body)

    async def delete_response(self, request: Any) -> Any:
        """DELETE /v1/responses/ID."""
        number = request.path_params["response"]
        self._stored(number)
        self._responses.pop(number, None)
        return _json({"id": number, "object": "response", "deleted": True})

    # Files

    async def upload(self, request: Any) -> Any:
        """POST /v1/files: a form with `file` and `purpose`."""
        async with self._form(request) as form:
            given = form.getlist("file")
            if len(given) != 1 or isinstance(given[0], str):
                raise RequestError("The form needs one 'file', sent as a file.", "file")
            for name in form:
                if name not in ("file", "purpose"):
                    raise RequestError(f"This server does not support {name[:60]!r}.", name)
            purpose = form.get("purpose")
            if purpose not in PURPOSES:
                raise RequestError(
                    f"'purpose' must be one of {', '.join(PURPOSES)}; 'user_data' will do.",
                    "purpose",
                )
            add, file = self.desk.files.add, given[0]
            kept = await asyncio.to_thread(add, file.file, file.filename or "", str(purpose))
        return _json(kept.entry)

    async def list_files(self, request: Any) -> Any:
        """GET /v1/files."""
        purpose = request.query_params.get("purpose")
        order = request.query_params.get("order", "desc")
        found = [one for one in self.desk.files.every() if purpose in (None, one.purpose)]
        if order == "asc":
            found.reverse()
        after = request.query_params.get("after")
        ids = [one.id for one in found]
        if after is not None:
            self.desk.files.get(after, "after")
            found = found[ids.index(after) + 1 :] if after in ids else found
        given = request.query_params.get("limit", "10000")
        if not (given.isascii() and given.isdigit() and 1 <= int(given[:6]) <= 10_000):
            raise RequestError("'limit' must be a whole number from 1 to 10000.", "limit")
        shown = found[: int(given)]
        return _json(
            {
                "object": "list",
                "data": [one.entry for one in shown],
                "first_id": shown[0].id if shown else None,
                "last_id": shown[-1].id if shown else None,
                "has_more": len(shown) < len(found),
            }
        )

    async def show_file(self, request: Any) -> Any:
        """GET /v1/files/ID."""
        return _json(self.desk.files.get(request.path_params["file"]).entry)

    async def file_content(self, request: Any) -> Any:
        """GET /v1/files/ID/content."""
        from starlette.responses import FileResponse

        number = request.path_params["file"]
        self.desk.files.get(number)
        # A name would let a browser run what it shows.
        headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
        path = self.desk.files.path(number)
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    async def delete_file(self, request: Any) -> Any:
        """DELETE /v1/files/ID."""
        number = request.path_params["file"]
        await asyncio.to_thread(self.desk.files.delete, number)
        return _json({"id": number, "object": "file", "deleted": True})

    @asynccontextmanager
    async def _form(self, request: Any) -> AsyncIterator[Any]:
        """Reads a form whose file is bounded, within the client's time.

        Raises:
            RequestError: It is malformed, too large or too slow.
        """
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect, Request

        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise RequestError("Send the file as multipart/form-data.", status=415)
        files, num_bytes = self.desk.files, 0
        most = files.file_bytes + 64 * 1024  # the form around it

        async def counted() -> dict[str, Any]:
            nonlocal num_bytes
            message: dict[str, Any] = await request.receive()
            size = len(message.get("body", b""))
            num_bytes += size
            if num_bytes > most:
                files.check_size(num_bytes)
            take(size)
            return message

        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length[:18]) > most:
            files.check_size(int(length[:18]))
        bounded = Request(request.scope, counted)
        with files.arriving() as take:
            try:
                async with asyncio.timeout(self._patience_s):
                    form = await bounded.form(
                        max_files=1, max_fields=8, max_part_size=MOST_FIELD_BYTES
                    )
            except TimeoutError as error:
                raise RequestError(
                    f"The file did not arrive within {self._patience_s:g} s (--client-timeout).",
                    status=408,
                    headers={"Connection": "close"},
                ) from error
            except ClientDisconnect as error:
                raise RequestError("The client went away.", status=400) from error
            except HTTPException as error:
                raise RequestError(f"The form cannot be read: {error.detail}") from error
            try:
                yield form
            finally:
                await form.close()


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(body, status_code=status, headers=headers)
