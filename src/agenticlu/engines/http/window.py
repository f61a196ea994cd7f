"""A server's window: where it is stated, and whether prompts are read to their end.

Some servers cut a prompt that is too long and answer from the rest (Ollama, and LM Studio by one of
its settings). The tokens that a server reports for a prompt are therefore compared with what was
sent. Its tokenizer need not be known: a short sample of the same text tells how it counts, and a
prompt that falls short of that is sent again in two halves, which together count as much as the
whole unless that was cut.
"""

from __future__ import annotations

import asyncio
import functools
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from agenticlu.core.errors import AgenticluError, DocumentTooLongError
from agenticlu.core.records import Message, Usage
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.base import Asked, Sampling
from agenticlu.engines.http.protocol import read_count
from agenticlu.engines.http.reuse import Measured
from agenticlu.engines.http.transport import Transport

LEAST_TOKENS = 400
"""Shorter prompts fit every window, and templates weigh too much in them."""
LEAST_CHARACTERS = 400
SURE_TOKENS, SURE_SHARE = 1500, 0.6
"""No server is known to cut at a window as short as the first, so a prompt below that is looked
into only where it is reported at less than the second share of our estimate, or at a multiple of
`ROUND_TOKENS`."""
SLICES, SLICE_CHARACTERS = 8, 120
"""The sample of a prompt by which the server's tokens are measured."""
SHORTFALL = 0.95
"""A prompt reported at less than this share of what is expected is looked into."""
ROUND_TOKENS = 256
"""Windows are multiples of this: a count that is one, too, is looked into however near it is."""
HALVES_SHARE, HALVES_TOKENS = 0.005, 40
"""How much more two halves of a prompt may count than the whole: a cut word, an odd template."""
SHORT_TEXT, SHORT_TEXT_TOKENS = "Say yes.", 3

SETTINGS = {
    "library": "Ollama: OLLAMA_CONTEXT_LENGTH={n} ollama serve, or num_ctx {n} in the Modelfile.",
    "organization_owner": "LM Studio: lms load MODEL --context-length {n}.",
    "llamacpp": "llama.cpp: llama-server --ctx-size {n}.",
    "me": "llama-cpp-python: --n_ctx {n}.",
    "vllm": "vLLM: --max-model-len {n}.",
    "sglang": "SGLang: --context-length {n}.",
}
"""Owner of a model, as servers list it, to the setting that lengthens its window."""
ANY_SETTING = (
    "Give the server a longer window, where the model has one (Ollama: num_ctx or "
    "OLLAMA_CONTEXT_LENGTH={n}; LM Studio: --context-length {n}; llama.cpp: --ctx-size {n}; vLLM: "
    "--max-model-len {n})."
)


def window_setting(owner: str, tokens: int) -> str:
    """Returns what to set so that a server's window holds so many tokens.

    >>> window_setting("vllm", 5000)
    'vLLM: --max-model-len 8192.'
    """
    wanted = 1 << max(tokens - 1, 1).bit_length()
    return SETTINGS.get(owner, ANY_SETTING).format(n=wanted)


def _without_version(address: str) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(path=parts.path.removesuffix("/v1")))


