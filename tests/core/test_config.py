from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, SecretStr

from agenticlu.cli.ask import AskSettings
from agenticlu.core.config import Preset, Resolved, load_toml, resolve, user_config_path
from agenticlu.core.errors import (
    EXTRA_OF_PACKAGE,
    ConfigError,
    MissingDependencyError,
    Registry,
    UsageError,
)
from agenticlu.core.settings import Settings, Spelling, parse_overrides


class Example(Settings):
    model: str | None = None
    base_url: tuple[str, ...] = ()
    rounds: int = Field(default=1, ge=1)
    mode: Literal["scan", "point"] = "scan"
    quiet: bool = False
    out: Path = Path("out")
    learning_rate: Annotated[float, Spelling("lr", aliases=("rate",))] = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weights: dict[str, float] = Field(default_factory=dict)


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def resolved(
        *,
        user: str = "",
        project: str = "",
        config: str | None = None,
        environ: dict[str, str] | None = None,
        **flags: object,
    ) -> Resolved[Example]:
        (tmp_path / "user.toml").write_text(user)
        (tmp_path / "agenticlu.toml").write_text(project)
        if config is not None:
            (tmp_path / "run.toml").write_text(config)
        return resolve(
            Example,
            section="ask",
            flags=flags,
            environ=environ or {},
            config_file=None if config is None else tmp_path / "run.toml",
            project_file=tmp_path / "agenticlu.toml",
            user_file=tmp_path / "user.toml",
            unchecked=True,
        )

    return resolved


def test_defaults(files: Any) -> None:
    found = files()
    assert found.values == Example()
    assert set(found.origins.values()) == {"default"}
    assert "lr" in found.origins


def test_precedence_step_by_step(files: Any) -> None:
    sources: dict[str, Any] = {}
    expected = 1
    for name, value in (
        ("user", "[ask]\nrounds = 2"),
        ("project", "[ask]\nrounds = 3"),
        ("config", "rounds = 4"),
        ("environ", {"AGENTICLU_ASK_ROUNDS": "5"}),
        ("rounds", 6),
    ):
        sources[name] = value
        expected += 1
        found = files(**sources)
        assert found.values.rounds == expected
        origin = found.origins["rounds"]
        word = {"user": "user.toml", "project": "agenticlu.toml", "config": "run.toml"}.get(
            name, {"environ": "environment AGENTICLU_ASK_ROUNDS", "rounds": "flag"}.get(name, "")
        )
        assert origin.endswith(word)


def test_shared_keys_and_a_commands_own(files: Any) -> None:
    project = 'model = "shared"\n[ask]\nmodel = "own"\n[generate]\nbranching = 8\n'
    assert files(project=project).values.model == "own"
    assert files(project='model = "shared"').values.model == "shared"
    assert files(project='temperature = 0.5\nmodel = "m"').values.model == "m"
    both = {"AGENTICLU_MODEL": "shared", "AGENTICLU_ASK_MODEL": "own"}
    assert files(environ=both).values.model == "own"
    assert files(environ={"AGENTICLU_MODEL": ""}).values.model is None


def test_environment_values_are_parsed(files: Any) -> None:
    environ = {
        "AGENTICLU_BASE_URL": "http://a/v1, http://b/v1",
        "AGENTICLU_ASK_LR": "3e-5",
        "AGENTICLU_ASK_BETAS": "[0.8, 0.9]",
        "AGENTICLU_ASK_QUIET": "yes",
        "AGENTICLU_ASK_WEIGHTS": '{"a": 1}',
        "AGENTICLU_TRAIN_MAX_STEPS": "3",
        "AGENTICLU_DEBUG": "1",
    }
    values = files(environ=environ).values
    assert values.base_url == ("http://a/v1", "http://b/v1")
    assert (values.learning_rate, values.betas) == (3e-5, (0.8, 0.9))
    assert values.quiet
    assert values.weights == {"a": 1.0}


def test_tables_as_values_and_overrides(files: Any) -> None:
    config = 'mode = "point"\nlr = 1\n[weights]\nx = 0.5\n'
    found = files(config=config, lr=0.25)
    assert found.values.learning_rate == 0.25
    assert found.values.weights == {"x": 0.5}
    assert found.origins["lr"] == "flag"
    assert found.origins["betas"] == "default"
    assert parse_overrides(["lr=1", "out=a b", "x=true", 'y="1"']) == {
        "lr": 1,
        "out": "a b",
        "x": True,
        "y": "1",
    }
    with pytest.raises(ConfigError, match="key=value"):
        parse_overrides(["rounds"])


