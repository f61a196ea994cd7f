"""`agenticlu doctor`: checks this installation and says how to fix what is missing."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click
from packaging.requirements import Requirement

from agenticlu import __version__
from agenticlu.cli.options import settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import (
    AgenticluError,
    DocumentError,
    DocumentTooLongError,
    require_known,
)
from agenticlu.core.printing import echo, echo_json
from agenticlu.core.records import Message, Record, Usage
from agenticlu.core.secrets import public_address
from agenticlu.core.settings import JsonSettings, ModelSettings, TokenCount
from agenticlu.documents.formats.ocr import list_languages
from agenticlu.engines import DEFAULT_TIMEOUT_S, load_engine
from agenticlu.engines.base import Capabilities, Engine, Feature, Sampling
from agenticlu.engines.http.endpoint import Endpoint
from agenticlu.engines.http.reading import Reading, read_back
from agenticlu.engines.http.window import window_setting
from agenticlu.engines.retry import SHORT_QUESTION, LimitedEngine, Limiter, RetryPolicy

Status = Literal["ok", "note", "missing", "broken"]
"""missing: an extra that only some commands need. broken: asked for, and it fails."""

DISTRIBUTION = "agenticlu"
FOR_DEVELOPERS = ("dev",)
WINDOW_CHECK_TOKENS = 8192
"""Longest prompt that is sent, unless told otherwise, to see whether a server reads all of it."""
LONGEST_CHECK_S = 120.0
"""Of a slow server a shorter one is sent, which takes no longer than this."""
LEAST_CHECK_TOKENS = 512
RETRIES = RetryPolicy(tries=4, retries_timeouts=False, longest_retry_after_s=30.0)
"""A rate limit of a moment is no fault; a server that is broken is told of within half a minute."""
SLOW_S = 5.0
"""A server that takes longer over a short question is called slow."""
STEPS: dict[Feature, str] = {
    "samples_n": "several samples of one request",
    "repeats_seeds": "seeds",
    "logprobs": "log-probabilities",
    "token_ids": "token ids",
    "completes": "plain text",
    "thinking_tokens": "thinking",
    "prefix_reuse_from_tokens": "reuse of prefixes",
}
"""What a server is asked about, in this order, and what it is called meanwhile."""
Say = Callable[[str], None]
PROBE = (
    Message(role="system", content="You answer questions about a document."),
    Message(
        role="user",
        content="<para 0> Ada Yardley lives in Wexley. </para 0>\n\n"
        "Question: Where does Ada Yardley live?\n\nAnswer the question.",
    ),
)


class Check(Record):
    """One finding."""

    name: str
    status: Status
    found: str
    """State in a few words."""
    fix: str | None = None
    """Command that repairs it; None where nothing is wrong."""
    details: tuple[str, ...] = ()
    seconds: float = 0.0
    usage: Usage | None = None
    """What asking cost; None where nothing was asked."""


async def examine(
    *,
    model: str | None = None,
    base_urls: Sequence[str] = (),
    api_key_env: str = "OPENAI_API_KEY",
    extras: Iterable[str] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
    window: int | None = None,
    window_check: int = WINDOW_CHECK_TOKENS,
    trust_remote_code: bool = False,
    say: Say | None = None,
) -> tuple[Check, ...]:
    """Examines the installation, the bundled model and the endpoints, these all at once.

    Args:
        model: A folder, or with `base_urls` the name of a served model, that must answer. Without
            any the bundled model is tried.
        base_urls: Endpoints that must answer.
        api_key_env: Environment variable with their key.
        extras: Extras that must be complete.
        timeout_s: Seconds that a server may take over one request.
        window: Of the endpoints, where they do not say it.
        window_check: Length in tokens of the prompt that an endpoint is sent, unless its window is
            shorter, to see whether it reads all of it.
        trust_remote_code: Whether code that the model's folder brings may run.
        say: Called with a line about each step.

    Raises:
        ConfigError: There is no such extra.
    """
    checks = [_check_python(), *check_packages(extras), _check_tesseract()]
    if not base_urls:
        local = await _check_local(model, checks, window, say, trust_remote_code)
        return (*checks, local)
    options: dict[str, Any] = {"api_key_env": api_key_env, "timeout_s": timeout_s}
    if window is not None:
        options["context_tokens"] = window
    asked = [
        _Endpoint(url, window_check, say or (lambda text: None)).examine(model, options)
        for url in base_urls
    ]
    return (*checks, *await asyncio.gather(*asked))


def exit_code(checks: Sequence[Check]) -> int:
    """Returns 0, or the exit code for what is broken: 5 an engine, 7 the installation."""
    broken = [check.name for check in checks if check.status == "broken"]
    if not broken:
        return 0
    return 7 if any(name.startswith(("package", "extra", "python")) for name in broken) else 5


def render_checks(checks: Sequence[Check]) -> str:
    """Returns the findings as lines for people."""
    signs: dict[Status, str] = {"ok": "ok", "note": "note", "missing": "-", "broken": "BROKEN"}
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        took = f" ({check.seconds:.1f} s)" if check.seconds >= 0.05 else ""
        lines.append(f"{signs[check.status]:6} {check.name:{width}}  {check.found}{took}")
        lines += [f"{'':6} {'':{width}}  {detail}" for detail in check.details]
        if check.fix:
            lines.append(f"{'':6} {'':{width}}  -> {check.fix}")
    return "\n".join(lines)


# Installation


def _check_python() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        name="python",
        status="ok",
        found=f"agenticlu {__version__}, Python {platform.python_version()} on "
        f"{platform.system()} {platform.machine()}, {cores} cores",
        details=(sys.prefix,),
    )


def _check_tesseract() -> Check:
    program = shutil.which("tesseract")
    if program is None:
        fix = "apt install tesseract-ocr; brew install tesseract"
        return Check(name="tesseract", status="missing", found="not installed (--ocr)", fix=fix)
    try:
        found = f"languages: {', '.join(list_languages(program))}"
    except DocumentError as error:
        return Check(name="tesseract", status="missing", found=error.message)
    return Check(name="tesseract", status="ok", found=found, details=(program,))


def check_packages(wanted: Iterable[str] = ()) -> list[Check]:
    """Checks the packages that are always needed, and each extra; imports none of them."""
    needs = requirements()
    extras = [name for name in needs if name and name not in FOR_DEVELOPERS]
    wanted = [require_known(name, (*extras, *FOR_DEVELOPERS), kind="extra") for name in wanted]
    listed: set[str] = set()
    checks = [_check_group("packages", "", needs.get("", ()), listed, must=True)]
    for name in dict.fromkeys([*extras, *wanted]):
        checks.append(_check_group(f"extra {name}", name, needs[name], listed, must=name in wanted))
    return checks


def requirements() -> dict[str, tuple[Requirement, ...]]:
    """Returns the requirements of each extra, extras of extras opened; '' holds those of all."""
    try:
        metadata = importlib.metadata.metadata(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return {"": ()}
    stated = [Requirement(line) for line in metadata.get_all("Requires-Dist") or []]

    def opened(extra: str) -> Iterator[Requirement]:
        for one in stated:
            always = one.marker is None or one.marker.evaluate({"extra": ""})
            applies = one.marker is None or one.marker.evaluate({"extra": extra})
            if not applies or (always and extra):
                continue
            if one.name == DISTRIBUTION:
                for inner in sorted(one.extras):
                    yield from opened(inner)
            else:
                yield Requirement(f"{one.name}{one.specifier}")

    names = ("", *(metadata.get_all("Provides-Extra") or []))
    return {name: tuple(dict.fromkeys(opened(name))) for name in names}


def _check_group(
    title: str, extra: str, needed: Sequence[Requirement], listed: set[str], *, must: bool
) -> Check:
    """Checks one group; versions that an earlier group has listed are not repeated."""
    present, problems = [], []
    for one in needed:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(version, prereleases=True):
            problems.append(f"{one.name} {version} is installed, {one.specifier} is needed")
        if one.name not in listed:
            listed.add(one.name)
            present.append(f"{one.name} {version}")
    pip = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
    return Check(
        name=title,
        status=("broken" if must else "missing") if problems else "ok",
        found="; ".join(problems) or ", ".join(present) or "complete",
        fix=pip if problems else None,
    )


# Engines


async def _check_local(
    model: str | None, checks: Sequence[Check], window: int | None, say: Say | None, trust: bool
) -> Check:
    name = "bundled model" if model is None else f"model {model}"
    local = next((check for check in checks if check.name == "extra local"), None)
    if local is not None and local.status == "missing" and "not installed" in local.found:
        return Check(
            name=name,
            status="missing" if model is None else "broken",
            found="cannot be tried in process",
            fix=local.fix,
        )
    began = time.perf_counter()
    engine: Engine | None = None
    try:
        options: dict[str, Any] = {} if window is None else {"context_tokens": window}
        engine = load_engine(model, on_event=say, trust_remote_code=trust, **options)
        abilities = await engine.capabilities()
        reply = await engine.sample(PROBE, Sampling(max_tokens=12))
    except AgenticluError as error:
        return Check(name=name, status="broken", found=error.message, fix=error.hint)
    finally:
        if engine is not None:
            await engine.close()
    return Check(
        name=name,
        status="ok",
        found=f"{engine.name} answers: {reply.completions[0].text[:60]!r}",
        details=(*describe(abilities), *abilities.notes),
        seconds=time.perf_counter() - began,
        usage=engine.usage,
    )


@dataclass(eq=False)
class _Endpoint:
    """A server under examination."""

    url: str
    window_check: int
    say: Say

    async def examine(self, model: str | None, options: dict[str, Any]) -> Check:
        """Asks for everything, one thing after another, so that times can be compared."""
        began = time.perf_counter()
        engine: Engine | None = None
        found, fix = "", None
        details: list[str] = []
        pauses: list[str] = []

        def say(text: str) -> None:
            self.say(f"  {text}")
            pauses.append(text)

        try:
            # What another try mends is no fault, but a finding, too.
            limiter = Limiter(policy=RETRIES, say=say)
            engine = load_engine(model, (self.url,), limiter=limiter, **options)
            found = await self._ask(engine, details)
        except AgenticluError as error:
            found, fix = error.message, error.hint
            status: Status = "broken"
        else:
            status = "ok"
            if pauses:
                details.append(f"did not answer every time: {'; '.join(pauses)}")
        finally:
            if engine is not None:
                await engine.close()
        usage = None if engine is None else engine.usage
        if usage is not None and usage.requests:
            details.append(
                f"cost of this examination: {usage.requests} requests, {usage.prompt_tokens:,} "
                f"prompt and {usage.completion_tokens:,} sampled tokens"
            )
        return Check(
            name=f"endpoint {public_address(self.url)}",
            status=status,
            found=found,
            fix=fix,
            details=tuple(details),
            seconds=time.perf_counter() - began,
            usage=usage,
        )

    async def _ask(self, engine: Engine, details: list[str]) -> str:
        """Returns what was found in a few words, and adds the details as they are found."""
        await engine.capabilities()
        self.say(f"{public_address(self.url)}: {engine.name} is asked what it can do")
        began = time.perf_counter()
        await engine.sample(SHORT_QUESTION, Sampling(max_tokens=1))
        short_s = time.perf_counter() - began
        for feature, label in STEPS.items():
            began = time.perf_counter()
            await engine.capabilities(feature)
            self.say(f"  {label} ({time.perf_counter() - began:.1f} s)")
        reading = await self._check_reading(engine)
        abilities = await engine.capabilities()
        details += [*describe(abilities), *reading, *abilities.notes]
        if short_s <= SLOW_S:
            return f"{engine.name} answers"
        return f"{engine.name} answers slowly: a short question takes {short_s:.1f} s"

    async def _check_reading(self, engine: Engine) -> list[str]:
        """Returns what became of a long prompt."""
        if not isinstance(engine, LimitedEngine) or not isinstance(engine.engine, Endpoint):
            return []
        endpoint = engine.engine
        known, rate = endpoint.findings, endpoint.findings.tokens_per_s or 0.0
        # What the checked prompt leaves out of the window is its reply's.
        tokens = min(self.window_check, known.context_tokens or self.window_check)
        if rate:
            tokens = min(tokens, max(LEAST_CHECK_TOKENS, int(rate * LONGEST_CHECK_S)))
        about = f", about {tokens / rate:.0f} s" if rate and tokens / rate > SLOW_S else ""
        self.say(f"  whether a prompt of {tokens:,} tokens is read to its end{about}")
        try:
            read = functools.partial(read_back, endpoint, tokens)
            found = await engine.limiter.run(read, tokens, engine.capabilities)
        except DocumentTooLongError as error:
            if error.window_tokens is None:
                return [f"reads long prompts: refuses one of {tokens:,} tokens ({error.message})"]
            return [f"reads long prompts: refuses those over its window of {error.window_tokens:,}"]
        if found.is_whole is False and found.reported_tokens:
            known.context_tokens = found.reported_tokens
        return describe_reading(found, known.owner)


def describe_reading(found: Reading, owner: str) -> list[str]:
    """Describes what became of a long prompt, and what mends it."""
    length = f"{found.sent_tokens:,}"
    if found.is_whole is None:
        return [
            f"reads long prompts: cannot be told. {length} tokens were accepted, but the server "
            "counts none and the model does not repeat a word even of a short prompt"
        ]
    if found.is_whole:
        recalled = ", and its first word was recalled" if found.recalls else ""
        if found.recalls is False:
            recalled = ", though the model did not recall its first word"
        return [f"reads long prompts: yes, one of {length} tokens to its end{recalled}"]
    if not found.reported_tokens:
        return [
            f"reads long prompts: NO, as it seems. The model does not recall the first word of "
            f"{length} tokens, but does of a short prompt, and the server counts no tokens. "
            + window_setting(owner, found.sent_tokens)
        ]
    return [
        f"reads long prompts: NO. Of {length} tokens it read {found.reported_tokens:,} and cut the "
        f"rest without saying so. {window_setting(owner, found.sent_tokens)}"
    ]


def describe(abilities: Capabilities) -> tuple[str, ...]:
    """Describes what an engine can do, and what replaces what it cannot."""
    window = abilities.context_tokens
    return (
        f"window: {'unknown; --window tells it' if window is None else f'{window:,} tokens'}",
        f"several samples of one request: "
        f"{'yes' if abilities.samples_n else 'no; they are requested one by one'}",
        f"log-probabilities: {'yes' if abilities.logprobs else 'no; verdicts are parsed'}",
        f"token ids: {'yes' if abilities.token_ids else 'no; text is tokenised again'}",
        f"continues plain text: {'yes' if abilities.completes else 'no; HELMET runs as chat'}",
        f"says how much was cached: {'yes' if abilities.reports_cached_tokens else 'no'}",
        f"thinks before it replies: {_describe_thinking(abilities.thinking_tokens)}",
        f"reuses prefixes: {_describe_reuse(abilities.prefix_reuse_from_tokens)}",
    )


def _describe_reuse(tokens: float | None) -> str:
    if tokens is None:
        return "unknown"
    if math.isinf(tokens):
        return "no, of no length tried"
    return "of any length" if tokens <= 1 else f"yes, from {tokens:,.0f} tokens or fewer"


def _describe_thinking(tokens: int | None) -> str:
    if tokens is None:
        return "unknown"
    return f"yes, {tokens:,} tokens before 'yes'" if tokens else "no"


class DoctorSettings(ModelSettings, JsonSettings):
    """Settings of `agenticlu doctor`."""

    extra: tuple[str, ...] = ()
    """Extra whose packages must all be installed."""
    window_check: TokenCount = WINDOW_CHECK_TOKENS
    """Longest prompt that a server is sent to see whether it reads all of it."""


@settings_command(DoctorSettings, "doctor", without=("tokenizer", "thinking", "thinking_tokens"))
def command(resolved: Resolved[DoctorSettings]) -> None:
    """Report what is installed, which engines answer, and how to fix the rest.

    Checks the bundled model, or the model and servers that a flag, the environment
    (AGENTICLU_MODEL, AGENTICLU_BASE_URL) or a configuration file names. A server is asked for all
    that it can do, which takes some twenty short requests and some long ones; the cost is told.
    Exit code 5: an engine that was asked for is broken; 7: a package is missing.
    """
    settings = resolved.values
    checks = asyncio.run(
        examine(
            model=settings.model,
            base_urls=settings.base_url,
            api_key_env=settings.api_key_env,
            extras=settings.extra,
            timeout_s=settings.timeout,
            window=settings.window,
            window_check=settings.window_check,
            trust_remote_code=settings.trust_remote_code,
            say=functools.partial(echo, err=True),
        )
    )
    code = exit_code(checks)
    if settings.as_json:
        found = [check.model_dump(mode="json") for check in checks]
        echo_json({"exit_code": code, "checks": found})
    else:
        echo(render_checks(checks))
    click.get_current_context().exit(code)
