"""What a model has read is brought back from disk by the next process, to the same bits."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from families import save_model
from safetensors import safe_open
from safetensors.torch import load_file

from agenticlu.core.limits import PrefixLimits
from agenticlu.core.records import Message
from agenticlu.engines import prefixes as folders
from agenticlu.engines.base import Generated, Sampling, share_prefix
from agenticlu.engines.local import HFEngine, shelf
from agenticlu.engines.local.stored import Exported, checksum, read_tensors, write_tensors
from agenticlu.engines.prefixes import PrefixFolder, default_prefix_folder, open_prefix_folder

VIEW = " ".join(
    f"Number {i}: the mill at Dunmore was built by Ada Larkin in the spring of {1900 + i}."
    for i in range(40)
)
FAMILIES = {
    # Keys and values; compressed ones; experts.
    **dict.fromkeys(("llama", "deepseek_v3", "qwen3_moe"), True),
    # Narrow layers, chunks, soft caps, sinks, positions by length, biases by distance.
    **dict.fromkeys(("mistral", "gemma3n_text", "gemma4_text", "llama4_text", "gemma2"), True),
    **dict.fromkeys(("gpt_oss", "phi3 (longrope)", "bloom", "gemma3"), True),
    # Recurrent layers.
    **dict.fromkeys(("qwen3_5_text", "lfm2", "nemotron_h", "falcon_h1", "bamba"), True),
    **dict.fromkeys(("mamba2", "olmo_hybrid", "kimi_linear", "zamba2", "lfm3"), True),
    # No state that can be continued by several tokens, or copied.
    **dict.fromkeys(("mamba", "rwkv"), False),
}
"""Families, and whether what they have read can be kept."""


@pytest.fixture(autouse=True)
def _worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models read faster than a disk does; here they are stored all the same."""
    monkeypatch.setattr(shelf, "LOAD_S", 0.0)
    monkeypatch.setattr(shelf, "LOAD_BYTES_PER_S", float("inf"))


@pytest.fixture
def folder(tmp_path: Path) -> PrefixFolder:
    return PrefixFolder(tmp_path / "prefixes", 1 << 30)


def ask(question: str, view: str = VIEW) -> tuple[Message, ...]:
    return (
        Message(role="system", content="A careful reader."),
        Message(role="user", content=f"{view}\n\nQuestion: {question}"),
    )


def read(
    model: Path, folder: PrefixFolder | None, *questions: str, view: str = VIEW, **options: Any
) -> tuple[list[Generated], list[str]]:
    """Asks one engine, as one process would; returns the replies and what was said."""
    said: list[str] = []
    engine = HFEngine(model, device="cpu", prefixes=folder, on_event=said.append, **options)

    async def work() -> list[Generated]:
        share_prefix(engine, view, "mill.txt")
        found = [
            await engine.generate(ask(question, view), Sampling(max_tokens=6), top_logprobs=0)
            for question in questions
        ]
        await engine.close()
        return found

    return asyncio.run(work()), said


