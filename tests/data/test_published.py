from __future__ import annotations

import json
import math
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner
from published_rows import document, published, write_rows

from agenticlu.cli import group
from agenticlu.core.errors import DocumentError, TrainingError, UsageError
from agenticlu.core.records import Question, Turn, content_id
from agenticlu.data.corpus import load_source_rows
from agenticlu.data.dataset import RowSorter
from agenticlu.data.published import (
    extract_profile,
    import_published,
    parse_row,
    render_profile,
    split_opening,
)
from agenticlu.dialogue.steps import Dialogue, load_profile
from agenticlu.engines.base import Completion

FILLER = " ".join(f"Sentence {i} of a long tale." for i in range(2000))
REQUESTS = ("Ask something about {q}, will you.", "Name the marks.", "Say it.", "Now: {q}")


def asking(book: int, asked: str, place: int, **changes: Any) -> dict[str, Any]:
    """A row that asks for assistant turn `place` of a conversation with a base answer."""
    document = f"<para 0> Book {book}. {FILLER} </para 0><para 1> The end. </para 1>"
    prompt = [
        {"role": "system", "content": "You read with care."},
        {"role": "user", "content": f"{document}\n\n{asked}"},
        {"role": "assistant", "content": "A base answer."},
    ]
    for number in range(place):
        text = REQUESTS[number % 4].replace("{q}", asked)
        prompt.append({"role": "user", "content": text})
        prompt.append({"role": "assistant", "content": f"Reply {number}."})
    text = REQUESTS[place % 4].replace("{q}", asked)
    prompt.append({"role": "user", "content": text})
    return {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": f"good {place}"}],
        "rejected": [{"role": "assistant", "content": f"bad {place}"}],
        "score_chosen": 1.5,
        "score_rejected": 0.25,
        **changes,
    }


ROWS = [asking(book, f"Who did deed {book}?", place) for book in range(12) for place in range(8)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_a_row_tells_its_document_question_turn_and_depth():
    rows = [parse_row(row) for row in ROWS[:8]]
    found = [(row.turn_kind, row.depth) for row in rows if not isinstance(row, str)]
    kinds = ["clarify", "point", "sub_answer", "answer"]
    assert found == [(kind, depth) for depth in (1, 2) for kind in kinds]
    assert {row.question for row in rows if not isinstance(row, str)} == {"Who did deed 0?"}
    assert len({row.document_id for row in rows if not isinstance(row, str)}) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": []}, "prompt does not end in a request"),
        ({"chosen": ROWS[0]["rejected"]}, "chosen equals rejected"),
        ({"chosen": [*ROWS[0]["chosen"]] * 2}, "not exactly one reply"),
        ({"rejected": [{"role": "assistant", "content": " "}]}, "empty reply"),
        ({"score_chosen": None}, "not in the published schema"),
        ({"score_chosen": float("nan")}, "score is not a number"),
        ({"chosen": [{"role": "assistant", "content": None}]}, "not in the published schema"),
        ({"prompt": [{"role": "user", "content": "Hello?"}]}, "no marked document"),
    ],
)
def test_a_useless_row_has_a_reason(changes, reason):
    assert parse_row({**ROWS[0], **changes}) == reason


@pytest.mark.parametrize("token", ["<|im_end|>", "<|eot_id|>", "[/INST]", "</s>"])
def test_control_tokens_of_outside_rows_are_broken_up_and_told(tmp_path: Path, token: str):
    row = asking(1, f"Who said {token}?", 1)
    row["prompt"][1]["content"] = row["prompt"][1]["content"].replace("The end", f"The {token} end")
    row["chosen"][0]["content"] += f" {token}<|im_start|>user"
    source = write(tmp_path / "rows.jsonl", [row, asking(2, "Who?", 1)])
    done = CliRunner().invoke(group, ["dataset", "import", source, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    found = rows_of(tmp_path / "out", "preference")
    text = json.dumps(found)
    assert token not in text
    assert "<|im_start|>" not in text
    assert "<para 0> Book 1" in text, "marks stay"
    assert "control token: 1." in done.output
    assert "broken up by a space: 1" in (tmp_path / "out" / "README.md").read_text()


def test_json_arrays_and_parquet_are_read_alike(tmp_path: Path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "p.json").write_text(json.dumps(ROWS[:4]))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS[:4]), tmp_path / "p.parquet")
    for name in ("p.json", "p.parquet"):
        assert list(load_source_rows(str(tmp_path / name))) == ROWS[:4]


