from __future__ import annotations

import asyncio
import importlib.metadata
import json
import shutil
from typing import Any

import pytest

from agenticlu.cli import doctor as doctor
from agenticlu.cli.doctor import (
    Check,
    check_packages,
    examine,
    exit_code,
    render_checks,
    requirements,
)
from agenticlu.core.errors import ConfigError, EngineUnreachableError
from agenticlu.engines.scripted import ScriptedEngine


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(engine: ScriptedEngine | Exception) -> None:
        def load(*args: object, **options: object) -> ScriptedEngine:
            if isinstance(engine, Exception):
                raise engine
            return engine

        monkeypatch.setattr(doctor, "load_engine", load)

    return install


def examined(**options: Any) -> dict[str, Check]:
    return {check.name: check for check in asyncio.run(examine(**options))}


def test_requirements_open_the_extras_of_extras() -> None:
    needs = requirements()
    assert any(one.name == "click" for one in needs[""])
    assert set(needs["local"]) < set(needs["serve"])
    assert not any(one.name == "agenticlu" for group in needs.values() for one in group)


@pytest.mark.parametrize("path", ["/nowhere", None])
def test_whether_pages_can_be_recognised(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, path: str | None
) -> None:
    scripted(ScriptedEngine(["Wexley"], context_tokens=4096))
    if path:
        monkeypatch.setenv("PATH", path)
    found = examined()["tesseract"]
    if shutil.which("tesseract"):
        assert (found.status, "eng" in found.found) == ("ok", True)
    else:
        assert (found.status, "apt install tesseract" in str(found.fix)) == ("missing", True)


def test_a_healthy_installation(scripted: Any) -> None:
    scripted(ScriptedEngine(["Wexley"], context_tokens=4096))
    found = examined()
    assert found["packages"].status == "ok"
    assert found["bundled model"].status == "ok"
    assert "'Wexley'" in found["bundled model"].found
    assert "window: 4,096 tokens" in found["bundled model"].details
    assert exit_code(tuple(found.values())) == 0
    assert "BROKEN" not in render_checks(tuple(found.values()))


def test_a_missing_extra_is_a_line_to_type_and_broken_only_when_asked_for(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(ScriptedEngine(["Wexley"]))
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "uvicorn":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "peft" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = examined()
    assert found["extra serve"].status == "missing"
    assert found["extra serve"].fix == "pip install 'agenticlu[serve]'"
    assert "peft 0.1 is installed, >=0.18 is needed" in found["extra train"].found
    assert exit_code(tuple(found.values())) == 0
    asked = examined(extras=["serve"])
    assert asked["extra serve"].status == "broken"
    assert exit_code(tuple(asked.values())) == 7
    with pytest.raises(ConfigError) as caught:
        check_packages(["sevre"])
    assert caught.value.hint == "Did you mean serve?"


def test_the_bundled_model_without_torch_is_no_fault(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(AssertionError("must not be tried"))
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    found = examined()
    assert found["bundled model"].status == "missing"
    assert found["bundled model"].fix == "pip install 'agenticlu[local]'"
    assert exit_code(tuple(found.values())) == 0
    assert exit_code(tuple(examined(model="folder").values())) == 5


def test_a_broken_endpoint(scripted: Any) -> None:
    scripted(EngineUnreachableError("No server answers.", hint="Start it."))
    found = examined(base_urls=["http://127.0.0.1:9/v1"])
    check = found["endpoint http://127.0.0.1:9/v1"]
    assert (check.status, check.found, check.fix) == ("broken", "No server answers.", "Start it.")
    assert exit_code(tuple(found.values())) == 5
    assert "bundled model" not in found
    text = render_checks(tuple(found.values()))
    assert "BROKEN endpoint" in text
    assert "-> Start it." in text


def test_what_an_endpoint_lacks_is_told(scripted: Any) -> None:
    scripted(ScriptedEngine([], logprobs=False))
    details = examined(base_urls=["http://a/v1"])["endpoint http://a/v1"].details
    assert any("verdicts are parsed" in line for line in details)
    assert any(line.startswith("window: unknown") for line in details)


def test_checks_are_json(scripted: Any) -> None:
    scripted(ScriptedEngine(["x"]))
    for check in examined().values():
        assert Check.model_validate(json.loads(check.model_dump_json())) == check
