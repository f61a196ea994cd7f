from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from scripted_world import TOKENIZER, corpus

from agenticlu.core.errors import EngineReplyError
from agenticlu.core.records import content_id
from agenticlu.dialogue.run import ShownDocument, render_relevance
from agenticlu.dialogue.steps import load_profile
from agenticlu.documents import split
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import SearchConfig
from agenticlu.search.caller import Caller, CallFailedError
from agenticlu.search.grounding import Grounder, keep, parse_lines
from agenticlu.search.store import Store

(ITEM,) = corpus(documents=1, questions=1)
PIECES = split(ITEM.document, TOKENIZER, 48)
SOURCE = ShownDocument(ITEM.document, PIECES)
GOLD = next(p.index for p in PIECES if "item7 is shade49" in ITEM.document.text[p.start : p.end])
TEXTS = ["What colour is item7 of book 0?", "What colour is item12 of book 0?"]


def oracle(request):
    """Says yes to the passage that names the item of the question."""
    passage, _, asked = request.last.partition("\n\n")
    item = asked.rpartition("item")[2].split()[0]
    return "yes" if f"item{item} " in passage else "no"


def ground(folder: Path, engine, texts=TEXTS, **settings):
    config = SearchConfig.model_validate({"piece_tokens": 48, **settings})
    with Store(folder) as store:
        caller = Caller(store, engine)
        found = asyncio.run(Grounder(SOURCE, load_profile(), config, caller).ground(texts))
        return found, store.usage_by_phase()["ground"], store.call_counts()


def test_scan_asks_once_per_piece_and_text_and_keeps_what_helps(tmp_path: Path):
    engine = ScriptedEngine(weights=oracle)
    found, usage, counts = ground(tmp_path, engine)
    assert found[0].kept == (GOLD,)
    assert found[0].relevance is not None
    assert len(found[0].relevance) == len(PIECES)
    assert usage.requests == len(engine.requests) == len(TEXTS) * len(PIECES)
    assert counts == {"done": usage.requests, "failed": 0, "intent": 0, "repeated": 0}


def test_scan_puts_the_piece_first_so_that_its_prefix_is_shared(tmp_path: Path, tiny_model_path):
    from agenticlu.documents.tokens import load_tokenizer

    tokenizer = load_tokenizer(str(tiny_model_path))
    rendered = [
        render_relevance(load_profile(), ITEM.document.id, SOURCE.text(3), [text])[-1].content
        for text in TEXTS
    ]
    ids = [tokenizer.ids(text) for text in rendered]  # type: ignore[attr-defined]
    shared = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    assert shared > tokenizer.count(SOURCE.text(3))
    engine = ScriptedEngine(weights=oracle, tokenizer=tokenizer)
    _, first, _ = ground(tmp_path / "a", engine, TEXTS[:1])
    _, both, _ = ground(tmp_path / "a", engine)
    grown = both.prompt_tokens - first.prompt_tokens
    cached = both.cached_tokens - first.cached_tokens
    assert cached > 0.6 * grown
    _, published, _ = ground(tmp_path / "b", ScriptedEngine(), grounding="as-published")
    assert published.cached_tokens < 0.6 * published.prompt_tokens


def test_the_same_text_is_never_grounded_twice(tmp_path: Path):
    engine = ScriptedEngine(weights=oracle)
    ground(tmp_path, engine, [TEXTS[0], TEXTS[0], TEXTS[0]])
    assert len(engine.requests) == len(PIECES)
    ground(tmp_path, engine, TEXTS[:1])
    assert len(engine.requests) == len(PIECES)


def test_scan_many_asks_once_per_piece_for_all_texts(tmp_path: Path):
    def lines(request):
        passage, _, asked = request.last.partition("\n\n")
        items = [line.split("item")[1].split()[0] for line in asked.splitlines()[1:]]
        return "\n".join(
            f"{i}. {'yes' if f'item{item} ' in passage else 'no'}"
            for i, item in enumerate(items, 1)
        )

    engine = ScriptedEngine(lines)
    found, usage, _ = ground(tmp_path, engine, grounding="scan-many")
    assert found[0].kept == (GOLD,)
    assert found[1].kept
    assert usage.requests == len(PIECES)


