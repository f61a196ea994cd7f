"""The HELMET benchmark: its rows, demonstrations, prompts, result files and results table.

Facts follow princeton-nlp/HELMET at 4526dfb. The rows and demonstrations drawn, the form of the
prompts, the scoring and the file names are HELMET's; the instruction sentences are our own and can
be replaced (`load_templates`).
"""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

from agenticlu.core.errors import ConfigError, UsageError, require_known
from agenticlu.core.records import Record
from agenticlu.core.toml import parse_toml, read_toml
from agenticlu.evaluation.records import Prompt

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
    rule: str = "open"
    """Scoring rule."""
    label: str = "Answer:"
    """What HELMET looks for in a reply before the answer."""
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
        rule="open" if folder.startswith("qa_") else "all_of",
        gen_tokens=tokens,
        shots=shots,
        file=f"data/ruler/{folder}/validation_{{length}}.jsonl",
    )


def _icl(name: str, *, balanced: bool = True, natural_labels: bool = False) -> Spec:
    return Spec(
        family="icl",
        category="ICL" if balanced and not natural_labels else "",
        headline="exact_match",
        rule="label",
        label="label:",
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
        rule="string_em" if name == "asqa" else "qampari",
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
        label="corresponding value:",
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
        rule="ranking",
        gen_tokens=200,
        file="data/msmarco/test_reranking_data_k{k}_dep3.jsonl",
        demo_file="data/msmarco/test_reranking_data_k10_dep3.jsonl",
        scale="msmarco",
    ),
    "alce_asqa": _alce("asqa", "str_em"),
    "alce_qampari": _alce("qampari", "qampari_rec_top5"),
    "narrativeqa": Spec("narrativeqa", "LongQA", "gpt-4-score", 100, chat=True),
    "infbench_qa_eng": Spec("infbench", "LongQA", "rougeL_f1", 10, "long_answer", chat=True),
    "infbench_choice_eng": Spec("infbench", "LongQA", "exact_match", 10, "choice", chat=True),
    "infbench_sum_eng": Spec("infbench", "Summ", "gpt-4-f1", 1200, "summary", chat=True),
    "multi_lexsum": Spec("multi_lexsum", "Summ", "gpt-4-f1", 400, "summary", "Summary:", chat=True),
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
"""Task to its specification, under HELMET's name without the numbers that depend on the length."""

HUB_SETS = {
    "narrativeqa": "narrativeqa",
    "infbench": "xinrongzhang2022/infinitebench",
    "multi_lexsum": "allenai/multi_lexsum",
    "qasper": "tau/scrolls",
}
"""Family of tasks to its data set on the hub."""
ICL_SETS: dict[str, tuple[str, str | None, str, str, str, int]] = {
    "icl_trec_coarse": ("CogComp/trec", None, "test", "text", "coarse_label", 6),
    "icl_trec_fine": ("CogComp/trec", None, "test", "text", "fine_label", 50),
    "icl_banking77": ("PolyAI/banking77", None, "test", "text", "label", 77),
    "icl_clinic150": ("clinc_oos", "plus", "validation", "text", "intent", 151),
    "icl_nlu": ("xingkunliuxtracta/nlu_evaluation_data", None, "", "text", "label", 68),
}
"""Data set, configuration, test split, text and label column, labels renamed."""


def has_scale(length: int) -> bool:
    """Whether the ladder has a length: one of `LENGTHS`, or the last one doubled."""
    doubled, rest = divmod(length, LENGTHS[-1])
    return length in LENGTHS or (rest == 0 and doubled > 0 and doubled & (doubled - 1) == 0)


