"""Finds out what an endpoint really does, with a handful of short requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agenticlu.core.errors import EngineRefusedError, EngineReplyError
from agenticlu.core.records import Message
from agenticlu.engines.base import Capabilities, Sampling
from agenticlu.engines.replies import content_of, first_logprobs, holds_thinking, usage_of

if TYPE_CHECKING:
    from agenticlu.engines.openai import OpenAIEngine

WORDS = "river lantern copper meadow harbour violet engine thistle marble falcon"
PREFIX_WORDS = 1500
"""Words of the prompt that is sent twice to see whether its prefix is cached."""


def _asked(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


async def probe(engine: OpenAIEngine) -> Capabilities:
    """Asks and notes: number of samples, their variety, seeds, log-probabilities, cache, ids.

    Raises:
        EngineError: The endpoint does not answer at all.
    """
    await _probe_samples(engine)
    await asyncio.gather(
        _probe_logprobs(engine),
        _probe_seed(engine),
        _probe_token_ids(engine),
        _probe_completions(engine),
    )
    await _probe_cache(engine)
    found = engine.findings
    return Capabilities(
        samples_n=found.samples_n and found.samples_differ,
        logprobs=found.logprobs,
        token_ids=found.token_ids,
        reports_cached_tokens=bool(found.cached_tokens),
        completes=bool(found.completes),
        context_tokens=found.context_tokens,
        notes=tuple(found.notes),
    )


async def _probe_samples(engine: OpenAIEngine) -> None:
    sampling = Sampling(temperature=1.0, n=2, max_tokens=24, seed=1)
    prompt = _asked(f"Write a sentence with three of these words: {WORDS}.")
    try:
        reply = await engine.ask(prompt, sampling)
    except EngineRefusedError as error:
        engine.findings.samples_n = False
        engine.findings.note(
            f"{engine.name} refuses n > 1: samples are asked for one by one. ({error.message})"
        )
        return
    if any(holds_thinking(choice) for choice in reply["choices"]):
        engine.findings.thinks = True
    texts = [content_of(choice) for choice in reply["choices"]]
    if len(texts) < 2:
        engine.findings.samples_n = False
        engine.findings.note(
            f"{engine.name} ignores n: samples are asked for one by one, and each reads the"
            " prompt again unless the server caches prefixes. vLLM and SGLang take n."
        )
    elif texts[0] == texts[1] and texts[0]:
        engine.findings.samples_differ = False
        engine.findings.note(
            f"{engine.name} returns equal samples at temperature 1: samples are asked for one by"
            " one with different seeds. transformers serve samples only if generation_config.json"
            " has do_sample: true."
        )
    if engine.findings.samples_n and engine.findings.samples_differ:
        return
    first, second = await asyncio.gather(
        *(
            engine.ask(prompt, Sampling(temperature=1.0, max_tokens=24, seed=seed))
            for seed in (11, 12)
        )
    )
    if content_of(first["choices"][0]) == content_of(second["choices"][0]):
        engine.findings.note(
            f"{engine.name} returns the same text for different seeds at temperature 1: it does"
            " not sample at all, and a search over it cannot branch."
        )


async def _probe_logprobs(engine: OpenAIEngine) -> None:
    sampling = Sampling(max_tokens=1)
    extra = {"logprobs": True, "top_logprobs": 5}
    try:
        reply = await engine.ask(_asked("Is water wet? Reply yes or no."), sampling, extra=extra)
        found = first_logprobs(reply)
    except EngineRefusedError:
        found = None
    engine.findings.logprobs = found is not None
    if found is None:
        engine.findings.note(
            f"{engine.name} gives no log-probabilities: verdicts are parsed from replies, which"
            " are coarser and cost more. vLLM, SGLang and llama.cpp give them."
        )
    elif len(found) < 5:
        engine.findings.note(
            f"{engine.name} gives {len(found)} log-probabilities of 5: a label that is not among"
            " them counts as 0. vLLM: --max-logprobs 20."
        )


async def _probe_seed(engine: OpenAIEngine) -> None:
    sampling = Sampling(temperature=1.0, max_tokens=16, seed=7)
    prompt = _asked(f"Choose four of these words: {WORDS}.")
    first = await engine.ask(prompt, sampling)
    second = await engine.ask(prompt, sampling)
    same = content_of(first["choices"][0]) == content_of(second["choices"][0])
    engine.findings.seed_repeats = same
    if not same:
        engine.findings.note(
            f"{engine.name} does not repeat a reply for a repeated seed: a run can be resumed, but"
            " not replayed."
        )


async def _probe_token_ids(engine: OpenAIEngine) -> None:
    extra = {"return_token_ids": True}
    try:
        reply = await engine.ask(_asked("Say yes."), Sampling(max_tokens=2), extra=extra)
    except EngineRefusedError:
        return
    engine.findings.token_ids = bool(reply["choices"][0].get("token_ids"))


async def _probe_completions(engine: OpenAIEngine) -> None:
    try:
        await engine.ask("One, two,", Sampling(max_tokens=2))
    except EngineReplyError:
        engine.findings.completes = False
    else:
        engine.findings.completes = True


async def _probe_cache(engine: OpenAIEngine) -> None:
    limit = engine.findings.context_tokens
    count = PREFIX_WORDS if limit is None else min(PREFIX_WORDS, limit // 8)
    words = WORDS.split()
    text = " ".join(words[(i * i + i // 7) % len(words)] for i in range(count))
    for question in ("Which word is first?", "Which word is last?"):
        reply = await engine.ask(_asked(f"{text}\n{question}"), Sampling(max_tokens=1))
    usage = usage_of(reply)
    engine.findings.cached_tokens = usage.cached_tokens > 0
    if not usage.prompt_tokens:
        engine.findings.note(f"{engine.name} reports no usage: costs will read as zero.")
    elif not usage.cached_tokens:
        engine.findings.note(
            f"{engine.name} reports no cached tokens on a repeated prefix: it caches none, or does"
            " not say so. vLLM: --enable-prefix-caching and --enable-prompt-tokens-details;"
            " llama-cpp-python: --cache; transformers serve: --continuous-batching."
        )
