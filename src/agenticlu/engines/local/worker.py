"""The thread that runs a model: it batches what waits and hands back what is done.

The event loop stays free: it only puts jobs into an inbox and is called back. Each turn of the
thread reads the prompts that wait, in one packed pass, then decodes one token of every reply under
way, so requests join and leave between tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from agenticlu.core.errors import DocumentTooLongError, EngineError
from agenticlu.core.records import FinishReason, Message, Usage, content_id, content_seed
from agenticlu.engines.base import (
    Completion,
    Generated,
    OnToken,
    Sampling,
    TokenLogprob,
)
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.engines.local.decoder import AnyDecoder, AnyReading
from agenticlu.engines.local.drawing import describe_draw, draw_uniforms, weigh_choices
from agenticlu.engines.local.failures import explain
from agenticlu.engines.local.guide import Guide, build_guide, choose_next
from agenticlu.engines.local.keeping import Keeping
from agenticlu.engines.local.kvcache import num_common
from agenticlu.engines.local.shelf import SharedText

LOOK_AHEAD = 512
"""Waiting requests that are considered for the next pass."""
STOP_MARGIN = 16
"""Tokens before the longest stop that are decoded with it."""
IDLE_S = 0.5
"""Pause after the last reply, after which what was read is written to disk."""
GATHER_S = 0.001
"""Pause after the first request of an idle engine, in which its companions arrive."""


@dataclass(eq=False)
class Draft:
    """One reply in the making."""

    job: WorkerJob
    ordinal: int
    uniforms: list[float]
    tokens: list[int] = field(default_factory=list)
    """As sampled, the end token included."""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: FinishReason | None = None
    branch: Any = None
    guide: Guide | None = None
    """What may follow; None: anything."""


@dataclass(eq=False)
class WorkerJob:
    """One request on its way through the worker."""

    asked: tuple[Message, ...] | str
    """A conversation, or a plain text to continue."""
    sampling: Sampling | None
    """None for `score_choices`."""
    choices: tuple[str, ...]
    call: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    top_logprobs: int | None = None
    on_token: OnToken | None = None
    given: str | None = None
    """The reply, whatever the model would draw: asked for is how likely its tokens are."""
    forced: list[int] = field(default_factory=list)
    """Tokens of the given reply."""
    guide: Guide | None = None
    """Where its replies must be guided: what they may begin with."""
    ids: list[int] = field(default_factory=list)
    """Of the prompt; encoded by the worker where the request brings none."""
    num_cached: int = 0
    num_ahead: int = 0
    """Tokens of a long prompt that were read for it in parts."""
    whole: bool = False
    """Whether a long prompt is read at once: its parts cannot be kept."""
    shared: SharedText | None = None
    """The text that its prompt begins with, as others do; None where nobody said so."""
    drafts: list[Draft] = field(default_factory=list)

    def usage(self, sampled: int) -> Usage:
        """Returns what the request has cost."""
        return Usage(
            requests=1,
            prompt_tokens=len(self.ids),
            cached_tokens=self.num_cached,
            completion_tokens=sampled,
        )

    def spent(self) -> Usage:
        """Returns what the request has cost so far, while it may still be under way."""
        if not self.drafts:  # read in part, or not at all
            return Usage(requests=1, prompt_tokens=self.num_ahead)
        return self.usage(sum(len(draft.tokens) for draft in self.drafts))

    def settle(self, result: Any) -> None:
        """Hands the result, or the error, to whoever waits."""

        def deliver() -> None:
            # Cancelled by whoever waited, or settled before a later failure of the same pass.
            if self.future.done():
                return
            if isinstance(result, BaseException):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        self.notify(deliver)

    def notify(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a function in the waiting event loop."""
        # A loop that has been closed, even just now, has nobody waiting any more.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)


