"""Base classes of settings models: each field with its flag, key and origin, values checked."""

from __future__ import annotations

import functools
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from agenticlu.core.errors import AgenticluError, ConfigError, UsageError, did_you_mean
from agenticlu.core.limits import PrefixLimits, ReadingLimits
from agenticlu.core.records import Prices
from agenticlu.core.secrets import BLANK, is_secret_name, redact_text


class Settings(BaseModel):
    """Base of all settings: frozen, unknown fields refused; a field's docstring is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True
    )


SettingsT = TypeVar("SettingsT", bound=Settings)


PartT = TypeVar("PartT", bound=Settings)


@dataclass(frozen=True)
class Spelling:
    """Metadata of a field whose name and type do not say how users write it."""

    key: str = ""
    """Key in files, and the long flag; empty: the field's name."""
    flags: tuple[str, ...] = ()
    """Flags in click's form, such as ('-m', '--traces-per-trie'); empty: made from the key."""
    metavar: str = ""
    """Placeholder of the value in --help; empty: made from the type."""
    aliases: tuple[str, ...] = ()
    """Former keys; they still work, with a note that names the current key."""
    shortcuts: tuple[tuple[str, str], ...] = ()
    """Flags without a value that stand for one: (('no_thinking', 'off'),)."""
    separator: str = ","
    """Divides the items of a list in one word; empty: the items are free text."""


@dataclass(frozen=True)
class Setting:
    """One setting of a model."""

    name: str
    """Field of the model."""
    key: str
    annotation: Any
    """Type with its limits."""
    default: Any
    required: bool
    help: str
    spelling: Spelling

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return _is_sequence(self.annotation)

    @property
    def is_table(self) -> bool:
        """Whether it maps names to values."""
        return _bare_origin(self.annotation) is dict

    def parse_words(self, words: Sequence[str]) -> object:
        """Reads a list or a table from words of a command line or a variable."""
        if not self.spelling.separator:
            return list(words)
        parts = [part.strip() for word in words for part in word.split(self.spelling.separator)]
        if not self.is_table:
            return list(dict.fromkeys(part for part in parts if part))
        pairs = [part.partition("=") for part in parts if part]
        if not all(equals for _, equals, _ in pairs):
            raise UsageError(f"--{self.key.replace('_', '-')} takes NAME=VALUE.")
        return {name.strip(): value.strip() for name, _, value in pairs}


@functools.cache
def settings_of(model: type[Settings]) -> dict[str, Setting]:
    """Returns the settings of a model by key, its own before those of its bases."""
    found = {}
    own_first = dict.fromkeys(
        name for base in model.__mro__ for name in vars(base).get("__annotations__", ())
    )
    for name in (one for one in own_first if one in model.model_fields):
        info = model.model_fields[name]
        spelling = next((m for m in info.metadata if isinstance(m, Spelling)), Spelling())
        limits = [m for m in info.metadata if not isinstance(m, Spelling)]
        annotation: Any = info.annotation
        if limits:
            annotation = Annotated[(annotation, *limits)]
        key = spelling.key or name
        found[key] = Setting(
            name=name,
            key=key,
            annotation=annotation,
            default=None if info.is_required() else info.get_default(call_default_factory=True),
            required=info.is_required(),
            help=" ".join((info.description or "").split()),
            spelling=spelling,
        )
    return found


def select(settings: Settings, part: type[PartT]) -> PartT:
    """Returns those of a command's settings that another model has."""
    return part.model_validate({name: getattr(settings, name) for name in part.model_fields})


def change(settings: SettingsT, changes: Mapping[str, object]) -> SettingsT:
    """Returns settings with some of them changed, checked as a whole.

    Raises:
        ConfigError: An unknown key, or a wrong value.
    """
    try:
        return type(settings).model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        raise invalid_settings(error, dict.fromkeys(changes, "flag")) from error


def parse_overrides(overrides: Iterable[str]) -> dict[str, object]:
    """Reads 'key=value' words of a command line; values as in TOML, else plain text.

    >>> parse_overrides(["lr=1e-4", "name=tiny", "lengths=[256, 512]"])
    {'lr': 0.0001, 'name': 'tiny', 'lengths': [256, 512]}
    """
    values: dict[str, object] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"{override!r} is not of the form key=value.")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text.strip()}")["value"]
        except (tomllib.TOMLDecodeError, KeyError):
            values[key.strip()] = text.strip()
    return values


