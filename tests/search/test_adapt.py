"""What a search chooses by itself: the view by the window, the grounding by the cache."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from made_trees import load_trees
from scripted_world import CONFIG, TOKENIZER, corpus, engine, export, plain

from agenticlu.core.errors import BudgetExceededError, EngineReplyError, EngineUnreachableError
from agenticlu.data.corpus import build_item
from agenticlu.engines.base import Capabilities
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.search import SearchConfig, adapt
from agenticlu.search.adapt import Chooser, Facts
from agenticlu.search.cost import PromptSizes
from agenticlu.search.grounding import MANY_REQUEST
from agenticlu.search.plan import build_plan, load_measured
from agenticlu.search.run import Limits, Listener, Shard, replay, run_search
from agenticlu.search.settings import load_run
from agenticlu.search.shards.merge import merge_runs
from agenticlu.search.store import Store

WINDOW = 2650
"""Holds the short document beside the dialogue, not the long one."""


def mixed_corpus():
    """A document of twenty facts and one of four, with two questions each."""
    items = corpus(1, 2)
    text = items[0].document.text.replace("book 0", "book 9")[:200]
    for number in range(2):
        row = {"context": text, "question": f"What is item{number} of book 9?", "answers": ["x"]}
        items.append(build_item(row, len(items), "scripted"))
    return items


ITEMS = mixed_corpus()
LONG, SHORT = ITEMS[0].document.id, ITEMS[-1].document.id


class Heard(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def search(folder: Path, sampler, config: SearchConfig = CONFIG, items=ITEMS, **options):
    with Store(folder) as store:
        return asyncio.run(
            run_search(items, sampler, store, config, tokenizer=TOKENIZER, **options)
        )


def sampler(items=ITEMS, *, writes_lines: bool = True, **options) -> ScriptedEngine:
    """The scripted world's engine; it may also write the lines that `scan-many` asks for."""
    one = engine(items, tokenizer=TOKENIZER, **options)
    plain_replies = one.replies

    def reply(request: ScriptedRequest):
        if MANY_REQUEST not in request.last:
            return plain_replies(request)
        if not writes_lines:
            return "Yes, it does."
        if "The lamp in the hall" in request.last:
            return "1. yes\n2. yes\n3. no"
        texts = request.last.split("\n1. ")[1].count("\n") + 1
        return "\n".join(f"{i}. {'yes' if i % 2 else 'no'}" for i in range(1, texts + 1))

    one.replies = reply
    return one


