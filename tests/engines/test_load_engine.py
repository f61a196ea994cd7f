from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agenticlu.core.errors import ConfigError, ModelNotFoundError, UsageError
from agenticlu.engines import check_base_url, check_model_path, load_engine
from agenticlu.engines.http.openai import OpenAIEngine
from agenticlu.engines.local import HFEngine
from agenticlu.engines.pool import PoolEngine
from agenticlu.engines.retry import LimitedEngine


def test_arguments_choose_the_engine(random_model: Path) -> None:
    assert isinstance(load_engine(str(random_model)), HFEngine)
    one = load_engine("m", ("http://127.0.0.1:1/v1/",), timeout_s=5.0)
    assert isinstance(one, LimitedEngine)
    assert isinstance(one.engine, OpenAIEngine)
    assert (one.engine.base_url, one.name) == ("http://127.0.0.1:1/v1", "m")
    pool = load_engine("m", ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"))
    assert isinstance(pool, LimitedEngine)
    assert isinstance(pool.engine, PoolEngine)
    assert pool.name == "m"


@pytest.mark.parametrize(
    ("url", "error", "hint"),
    [
        ("127.0.0.1:8000", UsageError, "http://127.0.0.1:8000/v1"),
        ("ftp://host/v1", UsageError, None),
        ("http://user:word@host/v1", ConfigError, "--api-key-env"),
    ],
)
def test_wrong_addresses(url: str, error: type[Exception], hint: str | None) -> None:
    with pytest.raises(error) as caught:
        check_base_url(url)
    assert "word" not in str(caught.value).replace("password", "")
    if hint:
        assert hint in str(caught.value.hint)


def test_the_same_address_twice() -> None:
    with pytest.raises(UsageError, match="twice"):
        load_engine("m", ("http://127.0.0.1:1/v1", "http://127.0.0.1:1/v1/"))


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="absent"):
        check_model_path(str(tmp_path / "absent"))
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "export" / "config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match=r"no config\.json") as caught:
        check_model_path(str(tmp_path / "run"))
    assert "export" in str(caught.value.hint)
    with pytest.raises(UsageError, match="an address"):
        check_model_path("http://127.0.0.1:8000/v1")


def test_importing_the_engines_loads_nothing_heavy() -> None:
    code = (
        "import sys, agenticlu.engines, agenticlu.engines.scripted, agenticlu.engines.local,"
        " agenticlu.engines.http.openai, agenticlu.engines.pool, agenticlu.server,"
        " agenticlu.cli.serve;"
        "print({'torch', 'transformers', 'aiohttp', 'starlette', 'uvicorn'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
