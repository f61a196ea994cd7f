"""Reads the requests of an OpenAI-compatible client.

What the server does not support is refused by name; nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.errors import did_you_mean
from agenticlu.core.records import Message, Role
from agenticlu.engines.base import Asked, Sampling
from agenticlu.server.fields import NOUNS, flag, integer, noun, number, shown, wrong
from agenticlu.server.limits import DIALOGUE_MODEL, MOST_LOGPROBS, MOST_SAMPLES, RequestError

DEFAULT_MAX_TOKENS = 1024
"""Tokens of a reply whose request names no limit, if the window has that much left."""
DEFAULT_PLAIN_TOKENS = 16
"""Tokens of a continued text whose request names no limit, as in OpenAI's API."""
MOST_STOPS = 4
MOST_TOKENS = 1 << 31
SEEDS = (-(1 << 63), (1 << 63) - 1)
SHARED_FIELDS = frozenset(
    [
        "model",
        "n",
        "temperature",
        "top_p",
        "max_tokens",
        "stop",
        "seed",
        "stream",
        "stream_options",
        "return_token_ids",
        "logprobs",
    ]
)
FIELDS = SHARED_FIELDS | {"messages", "max_completion_tokens", "top_logprobs"}
"""Fields with an effect."""
PLAIN_FIELDS = SHARED_FIELDS | {"prompt", "echo"}
"""Likewise where a text is continued."""
IDLE_FIELDS: dict[str, type] = {
    "user": str,
    "metadata": dict,
    "store": bool,
    "safety_identifier": str,
    "service_tier": str,
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "prompt_cache_options": dict,
}
"""Fields that change no reply, by their meaning, with the type of their values."""
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "moderation": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "chat_template_kwargs": ({}, {"enable_thinking": False}, {"thinking": False}),
    "suffix": ("",),
    "best_of": (1,),
}
"""Fields that are taken only with null or a value that asks for nothing."""
PLAIN_ONLY = frozenset({"suffix", "best_of"})
CHAT_ONLY = (
    frozenset(NEUTRAL_VALUES)
    - PLAIN_ONLY
    - {
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "top_k",
        "min_p",
        "logit_bias",
    }
)
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "developer": "system",
}
MESSAGE_FIELDS = frozenset({"role", "content", "name"})
EMPTY_MESSAGE_FIELDS = frozenset(
    {"refusal", "tool_calls", "function_call", "audio", "annotations", "tool_call_id"}
)
"""Fields of a message that are allowed only if empty, as in a reply that is sent back."""
IDLE_MESSAGE_FIELDS = frozenset({"reasoning_content", "reasoning"})
"""The thoughts behind an earlier reply are no part of the conversation."""


@dataclass(frozen=True)
class CompletionRequest:
    """A request that was understood."""

    asked: tuple[Asked, ...]
    """One conversation, or texts to continue."""
    sampling: Sampling
    plain: bool = False
    """Whether texts are continued."""
    max_tokens_given: bool = False
    top_logprobs: int | None = None
    """Rivals to report for each token; None reports no log-probabilities."""
    stream: bool = False
    include_usage: bool = False
    token_ids: bool = False
    echo: bool = False
    """Whether each continuation is preceded by its text."""

    @property
    def num_choices(self) -> int:
        """Of the reply."""
        return len(self.asked) * self.sampling.n


def parse_request(body: Any, *, plain: bool = False) -> CompletionRequest:
    """Reads a request for a chat completion, or for the continuation of texts.

    Args:
        body: From the client.
        plain: Whether texts are to be continued.

    Raises:
        RequestError: It is malformed, or asks for what the server does not do.
    """
    if not isinstance(body, dict):
        raise RequestError(f"The body must be a JSON object, not {noun(body)}.")
    _refuse_unsupported(body, plain)
    max_tokens = _parse_max_tokens(body, plain)
    stream = flag(body, "stream")
    asked: tuple[Asked, ...] = (
        _parse_prompts(body.get("prompt")) if plain else (parse_messages(body.get("messages")),)
    )
    request = CompletionRequest(
        asked=asked,
        sampling=Sampling(
            temperature=number(body, "temperature", 0.0, 2.0, 1.0),
            top_p=number(body, "top_p", 0.0, 1.0, 1.0),
            max_tokens=max_tokens or (DEFAULT_PLAIN_TOKENS if plain else DEFAULT_MAX_TOKENS),
            n=integer(body, "n", 1, MOST_SAMPLES) or 1,
            stop=_parse_stop(body.get("stop")),
            seed=integer(body, "seed", *SEEDS),
        ),
        plain=plain,
        max_tokens_given=max_tokens is not None or plain,
        top_logprobs=_parse_logprobs(body, plain),
        stream=stream,
        include_usage=parse_stream_options(body.get("stream_options"), stream),
        token_ids=flag(body, "return_token_ids"),
        echo=flag(body, "echo"),
    )
    _check_size(request)
    return request


