"""Documents with questions and known answers, from JSONL, Parquet or a hub data set.

One line holds a `context`, a `question` and its `answers`. Other names are mapped:

    load_corpus("qa.parquet", columns={"context": "text", "answers": "target"})
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agenticlu.errors import ConfigError, DocumentError, did_you_mean, missing_dependency
from agenticlu.records import Document, Piece, Question, content_id

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
LAYOUTS = ("narrativeqa",)


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


def load_corpus(
    source: str,
    *,
    columns: Mapping[str, str] | None = None,
    split: str = "train",
    limit: int | None = None,
) -> Iterator[Item]:
    """Yields the questions of a corpus, in order.

    Args:
        source: Path of a .jsonl or .parquet file, of a folder of Parquet files, or a hub id
            (`owner/name`).
        columns: Our field name to the corpus's column name.
        split: Split of a hub data set.
        limit: Questions at most.

    Raises:
        DocumentError: The file is missing, empty or not what its name says.
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
    count = 0
    for position, row in enumerate(load_rows(source, split)):
        if limit is not None and position >= limit:
            return
        yield build_item(row, position, source, columns, documents)
        count += 1
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
    answers = _answers(_value(row, "answers", columns, position, source))
    if not answers:
        raise DocumentError(
            f"Line {position + 1} of {source} has no accepted answer.",
            hint="Tree search needs known answers: give a text or a list of texts.",
        )
    given = _optional(row, "document_id", columns)
    document = (documents or {}).get(context)
    if document is None:
        document = Document.of(context, source=f"{source}#{given}" if given else source)
        if documents is not None:
            documents.clear()
            documents[context] = document
    own_id = _optional(row, "id", columns)
    hops = _optional(row, "hops", columns)
    spans = _optional(row, "gold_spans", columns)
    question = Question(
        id=str(own_id) if own_id is not None else content_id(document.id, asked, *answers),
        text=asked.strip(),
        answers=answers,
        options=tuple(str(option) for option in _optional(row, "options", columns) or ()),
        hops=None if hops is None else int(hops),
    )
    return Item(
        position=position,
        document=document,
        question=question,
        gold_spans=None if spans is None else tuple((int(a), int(b)) for a, b in spans),
    )


_LINE_HINT = 'A line looks like {"context": "...", "question": "...", "answers": ["..."]}'


def load_rows(source: str, split: str = "train") -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a JSONL, JSON or Parquet file, a folder of Parquet, or a hub data set."""
    path = Path(source)
    if path.is_dir():
        files = sorted(path.rglob(f"*{split}*.parquet")) or sorted(path.rglob("*.parquet"))
        if not files:
            raise DocumentError(f"The folder {source} holds no Parquet file.")
        for file in files:
            yield from _load_parquet(file)
    elif path.is_file():
        if path.suffix == ".parquet":
            yield from _load_parquet(path)
        elif path.suffix == ".json" and _starts_array(path):
            yield from _load_array(path)
        else:
            yield from _load_jsonl(path)
    elif _looks_like_hub_id(source):
        yield from _load_hub(source, split)
    else:
        raise DocumentError(
            f"There is no corpus {source!r}.",
            hint="Give a .jsonl or .parquet file, a folder of Parquet files, or owner/name.",
        )


def _load_jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DocumentError(
                    f"Line {number} of {path} is not JSON ({error}).", hint=_LINE_HINT
                ) from error
            if not isinstance(row, dict):
                raise DocumentError(f"Line {number} of {path} is no object.", hint=_LINE_HINT)
            yield row


def _starts_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"[")


def _load_array(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        rows = json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path} is not JSON ({error}).", hint=_LINE_HINT) from error
    yield from rows


def _load_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_dependency("pyarrow", "data") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        for batch in file.iter_batches(batch_size=16):
            yield from batch.to_pylist()
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DocumentError(f"{path} is no readable Parquet file ({error}).") from error


def _load_hub(name: str, split: str) -> Iterator[Mapping[str, Any]]:
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
    owner, _, name = source.partition("/")
    return bool(owner and name) and "/" not in name and not source.endswith((".jsonl", ".parquet"))


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
    raise DocumentError(
        f"Line {position + 1} of {source} has no {field!r}; it has: {', '.join(map(str, row))}.",
        hint=f"Map it: --column {field}=NAME_IN_YOUR_FILE",
    )


def _optional(row: Mapping[str, Any], field: str, columns: Mapping[str, str] | None) -> Any:
    return row.get(columns[field] if columns and field in columns else field)


def _text(value: Any, field: str, position: int, source: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DocumentError(f"The {field} on line {position + 1} of {source} is no text, or empty.")
    return value


def _answers(value: Any) -> tuple[str, ...]:
    """Returns the accepted answers of a text, a list of texts, or SQuAD's {'text': [...]}."""
    if isinstance(value, Mapping):
        value = value.get("text", ())
    if isinstance(value, (str, int, float)):
        value = [value]
    texts = [item.get("text", "") if isinstance(item, Mapping) else item for item in value]
    return tuple(dict.fromkeys(str(text).strip() for text in texts if str(text).strip()))


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
