"""Every option of every command, set in every way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_options import ALL, CONVERTED, OPTIONS, as_toml, as_words, other_value

from agenticlu.cli import COMMANDS, group
from agenticlu.core.config import SHARED, TABLES
from agenticlu.core.errors import ConfigError
from agenticlu.core.settings import Setting, settings_of


def call(*words: str) -> Result:
    return CliRunner().invoke(group, list(words))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "agenticlu").mkdir(parents=True)


def test_every_command_takes_its_settings_from_one_place() -> None:
    assert len(CONVERTED) == len(ALL) > 25
    assert len(OPTIONS) > 300


def test_the_tables_are_the_commands() -> None:
    assert set(TABLES) == set(COMMANDS)
    for words in ALL:
        assert len(words) == 1 or words[1] in (*TABLES[words[0]], "run")


@pytest.mark.parametrize(("words", "setting"), OPTIONS, ids=lambda one: getattr(one, "key", None))
def test_every_option_from_every_layer(
    words: tuple[str, ...], setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = CONVERTED[words]
    assert setting.help, f"{words}: {setting.key} has no help"
    value = other_value(setting)
    table = f"[{command.section}]\n{setting.key} = {as_toml(value)}\n"
    variable = f"AGENTICLU_{command.section}_{setting.key}".replace(".", "_").upper()
    text = as_words(setting, value)[-1] if not isinstance(value, bool) else str(value).lower()
    expected = f"{setting.key} = {json.dumps(value, ensure_ascii=False)}  "

    def shown(*given: str) -> list[str]:
        result = call(*words, "--show-config", *given)
        assert result.exit_code == 0, (result.output, result.exception)
        if not result.stdout.startswith("{"):
            return result.stdout.splitlines()
        found = json.loads(result.stdout)
        return [
            f"{k} = {json.dumps(v)}  ({found['origins'][k]})" for k, v in found["values"].items()
        ]

    assert not any(line.startswith(expected) for line in shown())
    user = tmp_path / "home" / "agenticlu" / "config.toml"
    user.write_text(table)
    assert f"{expected}({user})" in shown()
    user.unlink()
    Path("agenticlu.toml").write_text(table)
    assert f"{expected}(agenticlu.toml)" in shown()
    Path("agenticlu.toml").unlink()
    Path("run.toml").write_text(table.partition("\n")[2])
    assert f"{expected}(run.toml)" in shown("--config", "run.toml")
    monkeypatch.setenv(variable, text)
    assert f"{expected}(environment {variable})" in shown()
    monkeypatch.delenv(variable)
    assert f"{expected}(flag)" in shown(*as_words(setting, value))
    if setting.key in SHARED:
        monkeypatch.setenv(f"AGENTICLU_{setting.key.upper()}", text)
        assert f"{expected}(environment AGENTICLU_{setting.key.upper()})" in shown()


@pytest.mark.parametrize("words", CONVERTED, ids=" ".join)
def test_unknown_keys_are_errors_everywhere(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = CONVERTED[words]
    keys = [key for key in settings_of(command.settings) if key not in command.without]
    key = keys[0] if keys else "anything"
    wrong = f"{key}z"
    for file, text, given in (
        ("agenticlu.toml", f"[{command.section}]\n{wrong} = 1\n", ()),
        ("run.toml", f"{wrong} = 1\n", ("--config", "run.toml")),
    ):
        Path(file).write_text(text)
        result = call(*words, "--show-config", *given)
        Path(file).unlink()
        assert isinstance(result.exception, ConfigError), (file, result.output)
        assert repr(wrong) in result.exception.message
        assert not keys or "Did you mean" in (result.exception.hint or "")
    variable = f"AGENTICLU_{command.section}_{wrong}".replace(".", "_").upper()
    monkeypatch.setenv(variable, "1")
    result = call(*words, "--show-config")
    assert isinstance(result.exception, ConfigError)
    assert variable in result.exception.message
    assert not keys or "Did you mean" in (result.exception.hint or "")


@pytest.mark.parametrize("words", CONVERTED, ids=" ".join)
def test_former_names_of_options_still_work(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = CONVERTED[words]
    settings = settings_of(command.settings)
    for setting in (settings[key] for key in settings if key not in command.without):
        for alias in setting.spelling.aliases:
            value = other_value(setting)
            flag = f"--{alias.replace('_', '-')}"
            given = [flag, as_words(setting, value)[-1]] if value is not True else [flag]
            result = call(*words, "--show-config", *given)
            assert result.exit_code == 0, result.output
            assert f"{setting.key} = {json.dumps(value)}  (flag)" in result.stdout
            assert f"{flag} is now --{setting.key.replace('_', '-')}." in result.stderr
            assert flag not in call(*words, "--help").output.split()


def test_help_shows_defaults_and_choices() -> None:
    shown = " ".join(call("generate", "run", "--help").output.split())
    assert "--growth [until-solved|full|best-first]" in shown
    assert "[default: until- solved]" in shown
    assert "--judge-all" in shown
    assert "--no-judge-all" not in shown
    assert "--merge / --no-merge" in shown
    assert "(B). [default: 8; >= 1]" in shown
    assert "[default: 0.95; > 0; <= 1]" in shown
    assert "[default: private]" in " ".join(call("dataset", "push", "--help").output.split())


def test_no_command_drops_the_model_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("corpus.jsonl").write_text('{"context": "A.", "question": "B?", "answers": ["c"]}\n')
    Path("a.txt").write_text("Ada lives in Wexley.")
    for words in (
        ("plan", "corpus.jsonl"),
        ("generate", "corpus.jsonl", "--dry-run"),
        ("ask", "a.txt", "Who?", "--dry-run"),
        ("eval", "--dry-run", "--lengths", "256", "--limit", "1"),
    ):
        assert "bundled tiny model" in call(*words).stderr, words
        monkeypatch.setenv("AGENTICLU_MODEL", "no-such-model")
        result = call(*words)
        assert "bundled" not in result.stderr
        assert result.exit_code or "estimated" in result.stderr
        monkeypatch.delenv("AGENTICLU_MODEL")


@pytest.mark.parametrize(
    ("words", "flag"), [("plan c.jsonl", "--judge exat"), ("train plan d", "--max-row-tokens 0")]
)
def test_the_name_of_today_is_not_taken_for_a_former_one(words: str, flag: str) -> None:
    done = CliRunner().invoke(group, [*words.split(), *flag.split()])
    assert done.exit_code != 0
    assert "is now" not in done.output
