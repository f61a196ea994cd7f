"""Documents with questions and known answers, from JSONL, Parquet or a hub data set.

One line holds a `context`, a `question` and its `answers`; in the place of a context,
`context_file` names a document or several beside the corpus. Other names are mapped:
    load_corpus("qa.parquet", columns={"context": "text", "answers": "target"})
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pydantic import StrictInt, TypeAdapter, ValidationError

from agenticlu.core.errors import DocumentError, missing_dependency, require_known
from agenticlu.core.files import Row, load_numbered_rows, load_rows, plain_suffix
from agenticlu.core.golds import as_python, is_absent, load_json, read_golds
from agenticlu.core.options import FROM_ONE, Options, find_options, read_options, right_options
from agenticlu.core.records import Document, Piece, Question, content_id, without_lone_surrogates
from agenticlu.data.context_files import load_context_files, refuse_file_name
from agenticlu.data.shapes import expand_row, join_context

HUB_ADDRESS = "hf://datasets/"
FIELDS = (
    *("context", "question", "answers"),
    *("id", "document_id", "options", "gold_spans", "hops", "context_file"),
)
"""Fields of a row; the first three are required, but `context_file` stands for a context."""
ALIASES: dict[str, tuple[str, ...]] = {
    "context": (
        *("context", "document", "text", "passage", "article", "story", "plot", "paragraph"),
        *("content", "body", "document_text"),
    ),
    "question": (
        *("question", "query", "input", "problem", "instruction", "question_text", "question_stem"),
    ),
    "answers": (
        *("answers", "answer", "gold", "target", "output", "golds", "targets", "references"),
        *("reference", "ground_truth", "ground_truths", "short_answers", "answers_spans"),
        *("answer_text", "exact_answer", "correct_answer", "correct_option", "response"),
        *("answerKey", "gold_label", "label", "cop"),
    ),
}
"""Names tried in order when no column map is given; in any case."""
OF_OPTIONS = ("answerKey", "gold_label", "label", "cop", "correct_option")
"""Columns that name an option, and say nothing without options."""
FILE_ENDINGS = (
    *(".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".tab", ".txt", ".arrow"),
    *(".feather", ".gz", ".zst", ".bz2", ".xz", ".zip"),
)
"""A missing `folder/name` with one of these is a file, not the id of a hub data set."""
SHARD_ENDINGS = (
    *((".parquet",), (".arrow", ".feather"), (".jsonl", ".ndjson"), (".csv",), (".tsv", ".tab")),
    (".json",),
)
"""Endings of the files that a folder's rows are in: of the first kind that it holds."""
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of the `datasets` package that hold no rows."""
SPLIT_NAMES = (
    *("train", "training", "validation", "valid", "val", "dev", "test", "testing"),
    *("eval", "evaluation"),
)
"""Words in a file's path that name its split."""


@dataclass(frozen=True)
class Item:
    """A question about a document."""

    position: int
    """Line of the corpus, from 0."""
    document: Document
    question: Question
    """`gold_pieces` is None until the document is split."""
    gold_spans: tuple[tuple[int, int], ...] | None
    """Characters of the document that hold the facts needed; None when unknown."""

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
    """Counts the lines of a corpus without an accepted answer, which tree search cannot use."""

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
        source: Path of a file of rows (`load_numbered_rows`), of a directory of such files, or a
            hub id (`owner/name`, also `hf://datasets/owner/name`).
        columns: Our field name to the corpus's column name.
        split: Split of a hub data set.
        limit: Most questions to yield.
        left_out: Counts the lines without an accepted answer, which are skipped; with None they
            are errors.

    Raises:
        DocumentError: The file is missing, empty or not what its name says, a line cannot be
            used, or two different questions have one id.
        ConfigError: The column map names a field or a column that does not exist.
    """
    for name in columns or ():
        require_known(name, FIELDS, kind="--column field")
    documents: dict[str, Document] = {}
    seen: dict[str, tuple[int, str]] = {}
    count = 0
    for line, row in _load_numbered(source, split):
        if limit is not None and count >= limit:
            break
        for one in _expand(row, line, source):
            try:
                item = build_item(one, line - 1, source, columns, documents)
            except _NoAnswerError:
                if left_out is None:
                    raise
                left_out.add(line)
                continue
            _check_id(item, seen, source)
            yield item
            count += 1
            if limit is not None and count >= limit:
                break
    if count == 0 and left_out is not None and left_out.num_lines:
        raise DocumentError(
            f"None of the lines read from {source} has an accepted answer.", hint=_ANSWER_HINT
        )
    if count == 0:
        raise DocumentError(f"{source} holds no questions.", hint=_LINE_HINT)


def _expand(row: Row, line: int, source: str) -> Iterator[Row]:
    try:
        yield from expand_row(row)
    except DocumentError as error:
        raise DocumentError(f"Line {line} of {source}: {error.message}", hint=error.hint) from error


def _check_id(item: Item, seen: dict[str, tuple[int, str]], source: str) -> None:
    """Refuses two different questions with one id; the store would keep only the first."""
    line = item.position + 1
    content = content_id(item.document.id, item.question.model_dump_json(), str(item.gold_spans))
    first, before = seen.setdefault(item.question.id, (line, content))
    if content != before:
        raise DocumentError(
            f"Lines {first} and {line} of {source} have the same id {item.question.id!r} but "
            "differ.",
            hint="Give every question its own id, or leave ids out.",
        )


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

    Raises:
        DocumentError: A field is missing or has a wrong value; names the line.
    """
    fields = _Fields(row, f"Line {position + 1} of {source}", columns or {})
    document = _find_document(fields, source, {} if documents is None else documents)
    asked = fields.text("question")
    options = fields.options()
    answers = fields.answers(options)
    given_id = fields.optional("id")
    question = Question(
        id=str(given_id) if given_id is not None else content_id(document.id, asked, *answers),
        text=asked.strip(),
        answers=answers,
        options=options.texts,
        hops=fields.hops(),
    )
    spans = fields.gold_spans(len(document.text))
    return Item(position=position, document=document, question=question, gold_spans=spans)


