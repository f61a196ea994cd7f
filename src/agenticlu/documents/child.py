"""The process in which documents are parsed: answers one request of `confined` after another.

A request is a line of JSON and the bytes of a document, which may be kept for the requests that
follow; a reply is a line of JSON and its payload.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import sys
import threading
import time
from typing import Any, BinaryIO

IDLE_S = 30.0
"""Seconds without a request after which the process ends, unless the last request said others."""
_MOST_KEPT_BYTES = 256 << 20
"""A process that has held more makes place for a new one."""


def main() -> None:
    """Answers requests from standard input until it ends, or until none has come for a while."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no reply
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    deny()
    kept, idle_s = b"", None
    while _comes(requests, IDLE_S if idle_s is None else idle_s):
        line = _read_line(requests)
        if not line:
            return
        request = json.loads(line)
        os.environ.update(request["environ"])
        limit(request["memory_bytes"], request["cpu_s"])
        data = kept if request.get("kept") else _read_exactly(requests, request["size"])
        if request.get("keep"):
            kept = data
        idle_s = request.get("idle_s")
        header, payload = answer(request, data)
        del data
        replies.write(json.dumps({**header, "size": len(payload)}).encode() + b"\n")
        replies.write(payload)
        replies.flush()
        del payload
        if header.get("last") or _peak_bytes() > _MOST_KEPT_BYTES + 2 * len(kept):
            return


def answer(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Calls the function of a request; returns the header and the payload of the reply."""
    from agenticlu.core.errors import AgenticluError
    from agenticlu.core.limits import MEBIBYTE, VARIABLES

    name = request["name"]
    try:
        payload = _call(request, data)
    except AgenticluError as error:
        return _error(error.message, error.hint, type(error).__name__)
    except MemoryError:
        payload = None
    except RecursionError:
        return _error(
            f"{name} is nested too deeply to be read.",
            "Save it as PDF or plain text in the program that made it.",
            last=True,
        )
    except Exception as error:  # of whichever library reads the format: none may reach a user bare
        reason = f"{type(error).__name__}: {error}"[:300]
        return _error(
            f"{name} cannot be read ({reason}).",
            "Save it anew in the program that made it, or as plain text.",
        )
    if payload is None:  # only now is what the failed call held free again
        return _error(
            f"{name} takes more than {request['memory_bytes'] // MEBIBYTE} MiB of memory to read.",
            f"If it is worth more: export {VARIABLES['memory_mib']}=4000",
            last=True,
        )
    if len(payload) > request["most_bytes"]:
        most = request["most_bytes"] // MEBIBYTE
        return _error(
            f"{name} holds more than {most} MiB of text.",
            f"Take a part of it, or allow more: export {VARIABLES['mib']}={most}",
        )
    return {"kind": "result"}, payload


def load(data: bytes, module: str) -> None:
    """Imports a module, so that the first call of its functions need not wait for it."""
    importlib.import_module(module)


def _call(request: dict[str, Any], data: bytes) -> bytes:
    from agenticlu.core.errors import raise_missing

    module, _, function = request["function"].partition(":")
    try:
        result = getattr(importlib.import_module(module), function)(data, *request["args"])
    except ModuleNotFoundError as error:
        raise_missing(error)
    return bytes(result) if request["raw"] else _to_json(result)


def _to_json(result: object) -> bytes:
    from pydantic_core import to_json

    return to_json(result)


def _error(
    message: str, hint: str | None, kind: str = "DocumentError", *, last: bool = False
) -> tuple[dict[str, Any], bytes]:
    """Returns an error as a reply; `last`: the process is in no state to read another document."""
    told = {"kind": "error", "type": kind, "message": message[:4000], "hint": hint, "last": last}
    return told, b""


# --- Limits ---------------------------------------------------------------------------------------


def limit(memory_bytes: int | None, cpu_s: int) -> None:
    """Bounds the memory of this process, and the processor time from now on.

    Where the system bounds no address space (macOS), a thread ends the process that outgrows it.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows: only the caller's clock ends it
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)
    if memory_bytes is not None:
        if sys.platform == "linux":
            _lower(resource.RLIMIT_AS, memory_bytes)
        else:
            threading.Thread(target=_watch, args=(memory_bytes,), daemon=True).start()


def deny() -> None:
    """Gives up what parsing does not need: files to write, core dumps, the network."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller's to act on
    try:
        import resource
    except ModuleNotFoundError:
        return
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    if sys.platform == "linux":
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes

            new_net, new_user = 0x40000000, 0x10000000
            libc = ctypes.CDLL(None)
            # A network namespace of its own has no way out; only root needs no user namespace.
            if libc.unshare(new_net) != 0:
                libc.unshare(new_net | new_user)


def _lower(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, hard))


def _watch(memory_bytes: int) -> None:
    while _peak_bytes() <= memory_bytes:
        time.sleep(0.05)
    os._exit(1)


def _peak_bytes() -> int:
    # What getrusage tells on Linux counts the caller, too, from whose fork this process began.
    with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


# --- Input ----------------------------------------------------------------------------------------


def _comes(requests: BinaryIO, idle_s: float) -> bool:
    """Waits for a request; whether there is one, or the end of input."""
    try:
        return bool(select.select([requests], [], [], idle_s)[0])
    except (OSError, ValueError):  # Windows selects no pipes: wait for ever
        return True


def _read_line(requests: BinaryIO) -> bytes:
    line = bytearray()
    while (byte := requests.read(1)) and byte != b"\n":
        line += byte
    return bytes(line)


def _read_exactly(requests: BinaryIO, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    filled = 0
    while filled < size:
        num_read = requests.readinto(view[filled:])  # type: ignore[attr-defined]
        if not num_read:
            sys.exit(0)
        filled += num_read
    return bytes(data)
