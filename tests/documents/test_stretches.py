"""A long text has the tokens that it has when it is tokenised at once, in less memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from agenticlu.documents import stretches
from agenticlu.documents.stretches import Spans, tokenise
from agenticlu.documents.tokens import FileTokenizer, load_tokenizer

CORPUS = [
    "Ada Larkin built the mill at Wexley in 1802, and her sister kept the accounts.",
    "Die Mühle wurde später verkauft; niemand weiß, an wen.  Zwei    Leerzeichen.",
    "アダは水車小屋を建てた。1802年のことである。",
    "مطحنة القرية بنتها آدا. क्या आप जानते हैं?",
    "def mill(grain):\n    return grain * 2\n\n\n# done\n",
]


def train(model: Any, trainer: Any, **parts: Any) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(model)
    for name, value in parts.items():
        setattr(made, name, value)
    made.train_from_iterator(CORPUS * 4, trainer)
    return made


def bpe(**parts: Any) -> tokenizers.Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return train(models.BPE(unk_token="<unk>"), trainer, **parts)


def llama_like() -> tokenizers.Tokenizer:
    """No pre-tokenizer, so merges could reach over the whole text, and bytes for the rest."""
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    normal = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made = train(models.BPE(unk_token="<unk>"), trainer, normalizer=normal)
    content = json.loads(made.to_str())
    content["model"]["byte_fallback"] = True
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def unigram(scheme: str) -> tokenizers.Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    return train(
        models.Unigram(),
        trainer,
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")]),
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme=scheme),
    )


def word_pieces() -> tokenizers.Tokenizer:
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=["[UNK]"], show_progress=False
    )
    return train(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=normalizers.BertNormalizer(strip_accents=True),
        pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
    )


def with_added() -> tokenizers.Tokenizer:
    made = bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False))
    made.add_tokens([tokenizers.AddedToken("\n\n", lstrip=True), tokenizers.AddedToken("mill")])
    return made


MADE = {
    "byte-level": lambda: bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte-level, prefix": lambda: bpe(
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True),
        normalizer=normalizers.NFC(),
    ),
    "byte-level, no words": lambda: bpe(
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ),
    "llama": llama_like,
    "unigram, always": lambda: unigram("always"),
    "unigram, first": lambda: unigram("first"),
    "unigram, never": lambda: unigram("never"),
    "word pieces": word_pieces,
    "added tokens": with_added,
}


def long_text(seed: int, size: int) -> str:
    chosen = random.Random(seed)
    odd = [
        *(
            "\r\n",
            "\n\n\n",
            "\t",
            " " * 40,
            "a" * 70,
            "😀👩‍👩‍👧",
            "e\u0301o\u0308",
            "\u00a0",
            "-" * 60,
        ),
        *("0123456789" * 5, "\ufffd", "<unk>", "mill\n\nmill", "한국어", "\x00", "ﬁﬂ½"),
    ]
    parts: list[str] = []
    while sum(map(len, parts)) < size:
        words = chosen.choice(CORPUS).split(" ")
        parts.append(" ".join(chosen.choices(words, k=chosen.randint(1, 30))))
        parts.append(chosen.choice(["", " ", "\n", *chosen.sample(odd, 2)]))
    return "".join(parts)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretches, "STRETCH", 2000)
    monkeypatch.setattr(stretches, "OVERLAPS", (150, 500))


@pytest.mark.parametrize("kind", MADE)
def test_stretches_have_the_tokens_of_the_whole(kind: str) -> None:
    made = MADE[kind]()
    tokenizer = FileTokenizer(made, kind)
    for seed in range(8):
        text = long_text(seed, 12_000)
        whole = made.encode(text, add_special_tokens=False)
        assert tokenizer.ids(text) == whole.ids
        assert list(tokenizer.spans(text)) == whole.offsets
        assert tokenizer.count(text) == len(whole)
        assert len(list(tokenise(lambda one: made.encode(one), text))) > 5, "it was cut"


RUNS = ("a", "ab", "ab ", "\n", "日", "😀", "e\u0301", "-=", "7")


@pytest.mark.parametrize("kind", MADE)
def test_runs_without_a_word_are_whole_too(kind: str) -> None:
    made = MADE[kind]()
    tokenizer = FileTokenizer(made, kind)
    knows_all = not kind.startswith(("unigram", "word"))
    for run in RUNS:
        text = "The mill. " + run * (9000 // len(run)) + " The end."
        whole = made.encode(text, add_special_tokens=False)
        spans = list(tokenizer.spans(text))
        # A run of what a tokenizer does not know is one token, however long: then there is no hold.
        if knows_all or max(b - a for a, b in whole.offsets) < 500:
            assert tokenizer.ids(text) == whole.ids, run
            assert spans == whole.offsets, run
        assert spans[:3] == whole.offsets[:3]
        assert spans[-1] == whole.offsets[-1]
        assert {x for a, b in spans for x in range(a, b)} >= {
            x for a, b in whole.offsets for x in range(a, b)
        }


def test_blanks_that_have_no_tokens_are_passed_over() -> None:
    made = MADE["word pieces"]()
    text = "mill " * 300 + " " * 20_000 + "mill " * 300
    spans = FileTokenizer(made, "x").spans(text)
    assert list(spans) == made.encode(text, add_special_tokens=False).offsets


def test_the_bundled_tokenizer_agrees(tiny_model_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_path))
    assert isinstance(tokenizer, FileTokenizer)
    text = long_text(99, 30_000)
    assert tokenizer.spans(text) == tokenizer._tokenizer.encode(text).offsets


def test_spans_are_a_sequence() -> None:
    spans = Spans()
    spans.append(0, 2)
    spans.append(2, 5)
    assert list(spans) == [(0, 2), (2, 5)] == spans
    assert spans[-1] == (2, 5)
    assert spans[:1] == [(0, 2)]
    assert spans != [(0, 2)]
    assert spans != 3


MEASURED = """
import resource, sys
from agenticlu.documents.tokens import load_tokenizer
tokenizer = load_tokenizer(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spans = tokenizer.spans("Qxzv jkw? " * 100_000)
print(len(spans), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_a_token_takes_some_bytes_not_hundreds(tiny_model_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tiny_model_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    num_tokens, taken = map(int, done.stdout.split())
    assert num_tokens > 900_000
    assert taken < 90 * num_tokens, "the tokenizer's own result takes some 350 bytes a token"
