"""HELMET's tasks and the size ladder: which file at which length, how long a reply, how scored."""

from __future__ import annotations

from dataclasses import dataclass

from agenticlu.core.errors import UsageError

LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
_LADDER: dict[str, tuple[int, ...]] = {
    "json_kv": (50, 105, 220, 440, 900, 1800),
    "kilt": (20, 50, 105, 220, 440, 1000),
    "msmarco": (14, 50, 130, 285, 600, 1000),
    "alce": (8, 30, 75, 165, 345, 700),
    "icl_trec_coarse": (200, 400, 800, 1600, 3300, 6600),
    "icl_trec_fine": (200, 400, 800, 1600, 3200, 6400),
    "icl_banking77": (180, 360, 720, 1450, 2900, 5900),
    "icl_clinic150": (220, 440, 880, 1750, 3525, 7050),
    "icl_nlu": (250, 510, 1020, 2040, 4080, 8296),
}
_KEPT = {
    "narrativeqa": 300,
    "infbench_qa_eng": 210,
    "infbench_choice_eng": 210,
    "infbench_sum_eng": 1400,
    "multi_lexsum": 700,
}
"""Tokens by which a document stays below the length."""


@dataclass(frozen=True)
class Spec:
    """One of HELMET's data sets."""

    family: str
    """Names loader and template."""
    category: str
    """Of HELMET's table; empty for those outside it."""
    headline: str
    """HELMET's metric, as its table names it."""
    gen_tokens: int
    shots: int = 2
    chat: bool = False
    rows: int = 100
    """max_test_samples."""
    file: str = ""
    """Path below the data folder; `{k}` is the ladder's number, `{length}` the length."""
    demo_file: str = ""
    scale: str = ""
    """Row of the ladder; empty where the length itself, or tokens kept, do the scaling."""
    balanced: bool = True
    """In-context learning: every label equally often among the examples."""
    natural_labels: bool = False
    """In-context learning: the labels keep their names instead of being renamed to numbers."""


def _kilt(name: str, depths: int, split: str = "dev") -> Spec:
    stem = "popqa_test" if name == "popqa" else f"{name}-{split}-multikilt"
    demo = "popqa_test" if name == "popqa" else f"{name}-train-multikilt"
    return Spec(
        family="kilt",
        category="RAG",
        headline="substring_exact_match",
        gen_tokens=20,
        file=f"data/kilt/{stem}_1000_k{{k}}_dep{depths}.jsonl",
        demo_file=f"data/kilt/{demo}_1000_k3_dep{depths}.jsonl",
        scale="kilt",
    )


def _ruler(folder: str, tokens: int, *, recall: bool = False, shots: int = 0) -> Spec:
    return Spec(
        family="ruler",
        category="Recall" if recall else "",
        headline="substring_exact_match" if folder.startswith("qa_") else "ruler_recall",
        gen_tokens=tokens,
        shots=shots,
        file=f"data/ruler/{folder}/validation_{{length}}.jsonl",
    )


def _icl(name: str, *, balanced: bool = True, natural_labels: bool = False) -> Spec:
    return Spec(
        family="icl",
        category="ICL" if balanced and not natural_labels else "",
        headline="exact_match",
        gen_tokens=20,
        shots=0,
        rows=500,
        scale=f"icl_{name}",
        balanced=balanced,
        natural_labels=natural_labels,
    )


def _alce(name: str, headline: str, *, cited: bool = True) -> Spec:
    return Spec(
        family="alce",
        category="Cite" if cited else "",
        headline=headline,
        gen_tokens=300 if cited else 600,
        shots=2 if cited else 0,
        chat=True,
        file=f"data/alce/{name}_eval_gtr_top2000.json",
        demo_file=f"prompts/{name}_{'revised' if cited else 'nocite'}.json",
        scale="alce",
    )


ICL_NAMES = ("trec_coarse", "trec_fine", "banking77", "clinic150", "nlu")


