"""The errors that users see, with their exit codes; and lookup of names that they may mistype.

```
AgenticluError                 exit 1   anything below, or unclassified
├── UsageError                 exit 2   invalid argument, or arguments that conflict
├── ConfigError                exit 3   unknown key, wrong type, unreadable file
├── DocumentError              exit 4   missing, empty, binary, no text layer
│   └── DocumentTooLongError   exit 4   longer than the model's window
├── EngineError                exit 5   the model could not be queried
│   ├── EngineUnreachableError exit 5   no server answered
│   ├── EngineAuthError        exit 5   the server rejected the key
│   ├── ModelNotFoundError     exit 5   the server or disk has no such model
│   ├── EngineBusyError        exit 5   rate limit or overload outlasted the retries
│   └── EngineReplyError       exit 5   the reply is malformed
│       └── EngineRefusedError exit 5   the server refused the request
│           └── ContentRefusedError exit 5  its moderation refused the content
├── StoreError                 exit 6   torn, foreign, newer or locked run file; full disk
├── MissingDependencyError     exit 7   an extra is not installed
├── TrainingError              exit 8   no targets, out of memory, foreign checkpoint
├── IncompleteRunError         exit 9   the run ended, but some items failed
├── NoSupportedAnswerError     exit 10  the document does not support an answer
└── BudgetExceededError        exit 11  a limit on tokens, money or time was reached
```

An interrupt (Ctrl-C) exits with 130, a search or an evaluation that SIGTERM ended with 143.
Messages have up to three parts: what was given, what is allowed, and, in ``hint``, what to type
next.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

INTERRUPTED_EXIT_CODE = 130
TERMINATED_EXIT_CODE = 143


class AgenticluError(Exception):
    """Base of all errors meant for users.

    Args:
        message: What was given, and what is allowed.
        hint: What to type or do next; printed on a line of its own.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def advice(self) -> str:
        """The message, and behind it what to do: for a list, in which a hint has no line."""
        end = "" if self.message.endswith((".", "!", "?", ":")) else "."
        return f"{self.message}{end} {self.hint}" if self.hint else self.message


class UsageError(AgenticluError):
    """Invalid argument, or arguments that conflict."""

    exit_code = 2


class ConfigError(AgenticluError):
    """Invalid configuration."""

    exit_code = 3


class DocumentError(AgenticluError):
    """The document cannot be read."""

    exit_code = 4


class DocumentTooLongError(DocumentError):
    """The document is longer than the model's window; it is never truncated silently."""

    window_tokens: int | None = None
    """The window that a server's refusal names; None where it names none."""


class EngineError(AgenticluError):
    """The model could not be queried, or did not answer."""

    exit_code = 5
    retry_after_s: float | None = None
    """Seconds the server asked to wait; None if it did not."""
    try_elsewhere = False
    """Whether another replica of the model can take the request at once."""
    never_answered = False
    """Whether no server has ever answered at the address."""
    no_connection = False
    """Whether there was no connection at all, rather than one that broke off."""
    is_midway = False
    """Whether a part of the reply had been told: asked again, it would be told twice."""


class EngineUnreachableError(EngineError):
    """No server answered at the address."""


class EngineAuthError(EngineError):
    """The server rejected the API key."""


class ModelNotFoundError(EngineError):
    """The server or disk has no model of this name."""


class EngineBusyError(EngineError):
    """Rate limits, overload or timeouts outlasted the retries."""

    is_fault = False
    """Whether the server failed on this request (status 500, say), rather than being overloaded."""
    timed_out = False
    """Whether there was no answer in time."""


class EngineReplyError(EngineError):
    """The server's reply is malformed, or it refused the request."""


class EngineRefusedError(EngineReplyError):
    """The server refused the request, and will refuse it again."""


class ContentRefusedError(EngineRefusedError):
    """The server's moderation refused what the request says; other requests are not concerned."""


class StoreError(AgenticluError):
    """A run file cannot be read or written."""

    exit_code = 6