def _find_document(fields: _Fields, source: str, documents: dict[str, Document]) -> Document:
    """Returns the document of a row: the last one again where it is the same."""
    files = as_python(fields.optional("context_file"))
    key = f"\0{files!r}" if files else fields.text("context")
    given = fields.optional("document_id")
    if key in documents:
        return documents[key]
    # '#' separates the source from the corpus's own id, so it must not occur in the source.
    plain = source.replace("#", "%23")
    named = plain if given in (None, "") else f"{plain}#{given}"
    if files:
        document = load_context_files(files, source, fields.where)
        document = document.model_copy(update={"source": named})
    else:
        refuse_file_name(key, source, fields.where)
        document = Document.of(key, source=named)
    documents.clear()
    documents[key] = document
    return document


def own_id(document: Document) -> str | None:
    """Returns the id that the corpus gives a document, or None.

    >>> own_id(Document.of("text", source="books.jsonl#moby-dick"))
    'moby-dick'
    """
    return document.source.partition("#")[2] or None


def corpus_name(document: Document) -> str:
    """Returns the name of a document's corpus: a hub id, or the last part of a path.

    >>> corpus_name(Document.of("text", source="/home/ada/my books/all.jsonl#moby-dick"))
    'all.jsonl'
    >>> corpus_name(Document.of("text", source="deepmind/narrativeqa#7"))
    'deepmind/narrativeqa'
    """
    name = document.source.partition("#")[0].replace("%23", "#")
    return name if _looks_like_hub_id(name) else PurePath(name.replace("\\", "/")).name or name


_LINE_HINT = 'A line looks like {"context": "...", "question": "...", "answers": ["..."]}'
_OPTION_HINT = "Give the right option's text, its letter, or its position, counted from 0."
_ANSWER_HINT = "Tree search needs known answers: give a text or a list of texts."


class _NoAnswerError(DocumentError):
    """A line without an accepted answer."""


def load_source_rows(source: str, split: str = "train") -> Iterator[Row]:
    """Yields the rows of a file, of a directory of files, or of a hub data set.

    Raises:
        DocumentError: The source or its split does not exist, or a row cannot be read.
    """
    for _, row in _load_numbered(source, split):
        yield row


def _load_numbered(source: str, split: str) -> Iterator[tuple[int, Row]]:
    """Yields (line, row); lines are counted from 1, through all files of a directory."""
    path = Path(source)
    if source.startswith(HUB_ADDRESS):
        source = source.removeprefix(HUB_ADDRESS).partition("@")[0]
    if path.is_dir():
        files = find_split(path, split)
        yield from enumerate(itertools.chain.from_iterable(map(load_rows, files)), 1)
    elif path.is_file():
        yield from load_numbered_rows(path)
    elif _looks_like_hub_id(source):
        yield from enumerate(_load_hub(source, split), 1)
    else:
        raise DocumentError(
            f"There is no file, directory or hub data set {source!r}.",
            hint="Give a .jsonl, .json, .csv or .parquet file, a directory of such files, or a hub "
            "id (owner/name).",
        )


def find_split(folder: Path, split: str) -> list[Path]:
    """Returns the files of a split, by the names of files and directories.

    Files whose paths name no split at all are the train split, as in hub data sets.

    Raises:
        DocumentError: There are no files, or all belong to other splits.
    """
    every = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.name not in _ABOUT and not _is_hidden(file.relative_to(folder))
    )
    kinds = ([file for file in every if plain_suffix(file) in ends] for ends in SHARD_ENDINGS)
    files = next((found for found in kinds if found), [])
    if not files:
        raise DocumentError(
            f"Directory {folder} holds no files of rows, such as .parquet, .jsonl or .csv.",
            hint="Of files in other formats, such as .txt, give one.",
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
        f"Directory {folder} has no split {split!r}. Its splits: {', '.join(others)}.",
        hint=f"For example --split {others[0]}, or give one file.",
    )


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _split_words(path: PurePath) -> set[str]:
    """Returns what may name a split in a path: its words, and names without shard numbers."""
    words = set(re.split(r"[^A-Za-z0-9]+", path.as_posix().lower()))
    whole = {
        re.sub(r"(?:-\d+(?:-of-\d+)?)?(?:\.[a-z0-9]+){0,2}$", "", part.lower())
        for part in path.parts
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
            f"Cannot load data set {name!r}, split {split!r}: {error}",
            hint="Check the name, the split and the connection; or give a local file.",
        ) from error


