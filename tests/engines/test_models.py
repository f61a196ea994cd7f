"""A model is a folder, a GGUF file, or one on the hub: found in one place for all commands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from made_config import resolve_config

from agenticlu.core.errors import EngineError, ModelNotFoundError, UsageError
from agenticlu.engines import ModelChoice, check_model_path, load_engine, read_window
from agenticlu.engines.models import _choose_file, find_model, is_hub_id
from agenticlu.engines.positions import find_window

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """A hub on loopback with one public model and one that is gated."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(f"{self.command} {path}")
        headers = {"X-Repo-Commit": COMMIT}
        status, data = 404, b'{"error": "Repository not found"}'
        headers["X-Error-Code"] = "RepoNotFound"
        if "/lab/gated" in path:
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path.startswith("/api/models/lab/tiny"):
            status, data = 200, self._describe(path)
        elif path.startswith("/lab/tiny/resolve/"):
            data = self.files[path.split("/", 5)[5]]
            status, headers["ETag"] = 200, f'"{hashlib.sha1(data).hexdigest()}"'
        self.send_response(status)
        for name, value in headers.items():
            if status != 200 or name != "X-Error-Code":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def _describe(self, path: str) -> bytes:
        if "/tree/" in path:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in self.files.items()
            ]
            return json.dumps(rows).encode()
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            for name, data in self.files.items()
        ]
        return json.dumps(
            {"id": "lab/tiny", "modelId": "lab/tiny", "sha": COMMIT, "siblings": siblings}
        ).encode()


