"""A model of transformers in this process.

What was read stays read: keys and values of prompts and replies are kept in one tree
(`kvcache.py`), so a conversation that grows is continued, questions about one document share it,
and n samples read their prompt once. Requests that wait together are read in one packed pass and
decode together; branches of one prefix attend to one copy of it (`sharedprefix.py`).

A sample depends on its prompt, seed and ordinal, not on what it is batched with or on what is
cached, up to rounding: sums are taken in another order, which in fp32 moves a log-probability by
about 1e-6 and so decides only exact ties.
"""
# ruff: noqa: N803  (shapes live in names: q_HTD)

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agenticlu.engines.base import Capabilities, Completion, Sampled, Sampling, Weighed
from agenticlu.errors import (
    AgenticluError,
    DocumentTooLongError,
    EngineError,
    UsageError,
    missing_dependency,
)
from agenticlu.records import FinishReason, Message, Usage, content_seed

CACHE_BYTES = 2 << 30
"""Default limit of the cache."""
PREFILL_TOKENS = 4096
"""Prompts are read together up to this many uncached tokens; one longer prompt is read alone."""
LOOK_AHEAD = 512
"""Waiting requests that are considered for the next pass."""
GATHER_S = 0.001
"""Pause after the first request of an idle engine, in which its companions arrive."""


@dataclass(frozen=True)
class TokenLogprob:
    """One sampled token and its likeliest rivals."""

    token_id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...]
    """(id, text, log-probability), likeliest first."""


@dataclass(frozen=True)
class Generated(Sampled):
    """A reply with what a server must tell of it."""

    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    """Per completion, per token; empty unless asked for."""


