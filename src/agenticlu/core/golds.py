"""Accepted answers as data sets write them, turned into texts.

Answers come as texts, numbers and truth values, in lists of lists, in SQuAD's `{"text": [...]}`,
TriviaQA's `{"value", "aliases"}`, KILT's `[{"answer", "provenance"}]`, Natural Questions'
`{"short_answers", "yes_no_answer"}`, DROP's `{"number", "date", "spans"}`, QASPER's
`{"free_form_answer", "extractive_spans", "yes_no"}`, as numpy arrays, or as JSON or Python written
into a cell. What is null, NaN or empty is no answer.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import io
import json
import math
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import without_lone_surrogates

GOLD_FORMS = (
    "a text, a number, true or false, a list of these, or an object with one of text, value, "
    "aliases, answer, short_answers, spans"
)
_PLAIN_KEYS = (
    *("text", "texts", "answer", "answers", "answer_text", "input_text", "gold", "target"),
    *("output", "span", "label"),
)
"""Keys of an object whose value is the answer, the first of them that holds one."""
_EVIDENCE_KEYS = frozenset(
    {"provenance", "meta", "answer_start", "answer_end", "start", "end", "start_token", "end_token"}
    | {"start_byte", "end_byte", "evidence", "highlighted_evidence", "annotation_id", "worker_id"}
    | {"id", "long_answer"}
)
"""Keys that say where an answer stands, not what it is."""
_CELL_CHARACTERS = 1_000_000


def read_golds(value: Any, *, as_written: bool = False) -> tuple[str, ...]:
    """Returns the accepted answers that a value holds; none where it is null or empty.

    Args:
        value: In any of the forms above.
        as_written: Whether to keep blanks around them, and those that are repeated; rules that
            count answers, or compare every character, need them. Else each is given once.

    Raises:
        DocumentError: The value has a form that is not known; names it.

    >>> read_golds({"value": "Ada", "aliases": ["A. Larkin", "Ada"]})
    ('Ada', 'A. Larkin')
    >>> read_golds([{"answer": "Ada", "provenance": []}, {"provenance": []}]), read_golds(3.0)
    (('Ada',), ('3',))
    """
    found = [text for text in _read(value, 0) if text]
    return tuple(found if as_written else dict.fromkeys(map(clean_text, found)))


def _read(value: Any, depth: int) -> list[str]:
    if depth > 32:
        raise DocumentError(f"answers are nested {depth} deep.", hint=f"Give {GOLD_FORMS}.")
    value = as_python(value)
    if is_absent(value):
        return []
    if isinstance(value, str):
        if (found := parse_cell(value)) is not None:
            return _read(found, depth + 1)
        return [value] if value.strip() else []
    if isinstance(value, bool):
        return ["yes", "true"] if value else ["no", "false"]
    if isinstance(value, int | float | decimal.Decimal):
        return [number_text(value)]
    if isinstance(value, datetime.date):
        at_midnight = isinstance(value, datetime.datetime) and value.time() == datetime.time()
        return [(value.date() if at_midnight else value).isoformat()]  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return _read_object(value, depth + 1)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [text for part in value for text in _read(part, depth + 1)]
    raise DocumentError(
        f"answers hold a value of the type {type(value).__name__}.", hint=f"Give {GOLD_FORMS}."
    )


def is_absent(value: Any) -> bool:
    """Whether a value is null, or the NaN that pandas writes for it (or an infinity)."""
    return value is None or (
        isinstance(value, float | decimal.Decimal) and not math.isfinite(value)
    )


def as_python(value: Any) -> Any:
    """Returns numpy's arrays and scalars as lists and numbers, bytes as text where they are."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def clean_text(text: str) -> str:
    """Returns a text without blanks around it and without half surrogate pairs."""
    return without_lone_surrogates(text).strip()


def number_text(value: float | decimal.Decimal) -> str:
    """Writes a number as people do: a table with a gap has 3.0 for 3."""
    whole = int(value)
    return str(whole) if value == whole and abs(whole) < 10**15 else str(value)


