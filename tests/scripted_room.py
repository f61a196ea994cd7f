"""A real reading room in a process of its own, with a scripted model.

    python tests/scripted_room.py HISTORY UPLOAD_BYTES WORD_S [FILE...]

HISTORY is a file, or '-' for none; WORD_S is the time that a word of a reply takes. Prints the
address, and serves until standard input ends. A question with the word `vanish` ends with the
server's death.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from made_harbour import reply_from

from agenticlu.core.errors import EngineError
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.room import RoomSettings, open_room
from agenticlu.room.asking import AskedWith
from agenticlu.room.models import RoomModel
from agenticlu.server import open_listener

WINDOW = 2_000_000
"""Of the scripted model, in tokens."""


def fault(request: ScriptedRequest) -> Exception | None:
    """Plays a server that dies while it answers."""
    if "vanish" not in request.messages[-1].content + request.messages[1].content:
        return None
    if request.turn < 2:
        return None
    return EngineError(
        "http://localhost:9/v1 closed the connection.", hint="Is the server still running?"
    )


def load(word_s: float) -> Any:
    """Builds the engine."""
    return ScriptedEngine(
        reply_from, {}, faults=fault, word_latency_s=word_s, name="scripted-model",
        context_tokens=WINDOW,
    )  # fmt: skip


async def serve(history: str, upload_bytes: int, word_s: float, files: Sequence[str]) -> None:
    """Serves until standard input ends."""
    model = RoomModel(
        name="scripted-model",
        where="in this process",
        load=lambda: load(word_s),
        load_tokenizer=ApproximateTokenizer,
        piece_tokens=64,
        window=WINDOW,
    )
    settings = RoomSettings(
        asked=AskedWith(profile=load_profile()),
        upload_bytes=upload_bytes,
        history=None if history == "-" else Path(history),
    )
    listener = open_listener("127.0.0.1", 0)
    room = asyncio.ensure_future(
        open_room(
            settings, files, listener, token="key", model=model,
            on_ready=lambda address: print(address, flush=True),
        )
    )  # fmt: skip
    loop = asyncio.get_running_loop()

    def wait() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(room.cancel)

    threading.Thread(target=wait, daemon=True).start()
    with suppress(asyncio.CancelledError):
        await room


@contextmanager
def room_process(
    *files: str | Path,
    history: Path | None = None,
    upload_bytes: int = 8 << 20,
    word_s: float = 0.0,
) -> Iterator[str]:
    """Runs a room until the block ends; yields its address."""
    command = [sys.executable, str(Path(__file__).resolve()), str(history or "-")]
    command += [str(upload_bytes), str(word_s), *map(str, files)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            _, said = process.communicate(timeout=30)
            raise AssertionError(f"the room did not start: {said}")
        yield address
    finally:
        with suppress(OSError):
            process.stdin.close()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            if process.stderr is not None:
                process.stderr.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