@dataclass(eq=False)
class Worker:
    """Runs jobs on one decoder."""

    decoder: AnyDecoder
    """The model and its cache; used by the worker's thread alone."""
    chat: ChatFormat
    """Template and tokenizer."""
    end_ids: frozenset[int]
    """Tokens that end a reply."""
    context_tokens: int | None
    """Longest prompt plus reply; None for no limit."""
    max_batch: int
    """Maximum replies that decode together."""
    prefill_tokens: int
    """Prompts are read together up to this many uncached tokens; of a longer prompt as many are
    read in each turn, so that nobody waits for all of it."""
    name: str
    """Named in errors."""
    keeping: Keeping | None = None
    """Keeps what was read on disk; None keeps nothing."""
    _inbox: queue.SimpleQueue[WorkerJob | None] = field(
        default_factory=queue.SimpleQueue, init=False
    )
    _thread: threading.Thread | None = field(default=None, init=False)
    _closed: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _reading: list[WorkerJob] = field(default_factory=list, init=False)
    _by_branch: dict[Any, Draft] = field(default_factory=dict, init=False)

    def submit(self, job: WorkerJob) -> None:
        """Takes a job; the thread starts with the first.

        Raises:
            EngineError: The worker is closed.
        """
        with self._lock:
            if self._closed:
                raise EngineError(f"The engine {self.name} is closed.")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"agenticlu-{self.name}", daemon=True
                )
                self._thread.start()
            # Still under the lock, so that no job follows the None with which `close` ends the
            # thread.
            self._inbox.put(job)

    def close(self) -> None:
        """Fails what is under way, drops the cache and waits for the thread to end."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._inbox.put(None)
            thread.join()
        if self.keeping is not None:
            self.keeping.close()

    def _work(self) -> None:
        waiting: list[WorkerJob] = []
        drafts: list[Draft] = []
        with torch.inference_mode():
            while self._receive(waiting, idle=not waiting and not drafts):
                try:
                    self._advance(waiting, drafts)
                except Exception as error:  # handed to those who wait; the worker lives on
                    self._fail(error, waiting, drafts)
        closed = EngineError(f"The engine {self.name} was closed.")
        if self.keeping is not None:
            self.keeping.store()
        self._fail(closed, waiting, drafts)

    def _receive(self, waiting: list[WorkerJob], *, idle: bool) -> bool:
        """Takes what has arrived; waits if there is nothing to do. False ends the worker."""
        if idle:
            job = self._wait()
            if job is None:
                return False
            waiting.append(job)
            time.sleep(GATHER_S)
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                return True
            if job is None:
                return False
            waiting.append(job)

    def _wait(self) -> WorkerJob | None:
        """Waits for the next job; what was read is written only once nobody asks."""
        if self.keeping is not None and self.keeping.unstored:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=IDLE_S)
            self.keeping.store()
        return self._inbox.get()

    def _advance(self, waiting: list[WorkerJob], drafts: list[Draft]) -> None:
        """Reads the next prompts, then decodes one token of every draft."""
        jobs, long = self._admit(waiting, len(drafts))
        if jobs:
            self._read(jobs, drafts)
        if long is not None:
            self._read_ahead(long, waiting)
        gone = [draft for draft in drafts if draft.job.future.cancelled()]
        for draft in gone:
            self._leave(draft, drafts)
        if drafts:
            # The decoder moves its last branch into the gap of one that leaves, so its order
            # decides.
            ordered: list[Draft] = [self._by_branch[b] for b in self.decoder.branches]
            logits = self.decoder.step([draft.tokens[-1] for draft in ordered])
            self._draw(ordered, logits)
            for draft in ordered:
                if draft.reason is not None:
                    self._leave(draft, drafts)
                    self._finish_if_done(draft.job)

    def _admit(
        self, waiting: list[WorkerJob], num_drafts: int
    ) -> tuple[list[WorkerJob], WorkerJob | None]:
        """Takes the next prompts that fit, oldest first; a full batch admits `score_choices`.

        Returns:
            The jobs to be read now; and one that waits on, of whose long prompt a part is read.
        """
        jobs: list[WorkerJob] = []
        long: WorkerJob | None = None
        done: set[int] = set()
        tokens = 0
        for i, job in enumerate(waiting[:LOOK_AHEAD]):
            count = 0 if job.sampling is None else job.sampling.n
            if job.future.cancelled():
                done.add(i)
                continue
            # A request for more samples than a batch holds runs once nothing else decodes.
            if count and num_drafts and num_drafts + count > self.max_batch:
                num_drafts = self.max_batch  # later samples do not overtake this one
                continue
            try:
                self._encode(job)
            except Exception as error:  # a template may refuse a conversation in its own way
                job.settle(explain(error, self.name))
                done.add(i)
                continue
            if self.keeping is not None and self.keeping.fetch(job, self.submit):
                done.add(i)
                continue
            new = self.decoder.num_uncached(job.ids)
            if new > self.prefill_tokens and not job.whole:
                long = long or job
                continue
            # The first prompt is admitted however long it is; it would wait forever otherwise.
            if jobs:
                # What a prompt shares with another of this pass is computed once, but is not cached
                # yet. Looking at the last one finds most of it: prompts about a document arrive
                # together.
                new = min(new, len(job.ids) - num_common(jobs[-1].ids, 0, job.ids, 0))
                if tokens + new > self.prefill_tokens:
                    break
            jobs.append(job)
            done.add(i)
            tokens += new
            num_drafts += count
        waiting[:LOOK_AHEAD] = [job for i, job in enumerate(waiting[:LOOK_AHEAD]) if i not in done]
        return jobs, long

    def _read_ahead(self, job: WorkerJob, waiting: list[WorkerJob]) -> None:
        """Reads a part of a long prompt."""
        # For `_fail`: a job whose part fails must not be tried again.
        waiting.remove(job)
        self._reading = [job]
        before = self.decoder.num_uncached(job.ids)
        began = time.perf_counter()
        going = self.decoder.read_ahead(job.ids, self.prefill_tokens)
        if job.shared is not None:
            job.shared.read_s += time.perf_counter() - began
        job.num_ahead += max(0, before - self.decoder.num_uncached(job.ids))
        # Others may push its parts out of a narrow cache as fast as they are read.
        job.whole = not going or job.num_ahead > 2 * len(job.ids)
        self._reading = []
        waiting.insert(0, job)

    def _encode(self, job: WorkerJob) -> None:
        if job.ids:
            pass
        elif isinstance(job.asked, str):
            job.ids = self.chat.encode_plain(job.asked)
        elif job.sampling is None:
            job.ids = self.chat.encode_to_score(job.asked, job.choices)
        else:
            job.ids = self.chat.encode(job.asked)
        if job.given is not None and not job.forced:
            assert job.sampling is not None
            assert not isinstance(job.asked, str)
            job.forced = self.chat.encode_reply(job.asked, job.given)
            job.sampling = replace(job.sampling, max_tokens=len(job.forced))
        if job.sampling is not None and job.guide is None:
            job.guide = build_guide(job.sampling, self.chat.encode_text)
        reply = 1 if job.sampling is None else job.sampling.max_tokens
        limit = self.context_tokens
        if limit is not None and len(job.ids) + reply > limit:
            raise DocumentTooLongError(
                f"The prompt has {len(job.ids)} tokens and its reply may take {reply}; {self.name}"
                f" takes {limit} in all.",
                hint="Use a model with a longer window, or let grounding choose the pieces.",
            )

    def _read(self, jobs: list[WorkerJob], drafts: list[Draft]) -> None:
        """Reads the jobs' prompts in one pass; answers `score_choices`, draws the first tokens."""
        # For `_fail`: until their drafts are in the batch, no other list holds these jobs.
        self._reading = jobs
        began = time.perf_counter()
        readings = self.decoder.read([job.ids for job in jobs])
        if self.keeping is not None:
            self.keeping.note(jobs, readings, time.perf_counter() - began)
        first: list[Draft] = []
        rows: list[Tensor] = []
        for job, reading in zip(jobs, readings, strict=True):
            job.num_cached = max(0, reading.num_cached - job.num_ahead)
            if job.sampling is None:
                tokens = self.chat.first_tokens(job.choices)
                job.settle(weigh_choices(reading.logits_V, tokens, job.usage(1)))
                continue
            job.drafts = self._open_drafts(job, job.sampling)
            first.extend(job.drafts)
            rows.extend([reading.logits_V] * job.sampling.n)
        if not first:
            return
        self._draw(first, torch.stack(rows))
        joining: list[tuple[AnyReading, list[Draft]]] = []
        for job, reading in zip(jobs, readings, strict=True):
            going = [draft for draft in job.drafts if draft.reason is None]
            if going:
                joining.append((reading, going))
            elif job.sampling is not None:
                self._finish_if_done(job)
        groups = self.decoder.join([(reading, len(going)) for reading, going in joining])
        for (_, going), branches in zip(joining, groups, strict=True):
            for draft, branch in zip(going, branches, strict=True):
                draft.branch = branch
                self._by_branch[branch] = draft
            drafts.extend(going)

    def _open_drafts(self, job: WorkerJob, sampling: Sampling) -> list[Draft]:
        """Starts the replies of a job, each with its numbers: from prompt, seed and ordinal.

        Without a seed the number of the call takes its place: a repeated request differs.
        """
        if sampling.temperature == 0:
            return [Draft(job, ordinal, [], guide=job.guide) for ordinal in range(sampling.n)]
        prompt = content_id(array("q", job.ids).tobytes().hex())
        source = f"call {job.call}" if sampling.seed is None else f"seed {sampling.seed}"
        seeds = [content_seed(prompt, source, str(ordinal)) for ordinal in range(sampling.n)]
        return [
            Draft(job, ordinal, draw_uniforms(seed, sampling.max_tokens), guide=job.guide)
            for ordinal, seed in enumerate(seeds)
        ]

    def _draw(self, drafts: list[Draft], logits_BV: Tensor) -> None:
        """Draws the next token of every draft and notes which are finished."""
        tokens = choose_next(
            [one.guide for one in drafts],
            logits_BV,
            self.end_ids,
            [one.job.sampling or Sampling() for one in drafts],
            [one.uniforms[len(one.tokens)] if one.uniforms else 0.0 for one in drafts],
        )
        for row, (draft, token) in enumerate(zip(drafts, tokens, strict=True)):
            sampling, job = draft.job.sampling, draft.job
            assert sampling is not None
            if job.forced:
                token = job.forced[len(draft.tokens)]
            draft.tokens.append(token)
            ended = token in self.end_ids and not job.forced
            complete = False
            if draft.guide is not None and not ended:
                draft.guide, rest = draft.guide.follow(token)
                # One text is left: its tokens need not be drawn.
                complete = rest is not None
                draft.tokens += rest or ()
            if job.top_logprobs is not None:
                draft.logprobs.append(
                    describe_draw(logits_BV[row], token, job.top_logprobs, self.chat.token_text)
                )
            if ended or complete or (sampling.stop and self._stopped(draft, sampling.stop)):
                draft.reason = "stop"
            elif len(draft.tokens) >= sampling.max_tokens:
                draft.reason = "length"
            if job.on_token is not None and not ended:
                details = draft.logprobs[-1] if draft.logprobs else None
                job.notify(job.on_token, draft.ordinal, token, details)

    def _stopped(self, draft: Draft, stops: tuple[str, ...]) -> bool:
        # A stop may span tokens, and one token may hold part of a character. A character has at
        # most four bytes and a byte at most one token, so no stop begins before the tail.
        tail = 4 * max(map(len, stops)) + STOP_MARGIN
        text = self.chat.decode(draft.tokens[-tail:])
        return any(stop in text for stop in stops)

    def _leave(self, draft: Draft, drafts: list[Draft]) -> None:
        assert draft.branch is not None
        self.decoder.leave(draft.branch)
        del self._by_branch[draft.branch]
        # A draft and its job name each other, so they stay until cycles are looked for, which may
        # take hundreds of requests: they must not hold keys and values.
        draft.branch = None
        drafts.remove(draft)

    def _finish_if_done(self, job: WorkerJob) -> None:
        if any(draft.reason is None for draft in job.drafts):
            return
        usage = job.usage(sum(len(draft.tokens) for draft in job.drafts))
        ended = [self._ended(draft) for draft in job.drafts]
        plain = isinstance(job.asked, str)
        job.settle(
            Generated(
                completions=tuple(
                    Completion(text if plain else text.strip(), draft.reason or "unknown", ids)
                    for draft, (text, ids) in zip(job.drafts, ended, strict=True)
                ),
                usage=usage,
                logprobs=tuple(tuple(draft.logprobs) for draft in job.drafts)
                if job.top_logprobs is not None
                else (),
                raw_texts=tuple(text for text, _ in ended),
            )
        )

    def _ended(self, draft: Draft) -> tuple[str, tuple[int, ...]]:
        """Returns the text of a finished reply, and its tokens without the end token."""
        assert draft.job.sampling is not None
        tokens = [token for token in draft.tokens if token not in self.end_ids]
        text = self.chat.decode(tokens)
        ends = [at for stop in draft.job.sampling.stop if (at := text.find(stop)) >= 0]
        if ends:
            text = text[: min(ends)]
            # The fewest tokens that still cover the text: what was sampled after the stop is not
            # returned.
            while tokens and len(self.chat.decode(tokens[:-1])) >= len(text):
                tokens.pop()
        return text, tuple(tokens)

    def _fail(self, error: BaseException, waiting: list[WorkerJob], drafts: list[Draft]) -> None:
        """Hands an error to everyone under way; nothing half-computed stays in the cache."""
        jobs = {id(job): job for job in (*self._reading, *(draft.job for draft in drafts))}
        # The worker is closing. After any other failure those who wait are simply read next.
        if isinstance(error, EngineError):
            jobs.update({id(job): job for job in waiting})
            waiting.clear()
        explained = explain(error, self.name)
        for job in jobs.values():
            job.settle(explained)
        for draft in drafts:
            draft.branch = None
        drafts.clear()
        self._reading = []
        self._by_branch.clear()
        # A pass that failed half-way has added segments whose keys were never written.
        self.decoder.reset()
