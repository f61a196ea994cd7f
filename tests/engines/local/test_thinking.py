"""Models in process that think: a Llama whose next token follows from its last one alone."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FAMILIES, make_tokenizer

from agenticlu.core.records import Message, Usage
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.base import Completion, Sampled, Sampling, ThoughtCutError
from agenticlu.engines.local import HFEngine
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.engines.thinking import Thinking

ASKED = (Message(role="user", content="Who built the mill?"),)
THOUGHT = [f"hm{i}" for i in range(20)]
SWITCH = "{% if not enable_thinking %}<think></think>{% endif %}"


def write_chain(folder: Path, chains: Sequence[Sequence[str]], end: str, special: bool) -> Path:
    """Writes a model that continues each chain of words, in a chat template that ends so."""
    import torch
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<|end|>", "<|user|>", "<|assistant|>"]
    words += [word for chain in chains for word in chain if word not in words]
    words = list(dict.fromkeys([*words, "<think>", "</think>", "[THINK]", "[/THINK]", "yes", "no"]))
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", unk_token="<unk>", pad_token="<|end|>"
    )
    marks = [AddedToken(word, special=True) for word in ("<|user|>", "<|assistant|>")]
    tags = ("<think>", "</think>", "[THINK]", "[/THINK]")
    fast.add_tokens([*marks, *(AddedToken(tag, special=special) for tag in tags)])
    fast.chat_template = (
        "{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] }}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>" + end + "{% endif %}"
    )
    fast.save_pretrained(folder)
    size = len(words) + len(words) % 2
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size, hidden_size=size, intermediate_size=2, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, eos_token_id=1, pad_token_id=1,
            bos_token_id=None, max_position_embeddings=4096,
        )
    )  # fmt: skip
    follows = torch.zeros(size, size)
    for chain in chains:
        for one, following in itertools.pairwise(chain):
            follows[words.index(following), words.index(one)] = 1.0
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.copy_(follows)
    model.save_pretrained(folder)
    return folder


def sample(engine: HFEngine, *limits: int, n: int = 1) -> list[Sampled]:
    async def work() -> list[Sampled]:
        try:
            wanted = [Sampling(max_tokens=limit, n=n) for limit in limits]
            return [await engine.sample(ASKED, one) for one in wanted]
        finally:
            await engine.close()

    return asyncio.run(work())


def chain(start: str, closing: str) -> list[list[str]]:
    return [[start, *THOUGHT, closing, "Ada", "Larkin", "<|end|>"]]


@pytest.mark.parametrize(
    ("opening", "closing", "end", "special"),
    [
        ("<think>", "</think>", "<think>", False),
        ("<think>", "</think>", "", False),
        ("[THINK]", "[/THINK]", "", True),
        ("<think>", "</think>", "", True),
    ],
    ids=["opened by the template", "opened by the model", "special tokens", "special tags"],
)
def test_the_reply_is_apart_from_its_thought(
    tmp_path: Path, opening: str, closing: str, end: str, special: bool
) -> None:
    chains = [["<|assistant|>", opening], *chain(opening, closing)]
    said: list[str] = []
    engine = HFEngine(write_chain(tmp_path, chains, end, special), on_event=said.append)
    first, second = sample(engine, 3, 3, n=2)
    for found in (first, second):
        for one in found.completions:
            assert (one.text, one.finish_reason) == ("Ada Larkin", "stop")
            assert one.thinking.split() == THOUGHT
            assert one.token_ids is None, "ids of the whole are not those of the reply"
    # Two samples of a thought of twenty tokens and its tags; the reply is two, and an end.
    tags = 1 if end else 2
    assert second.usage.thinking_tokens == 2 * (20 + tags)
    assert second.usage.completion_tokens == 2 * (20 + tags + 3)
    assert first.usage.requests == (1 if end else 2), "the template already shows that it thinks"

    async def listen() -> list[str]:
        loud = HFEngine(tmp_path)
        told: list[str] = []
        try:
            for _ in range(2):  # the first may be cut inside its thought, and be asked for again
                await loud.stream(ASKED, Sampling(max_tokens=3), on_text=told.append)
        finally:
            await loud.close()
        return told

    assert asyncio.run(listen()) == ["Ada", " Larkin"] * 2, "no thought is told"
    assert engine.usage == first.usage + second.usage
    assert len(said) == 1


def test_a_thought_longer_than_its_room_is_refused_in_words(tmp_path: Path) -> None:
    chains = [["<think>", *THOUGHT, "hm0"]]
    engine = HFEngine(write_chain(tmp_path, chains, "<think>", False), thinking=Thinking(tokens=40))
    with pytest.raises(ThoughtCutError, match="still thinking after 40 tokens"):
        sample(engine, 8)


def test_the_template_decides_where_it_has_a_switch(tmp_path: Path) -> None:
    chains = [["<|assistant|>", "<think>"], *chain("<think>", "</think>")]
    folder = write_chain(tmp_path, chains, SWITCH, False)
    (quiet,) = sample(HFEngine(folder), 3)
    assert (quiet.completions[0].text, quiet.usage.thinking_tokens) == ("Ada Larkin", 0)
    assert quiet.completions[0].token_ids is not None
    (loud,) = sample(HFEngine(folder, thinking=Thinking("on")), 3)
    assert (loud.completions[0].text, loud.completions[0].thinking.split()) == (
        "Ada Larkin",
        THOUGHT,
    )


def test_a_verdict_is_read_behind_the_thought(tmp_path: Path) -> None:
    chains = [["<think>", *THOUGHT], ["</think>", "yes", "<|end|>"]]
    engine = HFEngine(write_chain(tmp_path, chains, "<think>", False))

    async def work() -> Any:
        try:
            return await engine.score_choices(ASKED, ("yes", "no"))
        finally:
            await engine.close()

    found = asyncio.run(work())
    assert found.probabilities["yes"] > 0.99
    assert found.label_mass > 0.8
    assert found.usage == Usage(requests=1, prompt_tokens=found.usage.prompt_tokens,
                                completion_tokens=1)  # fmt: skip


def test_a_plain_models_replies_are_what_it_sampled(random_model: Path) -> None:
    engine = HFEngine(random_model)
    (found,) = sample(engine, 8)
    assert engine.room.thinks is False
    one = found.completions[0]
    assert one == Completion(one.text, one.finish_reason, one.token_ids)
    assert one.token_ids is not None


OPENING = {"Qwen3.5": "on", "DeepSeek V3.1": "on", "GLM": "on", "DeepSeek R1": "always"}
"""Families whose prompts end in an opening tag, and when."""


def chat_of(family: str) -> ChatFormat:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(BUNDLED_MODEL))
    return ChatFormat(make_tokenizer(tokenizer, FAMILIES[family]), family)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_familys_switch_is_known(family: str) -> None:
    chat = chat_of(family)
    prompts = {}
    for effort in ("auto", "off", "on"):
        chat.set_effort(effort)
        prompts[effort] = chat.render(ASKED)
        opens = OPENING.get(family) in ("always", effort)
        assert chat.opens_thought == opens
    assert prompts["auto"] == chat_of(family).render(ASKED), "as in training"
    assert (prompts["auto"] == prompts["off"]) == (family != "gpt-oss"), "which can think less"
    if family in ("Qwen3", *OPENING) and OPENING.get(family) != "always":
        assert prompts["on"] != prompts["off"]
    # A verdict is read behind the thought, however much the model may think before replies.
    lead = chat.decode(chat.encode_to_score(ASKED, ("yes", "no")))
    assert not lead.rstrip().endswith("<think>")


@pytest.mark.parametrize("said", ["Ada Larkin", ""])
def test_the_channels_of_harmony_are_told_apart(said: str) -> None:
    """Its marks are special tokens, which decoding drops."""
    chat = chat_of("gpt-oss")
    text = "<|channel|>analysis<|message|>Perhaps Bo."
    if said:
        text += f"<|end|><|start|>assistant<|channel|>final<|message|>{said}"
    ids = tuple(chat.encode_text(text))
    found = chat.part_thought(Completion(chat.decode(ids), "stop" if said else "length", ids))
    assert (found.text, found.thinking) == (said, "Perhaps Bo.")
