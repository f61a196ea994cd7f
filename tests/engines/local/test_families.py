"""Models of the classes that people run answer as transformers has them answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families import check_asking, make_model, save_model

from agenticlu.core.records import Message
from agenticlu.engines.base import Sampling
from agenticlu.engines.local import HFEngine
from agenticlu.engines.local.states import OwnForward

RUNGS = {
    **dict.fromkeys(("llama", "deepseek_v3", "qwen3_moe", "olmo2"), "shared"),
    # Narrow layers, chunks, soft caps, sinks, positions by length, biases by distance.
    **dict.fromkeys(("mistral", "qwen2 (sliding)", "gemma3n_text", "gemma4_text"), "cached"),
    **dict.fromkeys(("llama4_text", "gemma2", "gpt_oss", "phi3 (longrope)", "bloom"), "cached"),
    # Recurrent layers.
    **dict.fromkeys(("qwen3_5_text", "lfm2", "nemotron_h", "falcon_h1", "bamba"), "cached"),
    **dict.fromkeys(("mamba2", "olmo_hybrid"), "cached"),
    # Classes of transformers whose states cannot be continued by several tokens, or not copied.
    **dict.fromkeys(("mamba", "minimax"), "replies"),
    **dict.fromkeys(("recurrent_gemma", "rwkv"), "plain"),
}
"""One family or more of every kind; docs/models.md has them all."""
STEPS_DIFFER = {"nemotron_h": 5e-2}
"""The classes' own single steps differ from their pass over many tokens by up to this, in nat."""
DOCUMENT = "The mill at Dunmore was built by Ada Larkin in the spring of 1911. " * 8


@pytest.mark.parametrize("name", RUNGS)
def test_a_family_answers_as_transformers_does(name: str) -> None:
    asked = check_asking(name)
    assert asked.greedy
    assert asked.difference < STEPS_DIFFER.get(name, 5e-4)
    assert asked.way.rung == RUNGS[name]
    assert (asked.num_cached > 40) == (asked.way.rung in ("shared", "cached"))
    assert bool(asked.way.reason) == (asked.way.rung != "shared")


def ask(*turns: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns))


def reply_of_transformers(model: Any, ids: list[int], count: int) -> list[int]:
    import torch

    said = model.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, pad_token_id=0
    )[0, len(ids) :].tolist()
    return said[: said.index(2)] if 2 in said else said


@pytest.mark.parametrize("name", ["llama", "qwen3_5", "gemma3", "gpt_oss", "mistral3"])
def test_an_engine_holds_conversations_as_generate_does(tmp_path: Path, name: str) -> None:
    engine = HFEngine(save_model(name, tmp_path), device="cpu")
    model = make_model(name)

    async def talk() -> None:
        said: list[str] = []
        for turn in range(3):
            messages = ask(*said, f"{DOCUMENT}Who?" if not said else f"And number {turn}?")
            reply = await engine.sample(messages, Sampling(max_tokens=8))
            wanted = reply_of_transformers(model, engine.chat.encode(messages), 8)
            assert list(reply.completions[0].token_ids or ()) == wanted
            assert reply.usage.cached_tokens > 0 or turn == 0
            said += [messages[-1].content, reply.completions[0].text]
        asked = ask(f"{DOCUMENT}What else?")
        many = await engine.sample(asked, Sampling(max_tokens=6, n=3, temperature=0.9, seed=4))
        alone = HFEngine(tmp_path, device="cpu", cache=False)
        again = await alone.sample(asked, Sampling(max_tokens=6, n=3, temperature=0.9, seed=4))
        await alone.close()
        assert many.completions == again.completions
        assert len(set(many.completions)) > 1
        await engine.close()

    asyncio.run(talk())


def test_short_and_long_rotations_share_nothing(tmp_path: Path) -> None:
    """LongRoPE rotates keys of a text beyond the original length (64) by other angles."""
    folder = save_model("phi3 (longrope)", tmp_path)
    model = make_model("phi3 (longrope)")
    short, long = ask("the mill at Vell"), ask("the mill at Vell keeps a blue lamp " * 12)

    async def reply(*prompts: tuple[Message, ...], count: int) -> tuple[list[int], list[int]]:
        engine = HFEngine(folder, device="cpu")
        for prompt in prompts:
            sampled = await engine.sample(prompt, Sampling(max_tokens=count))
        ids = engine.chat.encode(prompts[-1])
        await engine.close()
        return list(sampled.completions[0].token_ids or ()), ids

    cold, ids = asyncio.run(reply(long, count=12))
    assert len(ids) > 64
    assert asyncio.run(reply(short, long, count=12))[0] == cold
    assert reply_of_transformers(model, ids, 12) == cold
    # A reply that grows out of the short rotation is read again with the long one.
    crossing, ids = asyncio.run(reply(short, short, count=80))
    assert len(ids) < 64 < len(ids) + len(crossing)
    assert reply_of_transformers(model, ids, 80) == crossing


