"""`agenticlu doctor`: what works here, and what to type where something does not."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import click
from pydantic import Field

from agenticlu.core.config import Settings, resolve


class DoctorSettings(Settings):
    """Settings of `agenticlu doctor`."""

    model: str | None = None
    base_url: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"
    timeout: Annotated[float, Field(gt=0)] = 8.0


@click.command("doctor")
@click.option("--model", help="Folder of a model, or the name of a served one, that must answer.")
@click.option("--base-url", multiple=True, help="Address of a server that must answer.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the key.")
@click.option("--extra", "extras", multiple=True, help="An extra that must be complete.")
@click.option("--timeout", type=float, help="Seconds an engine may take (default 8).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(extras: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Say what is installed, which engines answer, and what mends the rest.

    Tries the bundled model, or the model and servers named here, in the environment
    (AGENTICLU_MODEL, AGENTICLU_BASE_URL) or in a configuration file. Exit code 5: an engine that
    was asked for is broken; 7: a package is missing.
    """
    from agenticlu.cli.checks import examine, exit_code, render_checks

    given = {key: value or None if key == "base_url" else value for key, value in flags.items()}
    settings = resolve(DoctorSettings, section="doctor", flags=given).values
    checks = asyncio.run(
        examine(
            model=settings.model,
            base_urls=settings.base_url,
            api_key_env=settings.api_key_env,
            extras=extras,
            timeout_s=settings.timeout,
        )
    )
    code = exit_code(checks)
    if as_json:
        found = [check.model_dump(mode="json") for check in checks]
        click.echo(json.dumps({"exit_code": code, "checks": found}, indent=2, ensure_ascii=False))
    else:
        click.echo(render_checks(checks))
    click.get_current_context().exit(code)
