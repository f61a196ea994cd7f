"""Documents and questions of evaluation that stand in training data, too.

A document is contaminated when it and a document of the evaluation share a fifth of the shorter
one's runs of 13 words, or are equal up to case and white space. Thirteen words are what GPT-3's
authors took (arXiv 2005.14165, appendix C); there any common run counted, which in documents of
100,000 words every proverb and licence text would be. A question is contaminated when its words
are those of a question of the evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from agenticlu.core.errors import DocumentError
from agenticlu.core.records import content_id
from agenticlu.core.rows import load_rows
from agenticlu.data.shingles import Hashes, shingles_of, words_of
from agenticlu.data.splits import fold

RUN_WORDS = 13
SHARE = 0.2
SKETCH = 8192
"""Runs kept of an evaluation document: the ones with the smallest hashes, a fair sample."""
QUESTION_KEYS = frozenset({"question", "questions", "query", "asked"})
DOCUMENT_KEYS = frozenset(
    {
        *("context", "contexts", "ctxs", "document", "documents", "docs", "text", "passage"),
        *("passages", "paragraph", "paragraphs", "article", "story", "book", "sources"),
    }
)
EITHER_KEYS = frozenset({"input", "prompt"})
"""Read as a document from `LONG_WORDS` words on, else as a question."""
LONG_WORDS = 100
IGNORED_KEYS = frozenset({"turns", "demos", "demonstrations", "summary", "tokens"})
"""What stands below these is written by models or shown as an example."""
_ENDINGS = (".jsonl", ".json", ".parquet")
_Find = tuple[Literal["document", "question", "document id"], str]


@dataclass(frozen=True)
class Contamination:
    """What was found in a set of training documents."""

    sources: tuple[str, ...]
    """Names of the files or folders of the evaluation."""
    num_documents: int
    """Of the evaluation, repeated ones counted once."""
    num_questions: int
    found_documents: frozenset[str]
    """Ids of training documents."""
    found_questions: frozenset[str]
    """Ids of training questions."""
    dropped: bool
    """Whether they were left out, or only counted."""

    def as_dict(self) -> dict[str, Any]:
        """Returns counts as JSON data."""
        return {
            "sources": list(self.sources),
            "evaluation_documents": self.num_documents,
            "evaluation_questions": self.num_questions,
            "run_words": RUN_WORDS,
            "share": SHARE,
            "documents_found": len(self.found_documents),
            "questions_found": len(self.found_questions),
            "dropped": self.dropped,
        }


class EvaluationTexts:
    """Sketches of the documents of an evaluation, and its questions."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self._questions: set[str] = set()
        self._text_ids: set[str] = set()
        self._ids: set[str] = set()
        self._sketches: list[Hashes] = []
        self._sizes: list[int] = []
        self._index: tuple[Hashes, Hashes, Hashes] | None = None

    @property
    def num_documents(self) -> int:
        """Distinct documents."""
        return len(self._text_ids)

    @property
    def num_questions(self) -> int:
        """Distinct questions."""
        return len(self._questions)

    def add_document(self, text: str) -> None:
        """Adds a document, or does nothing when it was added before."""
        text_id = content_id(fold(text))
        if not text.strip() or text_id in self._text_ids:
            return
        self._text_ids.add(text_id)
        if len(words_of(text[: 40 * RUN_WORDS])) < RUN_WORDS:
            return  # too short for a run: only its equal is found
        runs = shingles_of(text, RUN_WORDS)
        self._sketches.append(runs[:SKETCH].copy())
        self._sizes.append(len(runs))
        self._index = None

    def add_question(self, text: str) -> None:
        """Adds a question."""
        if words := words_of(text):
            self._questions.add(" ".join(words))

    def add_id(self, document_id: str) -> None:
        """Adds the id of a document whose text is not at hand."""
        self._ids.add(document_id)

    def has_question(self, text: str) -> bool:
        """Whether a question has the words of one of these."""
        return " ".join(words_of(text)) in self._questions

    def has_document(self, document_id: str, text: str) -> bool:
        """Whether a document is one of these, or shares enough with one."""
        if document_id in self._ids or content_id(fold(text)) in self._text_ids:
            return True
        return self.largest_share(text) >= SHARE

    def report(
        self, documents: Iterable[str], questions: Iterable[str], *, dropped: bool
    ) -> Contamination:
        """Returns what was found, given the ids of documents and questions that stand here, too."""
        return Contamination(
            sources=tuple(self.sources),
            num_documents=self.num_documents,
            num_questions=self.num_questions,
            found_documents=frozenset(documents),
            found_questions=frozenset(questions),
            dropped=dropped,
        )

    def largest_share(self, text: str) -> float:
        """Returns the largest share of common runs, of the shorter document's."""
        runs = shingles_of(text, RUN_WORDS)
        if not len(runs) or not self._sketches:
            return 0.0
        distinct, starts, owners = self._indexed()
        places = np.minimum(np.searchsorted(distinct, runs), len(distinct) - 1)
        found = places[distinct[places] == runs]
        if not len(found):
            return 0.0
        hit = np.concatenate([owners[starts[place] : starts[place + 1]] for place in found])
        counts = np.bincount(hit.astype(np.int64), minlength=len(self._sketches))
        sizes = np.array(self._sizes)
        theirs = counts / np.array([len(sketch) for sketch in self._sketches])
        ours = theirs * sizes / len(runs)
        return float(min(1.0, np.maximum(theirs, ours).max()))

    def _indexed(self) -> tuple[Hashes, Hashes, Hashes]:
        """Returns distinct hashes, and for each of them where its documents begin, and those."""
        if self._index is None:
            hashes = np.concatenate(self._sketches)
            lengths = [len(sketch) for sketch in self._sketches]
            owners = np.repeat(np.arange(len(lengths), dtype=np.uint64), lengths)
            order = np.argsort(hashes, kind="stable")
            distinct, starts = np.unique(hashes[order], return_index=True)
            ends = np.append(starts, len(hashes)).astype(np.uint64)
            self._index = distinct, ends, owners[order]
        return self._index


