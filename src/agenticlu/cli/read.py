"""`agenticlu read`: documents beside the answers about them, in the browser."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import threading
import webbrowser
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from agenticlu.cli.options import model_choice, operand, settings_command
from agenticlu.cli.serve import is_loopback
from agenticlu.core.config import Resolved
from agenticlu.core.limits import MEBIBYTE
from agenticlu.core.printing import echo
from agenticlu.core.settings import (
    ModelSettings,
    Positive,
    PrefixSettings,
    PriceSettings,
    ReadingSettings,
    Spelling,
)

if TYPE_CHECKING:
    import socket

    from agenticlu.room.room import RoomSettings

SWITCH_S = 0.001
"""Seconds for which a thread may run Python while others wait; usually five times as long."""


class ReadSettings(ModelSettings, ReadingSettings, PrefixSettings, PriceSettings):
    """Settings of `agenticlu read`."""

    profile: str = "default"
    """Prompt profile: a bundled name or a TOML file."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """Maximum rounds of clarification."""
    stop_rule: Annotated[str | None, Spelling(metavar="FILE")] = None
    """Rule that says when a further round is worth it, from agenticlu generate stop-rule. Default:
    the model's own, if its folder holds one; else a self-check of yes ends the rounds."""
    piece_tokens: Annotated[int, Field(ge=8)] | None = None
    """Maximum tokens of a paragraph. Default: what suits the model, else 512."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Sampling temperature; 0 is greedy."""
    shortlist: Positive = 128
    """Of documents that do not fit the window: most pieces that the model scores for a question."""
    max_total_tokens: Positive | None = None
    """Maximum prompt and sampled tokens of one question. Default: no limit."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    allowed_host: Annotated[tuple[str, ...], Spelling(metavar="NAME")] = ()
    """Host name that the browser uses for this machine, beside localhost and addresses."""
    browser: bool = True
    """Open the browser."""
    history: bool = True
    """Keep questions and answers in a file of your own; they can be searched and deleted. Without
    it nothing of what a model of this process has read stays on disk either."""
    max_upload_mib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 200.0
    """Largest upload, in MiB. Files that are named here are not uploaded."""


@settings_command(ReadSettings, "read", inherits=("ask",), extra="read")
@operand("files", nargs=-1, metavar="[FILE]...")
def command(resolved: Resolved[ReadSettings], files: tuple[str, ...]) -> None:
    """Read FILE in the browser, ask about it, and see the passages behind each answer.

    A FILE is a document of any format, a folder or a pattern (read as one), an http(s) address, or
    '-' for standard input; each opens by itself. More can be opened in the page. The page is shown
    to this machine alone, and to whoever has the address that is printed: it holds a key. Stop the
    room with Ctrl-C.
    """
    settings = resolved.values
    # What is missing is told before anything is opened.
    import python_multipart  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401

    from agenticlu.documents.confined import end_all
    from agenticlu.documents.sources import STANDARD_INPUT, is_address, names_one, require_file
    from agenticlu.server import open_listener

    for file in files:
        if names_one(file) and not is_address(file) and file != STANDARD_INPUT:
            require_file(file)
    listener = open_listener(settings.host, settings.port)
    if not is_loopback(settings.host):
        echo(
            f"Anyone who reaches {settings.host} and has the address may read these documents; it "
            "is not encrypted on its way.",
            err=True,
        )
    # Threads that read documents hand over sooner to the one that answers the page.
    sys.setswitchinterval(SWITCH_S)
    # uvicorn repeats a signal once it is done; SIGTERM would then cut off whoever is told to go.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(_serve(settings, files, listener))
    except KeyboardInterrupt:
        echo("agenticlu: closed.", err=True)
    finally:
        end_all()


async def _serve(settings: ReadSettings, files: tuple[str, ...], listener: socket.socket) -> None:
    from agenticlu.room import open_room

    def open_browser(address: str) -> None:
        if not webbrowser.open(address):
            echo("No browser could be opened: open the address above.", err=True)

    def launch(address: str) -> None:
        # Some browsers keep whoever starts them waiting, and would wait for the room themselves.
        if settings.browser:
            threading.Thread(target=open_browser, args=(address,), daemon=True).start()

    await open_room(
        room_settings(settings),
        files,
        listener,
        token=secrets.token_urlsafe(24),
        hosts=(settings.host, *settings.allowed_host),
        on_ready=lambda address: echo(f"agenticlu: reading at {address}"),
        on_open=launch,
        say=lambda text: echo(text, err=True),
    )


def room_settings(settings: ReadSettings) -> RoomSettings:
    """Returns the same for the library.

    Raises:
        AgenticluError: The model, the profile or the place of the history is no good.
    """
    from agenticlu.dialogue.steps import load_profile
    from agenticlu.room.asking import AskedWith
    from agenticlu.room.history import history_path
    from agenticlu.room.room import RoomSettings

    return RoomSettings(
        asked=AskedWith(
            profile=load_profile(settings.profile),
            rounds=settings.rounds,
            shortlist=settings.shortlist,
            temperature=settings.temperature,
            max_total_tokens=settings.max_total_tokens,
            prices=settings.prices(),
        ),
        choice=model_choice(
            settings,
            prefixes=settings.prefixes if settings.history else replace(settings.prefixes, gib=0.0),
        ),
        tokenizer=settings.tokenizer,
        piece_tokens=settings.piece_tokens,
        stop_rule=settings.stop_rule,
        reading=settings.limits,
        upload_bytes=int(settings.max_upload_mib * MEBIBYTE),
        history=history_path() if settings.history else None,
    )
