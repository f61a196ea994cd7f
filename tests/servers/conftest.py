"""Each real server is started once, for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from real_servers import WINDOW, Running, Server, find_model, free_port


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llama-cpp-python's server."""
    folder = find_model()
    weights = sorted(folder.glob("*.gguf"))
    if not weights:
        pytest.skip(f"{folder} holds no GGUF file")
    port = free_port()
    words = ["-m", "llama_cpp.server", "--model", str(weights[0]), "--model_alias", "small"]
    words += ["--n_ctx", str(WINDOW), "--host", "127.0.0.1", "--port", str(port)]
    with Running("llama", words, port, tmp_path_factory.mktemp("llama")) as url:
        yield Server("llama", url, None, folder, WINDOW, logprobs=True, completes=True)


@pytest.fixture(scope="session")
def transformers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`transformers serve`, whose list of models is empty for a folder."""
    folder, port = find_model(), free_port()
    words = ["-m", "transformers.cli.transformers", "serve", str(folder), "--device", "cpu"]
    words += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with Running("transformers", words, port, tmp_path_factory.mktemp("serve")) as url:
        yield Server("transformers", url, str(folder), folder, None, logprobs=False, completes=True)


@pytest.fixture(params=["llama", "transformers"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    found: Server = request.getfixturevalue(request.param)
    return found
