from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.errors import ConfigError
from agenticlu.documents.tokens import (
    ApproximateTokenizer,
    FileTokenizer,
    load_tokenizer,
    read_model_hint,
)


@given(st.text(max_size=200))
def test_approximate_spans_cover_the_text(text: str) -> None:
    spans = ApproximateTokenizer().spans(text)
    covered = 0
    for start, end in spans:
        assert start <= covered < end or (start, end) == (start, covered)
        covered = end
    assert covered == len(text)


def test_approximate_count_is_near_four_characters_a_token() -> None:
    text = "The teacher of Greta Dunmore lives near the harbour of Vell. " * 50
    count = ApproximateTokenizer().count(text)
    assert len(text) / 5.5 < count < len(text) / 3.5
    assert "approximate" in ApproximateTokenizer().name


def test_wide_and_rare_characters_count_at_least_one() -> None:
    assert ApproximateTokenizer().count("日本語") == 3
    assert ApproximateTokenizer().count("😀") == 2


def test_bundled_spans_are_characters(tiny_model_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_path))
    text = "Ada lives in Wexley. Ünïcödé 😀 日本"
    spans = tokenizer.spans(text)
    assert len(spans) == tokenizer.count(text)
    assert all(0 <= a <= b <= len(text) for a, b in spans)
    assert spans == sorted(spans)
    assert {i for a, b in spans for i in range(a, b)} >= {
        i for i, char in enumerate(text) if not char.isspace()
    }
    emoji = text.index("😀")
    assert sum(a <= emoji < b for a, b in spans) > 1, "the case has a character of several tokens"


def test_control_tokens_are_plain_text(tiny_model_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_path))
    assert isinstance(tokenizer, FileTokenizer)
    assert "<|end|>" in tokenizer.controls
    assert tokenizer.count("<|end|>") > 1


def test_lone_surrogates_do_no_harm(tiny_model_path: Path) -> None:
    spans = load_tokenizer(str(tiny_model_path)).spans("a\ud800b")
    assert spans[-1] == (2, 3)


def test_a_truncating_tokenizer_file_counts_everything(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    content = json.loads((tiny_model_path / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(str(tmp_path)).count("one two three four five six") > 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt-9", "neither a directory"),
        ("nobody/such-model", "not in the local"),
        ("", "tokenizer.json"),
    ],
)
def test_unknown_tokenizers(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_tokenizer(name or str(tmp_path))
    assert caught.value.hint


def test_broken_tokenizer_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a tokenizer file"):
        load_tokenizer(str(tmp_path))


def test_model_hint(tmp_path: Path) -> None:
    assert read_model_hint(tmp_path, "piece_tokens") is None
    (tmp_path / "agenticlu.json").write_text('{"piece_tokens": 96}')
    assert read_model_hint(tmp_path, "piece_tokens") == 96
    assert read_model_hint(tmp_path, "other") is None
    for bad in ('{"piece_tokens": "96"}', "[1]", "{"):
        (tmp_path / "agenticlu.json").write_text(bad)
        with pytest.raises(ConfigError):
            read_model_hint(tmp_path, "piece_tokens")


def test_other_threads_run_while_a_long_text_is_tokenised(tiny_model_path: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_path))
    text = "Each cask that is rolled over the planks is counted by two clerks. " * 3000
    ticks, done = [0], threading.Event()

    def tick() -> None:
        while not done.wait(0.001):
            ticks[0] += 1

    other = threading.Thread(target=tick)
    other.start()
    assert isinstance(tokenizer, FileTokenizer)
    before = ticks[0]
    long = tokenizer._encode(text)
    meanwhile = ticks[0] - before
    done.set()
    other.join()
    assert meanwhile > 2
    assert long.ids == tokenizer._tokenizer.encode(text, add_special_tokens=False).ids
