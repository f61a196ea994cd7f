"""Under what a prediction was asked: results are compared only where they share it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Prediction, content_id
from agenticlu.evaluation.config import EvaluationConfig
from agenticlu.evaluation.fingerprint import tokenizer_key
from agenticlu.evaluation.methods import Settings, find_method, wordings_of

Conditions = dict[str, str | int | float | bool | None]

SHARED = (
    "temperature",
    "top_p",
    "seed",
    "max_tokens",
    "piece_tokens",
    "tokenizer",
    "as_published",
)
"""Settings that all results of a folder have in common."""
OF_TASKS = (
    "questions_per_document",
    "shots",
    "templates",
    "chat",
    "haystack",
    "words",
    "helmet_tokenizer",
)
"""Settings that all results of a task have in common."""
OF_METHODS = ("rounds", "top_k", "retriever", "wording")
"""Settings that all results of a method have in common."""
MODEL = ("weights", "profile")
"""What tells one model under a label from another: the later one's results replace the earlier's,
and those of different labels are what is compared."""
_FILES = ("templates", "haystack")


def conditions_of(
    config: EvaluationConfig, settings: Settings, method: str, rounds: int | None = None
) -> Conditions:
    """Returns what the predictions of a method are asked under.

    Args:
        config: Of the run.
        settings: Of its methods.
        method: Its name, without a number of rounds.
        rounds: Where the method has several.
    """
    options = {name: config.options.get(name) for name in OF_TASKS} | {"chat": config.chat}
    found: Conditions = {
        **{name: getattr(config, name) for name in SHARED},
        "tokenizer": tokenizer_key(settings.tokenizer),
        **{name: _file(value) if name in _FILES else value for name, value in options.items()},
        "questions_per_document": config.questions_per_document,
        "weights": config.model_fingerprint,
        "profile": profile_key(settings),
    }
    if rounds is not None:
        found["rounds"] = rounds
    if find_method(method).retrieves:
        found |= {"top_k": config.top_k, "retriever": config.retriever}
    if texts := wordings_of(find_method(method)):
        found["wording"] = content_id(*texts)
    return found


def profile_key(settings: Settings) -> str:
    """Returns a hash of the wordings."""
    return content_id(settings.profile.model_dump_json())


def refuse_mixing(
    found: Iterable[Prediction],
    wanted: Mapping[str, Conditions],
    tasks: Iterable[str],
    folder: Path,
) -> None:
    """Raises UsageError where a folder's results and those of a run could not be compared.

    Args:
        found: What the folder holds.
        wanted: Method to what the run asks under.
        tasks: Of the run.
        folder: For the message.
    """
    tasks = frozenset(tasks)
    common = next(iter(wanted.values()))
    for prediction in found:
        known = prediction.conditions
        if not known:
            continue
        names = [*SHARED, *(OF_TASKS if prediction.task in tasks else ())]
        differing = {
            name: (known.get(name), common[name])
            for name in names
            if known.get(name) != common[name]
        }
        own = wanted.get(prediction.method, {})
        differing |= {
            name: (known[name], own[name])
            for name in OF_METHODS
            if name in known and name in own and known[name] != own[name]
        }
        if differing:
            raise _mixing(prediction, differing, folder)


def _mixing(
    prediction: Prediction, differing: Mapping[str, tuple[Any, Any]], folder: Path
) -> UsageError:
    said = [
        "its lengths were counted by another tokenizer"
        if name == "tokenizer"
        else f"{name} was {_shown(there)} and is now {_shown(now)}"
        for name, (there, now) in differing.items()
    ]
    again = " ".join(_flag(name, there) for name, (there, _) in differing.items())
    hint = f"Use another --out, or the setting of before: {again}."
    if "rounds" in differing:
        hint = "Use another --out, or --rounds 1,2,... for several numbers side by side."
    return UsageError(
        f"{str(folder)!r} holds results ({prediction.method} on {prediction.task}) that cannot be "
        f"compared with this run's: {'; '.join(said)}.",
        hint=hint,
    )


def _flag(name: str, value: Any) -> str:
    """Returns what was typed for a value, as far as it can be told."""
    flag = f"--{name.replace('_', '-')}"
    if name == "chat" and value is False:
        return "--no-chat"
    if value is None or value is False:
        return f"no {flag}"
    if value is True:
        return flag
    return f"{flag} {'...' if name in ('tokenizer', 'wording', *_FILES) else value}"


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def _file(value: Any) -> str | None:
    """Returns a file's name with a hash of what it holds, so that a changed file is noticed."""
    if value is None:
        return None
    path = Path(str(value))
    if not path.is_file():
        return path.name
    return f"{path.name} ({content_id(path.read_bytes().decode('latin-1'))[:8]})"


def current(
    found: Mapping[str, Prediction], known: Mapping[str, Conditions] | None = None
) -> tuple[list[Prediction], dict[str, int]]:
    """Returns the predictions to be shown, and how many of each label are left out.

    A label stands for one model: of several weights or wordings under one label, those of its last
    prediction are shown. Of several predictions of one question the last one is.

    Args:
        found: A folder's predictions by id, the last ones last.
        known: Label to the conditions of its present model, where a run knows them.
    """
    models = {p.engine: _model_of(p.conditions) for p in found.values()}
    models |= {label: _model_of(conditions) for label, conditions in (known or {}).items()}
    shown: dict[tuple[str, str, str, int, str, str], Prediction] = {}
    left_out: dict[str, int] = {}
    for p in found.values():
        if _model_of(p.conditions) == models[p.engine]:
            shown[(p.engine, p.method, p.task, p.length, p.document_id, p.question_id)] = p
        else:
            left_out[p.engine] = left_out.get(p.engine, 0) + 1
    return list(shown.values()), left_out


def _model_of(conditions: Conditions) -> tuple[str | int | float | bool | None, ...]:
    return tuple(conditions.get(name) for name in MODEL)