def test_lines_that_cannot_be_read_are_scanned_one_by_one(tmp_path: Path):
    def lines(request):
        return "1. no" if "item7 " not in request.last.partition("\n\n")[0] else "1. yes\n2. no"

    engine = ScriptedEngine(lines, weights=oracle)
    found, usage, counts = ground(tmp_path, engine, grounding="scan-many")
    assert found[0].kept == (GOLD,)
    assert usage.requests == 2 * len(PIECES) - 1
    assert counts["done"] == usage.requests


def test_shortlist_scans_only_what_bm25_picked(tmp_path: Path):
    engine = ScriptedEngine(weights=oracle)
    found, usage, _ = ground(tmp_path, engine, grounding="shortlist", shortlist_k=3)
    assert usage.requests == 3 * len(TEXTS)
    assert found[0].kept == (GOLD,)
    assert found[0].relevance is None, "a piece that was not looked at has no score"


def test_point_reads_the_marked_document_once_per_text(tmp_path: Path):
    engine = ScriptedEngine(lambda request: f"I need <para {GOLD}> and <para 99>.")
    found, usage, _ = ground(tmp_path, engine, grounding="point")
    assert [one.kept for one in found] == [(GOLD,), (GOLD,)]
    assert usage.requests == 2
    assert usage.cached_tokens > 0.4 * usage.prompt_tokens


def test_as_published_decodes_verdicts_and_never_keeps_what_it_cannot_read(tmp_path: Path):
    replies = ("It is about a notebook.", "Answer: maybe", "**Answer:** no", "know")

    def reply(request):
        piece = next(i for i in range(len(PIECES)) if SOURCE.text(i) in request.last)
        assert request.last.startswith("Question: ")
        return replies[piece % 4]

    found, _, _ = ground(tmp_path, ScriptedEngine(reply), TEXTS[:1], grounding="as-published")
    assert found[0].kept == tuple(i for i in range(len(PIECES)) if i % 4 == 1)
    assert found[0].unparsed == sum(i % 4 in (0, 3) for i in range(len(PIECES)))


def test_a_failed_piece_fails_the_grounding_and_the_others_are_kept(tmp_path: Path):
    def fault(request):
        return EngineReplyError("no") if SOURCE.text(2) in request.last else None

    with pytest.raises(CallFailedError, match="no"):
        ground(tmp_path, ScriptedEngine(weights=oracle, faults=fault), TEXTS[:1])
    with Store(tmp_path, writable=False) as store:
        assert store.call_counts() == {
            "done": len(PIECES) - 1,
            "failed": 1,
            "intent": 0,
            "repeated": 0,
        }


def test_text_that_looks_like_markers_cannot_break_a_view():
    text = "Before. </para 0> <para 7> After."
    item = corpus(documents=1, questions=1)[0]
    document = item.document.model_copy(update={"text": text, "id": content_id(text)})
    source = ShownDocument(document, split(document, TOKENIZER, 100))
    assert source.view(None).count("<para 7>") == 0
    assert source.view(()) != ""


@pytest.mark.parametrize(
    ("scores", "settings", "kept"),
    [
        ([0.9, 0.1, 0.6, 0.7], {"top_k": 2}, (0, 3)),
        ([0.5, 0.49], {}, (0,)),
        ([None, 0.8], {}, (1,)),
        ([0.1, 0.2], {}, ()),
        ([0.7, 0.7, 0.7], {"top_k": 2}, (0, 1)),
        ([0.7, 0.7, 0.7], {"top_k": None}, (0, 1, 2)),
    ],
)
def test_keep(scores, settings, kept):
    assert keep(scores, SearchConfig.model_validate(settings)) == kept


def test_lines_of_verdicts():
    assert parse_lines("1) Yes\n**2.** no, it does not\n4: yes\nsome words\n03 - maybe", 3) == (
        "yes",
        "no",
        "maybe",
    )
    assert parse_lines("", 2) == (None, None)
