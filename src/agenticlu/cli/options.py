"""Builds click commands from settings models: flags, help texts and configuration layers."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from agenticlu.core.config import FindPreset, Resolved, resolve
from agenticlu.core.errors import UsageError, raise_missing
from agenticlu.core.printing import confirm, echo, echo_json
from agenticlu.core.settings import (
    ModelSettings,
    Setting,
    Settings,
    parse_overrides,
    settings_of,
)

if TYPE_CHECKING:
    from agenticlu.core.records import Usage
    from agenticlu.documents.tokens import Tokenizer
    from agenticlu.engines import ModelChoice

Value = TypeVar("Value")
CONTEXT = {"help_option_names": ["-h", "--help"]}
BUNDLED_MODEL_NOTE = (
    "No model was named, so the bundled tiny model answers. It understands only its own invented "
    "world; for any other document name a model: --model FOLDER or --base-url ADDRESS."
)
ALIASES = f"{__name__}.aliases"
"""Key of click's context under which former flags leave their values."""


class Operand(click.Argument):
    """An argument that --show-config does not need."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Accepts a missing value where nothing but the settings is shown."""
        if ctx.params.get("show_config") and self.value_is_missing(value):
            return () if self.nargs == -1 else None
        return super().process_value(ctx, value)


def operand(name: str, **attributes: Any) -> Callable[[Any], Any]:
    """Adds a positional argument to a command made by `settings_command`."""
    return click.argument(name, cls=Operand, **attributes)


class SettingOption(click.Option):
    """The flag of one setting; its value is checked by the settings model, not here."""

    def __init__(self, setting: Setting) -> None:
        flag = setting.key.replace("_", "-")
        is_bool = _core_type(setting.annotation) is bool
        names = setting.spelling.flags or (f"--{flag}/--no-{flag}" if is_bool else f"--{flag}",)
        many = setting.is_list or setting.is_table
        super().__init__(
            [setting.name, *names],
            metavar=None if is_bool else _metavar(setting),
            multiple=many,
            default=None,
            help=_help(setting),
            is_flag=is_bool,
            type=None if is_bool else click.UNPROCESSED,
        )
        self.setting = setting

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Leaves out --no-x where that is the default anyway."""
        if self.setting.default is False and not self.setting.spelling.flags:
            secondary, self.secondary_opts = self.secondary_opts, []
            try:
                return super().get_help_record(ctx)
            finally:
                self.secondary_opts = secondary
        return super().get_help_record(ctx)


class AliasOption(SettingOption):
    """A former flag: hidden, and says what it is called now."""

    def __init__(self, setting: Setting, alias: str) -> None:
        super().__init__(setting)
        self.hidden = True
        self.expose_value = False
        self.opts, self.secondary_opts = [f"--{alias.replace('_', '-')}"], []
        self.name = f"former_{alias}"  # a field may have the former name: values go by name

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Passes the value to the current flag."""
        value = super().process_value(ctx, value)
        if value not in (None, ()):
            echo(f"{self.opts[0]} is now --{self.setting.key.replace('_', '-')}.", err=True)
            ctx.meta.setdefault(ALIASES, {})[self.setting.key] = value
        return value


class ShortcutOption(SettingOption):
    """A flag without a value that stands for one of a setting."""

    def __init__(self, setting: Setting, name: str, value: str) -> None:
        super().__init__(setting)
        self._value = value
        self.expose_value = False
        self.opts, self.secondary_opts = [f"--{name.replace('_', '-')}"], []
        self.name = f"shortcut_{name}"
        self.is_flag, self.flag_value, self.multiple = True, True, False
        self.type, self.metavar = click.BOOL, None
        self.help = f"Same as --{setting.key.replace('_', '-')} {value}."

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Passes the value to the setting's own flag."""
        value = super().process_value(ctx, value)
        if value:
            ctx.meta.setdefault(ALIASES, {})[self.setting.key] = self._value
        return value


