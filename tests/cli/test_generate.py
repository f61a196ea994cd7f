from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_trees import load_trees

from agenticlu.cli import group
from agenticlu.core.errors import (
    AgenticluError,
    ConfigError,
    DocumentError,
    IncompleteRunError,
    StoreError,
    UsageError,
)
from agenticlu.engines.scripted import ScriptedEngine
from agenticlu.search import setup
from agenticlu.search.store import Store


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rows = []
    for book in range(3):
        text = " ".join(f"Fact {i} of book {book}: item{i} is shade{i}." for i in range(12))
        for i in range(2):
            rows.append(
                {"context": text, "question": f"What is item{i}?", "answers": [f"shade{i}"]}
            )
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedEngine:
    """Half of the answers are right; a file of settings elsewhere plays no part."""

    def reply(request):
        if "Answer: yes" in request.last:
            return "Answer: yes"
        if "Answer:" not in request.last:
            return None
        asked = next(i for i in range(2) if f"What is item{i}?" in str(request.messages))
        return f"Answer: {f'shade{asked}' if int(request.key, 16) % 2 else 'grey'}"

    one = ScriptedEngine(reply, lambda request: "yes")
    monkeypatch.setattr(setup, "load_engine", lambda *args, **options: one)
    monkeypatch.chdir(tmp_path)
    return one


def call(*arguments: str) -> Result:
    return CliRunner().invoke(group, list(arguments), catch_exceptions=True)


SMALL = ("--branching", "3", "--depth", "2", "--piece-tokens", "40", "--quiet")


def test_the_stages_meet_through_files(corpus: str, tmp_path: Path):
    run, data = str(tmp_path / "run"), str(tmp_path / "data")
    done = call("generate", corpus, "--out", run, *SMALL, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["questions"] == 6
    assert summary["calls"]["done"] == summary["tokens"]["requests"] > 0
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "run.sqlite",
        "config.json",
        "metrics.jsonl",
    }
    assert json.loads((tmp_path / "run" / "config.json").read_text())["branching"] == 3
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert sum(event["event"] == "tree" for event in events) == 6
    built = call("dataset", "build", run, "--out", data, "--license", "mit", "--json")
    assert built.exit_code == 0, built.output
    rows = json.loads(built.stdout)["rows"]
    assert rows["sft"]["train"] > 0
    assert rows["preference"]["train"] > 0
    card = (tmp_path / "data" / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    assert "Recall by depth" in card
    croissant = json.loads((tmp_path / "data" / "croissant.json").read_text())
    assert {f["contentUrl"] for f in croissant["distribution"]} == {
        f"{kind}/{part}.parquet"
        for kind in ("plain", "sft", "preference", "distill")
        for part in ("train", "validation")
    } | {"questions/validation.parquet"}
    profile = str(tmp_path / "words.toml")
    read = call("prompts", "extract", f"{data}/preference/train.parquet", "--out", profile)
    assert read.exit_code == 0, read.output
    assert "clarify" in call("prompts", "check", profile).output


def test_running_the_same_command_again_asks_nothing(corpus: str, tmp_path: Path, engine):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    asked = len(engine.requests)
    again = call("generate", corpus, "--out", run, *SMALL)
    assert again.exit_code == 0
    assert len(engine.requests) == asked
    assert "6 questions" in again.stdout


def test_a_shortfall_of_clarifications_is_told(corpus: str, tmp_path: Path, engine):
    reply = engine.replies
    engine.replies = lambda request: reply(request) or "What is it?"
    done = call("generate", corpus, "--out", str(tmp_path / "run"), *SMALL, "--depth", "1")
    assert "clarifications wanted and not found: 12\n" in done.stdout, done.stdout


def test_the_data_set_can_be_built_twice_to_the_same_bytes(corpus: str, tmp_path: Path):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    for name in ("a", "b"):
        assert call("dataset", "build", run, "--out", str(tmp_path / name)).exit_code == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 12
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_card_never_assumes_a_licence(corpus: str, tmp_path: Path):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    call("dataset", "build", run, "--out", str(tmp_path / "d"))
    assert "license: not stated" in (tmp_path / "d" / "README.md").read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--push-to-hub", "nonsense", "--license", "mit"), "Invalid repository name"),
        (("--push-to-hub", "me/a--b", "--license", "mit"), "Invalid repository name"),
        (("--push-to-hub", "me/traces"), "needs a licence"),
        (("--push-to-hub", "me/traces", "--license", "mit"), "No token"),
    ],
)
def test_a_push_is_checked_before_anything_is_computed(
    tmp_path: Path, monkeypatch, arguments, words
):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    out = tmp_path / "data"
    done = call("dataset", "build", str(tmp_path / "no-run"), "--out", str(out), *arguments)
    assert isinstance(done.exception, UsageError)
    assert words in done.exception.message
    assert not out.exists()