async def read_window(
    model: str, owner: str, base_url: str, api_key_env: str, timeout_s: float
) -> int | None:
    """Reads the window of a server whose list of models names none, where else it states it.

    llama.cpp: /props; Ollama: /api/ps of a loaded model, else /api/show; LM Studio: /api/v0.

    Returns:
        The window in tokens; None where the server does not say. Nothing is sampled for it.
    """
    if owner not in ("llamacpp", "library", "organization_owner"):
        return None
    transport = Transport(_without_version(base_url), api_key_env, timeout_s)

    async def get(route: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        method = "GET" if body is None else "POST"
        try:
            found = await transport.request(method, route, body, name=model)
        except AgenticluError:
            return {}
        return found if isinstance(found, dict) else {}

    try:
        if owner == "llamacpp":
            settings = (await get("/props")).get("default_generation_settings")
            return read_count(settings.get("n_ctx")) or None if isinstance(settings, dict) else None
        if owner == "organization_owner":
            loaded = await get(f"/api/v0/models/{model}")
            return read_count(loaded.get("loaded_context_length")) or None
        running = (await get("/api/ps")).get("models")
        for one in running if isinstance(running, list) else ():
            if isinstance(one, dict) and model in (one.get("name"), one.get("model")):
                return read_count(one.get("context_length")) or None
        stated = (await get("/api/show", {"model": model})).get("parameters")
        found = re.search(r"^num_ctx\s+(\d+)", str(stated), re.MULTILINE)
        return read_count(found[1]) or None if found else None
    finally:
        await transport.close()


@dataclass(eq=False)
class CutWatch:
    """Notices a server that cuts prompts without saying so."""

    is_off: bool = False
    """Whether the server's counts are of no use: it counts nothing, or only what is not cached."""
    window: int | None = None
    """Of a server that was seen to cut: the most that it read."""
    whole: int = 0
    """Tokens of the longest prompt that was read to its end."""

    def __post_init__(self) -> None:
        self._rates: dict[int, float] = {}
        self._template_tokens = 0
        self._locks: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    async def check(
        self, engine: Measured, where: str, owner: str, asked: Asked, usage: Usage
    ) -> None:
        """Compares what a server reports of a prompt with what was sent.

        Args:
            engine: Sends the short requests that it takes.
            where: Name of the server in messages.
            owner: As the server lists the model's.
            asked: What was sent.
            usage: What the server reports of it.

        Raises:
            DocumentTooLongError: It read only a part.
        """
        if self.is_off or not usage.prompt_tokens:
            return
        texts = (asked,) if isinstance(asked, str) else tuple(one.content for one in asked)
        if sum(map(len, texts)) < LEAST_CHARACTERS:
            return
        estimate = sum(map(count, texts))
        if estimate < LEAST_TOKENS:
            return
        reported = usage.prompt_tokens
        is_likely = reported + usage.cached_tokens >= SURE_SHARE * estimate
        if estimate < SURE_TOKENS and is_likely and reported % ROUND_TOKENS:
            return
        text, plain = "\n".join(texts), isinstance(asked, str)
        kind = script(text)
        if self._is_known(kind, usage, estimate):
            return
        lock = self._locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        async with lock:
            if self.is_off or self._is_known(kind, usage, estimate):
                return  # another request has measured meanwhile
            try:
                # Measured anew where another text was the measure: prose is not like tables.
                self._rates[kind] = await self._measure(engine, text, plain)
                sent = int(estimate * self._rates[kind])
                if self.is_off or not self._is_odd(usage, sent):
                    return
                is_short = usage.prompt_tokens + usage.cached_tokens < SHORTFALL * sent
                if self.window is None or usage.prompt_tokens > self.window or not is_short:
                    sent = await self._count_halves(engine, text, plain)
                    if await self._is_whole(engine, text, plain, sent, usage):
                        self._rates[kind] = sent / estimate
                        return
                    # The halves may have been cut as well.
                    sent = max(sent, int(estimate * self._rates[kind]))
            except DocumentTooLongError:
                self.is_off = True  # a server that refuses what is too long cuts nothing
                return
            except AgenticluError:
                return  # what cannot be measured now is measured with the next prompt
        raise self._cut(where, owner, usage.prompt_tokens, sent)

    def _is_known(self, kind: int, usage: Usage, estimate: int) -> bool:
        """Whether a prompt counts as much as others like it, and so was read to its end."""
        if kind not in self._rates or self._is_odd(usage, estimate * self._rates[kind]):
            return False
        self.whole = max(self.whole, usage.prompt_tokens)
        return True

    def _is_odd(self, usage: Usage, expected: float) -> bool:
        reported = usage.prompt_tokens
        if reported + usage.cached_tokens >= expected:  # some count cached tokens apart
            return reported % ROUND_TOKENS == 0 and self.whole < reported < expected * 1.1
        return reported < SHORTFALL * expected or (
            reported % ROUND_TOKENS == 0 and self.whole < reported
        )

    async def _measure(self, engine: Measured, text: str, plain: bool) -> float:
        """Returns the server's tokens for each that we estimate, by a sample of the text."""
        short = await self._ask(engine, SHORT_TEXT, plain)
        self._template_tokens = max(0, short - SHORT_TEXT_TOKENS)
        step = max(len(text) // SLICES, 1)
        sample = "\n".join(
            text[start : start + SLICE_CHARACTERS] for start in range(0, len(text), step)
        )
        rate = (await self._ask(engine, sample, plain) - self._template_tokens) / count(sample)
        self.is_off = not 0.2 < rate < 8  # counts of something else
        return rate

    async def _count_halves(self, engine: Measured, text: str, plain: bool) -> int:
        middle = max(text.rfind(" ", 0, len(text) // 2), text.rfind("\n", 0, len(text) // 2))
        middle = middle if middle > len(text) // 4 else len(text) // 2
        sent = 0
        for half in (text[:middle], text[middle:]):
            sent += await self._ask(engine, fresh(half), plain) - self._template_tokens
        return sent

    async def _is_whole(
        self, engine: Measured, text: str, plain: bool, sent: int, usage: Usage
    ) -> bool:
        """Whether a prompt was read to its end that counts so many tokens in two halves."""
        least = sent * (1 - HALVES_SHARE) - HALVES_TOKENS
        if usage.prompt_tokens >= least:
            self.whole = max(self.whole, usage.prompt_tokens)
            return True
        # Never seen before, it cannot be cached: a server that counts less does not read it all.
        again = await self._ask(engine, fresh(text), plain)
        self.is_off = again >= least
        self.window = None if self.is_off else max(again, usage.prompt_tokens)
        return self.is_off

    async def _ask(self, engine: Measured, text: str, plain: bool) -> int:
        asked: Asked = text if plain else (Message(role="user", content=text),)
        return (await engine.ask_setup(asked, Sampling(max_tokens=1))).usage.prompt_tokens

    def _cut(self, where: str, owner: str, read: int, sent: int) -> DocumentTooLongError:
        assert self.window is not None
        error = DocumentTooLongError(
            f"{where} read {read:,} tokens of a prompt of about {sent:,} and cut the rest without "
            f"saying so: its window seems to hold {self.window:,}.",
            hint=window_setting(owner, sent + sent // 8),
        )
        error.window_tokens = self.window
        return error


def fresh(text: str) -> str:
    """Returns a text that no server has seen: a few random letters in front."""
    return f"[{secrets.token_hex(4)}]\n{text}"


def script(text: str) -> int:
    """Returns the mean bytes of a character in UTF-8, by which scripts are told apart."""
    return 1 if text.isascii() else round(len(text.encode("utf-8", "replace")) / len(text))


@functools.lru_cache(maxsize=16)
def count(text: str) -> int:
    """Estimates the tokens of a text; a document that comes in every turn is counted once."""
    return ApproximateTokenizer().count(text)
