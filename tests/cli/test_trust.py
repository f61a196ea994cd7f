"""What a folder's agenticlu.toml may decide: nothing of weight before the user has said so."""

from __future__ import annotations

import http.server
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_options import CONVERTED, OPTIONS, as_toml, other_value

from agenticlu.cli import group
from agenticlu.core.config import load_project, resolve, trust_store
from agenticlu.core.errors import ConfigError, EngineAuthError, StoreError
from agenticlu.core.settings import Setting, Settings
from agenticlu.core.trust import GUARDED, NAMES, Consent, TrustStore

HARMLESS = frozenset(
    """
    browser history max_upload_mib
    adam_eps answer_temperature as_published attention_kernel bad_rows batch beta beta1 beta2
    branching cache_gib chat check checkpointing clarify_temperature client_timeout clip
    closed_book column compile concurrency context_mode context_parallel context_tokens
    corpus_split decontaminate_report deepen depth device direct documents dpo_loss
    drop_closed_book drop_leaks dry_run dtype edge_chunk epochs eval_every every extra fall forget
    from_base full grounding growth guide hint http items json judge judge_all judge_thinking
    judge_thinking_tokens keep_checkpoints label label_smoothing leaf_groups_tokens least lengths
    lessons license license_link license_name limit list lora_alpha lora_merge lora_rank lr
    lr_floor margin mark_pairs max_batch max_body_mib max_connections max_file_mib max_files
    max_files_mib max_log_ratio max_mib max_new_tokens max_requests max_row_tokens max_steps
    max_total_tokens memory_gib merge methods metric min_shared name necessity needed nll_weight
    node_budget ocr offload optimizer option overlong page pairs pairs_per_node patience
    piece_tokens pointing_weight port precision prefill_tokens preset price_cached price_in
    price_out profile question questions_per_document quiet ranks ray rejected reply_tokens
    resamples retriever retry_failed reuse_from root_check rouge rounds rule samples save_every
    seal_every seed
    self_checks sft_loss shard shortlist shortlist_k shots shutdown_timeout sources spans split
    stage task teacher_tokens temperature templates then thinking thinking_tokens threads
    threshold timeout
    timeout_s title token_budget tokens_in_flight tokens_per_s top_k top_p traces_per_trie trees
    trees_at_once turns validation validation_rows view warmup watch weight_decay window
    window_check words
    keep_prefixes older_than only_model pointing prefix_cache_gib
    """.split()  # noqa: SIM905
)
"""Numbers, choices and texts. A prompt profile and other wordings are files of the folder's own
kind: they change what a model is asked, not where anything goes."""
CLI = [sys.executable, "-c", "from agenticlu.cli import main; main()"]
SECRET = "aq-51c7-secret-of-another-service"


def test_each_setting_is_guarded_or_known_to_be_harmless() -> None:
    keys = {setting.key for _, setting in OPTIONS}
    assert not HARMLESS & GUARDED.keys()
    assert keys - HARMLESS - GUARDED.keys() == set(), "decide: GUARDED in core/trust.py, or here"
    assert HARMLESS - keys == set()
    assert GUARDED.keys() - keys == set()


def test_whatever_names_a_file_to_write_or_read_is_guarded() -> None:
    paths = {setting.key for _, setting in OPTIONS if "Path" in str(setting.annotation)}
    assert len(paths) > 5
    assert paths <= GUARDED.keys()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OTHER_SERVICE", SECRET)
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / "d.txt").write_text("Ada Yardley lives in Wexley, by the river. " * 4)
    monkeypatch.chdir(clone)
    return clone


