"""Results say where a server had to be asked otherwise than the settings say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agenticlu.cli import main
from agenticlu.core.errors import EngineUnreachableError
from agenticlu.core.records import Message
from agenticlu.engines import load_limited_engine
from agenticlu.engines.base import Sampling, adaptations_of
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.pool import PoolEngine
from agenticlu.engines.retry import LimitedEngine
from agenticlu.engines.scripted import ScriptedEngine

ASKED = (Message(role="user", content="Who built it?"),)
DOCUMENT = "The mill at Dunmore stands by the river. Ada Larkin built the mill in 1911."
NOTE = "m takes no temperature"


@pytest.fixture
def reasoner(serve: Callable[..., Any], chat_reply: Callable[..., Any]) -> Any:
    """A server that takes no temperature, as those of reasoning models."""

    def answer(body: dict[str, Any], number: int) -> Any:
        if "temperature" in body:
            text = "Unsupported value: 'temperature' does not support 0 with this model."
            return 400, {"error": {"message": text, "param": "temperature"}}
        return 200, chat_reply("Ada Larkin built it.\nAnswer: Ada Larkin")

    return serve(answer)


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["agenticlu", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, 9, 10, None), capsys.readouterr().err
    return capsys.readouterr().out


def test_answers_tables_and_runs_tell_that_no_temperature_was_taken(
    reasoner: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, corpus = tmp_path / "d.txt", tmp_path / "c.jsonl"
    document.write_text(DOCUMENT)
    row = {"context": DOCUMENT, "question": "Who built it?", "answers": ["Ada Larkin"]}
    corpus.write_text(json.dumps(row) + "\n")
    server = ("--base-url", reasoner.url, "--model", "m")
    answer = json.loads(run(capsys, "ask", document, "Who built it?", "--json", *server))
    assert [note for note in answer["notes"] if NOTE in note]
    folder = tmp_path / "eval"
    asked = ("--lengths", 256, "--limit", 1, "--methods", "direct", "--out", folder, *server)
    for _ in range(2):  # the second run finds everything done and asks nothing
        run(capsys, "eval", *asked)
        summary = json.loads((folder / "summary.json").read_text())
        assert [note for note in summary["adapted"] if NOTE in note]
        assert NOTE in (folder / "results.md").read_text()
    small = ("--branching", 1, "--depth", 1, "--out", tmp_path / "run")
    run(capsys, "generate", corpus, *small, *server)
    status = json.loads(run(capsys, "status", tmp_path / "run", "--json"))
    assert [note for note in status["adapted"] if NOTE in note]


def test_what_one_replica_refuses_the_others_are_not_asked(
    serve: Callable[..., Any], chat_reply: Callable[..., Any]
) -> None:
    def answer(body: dict[str, Any], number: int) -> Any:
        if "seed" in body:
            return 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs"}]}
        return 200, chat_reply("Ada")

    endpoints = [serve(answer), serve(answer)]
    said: list[str] = []
    urls = tuple(endpoint.url for endpoint in endpoints)
    engine = load_limited_engine("m", urls, on_event=said.append)

    async def ask_all() -> None:
        for number in range(16):
            await engine.sample(ASKED, Sampling(seed=number), session=str(number))
        await engine.close()

    asyncio.run(ask_all())
    assert all(endpoint.bodies for endpoint in endpoints)
    assert sum("seed" in body for endpoint in endpoints for body in endpoint.bodies) == 1
    assert len(said) == len(adaptations_of(engine)) == 1


def test_a_pool_tells_once_what_several_servers_want() -> None:
    engines = [OpenAIEngine(f"http://127.0.0.1:{port}/v1", "m") for port in (1, 2)]
    for engine in engines:
        engine.dialect.told["seed"] = "does not take a seed"
    other = ScriptedEngine(faults=lambda request: EngineUnreachableError("off"))
    pool = PoolEngine([("a", engines[0]), ("b", engines[1]), ("c", other)])
    assert adaptations_of(LimitedEngine(pool)) == ("m does not take a seed",)
    assert adaptations_of(other) == ()
