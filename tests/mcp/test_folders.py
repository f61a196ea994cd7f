"""Which files may be read: those below the named folders, whatever links and patterns say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from agenticlu.core.errors import DocumentError, UsageError
from agenticlu.documents import load_document
from agenticlu.mcp.folders import Folders, default_folder


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for name in ("a/x.txt", "a/sub/y.txt", "b/z.txt", "secret/s.txt", "a/.env", "a/.git/config"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"This is {name}.")
    (tmp_path / "a/out.txt").symlink_to(tmp_path / "secret/s.txt")
    (tmp_path / "a/outside").symlink_to(tmp_path / "secret")
    (tmp_path / "a/in.txt").symlink_to("x.txt")
    os.mkfifo(tmp_path / "a/pipe")
    return Folders.of([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("x.txt", "a/x.txt"),
        ("z.txt", "b/z.txt"),
        ("sub", "a/sub"),
        ("sub/../x.txt", "a/sub/../x.txt"),
        ("in.txt", "a/in.txt"),
        ("*.txt", "a/*.txt"),
        ("z*", "b/z*"),
        ("**/y.txt", "a/**/y.txt"),
        (".", "a"),
        ("  x.txt ", "a/x.txt"),
        ("{root}/b/z.txt", "b/z.txt"),
        ("file://{root}/a/x.txt", "a/x.txt"),
    ],
)
def test_what_is_below_a_folder_may_be_read(
    given: str, meant: str, folders: Folders, tmp_path: Path
) -> None:
    assert folders.resolve([given.format(root=tmp_path)]) == [f"{tmp_path}/{meant}"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{root}/secret/s.txt", "not in a folder"),
        ("../secret/s.txt", "not in a folder"),
        ("../secret/absent.txt", "not in a folder"),
        ("/etc/passwd", "not in a folder"),
        ("/etc/*", "not in a folder"),
        ("~/.ssh/id_rsa", "not in a folder"),
        ("file:///etc/passwd", "not in a folder"),
        ("out.txt", "not in a folder"),
        ("outside/s.txt", "not in a folder"),
        ("outside/*", "not in a folder"),
        ("sub/*/../../../secret/*", "must not hold"),
        (".env", "hidden"),
        (".git/config", "hidden"),
        (".*", "hidden"),
        ("pipe", "device or a pipe"),
        ("absent.txt", "does not exist"),
        ("-", "no path"),
        ("", "no path"),
        ("x\0.txt", "no path"),
        ("x" * 5000, r"^.{,260}$"),
        ("https://a.example/x", "addresses may not be read"),
        ("HTTP://a.example/x", "addresses may not be read"),
    ],
)
def test_nothing_else_may(given: str, why: str, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=why):
        folders.resolve(["x.txt", given.format(root=tmp_path)])


def test_what_a_pattern_or_folder_reads_stays_inside(folders: Folders, tmp_path: Path) -> None:
    from agenticlu.core.limits import ReadingLimits
    from agenticlu.documents.sources import find_sources

    for given in ("**/*", ".", "*.txt", "**/*.txt"):
        found = find_sources(folders.resolve([given]), ReadingLimits()).found
        names = {Path(one.address).resolve().relative_to(tmp_path).parts[0] for one in found}
        assert found
        assert names == {"a"}
        assert not any("/." in one.address for one in found)


@pytest.mark.parametrize("given", ["*/s.txt", "out*/s.txt", "[o]utside/*", "**/s.txt"])
def test_a_pattern_leads_through_no_link_out(given: str, folders: Folders) -> None:
    from agenticlu.core.limits import ReadingLimits
    from agenticlu.documents.sources import find_sources

    with pytest.raises(DocumentError):
        find_sources(folders.resolve([given]), ReadingLimits())


def test_links_in_a_circle_are_walked_once(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "a" / name).mkdir(parents=True)
        for up in range(8):
            (tmp_path / "a" / name / f"up{up}").symlink_to(tmp_path / "a")
    folders = Folders.of([tmp_path / "a"])
    began = time.process_time()
    assert folders.resolve(["**/absent.txt"]) == [f"{tmp_path}/a/**/absent.txt"]
    assert time.process_time() - began < 5


def test_addresses_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    allowed = Folders.of([tmp_path], addresses=True)
    assert allowed.resolve(["https://a.example/x"]) == ["https://a.example/x"]


def test_names_can_be_asked_for_again(folders: Folders, tmp_path: Path) -> None:
    one = Folders.of([tmp_path / "a"])
    assert one.name(f"{tmp_path}/a/sub/y.txt") == "sub/y.txt"
    assert folders.name(f"{tmp_path}/a/x.txt") == f"{tmp_path}/a/x.txt", "of several, in full"


def test_folders_that_are_none_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        Folders.of([tmp_path / "file"])
    with pytest.raises(UsageError, match="does not exist"):
        Folders.of([tmp_path / "absent"])
    with pytest.raises(DocumentError, match="No document"):
        Folders.of([tmp_path]).resolve([])


def test_a_working_folder_that_holds_everything_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "user"
    (home / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for where in (Path("/"), home, home.parent):
        monkeypatch.chdir(where)
        assert default_folder() is None
    monkeypatch.chdir(home / "work")
    assert default_folder() == home / "work"


def test_patterns_lead_through_no_linked_folder(folders: Folders) -> None:
    """The pattern is below the folder; what a link in its midst leads to is not."""
    for named in ("*/s.txt", "outs*/*", "?utside/s.txt", "*/*"):
        try:
            text = load_document(folders.resolve([named])).text
        except DocumentError as error:
            text = error.message
        assert "This is secret" not in text, named
