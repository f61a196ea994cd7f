"""Models run in this process by transformers: batched decoding over one key-value cache."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agenticlu.core.errors import UsageError, missing_dependency
from agenticlu.core.records import Message, Usage
from agenticlu.dialogue.thoughts import SaidText
from agenticlu.engines.base import (
    Asked,
    Capabilities,
    ChoiceProbs,
    Feature,
    Generated,
    Likelihood,
    OnText,
    OnToken,
    Sampled,
    Sampling,
    TokenLogprob,
    note_spent,
)
from agenticlu.engines.prefixes import PrefixFolder
from agenticlu.engines.streaming import ReplyText, Telling
from agenticlu.engines.thinking import Thinking, ThinkingRoom

if TYPE_CHECKING:
    from agenticlu.engines.local.checkpoint import Checkpoint
    from agenticlu.engines.local.decoder import AnyDecoder
    from agenticlu.engines.local.keeping import Keeping

CACHE_BYTES = 1 << 30
"""Default limit of the cache."""
PREFILL_TOKENS = 4096
"""Prompts are read together up to this many uncached tokens; a longer one in parts of as many."""


class HFEngine:
    """Runs a checkpoint in Hugging Face layout.

    Args:
        model_path: Folder with config, weights and tokenizer, or a GGUF file.
        device: Such as 'cpu' or 'cuda'; a GPU where there is one.
        dtype: Such as 'float32' or 'bfloat16'; on a CPU float32, else the checkpoint's own.
        max_batch: Maximum replies that decode together.
        cache: False reads every prompt from its start.
        cache_bytes: Limit on what is kept; the least recently used goes first.
        prefill_tokens: Prompts are read together up to this many uncached tokens; a longer one in
            parts of as many, between which other replies go on.
        context_tokens: Longest prompt plus reply; None takes the model's own.
        share_prefix: False copies the prompt's keys and values for every branch (to compare).
        name: Shown and stored; the folder's last two names by default.
        thinking: How much it may think before it replies. None: not at all, where its template
            can turn that off.
        prefixes: Folder in which texts that were read are kept for later processes, once
            `share_prefix` has named them; None keeps nothing.
        on_event: Called with a line for people where the model is run in a slower way, or thinks.

    Raises:
        ModelNotFoundError: The folder has no model.
        EngineError: The model is of a kind that does not run here.
        MissingDependencyError: torch or transformers is not installed.
    """

    def __init__(
        self,
        model_path: str | Path,
        device: str | None = None,
        dtype: str | None = None,
        *,
        max_batch: int = 64,
        cache: bool = True,
        cache_bytes: int = CACHE_BYTES,
        prefill_tokens: int = PREFILL_TOKENS,
        context_tokens: int | None = None,
        share_prefix: bool = True,
        name: str | None = None,
        thinking: Thinking | None = None,
        prefixes: PrefixFolder | None = None,
        on_event: Callable[[str], None] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        path = Path(model_path)
        self.name = name or "/".join(path.resolve().parts[-2:])
        self.model_path = str(path)
        self._usage = Usage()
        self._calls = itertools.count()
        try:
            from agenticlu.engines.local.checkpoint import load_checkpoint
            from agenticlu.engines.local.worker import Worker
        except ImportError as error:
            raise missing_dependency(error.name or "torch", "local") from error
        loaded = load_checkpoint(path, device, dtype, trust_remote_code=trust_remote_code)
        self.chat = loaded.chat
        thinking = thinking or Thinking()
        self.chat.set_effort(thinking.effort)
        opened = self.chat.opens_thought
        self.room = ThinkingRoom(thinking, self.name, thinks=opened, opened=opened, say=on_event)
        self.context_tokens = self._limit(loaded.context_tokens, context_tokens)
        decoder = loaded.make_decoder(cache_bytes if cache else None, share=share_prefix)
        self.way = loaded.way
        self._reuses = cache and self.way.rung in ("shared", "cached")
        if on_event is not None and self.way.reason:
            on_event(self.way.describe())
        self._worker = Worker(
            decoder,
            loaded.chat,
            loaded.end_ids,
            self.context_tokens,
            max_batch=max_batch,
            prefill_tokens=prefill_tokens,
            name=self.name,
            keeping=self._keep(prefixes, loaded, decoder, on_event) if self._reuses else None,
        )

    def _keep(
        self,
        prefixes: PrefixFolder | None,
        loaded: Checkpoint,
        decoder: AnyDecoder,
        say: Callable[[str], None] | None,
    ) -> Keeping | None:
        from agenticlu.engines.local.keeping import Keeping
        from agenticlu.engines.local.shelf import PrefixShelf

        if prefixes is None:
            return None
        shelf = PrefixShelf(prefixes, self.name, loaded.hash, say or (lambda line: None))
        return Keeping(shelf, decoder, loaded.chat)

    def share_prefix(self, text: str, name: str) -> None:
        """Is told what the next prompts have in common, so that it may be kept on disk.

        Args:
            text: A message of each begins with it.
            name: Of the text, for people.
        """
        if self._worker.keeping is not None:
            self._worker.keeping.share(text, name)

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._usage

    @property
    def thinking_room(self) -> int:
        """Tokens kept free for a thought before each reply; 0 unless the model thinks."""
        return self.room.tokens

    @property
    def effort(self) -> str:
        """How much the model is asked to think."""
        return self.room.thinking.effort

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` replies, each with room for the thought before it.

        Raises:
            DocumentTooLongError: Prompt and reply exceed the model's window.
            ThoughtCutError: The model was still thinking when its room was used up.
        """

        async def ask(wanted: Sampling) -> Sampled:
            return self._read_thoughts(await self.generate(messages, wanted))

        return await self.room.sample(ask, sampling)

    async def stream(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        session: str | None = None,
        on_text: OnText,
    ) -> Sampled:
        """Samples one reply and tells it as it comes; cancelled, it ends within one token.

        Raises:
            EngineError: As `sample`.
        """
        telling = Telling(on_text)

        async def ask(wanted: Sampling) -> Sampled:
            if telling.told:  # again, with more room for its thought: another text than was told
                return await check(wanted)
            return await self._tell(messages, wanted, telling)

        async def check(wanted: Sampling) -> Sampled:
            return self._read_thoughts(await self.generate(messages, wanted))

        try:
            return await self.room.sample(ask, replace(sampling, n=1), check)
        finally:
            telling.ended = True

    async def _tell(
        self, messages: Sequence[Message], sampling: Sampling, telling: Telling
    ) -> Sampled:
        """Samples one reply and tells it as it comes."""
        text = ReplyText(self.chat.decode_tags, sampling.stop)
        said = SaidText(opened=self.chat.opens_thought)

        def hear(ordinal: int, token: int, details: TokenLogprob | None) -> None:
            telling(said.feed(text.feed(token)[0]))

        found = self._read_thoughts(await self.generate(messages, sampling, on_token=hear))
        telling(said.finish(found.completions[0].text))
        return found

    def _read_thoughts(self, found: Generated) -> Sampled:
        """Returns replies apart from what was thought before them, which is counted."""
        parted = [self.chat.part_thought(one) for one in found.completions]
        tokens = sum(
            len(whole.token_ids or ()) - len(self.chat.encode_text(one.text))
            for whole, one in zip(found.completions, parted, strict=True)
            if one is not whole
        )
        counted = Usage(thinking_tokens=max(0, tokens))
        self._usage = self._usage + counted
        return Sampled(tuple(parted), found.usage + counted)

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Continues a plain text.

        Raises:
            DocumentTooLongError: Text and continuation exceed the model's window.
            UsageError: The text is empty.
        """
        return await self.generate(text, sampling)

    async def generate(
        self,
        asked: Asked,
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
        on_token: OnToken | None = None,
        ids: Sequence[int] = (),
    ) -> Generated:
        """Like `sample` or `complete`, with log-probabilities and news of every token.

        Args:
            asked: The conversation, or the text to continue.
            sampling: How.
            top_logprobs: How many rivals to report per token; None reports nothing.
            on_token: Called in the event loop with every token but end tokens.
            ids: Of the prompt, where the caller has encoded it; else the worker does.
        """
        if sampling.n < 1 or sampling.max_tokens < 1:
            raise UsageError(
                f"n and max_tokens must be at least 1, not {sampling.n} and {sampling.max_tokens}."
            )
        result: Generated = await self._submit(
            asked, sampling, (), top_logprobs=top_logprobs, on_token=on_token, ids=list(ids)
        )
        return result

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Returns the probability of each choice as the reply's first token.

        Raises:
            DocumentTooLongError: The prompt exceeds the model's window.
            EngineError: Two choices start with the same token.
        """
        result: ChoiceProbs = await self._submit(messages, None, tuple(choices))
        return result

    async def score_reply(
        self, messages: Sequence[Message], reply: str, *, session: str | None = None
    ) -> Likelihood:
        """Returns the log-probability of a given reply: decoded as if its tokens had been drawn.

        Raises:
            DocumentTooLongError: Prompt and reply exceed the model's window.
        """
        if not reply.strip():
            return Likelihood(0.0, 0, Usage())
        found: Generated = await self._submit(
            messages, Sampling(), (), top_logprobs=0, given=reply.strip()
        )
        (tokens,) = found.logprobs
        return Likelihood(math.fsum(one.logprob for one in tokens), len(tokens), found.usage)

    async def capabilities(self, *wanted: Feature) -> Capabilities:
        """Returns the capabilities of this engine: all of them."""
        return Capabilities(
            token_ids=True,
            context_tokens=self.context_tokens,
            prefix_reuse_from_tokens=1 if self._reuses else math.inf,
            notes=(self.way.describe(),) if self.way.reason else (),
        )

    def adaptations(self) -> tuple[str, ...]:
        """Returns what became of the wish for thinking; see `ThinkingRoom.facts`."""
        return self.room.facts()

    async def close(self) -> None:
        """Ends the worker and frees the cache; requests under way fail."""
        await asyncio.get_running_loop().run_in_executor(None, self._worker.close)

    def count_tokens(self, text: str) -> list[int]:
        """Returns the ids of a plain text."""
        return self.chat.encode_text(text)

    async def _submit(
        self,
        asked: Asked,
        sampling: Sampling | None,
        choices: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        from agenticlu.engines.local.worker import WorkerJob

        loop, keeping = asyncio.get_running_loop(), self._worker.keeping
        job = WorkerJob(
            asked=asked if isinstance(asked, str) else tuple(asked),
            sampling=sampling,
            choices=choices,
            call=next(self._calls),
            loop=loop,
            future=loop.create_future(),
            shared=None if keeping is None else keeping.find(asked),
            **rest,
        )
        self._worker.submit(job)
        try:
            result = await job.future
        except asyncio.CancelledError as error:
            spent = job.spent()
            self._usage = self._usage + spent
            note_spent(error, spent)
            raise
        self._usage = self._usage + result.usage
        return result

    def _limit(self, own: int | None, wanted: int | None) -> int | None:
        if own is not None and wanted is not None and wanted > own:
            raise UsageError(f"{self.name} takes {own} tokens; {wanted} were requested.")
        return own if wanted is None else wanted
