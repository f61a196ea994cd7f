"""The tools: `ask_document`, `read_document`, `list_documents`.

A tool's text is for the model, its structured content for programs: of `ask_document` the answer
record (`agenticlu.Answer`). What goes wrong is a tool's error in words, with what to do next.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from anyio import BrokenResourceError, ClosedResourceError
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent, ToolAnnotations
from pydantic import Field

from agenticlu import __version__
from agenticlu.core.errors import AgenticluError, DocumentError
from agenticlu.core.printing import harmless
from agenticlu.core.records import Piece
from agenticlu.core.secrets import redact_text
from agenticlu.dialogue.answer import Answer, Event
from agenticlu.dialogue.claims import citation_locations
from agenticlu.dialogue.rendering import render_answer
from agenticlu.dialogue.showing import describe_shown, pieces_on, render_pieces
from agenticlu.documents.sources import find_sources, render_counts
from agenticlu.mcp.desk import Desk, Reading
from agenticlu.mcp.folders import Folders

NAME = "agenticlu"
SHOWN_CHARACTERS = 24_000
"""Text of one reply of `read_document`, marks included; what follows is asked for by its number."""
FOUND_PIECES = 8
"""Paragraphs of one search."""
LISTED_AT_MOST = 500
INSTRUCTIONS = """\
Answers questions about long documents (PDF, Word, PowerPoint, Excel, OpenDocument, HTML, EPUB, \
mail, text, source code) with the passages behind each sentence. Use ask_document for a question; \
its numbers in brackets are sources, with page, paragraph and a quote that was checked against the \
document word for word. Say so where an answer is marked unsupported or unverified. Use \
read_document to see a passage and what stands around it, or to search by words without a model; \
use list_documents to see which files there are."""
Documents = Annotated[
    list[str] | str,
    Field(
        description="Paths of the documents; several are read as one. A folder or a pattern such "
        "as 'reports/*.pdf' stands for its files."
    ),
]
FindFolders = Callable[[Context[Any, Any]], Awaitable[Folders]]
"""Returns what the client of a request may have read."""


def build_server(desk: Desk, find_folders: FindFolders, *, note: str = "") -> MCPServer[Any]:
    """Builds the server.

    Args:
        desk: Reads and answers.
        find_folders: Says what may be read.
        note: Is put before every answer.
    """
    server: MCPServer[Any] = MCPServer(
        NAME, version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    tools = Tools(desk, find_folders, note)
    reading = partial(ToolAnnotations, read_only_hint=True, destructive_hint=False)
    for tool, title in (
        (tools.ask_document, "Ask documents"),
        (tools.read_document, "Read documents"),
        (tools.list_documents, "List documents"),
    ):
        annotations = reading(title=title, open_world_hint=False)
        server.add_tool(
            tool, title=title, description=inspect.getdoc(tool), annotations=annotations
        )
    return server


class Tools:
    """The tools of one server; see `build_server`."""

    def __init__(self, desk: Desk, find_folders: FindFolders, note: str) -> None:
        self._desk = desk
        self._find_folders = find_folders
        self._note = note

    async def ask_document(
        self,
        documents: Documents,
        question: Annotated[str, Field(description="The question, complete by itself.")],
        ctx: Context[Any, Any],
        options: Annotated[
            list[str], Field(description="Choices, where it is a multiple-choice question.")
        ] = [],  # noqa: B006
        rounds: Annotated[
            int, Field(ge=1, le=20, description="Most rounds of clarification; 2 or 3 dig deeper.")
        ] = 1,
    ) -> CallToolResult:
        """Answer a question about documents, with checked quotes and their places.

        A language model reads the documents, asks itself what it needs to know, points to the
        paragraphs that say so, answers and checks its answer. This may take from seconds to
        minutes.
        """

        async def work() -> CallToolResult:
            reading = await self._open(documents, ctx)
            async with _progress(ctx) as tell:
                answer = await self._desk.ask(
                    reading, question, options, rounds=rounds, on_event=lambda one: tell(one)
                )
            said = (self._note, _verdict(answer), render_answer(answer))
            text = "\n\n".join(filter(None, (*said, "\n".join(_caveats(reading)))))
            return _result(text, describe_answer(answer))

        return await _guarded(work)

    async def read_document(
        self,
        documents: Documents,
        ctx: Context[Any, Any],
        page: Annotated[int | None, Field(ge=1, description="Only this page.")] = None,
        paragraph: Annotated[
            int, Field(ge=0, description="The paragraph to begin with, as sources number them.")
        ] = 0,
        search: Annotated[
            str | None, Field(description="Only the paragraphs that fit these words best.")
        ] = None,
    ) -> CallToolResult:
        """Read documents: numbered paragraphs with their pages, by place or by words.

        Long documents come in parts; the reply says how to go on.
        """

        async def work() -> CallToolResult:
            reading = await self._open(documents, ctx)
            found = await asyncio.to_thread(_choose, reading, page, paragraph, search)
            return _show(reading, *found, self._desk.model.tokenizer.name)

        return await _guarded(work)

    async def list_documents(
        self,
        ctx: Context[Any, Any],
        folder: Annotated[
            str | None, Field(description="Only below this folder. Default: all.")
        ] = None,
    ) -> CallToolResult:
        """List the documents that may be read."""

        async def work() -> CallToolResult:
            folders = await self._find_folders(ctx)
            given = list(map(str, folders.roots)) if folder is None else folders.resolve([folder])
            if not given:
                raise DocumentError("No folder may be read.", hint="agenticlu mcp FOLDER...")
            found = await asyncio.to_thread(find_sources, given, self._desk.limits)
            names = [folders.name(source.address) for source in found.found]
            more = len(names) - LISTED_AT_MOST
            lines = [f"{_count(names, 'document')} in {', '.join(given)}", *names[:LISTED_AT_MOST]]
            if more > 0:
                lines.append(f"... and {more:,} more: name a folder to see them.")
            if found.passed_over:
                lines.append(f"Passed over: {render_counts(found.passed_over)}.")
            lines += [f"Not read: {name}: {reason}" for name, reason in found.unread.items()]
            data = {
                "folders": given,
                "documents": names[:LISTED_AT_MOST],
                "num_documents": len(names),
                "passed_over": dict(found.passed_over),
                "unread": found.unread,
            }
            return _result("\n".join(lines), data)

        return await _guarded(work)

    async def _open(self, documents: list[str] | str, ctx: Context[Any, Any]) -> Reading:
        folders = await self._find_folders(ctx)
        names = [documents] if isinstance(documents, str) else documents
        return await self._desk.read(await asyncio.to_thread(folders.resolve, names))


async def client_roots(ctx: Context[Any, Any]) -> list[str]:
    """Returns the folders that a client says it works in; none where it cannot say.

    Newer versions of the protocol have no such question; then the user names folders.
    """
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.roots is None:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but older clients know nothing else
        try:
            listed = await ctx.session.list_roots()
        except MCPError:
            return []
    return [str(root.uri) for root in listed.roots]


def describe_answer(answer: Answer) -> dict[str, Any]:
    """Returns the answer record for programs, with the places of its citations.

    Of its turns it holds what was asked for and what was replied, without the requests' wordings.
    """
    values = answer.model_dump(mode="json")
    values["turns"] = [{"kind": turn.kind, "reply": turn.reply} for turn in answer.turns]
    values["locations"] = citation_locations(answer)
    return values


# --- Results --------------------------------------------------------------------------------------


async def _guarded(work: Callable[[], Awaitable[CallToolResult]]) -> CallToolResult:
    """Does a tool's work; what goes wrong becomes its result."""
    try:
        return await work()
    except AgenticluError as error:
        text = harmless(redact_text(error.advice))
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def _result(text: str, data: dict[str, Any]) -> CallToolResult:
    content = [TextContent(type="text", text=harmless(text))]
    return CallToolResult(content=content, structured_content=data)  # type: ignore[arg-type]


