"""Reads single fields of a request's body, or says what they must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agenticlu.server.limits import RequestError

NOUNS = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


def flag(body: Mapping[str, Any], field: str) -> bool:
    """Returns a field that is true or false; false where it is null or missing."""
    value = body.get(field)
    if value is not None and not isinstance(value, bool):
        raise wrong(field, "a boolean", value)
    return bool(value)


def integer(body: Mapping[str, Any], field: str, least: int, most: int) -> int | None:
    """Returns a field that is a whole number in a range, or None."""
    value = body.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise wrong(field, f"an integer from {least} to {most}", value)
    return value


def number(body: Mapping[str, Any], field: str, least: float, most: float, default: float) -> float:
    """Returns a field that is a number in a range."""
    value = body.get(field)
    if value is None:
        return default
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or not least <= value <= most:
        raise wrong(field, f"a number from {least:g} to {most:g}", value)
    return float(value)


def wrong(field: str, allowed: str, given: Any) -> RequestError:
    """Builds the error for a value of the wrong type or out of range."""
    is_long = isinstance(given, (str, list, dict))
    told = noun(given) if is_long else shown(given)
    return RequestError(f"{field!r} must be {allowed}, not {told}.", field)


def noun(value: Any) -> str:
    """Returns what kind of JSON value it is, for a message."""
    return NOUNS.get(type(value), "something else")


def shown(value: Any, limit: int = 60) -> str:
    """Returns a value for a message, cut where it is long."""
    if value is None:
        return "null"
    if isinstance(value, (list, dict)):
        return noun(value)
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