@contextmanager
def running_hub(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    kind = type("OneHub", (Hub,), {"files": files, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def run_command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from agenticlu.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", **environment},
        timeout=120,
    )


def test_a_hub_model_is_downloaded_once_and_then_found_offline(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    files = {one.name: one.read_bytes() for one in tiny_model_path.iterdir() if one.is_file()}
    files |= {"pytorch_model.bin": b"x" * 10, "evil.py": b"raise SystemExit"}
    document = tmp_path / "town.txt"
    document.write_text("Mira lives in Vell. She keeps a lamp.", encoding="utf-8")
    ask = ("ask", str(document), "Where does Mira live?", "--json", "--model")
    home = str(tmp_path / "hub")
    with running_hub(files) as (address, asked):
        here = {"HF_ENDPOINT": address, "HF_HOME": home}
        first = run_command(*ask, "lab/tiny", **here)
        assert first.returncode in (0, 10), first.stderr
        assert "Downloading lab/tiny (0.0" in first.stderr
        fetched = {path.rpartition("/")[2] for path in asked if path.startswith("GET /lab/tiny/")}
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= fetched
        assert not {"pytorch_model.bin", "evil.py"} & fetched
        for name, words in (
            ("lab/gated", ("is gated", "https://huggingface.co/lab/gated", "hf auth login")),
            ("lab/none", ("neither a folder here nor a public model",)),
        ):
            refused = run_command(*ask, name, **here)
            assert refused.returncode in (3, 5)
            assert all(word in refused.stderr for word in words), refused.stderr
    gone = {"HF_ENDPOINT": address, "HF_HOME": home}
    again = run_command(*ask, "lab/tiny", **gone, HF_HUB_OFFLINE="1")
    assert again.returncode == first.returncode
    assert json.loads(again.stdout)["answer"] == json.loads(first.stdout)["answer"]
    assert "Downloading" not in again.stderr
    missing = run_command(*ask, "lab/other", **gone, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE forbids" in missing.stderr
    lost = run_command(*ask, "lab/other", **gone)
    assert lost.returncode in (3, 5)
    assert "Traceback" not in lost.stderr
    assert "lab/other" in lost.stderr


def write_gguf(path: Path, tiny_model_path: Path) -> None:
    """Writes the bundled model's shape with random weights as a GGUF file of llama.cpp."""
    import gguf
    import numpy as np

    config = json.loads((tiny_model_path / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((tiny_model_path / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = dict(tokenizer["model"]["vocab"])
    special = {one["content"]: one["id"] for one in tokenizer["added_tokens"]}
    tokens = [text for text, _ in sorted((vocabulary | special).items(), key=lambda item: item[1])]
    writer = gguf.GGUFWriter(str(path), "llama")
    width, layers = 32, 2
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([3 if one in special else 1 for one in tokens])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template((tiny_model_path / "chat_template.jinja").read_text(encoding="utf-8"))
    generator = np.random.default_rng(3)

    def add(name: str, *shape: int) -> None:
        values = generator.normal(0, 0.3, shape) if len(shape) > 1 else np.ones(shape)
        writer.add_tensor(name, values.astype(np.float32))

    add("token_embd.weight", len(tokens), width)
    add("output.weight", len(tokens), width)
    add("output_norm.weight", width)
    for layer in range(layers):
        for name, rows in (("attn_q", 32), ("attn_k", 16), ("attn_v", 16), ("attn_output", 32)):
            add(f"blk.{layer}.{name}.weight", rows, width)
        add(f"blk.{layer}.ffn_gate.weight", 48, width)
        add(f"blk.{layer}.ffn_up.weight", 48, width)
        add(f"blk.{layer}.ffn_down.weight", width, 48)
        add(f"blk.{layer}.attn_norm.weight", width)
        add(f"blk.{layer}.ffn_norm.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


LORA = {"lora_rank": 2, "from_base": True}


def test_a_gguf_file_answers_as_the_same_weights_in_a_folder(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    """Asked, tokenised and trained from, whatever else lies in its folder."""
    import asyncio

    import torch

    from agenticlu.core.records import Message
    from agenticlu.documents.tokens import load_tokenizer
    from agenticlu.engines.base import Sampling
    from agenticlu.training import model

    pytest.importorskip("gguf")
    folder = tmp_path / "both"
    folder.mkdir()
    file = folder / "m-F32.gguf"
    write_gguf(file, tiny_model_path)
    assert check_model_path(str(folder)) == str(file)
    assert model.resolve_model(str(file)) == str(file)
    assert model.load_shape(str(file)).layers == 2
    trained: Any = model.load_model(str(file), torch.float32, torch.device("cpu")).model
    trained.save_pretrained(folder)  # as an export of training does
    model.load_tokenizer(str(file)).save_pretrained(folder)

    async def reply(path: Path) -> Any:
        engine: Any = load_engine(str(path), device="cpu")
        try:
            asked = (Message(role="user", content="Mira lives in Vell. Where does she live?"),)
            reply = await engine.sample(asked, Sampling(max_tokens=8))
            return engine.chat.encode(asked), reply.completions[0].token_ids
        finally:
            await engine.close()

    assert check_model_path(str(folder)) == str(folder)
    found, wanted = asyncio.run(reply(file)), asyncio.run(reply(folder))
    assert found == wanted
    assert len(found[1]) > 2
    text = "Mira lives in Vell, near the old mill."
    tokens = load_tokenizer(str(file))
    assert tokens.count(text) == load_tokenizer(str(folder)).count(text)
    assert read_window(file) == 512
    assert ModelChoice(str(file)).folder == file
    # The temporary folder that transformers read the file from is gone by now.
    config = resolve_config("sft", changes={"dataset": "d", "model": "m", "out": "o"} | LORA)
    adapted: Any = model.add_adapter(trained, config, str(file))
    assert adapted.peft_config["default"].base_model_name_or_path == str(file)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("Qwen/Qwen3-0.6B", True), ("a/b:Q4_K_M", True), ("a/b/c-Q8_0.gguf", True),
        ("a/b/c", False), ("./a", False), ("~/a", False), ("a", False), ("/a/b", False),
        ("../a/b", False), ("", False),
    ],
)  # fmt: skip
def test_hub_ids_are_told_from_paths(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one


def test_a_path_that_exists_is_no_hub_id(
    tmp_path: Path, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_path, tmp_path / "lab" / "tiny")
    assert not is_hub_id("lab/tiny")
    assert find_model("lab/tiny") == Path("lab/tiny")


def test_one_of_several_files_must_be_named(tmp_path: Path) -> None:
    for quantity in ("Q4_K_M", "Q8_0"):
        (tmp_path / f"m-{quantity}.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"several GGUF files: m-Q4_K_M.gguf, m-Q8_0") as caught:
        find_model(str(tmp_path))
    assert f"--model {tmp_path / 'm-Q4_K_M.gguf'}" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "file", "found"),
    [
        (None, "m-F16.gguf", "m-F16.gguf"),  # though others end in this name
        ("F16", None, None),
        ("bf16", None, "m-BF16.gguf"),
        ("Q4_K", None, "m-Q4_K_M.gguf"),  # as much of a name as is clear
        ("q4_k_m", None, "m-Q4_K_M.gguf"),
    ],
)
def test_a_file_is_known_by_its_name_and_a_kind_by_its_word(kind, file, found) -> None:
    names = ["m-BF16.gguf", "m-F16.gguf", "m-Q4_K_M.gguf", "mmproj-m-F16.gguf"]
    if found is not None:
        assert _choose_file(names, "a/m", kind, file) == found
        return
    with pytest.raises(UsageError, match=r"several GGUF files: m-F16.gguf, mmproj-m-F16.gguf\."):
        _choose_file(names, "a/m", kind, file)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("http://127.0.0.1:8000/v1", UsageError, "is an address"),
        ("./nowhere", ModelNotFoundError, "does not exist"),
        ("lab/none", ModelNotFoundError, "HF_HUB_OFFLINE forbids"),
        ("{folder}/note.txt", ModelNotFoundError, "neither a folder nor a GGUF file"),
        ("{folder}", ModelNotFoundError, r"no config\.json"),
        ("{folder}/torn.gguf", EngineError, "could not be loaded"),
    ],
)
def test_what_is_no_model_is_said_in_words(
    tmp_path: Path, name: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "note.txt").write_text("x")
    if name.endswith("gguf"):
        (tmp_path / "torn.gguf").write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 40)
    with pytest.raises(error, match=words):
        load_engine(name.format(folder=tmp_path))


def test_code_in_a_models_folder_runs_only_when_trusted(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(tiny_model_path, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    with pytest.raises(EngineError, match=r"code of its own \(own\.py\)") as caught:
        load_engine(str(folder))
    assert "--trust-remote-code" in (caught.value.hint or "")
    document = tmp_path / "town.txt"
    document.write_text("Mira lives in Vell.", encoding="utf-8")
    done = run_command(
        *("ask", str(document), "Who?", "--model", str(folder), "--trust-remote-code"),
        HF_HOME=str(tmp_path / "home"),
    )
    assert done.returncode in (0, 10), done.stderr


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({}, None),
        ({"max_position_embeddings": 8192}, 8192),
        ({"max_position_embeddings": 32768, "sliding_window": 4096}, 32768),
        ({"n_positions": 1024}, 1024),
        ({"text_config": {"max_position_embeddings": 131072}, "max_seq_len": 5}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2}}, 8192),
        ({"max_position_embeddings": True}, None),
        ({"model_max_length": 10**30, "n_ctx": 2048}, 2048),
    ],
)
def test_the_window_of_a_configuration(config: dict[str, Any], window: int | None) -> None:
    assert find_window(config) == window
