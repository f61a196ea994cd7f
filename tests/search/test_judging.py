"""Judges that are models, inside a search: what they are asked, and what happens when they fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_trees import load_trees
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.cli.plan import judge_choices
from agenticlu.core.errors import EngineBusyError, EngineReplyError, UsageError
from agenticlu.core.records import Node, Tree
from agenticlu.core.settings import JudgeSettings
from agenticlu.engines import retry as engine_limits
from agenticlu.engines.base import Completion
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.judges import SPARED, build_judges
from agenticlu.search import SearchConfig, setup
from agenticlu.search.run import Limits, Listener, SearchSummary, replay, run_search
from agenticlu.search.setup import EngineChoice, build_panel, check_judges
from agenticlu.search.store import Store

ITEMS = corpus(2, 2)
BOTH = CONFIG.model_copy(update={"judges": ("exact", "llm"), "depth": 1})
NO = '{"explanation": "x", "verdict": "no"}'


class Heard(Listener):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def search(
    folder: Path,
    judge: ScriptedEngine,
    *,
    config: SearchConfig = BOTH,
    limits: Limits | None = None,
    heard: Heard | None = None,
    right_share: float = 0.3,
) -> SearchSummary:
    limits, heard = limits or Limits(), heard or Heard()
    with Store(folder) as store:
        panel = build_panel([("critic", judge)], store, limits=limits, say=heard.say)
        return asyncio.run(
            run_search(
                ITEMS,
                engine(ITEMS, right_share=right_share),
                store,
                config,
                tokenizer=TOKENIZER,
                judges=build_judges(config.judges, panel),
                limits=limits,
                progress=heard,
            )
        )


def judge_anew(folder: Path, judge: ScriptedEngine, limits: Limits) -> SearchSummary:
    with Store(folder) as store:
        judges = build_judges(BOTH.judges, build_panel([("critic", judge)], store, limits=limits))
        _, summary = asyncio.run(
            replay(store, judges=judges, judging=True, retry_failed=limits.retry_failed)
        )
        return summary


def nodes_of(folder: Path) -> list[Node]:
    return [node for tree in load_trees(folder) for node in tree.nodes]


def test_an_exact_match_spares_the_models(tmp_path: Path) -> None:
    judge = ScriptedEngine(lambda request: NO, name="critic")
    search(tmp_path, judge)
    nodes = nodes_of(tmp_path)
    exact = [node for node in nodes if node.verdicts[0].value == 1.0]
    others = [node for node in nodes if node.verdicts[0].value == 0.0]
    assert exact, "the case must hold both"
    assert others, "the case must hold both"
    assert {(node.verdicts[1].value, node.verdicts[1].reason) for node in exact} == {(None, SPARED)}
    assert {node.score for node in exact} == {1.0}
    assert {node.verdicts[1].value for node in others} == {0.0}
    asked = " ".join(request.last for request in judge.requests)
    assert not any(f"Candidate answer: {item.question.answers[0]}" in asked for item in ITEMS)


@pytest.mark.parametrize(
    "change", [{"judge_all": True}, {"judges": ("llm",)}, {"judges": ("rouge-l", "llm")}]
)
def test_models_are_asked_about_all_where_that_is_wanted(tmp_path: Path, change) -> None:
    judge = ScriptedEngine(lambda request: NO, name="critic")
    search(tmp_path, judge, config=BOTH.model_copy(update=change))
    verdicts = [node.verdicts[-1] for node in nodes_of(tmp_path)]
    assert {verdict.value for verdict in verdicts} == {0.0}
    golds = {item.question.answers[0] for item in ITEMS}
    answers = {
        request.last.split("Candidate answer: ")[1].split("\n")[0] for request in judge.requests
    }
    assert answers & golds


def test_what_a_model_said_of_an_exact_match_is_kept(tmp_path: Path) -> None:
    judge = ScriptedEngine(lambda request: NO, name="critic")
    search(tmp_path, judge, config=BOTH.model_copy(update={"judge_all": True}))
    asked, before = len(judge.requests), nodes_of(tmp_path)
    search(tmp_path, judge)
    assert len(judge.requests) == asked
    assert nodes_of(tmp_path) == before


def test_a_judge_that_pauses_says_so_and_keeps_to_the_patience(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine_limits, "sleep", lambda seconds: asyncio.sleep(0))
    heard = Heard()
    busy = ScriptedEngine(
        lambda request: NO,
        faults=lambda request: EngineBusyError("status 429") if request.call < 3 else None,
    )
    search(tmp_path / "a", busy, heard=heard)
    said = [line for line in heard.said if line.startswith("judge")]
    assert said[0] == "judge critic: paused for 1 s: status 429"
    assert "answers again" in heard.said[-1]
    gone = ScriptedEngine(faults=lambda request: EngineBusyError("status 429"))
    with pytest.raises(EngineBusyError):
        search(tmp_path / "b", gone, limits=Limits(patience_s=0.004))


@pytest.mark.parametrize("again", [search, judge_anew], ids=["search", "replay"])
@pytest.mark.parametrize("failing", ["unreadable", "refused", "cut"])
def test_unscored_is_not_for_ever(tmp_path: Path, failing: str, again) -> None:
    replies = {"unreadable": "hm", "refused": NO, "cut": Completion('{"verdict": ', "length")}
    fault = EngineReplyError("status 400: unknown field") if failing == "refused" else None
    bad = ScriptedEngine(lambda r: replies[failing], faults=lambda r: fault, name="critic")
    assert search(tmp_path, bad).unscored_nodes > 0
    good = ScriptedEngine(lambda request: NO, name="critic")
    assert again(tmp_path, good, limits=Limits()).unscored_nodes > 0
    assert good.requests == [], "what failed is not asked again unless that is wanted"
    assert again(tmp_path, good, limits=Limits(retry_failed=True)).unscored_nodes == 0
    distinct = {
        (tree.question.id, node.answer)
        for tree in load_trees(tmp_path)
        for node in tree.nodes
        if node.verdicts[0].value == 0.0
    }
    assert len(good.requests) == len(distinct), "one good reply for each is enough"
    assert again(tmp_path, good, limits=Limits(retry_failed=True)).unscored_nodes == 0
    assert len(good.requests) == len(distinct), "and what is scored stays"


def test_a_judge_that_stays_unreadable_is_asked_anew_each_time(tmp_path: Path) -> None:
    bad = ScriptedEngine(lambda request: "hm", name="critic")
    search(tmp_path, bad)
    first = {request.key for request in bad.requests}
    bad.requests.clear()
    search(tmp_path, bad, limits=Limits(retry_failed=True))
    again = {request.key for request in bad.requests}
    assert len(first) == len(again) > 0
    assert not first & again, "the same request would give the same reply"


def test_the_choices_reach_the_engines(monkeypatch) -> None:
    built: list[dict[str, Any]] = []
    monkeypatch.setattr(setup, "load_limited_engine", lambda *_, **options: built.append(options))
    trusted: list[Any] = []

    def load(*_: Any, **options: Any) -> ScriptedEngine:
        trusted.append(options.get("trust_remote_code"))
        return ScriptedEngine()

    monkeypatch.setattr(setup, "load_engine", load)
    limits = Limits(requests_in_flight=5, patience_s=11)
    EngineChoice("m", ("http://a/v1",), timeout_s=7).load_limited(limits, print)
    EngineChoice("j", ("http://b/v1",), timeout_s=9).load_judge(limits, print)
    name, local = EngineChoice("folder").load_judge(limits, print)
    assert [options["timeout_s"] for options in built] == [7, 9]
    assert [options["on_event"] for options in built] == [print, print]
    limiters = [*(options["limiter"] for options in built), local.limiter]
    assert [one.admission.max_requests for one in limiters] == [5, 64, 64]
    assert {one.policy.patience_s for one in limiters} == {11}
    assert name == "folder"
    for trust in (True, False):
        wanted = JudgeSettings(judge_model=("folder",), trust_remote_code=trust)
        (choice,) = judge_choices(wanted)
        choice.load_judge(limits, print)
    assert trusted == [None, True, None]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_is_a_time(seconds: float) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        EngineChoice("m", ("http://b/v1",), timeout_s=seconds)


def test_a_judge_that_nobody_asks_is_an_error() -> None:
    with pytest.raises(UsageError, match="would not be asked"):
        check_judges(("m",), ("exact",))
    check_judges(("m",), ("exact", "llm"))
    check_judges((), ("exact",))


def test_pointing_is_scored_where_it_has_weight_and_needs_no_call(tmp_path: Path) -> None:
    full = CONFIG.model_copy(update={"growth": "full"})
    weighed = full.model_copy(update={"pointing_weight": 0.4})

    def grow(config: SearchConfig, sampler: ScriptedEngine) -> list[Tree]:
        with Store(tmp_path) as store:
            asyncio.run(run_search(ITEMS, sampler, store, config, tokenizer=TOKENIZER))
        return load_trees(tmp_path)

    plain = grow(full, engine(ITEMS, right_share=0.3))
    again = ScriptedEngine()
    trees = grow(weighed, again)
    assert again.requests == [], "another weight scores what was recorded"
    seen: set[object] = set()
    for before, after in zip(plain, trees, strict=True):
        gold = set(after.question.gold_pieces or ())
        assert gold
        assert before.outcome == after.outcome
        assert after.nodes[0] == before.nodes[0], "a direct answer points at nothing"
        for old, new in zip(before.nodes[1:], after.nodes[1:], strict=True):
            kept = {piece for step in after.path(new.id)[1:] for piece in step.kept}
            value = 2 * len(kept & gold) / (len(kept) + len(gold))
            assert new.verdicts[:-1] == old.verdicts
            assert (new.verdicts[-1].judge, new.verdicts[-1].value) == (
                "pointing",
                pytest.approx(value, abs=1e-6),
            )
            assert new.score == pytest.approx(0.6 * (old.score or 0) + 0.4 * value, abs=1e-5)
            seen |= {(old.score, value > 0), ("in part", 0 < value < 1), new.depth}
    assert {(0.0, True), (0.0, False), (1.0, True), ("in part", True), 1, 2} <= seen
    with Store(tmp_path) as store:
        assert store.get("config")["pointing_weight"] == 0.4
        assert asyncio.run(replay(store, full))[0] == plain, "without it all is as before"


def test_a_question_without_gold_pieces_is_scored_by_its_judges_alone(tmp_path: Path) -> None:
    weighed = CONFIG.model_copy(update={"pointing_weight": 0.4})
    items = [replace(item, gold_spans=None) for item in ITEMS]
    with Store(tmp_path) as store:
        asyncio.run(run_search(items, engine(items), store, weighed, tokenizer=TOKENIZER))
    nodes = [node for tree in load_trees(tmp_path) for node in tree.nodes]
    assert {verdict.judge for node in nodes for verdict in node.verdicts} == {"exact"}
    assert {node.score for node in nodes} <= {0.0, 1.0}
