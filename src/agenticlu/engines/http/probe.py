"""Finds out what an endpoint offers: which model it serves, and what it really supports.

`read_served_model` reads the model list alone. Each entry of `PROBES` finds out one thing with a
few short requests. The first real requests show most of it by themselves, so only what must be
known before them is probed for; `agenticlu doctor` asks for everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from agenticlu.core.errors import (
    ConfigError,
    EngineBusyError,
    EngineRefusedError,
    EngineReplyError,
    EngineUnreachableError,
)
from agenticlu.core.records import Message
from agenticlu.core.secrets import public_address
from agenticlu.engines.base import Asked, Capabilities, Feature, Sampling
from agenticlu.engines.http.listing import (
    ServedModel,
    find_listed,
    parse_served_model,
    plain_models,
)
from agenticlu.engines.http.naming import list_models
from agenticlu.engines.http.protocol import Choice, Reply
from agenticlu.engines.http.reuse import measure_reuse
from agenticlu.engines.http.transport import Transport
from agenticlu.engines.thinking import count_thinking, reads_like_thought

LIST_S = 10.0
"""Seconds that a server may take to list its models where the model may be asked without."""
SHORT_REPLY, LONG_THOUGHT = 16, 2048
"""Tokens allowed for a reply of one word, and where a thought seems to come before it."""
WORDS = "river lantern copper meadow harbour violet engine thistle marble falcon"


@dataclass
class Findings:
    """Facts learnt about an endpoint, by probing or from its replies."""

    samples_n: bool = True
    samples_differ: bool = True
    logprobs: bool = True
    token_ids: bool = False
    completes: bool | None = None
    """Whether there is a route for plain text; None while not known."""
    cached_tokens: bool | None = None
    """Whether it reports them; None while not known."""
    prefix_reuse: float | None = None
    """Shortest prefix that it reuses, as `Capabilities.prefix_reuse_from_tokens`."""
    tokens_per_s: float | None = None
    """How fast it reads prompts."""
    seed_repeats: bool | None = None
    thinking_tokens: int | None = None
    """Of the thought before a short reply; None while not known."""
    context_tokens: int | None = None
    owner: str = ""
    """The model's owner, as the server lists it; each kind of server writes its own."""
    takes_schema: bool = True
    streams: bool | None = None
    """Whether replies come as events; None while not known."""
    counts_streams: bool = True
    """Whether their last event has their usage."""
    stream_faults: int = 0
    """Failures of streams before one came."""
    counts: bool = True
    """Whether it reports the tokens of replies that come at once."""
    shows_thoughts: bool | None = None
    """Whether a thought is told from the reply from its first word on; None while not known."""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds advice once."""
        if text not in self.notes:
            self.notes.append(text)


class Probed(Protocol):
    """The part of an engine that probing needs."""

    name: str
    findings: Findings

    async def ask_setup(
        self, asked: Asked, sampling: Sampling, *, extra: Mapping[str, Any] | None = None
    ) -> Reply:
        """Sends a request that only finds out about the server, and counts it as setup."""
        ...

    def first_logprobs(self, reply: Reply) -> list[tuple[str, float]] | None:
        """Returns (token, log-probability) of the first token's candidates, or None."""
        ...


def _asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def _written(choice: Choice) -> str:
    """Returns what a sample begins with: a model that thinks has written nothing else so soon."""
    return choice.thinking + choice.content


def summarise(found: Findings) -> Capabilities:
    """Returns what is known; what was not looked at counts as there."""
    return Capabilities(
        samples_n=found.samples_n and found.samples_differ,
        repeats_seeds=found.seed_repeats is not False,
        logprobs=found.logprobs,
        token_ids=found.token_ids,
        reports_cached_tokens=found.cached_tokens is not False,
        completes=found.completes is not False,
        context_tokens=found.context_tokens,
        prefix_reuse_from_tokens=found.prefix_reuse,
        thinking_tokens=found.thinking_tokens,
        notes=tuple(found.notes),
    )


