"""The data card of a data set, written from the run's own numbers; and its upload."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from agenticlu.errors import UsageError, missing_dependency
from agenticlu.judge import disagrees, solved_depth
from agenticlu.pairs import PREFERENCE_COLUMNS, SFT_COLUMNS, BuildSummary, PairPolicy
from agenticlu.store import Store, as_mapping, write_file

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def write_card(
    folder: Path, store: Store, policy: PairPolicy, summary: BuildSummary, licence: str | None
) -> None:
    """Writes README.md, summary.json and croissant.json into a data set folder."""
    facts = collect_facts(store)
    data = {"build": summary.as_dict(), "policy": policy.model_dump(), "run": facts}
    write_file(folder / "summary.json", (json.dumps(data, indent=2) + "\n").encode())
    croissant = render_croissant(folder, summary, licence)
    write_file(folder / "croissant.json", (json.dumps(croissant, indent=2) + "\n").encode())
    write_file(folder / "README.md", render_card(facts, policy, summary, licence).encode())


def collect_facts(store: Store) -> dict[str, Any]:
    """Returns what a card says about a run."""
    bound = store.get("bound") or {}
    by_depth: dict[int, int] = {}
    scored = judged = disagreeing = nodes = 0
    for tree in store.trees(only_finished=True):
        scored += any(node.score is not None for node in tree.nodes)
        depth = solved_depth(tree)
        if depth is not None:
            by_depth[depth] = by_depth.get(depth, 0) + 1
        for node in tree.nodes:
            nodes += 1
            if sum(verdict.value is not None for verdict in node.verdicts) > 1:
                judged += 1
                disagreeing += disagrees(node.verdicts)
    recall: dict[str, float] = {}
    total = 0
    for depth in range(max(by_depth, default=-1) + 1):
        total += by_depth.get(depth, 0)
        recall[str(depth)] = round(total / scored, 4) if scored else 0.0
    usage = {name: as_mapping(one) for name, one in store.usage_by_phase().items()}
    profile = store.get("profile") or {}
    return {
        "engine": bound.get("engine"),
        "tokenizer": bound.get("tokenizer"),
        "profile": bound.get("profile"),
        "profile_sha256": hashlib.sha256(
            json.dumps(profile, sort_keys=True, ensure_ascii=False).encode()
        ).hexdigest(),
        "search": store.get("config"),
        "questions": store.tree_counts()["questions"],
        "documents": len(store.document_ids()),
        "nodes": nodes,
        "scored_questions": scored,
        "recall_by_depth": recall,
        "judge_disagreements": {"answers": judged, "disagreeing": disagreeing},
        "tokens_by_phase": usage,
    }


def render_card(
    facts: dict[str, Any], policy: PairPolicy, summary: BuildSummary, licence: str | None
) -> str:
    """Returns the card as Markdown with the hub's YAML header."""
    rows = summary.rows
    size = sum(sum(splits.values()) for splits in rows.values())
    header = [
        "---",
        f"license: {licence}" if licence else "# license: not stated by whoever built this",
        "language: [en]",
        "task_categories: [question-answering, text-generation]",
        "tags: [preference, long-context, synthetic]",
        f"size_categories: [{_size_category(size)}]",
        "configs:",
    ]
    for kind, splits in rows.items():
        header.append(f"- config_name: {kind}")
        header.append("  data_files:")
        for split, number in splits.items():
            if number:
                header += [f"  - split: {split}", f"    path: {kind}/{split}.parquet"]
    header.append("---")
    recall = "\n".join(
        f"| {'direct' if depth == '0' else depth} | {share:.1%} |"
        for depth, share in facts["recall_by_depth"].items()
    )
    funnel = summary.funnel.as_dict()
    losses = "\n".join(
        f"| {name} | {why} | {number} |"
        for name, counter in funnel.items()
        if isinstance(counter, dict)
        for why, number in counter.items()
    )
    costs = "\n".join(
        f"| {name} | {use['requests']} | {use['prompt_tokens'] - use['cached_tokens']} | "
        f"{use['cached_tokens']} | {use['completion_tokens']} |"
        for name, use in facts["tokens_by_phase"].items()
    )
    counts = "\n".join(
        f"| {kind} | {splits['train']} | {splits['validation']} |" for kind, splits in rows.items()
    )
    agreement = facts["judge_disagreements"]
    return (
        "\n".join(header)
        + f"""

# Traces and preference pairs from tree search over long documents

Grown by agenticlu: clarifications are sampled, grounded in the document, answered and judged
against known answers. `sft` holds whole conversations of right paths; `preference` holds one row
per assistant turn in which two branches of one history differ.

| rows | train | validation |
|---|---|---|
{counts}

Split by document: {len(summary.documents["train"])} documents train,
{len(summary.documents["validation"])} validation, none in both.

## How it was made

- Model: {facts["engine"]}; tokenizer: {facts["tokenizer"]}
- Prompt profile: {facts["profile"]}, SHA-256 {facts["profile_sha256"]}
- Search: `{json.dumps(facts["search"], sort_keys=True)}`
- Pairs: `{json.dumps(policy.model_dump(), sort_keys=True)}`
- {facts["questions"]} questions over {facts["documents"]} documents, {facts["nodes"]} nodes

## Recall by depth

Share of {facts["scored_questions"]} scored questions answered right at a depth or above it.

| depth | recall |
|---|---|
{recall}

## What became of everything

| of | what | number |
|---|---|---|
{losses}

Judges disagreed on {agreement["disagreeing"]} of {agreement["answers"]} answers that several
judged. Mean characters: chosen {summary.answer_characters["chosen"]}, rejected
{summary.answer_characters["rejected"]}.

## Cost in tokens

| phase | requests | computed prompt | cached prompt | sampled |
|---|---|---|---|---|
{costs}

## Limits

Texts are model-written and judged by machine. Rejected replies are wrong by their outcome, which
is evidence against the step, not proof. Marks were written by grounding, not by the model. Not
decontaminated against any benchmark unless stated above. The documents keep their own licences.
"""
    )