def _verdict(answer: Answer) -> str:
    """Returns what must be said before an answer that the document does not carry."""
    if answer.status == "not_in_document":
        return "The document does not say."
    if answer.status == "unsupported":
        return "Unsupported: the model named no passage of the document that says so."
    return ""


def _choose(
    reading: Reading, page: int | None, paragraph: int, search: str | None
) -> tuple[Sequence[Piece], Piece | None]:
    """Returns the paragraphs to show, and the next one where there are more."""
    shown = reading.shown
    if search is not None and search.strip():
        indices = reading.index.find(search, FOUND_PIECES)
        if not indices:
            raise DocumentError(f"No paragraph holds any of the words {search!r}.")
        return [shown.pieces[index] for index in sorted(indices)], None
    pieces = shown.pieces if page is None else pieces_on(shown, page)
    if paragraph > pieces[-1].index:
        raise DocumentError(
            f"There is no paragraph {paragraph}.",
            hint=f"The paragraphs are {pieces[0].index} to {pieces[-1].index}.",
        )
    pieces = [piece for piece in pieces if piece.index >= paragraph]
    kept: list[Piece] = []
    size = 0
    for piece in pieces:
        size += len(
            shown.view((piece.index,))
        )  # with its marks, which weigh where pieces are short
        if kept and size > SHOWN_CHARACTERS:
            return kept, piece
        kept.append(piece)
    return kept, None


