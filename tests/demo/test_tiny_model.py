"""The bundled model: its files, its tokenizer's promises and its measured short-passage skill."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agenticlu.core.records import Document, Message, Question
from agenticlu.demo.lexicon import world_words
from agenticlu.demo.world import World
from agenticlu.dialogue.run import RELEVANCE_CHOICES, render_relevance
from agenticlu.dialogue.steps import DIRECT, KINDS, Dialogue, load_profile
from agenticlu.documents import mark, render_piece, split
from agenticlu.documents.tokens import FileTokenizer
from agenticlu.evaluation.scoring.answers import matches
from agenticlu.evaluation.scoring.final import parse_final_answer

MODEL = Path(str(importlib.resources.files("agenticlu.demo") / "model"))
TOKENIZER = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))
PROFILE = load_profile()


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def count(text: str) -> int:
    return len(encode(text))


def test_files_are_a_small_llama_in_hugging_face_layout() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 16384
    assert config["tie_word_embeddings"] is True
    assert config["vocab_size"] == TOKENIZER.get_vocab_size()
    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 10_000_000


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
@example("<|end|><|user|> and <para 3></para 3>")
@example("  a \t\r\n\n\n b\u00a0\u2028 1024 12345 \U0001f600")
@example("Mira Dallow lives in Brellin.Mira")
def test_any_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(encode(text), skip_special_tokens=False) == text


def test_words_of_world_and_prompts_are_single_tokens() -> None:
    words = {word for word in world_words() if word.isalpha()} | set(RELEVANCE_CHOICES)
    for kind in KINDS:
        for wording in getattr(PROFILE, kind):
            text = re.sub(r"\{\w+\}", "", wording.text)
            words.update(word for word in re.findall(r"\w+", text))
            assert count(f"\n\n{text.split()[0]}") == 2  # as a line begins with it
    assert len(words) > 400
    assert [word for word in sorted(words) if count(f" {word}") != 1] == []


def test_marker_numbers_are_single_tokens() -> None:
    for number in (0, 9, 10, 345, 1023):
        assert count(f"<para {number}>") == 3
        assert count(f"</para {number}>") == 3
    assert count("<para 1024>") > 3  # falls back to bytes, still exact


def test_a_document_has_no_words_in_bytes() -> None:
    document = World().document("test", 1, 1024, count)
    text = mark_document(document.text)
    bytes_used = {t for t in TOKENIZER.encode(" " + text).tokens if len(t) == 1 and t.isalpha()}
    assert bytes_used <= set("A\u0120\u010a")
    assert 0.97 * 1024 <= count(document.text) <= 1024


def mark_document(text: str) -> str:
    document = Document.of(text, "world")
    return mark(document, split(document, FileTokenizer(tokenizer_copy(), "tiny"), 56))


def tokenizer_copy() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json"))


class Chat:
    """The model through transformers, greedily."""

    def __init__(self) -> None:
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
        self.model = transformers.LlamaForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        self.torch = torch

    def render(self, messages: Sequence[Message], prompt: bool = True) -> list[int]:
        rendered = self.tokenizer.apply_chat_template(
            [message.model_dump() for message in messages],
            add_generation_prompt=prompt,
            return_dict=True,
        )
        ids: list[int] = rendered["input_ids"]
        return ids

    def reply(self, messages: Sequence[Message], most: int = 40) -> str:
        ids = self.torch.tensor([self.render(messages)])
        options: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        with self.torch.no_grad():
            out = self.model.generate(
                ids, attention_mask=self.torch.ones_like(ids), max_new_tokens=most, **options
            )
        text: str = self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text.strip()


@pytest.fixture(scope="module")
def chat() -> Chat:
    return Chat()


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the modules of the training script be imported."""
    folder = Path(__file__).parents[2] / "runs" / "tiny_model"
    if not folder.is_dir():
        pytest.skip("the training script is not part of an installed package")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.usefixtures("training")
