"""ROUGE as the rouge_score package gives it, and over words of any script."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from agenticlu.core.errors import missing_dependency
from agenticlu.core.words import find_words
from agenticlu.evaluation.scoring.answers import Golds, flat_golds

METRICS = ("rougeL_f1", "rougeL_recall", "rougeLsum_f1", "rougeLsum_recall")
"""Names that `rouge` gives."""
RougeValue = tuple[float, float, float]
"""Precision, recall, F1."""
Tokenize = Callable[[str], Sequence[str]]


@functools.cache
def _rouge_tokenize() -> Tokenize:
    """Returns rouge_score's own tokeniser, with Porter stems cached word by word."""
    try:
        from rouge_score import tokenize as rouge_tokenize
        from rouge_score import tokenizers as rouge_tokenizers
    except ModuleNotFoundError as error:
        raise missing_dependency("rouge-score", "evaluate") from error

    class CachingStemmer:
        def __init__(self) -> None:
            self.stem = functools.lru_cache(maxsize=1 << 17)(
                rouge_tokenizers.porter.PorterStemmer().stem
            )

    stemmer = CachingStemmer()

    @functools.lru_cache(maxsize=4096)
    def tokens_of(text: str) -> tuple[str, ...]:
        return tuple(rouge_tokenize.tokenize(text, stemmer))

    return tokens_of


def rouge(prediction: str, golds: Golds) -> dict[str, float]:
    """Returns rougeL and rougeLsum F1 and recall, each the best over the golds (HELMET).

    Values equal those of rouge_score 0.1.2 with its stemmer; the tables are computed with
    machine words instead of lists, so that long summaries take milliseconds.

    Raises:
        MissingDependencyError: The package rouge-score is not installed.
    """
    return _rouge(prediction, golds, _rouge_tokenize())


def unicode_rouge(prediction: str, golds: Golds) -> dict[str, float]:
    """Returns the figures of `rouge` on words of any script, without stems: its corrected twin."""
    return _rouge(prediction, golds, find_words)


def _rouge(prediction: str, golds: Golds, tokenize: Tokenize) -> dict[str, float]:
    values: dict[str, list[RougeValue]] = {"rougeL": [], "rougeLsum": []}
    said = _lines(prediction, tokenize)
    words = [word for line in said for word in line]
    index = _LineIndex(said)
    for gold in flat_golds(golds):
        wanted = _lines(gold, tokenize)
        target = [word for line in wanted for word in line]
        values["rougeL"].append(_rouge_l(target, words))
        values["rougeLsum"].append(_rouge_lsum(wanted, index))
    result: dict[str, float] = {}
    for name, found in values.items():
        result[f"{name}_f1"] = max(value[2] for value in found)
        result[f"{name}_recall"] = max(value[1] for value in found)
    return result


def rouge_lsum(prediction: str, gold: str) -> float:
    """Returns the rougeLsum F1 of one pair, sentences separated by line ends."""
    tokenize = _rouge_tokenize()
    return _rouge_lsum(_lines(gold, tokenize), _LineIndex(_lines(prediction, tokenize)))[2]


def _lines(text: str, tokenize: Tokenize) -> list[Sequence[str]]:
    """Returns the words of each line that is not empty."""
    return [tokenize(line) for line in text.split("\n") if line]


def _rouge_l(target: Sequence[str], prediction: Sequence[str]) -> RougeValue:
    if not target or not prediction:
        return (0, 0, 0)
    full = (1 << len(prediction)) - 1
    rows = _lcs_rows(target, _positions(prediction), full)
    return _rouge_value(len(prediction) - rows[-1].bit_count(), len(target), len(prediction))


