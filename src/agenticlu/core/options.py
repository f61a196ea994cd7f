"""Options of multiple choice as data sets write them, their letters, and the one that is right."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agenticlu.core.errors import DocumentError
from agenticlu.core.golds import (
    as_python,
    clean_text,
    is_absent,
    load_json,
    load_python,
    number_text,
    parse_cell,
    read_golds,
)

MOST_LETTERS = 702
"""Letters of options go to ZZ."""


@dataclass(frozen=True)
class Options:
    """The options of a multiple-choice question."""

    texts: tuple[str, ...] = ()
    """Without letters."""
    labels: tuple[str, ...] = ()
    """What the data set calls them, such as A or 1; in their order."""


def option_letter(number: int) -> str:
    """Returns the letter of an option, counted from 0: A to Z, then AA, AB and on.

    >>> option_letter(1), option_letter(26)
    ('B', 'AA')
    """
    assert 0 <= number < MOST_LETTERS
    first, second = divmod(number, 26)
    return (string.ascii_uppercase[first - 1] if first else "") + string.ascii_uppercase[second]


def option_number(letter: str) -> int:
    """Returns the number of an option, counted from 0, of its letter; see `option_letter`."""
    number = 0
    for char in letter:
        number = number * 26 + ord(char) - ord("A") + 1
    return number - 1


def read_options(value: Any) -> Options:
    """Returns the options that a value holds.

    Texts in a list; ARC's `{"label": [...], "text": [...]}` or `[{"label", "text"}]`; an object of
    letters; any of these as JSON in a cell; or lines that begin with their letters.

    Raises:
        DocumentError: The value has a form that is not known.

    >>> read_options({"label": ["1", "2"], "text": ["red", "blue"]})
    Options(texts=('red', 'blue'), labels=('1', '2'))
    """
    value = as_python(value)
    if is_absent(value) or value in ("", [], {}, ()):
        return Options()
    if isinstance(value, str):
        found = parse_cell(value) or load_json(value) or load_python(value)
        if not isinstance(found, list | dict):
            found = [line for line in value.splitlines() if line.strip()]
            if len(found) < 2 or not _lettered(found):
                raise _options_error(value)
        value = found
    if isinstance(value, Mapping):
        return _options_of_object(value)
    parts = [as_python(part) for part in value] if isinstance(value, Iterable) else []
    if parts and all(isinstance(part, Mapping) for part in parts):
        labels = [_first_of(part, "label", "key", "id", "option_id") for part in parts]
        texts = [_first_of(part, "text", "option", "content", "value") for part in parts]
        return _build_options(texts, labels if all(labels) else None)
    if not parts or any(isinstance(part, list | tuple | Mapping) for part in parts):
        raise _options_error(value)
    return _build_options(parts, None)


def _options_of_object(value: Mapping[str, Any]) -> Options:
    texts = as_python(value.get("text", value.get("texts")))
    if isinstance(texts, list | tuple):
        labels = as_python(value.get("label", value.get("labels")))
        return _build_options(texts, labels if isinstance(labels, list | tuple) else None)
    if len(value) > 1 and all(re.fullmatch(r"[A-Za-z]|\d{1,2}", str(key)) for key in value):
        kept = {key: text for key, text in value.items() if not is_absent(text)}
        return _build_options(list(kept.values()), list(kept))
    raise _options_error(value)


def _first_of(part: Mapping[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if not is_absent(part.get(name))), None)


def _build_options(texts: Sequence[Any], labels: Sequence[Any] | None) -> Options:
    if any(is_absent(text) or isinstance(text, list | dict) for text in texts):
        raise _options_error(texts)
    plain = [clean_text(text) if isinstance(text, str) else _plain_value(text) for text in texts]
    if len(plain) > MOST_LETTERS:
        raise DocumentError(f"There are {len(plain):,} options; at most {MOST_LETTERS} are read.")
    if without := _lettered(plain):
        plain = without
    own = [str(label).strip() for label in labels or ()]
    if len(own) != len(plain):
        own = [option_letter(number) for number in range(len(plain))]
    return Options(tuple(plain), tuple(own))


def _plain_value(value: Any) -> str:
    return str(value) if isinstance(value, bool) else next(iter(read_golds(value)), "")


def _lettered(texts: Sequence[str]) -> list[str] | None:
    """Returns texts without the letters that they begin with; None where they have none."""
    without = []
    for number, text in enumerate(texts):
        letter = option_letter(number)
        found = re.match(rf"\s*(?:\({letter}\)|{letter}[.):])\s+(?=\S)", text, re.IGNORECASE)
        if not found:
            return None
        without.append(text[found.end() :].strip())
    return without


def _options_error(value: Any) -> DocumentError:
    return DocumentError(
        f"options must be a list of strings, not {value!r:.120}",
        hint='Give ["red", "blue"] or {"label": ["A", "B"], "text": ["red", "blue"]}.',
    )


def find_option(golds: Any, options: Options, *, from_one: bool = False) -> int | None:
    """Returns the number of the option that golds name, counted from 0; None where they name none.

    A gold is an option's label with its text (`B. blue`), its text, its label, or its position; the
    first of these that any of the golds is counts.

    Args:
        golds: One or several, as the data set has them.
        options: Of the question.
        from_one: Whether positions are counted from 1, as QuALITY does.

    >>> find_option("b", Options(("red", "blue"), ("A", "B"))), find_option(1, Options(("a", "b")))
    (1, 1)
    """
    golds = as_python(golds)
    parts = map(as_python, golds) if isinstance(golds, list | tuple) else (golds,)
    said = [
        clean_text(part) if isinstance(part, str) else number_text(part)
        for part in parts
        if isinstance(part, str)
        or (isinstance(part, int | float) and not isinstance(part, bool) and not is_absent(part))
    ]
    for names in _names(options):
        for fold in (str, str.casefold):
            known = {fold(name): number for name, number in reversed(names)}
            for one in said:
                if fold(one) in known:
                    return known[fold(one)]
    for one in said:
        if re.fullmatch(r"\d{1,3}", one) and 0 <= int(one) - from_one < len(options.texts):
            return int(one) - from_one
    return None


def _names(options: Options) -> Iterable[list[tuple[str, int]]]:
    """Yields the names of options with their numbers, the plainest kind first."""
    labels = options.labels or tuple(option_letter(n) for n in range(len(options.texts)))
    pairs = list(enumerate(zip(labels, options.texts, strict=True)))
    forms = ("{}. {}", "{}) {}", "({}) {}", "{}: {}")
    yield [(form.format(*pair), number) for number, pair in pairs for form in forms]
    yield [(text, number) for number, (_, text) in pairs]
    alone = ("{}", "({})", "{}.", "{})", "{}:")
    yield [(form.format(label), number) for number, (label, _) in pairs for form in alone]


FROM_ONE = ("gold_label",)
"""Columns that count options from 1 (QuALITY's); the others count from 0."""


def right_options(
    golds: Sequence[Any], options: Options, *, from_one: bool = False
) -> tuple[str, ...]:
    """Returns the texts of the options that golds name, each once; see `find_option`."""
    first = find_option(list(golds), options, from_one=from_one)
    if first is None:
        return ()
    own = {
        name.casefold() for names in _names(options) for name, number in names if number == first
    }
    others = (gold for gold in golds if str(gold).strip().casefold() not in own)
    found = [first, *(find_option(gold, options, from_one=from_one) for gold in others)]
    return tuple(dict.fromkeys(options.texts[number] for number in found if number is not None))


OPTION_KEYS = ("options", "choices", "candidates", "answer_choices")
"""Columns of the options, the first of them that has any."""
_OWN_COLUMN = re.compile(
    r"(?:choice|option|opt|op|ending)[_ ]?([A-Za-z]|\d{1,2})|answer[_ ]?(\d{1,2})|([A-Z])"
)


def find_options(row: Mapping[str, Any]) -> Options:
    """Returns the options of a row, which may stand in a column each: choice_A, option_1, A.

    Raises:
        DocumentError: They have a form that is not known.

    >>> find_options({"choice_A": "red", "choice_B": "blue"}).texts
    ('red', 'blue')
    """
    by_case = {str(name).casefold(): value for name, value in row.items()}
    for key in OPTION_KEYS:
        if (found := read_options(by_case.get(key))).texts:
            return found
    columns = {
        (own[1] or own[2] or own[3]).upper(): value
        for name, value in row.items()
        if (own := _OWN_COLUMN.fullmatch(str(name)))
    }
    kept = {name: value for name, value in sorted(columns.items()) if not is_absent(value)}
    count = len(kept)
    series = [[option_letter(number) for number in range(count)]]
    series += [[str(number) for number in range(start, start + count)] for start in (0, 1)]
    if count < 2 or list(kept) not in series:
        return Options()
    return _build_options(list(kept.values()), list(kept))
