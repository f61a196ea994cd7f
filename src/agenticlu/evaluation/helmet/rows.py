"""HELMET's rows and demonstrations: drawn, ordered and rendered as HELMET does.

Every loader returns rows with the columns that HELMET's own rows have after loading: the source's,
and `context`, `question`, `answer` and the demonstrations.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from agenticlu.core.errors import ConfigError, UsageError
from agenticlu.core.files import Row
from agenticlu.core.records import content_seed
from agenticlu.evaluation.helmet import (
    HUB_SETS,
    ICL_SETS,
    LENGTHS,
    Template,
    build_json_kv_row,
    build_ruler_row,
    count_kept_tokens,
    find_scale,
    render_demos,
    render_kilt,
    render_msmarco,
    render_ranking,
    ruler_template,
    sampling,
)
from agenticlu.evaluation.helmet.sources import (
    OMISSION,
    Llama2,
    RowRequest,
    load_label_names,
    load_llama2,
    load_split,
    read_json,
)
from agenticlu.evaluation.records import DoesNotFitError
from agenticlu.evaluation.scoring.helmet import ranking_cuts, remove_citations

POPULARITY = 3.0
"""PopQA rows of subjects below ten to this power of page views are kept."""
MIN_NARRATIVE_TOKENS = 131072
"""NarrativeQA documents are longer than this."""
MIN_BOOK_TOKENS = 65536
"""InfiniteBench and Multi-LexSum documents have at least as many."""


@dataclass(frozen=True)
class Loaded:
    """Rows of a task and the template that renders them."""

    rows: list[Row]
    template: Template
    cuts: tuple[int, ...] = ()
    """Cuts of the ranking measures."""


def load_rows(wanted: RowRequest) -> Loaded:
    """Loads a task's rows with their demonstrations, in HELMET's order."""
    return LOADERS[wanted.spec.family](wanted)


def _demo_renderer(
    wanted: RowRequest, pool: Sequence[Row], key: str, render: Callable[[Row], str], *, own: bool
) -> Callable[[Row], str]:
    """Returns a function that renders a row's demonstrations; rows with one key share them.

    Args:
        wanted: The task and its number of demonstrations.
        pool: Rows that they are drawn from, one per key.
        key: Column of a row's question.
        render: Renders a demonstration.
        own: Whether demonstrations may be about the row's own question.
    """

    @functools.cache
    def draw(value: object) -> str:
        if not wanted.num_shots:
            return ""
        others = pool if own else [demo for demo in pool if demo[key] != value]
        others = sampling.shuffled(others, sampling.text_seed(value))
        drawn = sampling.first_per_key(others, lambda demo: demo[key], wanted.num_shots)
        return "".join(f"{render(demo)}\n\n" for demo in wanted.require_shots(drawn))

    return lambda row: draw(row[key])


def load_kilt(wanted: RowRequest) -> Loaded:
    """RAG: all rows (gold depths) of the sampled questions, demonstrations by question."""
    rows, demos = wanted.load_rows(), wanted.load_demos()
    popqa = "popqa" in wanted.name
    if popqa:
        rows = [row for row in rows if row["s_pop"] < 10**POPULARITY]
        demos = [row for row in demos if row["s_pop"] < 10**POPULARITY]
        if not rows:
            raise UsageError(f"{wanted.file()} has no subject of popularity below {POPULARITY}.")
    key = "id" if "id" in rows[0] else "question"
    keys = sampling.sample_keys([row[key] for row in rows], wanted.num_rows, wanted.seed)

    def render(demo: Row) -> str:
        answer = demo["answers"][0]
        return f"{render_kilt(demo['ctxs'])}\n\nQuestion: {demo['question']}\nAnswer: {answer}"

    demos_of = _demo_renderer(wanted, demos, key, render, own=not popqa)
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


def load_json_kv(wanted: RowRequest) -> Loaded:
    """Recall: the first rows of the permutation; demonstrations are the row's own."""
    rows = wanted.shuffle(wanted.load_rows())
    for row in rows:
        wanted.require_shots(row["demos"], f", row {row.get('id')}")
    return Loaded(
        [build_json_kv_row(row, wanted.num_shots) for row in rows], wanted.template("json_kv")
    )


def load_ruler(wanted: RowRequest) -> Loaded:
    """Recall: the first rows of the permutation, no demonstrations."""
    rows = [build_ruler_row(row) for row in wanted.shuffle(wanted.load_rows())]
    return Loaded(rows, wanted.template(ruler_template(wanted.name)))


