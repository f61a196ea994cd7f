"""Documents with questions and known answers, from JSONL, Parquet or a hub data set.

One line holds a `context`, a `question` and its `answers`. Other names are mapped:

    load_corpus("qa.parquet", columns={"context": "text", "answers": "target"})
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from agenticlu.core.errors import ConfigError, DocumentError, did_you_mean, missing_dependency
from agenticlu.core.records import Document, Piece, Question, content_id, without_lone_surrogates
from agenticlu.core.rows import Row, load_numbered_rows, load_rows

FIELDS = (
    "context",
    "question",
    "answers",
    "id",
    "document_id",
    "options",
    "gold_spans",
    "hops",
)
"""Fields of a line; the first three are required."""
ALIASES: dict[str, tuple[str, ...]] = {
    "context": ("context", "document", "text", "passage"),
    "question": ("question", "query", "input"),
    "answers": ("answers", "answer", "gold", "target", "output"),
}
"""Names tried in order when no column map is given."""
FILE_ENDINGS = (
    ".jsonl",
    ".json",
    ".parquet",
    ".csv",
    ".tsv",
    ".txt",
    ".gz",
    ".zst",
    ".zip",
    ".arrow",
)
"""Endings that make a missing `folder/name` a file, not the id of a hub data set."""
SPLIT_NAMES = (
    *("train", "training", "validation", "valid", "val", "dev", "test", "testing"),
    *("eval", "evaluation"),
)
"""Words in the path of a file that name its split."""


@dataclass(frozen=True)
class Item:
    """A question about a document."""

    position: int
    """Line of the corpus, from 0."""
    document: Document
    question: Question
    """`gold_pieces` is None until the document is split."""
    gold_spans: tuple[tuple[int, int], ...] | None
    """Characters of the document that hold the facts; None when unknown."""

    def question_over(self, pieces: Sequence[Piece]) -> Question:
        """Returns the question with its gold spans turned into pieces."""
        if self.gold_spans is None:
            return self.question
        gold = tuple(
            piece.index
            for piece in pieces
            if any(start < piece.end and end > piece.start for start, end in self.gold_spans)
        )
        return self.question.model_copy(update={"gold_pieces": gold})


@dataclass
class LeftOut:
    """Counts the lines of a corpus that have no accepted answer, which tree search cannot use."""

    num_lines: int = 0
    first_line: int | None = None
    """Counted from 1."""

    def add(self, line: int) -> None:
        """Counts a line."""
        self.num_lines += 1
        if self.first_line is None:
            self.first_line = line

    def render(self) -> str:
        """Returns a sentence for people."""
        if self.num_lines == 1:
            return f"Line {self.first_line} has no accepted answer and is left out."
        return (
            f"{self.num_lines:,} lines have no accepted answer and are left out; "
            f"the first is line {self.first_line}."
        )


def load_corpus(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[Item]:
    """Yields the questions of a corpus, in order.

    Args:
        source: Path of a .jsonl or .parquet file, of a folder of Parquet files, or a hub id
            (`owner/name`).
        columns: Our field name to the corpus's column name.
        split: Split of a hub data set.
        limit: Questions at most.
        left_out: Counts the lines without an accepted answer, which are passed over; with None
            they are errors.

    Raises:
        DocumentError: The file is missing, empty or not what its name says, a line cannot be
            used, or two different questions have one id.
        ConfigError: The column map names a field or a column that does not exist.
    """
    if columns is not None:
        unknown = [name for name in columns if name not in FIELDS]
        if unknown:
            raise ConfigError(
                f"The column map has no field {unknown[0]!r}. Fields: {', '.join(FIELDS)}.",
                hint=did_you_mean(unknown[0], FIELDS),
            )
    documents: dict[str, Document] = {}
    lines: dict[str, tuple[int, str]] = {}
    count = 0
    for line, row in _load_numbered(source, split):
        if limit is not None and count >= limit:
            break
        try:
            item = build_item(row, line - 1, source, columns, documents)
        except _NoAnswerError:
            if left_out is None:
                raise
            left_out.add(line)
            continue
        content = content_id(
            item.document.id, item.question.model_dump_json(), str(item.gold_spans)
        )
        first, before = lines.setdefault(item.question.id, (line, content))
        if content != before:
            raise DocumentError(
                f"Lines {first} and {line} of {source} have the id {item.question.id!r} "
                "and differ.",
                hint="Give every question its own id, or leave ids out.",
            )
        yield item
        count += 1
    if count == 0 and left_out is not None and left_out.num_lines:
        raise DocumentError(
            f"No line of {source} that was read has an accepted answer.", hint=_ANSWER_HINT
        )
    if count == 0:
        raise DocumentError(f"{source} holds no question.", hint=_LINE_HINT)


def build_item(
    row: Mapping[str, Any],
    position: int,
    source: str,
    columns: Mapping[str, str] | None = None,
    documents: dict[str, Document] | None = None,
) -> Item:
    """Builds an item from one row.

    Args:
        row: Column name to value.
        position: Line of the corpus, from 0.
        source: Name of the corpus, for messages and as the document's source.
        columns: Our field name to the row's column name; None guesses.
        documents: The last document seen, so that rows that repeat it share one object.
    """
    if _is_narrativeqa(row):
        row = _from_narrativeqa(row)
    context = _text(_value(row, "context", columns, position, source), "context", position, source)
    asked = _text(_value(row, "question", columns, position, source), "question", position, source)
    try:
        answers = _answers(_value(row, "answers", columns, position, source))
    except ValueError as error:
        raise DocumentError(
            f"Line {position + 1} of {source}: {error}.",
            hint="Give a text or a list of texts.",
        ) from error
    if not answers:
        raise _NoAnswerError(
            f"Line {position + 1} of {source} has no accepted answer.", hint=_ANSWER_HINT
        )
    given = _optional(row, "document_id", columns)
    document = (documents or {}).get(context)
    if document is None:
        # A number sign parts the source from the corpus's own id, so it stands nowhere else.
        plain = source.replace("#", "%23")
        document = Document.of(context, source=plain if given in (None, "") else f"{plain}#{given}")
        if documents is not None:
            documents.clear()
            documents[context] = document
    given_id = _optional(row, "id", columns)
    try:
        options = tuple(_texts(_optional(row, "options", columns) or (), "options"))
        hops = _whole(_optional(row, "hops", columns), "hops")
        spans = _spans(_optional(row, "gold_spans", columns), len(context))
    except ValueError as error:
        raise DocumentError(f"Line {position + 1} of {source}: {error}.") from error
    question = Question(
        id=str(given_id) if given_id is not None else content_id(document.id, asked, *answers),
        text=asked.strip(),
        answers=answers,
        options=options,
        hops=hops,
    )
    return Item(position=position, document=document, question=question, gold_spans=spans)


def own_id(document: Document) -> str | None:
    """Returns the id that the corpus gives a document, or None.

    >>> own_id(Document.of("text", source="books.jsonl#moby-dick"))
    'moby-dick'
    """
    return document.source.partition("#")[2] or None


def corpus_name(document: Document) -> str:
    """Returns the corpus that a document is of: a hub id whole, a file or folder by its last name.

    >>> corpus_name(Document.of("text", source="/home/ada/my books/all.jsonl#moby-dick"))
    'all.jsonl'
    >>> corpus_name(Document.of("text", source="deepmind/narrativeqa#7"))
    'deepmind/narrativeqa'
    """
    name = document.source.partition("#")[0].replace("%23", "#")
    return name if _looks_like_hub_id(name) else PurePath(name.replace("\\", "/")).name or name


_LINE_HINT = 'A line looks like {"context": "...", "question": "...", "answers": ["..."]}'
_ANSWER_HINT = "Tree search needs known answers: give a text or a list of texts."


class _NoAnswerError(DocumentError):
    """A line whose question nobody answered."""


def load_source_rows(source: str, split: str = "train") -> Iterator[Row]:
    """Yields the rows of a JSONL, JSON or Parquet file, a folder of Parquet, or a hub data set.

    Raises:
        DocumentError: There is no such source, it has no such split, or a row cannot be read.
    """
    for _, row in _load_numbered(source, split):
        yield row


def _load_numbered(source: str, split: str) -> Iterator[tuple[int, Row]]:
    """Yields (line, row); lines are counted from 1, over all files of a folder."""
    path = Path(source)
    if path.is_dir():
        files = find_split(path, split)
        yield from enumerate(itertools.chain.from_iterable(map(load_rows, files)), 1)
    elif path.is_file():
        yield from load_numbered_rows(path)
    elif _looks_like_hub_id(source):
        yield from enumerate(_load_hub(source, split), 1)
    else:
        raise DocumentError(
            f"There is no file, folder or data set {source!r}.",
            hint="Give a .jsonl, .json or .parquet file, a folder of Parquet files, or owner/name.",
        )


def find_split(folder: Path, split: str) -> list[Path]:
    """Returns the Parquet files of a split, told by the names of files and folders.

    Files whose path names no split at all are the train split, as hub data sets have it.

    Raises:
        DocumentError: There is no file, or all of them belong to other splits.
    """
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DocumentError(
            f"The folder {folder} holds no Parquet file.",
            hint="Of other files, such as .jsonl, give one.",
        )
    named = {file: _split_words(file.relative_to(folder)) for file in files}
    found = [file for file in files if split.lower() in named[file]]
    if found:
        return found
    unnamed = [file for file in files if not named[file] & set(SPLIT_NAMES)]
    if split == "train" and len(unnamed) == len(files):
        return unnamed
    others = sorted(set().union(*named.values()) & set(SPLIT_NAMES)) or ["train"]
    raise DocumentError(
        f"The folder {folder} has no split {split!r}; its files are of: {', '.join(others)}.",
        hint=f"For example --split {others[0]}, or give one file.",
    )


def _split_words(path: PurePath) -> set[str]:
    """Returns what may name a split in a path: its words, and what stands before shard numbers."""
    words = set(re.split(r"[^A-Za-z0-9]+", path.as_posix().lower()))
    whole = {
        re.sub(r"(?:-\d+(?:-of-\d+)?)?(?:\.parquet)?$", "", part.lower()) for part in path.parts
    }
    return words | whole


def _load_hub(name: str, split: str) -> Iterator[Row]:
    try:
        import datasets
    except ImportError as error:
        raise missing_dependency("datasets", "hub") from error
    try:
        yield from datasets.load_dataset(name, split=split, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DocumentError(
            f"The data set {name!r} (split {split!r}) cannot be loaded: {error}",
            hint="Check the name, the split and the connection; or give a local file.",
        ) from error


def _looks_like_hub_id(source: str) -> bool:
    found = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source)
    return bool(found) and PurePath(source).suffix.lower() not in FILE_ENDINGS


def _value(
    row: Mapping[str, Any],
    field: str,
    columns: Mapping[str, str] | None,
    position: int,
    source: str,
) -> Any:
    names = (columns[field],) if columns and field in columns else ALIASES[field]
    for name in names:
        if row.get(name) is not None:
            return row[name]
    if any(name in row for name in names):
        return None
    raise DocumentError(
        f"Line {position + 1} of {source} has no {field!r}; it has: {', '.join(map(str, row))}.",
        hint=f"Map it: --column {field}=NAME_IN_YOUR_FILE",
    )


def _optional(row: Mapping[str, Any], field: str, columns: Mapping[str, str] | None) -> Any:
    return row.get(columns[field] if columns and field in columns else field)


def _text(value: Any, field: str, position: int, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DocumentError(f"The {field} on line {position + 1} of {source} is no text, or empty.")
    return without_lone_surrogates(value)


def _answers(value: Any) -> tuple[str, ...]:
    """Returns the accepted answers of a text, a list of texts, or SQuAD's {'text': [...]}."""
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, (str, int, float)):
        value = [value]
    texts = _texts(() if value is None else value, "answers")
    return tuple(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _texts(value: Any, field: str) -> list[str]:
    """Returns a list of texts; absent ones (null, NaN) are left out."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"its {field} are no list, but {value!r}"[:200])
    texts = []
    for item in value:
        text = item.get("text") if isinstance(item, Mapping) else item
        if text is None or (isinstance(text, float) and math.isnan(text)):
            continue
        if not isinstance(text, (str, int, float)):
            raise ValueError(f"its {field} hold what is no text: {text!r}"[:200])
        texts.append(without_lone_surrogates(str(text)))
    return texts


def _whole(value: Any, field: str) -> int | None:
    """Returns a count; absent ones are None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise ValueError(f"its {field} is no whole number, but {value!r}"[:200])
    if value < 0:
        raise ValueError(f"its {field} is below 0: {value!r}")
    return int(value)


def _spans(value: Any, length: int) -> tuple[tuple[int, int], ...] | None:
    """Returns character spans, each inside the document."""
    if value is None:
        return None
    wrong = ValueError(
        f"its gold_spans are no list of [start, end] with 0 <= start < end <= {length} "
        f"(characters of the context): {value!r}"[:300]
    )
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise wrong
    spans = []
    for span in value:
        if isinstance(span, str) or not isinstance(span, Sequence) or len(span) != 2:
            raise wrong
        if any(isinstance(end, bool) or not isinstance(end, int) for end in span):
            raise wrong
        if not 0 <= span[0] < span[1] <= length:
            raise wrong
        spans.append((span[0], span[1]))
    return tuple(spans)


def _is_narrativeqa(row: Mapping[str, Any]) -> bool:
    document, question = row.get("document"), row.get("question")
    return (
        isinstance(document, Mapping)
        and isinstance(question, Mapping)
        and "text" in document
        and "text" in question
    )


def _from_narrativeqa(row: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens NarrativeQA's layout: nested document, question and answers."""
    return {
        "context": row["document"]["text"],
        "document_id": row["document"].get("id"),
        "question": row["question"]["text"],
        "answers": row.get("answers") or (),
    }