async def _probe_samples(engine: Probed) -> None:
    sampling = Sampling(temperature=1.0, n=2, max_tokens=24, seed=1)
    prompt = _asked(f"Write a sentence with three of these words: {WORDS}.")
    try:
        reply = await engine.ask_setup(prompt, sampling)
    except EngineRefusedError as error:
        engine.findings.samples_n = False
        engine.findings.note(
            f"{engine.name} refuses n > 1: samples are asked for one by one. ({error.message})"
        )
        return
    texts = [_written(choice) for choice in reply.choices]
    if len(texts) < 2:
        engine.findings.samples_n = False
        engine.findings.note(
            f"{engine.name} ignores n: samples are asked for one by one, and each reads the"
            " prompt again unless the server caches prefixes. vLLM and SGLang take n."
        )
    elif texts[0] == texts[1] and texts[0] and await _are_equal_when_hot(engine, prompt):
        engine.findings.samples_differ = False
        engine.findings.note(
            f"{engine.name} returns equal samples at temperature 1: samples are asked for one by"
            " one with different seeds."
        )
    if engine.findings.samples_n and engine.findings.samples_differ:
        return
    first, second = await asyncio.gather(
        *(
            engine.ask_setup(prompt, Sampling(temperature=1.0, max_tokens=24, seed=seed))
            for seed in (11, 12)
        )
    )
    if _written(first.choices[0]) == _written(second.choices[0]):
        engine.findings.note(
            f"{engine.name} returns the same text for different seeds at temperature 1: it does"
            " not sample at all, and a search over it cannot branch. transformers serve samples if"
            " the model's generation_config.json has do_sample: true."
        )


async def _are_equal_when_hot(engine: Probed, prompt: tuple[Message, ...]) -> bool:
    """Whether four samples at temperature 2 are equal, too; a model may just be sure of itself."""
    try:
        reply = await engine.ask_setup(
            prompt, Sampling(temperature=2.0, n=4, max_tokens=24, seed=2)
        )
    except EngineRefusedError:  # some servers stop at 1
        return True
    return len({_written(choice) for choice in reply.choices}) < 2


async def _probe_logprobs(engine: Probed) -> None:
    sampling = Sampling(max_tokens=1)
    extra = {"logprobs": True, "top_logprobs": 5}
    try:
        reply = await engine.ask_setup(
            _asked("Is water wet? Reply yes or no."), sampling, extra=extra
        )
        found = engine.first_logprobs(reply)
    except EngineRefusedError:
        found = None
    engine.findings.logprobs = found is not None
    if found is None:
        engine.findings.note(
            f"{engine.name} gives no log-probabilities: verdicts are parsed from replies, which"
            " are coarser and cost more. vLLM, SGLang and llama.cpp give them."
        )
    elif len(found) < 5:
        advice = " vLLM: --max-logprobs 20." if engine.findings.owner == "vllm" else ""
        engine.findings.note(
            f"{engine.name} gives {len(found)} log-probabilities of 5: a label that is not among"
            f" them counts as 0.{advice}"
        )


async def _probe_seed(engine: Probed) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=16, seed=7)
    prompt = _asked(f"Choose four of these words: {WORDS}.")
    first = await engine.ask_setup(prompt, sampling)
    second = await engine.ask_setup(prompt, sampling)
    same = _written(first.choices[0]) == _written(second.choices[0])
    engine.findings.seed_repeats = same
    if not same:
        engine.findings.note(
            f"{engine.name} does not repeat a reply for a repeated seed: a run can be resumed, but"
            " not replayed."
        )


async def _probe_token_ids(engine: Probed) -> None:
    extra = {"return_token_ids": True}
    try:
        reply = await engine.ask_setup(_asked("Say yes."), Sampling(max_tokens=2), extra=extra)
    except EngineRefusedError:
        return
    engine.findings.token_ids = bool(reply.choices[0].token_ids)


async def _probe_completions(engine: Probed) -> None:
    try:
        await engine.ask_setup("One, two,", Sampling(max_tokens=2))
    except EngineReplyError:
        engine.findings.completes = False
    else:
        engine.findings.completes = True