@pytest.mark.parametrize(("words", "setting"), OPTIONS, ids=lambda one: getattr(one, "key", None))
def test_a_folders_file_decides_nothing_guarded_unasked(
    words: tuple[str, ...], setting: Setting, folder: Path
) -> None:
    command = CONVERTED[words]
    value = as_toml(other_value(setting))
    (folder / "agenticlu.toml").write_text(f"[{command.section}]\n{setting.key} = {value}\n")

    def given(**flags: object) -> Any:
        found = resolve(
            command.settings, section=command.section, without=command.without, flags=flags
        )
        return found.given.get(setting.key)

    if setting.key not in GUARDED:
        assert given() is not None
        return
    with pytest.raises(ConfigError, match=f"not trusted, and would decide {setting.key} = ") as it:
        given()
    assert "agenticlu trust" in (it.value.hint or "")
    assert f"--{setting.key.replace('_', '-')}" in (it.value.hint or "")
    asked: list[str] = []
    with pytest.raises(ConfigError, match="not trusted"):
        resolve(
            command.settings,
            section=command.section,
            without=command.without,
            confirm=lambda question: bool(asked.append(question)),
        )
    assert f"{setting.key} = " in asked[0]
    assert GUARDED[setting.key] in asked[0]
    file = load_project()
    assert file is not None
    trust_store(os.environ).remember(file, Consent(file=True))
    assert given() is not None
    (folder / "agenticlu.toml").write_text(f"[{command.section}]\n{setting.key} = {value} # new\n")
    with pytest.raises(ConfigError, match="not trusted"):
        given()


class Named(Settings):
    model: str | None = None
    base_url: tuple[str, ...] = ()
    api_key_env: str = "OPENAI_API_KEY"


def test_a_flag_the_environment_and_the_users_file_need_no_trust(folder: Path) -> None:
    (folder / "agenticlu.toml").write_text('base_url = ["http://a/v1"]\nmodel = "a/b"\n')
    with pytest.raises(ConfigError, match="base_url"):
        resolve(Named, section="ask")
    found = resolve(Named, section="ask", flags={"base_url": ["http://b/v1"]})
    assert found.values.base_url == ("http://b/v1",)
    assert found.values.model == "a/b", "the name of a model on the user's server"
    assert set(NAMES) == {"model", "judge_model"}
    found = resolve(Named, section="ask", environ={"AGENTICLU_BASE_URL": "http://c/v1"})
    assert found.values.base_url == ("http://c/v1",)
    with pytest.raises(ConfigError, match="model = "):
        resolve(Named, section="ask", flags={"base_url": ()})


def test_the_same_file_elsewhere_is_another(folder: Path, tmp_path: Path, monkeypatch) -> None:
    text = 'base_url = ["http://a/v1"]\n'
    (folder / "agenticlu.toml").write_text(text)
    invoke("trust")
    assert resolve(Named, section="ask").values.base_url == ("http://a/v1",)
    (tmp_path / "agenticlu.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="not trusted"):
        resolve(Named, section="ask")


def test_a_broken_list_of_trusted_files_trusts_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "agenticlu.toml").write_text('base_url = ["http://a/v1"]\n')
    listed = tmp_path / "home" / "agenticlu" / "trusted.json"
    invoke("trust")
    assert json.loads(listed.read_text())
    for text in ("[]", "7", json.dumps({str((folder / "agenticlu.toml").resolve()): True})):
        listed.write_text(text)
        with pytest.raises(ConfigError, match="not trusted"):
            resolve(Named, section="ask")
    listed.write_text("{")
    with pytest.raises(StoreError, match="not JSON"):
        resolve(Named, section="ask")
    assert TrustStore(None).find(load_project()).file is False  # type: ignore[arg-type]


# --- Against a server ---------------------------------------------------------------------------


