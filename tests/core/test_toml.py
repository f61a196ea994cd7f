"""Files of settings, wordings and templates of any bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agenticlu.core.errors import ConfigError
from agenticlu.core.toml import parse_toml
from agenticlu.dialogue.steps import load_profile


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\xff\xfea\x00=\x001\x00", "is not UTF-8: line 1 has the byte 0xff"),
        (b"a = 1\nb = 'Caf\xe9'", "is not UTF-8: line 2 has the byte 0xe9"),
        (b"a = ", "is not valid TOML: Invalid value"),
        (b"a = " + b"9" * 5000, "is not valid TOML"),
        (b"a = " + b"[" * 100_000, "is not valid TOML"),
        (b"a = 1\na = 2", "is not valid TOML: Cannot overwrite"),
        (b"\x00", "is not valid TOML"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_toml(data, "x.toml")
    (tmp_path / "x.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        load_profile(str(tmp_path / "x.toml"))


def test_a_byte_order_mark_is_no_part_of_it() -> None:
    assert parse_toml(b"\xef\xbb\xbfa = 1\r\n", "x.toml") == {"a": 1}


@given(st.binary(max_size=30))
def test_any_bytes_are_tables_or_an_error(data: bytes) -> None:
    try:
        assert isinstance(parse_toml(data, "x.toml"), dict)
    except ConfigError as error:
        assert "x.toml is not" in error.message  # noqa: PT017
