"""Scores a model's text against known answers: pure functions, no model.

Two families stand side by side and never share a name:

- HELMET's metrics, to the last bit (`normalize`, `exact_match`, `substring_exact_match`, `f1`,
  `rouge`, `parse_output`, `parse_rankings`, `ranking_measures`, `ruler_recall`, the choice rule,
  ALCE's), as in princeton-nlp/HELMET at 4526dfb, `utils.py`, `data.py` and `eval_alce.py`. Their
  known defects are kept, because published figures contain them.
- Corrected twins (`parse_final_answer`, `matches`, `word_match`, `parse_choice`,
  `unicode_rouge`): empty golds never match, golds match whole words only, the last stated answer
  counts.
"""

from __future__ import annotations

import functools
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from agenticlu.errors import UsageError, missing_dependency

Golds = str | Sequence[str] | Sequence[Sequence[str]]
"""One gold answer, several, or several groups of aliases."""

# --- HELMET: text metrics ---------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED_ANSWERS = ("yes", "no", "noanswer")


def normalize(text: str) -> str:
    """Returns HELMET's normal form: lower case, no ASCII punctuation, no articles, single spaces.

    Punctuation is deleted, not replaced, so that words joined by a hyphen become one.

    >>> normalize("The well-known  Clock, an heirloom.")
    'wellknown clock heirloom'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_ASCII_PUNCTUATION)).split())


def flat_golds(golds: Golds) -> list[str]:
    """Returns golds as a flat list, whatever their nesting.

    Raises:
        UsageError: There is none: a row without golds has no score.
    """
    if isinstance(golds, str):
        return [golds]
    flat: list[str] = []
    for gold in golds:
        flat.extend([gold] if isinstance(gold, str) else gold)
    if not flat:
        raise UsageError("A row without gold answers cannot be scored.")
    return flat


def exact_match(prediction: str, golds: Golds) -> bool:
    """Whether prediction and a gold are equal after `normalize` (HELMET)."""
    predicted = normalize(prediction)
    return any(predicted == normalize(gold) for gold in flat_golds(golds))


def substring_exact_match(prediction: str, golds: Golds) -> bool:
    """Whether a normalized gold is a character substring of the normalized prediction (HELMET).

    A gold that normalizes to nothing always matches, and short golds match inside words; see
    `word_match` for the corrected twin.
    """
    predicted = normalize(prediction)
    return any(normalize(gold) in predicted for gold in flat_golds(golds))


def f1(prediction: str, golds: Golds) -> float:
    """Returns the best bag-of-words F1 over the golds (HELMET)."""
    return max(_f1_of_one(prediction, gold) for gold in flat_golds(golds))


def _f1_of_one(prediction: str, gold: str) -> float:
    predicted, wanted = normalize(prediction), normalize(gold)
    if predicted != wanted and (predicted in _CLOSED_ANSWERS or wanted in _CLOSED_ANSWERS):
        return 0
    predicted_words, wanted_words = predicted.split(), wanted.split()
    num_shared = sum((Counter(predicted_words) & Counter(wanted_words)).values())
    if num_shared == 0:
        return 0
    precision = num_shared / len(predicted_words)
    recall = num_shared / len(wanted_words)
    return (2 * precision * recall) / (precision + recall)


# --- ROUGE ------------------------------------------------------------------------------------

RougeValue = tuple[float, float, float]
"""Precision, recall, F1."""
Tokenize = Callable[[str], Sequence[str]]
_UNICODE_WORD = re.compile(r"[^\W_]+")


@functools.cache
def _rouge_tokenize() -> Tokenize:
    """Returns rouge_score's own tokeniser with Porter stems remembered word by word."""
    try:
        from rouge_score import tokenize as rouge_tokenize
        from rouge_score import tokenizers as rouge_tokenizers
    except ModuleNotFoundError as error:
        raise missing_dependency("rouge-score", "evaluate") from error

    class RememberingStemmer:
        def __init__(self) -> None:
            self.stem = functools.lru_cache(maxsize=1 << 17)(
                rouge_tokenizers.porter.PorterStemmer().stem
            )

    stemmer = RememberingStemmer()

    @functools.lru_cache(maxsize=4096)
    def tokens_of(text: str) -> tuple[str, ...]:
        return tuple(rouge_tokenize.tokenize(text, stemmer))

    return tokens_of


