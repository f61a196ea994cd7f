"""ALCE's metrics of a result file, as in HELMET's eval_alce.py: golds, citations, sentences."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agenticlu.core.errors import ModelNotFoundError, missing_dependency
from agenticlu.core.records import content_seed
from agenticlu.evaluation.helmet.sources import ResultFile
from agenticlu.evaluation.scoring import helmet as alce
from agenticlu.evaluation.scoring import rouge
from agenticlu.evaluation.scoring.rules import GROUPS

MIN_SENTENCE = 5
"""Shorter sentences, in characters, are dropped: '1.' is split off as one."""
NUM_RESAMPLES = 1000
SHOWN = "_shown"
"""Suffix of the corrected citation metrics, under which only passages shown may be cited."""

Row = Mapping[str, Any]


def parse_num_shown(file_name: str) -> int | None:
    """Returns the number of passages in a result file's prompts; None if its name has none.

    >>> parse_num_shown("alce_asqa_30_v1_asqa_eval_gtr_top2000_in8192_size100.json")
    30
    """
    found = re.match(r"alce_[a-z]+_(\d+)_", file_name)
    return int(found[1]) if found else None


def check_rows(result: ResultFile, task: str) -> None:
    """Raises ConfigError for a row that lacks what ALCE's metrics need."""
    for index in range(len(result.rows)):
        result.value(index, "output", str)
        for passage in result.value(index, "docs", list):
            if not (isinstance(passage, dict) and {"title", "text"} <= set(passage)):
                result.refuse(index, "docs")
        if task.startswith("alce_qampari"):
            result.value(index, "question", str)
        for annotation in result.rows[index].get("annotations") or []:
            if not (isinstance(annotation, dict) and "long_answer" in annotation):
                result.refuse(index, "annotations")
        try:
            GROUPS.kind.validate_python(find_groups(task, result.rows[index]))
        except (KeyError, TypeError, ValidationError):
            result.refuse(index, "answers" if task.startswith("alce_qampari") else "qa_pairs")


def find_groups(task: str, row: Row) -> list[list[str]]:
    """Returns the golds of a row: for each answer or sub-question, its equivalent answers."""
    if task.startswith("alce_qampari"):
        return list(row["answers"])
    return [pair["short_answers"] for pair in row["qa_pairs"]]


def score_rows(
    task: str,
    rows: Sequence[Row],
    entails: EntailsMany | None = None,
    *,
    num_shown: int | None = None,
) -> dict[str, Any]:
    """Returns the averages (x 100 but for length and num_preds) and the sentence splitter used.

    Args:
        task: alce_asqa or alce_qampari.
        rows: With `output`, `docs` and the task's golds.
        entails: Inference model for citations; None omits their metrics.
        num_shown: Passages of a prompt; None takes those of the row.
    """
    import numpy as np

    raw = [alce.clean_alce(row["output"]) for row in rows]
    plain = [alce.remove_citations(text) for text in raw]
    groups = [find_groups(task, row) for row in rows]
    result: dict[str, Any] = {"length": float(np.mean([len(text.split()) for text in plain]))}
    if task.startswith("alce_qampari"):
        # HELMET's script looks for sub-questions, which these rows lack, and writes zeros.
        result |= {"str_em": 0.0, "str_hit": 0.0}
        lists = [alce.qampari_scores(*pair) for pair in zip(plain, groups, strict=True)]
        for name in lists[0]:
            scale = 1 if name == "num_preds" else 100
            result[name] = scale * float(np.mean([scores[name] for scores in lists]))
    else:
        pairs = [alce.string_em(*pair) for pair in zip(plain, groups, strict=True)]
        result["str_em"] = 100 * float(np.mean([share for share, _ in pairs]))
        result["str_hit"] = 100 * float(np.mean([hit for _, hit in pairs]))
        result["rougeLsum"] = 100 * _rouge(plain, rows)
        result["sentence_splitter"] = find_splitter().name
    if entails is not None:
        result |= citation_averages(task, raw, rows, entails, num_shown)
    return result


def _rouge(texts: Sequence[str], rows: Sequence[Row]) -> float:
    """Returns the bootstrap median of the better of two long answers, from a fixed seed."""
    import numpy as np

    def lines(text: str) -> str:
        return "\n".join(find_splitter().split(text.lower()))

    values = []
    for text, row in zip(texts, rows, strict=True):
        golds = [a["long_answer"] for a in (row.get("annotations") or [])[:2]]
        golds = golds or [str(row.get("answer", ""))]
        values.append(max(rouge.rouge_lsum(lines(text), lines(gold)) for gold in golds))
    rng = np.random.default_rng(content_seed("alce rouge"))
    draws = rng.integers(0, len(values), (NUM_RESAMPLES, len(values)))
    return float(np.percentile(np.array(values)[draws].mean(axis=1), 50))