class CommandOptions(TypedDict, total=False):
    """The options of a command that differ from others over the same settings."""

    name: str
    """Name of the command; default: the last part of its table."""
    inherits: Sequence[str]
    """Tables that apply where the command's own says nothing, weakest first."""
    without: Sequence[str]
    """Keys of the model that the command does not have."""
    find_preset: FindPreset
    """Expands a setting that stands for others."""
    refine: Callable[[Resolved[Any]], Sequence[str]] | None
    """Returns the tables to inherit, where that depends on the settings."""
    overrides: bool
    """Whether `--set KEY=VALUE` may change settings."""
    extra: str
    """Extra that installs what the command needs."""


class SettingsCommand(click.Command):
    """A command whose options are the fields of a settings model.

    Args:
        function: Called with the `Resolved` settings and the operands.
        settings: The model.
        section: The command's table, such as 'train.sft'.
        **options: See `CommandOptions`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        settings: type[Settings],
        section: str,
        **options: Unpack[CommandOptions],
    ) -> None:
        self.settings, self.section, self._given = settings, section, options
        self.without = tuple(options.get("without", ()))
        self._by_key = {k: one for k, one in settings_of(settings).items() if k not in self.without}
        operands = reversed(getattr(function, "__click_params__", []))
        super().__init__(
            options.get("name", section.rpartition(".")[2]),
            callback=function,
            params=[*operands, *_options(self._by_key, options.get("overrides", False))],
            help=function.__doc__,
            context_settings=CONTEXT,
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Resolves the settings and calls the function, or shows them."""
        assert self.callback is not None
        params = dict(ctx.params)
        config_file, show = params.pop("config_file"), params.pop("show_config")
        changes = parse_overrides(params.pop("changes", ()))
        flags = _take_flags(self._by_key, ctx, params) | changes
        resolved = self._resolve(flags, config_file, unchecked=show)
        for note in resolved.notes:
            echo(note, err=True)
        if show and resolved.given.get("json"):
            return echo_json(resolved.as_dict())
        if show:
            return echo(resolved.describe())
        try:
            return ctx.invoke(self.callback, resolved, **params)
        except ModuleNotFoundError as error:
            raise_missing(error, self._given.get("extra"))

    def _resolve(
        self, flags: Mapping[str, object], config_file: str | None, *, unchecked: bool
    ) -> Resolved[Settings]:
        fill = functools.partial(
            resolve,
            self.settings,
            section=self.section,
            without=self.without,
            flags=flags,
            config_file=config_file,
            find_preset=self._given.get("find_preset"),
            confirm=confirm if sys.stdin.isatty() and sys.stderr.isatty() else None,
        )
        refine, inherits = self._given.get("refine"), self._given.get("inherits", ())
        if refine is not None:
            inherits = refine(fill(inherits=inherits, unchecked=True))
        return fill(inherits=inherits, unchecked=unchecked)


def settings_command(
    settings: type[Settings],
    section: str,
    *,
    group: click.Group | None = None,
    **options: Unpack[CommandOptions],
) -> Callable[[Callable[..., Any]], SettingsCommand]:
    """Makes a function a `SettingsCommand`, and adds it to a group."""

    def decorate(function: Callable[..., Any]) -> SettingsCommand:
        command = SettingsCommand(function, settings, section, **options)
        if group is not None:
            group.add_command(command)
        return command

    return decorate


def _take_flags(
    settings: Mapping[str, Setting], ctx: click.Context, params: dict[str, Any]
) -> dict[str, object]:
    """Takes the flags that were given out of click's parameters; opens lists and tables."""
    former = ctx.meta.get(ALIASES, {})
    flags = {key: params.pop(one.name) for key, one in settings.items()}
    flags = {key: former.get(key) if value in (None, ()) else value for key, value in flags.items()}
    return {
        key: settings[key].parse_words(value) if isinstance(value, tuple) else value
        for key, value in flags.items()
        if value is not None
    }


def _options(settings: Mapping[str, Setting], overrides: bool) -> list[click.Option]:
    options: list[click.Option] = []
    for setting in settings.values():
        options.append(SettingOption(setting))
        options += [AliasOption(setting, alias) for alias in setting.spelling.aliases]
        options += [ShortcutOption(setting, *one) for one in setting.spelling.shortcuts]
    if overrides:
        options.append(
            click.Option(
                ["changes", "--set"],
                multiple=True,
                metavar="KEY=VALUE",
                help="Change any setting; repeatable.",
            )
        )
    options.append(
        click.Option(["config_file", "--config"], metavar="FILE", help="TOML file of settings.")
    )
    options.append(
        click.Option(
            ["show_config", "--show-config"],
            is_flag=True,
            is_eager=True,
            help="Print every setting and its origin, and stop.",
        )
    )
    return options