def find_scale(spec: Spec, length: int) -> int:
    """Returns the number of passages, pairs or shots at a length.

    Beyond the ladder, where HELMET's own configurations have only key-value objects (3,600 pairs
    at 262144), the number doubles with the length.

    Raises:
        UsageError: The length is not on the ladder.
    """
    if not has_scale(length):
        raise UsageError(
            f"HELMET has no files for length {length}. Lengths: {', '.join(map(str, LENGTHS))}, "
            "then doubling.",
        )
    rungs = _LADDER[spec.scale]
    if length in LENGTHS:
        return rungs[LENGTHS.index(length)]
    return rungs[-1] * (length // LENGTHS[-1])


def count_kept_tokens(name: str, length: int) -> int:
    """Returns the number of tokens that are kept of a document."""
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
        return f"{spec.scale}_{find_scale(spec, length)}shot{balance}{natural}"
    if spec.family == "alce":
        return f"{name}_{find_scale(spec, length)}"
    if name in _KEPT or name == "qasper":
        return f"{name}_{count_kept_tokens(name, length)}"
    return name


def find_file(spec: Spec, length: int) -> str:
    """Returns the test file of a task at a length; empty for hub data sets."""
    if not spec.file:
        return ""
    k = find_scale(spec, length) if spec.scale else 0
    return spec.file.format(k=k, length=length)


Row = Mapping[str, Any]


class Template(Record):
    """The wording of one family of tasks; fields as described in `templates.toml`."""

    user: str = ""
    separator: str = "\n"
    label: str = "Answer:"
    ask: str = "{question}"
    switch: str = ""
    instruction: str = ""


@functools.cache
def load_templates(path: str | None = None) -> Mapping[str, Template]:
    """Returns the bundled templates, overridden key by key by those of a TOML file.

    Raises:
        ConfigError: The file cannot be read or is not TOML, has an unknown table or key, or a
            template in it lacks a needed field or names an unknown one.
    """
    bundled = importlib.resources.files(__package__).joinpath("templates.toml")
    tables: dict[str, dict[str, str]] = tomllib.loads(bundled.read_text(encoding="utf-8"))
    if path is not None:
        for name, given in _read_templates(path).items():
            checked = _check_table(path, name, given, tables)
            tables[name] = {**tables[name], **checked}
    return {name: Template.model_validate(_trim(table)) for name, table in tables.items()}


def _trim(table: Mapping[str, str]) -> dict[str, str]:
    """Drops the second line end that opens a multi-line string; TOML itself drops the first."""
    return {
        key: value.removeprefix("\n") if key == "user" else value for key, value in table.items()
    }


def _read_templates(path: str) -> dict[str, Any]:
    try:
        data = read_toml(Path(path))
    except OSError as error:
        raise ConfigError(f"Cannot read the templates {path!r}: {error.strerror}.") from error
    return parse_toml(data, f"The file of templates {path!r}")


def _check_table(
    path: str, name: str, given: object, tables: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """Returns a table of a file of templates, after checking its keys and fields."""
    require_known(name, tables, kind=f"template in {path}:")
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: {name!r} must be a table such as [{name}].")
    bundled, place = tables[name], f"{path}, [{name}]:"
    every = {field for text in bundled.values() for field in _fields_in(text)}
    for key, value in given.items():
        require_known(key, bundled, kind=f"key in {place}")
        if not isinstance(value, str):
            raise ConfigError(f"{place} {key} must be a string, not {value!r}.")
        if key in ("user", "label", "ask"):
            allowed = every if key == "user" else every - {"context"}
            needed = set(_fields_in(bundled[key])) - {"type_needle_v", "num_v"}
            _check_fields(f"{place} {key}", value, allowed, needed if key == "user" else set())
    return given


def _check_fields(place: str, text: str, allowed: set[str], needed: set[str]) -> None:
    double = "Double a literal brace: {{ or }}."
    try:
        found = _fields_in(text)
    except ValueError as error:
        raise ConfigError(f"{place} is not a valid format string: {error}.", hint=double) from error
    for field in found:
        require_known(field, sorted(allowed), kind=f"field in {place}:", hint=double)
    if lacking := sorted(needed - set(found)):
        names = ", ".join(f"{{{field}}}" for field in lacking)
        raise ConfigError(
            f"{place} lacks {names}: part of the prompt would be left out.",
            hint="Put it where it belongs; it may be empty when the prompt is made.",
        )


def _fields_in(text: str) -> list[str]:
    """Returns the fields in braces of a text, in order.

    >>> _fields_in("{demos}{context} with {{braces}}")
    ['demos', 'context']
    """
    return [field for _, field, _, _ in Formatter().parse(text) if field is not None]


def render_kilt(passages: Iterable[Row]) -> str:
    """Returns titled passages, a blank line between them."""
    return "\n\n".join(f"Document (Title: {p['title']}): {p['text']}" for p in passages)


def render_msmarco(passages: Iterable[Row], *, titled: bool) -> str:
    """Returns passages with their ids; with titles where the question's own passages have them."""
    return "\n\n".join(
        f"[ID: {p['id']}] Document (Title: {p['title']}): {p['text']}"
        if titled
        else f"[ID: {p['id']}] Document: {p['text']}"
        for p in passages
    )


def render_ranking(passages: Sequence[Row]) -> str:
    """Returns the ids by label, highest first, ties in file order."""
    return " > ".join(p["id"] for p in sorted(passages, key=lambda p: p["label"], reverse=True))


def render_demos(demos: Sequence[str], switch: str) -> str:
    """Returns demonstrations of long documents, opened and closed; an empty string for none."""
    if not demos:
        return ""
    return "For example:\n\n" + "\n\n".join(demos) + f"\n\n{switch}\n\n"


def build_prompt(template: Template, row: Row, *, chat: bool) -> Prompt:
    """Returns the prompt of a row; its context can be cut later and the prompt rendered again."""
    fields = {key: value for key, value in row.items() if key != "context"}
    return Prompt(
        template=template.user,
        fields=fields,
        context=row["context"],
        label=template.label.format(**row),
        separator=template.separator,
        chat=chat,
    )


def build_json_kv_row(row: Mapping[str, Any], shots: int) -> dict[str, Any]:
    """Returns a key-value row with the columns that its template needs."""
    demos = [f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in row["demos"][:shots]]
    return {**row, "demos": "".join(demos), "k": row["num_kvs"]}


def ruler_template(name: str) -> str:
    """Returns the template of a RULER task, HELMET's or of our generators."""
    if "qa" in name:
        return "ruler_qa"
    if any(part in name for part in ("niah_mv", "niah_mq", "multivalue", "multiquery")):
        return "niah_many"
    return next(kind for kind in ("niah", "vt", "cwe", "fwe") if kind in name)


def build_ruler_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a RULER row with the columns that its template needs."""
    example = row.get("example") or ""
    return {
        **row,
        "question": row.get("query", row.get("question", "")),
        "example": f"{example}\n\n" if example else "",
        "answer": list(row["answer"] if "answer" in row else row["outputs"]),
    }
