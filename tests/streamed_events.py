"""The events of a reply that a server streams, for servers on loopback."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Events:
    """The body of a reply that comes in parts."""

    parts: list[str | None]
    """None breaks the connection off."""
    endless: bool = False
    """Whether the last part comes again and again, until the client goes away."""
    sent: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    async def body(self) -> Any:
        try:
            for part in self.parts:
                if part is None:
                    raise ConnectionAbortedError("told to break off")
                self.sent += 1
                yield part
                await asyncio.sleep(0.002)
            while self.endless:
                self.sent += 1
                yield part
                await asyncio.sleep(0.002)
        finally:
            self.ended.set()
