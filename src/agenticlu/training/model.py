"""The model being trained: loading, refusals, log-probabilities of edges, export."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agenticlu.core.errors import ModelNotFoundError, TrainingError
from agenticlu.documents.tokens import pretrained_source
from agenticlu.engines.local.checkpoint import (
    check_remote_code,
    find_auto_class,
    find_end_ids,
)
from agenticlu.engines.models import find_model
from agenticlu.training import attention, recurrent
from agenticlu.training.attention import TrieMask
from agenticlu.training.budget import ModelShape
from agenticlu.training.config import TrainConfig
from agenticlu.training.distill import Lesson, edge_divergences, likeliest_tokens
from agenticlu.training.losses import edge_logprobs
from agenticlu.training.separate import SeparateRows, use_own_attention
from agenticlu.training.sharing import (
    count_windows,
    find_dropout,
    switch_dropout_off,
)
from agenticlu.training.trie import TriePlan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


def resolve_model(
    name: str, *, trust: bool = False, say: Callable[[str], None] | None = None
) -> str:
    """Returns a model's folder or GGUF file; for a training run's folder, that of its export.

    Args:
        name: As a person named it; a hub id is downloaded if need be.
        trust: Whether code that its folder brings may run.
        say: Called with a line for people before a download.

    Raises:
        ModelNotFoundError: There is no such model, or it cannot be fetched.
        EngineError: It needs code of its own, which is not trusted.
    """
    path = Path(name)
    found = None
    for folder in (path / "export", path):
        for file in ("adapter_config.json", "config.json"):
            if (folder / file).is_file() and not (folder / "metrics.jsonl").exists():
                found = found or folder
    if found is None and (path / "metrics.jsonl").exists():
        raise ModelNotFoundError(
            f"No model in {name}: neither it nor {name}/export has a config.json.",
            hint="Give a folder in Hugging Face layout, or a finished training run.",
        )
    found = found or find_model(name, say=say)
    check_remote_code(found, trust)
    return str(found)


def load_tokenizer(name: str, *, trust: bool = False) -> Any:
    """Loads the tokenizer of a model."""
    from transformers import AutoTokenizer

    with _model_errors(name), pretrained_source(name) as (source, options):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust, **options)


@contextlib.contextmanager
def _model_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelNotFoundError(
            f"Could not load the model {name}: {first}",
            hint="A file in it may be truncated or in another format: copy or export it again.",
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


def load_config(name: str, *, trust: bool = False) -> Any:
    """Loads the configuration of a model, or of an adapter's base."""
    from transformers import AutoConfig

    with _model_errors(name), pretrained_source(find_base_model(name)) as (source, options):
        return AutoConfig.from_pretrained(source, trust_remote_code=trust, **options)


