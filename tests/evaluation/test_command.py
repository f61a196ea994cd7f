"""`agenticlu eval` as typed: what is refused, what is told, what the dry run counts."""

from __future__ import annotations

import http.server
import importlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agenticlu.cli.eval import command
from agenticlu.core import files
from agenticlu.core.errors import (
    ConfigError,
    EngineUnreachableError,
    IncompleteRunError,
    ModelNotFoundError,
    UsageError,
)
from agenticlu.documents.tokens import read_model_hint
from agenticlu.engines import BUNDLED_MODEL
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.config import fingerprint
from agenticlu.evaluation.predictions import read_predictions

FIXTURES = Path(__file__).parent / "fixtures" / "helmet"


def call(*words: str) -> Result:
    return CliRunner().invoke(command, list(words))


def plan_of(*words: str) -> dict[str, Any]:
    result = call("--dry-run", "--json", *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedEngine]:
    """Puts scripted engines in the place of all others; returns those that were made."""
    made: list[ScriptedEngine] = []

    def load(*given: object, **named: object) -> ScriptedEngine:
        made.append(ScriptedEngine(context_tokens=32768))
        return made[-1]

    monkeypatch.setattr("agenticlu.engines.load_engine", load)
    return made


@pytest.fixture
def helmet_root(tmp_path: Path) -> Path:
    root = tmp_path / "helmet"
    shutil.copytree(FIXTURES, root)
    return root


class Listing(http.server.BaseHTTPRequestHandler):
    """Serves a list of models and nothing else."""

    entries: tuple[dict[str, Any], ...] = ()

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": list(self.entries)}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given: object) -> None:
        pass


@pytest.fixture
def listing() -> Iterator[Any]:
    """Starts servers that list the entries given; returns their addresses."""
    servers = []

    def start(*entries: dict[str, Any]) -> str:
        handler = type("Handler", (Listing,), {"entries": entries})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


SHORT = ("--lengths", "300", "--limit", "2", "--methods", "direct")


# --- HELMET's options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "shots"), [(["--shots", "0"], 0), (["--shots", "1"], 1), ([], 2)]
)
def test_shots_reach_prompt_and_file_name(
    tmp_path: Path,
    helmet_root: Path,
    scripted: list[ScriptedEngine],
    given: list[str],
    shots: int,
) -> None:
    """0 is a number of demonstrations like any other, not the absence of one."""
    where = ["--task", "kilt_nq", "--lengths", "8192", "--helmet-data", str(helmet_root)]
    result = call(*where, "--methods", "helmet", "--out", str(tmp_path / "out"), *given)
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "out" / "helmet").rglob("*_42.json")
    assert f"_shots{shots}_" in file.name
    assert json.loads(file.read_text())["args"]["shots"] == shots
    for request in scripted[0].requests[1:]:  # the first one measures what a request adds
        assert request.messages[-1].content.count("Question:") == shots + 1


# --- what is refused --------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    result = call(*SHORT, "--model", "./nofolder", "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, ModelNotFoundError)
    assert "'nofolder' does not exist" in result.exception.message
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    words = ("--base-url", "http://127.0.0.1:9/v1", "--out", str(tmp_path / "out"))
    result = call(*SHORT, *words)
    assert isinstance(result.exception, EngineUnreachableError)
    assert not (tmp_path / "out").exists()
    assert plan_of(*SHORT, *words)["context_tokens"] is None  # a plan does without


@pytest.mark.parametrize(
    "given",
    [["--temperature", "1"], ["--rounds", "2"], ["--max-new-tokens", "256"], ["--metric", "f1"]],
)
def test_as_published_contradicts_no_explicit_setting_in_silence(given: list[str]) -> None:
    result = call("--as-published", "--dry-run", *SHORT, *given)
    assert isinstance(result.exception, UsageError)
    assert f"{given[0]} {given[1]}" in result.exception.message.replace(".0 ", " ")
    assert call("--as-published", "--dry-run", *SHORT, "--temperature", "0.6").exit_code == 0


