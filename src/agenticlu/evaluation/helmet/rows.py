"""HELMET's rows and demonstrations: which are drawn, in which order, with which text.

Every loader returns rows with the columns that HELMET's own rows have after loading: the source's,
and `context`, `question`, `answer` and the demonstrations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.records import content_seed
from agenticlu.evaluation.helmet import sampling
from agenticlu.evaluation.helmet.sources import (
    INFINITEBENCH,
    OMISSION,
    Llama2,
    label_names,
    load_llama2,
    load_split,
    read_rows,
)
from agenticlu.evaluation.helmet.specs import (
    LENGTHS,
    SPECS,
    Spec,
    Template,
    block,
    file_of,
    kept_tokens,
    load_templates,
    ranking_of,
    render_kilt,
    render_msmarco,
    scale_of,
)
from agenticlu.evaluation.items import DoesNotFitError
from agenticlu.evaluation.scoring.helmet import ranking_cuts, remove_citations

Row = dict[str, Any]
T = TypeVar("T")
POPULARITY = 3.0
"""PopQA rows of subjects below ten to this power of page views are kept."""
MIN_NARRATIVE_TOKENS = 131072
"""NarrativeQA documents are longer than this."""
MIN_BOOK_TOKENS = 65536
"""InfiniteBench and Multi-LexSum documents have at least as many."""
ICL_SETS: dict[str, tuple[str, str | None, str, str, str, int]] = {
    "icl_trec_coarse": ("CogComp/trec", None, "test", "text", "coarse_label", 6),
    "icl_trec_fine": ("CogComp/trec", None, "test", "text", "fine_label", 50),
    "icl_banking77": ("PolyAI/banking77", None, "test", "text", "label", 77),
    "icl_clinic150": ("clinc_oos", "plus", "validation", "text", "intent", 151),
    "icl_nlu": ("xingkunliuxtracta/nlu_evaluation_data", None, "", "text", "label", 68),
}
"""Data set, configuration, test split, text and label column, labels renamed."""


@dataclass(frozen=True)
class Wanted:
    """Which rows of a HELMET task are wanted."""

    name: str
    length: int
    root: Path
    num: int | None = None
    """max_test_samples; None takes HELMET's."""
    shots: int | None = None
    """None takes HELMET's."""
    templates: str | None = None
    """File of other wordings."""
    tokenizer: str | None = None
    """Folder of another tokenizer in place of Llama 2's."""
    seed: int = sampling.SEED
    """Other seeds give other rows and demonstrations: not HELMET's."""

    @property
    def spec(self) -> Spec:
        """The task's facts."""
        return SPECS[self.name]

    @property
    def num_rows(self) -> int:
        """Rows, or questions, at most."""
        return self.spec.rows if self.num is None else self.num

    @property
    def num_shots(self) -> int:
        """Demonstrations."""
        return self.spec.shots if self.shots is None else self.shots

    def template(self, name: str) -> Template:
        """Returns the template of that name."""
        return load_templates(self.templates)[name]

    def file(self) -> Path:
        """Returns the test file."""
        return self.root / file_of(self.spec, self.length)


@dataclass(frozen=True)
class Loaded:
    """Rows of a task and the template that renders them."""

    rows: list[Row]
    template: Template
    cuts: tuple[int, ...] = ()
    """Cuts of the ranking measures."""


def load_rows(wanted: Wanted) -> Loaded:
    """Loads a task's rows with their demonstrations, in HELMET's order."""
    return LOADERS[wanted.spec.family](wanted)


def _enough(found: Sequence[T], shots: int, what: str) -> Sequence[T]:
    if len(found) < shots:
        raise UsageError(
            f"{what}: only {len(found)} demonstrations can be drawn, {shots} are wanted.",
            hint=f"Try --shots {len(found)}.",
        )
    return found