def _show(
    reading: Reading, pieces: Sequence[Piece], following: Piece | None, tokenizer: str
) -> CallToolResult:
    shown = reading.shown
    data = describe_shown(shown, pieces, tokenizer)
    data["next_paragraph"] = None if following is None else following.index
    lines = [f"{shown.document.source}: {_count(shown.pieces, 'paragraph')}", *_caveats(reading)]
    lines += render_pieces(shown, pieces)
    if following is not None:
        lines.append(
            f"(There is more: go on with paragraph={following.index}; the last one is"
            f" {shown.pieces[-1].index}.)"
        )
    return _result("\n".join(lines), data)


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things):,} {noun}{'s' if len(things) != 1 else ''}"


def _caveats(reading: Reading) -> list[str]:
    """Returns a line for each file that leaves something out, or could not be read."""
    document = reading.document
    left_out = document.left_out_by_name.items()
    return [
        *(f"Not read: {name}: {reason}" for name, reason in document.unread.items()),
        *(f"Left out of {name}: {render_counts(counts)}." for name, counts in left_out),
    ]


# --- Progress -------------------------------------------------------------------------------------

_SAID = {
    "clarify": "asks itself: {reply}",
    "point": "points to: {pieces}",
    "sub_answer": "finds: {reply}",
    "answer": "answers: {reply}",
    "check": "checks: {reply}",
}


@asynccontextmanager
async def _progress(ctx: Context[Any, Any]) -> AsyncIterator[Callable[[Event], None]]:
    """Yields a function that tells the client of a step; all are told before the result."""
    steps: asyncio.Queue[str | None] = asyncio.Queue()

    async def tell() -> None:
        number = 0
        while (text := await steps.get()) is not None:
            number += 1
            try:
                await ctx.report_progress(number, None, text)
            except (BrokenResourceError, ClosedResourceError):  # nobody listens any more
                return

    def note(event: Event) -> None:
        if text := _describe(event):
            steps.put_nowait(harmless(text))

    telling = asyncio.ensure_future(tell())
    try:
        yield note
        steps.put_nowait(None)
        await telling
    finally:
        telling.cancel()


def _describe(event: Event) -> str:
    if event.kind == "scan":
        return f"Scored {event.done:,} of {event.total:,} paragraphs"
    if event.kind == "search":
        return f"Searching {event.total:,} paragraphs by words"
    if event.turn is None or event.turn.kind not in _SAID:
        return ""
    reply = " ".join(event.turn.reply.split())
    pieces = ", ".join(map(str, event.pieces)) or reply or "nothing"
    said = _SAID[event.turn.kind].format(reply=reply or "nothing", pieces=pieces)
    return f"Round {event.round} {said}"