@dataclass(eq=False)
class _Draft:
    """One reply in the making."""

    job: _Job
    ordinal: int
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list)
    """As sampled, the end token included."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None
    text: str = ""
    branch: Any = None


@dataclass(eq=False)
class _Job:
    """One request on its way through the worker."""

    messages: tuple[Message, ...]
    sampling: Sampling | None
    """None for `weigh`."""
    choices: tuple[str, ...]
    call: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    top_logprobs: int | None = None
    on_token: Callable[[int, int], None] | None = None
    ids: list[int] = field(default_factory=list)
    num_cached: int = 0
    drafts: list[_Draft] = field(default_factory=list)

    def settle(self, result: Any) -> None:
        """Hands the result, or the error, to whoever waits."""

        def deliver() -> None:
            if self.future.done():
                return
            if isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        # A loop that has been closed has nobody waiting any more.
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(deliver)


class HFEngine:
    """Runs a checkpoint in Hugging Face layout.

    Args:
        model_path: Folder with config, weights and tokenizer.
        device: Such as 'cpu' or 'cuda'; a GPU where there is one.
        dtype: Such as 'float32' or 'bfloat16'; on a CPU float32, else the checkpoint's own.
        max_batch: Replies that decode together at most.
        cache: False reads every prompt from its start.
        cache_bytes: Limit on what is kept; the least recently used goes first.
        prefill_tokens: Prompts are read together up to this many uncached tokens.
        context_tokens: Longest prompt plus reply; None takes the model's own.
        share_prefix: False copies the prompt's keys and values for every branch (to compare).
        name: Shown and stored; the folder's last two names by default.

    Raises:
        ModelNotFoundError: The folder holds no model.
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
    ) -> None:
        path = Path(model_path)
        self.name = name or "/".join(path.resolve().parts[-2:])
        self.model_path = str(path)
        self._max_batch = max_batch
        self._prefill_tokens = prefill_tokens
        self._usage = Usage()
        self._calls = itertools.count()
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._reading: list[_Job] = []
        self._by_branch: dict[Any, _Draft] = {}
        try:
            import torch
        except ImportError as error:
            raise missing_dependency(error.name or "torch", "local") from error
        from agenticlu.engines.checkpoint import load_checkpoint
        from agenticlu.engines.decoder import Decoder
        from agenticlu.engines.kvcache import PrefixCache
        from agenticlu.engines.sampling import choose, draw_uniforms

        loaded = load_checkpoint(path, device, dtype)
        self.chat = loaded.chat
        self.end_ids = loaded.end_ids
        self.context_tokens: int | None = loaded.context_tokens
        if context_tokens is not None:
            if loaded.context_tokens is not None and context_tokens > loaded.context_tokens:
                raise UsageError(
                    f"{self.name} takes {loaded.context_tokens} tokens;"
                    f" {context_tokens} were asked for."
                )
            self.context_tokens = context_tokens
        self._decoder = Decoder(
            loaded.forward,
            PrefixCache(cache_bytes) if cache else None,
            loaded.device,
            loaded.dtype,
            share=share_prefix,
        )
        self._torch = torch
        self._choose = choose
        self._draw_uniforms = draw_uniforms

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._usage

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` replies.

        Raises:
            DocumentTooLongError: Prompt and reply exceed the model's window.
        """
        return await self.generate(messages, sampling)

    async def generate(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        top_logprobs: int | None = None,
        on_token: Callable[[int, int], None] | None = None,
    ) -> Generated:
        """Like `sample`, with log-probabilities and news of every token.

        Args:
            messages: The conversation.
            sampling: How.
            top_logprobs: How many rivals to report per token; None reports nothing.
            on_token: Called in the event loop with (ordinal, token id) of every token that is no
                end token.
        """
        if sampling.n < 1 or sampling.max_tokens < 1:
            raise UsageError(
                f"n and max_tokens are at least 1, not {sampling.n} and {sampling.max_tokens}."
            )
        result: Generated = await self._submit(
            messages, sampling, (), top_logprobs=top_logprobs, on_token=on_token
        )
        return result

    async def weigh(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> Weighed:
        """Returns the probability of each choice as the reply's first token.

        Raises:
            DocumentTooLongError: The prompt exceeds the model's window.
            EngineError: Two choices start with the same token.
        """
        result: Weighed = await self._submit(messages, None, tuple(choices))
        return result

    async def capabilities(self) -> Capabilities:
        """What this engine does: everything."""
        return Capabilities(token_ids=True, context_tokens=self.context_tokens)

    async def close(self) -> None:
        """Ends the worker and frees the cache; requests under way fail."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    def count_tokens(self, text: str) -> list[int]:
        """Returns the ids of a plain text."""
        return self.chat.encode_text(text)

    async def _submit(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None,
        choices: tuple[str, ...],
        **rest: Any,
    ) -> Any:
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._closed:
                raise EngineError(f"The engine {self.name} is closed.")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"agenticlu-{self.name}", daemon=True
                )
                self._thread.start()
        job = _Job(
            messages=tuple(messages),
            sampling=sampling,
            choices=choices,
            call=next(self._calls),
            loop=loop,
            future=loop.create_future(),
            **rest,
        )
        self._inbox.put(job)
        result = await job.future
        self._usage = self._usage + result.usage
        return result

    # Below: the worker thread.

    def _work(self) -> None:
        waiting: list[_Job] = []
        drafts: list[_Draft] = []
        with self._torch.inference_mode():
            while self._receive(waiting, idle=not waiting and not drafts):
                try:
                    self._advance(waiting, drafts)
                except Exception as error:  # handed to those who wait; the worker lives on
                    self._fail(error, waiting, drafts)
        closed = EngineError(f"The engine {self.name} was closed.")
        self._fail(closed, waiting, drafts)

    def _receive(self, waiting: list[_Job], *, idle: bool) -> bool:
        """Takes what has arrived; waits if there is nothing to do. False ends the worker."""
        if idle:
            job = self._inbox.get()
            if job is None:
                return False
            waiting.append(job)
            self._gather.wait(GATHER_S)
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return True
            if job is None:
                return False
            waiting.append(job)

    _gather = threading.Event()
    """Never set: a pause that takes no lock of the interpreter."""

    def _advance(self, waiting: list[_Job], drafts: list[_Draft]) -> None:
        """Reads the next prompts, then decodes one token of every draft."""
        jobs = self._admit(waiting, len(drafts))
        if jobs:
            self._read(jobs, drafts)
        gone = [draft for draft in drafts if draft.job.future.cancelled()]
        for draft in gone:
            self._leave(draft, drafts)
        if drafts:
            ordered: list[_Draft] = [self._by_branch[b] for b in self._decoder.branches]
            logits = self._decoder.step([draft.tokens[-1] for draft in ordered])
            self._draw(ordered, logits)
            for draft in ordered:
                if draft.reason is not None:
                    self._leave(draft, drafts)
                    self._finish_if_done(draft.job)

    def _admit(self, waiting: list[_Job], num_drafts: int) -> list[_Job]:
        """Takes the next prompts that fit, in order of arrival; `weigh` may pass a full batch."""
        from agenticlu.engines.kvcache import num_common

        jobs: list[_Job] = []
        done: set[int] = set()
        tokens = 0
        for i, job in enumerate(waiting[:LOOK_AHEAD]):
            count = 0 if job.sampling is None else job.sampling.n
            if job.future.cancelled():
                done.add(i)
                continue
            if count and num_drafts and num_drafts + count > self._max_batch:
                num_drafts = self._max_batch  # later samples do not overtake this one
                continue
            try:
                job.ids = job.ids or self._encode(job)
            except AgenticluError as error:
                job.settle(error)
                done.add(i)
                continue
            new = self._decoder.num_uncached(job.ids)
            if jobs:
                new = min(new, len(job.ids) - num_common(jobs[-1].ids, 0, job.ids, 0))
                if tokens + new > self._prefill_tokens:
                    break
            jobs.append(job)
            done.add(i)
            tokens += new
            num_drafts += count
        waiting[:LOOK_AHEAD] = [job for i, job in enumerate(waiting[:LOOK_AHEAD]) if i not in done]
        return jobs

    def _encode(self, job: _Job) -> list[int]:
        ids = self.chat.encode(job.messages)
        if job.sampling is None:
            self.chat.first_tokens(job.choices)
        reply = 1 if job.sampling is None else job.sampling.max_tokens
        limit = self.context_tokens
        if limit is not None and len(ids) + reply > limit:
            raise DocumentTooLongError(
                f"The prompt has {len(ids)} tokens and its reply may take {reply}; {self.name}"
                f" takes {limit} in all.",
                hint="Use a model with a longer window, or let grounding choose the pieces.",
            )
        return ids

    def _read(self, jobs: list[_Job], drafts: list[_Draft]) -> None:
        """Reads the jobs' prompts in one pass; answers `weigh`, draws the first tokens."""
        self._reading = jobs
        readings = self._decoder.read([job.ids for job in jobs])
        first: list[_Draft] = []
        rows: list[Any] = []
        for job, reading in zip(jobs, readings, strict=True):
            job.num_cached = reading.num_cached
            if job.sampling is None:
                job.settle(self._weighed(job, reading.logits_V))
                continue
            for ordinal in range(job.sampling.n):
                seed = self._seed(job, ordinal)
                uniforms = (
                    self._draw_uniforms(seed, job.sampling.max_tokens)
                    if job.sampling.temperature > 0
                    else []
                )
                job.drafts.append(_Draft(job, ordinal, uniforms))
            first.extend(job.drafts)
            rows.extend([reading.logits_V] * job.sampling.n)
        if not first:
            return
        self._draw(first, self._torch.stack(rows))
        joining: list[tuple[Any, list[_Draft]]] = []
        for job, reading in zip(jobs, readings, strict=True):
            going = [draft for draft in job.drafts if draft.reason is None]
            if going:
                joining.append((reading, going))
            elif job.sampling is not None:
                self._finish_if_done(job)
        groups = self._decoder.join([(reading, len(going)) for reading, going in joining])
        for (_, going), branches in zip(joining, groups, strict=True):
            for draft, branch in zip(going, branches, strict=True):
                draft.branch = branch
                self._by_branch[branch] = draft
            drafts.extend(going)

    def _seed(self, job: _Job, ordinal: int) -> int:
        """Derives the seed of one reply from prompt, seed and ordinal.

        Without a seed the number of the call takes its place: a repeated request differs.
        """
        assert job.sampling is not None
        seed = job.sampling.seed
        source = f"call {job.call}" if seed is None else f"seed {seed}"
        prompt = array("q", job.ids).tobytes().hex()
        return content_seed("hf-sample", prompt, source, str(ordinal))

    def _weighed(self, job: _Job, logits_V: Any) -> Weighed:
        tokens = self.chat.first_tokens(job.choices)
        probabilities = self._torch.softmax(logits_V.double(), dim=-1)
        mass = {choice: float(probabilities[list(ids)].sum()) for choice, ids in tokens.items()}
        total = sum(mass.values())
        usage = Usage(
            requests=1,
            prompt_tokens=len(job.ids),
            cached_tokens=job.num_cached,
            completion_tokens=1,
        )
        return Weighed(
            probabilities={choice: one / total for choice, one in mass.items()},
            label_mass=min(1.0, total),
            usage=usage,
        )

    def _draw(self, drafts: list[_Draft], logits_BV: Any) -> None:
        """Draws the next token of every draft and notes which are finished."""
        settings = [draft.job.sampling for draft in drafts]
        tokens = self._choose(
            logits_BV,
            [one.temperature for one in settings if one],
            [one.top_p for one in settings if one],
            [draft.uniforms[len(draft.tokens)] if draft.uniforms else 0.0 for draft in drafts],
        )
        for row, (draft, token) in enumerate(zip(drafts, tokens, strict=True)):
            draft.tokens.append(token)
            sampling, job = draft.job.sampling, draft.job
            assert sampling is not None
            ended = token in self.end_ids
            if job.top_logprobs is not None:
                draft.logprobs.append(self._token_logprob(logits_BV[row], token, job.top_logprobs))
            if ended or (sampling.stop and self._stopped(draft, sampling.stop)):
                draft.reason = "stop"
            elif len(draft.tokens) >= sampling.max_tokens:
                draft.reason = "length"
            if job.on_token is not None and not ended:
                job.loop.call_soon_threadsafe(job.on_token, draft.ordinal, token)

    def _stopped(self, draft: _Draft, stops: tuple[str, ...]) -> bool:
        text = self.chat.decode(draft.tokens)
        return any(stop in text for stop in stops)

    def _token_logprob(self, logits_V: Any, token: int, count: int) -> TokenLogprob:
        logprobs = self._torch.log_softmax(logits_V.double(), dim=-1)
        values, ids = logprobs.topk(min(count, len(logprobs)))
        return TokenLogprob(
            token_id=token,
            text=self.chat.token_text(token),
            logprob=float(logprobs[token]),
            top=tuple(
                (one, self.chat.token_text(one), value)
                for one, value in zip(ids.tolist(), values.tolist(), strict=True)
            ),
        )

    def _leave(self, draft: _Draft, drafts: list[_Draft]) -> None:
        self._decoder.leave(draft.branch)
        del self._by_branch[draft.branch]
        drafts.remove(draft)

    def _finish_if_done(self, job: _Job) -> None:
        if any(draft.reason is None for draft in job.drafts):
            return
        usage = Usage(
            requests=1,
            prompt_tokens=len(job.ids),
            cached_tokens=job.num_cached,
            completion_tokens=sum(len(draft.tokens) for draft in job.drafts),
        )
        job.settle(
            Generated(
                completions=tuple(self._completion(draft) for draft in job.drafts),
                usage=usage,
                logprobs=tuple(tuple(draft.logprobs) for draft in job.drafts)
                if job.top_logprobs is not None
                else (),
            )
        )

    def _completion(self, draft: _Draft) -> Completion:
        assert draft.job.sampling is not None
        assert draft.reason is not None
        tokens = [token for token in draft.tokens if token not in self.end_ids]
        text = self.chat.decode(tokens)
        ends = [at for stop in draft.job.sampling.stop if (at := text.find(stop)) >= 0]
        if ends:
            text = text[: min(ends)]
            while tokens and len(self.chat.decode(tokens[:-1])) >= len(text):
                tokens.pop()
        return Completion(text.strip(), draft.reason, tuple(tokens))

    def _fail(self, error: BaseException, waiting: list[_Job], drafts: list[_Draft]) -> None:
        """Hands an error to everyone under way; nothing half-computed stays in the cache."""
        jobs = {id(job): job for job in (*self._reading, *(draft.job for draft in drafts))}
        if isinstance(error, EngineError):
            jobs.update({id(job): job for job in waiting})
            waiting.clear()
        told = error if isinstance(error, AgenticluError) else self._explain(error)
        for job in jobs.values():
            job.settle(told)
        drafts.clear()
        self._reading = []
        self._by_branch.clear()
        self._decoder.reset()

    def _explain(self, error: BaseException) -> EngineError:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        out_of_memory = isinstance(error, MemoryError) or "memory" in text.lower()
        told = EngineError(
            f"{self.name} failed: {text}",
            hint="Lower max_batch, prefill_tokens or cache_bytes." if out_of_memory else None,
        )
        told.__cause__ = error
        return told