def load_kilt(wanted: Wanted) -> Loaded:
    """RAG: all rows (gold depths) of the sampled questions, demonstrations by question."""
    rows = read_rows(wanted.file())
    demos = read_rows(wanted.root / wanted.spec.demo_file) if wanted.num_shots else []
    popqa = "popqa" in wanted.name
    if popqa:
        rows = [row for row in rows if row["s_pop"] < 10**POPULARITY]
        demos = [row for row in demos if row["s_pop"] < 10**POPULARITY]
        if not rows:
            raise UsageError(f"{wanted.file()} has no subject of popularity below {POPULARITY}.")
    key = "id" if "id" in rows[0] else "question"
    keys = sampling.sample_keys([row[key] for row in rows], wanted.num_rows, wanted.seed)
    cache: dict[object, str] = {}

    def demos_of(row: Row) -> str:
        if not wanted.num_shots:
            return ""
        if row[key] not in cache:
            pool = [d for d in demos if not popqa or d[key] != row[key]]
            pool = sampling.shuffled(pool, sampling.text_seed(row[key]))
            drawn = sampling.first_per_key(pool, lambda d: d[key], wanted.num_shots)
            cache[row[key]] = (
                "\n\n".join(
                    f"{render_kilt(d['ctxs'])}\n\nQuestion: {d['question']}\nAnswer: "
                    f"{d['answers'][0]}"
                    for d in _enough(drawn, wanted.num_shots, wanted.name)
                )
                + "\n\n"
            )
        return cache[row[key]]

    kept = [
        {
            **row,
            "demos": demos_of(row),
            "context": render_kilt(row["ctxs"]),
            "answer": row["answers"],
            "_key": str(row[key]),
        }
        for row in rows
        if row[key] in keys
    ]
    return Loaded(kept, wanted.template("kilt"))


def load_json_kv(wanted: Wanted) -> Loaded:
    """Recall: the first rows of the permutation; demonstrations are the row's own."""
    rows = sampling.shuffled(read_rows(wanted.file()), wanted.seed)[: wanted.num_rows]
    for row in rows:
        _enough(row["demos"], wanted.num_shots, f"{wanted.name}, row {row.get('id')}")
    return Loaded(
        [build_json_kv_row(row, wanted.num_shots) for row in rows], wanted.template("json_kv")
    )


def build_json_kv_row(row: Mapping[str, Any], shots: int) -> Row:
    """Returns a key-value row with the columns that its template needs."""
    demos = [f"Key: {key}\nCorresponding value: {value}\n\n" for key, value in row["demos"][:shots]]
    return {**row, "demos": "".join(demos), "k": row["num_kvs"]}


def load_ruler(wanted: Wanted) -> Loaded:
    """Recall: the first rows of the permutation, no demonstrations."""
    rows = sampling.shuffled(read_rows(wanted.file()), wanted.seed)[: wanted.num_rows]
    return Loaded(
        [build_ruler_row(row) for row in rows], wanted.template(ruler_template(wanted.name))
    )


def ruler_template(name: str) -> str:
    """Returns the template of a RULER task, HELMET's or of our generators."""
    if "qa" in name:
        return "ruler_qa"
    if any(part in name for part in ("niah_mv", "niah_mq", "multivalue", "multiquery")):
        return "niah_many"
    return next(kind for kind in ("niah", "vt", "cwe", "fwe") if kind in name)


def build_ruler_row(row: Mapping[str, Any]) -> Row:
    """Returns a RULER row with the columns that its template needs."""
    example = row.get("example") or ""
    return {
        **row,
        "question": row.get("query", row.get("question", "")),
        "example": f"{example}\n\n" if example else "",
        "answer": list(row["answer"] if "answer" in row else row["outputs"]),
    }


def load_msmarco(wanted: Wanted) -> Loaded:
    """Re-ranking: all rows (orders) of the sampled queries, demonstrations by query."""
    rows = read_rows(wanted.file())
    key = "qid" if "qid" in rows[0] else "query"
    keys = sampling.sample_keys([row[key] for row in rows], wanted.num_rows, wanted.seed)
    kept = [row for row in rows if row[key] in keys]
    demos = read_rows(wanted.root / wanted.spec.demo_file) if wanted.num_shots else []
    many = len(demos) > 2 * len(kept)
    if many:
        asked = {row["qid"] for row in kept}
        demos = [demo for demo in demos if demo["qid"] not in asked]
    cache: dict[object, str] = {}

    def demos_of(row: Row) -> str:
        if not wanted.num_shots:
            return ""
        if row["qid"] not in cache:
            pool = demos if many else [d for d in demos if d["qid"] != row["qid"]]
            pool = sampling.shuffled(pool, sampling.text_seed(row["qid"]))
            drawn = sampling.first_per_key(pool, lambda d: d["qid"], wanted.num_shots)
            titled = "title" in row["ctxs"][0]
            cache[row["qid"]] = "".join(
                f"{render_msmarco(d['ctxs'], titled=titled)}\n\nQuery: {d['query']}\nRanking: "
                f"{ranking_of(d['ctxs'])}\n\n"
                for d in _enough(drawn, wanted.num_shots, wanted.name)
            )
        return cache[row["qid"]]

    return Loaded(
        [
            {
                **{name: value for name, value in row.items() if name != "query"},
                "context": render_msmarco(row["ctxs"], titled="title" in row["ctxs"][0]),
                "question": row["query"],
                "demos": demos_of(row),
                "answer": ranking_of(row["ctxs"]),
                "qrel": [[p["id"], str(p["label"])] for p in row["ctxs"]],
                "_key": str(row["qid"]),
            }
            for row in kept
        ],
        wanted.template("msmarco"),
        cuts=ranking_cuts(len(kept[0]["ctxs"])),
    )


