"""The public Python API: its names, its three lines, where its settings come from; its docs run."""

import asyncio
import inspect
import os
import re
import typing
import warnings
from pathlib import Path

import pytest

import agenticlu
from agenticlu.core.config import load_project, trust_store
from agenticlu.core.errors import ConfigError, DocumentError, EngineUnreachableError
from agenticlu.core.trust import Consent
from agenticlu.engines.scripted import ScriptedEngine, ScriptedRequest

ROOT = Path(__file__).parents[1]
TEXT = (
    "The snow lasted for nine days. Ada Yardley lives in Wexley.\n\n"
    "Bo Otis keeps a duck. The teacher of Bo Otis is Ada Yardley.\n"
)
QUESTION = "Where does Ada Yardley live?"


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A document in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "notes.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def reply(request: ScriptedRequest) -> str:
    return "<para 0>" if "marker" in request.last else "Answer: in Wexley"


def test_all_is_what_there_is() -> None:
    public = {name for name in dir(agenticlu) if not name.startswith("_")}
    assert public == set(agenticlu.__all__) - {"__version__"}
    for name in public:
        value = getattr(agenticlu, name)
        assert inspect.getdoc(value), name
        home = f"agenticlu.{agenticlu._HOMES[name]}"
        assert value.__module__.startswith(home), name
    hinted = re.findall(r"^    from \S+ import (.+)$", inspect.getsource(agenticlu), re.MULTILINE)
    assert {name for line in hinted for name in line.split(", ")} == public


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'answer'"):
        _ = agenticlu.answer


def test_a_question_in_three_lines(notes: Path) -> None:
    engine = ScriptedEngine(reply)
    answer = agenticlu.ask(notes, QUESTION, engine=engine)
    assert (answer.answer, answer.supported) == ("in Wexley", True)
    assert answer.citations
    alike = asyncio.run(agenticlu.ask_async("notes.txt", QUESTION, engine=ScriptedEngine(reply)))
    assert alike.turns == answer.turns


def test_ask_works_where_a_loop_is_running(notes: Path) -> None:
    async def cell() -> str:
        return agenticlu.ask(notes, QUESTION, engine=ScriptedEngine(reply)).answer

    assert asyncio.run(cell()) == "in Wexley"


def test_several_documents_are_asked_as_one(notes: Path) -> None:
    other = notes.with_name("other.md")
    other.write_text("# Ducks\n\nBo Otis keeps a duck.\n")
    for given in ([notes, "other.md"], ".", "*.*"):
        engine = ScriptedEngine(reply)
        answer = agenticlu.ask(given, QUESTION, engine=engine)
        assert answer.citations[0].file is not None
        assert answer.citations[0].file.name == "notes.txt"
        assert "File: other.md (Ducks)" in engine.requests[0].messages[1].content
    with agenticlu.Reader([notes, other], engine=ScriptedEngine(reply)) as reader:
        assert [part.name for part in reader.document.parts] == ["notes.txt", "other.md"]


def test_the_bundled_model_answers_and_says_so(notes: Path) -> None:
    with pytest.warns(UserWarning, match="bundled tiny model"):
        answer = agenticlu.ask(notes, QUESTION)
    assert answer.answer == "Wexley"
    assert [citation.quote for citation in answer.citations] == ["Ada Yardley lives in Wexley."]


def test_a_reader_reads_once(notes: Path, tiny_model_path: Path) -> None:
    with warnings.catch_warnings(), agenticlu.Reader(notes, model=tiny_model_path) as reader:
        warnings.simplefilter("error")
        first, second = reader.ask(QUESTION), reader.ask("Who is the teacher of Bo Otis?")
        estimate = reader.estimate(QUESTION)
    assert first.usage.prompt_tokens - first.usage.cached_tokens > estimate.document_tokens
    assert second.usage.prompt_tokens - second.usage.cached_tokens < (
        first.usage.prompt_tokens - first.usage.cached_tokens
    )


@pytest.mark.parametrize("layer", ["variable", "project", "user"])
def test_the_model_comes_from_the_same_places_as_on_the_command_line(
    layer: str, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:9/v1"
    if layer == "variable":
        monkeypatch.setenv("AGENTICLU_BASE_URL", nowhere)
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
        project = tmp_path / "agenticlu.toml"
        user = tmp_path / "home" / "agenticlu" / "config.toml"
        path = project if layer == "project" else user
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'model = "played"\nbase_url = ["{nowhere}"]\n')
    if layer == "project":
        with pytest.raises(ConfigError, match="not trusted"):
            agenticlu.ask(notes, QUESTION)
        found = load_project()
        assert found is not None
        trust_store(os.environ).remember(found, Consent(file=True))
    with pytest.raises(EngineUnreachableError, match=r"127\.0\.0\.1:9"):
        agenticlu.ask(notes, QUESTION)


def test_a_later_reader_computes_nothing_of_the_document(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("Ada Yardley lives in Wexley, by the river. " * 90)
    kept = tmp_path / "kept"

    def computed(prefix_cache: Path | typing.Literal[False]) -> int:
        answer = agenticlu.ask(
            tmp_path / "long.txt", "Where?", model=tiny_model_path, prefix_cache=prefix_cache
        )
        return answer.usage.prompt_tokens - answer.usage.cached_tokens

    first = computed(kept)
    assert first > 900
    assert len(list(kept.glob("*.safetensors"))) == 1
    assert computed(False) == first
    assert computed(kept) < first / 2


def test_what_the_call_names_wins(notes: Path, tiny_model_path: Path, tmp_path: Path) -> None:
    (tmp_path / "agenticlu.toml").write_text(
        'model = "played"\nbase_url = ["http://127.0.0.1:9/v1"]\n'
    )
    assert agenticlu.ask(notes, QUESTION, model=tiny_model_path).answer == "Wexley"


def test_wrong_arguments_are_errors_of_ours(notes: Path, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"missing\.pdf"):
        agenticlu.ask("missing.pdf", QUESTION)
    with pytest.raises(ConfigError, match="nothere"):
        agenticlu.ask(notes, QUESTION, profile="nothere")
    (tmp_path / "agenticlu.toml").write_text("modle = 'x'\n")
    with pytest.raises(ConfigError, match="modle"):
        agenticlu.ask(notes, QUESTION)


@pytest.mark.parametrize("name", ["./none", "none", "../up/none", "a--b/..c"])
def test_a_model_that_is_not_there_is_our_error(name: str, notes: Path) -> None:
    from agenticlu.core.errors import ModelNotFoundError

    with pytest.raises(ModelNotFoundError, match="not found"):
        agenticlu.ask(notes, QUESTION, model=name)
    with pytest.raises(ConfigError, match="tokenizer"):
        agenticlu.ask(notes, QUESTION, tokenizer=name, base_url="http://127.0.0.1:9/v1")


def test_the_options_of_ask_are_those_of_a_reader() -> None:
    from agenticlu.dialogue.api import ReaderOptions

    reader = set(inspect.signature(agenticlu.Reader.__init__).parameters) - {"self", "document"}
    assert reader == set(typing.get_type_hints(ReaderOptions))
    asked = set(inspect.signature(agenticlu.Reader.ask_async).parameters) - {"self"}
    for function in (agenticlu.ask, agenticlu.ask_async):
        assert asked <= set(inspect.signature(function).parameters)


def examples() -> list[str]:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("number", range(len(examples())))
@pytest.mark.filterwarnings("ignore:No model was named")
def test_the_examples_of_the_docs_run(
    number: int, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile(examples()[number], f"docs/python.md, example {number + 1}", "exec"), {})
    assert capsys.readouterr().out.strip()
