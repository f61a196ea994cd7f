"""The routes of the reading room."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any

from agenticlu import __version__
from agenticlu.core.errors import AgenticluError, missing_dependency
from agenticlu.room.asking import MOST_QUESTION, Asked, new_id
from agenticlu.room.drawing import SCALES
from agenticlu.room.refusals import RoomError, status_of, tell
from agenticlu.room.room import Room
from agenticlu.room.stream import EventStream
from agenticlu.room.uploads import check_size, receive_upload

MOST_BODY = 256 * 1024
"""Bytes of a request that is no upload."""
MOST_TEXT = 200_000
"""Characters of text in one reply."""
KEPT_FOR_EVER = "private, max-age=31536000, immutable"
ASSET_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}


def build_app(room: Room) -> Any:
    """Builds the ASGI application, without its guard.

    Raises:
        MissingDependencyError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.routing import Route
    except ImportError as error:
        raise missing_dependency("starlette", "read") from error
    routes = _Routes(room)
    document = "/api/documents/{id}"
    app = Starlette(
        routes=[
            Route("/", routes.page),
            Route("/assets/{name:path}", routes.asset),
            Route("/api/state", routes.state),
            Route("/api/documents", routes.upload, methods=["POST"]),
            Route(document, routes.document),
            Route(document, routes.close_document, methods=["DELETE"]),
            Route(f"{document}/layout", routes.layout),
            Route(f"{document}/page.png", routes.picture),
            Route(f"{document}/text", routes.text),
            Route(f"{document}/words", routes.words),
            Route("/api/ask", routes.ask, methods=["POST"]),
            Route("/api/ask/{run}/stop", routes.stop, methods=["POST"]),
            Route("/api/history", routes.history),
            Route("/api/history", routes.forget, methods=["DELETE"]),
            Route("/api/history/{id}", routes.entry),
            Route("/api/history/{id}", routes.forget_entry, methods=["DELETE"]),
            Route("/api/export", routes.export),
            Route("/api/models", routes.models),
            Route("/api/models/look", routes.look, methods=["POST"]),
            Route("/api/model", routes.choose, methods=["POST"]),
            Route("/api/tour", routes.tour, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: _explain_route,
            AgenticluError: _explain,
            Exception: _explain_fault,
        },
    )
    app.router.redirect_slashes = False
    return app


class _Routes:
    """The routes' handlers."""

    def __init__(self, room: Room) -> None:
        self._room = room

    # The page

    async def page(self, request: Any) -> Any:
        """GET /."""
        return _asset("index.html")

    async def asset(self, request: Any) -> Any:
        """GET /assets/NAME."""
        return _asset(request.path_params["name"])

    async def state(self, request: Any) -> Any:
        """GET /api/state."""
        room = self._room
        await room.settle()
        current = room.models.current
        return _json(
            {
                "version": __version__,
                "model": None if current is None else current.info(),
                "documents": [one.info() for one in room.library],
                "history": room.settings.history is not None,
                "limits": {"upload_bytes": room.settings.upload_bytes},
                "looked": room.models.looked,
                "formats": list(room.formats),
                "unopened": room.unopened,
            }
        )

    # Documents

    async def upload(self, request: Any) -> Any:
        """POST /api/documents."""
        library, most = self._room.library, self._room.settings.upload_bytes
        check_size(int(request.headers.get("content-length") or 0), most)
        folder = library.new_folder()
        try:
            kind = request.headers.get("content-type", "")
            upload = await receive_upload(request.stream(), kind, folder, most)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        name = upload.fields.get("name") or None
        document = await library.open_upload(upload, folder, name)
        return _json(document.info(), 201)

    async def document(self, request: Any) -> Any:
        """GET /api/documents/ID."""
        return _json(self._document(request).info())

    async def close_document(self, request: Any) -> Any:
        """DELETE /api/documents/ID."""
        self._room.library.close_document(request.path_params["id"])
        return _nothing()

    async def layout(self, request: Any) -> Any:
        """GET /api/documents/ID/layout?part=P."""
        document, part = self._document(request), _number(request, "part", 0)
        sizes = None
        if document.file(part).is_pdf:
            sizes = await self._room.library.drawer.sizes(document, part)
        return _json({"pages": document.layout(part, sizes)})

    async def picture(self, request: Any) -> Any:
        """GET /api/documents/ID/page.png?part=P&page=N&scale=S."""
        from starlette.responses import Response

        document = self._document(request)
        part, page = _number(request, "part", 0), _number(request, "page", 1)
        scale = _scale(request)
        tag = f'"{document.id}-{part}-{page}-{scale}"'
        headers = {"ETag": tag, "Cache-Control": KEPT_FOR_EVER}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        drawer = self._room.library.drawer
        data = await drawer.draw(document, part, page, scale, request.is_disconnected)
        return Response(data, media_type="image/png", headers=headers)

    async def text(self, request: Any) -> Any:
        """GET /api/documents/ID/text?start=S&end=E."""
        text = self._document(request).require_text().text
        start = min(_number(request, "start", 0), len(text))
        end = min(_number(request, "end", len(text)), len(text), start + MOST_TEXT)
        return _json({"start": start, "end": max(start, end), "text": text[start:end]})

    async def words(self, request: Any) -> Any:
        """GET /api/documents/ID/words?part=P&page=N."""
        document = self._document(request)
        part = _number(request, "part", 0)
        document.file(part)
        return _json(document.words(part, _number(request, "page", 1)))

    def _document(self, request: Any) -> Any:
        return self._room.library.get(request.path_params["id"])

    # Questions

    async def ask(self, request: Any) -> Any:
        """POST /api/ask: a stream of events."""
        body = await _body(request)
        document = self._room.library.get(_text(body, "document"))
        question = _text(body, "question").strip()
        options = body.get("options") or ()
        if not (isinstance(options, list | tuple) and all(isinstance(one, str) for one in options)):
            raise RoomError("'options' must be a list of texts.")
        if len(options) == 1:
            raise RoomError("A multiple-choice question needs at least two choices.")
        if not question:
            raise RoomError("The question is empty.", hint="Write what you want to know.")
        if len(question) + sum(map(len, options)) > MOST_QUESTION:
            raise RoomError(f"A question may have at most {MOST_QUESTION:,} characters.")
        rounds = body.get("rounds") or self._room.settings.asked.rounds
        if not isinstance(rounds, int) or not 1 <= rounds <= 20:
            raise RoomError("'rounds' must be a whole number from 1 to 20.")
        conversation = body.get("conversation") or new_id()
        if not isinstance(conversation, str) or len(conversation) > 64:
            raise RoomError("'conversation' must be the id of one.")
        asked = Asked(document, question, tuple(options), rounds, conversation)
        return EventStream(self._room.asker.events(self._room.asker.begin(asked)))

    async def stop(self, request: Any) -> Any:
        """POST /api/ask/RUN/stop."""
        self._room.asker.stop(request.path_params["run"])
        return _nothing()

    # History and export

    async def history(self, request: Any) -> Any:
        """GET /api/history?document=ID&q=TEXT."""
        values = request.query_params
        entries = await asyncio.to_thread(
            self._room.history.list, values.get("document") or None, values.get("q") or None
        )
        return _json({"entries": [self._with_open(entry) for entry in entries]})

    async def entry(self, request: Any) -> Any:
        """GET /api/history/ID."""
        return _json(self._with_open(await self._room.find_entry(request.path_params["id"])))

    def _with_open(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, "open": self._room.library.is_open(entry["document"])}

    async def forget_entry(self, request: Any) -> Any:
        """DELETE /api/history/ID."""
        await asyncio.to_thread(self._room.history.delete, request.path_params["id"])
        return _nothing()

    async def forget(self, request: Any) -> Any:
        """DELETE /api/history?document=ID."""
        document = request.query_params.get("document")
        if not document:
            raise RoomError("Name the document whose history is deleted: ?document=ID.")
        await asyncio.to_thread(self._room.history.delete_document, document)
        return _nothing()

    async def export(self, request: Any) -> Any:
        """GET /api/export?entry=ID&format=html, or conversation=ID."""
        from starlette.responses import Response

        values = request.query_params
        name, kind, content = await self._room.export(
            values.get("entry"), values.get("conversation"), values.get("format", "html")
        )
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content.encode(), media_type=kind, headers=headers)

    # Models

    async def models(self, request: Any) -> Any:
        """GET /api/models."""
        return _json(self._room.models.list())

    async def look(self, request: Any) -> Any:
        """POST /api/models/look."""
        return _json(await self._room.models.look())

    async def choose(self, request: Any) -> Any:
        """POST /api/model."""
        body = await _body(request)
        base_url = body.get("base_url") or None
        if base_url is not None and not isinstance(base_url, str):
            raise RoomError("'base_url' must be an address.")
        model = await self._room.choose(_text(body, "model"), base_url)
        return _json(model.info())

    async def tour(self, request: Any) -> Any:
        """POST /api/tour."""
        return _json(await self._room.begin_tour())


