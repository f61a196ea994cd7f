"""What servers say of the model that they serve, before anything is asked of it."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from agenticlu.core.errors import ConfigError, EngineAuthError, EngineUnreachableError
from agenticlu.engines.replies import window_of

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Served:
    """A model as a server lists it."""

    id: str
    """Name under which it is served."""
    weights: str = ""
    """Hash of its weights, as `agenticlu serve` tells; empty where a server does not."""
    root: str = ""
    """Folder or hub id that it was loaded from (vLLM's field); empty where not told."""
    piece_tokens: int | None = None
    """Size of a piece that suits it, as `agenticlu serve` tells."""
    context_tokens: int | None = None
    """Longest prompt plus completion."""


def read_served(
    base_urls: Sequence[str],
    model: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    *,
    timeout_s: float = TIMEOUT_S,
) -> Served | None:
    """Returns what the first server to answer lists, having compared it with the others' word.

    Args:
        base_urls: Addresses of OpenAI-compatible servers that serve one model.
        model: Its name there; None takes the only one listed.
        api_key_env: Environment variable that holds the key.
        timeout_s: For each server.

    Returns:
        None where nobody keeps a list, or it does not settle which model is meant: the first
        request then tells what is wrong, if anything is.

    Raises:
        EngineUnreachableError: No server answers.
        EngineAuthError: The key was refused.
        ConfigError: Two servers vouch for different weights.
    """
    found: dict[str, Served] = {}
    unreachable: EngineUnreachableError | None = None
    answered = False
    for url in base_urls:
        try:
            listed = _read_list(url, api_key_env, timeout_s)
        except EngineUnreachableError as error:
            unreachable = error
            continue
        answered = True
        names = [model] if model is not None else list(listed)
        if len(names) == 1 and names[0] in listed:
            found[url] = _served_of(listed[names[0]])
    if not answered and unreachable is not None:
        raise unreachable
    told = {one.weights: url for url, one in found.items() if one.weights}
    if len(told) > 1:
        raise ConfigError(
            f"The servers {' and '.join(told.values())} serve different weights.",
            hint="Servers of one pool must serve one model; evaluate the others by themselves.",
        )
    return next(iter(found.values()), None)


def _read_list(base_url: str, api_key_env: str, timeout_s: float) -> dict[str, Mapping[str, Any]]:
    """Returns a server's entries by name; empty where it has no list that can be read."""
    key = os.environ.get(api_key_env)
    request = urllib.request.Request(
        f"{base_url.rstrip('/')}/models", headers={"Authorization": f"Bearer {key}"} if key else {}
    )
    local = urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
    proxies = [urllib.request.ProxyHandler({})] if local else []
    try:
        with urllib.request.build_opener(*proxies).open(request, timeout=timeout_s) as reply:
            content = json.loads(reply.read())
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise EngineAuthError(
                f"{base_url} refused the key in {api_key_env} (status {error.code}).",
                hint=f"export {api_key_env}=... with a key that this server takes.",
            ) from error
        return {}
    except ValueError:
        return {}
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise EngineUnreachableError(
            f"No server answers at {base_url} ({reason}).",
            hint="Is it running, and is the address right? It often ends in /v1."
            " `agenticlu doctor` tries it.",
        ) from error
    data = content.get("data") if isinstance(content, dict) else None
    entries = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    return {str(one["id"]): one for one in entries if "id" in one}


def _served_of(entry: Mapping[str, Any]) -> Served:
    piece_tokens = entry.get("piece_tokens")
    return Served(
        id=str(entry["id"]),
        weights=str(entry.get("weights") or ""),
        root=str(entry.get("root") or ""),
        piece_tokens=piece_tokens if isinstance(piece_tokens, int) and piece_tokens > 0 else None,
        context_tokens=window_of(entry),
    )