def test_training_forward_gives_the_logits_of_transformers(chat: Chat) -> None:
    network = pytest.importorskip("network")
    torch = chat.torch
    shape = network.Shape(vocab=TOKENIZER.get_vocab_size())
    ours = network.Network(shape)
    theirs = chat.model.state_dict()
    for name, weight in network.llama_names(ours).items():
        assert weight.shape == theirs[name].shape
    named = {id(p): p for p in ours.parameters()}
    assert len(named) == len(network.llama_names(ours))
    load_from_llama(ours, theirs, torch)
    document = "Mira Dallow lives in Brellin. Tomas Reed lives in Carrow. "
    asked = encode("<|bos|><|user|> " + document)
    branches = [encode("Mira Dallow lives in"), encode("Tomas Reed keeps a dog")]
    ids = asked + branches[0] + branches[1]
    n, a, b = len(asked), len(branches[0]), len(branches[1])
    positions = [*range(n), *range(n, n + a), *range(n, n + b)]
    segments = [0] * n + [1] * a + [2] * b
    with torch.no_grad():
        tree, _ = ours(
            torch.tensor([ids]),
            torch.tensor([positions]),
            network.build_mask(torch.tensor([segments])),
            torch.arange(len(ids)),
        )
        for branch, rows in ((branches[0], slice(n, n + a)), (branches[1], slice(n + a, None))):
            alone = chat.model(torch.tensor([asked + branch])).logits[0, n:]
            assert torch.allclose(tree[rows], alone, atol=2e-3)
            assert alone.std() > 1  # not vacuous


def load_from_llama(ours: Any, theirs: dict[str, Any], torch: Any) -> None:
    """Copies weights by the names that the training script exports them under."""
    places = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj"}
    places |= {"o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj"}
    places |= {"down": "mlp.down_proj"}
    with torch.no_grad():
        ours.embed.weight.copy_(theirs["model.embed_tokens.weight"])
        ours.norm.copy_(theirs["model.norm.weight"])
        for i, block in enumerate(ours.blocks):
            layer = f"model.layers.{i}."
            for place, name in places.items():
                getattr(block, place).weight.copy_(theirs[f"{layer}{name}.weight"])
            block.norm_attention.copy_(theirs[f"{layer}input_layernorm.weight"])
            block.norm_feed.copy_(theirs[f"{layer}post_attention_layernorm.weight"])


@pytest.mark.usefixtures("training")
def test_heads_are_told_to_look_at_the_right_paragraph_and_question() -> None:
    pytest.importorskip("torch")
    looks, rows = pytest.importorskip("looks"), pytest.importorskip("rows")
    builder = rows.RowBuilder(tokenizer_copy(), Random(0))
    other = builder.open("<|bos|><|user|> <para 5> Mira has a cat.</para 5>" + " so" * 200)
    row = builder.open(
        "<|bos|><|user|> <para 3> Mira lives in Brellin.</para 3><para 7> Tomas has a dog.</para 7>"
    )
    first = rows.said("Who has a dog?", "Tomas", "answer")
    for exchanges in (
        [first, rows.said("Where does Mira live?", "<para 3>", "point")],
        [first, rows.said("Name the paragraph.", "<para 7>", "point")],
        [rows.said("Who has a dog?", "<para 7>", "quote")],  # to quote is not to be asked
        [rows.said("Who has a cat?", "<para 9>", "point")],  # no such paragraph
        [rows.said("Name one.", "<para 3>", "point")],  # nothing asked in this branch
    ):
        assert builder.add(row, exchanges)
    batch = rows.collate([other, row], TOKENIZER.token_to_id("<|pad|>"))
    marks = looks.Marks(*map(TOKENIZER.token_to_id, ("<para", "</para", "<|end|>", "?")))
    found = looks.find_looks(batch, marks)

    def text(at: int, tokens: Sequence[int]) -> str:
        ids = [int(batch.ids_BT[at, token]) for token in tokens]
        return TOKENIZER.decode(ids, skip_special_tokens=False)

    def keyed(role: str) -> list[tuple[int, int, list[int]]]:
        role_looks = found[role]
        return list(zip(role_looks.rows, role_looks.queries, role_looks.keys, strict=True))

    words = {(0, " 5"): "", (1, " 3"): "", (1, " 7"): ""}
    for at, query, keys in keyed("number"):
        assert text(at, [keys[0] - 1]) == "<para"  # the number that opens, not the one that closes
        words[at, text(at, keys)] += text(at, [query])
    assert words == {
        (0, " 5"): " Mira has a cat.",
        (1, " 3"): " Mira lives in Brellin.",
        (1, " 7"): " Tomas has a dog.",
    }
    branch = batch.segments_BT.tolist()
    assert [
        (at, branch[at][query], text(at, [query, query + 1]), text(at, keys))
        for at, query, keys in keyed("paragraph")
    ] == [
        (1, 1, "<para 3", " Mira lives in Brellin."),
        (1, 2, "<para 7", " Tomas has a dog."),
        (1, 3, "<para 7", " Tomas has a dog."),
        (1, 5, "<para 3", " Mira lives in Brellin."),
    ]
    assert [
        (at, branch[at][query], [branch[at][key] for key in keys], text(at, [keys[0] - 1, *keys]))
        for at, query, keys in keyed("question")
    ] == [(1, 1, [1, 1], " live?<|end|>"), (1, 2, [2, 2], " dog?<|end|>")]