def test_the_plan_asks_nothing_and_counts(corpus: str, engine):
    done = call("plan", corpus, *SMALL[:-1], "--growth", "full", "--json")
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert plan["exact"]
    assert plan["most"]["requests"]["clarify"] == 6 * 4
    assert plan["most"]["price"] is None
    assert engine.requests == []
    priced = call("plan", corpus, *SMALL[:-1], "--price-in", "1", "--price-out", "4")
    assert "price" in priced.stdout
    assert "at least" in priced.stdout
    wrong = call("plan", corpus, *SMALL[:-1], "--price-in", "-1")
    assert isinstance(wrong.exception, UsageError)
    assert "--price-in" in wrong.exception.message


def test_the_plan_measures_by_a_run(corpus: str, tmp_path: Path):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    like = call("plan", corpus, *SMALL[:-1], "--like", run, "--json")
    plan = json.loads(like.stdout)
    assert plan["lengths"] == "measured"
    assert plan["most"]["seconds"] > 0
    assumed = json.loads(call("plan", corpus, *SMALL[:-1], "--json").stdout)
    assert assumed["lengths"] == "assumed"
    assert plan["most"]["decoded_tokens"] < assumed["most"]["decoded_tokens"]


def test_status_of_a_finished_run(corpus: str, tmp_path: Path):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    status = json.loads(call("status", run, "--json").stdout)
    assert (status["running"], status["questions"], status["done"]) == (False, 6, 6)
    assert status["calls"]["intent"] == 0
    assert status["tokens"]["requests"] == status["calls"]["done"]
    assert "6 of 6 questions done" in call("status", run).stdout


def test_status_is_live_from_another_process(corpus: str, tmp_path: Path):
    from agenticlu.search.store import Store

    run = tmp_path / "run"
    call("generate", corpus, "--out", str(run), *SMALL)
    with Store(run):
        command = [sys.executable, "-c", _STATUS.format(run=str(run))]
        live = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(live.stdout)["running"] is True
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["running"] is False


_STATUS = (
    "import sys; sys.argv = ['agenticlu', 'status', {run!r}, '--json']; "
    "from agenticlu.cli import main; main()"
)


def test_shards_are_sealed_and_merged(corpus: str, tmp_path: Path):
    call("generate", corpus, "--out", str(tmp_path / "whole"), *SMALL)
    for index in range(3):
        done = call(
            *("generate", corpus, "--out", str(tmp_path / f"s{index}"), *SMALL),
            *("--shard", f"{index}/3", "--seal", str(tmp_path / "sealed")),
        )
        assert done.exit_code == 0, done.output
    merged = call("generate", "merge", str(tmp_path / "sealed"), "--out", str(tmp_path / "merged"))
    assert "6 questions, 6 trees" in merged.stdout
    for name in ("whole", "merged"):
        built = call("dataset", "build", str(tmp_path / name), "--out", str(tmp_path / f"d-{name}"))
        assert built.exit_code == 0, built.output
    for file in (tmp_path / "d-whole").rglob("*.parquet"):
        other = tmp_path / "d-merged" / file.relative_to(tmp_path / "d-whole")
        assert file.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            ("no-such.jsonl", "--out", "run"),
            DocumentError,
            "There is no file, directory or hub data set",
        ),
        (("CORPUS", "--out", "run", "--shard", "3/3"), UsageError, "is not a shard"),
        (("CORPUS", "--out", "run", "--limit", "0"), UsageError, "--limit"),
        (("CORPUS", "--out", "run", "--column", "context"), UsageError, "expected FIELD=COLUMN"),
        (("CORPUS", "--out", "run", "--column", "q=x"), ConfigError, "Unknown --column field"),
        (("CORPUS", "--out", "run", "--branching", "0"), UsageError, "--branching"),
        (("CORPUS", "--out", "run", "--judge", "llm"), ConfigError, "needs a model"),
        (("CORPUS", "--out", "run", "--judge-model", "m"), UsageError, "would not be asked"),
        (("CORPUS", "--out", "run", "--timeout", "0"), UsageError, "--timeout"),
        (("replay", "run", "--retry-failed"), UsageError, "has no effect here"),
        (("replay", "run", "--judge-model", "m"), UsageError, "would not be asked"),
        (("CORPUS", "--out", "run", "--profile", "defalt"), ConfigError, "Unknown profile"),
        (("CORPUS", "--out", "run", "--config", "none.toml"), ConfigError, "none.toml"),
    ],
)
def test_bad_input_gets_an_error_in_words(corpus: str, tmp_path: Path, arguments, error, words):
    given = [corpus if argument == "CORPUS" else argument for argument in arguments]
    done = call("generate", *given)
    assert isinstance(done.exception, error), done.output
    assert words in done.exception.message


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--concurrency", "0"),
        ("--trees-at-once", "-1"),
        ("--tokens-in-flight", "0"),
        ("--max-total-tokens", "-5"),
        ("--patience", "-1"),
        ("--seal-every", "0"),
        ("--ray", "0"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(corpus: str, tmp_path: Path, flag: str, value: str):
    done = call("generate", corpus, "--out", str(tmp_path / "run"), flag, value)
    assert isinstance(done.exception, UsageError)
    assert done.exception.message.startswith(f"{flag} {value}: must be greater than")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [("--judge", "llm"), ("--profile", "defalt")])