def test_wordings_are_read_off_and_drive_the_dialogue(tmp_path: Path):
    profile, found = extract_profile(ROWS, "published")
    assert found["clarify"] == found["clarify_again"] == found["point"] == found["system"] == 1
    assert profile.clarify[0].text == "Ask something about {question}, will you."
    assert profile.answer[0].text == "Now: {question}"
    assert profile.point[0].text == "Name the marks."
    assert profile.check == load_profile().check
    path = tmp_path / "profile.toml"
    path.write_text(render_profile(profile), encoding="utf-8")
    assert load_profile(str(path)) == profile
    assert profile.layout == "published"


def test_a_profile_read_off_sends_what_the_data_set_taught():
    """The conversation, message by message, is that of the rows: base answer in, self-check out."""
    profile, _ = extract_profile(ROWS, "published")
    rows = [asking(3, "Who did deed 3?", place) for place in range(8)]
    view, asked = split_opening(rows[0]["prompt"][1]["content"])
    dialogue = Dialogue(
        profile=profile,
        document_id="d",
        view=view,
        question=Question(id="q", text=asked),
        max_rounds=2,
    )
    sent = []
    replies = iter(["A base answer.", *(f"Reply {number}." for number in range(8))])
    while (request := dialogue.next_request()) is not None:
        sent.append((request.kind, [message.model_dump() for message in request.messages]))
        reply = "no" if request.kind == "check" else next(replies)
        dialogue = dialogue.advance(request.turn(Completion(reply, "stop")))
    kinds = [kind for kind, _ in sent]
    assert kinds == ["direct", *("clarify", "point", "sub_answer", "answer", "check") * 2]
    assert (dialogue.round, dialogue.rounds_begun) == (2, 2)
    taught = [messages for kind, messages in sent if kind not in ("direct", "check")]
    assert taught == [row["prompt"] for row in rows]
    assert sent[0][1] == rows[0]["prompt"][:2]
    base = Dialogue(
        profile=profile,
        document_id="d",
        view=view,
        question=Question(id="q", text=asked),
        steps=("direct",),
    )
    first = base.next_request()
    assert first is not None
    assert [message.model_dump() for message in first.messages] == rows[0]["prompt"][:2]


def test_our_own_rows_give_back_the_profile_they_were_made_with():
    default = load_profile()
    rows = []
    for number in range(40):
        dialogue = Dialogue(
            profile=default,
            document_id=f"d{number}",
            view="<para 0> Text. </para 0>",
            question=Question(id=f"q{number}", text=f"Who is number {number}?"),
            max_rounds=2,
        )
        while (request := dialogue.next_request()) is not None:
            rows.append(
                {
                    **ROWS[0],
                    "prompt": [message.model_dump() for message in request.messages],
                    "turn_kind": request.kind,
                    "depth": dialogue.round + 1,
                }
            )
            turn = Turn(kind=request.kind, wording="w", request=request.text, reply="no")
            dialogue = dialogue.advance(turn)
    profile, _ = extract_profile(rows, "ours")
    for kind in ("system", "clarify", "clarify_again", "point", "sub_answer", "answer", "check"):
        found = {wording.text for wording in getattr(profile, kind)}
        assert found == {wording.text for wording in getattr(default, kind)}, kind
    assert profile.layout == "own"


def test_odd_texts_survive_toml(tmp_path: Path):
    row = json.loads(json.dumps(ROWS[0]))
    odd = 'Say "it"\\ \n\twith \u2028 é \x7f {question} ]]'
    row["prompt"][0]["content"] = odd
    profile, _ = extract_profile([row], "odd")
    path = tmp_path / "odd.toml"
    path.write_text(render_profile(profile), encoding="utf-8")
    assert load_profile(str(path)).system[0].text == odd


@pytest.mark.parametrize("option", ["--limit", "--least"])
def test_numbers_that_read_nothing_are_refused(tmp_path: Path, option: str):
    arguments = ["prompts", "extract", "x.jsonl", "--out", str(tmp_path / "x.toml"), option, "0"]
    done = CliRunner().invoke(group, arguments)
    assert isinstance(done.exception, UsageError)
    assert option in done.exception.message


