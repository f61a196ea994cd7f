"""The `agenticlu` command: one module per subcommand, imported only when it runs.

A subcommand is the click command called `command` in the module of its name in this package.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

from agenticlu import __version__
from agenticlu.core.errors import (
    INTERRUPTED_EXIT_CODE,
    AgenticluError,
    ConfigError,
    StoreError,
    did_you_mean,
)
from agenticlu.core.printing import echo, guard_streams
from agenticlu.core.secrets import redact_text

COMMANDS: dict[str, str] = {
    "ask": "Ask a question of a document; get the answer and the passages behind it.",
    "read": "Read documents in the browser, with the passages behind each answer in sight.",
    "show": "Print documents as a model is shown them, and say what was left out.",
    "plan": "Estimate the cost of a search before it runs.",
    "generate": "Grow trees of clarifications over a corpus, into a crash-safe store.",
    "status": "Show the progress of a run, from any process, while it works.",
    "dataset": "Turn a run's trees into rows for SFT and DPO; import published data sets.",
    "train": "Fine-tune on traces, then on preference pairs, sharing each document's prefix.",
    "eval": "Evaluate methods on tasks and lengths; score saved predictions.",
    "loop": "Search, train and evaluate in one command, again from the trained model.",
    "report": "Show a run: results, costs, curves and every tree, in one HTML file.",
    "demo": "Run the whole loop, offline, on the bundled tiny model.",
    "serve": "Serve a model to any OpenAI-compatible client.",
    "mcp": "Give an assistant tools to ask and read documents (Model Context Protocol).",
    "prompts": "Extract the wordings of requests from a data set; check a profile.",
    "doctor": "Report what is installed, which engines answer, and how to fix the rest.",
    "cache": "List and clear what models of this process have kept of documents.",
    "trust": "Allow a folder's agenticlu.toml to choose servers, models and files.",
}
"""Subcommand to its one-line help, so that --help imports none of them."""


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the subcommands in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Imports the subcommand's module; None where there is no such subcommand."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"agenticlu.cli.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Adds a suggestion to click's message about an unknown subcommand."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], COMMANDS) if args else None
            if hint:
                raise click.UsageError(f"{error.message} {hint}", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table of subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def group(ctx: click.Context, debug: bool) -> None:
    """Understand documents too long to read, and teach a model to do it."""
    ctx.obj = {"debug": debug}


def main() -> None:
    """Runs the command line; turns errors into one message and a documented exit code."""
    guard_streams()
    debug = "--debug" in sys.argv[1:] or bool(os.environ.get("AGENTICLU_DEBUG"))
    try:
        code = _run()
    except AgenticluError as error:
        if debug:
            raise
        echo(f"agenticlu: {redact_text(error.message)}", err=True)
        if error.hint:
            echo(f"  {redact_text(error.hint)}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        echo(shown.getvalue(), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        # What has no file to go on from begins anew.
        resumes = any(word.partition("=")[0] == "--out" for word in sys.argv[1:])
        echo(
            "agenticlu: interrupted" + ("; run the same command again to resume." * resumes or "."),
            err=True,
        )
        sys.exit(INTERRUPTED_EXIT_CODE)
    sys.exit(code if isinstance(code, int) else 0)


def _run() -> Any:
    try:
        return group.main(standalone_mode=False)
    except FileNotFoundError as error:
        # PyTorch and others want such a folder as soon as they are imported.
        if "temporary directory" not in str(error):
            raise
        raise ConfigError(
            "No folder for temporary files can be written: neither /tmp, /var/tmp nor the working "
            "folder, nor what TMPDIR names.",
            hint="Name one: export TMPDIR=FOLDER",
        ) from error
    except PermissionError as error:
        # Even to ask whether a file is there may be refused, by a folder above it.
        raise StoreError(
            f"Cannot open {error.filename or 'a file'}: {error.strerror}.",
            hint="Check who may read it and the folders that it is in: ls -ld",
        ) from error
