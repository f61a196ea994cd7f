"""Overlap between documents: near-duplicates, and contamination by an evaluation.

Texts are compared by *shingles*, hashed runs of words (`core.words`) without markers. The share of
shingles that two texts have in common is, up to 0.04, the share of equal entries of their MinHash
signatures (Broder 1997). These are a dozen lines of numpy; datasketch would need scipy.

**Contamination.** A document is contaminated when it and a document of the evaluation share a
fifth of the shorter one's runs of 13 words (as for GPT-3, arXiv 2005.14165, appendix C; there one
run was enough, but in 100,000 words any proverb is one), or are equal up to case and white space; a
question, when its words are those of a question of the evaluation.
"""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agenticlu.core.errors import DocumentError
from agenticlu.core.files import load_rows
from agenticlu.core.records import content_id
from agenticlu.core.words import find_words

Hashes = npt.NDArray[np.uint64]
SHINGLE_WORDS = 5
"""Words of a shingle when training documents are compared with each other."""
DUPLICATE_SHARE = 0.8
"""Near-duplicates have this share of their shingles in common, or of the shorter one's shingles."""
NUM_PERMUTATIONS = 128
BAND_ROWS = 3
"""Documents are compared when this many neighbouring entries of their signatures are equal. At a
share of 0.5, half of a document against the whole, that misses one pair in 300."""
BLOCK = 2048
"""Shingles permuted at a time; bounds memory."""
LONGEST_RUN = 64
"""Most documents of one band that a document is compared with; bounds time on boilerplate."""
MARKS = re.compile(r"</?para(?:graph)?\s*\d+\s*>", re.IGNORECASE)
_PRIME = 0x9E3779B97F4A7C15


def unmarked_words(text: str) -> list[str]:
    """Returns the words of a text, without case, punctuation and paragraph marks.

    >>> unmarked_words("<para 0> Ada's HORSE </para 0>")
    ['ada', 's', 'horse']
    """
    return find_words(MARKS.sub(" ", text))


def hash_shingles(text: str, num_words: int) -> Hashes:
    """Returns the distinct hashes of all runs of `num_words` words, ascending.

    A text of fewer words is one shingle; a text without words has none.
    """
    words = unmarked_words(text)
    if not words:
        return np.empty(0, np.uint64)
    size = min(num_words, len(words))
    hashes = (zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words)
    codes = np.fromiter(hashes, np.uint64, len(words))
    total = np.zeros(len(words) - size + 1, np.uint64)
    with np.errstate(over="ignore"):
        for place in range(size):
            total = total * np.uint64(_PRIME) + codes[place : place + len(total)]
        return np.unique(_mixed(total))


