"""The commands against real servers with a real model: they work, and say the truth about each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_servers import COMMAND_S, Server

pytestmark = [pytest.mark.servers, pytest.mark.timeout(4 * COMMAND_S)]

SHORT = (
    "The Harrow Bridge was finished in 1874 by the engineer Edith Calloway.\n\n"
    "The repairs were paid for by the brewer Tomas Reid.\n"
)
QUESTION = "Who paid for the repairs?"
LINE = "Record {i}: shipment {i} of barley weighed {w} stones and went to Hall {i}."


@pytest.fixture
def short(tmp_path: Path) -> str:
    path = tmp_path / "short.md"
    path.write_text(SHORT, encoding="utf-8")
    return str(path)


@pytest.fixture
def long(tmp_path: Path) -> str:
    path = tmp_path / "long.md"
    records = [LINE.format(i=i, w=i * 7 % 97) for i in range(90)]
    path.write_text("\n\n".join([SHORT, *records]), encoding="utf-8")
    return str(path)


def test_doctor_says_what_each_can_do(server: Server) -> None:
    out, told = server.run("doctor", "--json", "--window-check", "700")
    check = json.loads(out)["checks"][-1]
    assert check["status"] == "ok"
    details = "\n".join(check["details"])
    # Both sample one reply at a time, say nothing of their caches and list no window.
    assert "several samples of one request: no" in details
    assert "says how much was cached: no" in details
    assert "window: unknown" in details
    assert ("log-probabilities: yes" in details) == server.logprobs
    assert ("continues plain text: yes" in details) == server.completes
    assert "reads long prompts: yes" in details
    assert f"{check['usage']['requests']} requests" in details
    assert "reuse of prefixes" in told


def test_ask_costs_the_dialogue_alone(server: Server, short: str) -> None:
    answer = server.ask(short, QUESTION)
    assert answer["answer"]
    assert [turn["kind"] for turn in answer["turns"]] == [
        "clarify",
        "point",
        "sub_answer",
        "answer",
        "check",
    ]
    assert answer["setup"]["requests"] == 0
    assert answer["usage"]["requests"] == len(answer["turns"])
    assert answer["usage"]["prompt_tokens"] > 5 * 40


def test_generate_grows_two_trees(server: Server, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    questions = ((QUESTION, "Tomas Reid"), ("Who finished the bridge?", "Edith Calloway"))
    rows = [{"context": SHORT, "question": asked, "answers": [name]} for asked, name in questions]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = ("--branching", "1", "--depth", "1", "--piece-tokens", "32", "--quiet", "--json")
    tokenizer = ("--tokenizer", str(server.folder))
    run = ("generate", str(corpus), "--out", str(tmp_path / "run"), *options, *tokenizer)
    found = json.loads(server.run(*run)[0])
    assert found["questions"] == sum(found["outcomes"].values()) == 2
    assert not found["outcomes"].get("failed")
    assert found["tokens"]["prompt_tokens"] > 0


def test_eval_scores_two_items(server: Server, tmp_path: Path) -> None:
    options = ["--task", "world", "--methods", "direct,clarify", "--lengths", "256", "--limit", "2"]
    options += ["--max-new-tokens", "48", "--piece-tokens", "64", "--out", str(tmp_path / "eval")]
    server.run("eval", *options, "--tokenizer", str(server.folder))
    lines = (tmp_path / "eval" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    predictions = [json.loads(line) for line in lines]
    assert len(predictions) == 4
    assert all(one["error"] is None and one["scores"] for one in predictions)


def test_the_window_is_read_out_of_the_refusal(llama: Server, long: str) -> None:
    _, told = llama.run("ask", long, QUESTION, code=4)
    assert f"{llama.window} tokens" in told
    assert "--spans" in told
    options = ("--spans", "--piece-tokens", "256", "--temperature", "0")
    answer = llama.ask(long, QUESTION, *options)
    assert any(note.startswith("Read by spans") for note in answer["notes"])
    assert 0 < len(answer["shown_pieces"]) < answer["num_pieces"]
