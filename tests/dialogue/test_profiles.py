from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path

import pytest

from agenticlu.core.errors import ConfigError
from agenticlu.dialogue.run import render_relevance
from agenticlu.dialogue.steps import KINDS, Profile, load_profile


@pytest.fixture
def profile() -> Profile:
    return load_profile()


def test_the_default_profile_is_complete(profile: Profile) -> None:
    ids = [wording.id for kind in KINDS for wording in getattr(profile, kind)]
    assert len(ids) == len(set(ids))
    for kind in KINDS:
        wordings = getattr(profile, kind)
        assert wordings
        assert all(wording.text.strip() == wording.text for wording in wordings)
        assert kind == "relevance" or len(wordings) >= 3
    assert all("{question}" in wording.text for wording in profile.answer)
    assert profile.label == "default@1"


def test_drawing_repeats_and_varies(profile: Profile) -> None:
    assert profile.draw("clarify", "d", "q") == profile.draw("clarify", "d", "q")
    drawn = Counter(profile.draw("clarify", "d", str(i)).id for i in range(300))
    assert set(drawn) == {wording.id for wording in profile.clarify}
    assert min(drawn.values()) > 60, "each about equally often"


def test_a_profile_from_a_file(tmp_path: Path, profile: Profile) -> None:
    path = tmp_path / "mine.toml"
    parts = ['name = "mine"\nversion = 3\n']
    parts += [f'[[{kind}]]\nid = "{kind}"\ntext = "{kind}?"\n' for kind in KINDS]
    path.write_text("".join(parts))
    mine = load_profile(str(path))
    assert mine.label == "mine@3"
    assert mine.draw("check").text == "check?"
    path.write_text("".join(parts) + '[[chekc]]\nid = "x"\ntext = "y"\n')
    with pytest.raises(ConfigError, match="chekc"):
        load_profile(str(path))
    path.write_text("".join(part for part in parts if "point" not in part))
    with pytest.raises(ConfigError, match="point"):
        load_profile(str(path))
    path.write_text("name = ")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_profile(str(path))


def test_unknown_profiles() -> None:
    with pytest.raises(ConfigError, match="Unknown profile 'defualt'") as caught:
        load_profile("defualt")
    assert caught.value.hint == "Did you mean default?"
    with pytest.raises(ConfigError, match="Profile file not found"):
        load_profile("nowhere.toml")


def test_every_bundled_profile_loads() -> None:
    folder = Path(__file__).resolve().parents[2] / "src" / "agenticlu" / "dialogue"
    paths = sorted(folder.glob("*.toml"))
    assert paths
    for path in paths:
        content = tomllib.loads(path.read_text())
        assert load_profile(path.stem).name == content["name"]


def test_grounding_puts_the_passage_first(profile: Profile) -> None:
    one = render_relevance(profile, "d", " Ada lives in Vell. ", ["Where does Ada live?"])
    other = render_relevance(profile, "d", "Ada lives in Vell.", ["Who is Bo?", "Why?"])
    assert one[0] == other[0]
    shared, _, asked = one[1].content.partition("Question: ")
    assert shared.startswith("Passage: Ada lives in Vell.\n\n")
    assert asked == "Where does Ada live?"
    assert other[1].content == f"{shared}Question: Who is Bo?\nQuestion: Why?"