def test_template_is_prefix_stable_and_keeps_sampled_ids(chat: Chat) -> None:
    said = "Mira Dallow lives in Brellin. Answer: Brellin"
    messages = [
        Message(role="system", content="Read the document with care and answer from it alone."),
        Message(role="user", content="<para 3> Mira Dallow lives in Brellin. </para 3>"),
        Message(role="assistant", content=said),
        Message(role="user", content="Is that answer complete and right? Reply yes or no."),
    ]
    prompt = chat.render(messages[:2])
    sampled = [*encode(" " + said), chat.tokenizer.eos_token_id]
    assert chat.render(messages)[: len(prompt) + len(sampled)] == prompt + sampled
    assert chat.render(messages).count(chat.tokenizer.bos_token_id) == 1
    assert prompt[-1] == TOKENIZER.token_to_id("<|assistant|>")


def test_answers_questions_about_short_passages(chat: Chat) -> None:
    world = World(seed=11)
    right: list[bool] = []
    for index in range(8):
        document = world.document("test", index, 256, count)
        questions = [q for q in document.questions if len(q.hops) == 1]
        for question in questions:
            asked = Question(id=question.id, text=question.text)
            request = Dialogue(PROFILE, document.id, document.text, asked, DIRECT).next_request()
            assert request is not None
            answer = parse_final_answer(chat.reply(request.messages))
            right.append(matches(answer, list(question.answers)))
    assert len(right) >= 16
    assert sum(right) / len(right) >= 0.8


def test_tells_whether_a_passage_helps(chat: Chat) -> None:
    document = World(seed=12).document("test", 0, 256, count)
    source = Document.of(document.text, "world")
    pieces = split(source, FileTokenizer(tokenizer_copy(), "tiny"), 56)
    right: list[bool] = []
    for question in [q for q in document.questions if len(q.hops) == 1][:3]:
        fact = question.hops[0].fact
        for piece in pieces:
            if piece.start < fact.end and fact.start < piece.end:
                if not (piece.start <= fact.start and fact.end <= piece.end):
                    continue  # a fact cut in two
                expected = {"yes"}
            else:
                expected = {"maybe", "no"}
            passage = render_piece(source, piece)
            messages = render_relevance(PROFILE, source.id, passage, [question.text])
            right.append(chat.reply(messages, most=3) in expected)
    assert len(right) >= 8
    assert sum(right) / len(right) >= 0.8