SPECS: dict[str, Spec] = {
    "json_kv": Spec(
        family="json_kv",
        category="Recall",
        headline="substring_exact_match",
        gen_tokens=100,
        file="data/json_kv/test_k{k}_dep6.jsonl",
        scale="json_kv",
    ),
    "ruler_niah_mk_2": _ruler("niah_multikey_2", 50, recall=True, shots=2),
    "ruler_niah_mk_3": _ruler("niah_multikey_3", 100, recall=True, shots=2),
    "ruler_niah_mv": _ruler("niah_multivalue", 50, recall=True, shots=2),
    "kilt_nq": _kilt("nq", 6),
    "kilt_triviaqa": _kilt("triviaqa", 6),
    "kilt_hotpotqa": _kilt("hotpotqa", 3),
    "kilt_popqa_3": _kilt("popqa", 6),
    "msmarco_rerank_psg": Spec(
        family="msmarco",
        category="Re-rank",
        headline="NDCG@10",
        gen_tokens=200,
        file="data/msmarco/test_reranking_data_k{k}_dep3.jsonl",
        demo_file="data/msmarco/test_reranking_data_k10_dep3.jsonl",
        scale="msmarco",
    ),
    "alce_asqa": _alce("asqa", "str_em"),
    "alce_qampari": _alce("qampari", "qampari_rec_top5"),
    "narrativeqa": Spec("narrativeqa", "LongQA", "gpt-4-score", 100, chat=True),
    "infbench_qa_eng": Spec("infbench", "LongQA", "rougeL_f1", 10, chat=True),
    "infbench_choice_eng": Spec("infbench", "LongQA", "exact_match", 10, chat=True),
    "infbench_sum_eng": Spec("infbench", "Summ", "gpt-4-f1", 1200, chat=True),
    "multi_lexsum": Spec("multi_lexsum", "Summ", "gpt-4-f1", 400, chat=True),
    **{f"icl_{name}": _icl(name) for name in ICL_NAMES},
    **{
        f"ruler_niah_{short}": _ruler(f"niah_{long}", tokens)
        for short, long, tokens in (
            ("s_1", "single_1", 50),
            ("s_2", "single_2", 50),
            ("s_3", "single_3", 50),
            ("mk_1", "multikey_1", 50),
            ("mq", "multiquery", 100),
        )
    },
    **{
        f"ruler_{name}": _ruler(name, 100 if name == "cwe" else 50)
        for name in ("cwe", "fwe", "vt", "qa_1", "qa_2")
    },
    "alce_asqa_nocite": _alce("asqa", "str_em", cited=False),
    "alce_qampari_nocite": _alce("qampari", "qampari_rec_top5", cited=False),
    **{f"icl_{name}_natural_label": _icl(name, natural_labels=True) for name in ICL_NAMES},
    **{f"icl_{name}_unbalanced": _icl(name, balanced=False) for name in ICL_NAMES},
    **{
        f"icl_{name}_unbalanced_natural_label": _icl(name, balanced=False, natural_labels=True)
        for name in ICL_NAMES
    },
    "qasper": Spec("qasper", "", "f1", 100, chat=True),
}
"""Task to its facts (HELMET's own names, without the numbers that depend on the length)."""


def has_scale(length: int) -> bool:
    """Returns whether the ladder has a length: one of `LENGTHS`, or the last one doubled."""
    doubled, rest = divmod(length, LENGTHS[-1])
    return length in LENGTHS or (rest == 0 and doubled > 0 and doubled & (doubled - 1) == 0)


def scale_of(spec: Spec, length: int) -> int:
    """Returns how many passages, pairs or shots a length has.

    Beyond the ladder, where HELMET's own configurations have only key-value objects (3,600 pairs
    at 262144), the number doubles with the length.

    Raises:
        UsageError: The ladder has no such length.
    """
    if not has_scale(length):
        raise UsageError(
            f"HELMET has no files for length {length}. Lengths: {', '.join(map(str, LENGTHS))}, "
            "and from there on each the double of the one before.",
        )
    rungs = _LADDER[spec.scale]
    if length in LENGTHS:
        return rungs[LENGTHS.index(length)]
    return rungs[-1] * (length // LENGTHS[-1])


def kept_tokens(name: str, length: int) -> int:
    """Returns how many tokens of a document are kept at a length."""
    return length - _KEPT.get(name, 300)


def dataset_name(name: str, length: int) -> str:
    """Returns the name that HELMET gives to a task at a length, as in its result files.

    >>> dataset_name("icl_trec_fine", 65536), dataset_name("narrativeqa", 8192)
    ('icl_trec_fine_3200shot_balance', 'narrativeqa_7892')
    >>> dataset_name("icl_nlu_unbalanced_natural_label", 8192)
    'icl_nlu_510shot_natural_label'
    """
    spec = SPECS[name]
    if spec.family == "icl":
        balance = "_balance" if spec.balanced else ""
        natural = "_natural_label" if spec.natural_labels else ""
        return f"{spec.scale}_{scale_of(spec, length)}shot{balance}{natural}"
    if spec.family == "alce":
        return f"{name}_{scale_of(spec, length)}"
    return f"{name}_{kept_tokens(name, length)}" if name in _KEPT or name == "qasper" else name


def file_of(spec: Spec, length: int) -> str:
    """Returns the test file of a task at a length; empty for hub data sets."""
    if not spec.file:
        return ""
    k = scale_of(spec, length) if spec.scale else 0
    return spec.file.format(k=k, length=length)
