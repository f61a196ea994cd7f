"""An engine for any OpenAI-compatible endpoint, whatever it really supports.

Compatible servers drop fields silently: asked for eight samples, some return one, some eight equal
ones; asked for log-probabilities, some return none. `capabilities` probes once; `sample` and
`score_choices` work around what is missing (separate requests with different seeds; a parsed reply)
and the notes say which server setting would fix it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from agenticlu.core.errors import (
    AgenticluError,
    BudgetExceededError,
    DocumentTooLongError,
    EngineAuthError,
    EngineBusyError,
    EngineRefusedError,
    EngineReplyError,
    EngineUnreachableError,
    ModelNotFoundError,
    did_you_mean,
    missing_dependency,
)
from agenticlu.core.records import Message, Usage, content_seed, without_lone_surrogates
from agenticlu.dialogue.replies import parse_verdict
from agenticlu.engines.base import Asked, Capabilities, ChoiceProbs, Health, Sampled, Sampling
from agenticlu.engines.pulse import Pulse
from agenticlu.engines.replies import (
    check_reply,
    completion_of,
    continuation_of,
    first_logprobs,
    holds_thinking,
    label_masses,
    retry_after_s,
    usage_of,
    window_of,
)
from agenticlu.engines.retry import Admission, RetryPolicy
from agenticlu.engines.transport import Wire

TOP_LOGPROBS = 20
"""As many as the protocol allows."""
CHARACTERS_PER_TOKEN = 3.5
"""Estimate of a prompt's tokens, for admission and the spend limit before the server tells."""
PARSE_TOKENS = 16
"""Length of a reply that is parsed for a verdict."""
THINKING_PARSE_TOKENS = 2048
"""The same for a model that thinks aloud first."""

ALIVE_S = 5.0
"""How long a server may take to say that it is there."""
TELL_EVERY_S = 5.0
"""Waits are told at most this often."""
WARM = 0.5
"""A temperature from which on samples differ unless something is wrong."""
LONG_TEXT_CHARACTERS = 80
"""Equal samples of at least this length at a temperature of at least `WARM` are no chance."""
CHAT_ROUTE = "/chat/completions"
PLAIN_ROUTE = "/completions"
BROKEN_OFF = frozenset({"ServerDisconnectedError", "ClientPayloadError", "RemoteProtocolError"})
"""What the transports call a connection that ends before the reply does."""
TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")

_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|maximum[ _](?:model|context|input)|max_model_len"
    r"|too many tokens|prompt is too long|exceeds? the (?:available|model)",
    re.IGNORECASE,
)