def test_settings_that_cannot_be_leave_nothing_behind(corpus: str, tmp_path: Path, wrong):
    done = call("generate", corpus, "--out", str(tmp_path / "run"), *SMALL, *wrong)
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_config_file_is_refused(corpus: str, tmp_path: Path):
    (tmp_path / "c.toml").write_text("brnching = 3\n")
    done = call("generate", corpus, "--out", str(tmp_path / "run"), "--config", "c.toml")
    assert isinstance(done.exception, ConfigError)
    assert "branching" in (done.exception.hint or "")


def test_failed_questions_give_their_own_exit_code(corpus: str, tmp_path: Path, engine):
    from agenticlu.core.errors import EngineReplyError

    engine.faults = lambda r: EngineReplyError("filtered") if "item1?" in str(r.messages) else None
    done = call("generate", corpus, "--out", str(tmp_path / "run"), *SMALL)
    assert isinstance(done.exception, IncompleteRunError)
    assert done.exception.exit_code == 9
    assert "3 of 6" in done.exception.message
    status = call("status", str(tmp_path / "run")).stdout
    assert "filtered" in status


def test_commands_over_a_folder_without_a_run_say_so(tmp_path: Path):
    for arguments in (("status", "x"), ("dataset", "build", "x", "--out", "y")):
        done = call(*arguments)
        assert isinstance(done.exception, StoreError)
        assert "generate --out" in (done.exception.hint or "")


def test_a_replay_judges_and_exports_anew_without_sampling(corpus: str, tmp_path: Path, engine):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    asked = len(engine.requests)
    again = call("generate", "replay", run, "--judge", "rouge-l", "--json")
    assert again.exit_code == 0, again.output
    assert len(engine.requests) == asked
    assert json.loads(again.stdout)["questions"] == 6
    assert call("dataset", "build", run, "--out", str(tmp_path / "d")).exit_code == 0
    assert "rouge-l" in (tmp_path / "d" / "README.md").read_text()
    wrong = call("generate", "replay", run, "--branching", "0")
    assert isinstance(wrong.exception, UsageError)
    assert "--branching 0" in wrong.exception.message
    back = call("generate", "replay", run, "--judge", "exact", "--judge", "llm", "--json")
    assert isinstance(back.exception, ConfigError), "an LLM judge needs a model"


def test_a_replay_under_which_nothing_is_recorded_changes_nothing(
    corpus: str, tmp_path: Path, engine
):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    before = load_trees(run)
    done = call("generate", "replay", run, "--grounding", "shortlist")
    assert isinstance(done.exception, StoreError)
    assert "no call that these settings would make" in done.exception.message
    assert load_trees(run) == before
    assert call("generate", "replay", run).exit_code == 0, "the run's own settings still hold"
    assert load_trees(run) == before


def test_a_replay_leaves_no_tree_of_other_settings_behind(corpus: str, tmp_path: Path, engine):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL)
    before = load_trees(run)
    victim = before[0].nodes[0].id
    with Store(run) as store:
        store.write([("UPDATE call SET key = 'x' || key WHERE node_id = ?", (victim,))])
    done = call("generate", "replay", run)
    assert "1 not grown" in done.stdout
    assert load_trees(run) == before[1:]
    with Store(run) as store:
        store.write([("UPDATE call SET key = substr(key, 2) WHERE node_id = ?", (victim,))])
    assert "not grown" not in call("generate", "replay", run).stdout
    assert load_trees(run) == before


def test_a_replay_asks_judges_again_where_they_gave_no_verdict(
    corpus: str, tmp_path: Path, engine, monkeypatch
):
    run = str(tmp_path / "run")
    call("generate", corpus, "--out", run, *SMALL, "--depth", "1")
    judge = ScriptedEngine(lambda request: "hm", name="critic")
    monkeypatch.setattr(setup, "load_engine", lambda *args, **options: judge)
    given = ("generate", "replay", run, "--judge", "exact", "--judge", "llm", "--json")
    named = (*given, "--judge-model", "critic")
    unscored = json.loads(call(*named).stdout)["unscored_nodes"]
    assert unscored > 0
    judge.replies = lambda request: '{"explanation": "x", "verdict": "no"}'
    assert json.loads(call(*named).stdout)["unscored_nodes"] == unscored
    again = call(*named, "--retry-failed", "--timeout", "5", "--patience", "1")
    assert json.loads(again.stdout)["unscored_nodes"] == 0


