"""The model being trained: loading, refusals, log-probabilities of edges, export."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from agenticlu.core.errors import ModelNotFoundError, TrainingError
from agenticlu.core.files import load_json_object
from agenticlu.engines.local.checkpoint import find_end_ids
from agenticlu.training import attention, recurrent
from agenticlu.training.attention import TrieMask
from agenticlu.training.budget import ModelShape
from agenticlu.training.config import TrainConfig
from agenticlu.training.losses import edge_logprobs
from agenticlu.training.trie import TriePlan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


def resolve_model(name: str) -> str:
    """Returns a model's folder or hub name; for a training run's folder, that of its export.

    Raises:
        ModelNotFoundError: It looks like a path but does not exist, or has no model in it.
    """
    path = Path(name)
    for folder in (path / "export", path):
        for file in ("adapter_config.json", "config.json"):
            if (folder / file).is_file() and not (folder / "metrics.jsonl").exists():
                return str(folder)
    if path.exists():
        raise ModelNotFoundError(
            f"No model in {name}: neither it nor {name}/export has a config.json.",
            hint="Give a folder in Hugging Face layout, or a finished training run.",
        )
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelNotFoundError(f"Model folder not found: {name}.")
    return name


def load_tokenizer(name: str) -> Any:
    """Loads the tokenizer of a model."""
    from transformers import AutoTokenizer

    with _model_errors(name):
        return AutoTokenizer.from_pretrained(name)


@contextlib.contextmanager
def _model_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelNotFoundError(
            f"Could not load the model {name}: {first}",
            hint="Give a folder in Hugging Face layout, or a hub name (needs a connection).",
        ) from error


def find_stop_ids(name: str, tokenizer: Any) -> frozenset[int]:
    """Returns the ids that end a reply, from the generation config and the tokenizer."""
    from transformers import GenerationConfig

    generation = None
    with contextlib.suppress(OSError, ValueError):
        generation = GenerationConfig.from_pretrained(name)
    return find_end_ids(generation, tokenizer)


def find_base_model(name: str) -> str:
    """Returns the base of an adapter's folder; any other model is its own base."""
    adapter = Path(name) / "adapter_config.json"
    if not adapter.is_file():
        return name
    return str(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])


def load_shape(name: str) -> ModelShape:
    """Returns the shape of a model without loading its weights."""
    from transformers import AutoConfig

    with _model_errors(name):
        config = AutoConfig.from_pretrained(find_base_model(name))
    check_architecture(config)
    return ModelShape.from_config(config)


