from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.core.errors import StoreError
from agenticlu.search.run import run_search
from agenticlu.search.shards import SharedFolder
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.shards.sealer import seal_run
from agenticlu.search.store import Store

ITEMS = corpus(documents=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with Store(folder) as store:
        asyncio.run(run_search(ITEMS, engine(ITEMS), store, CONFIG, tokenizer=TOKENIZER))
    return folder


def test_sealing_twice_writes_one_segment(run: Path, tmp_path: Path):
    first = seal_run(run, str(tmp_path))
    assert seal_run(run, str(tmp_path)) == first
    assert len(list(tmp_path.glob("*.zst"))) == 1
    (manifest,) = SharedFolder(str(tmp_path)).manifests()
    assert first.endswith(manifest.name)
    assert manifest.rows > 10
    assert manifest.progress["done"] == len(ITEMS)


def test_a_damaged_segment_is_refused(run: Path, tmp_path: Path):
    path = Path(seal_run(run, str(tmp_path / "s")))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="checksum"):
        merge_runs(tmp_path / "m", [str(path)])


def test_data_without_a_manifest_count_as_nothing(run: Path, tmp_path: Path):
    seal_run(run, str(tmp_path))
    (tmp_path / "segment-0000.jsonl.zst").write_bytes(b"cut short")
    (tmp_path / "segment-0000.json.part").write_bytes(b"{")
    assert len(SharedFolder(str(tmp_path)).manifests()) == 1
    assert merge_runs(tmp_path / "m", [str(tmp_path)]).questions == len(ITEMS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "newer version"),
        ({"format": "theirs"}, "not a segment's manifest"),
        ({"shape": 1}, "not a segment's manifest"),
    ],
)
def test_a_foreign_or_newer_manifest_is_refused(run: Path, tmp_path: Path, change, words):
    seal_run(run, str(tmp_path))
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(StoreError, match=words):
        SharedFolder(str(tmp_path)).manifests()


def test_a_manifest_of_the_first_format_is_read(run: Path, tmp_path: Path):
    seal_run(run, str(tmp_path))
    (path,) = tmp_path.glob("*.json")
    written = json.loads(path.read_text())
    old = {name: written[name] for name in ("format", "rows", "bytes", "sha256", "label")}
    path.write_text(json.dumps({**old, "version": 1}))
    assert merge_runs(tmp_path / "m", [str(tmp_path)]).trees == len(ITEMS)


def test_any_file_system_of_fsspec_will_do(run: Path, tmp_path: Path):
    target = f"memory://{tmp_path.name}/segments"
    folder = SharedFolder(target)
    folder.check()
    assert folder.manifests() == []
    address = seal_run(run, target)
    assert address.startswith("memory://")
    for number, source in enumerate((target, address)):
        assert merge_runs(tmp_path / str(number), [source]).trees == len(ITEMS)


@pytest.mark.parametrize("target", ["nosuch://bucket/x", "/proc/nothing/segments"])
def test_a_target_that_cannot_be_is_said(target: str):
    with pytest.raises(StoreError, match="cannot be") as caught:
        SharedFolder(target).check()
    assert "folder" in (caught.value.hint or "")