def _refuse_unsupported(body: Mapping[str, Any], plain: bool) -> None:
    fields = PLAIN_FIELDS if plain else FIELDS
    foreign = CHAT_ONLY if plain else PLAIN_ONLY
    for field, value in body.items():
        if field in fields:
            continue
        if field in IDLE_FIELDS:
            if value is not None and type(value) is not IDLE_FIELDS[field]:
                raise wrong(field, NOUNS[IDLE_FIELDS[field]], value)
        elif field not in NEUTRAL_VALUES or field in foreign:
            known = sorted({*fields, *IDLE_FIELDS})
            raise RequestError(
                f"Unknown field {shown(field)}.", field, hint=did_you_mean(field, known)
            )
        elif value is not None and not any(is_same(value, one) for one in NEUTRAL_VALUES[field]):
            raise RequestError(f"This server does not support {field!r}.", field)


def is_same(value: Any, other: Any) -> bool:
    """Whether two JSON values are the same; true is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _check_size(request: CompletionRequest) -> None:
    """Refuses what no reply could hold, however little is sampled of it."""
    sampling = request.sampling
    if request.num_choices > MOST_SAMPLES:
        raise RequestError(
            f"{len(request.asked)} prompts with n = {sampling.n} make {request.num_choices}"
            f" choices; at most {MOST_SAMPLES} are allowed.",
            "prompt",
        )
    if request.echo and request.top_logprobs is not None:
        raise RequestError(
            "'echo' and 'logprobs' together are not supported: a prompt has no log-probabilities"
            " here.",
            "echo",
        )
    if request.top_logprobs is not None and request.max_tokens_given:
        check_logprobs(request, sampling.max_tokens)


def check_logprobs(request: CompletionRequest, max_tokens: int) -> None:
    """Refuses a reply with more log-probabilities than fit.

    Raises:
        RequestError: There could be too many.
    """
    if request.top_logprobs is None:
        return
    count = request.num_choices * max_tokens * (1 + request.top_logprobs)
    if count > MOST_LOGPROBS:
        raise RequestError(
            f"The reply could hold {count:,} log-probabilities; at most {MOST_LOGPROBS:,} are"
            " allowed. Lower the limit on tokens, 'n' or the number of log-probabilities.",
            "logprobs" if request.plain else "top_logprobs",
        )


def _parse_max_tokens(body: Mapping[str, Any], plain: bool) -> int | None:
    older = integer(body, "max_tokens", 1, MOST_TOKENS)
    if plain:
        return older
    newer = integer(body, "max_completion_tokens", 1, MOST_TOKENS)
    if older is not None and newer is not None:
        raise RequestError(
            "'max_tokens' is the older name of 'max_completion_tokens': give one of them.",
            "max_tokens",
        )
    return older if newer is None else newer


def _parse_stop(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    stops = [given] if isinstance(given, str) else given
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise wrong("stop", f"a string or a list of up to {MOST_STOPS}, none empty", given)
    if len(stops) > MOST_STOPS:
        raise RequestError(f"'stop' takes up to {MOST_STOPS} texts, not {len(stops)}.", "stop")
    return tuple(stops)


def _parse_logprobs(body: Mapping[str, Any], plain: bool) -> int | None:
    """Returns how many rivals to report for each token; None for no log-probabilities."""
    if plain:
        return integer(body, "logprobs", 0, 5)
    wanted = flag(body, "logprobs")
    rivals = integer(body, "top_logprobs", 0, 20)
    if rivals is not None and not wanted:
        raise RequestError("'top_logprobs' needs 'logprobs': true.", "top_logprobs")
    return (rivals or 0) if wanted else None


def parse_stream_options(given: Any, stream: bool) -> bool:
    """Returns whether a stream ends with the usage.

    Raises:
        RequestError: The options are malformed.
    """
    if given is None:
        return False
    if not isinstance(given, dict):
        raise wrong("stream_options", "an object", given)
    if not stream:
        raise RequestError("'stream_options' needs 'stream': true.", "stream_options")
    for name, value in given.items():
        if name not in ("include_usage", "include_obfuscation"):
            raise RequestError(
                f"Unknown field {shown(name)} in 'stream_options'.", "stream_options"
            )
        if value is not None and not isinstance(value, bool):
            raise wrong(f"stream_options.{name}", "a boolean", value)
    return bool(given.get("include_usage"))


def _parse_prompts(given: Any) -> tuple[str, ...]:
    """Reads the text to continue, or several."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise wrong("prompt", "a string or a list of strings", given)
    if not all(isinstance(text, str) for text in texts):
        raise RequestError(
            "'prompt' must be a string or a list of strings; token ids are not supported.",
            "prompt",
        )
    if not all(texts):
        raise RequestError("'prompt' must not be empty.", "prompt")
    return tuple(texts)


