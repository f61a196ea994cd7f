"""One's own questions about one's own documents, as they are or among other documents.

At a length, a document stands among others of the corpus, in an order that its seed gives, until
the length is reached: the same questions at several lengths, as the benchmarks have them. A longer
text holds all that a shorter one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from random import Random
from typing import Any

from agenticlu.core.errors import UsageError
from agenticlu.core.records import Document, content_seed
from agenticlu.data.corpus import Item as Line
from agenticlu.data.corpus import LeftOut, load_corpus
from agenticlu.documents.tokens import Tokenizer
from agenticlu.evaluation.config import EvaluationConfig
from agenticlu.evaluation.records import Item
from agenticlu.evaluation.rescore import find_letter
from agenticlu.evaluation.tasks import TaskRequest

SEPARATOR = "\n\n"
"""Between documents that stand in one text."""


def load_own(request: TaskRequest) -> Iterator[Item]:
    """Yields the questions of a corpus, those of one document together.

    Of more questions than the limit, every document gives its first, then its second, and so on.

    Raises:
        UsageError: No corpus is named, or a document is longer than the length.
        DocumentError: The corpus cannot be read.
    """
    lines = read_lines(request.options)
    by_document: dict[str, list[Line]] = {}
    for line in lines:
        by_document.setdefault(line.document.id, []).append(line)
    documents = {line.document.id: line.document for line in lines}
    sizes = {}
    if request.options.get("corpus_fill"):
        sizes = {key: request.tokenizer.count(one.text) for key, one in documents.items()}
        _require_fit(request, sizes)
    for key, asked in _limited(by_document, request.limit).items():
        shown, offset = documents[key], 0
        if sizes:
            shown, offset = _surround(documents[key], documents, sizes, request)
        for line in asked:
            yield _build_item(request, line, shown, offset)


def choose_corpus(
    config: EvaluationConfig,
    options: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    only: bool,
    as_they_are: bool,
    say: Callable[[str], None],
) -> EvaluationConfig:
    """Returns a configuration that runs over a corpus.

    Args:
        config: The configuration without it.
        options: Those that name the corpus.
        tokenizer: Counts the documents.
        only: Whether no other task was asked for.
        as_they_are: Whether no lengths were asked for.
        say: Called with a sentence about lines that cannot be scored.

    Raises:
        DocumentError: The corpus cannot be read.
    """
    tasks = ("corpus",) if only else tuple(dict.fromkeys((*config.tasks, "corpus")))
    left_out = LeftOut()
    lines = read_lines(options, left_out)
    if left_out.num_lines:
        say(left_out.render())
    lengths = config.lengths
    if only and as_they_are:
        lengths = (_natural_length(lines, tokenizer),)
    else:
        options = {**options, "corpus_fill": True}
    changes = {"tasks": tasks, "lengths": lengths, "options": {**config.options, **options}}
    return config.model_copy(update=changes)


def _natural_length(lines: Sequence[Line], tokenizer: Tokenizer) -> int:
    """Returns the smallest power of two that holds the longest document."""
    texts = {line.document.id: line.document.text for line in lines}
    longest = max(tokenizer.count(text) for text in texts.values())
    return 1 << max(longest - 1, 1).bit_length()


def read_lines(options: Mapping[str, Any], left_out: LeftOut | None = None) -> list[Line]:
    """Returns the questions of the corpus that the options name.

    Args:
        options: Of the task.
        left_out: Counts the lines without an accepted answer.

    Raises:
        UsageError: They name none.
        DocumentError: It cannot be read.
    """
    source = options.get("corpus")
    if not source:
        raise UsageError(
            "The task corpus needs a file of questions.", hint="agenticlu eval --corpus FILE"
        )
    columns = options.get("corpus_columns")
    split = str(options.get("corpus_split", "train"))
    return list(
        load_corpus(str(source), columns=columns, split=split, left_out=left_out or LeftOut())
    )


def _require_fit(request: TaskRequest, sizes: Mapping[str, int]) -> None:
    too_long = [size for size in sizes.values() if size > request.length]
    if too_long:
        raise UsageError(
            f"{len(too_long)} of {len(sizes)} documents of {request.options['corpus']} are longer "
            f"than {request.length} tokens; the longest has {max(too_long):,}.",
            hint="Choose longer --lengths, or leave them out to read the documents as they are.",
        )


def _limited(asked: Mapping[str, Sequence[Line]], limit: int | None) -> dict[str, list[Line]]:
    most = max(map(len, asked.values()))
    turns = ((key, lines[i]) for i in range(most) for key, lines in asked.items() if i < len(lines))
    kept: dict[str, list[Line]] = {key: [] for key in asked}
    for number, (key, line) in enumerate(turns):
        if limit is not None and number >= limit:
            break
        kept[key].append(line)
    return {key: lines for key, lines in kept.items() if lines}


def _surround(
    own: Document,
    documents: Mapping[str, Document],
    sizes: Mapping[str, int],
    request: TaskRequest,
) -> tuple[Document, int]:
    """Returns a text of several documents, and where `own` begins in it."""
    rng = Random(content_seed(request.task, str(request.seed), own.id))
    others = [key for key in documents if key != own.id]
    rng.shuffle(others)
    # Drawn for every document whether or not it fits, so that lengths share their places.
    places = [rng.random() for _ in others]
    gap = request.tokenizer.count(SEPARATOR)
    before: list[str] = []
    after: list[str] = []
    room = request.length - sizes[own.id]
    for key, place in zip(others, places, strict=True):
        if (needed := sizes[key] + gap) <= room:
            room -= needed
            (before if place < 0.5 else after).append(key)
    texts = [documents[key].text for key in (*before, own.id, *after)]
    starts = list(accumulate((len(text) + len(SEPARATOR) for text in texts), initial=0))
    source = f"{own.source}:{request.length}:{request.seed}"
    return Document.of(SEPARATOR.join(texts), source), starts[len(before)]


def _build_item(request: TaskRequest, line: Line, shown: Document, offset: int) -> Item:
    question = line.question
    spans = line.gold_spans
    if spans is not None:
        spans = tuple((start + offset, end + offset) for start, end in spans)
    return Item(
        task=request.task,
        length=request.length,
        document=shown,
        question=question,
        rule="choice" if question.options else "open",
        gold_spans=spans or None,
        cluster=line.document.id,
        # A corpus has been read: the right option is among its answers.
        reference={"letter": find_letter(question.answers, question.options)}
        if question.options
        else {},
        row={
            "line": line.position + 1,
            "id": question.id,
            "question": question.text,
            "answers": question.answers,
            "options": question.options,
            "gold_spans": spans,
            "hops": question.hops,
            "length": request.length,
        },
    )