def same(one: Generated, other: Generated) -> bool:
    """Whether two replies have the same tokens, and their log-probabilities but for rounding."""
    pairs = zip(one.logprobs[0], other.logprobs[0], strict=True)
    return one.completions == other.completions and all(
        abs(a.logprob - b.logprob) < 1e-5 for a, b in pairs
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_answers_from_disk_as_from_memory(
    name: str, tmp_path: Path, folder: PrefixFolder
) -> None:
    model = save_model(name, tmp_path / "model")
    (_, warm), _ = read(model, None, "Who built it?", "And when?")
    (first,), _ = read(model, folder, "Who built it?")
    (second,), said = read(model, folder, "And when?")
    assert same(second, warm)
    assert first.usage.cached_tokens == 0
    assert len(folder.entries()) == FAMILIES[name], said
    if FAMILIES[name]:
        (entry,) = folder.entries()
        assert second.usage.cached_tokens == entry.tokens > 512
        assert second.usage.computed_tokens < 40
        assert (entry.document, entry.model) == ("mill.txt", f"{model.parent.name}/model")


def test_nothing_of_a_question_is_stored(random_model: Path, folder: PrefixFolder) -> None:
    read(random_model, folder, "Who built it? Tell me, Zebedee Quill!")
    engine = HFEngine(random_model)
    ids = engine.chat.encode(ask("Zebedee Quill?"))
    asyncio.run(engine.close())
    (entry,) = folder.entries()
    text = engine.chat.decode(ids[: entry.tokens])
    assert text.rstrip().endswith("the spring of 1939.") or text.rstrip().endswith("1939")
    tensors = load_file(entry.path)
    assert {one.shape[1] for one in tensors.values()} == {entry.tokens}


def test_only_what_is_named_is_stored(random_model: Path, folder: PrefixFolder) -> None:
    read(random_model, folder, "Who?", view=VIEW[:900])  # too short to be worth it
    engine = HFEngine(random_model, prefixes=folder)

    async def work() -> None:
        await engine.sample(ask("Who?"), Sampling(max_tokens=2))
        await engine.complete(VIEW, Sampling(max_tokens=2))
        await engine.close()

    asyncio.run(work())
    assert folder.entries() == []


def test_what_is_computed_faster_than_it_is_loaded_is_not_stored(
    random_model: Path, folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "LOAD_S", 1000.0)
    read(random_model, folder, "Who?")
    assert folder.entries() == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def babble(path: Path) -> None:
    path.write_bytes(b"\xff" * 5000)


def nest(path: Path) -> None:
    head = b'{"__metadata__":' + b'{"a":' * 100_000
    path.write_bytes(len(head).to_bytes(8, "little") + head)


def forge(path: Path) -> None:
    """A file that is whole and says that it is the right one, of another model's size."""
    with safe_open(path, framework="pt") as file:
        facts = {key: file.metadata()[key] for key in ("model", "ids", "tokens")}
    tensors = {f"{kind}.0": (torch.zeros(1, 5, 3),) for kind in ("keys", "values")}
    with path.open("wb") as out:
        write_tensors(out, Exported(tensors), facts)


def swap(path: Path) -> None:
    """The tensors of this model, of another text."""
    with safe_open(path, framework="pt") as file:
        facts = {key: file.metadata()[key] for key in ("model", "ids", "tokens")}
        tensors = {name: (file.get_tensor(name).clone(),) for name in file.keys()}  # noqa: SIM118
    with path.open("wb") as out:
        write_tensors(out, Exported(tensors), {**facts, "ids": "0" * 64})


DAMAGES = (flip, cut, empty, babble, nest, forge, swap)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda one: one.__name__)
@pytest.mark.parametrize("name", ["llama", "qwen3_5_text"])
def test_a_damaged_file_is_removed_in_one_line(
    name: str, damage: Any, tmp_path: Path, folder: PrefixFolder
) -> None:
    model = save_model(name, tmp_path / "model")
    (right,), _ = read(model, folder, "And when?")
    (entry,) = folder.entries()
    damage(entry.path)
    (found,), said = read(model, folder, "And when?")
    assert same(found, right)
    assert found.usage.cached_tokens == 0
    lines = [line for line in said if "mill.txt" in line]
    assert len(lines) == 1
    assert "damaged and is removed" in lines[0]
    # It was read again, and is stored again.
    (again,), said = read(model, folder, "And when?")
    assert again.usage.cached_tokens > 512
    assert not any("mill.txt" in line for line in said)


