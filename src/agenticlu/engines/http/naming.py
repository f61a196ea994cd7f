"""Asks a server which models it has, and explains what is wrong if the wanted one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agenticlu.core.errors import (
    EngineBusyError,
    EngineError,
    EngineReplyError,
    EngineUnreachableError,
    ModelNotFoundError,
    did_you_mean,
)
from agenticlu.engines.http.listing import find_listed, parse_model_list, plain_models, window_of
from agenticlu.engines.http.refusals import StatusError
from agenticlu.engines.http.transport import Transport

LIST_S = 30.0
"""Seconds that a server may take to list its models where a name was given."""


@dataclass(frozen=True)
class Meant:
    """The model that people mean, as a server knows it."""

    sent: str
    """Name to send."""
    context_tokens: int | None = None
    """Its window; None where the server does not list it."""
    owner: str = ""
    """Its owner, as the server lists it; each kind of server writes its own."""


async def find_model(transport: Transport, model: str | None, name: str) -> Meant:
    """Finds a model in a server's list.

    Args:
        transport: To the server.
        model: As people name it; None takes the only one listed.
        name: Of the model, for messages.

    Raises:
        ModelNotFoundError: It is not listed, or nothing settles which one is meant.
        EngineError: The server does not answer.
    """
    limit_s = None if model is None else min(LIST_S, transport.timeout_s)
    try:
        served = await list_models(transport, name, limit_s)
    except (EngineReplyError, EngineBusyError, EngineUnreachableError) as error:
        # No list, or a broken one; the name may still be right. Where nothing listens, there is
        # nobody to ask.
        if model is not None and not error.no_connection:
            return Meant(model)
        if not isinstance(error, EngineReplyError):
            if error.hint is None and not error.no_connection:
                error.hint = "It was asked for its list of models, which --model NAME does without."
            raise
        raise ModelNotFoundError(
            f"{transport.base_url} lists no models: {error.message}", hint="Name one with --model."
        ) from error
    if model is None:
        served = plain_models(served)
        if len(served) != 1:
            raise ModelNotFoundError(
                f"{transport.base_url} serves {len(served)} models: {join_names(served)}.",
                hint="Choose one with --model.",
            )
        model = next(iter(served))
    found = find_listed(model, served)
    if found is not None:
        entry = served[found[1]]
        return Meant(found[0], window_of(entry), str(entry.get("owned_by", "")))
    if served:
        raise no_such_model(transport.base_url, model, served)
    return Meant(model)


async def list_models(
    transport: Transport, name: str, timeout_s: float | None = None
) -> dict[str, dict[str, Any]]:
    """Returns the entries of a server's list of models by name.

    Args:
        transport: To the server.
        name: Of the model that is looked for, for messages.
        timeout_s: Limit of this request; None takes the usual one.

    Raises:
        EngineError: There is no list, or none that can be read.
    """
    found = parse_model_list(
        await transport.request("GET", "/models", name=name, timeout_s=timeout_s)
    )
    if found is None:
        raise EngineReplyError(f"{transport.base_url}/models did not return a list of models.")
    return found


async def explain_not_found(
    transport: Transport, model: str, error: StatusError, *, plain: bool
) -> EngineError:
    """Returns what a status of 404 means: no such route, or no such model.

    Args:
        transport: To the server.
        model: Its name.
        error: What the server said.
        plain: Whether it was asked to continue a text.
    """
    url = transport.base_url
    try:
        served = await list_models(transport, model)
    except EngineError:
        served = None
    is_listed = served is not None and find_listed(model, served) is not None
    told = f"(status {error.refusal.status}): {error.shown}"
    if plain and (served is None or is_listed):
        return EngineReplyError(
            f"{url} cannot continue plain text with {model!r} {told}",
            hint="Send it as chat; in agenticlu eval: --chat.",
        )
    if served is None:
        return EngineReplyError(
            f"{url} has no chat completions {told}",
            hint="Is the address that of an OpenAI-compatible API? It often ends in /v1.",
        )
    if is_listed:
        return EngineReplyError(f"{url} lists the model {model!r} but refuses it {told}")
    return no_such_model(url, model, served)


def no_such_model(url: str, model: str, served: Mapping[str, Any]) -> ModelNotFoundError:
    """Builds the error for a model that a server does not list."""
    return ModelNotFoundError(
        f"{url} has no model {model!r}. It serves: {join_names(served)}.",
        hint=did_you_mean(model, served),
    )


def join_names(served: Mapping[str, Any]) -> str:
    """Returns the names of some of the models, for a message."""
    names = sorted(served)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "none") + more
