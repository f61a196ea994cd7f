"""Text of pictures, recognised by Tesseract where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from agenticlu.core.errors import DocumentError
from agenticlu.documents.rectangles import Words

TIMEOUT_S = 120.0
"""For one page; most take one to five seconds."""
_BY_HAND = "or recognise the file first: ocrmypdf IN.pdf OUT.pdf"


@dataclass(frozen=True)
class Tesseract:
    """The installed program, for some languages."""

    program: str
    languages: str

    @classmethod
    def find(cls, languages: str) -> Tesseract:
        """Finds the program.

        Args:
            languages: Its names of them, such as 'eng' or 'deu+eng'.

        Raises:
            DocumentError: It is not installed, or lacks a language.
        """
        program = shutil.which("tesseract")
        if program is None:
            raise DocumentError(
                "Recognising the text of pages needs Tesseract, which is not installed.",
                hint=f"Install it (apt install tesseract-ocr; brew install tesseract), {_BY_HAND}",
            )
        installed = list_languages(program)
        missing = [one for one in languages.split("+") if one not in installed]
        if missing:
            raise DocumentError(
                f"Tesseract has no data for {missing[0]!r}; it has {', '.join(installed)}.",
                hint="Name installed ones with --ocr-languages, or install more: apt install "
                f"tesseract-ocr-{missing[0]}",
            )
        return cls(program, languages)

    def recognise(self, picture: bytes, dots_per_point: float) -> tuple[str, Words]:
        """Returns the text of a picture, and where its words stand.

        Args:
            picture: In any format that Tesseract reads.
            dots_per_point: Of the picture; places are returned in points.

        Raises:
            DocumentError: Tesseract failed.
        """
        dpi = round(72 * dots_per_point)
        command = [self.program, "stdin", "stdout", "-l", self.languages, "--dpi", str(dpi), "tsv"]
        table = _run(command, picture).decode("utf-8", "replace")
        return _read_table(table, dots_per_point)


def list_languages(program: str) -> list[str]:
    """Returns the languages that an installed Tesseract has data for."""
    listed = _run([program, "--list-langs"], b"").decode("utf-8", "replace")
    return [line.strip() for line in listed.splitlines()[1:] if line.strip()]


def _run(command: list[str], given: bytes) -> bytes:
    env = {**os.environ, "OMP_THREAD_LIMIT": "1"}  # pages are recognised side by side
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, timeout=TIMEOUT_S, check=False, env=env
        )
    except subprocess.TimeoutExpired as error:
        raise DocumentError(
            f"Tesseract took more than {TIMEOUT_S:g} s for a page.",
            hint=f"Leave out --ocr, {_BY_HAND}",
        ) from error
    except OSError as error:
        raise DocumentError(f"Tesseract cannot be run: {error}.") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise DocumentError(f"Tesseract failed: {lines[-1][:300]}")
    return done.stdout


def _read_table(table: str, dots_per_point: float) -> tuple[str, Words]:
    """Reads Tesseract's table of words: tsv with a header, paragraphs and lines numbered."""
    text: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    lines: list[int] = []
    boxes: list[tuple[float, ...]] = []
    length = 0
    last: tuple[str, ...] | None = None
    for row in table.splitlines()[1:]:
        cells = row.split("\t")
        if len(cells) < 12 or not (word := "\t".join(cells[11:]).strip()):
            continue
        place = tuple(cells[2:5])  # block, paragraph, line
        if last is not None:
            text.append(" " if place == last else "\n" if place[:2] == last[:2] else "\n\n")
            length += len(text[-1])
        left, top, width, height = (int(cell) / dots_per_point for cell in cells[6:10])
        lines.append(lines[-1] + (place != last) if lines else 0)
        starts.append(length)
        text.append(word)
        length += len(word)
        ends.append(length)
        boxes.append((left, top, left + width, top + height))
        last = place
    return "".join(text), Words.of(starts, ends, lines, boxes)
