"""Every error a user can meet, in one tree.

```
AgenticluError                 exit 1   anything below, or unclassified
├── UsageError                 exit 2   an argument that cannot be
├── ConfigError                exit 3   unknown key, wrong type, unreadable file
├── DocumentError              exit 4   missing, empty, binary, no text layer
│   └── DocumentTooLongError   exit 4   longer than the model's window
├── EngineError                exit 5   the model could not be asked
│   ├── EngineUnreachableError exit 5   no server answered
│   ├── EngineAuthError        exit 5   the key was refused
│   ├── ModelNotFoundError     exit 5   the server or disk has no such model
│   ├── EngineBusyError        exit 5   rate limit or overload outlasted the retries
│   └── EngineReplyError       exit 5   the reply could not be understood
│       └── EngineRefusedError exit 5   the request was understood and refused
├── StoreError                 exit 6   torn, foreign, newer or locked run file; full disk
├── MissingDependencyError     exit 7   an extra is not installed
├── TrainingError              exit 8   no targets, does not fit, foreign checkpoint
├── IncompleteRunError         exit 9   the run ended, but some items failed
├── NoSupportedAnswerError     exit 10  the document does not support an answer
└── BudgetExceededError        exit 11  a limit on tokens, money or time was reached
```

An interrupt (Ctrl-C) exits with 130, a search that SIGTERM ended with 143. Messages have up to
three parts: what was given, what is allowed, and, in ``hint``, what to type next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INTERRUPTED_EXIT_CODE = 130
TERMINATED_EXIT_CODE = 143


class AgenticluError(Exception):
    """Base of all errors meant for users.

    Args:
        message: What was given and what is allowed.
        hint: What to type or do next; printed on its own line.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(AgenticluError):
    """An argument or a combination of arguments that cannot be."""

    exit_code = 2


class ConfigError(AgenticluError):
    """A configuration that cannot be used."""

    exit_code = 3


class DocumentError(AgenticluError):
    """A document that cannot be read."""

    exit_code = 4


class DocumentTooLongError(DocumentError):
    """A document longer than the model's window; never cut in silence."""


class EngineError(AgenticluError):
    """The model could not be asked, or did not answer."""

    exit_code = 5
    retry_after_s: float | None = None
    """The pause that the server asked for; None if it asked for none."""
    try_elsewhere = False
    """Whether another replica of the model can take the request at once."""
    never_answered = False
    """Whether no server has ever answered at the address."""


class EngineUnreachableError(EngineError):
    """No server answered at the address."""


class EngineAuthError(EngineError):
    """The server refused the key."""


class ModelNotFoundError(EngineError):
    """The server, or the disk, has no model of that name."""


class EngineBusyError(EngineError):
    """Rate limits, overload or time-outs outlasted the retries."""

    is_fault = False
    """Whether the server failed at this very request (a status of 500, say), rather than having no
    room for it."""


class EngineReplyError(EngineError):
    """The server's reply could not be understood, or it refused the request."""


class EngineRefusedError(EngineReplyError):
    """The server understood the request and refuses it, as it will the next time."""


class StoreError(AgenticluError):
    """A run file that cannot be read or written."""

    exit_code = 6


class MissingDependencyError(AgenticluError):
    """A package that only some commands need is not installed."""

    exit_code = 7


class TrainingError(AgenticluError):
    """Training cannot start or go on."""

    exit_code = 8


class IncompleteRunError(AgenticluError):
    """A run ended and kept everything it finished, but some items failed."""

    exit_code = 9


class NoSupportedAnswerError(AgenticluError):
    """No passage of the document supports an answer."""

    exit_code = 10


class BudgetExceededError(AgenticluError):
    """A limit on tokens, money or time was reached."""

    exit_code = 11


def did_you_mean(given: str, allowed: Iterable[str]) -> str | None:
    """Returns a hint naming the closest allowed words, or ``None`` if nothing is close.

    >>> did_you_mean("brnching", ["branching", "depth"])
    'Did you mean branching?'
    """
    close = difflib.get_close_matches(given, list(allowed), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else None


def missing_dependency(package: str, extra: str) -> MissingDependencyError:
    """Builds the error for an absent optional package, with the line that installs it."""
    return MissingDependencyError(
        f"This needs the package {package!r}, which is not installed.",
        hint=f"pip install 'agenticlu[{extra}]'",
    )
