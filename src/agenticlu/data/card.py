"""The README.md of a data set, its Croissant description and `summary.json`.

Croissant: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agenticlu.core.output_dir import write_atomically
from agenticlu.data.build import IMPORT_MEANINGS, MEANINGS, PERCENTILES, DatasetSummary
from agenticlu.data.dataset import (
    CARD,
    COLUMNS,
    CROISSANT,
    FORMAT,
    SPLITS,
    SUMMARY,
    VERSION,
    ColumnType,
    describe_files,
)
from agenticlu.data.hub import Licence

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty"),
            *("fileObject", "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key"),
            *("md5", "parentField", "path", "recordSet", "references", "regex", "repeated"),
            *("replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
}
"""The names of Croissant 1.0; a reader warns of any other context."""
_TYPES: dict[ColumnType, str] = {
    "text": "sc:Text",
    "texts": "sc:Text",
    "float": "sc:Float",
    "int": "sc:Integer",
    "ints": "sc:Integer",
    "bool": "sc:Boolean",
}
_LISTS: frozenset[ColumnType] = frozenset({"texts", "ints", "messages"})


def render_croissant(
    files: Mapping[str, Mapping[str, Any]], name: str, description: str, licence: Licence | None
) -> dict[str, Any]:
    """Returns the description as JSON-LD.

    Args:
        files: Each file's name to its `sha256` and `bytes`; those that are no rows are left out.
        name: Of the data set.
        description: One sentence.
        licence: None when nobody stated one.
    """
    paths = [path for path in files if path.endswith(".parquet")]
    described: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
    }
    if licence is not None:
        described["license"] = str(licence)
    described["distribution"] = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{files[path]['bytes']} B",
            "encodingFormat": "application/x-parquet",
            "sha256": files[path]["sha256"],
        }
        for path in paths
    ]
    described["recordSet"] = [_record_set(path) for path in paths]
    return described


def _record_set(path: str) -> dict[str, Any]:
    kind = path.partition("/")[0]
    name = path.removesuffix(".parquet").replace("/", "-")
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [_field(path, name, *column) for column in COLUMNS[kind].items()],
    }


def _field(path: str, record_set: str, column: str, kind: ColumnType) -> dict[str, Any]:
    source: dict[str, Any] = {"fileObject": {"@id": path}, "extract": {"column": column}}
    field: dict[str, Any] = {"@type": "cr:Field", "@id": f"{record_set}/{column}", "name": column}
    if kind in _LISTS:
        field["repeated"] = True
    if kind == "messages":
        field["subField"] = [
            {
                "@type": "cr:Field",
                "@id": f"{record_set}/{column}/{part}",
                "name": part,
                "dataType": "sc:Text",
                "source": {**source, "transform": {"jsonPath": part}},
            }
            for part in ("role", "content")
        ]
    else:
        field["dataType"] = _TYPES[kind]
    return {**field, "source": source}


NAME = "agenticlu-traces"
DESCRIPTION = "Conversations and preference pairs about long documents, made by agenticlu."


def write_card(
    folder: Path,
    summary: DatasetSummary,
    licence: Licence | None,
    *,
    run: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    imported: Mapping[str, Any] | None = None,
) -> None:
    """Writes README.md, croissant.json and summary.json into a folder that holds the rows.

    Args:
        folder: The data set's.
        summary: What was written.
        licence: None when nobody stated one.
        run: Facts about the run it was built from; None when it was imported.
        policy: Which pairs were made; None when they were imported.
        imported: Where it was imported from; None when it was built.
    """
    data: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "licence": None if licence is None else licence.as_dict(),
        "build": summary.as_dict(),
        "policy": policy,
        "run": run,
        "imported": imported,
    }
    croissant = render_croissant(describe_files(folder), NAME, DESCRIPTION, licence)
    write_atomically(folder / CROISSANT, (json.dumps(croissant, indent=2) + "\n").encode())
    write_atomically(folder / CARD, render_card(data).encode())
    data["files"] = describe_files(folder)
    write_atomically(folder / SUMMARY, (json.dumps(data, indent=2) + "\n").encode())


def render_card(data: Mapping[str, Any]) -> str:
    """Returns the card as Markdown with the hub's YAML header.

    Args:
        data: What `summary.json` holds.
    """
    sections = [_header(data), _rows(data), _split(data)]
    sections.append(_run(data) if data["run"] is not None else _imported(data))
    sections += [_funnel(data), _lengths(data)]
    if data["run"] is not None:
        sections += [_judges(data), _cost(data)]
    sections += [_decontamination(data), _limits(data)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _header(data: Mapping[str, Any]) -> str:
    rows, licence = data["build"]["rows"], data["licence"]
    size = sum(sum(splits.values()) for splits in rows.values())
    lines = ["---"]
    if licence is None:
        lines.append("# license: not stated by whoever built this")
    else:
        lines += Licence(**licence).header()
    lines += [
        "task_categories: [question-answering, text-generation]",
        "tags: [preference, long-context, synthetic]",
        f"size_categories: [{_size_category(size)}]",
        "configs:",
    ]
    for kind, splits in rows.items():
        if not any(splits.values()):
            continue  # a config without files is none
        lines += [f"- config_name: {kind}", "  data_files:"]
        for split, number in splits.items():
            if number:
                lines += [f"  - split: {split}", f"    path: {kind}/{split}.parquet"]
    return "\n".join([*lines, "---"])


def _rows(data: Mapping[str, Any]) -> str:
    rows = [
        (kind, *(splits[split] for split in SPLITS))
        for kind, splits in data["build"]["rows"].items()
    ]
    made = (
        "Grown by agenticlu: clarifications are sampled, grounded in the document, answered and "
        "judged\nagainst known answers. `sft` holds whole conversations of right paths; "
        "`preference` holds one row\nper assistant turn in which two branches of one history "
        "differ. `self_check` holds conversations that\nend in a wrong answer and in a self-check "
        "that says so: learn from the last turn (`targets`) alone."
        if data["run"] is not None
        else "Preference rows brought into the columns of agenticlu; `sft` holds the conversations "
        "that end in a\nchosen answer of the higher score."
    )
    kinds, pairs = data["build"]["turn_kinds"], data["build"]["funnel"]["pairs"]
    turns = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    of_pairs = f" of {pairs} pairs" if pairs else ""
    return (
        "# Traces and preference pairs over long documents\n\n"
        f"{made}\n\n{_table(('rows', *SPLITS), rows)}"
        + (f"\n\nPreference rows{of_pairs} by turn: {turns}." if turns else "")
    )


def _split(data: Mapping[str, Any]) -> str:
    split = data["build"]["documents"]
    text = (
        f"## Split\n\nDocuments: {split['train']} train, {split['validation']} validation, none in "
        "both. One is held out by the hash of its own id, or\nelse of its text without white space "
        f"and case. {split['repeated']} documents repeat another one and\n"
        f"{split['near_duplicates']} have a near-duplicate (80% of 5-word shingles in common); "
        f"these stay together, in {split['groups']} groups."
    )
    return text if split["validation"] else f"{text} No document is held out."


def _run(data: Mapping[str, Any]) -> str:
    run = data["run"]
    lines = [
        "## How it was made",
        "",
        f"- Model: {run['engine']}; tokenizer: {run['tokenizer']}",
        f"- Prompt profile: {run['profile']}, SHA-256 {run['profile_sha256']}",
        f"- Search: `{json.dumps(run['search'], sort_keys=True)}`",
        f"- Pairs: `{json.dumps(data['policy'], sort_keys=True)}`",
        f"- Documents and questions: {', '.join(run['sources'])}",
        f"- {run['questions']} questions over {run['documents']} documents, {run['nodes']} rounds; "
        f"{run['finished_questions']} questions are finished, {run['failed_questions']} of them "
        "failed",
        "",
        "## Recall by depth",
        "",
        f"Share of {run['scored_questions']} scored questions answered right at a depth or above "
        "it.",
        "",
        "",
    ]
    recall = [
        ("direct" if depth == "0" else depth, f"{share:.1%}")
        for depth, share in run["recall_by_depth"].items()
    ]
    return "\n".join(lines) + _table(("depth", "recall"), recall)


def _imported(data: Mapping[str, Any]) -> str:
    imported = data["imported"]
    lines = ["## Where it came from", "", f"- Source: {imported['source']}"]
    lines.append(f"- {imported['read']} rows were read")
    if imported["not_better"]:
        lines.append(
            "- Rows whose scores do not prefer the chosen reply (`margin` is 0 or below): "
            f"{imported['not_better']}"
        )
    return "\n".join(lines)


def _funnel(data: Mapping[str, Any]) -> str:
    meanings = IMPORT_MEANINGS if data["run"] is None else MEANINGS
    counts = [
        (name, why, number, meanings.get(name, {}).get(why, ""))
        for name, counter in data["build"]["funnel"].items()
        if isinstance(counter, Mapping) and counter["total"]
        for why, number in counter.items()
    ]
    return (
        "## What became of everything\n\nEach one is counted once: what stands below a total sums "
        "to it.\n\n" + _table(("of", "what", "number", "meaning"), counts)
    )


def _lengths(data: Mapping[str, Any]) -> str:
    names = ("n", "mean", *(f"p{percent}" for percent in PERCENTILES))
    rows = [
        (name.replace("_", " "), *(found[one] for one in names))
        for name, found in data["build"]["characters"].items()
    ]
    return (
        "## Lengths\n\nIn characters; the log ratio is of chosen to rejected. p25 and p75 are "
        "quartiles.\n\n" + _table(("of", *names), rows)
    )


def _judges(data: Mapping[str, Any]) -> str:
    run = data["run"]
    agreement, controls = run["judge_disagreements"], run["judge_controls"]
    text = (
        f"## Judges\n\n{', '.join(run['judges'] or ())}. They disagreed on "
        f"{agreement['disagreeing']} of {agreement['answers']} answers that several scored."
    )
    if not controls:
        return f"{text} No controls were run (`agenticlu generate controls RUN`)."
    rows = [
        (name, _share(found["right"]), _share(found["wrong"])) for name, found in controls.items()
    ]
    return (
        f"{text}\n\nControls: accepted answers as candidates, which must be found right, and "
        "answers of other questions,\nwhich must be found wrong. Unscored ones count as errors."
        "\n\n" + _table(("judge", "accepted answers found right", "others found wrong"), rows)
    )


def _cost(data: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            use["requests"],
            use["prompt_tokens"] - use["cached_tokens"],
            use["cached_tokens"],
            use["completion_tokens"],
        )
        for name, use in data["run"]["tokens_by_phase"].items()
    ]
    rows.append(("total", *(sum(row[i] for row in rows) for i in range(1, 5))))
    names = ("phase", "requests", "computed prompt", "cached prompt", "sampled")
    return "## Cost in tokens\n\n" + _table(names, rows)


def _decontamination(data: Mapping[str, Any]) -> str:
    found = data["build"]["contamination"]
    if found is None:
        return (
            "## Decontamination\n\nNot compared with any evaluation (`--decontaminate PATH` does)."
        )
    fate = "left out" if found["dropped"] else "kept, only counted"
    shared = (
        f"{found['documents_found']} documents and {found['questions_found']} questions were "
        f"shared: {fate}."
    )
    if not found["documents_found"] and not found["questions_found"]:
        shared = "Nothing was shared."
    return (
        f"## Decontamination\n\nCompared with {', '.join(found['sources'])}: "
        f"{found['evaluation_documents']} documents and {found['evaluation_questions']} "
        f"questions.\nA document counts as shared from {found['share']:.0%} of the shorter one's "
        f"runs of {found['run_words']} words, a question when its words\nare equal. {shared}"
    )


def _limits(data: Mapping[str, Any]) -> str:
    marks = (
        " Marks were written by grounding, not by the\nmodel." if data["run"] is not None else ""
    )
    return (
        "## Limits\n\nTexts are model-written and judged by machine. Rejected replies are wrong by "
        f"their outcome, which is\nevidence against the step, not proof.{marks} The documents keep "
        "their own licences."
    )


def _share(counts: Mapping[str, int]) -> str:
    if not counts["n"]:
        return "– (n = 0)"
    return f"{counts['correct'] / counts['n']:.1%} (n = {counts['n']})"


def _table(names: tuple[str, ...], rows: list[Any]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _size_category(rows: int) -> str:
    limits = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[sum(rows >= limit for limit in limits)]