def load_msmarco(wanted: RowRequest) -> Loaded:
    """Re-ranking: all rows (orders) of the sampled queries, demonstrations by query."""
    rows, demos = wanted.load_rows(), wanted.load_demos()
    key = "qid" if "qid" in rows[0] else "query"
    keys = sampling.sample_keys([row[key] for row in rows], wanted.num_rows, wanted.seed)
    kept = [row for row in rows if row[key] in keys]
    # HELMET: with demonstrations enough, those of all queries are left out; else a row's own.
    many = len(demos) > 2 * len(kept)
    if many:
        asked = {row["qid"] for row in kept}
        demos = [demo for demo in demos if demo["qid"] not in asked]

    def render(titled: bool, demo: Row) -> str:
        passages = render_msmarco(demo["ctxs"], titled=titled)
        return f"{passages}\n\nQuery: {demo['query']}\nRanking: {render_ranking(demo['ctxs'])}"

    demos_of = {
        titled: _demo_renderer(wanted, demos, "qid", functools.partial(render, titled), own=many)
        for titled in (True, False)
    }
    return Loaded(
        [
            {
                **{name: value for name, value in row.items() if name != "query"},
                "context": render_msmarco(row["ctxs"], titled="title" in row["ctxs"][0]),
                "question": row["query"],
                "demos": demos_of["title" in row["ctxs"][0]](row),
                "answer": render_ranking(row["ctxs"]),
                "qrel": [[p["id"], str(p["label"])] for p in row["ctxs"]],
                "_key": str(row["qid"]),
            }
            for row in kept
        ],
        wanted.template("msmarco"),
        cuts=ranking_cuts(len(kept[0]["ctxs"])),
    )


def load_alce(wanted: RowRequest) -> Loaded:
    """Citations: demonstrations from one generator over the whole file, then the permutation."""
    rows = wanted.load_rows()
    prompts = _load_alce_prompts(wanted)
    num_docs = find_scale(wanted.spec, wanted.length)
    longest = max(len(row["docs"]) for row in rows)
    if wanted.length > LENGTHS[-1] and longest < num_docs:
        raise UsageError(
            f"{wanted.name} at {wanted.length} needs {num_docs} passages, but no question of "
            f"{str(wanted.file())!r} has more than {longest}.",
            hint="Choose a shorter length for it.",
        )
    wanted.require_shots(prompts["demos"])
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

    kept = wanted.shuffle(list(zip(rows, drawn, strict=True)))
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


def _load_alce_prompts(wanted: RowRequest) -> dict[str, Any]:
    """Returns HELMET's own prompt file if it is there, else ours.

    Raises:
        ConfigError: The file is not a JSON object of an instruction and demonstrations.
    """
    path = wanted.root / wanted.spec.demo_file
    if path.is_file():
        prompts = read_json(path)
        if not isinstance(prompts, dict) or not {"instruction", "demos"} <= set(prompts):
            raise ConfigError(
                f"{str(path)!r} must be a JSON object with 'instruction' and 'demos'."
            )
        return prompts
    bundled = Path(__file__).with_name("alce_demos.json")
    kind = wanted.name.removeprefix("alce_").removesuffix("_nocite")
    demos = json.loads(bundled.read_text(encoding="utf-8"))[kind]
    if wanted.name.endswith("_nocite"):
        demos = [{**demo, "answer": remove_citations(demo["answer"])} for demo in demos]
    return {"instruction": wanted.template(wanted.name).instruction, "demos": demos}


def _cutter(wanted: RowRequest, llama: Llama2) -> Callable[[str], str]:
    """Returns the function that cuts a document to the tokens that are kept of it.

    Raises:
        DoesNotFitError: They are no more than the omission marker's.
    """
    kept = count_kept_tokens(wanted.name, wanted.length)
    if kept <= llama.count(OMISSION):
        raise DoesNotFitError(wanted.name, wanted.length)
    return lambda text: llama.cut(text, kept)