def test_the_published_algorithm_is_one_flag(corpus: str, tmp_path: Path):
    done = call("generate", corpus, "--out", str(tmp_path / "run"), "--as-published", *SMALL)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["grounding"], config["growth"], config["merge"]) == (
        "as-published",
        "full",
        False,
    )
    assert config["top_k"] is None
    assert config["branching"] == 3
    assert config["reply_tokens"]["answer"] == 1024
    assert (config["judge_all"], config["root_check"]) == (True, True)


def test_help_names_the_subcommands():
    assert "merge" in call("generate", "--help").output
    assert "--branching" in call("generate", "run", "--help").output


@pytest.mark.parametrize("text", [None, "not JSON\n"])
def test_a_wrong_corpus_leaves_nothing_behind(tmp_path: Path, text: str | None) -> None:
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "run"
    if text is not None:
        corpus.write_text(text)
    with pytest.raises(AgenticluError):
        group.main(["generate", str(corpus), "--out", str(out)], standalone_mode=False)
    assert not out.exists()


def test_lines_without_an_answer_are_left_out_and_told(corpus: str, tmp_path: Path) -> None:
    path = Path(corpus)
    line = {"context": "Half a \ud83d character.", "question": "What is item1?", "answers": []}
    text = path.read_text(encoding="utf-8") + "\n" + json.dumps(line)
    answered = {**line, "answers": ["shade1"]}
    path.write_text(text + "\n" + json.dumps(answered), encoding="utf-8")
    planned = call("plan", corpus, *SMALL[:-1], "--json")
    done = call("generate", corpus, "--out", str(tmp_path / "run"), *SMALL, "--json")
    for result in (planned, done):
        assert result.exit_code == 0, result.output
        assert "Line 7 has no accepted answer and is left out." in result.stderr
        assert json.loads(result.stdout)["questions"] == 7
    assert json.loads(done.stdout)["lines_left_out"] == 1
    built = call("dataset", "build", str(tmp_path / "run"), "--out", str(tmp_path / "data"))
    assert built.exit_code == 0, built.output


def test_a_corpus_that_is_wrong_further_down_leaves_nothing(corpus: str, tmp_path: Path, engine):
    with Path(corpus).open("a", encoding="utf-8") as file:
        file.write('\n{"context": "torn')
    done = call("generate", corpus, "--out", str(tmp_path / "run"), *SMALL)
    assert isinstance(done.exception, DocumentError), done.output
    assert not (tmp_path / "run").exists()


def test_the_next_command_can_be_copied(corpus: str, tmp_path: Path):
    run, data = tmp_path / "my run", tmp_path / "my data"
    done = call("generate", corpus, "--out", str(run), *SMALL)
    assert f"Next: agenticlu dataset build '{run}' --out DIR" in done.stdout
    built = call("dataset", "build", str(run), "--out", str(data))
    assert f"Next: agenticlu train sft '{data}' --model" in built.stdout


@pytest.mark.parametrize("judge", [(), ("--judge", "rouge-l")])
def test_a_replay_is_shown_where_nothing_can_be_written(
    corpus: str, unwritable, judge: tuple[str, ...]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, run = Path(name), str(Path(name) / "run")
        folder.chmod(0o755)
        assert call("generate", corpus, "--out", run, *SMALL).exit_code == 0
        before = call("generate", "replay", run, *judge, "--json")
        unwritable(folder)
        done = call("generate", "replay", run, *judge, "--json")
        os.seteuid(os.getuid())
        folder.chmod(0o755)
        (folder / "run").chmod(0o755)
    assert done.exit_code == 0, done.output
    assert done.stdout == before.stdout
    assert "cannot be written: its trees stay" in done.stderr
    assert "cannot be written" not in before.stderr


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_guiding_is_refused_where_a_server_answers(tmp_path: Path, more: tuple[str, ...]) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(
        '{"context": "Ada lives in Wexley.", "question": "Who?", "answers": ["Ada"]}\n'
    )
    out = tmp_path / "run"
    words = ["generate", str(corpus), "--guide", "--base-url", "http://127.0.0.1:9/v1", *more]
    found = CliRunner().invoke(group, [*words, "--out", str(out)])
    assert isinstance(found.exception, UsageError)
    assert "--guide" in found.exception.message
    assert not out.exists()
