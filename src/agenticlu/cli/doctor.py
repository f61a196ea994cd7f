"""`agenticlu doctor`: checks this installation and says how to fix what is missing."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import click
from packaging.requirements import Requirement

from agenticlu import __version__
from agenticlu.cli.options import echo_json, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.errors import AgenticluError, require_known
from agenticlu.core.records import Message, Record
from agenticlu.core.settings import JsonSettings, ModelSettings, Seconds
from agenticlu.engines import load_engine
from agenticlu.engines.base import Capabilities, Engine, Sampling
from agenticlu.engines.probe import PROBES

Status = Literal["ok", "note", "missing", "broken"]
"""missing: an extra that only some commands need. broken: asked for, and it fails."""

DISTRIBUTION = "agenticlu"
FOR_DEVELOPERS = ("dev",)
LOADING_S = 60.0
"""Seconds that a model in this process may take to load and answer."""
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


async def examine(
    *,
    model: str | None = None,
    base_urls: Sequence[str] = (),
    api_key_env: str = "OPENAI_API_KEY",
    extras: Iterable[str] = (),
    timeout_s: float = 8.0,
) -> tuple[Check, ...]:
    """Examines the installation, the bundled model and the endpoints, all at once.

    Args:
        model: A folder, or with `base_urls` the name of a served model, that must answer. Without
            any the bundled model is tried.
        base_urls: Endpoints that must answer.
        api_key_env: Environment variable with their key.
        extras: Extras that must be complete.
        timeout_s: Seconds after which an engine counts as not answering.

    Raises:
        ConfigError: There is no such extra.
    """
    checks = [_check_python(), *check_packages(extras)]
    asked = [
        _check_engine(f"endpoint {url}", model, (url,), api_key_env, timeout_s) for url in base_urls
    ]
    if not base_urls:
        asked.append(_check_local(model, checks, timeout_s))
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


async def _check_local(model: str | None, checks: Sequence[Check], timeout_s: float) -> Check:
    name = "bundled model" if model is None else f"model {model}"
    local = next((check for check in checks if check.name == "extra local"), None)
    if local is not None and local.status == "missing" and "not installed" in local.found:
        return Check(
            name=name,
            status="missing" if model is None else "broken",
            found="cannot be tried in process",
            fix=local.fix,
        )
    # Loading runs on this machine: slow is not broken.
    return await _check_engine(name, model, (), "", max(timeout_s, LOADING_S), sample=True)


async def _check_engine(
    name: str,
    model: str | None,
    base_url: tuple[str, ...],
    api_key_env: str,
    timeout_s: float,
    *,
    sample: bool = False,
) -> Check:
    began = time.perf_counter()
    engine: Engine | None = None

    def finding(status: Status, found: str, fix: str | None = None, *details: str) -> Check:
        took = time.perf_counter() - began
        return Check(name=name, status=status, found=found, fix=fix, details=details, seconds=took)

    try:
        engine = load_engine(model, base_url, *([api_key_env] if api_key_env else []))
        abilities = await asyncio.wait_for(engine.capabilities(*PROBES), timeout_s)
        reply = ""
        if sample:
            sampling = engine.sample(PROBE, Sampling(max_tokens=12))
            reply = f": {(await asyncio.wait_for(sampling, timeout_s)).completions[0].text[:60]!r}"
    except TimeoutError:
        fix = "Try again with --timeout 60, or look at the server's log."
        return finding("broken", f"did not answer within {timeout_s:.0f} s", fix)
    except AgenticluError as error:
        return finding("broken", error.message, error.hint)
    finally:
        if engine is not None:
            await engine.close()
    details = (*describe(abilities), *abilities.notes)
    return finding("ok", f"{engine.name} answers{reply}", None, *details)


def describe(abilities: Capabilities) -> tuple[str, ...]:
    """Describes what an engine can do, and what replaces what it cannot."""
    window = abilities.context_tokens
    return (
        f"window: {'unknown' if window is None else f'{window:,} tokens'}",
        f"several samples of one request: "
        f"{'yes' if abilities.samples_n else 'no; they are requested one by one'}",
        f"log-probabilities: {'yes' if abilities.logprobs else 'no; verdicts are parsed'}",
        f"token ids: {'yes' if abilities.token_ids else 'no; text is tokenised again'}",
        f"continues plain text: {'yes' if abilities.completes else 'no; HELMET runs as chat'}",
        f"says how much was cached: {'yes' if abilities.reports_cached_tokens else 'no'}",
        f"thinks before it replies: {_describe_thinking(abilities.thinking_tokens)}",
    )


def _describe_thinking(tokens: int | None) -> str:
    if tokens is None:
        return "unknown"
    return f"yes, {tokens:,} tokens before 'yes'" if tokens else "no"


class DoctorSettings(ModelSettings, JsonSettings):
    """Settings of `agenticlu doctor`."""

    extra: tuple[str, ...] = ()
    """Extra whose packages must all be installed."""
    timeout: Seconds = 8.0
    """Timeout of an engine's answer, in seconds."""


@settings_command(DoctorSettings, "doctor", without=("tokenizer", "thinking", "thinking_tokens"))
def command(resolved: Resolved[DoctorSettings]) -> None:
    """Report what is installed, which engines answer, and how to fix the rest.

    Checks the bundled model, or the model and servers that a flag, the environment
    (AGENTICLU_MODEL, AGENTICLU_BASE_URL) or a configuration file names. Exit code 5: an engine that
    was asked for is broken; 7: a package is missing.
    """
    pass

    settings = resolved.values
    checks = asyncio.run(
        examine(
            model=settings.model,
            base_urls=settings.base_url,
            api_key_env=settings.api_key_env,
            extras=settings.extra,
            timeout_s=settings.timeout,
        )
    )
    code = exit_code(checks)
    if settings.as_json:
        found = [check.model_dump(mode="json") for check in checks]
        echo_json({"exit_code": code, "checks": found})
    else:
        click.echo(render_checks(checks))
    click.get_current_context().exit(code)