def load_narrativeqa(wanted: RowRequest) -> Loaded:
    """Long questions: permutation, long documents only, cut, first rows.

    HELMET shuffles the demonstrations without a seed, so they cannot be repeated; ours follow from
    the row's content.
    """
    llama = load_llama2(wanted.root, wanted.tokenizer)
    cut = _cutter(wanted, llama)
    template = wanted.template("narrativeqa")
    name = HUB_SETS["narrativeqa"]
    test = sampling.shuffled(load_split(wanted.root, name, "test"), wanted.seed)
    train = load_split(wanted.root, name, "train") if wanted.num_shots else []
    rows: list[Row] = []
    for row in test:
        if len(rows) == wanted.num_rows:
            break
        if llama.count(row["document"]["text"]) <= MIN_NARRATIVE_TOKENS:
            continue
        question = row["question"]["text"]
        seed = content_seed("narrativeqa", row["document"].get("id", ""), question)
        demos = [
            f"Question: {d['question']['text']}\nAnswer: {d['answers'][0]['text']}"
            for d in wanted.draw_demos(train, seed)
        ]
        rows.append(
            {
                "context": cut(row["document"]["text"]),
                "question": question,
                "answer": [answer["text"] for answer in row["answers"]],
                "demo": render_demos(demos, template.switch),
                "seed": seed,
                "_document": row["document"].get("id"),
            }
        )
    return Loaded(rows, template)


def load_infbench(wanted: RowRequest) -> Loaded:
    """Long questions and summaries: long documents, cut, then the permutation."""
    kind = wanted.name.removeprefix("infbench_").removesuffix("_eng")
    template = wanted.template(f"infbench_{kind}")
    llama = load_llama2(wanted.root, wanted.tokenizer)
    cut = _cutter(wanted, llama)
    every: list[Row] = []
    for row in load_split(wanted.root, HUB_SETS["infbench"], f"longbook_{kind}_eng"):
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
        drawn = wanted.draw_demos(others, wanted.seed)
        return render_demos([_render_book_demo(kind, demo) for demo in drawn], template.switch)

    rows = wanted.shuffle([row for row in every if llama.count(row["context"]) >= MIN_BOOK_TOKENS])
    return Loaded(
        [{**row, "context": cut(row["context"]), "demo": demos_of(row)} for row in rows], template
    )


def _render_book_demo(kind: str, row: Row) -> str:
    if kind == "sum":
        return f"[story text]\nSummary: {row['answer'][0].strip()}"
    options = f"Options:\n{row['options']}\n" if kind == "choice" else ""
    return f"[story text]\nQuestion: {row['question']}\n{options}Answer: {row['answer'][0]}"


def load_multi_lexsum(wanted: RowRequest) -> Loaded:
    """Summaries of cases; demonstrations as for narrativeqa follow from the row's content."""
    template = wanted.template("multi_lexsum")
    llama = load_llama2(wanted.root, wanted.tokenizer)
    name, config = HUB_SETS["multi_lexsum"], "v20230518"
    cut = _cutter(wanted, llama)

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
        drawn = wanted.draw_demos(train, seed)
        shown = "\n\n".join(f"Summary: {d['summary/short']}" for d in drawn)
        demo = f"Example summaries:\n\n{shown}\n\n{template.switch}\n" if wanted.num_shots else ""
        rest.append(
            {
                **{column: value for column, value in row.items() if column != "sources"},
                "context": cut(context),
                "demo": demo,
                "answer": row["summary/short"],
                "question": "",
                "seed": seed,
            }
        )
    if len(rest) > wanted.num_rows:
        rest = wanted.shuffle(rest)
    return Loaded(rest, template)


def load_icl(wanted: RowRequest) -> Loaded:
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
    shots = find_scale(spec, wanted.length)
    names = load_label_names(wanted.root, name, label, config) if spec.natural_labels else []
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


def load_qasper(wanted: RowRequest) -> Loaded:
    """Scientific articles, as in the AgenticLU fork (tau/scrolls, validation)."""
    template = wanted.template("qasper")

    def merged(split: str) -> list[Row]:
        by_id: dict[object, Row] = {}
        for row in load_split(wanted.root, HUB_SETS["qasper"], split, "qasper"):
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

    rows = wanted.shuffle(merged("validation"))
    train = merged("train") if wanted.num_shots else []
    cut = _cutter(wanted, load_llama2(wanted.root, wanted.tokenizer))
    loaded = []
    for row in rows:
        seed = content_seed("qasper", str(row["id"]))
        drawn = wanted.draw_demos(train, seed)
        demos = [f"Question: {d['question']}\nAnswer: {d['answer'][0]}" for d in drawn]
        demo = render_demos(demos, template.switch)
        loaded.append({**row, "context": cut(row["context"]), "demo": demo, "seed": seed})
    return Loaded(loaded, template)


LOADERS: dict[str, Callable[[RowRequest], Loaded]] = {
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