def test_other_weights_of_the_same_name_share_nothing(tmp_path: Path, folder: PrefixFolder) -> None:
    model = save_model("llama", tmp_path / "model")
    read(model, folder, "Who?")
    from safetensors.torch import save_file

    weights = load_file(model / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    weights[name][3, 5] += 0.25
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    (found,), _ = read(model, folder, "Who?")
    assert found.usage.cached_tokens == 0
    assert len(folder.entries()) == 2
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 20000.0
    (model / "config.json").write_text(json.dumps(config))
    (found,), _ = read(model, folder, "Who?")
    assert found.usage.cached_tokens == 0
    (found,), _ = read(model, folder, "Who?", dtype="bfloat16")
    assert found.usage.cached_tokens == 0
    (found,), _ = read(model, folder, "Who?", dtype="bfloat16")
    assert found.usage.cached_tokens > 512


def test_another_text_shares_nothing(random_model: Path, folder: PrefixFolder) -> None:
    read(random_model, folder, "Who?")
    (found,), _ = read(random_model, folder, "Who?", view=VIEW.replace("Number 0", "Number 7"))
    assert found.usage.cached_tokens == 0


def test_the_least_recently_used_goes_first(random_model: Path, tmp_path: Path) -> None:
    views = [f"Part {i}. {VIEW}" for i in range(4)]
    folder = PrefixFolder(tmp_path / "prefixes", 1 << 30)
    read(random_model, folder, "Who?", view=views[0])
    size = folder.entries()[0].bytes
    folder.limit_bytes = 2 * size + 4096
    os.utime(folder.entries()[0].path, (1, 1))
    read(random_model, folder, "Who?", view=views[1])
    os.utime(folder.entries()[0].path, (2, 2))
    read(random_model, folder, "When?", view=views[0])  # used again
    read(random_model, folder, "Who?", view=views[2])
    assert len(folder.entries()) == 2
    (found,), _ = read(random_model, folder, "Which?", view=views[0])
    assert found.usage.cached_tokens > 512
    assert not [path for path in folder.path.iterdir() if path.suffix == ".tmp"]
    assert len(list(folder.path.glob("*.json"))) == 2
    # What is larger than the limit is not stored, nothing is dropped for it, and that is said.
    folder.limit_bytes = size // 2
    _, said = read(random_model, folder, "Who?", view=views[3])
    assert len(folder.entries()) == 2
    assert any("--prefix-cache-gib" in line or "are allowed" in line for line in said)


def test_a_full_disk_is_left_alone(
    random_model: Path, folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1 << 29})
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage)
    (found,), said = read(random_model, folder, "Who?")
    assert found.completions
    assert folder.entries() == []
    assert any("0.5 GiB left" in line for line in said)


def test_the_folder_is_its_owners_alone(random_model: Path, folder: PrefixFolder) -> None:
    before = os.umask(0)
    try:
        _, said = read(random_model, folder, "Who?")
    finally:
        os.umask(before)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.path.iterdir()} == {0o600}
    assert sum("agenticlu cache" in line for line in said) == 1
    folder.path.chmod(0o777)  # anyone may put a file there, which would decide answers
    (found,), said = read(random_model, folder, "When?")
    assert found.usage.cached_tokens == 0
    assert any("chmod 700" in line for line in said)
    folder.path.chmod(0o700)
    (found,), _ = read(random_model, folder, "When?")
    assert found.usage.cached_tokens > 512