# --- Requests -------------------------------------------------------------------------------------


async def _body(request: Any) -> dict[str, Any]:
    """Reads a request's JSON object.

    Raises:
        RoomError: It is too large, or none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RoomError("The body must be JSON (Content-Type: application/json).", status=415)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BODY:
            raise RoomError(
                f"The request has more than {MOST_BODY:,} bytes.",
                status=413,
                headers={"Connection": "close"},
            )
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RoomError(f"The body is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise RoomError("The body must be a JSON object.")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise RoomError(f"{name!r} must be a text.")
    return value


def _number(request: Any, name: str, default: int) -> int:
    given = request.query_params.get(name, "")
    if not given:
        return default
    if not (given.isascii() and given.isdigit() and len(given) < 12):
        raise RoomError(f"{name!r} must be a whole number of at least 0, not {given[:40]!r}.")
    return int(given)


def _scale(request: Any) -> float:
    given = request.query_params.get("scale", "1")
    try:
        scale = float(given)
    except ValueError:
        scale = 0.0
    if not SCALES[0] <= scale <= SCALES[1]:
        raise RoomError(
            f"'scale' must be from {SCALES[0]:g} to {SCALES[1]:g} pixels of a point, not "
            f"{given[:40]!r}."
        )
    return round(scale, 2)


# --- Replies --------------------------------------------------------------------------------------


def _asset(name: str) -> Any:
    from starlette.responses import Response

    ending = name[name.rfind(".") :] if "." in name else ""
    file = resources.files("agenticlu.room") / "assets" / name
    is_plain = all(part.isidentifier() or part[:1].isalnum() for part in name.split("/"))
    if ending not in ASSET_TYPES or not is_plain or ".." in name or not file.is_file():
        raise RoomError(f"There is no {name[:100]!r}.", status=404)
    headers = {"Content-Type": ASSET_TYPES[ending], "Cache-Control": "no-cache"}
    return Response(file.read_bytes(), headers=headers)


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    from starlette.responses import JSONResponse

    given = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse(body, status_code=status, headers=given)


def _nothing() -> Any:
    from starlette.responses import Response

    return Response(status_code=204)


async def _explain(request: Any, error: Any) -> Any:
    """Renders an error of ours."""
    return _json({"error": tell(error)}, status_of(error), getattr(error, "headers", None))


async def _explain_route(request: Any, error: Any) -> Any:
    """Renders a wrong address or method."""
    where = f"{request.method} {request.url.path[:200]}"
    told = {404: f"There is no {where}.", 405: f"{where} is not allowed."}
    message = told.get(error.status_code, HTTPStatus(error.status_code).phrase)
    body = {"error": {"message": message, "hint": None}}
    return _json(body, error.status_code, error.headers)


async def _explain_fault(request: Any, error: Exception) -> Any:
    """Renders a fault of the room's own; its traceback goes to the terminal."""
    message = "The reading room failed at this; its terminal says why."
    return _json({"error": {"message": message, "hint": None}}, 500)
