"""A real server process on loopback that misbehaves by script: nothing lost, everything said."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from made_trees import load_trees
from scripted_world import TOKENIZER, corpus

from agenticlu.core.errors import EngineUnreachableError
from agenticlu.engines import load_engine
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.pool import PoolEngine
from agenticlu.search import SearchConfig
from agenticlu.search.run import Limits, Listener, run_search
from agenticlu.search.store import Store

SERVER = Path(__file__).parent.parent.parent / "benchmarks" / "slow_server.py"
ITEMS = corpus(documents=4, questions=1)
CONFIG = SearchConfig(branching=2, depth=1, piece_tokens=64, growth="full")


@contextmanager
def server(*faults: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, str(SERVER), "--latency", "0.001"]
    for fault in faults:
        command += ["--fault", fault]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def search(folder: Path, *addresses: str, limits: Limits | None = None, **options: object):
    said: list[str] = []
    bounds = limits or Limits(requests_in_flight=8, parallel=4)

    class Heard(Listener):
        def say(self, text: str) -> None:
            said.append(text)

    async def work(store: Store):
        limiter = bounds.build_limiter(said.append)
        engine = load_engine("slow", addresses, limiter=limiter, on_event=said.append, **options)
        try:
            return await run_search(
                ITEMS,
                engine,
                store,
                CONFIG,
                tokenizer=TOKENIZER,
                limits=bounds,
                progress=Heard(),
            )
        finally:
            await engine.close()

    with Store(folder) as store:
        return asyncio.run(work(store)), said


def answers(folder: Path) -> list[list[str]]:
    return [[node.answer for node in tree.nodes] for tree in load_trees(folder)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("calm")
    with server() as (address, _):
        search(folder, address)
    return answers(folder)


@pytest.mark.parametrize(
    "faults",
    [("30-60:429",), ("30-34:500",), ("30-31:truncate", "40:badjson"), ("20-22:badjson",)],
    ids=["rate limit", "server error", "cut off and wrong", "wrong JSON"],
)
def test_passing_faults_cost_time_and_nothing_else(tmp_path: Path, undisturbed, faults):
    with server(*faults) as (address, _):
        summary, _ = search(tmp_path, address)
    assert summary.failed_nodes == 0
    assert summary.calls["failed"] == summary.calls["intent"] == 0
    assert answers(tmp_path) == undisturbed


def test_a_hanging_request_is_given_up_and_sent_again(tmp_path: Path, undisturbed):
    with server("25:hang") as (address, _):
        summary, _ = search(tmp_path, address, timeout_s=1.0)
    assert summary.calls["failed"] == 0
    assert answers(tmp_path) == undisturbed


def test_the_death_of_one_of_four_replicas_moves_its_documents(tmp_path: Path, undisturbed):
    with ExitStack() as stack:
        opened = dict(stack.enter_context(server()) for _ in range(4))
        pool = PoolEngine([(url, OpenAIEngine(url, "slow")) for url in opened])
        mortal = pool.ranked(ITEMS[0].document.id)[0].key
        address = next(one for one in opened if mortal in one or one in mortal)
        fault = urllib.request.Request(f"{address}/fault", data=b"8:die", method="POST")
        urllib.request.urlopen(fault).close()
        summary, said = search(tmp_path, *opened)
        assert opened[address].wait(5) == 1, "the replica must have died on the way"
    assert summary.calls["failed"] == 0
    assert any("move on" in text for text in said)
    assert answers(tmp_path) == undisturbed


def test_a_server_that_is_gone_for_good_ends_the_run_in_words_and_can_be_resumed(
    tmp_path: Path, undisturbed
):
    with server("40:die") as (address, _):
        with pytest.raises(EngineUnreachableError) as caught:
            search(tmp_path, address, limits=Limits(requests_in_flight=8, patience_s=0.0))
        assert address.removesuffix("/v1") in caught.value.message
    with Store(tmp_path, writable=False) as store:
        before = store.call_counts()
    assert before["done"] > 10
    with server() as (address, _):
        summary, _ = search(tmp_path, address)
    assert answers(tmp_path) == undisturbed
    assert summary.calls["intent"] == 0
    assert 0 < summary.calls["repeated"] - before["repeated"] <= before["intent"]