def load_model(name: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Loads a causal language model with trie attention.

    Raises:
        ModelNotFoundError: It cannot be found or read.
        TrainingError: Its architecture cannot be trained on tries; says why.
    """
    import transformers.utils.logging
    from transformers import AutoConfig, AutoModelForCausalLM

    attention.register()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    base = find_base_model(name)
    with _model_errors(base):
        config = AutoConfig.from_pretrained(base)
        check_architecture(config)
        model = AutoModelForCausalLM.from_pretrained(
            base, config=config, dtype=dtype, attn_implementation=attention.NAME
        )
    if base != name:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, name).merge_and_unload()
    model.config.use_cache = False
    result: nn.Module = nn.Module.to(model, device)
    check_modules(result)
    return result


def check_architecture(config: Any) -> None:
    """Refuses settings under which a trie's gradients would not be those of separate training.

    Raises:
        TrainingError: Names the setting and the reason.
    """
    name = config.model_type
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, key, None):
            raise TrainingError(f"{name}: {key} is set; soft-capped scores are not supported.")
    for key, value in vars(config).items():
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, float) and value > 0:
            if "classifier" in key or "summary" in key:
                continue
            raise TrainingError(
                f"{name}: {key} is {value}; shared tokens cannot draw independent masks.",
                hint=f"Set {key} to 0 in the model's config.json.",
            )
    rope = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default") if isinstance(rope, dict) else "default"
    if kind in ("dynamic", "longrope"):
        raise TrainingError(
            f"{name}: rotary embeddings of type {kind} depend on the length of the row, which in "
            "a trie is not the length of a trace."
        )
    if getattr(config, "output_router_logits", False):
        raise TrainingError(
            f"{name}: output_router_logits is set; the router loss would count stored tokens.",
            hint="Set output_router_logits to false in the model's config.json.",
        )


def check_modules(model: nn.Module) -> None:
    """Refuses dropout modules that are switched on.

    Raises:
        TrainingError: Names the module.
    """
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            raise TrainingError(f"{path} has dropout {module.p}; it must be 0 on a trie.")


class EdgeModel(nn.Module):
    """A causal language model that returns log-probabilities of edges instead of logits."""

    def __init__(self, model: nn.Module, *, edge_chunk: int = 2048) -> None:
        super().__init__()
        self.model = model
        self.edge_chunk = edge_chunk
        config: Any = model.config
        scaling = getattr(config, "logits_scaling", None)
        self.logit_scale = float(getattr(config, "logit_scale", None) or 1.0) / (scaling or 1.0)
        self.num_layers = int(config.get_text_config().num_hidden_layers)
        self.recurrent_layers = recurrent.install(model)

    def causal_lm(self) -> Any:
        """Returns the transformers model, without PEFT's wrapper."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "peft_config") else model

    def hidden_states(self, ids_S: Tensor, positions_S: Tensor, tree_plan: TrieMask) -> Tensor:
        """Returns the last hidden state of each row.

        Raises:
            TrainingError: Some layer did not go through trie attention.
        """
        before = (attention.counter.forward_calls, recurrent.counter.calls)
        output = self.causal_lm().base_model(
            input_ids=ids_S.unsqueeze(0),
            position_ids=positions_S.unsqueeze(0),
            use_cache=False,
            tree_plan=tree_plan,
        )
        if tree_plan.attend is None:
            self._check_calls(*before)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def _check_calls(self, attention_before: int, recurrent_before: int) -> None:
        attended = attention.counter.forward_calls - attention_before
        branched = recurrent.counter.calls - recurrent_before
        problem = None
        if branched != self.recurrent_layers:
            problem = (
                f"The plan of the trie reached recurrent layers {branched} of "
                f"{self.recurrent_layers} times"
            )
        # Hybrids have layers with neither, or with both.
        elif not self.recurrent_layers and attended != self.num_layers:
            problem = (
                f"The model called trie attention {attended} times in {self.num_layers} layers; "
                "some layer computes something else"
            )
        if problem:
            raise TrainingError(
                f"{problem}, so traces could see each other.",
                hint="This architecture cannot be trained on tries.",
            )

    def forward(
        self,
        ids_S: Tensor,
        positions_S: Tensor,
        tree_plan: TrieMask,
        sources_E: Tensor,
        targets_E: Tensor,
    ) -> Tensor:
        """Returns logp_E."""
        hidden = self.hidden_states(ids_S, positions_S, tree_plan)
        head = self.causal_lm().get_output_embeddings()
        return edge_logprobs(
            hidden,
            head.weight,
            sources_E,
            targets_E,
            bias_V=getattr(head, "bias", None),
            chunk=self.edge_chunk,
            logit_scale=self.logit_scale,
        )

    def run(self, plan: TriePlan, kernel: str) -> Tensor:
        """Returns logp_E of a plan on this process."""
        ids_S, positions_S, sources_E, targets_E = to_tensors(
            next(self.parameters()).device,
            plan.ids_S, plan.positions_S, plan.sources_E, plan.targets_E,
        )  # fmt: skip
        logp_E: Tensor = self(ids_S, positions_S, TrieMask.of(plan, kernel), sources_E, targets_E)
        return logp_E


def to_tensors(device: torch.device, *arrays: np.ndarray[Any, Any]) -> list[Tensor]:
    """Copies arrays to a device."""
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]


COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)  # fmt: skip


def add_adapter(model: nn.Module, config: TrainConfig, source: str) -> nn.Module:
    """Puts a LoRA adapter on all linear layers and freezes the rest."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    adapter = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped: Any = get_peft_model(model, adapter)
    if Path(source).is_dir():  # to be found from any working directory
        wrapped.peft_config["default"].base_model_name_or_path = str(Path(source).resolve())
    result: nn.Module = wrapped
    return result


def adapter_off(edges: EdgeModel) -> contextlib.AbstractContextManager[Any]:
    """Returns a context in which the adapter, if there is one, does nothing."""
    model: Any = edges.model
    if hasattr(model, "peft_config"):
        context: contextlib.AbstractContextManager[Any] = model.disable_adapter()
        return context
    return contextlib.nullcontext()


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
        with _stored_settings(model.config, dtype):
            model.save_pretrained(part, state_dict=state)
        tokenizer.save_pretrained(part)
        for name in COPIED:
            if (Path(source) / name).is_file():
                shutil.copyfile(Path(source) / name, part / name)
        _switch_sampling_on(part / "generation_config.json")
        (part / "README.md").write_text(card, encoding="utf-8")
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
def _stored_settings(config: Any, dtype: torch.dtype) -> Iterator[None]:
    """Sets what an export's config.json should say but training must not use."""
    before = (config.use_cache, config.dtype)
    config.use_cache, config.dtype = True, dtype
    try:
        yield
    finally:
        config.use_cache, config.dtype = before


def _replace_folder(part: Path, folder: Path) -> None:
    # A folder cannot be renamed onto another, so the old one steps aside first.
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _merge_adapter(
    source: str, state: dict[str, Tensor], config: TrainConfig, dtype: torch.dtype
) -> tuple[Any, dict[str, Tensor]]:
    from peft import set_peft_model_state_dict

    fresh: Any = add_adapter(load_model(source, dtype, torch.device("cpu")), config, source)
    adapter = {key.replace(".default", ""): value for key, value in state.items() if "lora_" in key}
    set_peft_model_state_dict(fresh, adapter)
    whole = fresh.merge_and_unload()
    return whole, dict(whole.state_dict())


def _switch_sampling_on(path: Path) -> None:
    values = load_json_object(path)
    values["do_sample"] = True
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