def load_alce(wanted: Wanted) -> Loaded:
    """Citations: demonstrations from one generator over the whole file, then the permutation."""
    rows = read_rows(wanted.file())
    prompts = _alce_prompts(wanted)
    num_docs = scale_of(wanted.spec, wanted.length)
    longest = max(len(row["docs"]) for row in rows)
    if wanted.length > LENGTHS[-1] and longest < num_docs:
        raise UsageError(
            f"{wanted.name} at {wanted.length} shows {num_docs} passages, but no question of "
            f"{str(wanted.file())!r} has more than {longest}.",
            hint="Choose a shorter length for it.",
        )
    _enough(prompts["demos"], wanted.num_shots, wanted.name)
    rng = Random(wanted.seed)
    drawn = [rng.sample(prompts["demos"], wanted.num_shots) for _ in rows]
    close = "\n" if "qampari" in wanted.name else "\n\n"
    instruction = prompts["instruction"]
    doc_prompt = prompts.get("doc_prompt", "Document [{ID}](Title: {title}): {text}")
    demo_prompt = prompts.get(
        "demo_prompt",
        f"{{instruction}}\n\nQuestion: {{question}}\n\n{{context}}{close}Answer: {{answer}}",
    )

    def passages(docs: list[Row]) -> str:
        return "\n\n".join(doc_prompt.format(**doc, ID=i) for i, doc in enumerate(docs, 1))

    def demo_text(demos: list[Row]) -> str:
        shown = [
            demo_prompt.format(**demo, instruction=instruction, context=passages(demo["docs"]))
            for demo in demos
        ]
        return "\n\n\n".join(shown) + ("\n\n\n" if shown else "")

    kept = sampling.shuffled(list(zip(rows, drawn, strict=True)), wanted.seed)[: wanted.num_rows]
    return Loaded(
        [
            {
                **row,
                "context": passages(row["docs"][:num_docs]),
                "demo_text": demo_text(demos),
                "instruction": instruction,
            }
            for row, demos in kept
        ],
        wanted.template("alce"),
    )


def _alce_prompts(wanted: Wanted) -> dict[str, Any]:
    """Returns HELMET's own prompt file if it is there, else ours.

    Raises:
        ConfigError: The file is none.
    """
    path = wanted.root / wanted.spec.demo_file
    if path.is_file():
        try:
            prompts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"Cannot read the prompts {str(path)!r}: {error}.") from error
        if not isinstance(prompts, dict) or not {"instruction", "demos"} <= set(prompts):
            raise ConfigError(f"{str(path)!r} must hold an object of 'instruction' and 'demos'.")
        return prompts
    bundled = Path(__file__).with_name("alce_demos.json")
    kind = wanted.name.removeprefix("alce_").removesuffix("_nocite")
    demos = json.loads(bundled.read_text(encoding="utf-8"))[kind]
    if wanted.name.endswith("_nocite"):
        demos = [{**demo, "answer": remove_citations(demo["answer"])} for demo in demos]
    return {"instruction": wanted.template(wanted.name).instruction, "demos": demos}


def _kept(wanted: Wanted, llama: Llama2) -> int:
    """Returns how many tokens of a document are kept.

    Raises:
        DoesNotFitError: They are no more than the omission marker's.
    """
    kept = kept_tokens(wanted.name, wanted.length)
    if kept <= llama.count(OMISSION):
        raise DoesNotFitError(wanted.name, wanted.length)
    return kept