async def _probe_thinking(engine: Probed) -> None:
    prompt = _asked("Reply with one word: yes.")
    for limit in (SHORT_REPLY, LONG_THOUGHT):
        reply = await engine.ask_setup(prompt, Sampling(max_tokens=limit))
        said = reply.choices[0].as_completion()
        if said.finish_reason != "length" or (said.text and not reads_like_thought(said)):
            break
    engine.findings.thinking_tokens = count_thinking([said], reply.usage).thinking_tokens
    if said.finish_reason == "length" and not said.text:
        engine.findings.note(
            f"{engine.name} was still thinking after {LONG_THOUGHT:,} tokens about a reply of one"
            " word. --thinking off or low has it think less."
        )


async def _probe_cache(engine: Probed) -> None:
    found, name = engine.findings, engine.name
    measured = await measure_reuse(engine, found.context_tokens)
    found.prefix_reuse = measured.from_tokens
    found.cached_tokens = measured.is_reported
    found.tokens_per_s = measured.tokens_per_s
    if not measured.counts:
        found.note(f"{name} reports no usage: costs will read as zero.")
    elif not measured.is_reported:
        advice = " vLLM: --enable-prompt-tokens-details." if found.owner == "vllm" else ""
        found.note(
            f"{name} does not say how many tokens it found cached, so costs count every prompt"
            f" token as computed.{advice}"
        )
    if measured.how:
        found.note(measured.how)


PROBES: dict[Feature, Callable[[Probed], Awaitable[None]]] = {
    "samples_n": _probe_samples,
    "repeats_seeds": _probe_seed,
    "logprobs": _probe_logprobs,
    "token_ids": _probe_token_ids,
    "completes": _probe_completions,
    "reports_cached_tokens": _probe_cache,
    "prefix_reuse_from_tokens": _probe_cache,
    "thinking_tokens": _probe_thinking,
}
"""The probe of each feature; some find out two."""


def read_served_model(
    base_urls: Sequence[str],
    model: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    *,
    timeout_s: float = LIST_S,
) -> ServedModel | None:
    """Returns the model that the first server to answer lists; all must serve the same weights.

    Args:
        base_urls: Addresses of OpenAI-compatible servers that serve one model.
        model: Its name there; None takes the only one listed.
        api_key_env: Environment variable that holds the key.
        timeout_s: For each server, where that is less than `LIST_S`.

    Returns:
        None where nobody keeps a list, or it does not settle which model is meant: the first
        request then tells what is wrong, if anything is.

    Raises:
        EngineUnreachableError: No server answers.
        EngineAuthError: The key was refused.
        ConfigError: Two servers vouch for different weights.
    """
    found: dict[str, ServedModel] = {}
    unreachable: EngineUnreachableError | None = None
    answered = False
    for url in base_urls:
        try:
            listed = _read_list(url, api_key_env, min(LIST_S, timeout_s))
        except EngineUnreachableError as error:
            unreachable = error
            continue
        answered = True
        if model is not None:
            meant = find_listed(model, listed)
        else:
            listed = plain_models(listed)
            meant = find_listed(next(iter(listed)), listed) if len(listed) == 1 else None
        if meant is not None:
            found[public_address(url)] = parse_served_model(meant[1], listed[meant[1]])
    if not answered and unreachable is not None:
        raise unreachable
    vouched = {one.weights: url for url, one in found.items() if one.weights}
    if len(vouched) > 1:
        raise ConfigError(
            f"The servers {' and '.join(vouched.values())} serve different weights.",
            hint="Servers of one pool must serve one model; evaluate the others separately.",
        )
    return next(iter(found.values()), None)


def _read_list(base_url: str, api_key_env: str, timeout_s: float) -> dict[str, dict[str, Any]]:
    """Returns a server's entries by name; empty where it has no list that can be read."""

    async def ask() -> dict[str, dict[str, Any]]:
        transport = Transport(base_url.rstrip("/"), api_key_env, timeout_s)
        try:
            return await list_models(transport, "The server")
        finally:
            await transport.close()

    # In a thread of its own: this one may run an event loop.
    with ThreadPoolExecutor(1) as thread:
        try:
            return thread.submit(asyncio.run, ask()).result()
        except (EngineReplyError, EngineBusyError):
            return {}
        except EngineUnreachableError as error:
            if error.no_connection:
                raise
            return {}