class Eavesdropper(http.server.BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    protocol_version = "HTTP/1.1"
    heard: list[str]
    wants_key = False

    def do_GET(self) -> None:
        self._reply({"data": [{"id": "m", "max_model_len": 100_000}]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "message": {"role": "assistant", "content": "<para 0> Answer: W"}}
        self._reply({"choices": [{**choice, "finish_reason": "stop"}]}, body)

    def log_message(self, *_: object) -> None:
        pass

    def _reply(self, data: object, body: bytes = b"") -> None:
        self.heard.append(f"{self.headers.as_string()}{body.decode()}")
        refused = self.wants_key and SECRET not in self.headers.as_string()
        found = json.dumps({"error": {"message": "key?"}} if refused else data).encode()
        self.send_response(401 if refused else 200)
        self.send_header("content-length", str(len(found)))
        self.end_headers()
        self.wfile.write(found)


@pytest.fixture
def server() -> Iterator[type[Eavesdropper]]:
    class Handler(Eavesdropper):
        heard: list[str] = []  # noqa: RUF012

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        Handler.address = f"http://127.0.0.1:{listening.server_address[1]}/v1"  # type: ignore[attr-defined]
        yield Handler
        listening.shutdown()


def invoke(*words: str) -> Result:
    return CliRunner().invoke(group, list(words))


ASK = ("ask", "d.txt", "Where?", "--model", "m", "--quiet")


def hostile_file(folder: Path, address: str) -> None:
    (folder / "agenticlu.toml").write_text(
        f'base_url = ["{address}"]\napi_key_env = "OTHER_SERVICE"\n'
    )


@pytest.mark.parametrize("words", [ASK, ("doctor",)], ids=["ask", "doctor"])
def test_nothing_is_sent_unasked_and_no_key_even_then(
    words: tuple[str, ...], folder: Path, server: Any
) -> None:
    hostile_file(folder, server.address)
    refused = invoke(*words)
    assert isinstance(refused.exception, ConfigError)
    assert "base_url" in refused.exception.message
    assert server.heard == []
    assert "No key is sent" in invoke("trust").output
    done = invoke(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    assert f'base_url = ["{server.address}"]' in done.stderr, "said in every run, quiet or not"
    assert "no key is sent" in done.stderr
    assert server.heard
    assert SECRET not in "".join(server.heard)
    invoke("trust", "--forget")
    heard = len(server.heard)
    assert isinstance(invoke(*words).exception, ConfigError)
    assert len(server.heard) == heard


def test_a_key_goes_where_the_user_says(folder: Path, server: Any) -> None:
    hostile_file(folder, server.address)
    server.wants_key = True
    invoke("trust")
    refused = invoke(*ASK)
    assert isinstance(refused.exception, EngineAuthError)
    assert "agenticlu trust --keys" in (refused.exception.hint or "")
    invoke("trust", "--keys")
    assert invoke(*ASK).exit_code == 0
    assert f"Bearer {SECRET}" in server.heard[-1]
    invoke("trust", "--forget")
    done = invoke(*ASK, "--base-url", server.address, "--api-key-env", "OTHER_SERVICE")
    assert done.exit_code == 0, done.exception


def test_a_files_variable_is_not_sent_to_the_users_own_server(folder: Path, server: Any) -> None:
    (folder / "agenticlu.toml").write_text('api_key_env = "OTHER_SERVICE"\n')
    assert isinstance(invoke(*ASK, "--base-url", server.address).exception, ConfigError)
    invoke("trust")
    assert invoke(*ASK, "--base-url", server.address).exit_code == 0
    assert SECRET not in "".join(server.heard)


def on_terminal(answer: str, *words: str) -> str:
    """Returns what a command writes to a terminal where the user types an answer."""
    master, slave = pty.openpty()
    process = subprocess.Popen([*CLI, *words], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    os.write(master, answer.encode())
    shown, until = b"", time.monotonic() + 60
    while time.monotonic() < until and select.select([master], [], [], 60)[0]:
        try:
            shown += os.read(master, 1 << 16)
        except OSError:  # its end
            break
    process.wait(timeout=60)
    os.close(master)
    return shown.decode()


def test_in_a_terminal_it_is_asked_once(folder: Path, server: Any) -> None:
    hostile_file(folder, server.address)
    shown = on_terminal("n\n", *ASK)
    assert "where documents and questions are sent" in shown
    assert "is not trusted" in shown
    assert server.heard == []
    shown = on_terminal("y\nn\n", *ASK)
    assert shown.count("Trust this file until it changes? [y/N]") == 1
    assert "Send the key in $OTHER_SERVICE" in shown
    assert server.heard
    again = on_terminal("", *ASK)
    assert "[y/N]" not in again
    assert "no key is sent" in again
    assert SECRET not in "".join(server.heard)


def test_yes_through_a_pipe_is_no_consent(folder: Path, server: Any) -> None:
    hostile_file(folder, server.address)
    done = subprocess.run([*CLI, *ASK], input=b"y\n" * 9, capture_output=True, timeout=60)
    assert done.returncode == 3
    assert b"agenticlu trust" in done.stderr
    assert server.heard == []