def load_narrativeqa(wanted: Wanted) -> Loaded:
    """Long questions: permutation, long documents only, cut, first rows.

    HELMET shuffles the demonstrations without a seed, so they cannot be repeated; ours follow from
    the row's content.
    """
    llama = load_llama2(wanted.root, wanted.tokenizer)
    kept = _kept(wanted, llama)
    template = wanted.template("narrativeqa")
    test = sampling.shuffled(load_split(wanted.root, "narrativeqa", "test"), wanted.seed)
    train = load_split(wanted.root, "narrativeqa", "train") if wanted.num_shots else []
    rows: list[Row] = []
    for row in test:
        if len(rows) == wanted.num_rows:
            break
        if llama.count(row["document"]["text"]) <= MIN_NARRATIVE_TOKENS:
            continue
        question = row["question"]["text"]
        seed = content_seed("narrativeqa", row["document"].get("id", ""), question)
        drawn = _enough(
            sampling.shuffled(train, seed)[: wanted.num_shots], wanted.num_shots, wanted.name
        )
        demos = [
            f"Question: {d['question']['text']}\nAnswer: {d['answers'][0]['text']}" for d in drawn
        ]
        rows.append(
            {
                "context": llama.cut(row["document"]["text"], kept),
                "question": question,
                "answer": [answer["text"] for answer in row["answers"]],
                "demo": block(demos, template.switch),
                "seed": seed,
                "_document": row["document"].get("id"),
            }
        )
    return Loaded(rows, template)


def load_infbench(wanted: Wanted) -> Loaded:
    """Long questions and summaries: long documents, cut, then the permutation."""
    kind = wanted.name.removeprefix("infbench_").removesuffix("_eng")
    template = wanted.template(f"infbench_{kind}")
    llama = load_llama2(wanted.root, wanted.tokenizer)
    kept = _kept(wanted, llama)
    every: list[Row] = []
    for row in load_split(wanted.root, INFINITEBENCH, f"longbook_{kind}_eng"):
        made = {**row, "question": row["input"]}
        if kind == "choice":
            letter = chr(ord("A") + row["options"].index(row["answer"][0]))
            made["_options"] = list(row["options"])
            made["options"] = "\n".join(
                f"{name}. {option}" for name, option in zip("ABCD", row["options"], strict=True)
            )
            made["answer"] = [letter, f"{letter}. {row['answer'][0]}"]
        every.append(made)

    def demos_of(row: Row) -> str:
        others = [other for other in every if other["id"] != row["id"]]
        drawn = sampling.shuffled(others, wanted.seed)[: wanted.num_shots]
        shown = _enough(drawn, wanted.num_shots, wanted.name)
        return block([_book_demo(kind, d) for d in shown], template.switch)

    rest = [row for row in every if llama.count(row["context"]) >= MIN_BOOK_TOKENS]
    rows = sampling.shuffled(rest, wanted.seed)[: wanted.num_rows]
    cut = [{**row, "context": llama.cut(row["context"], kept)} for row in rows]
    return Loaded([{**row, "demo": demos_of(row)} for row in cut], template)


def _book_demo(kind: str, row: Row) -> str:
    if kind == "sum":
        return f"[story text]\nSummary: {row['answer'][0].strip()}"
    options = f"Options:\n{row['options']}\n" if kind == "choice" else ""
    return f"[story text]\nQuestion: {row['question']}\n{options}Answer: {row['answer'][0]}"


