from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from fake_hub import FakeHub, running_hub
from made_trees import asked, make_run, node, story, tree

from agenticlu.core.errors import AgenticluError, IncompleteRunError, StoreError, UsageError
from agenticlu.data.build import build_dataset, collect_facts
from agenticlu.data.card import write_card
from agenticlu.data.dataset import staged
from agenticlu.data.hub import IDENTIFIERS, Licence, check_push, parse_licence, push
from agenticlu.data.pairs import PairPolicy
from agenticlu.search.store import Store


@pytest.mark.parametrize("given", ["mit", "MIT", "Apache-2.0", "CC-BY-4.0", "odc-by", " mit "])
def test_known_ones_are_taken(given: str):
    found = parse_licence(given, None, None)
    assert found is not None
    assert found.identifier in IDENTIFIERS
    assert found == Licence(given.strip().lower())


def test_none_stays_none():
    assert parse_licence(None, None, None) is None


def test_another_one_has_a_name_and_perhaps_a_link():
    named = parse_licence("other", "my-licence-1.0", "https://example.org/l#2")
    assert named == Licence("other", "my-licence-1.0", "https://example.org/l#2")
    assert str(named) == "https://example.org/l#2"
    assert str(Licence("other", "mine")) == "mine"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("mitt", None, None), "Unknown licence 'mitt'"),
        (("", None, None), "Unknown licence"),
        (("mit\ntags: [x]", None, None), "Unknown licence"),
        (("cc-by", None, None), "Unknown licence"),
        (("other", None, None), "needs a --license-name"),
        (("other", "My Licence", None), "needs a --license-name"),
        (("other", "x: y", None), "needs a --license-name"),
        (("other", "mine", "LICENSE"), "is not a URL"),
        (("other", "mine", 'https://x"y'), "is not a URL"),
        (("mit", "mine", None), "are for --license other, not 'mit'"),
        (("mit", None, "https://example.org"), "are for --license other, not 'mit'"),
        ((None, "mine", None), "need --license other"),
    ],
)
def test_others_are_refused(given, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_licence(*given)
    assert caught.value.hint


def test_a_slip_gets_a_suggestion():
    with pytest.raises(UsageError) as caught:
        parse_licence("apache2", None, None)
    assert "apache-2.0" in (caught.value.hint or "")


MIT = Licence("mit")


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with running_hub() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fresh = FakeHub(address=server.address)
    server.__dict__.update(fresh.__dict__)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    return server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    mixed = (node("a", 1.0), node("b", 0.0, ordinal=1))
    run = make_run(
        root / "run",
        [(story(i), tree(*mixed, question=asked(i), document=story(i))) for i in range(6)],
    )
    with Store(run, writable=False) as store, staged(root / "data") as part:
        summary = build_dataset(store, part, PairPolicy(validation=0.4))
        write_card(part, summary, MIT, run=collect_facts(store), policy={})
    for stranger in (".env", "notes.txt", "sft/old.parquet"):
        (root / "data" / stranger).write_text("SECRET=1")
    return root / "data"


FILES = {
    *("README.md", "croissant.json", "summary.json", "sft/train.parquet", "sft/validation.parquet"),
    "questions/validation.parquet",
    *(
        f"{kind}/{split}.parquet"
        for kind in ("plain", "preference", "distill")
        for split in ("train", "validation")
    ),
}


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def test_a_push_sends_what_was_written_in_one_commit(hub: FakeHub, data: Path):
    check_push("me/traces", MIT)
    address = push(data, "me/traces", private=True)
    assert address == f"{hub.address}/datasets/me/traces"
    assert hub.repositories["me/traces"] == content(data)
    assert len(hub.commits) == 1
    assert hub.created[0]["visibility"] == "private"
    assert (data / ".env").exists(), "there was something to leave behind"


def test_a_push_that_broke_off_sends_only_what_is_missing(hub: FakeHub, data: Path):
    hub.refuse_put = 3
    with pytest.raises(IncompleteRunError, match=r"upload to .* failed") as caught:
        push(data, "me/traces", private=False)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f"agenticlu dataset push {data} me/traces --public")
    arrived = set(hub.objects)
    assert 0 < len(arrived) < 9
    assert hub.commits == []
    hub.refuse_put, first = None, len(hub.sent)
    push(data, "me/traces", private=False)
    assert not set(hub.sent[first:]) & arrived
    assert len(hub.sent[first:]) == 9 - len(arrived)
    assert hub.repositories["me/traces"] == content(data)


def test_a_refused_commit_is_our_error_and_large_files_stay(hub: FakeHub, data: Path):
    hub.refuse_commit = True
    with pytest.raises(IncompleteRunError, match="no more commits"):
        push(data, "me/traces", private=True)
    hub.refuse_commit, first = False, len(hub.sent)
    push(data, "me/traces", private=True)
    assert hub.sent[first:] == []
    assert hub.repositories["me/traces"] == content(data)


def test_a_push_over_an_older_data_set_leaves_none_of_its_rows(
    hub: FakeHub, data: Path, tmp_path: Path
):
    both = tree(node("a", 1.0), node("b", 1.0, ordinal=1), question=asked(0), document=story(0))
    run = make_run(tmp_path / "run", [(story(0), both)])
    with Store(run, writable=False) as store, staged(tmp_path / "small") as part:
        write_card(part, build_dataset(store, part, PairPolicy()), MIT, run=collect_facts(store))
    push(data, "me/traces", private=True)
    hub.repositories["me/traces"]["LICENSE"] = b"of the user"
    check_push("me/traces", MIT)
    push(tmp_path / "small", "me/traces", private=True)
    left = {*FILES, "LICENSE"} - {name for name in FILES if name.startswith("preference")}
    of_one = {f"{kind}/validation.parquet" for kind in ("sft", "plain", "distill", "questions")}
    assert set(hub.repositories["me/traces"]) == left - of_one


