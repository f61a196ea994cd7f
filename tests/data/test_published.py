from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agenticlu.cli import group
from agenticlu.core.errors import DocumentError
from agenticlu.core.records import Question, Turn
from agenticlu.data.corpus import load_source_rows
from agenticlu.data.published import extract_profile, parse_row, render_profile, split_opening
from agenticlu.dialogue.profiles import load_profile
from agenticlu.dialogue.steps import Dialogue
from agenticlu.engines.base import Completion

FILLER = " ".join(f"Sentence {i} of a long tale." for i in range(2000))
REQUESTS = ("Ask something about {q}, will you.", "Name the marks.", "Say it.", "Now: {q}")


def published(book: int, asked: str, place: int, **changes: Any) -> dict[str, Any]:
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


ROWS = [published(book, f"Who did deed {book}?", place) for book in range(12) for place in range(8)]


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
        ({"score_chosen": float("nan")}, "score is no number"),
        ({"chosen": [{"role": "assistant", "content": None}]}, "not in the published schema"),
        ({"prompt": [{"role": "user", "content": "Hello?"}]}, "no marked document"),
    ],
)
def test_a_useless_row_has_a_reason(changes, reason):
    assert parse_row({**ROWS[0], **changes}) == reason


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
    rows = [published(3, "Who did deed 3?", place) for place in range(8)]
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
    assert done.exit_code == 2
    assert option in done.output


def test_nothing_to_read_off_is_an_error():
    with pytest.raises(DocumentError, match="No wording"):
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
    row = published(0, "Which town?", place, chosen=[{"role": "assistant", "content": chosen}])
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