def compute_signature(shingles: Hashes) -> Hashes:
    """Returns the signature of a set of shingles: its smallest hash under each permutation."""
    factors, summands = _permutations()
    smallest = np.full(NUM_PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
    with np.errstate(over="ignore"):
        for start in range(0, len(shingles), BLOCK):
            permuted = factors * shingles[start : start + BLOCK] + summands
            smallest = np.minimum(smallest, permuted.min(axis=1))
    return smallest


def find_near_duplicates(
    signatures: Sequence[Hashes], sizes: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Yields pairs of indices of texts that are near-duplicates.

    In a large group of near-duplicates not every pair is named, but enough to join the group.

    Args:
        signatures: The signature of each text.
        sizes: The number of shingles of each text.
    """
    table = np.array(signatures, np.uint64).reshape(len(signatures), NUM_PERMUTATIONS)
    seen: set[tuple[int, int]] = set()
    for first in range(0, NUM_PERMUTATIONS - BAND_ROWS + 1, BAND_ROWS):
        for run in _equal_rows(table[:, first : first + BAND_ROWS]):
            for place, one in enumerate(run):
                for other in run[max(0, place - LONGEST_RUN) : place]:
                    pair = (int(other), int(one))
                    if pair in seen:
                        continue
                    seen.add(pair)
                    shared = float(np.mean(table[pair[0]] == table[pair[1]]))
                    if _are_near_duplicates(shared, sizes[pair[0]], sizes[pair[1]]):
                        yield pair


def _are_near_duplicates(shared: float, one: int, other: int) -> bool:
    if not one or not other:
        return False
    contained = shared * (one + other) / ((1 + shared) * min(one, other))
    return shared >= DUPLICATE_SHARE or contained >= DUPLICATE_SHARE


def _equal_rows(table: Hashes) -> Iterator[npt.NDArray[np.intp]]:
    """Yields the indices of rows that are equal to others, ascending, a group at a time."""
    order = np.lexsort(table.T[::-1])
    changes = np.any(table[order][1:] != table[order][:-1], axis=1)
    for run in np.split(order, np.flatnonzero(changes) + 1):
        if len(run) > 1:
            yield np.sort(run)


def _mixed(values: Hashes) -> Hashes:
    """Spreads the bits of hashes that differ little (the finish of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@functools.cache
def _permutations() -> tuple[Hashes, Hashes]:
    factors, summands = (
        # The type must be given: numpy would make floats of integers beyond 63 bits.
        np.array(
            [[int(content_id("minhash", name, str(i)), 16)] for i in range(NUM_PERMUTATIONS)],
            np.uint64,
        )
        for name in ("factor", "summand")
    )
    return factors | np.uint64(1), summands


def fold(text: str) -> str:
    r"""Returns a text without white space, case and paragraph marks.

    >>> fold("<para 0> One  Horse\n</para 0>") == fold("one horse")
    True
    """
    return "".join(MARKS.sub(" ", text).casefold().split())


RUN_WORDS = 13
SHARE = 0.2
SKETCH = 8192
"""Runs kept of an evaluation document: those with the smallest hashes, a fair sample."""
QUESTION_KEYS = frozenset({"question", "questions", "query", "asked"})
DOCUMENT_KEYS = frozenset(
    {
        *("context", "contexts", "ctxs", "document", "documents", "docs", "text", "passage"),
        *("passages", "paragraph", "paragraphs", "article", "story", "book", "sources"),
    }
)
EITHER_KEYS = frozenset({"input", "prompt"})
"""Keys of a document if it has `LONG_WORDS` words, else of a question."""
LONG_WORDS = 100
IGNORED_KEYS = frozenset({"turns", "demos", "demonstrations", "summary", "tokens"})
"""What is below these keys is written by models, or an example."""
_ENDINGS = (".jsonl", ".json", ".parquet")
_Find = tuple[Literal["document", "question", "document id"], str]


@dataclass(frozen=True)
class Contamination:
    """The overlap of a set of training documents with an evaluation."""

    sources: tuple[str, ...]
    """Names of the files or directories of the evaluation."""
    num_documents: int
    """Distinct documents of the evaluation."""
    num_questions: int
    found_documents: frozenset[str]
    found_questions: frozenset[str]
    """Ids of training documents and questions that the evaluation has."""
    dropped: bool

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

    def __len__(self) -> int:
        return len(self._text_ids) + len(self._questions) + len(self._ids)

    @property
    def num_documents(self) -> int:
        """Distinct documents."""
        return len(self._text_ids)

    @property
    def num_questions(self) -> int:
        """Distinct questions."""
        return len(self._questions)

    def add_document(self, text: str) -> None:
        """Adds a document, once."""
        text_id = content_id(fold(text))
        if not text.strip() or text_id in self._text_ids:
            return
        self._text_ids.add(text_id)
        if len(unmarked_words(text[: 40 * RUN_WORDS])) < RUN_WORDS:
            return  # too short for a run: found only if equal
        runs = hash_shingles(text, RUN_WORDS)
        self._sketches.append(runs[:SKETCH].copy())
        self._sizes.append(len(runs))
        self._index = None

    def add_question(self, text: str) -> None:
        """Adds a question."""
        if words := unmarked_words(text):
            self._questions.add(" ".join(words))

    def add_id(self, document_id: str) -> None:
        """Adds the id of a document whose text is unknown."""
        self._ids.add(document_id)

    def has_question(self, text: str) -> bool:
        """Whether a question has the words of one of the evaluation's."""
        return " ".join(unmarked_words(text)) in self._questions

    def has_document(self, document_id: str, text: str) -> bool:
        """Whether a document is one of the evaluation's, or shares enough of one."""
        if document_id in self._ids or content_id(fold(text)) in self._text_ids:
            return True
        return self.compute_largest_share(text) >= SHARE

    def report(self, documents: Set[str], questions: Set[str], *, dropped: bool) -> Contamination:
        """Returns what was found, given the ids of training documents and questions found here."""
        return Contamination(
            sources=tuple(self.sources),
            num_documents=self.num_documents,
            num_questions=self.num_questions,
            found_documents=frozenset(documents),
            found_questions=frozenset(questions),
            dropped=dropped,
        )

    def compute_largest_share(self, text: str) -> float:
        """Returns the largest share of common runs, of those of the shorter document."""
        runs = hash_shingles(text, RUN_WORDS)
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
        """Returns the index: distinct hashes, where the owners of each begin, and the owners."""
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
        DocumentError: A source is missing, or holds neither documents nor questions.
    """
    texts = EvaluationTexts()
    add = {
        "document": texts.add_document,
        "question": texts.add_question,
        "document id": texts.add_id,
    }
    for source in map(Path, sources):
        before = len(texts)
        for row in chain.from_iterable(map(load_rows, _find_files(source))):
            for kind, text in find_texts(row):
                add[kind](text)
        if len(texts) == before:
            raise DocumentError(
                f"{source} holds no documents or questions to compare with.",
                hint="Rows need a context, document, text or ctxs, or a question or query.",
            )
        texts.sources.append(source.name)
    return texts


def find_texts(value: Any, key: str = "") -> Iterator[_Find]:
    """Yields the documents and questions in a row, however nested.

    >>> list(find_texts({"question": "Who?", "ctxs": [{"title": "T", "text": "Some passage."}]}))
    [('question', 'Who?'), ('document', 'Some passage.')]
    """
    if isinstance(value, str):
        if key == "document_id":
            yield "document id", value
        elif key in QUESTION_KEYS or (
            key in EITHER_KEYS and len(find_words(value[: 40 * LONG_WORDS])) <= LONG_WORDS
        ):
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


def _find_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DocumentError(
            f"Evaluation data {str(source)!r} does not exist.",
            hint="--decontaminate takes a .jsonl, .json or .parquet file, or a directory of them.",
        )
    files = sorted(path for path in source.rglob("*") if path.suffix in _ENDINGS)
    if not files:
        raise DocumentError(f"Directory {source} holds no .jsonl, .json or .parquet file.")
    return files
