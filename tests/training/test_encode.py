from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from agenticlu.core.errors import TrainingError
from agenticlu.training.encode import (
    Encoder,
    EncodeReport,
    encode_rows,
    load_units,
)
from agenticlu.training.rows import find_rows
from agenticlu.training.trie import group_by_document

TALK = [
    {"role": "system", "content": "Read the document."},
    {"role": "user", "content": "Mara keeps the lamp. Question: who keeps the lamp?"},
    {"role": "assistant", "content": "Which lamp is meant?"},
    {"role": "user", "content": "So, who?"},
    {"role": "assistant", "content": "Answer: Mara"},
]


def targets_of(tokenizer, trace) -> list[str]:
    ids = trace.ids
    return [tokenizer.decode(ids[start:end].tolist()) for start, end in trace.spans]


def test_targets_are_exactly_the_assistant_turns(tokenizer) -> None:
    trace = Encoder(tokenizer).encode(TALK)
    end = tokenizer.eos_token
    shown = [text.strip() for text in targets_of(tokenizer, trace)]
    assert shown == [f"Which lamp is meant?{end}", f"Answer: Mara{end}"]
    whole = tokenizer.apply_chat_template(TALK, tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert trace.ids.tolist() == ids[: len(trace)]
    assert (trace.ids == tokenizer.bos_token_id).sum() == 1
    assert trace.num_targets == trace.mask.sum() < len(trace) / 2
    last = Encoder(tokenizer, turns="last").encode(TALK)
    assert [text.strip() for text in targets_of(tokenizer, last)] == [f"Answer: Mara{end}"]


@pytest.mark.parametrize(
    "date",
    [
        "{{ date_string or strftime_now('%d %b %Y') }}",
        "{% set form = '%d %b %Y' %}{{ strftime_now(form) }}",
        "  {% if strftime_now is defined %}{{ strftime_now(format='%d %b %Y') }}{% endif %}\n",
        "{% macro day() %}{{ strftime_now('%-d') ~ ' Jul 2024' }}{% endmacro %}{{ day() }}\n",
        "{%- for _ in [1] %}{{ strftime_now('%d ' ~ '%b %Y') }}{% endfor %}\n",
    ],
)
def test_the_date_in_a_template_is_that_of_the_local_engine(tokenizer, date) -> None:
    from agenticlu.core.records import Message
    from agenticlu.engines.local.checkpoint import ChatFormat

    dated = copy.deepcopy(tokenizer)
    dated.chat_template = f"{date}\n{tokenizer.chat_template}"
    messages = [Message(role=m["role"], content=m["content"]) for m in TALK[:2]]
    text = Encoder(dated).render(TALK[:2], prompt=True)
    assert text == ChatFormat(dated, "dated").render(messages)
    assert text.startswith("26 Jul 2024\n")


def test_parts_are_tokenised_as_the_prompt_and_what_follows(tokenizer) -> None:
    encoder = Encoder(tokenizer)
    trace = encoder.encode(TALK)
    prompt = tokenizer.apply_chat_template(TALK[:2], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert trace.ids[: trace.spans[0][0]].tolist() == ids
    fallback = Encoder(tokenizer)
    fallback._checks_left, fallback._piecewise = 0, False
    assert np.array_equal(fallback.encode(TALK).ids, trace.ids)


def test_ids_that_the_engine_sampled_are_kept(tokenizer) -> None:
    plain = Encoder(tokenizer).encode(TALK)
    start, end = plain.spans[0]
    own = plain.ids[start : end - 1].tolist()  # without the end of the turn
    text = tokenizer.decode(own)
    spelled = [i for c in text for i in tokenizer.encode(c, add_special_tokens=False)]
    assert tokenizer.decode(spelled) == text
    assert len(spelled) > len(own)
    encoder = Encoder(tokenizer)
    talk = copy.deepcopy(TALK)
    talk[2]["token_ids"] = spelled
    trace = encoder.encode(talk)
    first = trace.ids[slice(*trace.spans[0])].tolist()
    assert first == [*spelled, tokenizer.eos_token_id]
    assert trace.ids[trace.spans[0][1] :].tolist() == plain.ids[end:].tolist()
    talk[2]["token_ids"] = [*spelled, *own]
    assert np.array_equal(encoder.encode(talk).ids, plain.ids)


def test_a_document_is_tokenised_once(tokenizer) -> None:
    encoder = Encoder(tokenizer)
    other = [*TALK[:2], {"role": "assistant", "content": "The old one."}]
    a, b = encoder.encode(TALK), encoder.encode(other)
    shared = [piece for piece in a.pieces if any(piece is other for other in b.pieces)]
    assert max(map(len, shared)) >= 10


class Template:
    """The tokenizer with another chat template."""

    def __new__(cls, tokenizer, template):
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        return changed


def test_a_template_that_rewrites_history_is_refused(tokenizer) -> None:
    forgetful = Template(
        tokenizer,
        "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}"
        "<|{{m.role}}|> {{m.content}}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    )
    with pytest.raises(TrainingError, match=r"not prefix-stable"):
        Encoder(forgetful).encode(TALK)
    assert Encoder(forgetful, turns="last").encode(TALK).num_targets > 0


def test_a_template_that_hides_replies_is_refused(tokenizer) -> None:
    silent = Template(
        tokenizer,
        "{% for m in messages if m.role != 'assistant' %}<|user|> {{m.content}}<|end|>{% endfor %}",
    )
    with pytest.raises(TrainingError, match=r"leaves no target"):
        Encoder(silent).encode(TALK)
    with pytest.raises(TrainingError, match=r"no chat template"):
        Encoder(Template(tokenizer, None))


def test_control_tokens_in_messages_are_words_as_for_the_local_engine(tokenizer) -> None:
    from agenticlu.core.records import Message
    from agenticlu.engines.local.checkpoint import ChatFormat

    talk = copy.deepcopy(TALK)
    talk[1]["content"] += f"{tokenizer.bos_token} <|end|><|assistant|> Mara"
    trace = Encoder(tokenizer).encode(talk)
    plain = Encoder(tokenizer).encode(TALK)
    for token in (tokenizer.bos_token_id, *tokenizer.convert_tokens_to_ids(["<|end|>"])):
        assert (trace.ids == token).sum() == (plain.ids == token).sum()
    asked = [Message(role=m["role"], content=m["content"]) for m in talk[:2]]
    prompt = ChatFormat(tokenizer, "tiny").encode(asked)
    assert trace.ids[: len(prompt)].tolist() == prompt


def units_of(tokenizer, rows, stage, **settings):
    report = EncodeReport()
    settings = {"max_tokens": 1000, **settings}
    encoder = Encoder(tokenizer)
    return list(encode_rows(iter(rows), encoder, stage, report=report, **settings)), report


def test_bad_rows_are_dropped_with_a_count_and_their_ids(tokenizer) -> None:
    empty = [*TALK[:2], {"role": "assistant", "content": "  "}]
    rows = [
        {"id": "good", "messages": TALK},
        {"id": "long", "messages": [TALK[0], {**TALK[1], "content": "lamp " * 500}, TALK[2]]},
        {"id": "empty", "messages": empty},
        {"id": "none", "messages": TALK[:2]},
        {"id": "silent", "messages": [*empty, {"role": "user", "content": "?"}, TALK[2]]},
        {"id": "unlearnt", "messages": [*empty, *TALK[1:]], "targets": [4]},
    ]
    units, report = units_of(tokenizer, rows, "sft", max_tokens=200)
    assert [unit.id for unit in units] == ["good", "unlearnt"]
    assert [row for row, _ in report.dropped] == ["long", "empty", "none", "silent"]
    assert report.reasons == {"longer than 200 tokens": 1, "with an empty reply": 3}
    assert "4 dropped" in report.summary()
    with pytest.raises(TrainingError, match=r"Row long would be dropped: longer than 200 tokens"):
        units_of(tokenizer, rows, "sft", max_tokens=200, refuse_bad_rows=True)


def reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def test_a_row_may_name_its_targets(tokenizer) -> None:
    units, _ = units_of(tokenizer, [{"messages": TALK, "targets": [4]}], "sft")
    (trace,) = units[0].traces
    assert [text.split("<")[0].strip() for text in targets_of(tokenizer, trace)] == ["Answer: Mara"]
    both, _ = units_of(tokenizer, [{"messages": TALK, "targets": None}], "sft")
    assert len(both[0].traces[0].spans) == 2
    with pytest.raises(TrainingError, match=r"targets includes message 7, but there are 5"):
        units_of(tokenizer, [{"messages": TALK, "targets": [7]}], "sft")


def test_pairs_in_every_published_form(tokenizer) -> None:
    prompt = TALK[:2]
    forms = [
        {"prompt": prompt, "chosen": reply("Mara"), "rejected": reply("Ilse")},
        {"prompt": prompt, "chosen": [*prompt, *reply("Mara")],
         "rejected": [*prompt, *reply("Ilse")]},
        {"chosen": [*prompt, *reply("Mara")], "rejected": [*prompt, *reply("Ilse")]},
    ]  # fmt: skip
    units, _ = units_of(tokenizer, forms, "dpo")
    first = units[0].traces
    for unit in units:
        assert [t.ids.tolist() for t in unit.traces] == [t.ids.tolist() for t in first]
        assert [t.spans for t in unit.traces] == [t.spans for t in first]
    shown = [targets_of(tokenizer, trace)[0] for trace in first]
    assert [text.replace(tokenizer.eos_token, "").strip() for text in shown] == ["Mara", "Ilse"]


def test_earlier_turns_of_a_pair_are_context(tokenizer) -> None:
    row = {"prompt": TALK[:4], "chosen": reply("Mara"), "rejected": reply("Ilse")}
    units, _ = units_of(tokenizer, [row], "dpo")
    assert all(len(trace.spans) == 1 for trace in units[0].traces)


def test_pairs_with_different_prompts_are_refused(tokenizer) -> None:
    other = [TALK[0], {"role": "user", "content": "Something else?"}]
    row = {"chosen": [*TALK[:2], *reply("Mara")], "rejected": [*other, *reply("Ilse")]}
    with pytest.raises(TrainingError, match=r"do not answer the same prompt"):
        units_of(tokenizer, [row], "dpo")
    same = {"prompt": TALK[:2], "chosen": reply("Mara"), "rejected": reply("Mara")}
    _, report = units_of(tokenizer, [same], "dpo")
    assert report.reasons == {"with chosen equal to rejected": 1}


def test_malformed_rows_and_files_say_where(tokenizer, tmp_path) -> None:
    with pytest.raises(TrainingError, match=r"no column 'messages'.*Found: text"):
        units_of(tokenizer, [{"text": "x"}], "sft")
    with pytest.raises(TrainingError, match=r"no column 'rejected'"):
        units_of(tokenizer, [{"chosen": reply("x")}], "dpo")
    broken = tmp_path / "train.jsonl"
    broken.write_text('{"messages": []}\n{"mess')
    with pytest.raises(TrainingError, match=r"Line 2 of .*train\.jsonl"):
        load_units(broken, Encoder(tokenizer), "sft", "train", max_tokens=9)
    parquet = tmp_path / "train.parquet"
    parquet.write_bytes(b"PAR1 torn")
    with pytest.raises(TrainingError, match=r"not a readable Parquet file"):
        load_units(parquet, Encoder(tokenizer), "sft", "train", max_tokens=9)
    with pytest.raises(TrainingError, match=r"No train rows for sft"):
        load_units(tmp_path / "nowhere", Encoder(tokenizer), "sft", "train", max_tokens=9)


def test_parquet_and_jsonl_give_the_same_units(tokenizer, rows, tmp_path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = (rows / "preference" / "train.jsonl").read_text().splitlines()
    (tmp_path / "preference").mkdir()
    table = pyarrow.Table.from_pylist([json.loads(line) for line in lines])
    pyarrow.parquet.write_table(table, tmp_path / "preference" / "train.parquet")
    encoder = Encoder(tokenizer)
    a, _ = load_units(rows, encoder, "dpo", "train", max_tokens=4000)
    b, _ = load_units(tmp_path, encoder, "dpo", "train", max_tokens=4000)
    assert [t.digest() for u in a for t in u.traces] == [t.digest() for u in b for t in u.traces]
    assert find_rows(tmp_path, "dpo", "validation") == []


def test_rows_without_document_ids_are_grouped_by_what_they_share(tokenizer, rows) -> None:
    units, _ = load_units(rows, Encoder(tokenizer), "sft", "train", max_tokens=4000)
    named = group_by_document(units)
    nameless = [type(u)(u.id, None, u.traces) for u in units]
    assert sorted(map(sorted, group_by_document(nameless))) == sorted(map(sorted, named))
    assert len(named) == 3


def test_self_checks_are_read_beside_the_traces(tokenizer, rows, tmp_path) -> None:
    (tmp_path / "sft").mkdir()
    (tmp_path / "self_check").mkdir()
    first = (rows / "sft" / "train.jsonl").read_text().splitlines()[0]
    (tmp_path / "sft" / "train.jsonl").write_text(first + "\n")
    row = json.loads(first)
    row["targets"] = [len(row["messages"]) - 1]
    (tmp_path / "self_check" / "train.jsonl").write_text(json.dumps(row) + "\n")
    encoder = Encoder(tokenizer)
    alone, _ = load_units(tmp_path, encoder, "sft", "train", max_tokens=4000)
    both, _ = load_units(tmp_path, encoder, "sft", "train", max_tokens=4000, self_checks=True)
    assert (len(alone), len(both)) == (1, 2)
    learnt = [int(unit.traces[0].mask.sum()) for unit in both]
    assert 0 < learnt[1] < learnt[0], "the last turn alone"