def parse_messages(given: Any) -> tuple[Message, ...]:
    """Reads a conversation.

    Raises:
        RequestError: It is malformed, or holds more than text.
    """
    if not isinstance(given, list) or not given:
        raise wrong("messages", "a list of at least one message", given)
    return tuple(_parse_message(one, f"messages[{i}]") for i, one in enumerate(given))


def _parse_message(given: Any, where: str) -> Message:
    if not isinstance(given, dict):
        raise wrong(where, "an object", given)
    given_role = given.get("role")
    role = ROLES.get(given_role) if isinstance(given_role, str) else None
    if role is None:
        raise RequestError(
            f"{where}.role is {shown(given_role)}; allowed are {', '.join(ROLES)}.",
            f"{where}.role",
        )
    for field, value in given.items():
        if field in MESSAGE_FIELDS or field in IDLE_MESSAGE_FIELDS:
            continue
        if field not in EMPTY_MESSAGE_FIELDS:
            raise RequestError(f"Unknown field {shown(field)} in {where}.", f"{where}.{field}")
        if value not in (None, [], ""):
            raise RequestError(f"This server does not support {where}.{field}.", f"{where}.{field}")
    name = given.get("name")
    if name is not None and not isinstance(name, str):
        raise wrong(f"{where}.name", "a string", name)
    return Message(role=role, content=_parse_content(given.get("content"), f"{where}.content"))


def _parse_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong(where, "a string or a list of parts", content)
    return "".join(_parse_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _parse_part(part: Any, where: str) -> str:
    if not isinstance(part, dict):
        raise wrong(where, "an object", part)
    kind = part.get("type")
    field = {"text": "text", "refusal": "refusal"}.get(kind) if isinstance(kind, str) else None
    if field is None:
        reads = f" A file is read by the model {DIALOGUE_MODEL!r}." if kind == "file" else ""
        raise RequestError(
            f"{where}.type is {shown(kind)}; this model takes text only.{reads}", f"{where}.type"
        )
    text = part.get(field)
    if not isinstance(text, str):
        raise wrong(f"{where}.{field}", "a string", text)
    return text


def check_model(body: Mapping[str, Any], served: Sequence[str]) -> None:
    """Refuses a request for a model that is not served; one that names none takes what there is.

    Raises:
        RequestError: Unknown model.
    """
    given = body.get("model")
    if given is None or given in served:
        return
    if not isinstance(given, str):
        raise wrong("model", "a string", given)
    raise unknown_model(given, served)


def unknown_model(given: str, served: Sequence[str]) -> RequestError:
    """Builds the error for a model that is not served."""
    return RequestError(
        f"The model {shown(given)} does not exist. This server serves {', '.join(served)}.",
        "model",
        status=404,
        code="model_not_found",
    )