class _BatchedEntails:
    """Entailment of single pairs, asked in batches: an unknown pair is noted and counts as no.

    A citation's metrics ask about further pairs only after a yes. So they are computed again until
    no unknown pair is left, with one large batch in between instead of many single calls.
    """

    def __init__(self) -> None:
        self.known: dict[Pair, bool] = {}
        self.open: dict[Pair, None] = {}

    def __call__(self, premise: str, hypothesis: str) -> bool:
        pair = (premise, hypothesis)
        if pair not in self.known:
            self.open[pair] = None
        return self.known.get(pair, False)

    def settle(self, entails: EntailsMany) -> bool:
        """Asks about all unknown pairs at once; returns False if there are none."""
        asked = list(self.open)
        if asked:
            self.known |= dict(zip(asked, entails(asked), strict=True))
        self.open.clear()
        return bool(asked)


def citation_averages(
    task: str,
    outputs: Sequence[str],
    rows: Sequence[Row],
    entails: EntailsMany,
    num_shown: int | None = None,
) -> dict[str, Any]:
    """Returns citation_rec and citation_prec (x 100), and how often each position is cited.

    HELMET's names are by HELMET's rule; by those ending in `_shown`, only the ids 1 to K of the
    passages shown are valid.
    """
    import numpy as np

    sentences = [_split_sentences(task, text, row) for text, row in zip(outputs, rows, strict=True)]
    shown = [num_shown or len(row["docs"]) for row in rows]
    verdicts = _BatchedEntails()

    def averages(limits: Sequence[int | None]) -> tuple[float, float]:
        found = [
            alce.citation_scores(lines, row["docs"], verdicts, num_shown=limit)
            for lines, row, limit in zip(sentences, rows, limits, strict=True)
        ]
        scored = [one for one in found if one is not None]
        recall, precision = (
            100 * float(np.mean([one[name] for one in scored])) if scored else 0.0
            for name in ("citation_rec", "citation_prec")
        )
        return recall, precision

    while True:  # three batches at most: all citations, each alone, all but each
        published, corrected = averages([None] * len(rows)), averages(shown)
        if not verdicts.settle(entails):
            break
    positions: dict[str, int] = {}
    for found in re.findall(r"\[\d{1,9}", " ".join(line for lines in sentences for line in lines)):
        place = str(int(found[1:]) - 1)
        positions[place] = positions.get(place, 0) + 1
    return {
        "citation_rec": published[0],
        "citation_prec": published[1],
        f"citation_rec{SHOWN}": corrected[0],
        f"citation_prec{SHOWN}": corrected[1],
        "citation_positions": positions,
        "sentence_splitter": find_splitter().name,
    }


def _split_sentences(task: str, output: str, row: Row) -> list[str]:
    """Returns the sentences, or list entries, that citations are counted in."""
    if task.startswith("alce_qampari"):
        parts = output.rstrip().rstrip(".").rstrip(",").split(",")
        return [f"{row['question']} {part.strip()}" for part in parts]
    return [s for s in find_splitter().split(output) if len(s.strip()) >= MIN_SENTENCE]


NLI_MODEL = "google/t5_xxl_true_nli_mixture"
"""ALCE's model: 11B parameters."""
BATCH_TOKENS = 16384
"""Most tokens of a batch, padding included; a longer text is a batch of its own."""
REPLY_TOKENS = 10

Pair = tuple[str, str]
"""Premise and hypothesis."""
EntailsMany = Callable[[Sequence[Pair]], list[bool]]
"""Returns for each pair whether the premise entails the hypothesis."""