def _looks_like_hub_id(source: str) -> bool:
    found = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source)
    return bool(found) and PurePath(source).suffix.lower() not in FILE_ENDINGS


class _Fields:
    """Reads the fields of a row, and raises DocumentError where a value is unusable.

    Args:
        row: Column name to value.
        where: The row's place, for messages.
        columns: Our field name to the row's column name.
    """

    def __init__(self, row: Mapping[str, Any], where: str, columns: Mapping[str, str]) -> None:
        self._row = row
        self.where = where
        self._columns = columns

    def optional(self, field: str) -> Any:
        return self._row.get(self._columns.get(field, field))

    def required(self, field: str) -> Any:
        return self._row[self.column(field)]

    def column(self, field: str) -> str:
        """Returns the name of the column that holds a field: of those that do, one with a value."""
        if field in self._columns:
            found = [name for name in (self._columns[field],) if name in self._row]
        else:
            free = [name for name in self._row if name not in self._columns.values()]
            by_case = {str(name).casefold(): name for name in reversed(free)}
            names = [by_case.get(name.casefold()) for name in ALIASES[field]]
            found = [name for name in names if name is not None]
        if not found:
            known = ", ".join(_shown_names(self._row))
            raise DocumentError(
                f"{self.where} has no {field!r}; its columns: {known}.",
                hint=f"Map it: --column {field}=NAME_IN_YOUR_FILE"
                + (", or context_file=NAME if it names files" if field == "context" else ""),
            )
        # What is null may stand under a name like it; a model's response is no gold answer.
        alike = (found[0], *(name for name in found if name.casefold() in ALIASES[field][:5]))
        return next((name for name in alike if not is_absent(self._row[name])), found[0])

    def text(self, field: str) -> str:
        value = as_python(self.required(field))
        if field == "context" and isinstance(value, list):
            value = join_context({"context": value})[0]
        if not isinstance(value, str) or not value.strip():
            raise self._error(field, "must be a non-empty string", value)
        return without_lone_surrogates(value)

    def options(self) -> Options:
        """Returns the options; see `read_options` for their forms."""
        with self._named():
            if "options" in self._columns:
                return read_options(self.optional("options"))
            return find_options(self._row)

    def answers(self, options: Options) -> tuple[str, ...]:
        """Returns the accepted answers; of options that are right, the texts.

        See `read_golds` for the forms that answers have.
        """
        name = self.column("answers")
        value = self._row[name]
        with self._named():
            golds = read_golds(value)
        if not golds:
            raise _NoAnswerError(f"{self.where} has no accepted answer.", hint=_ANSWER_HINT)
        if not options.texts:
            if name in OF_OPTIONS and not isinstance(value, bool):
                raise DocumentError(
                    f"{self.where}: {name} names an option, and the row has no options.",
                    hint="Map them: --column options=NAME, or --column answers=NAME.",
                )
            return golds
        named = [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
        texts = right_options([*named, *golds], options, from_one=name in FROM_ONE)
        if not texts:
            raise self._error("answers", f"must be one of the {len(options.texts)} options", value)
        return texts

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Puts the row's place before what is wrong with a value."""
        try:
            yield
        except DocumentError as error:
            raise DocumentError(f"{self.where}: {error.message}", hint=error.hint) from error

    def hops(self) -> int | None:
        value = self.optional("hops")
        if is_absent(value) or value == "":
            return None
        if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value.strip()):  # of a CSV file
            value = int(value)
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not is_whole or value < 0:
            raise self._error("hops", "must be a whole number of at least 0", value)
        return int(value)

    def gold_spans(self, length: int) -> tuple[tuple[int, int], ...] | None:
        """Returns character spans, each inside the document."""
        value = as_python(self.optional("gold_spans"))
        if is_absent(value) or value == "":
            return None
        if isinstance(value, str):  # of a CSV file
            value = load_json(value)
        try:
            spans = _SPANS.validate_python(value)
        except ValidationError:
            spans = [(-1, -1)]
        if not all(0 <= start < end <= length for start, end in spans):
            allowed = f"[start, end] pairs with 0 <= start < end <= {length}"
            raise self._error("gold_spans", f"must be a list of {allowed}", value)
        return tuple(spans)

    def _error(self, field: str, wanted: str, value: object) -> DocumentError:
        hint = _OPTION_HINT if field == "answers" else None
        return DocumentError(f"{self.where}: {field} {wanted}, not {value!r}"[:300], hint=hint)


def _shown_names(row: Mapping[str, Any]) -> list[str]:
    """Returns the names of columns; short, as a table without a header has its first row there."""
    return [f"{str(name)[:40]}…" if len(str(name)) > 40 else str(name) for name in row]


_SPANS = TypeAdapter(list[tuple[StrictInt, StrictInt]])
