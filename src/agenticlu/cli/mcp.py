"""`agenticlu mcp`: tools for assistants, by the Model Context Protocol."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import signal
import sys
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from agenticlu.cli.ask.settings import AskSettings
from agenticlu.cli.options import (
    BUNDLED_MODEL_NOTE,
    model_choice,
    note_estimate,
    operand,
    settings_command,
)
from agenticlu.core.config import Resolved
from agenticlu.core.errors import UsageError, raise_missing
from agenticlu.core.printing import echo
from agenticlu.core.settings import Spelling, settings_of

if TYPE_CHECKING:
    from agenticlu.mcp.desk import Desk

UNUSED = (
    *("questions", "option", "rounds", "out", "concurrency", "dry_run", "quiet", "json"),
    "question",
)
"""Settings of `ask` that a tool's arguments give, or that concern a terminal."""


class McpSettings(AskSettings):
    """Settings of `agenticlu mcp`: those of [ask] that decide how a document is asked."""

    spans: bool = True
    """Read a document that is too long for the model piece by piece."""
    allow_urls: bool = False
    """Let clients name http(s) addresses as documents, which are then fetched."""
    http: bool = False
    """Serve over HTTP on this machine (127.0.0.1) rather than standard input and output."""
    port: int = Field(default=8765, ge=0, le=65535)
    """With --http: port to listen on; 0 takes a free one."""
    token_env: Annotated[str | None, Spelling(metavar="NAME")] = None
    """With --http: environment variable with the token that clients must send. Default: a new one,
    which is printed."""


WITHOUT = tuple(key for key in settings_of(AskSettings) if key in UNUSED)


@settings_command(McpSettings, "mcp", without=WITHOUT, inherits=("ask",))
@operand("folders", nargs=-1, metavar="[FOLDER]...")
def command(resolved: Resolved[McpSettings], folders: tuple[str, ...]) -> None:
    """Give an assistant tools to ask, read and list the documents in FOLDERs.

    An assistant starts this command itself and speaks to it over standard input and output;
    docs/mcp.md shows what to write into its configuration. Only files below the FOLDERs are read.
    Without a FOLDER these are the folders that the assistant says it works in, else the working
    folder. Without a model the bundled tiny one answers, which knows only its own invented world.
    """
    try:
        from agenticlu.mcp.serving import Permission, route_logs, serve_http, serve_stdio
        from agenticlu.mcp.tools import build_server
    except ModuleNotFoundError as error:
        raise_missing(error, "mcp")
    from agenticlu.server import open_listener

    settings = resolved.values
    say = functools.partial(echo, err=True)
    route_logs(say)
    permission = Permission(folders, addresses=settings.allow_urls, ask_client=not settings.http)
    token = _read_token(settings)
    desk = _make_desk(settings)
    note = BUNDLED_MODEL_NOTE if settings.bundled else ""
    if note:
        say(note)
    server = build_server(desk, permission, note=note)
    listener = open_listener("127.0.0.1", settings.port) if settings.http else None
    if listener is None and sys.stdin.isatty():
        say("Waiting for an assistant on standard input (docs/mcp.md sets one up); Ctrl-C ends.")

    def ready(url: str) -> None:
        roots = ", ".join(map(str, permission.fallback().roots))
        say(f"agenticlu: tools at {url} for {roots or 'addresses'}; clients must send the header")
        shown = token if settings.token_env is None else f"${settings.token_env}"
        say(f"Authorization: Bearer {shown}")

    async def serve() -> None:
        try:
            if listener is not None:
                await serve_http(server, listener, token, ready)
            elif not await serve_stdio(server):
                await desk.close()
                say("agenticlu: stopped.")
                # A thread of the library waits for a line of standard input, and nothing wakes it.
                os._exit(0)
        finally:
            await desk.close()

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        say("agenticlu: stopped.")


def _make_desk(settings: McpSettings) -> Desk:
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.dialogue.stopping import choose_rule
    from agenticlu.documents import DEFAULT_PIECE_TOKENS
    from agenticlu.mcp.desk import Desk, Model

    choice = model_choice(
        settings,
        prefixes=settings.prefixes,
    )
    choice.check()
    tokenizer = choice.tokenizer(settings.tokenizer)
    note_estimate(settings, tokenizer)
    model = Model(
        choice,
        tokenizer,
        load_profile(settings.profile),
        settings.piece_tokens or choice.hint("piece_tokens") or DEFAULT_PIECE_TOKENS,
        settings.temperature,
        settings.spans,
        settings.shortlist,
        settings.max_total_tokens,
        choose_rule(settings.stop_rule, choice.folder),
        settings.prices(),
    )
    return Desk(model, settings.limits, functools.partial(echo, err=True))


def _read_token(settings: McpSettings) -> str:
    """Returns the token that clients must send over HTTP.

    Raises:
        UsageError: The variable that should hold it is not set.
    """
    if settings.token_env is None:
        return secrets.token_urlsafe(24)
    token = os.environ.get(settings.token_env, "").strip()
    if not token:
        raise UsageError(
            f"--token-env names {settings.token_env}, which is not set.",
            hint=f"export {settings.token_env}=... with the token that clients must send.",
        )
    return token
