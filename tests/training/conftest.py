"""Small models, random tries and rows for the tests of the trainer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agenticlu

TOKENIZER = Path(agenticlu.__file__).parent / "demo" / "model"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass
class Tries:
    """Traces with their targets, drawn at random from a growing tree."""

    traces: list[np.ndarray]
    masks: list[np.ndarray]


def draw_tries(seed: int, *, num_traces: int = 6, vocabulary: int = 40, root: int = 12) -> Tries:
    generator = np.random.default_rng(seed)

    def some(low: int, high: int) -> np.ndarray:
        return generator.integers(0, vocabulary, generator.integers(low, high))

    traces = [np.concatenate((some(root, root + 4), some(3, 9)))]
    shared = traces[0][:root]
    while len(traces) < num_traces:
        kind = generator.random()
        if kind < 0.5:  # branches off somewhere in another trace
            other = traces[generator.integers(len(traces))]
            stem = other[: generator.integers(root, len(other) + 1)]
        else:
            stem = shared
        traces.append(np.concatenate((stem, some(1, 9))))
    traces.append(traces[1][:-1])  # a prefix of another
    masks = []
    for trace in traces:
        mask = generator.random(len(trace)) < 0.5
        mask[: root // 2], mask[-1] = False, True
        masks.append(mask)
    return Tries(traces, masks)


@pytest.fixture(scope="session")
def tries() -> Callable[..., Tries]:
    return draw_tries


def build_model(family: str, *, vocabulary: int = 40, **changes: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from agenticlu.training import attention

    torch.manual_seed(3)
    if family == "gpt2":
        config: Any = GPT2Config(
            vocab_size=vocabulary, n_positions=256, n_embd=16, n_layer=2, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.3, **changes,
        )  # fmt: skip
        model: Any = GPT2LMHeadModel(config)
    else:
        settings = {
            "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "initializer_range": 0.3, "max_position_embeddings": 4096, **changes,
        }  # fmt: skip
        config = LlamaConfig(**settings)
        model = LlamaForCausalLM(config)
    attention.use_trie_attention(model)
    return model.train()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    return build_model


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A random Llama with the bundled tokenizer, in Hugging Face layout."""
    folder = tmp_path_factory.mktemp("model")
    model = build_model("llama", vocabulary=len(tokenizer), initializer_range=0.1)
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WORDS = [
    "Mara",
    "keeps",
    "the",
    "blue",
    "lamp",
    "in",
    "Torvale",
    "near",
    "the",
    "old",
    "mill",
    "and",
    "nobody",
    "saw",
    "the",
    "brass",
    "key",
]


def write_rows(
    folder: Path, *, documents: int = 3, traces: int = 4, words: int = 60, seed: int = 0
) -> Path:
    generator = np.random.default_rng(seed)

    def text(count: int) -> str:
        return " ".join(generator.choice(WORDS, count))

    def say(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    for split, number in (("train", documents), ("validation", 1)):
        sft, pairs, lessons = [], [], []
        for document in range(number):
            prompt = [say("system", "Read."), say("user", f"{text(words)} Question: where?")]
            for _ in range(traces):
                sft.append({
                    "document_id": f"{split}-{document}",
                    "messages": [
                        *prompt, say("assistant", text(5)), say("user", "Which help?"),
                        say("assistant", text(4)),
                    ],
                })  # fmt: skip
                pairs.append({
                    "document_id": f"{split}-{document}", "prompt": prompt,
                    "chosen": [say("assistant", text(5))],
                    "rejected": [say("assistant", text(6))],
                })  # fmt: skip
                lessons.append({**sft[-1], "evidence": f"{text(words // 4)} Question: where?"})
        for name, rows in (("sft", sft), ("preference", pairs), ("distill", lessons)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            path = folder / name / f"{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def make_rows() -> Callable[..., Path]:
    return write_rows