@pytest.mark.parametrize("flag", ["--price-in", "--price-out", "--price-cached", "--tokens-per-s"])
def test_negative_prices_and_rates_are_refused(flag: str) -> None:
    result = call("--dry-run", *SHORT, flag, "-1")
    assert isinstance(result.exception, UsageError)
    assert flag in result.exception.message


def test_rounds_are_numbers() -> None:
    for rounds in ("1,x", "0,1"):
        result = call("--dry-run", *SHORT, "--rounds", rounds)
        assert isinstance(result.exception, UsageError)
        assert "--rounds" in result.exception.message


def test_a_torn_result_file_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "json_kv_v1__in8192_size100_shots2.json").write_text('{"averaged_metrics": {')
    result = call("collect", str(folder))
    assert isinstance(result.exception, ConfigError)
    assert "is not JSON" in result.exception.message


# --- served models ----------------------------------------------------------------------------


def test_a_served_model_is_told_by_what_its_server_says(
    tmp_path: Path, listing: Any, scripted: list[ScriptedEngine]
) -> None:
    entry = {"id": "m", "weights": "w1", "root": str(BUNDLED_MODEL), "piece_tokens": 48}
    url = listing({**entry, "max_model_len": 32768})
    out = tmp_path / "out"
    result = call(*SHORT, "--base-url", url, "--out", str(out))
    assert result.exit_code == 0, result.output
    config = json.loads((out / "config.json").read_text())
    assert (config["label"], config["model_fingerprint"], config["piece_tokens"]) == ("m", "w1", 48)
    assert config["tokenizer"] == str(BUNDLED_MODEL)
    assert config["servers"] == [url]
    elsewhere = listing(entry)
    result = call(*SHORT, "--base-url", elsewhere, "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr
    assert scripted[-1].requests == []  # the same weights at another address
    result = call(*SHORT, "--base-url", listing({**entry, "weights": "w2"}), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert len(scripted[-1].requests) == 2  # another model under the same name


def test_a_server_that_vouches_for_nothing_is_warned_of(
    tmp_path: Path, listing: Any, scripted: list[ScriptedEngine]
) -> None:
    words = (*SHORT, "--model", "m", "--out", str(tmp_path / "out"))
    first = call(*words, "--base-url", listing({"id": "m"}))
    assert "Warning" not in first.stderr
    assert "lengths are estimated, at about four characters a token, and pieces have 512" in (
        first.stderr
    )
    second = call(*words, "--base-url", listing({"id": "m"}))
    assert second.exit_code == 0, second.output
    assert "Warning: these results began with http://127.0.0.1" in second.stderr
    assert scripted[-1].requests == []
    third = call(*SHORT, "--out", str(tmp_path / "out"), "--base-url", listing({"id": "other"}))
    assert third.exit_code == 0, third.output
    assert len(scripted[-1].requests) == 2  # another name is another model


def test_a_list_of_models_is_waited_for_no_longer_than_a_reply(
    tmp_path: Path, listing: Any, scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def read(*_: Any, timeout_s: float) -> None:
        waited.append(timeout_s)

    monkeypatch.setattr("agenticlu.evaluation.config.read_served_model", read)
    words = ("--model", "m", "--timeout", "2", "--out", str(tmp_path / "out"))
    result = call(*SHORT, *words, "--base-url", listing({"id": "m"}))
    assert result.exit_code == 0, result.output
    assert waited == [2.0]


def test_servers_of_different_weights_make_no_pool(tmp_path: Path, listing: Any) -> None:
    urls = [listing({"id": "m", "weights": name}) for name in ("w1", "w2")]
    given = [word for url in urls for word in ("--base-url", url)]
    result = call(*SHORT, *given, "--out", str(tmp_path / "out"))
    assert isinstance(result.exception, ConfigError)
    assert "different weights" in result.exception.message


def test_our_server_tells_weights_and_pieces_but_no_folder(server_url: str) -> None:
    from agenticlu.engines.http.probe import read_served_model

    found = read_served_model([server_url])
    assert found is not None
    assert found.weights == fingerprint(BUNDLED_MODEL)
    assert (found.id, found.root) == ("model", "")
    hint = read_model_hint(BUNDLED_MODEL, "piece_tokens")
    assert hint is not None
    assert (found.piece_tokens, found.context_tokens) == (hint, 32768)


# --- the dry run ------------------------------------------------------------------------------


def test_a_plan_goes_on_where_a_run_would() -> None:
    plan = plan_of("--task", "cwe,world", "--lengths", "300", "--limit", "2")
    assert plan["left_out"] == ["cwe does not fit into 300 tokens."]
    assert {row["task"] for row in plan["rows"]} == {"world"}


def test_a_plan_counts_helmets_prompts_as_they_are_sent(
    tmp_path: Path, helmet_root: Path, scripted: list[ScriptedEngine]
) -> None:
    """Demonstrations are part of the prompt, and the reply is as long as the task says."""
    words = ("--task", "kilt_nq", "--lengths", "8192", "--helmet-data", str(helmet_root))
    words = (*words, "--methods", "helmet", "--max-new-tokens", "400")
    (with_demos,) = plan_of(*words)["rows"]
    (without,) = plan_of(*words, "--shots", "0")["rows"]
    assert with_demos["completion_tokens"] == 20 * with_demos["num_items"]
    assert with_demos["prompt_tokens"] > without["prompt_tokens"]
    result = call(*words, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    from agenticlu.documents.tokens import load_tokenizer

    count = load_tokenizer(str(BUNDLED_MODEL)).count
    sent = sum(count(request.messages[-1].content) for request in scripted[0].requests)
    assert with_demos["prompt_tokens"] == pytest.approx(sent, rel=0.02)


def test_a_plan_knows_the_window() -> None:
    words = ("--lengths", "40000", "--limit", "2", "--methods", "direct,retrieve")
    direct, retrieve = plan_of(*words)["rows"]
    assert (direct["num_too_long"], direct["num_requests"]) == (2, 0)
    assert (retrieve["num_too_long"], retrieve["num_requests"]) == (0, 2)
    fitted = plan_of(*words, "--overlong", "fit")["rows"][0]
    assert (fitted["num_cut"], fitted["num_requests"]) == (2, 2)
    assert fitted["prompt_tokens"] < 2 * 32768
    assert "would fail" in call("--dry-run", *words).stdout


def test_a_plan_leaves_out_what_is_finished(tmp_path: Path, scripted: list[ScriptedEngine]) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert call(*SHORT, *out).exit_code == 0
    words = ("--lengths", "300", "--limit", "3", "--methods", "direct,clarify", *out)
    direct, clarify = plan_of(*words)["rows"]
    assert (direct["num_finished"], direct["num_items"], direct["num_requests"]) == (2, 1, 1)
    assert (clarify["num_finished"], clarify["num_items"]) == (0, 3)
    assert len(read_predictions(tmp_path / "out" / "predictions.jsonl")) == 2


def test_a_plan_prices_cached_tokens_and_tells_the_hours() -> None:
    words = ("--lengths", "300", "--limit", "8", "--price-in", "1", "--price-out", "0")
    dear, cheap = plan_of(*words), plan_of(*words, "--price-cached", "0", "--tokens-per-s", "100")
    rows = dear["rows"]
    uncached = sum(row["uncached_tokens"] for row in rows)
    sampled = sum(row["completion_tokens"] for row in rows)
    assert dear["price"] == pytest.approx(sum(row["prompt_tokens"] for row in rows) / 1e6, abs=1e-4)
    assert cheap["price"] == pytest.approx(uncached / 1e6, abs=1e-4)
    assert dear["hours"] is None
    assert cheap["hours"] == pytest.approx((uncached + sampled) / 100 / 3600, abs=1e-4)


# --- tables again -----------------------------------------------------------------------------


def test_tables_are_written_again_without_a_model(
    tmp_path: Path, scripted: list[ScriptedEngine]
) -> None:
    out = tmp_path / "out"
    assert call(*SHORT, "--out", str(out)).exit_code == 0
    before = (out / "summary.json").read_bytes()
    (out / "results.md").unlink()
    result = call("table", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "summary.json").read_bytes() == before
    assert (out / "results.md").is_file()
    assert len(scripted) == 1
    assert json.loads(call("table", str(out), "--metric", "f1", "--json").stdout)["cells"][0][
        "headline"
    ] == "f1"  # fmt: skip
    assert isinstance(call("table", str(tmp_path)).exception, UsageError)


def test_tables_are_shown_where_they_cannot_be_written(
    tmp_path: Path, scripted: list[ScriptedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert call(*SHORT, "--out", str(out)).exit_code == 0
    shown = call("table", str(out), "--json").stdout
    kept = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(files, "is_writable", lambda folder: False)
    result = call("table", str(out), "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout == shown
    assert f"{out} cannot be written" in result.stderr
    assert "Written" not in call("table", str(out)).output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept


def test_verdicts_of_a_judge_reach_tables_intervals_and_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helmet_root: Path
) -> None:
    """The judge finds the replies of one method right but for one it cannot read."""
    path = helmet_root / "narrativeqa" / "test.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:  # HELMET takes long documents only; the stored ones are cut
        text = row["document"]["text"]
        row["document"]["text"] = (text + "\n") * (131500 // len(text) + 1)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answering = ScriptedEngine(lambda request: "Answer: a thing", context_tokens=32768)
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **more: answering)
    out = tmp_path / "out"
    words = ("--task", "narrativeqa", "--lengths", "8192", "--helmet-data", str(helmet_root))
    words = (*words, "--methods", "direct,retrieve", "--label", "m", "--out", str(out))
    assert (result := call(*words)).exit_code == 0, result.output
    before = json.loads((out / "summary.json").read_text())
    assert {cell["headline"] for cell in before["cells"]} == {"correct"}
    for method, verdict in (("direct", 0), ("retrieve", 3)):
        asked: list[str] = []

        def reply(request: Any, verdict: int = verdict, asked: list[str] = asked) -> str:
            asked.append(request.last)
            return (
                "hm" if asked[0] == request.last else f'{{"fluency": 1, "correctness": {verdict}}}'
            )

        monkeypatch.setattr(
            "agenticlu.engines.load_engine",
            lambda *given, reply=reply, **more: ScriptedEngine(reply),
        )
        (file,) = (out / "helmet" / f"m-{method}").glob("*_42.json")
        result = call("judge", str(file))
        assert isinstance(result.exception, IncompleteRunError)  # one verdict cannot be read
        assert f"in the tables of {out}" in result.output
    summary = json.loads((out / "summary.json").read_text())
    num = len(read_predictions(out / "predictions.jsonl")) // 2
    by_method = {cell["method"]: cell for cell in summary["cells"]}
    for method, mean in (("direct", 0.0), ("retrieve", 1.0)):
        cell = by_method[method]
        assert cell["headline"] == "gpt-4-score"
        assert cell["metrics"]["gpt-4-score"]["mean"] == mean
        assert cell["metrics"]["gpt-4-score"]["n"] == num - 1 < cell["num_scored"]
    (difference,) = summary["differences"]
    assert (difference["metric"], difference["difference"]["mean"]) == ("gpt-4-score", 1.0)
    assert any("the judge here: scripted" in note for note in summary["notes"])
    monkeypatch.setattr("agenticlu.engines.load_engine", lambda *given, **more: answering)
    asked_before = len(answering.requests)
    assert (result := call(*words)).exit_code == 0, result.output
    assert json.loads((out / "summary.json").read_text())["cells"] == summary["cells"]
    assert len(answering.requests) == asked_before


def test_the_names_are_listed_as_json() -> None:
    names = json.loads(call("--list", "--json").stdout)
    assert "clarify" in names["methods"]
    assert "world" in names["tasks"]
    assert "narrativeqa" in names["helmet_tasks"]


@pytest.mark.parametrize("name", ["judge", "cite"])
def test_lines_of_predictions_are_no_result_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n')
    found = call(name, str(path))
    assert isinstance(found.exception, UsageError)
    assert "a result file of HELMET is one JSON object" in found.exception.message


def test_an_estimate_needs_no_package_for_rouge(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rouge_score"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("rouge_score.rouge_scorer")
    result = call("--dry-run", *SHORT, "--rouge", "--metric", "rougeL_f1")
    assert result.exit_code == 0, result.output
    assert "world" in result.output
