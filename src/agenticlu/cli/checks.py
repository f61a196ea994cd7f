"""Says what is installed, whether the bundled model answers, and what endpoints really support."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Literal

from agenticlu import __version__
from agenticlu.core.errors import AgenticluError, ConfigError, did_you_mean
from agenticlu.core.records import Message, Record
from agenticlu.engines import load_engine
from agenticlu.engines.base import Capabilities, Engine, Sampling

Status = Literal["ok", "note", "missing", "broken"]
"""'missing' is no fault: an extra that some commands need. 'broken' was asked for and fails."""

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
    """What there is."""
    fix: str | None = None
    """What to type; None where nothing needs to be done."""
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
    asked = [_check_endpoint(url, model, api_key_env, timeout_s) for url in base_urls]
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
    wanted = list(wanted)
    for name in wanted:
        if name not in needs:
            raise ConfigError(
                f"There is no extra {name!r}. There are: {', '.join(extras)}.",
                hint=did_you_mean(name, extras),
            )
    listed: set[str] = set()
    checks = [_check_group("packages", "", needs.get("", ()), listed, must=True)]
    for name in dict.fromkeys([*extras, *wanted]):
        checks.append(_check_group(f"extra {name}", name, needs[name], listed, must=name in wanted))
    return checks


def requirements() -> dict[str, tuple[str, ...]]:
    """Returns the requirements of each extra, extras of extras opened; '' holds those of all."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {"": ()}
    direct: dict[str, list[str]] = {"": []}
    for name in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        direct[name] = []
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        direct.setdefault(extra[1] if extra else "", []).append(requirement.strip())

    def opened(name: str) -> list[str]:
        found = []
        for requirement in direct[name]:
            own = re.fullmatch(rf"{DISTRIBUTION}\[([\w,\s-]+)\]", requirement)
            if own:
                found += [r for part in own[1].split(",") for r in opened(part.strip())]
            else:
                found.append(requirement)
        return found

    return {name: tuple(dict.fromkeys(opened(name))) for name in direct}


def _check_group(
    title: str, extra: str, needed: Sequence[str], listed: set[str], *, must: bool
) -> Check:
    """Checks one group; versions that an earlier group has listed are not repeated."""
    present, problems = [], []
    for requirement in needed:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        try:
            version = importlib.metadata.version(name[0])
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name[0]} is not installed")
            continue
        least = re.search(r">=\s*([\w.]+)", requirement)
        if least and _numbers(version) < _numbers(least[1]):
            problems.append(f"{name[0]} {version} is older than {least[1]}")
        if name[0] not in listed:
            listed.add(name[0])
            present.append(f"{name[0]} {version}")
    pip = f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
    return Check(
        name=title,
        status=("broken" if must else "missing") if problems else "ok",
        found="; ".join(problems) or ", ".join(present) or "complete",
        fix=pip if problems else None,
    )


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", version)
    parts = tuple(int(part) for part in release[0].split(".")) if release else ()
    return parts + (0,) * (4 - len(parts))


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


async def _check_endpoint(url: str, model: str | None, api_key_env: str, timeout_s: float) -> Check:
    return await _check_engine(f"endpoint {url}", model, (url,), api_key_env, timeout_s)


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
    try:
        engine = load_engine(model, base_url, *([api_key_env] if api_key_env else []))
        abilities = await asyncio.wait_for(engine.capabilities(), timeout_s)
        reply = ""
        if sample:
            sampled = await asyncio.wait_for(
                engine.sample(PROBE, Sampling(max_tokens=12)), timeout_s
            )
            reply = sampled.completions[0].text
    except TimeoutError:
        return Check(
            name=name,
            status="broken",
            found=f"did not answer within {timeout_s:.0f} s",
            fix="Try again with --timeout 60, or look at the server's log.",
            seconds=time.perf_counter() - began,
        )
    except AgenticluError as error:
        return Check(
            name=name,
            status="broken",
            found=error.message,
            fix=error.hint,
            seconds=time.perf_counter() - began,
        )
    finally:
        if engine is not None:
            await engine.close()
    return Check(
        name=name,
        status="ok",
        found=f"{engine.name} answers" + (f": {reply[:60]!r}" if sample else ""),
        details=(*describe(abilities), *abilities.notes),
        seconds=time.perf_counter() - began,
    )


def describe(abilities: Capabilities) -> tuple[str, ...]:
    """Says what an engine really does, and what is done where it does not."""
    window = abilities.context_tokens
    return (
        f"window: {'unknown' if window is None else f'{window:,} tokens'}",
        f"several samples of one request: "
        f"{'yes' if abilities.samples_n else 'no; each is asked for by itself'}",
        f"log-probabilities: {'yes' if abilities.logprobs else 'no; verdicts are parsed'}",
        f"token ids: {'yes' if abilities.token_ids else 'no; text is tokenised again'}",
        f"continues plain text: {'yes' if abilities.completes else 'no; HELMET runs as chat'}",
        f"says how much was cached: {'yes' if abilities.reports_cached_tokens else 'no'}",
    )
