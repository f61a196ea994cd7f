"""Calls a function on bytes from outside in a child process with limits on memory and time.

A parser that aborts, hangs or takes all memory ends the child; the caller gets a `DocumentError`
in words. Children are kept for the next call while they are healthy, one for each call at a time.
What comes back is JSON or bytes, never a pickle; it is checked against the type that is expected.

    call("agenticlu.documents.formats.pdf:parse", data, "report.pdf", name="...", into=Parsed)

`Held` keeps the bytes in a child of their own, for many calls.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import agenticlu.core.errors as our_errors
from agenticlu.core.errors import AgenticluError, DocumentError
from agenticlu.core.limits import VARIABLES, DocumentLimits

ResultT = TypeVar("ResultT")

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; from agenticlu.documents.child import main; main()"
)
_PASSED = ("LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "TMPDIR", "TZ")
"""Variables that a child gets; keys and passwords of the environment are none of its business."""
_SAVE_ANEW = "Save it anew in the program that made it."
_MOST_IDLE = 2
"""Children that wait for a next document; each holds some 60 MB until it has waited long enough."""
_MOST_HEADER_BYTES = 64 * 1024
_HELD_IDLE_S = 600.0
"""Seconds for which a child that keeps bytes, or is ready for them, waits for a call."""
_CHILD = "agenticlu.documents.child"
_WALL_PER_CPU = 4
_WALL_EXTRA_S = 20.0
"""A busy machine gives a child only part of the time; beyond this it is given up all the same."""


def call(
    function: str, data: bytes, *args: object, name: str, into: type[ResultT] | Any = object
) -> ResultT:
    """Calls a function on bytes from outside in a process of its own.

    Args:
        function: 'module:function' of this package; it takes the bytes, then `args`.
        data: What comes from outside.
        args: What else it takes: anything that JSON can say.
        name: What the data are called in messages, such as "Document 'report.pdf'".
        into: Type of what it returns: bytes, or one that pydantic can check.

    Raises:
        DocumentError: It crashed, took too much memory or time, or returned something else.
        AgenticluError: What the function raised.
    """
    request = _request(function, args, name, len(data), into)
    header, payload = _exchange(_head(request), data, request)
    result: ResultT = _result(header, payload, name, into)
    return result


class Held:
    """Bytes from outside that a child of their own keeps, for many calls.

    The child ends when it was not called for a while, or when a call breaks it; the next call
    starts another. Calls of several threads wait for each other.

    Args:
        read: Returns the bytes, each time a child is given them.
        name: What the data are called in messages.
    """

    def __init__(self, read: Callable[[], bytes] = bytes, name: str = "") -> None:
        self._read, self._name = read, name
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._size: int | None = None

    def prepare(self, module: str) -> None:
        """Starts a child that has a module loaded, before it is known what it will keep.

        Raises:
            DocumentError: It cannot be started.
        """
        with self._lock:
            self._child = _Child()
            loading = f"{_CHILD}:load"
            self._ask(self._child, _request(loading, (module,), "The reader", 0, object), b"")

    def take(self, read: Callable[[], bytes], name: str) -> None:
        """Says what is kept, where a child was started before that was known."""
        self._read, self._name = read, name

    def call(self, function: str, *args: object, into: type[ResultT] | Any = object) -> ResultT:
        """Calls a function on the bytes; see `call`.

        Raises:
            DocumentError: It crashed, took too much memory or time, or returned something else.
            AgenticluError: What the function raised.
        """
        with self._lock:
            header, payload = self._exchange(function, args, into)
        result: ResultT = _result(header, payload, self._name, into)
        return result

    def _exchange(
        self, function: str, args: tuple[object, ...], into: Any
    ) -> tuple[dict[str, Any], bytes]:
        if self._child is not None and self._size is not None:
            request = _request(function, args, self._name, self._size, into) | {"kept": True}
            try:
                return self._ask(self._child, request, b"")
            except _GoneError:  # it has gone home, or broke: a new one shows which
                self._end(5.0)
        data = self._read()
        request = _request(function, args, self._name, len(data), into) | {"keep": True}
        while True:
            is_new = self._child is None
            self._child = self._child or _Child()
            try:
                self._size = len(data)
                return self._ask(self._child, request, data)
            except _GoneError:
                code = self._end(5.0)
                if is_new:
                    raise _crash_of(code, self._name, int(request["cpu_s"])) from None

    def _ask(
        self, child: _Child, request: dict[str, Any], data: bytes
    ) -> tuple[dict[str, Any], bytes]:
        cpu_s, most_bytes = int(request["cpu_s"]), int(request["most_bytes"])
        head = _head(request | {"idle_s": _HELD_IDLE_S})
        try:
            reply = child.exchange(head, data, most_bytes, _wall_of(cpu_s))
        except TimeoutError:
            self._end()
            raise _TooSlowError(self._name, cpu_s) from None
        except _GoneError:
            raise
        except BaseException:
            self._end()
            raise
        if reply[0].get("last"):
            self._end()
        return reply

    def _end(self, grace_s: float = 0.0) -> int | None:
        child, self._child, self._size = self._child, None, None
        if child is None:
            return None
        child.end(grace_s)
        return child.process.returncode

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            self._end()


def _request(
    function: str, args: tuple[object, ...], name: str, size: int, into: Any
) -> dict[str, Any]:
    limits = DocumentLimits.read()
    return {
        "function": function,
        "args": args,
        "name": name,
        "size": size,
        "memory_bytes": limits.memory_bytes(size),
        "cpu_s": limits.cpu_seconds(size),
        "most_bytes": 2 * limits.most_bytes,
        "raw": into is bytes,
        "environ": {one: os.environ.get(one, "") for one in VARIABLES.values()},
    }


def _head(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode() + b"\n"


def _result(header: dict[str, Any], payload: bytes, name: str, into: Any) -> Any:
    if header.get("kind") == "error":
        raise _error_of(header)
    if into is bytes:
        return payload
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(into).validate_json(payload)
    except ValidationError as error:
        raise DocumentError(
            f"{name} broke its reader: the result is damaged.", hint=_SAVE_ANEW
        ) from error


def _exchange(head: bytes, data: bytes, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Sends a request to an idle or new child, and returns its reply."""
    name, cpu_s = str(request["name"]), int(request["cpu_s"])
    while True:
        child, is_new = _take()
        _busy.add(child)
        try:
            reply = child.exchange(head, data, int(request["most_bytes"]), _wall_of(cpu_s))
        except _GoneError:
            child.end(grace_s=5.0)
            if _is_ending.is_set():
                raise DocumentError(f"{name} was not read: the program ends.") from None
            error = _crash_of(child.process.returncode, name, cpu_s)
            # One that had waited may have gone home, or been ended, just as it was called.
            if not is_new and not isinstance(error, _TooSlowError):
                continue
            raise error from None
        except TimeoutError:
            child.end()
            raise _TooSlowError(name, cpu_s) from None
        except BaseException:
            child.end()
            raise
        finally:
            _busy.discard(child)
        if reply[0].get("last"):
            child.end()
        else:
            _give_back(child)
        return reply


