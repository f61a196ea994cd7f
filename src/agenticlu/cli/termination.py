"""Ends work that can be resumed when a scheduler asks for it."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from agenticlu.core.errors import TERMINATED_EXIT_CODE
from agenticlu.core.printing import echo

Result = TypeVar("Result")


def run_until_terminated(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs work; SIGTERM, as schedulers send it, ends it the way Ctrl-C does."""

    async def run() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        # The first signal alone: a second one must not cut short what the first began.
        loop.add_signal_handler(signal.SIGTERM, lambda: task.cancelling() or task.cancel())
        try:
            return await task
        finally:
            loop.remove_signal_handler(signal.SIGTERM)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        echo("agenticlu: terminated; run the same command again to resume.", err=True)
        sys.exit(TERMINATED_EXIT_CODE)
