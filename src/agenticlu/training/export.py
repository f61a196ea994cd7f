"""Exports a trained model in Hugging Face layout, completely or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from agenticlu.core.errors import TrainingError
from agenticlu.core.files import load_json_object, sync_directory
from agenticlu.core.printing import harmless
from agenticlu.training.config import TrainConfig
from agenticlu.training.model import EdgeModel, add_adapter, find_base_model, load_model

COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip


def render_card(config: TrainConfig, source: str, num_rows: int, num_steps: int) -> str:
    """Renders the export's README."""
    start = f"Started from `{source}`"
    if config.stage == "dpo":
        kind = "a base model, not an SFT result" if config.from_base else "the SFT result"
        start += f" ({kind}), which is also the reference"
    return (
        f"# Trained with agenticlu: {config.stage}\n\n{start}.\n\n"
        f"{num_rows} rows of `{config.dataset}`, {num_steps} steps.\n\n"
        f"```json\n{config.model_dump_json(indent=2)}\n```\n"
    )


def write_export(
    edges: EdgeModel,
    weights: dict[str, Tensor] | None,
    source: str,
    tokenizer: Any,
    config: TrainConfig,
    *,
    dtype: torch.dtype,
    card: str,
) -> None:
    """Writes the trained model to OUT/export in Hugging Face layout, completely or not at all.

    An adapter is merged if asked to, or if its base is on no disk: the base of a second adapter is
    the first one's model with that adapter merged.

    Args:
        edges: The model.
        weights: Its unsharded state where it is sharded, keys as in `edges`.
        source: Where the run started; tokenizer and generation settings are taken from there.
        tokenizer: Saved first, then overwritten by the source's own files.
        config: The run's settings.
        dtype: Of the computation; after bf16 the export has the dtype of the source's weights.
        card: Text of README.md.

    Raises:
        TrainingError: The folder cannot be written.
    """
    folder = Path(config.out) / "export"
    part = folder.with_name(f".{folder.name}.part")
    model, state, dtype = _collect_state(edges, weights, source, config, dtype)
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        with _stored_settings(model.config, dtype, edges.changed):
            model.save_pretrained(part, state_dict=state)
        tokenizer.save_pretrained(part)
        for name in COPIED:
            if (Path(source) / name).is_file():
                shutil.copyfile(Path(source) / name, part / name)
        _switch_sampling_on(part / "generation_config.json")
        (part / "README.md").write_text(harmless(card), encoding="utf-8")
        for file in part.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(
            f"Could not write the export to {folder}: {error}",
            hint="Free space and run the same command again; it resumes from the last checkpoint.",
        ) from error
    _replace_folder(part, folder)


def _collect_state(
    edges: EdgeModel,
    weights: dict[str, Tensor] | None,
    source: str,
    config: TrainConfig,
    dtype: torch.dtype,
) -> tuple[Any, dict[str, Tensor], torch.dtype]:
    """Returns the model to save, its weights on the CPU, and their dtype."""
    model: Any = edges.model
    state = edges.state_dict() if weights is None else weights
    state = {key.removeprefix("model."): value for key, value in state.items()}
    if not config.lora_rank:
        dtype = _choose_export_dtype(source, dtype)
    elif config.lora_merge or find_base_model(source) != source:
        dtype = _choose_export_dtype(source, dtype)
        model, state = _merge_adapter(source, state, config, dtype)
    elif dtype == torch.bfloat16:
        dtype = torch.float32  # an adapter is small, and trained in fp32
    for tied in getattr(edges.causal_lm(), "all_tied_weights_keys", {}):
        state.pop(tied, None)
    state = {
        key: value.detach().to("cpu", dtype) if value.is_floating_point() else value
        for key, value in state.items()
    }
    return model, state, dtype


def _choose_export_dtype(source: str, dtype: torch.dtype) -> torch.dtype:
    path = Path(source) / "config.json"
    if dtype != torch.bfloat16:
        return dtype
    values = load_json_object(path)
    found = getattr(torch, str(values.get("dtype") or values.get("torch_dtype")), None)
    return found if isinstance(found, torch.dtype) else dtype


@contextlib.contextmanager
def _stored_settings(config: Any, dtype: torch.dtype, changed: Mapping[str, Any]) -> Iterator[None]:
    """Sets what an export's config.json should say but training must not use."""
    stored = {"use_cache": True, "dtype": dtype, **changed}
    parts = {id(part): part for part in (config, config.get_text_config())}.values()
    before = [(p, key, getattr(p, key)) for p in parts for key in stored if hasattr(p, key)]
    for part, key, _ in before:
        setattr(part, key, stored[key])
    try:
        yield
    finally:
        for part, key, value in before:
            setattr(part, key, value)


def _replace_folder(part: Path, folder: Path) -> None:
    # A folder cannot be renamed onto another, so the old one steps aside first.
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    sync_directory(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _merge_adapter(
    source: str, state: dict[str, Tensor], config: TrainConfig, dtype: torch.dtype
) -> tuple[Any, dict[str, Tensor]]:
    from peft import set_peft_model_state_dict

    fresh: Any = add_adapter(
        load_model(source, dtype, torch.device("cpu"), trust=config.trust_remote_code).model,
        config,
        source,
    )
    adapter = {key.replace(".default", ""): value for key, value in state.items() if "lora_" in key}
    set_peft_model_state_dict(fresh, adapter)
    whole = fresh.merge_and_unload()
    return whole, dict(whole.state_dict())


def _switch_sampling_on(path: Path) -> None:
    values = load_json_object(path)
    values["do_sample"] = True
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
