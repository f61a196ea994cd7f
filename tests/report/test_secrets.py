from __future__ import annotations

import pytest

from agenticlu.report.secrets import BLANK, redact, redact_text


@pytest.mark.parametrize(
    "name",
    ["api_key", "key", "token", "hf_token", "password", "client_secret", "Authorization",
     "X-Api-Key", "judge.api_key"],
)  # fmt: skip
def test_values_under_secret_names_are_blanked_at_any_depth(name: str) -> None:
    given = {"engine": [{name: "plain-looking-value"}]}
    assert redact(given) == {"engine": [{name: BLANK}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("api_key_env", "OPENAI_API_KEY"), ("max_tokens", 256), ("tokenizer", "llama"),
     ("piece_tokens", 512), ("keywords", "a b"), ("api_key", None), ("monkey", "howler")],
)  # fmt: skip
def test_harmless_settings_stay(name: str, value: object) -> None:
    assert redact({name: value}) == {name: value}


@pytest.mark.parametrize(
    "secret",
    ["sk-proj-abcdefghijklmnop1234", "hf_abcdefghijklmnopqrst", "ghp_abcdefghijklmnopqrstuv"],
)
def test_keys_are_recognised_inside_messages(secret: str) -> None:
    assert secret not in redact_text(f"401: incorrect key provided: {secret}.")


def test_addresses_lose_user_and_key() -> None:
    text = redact_text("GET https://me:pa55@host.example/v1?model=x&api_key=abc123&n=2 failed")
    assert text == f"GET https://host.example/v1?model=x&api_key={BLANK}&n=2 failed"


def test_ordinary_prose_is_untouched() -> None:
    text = "The token fell; sk- is a prefix, and http://127.0.0.1:8000/v1 an address."
    assert redact_text(text) == text


def test_values_that_json_cannot_hold_become_words() -> None:
    assert redact({"limit": float("inf")}) == {"limit": "inf"}
