from __future__ import annotations

import pytest

from agenticlu.core.records import Document
from agenticlu.dialogue.run import (
    Bm25,
    PieceIndex,
    best_of,
    compute_relevance,
    search_words,
    show_document,
)
from agenticlu.documents.tokens import ApproximateTokenizer

TOKENIZER = ApproximateTokenizer()


def test_half_of_maybe_counts() -> None:
    assert compute_relevance({"yes": 0.25, "maybe": 0.5, "no": 0.25}) == 0.5
    assert compute_relevance({"yes": 1.0}) == 1.0


def test_rare_words_and_short_texts_weigh_more() -> None:
    texts = [["the", "kite"], ["the", "kite", "and", "the", "lamp"], ["the", "mill"]]
    kite = Bm25(texts).score(["kite"])
    assert kite[0] > kite[1] > kite[2] == 0.0
    assert Bm25(texts).score(["mill"])[2] > kite[0], "one text holds it, not two"
    assert Bm25(texts).score(["kite", "kite"]) == kite
    assert Bm25([]).score(["kite"]) == []
    assert Bm25([[], ["kite"]]).score(["kite"])[0] == 0.0


@pytest.mark.parametrize(("k", "best"), [(0, ()), (1, (1,)), (2, (1, 2)), (None, (1, 2, 0, 3))])
def test_of_equal_scores_the_first_is_better(k: int | None, best: tuple[int, ...]) -> None:
    assert best_of({0: 0.5, 1: 0.9, 2: 0.9, 3: 0.1}, k) == best


def test_a_document_without_words_is_its_first_pieces() -> None:
    document = Document.of(" ".join("§¶†‡"[i % 4] for i in range(200)), "signs")
    shown = show_document(document, TOKENIZER, 16)
    assert len(shown.pieces) > 4
    assert PieceIndex(shown).pick("What is 7?", 3) == (0, 1, 2)
    assert len(PieceIndex(shown).pick("What?", 99)) == len(shown.pieces)


def test_words_without_spaces_are_found() -> None:
    lines = [f"第{i}章记载了一条河流和一座古老的磨坊，苍鹭在岸边飞过。" for i in range(30)]
    lines[22] = "水坝由马拉女士出资建造，费用是四十一枚银币，她住在北京。"
    document = Document.of("\n\n".join(lines), "mill")
    shown = show_document(document, TOKENIZER, 24)
    gold = {piece.index for piece in shown.pieces if "马拉" in shown.text(piece.index)}
    assert gold
    assert gold & set(PieceIndex(shown).pick("水坝由谁出资建造？", 3))
    assert search_words("수문은 Mara의 돈") == ["수문", "문은", "ma", "ar", "ra", "a의", "돈"]