@pytest.mark.parametrize(
    "name",
    [
        *("traces", "me/", "/traces", "me/a/b", "me/tra ces", "me/-a", "me/a-", "me/a.", "me/.a"),
        *("me/a--b", "me/a..b", "me/a.git", "me-/a", "datasets/me/a", "me/" + "a" * 97),
    ],
)
def test_a_name_that_cannot_be_is_said(hub: FakeHub, name: str):
    with pytest.raises(UsageError, match="Invalid repository name"):
        check_push(name, MIT)


@pytest.mark.parametrize("name", ["me/a", "lab/A_b.c-d", "me/" + "a" * 96])
def test_a_name_that_can_be_is_taken(hub: FakeHub, name: str):
    check_push(name, MIT)


def fine_grained(*scopes: dict[str, Any]) -> dict[str, Any]:
    return {"role": "fineGrained", "fineGrained": {"global": [], "scoped": list(scopes)}}


def scope(name: str, *permissions: str) -> dict[str, Any]:
    return {"entity": {"name": name}, "permissions": list(permissions)}


@pytest.mark.parametrize(
    ("token", "name", "words"),
    [
        ({"role": "read"}, "me/a", "can read but not write"),
        ({"role": "write"}, "you/a", "belongs to me, lab, club, not to 'you'"),
        ({"role": "write"}, "club/a", "can read but not write to 'club'"),
        (fine_grained(), "me/a", "can read but not write"),
        (fine_grained(scope("me", "repo.content.read")), "me/a", "can read but not write"),
        (fine_grained(scope("lab", "repo.write")), "me/a", "can read but not write"),
    ],
)
def test_a_token_that_may_not_write_is_said_before_the_work(hub: FakeHub, token, name, words):
    hub.identity["auth"]["accessToken"] = token
    with pytest.raises(UsageError, match=words):
        check_push(name, MIT)


@pytest.mark.parametrize(
    ("token", "name"),
    [
        ({"role": "write"}, "lab/a"),
        ({"role": "admin"}, "me/a"),
        (fine_grained(scope("me", "repo.write")), "me/a"),
        (fine_grained(scope("me/a", "repo.content.read", "repo.write")), "me/a"),
        ({"role": "fineGrained"}, "me/a"),
        ({}, "me/a"),
    ],
)
def test_a_token_that_may_write_is_taken(hub: FakeHub, token, name):
    hub.identity["auth"]["accessToken"] = token
    check_push(name, MIT)


def test_what_stands_in_the_way_is_said(hub: FakeHub, monkeypatch):
    with pytest.raises(UsageError, match="needs a licence"):
        check_push("me/a", None)
    hub.repositories["me/a"] = {"README.md": b"", ".gitattributes": b""}
    check_push("me/a", MIT)
    hub.repositories["me/a"]["data.csv"] = b""
    with pytest.raises(
        UsageError,
        match=r"is not a data set of agenticlu; it holds \.gitattributes, README\.md, data",
    ):
        check_push("me/a", MIT)
    hub.identity = {}
    with pytest.raises(UsageError, match="rejected the token"):
        check_push("me/b", MIT)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UsageError, match="No token"):
        check_push("me/b", MIT)


def test_a_hub_that_is_away_is_said(hub: FakeHub, data: Path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        AgenticluError, match=r"Cannot reach the hub at http://127\.0\.0\.1:9"
    ) as caught:
        check_push("me/a", MIT)
    assert caught.value.exit_code == 1, "no argument is at fault"
    with pytest.raises(IncompleteRunError, match=r"upload to .* failed"):
        push(data, "me/a", private=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(AgenticluError, match="Cannot reach") as caught:
        check_push("me/a", MIT)
    assert "HF_HUB_OFFLINE" in (caught.value.hint or "")


def test_only_a_whole_data_set_is_pushed(hub: FakeHub, data: Path, tmp_path: Path):
    import shutil

    with pytest.raises(UsageError, match="is not a data set"):
        push(tmp_path, "me/a", private=True)
    copy = shutil.copytree(data, tmp_path / "copy")
    (copy / "README.md").write_text("edited by hand")
    push(copy, "me/edited", private=True)
    assert hub.repositories["me/edited"]["README.md"] == b"edited by hand"
    (copy / "sft" / "train.parquet").write_bytes(b"torn")
    with pytest.raises(StoreError, match="was changed since it was built"):
        push(copy, "me/a", private=True)
    (copy / "sft" / "train.parquet").unlink()
    with pytest.raises(StoreError, match=r"lacks sft/train\.parquet"):
        push(copy, "me/a", private=True)
    record = json.loads((copy / "summary.json").read_text())
    record["files"]["../secret"] = record["files"]["README.md"]
    (copy / "summary.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="is not a data set"):
        push(copy, "me/a", private=True)
    assert "me/a" not in hub.repositories


def test_the_command_reaches_the_hub_that_the_environment_names(hub: FakeHub, data: Path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_made_up",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    code = "from agenticlu.cli import main; main()"
    command = [sys.executable, "-c", code, "dataset", "push", str(data), "me/by-command"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Uploaded to {hub.address}/datasets/me/by-command\n"
    assert hub.repositories["me/by-command"] == content(data)
