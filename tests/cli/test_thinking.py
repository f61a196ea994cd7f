"""A model that thinks, behind a server, gives what its plain twin gives: in every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from scripted_world import corpus, engine, write_corpus
from thinking_model import ThinkingModel, serving

from agenticlu.cli import group
from agenticlu.core.errors import IncompleteRunError, StoreError
from agenticlu.core.records import content_seed
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest
from agenticlu.engines.thinking import FIRST_ROOM
from agenticlu.search.store import Store

FORMS = ("reasoning_content", "think", "opened")
ITEMS = corpus(documents=2, questions=2)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(group, [str(one) for one in arguments], catch_exceptions=True)


def half_knowing() -> ScriptedEngine:
    """Answers few of the prompts right; its verdicts are the same parsed and by first token."""
    known = engine(ITEMS, right_share=0.08)

    def reply(request: ScriptedRequest) -> str | None:
        if request.last.startswith("Passage:"):
            return "yes" if content_seed("weigh", request.key) % 3 == 0 else "no"
        assert callable(known.replies)
        return known.replies(request)  # type: ignore[return-value]

    return ScriptedEngine(reply, known.weights)


def generate(folder: Path, model: ThinkingModel, *more: object) -> tuple[Result, list[Any]]:
    source = write_corpus(ITEMS, folder / "corpus.jsonl")
    settings = ("--branching", 3, "--depth", 2, "--piece-tokens", 48, "--view", "kept")
    with serving(model) as url:
        result = call(
            "generate", source, "--out", folder / "run", "--base-url", url, "--grounding", "scan",
            *settings, "--quiet", *more,
        )  # fmt: skip
    with Store(folder / "run", writable=False) as store:
        return result, list(store.trees())


def content_of(trees: list[Any]) -> list[Any]:
    """What was said, found and judged in trees, without what it cost."""
    return [
        (
            *(tree.question.id, tree.outcome, node.kept, node.answer, node.score, node.status),
            *((turn.kind, turn.request, turn.reply) for turn in node.turns),
        )
        for tree in trees
        for node in tree.nodes
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[Any]]:
    """The trees of the plain twin, by whether its verdicts are probabilities."""
    return {one: grow_plain(tmp_path_factory.mktemp("plain"), one) for one in (True, False)}


def grow_plain(folder: Path, logprobs: bool) -> list[Any]:
    model = ThinkingModel(half_knowing(), thinks=False, logprobs=logprobs)
    result, trees = generate(folder, model)
    assert result.exit_code == 0, result.output
    assert "thought" not in result.output
    scores = {node.score for tree in trees for node in tree.nodes}
    assert scores == {0.0, 1.0}, "else nothing could differ"
    return trees


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("obeys", [True, False])
def test_a_search_grows_the_trees_of_the_plain_twin(
    tmp_path: Path, plain: dict[bool, list[Any]], form: str, obeys: bool
) -> None:
    """One whose template cannot turn thinking off has its verdicts parsed."""
    model = ThinkingModel(half_knowing(), form, obeys=obeys, very_long=FIRST_ROOM + 900)
    result, trees = generate(tmp_path, model)
    assert result.exit_code == 0, result.output
    assert content_of(trees) == content_of(plain[obeys])
    assert model.cut > 3, "else hardly a thought was cut"
    total = sum((tree.usage.thinking_tokens for tree in trees), 0)
    assert total > sum(tree.usage.completion_tokens for tree in trees) / 2, "half of it was thought"
    assert "thought" in result.output
    status = call("status", tmp_path / "run")
    assert "of them thought)" in status.output


def test_a_search_whose_model_only_thinks_says_so_and_fails(tmp_path: Path) -> None:
    model = ThinkingModel(half_knowing(), very_long=10**5)
    model.thought = lambda messages: "hmm " * 5000  # type: ignore[method-assign]
    result, trees = generate(tmp_path, model, "--thinking-tokens", 64)
    assert isinstance(result.exception, IncompleteRunError)
    assert {tree.outcome for tree in trees} == {"failed"}
    failures = call("status", tmp_path / "run").output
    assert "was still thinking after 64 tokens" in failures
    with Store(tmp_path / "run", writable=False) as store:
        total = store.total_usage()
    # Each request was cut at 64 tokens of thought and what was the reply's.
    assert total.thinking_tokens > 64 * total.requests / 2 > 0, "it cost all the same"


def test_a_plan_says_that_thoughts_come_on_top(tmp_path: Path) -> None:
    source = write_corpus(ITEMS, tmp_path / "corpus.jsonl")
    served = ("--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--view", "kept")
    assert "A model that thinks" in call("plan", source, *served).output
    assert "A model that thinks" not in call("plan", source, *served, "--no-thinking").output
    document = tmp_path / "book.txt"
    document.write_text(ITEMS[0].document.text, encoding="utf-8")
    asked = ("ask", document, "Who?", *served[:4], "--dry-run", "--thinking-tokens", "1k")
    assert "more if it thinks first" in call(*asked).output
    assert "more if it thinks first" not in call(*asked, "--thinking", "off").output


def test_a_search_goes_on_under_the_effort_that_it_was_begun_with(tmp_path: Path) -> None:
    model = ThinkingModel(half_knowing(), thinks=False)
    first, trees = generate(tmp_path, model, "--limit", 1, "--thinking", "low")
    assert first.exit_code == 0, first.output
    second, _ = generate(tmp_path, model, "--no-thinking")
    assert isinstance(second.exception, StoreError)
    assert "thinking = 'low', not 'off'" in second.exception.message
    third, more = generate(tmp_path, model, "--thinking", "low")
    assert third.exit_code == 0, third.output
    assert len(more) > len(trees)


def test_a_search_that_gets_nothing_but_empty_replies_does_not_end_well(tmp_path: Path) -> None:
    silent = ScriptedEngine(lambda request: "", half_knowing().weights)
    result, _ = generate(tmp_path, ThinkingModel(silent, thinks=False))
    assert isinstance(result.exception, IncompleteRunError)
    assert "empty" in result.exception.message
    assert "No question was solved" in result.output
    assert "dataset build" not in result.output


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spans", [False, True])
def test_an_answer_is_the_plain_twins(tmp_path: Path, form: str, spans: bool) -> None:
    document = tmp_path / "book.txt"
    books = {item.document.text: None for item in corpus(documents=6)} if spans else {}
    document.write_text(" ".join(books) or ITEMS[0].document.text, encoding="utf-8")
    question = ITEMS[0].question.text
    found = []
    for thinks in (False, True):
        model = ThinkingModel(half_knowing(), form, thinks=thinks, very_long=FIRST_ROOM + 900)
        spanning = ("--spans", "--window", 3000) if spans else ()
        with serving(model) as url:
            result = call(
                "ask", document, question, "--base-url", url, "--json", "--piece-tokens", 48,
                "--rounds", 2, *spanning,
            )  # fmt: skip
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout))
    before, after = found
    assert (before["shown_pieces"] is not None) == spans
    for name in ("answer", "supported", "checked", "citations", "shown_pieces", "rounds"):
        assert before[name] == after[name], name
    replies = [[turn["reply"] for turn in one["turns"]] for one in found]
    assert replies[0] == replies[1]
    assert after["usage"]["thinking_tokens"] > before["usage"]["thinking_tokens"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_an_evaluation_are_the_plain_twins(tmp_path: Path, form: str) -> None:
    def reply(request: ScriptedRequest) -> str:
        return "Answer: yes" if content_seed(request.last) % 2 else "Wexley. Answer: Wexley"

    rows = []
    for thinks in (False, True):
        model = ThinkingModel(ScriptedEngine(reply), form, thinks=thinks, very_long=5000)
        out = tmp_path / str(thinks)
        with serving(model) as url:
            result = call(
                "eval", "--task", "world", "--lengths", 256, "--methods", "direct,clarify",
                "--limit", 2, "--base-url", url, "--out", out,
            )  # fmt: skip
        assert result.exit_code == 0, result.output
        lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        rows.append({one["id"]: one for one in map(json.loads, lines)})
        assert ("thinking_tokens" in (out / "results.csv").read_text(encoding="utf-8")) is True
    plain_rows, thinking_rows = rows
    assert plain_rows.keys() == thinking_rows.keys()
    for name in ("raw", "answer", "scores", "cited"):
        assert [one[name] for one in plain_rows.values()] == [
            thinking_rows[key][name] for key in plain_rows
        ]
    assert all(one["usage"]["thinking_tokens"] > 0 for one in thinking_rows.values())


def test_items_that_were_thought_away_fail_with_their_cost(tmp_path: Path) -> None:
    model = ThinkingModel(ScriptedEngine({"": "Wexley. Answer: Wexley"}))
    model.thought = lambda messages: "hmm " * 5000  # type: ignore[method-assign]
    with serving(model) as url:
        result = call(
            "eval", "--task", "world", "--lengths", 256, "--methods", "direct", "--limit", 2,
            "--base-url", url, "--out", tmp_path / "out", "--thinking-tokens", 64,
        )  # fmt: skip
    assert isinstance(result.exception, IncompleteRunError)
    lines = (tmp_path / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        assert "was still thinking after 64 tokens" in row["error"]
        assert row["scores"] == {}
        assert row["usage"]["thinking_tokens"] > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_judge_that_thinks_gives_the_plain_twins_verdicts(tmp_path: Path, form: str) -> None:
    """Its thoughts say no, its replies yes."""
    judge = ScriptedEngine(lambda request: '{"explanation": "The same.", "verdict": "yes"}')
    sampler = ThinkingModel(half_knowing(), thinks=False)
    found = []
    for thinks in (False, True):
        folder = tmp_path / str(thinks)
        folder.mkdir()
        with serving(ThinkingModel(judge, form, thinks=thinks, very_long=5000)) as url:
            result, trees = generate(
                folder, sampler, "--judge", "llm", "--judge-model", "played",
                "--judge-base-url", url,
            )  # fmt: skip
        assert result.exit_code == 0, result.output
        found.append(content_of(trees))
        assert all(node.score == 1.0 for tree in trees for node in tree.nodes if node.answer)
    assert found[0] == found[1]
