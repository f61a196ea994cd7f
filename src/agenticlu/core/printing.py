"""The one place that prints: text from outside reaches no terminal and no file with its powers.

A document, an answer, a server's words, a name of a file or of a model may hold escape sequences
that set a terminal's title, write the clipboard, clear the screen, hide text or make the terminal
type; characters that turn the direction of writing make a line read as another. All that commands
print goes through `echo` or `echo_json`, which leave such characters visible and powerless. A test
walks the package for other ways to print.
"""

from __future__ import annotations

import json
import re
import sys
import traceback
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import Any, TextIO

import click

from agenticlu.core.secrets import redact_text

_LINE_END = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
_OTHER = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C1 controls, which are escape sequences of one character; marks that embed, override or isolate
a direction of writing; halves of surrogate pairs, which no output can encode. Joiners, which some
scripts need, and the marks of a single character's direction are none of these."""
_PICTURES = 0x2400
"""The block of Unicode that shows control characters: its n-th sign is that of the n-th."""
_DELETE_PICTURE = "\u2421"
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Returns a text that steers no terminal; ordinary text stays as it is.

    Line ends of all kinds become newlines, control characters the signs that picture them, and what
    has no sign U+FFFD.

    >>> harmless("a\x1b[2J\tb\r\nc\u202e")
    'a␛[2J\tb\nc\ufffd'
    """
    text = _LINE_END.sub("\n", text)
    text = _CONTROL.sub(_picture, text)
    return _OTHER.sub("\ufffd", text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    return _DELETE_PICTURE if code == 0x7F else chr(_PICTURES + code)


def escape_json(text: str) -> str:
    r"""Returns JSON in which such characters are escaped; its value is the same.

    >>> escape_json('{"a": "\x9b6n"}')
    '{"a": "\\u009b6n"}'
    """
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def encode_json(value: object, *, indent: int | None = None, **options: Any) -> str:
    """Returns a value as JSON that may be shown in a terminal; see `json.dumps`."""
    return escape_json(json.dumps(value, ensure_ascii=False, indent=indent, **options))


def echo(
    text: object = "",
    *,
    err: bool = False,
    nl: bool = True,
    file: TextIO | None = None,
    bold: bool = False,
    dim: bool = False,
) -> None:
    """Prints a text, made harmless; the styles apply in a terminal alone."""
    shown = harmless(str(text))
    if bold or dim:
        shown = click.style(shown, bold=bold or None, dim=dim or None)
    click.echo(shown, file=file, nl=nl, err=err)


def echo_json(value: object, *, indent: int | None = 2) -> None:
    """Prints a value as JSON; without `indent` on one line."""
    click.echo(encode_json(value, indent=indent))


def echo_encoded(text: str) -> None:
    """Prints what is JSON already."""
    click.echo(escape_json(text))


def confirm(question: str) -> bool:
    """Asks for yes or no on standard error."""
    return click.confirm(harmless(question), err=True)


def redraw(texts: Iterable[str]) -> None:
    """Shows each text in the place of the one before, in a terminal."""
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        for text in texts:
            live.update(Text(harmless(text)), refresh=True)


def guard_streams() -> None:
    """Has what Python itself prints, such as warnings and tracebacks, made harmless, too."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")  # of an encoding that lacks a character
    warnings.showwarning = _show_warning
    sys.excepthook = _show_exception


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    echo(text, file=file, err=True, nl=False)


def _show_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    echo(redact_text(text), err=True, nl=False)