def unicode_tokens(text: str) -> tuple[str, ...]:
    """Returns lower-cased words of any script; the corrected twin of ROUGE's ASCII tokens."""
    return tuple(_UNICODE_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def rouge(prediction: str, golds: Golds) -> dict[str, float]:
    """Returns rougeL and rougeLsum F1 and recall, each the best over the golds (HELMET).

    Values equal those of rouge_score 0.1.2 with its stemmer; the tables are computed with
    machine words instead of lists, so that long summaries take milliseconds.

    Raises:
        MissingDependencyError: The package rouge-score is not installed.
    """
    return _rouge(prediction, golds, _rouge_tokenize())


def unicode_rouge(prediction: str, golds: Golds) -> dict[str, float]:
    """Returns the figures of `rouge` on Unicode words without stems: its corrected twin."""
    return _rouge(prediction, golds, unicode_tokens)


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
    """Returns the words of each line; those of the text are the same, one line after another."""
    return [tokenize(line) for line in text.split("\n") if line]


def _rouge_l(target: Sequence[str], prediction: Sequence[str]) -> RougeValue:
    if not target or not prediction:
        return (0, 0, 0)
    full = (1 << len(prediction)) - 1
    rows = _lcs_rows(target, _positions(prediction), full)
    return _rouge_value(len(prediction) - rows[-1].bit_count(), len(target), len(prediction))


class _LineIndex:
    """Which words stand where in the lines of a prediction.

    All lines lie in one bit vector, one after another, with a bit between them that stays 0: so
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
        """Lines that have a word."""
        self.positions: dict[str, int] = {}
        """Per word, a bit vector of where it stands."""
        start = 0
        for number, line in enumerate(lines):
            for word, places in _positions(line).items():
                self.holders.setdefault(word, []).append(number)
                self.positions[word] = self.positions.get(word, 0) | places << start
            self.starts.append(start)
            self.full |= ((1 << len(line)) - 1) << start
            start += len(line) + 1

    def lcs(self, sentence: Sequence[str], number: int, rows: Sequence[int]) -> Iterator[int]:
        """Yields the places in a sentence of one LCS with a line.

        Of several equally long ones, it is the one that rouge_score walks to: from the tables'
        end, up where that loses nothing, else left.

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

    Of a word no more hits count than the prediction has of it. So the lines that have a word are
    looked at, rare words first, only until the union has it, and not at all once it cannot count.
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
    """Returns, per token, a bit vector of the places where it stands."""
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
        positions: Per token, a bit vector of where it stands in the prediction.
        full: The bits of the prediction's tokens.
    """
    row = full
    rows = [row]
    for token in target:
        if shared := row & positions.get(token, 0):
            row = ((row + shared) | (row - shared)) & full
        rows.append(row)
    return rows


def text_metrics(prediction: str, golds: Golds, *, with_rouge: bool = True) -> dict[str, float]:
    """Returns HELMET's `calculate_metrics`: exact_match, f1, substring_exact_match and ROUGE."""
    metrics: dict[str, float] = {
        "exact_match": exact_match(prediction, golds),
        "f1": f1(prediction, golds),
        "substring_exact_match": substring_exact_match(prediction, golds),
    }
    return metrics | (rouge(prediction, golds) if with_rouge else {})


# --- HELMET: output parsers and post-processing -----------------------------------------------


def parse_output(text: str, prefix: str = "Answer:") -> str:
    r"""Returns what follows the *first* `prefix` on its line, or else the first line (HELMET).

    >>> parse_output("I think so. answer: Answer: the Sabel Strait.\nAnswer: no")
    'the Sabel Strait.'
    >>> parse_output("Answer:\nOona Pellisk")
    ''
    """
    found = re.search(f"(?:{prefix})(.*)(?:\n|$)", text, re.IGNORECASE)
    if found is None:
        found = re.search("^(.*)(?:\n|$)", text)
        assert found is not None
    return re.sub(f"^{re.escape(prefix)}", "", found[1].strip(), flags=re.IGNORECASE).strip()


_RANKING = re.compile(r"(\d+)(?:\s*>\s*(\d+))*")


def parse_rankings(text: str) -> dict[str, float]:
    """Returns passage id to score from a written ranking (HELMET): the longest `7 > 3 > 5`.

    >>> parse_rankings("Ranking: [ID7] > [ID3] > ID7 > 5, of 120")
    {'7': 4, '3': 3, '5': 1}
    """
    plain = re.sub(r"[\[\]:]", "", text).lower().replace("id", "")
    longest = ""
    for found in _RANKING.finditer(plain):
        if len(found.group(0)) > len(longest):
            longest = found.group(0)
    ids = [part.strip() for part in longest.split(">") if part.strip().isdigit()] if longest else []
    if not longest:
        ids = [plain]
    scores: dict[str, float] = {}
    for position, name in enumerate(ids):
        scores.setdefault(name, len(ids) - position)
    return scores


RANKING_CUTS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)


