"""Judges on candidates of which the truth is known."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripted_world import CONFIG, TOKENIZER, corpus, engine

from agenticlu.cli import group
from agenticlu.core.errors import ConfigError, StoreError, UsageError
from agenticlu.core.records import Question
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.evaluation.scoring.answers import matches
from agenticlu.judges import Judge, LlmJudge, build_judges
from agenticlu.judges.controls import TOGETHER, choose_controls, find_run_judges, run_controls
from agenticlu.search import setup
from agenticlu.search.run import run_search
from agenticlu.search.store import Store

ITEMS = corpus(documents=2, questions=4)
SMALL = CONFIG.model_copy(update={"branching": 2, "depth": 1})
JUDGES = ("exact", "rouge-l")


def search(folder: Path, judges: tuple[Judge, ...]) -> None:
    with Store(folder) as store:
        options = {"tokenizer": TOKENIZER, "judges": judges}
        asyncio.run(run_search(ITEMS, engine(ITEMS), store, SMALL, **options))


def critic(says: str = "", name: str = "critic") -> tuple[ScriptedEngine, LlmJudge]:
    """A model that grades by looking whether the candidate is an accepted answer."""

    def reply(request) -> str:
        lines = dict(line.split(": ", 1) for line in request.last.splitlines() if ": " in line)
        right = lines["Candidate answer"] in lines["Accepted answers"].split(" | ")
        return json.dumps({"verdict": says or ("yes" if right else "no")})

    one = ScriptedEngine(reply)
    return one, LlmJudge(one, name)


def counts(n: int, correct: int, unscored: int = 0) -> dict[str, int]:
    return {"n": n, "correct": correct, "unscored": unscored}


def test_every_question_has_a_right_candidate_and_a_wrong_one():
    questions = [(item.question, item.document.id) for item in ITEMS]
    controls = choose_controls(questions, limit=100)
    assert len(controls) == 2 * len(ITEMS)
    for control in controls:
        assert matches(control.candidate, control.question.answers) is control.is_right
    by_id = {item.question.id: item for item in ITEMS}
    wrong = [control for control in controls if not control.is_right]
    for control in wrong:
        document = by_id[control.question.id].document.id
        near = [i.question.answers[0] for i in ITEMS if i.document.id == document]
        assert control.candidate in near, "the same document's are the harder ones"
    few = choose_controls(questions, limit=3)
    assert [c for c in controls if c.question.id in {f.question.id for f in few}] == few


@pytest.mark.parametrize(
    ("answers", "options", "wrong"),
    [
        (("Brellin",), ("Carth", "Brellin"), "Carth"),
        (("B",), ("Carth", "Brellin"), "Carth"),
        (("Brellin town",), (), None),
    ],
)
def test_a_wrong_option_is_the_wrong_candidate(answers, options, wrong):
    question = Question(id="q", text="Which?", answers=answers, options=options)
    other = Question(id="r", text="Which?", answers=("Brellin",))
    controls = choose_controls([(question, "d"), (other, "d")], limit=5)
    found = [c.candidate for c in controls if c.question.id == "q" and not c.is_right]
    assert found == ([wrong] if wrong else [])


def test_free_judges_are_tested_offline(tmp_path: Path):
    search(tmp_path, build_judges(JUDGES))
    with Store(tmp_path) as store:
        judges = find_run_judges(store, ())
        results = asyncio.run(
            run_controls(store, judges, choose_controls(store.questions(), limit=5))
        )
        assert store.get("controls") == results
        assert list(store.rows("judgement")) == []
    perfect = {"right": counts(5, 5), "wrong": counts(5, 5)}
    assert results == {"exact": perfect, "rouge-l": perfect, TOGETHER: perfect}


def test_a_model_s_verdicts_are_kept_and_its_bias_shows(tmp_path: Path):
    lenient, judge = critic("yes")
    search(tmp_path, (judge,))
    asked = len(lenient.requests)
    with Store(tmp_path) as store:
        controls = choose_controls(store.questions(), limit=4)
        judges = find_run_judges(store, (judge,))
        results = asyncio.run(run_controls(store, judges, controls))
        assert results == {"llm:critic": {"right": counts(4, 4), "wrong": counts(4, 0)}}
        # What the search judged already is not asked for again.
        once = len(lenient.requests)
        assert asked < once <= asked + 8
        assert asyncio.run(run_controls(store, judges, controls)) == results
        assert len(lenient.requests) == once
        stored = {row[0] for row in store.rows("judgement")}
    assert len(stored) >= 8


def test_a_verdict_that_cannot_be_read_counts_as_an_error(tmp_path: Path):
    one = ScriptedEngine(lambda request: "hard to say, both")
    judge = LlmJudge(one, "unsure", attempts=1)
    search(tmp_path, (*build_judges(("exact",)), judge))
    with Store(tmp_path) as store:
        results = asyncio.run(
            run_controls(
                store, find_run_judges(store, (judge,)), choose_controls(store.questions(), limit=2)
            )
        )
    assert results["llm:unsure"] == {"right": counts(2, 0, 2), "wrong": counts(2, 0, 2)}
    assert results["exact"] == {"right": counts(2, 2), "wrong": counts(2, 2)}
    assert results[TOGETHER] == {"right": counts(2, 2), "wrong": counts(2, 0, 2)}


def test_only_the_run_s_own_judges_are_tested(tmp_path: Path):
    _, judge = critic()
    search(tmp_path, (judge,))
    with Store(tmp_path, writable=False) as store:
        with pytest.raises(ConfigError, match="llm:critic is missing") as caught:
            find_run_judges(store, ())
        assert "--judge-model critic" in (caught.value.hint or "")
        with pytest.raises(ConfigError, match="not by llm:other"):
            find_run_judges(store, (judge, critic(name="other")[1]))


def test_the_command_and_the_card(tmp_path: Path, monkeypatch):
    scripted, judge = critic()
    search(tmp_path / "run", (*build_judges(("exact",)), judge))
    monkeypatch.setattr(setup, "load_engine", lambda *_, **__: scripted)
    run = str(tmp_path / "run")
    missing = CliRunner().invoke(group, ["generate", "controls", run])
    assert isinstance(missing.exception, ConfigError)
    done = CliRunner().invoke(
        group, ["generate", "controls", run, "--judge-model", "critic", "--limit", "6"]
    )
    assert done.exit_code == 0, done.output
    line = "accepted answers found right 6 of 6; others found wrong 6 of 6"
    assert done.stdout.splitlines() == [
        f"{name}: {line}" for name in ("exact", "llm:critic", TOGETHER)
    ]
    built = CliRunner().invoke(group, ["dataset", "build", run, "--out", str(tmp_path / "data")])
    assert built.exit_code == 0, built.output
    card = (tmp_path / "data" / "README.md").read_text()
    assert "| llm:critic | 100.0% (n = 6) | 100.0% (n = 6) |" in card
    nowhere = CliRunner().invoke(group, ["generate", "controls", str(tmp_path / "none")])
    assert isinstance(nowhere.exception, StoreError)
    assert not (tmp_path / "none").exists()
    wrong = CliRunner().invoke(group, ["generate", "controls", run, "--limit", "0"])
    assert isinstance(wrong.exception, UsageError)