class T5Entails:
    """A T5 that answers `premise: ... hypothesis: ...` with 1 or 0.

    In bfloat16 on an accelerator, in float32 on a CPU.

    Args:
        model: Folder or hub id.
        device: Such as 'cuda:1'; None takes an accelerator if there is one.
        batch_tokens: Most tokens of a batch, padding included.
        report: Called with a line of progress after each batch.

    Raises:
        ModelNotFoundError: The model does not exist or cannot be loaded.
        MissingDependencyError: torch or transformers is not installed.
    """

    def __init__(
        self,
        model: str = NLI_MODEL,
        *,
        device: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        try:
            self._torch: Any = importlib.import_module("torch")
            transformers: Any = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise missing_dependency(error.name or "transformers", "local") from error
        accelerator = self._torch.accelerator
        found = accelerator.current_accelerator() if accelerator.is_available() else "cpu"
        self.device = self._torch.device(device or found)
        cpu = self.device.type == "cpu"
        self.dtype = self._torch.float32 if cpu else self._torch.bfloat16
        self._batch_tokens = batch_tokens
        self._report = report
        transformers.utils.logging.disable_progress_bar()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(model, dtype=self.dtype)
        except (OSError, ValueError, ImportError) as error:
            reason = (str(error).strip().split("\n") or [""])[0] or type(error).__name__
            raise ModelNotFoundError(
                f"Cannot load the inference model {model!r}: {reason}",
                hint="Give the folder of a T5 that answers 1 or 0: --nli FOLDER.",
            ) from error
        self._model = loaded.to(self.device).eval()

    def __call__(self, pairs: Sequence[Pair]) -> list[bool]:
        """Returns for each pair whether the premise entails the hypothesis."""
        texts = [f"premise: {premise} hypothesis: {claim}" for premise, claim in pairs]
        ids = [self._tokenizer(text)["input_ids"] for text in texts]
        verdicts = [False] * len(pairs)
        done = 0
        for batch in self._batches([len(one) for one in ids]):
            for index, reply in zip(batch, self._replies([ids[i] for i in batch]), strict=True):
                verdicts[index] = reply == "1"
            done += len(batch)
            self._report(f"{done} of {len(pairs)} claims checked against their passages")
        return verdicts

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Returns the indices in batches of texts of similar length, longest first."""
        batches: list[list[int]] = []
        widest = 0
        for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            if not batches or widest * (len(batches[-1]) + 1) > self._batch_tokens:
                batches.append([])
                widest = lengths[index]
            batches[-1].append(index)
        return batches

    def _replies(self, ids: Sequence[Sequence[int]]) -> list[str]:
        inputs = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        with self._torch.inference_mode():
            output = self._model.generate(
                input_ids=inputs["input_ids"].to(self.device),
                attention_mask=inputs["attention_mask"].to(self.device),
                max_new_tokens=REPLY_TOKENS,
                do_sample=False,
            )
        replies: list[str] = self._tokenizer.batch_decode(output, skip_special_tokens=True)
        return replies


PUNKT = "nltk punkt"
BUILT_IN = "built-in rule"
PUNKT_HINT = "python -m nltk.downloader punkt_tab"
"""Command that downloads punkt's data."""

_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?:\s*\[\d+\])*\s+")
_NEVER_LAST = frozenset(
    re.findall(
        r"\S+",
        "dr mr mrs ms messrs prof st mt ft vs e.g i.e cf ca approx gen rev sen rep gov hon capt "
        "col lt sgt",
    )
)
"""Abbreviations that never end a sentence."""
_SOMETIMES_LAST = frozenset(
    re.findall(r"\S+", "etc inc ltd co corp bros jr sr u.s u.k u.n a.m p.m b.c a.d ph.d")
)
"""Abbreviations that end a sentence when a capital follows."""
_BEFORE_NUMBERS = frozenset(
    re.findall(r"\S+", "no nos fig vol pp p art sec jan feb aug sept oct nov dec")
)
"""Abbreviations when a figure follows, words that may end a sentence otherwise."""


@dataclass(frozen=True)
class Splitter:
    """A way to cut text into sentences."""

    name: str
    """Stored with the metrics."""
    split: Callable[[str], list[str]]


@functools.cache
def find_splitter() -> Splitter:
    """Returns nltk's punkt, as ALCE uses it, if its data is installed; else the built-in rule."""
    try:
        nltk = importlib.import_module("nltk")
        nltk.sent_tokenize("One. Two.")
    except (ModuleNotFoundError, LookupError):
        return Splitter(BUILT_IN, split_sentences)
    return Splitter(PUNKT, nltk.sent_tokenize)


def describe_splitter() -> str | None:
    """Returns a note on metrics over sentences; None with punkt, as published."""
    if find_splitter().name == PUNKT:
        return None
    return (
        "ALCE's metrics over sentences (rougeLsum, citations) use a built-in rule, since nltk's "
        f"punkt is not installed; as published: {PUNKT_HINT}"
    )


def split_sentences(text: str) -> list[str]:
    """Splits text after full stops and the like; needs no capitals.

    Citations that follow the full stop stay with their sentence.

    >>> split_sentences("dr. ames left at 5 p.m. for st. ives. [1] she came back. why?")
    ['dr. ames left at 5 p.m. for st. ives. [1]', 'she came back.', 'why?']
    """
    sentences = []
    start = 0
    for found in _END.finditer(text):
        if _ends(text[start : found.start()], found.group(), text[found.end() : found.end() + 1]):
            sentences.append(text[start : found.end()].strip())
            start = found.end()
    sentences.append(text[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends(before: str, mark: str, after: str) -> bool:
    """Whether a sentence ends with a mark, given the text before it and the character after it."""
    capital = after.isupper()
    if mark.startswith(".."):
        return capital
    if not mark.startswith("."):
        return True
    word = re.sub(r"^\W+", "", before.split()[-1] if before.split() else "")
    lowered = word.lower()
    if lowered in _NEVER_LAST or (len(word) == 1 and word.isalpha() and lowered != "i"):
        return False
    if lowered in _BEFORE_NUMBERS:
        return not after.isdigit()
    if lowered in _SOMETIMES_LAST:
        return capital
    return True