def public_value(name: str, value: Any) -> Any:
    """Returns one setting's value for JSON: a secret is not shown, credentials are masked."""
    if isinstance(value, SecretStr) or (value is not None and is_secret_name(name)):
        return "(not saved)"
    if isinstance(value, Mapping):
        return {str(key): public_value(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [public_value("", item) for item in items]
    if isinstance(value, bool | int | None):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return redact_text(str(value))


def check_value(setting: Setting, value: object, origin: str) -> object:
    """Returns a value in the setting's type."""
    from_file = not (origin == "flag" or origin.startswith("environment "))
    adapter = _adapter(setting.annotation)
    try:
        if isinstance(value, str) and origin.startswith("environment "):
            value = _parse_text(value, setting)
        if setting.is_list and not isinstance(value, list | tuple):
            value = [value]
        if from_file:  # by JSON: a TOML array is a tuple's JSON form, but "3" is not a number
            return adapter.validate_json(json.dumps(value, default=str), strict=True)
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _wrong_value(setting, value, origin, error) from error


@functools.lru_cache(maxsize=1024)
def _adapter(annotation: Any) -> TypeAdapter[object]:
    return TypeAdapter(annotation)


def _wrong_value(
    setting: Setting, value: object, origin: str, error: ValidationError
) -> AgenticluError:
    problem = error.errors()[0]
    must = problem["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    shown = str(value) if origin == "flag" and isinstance(value, str) else repr(value)
    shown = BLANK if is_secret_name(setting.key) else redact_text(shown)
    hint = did_you_mean(str(problem.get("input")), map(str, _choices(setting.annotation)))
    if origin == "flag":
        return UsageError(f"--{setting.key.replace('_', '-')} {shown}: {must}.", hint=hint)
    return ConfigError(f"{setting.key} = {shown} ({origin}): {must}.", hint=hint)


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Returns the allowed values of a Literal, wherever in the type it is."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for part in get_args(annotation) for choice in _choices(part))


def _parse_text(text: str, setting: Setting) -> object:
    """Reads a variable's text: JSON for lists and tables, else words with commas between them."""
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except ValueError:
            return text
    return setting.parse_words([text]) if setting.is_list or setting.is_table else text


def _bare_origin(annotation: Any) -> Any:
    """Returns the origin of a type, its limits and an alternative of None aside."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _bare_origin(get_args(annotation)[0])
    return origin


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in {list, tuple, set, frozenset, Sequence}:
        return True
    return any(_is_sequence(part) for part in get_args(annotation) if origin is not dict)


def unknown_key(key: str, allowed: Iterable[str], origin: str) -> ConfigError:
    """Builds the error for a key that no setting has."""
    allowed = list(allowed)
    return ConfigError(
        f"Unknown key {key!r} ({origin}).",
        hint=did_you_mean(key, allowed) or f"Known keys: {', '.join(allowed)}.",
    )


def invalid_settings(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    """Builds the error for settings that are wrong as a whole."""
    lines = []
    for problem in error.errors(include_input=False):
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{key} ({origins.get(key, 'default')}): {message}" if key else message)
    return ConfigError("Invalid settings: " + "; ".join(lines) + ".")


# --- Settings that commands share -----------------------------------------------------------------


def parse_token_count(value: object) -> object:
    """Reads a number of tokens; `8k` means 8192.

    >>> parse_token_count("8k"), parse_token_count("300"), parse_token_count(300)
    (8192, '300', 300)
    """
    if isinstance(value, str) and value.lower().endswith("k") and value[:-1].isdigit():
        return int(value[:-1]) * 1024
    return value


TokenCount = Annotated[int, BeforeValidator(parse_token_count), Field(ge=1)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TimeoutSettings(Settings):
    """Patience with one request."""

    timeout: Seconds = 600.0
    """Timeout of one request to a server, in seconds."""


Effort = Literal["auto", "on", "off", "low", "medium", "high"]
"""How much a model thinks before it replies; auto: as it does by itself."""
THINKING_TOKENS = 16_384
"""Most tokens of thought before one reply, where nothing else is said."""


class ThinkingSettings(Settings):
    """How much the model that answers may think before it replies."""

    thinking: Annotated[Effort, Spelling(shortcuts=(("no_thinking", "off"),))] = "auto"
    """Thinking before a reply: on or off where the model can do both, or the effort to ask for.
    auto: as a server's model does by itself; off for a model in this process."""
    thinking_tokens: TokenCount = THINKING_TOKENS
    """Most tokens of thought before a reply, beside the reply's own limit; 8k means 8192."""


class TrustSettings(Settings):
    """What models in this process may do."""

    trust_remote_code: bool = False
    """Run code that a model's folder brings, for classes that transformers does not have."""


class ModelSettings(TimeoutSettings, ThinkingSettings, TrustSettings):
    """The model that answers."""

    model: str | None = None
    """Model folder in Hugging Face layout, GGUF file, hub id (owner/name), or the name of a served
    model. Without a model and a server the bundled tiny model answers."""
    base_url: tuple[str, ...] = ()
    """Address of an OpenAI-compatible server; repeat it for a pool of replicas."""
    api_key_env: Annotated[str, Spelling(metavar="NAME")] = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    tokenizer: Annotated[str | None, Spelling(metavar="NAME")] = None
    """Folder or hub id of the tokenizer. Default: the model's own, else an estimate."""
    window: Annotated[TokenCount | None, Spelling(metavar="TOKENS")] = None
    """Longest prompt plus reply that the model takes, such as 8192 or 8k. Default: what the server
    or the model says."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format of a model in this process. Default: float32 on a CPU, else the checkpoint's
    own. bfloat16 is about twice as fast on CPUs that have it (avx512_bf16, amx)."""

    @property
    def bundled(self) -> bool:
        """Whether neither a model nor a server was named."""
        return self.model is None and not self.base_url

    @property
    def most_thinking_tokens(self) -> int:
        """Most tokens of thought before a reply; 0 where the settings say that there is none."""
        silent = ("off",) if self.base_url else ("auto", "off")
        return 0 if self.thinking in silent else self.thinking_tokens


class JudgeSettings(TimeoutSettings, TrustSettings):
    """The models that judge."""

    judge_model: tuple[str, ...] = ()
    """Model of the judge 'llm'; several models vote."""
    judge_base_url: tuple[str, ...] = ()
    """Address of the judges' server."""
    judge_api_key_env: Annotated[str, Spelling(metavar="NAME")] = "OPENAI_API_KEY"
    """Environment variable that holds the judges' key."""
    patience: Annotated[float, Field(ge=0)] = 900.0
    """Seconds without an answer from any server before the run gives up."""
    judge_thinking: Effort = "auto"
    """The judges' thinking before a verdict; as --thinking."""
    judge_thinking_tokens: TokenCount = THINKING_TOKENS
    """Most tokens of a judge's thought before a verdict."""


class PriceSettings(Settings):
    """Prices of tokens."""

    price_in: Price | None = None
    """Price of a million prompt tokens."""
    price_cached: Price | None = None
    """Price of a million cached prompt tokens. Default: that of prompt tokens."""
    price_out: Price | None = None
    """Price of a million sampled tokens."""

    def prices(self, tokens_per_s: float | None = None) -> Prices:
        """Returns the prices, with a rate in computed tokens a second.

        Raises:
            UsageError: Of prompt and sampled tokens only one has a price.
        """
        return Prices(self.price_in, self.price_out, self.price_cached, tokens_per_s)


class ReadingSettings(Settings):
    """Documents that are read as one."""

    max_files: Positive = 2000
    """Most files that are read as one."""
    max_mib: Positive = 512
    """Most MiB that the files read as one may take."""
    allow_private: bool = False
    """Let an address redirect into private networks."""
    ocr: bool = False
    """Recognise the text of PDF pages that are pictures (needs Tesseract)."""
    ocr_languages: str = "eng"
    """Tesseract's names of the languages of such pages, such as deu+eng."""

    @property
    def limits(self) -> ReadingLimits:
        """The same for the library."""
        ocr = self.ocr_languages if self.ocr else ""
        return ReadingLimits(self.max_files, self.max_mib, self.allow_private, ocr)


class PrefixSettings(Settings):
    """What a model of this process has read: kept in memory, and on disk for later commands."""

    cache_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """GiB of memory for what a model of this process has read, the least recently used going first;
    the document being asked stays, whatever it takes. 0 keeps nothing."""

    prefix_cache: Annotated[Path | None, Spelling(metavar="FOLDER")] = None
    """Folder in which a model of this process keeps what it has read of documents, so that later
    commands need not read it again. Default: the user's own, ~/.cache/agenticlu/prefixes."""
    prefix_cache_gib: Annotated[
        float,
        Field(ge=0, allow_inf_nan=False),
        Spelling(shortcuts=(("no_prefix_cache", "0"),)),
    ] = 8.0
    """GiB that it may hold, the least recently used going first; 0 keeps nothing."""

    @property
    def prefixes(self) -> PrefixLimits:
        """The same for the library."""
        folder = None if self.prefix_cache is None else str(self.prefix_cache)
        return PrefixLimits(folder, self.prefix_cache_gib, self.cache_gib)


class JsonSettings(Settings):
    """A result for programs."""

    as_json: Annotated[bool, Spelling(key="json")] = False
    """Print JSON."""
