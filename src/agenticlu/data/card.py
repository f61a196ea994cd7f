"""The README.md of a data set, its Croissant description and `summary.json`.

The card is rendered from `card.md.j2` by what `summary.json` holds. Croissant:
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.0.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from agenticlu.core.errors import missing_dependency
from agenticlu.core.files import write_atomically
from agenticlu.data.build import DatasetSummary, load_meanings
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
from agenticlu.data.mark_lists import render_lists
from agenticlu.data.pointing import render_pointing

NAME = "agenticlu-traces"
DESCRIPTION = "Conversations and preference pairs about long documents, made by agenticlu."
_TYPES: dict[ColumnType, str] = {
    "text": "sc:Text",
    "texts": "sc:Text",
    "float": "sc:Float",
    "int": "sc:Integer",
    "ints": "sc:Integer",
    "pairs": "sc:Integer",
    "bool": "sc:Boolean",
}
_LISTS: frozenset[ColumnType] = frozenset({"texts", "ints", "pairs", "messages"})


def write_card(
    folder: Path,
    summary: DatasetSummary,
    licence: Licence | None,
    *,
    run: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    imported: Mapping[str, Any] | None = None,
) -> None:
    """Writes README.md, croissant.json and summary.json into a directory that holds the rows.

    Args:
        folder: The data set's directory.
        summary: What was written.
        licence: None when none was stated.
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
    write_atomically(folder / CROISSANT, json.dumps(croissant, indent=2) + "\n")
    write_atomically(folder / CARD, render_card(data))
    data["files"] = describe_files(folder)
    write_atomically(folder / SUMMARY, json.dumps(data, indent=2) + "\n")


def render_card(data: Mapping[str, Any]) -> str:
    """Returns the card as Markdown with the hub's YAML header.

    Args:
        data: What `summary.json` holds.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agenticlu.data", "."),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["json"] = lambda value: json.dumps(value, sort_keys=True)
    build, run = data["build"], data["run"] or {}
    meanings = load_meanings("built" if run else "imported")
    phases = [
        (
            name,
            use["requests"],
            use["prompt_tokens"] - use["cached_tokens"],
            use["cached_tokens"],
            use["completion_tokens"],
            use.get("thinking_tokens", 0),
        )
        for name, use in run.get("tokens_by_phase", {}).items()
    ]
    lengths = build["characters"]
    measures = list(next(iter(lengths.values()), ()))
    return environment.get_template("card.md.j2").render(
        data=data,
        header=_render_header(data),
        splits=list(SPLITS),
        row_counts=[(kind, *counts.values()) for kind, counts in build["rows"].items()],
        recall=[
            ("direct" if depth == "0" else depth, f"{share:.1%}")
            for depth, share in run.get("recall_by_depth", {}).items()
        ],
        pointing=render_pointing(build["pointing"]) if run else [],
        lists=_render_lists(build),
        fates=[
            (name, why, number, meanings.get(name, {}).get(why, ""))
            for name, counts in build["funnel"].items()
            if isinstance(counts, Mapping) and counts["total"]
            for why, number in counts.items()
        ],
        measures=measures,
        lengths=[(name.replace("_", " "), *found.values()) for name, found in lengths.items()],
        controls=[
            (name, _render_share(found["right"]), _render_share(found["wrong"]))
            for name, found in (run.get("judge_controls") or {}).items()
        ],
        costs=[*phases, ("total", *(sum(phase[i] for phase in phases) for i in range(1, 6)))],
    )


def _render_lists(build: Mapping[str, Any]) -> str:
    found = build.get("mark_lists") or {}
    return render_lists(found) if found.get("lists") else ""


def _render_header(data: Mapping[str, Any]) -> str:
    """Returns what the hub reads of a card, as YAML."""
    try:
        from huggingface_hub import DatasetCardData
    except ModuleNotFoundError as error:
        raise missing_dependency("huggingface-hub", "data") from error
    rows, licence = data["build"]["rows"], data["licence"] or {}
    filled = [kind for kind, counts in rows.items() if any(counts.values())]
    # What `load_dataset` takes without a name must be safe in any trainer: `sft` is only with its
    # `targets`, `preference` always.
    default = next((kind for kind in ("plain", "preference") if kind in filled), None)
    header = DatasetCardData(
        license=licence.get("identifier"),
        license_name=licence.get("name"),
        license_link=licence.get("link"),
        task_categories=["question-answering", "text-generation"],
        tags=["preference", "long-context", "synthetic"],
        size_categories=[_size_category(sum(sum(counts.values()) for counts in rows.values()))],
        configs=[
            {
                "config_name": kind,
                "data_files": [
                    {"split": split, "path": f"{kind}/{split}.parquet"}
                    for split, number in rows[kind].items()
                    if number
                ],
                **({"default": True} if kind == default else {}),
            }
            for kind in filled  # the hub refuses a config without files
        ],
    )
    missing = "" if licence else "# license: not stated by whoever built this\n"
    return f"{missing}{header.to_yaml()}\n"


def _render_share(counts: Mapping[str, int]) -> str:
    if not counts["n"]:
        return "– (n = 0)"
    return f"{counts['correct'] / counts['n']:.1%} (n = {counts['n']})"


def _size_category(rows: int) -> str:
    limits = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M")
    return names[sum(rows >= limit for limit in limits)]


def render_croissant(
    files: Mapping[str, Mapping[str, Any]], name: str, description: str, licence: Licence | None
) -> dict[str, Any]:
    """Returns the description as JSON-LD.

    Args:
        files: Each file's name to its `sha256` and `bytes`; files other than rows are left out.
        name: Of the data set.
        description: One sentence.
        licence: None when nobody stated one.
    """
    paths = [path for path in files if path.endswith(".parquet")]
    described: dict[str, Any] = {
        # The names of Croissant 1.0, verbatim: readers warn of any other context.
        "@context": json.loads(
            (resources.files(__package__) / "croissant_context.json").read_text()
        ),
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