def _wall_of(cpu_s: int) -> float:
    return cpu_s * _WALL_PER_CPU + _WALL_EXTRA_S


class _GoneError(Exception):
    """The child ended before its reply was whole."""


class _Child:
    """A process that answers one request after another."""

    def __init__(self) -> None:
        folder = str(Path(our_errors.__file__).resolve().parents[2])
        paths = dict.fromkeys(os.path.abspath(path) for path in (*sys.path, folder) if path)
        env = {one: os.environ[one] for one in _PASSED if one in os.environ}
        if not sys.executable:
            raise DocumentError(
                "Documents other than plain text are read in a process of their own, and this "
                "program has no Python interpreter to start one.",
                hint="Set sys.executable to one, or give plain text.",
            )
        self.process = subprocess.Popen(
            # Isolated: neither the working folder nor PYTHON* variables decide what it imports.
            [sys.executable, "-I", "-B", "-c", _START, *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=os.path.abspath(os.sep),
            env={**env, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def exchange(
        self, head: bytes, data: bytes, most_bytes: int, wall_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Sends a request; returns the header of the reply and what follows it."""
        deadline = time.monotonic() + wall_s
        reader, writer = self.process.stdout, self.process.stdin
        assert reader is not None
        assert writer is not None
        os.set_blocking(reader.fileno(), False)
        os.set_blocking(writer.fileno(), False)
        reply = bytearray()
        header: dict[str, Any] | None = None
        start = size = 0
        unsent = [memoryview(head), memoryview(data)]
        with selectors.DefaultSelector() as selector:
            selector.register(reader, selectors.EVENT_READ)
            selector.register(writer, selectors.EVENT_WRITE)
            while header is None or len(reply) - start < size:
                ready = selector.select(deadline - time.monotonic())
                if not ready and time.monotonic() > deadline:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fileobj is writer:
                        if not _send(writer.fileno(), unsent):
                            selector.unregister(writer)
                        continue
                    if not (part := os.read(reader.fileno(), 1 << 20)):
                        raise _GoneError
                    reply += part
                if header is None and (start := reply.find(b"\n") + 1):
                    header = _read_header(bytes(reply[:start]))
                    size = header["size"]
                if len(reply) > (_MOST_HEADER_BYTES if header is None else most_bytes + start):
                    raise _GoneError
        return header, bytes(memoryview(reply)[start : start + size])

    def end(self, grace_s: float = 0.0) -> None:
        """Ends the process, after a while in which it may end by itself, and collects it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace_s)
        self.process.kill()
        self.process.wait()


def _send(descriptor: int, unsent: list[memoryview]) -> bool:
    """Writes what the pipe takes; returns whether there is more."""
    try:
        num_sent = os.write(descriptor, unsent[0][: 1 << 20])
    except BlockingIOError:
        return True
    except OSError as error:
        raise _GoneError from error
    unsent[0] = unsent[0][num_sent:]
    while unsent and not unsent[0]:
        del unsent[0]
    return bool(unsent)


def _read_header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if isinstance(header, dict) and type(header.get("size")) is int and header["size"] >= 0:
            return header
    except (ValueError, RecursionError):
        pass
    raise _GoneError


# --- What went wrong ------------------------------------------------------------------------------


def _error_of(header: dict[str, Any]) -> AgenticluError:
    kind = getattr(our_errors, str(header.get("type")), DocumentError)
    if not (isinstance(kind, type) and issubclass(kind, AgenticluError)):
        kind = DocumentError
    hint = header.get("hint")
    return kind(str(header.get("message"))[:4000], hint=None if hint is None else str(hint)[:4000])


class _TooSlowError(DocumentError):
    """Reading took too long."""

    def __init__(self, name: str, cpu_s: int) -> None:
        super().__init__(
            f"{name} was given up after {cpu_s} s of reading: it is damaged, or made to keep its "
            "reader busy.",
            hint=f"If it is worth more time: export {VARIABLES['seconds']}={max(60, 4 * cpu_s)}",
        )


def _crash_of(code: int | None, name: str, cpu_s: int) -> DocumentError:
    """Says why a child ended without a reply."""
    if hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU:
        return _TooSlowError(name, cpu_s)
    try:
        how = signal.Signals(-(code or 0)).name
    except ValueError:
        how = f"exit code {code}"
    return DocumentError(
        f"{name} broke its reader ({how}): it is damaged, or needs more memory than the limit.",
        hint=f"{_SAVE_ANEW} Or allow more: export {VARIABLES['memory_mib']}=4000",
    )


# --- Children that wait ---------------------------------------------------------------------------

_idle: list[_Child] = []
_busy: set[_Child] = set()
_is_ending = threading.Event()
_lock = threading.Lock()


def _take() -> tuple[_Child, bool]:
    """Returns a child, and whether it is new."""
    while True:
        with _lock:
            child = _idle.pop() if _idle else None
        if child is None:
            return _Child(), True
        if child.process.poll() is None:
            return child, False
        child.end()


def _give_back(child: _Child) -> None:
    with _lock:
        if len(_idle) < _MOST_IDLE:
            _idle.append(child)
            return
    child.end()


def end_idle() -> None:
    """Ends the children that wait for a next document."""
    with _lock:
        children = _idle[:]
        _idle.clear()
    for child in children:
        child.end()


def end_all() -> None:
    """Ends all children, also those at work, whose callers get an error; for a program that ends.

    What is being read in a thread would otherwise keep the program for as long as that takes.
    """
    _is_ending.set()
    end_idle()
    for child in list(_busy):
        child.process.kill()


def _forget() -> None:
    """In a fork: the children belong to the parent, and so do their pipes."""
    global _lock
    _lock = threading.Lock()
    for child in _idle:
        child.process.returncode = 0  # not ours to wait for
    _idle.clear()


atexit.register(end_idle)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