def render_croissant(folder: Path, summary: BuildSummary, licence: str | None) -> dict[str, Any]:
    """Returns the data set's Croissant description (schema.org JSON-LD)."""
    files, records = [], []
    for kind, columns in (("sft", SFT_COLUMNS), ("preference", PREFERENCE_COLUMNS)):
        for split in summary.rows[kind]:
            path = folder / kind / f"{split}.parquet"
            name = f"{kind}-{split}"
            files.append(
                {
                    "@type": "cr:FileObject",
                    "@id": name,
                    "name": name,
                    "contentUrl": f"{kind}/{split}.parquet",
                    "encodingFormat": "application/x-parquet",
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
            records.append(
                {
                    "@type": "cr:RecordSet",
                    "@id": f"{name}-rows",
                    "name": f"{name}-rows",
                    "field": [
                        {
                            "@type": "cr:Field",
                            "@id": f"{name}-rows/{column}",
                            "name": column,
                            "dataType": "sc:Text",
                            "source": {
                                "fileObject": {"@id": name},
                                "extract": {"column": column},
                            },
                        }
                        for column in columns
                    ],
                }
            )
    described: dict[str, Any] = {
        "@context": {
            "@vocab": "https://schema.org/",
            "sc": "https://schema.org/",
            "cr": "http://mlcommons.org/croissant/",
            "dct": "http://purl.org/dc/terms/",
        },
        "@type": "sc:Dataset",
        "dct:conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "agenticlu-traces",
        "description": "Conversations and preference pairs from tree search over long documents.",
        "distribution": files,
        "recordSet": records,
    }
    if licence:
        described["license"] = licence
    return described


def check_push(hub_id: str, licence: str | None) -> None:
    """Checks name, licence and token before anything is computed.

    Raises:
        UsageError: The name is malformed, no licence was given, or no token works.
        MissingDependencyError: The hub's client is not installed.
    """
    if not _HUB_ID.fullmatch(hub_id) or ".." in hub_id or "--" in hub_id:
        raise UsageError(
            f"{hub_id!r} is no name on the hub. A name is OWNER/NAME of letters, digits, - _ .",
            hint="For example --push-to-hub yourname/long-traces",
        )
    if not licence:
        raise UsageError(
            "A public home needs a licence, which is asked for and never assumed.",
            hint="Add --license, for example --license mit",
        )
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError as error:
        raise missing_dependency("huggingface-hub", "data") from error
    token = huggingface_hub.get_token()
    if not token:
        raise UsageError(
            "There is no token for the hub.", hint="Set HF_TOKEN, or run: hf auth login"
        )
    try:
        who = huggingface_hub.HfApi(token=token).whoami()
    except (HfHubHTTPError, OSError) as error:
        raise UsageError(
            f"The hub did not accept the token ({type(error).__name__}).",
            hint="Check HF_TOKEN and the connection.",
        ) from error
    owners = {who.get("name"), *(org.get("name") for org in who.get("orgs", ()))}
    owner = hub_id.partition("/")[0]
    if owner not in owners:
        raise UsageError(f"The token is not for {owner!r}, but for {', '.join(map(str, owners))}.")


def push(folder: Path, hub_id: str, *, private: bool) -> None:
    """Uploads a built folder; goes on where an earlier upload stopped."""
    import huggingface_hub

    api = huggingface_hub.HfApi()
    api.create_repo(hub_id, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(repo_id=hub_id, folder_path=os.fspath(folder), repo_type="dataset")


def _size_category(rows: int) -> str:
    for limit, name in ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if rows < limit:
            return name
    return "100K<n<1M" if rows < 1_000_000 else "1M<n<10M"
