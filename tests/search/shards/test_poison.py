"""A segment whose checksum is right and whose rows are not spoils no run: nothing is merged."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from made_trees import load_trees
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.core.errors import StoreError
from agenticlu.search.run import run_search
from agenticlu.search.shards import PREFIX, SUFFIX, SharedFolder, _decode_line, encode_line
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.shards.sealer import seal_run
from agenticlu.search.store import Store
from agenticlu.search.store.file import TABLES, pack

ITEMS = corpus(documents=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for index, items in enumerate((ITEMS[:2], ITEMS[2:4], ITEMS[4:])):
        with Store(root / f"shard{index}") as store:
            asyncio.run(run_search(items, engine(items), store, CONFIG, tokenizer=TOKENIZER))
        seal_run(root / f"shard{index}", str(root / f"sealed{index}"))
    return root


def forge(source: Path, target: Path, change: Callable[[list[Any]], object]) -> str:
    """Writes a segment with other lines, and with the checksum that belongs to them."""
    (manifest,) = SharedFolder(str(source)).manifests()
    data = zstandard.ZstdDecompressor().stream_reader((source / manifest.name).read_bytes()).read()
    lines: list[Any] = [_decode_line(line) for line in data.splitlines()]
    change(lines)
    encoded = [line if isinstance(line, bytes) else encode_line(line) for line in lines]
    packed = zstandard.ZstdCompressor().compress(b"".join(encoded))
    target.mkdir()
    digest = hashlib.sha256(packed).hexdigest()
    written = json.loads((source / manifest.name.replace(SUFFIX, ".json")).read_text())
    written |= {"sha256": digest, "rows": len(lines), "bytes": len(packed)}
    name = f"{PREFIX}{digest[:24]}"
    (target / f"{name}{SUFFIX}").write_bytes(packed)
    (target / f"{name}.json").write_text(json.dumps(written))
    return str(target)


def rows_of(lines: list[Any], table: str) -> Iterator[Any]:
    found = [line for line in lines if line["t"] == table]
    assert found, f"no row of {table}"
    yield from found


def put(table: str, column: int, value: object) -> Callable[[list[Any]], object]:
    def change(lines: list[Any]) -> None:
        for line in rows_of(lines, table):
            line["r"][column] = value

    return change


def put_node(value: object) -> Callable[[list[Any]], object]:
    def change(lines: list[Any]) -> None:
        for line in rows_of(lines, "tree"):
            line["nodes"][0][3] = value

    return change


def settings(**values: object) -> Callable[[list[Any]], object]:
    return lambda lines: lines[0]["settings"].update(values)


REPLY = 7
POISON: dict[str, Callable[[list[Any]], object]] = {
    "a question that is no JSON": put("question", 3, "{no"),
    "a question without a text": put("question", 3, '{"id": "q"}'),
    "a question that is a number": put("question", 3, 7),
    "a document's header": put("document", 1, "[]"),
    "a document's text": put("document", 2, b"zgarbage"),
    "a document's pieces": put("document", 3, pack([[0, 0, 10**9, 3, None]])),
    "pieces of another shape": put("document", 3, pack({"a": 1})),
    "a reply of another shape": put("call", REPLY, pack({"a": 1})),
    "a reply of numbers": put("call", REPLY, pack([1, 2, 3])),
    "a reply of other things": put("call", REPLY, pack([[7, "stop", None]])),
    "a tree's record": put("tree", 3, '{"document_id": "d"}'),
    "a tree that is a list": put("tree", 3, "[]"),
    "a node": put_node(pack({"id": 1})),
    "a node that is a text": put_node("node"),
    "a table of another name": lambda lines: lines.append({"t": "secret", "r": [1]}),
    "a row that is an object": lambda lines: lines.append({"t": "document", "r": {"a": 1}}),
    "a row that is too short": lambda lines: lines.append({"t": "question", "r": ["x"]}),
    "a row that is too long": lambda lines: lines.append({"t": "judgement", "r": [1] * 99}),
    "a row without its columns": lambda lines: lines.append({"t": "tree"}),
    "a line that is a list": lambda lines: lines.append([1]),
    "a line that is no JSON": lambda lines: lines.append(b"{no\n"),
    "a line that is not UTF-8": lambda lines: lines.append(b'{"t": "\xff"}\n'),
    "a judgement": lambda lines: lines.append({"t": "judgement", "r": ["k", "j", "{no"]}),
    "settings that are a list": lambda lines: lines.__setitem__(0, {"t": "s", "settings": []}),
    "no settings": lambda lines: lines.__setitem__(0, {"t": "s"}),
    "settings of another search": settings(bound={"seed": 99}),
    "settings of no search": settings(config={"no": "such"}, profile={"no": "such"}),
    "nothing at all": lambda lines: lines.clear(),
}


def content(run: Path) -> list[Any]:
    with Store(run, writable=False) as store:
        return [list(store.rows(table)) for table in TABLES]


@pytest.mark.parametrize("name", POISON)
def test_nothing_of_a_poisoned_segment_is_merged(name: str, shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    merge_runs(out, [str(shards / "sealed0")])
    before, trees = content(out), load_trees(out)
    poisoned = forge(shards / "sealed2", tmp_path / "poisoned", POISON[name])
    with pytest.raises(StoreError) as caught:
        merge_runs(out, [str(shards / "shard1"), poisoned])
    assert "poisoned" in caught.value.message or "parts" in caught.value.message
    assert ".merge-" not in caught.value.message
    assert content(out) == before, "the sound part before it is not merged either"
    assert load_trees(out) == trees
    assert not list(out.glob(".merge-*"))
    merge_runs(out, [str(shards / "shard1")])
    assert len(load_trees(out)) > len(trees) > 0


def test_a_sound_segment_goes_through_the_forge(shards: Path, tmp_path: Path) -> None:
    """Or the refusals above would say nothing."""
    sound = forge(shards / "sealed1", tmp_path / "sound", lambda lines: None)
    merge_runs(tmp_path / "m", [str(shards / "sealed0"), sound])
    merge_runs(tmp_path / "n", [str(shards / "shard0"), str(shards / "shard1")])
    assert load_trees(tmp_path / "m") == load_trees(tmp_path / "n") != []