@dataclass
class Findings:
    """What was found out about an endpoint, by probing or on the way."""

    samples_n: bool = True
    samples_differ: bool = True
    logprobs: bool = True
    token_ids: bool = False
    completes: bool | None = None
    """Whether there is a route for plain text; None while not known."""
    cached_tokens: bool | None = None
    """None while not known."""
    seed_repeats: bool | None = None
    thinks: bool = False
    context_tokens: int | None = None
    length_field: str = "max_tokens"
    sends_seed: bool = True
    takes_schema: bool = True
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Adds advice once."""
        if text not in self.notes:
            self.notes.append(text)


class OpenAIEngine:
    """Asks one endpoint.

    Args:
        base_url: Address, such as http://127.0.0.1:8000/v1.
        model: Name under which the server lists it; None takes the only one it lists.
        api_key_env: Environment variable with the key. The key itself is never stored or shown.
        max_concurrency: Requests at once.
        max_prompt_tokens: Prompt tokens in flight, by estimate; None for no limit.
        timeout_s: Of one request.
        retry: When to ask again.
        max_total_tokens: Spend limit over the engine's life; None for none.
        on_event: Called with a line for people when the engine waits or changes its ways.
        name: Shown and stored; the model's name by default.

    Raises:
        MissingDependencyError: The openai package is not installed.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        max_concurrency: int = 16,
        max_prompt_tokens: int | None = None,
        timeout_s: float = 600.0,
        retry: RetryPolicy | None = None,
        max_total_tokens: int | None = None,
        on_event: Callable[[str], None] | None = None,
        name: str | None = None,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise missing_dependency("openai", "local") from error
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.name = name or model or urlsplit(base_url).netloc
        self.findings = Findings()
        self.admission = Admission(max_concurrency, max_prompt_tokens)
        self._openai = openai
        self._named = name is not None
        self._api_key_env = api_key_env
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._max_total_tokens = max_total_tokens
        self._reserved_tokens = 0
        self._on_event = on_event
        self._told_at = -TELL_EVERY_S
        self._untold = 0
        self._random = random.Random()
        self._usage = Usage()
        self._pulse = Pulse()
        self._answered = False
        self._connected = False
        self._client: Any = None
        self._wire: Wire | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting: asyncio.Lock | None = None
        self._capabilities: Capabilities | None = None

    @property
    def usage(self) -> Usage:
        """Total so far."""
        return self._usage

    async def sample(
        self, messages: Sequence[Message], sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples `sampling.n` replies, in one request where the server can.

        Raises:
            EngineError: See the tree in `agenticlu.core.errors`.
            DocumentTooLongError: The server says that the prompt exceeds the model's window.
            BudgetExceededError: The spend limit is reached.
        """
        return await self._sample(messages, sampling, session)

    async def complete(
        self, text: str, sampling: Sampling, *, session: str | None = None
    ) -> Sampled:
        """Samples continuations of a plain text, by the server's route for completions.

        Raises:
            EngineReplyError: The server has no such route.
            EngineError: As `sample`.
        """
        return await self._sample(text, sampling, session)

    async def _sample(self, asked: Asked, sampling: Sampling, session: str | None) -> Sampled:
        await self._connect()
        if sampling.n == 1 or self._together(sampling):
            first = await self._sample_once(asked, sampling, session)
            self._notice(first, sampling)
            if sampling.n > 1 and not self._together(sampling):
                kept = first.completions if self.findings.samples_differ else first.completions[:1]
                first = replace(first, completions=kept)
        else:
            first = await self._sample_once(asked, self._single(sampling, 0), session)
        missing = sampling.n - len(first.completions)
        if missing <= 0:
            return replace(first, completions=first.completions[: sampling.n])
        rest = [
            self._sample_once(asked, self._single(sampling, sampling.n - missing + k), session)
            for k in range(missing)
        ]
        parts = [first, *await asyncio.gather(*rest)]
        total = sum((part.usage for part in parts), Usage())
        return Sampled(tuple(one for part in parts for one in part.completions), total)

    async def score_choices(
        self, messages: Sequence[Message], choices: Sequence[str], *, session: str | None = None
    ) -> ChoiceProbs:
        """Returns the probability of each choice as the reply's first token.

        A choice of several tokens is known by its first. Without log-probabilities one greedy
        reply is parsed; one that names no choice gives equal weights and no label mass.

        Raises:
            EngineError: As `sample`.
        """
        await self._connect()
        spent = Usage()
        if self.findings.logprobs:
            body = {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
            sampling = Sampling(temperature=0.0, max_tokens=1)
            try:
                reply = await self._ask(messages, sampling, session, body)
                spent = usage_of(reply)
                found = first_logprobs(reply)
            except EngineRefusedError:
                found = None  # refused the field; if it refuses all else too, the parse says so
            if found is None:
                self.findings.logprobs = False
                self.findings.note(
                    f"{self.name} gives no log-probabilities; verdicts are parsed from replies,"
                    " which are coarser. vLLM, SGLang and llama.cpp give them."
                )
            else:
                masses = label_masses(found, choices)
                total = sum(masses.values())
                if total > 0:
                    shares = {choice: mass / total for choice, mass in masses.items()}
                    return ChoiceProbs(shares, min(1.0, total), spent)
        return await self._score_by_parse(messages, choices, session, spent)

    async def capabilities(self) -> Capabilities:
        """Asks the server a handful of short questions, once; remembers the answers."""
        if self._capabilities is None:
            from agenticlu.engines.probe import probe

            await self._connect()
            self._capabilities = await probe(self)
        return self._capabilities

    async def answers(self) -> bool:
        """Whether the server answers at all, asked for nothing but its list of models."""
        try:
            await self._connect()
            await self._client.models.list(timeout=ALIVE_S)
        except self._openai.APIStatusError as error:
            return bool(error.status_code < 500)
        except (self._openai.APIError, AgenticluError):
            return False
        return True

    def health(self) -> list[Health]:
        """Returns how the endpoint fares."""
        return [self._pulse.health(self.base_url)]

    async def close(self) -> None:
        """Closes the connections."""
        client, self._client = self._client, None
        wire, self._wire = self._wire, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()
            if wire is not None:
                await wire.close()

    async def ask(
        self,
        asked: Asked,
        sampling: Sampling,
        *,
        session: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Any:
        """Sends one request as it is and returns the server's reply; for probes."""
        await self._connect()
        return await self._ask(asked, sampling, session, dict(extra or {}))

    # One request.

    async def _sample_once(self, asked: Asked, sampling: Sampling, session: str | None) -> Sampled:
        extra: dict[str, Any] = {"return_token_ids": True} if self.findings.token_ids else {}
        if isinstance(asked, str):
            reply = await self._ask(asked, sampling, session, extra)
            continued = tuple(continuation_of(choice) for choice in reply["choices"])
            return Sampled(continued, usage_of(reply))
        if sampling.schema is not None and self.findings.takes_schema:
            reply = await self._ask_with_schema(asked, sampling, session, extra)
        else:
            reply = await self._ask(asked, sampling, session, extra)
        completions = tuple(completion_of(choice) for choice in reply["choices"])
        if any(holds_thinking(choice) for choice in reply["choices"]):
            self.findings.thinks = True
        return Sampled(completions, usage_of(reply))

    async def _ask_with_schema(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        session: str | None,
        extra: dict[str, Any],
    ) -> Any:
        assert sampling.schema is not None
        wanted = {"name": "reply", "strict": True, "schema": json.loads(sampling.schema)}
        form = {"response_format": {"type": "json_schema", "json_schema": wanted}}
        try:
            return await self._ask(messages, sampling, session, extra | form)
        except EngineReplyError:
            # Perhaps it refused the field; if it refuses all else too, this says so.
            reply = await self._ask(messages, sampling, session, extra)
        self.findings.takes_schema = False
        text = f"{self.name} takes no schema for replies; they are asked for in words alone."
        self.findings.note(text)
        self._tell(text)
        return reply

    async def _score_by_parse(
        self,
        messages: Sequence[Message],
        choices: Sequence[str],
        session: str | None,
        spent: Usage,
    ) -> ChoiceProbs:
        length = THINKING_PARSE_TOKENS if self.findings.thinks else PARSE_TOKENS
        reply = await self._sample_once(messages, Sampling(max_tokens=length), session)
        if not reply.completions[0].text and self.findings.thinks and length == PARSE_TOKENS:
            spent = spent + reply.usage
            longer = Sampling(max_tokens=THINKING_PARSE_TOKENS)
            reply = await self._sample_once(messages, longer, session)
        spent = spent + reply.usage
        by_label = {choice.casefold(): choice for choice in choices}
        verdict = parse_verdict(reply.completions[0].text, tuple(choices))
        if verdict is None:
            even = {choice: 1.0 / len(choices) for choice in choices}
            return ChoiceProbs(even, 0.0, spent, method="parse")
        shares = {choice: float(choice == by_label[verdict.casefold()]) for choice in choices}
        return ChoiceProbs(shares, 1.0, spent, method="parse")

    async def _ask(
        self,
        asked: Asked,
        sampling: Sampling,
        session: str | None,
        extra: dict[str, Any],
    ) -> Any:
        """Sends one request, again where that helps, and counts its cost."""
        parts = [asked] if isinstance(asked, str) else [message.content for message in asked]
        prompt_tokens = int(sum(map(len, parts)) / CHARACTERS_PER_TOKEN) + 8 * len(parts)
        reserved = prompt_tokens + sampling.n * sampling.max_tokens
        self._check_budget(reserved)
        self._reserved_tokens += reserved
        try:
            reply = await self._retried(
                lambda: self._send(asked, sampling, session, extra),
                prompt_tokens,
                plain=isinstance(asked, str),
            )
        finally:
            self._reserved_tokens -= reserved
        self._usage = self._usage + usage_of(reply)
        return reply

    async def _send(
        self,
        asked: Asked,
        sampling: Sampling,
        session: str | None,
        extra: dict[str, Any],
    ) -> Any:
        plain = isinstance(asked, str)
        body: dict[str, Any] = {"model": self.model, "temperature": sampling.temperature}
        if isinstance(asked, str):
            body |= {"prompt": asked, "max_tokens": sampling.max_tokens}
        else:
            body["messages"] = [{"role": m.role, "content": m.content} for m in asked]
            body[self.findings.length_field] = sampling.max_tokens
        if sampling.n != 1:
            body["n"] = sampling.n
        if sampling.top_p != 1.0:
            body["top_p"] = sampling.top_p
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.seed is not None and self.findings.sends_seed:
            body["seed"] = sampling.seed
        headers = {} if session is None else {"X-Session-ID": session}
        route = PLAIN_ROUTE if plain else CHAT_ROUTE
        try:
            reply: Any
            if self._wire is not None:
                reply = await self._wire.post(route, body | extra, headers)
            else:
                # Its typed method walks the whole body and the whole reply through type hints.
                reply = await self._client.post(
                    route, cast_to=object, body=body | extra, options={"headers": headers}
                )
            if isinstance(reply, (bytes, str)):  # not read yet, or not labelled as JSON
                reply = json.loads(reply)
        except ValueError:
            reply = None
        if not check_reply(reply, plain=plain):
            raise EngineReplyError(
                f"{self.name} at {self.base_url} replied without a "
                f"{'text' if plain else 'message'}.",
                hint="Is the address that of an OpenAI-compatible API? It often ends in /v1.",
            )
        return reply

    async def _retried(
        self, send: Callable[[], Any], prompt_tokens: int, *, plain: bool = False
    ) -> Any:
        attempt = 0
        while True:
            try:
                async with self.admission.admit(prompt_tokens):
                    with self._pulse.request():
                        reply = await send()
                self._answered = True
                self.admission.ease()
                return reply
            except self._openai.APIError as error:
                if self._adapt(error):
                    continue
                told, again = await self._explain(error, attempt, plain)
                asked_s = retry_after_s(error)
            except EngineReplyError as error:
                told, again, asked_s = error, attempt < 1, None
            if not again:
                raise told
            pause = self._retry.pause_s(attempt, asked_s, self._random)
            attempt += 1
            self._tell(f"{told.message} Asking again in {pause:.1f} s.")
            await asyncio.sleep(pause)

    # Errors of the server become ours here, and nowhere else.

    def _adapt(self, error: Exception) -> bool:
        """Changes how requests are written where the server asks for it; True to ask again."""
        if not isinstance(error, self._openai.BadRequestError):
            return False
        text = self._server_text(error)
        if self.findings.length_field == "max_tokens" and "max_completion_tokens" in text:
            self.findings.length_field = "max_completion_tokens"
            return True
        if self.findings.sends_seed and getattr(error, "param", None) == "seed":
            self.findings.sends_seed = False
            self.findings.note(f"{self.name} takes no seed; its samples cannot be repeated.")
            return True
        return False

    async def _explain(
        self, error: Exception, attempt: int, plain: bool
    ) -> tuple[AgenticluError, bool]:
        """Returns our error for the server's, and whether to ask again."""
        more = attempt + 1 < self._retry.attempts
        where = f"{self.name} at {self.base_url}"
        if isinstance(error, self._openai.APITimeoutError):
            told: AgenticluError = EngineBusyError(
                f"{where} did not answer within {self._timeout_s:.0f} s.",
                hint="Allow fewer requests at once, or a longer time.",
            )
            return told, more
        if isinstance(error, self._openai.APIConnectionError):
            most = self._retry.attempts if self._answered else self._retry.first_contact_attempts
            cause = str(error.__cause__ or error).strip() or type(error).__name__
            if _broke_off(error):
                told = EngineUnreachableError(
                    f"{where} broke off before its reply was whole ({self._scrub(cause)})."
                )
                return told, attempt + 1 < most
            told = EngineUnreachableError(
                f"No server answers at {self.base_url} ({self._scrub(cause)}).",
                hint="Is it running, and is the address right? It often ends in /v1."
                " `agenticlu doctor` tries it.",
            )
            return told, attempt + 1 < most
        status = getattr(error, "status_code", None)
        text = self._server_text(error)
        if status in (401, 403):
            return self._auth_error(where, status), False
        if status == 404 or (plain and status in (405, 501)):
            return await self._not_found(text, status, plain), False
        code = str(getattr(error, "code", None))
        if status in (400, 413, 422) and (code in TOO_LONG_CODES or _TOO_LONG.search(text)):
            return DocumentTooLongError(f"{where} refused the prompt as too long: {text}"), False
        if status in (408, 409, 425, 429) or (isinstance(status, int) and status >= 500):
            if status in (429, 503):
                self.admission.back_off()
            told = EngineBusyError(f"{where} is busy or failing (status {status}): {text}")
            told.is_fault = status not in (408, 425, 429, 503)
            told.retry_after_s = asked = retry_after_s(error)
            if asked is not None and asked > self._retry.most_retry_after_s:
                told.hint = f"It asks to come back in {asked:.0f} s."
                return told, False
            if "insufficient_quota" in (code, getattr(error, "type", None)):
                return told, False
            return told, more
        if isinstance(error, self._openai.APIResponseValidationError):
            return EngineReplyError(f"{where} sent a reply that is not of the API's form."), more
        return EngineRefusedError(f"{where} refused the request (status {status}): {text}"), False

    def _auth_error(self, where: str, status: int) -> EngineAuthError:
        if os.environ.get(self._api_key_env):
            given = f"{where} refused the key in {self._api_key_env} (status {status})."
            return EngineAuthError(given, hint=f"Check what {self._api_key_env} holds.")
        return EngineAuthError(
            f"{where} asks for a key (status {status}), and {self._api_key_env} is not set.",
            hint=f"export {self._api_key_env}=...",
        )

    async def _not_found(self, text: str, status: int, plain: bool) -> AgenticluError:
        try:
            served = await self._list_models()
        except self._openai.APIError:
            served = None
        if plain and (served is None or self.model in served):
            return EngineReplyError(
                f"{self.base_url} continues no plain text with {self.model!r} (status {status} "
                f"from {PLAIN_ROUTE}): {text}",
                hint="Send it as chat; in agenticlu eval: --chat.",
            )
        if served is None:
            return EngineReplyError(
                f"{self.base_url} has no chat completions (status 404): {text}",
                hint="Is the address that of an OpenAI-compatible API? It often ends in /v1.",
            )
        if self.model in served:
            return EngineReplyError(
                f"{self.base_url} lists the model {self.model!r} but answers 404: {text}"
            )
        return self._no_such_model(served)

    def _no_such_model(self, served: Mapping[str, Any]) -> ModelNotFoundError:
        names = ", ".join(sorted(served)[:8]) or "none"
        return ModelNotFoundError(
            f"{self.base_url} serves no model {self.model!r}. It serves: {names}.",
            hint=did_you_mean(self.model or "", served),
        )

    def _server_text(self, error: Exception) -> str:
        body = getattr(error, "body", None)
        if isinstance(body, dict):
            inner = body.get("error", body)
            text = inner.get("message") if isinstance(inner, dict) else inner
            if text:
                return self._scrub(str(text))
        return self._scrub(str(getattr(error, "message", error)))

    def _scrub(self, text: str) -> str:
        text = without_lone_surrogates(text)
        key = os.environ.get(self._api_key_env)
        if key:
            text = text.replace(key, "[key]")
        text = re.sub(r"(?i)bearer\s+\S+", "[key]", text)
        return re.sub(r"\bsk-[\w*-]{8,}", "[key]", text)[:500]

    def _check_budget(self, reserved: int) -> None:
        if self._max_total_tokens is None:
            return
        used = self._usage.prompt_tokens + self._usage.completion_tokens
        if used + self._reserved_tokens + reserved > self._max_total_tokens:
            raise BudgetExceededError(
                f"The limit of {self._max_total_tokens} tokens for {self.name} is reached: {used}"
                f" are spent, {self._reserved_tokens} under way, and the next request may take"
                f" {reserved}.",
                hint="What is finished is kept. Raise the limit to go on.",
            )

    # The connection.

    async def _connect(self) -> None:
        """Opens the client in the running loop; on first contact looks at the model list."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            is_local = urlsplit(self.base_url).hostname in ("localhost", "127.0.0.1", "::1")
            trust_env = not is_local  # no proxy for a server on this machine
            self._client = self._openai.AsyncOpenAI(
                base_url=self.base_url,
                # Local servers want no key; the SDK insists on one.
                api_key=os.environ.get(self._api_key_env) or "none",
                max_retries=0,
                timeout=self._timeout_s,
                http_client=self._openai.DefaultAsyncHttpxClient(trust_env=trust_env),
            )
            if Wire.takes(self.base_url):
                with contextlib.suppress(ImportError):
                    self._wire = Wire(self._client, self._timeout_s, trust_env=trust_env)
            self._loop = loop
            self._connecting = asyncio.Lock()
        if self._connected:
            return
        assert self._connecting is not None
        async with self._connecting:
            if self.model is None or not self._connected:
                await self._find_model()
                self._connected = True

    async def _find_model(self) -> None:
        try:
            served = await self._retried(self._list_models, 0)
        except (EngineReplyError, ModelNotFoundError):
            # Some gateways have no model list; a given name may still be right.
            if self.model is None:
                raise ModelNotFoundError(
                    f"{self.base_url} lists no models.", hint="Name one with --model."
                ) from None
            return
        if self.model is None:
            if len(served) != 1:
                names = ", ".join(sorted(served)[:8]) or "none"
                raise ModelNotFoundError(
                    f"{self.base_url} serves {len(served)} models: {names}.",
                    hint="Choose one with --model.",
                )
            self.model = next(iter(served))
            if not self._named:
                self.name = self.model
        elif served and self.model not in served:
            raise self._no_such_model(served)
        if self.model in served:
            self.findings.context_tokens = window_of(served[self.model])

    async def _list_models(self) -> dict[str, Any]:
        page = await self._client.models.list()
        data = getattr(page, "data", None)
        if data is None:
            raise EngineReplyError(f"{self.base_url} sent a model list that is none.")
        return {model.id: model for model in data}

    def _together(self, sampling: Sampling) -> bool:
        differ = self.findings.samples_differ or sampling.temperature == 0
        return self.findings.samples_n and differ

    def _notice(self, reply: Sampled, sampling: Sampling) -> None:
        """Takes note of samples that are too few, or too long and too equal to be chance."""
        texts = [one.text for one in reply.completions]
        if len(texts) < sampling.n:
            self.findings.samples_n = False
            self.findings.note(
                f"{self.name} returned {len(texts)} of {sampling.n} samples; samples are asked for"
                " one by one. A server that takes n (vLLM, SGLang) reads the prompt once."
            )
        elif (
            sampling.n > 1
            and sampling.temperature >= WARM
            and len(set(texts)) == 1
            and len(texts[0]) >= LONG_TEXT_CHARACTERS
        ):
            self.findings.samples_differ = False
            self.findings.note(
                f"{self.name} returned {sampling.n} equal samples at temperature"
                f" {sampling.temperature}; samples are asked for one by one with different seeds."
            )

    def _single(self, sampling: Sampling, ordinal: int) -> Sampling:
        seed = sampling.seed
        if seed is not None and ordinal > 0:
            seed = content_seed("sample", str(seed), str(ordinal))
        elif seed is None and not self.findings.samples_differ:
            seed = self._random.randrange(1 << 31)
        return replace(sampling, n=1, seed=seed)

    def _tell(self, text: str) -> None:
        """Tells of a wait, but not of each: many requests meet the same trouble."""
        if self._on_event is None:
            return
        now = asyncio.get_running_loop().time()
        if now - self._told_at < TELL_EVERY_S:
            self._untold += 1
            return
        more = (
            f" ({self._untold} more requests waited since the last word.)" if self._untold else ""
        )
        self._told_at, self._untold = now, 0
        self._on_event(text + more)


def _broke_off(error: BaseException) -> bool:
    """Whether there was a connection, which ended too early."""
    return type(error.__cause__).__name__ in BROKEN_OFF