def load_multi_lexsum(wanted: Wanted) -> Loaded:
    """Summaries of cases; demonstrations as for narrativeqa follow from the row's content."""
    template = wanted.template("multi_lexsum")
    llama = load_llama2(wanted.root, wanted.tokenizer)
    name, config = "allenai/multi_lexsum", "v20230518"
    kept = _kept(wanted, llama)

    def summarised(split: str) -> list[Row]:
        rows = load_split(wanted.root, name, split, config)
        return [row for row in rows if row["summary/short"] is not None]

    train = summarised("train") if wanted.num_shots else []
    rest: list[Row] = []
    for row in summarised("validation"):
        context = "\n\n".join(row["sources"])
        if llama.count(context) < MIN_BOOK_TOKENS:
            continue
        seed = content_seed("lexsum", str(row["id"]))
        drawn = _enough(
            sampling.shuffled(train, seed)[: wanted.num_shots], wanted.num_shots, wanted.name
        )
        shown = "\n\n".join(f"Summary: {d['summary/short']}" for d in drawn)
        demo = f"Example summaries:\n\n{shown}\n\n{template.switch}\n" if wanted.num_shots else ""
        rest.append(
            {
                **{column: value for column, value in row.items() if column != "sources"},
                "context": llama.cut(context, kept),
                "demo": demo,
                "answer": row["summary/short"],
                "question": "",
                "seed": seed,
            }
        )
    if len(rest) > wanted.num_rows:
        rest = sampling.shuffled(rest, wanted.seed)[: wanted.num_rows]
    return Loaded(rest, template)


def load_icl(wanted: Wanted) -> Loaded:
    """In-context learning: balanced examples per row, labels renamed by the row's own seed."""
    spec = wanted.spec
    name, config, test_split, text, label, num_labels = ICL_SETS[spec.scale]
    if test_split:
        train = load_split(wanted.root, name, "train", config)
        test = load_split(wanted.root, name, test_split, config)
    else:
        every = load_split(wanted.root, name, "train", config)
        train, test = sampling.train_test_split(every, 0.1, wanted.seed)
    if len(test) > wanted.num_rows:
        test = sampling.shuffled(test, wanted.seed)
        test = sampling.balance(test, lambda row: row[label], wanted.num_rows, wanted.seed)
    shots = scale_of(spec, wanted.length)
    names = label_names(wanted.root, name, label, config) if spec.natural_labels else []
    by_label = sampling.group(train, lambda row: row[label])
    rows = []
    for row in test:
        seed = (sampling.text_seed(row[text]) + wanted.seed) % 2**31
        if spec.balanced:
            drawn = sampling.balance_groups(by_label, shots, seed)
        else:
            drawn = sampling.choose_unbalanced(train, shots, seed)
        mapping: list[Any] = names or list(sampling.renamed_labels(num_labels, seed))
        rows.append(
            {
                **row,
                "context": "\n\n".join(
                    f"{d[text]}\nlabel: {mapping[int(d[label])]}" for d in drawn
                ),
                "question": row[text],
                "answer": str(mapping[int(row[label])]),
            }
        )
    return Loaded(rows, wanted.template("icl"))


def load_qasper(wanted: Wanted) -> Loaded:
    """Scientific articles, as in the AgenticLU fork (tau/scrolls, validation)."""
    template = wanted.template("qasper")

    def merged(split: str) -> list[Row]:
        by_id: dict[object, Row] = {}
        for row in load_split(wanted.root, "tau/scrolls", split, "qasper"):
            question, _, article = row["input"].partition("\n\n")
            made = by_id.setdefault(
                row["id"],
                {
                    "id": row["id"],
                    "question": question.strip(),
                    "context": article.strip(),
                    "answer": [],
                },
            )
            made["answer"].append(row["output"])
        return list(by_id.values())

    rows = sampling.shuffled(merged("validation"), wanted.seed)[: wanted.num_rows]
    train = merged("train") if wanted.num_shots else []
    llama = load_llama2(wanted.root, wanted.tokenizer)
    kept = _kept(wanted, llama)
    loaded = []
    for row in rows:
        seed = content_seed("qasper", str(row["id"]))
        drawn = _enough(
            sampling.shuffled(train, seed)[: wanted.num_shots], wanted.num_shots, wanted.name
        )
        demos = [f"Question: {d['question']}\nAnswer: {d['answer'][0]}" for d in drawn]
        context = llama.cut(row["context"], kept)
        demo = block(demos, template.switch)
        loaded.append({**row, "context": context, "demo": demo, "seed": seed})
    return Loaded(loaded, template)


LOADERS: dict[str, Callable[[Wanted], Loaded]] = {
    "kilt": load_kilt,
    "json_kv": load_json_kv,
    "ruler": load_ruler,
    "msmarco": load_msmarco,
    "alce": load_alce,
    "narrativeqa": load_narrativeqa,
    "infbench": load_infbench,
    "multi_lexsum": load_multi_lexsum,
    "icl": load_icl,
    "qasper": load_qasper,
}
