"""The stop rule: what is seen of a round, how the rule is fitted, and what it would have done."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from made_trees import DOCUMENT, asked, make_run, node, story, tree, tree_view

from agenticlu.cli import group
from agenticlu.core.errors import ConfigError, TrainingError, UsageError
from agenticlu.core.records import Node, Question, Turn
from agenticlu.data.build import load_tree_views
from agenticlu.data.stop_rule import THRESHOLDS, Examples, fit_stop_rule, measure
from agenticlu.demo import MODEL
from agenticlu.dialogue.ask import ask
from agenticlu.dialogue.run import ShownDocument
from agenticlu.dialogue.steps import Dialogue, load_profile
from agenticlu.dialogue.stopping import (
    FACTS,
    Round,
    StopRule,
    decide,
    find_rule,
    observe,
    read_rule,
)
from agenticlu.documents.tokens import ApproximateTokenizer
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.report.page import build_overview
from agenticlu.report.sources import load_report
from agenticlu.search.store import Store

RULE = StopRule(weights={"stated": 4.0, "says_yes": 0.5}, bias=-2.0, threshold=0.5)


def seen(*nodes: Node) -> dict[str, float]:
    view = tree_view(*nodes)
    shown = ShownDocument(view.document, view.pieces)
    return observe(shown, [Round(one.turns, one.kept) for one in nodes])


def said(name: str, score: float, sub_answer: str, **changes: object) -> Node:
    """A round whose sub-answer is given."""
    made = node(name, score, **changes)  # type: ignore[arg-type]
    turns = tuple(
        turn.model_copy(update={"reply": sub_answer}) if turn.kind == "sub_answer" else turn
        for turn in made.turns
    )
    return made.model_copy(update={"turns": turns})


def test_facts_are_those_of_the_round_and_all_are_shares() -> None:
    first = said("a", 0.0, "Sentence number 5 speaks of thing 5.", kept=(0, 1), check="no")
    found = seen(first)
    assert set(found) == set(FACTS)
    assert all(0 <= value <= 1 for value in found.values())
    assert (found["says_yes"], found["says_no"]) == (0, 1)
    assert (found["points"], found["new_pieces"], found["changed"]) == (1, 1, 0)
    assert found["stated"] == 1
    assert seen(said("a", 0.0, "Nothing of the kind is written here at all."))["stated"] == 0
    second = node("b", 1.0, kept=(1, 2), answer="thing 9", check="perhaps")
    later = seen(first, second)
    assert (later["says_yes"], later["says_no"]) == (0, 0)
    assert later["new_pieces"] == 0.5
    assert later["changed"] == 1
    assert later["repeated"] == 0
    assert seen(first, second, first)["repeated"] == 1
    assert seen(node("c", 0.0, kept=()))["points"] == 0
    assert seen(node("d", 0.0, answer=""))["refused"] == 1


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=20))
def test_whatever_a_model_says_gives_facts(answer: str, finding: str, check: str) -> None:
    found = seen(said("a", 0.0, finding, answer=answer, check=check))
    assert all(0 <= found[name] <= 1 for name in FACTS)


def make(folder: Path, *, lies: float, documents: int = 12, full: bool = True) -> Path:
    """Trees in which what is said stands in the text if it is right; the self-check lies often."""
    chance = random.Random(7)
    trees = []
    for number in range(documents):
        document = story(number)

        def made(name: str, right: bool, document=document, **changes: object) -> Node:
            quote = document.text.split(". ")[0] + "."
            finding = quote if right else "It is said nowhere in this text at all."
            check = "yes" if right or chance.random() < lies else "no"
            return said(name, float(right), finding, kept=(0,), check=check, **changes)

        nodes = []
        for i in range(4):
            right = chance.random() < 0.5
            first = made(f"a{i}", right, ordinal=i)
            nodes.append(first)
            if full or not right:
                for j in range(2):
                    nodes.append(
                        made(f"a{i}b{j}", chance.random() < 0.5, parent=f"a{i}", depth=2, ordinal=j)
                    )
        question = asked(number)
        trees.append((document, tree(*nodes, question=question, document=document)))
    return make_run(folder, trees)


def examples_of(run: Path) -> Examples:
    examples = Examples()
    with Store(run, writable=False) as store:
        for view, _ in load_tree_views(store):
            examples.add(view)
    return examples


def test_a_rule_that_sees_the_evidence_beats_a_self_check_that_lies(tmp_path: Path) -> None:
    rule, found = fit_stop_rule(examples_of(make(tmp_path, lies=0.9)))
    balanced = found["balanced_accuracy"]
    assert balanced["self_check"] < 0.65
    assert balanced["rule"] > 0.95
    chosen = next(one for one in found["curve"] if one["threshold"] == rule.threshold)
    assert chosen["right"] > found["self_check"]["right"]
    assert chosen["spoiled"] == 0
    assert rule.weights["stated"] == max(rule.weights.values())


def test_the_ends_of_the_curve_stop_at_once_and_never(tmp_path: Path) -> None:
    examples = examples_of(make(tmp_path, lies=0.5))
    _, found = fit_stop_rule(examples)
    assert [one["threshold"] for one in found["curve"]] == list(THRESHOLDS)
    first, last = found["curve"][0], found["curve"][-1]
    assert (first["rounds"], first["repaired"], first["spoiled"]) == (1, 0, 0)
    assert last["rounds"] == 2
    trees = examples.trees
    firsts = [[one.right for one in tree if one.depth == 1] for tree in trees]
    assert first["right"] == pytest.approx(
        sum(sum(rights) / len(rights) for rights in firsts) / len(trees), abs=1e-4
    )
    for one in found["curve"]:
        assert one["right"] == pytest.approx(
            first["right"] + one["repaired"] - one["spoiled"], abs=2e-4
        )


def test_the_order_of_the_trees_changes_nothing(tmp_path: Path) -> None:
    examples = examples_of(make(tmp_path, lies=0.5))
    rule, found = fit_stop_rule(examples)
    examples.trees.reverse()
    again, refound = fit_stop_rule(examples)
    assert again.threshold == rule.threshold
    assert again.weights == pytest.approx(rule.weights, abs=1e-3)
    assert refound["curve"] == found["curve"]


def test_measuring_needs_no_rule(tmp_path: Path) -> None:
    examples = examples_of(make(tmp_path, lies=0.0))
    now = measure(examples, None, 0.5)
    assert now["threshold"] is None
    assert now["spoiled"] == 0, "an honest self-check ends right rounds"


@pytest.mark.parametrize("rights", ["all", "none", "few"])
def test_what_cannot_be_learned_from_is_told(tmp_path: Path, rights: str) -> None:
    number = 2 if rights == "few" else 30
    trees = []
    for i in range(number):
        score = 1.0 if rights == "all" else 0.0
        made = tree(node("a", score), question=asked(i), document=story(i))
        trees.append((story(i), made))
    run = make_run(tmp_path, trees)
    with pytest.raises(TrainingError, match="cannot be fitted") as caught:
        fit_stop_rule(examples_of(run))
    assert "--growth full" in str(caught.value.hint)


def dialogue_of(*replies: tuple[str, str]) -> tuple[Dialogue, ShownDocument]:
    view = tree_view()
    shown = ShownDocument(view.document, view.pieces)
    dialogue = Dialogue(
        profile=load_profile(),
        document_id=view.document.id,
        view=shown.view(),
        question=Question(id="q", text="Which thing?"),
        max_rounds=3,
    )
    for finding, check in replies:
        for kind, reply in (
            ("clarify", f"What of {finding[:9]}?"),
            ("point", "<para 1>"),
            ("sub_answer", finding),
            ("answer", "thing 9"),
            ("check", check),
        ):
            turn = Turn.model_validate(
                {"kind": kind, "wording": "w", "request": kind, "reply": reply}
            )
            dialogue = dialogue.advance(turn)
    return dialogue, shown


STATED, UNSTATED = "Sentence number 9 speaks of thing 9.", "Nothing like that is written anywhere."


def test_the_rule_decides_in_place_of_the_self_check() -> None:
    text = tree_view()
    piece = text.pieces[1]
    inside = text.document.text[piece.start : piece.end].split(". ")[1] + "."
    dialogue, shown = dialogue_of((inside, "no"))
    assert dialogue.next_request() is not None
    assert decide(dialogue, shown, RULE).next_request() is None
    dialogue, shown = dialogue_of((UNSTATED, "yes"))
    assert dialogue.next_request() is None
    decided = decide(dialogue, shown, RULE)
    request = decided.next_request()
    assert request is not None
    assert request.kind == "clarify"
    assert request.messages[-2].content == "no", "a round follows a self-check of no alone"
    assert decided.turns[-1].reply == "yes", "what was said stays on record"


def test_without_a_rule_nothing_changes() -> None:
    for check, over in (("yes", True), ("no", False), ("perhaps", False)):
        dialogue, _ = dialogue_of((UNSTATED, check))
        assert (dialogue.next_request() is None) is over
        assert dialogue.messages()[-1].content == check


def test_a_decision_holds_for_one_round() -> None:
    dialogue, shown = dialogue_of((UNSTATED, "yes"))
    decided = decide(dialogue, shown, RULE)
    turn = Turn.model_validate({"kind": "clarify", "wording": "w", "request": "r", "reply": "x"})
    assert decided.advance(turn).over is None


def test_the_command_writes_the_rule_and_the_report_shows_its_curve(tmp_path: Path) -> None:
    run = make(tmp_path / "run", lies=0.8)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "agenticlu.json").write_text('{"piece_tokens": 64}')
    file = tmp_path / "rule.json"
    words = ["generate", "stop-rule", str(run)]
    found = CliRunner().invoke(group, [*words, "--out", str(file), "--into", str(model)])
    assert found.exit_code == 0, found.output
    assert "self-check" in found.stdout
    rule = read_rule(file)
    assert find_rule(model) == rule
    assert json.loads((model / "agenticlu.json").read_text())["piece_tokens"] == 64
    told = json.loads(CliRunner().invoke(group, [*words, "--json"]).stdout)
    assert StopRule.model_validate(told["rule"]) == rule
    overview = build_overview(load_report(run=run))
    assert overview.stopping is not None
    assert overview.stopping["curve"] == told["curve"]
    page = tmp_path / "report.html"
    shown = CliRunner().invoke(group, ["report", "--run", str(run), "--out", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "When to stop" in page.read_text()


def test_runs_that_know_nothing_of_spoiling_say_so(tmp_path: Path) -> None:
    run = make(tmp_path, lies=0.8, full=False)
    found = CliRunner().invoke(group, ["generate", "stop-rule", str(run)])
    assert found.exit_code == 0, found.output
    assert "--growth full" in found.stdout


@pytest.mark.parametrize("content", ["", "[]", '{"weights": {}}', '{"bias": 1e999}'])
def test_what_is_no_rule_is_an_error_in_words(tmp_path: Path, content: str) -> None:
    file = tmp_path / "rule.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match="holds no stop rule"):
        read_rule(file)
    with pytest.raises(ConfigError, match="Cannot read"):
        read_rule(tmp_path / "missing.json")


def test_a_folder_that_is_no_model_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    words = ["generate", "stop-rule", str(tmp_path), "--into", str(tmp_path)]
    found = CliRunner().invoke(group, words)
    assert isinstance(found.exception, UsageError)
    assert "config.json" in found.exception.message


@pytest.mark.parametrize(("bias", "checks", "rounds"), [(-9, "yes", 3), (9, "no", 1)])
def test_asking_goes_on_as_the_rule_says(bias: float, checks: str, rounds: int) -> None:
    def reply(request: ScriptedRequest) -> str:
        number = len(request.messages)
        return checks if "Reply yes or no" in request.last else f"What of thing{number}? Answer: x"

    answer = asyncio.run(
        ask(
            DOCUMENT,
            "Which thing?",
            ScriptedEngine(reply),
            tokenizer=ApproximateTokenizer(),
            profile=load_profile(),
            rounds=3,
            rule=StopRule(weights={}, bias=bias, threshold=0.5),
        )
    )
    assert answer.rounds == rounds


@pytest.mark.parametrize("words", [(), ("--stop-rule",)])
def test_ask_takes_the_models_own_rule_or_one_that_is_named(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    document = tmp_path / "d.txt"
    document.write_text("Ada lives in Wexley. Ben lives in Orrin. " * 3)
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    broken = tmp_path / "rule.json"
    broken.write_text("{}")
    if words:
        words = (*words, str(broken))
    else:
        (model / "agenticlu.json").write_text('{"stop_rule": {"weights": {}}}')
    arguments = ["ask", str(document), "Who lives in Wexley?", "--model", str(model), *words]
    found = CliRunner().invoke(group, arguments)
    assert isinstance(found.exception, ConfigError)
    assert "stop rule" in found.exception.message