@torch.inference_mode()
def test_a_long_text_leaves_no_stretched_rotation_to_a_shorter_one() -> None:
    """Up to 64 tokens nothing is stretched; 64 itself is where transformers' own check ends."""
    forward = OwnForward(make_model("llama (dynamic)"))
    ids = torch.arange(3, 103)[None]
    alone, _ = forward.feed(ids[:, :64], None)
    _, state = forward.feed(ids[:, :63], None)
    forward.feed(ids, None)
    continued, _ = forward.feed(ids[:, 63:64], state, 63)
    assert torch.allclose(continued, alone, atol=1e-4)


def test_a_slower_way_is_told_in_one_line(tmp_path: Path) -> None:
    said: list[str] = []
    HFEngine(save_model("gemma2", tmp_path), device="cpu", on_event=said.append)
    assert said == [
        "gemma2: its own cache is used, copied where prompts part (soft-capped attention scores)."
    ]
    HFEngine(save_model("llama", tmp_path), device="cpu", on_event=said.append)
    assert len(said) == 1


def test_kept_states_stay_below_their_limit(tmp_path: Path) -> None:
    folder = save_model("qwen3_next", tmp_path)
    limit = 200_000
    engine = HFEngine(folder, device="cpu", cache_bytes=limit)
    alone = HFEngine(folder, device="cpu", cache=False)

    async def replies(one: HFEngine) -> list[Any]:
        said = []
        for i in range(8):
            asked = ask(f"{DOCUMENT}Number {i % 4}?")
            said.append(await one.sample(asked, Sampling(max_tokens=3)))
            sizes.append(sum(state.num_bytes for state in one._worker.decoder.states))
        await one.close()
        return [reply.completions for reply in said]

    sizes: list[int] = []
    kept = asyncio.run(replies(engine))
    assert limit / 2 < max(sizes) <= limit
    assert kept == asyncio.run(replies(alone))
    assert set(sizes[8:]) == {0}


@pytest.mark.parametrize("name", ["gemma3", "qwen3_next"])
def test_kept_states_hold_no_more_memory_than_is_counted(tmp_path: Path, name: str) -> None:
    """What lies before a window, or was computed for other tokens, must not be held by a view."""
    engine = HFEngine(save_model(name, tmp_path), device="cpu")

    async def ask_twice() -> list[Any]:
        for question in ("Who?", "Where?"):
            await engine.sample(ask(DOCUMENT + question), Sampling(max_tokens=3))
        states = list(engine._worker.decoder.states)
        await engine.close()
        return states

    def find_tensors(value: Any) -> Iterator[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict | list):
            for one in value.values() if isinstance(value, dict) else value:
                yield from find_tensors(one)
        elif hasattr(value, "__dict__"):
            yield from find_tensors(vars(value))

    states = asyncio.run(ask_twice())
    assert states
    for state in states:
        held = [*find_tensors(state.cache), state.logits_V]
        assert sum(one.untyped_storage().nbytes() for one in held) == state.num_bytes


def test_logits_of_a_class_that_computes_all_are_let_go() -> None:
    model = make_model("llama")

    class All(type(model)):
        def forward(self, input_ids: Any, past_key_values: Any = None, **_: Any) -> Any:
            return super().forward(input_ids, past_key_values=past_key_values)

    model.__class__ = All
    logits, _ = OwnForward(model).feed(torch.arange(9)[None], None)
    assert logits.untyped_storage().nbytes() == logits.nbytes


@pytest.mark.parametrize("name", ["gemma3", "mistral", "qwen3_5", "phi3 (longrope)", "mpt"])
def test_the_window_is_what_positions_allow(tmp_path: Path, name: str) -> None:
    from agenticlu.engines import read_window

    folder = save_model(name, tmp_path)
    assert read_window(folder) == 4096
    assert HFEngine(folder, device="cpu").context_tokens == 4096


def test_a_model_that_transformers_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from agenticlu.core.errors import EngineError
    from agenticlu.engines.local.ladder import choose_way

    model = make_model("llama")

    def fail(*_: Any, **__: Any) -> None:
        raise NotImplementedError("no kernel for this device")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(EngineError, match=r"llama.*no kernel") as caught:
        choose_way(model, "some folder")
    assert "--base-url" in (caught.value.hint or "")


@pytest.mark.parametrize("broken", ["in place", "batch"])
def test_a_state_that_cannot_be_copied_is_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """Guards the self-check: it fails where copies are not copies, or rows are mixed up."""
    from agenticlu.engines.local import ladder

    if broken == "in place":
        monkeypatch.setattr(ladder, "fork", lambda cache: cache)
    else:
        from transformers import Cache

        monkeypatch.setattr(
            Cache, "reorder_cache", lambda self, rows: self.batch_repeat_interleave(1)
        )
    assert ladder.choose_way(make_model("qwen3_5"), "m")[1].rung in ("replies", "plain")