def _read_object(value: Mapping[str, Any], depth: int) -> list[str]:
    if {"value", "aliases", "normalized_aliases", "normalized_value"} & value.keys():  # TriviaQA
        said = _read([value.get("value"), value.get("aliases")], depth)
        lower = [value.get("normalized_value"), value.get("normalized_aliases")]
        return said or _read(lower, depth)
    if {"short_answers", "yes_no_answer"} & value.keys():  # Natural Questions
        return _read(value.get("short_answers"), depth) + _read_yes_no(value.get("yes_no_answer"))
    if {"free_form_answer", "extractive_spans"} & value.keys():  # QASPER
        said = _read([value.get("free_form_answer"), value.get("yes_no")], depth)
        return said or _joined(_read(value.get("extractive_spans"), depth))
    if "spans" in value:  # DROP
        return _read_drop(value, depth)
    if value.keys() == {"day", "month", "year"}:
        parts = (value[name] for name in ("day", "month", "year"))
        return [" ".join(str(part) for part in parts if not is_absent(part) and part != "")]
    for key in _PLAIN_KEYS:
        if key in value and (found := _read(value[key], depth)):
            return found
    if value.keys() <= _EVIDENCE_KEYS | set(_PLAIN_KEYS):
        has_place = {"start_token", "start_byte"} & value.keys()
        if not (has_place and not set(_PLAIN_KEYS) & value.keys()):
            return []
    names = ", ".join(repr(str(key)) for key in list(value)[:8])
    raise DocumentError(
        f"answers is an object with {names or 'nothing'}, which says no answer.",
        hint=f"Give {GOLD_FORMS}.",
    )


def _read_yes_no(value: Any) -> list[str]:
    """Reads Natural Questions' yes or no: 1, 0 or -1 for neither, or the words."""
    value = as_python(value)
    if isinstance(value, list | tuple):
        return [text for part in value for text in _read_yes_no(part)]
    known = {"yes": "yes", "1": "yes", "true": "yes", "no": "no", "0": "no", "false": "no"}
    found = known.get(str(value).strip().lower())
    return [found] if found else []


def _read_drop(value: Mapping[str, Any], depth: int) -> list[str]:
    """Reads DROP's answer; several spans of one annotator belong to one answer together."""
    said = _read([value.get("number"), value.get("date")], depth)
    spans = _read(value["spans"], depth)
    kinds = set(_read(value.get("types"), depth))
    if kinds - {"span"} or len(set(spans)) < len(spans):
        return said + spans  # one of each annotator
    return said + _joined(spans)


def _joined(parts: Sequence[str]) -> list[str]:
    """Returns parts as one answer, in the two ways in which people write it."""
    parts = list(map(str.strip, parts))
    if len(parts) < 2:
        return parts
    return [", ".join(parts), f"{', '.join(parts[:-1])} and {parts[-1]}"]


# --- Cells of a table ---


def parse_cell(text: str) -> Any:
    """Returns the list of texts, or the object, that is written into a cell; None for a text.

    A list of numbers stays a text: it is the answer of many a question.
    """
    plain = text.strip()
    if plain[:1] + plain[-1:] not in ("[]", "{}") or len(plain) > _CELL_CHARACTERS:
        return None
    found = load_json(plain)
    if found is None:
        found = load_python(plain)
    if isinstance(found, list) and _holds_texts(found):
        return found
    if isinstance(found, dict) and found:
        try:
            return found if _read_object(found, 1) else None
        except DocumentError:
            return None
    return None


def _holds_texts(value: list[Any]) -> bool:
    """Whether a list holds texts, objects or such lists alone."""
    return all(
        isinstance(part, str | dict)
        or part is None
        or (isinstance(part, list) and _holds_texts(part))
        for part in value
    )


def load_json(text: str) -> Any:
    """Returns the value of a JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def load_python(text: str) -> Any:
    """Returns the value of a literal as Python prints it, numpy's arrays included; else None."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return None
    parts: list[str] = []
    for token in tokens:
        if token.type in (tokenize.NL, tokenize.NEWLINE):
            continue
        if token.type == tokenize.STRING and parts and parts[-1][:1] in "'\"":
            parts.append(",")  # ['a' 'b'] are two: numpy prints no commas
        parts.append(token.string)
    plain = re.sub(r"\barray \( (\[[^()]*\]) (?:, dtype = \w+ )?\)", r"\1", " ".join(parts))
    try:
        return ast.literal_eval(plain.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
