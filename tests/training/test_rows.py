"""Rows of odd shapes: an error that names the row and the message, never a traceback."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from agenticlu.core.errors import TrainingError
from agenticlu.core.files import load_rows
from agenticlu.training.encode import Encoder, encode_rows
from agenticlu.training.rows import find_rows, parse_conversations

REPLY = {"role": "assistant", "content": "Blue."}


def row_of(content="which lamp?", **reply) -> dict:
    return {"messages": [{"role": "user", "content": content}, {**REPLY, **reply}]}


def encode(row: dict, tokenizer):
    return next(encode_rows(iter([{"id": "r", **row}]), Encoder(tokenizer), "sft", max_tokens=999))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (row_of(5), "message 1: content must be a text, not int"),
        (row_of({"a": 1}), "message 1: content must be a text, not dict"),
        (row_of([{"type": "image_url", "image_url": "x"}]), "must be a text, not list"),
        (row_of("a \ud800 b"), r"message 1: .*half a surrogate pair \(U\+D800\) at character 3"),
        (row_of(token_ids=["a"]), "message 2: token_ids must be a list"),
        (row_of(token_ids=[10**12]), "message 2: token_ids must be a list"),
        (row_of(content=None, tool_calls=[{}]), "message 2 has tool_calls, which are not trained"),
        (row_of(function_call={"name": "f"}), "message 2 has function_call, which are"),
        (row_of(token_ids=7), "message 2: token_ids must be a list"),
        ({"messages": "hello"}, "must be a list of messages"),
        ({"messages": {"role": "user"}}, "must be a list of messages"),
        ({"messages": [{"content": "x"}]}, "must be a list of messages"),
        ({**row_of(), "targets": 1}, "targets must be a list of message numbers, not 1"),
        ({**row_of(), "targets": "1"}, "targets must be a list of message numbers"),
        ({**row_of(), "targets": [1.5]}, "targets includes message 1.5"),
        ({"prompt": "a\udc00", "completion": "b"}, "column 'prompt': the text holds half"),
        ({"prompt": "a", "completion": 3}, "column 'completion' must be a list of messages"),
    ],
)
def test_a_malformed_row_is_named(row, words, tokenizer) -> None:
    with pytest.raises(TrainingError, match=f"^Row r: .*{words}"):
        encode(row, tokenizer)


def test_messages_may_be_json_in_a_cell() -> None:
    row = row_of()
    whole = parse_conversations({"messages": json.dumps(row["messages"])}, "sft", "r")
    assert whole == parse_conversations(row, "sft", "r")
    reply = parse_conversations({"prompt": "[{}]", "completion": "[1]"}, "sft", "r")
    assert [one["content"] for one in reply[0][0]] == ["[{}]", "[1]"], "texts are texts"


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".json"])
def test_rows_are_found_whatever_their_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "sft" / f"train{ending}"
    path.parent.mkdir()
    data = json.dumps(row_of()).encode()
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    assert find_rows(tmp_path, "sft", "train") == [path]
    assert list(load_rows(path)) == [row_of()]


def test_parts_of_text_are_one_text(tokenizer) -> None:
    parts = [{"type": "text", "text": "which "}, {"type": "text", "text": "lamp?"}]
    apart, whole = (encode(row_of(content), tokenizer) for content in (parts, "which lamp?"))
    assert apart.traces[0].ids.tolist() == whole.traces[0].ids.tolist()


def test_ids_of_another_tokenizer_are_not_used(tokenizer) -> None:
    foreign = [len(tokenizer) + 5]
    got, plain = (encode(row_of(**ids), tokenizer) for ids in ({"token_ids": foreign}, {}))
    assert got.traces[0].ids.tolist() == plain.traces[0].ids.tolist()


def test_a_message_without_content_is_empty() -> None:
    row = {"messages": [{"role": "user"}, {"role": "assistant", "content": None}]}
    ((messages, first),) = parse_conversations(row, "sft", "r")
    assert [message["content"] for message in messages] == ["", ""]
    assert first == 0