class MissingDependencyError(AgenticluError):
    """A package that only some commands need is not installed."""

    exit_code = 7


class TrainingError(AgenticluError):
    """Training cannot start or continue."""

    exit_code = 8


class IncompleteRunError(AgenticluError):
    """The run ended and kept what it finished, but some items failed."""

    exit_code = 9


class NoSupportedAnswerError(AgenticluError):
    """No passage of the document supports an answer."""

    exit_code = 10


class BudgetExceededError(AgenticluError):
    """A limit on tokens, money or time was reached."""

    exit_code = 11


def did_you_mean(given: str, allowed: Iterable[str]) -> str | None:
    """Returns a hint that names the closest allowed words, or None if none is close.

    >>> did_you_mean("brnching", ["branching", "depth"])
    'Did you mean branching?'
    """
    close = difflib.get_close_matches(given, list(allowed), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else None


def missing_dependency(package: str, extra: str) -> MissingDependencyError:
    """Builds the error for a missing optional package, with the command that installs it."""
    return MissingDependencyError(
        f"This needs the package {package!r}, which is not installed.",
        hint=f"pip install 'agenticlu[{extra}]'",
    )


EXTRA_OF_PACKAGE = {
    "datasets": "hub",
    "deepspeed": "deepspeed",
    "fsspec": "data",
    "huggingface_hub": "data",
    "mcp": "mcp",
    "mcp_types": "mcp",
    "peft": "train",
    "pyarrow": "data",
    "python_multipart": "serve",
    "ray": "ray",
    "rouge_score": "evaluate",
    "safetensors": "local",
    "starlette": "serve",
    "torch": "local",
    "transformers": "local",
    "uvicorn": "serve",
    "zstandard": "data",
}
"""The extra of agenticlu that installs each optional package."""


def require_known(
    name: str,
    known: Iterable[str],
    *,
    kind: str,
    error: type[AgenticluError] = ConfigError,
    hint: str | None = None,
) -> str:
    """Returns the name if it is among those known.

    Args:
        name: What was given.
        known: What is allowed, in the order in which it is listed.
        kind: Noun for what is named, in the singular; used in the message.
        error: Class of the error; it decides the exit code.
        hint: What to type next where no known name is close.

    Raises:
        AgenticluError: It is not; the message names what was given and what is allowed.
    """
    known = tuple(known)
    if name not in known:
        raise error(
            f"Unknown {kind} {name!r}. Allowed: {', '.join(known)}.",
            hint=did_you_mean(name, known) or hint,
        )
    return name


class Registry(Mapping[str, str]):
    """Names and where the things behind them live.

    Args:
        kind: Noun for what is named, in the singular; used in messages.
        table: Name to 'module:attribute'.

    >>> paths = Registry("path function", {"join": "posixpath:join"})
    >>> paths.load("join")("a", "b")
    'a/b'
    """

    def __init__(self, kind: str, table: Mapping[str, str]) -> None:
        self.kind = kind
        self._table = dict(table)
        for name, target in self._table.items():
            assert target.count(":") == 1, f"{name}: {target!r} is not 'module:attribute'"

    def __getitem__(self, name: str) -> str:
        """Returns 'module:attribute' of a name.

        Raises:
            ConfigError: The name is unknown; the message lists those allowed.
        """
        return self._table[require_known(name, self._table, kind=self.kind)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def load(self, name: str) -> Any:
        """Imports the object registered under a name.

        Raises:
            ConfigError: The name is unknown.
            MissingDependencyError: A package that it needs is not installed.
        """
        module, _, attribute = self[name].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise_missing(error)


def raise_missing(error: ModuleNotFoundError, extra: str | None = None) -> NoReturn:
    """Raises an install line for an absent optional package, any other error as it is.

    Args:
        error: Raised by an import.
        extra: Extra that installs the package, where not the one that it is listed under.
    """
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF_PACKAGE:
        raise error
    raise missing_dependency(package, extra or EXTRA_OF_PACKAGE[package]) from error