def ranking_cuts(num_passages: int) -> tuple[int, ...]:
    """Returns the cuts k that HELMET reports for a file whose first row has `num_passages`."""
    return tuple(k for k in RANKING_CUTS if k <= num_passages)


def ranking_measures(
    scores: Mapping[str, float], labels: Mapping[str, int], cuts: Sequence[int] = RANKING_CUTS
) -> dict[str, float]:
    """Returns NDCG, MAP, Recall and P at each cut, and MRR, of one row, as trec_eval does.

    Order: score descending, then id descending as a string. Gain is linear in the label. Values
    are rounded to 5 decimals, as HELMET rounds each row's.

    >>> ranking_measures({"7": 2, "3": 1}, {"3": 2, "7": 0, "9": 1}, cuts=[1, 5])["NDCG@5"]
    0.47962
    """
    order = sorted(scores, key=lambda name: (scores[name], name), reverse=True)
    gains = [max(labels.get(name, 0), 0) for name in order]
    ideal = sorted((label for label in labels.values() if label > 0), reverse=True)
    num_relevant = len(ideal)
    measures: dict[str, float] = {}

    def discounted(values: Sequence[int], cut: int) -> float:
        total = 0.0
        for rank, value in enumerate(values[:cut], start=1):
            total += value / math.log2(rank + 1)
        return total

    for name in ("NDCG", "MAP", "Recall", "P"):
        for cut in cuts:
            if num_relevant == 0:
                value = 0.0
            elif name == "NDCG":
                value = discounted(gains, cut) / discounted(ideal, cut)
            elif name == "MAP":
                value = _sum_of_precisions(gains[:cut]) / num_relevant
            else:
                num_hits = sum(gain > 0 for gain in gains[:cut])
                value = num_hits / (num_relevant if name == "Recall" else cut)
            measures[f"{name}@{cut}"] = round(value, 5)
    first = next((rank for rank, gain in enumerate(gains, start=1) if gain > 0), None)
    measures["MRR"] = round(1 / first, 5) if first and num_relevant else 0.0
    return measures


def _sum_of_precisions(gains: Sequence[int]) -> float:
    total, num_hits = 0.0, 0
    for rank, gain in enumerate(gains, start=1):
        if gain > 0:
            num_hits += 1
            total += num_hits / rank
    return total


def ruler_recall(prediction: str, golds: Sequence[str]) -> float:
    """Returns the share of golds that occur in the prediction, in any case (HELMET, RULER)."""
    golds = flat_golds(golds)
    lowered = prediction.lower()
    return sum(gold.lower() in lowered for gold in golds) / len(golds)


Scored = tuple[dict[str, float], Any]
"""Metric to value, and what was parsed from the output."""