def load_shape(name: str, *, trust: bool = False) -> ModelShape:
    """Returns the shape of a model without loading its weights."""
    return ModelShape.from_config(load_config(name, trust=trust))


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model, ready to be trained."""

    model: nn.Module
    changed: Mapping[str, Any]
    """Settings that training changed, as the configuration had them; an export gets them back."""
    notes: tuple[str, ...]
    """What a user should know about it, a sentence each."""


def load_model(
    name: str, dtype: torch.dtype, device: torch.device, *, trust: bool = False
) -> LoadedModel:
    """Loads a causal language model.

    Raises:
        ModelNotFoundError: It cannot be found or read.
    """
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    base = find_base_model(name)
    config = load_config(base, trust=trust)
    kind, notes = config.model_type, []
    changed = switch_dropout_off(config)
    wide: dict[str, Any] = {}
    if dtype == torch.float64:
        wide["experts_implementation"] = "eager"  # grouped products know no fp64
    with _model_errors(base), pretrained_source(base) as (source, options):
        options |= wide | {"trust_remote_code": trust}
        loader = find_auto_class(config)
        model = loader.from_pretrained(source, config=config, dtype=dtype, **options)
    if getattr(model, "hf_quantizer", None) is not None and base.endswith(".gguf"):
        # The weights are plain numbers by now, and are to be saved as such.
        model.hf_quantizer = None
        del model.config.quantization_config
    if base != name:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, name).merge_and_unload()
    model.config.use_cache = False
    if off := (*changed, *find_dropout(model)):
        notes.append(f"{kind}: dropout is off ({', '.join(off)}): rows share their tokens")
    if getattr(config.get_text_config(), "output_router_logits", False):
        notes.append(f"{kind}: the router's load-balancing loss is not part of the loss")
    if type(model.config) is not type(config):
        notes.append(f"{kind}: only its language model is trained and exported")
    return LoadedModel(nn.Module.to(model, device), changed, tuple(notes))


class EdgeModel(nn.Module):
    """A causal language model that returns log-probabilities of edges instead of logits."""

    def __init__(
        self, model: nn.Module, *, edge_chunk: int = 2048, changed: Mapping[str, Any] | None = None
    ) -> None:
        """Takes a model and lets its layers follow a trie.

        Args:
            model: A transformers model.
            edge_chunk: Edges whose logits are in memory at once.
            changed: Settings of its configuration that an export gets back.
        """
        super().__init__()
        self.model = model
        self.edge_chunk = edge_chunk
        self.changed = dict(changed or {})
        config: Any = model.config
        text = config.get_text_config()
        self.logit_scale, self.logit_cap = find_logit_settings(text)
        self.num_layers = int(text.num_hidden_layers)
        self.num_windows = count_windows(config)
        self.recurrent_layers = recurrent.install(model)
        self.rows: SeparateRows | None = None
        """Runs traces apart from each other; None on a trie."""
        attention.use_trie_attention(model)

    def separate_rows(self, *, alone: bool) -> None:
        """Gives tries up: traces run one after another, as transformers runs them."""
        model = self.causal_lm()
        use_own_attention(model)
        self.rows = SeparateRows(model, alone=alone)

    def causal_lm(self) -> Any:
        """Returns the transformers model, without PEFT's wrapper."""
        model: Any = self.model
        return model.get_base_model() if hasattr(model, "peft_config") else model

    def hidden_states(self, ids_S: Tensor, positions_S: Tensor, tree_plan: TrieMask) -> Tensor:
        """Returns the last hidden state of each row.

        Raises:
            TrainingError: Some layer did not go through trie attention.
        """
        decoder = find_decoder(self.causal_lm())
        if self.rows is not None:
            return self.rows.run(decoder, ids_S, tree_plan.segments)
        before = dataclasses.replace(attention.counter), recurrent.counter.calls
        output = decoder(
            input_ids=ids_S.unsqueeze(0),
            position_ids=positions_S.unsqueeze(0),
            use_cache=False,
            tree_plan=tree_plan,
        )
        if tree_plan.attend is None:
            self._check_calls(*before)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    def _check_calls(self, attention_before: attention.Counter, recurrent_before: int) -> None:
        attended = attention.counter.forward_calls - attention_before.forward_calls
        windows = attention.counter.windows - attention_before.windows
        branched = recurrent.counter.calls - recurrent_before
        problem = None
        if branched != self.recurrent_layers:
            problem = (
                f"a trie's plan reaches {branched} of {self.recurrent_layers} recurrent layers"
            )
        # Hybrids have layers with neither, or with both.
        elif not self.recurrent_layers and attended != self.num_layers:
            missing = self.num_layers - attended
            problem = f"{missing} of {self.num_layers} layers do not ask for trie attention"
        elif windows < self.num_windows:
            problem = (
                f"{windows} of {self.num_windows} layers with a window say so to trie attention"
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
        lesson: Lesson | None = None,
        most: int = 0,
    ) -> Any:
        """Returns logp_E; with a lesson the divergences from its teacher, loss_K.

        With `most`, ids and log-probabilities of as many likeliest tokens at each edge.
        """
        hidden, head, settings = self._reach_head(ids_S, positions_S, tree_plan)
        if most:
            return likeliest_tokens(hidden, head.weight, sources_E, most, **settings)
        if lesson is not None:
            return edge_divergences(hidden, head.weight, lesson, **settings)
        return edge_logprobs(hidden, head.weight, sources_E, targets_E, **settings)

    def _reach_head(
        self, ids_S: Tensor, positions_S: Tensor, tree_plan: TrieMask
    ) -> tuple[Tensor, Any, dict[str, Any]]:
        """Returns hidden states, the head, and how logits come from them."""
        hidden = self.hidden_states(ids_S, positions_S, tree_plan)
        head = self.causal_lm().get_output_embeddings()
        settings = {
            "bias_V": getattr(head, "bias", None),
            "chunk": self.edge_chunk,
            "logit_scale": self.logit_scale,
            "softcap": self.logit_cap,
        }
        return hidden.to(head.weight.dtype), head, settings  # some classes sum layers in fp32

    def run(self, plan: TriePlan, kernel: str) -> Tensor:
        """Returns logp_E of a plan on this process."""
        ids_S, positions_S, sources_E, targets_E = to_tensors(
            next(self.parameters()).device,
            plan.ids_S, plan.positions_S, plan.sources_E, plan.targets_E,
        )  # fmt: skip
        logp_E: Tensor = self(ids_S, positions_S, TrieMask.of(plan, kernel), sources_E, targets_E)
        return logp_E


def find_decoder(model: Any) -> Any:
    """Returns the part of a causal language model that gives hidden states."""
    decoder = model.get_decoder()
    return model.model if decoder is model else decoder


def find_logit_settings(config: Any) -> tuple[float, float | None]:
    """Returns the factor of a model's logits, and the cap that follows (None: no cap)."""
    scale = 1.0
    for key in ("logit_scale", "lm_head_multiplier"):
        scale *= getattr(config, key, None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    caps = (getattr(config, key, None) for key in ("final_logit_softcapping", "logits_soft_cap"))
    cap = next(filter(None, caps), None)
    return float(scale), None if cap is None else float(cap)


def to_tensors(device: torch.device, *arrays: np.ndarray[Any, Any]) -> list[Tensor]:
    """Copies arrays to a device."""
    return [torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays]


FUSED = ("out_proj", "conv1d")
"""Layers whose weights the fused kernels of some classes read themselves, past an adapter."""
FUSED_KINDS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""These classes; PEFT refuses adapters there."""


def add_adapter(model: Any, config: TrainConfig, source: str) -> nn.Module:
    """Puts a LoRA adapter on all linear layers that can have one and freezes the rest."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(config.seed)
    adapter = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        exclude_modules=list(FUSED) if model.config.model_type in FUSED_KINDS else None,
        task_type="CAUSAL_LM",
    )
    wrapped: Any = get_peft_model(model, adapter)
    if Path(source).exists():  # to be found from any working directory
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