class _LineIndex:
    """Positions of words in the lines of a prediction.

    All lines share one bit vector, one after another, with a bit between them that stays 0, so that
    one row of an LCS table is the row of every line's table at once.
    """

    def __init__(self, lines: Sequence[Sequence[str]]) -> None:
        self.lines = lines
        self.words = [frozenset(line) for line in lines]
        self.counts = Counter(word for line in lines for word in line)
        self.starts: list[int] = []
        """Bit of each line's first word."""
        self.full = 0
        """All bits but those between lines."""
        self.holders: dict[str, list[int]] = {}
        """Numbers of the lines that have a word."""
        self.positions: dict[str, int] = {}
        """Bit vector of each word's positions."""
        start = 0
        for number, line in enumerate(lines):
            for word, places in _positions(line).items():
                self.holders.setdefault(word, []).append(number)
                self.positions[word] = self.positions.get(word, 0) | places << start
            self.starts.append(start)
            self.full |= ((1 << len(line)) - 1) << start
            start += len(line) + 1

    def lcs(self, sentence: Sequence[str], number: int, rows: Sequence[int]) -> Iterator[int]:
        """Yields the positions in a sentence of one LCS with a line.

        Of several equally long ones, it is the one that rouge_score finds: from the end of the
        table, up where that loses nothing, else left.

        Args:
            sentence: Of the gold text.
            number: Of the line.
            rows: Of the tables, from `_lcs_rows`.
        """
        line, words, start = self.lines[number], self.words[number], self.starts[number]
        shared = [i for i, word in enumerate(sentence) if word in words]
        j = len(line)
        length = j - (rows[-1] >> start & (1 << j) - 1).bit_count()
        if length == len(shared):
            yield from shared  # all of them, in order
            return
        while length:
            i = shared.pop()
            if sentence[i] != line[j - 1]:
                if j - (rows[i] >> start & (1 << j) - 1).bit_count() == length:
                    continue  # up
                before = self.positions[sentence[i]] >> start & (1 << j) - 1
                j = before.bit_length()  # left, as far as the word
            yield i
            j -= 1
            length -= 1


def _rouge_lsum(targets: Sequence[Sequence[str]], said: _LineIndex) -> RougeValue:
    """Counts the words of the union over lines of the longest common subsequences.

    A word counts at most as often as the prediction has it. So the lines that have a word are
    searched, rare words first, only until the union has it, and not at all once it cannot count.
    """
    num_target, num_predicted = sum(map(len, targets)), said.counts.total()
    if not num_target or not num_predicted:
        return (0, 0, 0)
    left = dict(said.counts)
    num_hits = 0
    for sentence in targets:
        wanted = [i for i, word in enumerate(sentence) if left.get(word)]
        if not wanted:
            continue
        wanted.sort(key=lambda i: len(said.holders[sentence[i]]))
        rows = _lcs_rows(sentence, said.positions, said.full)
        union: set[int] = set()
        seen: set[int] = set()
        for i in wanted:
            for number in said.holders[sentence[i]]:
                if i in union:
                    break
                if number not in seen:
                    seen.add(number)
                    union.update(said.lcs(sentence, number, rows))
        for i in union:
            if left[sentence[i]]:
                left[sentence[i]] -= 1
                num_hits += 1
    return _rouge_value(num_hits, num_target, num_predicted)


def _rouge_value(num_hits: int, num_target: int, num_predicted: int) -> RougeValue:
    precision, recall = num_hits / num_predicted, num_hits / num_target
    if precision + recall == 0:
        return (precision, recall, 0.0)
    return (precision, recall, 2 * precision * recall / (precision + recall))


def _positions(tokens: Sequence[str]) -> dict[str, int]:
    """Returns the bit vector of each token's positions."""
    positions: dict[str, int] = {}
    for j, token in enumerate(tokens):
        positions[token] = positions.get(token, 0) | 1 << j
    return positions


def _lcs_rows(target: Sequence[str], positions: Mapping[str, int], full: int) -> list[int]:
    """Returns the rows of the LCS table as bit vectors (Hyyrö 2004), row 0 first.

    Bit j of row i is 0 where the LCS of the first i target tokens grows with prediction token j,
    so table[i][j] is the number of zeros among the lowest j bits.

    Args:
        target: Tokens of the rows.
        positions: Bit vector of each token's positions in the prediction.
        full: The bits of the prediction's tokens.
    """
    row = full
    rows = [row]
    for token in target:
        if shared := row & positions.get(token, 0):
            row = ((row + shared) | (row - shared)) & full
        rows.append(row)
    return rows