def _best_of(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {name: max(value, second[name]) for name, value in first.items()}


def score_default(
    output: str, golds: Golds, *, prefix: str = "Answer:", with_rouge: bool = True
) -> Scored:
    """Scores as HELMET's default post-processing: the best of raw and parsed, per metric."""
    parsed = parse_output(output, prefix)
    raw = text_metrics(output, golds, with_rouge=with_rouge)
    if parsed == output:
        return raw, parsed
    return _best_of(raw, text_metrics(parsed, golds, with_rouge=with_rouge)), parsed


def score_label(output: str, gold: str, *, with_rouge: bool = True) -> Scored:
    """Scores an in-context-learning row: what follows `label:`, and nothing else (HELMET)."""
    parsed = parse_output(output, "label:")
    return text_metrics(parsed, gold, with_rouge=with_rouge), parsed


def score_ruler(output: str, golds: Sequence[str]) -> Scored:
    """Scores a RULER row: `ruler_recall` of the raw output, the only metric (HELMET)."""
    return {"ruler_recall": ruler_recall(output, golds)}, output


def score_choice(output: str, letter: str, option: str, *, with_rouge: bool = True) -> Scored:
    """Scores a multiple choice row by HELMET's rule.

    Golds are the letter and `{letter}. {option}`; only the second may also match as a substring,
    in the raw output and without normalizing.
    """
    spelled = f"{letter}. {option}"
    metrics, parsed = score_default(output, [letter, spelled], with_rouge=with_rouge)
    metrics["substring_exact_match"] = spelled.lower() in output.lower()
    if metrics["substring_exact_match"]:
        metrics["exact_match"] = True
    return metrics, parsed


def score_ranking(output: str, labels: Mapping[str, int], cuts: Sequence[int]) -> Scored:
    """Scores a re-ranking row: trec measures and `num_preds` (HELMET)."""
    parsed = parse_rankings(output)
    return {**ranking_measures(parsed, labels, cuts), "num_preds": len(parsed)}, parsed


# --- HELMET: ALCE -----------------------------------------------------------------------------


class Entails(Protocol):
    """A natural language inference model."""

    def __call__(self, premise: str, hypothesis: str) -> bool:
        """Returns whether the premise entails the hypothesis."""
        ...


def clean_alce(output: str) -> str:
    """Returns an ALCE output as HELMET scores it: line ends to one space, chat marks removed."""
    return re.sub(r"\n+", " ", output).replace("<|im_end|>", "")


def remove_citations(text: str) -> str:
    """Removes `[1][2]` citations as ALCE does.

    >>> remove_citations("It ended in 1871 [1][12].")
    'It ended in 1871.'
    """
    without = re.sub(r"\[\d+", "", re.sub(r" \[\d+", "", text))
    return without.replace(" |", "").replace("]", "")


def string_em(output: str, groups: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Returns ALCE's (str_em, str_hit) of one citation-free output, in [0, 1].

    Args:
        output: The text, citations removed.
        groups: Short answers per sub-question.
    """
    import numpy as np

    plain = normalize(output)
    present = [any(normalize(answer) in plain for answer in group) for group in groups]
    share = float(np.mean(present))
    return share, float(share == 1)


def qampari_scores(output: str, groups: Sequence[Sequence[str]]) -> dict[str, float]:
    """Returns ALCE's list measures of one citation-free output, in [0, 1], and num_preds.

    Args:
        output: Comma-separated answers.
        groups: Aliases per gold answer.
    """
    parts = output.rstrip().rstrip(".").rstrip(",").split(",")
    predicted = [name for name in (normalize(part.strip()) for part in parts) if name]
    wanted = [[normalize(alias) for alias in group] for group in groups]
    aliases = {alias for group in wanted for alias in group}
    num_hits = sum(any(alias in predicted for alias in group) for group in wanted)
    precision = sum(name in aliases for name in predicted) / len(predicted) if predicted else 0
    recall = num_hits / len(wanted)
    recall_top5 = min(5, num_hits) / min(5, len(wanted))

    def harmonic(p: float, r: float) -> float:
        return 0 if p + r == 0 else 2 * p * r / (p + r)

    return {
        "num_preds": len(predicted),
        "qampari_prec": precision,
        "qampari_rec": recall,
        "qampari_rec_top5": recall_top5,
        "qampari_f1": harmonic(precision, recall),
        "qampari_f1_top5": harmonic(precision, recall_top5),
    }


def citation_scores(
    sentences: Sequence[str],
    passages: Sequence[Mapping[str, str]],
    entails: Entails,
    *,
    num_shown: int | None = None,
    at_most: int = 3,
) -> dict[str, float] | None:
    """Returns ALCE's citation recall and precision of one row, or None without a sentence.

    Args:
        sentences: Of the raw output, citations still in; for lists, question and item joined.
        passages: `title` and `text` of each passage of the row.
        entails: The inference model, called with premise and hypothesis.
        num_shown: Passages the model saw. None keeps HELMET's rule (defects: `[0]` silently means
            the last passage, and ids beyond those shown pass); a number makes 1..num_shown the
            only valid ids.
        at_most: Citations of a sentence that count.
    """
    if not sentences:
        return None
    num_entailed = num_useful = num_cited = 0

    def premise(ids: Sequence[int]) -> str:
        return "\n".join(f"Title: {passages[i]['title']}\n{passages[i]['text']}" for i in ids)

    for sentence in sentences:
        claim = remove_citations(sentence).strip()
        cited = [int(found[1:]) - 1 for found in re.findall(r"\[\d+", sentence)]
        if num_shown is None:
            valid = bool(cited) and all(i < len(passages) for i in cited)
        else:
            valid = bool(cited) and all(0 <= i < min(num_shown, len(passages)) for i in cited)
        if not valid:
            continue
        cited = cited[:at_most]
        num_cited += len(cited)
        joint = entails(premise(cited), claim)
        num_entailed += joint
        if not joint or len(cited) == 1:
            num_useful += joint
            continue
        for i in cited:
            rest = list(cited)
            rest.remove(i)
            num_useful += entails(premise([i]), claim) or not entails(premise(rest), claim)
    return {
        "citation_rec": num_entailed / len(sentences),
        "citation_prec": num_useful / num_cited if num_cited else 0,
    }


# --- corrected: final answers -----------------------------------------------------------------

_ANSWER_LABEL = re.compile(r"\banswer\b(?:\s+is\b)?[*_`\s]*[:：][*_`]*", re.IGNORECASE)
_QUOTES = "\"'“”‘’`«»„"


def parse_final_answer(text: str) -> str:
    r"""Returns the answer that the text ends on.

    What follows the *last* `Answer:` label, its first line that is not blank, without emphasis,
    quotes and a closing full stop; without a label the whole text, stripped alike.

    >>> parse_final_answer("Mara bakes. Answer: bread? No. **Answer:** 'a blue kite.'")
    'a blue kite'
    >>> parse_final_answer("Nine.")
    'Nine'
    """
    rest = after_label(text)
    if rest is None:
        return _bare(text)
    return _bare(next((line for line in rest.splitlines() if line.strip(" \t*_`")), ""))


def after_label(text: str) -> str | None:
    """Returns all that follows the last `Answer:` label; None where there is none."""
    labels = list(_ANSWER_LABEL.finditer(text))
    return text[labels[-1].end() :] if labels else None


def _bare(text: str) -> str:
    """Strips white space, emphasis, quotes around the text and one full stop at its end."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip("*_").strip()
        if text.endswith(".") and not text.endswith("..") and not _ends_in_initial(text):
            text = text[:-1]
        if text and text[0] in _QUOTES and text[-1] in _QUOTES and len(text) > 1:
            text = text[1:-1]
        elif text and text[-1] in '"“”«»„`' and text.count(text[-1]) == 1:
            text = text[:-1]
    return text


def _ends_in_initial(text: str) -> bool:
    """Whether the last full stop belongs to an abbreviation such as U.S. or p.m."""
    return re.search(r"\b\w\.\w\.$", text) is not None


_UNITS = {
    word: number
    for number, word in enumerate(
        re.findall(
            r"\w+",
            "zero one two three four five six seven eight nine ten eleven twelve thirteen "
            "fourteen fifteen sixteen seventeen eighteen nineteen",
        )
    )
}
_TENS = {
    word: 10 * number
    for number, word in enumerate(
        re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety"), start=2
    )
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_MONTHS = {
    name: number
    for number, names in enumerate(
        re.findall(
            r"[^,]+",
            "january jan,february feb,march mar,april apr,may,june jun,july jul,august aug,"
            "september sep sept,october oct,november nov,december dec",
        ),
        start=1,
    )
    for name in names.split()
}
_TOKEN = re.compile(r"-?\d+(?:[.,]\d+)*(?:st|nd|rd|th)?(?![^\W_])|[^\W_]+(?:['’][^\W_]+)*|%")
_NUMBER = re.compile(r"(-?\d+(?:[.,]\d+)*)(st|nd|rd|th)?")


def canonical_tokens(text: str) -> tuple[str, ...]:
    """Returns the words that two spellings of one answer share.

    Case and punctuation go (hyphens part words), articles go unless nothing else is there,
    numbers become plain digits, dates with a month's name become `y-m-d`.

    >>> canonical_tokens("The Twenty-One lamps, 3.0 metres")
    ('21', 'lamps', '3', 'metres')
    >>> canonical_tokens("May 3rd, 1990") == canonical_tokens("3 May 1990")
    True
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    folded = re.sub(r"\b(?:[^\W\d_]\.){2,}", lambda found: found.group().replace(".", ""), folded)
    folded = re.sub(r"(?<=\w)-(?=\w)", " ", re.sub(r"(\d{4})-(\d\d?)-(\d\d?)", _iso_date, folded))
    words = [_number(token.replace("'", "")) for token in _TOKEN.findall(folded)]
    words = _join_dates(_join_numbers(["percent" if word == "%" else word for word in words]))
    kept = [word for word in words if word not in ("a", "an", "the")]
    return tuple(kept or words[-1:])


def _iso_date(found: re.Match[str]) -> str:
    year, month, day = (int(group) for group in found.groups())
    names = [name for name, number in _MONTHS.items() if number == month and len(name) > 3]
    return f"{day} {names[0] if names else 'may'} {year}" if 1 <= month <= 12 else found.group()


def _number(token: str) -> str:
    """Writes a figure plainly: `1,200.50` as `1200.5`, `3rd` as `3rd`; other tokens unchanged."""
    found = _NUMBER.fullmatch(token)
    if not found:
        return token
    figure, ordinal = found.groups()
    if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", figure):
        figure = figure.replace(",", "")
    if re.fullmatch(r"-?\d+(?:\.\d+)?", figure):
        whole, _, part = figure.partition(".")
        part = part.rstrip("0")
        figure = str(int(whole)) if not part else f"{whole}.{part}"
    return figure + (ordinal or "")


def _join_numbers(words: Sequence[str]) -> list[str]:
    """Replaces runs of number words by one figure."""
    joined: list[str] = []
    start = 0
    while start < len(words):
        end, value = _read_number(words, start)
        if value is None:
            joined.append(words[start])
            start += 1
        else:
            joined.append(str(value))
            start = end
    return joined


def _read_number(words: Sequence[str], start: int) -> tuple[int, int | None]:
    """Reads `two hundred and five` from `start`; returns where it ends and its value, if any."""
    total, group, last, at = 0, 0, "", start
    while at < len(words):
        word = words[at]
        if word in _UNITS and last in ("", "tens", "scale"):
            if last == "tens" and not 1 <= _UNITS[word] <= 9:
                break
            group, last = group + _UNITS[word], "unit"
        elif word in _TENS and last in ("", "scale"):
            group, last = group + _TENS[word], "tens"
        elif word == "hundred" and last in ("unit", "tens"):
            group, last = group * 100, "scale"
        elif word in _SCALES and word != "hundred" and last:
            total, group, last = total + max(group, 1) * _SCALES[word], 0, "scale"
        elif word == "and" and last == "scale" and at + 1 < len(words):
            if words[at + 1] not in _UNITS and words[at + 1] not in _TENS:
                break
        else:
            break
        at += 1
    return (at, total + group) if last else (start, None)


def _join_dates(words: Sequence[str]) -> list[str]:
    """Replaces `3 may 1990`, `may 3rd 1990`, `3rd of may` and `may 1990` by one word."""
    text = " ".join(words)
    months = "|".join(sorted(_MONTHS, key=len, reverse=True))
    day, year = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{4})"
    for pattern in (
        rf"\b(?:the )?{day} (?:of )?(?P<month>{months})(?: {year})?\b",
        rf"\b(?P<month>{months}) (?:the )?{day}(?: {year})?\b",
        rf"\b(?P<month>{months}) {year}\b",
    ):
        text = re.sub(pattern, _plain_date, text)
    return text.split()


def _plain_date(found: re.Match[str]) -> str:
    parts = found.groupdict()
    year, day = parts.get("year") or "", parts.get("day") or ""
    return f"{year}-{_MONTHS[parts['month']]}-{day.lstrip('0')}"


def matches(answer: str, golds: Golds) -> bool:
    """Whether an answer is one of the golds, up to case, articles, punctuation, numbers, dates.

    The whole answer must match: no part of it. A gold of no words never matches.

    >>> matches("Forty-one minutes.", ["41 minutes"]), matches("know", ["no"]), matches("", ["A"])
    (True, False, False)
    """
    said = canonical_tokens(answer)
    return bool(said) and any(said == canonical_tokens(gold) for gold in flat_golds(golds))


def word_match(text: str, golds: Golds) -> bool:
    """Whether a gold occurs in the text as whole words: `substring_exact_match`, corrected.

    >>> word_match("They know it.", ["no"]), word_match("Over the Sabel Strait.", ["sabel strait"])
    (False, True)
    """
    said = " ".join(canonical_tokens(text))
    for gold in flat_golds(golds):
        wanted = " ".join(canonical_tokens(gold))
        if wanted and f" {wanted} " in f" {said} ":
            return True
    return False


# --- corrected: multiple choice ---------------------------------------------------------------

_LETTER = re.compile(
    r"\s*(?:(?i:the|either|option|choice|letter|answer|\w+ly)\s+)*"
    r"(?P<open>[(\[{<\"'“‘]*)(?P<letter>[A-Za-z])(?P<close>[)\]}>\"'”’]*)(?![\w'’-])",
)
_CLOSED = re.compile(r"\s*(?:[.,;:!?)(\]<\n–—]|-\s|$)")
_GOES_ON = re.compile(
    r"\s+(?:because|since|as|given|due|based|according|which|though|although|not|rather|instead|"
    r"over|while|and)\b"
)
"""What may follow the letter A (or I) where it is no article (no pronoun)."""
_NEW_CLAUSE = re.compile(
    r"\s+(?:is|was|are|seems|looks|can|could|cannot|does|would|has|isn['’]t)\b"
)
"""After a letter: it is the subject of what follows, not the object of what went before."""
_AND_ANOTHER = re.compile(r"\s*(?:(?P<either>or|/)|,|and\b|&)\s*(?=\W*\w)")
_DENIED_BEFORE = re.compile(
    r"(?:\bnot|n['’]t|\bcannot|\bnever|\bneither|\bnor|\brather\s+than|\binstead\s+of)"
    r"(?:\s+\w+)?\s*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"\s+(?:(?:is|was|are|seems|looks)\s+(?:\w+ly\s+)?(?:not|wrong|incorrect|false|out|tempting)\b|"
    r"isn['’]t|cannot|can['’]t|does(?:n['’]t|\s+not))",
    re.IGNORECASE,
)
_LABELS = re.compile(
    r"<answer>|\b(?:answer|ans|option|choice|letter|solution|correct)[\"'”’]?\s*[:：=]|"
    r"\banswer\s*[–—-]\s|"
    r"\b(?:answer|option|choice|letter)\b(?P<between>(?:\s+(?!is\b)[\w'’]+){0,6}?)"
    r"\s+(?:is|was|be|becomes)\b\s*[:：]?|"
    r"\banswer\b(?=\s)",
    re.IGNORECASE,
)
_DECISIONS = re.compile(
    r"\b(?:choos(?:e|ing)|chose|pick(?:ing|ed)?|select(?:ing|ed)?|go(?:ing)?\s+(?:with|for)|"
    r"went\s+with|opt(?:ing)?\s+for|settl(?:e|ing)\s+(?:on|for)|think|believe|guess|say|"
    r"(?:must|should|would|has\s+to|have\s+to)\s+be|it\s+is|it['’]s|that\s+is|that['’]s|"
    r"so|hence|thus|therefore|leav(?:es|ing)|not\s+(?:option\s+)?\W?[A-Z]\W?,?\s+but(?:\s+rather)?)"
    r"(?=[\s:]|,\s),?",
    re.IGNORECASE,
)
_VERDICT_ON = re.compile(
    r"(?:^|(?<=[\s(\[\"'“]))(?P<letter>[A-Z])[)\]\"'”]?\s+"
    r"(?:is|was|seems|appears|looks|(?:must|would|should|has\s+to|will)\s+be)\s+"
    r"(?:(?:the|most|only|\w+ly)\s+)*"
    r"(?:correct|right|best|answer|true|accurate)\b",
)
_ALONE = re.compile(
    r"^\s*(?:(?:option|choice|answer|letter)\s+)?[(\[\"'“]?(?P<letter>[A-Za-z])[)\]\"'”]?"
    r"\s*(?:[.:]?\s*$|,(?=\s))",
    re.MULTILINE | re.IGNORECASE,
)
_BRACKETED = re.compile(r"[(\[](?P<letter>[A-Za-z])[)\]]")
_LISTED = re.compile(
    r"^\s*(?:(?:option|choice)\s+)?(?P<letter>[A-Z])(?:[.):](?=\s)|\s+[–—-]\s)"
    r"(?!\s*(?:is\s+)?(?:incorrect|wrong|false|not)\b)",
    re.MULTILINE | re.IGNORECASE,
)
AMBIGUOUS = "?"
"""Stands for a statement that leaves it open, such as `B or C`."""


def parse_choice(text: str, options: Sequence[str]) -> str | None:
    r"""Returns the letter that a reply settles on, or None.

    Read in this order, the last statement of the first kind that occurs: a labelled letter
    (`Answer: (B)`, `the best choice would be b`), a decision (`I would go with C`, `B is right`,
    `not A but B`), a letter alone on its line, a bracketed one, one that opens a line (`B. blue`);
    then an option given by its text. Letters that are denied do not count, an article is no
    letter, and a statement that leaves it open (`B or C`) settles on none.

    >>> parse_choice("(A) is tempting, but the answer is **b**.", ["red", "blue"])
    'B'
    >>> parse_choice("It was a blue one. Answer:\nblue", ["red", "blue"])
    'B'
    >>> parse_choice("Answer: A or B", ["red", "blue"]) is None
    True
    """
    plain = re.sub(r"\\boxed\s*\{", "<answer>", text)
    plain = re.sub(r"[*_`$]+|\\text\s*\{|\}", "", plain)
    letters = string.ascii_uppercase[: len(options)]
    for find in (_labelled, _decided, _alone, _bracketed, _listed):
        found = find(plain, letters, options)
        if found:
            return None if found[-1] == AMBIGUOUS else found[-1]
    final = parse_final_answer(plain)
    if re.search(r"\w", final):
        for test in (matches, word_match):
            hits = [i for i, option in enumerate(options) if test(final, option)]
            if len(hits) == 1:
                return letters[hits[0]]
    return None


def _letter_after(text: str, at: int, letters: str, options: Sequence[str]) -> str | None:
    """Returns the letter that stands at a place, `AMBIGUOUS`, or None where none is meant."""
    found = _LETTER.match(text, at)
    letter = _meant(found, letters, options)
    if found is None or letter is None or _NEW_CLAUSE.match(text, found.end()):
        return None
    return AMBIGUOUS if _is_one_of_several(text, found.end(), letters, options) else letter


def _is_one_of_several(text: str, at: int, letters: str, options: Sequence[str]) -> bool:
    """Whether a letter that ends at a place goes on with another one: `B or C`, `a, b`."""
    more = _AND_ANOTHER.match(text, at)
    other = _LETTER.match(text, more.end()) if more else None
    if more is None or other is None or other["letter"].upper() not in letters:
        return False
    if _NEW_CLAUSE.match(text, other.end()):
        return False
    ends = other["close"] or _CLOSED.match(text, other.end())
    goes_on = _AND_ANOTHER.match(text, other.end())
    return bool(ends or goes_on or (more["either"] and _meant(other, letters, options)))


def _meant(found: re.Match[str] | None, letters: str, options: Sequence[str]) -> str | None:
    """Returns the letter of a match where it is one of the options', and no word."""
    if found is None or found["letter"].upper() not in letters:
        return None
    text, letter, end = found.string, found["letter"], found.end()
    if (found["open"] and found["close"]) or _CLOSED.match(text, end):
        return letter.upper()
    goes_on = _GOES_ON.match(text, end) is not None
    if letter in "AI":
        spelt = options[letters.index(letter)].casefold()
        following = text[end : end + len(spelt) + 8].lstrip().casefold()
        return letter if goes_on or following.startswith(spelt) else None
    if letter.islower():
        return letter.upper() if goes_on and letter not in "ai" else None
    return letter


def _is_denied_before(text: str, at: int) -> bool:
    return _DENIED_BEFORE.search(text, max(0, at - 40), at) is not None


def _labelled(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = []
    for label in _LABELS.finditer(text):
        if label["between"] and re.search(r"\b(?:not|never|cannot)\b|n['’]t\b", label["between"]):
            continue
        found.append(_letter_after(text, label.end(), letters, options))
    return [letter for letter in found if letter]


def _decided(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found: list[tuple[int, str | None]] = []
    for decision in _DECISIONS.finditer(text):
        if not _is_denied_before(text, decision.start()):
            letter = _letter_after(text, decision.end(), letters, options)
            found.append((decision.start(), letter))
    for verdict in _VERDICT_ON.finditer(text):
        if verdict["letter"] in letters and not _is_denied_before(text, verdict.start()):
            found.append((verdict.start(), verdict["letter"]))
    return [letter for _, letter in sorted(found, key=lambda pair: pair[0]) if letter]


def _alone(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = (one["letter"].upper() for one in _ALONE.finditer(text) if one[0].strip() != "I,")
    return [letter for letter in found if letter in letters]


def _bracketed(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = []
    end = 0
    for one in _BRACKETED.finditer(text):
        denied = _is_denied_before(text, one.start()) or _DENIED_AFTER.match(text, one.end())
        if one["letter"].upper() in letters and not denied and one.start() >= end:
            more = _AND_ANOTHER.match(text, one.end())
            other = _BRACKETED.match(text, more.end()) if more else None
            found.append(AMBIGUOUS if other else one["letter"].upper())
            end = other.end() if other else end
    return found


def _listed(text: str, letters: str, options: Sequence[str]) -> list[str]:
    found = [one["letter"].upper() for one in _LISTED.finditer(text)]
    found = [letter for letter in found if letter in letters]
    return [] if len(letters) > 1 and set(found) == set(letters) else found  # all are repeated


def choice_match(text: str, letter: str, options: Sequence[str]) -> bool:
    """Whether a reply settles on the letter: the choice rule, corrected."""
    return parse_choice(text, options) == letter.upper()


def piece_scores(cited: Collection[int], gold: Collection[int]) -> dict[str, float]:
    """Returns precision, recall and full recall of cited pieces against gold ones.

    Precision of no citation is 0, as it found nothing that it could have found.
    """
    assert gold, "a question without gold pieces has no pointback score"
    hits = len(set(cited) & set(gold))
    return {
        "point_precision": hits / len(set(cited)) if cited else 0.0,
        "point_recall": hits / len(set(gold)),
        "point_complete": float(hits == len(set(gold))),
    }
