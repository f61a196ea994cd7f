"""Recognises refusals for length in the words of many servers, and reads the limits out of them.

Three things are told apart: a prompt that exceeds the window, a reply that would (the prompt fits,
prompt and `max_tokens` together do not, or `max_tokens` exceeds what the model may write), and, by
`agenticlu.engines.http.refusals`, a rate limit counted in tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LEAST_WINDOW = 16
MOST_WINDOW = 10**9
TOO_LONG_CODES = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
)
_N = r"(?P<n>\d[\d,_]{0,14})"
_TOO_LONG = re.compile(
    r"context[ _-](?:length|window|size|limit)"
    r"|maximum[ _](?:model|context|input|prompt|sequence|number of (?:input )?tokens)"
    r"|max[ _](?:model_len|seq_len|input[ _](?:tokens|length)|num_tokens|position)"
    r"|too many (?:input |prompt )?tokens|reduce the length of|number of tokens to keep"
    r"|\b(?:prompt|inputs?|messages?|request|conversation|query|string)\b"
    r"(?: \w+){0,3} too (?:long|large)"
    r"|(?:prompt|input)s?`?[ _](?:token|length)s?\b.{0,80}"
    r"(?:exceed|must|cannot|should|longer|greater|only supports)"
    r"|`inputs` (?:tokens|must have)|exceed(?:s|ed)? (?:the )?(?:available|model)"
    r"|exceeds? max(?:imum)? length|longer than the (?:model|maximum)"
    r"|too large for model with|size limit exceeded by"
    r"|(?:超过|超出).{0,12}(?:长度|上限|限制)|过长|超长",
    re.IGNORECASE,
)
_EXCEEDS = re.compile(r"exceed|longer|greater|too (?:long|large|many)|超|过长", re.IGNORECASE)
_WINDOWS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # '... > 200000 maximum', '190000 + 20000 > 200000'
        rf"\d > {_N}\b",
        rf"{_N}(?: tokens?)? (?:maximum|max)\b",
        # 'maximum context length is 4096', 'context size (4096 tokens)', 'max_seq_len 4096'
        r"(?:(?:context|model|maximum prompt|maximum sequence)[ _-](?:length|window|size|limit)"
        r"|max_(?:model_len|seq_len|num_tokens)|max(?:imum)? (?:allowed|input) (?:length|tokens)"
        r"|maximum number of tokens allowed|maximum of"
        r"|tokens?[ _]limit|limit for this model)"
        rf"(?: (?:is|of|only|to))*\W{{0,3}}{_N}\b",
        # 'supports up to 1048576', 'limit of 128000', 'limit is 8192', 'cannot exceed 4096'
        r"(?:only supports up to|supports at most|limit (?:of|is)|cannot exceed(?: the total)?"
        rf"(?: tokens? limit)?|must be <=|must have less than|less than or equal to) {_N}\b",
        # 'input length should be [1, 30720]'
        rf"length should be \[\d+, ?{_N}\]",
        rf"is longer than .{{0,40}}?{_N}\b",
    )
)
_PROMPTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_N}(?: tokens)?(?: of| in| from)? (?:the |your )?(?:messages|text input|prompt|input)",
        rf"given: {_N} `inputs` tokens",
        rf"{_N} `?inputs?`? tokens",
        rf"{_N} \+ \d+ >",
        rf"prompt length \({_N}\)",
    )
)
_REPLY = re.compile(
    r"max(?:imum)?[ _]?(?:completion|output|new)?[ _]?tokens\b.{0,60}"
    r"(?:too large|too high|exceed|greater than|at most|less than|must be|should be|supported range"
    r"|valid range| > |supports)|maximum tokens you requested exceeds"
    r"|(?:supports?|up to|at most) [\d,]+ (?:completion|output) tokens",
    re.IGNORECASE,
)
_CAPS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"at most {_N}",
        rf"\[\d+, ?{_N}\]",
        rf"less than or equal to\W{{1,3}}{_N}",
        rf"(?:<=|model limit of|lower than|supports up to) {_N}",
        rf"\d > {_N}\b",
        rf"max_model_len\W{_N}",
        rf"to {_N} \(inclusive\)",
    )
)
_EXCLUSIVE = re.compile(rf"to {_N} \(exclusive\)", re.IGNORECASE)


@dataclass(frozen=True)
class LengthLimits:
    """What a refusal says about lengths, in tokens; None where it says nothing."""

    window_tokens: int | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    """The longest reply that it would allow to this prompt."""


def parse_limits(text: str, window_tokens: int | None = None) -> LengthLimits:
    """Reads the limits that a refusal names.

    Args:
        text: The server's words.
        window_tokens: The window, where the server sends it in a field of its own.

    >>> parse_limits("maximum context length is 4096 tokens. However, you requested 5000 tokens"
    ...     " (4000 in the messages, 1000 in the completion).")
    LengthLimits(window_tokens=4096, prompt_tokens=4000, reply_tokens=96)
    """
    window = window_tokens or _first(_WINDOWS, text)
    if window is not None and not LEAST_WINDOW <= window <= MOST_WINDOW:
        window = None
    prompt = _first(_PROMPTS, text)
    if window is not None and prompt is not None:
        return LengthLimits(window, prompt, window - prompt if prompt < window else None)
    if _REPLY.search(text):
        exclusive = _first((_EXCLUSIVE,), text)
        cap = _first(_CAPS, text) if exclusive is None else exclusive - 1
        return LengthLimits(reply_tokens=cap or None)
    return LengthLimits(window, prompt)


def _first(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    """Returns the number of the first pattern that is found."""
    found = next(filter(None, (pattern.search(text) for pattern in patterns)), None)
    return None if found is None else int(re.sub(r"\D", "", found["n"]))


def is_too_long(code: str, text: str, status: int) -> bool:
    """Whether a refusal means that the prompt is too long.

    Args:
        code: The error's code.
        text: The server's words.
        status: Of the reply.
    """
    if status == 413 or code in TOO_LONG_CODES:
        return True
    if status in (400, 422):
        return bool(_TOO_LONG.search(text))
    # An error inside the server may mention a window; only one that says so was due to it.
    return status >= 500 and bool(_TOO_LONG.search(text) and _EXCEEDS.search(text))
