"""A model is trained on the very tokens that it is asked with, whatever its template does."""

from __future__ import annotations

import datetime

import pytest
from chat_templates import FAMILIES, Family, make_tokenizer

from agenticlu.core.records import Message
from agenticlu.engines.local.chat import ChatFormat
from agenticlu.training.encode import Encoder

TALK = [
    {"role": "system", "content": "Read the document."},
    {"role": "user", "content": "Mara keeps the lamp. Question: who keeps the lamp?"},
    {"role": "assistant", "content": "Which lamp is meant?"},
    {"role": "user", "content": "So, who?"},
    {"role": "assistant", "content": "Answer: Mara"},
]
REPLIES = [i for i, message in enumerate(TALK) if message["role"] == "assistant"]


def as_messages(rows: list[dict[str, str]]) -> list[Message]:
    return [Message(role=row["role"], content=row["content"]) for row in rows]


@pytest.mark.parametrize("name", FAMILIES)
def test_training_rows_hold_the_prompts_of_inference(tokenizer, name: str) -> None:
    family = FAMILIES[name]
    own = make_tokenizer(tokenizer, family)
    chat, encoder = ChatFormat(own, name), Encoder(own)
    traces = encoder.encode_turns(TALK)
    assert len(traces) == (2 if family.rewrites else 1)
    spans = [(trace, *span) for trace in traces for span in trace.spans]
    assert len(spans) == len(REPLIES)
    for (trace, start, end), index in zip(spans, REPLIES, strict=True):
        prompt = chat.encode(as_messages(TALK[:index]))
        assert trace.ids[:start].tolist() == prompt
        assert TALK[0]["content"] in own.decode(prompt), "the system turn is shown"
        said = own.decode(trace.ids[start:end].tolist())
        assert TALK[index]["content"] in said
        assert trace.ids[end - 1] == own.eos_token_id, "it is learnt where a reply ends"
        assert (trace.ids[start:end] == own.eos_token_id).sum() == 1
    # Nothing but replies is learnt: no token of a user's or the system's turn.
    learnt = " ".join(own.decode(trace.ids[trace.mask].tolist()) for trace in traces)
    assert "document" not in learnt
    assert "So, who" not in learnt


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_has_the_ids_that_transformers_gives_it(
    tokenizer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    family = FAMILIES[name]
    own = make_tokenizer(tokenizer, family)
    chat = ChatFormat(own, name)
    rows = [dict(row) for row in TALK[:4]]
    if not chat.system_role:
        rows[1]["content"] = f"{rows[0]['content']}\n\n{rows[1]['content']}"
        rows.pop(0)
    if name == "content in parts":
        rows = [{**row, "content": [{"type": "text", "text": row["content"]}]} for row in rows]

    class Pinned(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Pinned:
            return cls(2024, 7, 26)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Pinned)
    ids = own.apply_chat_template(
        rows, add_generation_prompt=True, return_dict=False, enable_thinking=False
    )
    assert chat.encode(as_messages(TALK[:4])) == ids


def test_the_families_are_what_they_are_meant_to_be(tokenizer) -> None:
    """Guards the test above: the templates differ where families do."""
    chats = {
        name: ChatFormat(make_tokenizer(tokenizer, one), name) for name, one in FAMILIES.items()
    }
    assert {name for name, chat in chats.items() if not chat.system_role} == {"Gemma"}
    prompts = {name: chat.render(as_messages(TALK[:4])) for name, chat in chats.items()}
    assert "Today: 26 Jul 2024" in prompts["Llama 3"]
    assert "Current date: 2024-07-26" in prompts["gpt-oss"]
    assert prompts["SmolLM2"].count("<|im_start|>") == 5
    assert prompts["Qwen3"].endswith("<think>\n\n</think>\n\n")
    assert prompts["DeepSeek R1"].endswith("<think>\n")
    no_system = chats["Granite"].render(as_messages(TALK[1:2]))
    assert "July 26, 2024" in no_system


def test_a_begin_token_is_written_once(tokenizer) -> None:
    doubled = make_tokenizer(
        tokenizer,
        Family("{{ bos_token }}" + FAMILIES["Gemma"].template, ("<bos>",), "<x>", "<bos>"),
    )
    asked = as_messages(TALK[:2])
    assert ChatFormat(doubled, "doubled").render(asked).count("<bos>") == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_choice_is_scored_where_a_reply_has_its_first_word(tokenizer, name: str) -> None:
    own = make_tokenizer(tokenizer, FAMILIES[name])
    chat = ChatFormat(own, name)
    opening = chat.encode_to_score(as_messages(TALK[:2]), ("yes", "no"))
    prompt = chat.encode(as_messages(TALK[:2]))
    assert opening[: len(prompt)] == prompt
    head = own.decode(opening[len(prompt) :])
    assert head.strip() == {
        "gpt-oss": "<|channel|>final<|message|>", "DeepSeek R1": "</think>",
    }.get(name, "")  # fmt: skip
    firsts = chat.first_tokens(("yes", "no"))
    assert {own.decode(ids[:1]).strip()[:1] for ids in firsts.values()} == {"y", "n"}


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% if %}", "Expected an expression"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{{ messages[0].nothing.at_all }}", "no attribute"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "end"),
    ],
)
def test_a_broken_template_is_an_error_in_words(
    tokenizer, monkeypatch: pytest.MonkeyPatch, template: str, reason: str
) -> None:
    import threading

    from agenticlu.core.errors import EngineError, TrainingError
    from agenticlu.engines.local import chat

    monkeypatch.setattr(chat, "TEMPLATE_S", 0.3)
    broken = make_tokenizer(tokenizer, Family(template, (), "<x>"))
    with pytest.raises(EngineError, match=reason) as caught:
        ChatFormat(broken, "some model").render(as_messages(TALK[:2]))
    assert "some model" in caught.value.message
    with pytest.raises(TrainingError, match=reason):
        Encoder(broken).encode_turns(TALK)
    left = [one for one in threading.enumerate() if one.name == "agenticlu-template"]
    for thread in left:
        thread.join(5)
    assert not any(thread.is_alive() for thread in left), "an endless template is stopped"


def test_rows_of_a_template_that_rewrites_become_a_unit_for_each_reply(tokenizer) -> None:
    from agenticlu.training.encode import EncodeReport, encode_rows

    row = {"id": "r", "document_id": "d", "messages": TALK}
    for name, count in (("Qwen3", 2), ("SmolLM2", 1)):
        own = make_tokenizer(tokenizer, FAMILIES[name])
        report = EncodeReport()
        units = list(encode_rows(iter([row]), Encoder(own), "sft", max_tokens=1000, report=report))
        assert len({unit.id for unit in units}) == count
        assert {unit.document_id for unit in units} == {"d"}
        assert ("rewrites" in report.summary()) == (count == 2)