def _help(setting: Setting) -> str:
    default = setting.default
    if isinstance(default, list | tuple):
        default = ", ".join(map(str, default))
    if default is True:
        default = (*setting.spelling.flags, setting.key)[0].partition("/")[0].removeprefix("--")
    is_nothing = default is None or default is False or default in ("", {})
    shown = f"{default:g}" if isinstance(default, float) else str(default)
    facts = [] if is_nothing else [f"default: {shown}"]
    facts += _bounds(setting.annotation)
    facts += ["repeatable"] if setting.is_list else []
    return setting.help.replace("`", "") + (f"  [{'; '.join(facts)}]" if facts else "")


def _bounds(annotation: Any) -> list[str]:
    """Returns the bounds of a number, wherever in its type they are."""
    found = []
    for part in get_args(annotation):
        for one in part.metadata if isinstance(part, FieldInfo) else [part]:
            for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
                if (bound := getattr(one, name, None)) is not None:
                    found.append(f"{sign} {bound}")
        found += _bounds(part)
    return found


def _core_type(annotation: Any) -> Any:
    """Returns the type of a value or of a list's items: limits and None aside."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal or not parts or origin is dict:
        return annotation
    return next((_core_type(part) for part in parts if part is not type(None)), str)


def _metavar(setting: Setting) -> str:
    if setting.spelling.metavar:
        return setting.spelling.metavar
    if setting.is_table:
        return "NAME=VALUE"
    core = _core_type(setting.annotation)
    if get_origin(core) is Literal:
        return f"[{'|'.join(map(str, get_args(core)))}]"
    return {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(core, "TEXT")


class DefaultGroup(click.Group):
    """A group that runs its command `run` where no subcommand is named, and shows its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `run` in front unless a subcommand or help comes first."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options of `run`, then the subcommands."""
        run = self.commands["run"]
        with click.Context(run, info_name=self.name, parent=ctx.parent) as inner:
            run.format_options(inner, formatter)
        self.format_commands(ctx, formatter)


def model_choice(settings: ModelSettings, **more: Any) -> ModelChoice:
    """Returns the model that settings name, not loaded yet.

    Args:
        settings: Of a command that asks a model.
        **more: Further arguments of `ModelChoice`.
    """
    from agenticlu.engines import ModelChoice
    from agenticlu.engines.thinking import Thinking

    return ModelChoice(
        settings.model,
        settings.base_url,
        settings.api_key_env,
        settings.timeout,
        settings.window,
        thinking=Thinking(settings.thinking, settings.thinking_tokens),
        trust_remote_code=settings.trust_remote_code,
        **more,
    )


def note_bundled(settings: ModelSettings, *, quiet: bool = False) -> None:
    """Says on standard error that the bundled model answers, where it does."""
    if settings.bundled and not quiet:
        echo(BUNDLED_MODEL_NOTE, err=True)


def note_estimate(settings: ModelSettings, tokenizer: Tokenizer, *, quiet: bool = False) -> None:
    """Says on standard error that tokens are estimated, where they are."""
    from agenticlu.documents.tokens import ApproximateTokenizer

    if isinstance(tokenizer, ApproximateTokenizer) and not quiet:
        echo(
            f"The tokenizer of {settings.model or 'the served model'} was not found, so tokens "
            "are estimated; --tokenizer NAME counts them exactly.",
            err=True,
        )


def render_setup(setup: Usage) -> str:
    """Returns what finding out about a server has cost, as a sentence."""
    number = "one was" if setup.requests == 1 else f"{setup.requests:,} were"
    return (
        f"Of these requests {number} setup, which found out about the server: "
        f"{setup.prompt_tokens:,} prompt and {setup.completion_tokens:,} sampled tokens."
    )


def require(value: Value | None, flag: str, example: str) -> Value:
    """Returns the value of an option that only some uses of a command need.

    Raises:
        UsageError: It was not given.
    """
    if value is None:
        raise UsageError(f"Missing option {flag}.", hint=example)
    return value