def views(folder: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for tree in load_trees(folder):
        found.setdefault(tree.document_id, set()).add(tree.chosen["view"])
    return found


def test_a_document_that_fits_is_read_whole(tmp_path: Path):
    heard = Heard()
    one = sampler(context_tokens=WINDOW)
    summary = search(tmp_path / "auto", one, progress=heard)
    assert summary.as_dict()["chosen"]["view"] == {"document": 2, "kept": 2}
    assert views(tmp_path / "auto") == {SHORT: {"document"}, LONG: {"kept"}}
    (line,) = [said for said in heard.said if "window" in said]
    assert f"{WINDOW:,} tokens" in line
    assert "--view kept" in line
    for document, view in ((SHORT, "document"), (LONG, "kept")):
        told = CONFIG.model_copy(update={"view": view, "grounding": "scan"})
        items = [item for item in ITEMS if item.document.id == document]
        search(tmp_path / view, sampler(items, context_tokens=WINDOW), told, items)
        ours = [tree for tree in load_trees(tmp_path / "auto") if tree.document_id == document]
        assert [t.nodes for t in plain(ours)] == [
            t.nodes for t in plain(load_trees(tmp_path / view))
        ]


def test_a_document_that_does_not_fit_after_all_is_shown_by_its_kept_pieces(tmp_path: Path):
    class Boaster(ScriptedEngine):
        async def capabilities(self, *wanted) -> Capabilities:
            return Capabilities(context_tokens=100_000, prefix_reuse_from_tokens=1)

    config = CONFIG.model_copy(update={"top_k": 1, "depth": 1})
    one = sampler(kind=Boaster, context_tokens=300)
    summary = search(tmp_path, one, config)
    assert views(tmp_path) == {SHORT: {"document"}, LONG: {"kept"}}
    assert "failed" not in summary.outcomes
    assert summary.calls["failed"] == 2, "one refusal for each question about the long document"
    before = load_trees(tmp_path)
    silent = sampler(kind=Boaster, context_tokens=300)
    search(tmp_path, silent, config)
    assert silent.requests == []
    with Store(tmp_path, writable=False) as store:
        trees, summary = asyncio.run(replay(store))
    assert trees == before == load_trees(tmp_path)
    told = config.model_copy(update={"view": "document"})
    summary = search(tmp_path / "told", sampler(kind=Boaster, context_tokens=300), told)
    assert summary.outcomes["failed"] == 2, "what the settings say is not changed"


def test_an_unknown_window_shows_the_kept_pieces_and_says_so(tmp_path: Path):
    heard = Heard()
    search(tmp_path, sampler(), progress=heard)
    assert views(tmp_path) == {SHORT: {"kept"}, LONG: {"kept"}}
    (line,) = [said for said in heard.said if "window" in said]
    assert "--window" in line


@pytest.mark.parametrize("other", [{}, {"context_tokens": 100_000, "prefix_reuse_from_tokens": 1}])
def test_a_resumed_run_chooses_as_it_was_begun(tmp_path: Path, other: dict[str, int]):
    """Whatever server it goes on with: data sets are equal to the byte, and nothing is paid twice.

    The other server would have every document read whole, or none, and pieces scanned.
    """
    coarse = {"context_tokens": WINDOW, "prefix_reuse_from_tokens": 130}
    search(tmp_path / "whole", sampler(**coarse))
    chosen = {tuple(tree.chosen.items()) for tree in load_trees(tmp_path / "whole")}
    assert len(chosen) == 2
    assert {dict(one)["grounding"] for one in chosen} == {"scan-many"}
    with pytest.raises(BudgetExceededError):
        search(tmp_path / "cut", sampler(**coarse), limits=Limits(parallel=2, max_tokens=9000))
    assert 0 < len(load_trees(tmp_path / "cut")) < len(ITEMS), "cut too early, or too late"
    search(tmp_path / "cut", sampler(**other))
    assert plain(load_trees(tmp_path / "cut")) == plain(load_trees(tmp_path / "whole"))
    assert export(tmp_path / "cut", tmp_path / "a") == export(tmp_path / "whole", tmp_path / "b")


def test_a_finished_run_needs_no_server(tmp_path: Path):
    search(tmp_path, sampler(context_tokens=WINDOW))

    class Gone(ScriptedEngine):
        async def capabilities(self, *wanted) -> Capabilities:
            raise EngineUnreachableError("nobody there")

    before = load_trees(tmp_path)
    search(tmp_path, Gone())
    assert load_trees(tmp_path) == before
    with pytest.raises(EngineUnreachableError):
        search(tmp_path / "new", Gone(), limits=Limits(patience_s=0))


def test_a_replay_and_a_merge_keep_what_was_chosen(tmp_path: Path):
    search(tmp_path / "whole", sampler(context_tokens=WINDOW))
    with Store(tmp_path / "whole", writable=False) as store:
        trees, summary = asyncio.run(replay(store))
        assert not summary.incomplete
        assert trees == load_trees(tmp_path / "whole")
    # Two shards on servers with other windows: each tree is replayed as it was grown.
    for number, window in enumerate((WINDOW, 100_000)):
        one = sampler(context_tokens=window)
        search(tmp_path / f"{number}", one, shard=Shard(number, 2))
    merge_runs(tmp_path / "merged", [str(tmp_path / "0"), str(tmp_path / "1")])
    with Store(tmp_path / "merged", writable=False) as store:
        trees, summary = asyncio.run(replay(store))
        assert not summary.incomplete
        assert trees == list(store.trees())
        assert len(trees) == len(ITEMS)


def test_an_older_run_goes_on_under_its_own_settings(tmp_path: Path):
    """Runs from before anything was chosen read the kept pieces, and trees told nothing of it."""
    told = CONFIG.model_copy(update={"view": "kept", "grounding": "scan"})
    search(tmp_path, sampler(context_tokens=100_000), told)
    with Store(tmp_path) as store:
        old = {name: value for name, value in store.get("config").items() if name != "reuse_from"}
        store.put(config=old)
    silent = sampler(context_tokens=100_000)
    search(tmp_path, silent)
    assert silent.requests == []
    assert (load_run(tmp_path)[0].view, load_run(tmp_path)[0].grounding) == ("kept", "scan")


def test_grounding_moves_where_short_prefixes_are_read_again(tmp_path: Path):
    """What is chosen costs less, counted by an engine with such a cache."""
    config = CONFIG.model_copy(update={"view": "kept", "growth": "full", "branching": 6})
    cost = {}
    for name, grounding in (("auto", "auto"), ("scan", "scan")):
        heard = Heard()
        one = sampler(prefix_reuse_from_tokens=528)
        told = config.model_copy(update={"grounding": grounding})
        summary = search(tmp_path / name, one, told, progress=heard)
        cost[name] = summary.usage["ground"].computed_tokens
        told_so = [line for line in heard.said if "528" in line]
        assert len(told_so) == (name == "auto")
        assert ("probe" in summary.usage) == (name == "auto")
    assert {tree.chosen["grounding"] for tree in load_trees(tmp_path / "auto")} == {"scan-many"}
    assert cost["auto"] * 1.25 < cost["scan"]


@pytest.mark.parametrize(
    ("cache", "writes_lines", "pieces", "wanted"),
    [
        ({"prefix_reuse_from_tokens": 1}, True, 131, "scan"),
        ({"prefix_reuse_from_tokens": 64}, True, 131, "scan"),
        ({"prefix_reuse_from_tokens": 528}, True, 8, "scan-many"),
        ({"prefix_reuse_from_tokens": 2096}, True, 131, "scan-many"),
        ({"prefix_reuse_from_tokens": 2096}, True, 600, "shortlist"),
        ({"prefix_reuse_from_tokens": 2096}, False, 131, "shortlist"),
        ({"prefix_reuse_from_tokens": 2096}, False, 16, "scan"),
        ({"prefix_reuse_from_tokens": math.inf}, True, 131, "scan-many"),
        ({}, True, 131, "scan"),
    ],
    ids=str,
)
def test_the_grounding_that_is_chosen(cache, writes_lines: bool, pieces: int, wanted: str):
    config = SearchConfig()
    facts = Facts.of(Capabilities(**cache), config).model_copy(
        update={"writes_lines": writes_lines}
    )
    sizes = PromptSizes(system=20, requests=dict.fromkeys(("clarify", "point"), 20), instruction=25)
    assert Chooser(config, facts, sizes).choose([480] * pieces)["grounding"] == wanted


def test_a_model_that_writes_no_lines_is_found_out_once(tmp_path: Path):
    heard = Heard()
    one = sampler(writes_lines=False, prefix_reuse_from_tokens=130)
    search(tmp_path, one, progress=heard)
    assert sum("--piece-tokens 130" in line for line in heard.said) == 1
    assert {tree.chosen["grounding"] for tree in load_trees(tmp_path)} == {"scan"}
    assert sum(MANY_REQUEST in request.last for request in one.requests) == 1


@pytest.mark.parametrize("stumbles", [False, True])
@pytest.mark.parametrize("worth", [False, True])
def test_a_cache_is_measured_where_grounding_could_cost_far_more(
    tmp_path: Path, monkeypatch, stumbles: bool, worth: bool
):
    class Unmeasured(ScriptedEngine):
        wanted: tuple[str, ...] = ()

        async def capabilities(self, *wanted) -> Capabilities:
            self.wanted += wanted
            measures = "prefix_reuse_from_tokens" in wanted
            if stumbles and measures:
                raise EngineReplyError("replied without a message")
            return Capabilities(prefix_reuse_from_tokens=130 if measures else None)

    monkeypatch.setattr(adapt, "MEASURED_FROM_TOKENS", 1000 if worth else 1_000_000)
    one = sampler(kind=Unmeasured)
    search(tmp_path, one)
    assert ("prefix_reuse_from_tokens" in one.wanted) == worth
    moved = worth and not stumbles
    groundings = {tree.chosen["grounding"] for tree in load_trees(tmp_path)}
    assert groundings == {"scan-many" if moved else "scan"}


def test_the_settings_say_what_the_cache_does():
    told = SearchConfig(reuse_from=0)
    assert Facts.of(Capabilities(prefix_reuse_from_tokens=1), told).block == math.inf
    unknown = Facts.of(Capabilities(), SearchConfig())
    assert (unknown.block, unknown.window_tokens) == (1, None)


@pytest.mark.parametrize("block", [1, 110, 528])
def test_the_plan_chooses_and_counts_as_the_run_does(tmp_path: Path, block: int):
    config = CONFIG.model_copy(update={"growth": "full", "branching": 2})
    cache = {"context_tokens": WINDOW, "prefix_reuse_from_tokens": block}
    total = search(tmp_path, sampler(**cache), config).total
    facts = Facts.of(Capabilities(**cache), config)
    lengths = load_measured(tmp_path)
    plan = build_plan(ITEMS, TOKENIZER, config, measured=lengths, facts=facts)
    trees = load_trees(tmp_path)
    for name, counts in plan.chosen.items():
        documents = {tree.document_id: tree.chosen[name] for tree in trees}
        assert counts == {v: list(documents.values()).count(v) for v in documents.values()}
    probes = int(block > 1)
    assert plan.most.total_requests == total.requests - probes
    computed = total.prompt_tokens - total.cached_tokens
    assert plan.most.prefill_tokens == pytest.approx(computed, rel=0.3)