@pytest.mark.parametrize(
    ("sources", "message", "hint"),
    [
        ({"project": "[ask]\nronds = 2"}, "'ronds'", "rounds"),
        ({"project": "rounds = 2"}, "'rounds'", None),
        ({"project": "[aks]\nrounds = 2"}, r"\[aks\]", "ask"),
        ({"project": 'modle = "a"'}, "'modle'", "model"),
        ({"config": "[optimizer]\nlear = 2"}, "'optimizer'", None),
        ({"config": "[weights]\nx = 'two'"}, "weights", None),
        ({"project": "[dataset.biuld]\nmargin = 1"}, r"\[dataset.biuld\]", "dataset.build"),
        ({"project": "ask = 3"}, "'ask'", None),
        ({"project": "[ask]\nrounds = 0"}, "rounds = 0 .*agenticlu.toml", None),
        ({"config": "rounds = '2'"}, "rounds = '2'", None),
        ({"config": "rounds = 0"}, "rounds = 0", None),
        ({"config": "rounds = 1.5"}, "rounds", None),
        ({"config": "quiet = 'yes'"}, "quiet", None),
        ({"config": 'mode = "scam"'}, "scam", None),
        ({"config": "rounds = 2026-11-23"}, "rounds", None),
        ({"config": "rounds = "}, "not valid TOML", None),
        ({"environ": {"AGENTICLU_MODLE": "a"}}, "AGENTICLU_MODLE", "AGENTICLU_MODEL"),
        ({"environ": {"AGENTICLU_ROUNDS": "2"}}, "AGENTICLU_ROUNDS", "AGENTICLU_ASK_ROUNDS"),
        ({"environ": {"AGENTICLU_COLOUR": "2"}}, "AGENTICLU_COLOUR", "AGENTICLU_MODEL"),
        ({"environ": {"AGENTICLU_ASK_RONDS": "2"}}, "AGENTICLU_ASK_RONDS", "ASK_ROUNDS"),
        ({"environ": {"AGENTICLU_ASK_ROUNDS": "two"}}, "AGENTICLU_ASK_ROUNDS", None),
        ({"ronds": 2}, "'ronds'", "rounds"),
    ],
)
def test_refused(files: Any, sources: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        files(**sources)
    assert caught.value.exit_code == 3
    if hint is not None:
        assert hint in str(caught.value.hint)


def test_a_wrong_flag_is_a_usage_error(files: Any) -> None:
    with pytest.raises(UsageError, match="--rounds two: must be a valid integer") as caught:
        files(rounds="two")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="--mode scam") as caught:
        files(mode="scam")
    assert caught.value.hint == "Did you mean scan?"


def test_former_keys_still_work_and_say_so(files: Any) -> None:
    found = files(config="rate = 0.5")
    assert found.values.learning_rate == 0.5
    assert [note.split(" (")[0] for note in found.notes] == ["rate is now lr"]
    found = files(environ={"AGENTICLU_ASK_RATE": "0.25"})
    assert found.values.learning_rate == 0.25
    assert found.notes == ("rate is now lr (environment AGENTICLU_ASK_RATE).",)
    assert files(config="lr = 0.5").notes == ()


def test_a_subcommand_reads_its_table_and_those_it_inherits(tmp_path: Path) -> None:
    project = tmp_path / "agenticlu.toml"
    project.write_text("[train]\nrounds = 2\nquiet = true\n[train.sft]\nrounds = 3\n")

    def read(section: str, **options: Any) -> Resolved[Example]:
        return resolve(
            Example,
            section=section,
            inherits=("train",),
            project_file=project,
            **{"environ": {}, **options},
        )

    assert (read("train.sft").values.rounds, read("train.dpo").values.rounds) == (3, 2)
    environ = {"AGENTICLU_TRAIN_ROUNDS": "4", "AGENTICLU_TRAIN_DPO_ROUNDS": "5"}
    assert read("train.sft", environ=environ).values.rounds == 4
    assert read("train.dpo", environ=environ).values.rounds == 5
    assert "quiet" not in read("train.sft", without=("quiet",)).origins
    project.write_text("[train.sft]\nquiet = true\n")
    with pytest.raises(ConfigError, match="'quiet'"):
        read("train.sft", without=("quiet",))
    config = tmp_path / "run.toml"
    config.write_text("rounds = 6\n[sft]\nrounds = 7\n")
    assert read("train.sft", config_file=config).values.rounds == 7
    assert read("train.dpo", config_file=config).values.rounds == 6
    for text in ("[train.sft]\nronds = 1", "[train]\nronds = 1", "[train.sfft]\nrounds = 1"):
        project.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read("train.sft")
        assert "Did you mean" in str(caught.value.hint) or "sfft" in caught.value.message