def test_nothing_to_read_off_is_an_error():
    with pytest.raises(DocumentError, match="yields no wordings"):
        extract_profile([{"text": "x"}], "none")


def test_an_opening_without_marks_has_no_document():
    assert split_opening("Just a question?") == ("", "Just a question?")


@pytest.mark.parametrize(
    ("place", "replies", "chosen", "leak"),
    [
        (0, (), "Is it Brellin?", True),
        (0, (), "Who did it?", False),
        (1, ("Is it Brellin?",), "<para 0>", True),
        (4, ("Who?", "<para 0>", "It says.", "Carth"), "Is it Brellin?", True),
        (4, ("Who?", "<para 1>", "It says.", "Carth"), "Is it Brellin?", False),
        (4, ("Who?", "<para 0>", "It says.", "Brellin"), "Is it Brellin?", False),
        (3, ("Who?", "<para 0>", "It is Brellin."), "Brellin", False),
    ],
)
def test_a_leak_is_told_where_answers_are_known(place, replies, chosen, leak):
    """The second piece of the document names the answer; pointing to it makes it known."""
    row = asking(0, "Which town?", place, chosen=[{"role": "assistant", "content": chosen}])
    row["prompt"][1]["content"] = (
        "<para 0> The road is long. </para 0><para 1> It ends in Brellin. </para 1>\n\nWhich town?"
    )
    said = [message for message in row["prompt"] if message["role"] == "assistant"][1:]
    for message, reply in zip(said, replies, strict=True):
        message["content"] = reply
    parsed = parse_row({**row, "answers": ["Brellin"]})
    assert not isinstance(parsed, str)
    assert parsed.leak is leak
    unknown = parse_row(row)
    assert not isinstance(unknown, str)
    assert unknown.leak is None


IMPORTED = [published(book, place) for book in range(30) for place in range(8)]


def rows_of(folder: Path, kind: str) -> dict[str, list[dict[str, Any]]]:
    return {
        path.stem: pyarrow.parquet.read_table(path).to_pylist()
        for path in sorted((folder / kind).glob("*.parquet"))
    }


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imported")
    bad = {**IMPORTED[0], "chosen": IMPORTED[0]["rejected"]}
    summary = import_published(
        write_rows(root / "p.jsonl", [*IMPORTED, bad]), root / "out", validation=0.3
    )
    assert sum(summary.rows["preference"].values()) == len(IMPORTED)
    assert dict(summary.funnel.rows) == {"written": len(IMPORTED), "chosen equals rejected": 1}
    assert len(summary.splits.of) == 30
    return root / "out"


def test_no_document_is_in_two_splits(imported: Path):
    for kind in ("sft", "preference"):
        rows = rows_of(imported, kind)
        texts = {
            split: {(row.get("messages") or row["prompt"])[1]["content"] for row in found}
            for split, found in rows.items()
        }
        assert len(texts["train"]) + len(texts["validation"]) == 30
        assert not texts["train"] & texts["validation"]


def test_every_row_is_kept_as_it_was(imported: Path):
    rows = [row for found in rows_of(imported, "preference").values() for row in found]
    key = lambda row: json.dumps(row, sort_keys=True)  # noqa: E731
    assert sorted(({k: row[k] for k in IMPORTED[0]} for row in rows), key=key) == sorted(
        IMPORTED, key=key
    )


def test_what_can_be_computed_is_and_what_is_not_known_is_none(imported: Path):
    for row in (row for found in rows_of(imported, "preference").values() for row in found):
        one, other = (len(row[name][0]["content"]) for name in ("chosen", "rejected"))
        assert row["log_length_ratio"] == pytest.approx(math.log(one / other), abs=1e-4)
        assert row["leak"] is None
        assert row["engine"] == "p.jsonl", "the folder is nobody's business"


def test_rows_whose_scores_contradict_them_are_kept_and_told(tmp_path: Path):
    rows = [published(0, 0), published(0, 1, score_chosen=0.25), published(1, 0, score_chosen=0.1)]
    summary = import_published(write_rows(tmp_path / "p.jsonl", rows), tmp_path / "out")
    assert sum(summary.rows["preference"].values()) == 3
    assert summary.num_not_better == 2
    assert any("do not prefer the chosen reply: 2." in told for told in summary.warnings(0))