def load_evaluation(sources: Sequence[str | Path]) -> EvaluationTexts:
    """Reads the documents and questions of corpora, task files, or predictions.

    Args:
        sources: .jsonl, .json or .parquet files, or folders of them.

    Raises:
        DocumentError: A source is not there, or holds neither documents nor questions.
    """
    texts = EvaluationTexts()
    for source in map(Path, sources):
        before = texts.num_documents + texts.num_questions + len(texts._ids)
        for file in _files_of(source):
            for row in load_rows(file):
                for kind, text in find_texts(row):
                    if kind == "document":
                        texts.add_document(text)
                    elif kind == "question":
                        texts.add_question(text)
                    else:
                        texts.add_id(text)
        if texts.num_documents + texts.num_questions + len(texts._ids) == before:
            raise DocumentError(
                f"{source} holds no document and no question that could be told from training "
                "data.",
                hint="Rows need a context, document, text or ctxs, or a question or query.",
            )
        texts.sources.append(source.name)
    return texts


def find_texts(value: Any, key: str = "") -> Iterator[_Find]:
    """Yields the documents and questions in a row, wherever they stand.

    >>> list(find_texts({"question": "Who?", "ctxs": [{"title": "T", "text": "Some passage."}]}))
    [('question', 'Who?'), ('document', 'Some passage.')]
    """
    if isinstance(value, str):
        if key == "document_id":
            yield "document id", value
        elif key in QUESTION_KEYS or (key in EITHER_KEYS and value.count(" ") < LONG_WORDS):
            yield "question", value
        elif key in DOCUMENT_KEYS or key in EITHER_KEYS:
            yield "document", value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name in IGNORED_KEYS:
                continue
            held = key in QUESTION_KEYS | DOCUMENT_KEYS and name == "text"
            yield from find_texts(inner, key if held else str(name))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from find_texts(inner, key)


def _files_of(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DocumentError(
            f"There is no evaluation data {str(source)!r}.",
            hint="--decontaminate takes a .jsonl, .json or .parquet file, or a folder of them.",
        )
    files = sorted(path for path in source.rglob("*") if path.suffix in _ENDINGS)
    if not files:
        raise DocumentError(f"The folder {source} holds no .jsonl, .json or .parquet file.")
    return files