def test_a_preset_is_weaker_than_files_unless_it_says_otherwise(files: Any) -> None:
    def find(beats: Any) -> Resolved[Example]:
        return resolve(
            Example,
            section="ask",
            environ={"AGENTICLU_ASK_ROUNDS": "2"},
            flags={"lr": 0.5},
            project_file=None,
            find_preset=lambda given: Preset(
                "preset x", {"rounds": 9, "rate": 1, "out": "p"}, beats
            ),
        )

    weak, strong = find("defaults"), find("files")
    assert (weak.values.rounds, strong.values.rounds) == (2, 9)
    assert weak.values.learning_rate == strong.values.learning_rate == 0.5
    assert weak.origins["out"] == "preset x"


def test_a_required_setting_is_a_missing_option() -> None:
    class Needy(Settings):
        out: Path
        """Where to write."""

    found = resolve(Needy, environ={}, project_file=None)
    assert "out = null" in found.describe()
    with pytest.raises(UsageError, match="Missing option --out") as caught:
        found.values  # noqa: B018
    assert "Where to write" in str(caught.value.hint)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such configuration file"):
        load_toml(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes("a = 'é'".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8: line 1"):
        load_toml(tmp_path / "latin.toml")
    with pytest.raises(ConfigError, match="Cannot read"):
        load_toml(tmp_path)
    with (tmp_path / "vast.toml").open("wb") as vast:
        vast.truncate(1 << 40)  # a file of holes takes no room on a disk, but would in memory
    with pytest.raises(ConfigError, match="longer than 1 MiB"):
        load_toml(tmp_path / "vast.toml")


@pytest.mark.parametrize("base", [".", "", "agenticlu/..", "./here"])
def test_the_working_folder_is_never_the_users_own(base: str) -> None:
    assert user_config_path({"XDG_CONFIG_HOME": base, "HOME": base}) is None
    assert user_config_path({"XDG_CONFIG_HOME": base, "HOME": "/home/ada"}) == Path(
        "/home/ada/.config/agenticlu/config.toml"
    )


def test_resolved_is_shown_with_origins_and_without_secrets() -> None:
    class Secretive(Settings):
        api_key: str | None = None
        api_key_env: str = "OPENAI_API_KEY"
        password: SecretStr = SecretStr("hunter2")
        piece_tokens: int = 512
        base_url: tuple[str, ...] = ()

    found = resolve(
        Secretive,
        section="ask",
        flags={
            "api_key": "sk-live-1",
            "base_url": ["http://me:sesame@host/v1?api_key=abc&x=1"],
        },
        environ={},
        project_file=None,
    )
    text = json.dumps(found.as_dict())
    for secret in ("sk-live-1", "hunter2", "sesame", "abc"):
        assert secret not in text
        assert secret not in found.describe()
    saved = json.loads(text)
    assert saved["values"]["piece_tokens"] == 512
    assert saved["values"]["api_key_env"] == "OPENAI_API_KEY"
    assert saved["values"]["base_url"] == ["http://host/v1?api_key=(not shown)&x=1"]
    assert saved["origins"]["api_key"] == "flag"
    assert saved["command"] == "ask"
    assert "piece_tokens = 512  (default)" in found.describe()
    with pytest.raises(UsageError) as caught:
        resolve(Secretive, flags={"api_key": ["sk-live-2"]}, environ={}, project_file=None)
    assert "sk-live-2" not in caught.value.message


def test_shown_values_are_read_back() -> None:
    flags = {"rounds": 3, "out": "x", "lr": 0.5, "weights": {"a": 1.0}}
    found = resolve(Example, flags=flags, environ={}, project_file=None)
    shown = json.loads(json.dumps(found.as_dict()["values"]))
    again = resolve(Example, flags=shown, environ={}, project_file=None)
    assert again.values == found.values


def test_every_setting_of_ask_can_be_set_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ask.toml"
    path.write_text(
        'model = "m"\nbase_url = ["http://a/v1"]\nprofile = "default"\nrounds = 2\n'
        "piece_tokens = 128\ntemperature = 1\nspans = true\n"
    )
    found = resolve(AskSettings, section="ask", environ={}, config_file=path, project_file=None)
    assert found.values.temperature == 1.0
    assert found.values.spans


# --- Registry -------------------------------------------------------------------------------------


def test_registry_loads_by_name() -> None:
    table = Registry("encoder", {"json": "json:dumps", "torch": "no_such_package_here:x"})
    assert table.load("json")([1]) == "[1]"
    assert list(table) == ["json", "torch"]
    assert "jsn" not in table
    with pytest.raises(ConfigError, match="Allowed: json, torch") as caught:
        table.load("jsn")
    assert caught.value.hint == "Did you mean json?"
    with pytest.raises(ModuleNotFoundError):
        table.load("torch")


def test_registry_names_the_extra_of_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA_OF_PACKAGE, "no_such_package_here", "train")
    table = Registry("thing", {"a": "no_such_package_here.part:x"})
    with pytest.raises(MissingDependencyError) as caught:
        table.load("a")
    assert caught.value.hint == "pip install 'agenticlu[train]'"