def test_another_process_that_writes_is_waited_for_and_not_for_long(
    random_model: Path, folder: PrefixFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "LOCK_S", 0.1)
    folder.path.mkdir(mode=0o700)
    with (folder.path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _, said = read(random_model, folder, "Who?")
    assert folder.entries() == []
    assert any("another process" in line for line in said)
    read(random_model, folder, "Who?")
    assert len(folder.entries()) == 1


def test_what_was_read_is_written_once_nobody_asks(
    random_model: Path, folder: PrefixFolder
) -> None:
    engine = HFEngine(random_model, prefixes=folder)

    async def work() -> None:
        share_prefix(engine, VIEW, "mill.txt")
        await engine.sample(ask("Who?"), Sampling(max_tokens=2))
        ends = time.monotonic() + 30
        while not folder.entries() and time.monotonic() < ends:
            await asyncio.sleep(0.05)
        assert folder.entries(), "the engine is still open"
        await engine.close()

    asyncio.run(work())


def test_a_text_that_was_pushed_out_of_memory_comes_back_from_disk(
    random_model: Path, folder: PrefixFolder
) -> None:
    engine = HFEngine(random_model, prefixes=folder, cache_bytes=3 << 20)
    other = VIEW.replace("mill", "lamp")

    async def work() -> list[int]:
        computed = []
        for view in (VIEW, other, VIEW, other):
            share_prefix(engine, view, "a text")
            reply = await engine.sample(ask("Who?", view), Sampling(max_tokens=2))
            computed.append(reply.usage.computed_tokens)
            engine._worker.keeping.store()  # as after a pause
            ends = time.monotonic() + 30
            while len(folder.entries()) < min(len(computed), 2) and time.monotonic() < ends:
                await asyncio.sleep(0.01)
            engine._worker.decoder.cache.clear()
        await engine.close()
        return computed

    computed = asyncio.run(work())
    assert min(computed[:2]) > 512
    assert max(computed[2:]) < 40


@pytest.mark.parametrize("name", ["llama", "qwen3_5_text"])
def test_a_document_larger_than_the_memory_allowed_is_read_once(
    name: str, tmp_path: Path, folder: PrefixFolder
) -> None:
    """Each turn would compute it anew otherwise, for what is in use fills memory anyway."""
    model = save_model(name, tmp_path / "model")
    engine = HFEngine(model, device="cpu", prefixes=folder, cache_bytes=1000)
    other = VIEW.replace("mill", "lamp")

    def held() -> int:
        decoder = engine._worker.decoder
        if hasattr(decoder, "cache"):
            return int(decoder.cache.num_bytes)
        return sum(state.num_bytes for state in decoder.states)

    async def work() -> tuple[list[int], list[int]]:
        computed, sizes = [], []
        said: tuple[Message, ...] = ()
        for view, question in ((VIEW, "Who?"), (VIEW, "When?"), (other, "Who?"), (other, "When?")):
            said = (*said, *ask(question)) if question == "When?" else ask(question, view)
            reply = await engine.sample(said, Sampling(max_tokens=2))
            said = (*said, Message(role="assistant", content=reply.completions[0].text))
            computed.append(reply.usage.computed_tokens)
            sizes.append(held())
        await engine.close()
        return computed, sizes

    def ask(question: str, view: str = "") -> tuple[Message, ...]:
        return (Message(role="user", content=f"{view} {question}".strip()),)

    computed, sizes = asyncio.run(work())
    assert min(computed[0], computed[2]) > 512
    assert max(computed[1], computed[3]) < 40
    assert max(sizes[2:]) < 1.2 * max(sizes[:2]), "the first document has gone"


def test_documents_in_turn_are_each_read_once(random_model: Path) -> None:
    engine = HFEngine(random_model)
    views = [f"Part {i}. {VIEW}" for i in range(3)]

    async def work() -> list[int]:
        computed = []
        for view in views * 3:
            reply = await engine.sample(ask("Who?", view), Sampling(max_tokens=2))
            computed.append(reply.usage.computed_tokens)
        await engine.close()
        return computed

    computed = asyncio.run(work())
    assert min(computed[:3]) > 512
    assert max(computed[3:]) < 8


def test_a_closed_engine_leaves_nobody_waiting(random_model: Path, folder: PrefixFolder) -> None:
    read(random_model, folder, "Who?")

    async def work() -> None:
        engine = HFEngine(random_model, prefixes=folder)
        share_prefix(engine, VIEW, "mill.txt")
        asked = asyncio.ensure_future(engine.sample(ask("When?"), Sampling(max_tokens=2)))
        await asyncio.sleep(0)
        await engine.close()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asked, 20)
        assert asked.done()
        assert not asked.cancelled()

    asyncio.run(work())


