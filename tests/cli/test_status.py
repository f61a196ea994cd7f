from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.cli import group
from agenticlu.core.errors import BudgetExceededError, StoreError
from agenticlu.core.printing import redraw
from agenticlu.core.records import Prices, Usage
from agenticlu.engines.base import Health
from agenticlu.search.run import Limits, Shard, run_search
from agenticlu.search.shards.sealer import seal_run
from agenticlu.search.status import Heartbeat, load_rate, load_status, watch_status
from agenticlu.search.store import CallId, Store

ITEMS = corpus(3, 2)


class Clock:
    """Seconds since the epoch, as told."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def search(folder: Path, **options) -> None:
    with Store(folder) as store:
        asyncio.run(run_search(ITEMS, engine(ITEMS), store, CONFIG, tokenizer=TOKENIZER, **options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    search(folder)
    return folder


def call(store: Store, key: str, *, phase: str = "answer", finished: float | None = None) -> None:
    """Writes a call down, and its end at a moment of our choice."""

    async def work() -> None:
        await store.intend(CallId(key, phase, "d"))
        if finished is not None:
            await store.finish(key, "x", Usage(requests=1, prompt_tokens=10))

    asyncio.run(work())
    if finished is not None:
        store.write([("UPDATE call SET finished = ? WHERE key = ?", (finished, key))])


def test_the_rate_is_over_the_time_that_the_process_has_worked(tmp_path: Path):
    now = time.time()
    with Store(tmp_path) as store:
        Heartbeat(store, clock=Clock(now - 10)).beat()
        for number in range(50):
            call(store, f"k{number}", finished=now - number / 10)
        call(store, "before", finished=now - 11)
        assert load_status(tmp_path, now).calls_per_s == 5.0
        assert load_status(tmp_path, now + 120).calls_per_s is None
    assert load_status(tmp_path, now).calls_per_s is None, "no process works"


def test_the_time_left_leaves_out_the_time_when_nothing_worked(whole: Path, tmp_path: Path):
    copy(whole, tmp_path)
    clock = Clock(time.time())
    with Store(tmp_path) as store:
        store.put(sessions=None)
        trees = [row[0] for row in store.rows("tree")]
        store.write([("UPDATE tree SET state = 'growing' WHERE id = ?", (one,)) for one in trees])
        first = Heartbeat(store, clock=clock)
        assert load_status(tmp_path, clock.now).eta_s is None, "nothing is finished yet"
        clock.now += 20
        store.write([("UPDATE tree SET state = 'done' WHERE id = ?", (one,)) for one in trees[:2]])
        first.beat()
        assert load_status(tmp_path, clock.now).eta_s == 20 / 2 * 4
        clock.now += 100_000
        Heartbeat(store, clock=clock).beat()
        clock.now += 10
        assert load_status(tmp_path, clock.now).eta_s == (20 + 10) / 2 * 4
    status = load_status(tmp_path, clock.now)
    assert status.eta_s is None, "nobody works at it"
    assert "left" not in status.render()


def test_a_rate_for_plans_leaves_out_idle_time_and_what_was_taken_up(whole: Path, tmp_path: Path):
    copy(whole, tmp_path)
    clock = Clock(1000.0)
    with Store(tmp_path) as store:
        store.put(sessions=None)
        for _ in range(2):
            beating = Heartbeat(store, clock=clock)
            clock.now += 50
            beating.beat()
            call(store, f"k{clock.now}", finished=clock.now)
            clock.now += 100_000
    assert load_rate(tmp_path) == 20 / 100


def test_what_a_dead_process_left_under_way_is_lost_not_in_flight(tmp_path: Path):
    with Store(tmp_path) as store:
        Heartbeat(store, in_flight=lambda: 2).beat()
        for number in range(5):
            call(store, f"k{number}")
        call(store, "j", phase="judge")
        status = load_status(tmp_path)
        assert (status.in_flight, status.waiting, status.lost) == (3, 3, 0)
        assert "3 in flight, 3 waiting" in status.render()
    status = load_status(tmp_path)
    assert (status.in_flight, status.waiting, status.lost) == (0, 0, 6)
    assert "0 in flight, 6 lost (will be repeated)" in status.render()


def test_a_search_tells_of_itself_while_it_works(tmp_path: Path):
    seen = []

    class Told(type(engine(ITEMS))):  # type: ignore[misc]
        def health(self) -> list[Health]:
            return [health("http://a", "well"), health("http://b", "stalled", in_flight=12)]

    def look(request):
        if request.call == 100:
            seen.append(load_status(tmp_path))

    with Store(tmp_path) as store:
        sampler = engine(ITEMS, kind=Told, faults=look)
        asyncio.run(run_search(ITEMS, sampler, store, CONFIG, tokenizer=TOKENIZER))
    (status,) = seen
    assert status.running
    assert [one["state"] for one in status.replicas] == ["well", "stalled"]
    assert "http://b stalled: 12 requests, none answered for 140 s" in status.render()
    assert "http://a" not in status.render()
    assert status.as_dict()["replicas"][0]["address"] == "http://a"
    after = load_status(tmp_path)
    assert after.replicas == []
    with Store(tmp_path, writable=False) as store:
        ((began, ended),) = store.get("sessions")
    assert began <= ended <= time.time()


def health(address: str, state: str, in_flight: int = 0) -> Health:
    return {
        "address": address,
        "state": state,  # type: ignore[typeddict-item]
        "in_flight": in_flight,
        "failures": 0,
        "resting_s": 0.0,
        "last_answer_s": 140.0,
    }


def test_a_pulse_that_stands_still_is_told(tmp_path: Path):
    clock = Clock(time.time())
    with Store(tmp_path) as store:
        Heartbeat(store, clock=clock).beat()
        assert "no sign of life" not in load_status(tmp_path, clock.now + 10).render()
        assert "no sign of life for 90 s" in load_status(tmp_path, clock.now + 90).render()
    assert "no sign of life" not in load_status(tmp_path, clock.now + 90).render()


def test_a_beat_goes_on_by_itself_and_ends_with_its_context(tmp_path: Path):
    async def work(store: Store) -> None:
        numbers = iter(range(100, 1000))
        async with Heartbeat(store, in_flight=lambda: next(numbers), every_s=0.001):
            while store.get("pulse")["in_flight"] < 103:
                await asyncio.sleep(0.001)
        ended = store.get("pulse")
        await asyncio.sleep(0.01)
        assert store.get("pulse") == ended

    with Store(tmp_path) as store:
        asyncio.run(work(store))


def test_watching_ends_with_the_run(whole: Path, tmp_path: Path):
    copy(whole, tmp_path)
    store = Store(tmp_path)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            store.close()

    assert [one.running for one in watch_status(tmp_path, sleep=sleep)] == [True, True, False]
    assert slept == [2.0, 2.0]


def test_watching_prints_lines_where_there_is_no_terminal(whole: Path):
    plain = CliRunner().invoke(group, ["status", str(whole), "--watch"])
    assert plain.output.splitlines()[0] == "not running: 6 of 6 questions done, 0 growing"
    assert "\x1b" not in plain.output
    machine = CliRunner().invoke(group, ["status", str(whole), "--watch", "--json"])
    (line,) = machine.output.splitlines()
    assert json.loads(line)["done"] == 6


def test_watching_redraws_on_a_terminal(whole: Path, capsys: pytest.CaptureFixture[str]):
    status = load_status(whole)
    redraw(one.render() for one in (replace(status, done=4), status))
    shown = capsys.readouterr().out
    assert "6 of 6 questions done" in shown
    assert "4 of 6" not in shown, "what is captured is the last state alone"


def test_segments_tell_how_far_their_shards_are(tmp_path: Path):
    sealed = str(tmp_path / "sealed")
    for index in range(2):
        folder, shard = tmp_path / str(index), Shard(index, 2)
        label = f"{index}/2"
        try:
            search(folder, shard=shard, limits=Limits(max_tokens=2000))
        except BudgetExceededError:
            seal_run(folder, sealed, label=label)
        search(folder, shard=shard)
        seal_run(folder, sealed, label=label, finished=True)
    status = load_status(sealed)
    assert (status.parts, status.done, status.questions) == (2, len(ITEMS), len(ITEMS))
    with Store(tmp_path / "0", writable=False) as a, Store(tmp_path / "1", writable=False) as b:
        wanted = [one.call_counts()["done"] for one in (a, b)]
    assert status.calls["done"] == sum(wanted)
    assert status.as_dict()["tokens"]["requests"] == sum(wanted)
    line = CliRunner().invoke(group, ["status", sealed]).output.splitlines()[0]
    assert re.fullmatch(
        r"sealed by 2 parts: 6 of 6 questions done, 0 growing, the last segment is \d+ s old", line
    )


def test_a_folder_without_either_is_said(tmp_path: Path):
    for name in (tmp_path, tmp_path / "none"):
        with pytest.raises(StoreError, match="not a run folder"):
            load_status(name)


def copy(run: Path, to: Path) -> None:
    with (
        sqlite3.connect(run / "run.sqlite") as source,
        sqlite3.connect(to / "run.sqlite") as target,
    ):
        source.backup(target)


def test_money_is_told_at_the_prices_given(whole: Path, tmp_path: Path):
    copy(whole, tmp_path)
    with Store(tmp_path) as store:
        call(store, "vote", phase="judge", finished=time.time())
    whole = tmp_path
    usage = load_status(whole).usage
    assert usage["judge"].prompt_tokens
    priced = load_status(whole, prices=Prices(prompt=1e6, completion=2e6, cached=0.0))
    total = sum((one for phase, one in usage.items() if phase != "judge"), Usage())
    computed = total.prompt_tokens - total.cached_tokens
    assert priced.spent == computed + 2 * total.completion_tokens > 0
    assert f"spent: {priced.spent:,.2f}, judges aside" in priced.render()
    assert load_status(whole).spent is None
    shown = CliRunner().invoke(group, ["status", str(whole), "--price-in", "1"])
    assert shown.exit_code != 0
    both = ["--price-in", "1e6", "--price-cached", "0", "--price-out", "2e6", "--json"]
    shown = CliRunner().invoke(group, ["status", str(whole), *both])
    assert json.loads(shown.stdout)["spent"] == priced.spent
