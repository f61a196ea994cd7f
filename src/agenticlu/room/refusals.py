"""What the room refuses, and how errors are told over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agenticlu.core.errors import (
    AgenticluError,
    ConfigError,
    DocumentError,
    EngineError,
    MissingDependencyError,
    UsageError,
)
from agenticlu.core.secrets import redact_text


class RoomError(UsageError):
    """A request that is refused.

    Args:
        message: What is wrong.
        status: HTTP status.
        hint: What to do next.
        headers: Further headers of the reply.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.headers = dict(headers or {})


def status_of(error: AgenticluError) -> int:
    """Returns the HTTP status for an error.

    >>> status_of(DocumentError("Broken.")), status_of(ConfigError("No such address."))
    (422, 400)
    """
    if isinstance(error, RoomError):
        return error.status
    kinds = ((DocumentError, 422), (MissingDependencyError, 501), (EngineError, 502))
    for kind, status in kinds:
        if isinstance(error, kind):
            return status
    return 400 if isinstance(error, (UsageError, ConfigError)) else 500


def tell(error: AgenticluError) -> dict[str, Any]:
    """Returns message and hint of an error as people may see them."""
    hint = None if error.hint is None else redact_text(error.hint)
    return {"message": redact_text(error.message), "hint": hint}
