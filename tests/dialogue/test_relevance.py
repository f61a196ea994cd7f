from __future__ import annotations

import unicodedata

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


def test_an_index_is_built_once_and_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    monkeypatch.setattr(
        "agenticlu.dialogue.run.search_words", lambda text: built.append(text) or text.split()
    )
    shown = show_document(Document.of("Ada has a kite. " * 40, "kites"), TOKENIZER, 16)
    index = PieceIndex(shown)
    assert built == []
    for _ in range(3):
        index.pick("kite", 2)
    assert len(built) == len(shown.pieces) + 3


def test_words_without_spaces_are_found() -> None:
    lines = [f"第{i}章记载了一条河流和一座古老的磨坊，苍鹭在岸边飞过。" for i in range(30)]
    lines[22] = "水坝由马拉女士出资建造，费用是四十一枚银币，她住在北京。"
    document = Document.of("\n\n".join(lines), "mill")
    shown = show_document(document, TOKENIZER, 24)
    gold = {piece.index for piece in shown.pieces if "马拉" in shown.text(piece.index)}
    assert gold
    assert gold & set(PieceIndex(shown).pick("水坝由谁出资建造？", 3))


DOCUMENTS = {
    "Chinese": (
        "水坝由马拉女士出资建造。",
        "河水从磨坊旁边流过。",
        "苍鹭在岸边飞过。",
        "谁出资建造水坝？",
    ),
    "Japanese": (
        "猫は東京タワーの下に住む。",
        "川は古い水車のそばを流れる。",
        "鷺が岸を飛ぶ。",
        "猫がいる場所は？",
    ),
    "Korean": (
        "수문은 마라의 돈으로 지었다.",
        "강은 오래된 방앗간 옆을 흐른다.",
        "왜가리가 난다.",
        "누구의 돈이 수문을 지었나?",
    ),
    "Thai": ("เขื่อนสร้างด้วยเงินของมารา", "แม่น้ำไหลผ่านโรงสี", "นกกระสาบินไป", "ใครจ่ายเงินสร้างเขื่อน"),
    "Lao": ("ເຂື່ອນສ້າງດ້ວຍເງິນ", "ແມ່ນໍ້າໄຫຼຜ່ານໂຮງສີ", "ນົກບິນໄປ", "ໃຜສ້າງເຂື່ອນ"),
    "Khmer": ("ទំនប់ត្រូវបានសាងសង់ដោយម៉ារ៉ា", "ទន្លេហូរកាត់រោងម៉ាស៊ីន", "បក្សីហោះហើរ", "អ្នកណាសាងសង់ទំនប់"),
    "Burmese": ("ရေကာတာကို မာရာ ဆောက်ခဲ့သည်", "မြစ်သည် စက်နားမှ စီးသည်", "ငှက်ပျံသည်", "ရေကာတာ ဘယ်သူဆောက်သလဲ"),
    "Hindi": (
        "बाँध मारा के धन से बना।",
        "नदी पुरानी चक्की के पास बहती है।",
        "बगुला उड़ गया।",
        "बाँध किसके धन से बना?",
    ),
    "Arabic": (
        "بُنِيَ السَّدُّ بِأَمْوَالِ مَارَا",
        "النهر يجري قرب الطاحونة",
        "طار مالك الحزين",
        "من بنى السد؟ أموال",
    ),
    "Hebrew": ("הסכר נבנה בכספה של מרה", "הנהר זורם ליד הטחנה", "האנפה עפה", "מי מימן את הסכר?"),
    "Turkish": (
        "BARAJI İPEK HANIM YAPTIRDI",
        "Irmak değirmenin yanından akar",
        "Balıkçıl uçtu",
        "İpek'in barajı?",
    ),
    "Greek": ("Το φράγμα ΤΗΣ ΜΑΡΑΣ", "Ο ποταμός κυλά", "Ο ερωδιός πέταξε", "το φραγμα της μαρας;"),
    "German": (
        "DIE GROSSE STRASSE AM WEHR",
        "Der Fluss fließt",
        "Der Reiher flog",
        "Welche große Straße?",
    ),
    "Vietnamese": (
        "Đập nước do bà Mai xây",
        "Sông chảy qua cối xay",
        "Chim bay",
        "Đập nước ai xây?",
    ),
}


@pytest.mark.parametrize("language", DOCUMENTS)
def test_search_finds_the_words_of_a_question_in_every_script(language: str) -> None:
    gold, *others, question = DOCUMENTS[language]
    for form in ("NFC", "NFD"):
        texts = [search_words(text) for text in (*others, gold)]
        scores = Bm25(texts).score(search_words(unicodedata.normalize(form, question)))
        assert best_of(dict(enumerate(scores)), 1) == (len(others),), scores
        assert scores[-1] > 2 * max(scores[:-1])