def test_a_request_that_was_given_up_leaves_nothing_in_memory(
    random_model: Path, folder: PrefixFolder
) -> None:
    read(random_model, folder, "Who?")

    async def work() -> None:
        engine = HFEngine(random_model, prefixes=folder)
        share_prefix(engine, VIEW, "mill.txt")
        asked = asyncio.ensure_future(engine.sample(ask("When?"), Sampling(max_tokens=2)))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        del asked
        await engine.sample(ask("When?", "Short."), Sampling(max_tokens=2))  # after the other
        gc.collect()
        assert not engine._worker.keeping._found
        reply = await engine.sample(ask("When?"), Sampling(max_tokens=2))
        assert reply.usage.cached_tokens > 512
        await engine.close()

    asyncio.run(work())


def test_leftovers_of_killed_processes_go(random_model: Path, folder: PrefixFolder) -> None:
    read(random_model, folder, "Who?")
    stem = folder.entries()[0].path.stem
    old, new = folder.path / f"{stem}.77.tmp", folder.path / f"{stem}.78.tmp"
    foreign = folder.path / "notes.tmp"
    for path in (old, new, foreign):
        path.write_text("x")
    for path in (old, foreign):
        os.utime(path, (1, 1))
    folder.clear(older_than_s=1e9)
    assert not old.exists()
    assert new.exists()
    assert foreign.exists()
    assert len(folder.entries()) == 1


@pytest.fixture
def tensors() -> dict[str, tuple[torch.Tensor, ...]]:
    return {
        "half": (torch.randn(2, 3, 4).bfloat16(), torch.randn(2, 1, 4).bfloat16()),
        "flags": (torch.tensor([True, False]),),
        "none": (torch.zeros(0, 4),),
        "scalar": (torch.tensor(7),),
        "view": (torch.randn(4, 9, 3)[:, 2:5],),
    }


def test_tensors_come_back_as_they_were(tensors: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        write_tensors(file, Exported(tensors, '{"a": 1}'), {"model": "m"})
    found = read_tensors(path, {"model": "m"})
    assert found.layout == '{"a": 1}'
    for name, parts in tensors.items():
        whole = torch.cat(list(parts), 1) if len(parts) > 1 else parts[0]
        assert torch.equal(found.tensors[name][0], whole)
        assert found.tensors[name][0].dtype == whole.dtype
    assert set(load_file(path)) == set(tensors), "the library reads it"
    with pytest.raises(ValueError, match="its model is another"):
        read_tensors(path, {"model": "n"})


def test_a_checksum_sees_each_bit_the_type_and_the_shape() -> None:
    one = torch.arange(300_000, dtype=torch.float32)
    seen = {checksum(one), checksum(one.view(2, -1)), checksum(one.view(torch.int32))}
    for at in (0, 131_071, 131_072, 299_999):
        other = one.clone()
        other.view(torch.int32)[at] ^= 1
        seen.add(checksum(other))
    swapped = one.clone()
    swapped[:131_072], swapped[131_072:262_144] = one[131_072:262_144], one[:131_072]
    near = one.clone()
    near[2], near[4] = one[4], one[2]
    assert len(seen | {checksum(swapped), checksum(near)}) == 9
    assert checksum(one[1:]) == checksum(one[1:].clone()), "whatever it lies at"


def test_the_folder_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert default_prefix_folder({"XDG_CACHE_HOME": "relative", "HOME": ""}) is None
    home = default_prefix_folder({"HOME": "/home/ada"})
    assert home is not None
    assert home.parts[-2:] == ("agenticlu", "prefixes")
    assert open_prefix_folder(PrefixLimits(gib=0)) is None
    assert open_prefix_folder(None) is None
    named = open_prefix_folder(PrefixLimits(str(tmp_path / "x"), 0.5))
    assert named is not None
    assert (named.path, named.limit_bytes) == (tmp_path / "x", 1 << 29)
