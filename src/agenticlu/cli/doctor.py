"""`agenticlu doctor`: what works here, and what to type where something does not."""

from __future__ import annotations

import asyncio

import click

from agenticlu.cli.options import echo_json, settings_command
from agenticlu.core.config import Resolved
from agenticlu.core.settings import JsonSettings, ModelSettings, Seconds


class DoctorSettings(ModelSettings, JsonSettings):
    """Settings of `agenticlu doctor`."""

    extra: tuple[str, ...] = ()
    """An extra that must be complete."""
    timeout: Seconds = 8.0
    """Seconds that an engine may take to answer."""


@settings_command(DoctorSettings, "doctor", without=("tokenizer",))
def command(resolved: Resolved[DoctorSettings]) -> None:
    """Report what is installed, which engines answer, and how to fix the rest.

    Tries the bundled model, or the model and servers that a flag, the environment
    (AGENTICLU_MODEL, AGENTICLU_BASE_URL) or a configuration file names. Exit code 5: an engine that
    was asked for is broken; 7: a package is missing.
    """
    from agenticlu.cli.checks import examine, exit_code, render_checks

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
