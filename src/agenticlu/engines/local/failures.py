"""Errors of ours in place of those that torch and transformers raise."""

from __future__ import annotations

from agenticlu.core.errors import AgenticluError, EngineError


def explain(error: BaseException, name: str) -> AgenticluError:
    """Returns an error of ours for any.

    Args:
        error: Raised while a model ran.
        name: Of the model.
    """
    if isinstance(error, AgenticluError):
        return error
    text = (str(error).splitlines() or [type(error).__name__])[0]
    out_of_memory = isinstance(error, MemoryError) or "memory" in text.lower()
    failure = EngineError(
        f"{name} failed: {text}",
        hint="Lower max_batch, prefill_tokens or cache_bytes." if out_of_memory else None,
    )
    failure.__cause__ = error
    return failure
