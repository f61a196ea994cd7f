"""Blanks what must not leave the machine in a page that people send around."""

from __future__ import annotations

import math
import re
from typing import Any

BLANK = "(not shown)"

_SECRET_NAME = re.compile(
    r"(?:^|[_\-.])(?:api[_\-]?key|key|token|secret|password|passwd|credentials?|authorization|auth"
    r"|cookie|bearer)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"\b(?:sk|pk|rk|hf|gh[opsu]|github_pat|xox[abp]|glpat|AKIA|AIza|nvapi|gsk)"
    r"[-_]?[A-Za-z0-9_\-]{16,}"
    r"|(?i:\bbearer\s+)[A-Za-z0-9._~+/\-]{12,}=*"
)
_URL_USER = re.compile(r"(?<=://)[^/\s@]+@")
_URL_QUERY = re.compile(
    r"([?&](?:[\w\-]*key|[\w\-]*token|secret|password|sig|signature)=)[^&#\s]+", re.IGNORECASE
)


def redact_text(text: str) -> str:
    """Blanks what looks like a key, and the user and key parts of addresses.

    >>> redact_text("https://me:pw@host/v1?api_key=abc")
    'https://host/v1?api_key=(not shown)'
    """
    text = _URL_USER.sub("", text)
    text = _URL_QUERY.sub(rf"\g<1>{BLANK}", text)
    return _SECRET_TEXT.sub(BLANK, text)


def redact(value: Any) -> Any:
    """Returns a configuration with secrets blanked, by the names of keys and the looks of values.

    The *name* of an environment variable (`api_key_env`) is no secret and stays.

    >>> redact({"api_key": "abc", "api_key_env": "OPENAI_API_KEY", "piece_tokens": 512})
    {'api_key': '(not shown)', 'api_key_env': 'OPENAI_API_KEY', 'piece_tokens': 512}
    """
    if isinstance(value, dict):
        return {
            str(key): BLANK
            if _SECRET_NAME.search(str(key)) and isinstance(item, (str, list, tuple, dict)) and item
            else redact(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return redact_text(value) if isinstance(value, str) else value