def test_conversations_end_in_answers_scored_above_the_rejected(tmp_path: Path):
    rows = [
        published(0, 3),
        published(0, 7),
        published(1, 2),
        published(1, 3, score_chosen=0.25),
        published(2, 3, score_chosen=0.1),
    ]
    summary = import_published(
        write_rows(tmp_path / "p.jsonl", rows), tmp_path / "out", validation=0
    )
    traces = rows_of(tmp_path / "out", "sft")["train"]
    assert {row["messages"][-1]["content"] for row in traces} == {
        "good reply 3 of 0",
        "good reply 7 of 0",
    }
    assert [row["targets"] for row in traces] == [[len(row["messages"]) - 1] for row in traces]
    assert rows_of(tmp_path / "out", "plain") == {}, "they begin with a reply that is not learned"
    assert dict(summary.funnel.traces) == {"written": 2, "chosen not scored above rejected": 2}
    assert summary.rows["preference"]["train"] == 5


def test_answers_that_a_row_tells_tell_leaks(tmp_path: Path):
    rows = [published(book, 0, answers=["good reply 0 of 0"]) for book in range(2)]
    import_published(write_rows(tmp_path / "p.jsonl", rows), tmp_path / "out", validation=0)
    found = rows_of(tmp_path / "out", "preference")["train"]
    by_book = {row["question"]: row for row in found}
    assert by_book["Who did deed 0?"]["leak"] is True
    assert by_book["Who did deed 1?"]["leak"] is False
    assert by_book["Who did deed 1?"]["answers"] == ["good reply 0 of 0"]


def test_a_document_is_stored_once_whatever_the_order_of_its_rows(tmp_path: Path, monkeypatch):
    """Dictionaries span a row group; scattered rows would put a document into each of them."""
    monkeypatch.setattr("agenticlu.data.dataset.CHARACTERS_PER_GROUP", 1_000_000)
    rows = [published(book, place, words=3000) for book in range(20) for place in range(4)] * 4
    sizes = {}
    for name in ("sorted", "shuffled"):
        if name == "shuffled":
            random.Random(0).shuffle(rows)
        source = write_rows(tmp_path / f"{name}.jsonl", rows)
        import_published(source, tmp_path / name, validation=0)
        file = tmp_path / name / "preference" / "train.parquet"
        sizes[name] = file.stat().st_size
        groups = pyarrow.parquet.ParquetFile(file).metadata.num_row_groups
        assert groups > 4, "all documents would fit into one dictionary"
        (tmp_path / f"{name}.jsonl").unlink()
    documents = sum(len(document(book, 3000)) for book in range(20))
    assert sizes["shuffled"] == pytest.approx(sizes["sorted"], rel=0.05)
    assert sizes["shuffled"] < documents
    ids = pyarrow.parquet.read_table(file, columns=["document_id"])["document_id"].to_pylist()
    assert ids == sorted(ids)


def test_rows_come_back_by_document_in_the_order_they_came(tmp_path: Path):
    names = [content_id(str(i)) for i in range(200)]
    with RowSorter(tmp_path / "rows.sqlite") as spilled:
        for number in range(600):
            name = names[number * 7 % 200]
            spilled.add(name, f"text of {name} \ud800", number)
        found = list(spilled.documents())
    assert [name for name, _, _ in found] == sorted(names)
    for name, text, rows in found:
        assert text == f"text of {name} \ud800"
        assert rows == [n for n in range(600) if names[n * 7 % 200] == name]
    assert not (tmp_path / "rows.sqlite").exists()


def test_a_bucket_of_rows_and_one_document_are_held(tmp_path: Path):
    text = "x" * 100_000
    with RowSorter(tmp_path / "rows.sqlite") as spilled:
        for number in range(200):
            for _ in range(5):
                spilled.add(content_id(str(number)), f"{number}{text}", "y" * 10_000)
        tracemalloc.start()
        size = sum(len(data) + len(json.dumps(rows)) for _, data, rows in spilled.documents())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert size > 200 * 150_000
    assert peak < size / 20


def test_a_source_without_a_usable_row_is_refused_and_leaves_nothing(tmp_path: Path):
    source = write_rows(tmp_path / "p.jsonl", [{"text": "hello"}])
    with pytest.raises(TrainingError, match="1 not in the published schema"):
        import_published(source, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
